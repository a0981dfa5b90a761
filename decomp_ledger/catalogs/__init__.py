"""Catalogs of released torch versions, as data: what each offers, without having it installed.

Each was captured from the package that PyPI gives for Linux x86-64, by `scripts/torch-matrix capture`.
One is stored whole; the others as the entries in which they differ from it, None where they lack the op.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs

from decomp_ledger.errors import UnknownCatalog
from decomp_ledger.model.catalog import Catalog, Entry

__all__ = ["available", "complete", "completed", "load", "of_build", "released"]

_HERE = Path(__file__).parent
_SUFFIX = ".json.gz"


def available() -> list[str]:
    """Return the torch versions there is a catalog of, oldest first."""
    versions = [path.name.removesuffix(_SUFFIX) for path in _HERE.glob(f"*{_SUFFIX}")]
    return sorted(versions, key=lambda version: [int(part) for part in version.split(".")])


def load(version: str) -> dict[str, Any]:
    """Read the catalog of a torch version (about 20 ms).

    Args:
        version: One of `available`, such as `2.13.0`.

    Returns:
        `format`, `build` and `ops`, as `decomp_ledger.pytorch.capture.capture` gives them.

    Raises:
        UnknownCatalog: There is none; the message names those that there are.
    """
    if version not in available():
        raise UnknownCatalog(
            f"there is no catalog of torch {version}; there are {', '.join(available())}. Another torch that is "
            "installed somewhere can be captured: decomp-ledger catalog capture --python INTERPRETER"
        )
    catalog = _read(version)
    base = catalog.pop("base", None)
    if base is not None:
        ops = {**_read(base)["ops"], **catalog["ops"]}
        catalog["ops"] = {op: ops[op] for op in sorted(ops) if ops[op] is not None}
    return catalog


@lru_cache(maxsize=4)
def released(version: str) -> Catalog:
    """Return the catalog of a torch version.

    Raises:
        UnknownCatalog: there is none.
    """
    return Catalog.from_json(load(version))


def of_build(build: Mapping[str, str]) -> Catalog | None:
    """Return the catalog of the release that a build is, by its git version; None if it is no release known here."""
    version = build.get("torch", "").partition("+")[0]
    known = released(version) if version in available() else None
    return known if known is not None and known.build["git"] == build.get("git") else None


def completed(catalog: Catalog) -> Catalog:
    """Return a live catalog with what its torch build tells, if that is a release known here: schemas and digests."""
    known = of_build(catalog.build)
    return catalog if known is None else complete(catalog, known)


def complete(catalog: Catalog, released: Catalog) -> Catalog:
    """Fill in what a live catalog leaves to the torch build: schemas and digests of torch's own ops.

    Args:
        catalog: one that a ledger holds.
        released: the one of the same torch build, with everything.
    """
    ops = {}
    for op, entry in catalog.ops.items():
        known = released.ops.get(op)
        if known is None or entry.schema:
            ops[op] = entry
        elif entry in (known.bare(), attrs.evolve(known.bare(), others=()), Entry(known.origin)):
            ops[op] = known
        else:
            ops[op] = attrs.evolve(entry, schema=known.schema)
    return Catalog(catalog.build, ops)


def _read(version: str) -> dict[str, Any]:
    import gzip  # not for those who read no catalog at all

    catalog: dict[str, Any] = json.loads(gzip.decompress((_HERE / f"{version}{_SUFFIX}").read_bytes()))
    return catalog
