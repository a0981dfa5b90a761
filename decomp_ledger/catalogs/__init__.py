"""Catalogs of released torch versions, shipped as data. None of these versions needs to be installed.

`scripts/torch-matrix capture` made each from the package on PyPI for Linux x86-64. One file holds a whole catalog;
each other file holds a delta to it and names it as `base`.
"""

import gzip
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
from packaging.version import Version

from decomp_ledger.errors import UnknownCatalog
from decomp_ledger.model.behaviour import Traces
from decomp_ledger.model.catalog import Catalog, CatalogDelta, Entry

__all__ = [
    *("available", "complete", "completed", "of_build", "released"),
    *("graph", "samples", "traces", "without_samples"),
]

_HERE = Path(__file__).parent
_SUFFIX = ".json.gz"


def available() -> list[str]:
    """Return the torch versions with a shipped catalog, oldest first."""
    versions = [path.name.removesuffix(_SUFFIX) for path in _HERE.glob(f"[0-9]*{_SUFFIX}")]
    return sorted(versions, key=Version)


# One command reads a catalog several times; without the cache each reading costs 20 ms.
@lru_cache(maxsize=4)
def released(version: str) -> Catalog:
    """Return the catalog of a released torch version.

    Args:
        version: one of `available()`, such as `2.13.0`.

    Raises:
        UnknownCatalog: no catalog of that version is shipped; the message lists the shipped versions.
    """
    if version not in available():
        raise UnknownCatalog(
            f"torch {version}: no catalog is shipped; choose one of {', '.join(available())}, or capture an "
            "installed torch with: decomp-ledger catalog capture --python INTERPRETER"
        )
    value = _read(version)
    if "base" not in value:
        return Catalog.from_json(value)
    return CatalogDelta.from_json(value).apply(released(value["base"]))


def of_build(build: Mapping[str, str]) -> Catalog | None:
    """Return the shipped catalog of a torch build, recognized by its git version; None if that build is not shipped."""
    version = build.get("torch", "").partition("+")[0]
    known = released(version) if version in available() else None
    return known if known is not None and known.build["git"] == build.get("git") else None


def completed(catalog: Catalog) -> Catalog:
    """Return a live catalog with the schemas and digests that its torch build implies, if that build is shipped."""
    known = of_build(catalog.build)
    return catalog if known is None else complete(catalog, known)


def complete(catalog: Catalog, released: Catalog) -> Catalog:
    """Add the schemas and digests of torch's own ops, which a live catalog leaves out.

    Args:
        catalog: a live catalog, as a ledger stores it.
        released: the full catalog of the same torch build.
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


def samples() -> Mapping[str, tuple[str, ...]]:
    """Return the sample calls of each op, as text; `decomp_ledger.model.samples` has the language."""
    return {}


def without_samples() -> Mapping[str, str]:
    """Return why an op of some torch's default table has no sample: op name -> reason."""
    return {}


def traces(version: str) -> Traces | None:
    """Return the traces of a released torch version; None if none are shipped.

    Args:
        version: one of `available()`.
    """
    return None


def graph(digest: str) -> tuple[str, ...] | None:
    """Return the canonical lines of a traced graph, one for each node; None if no shipped trace has that digest."""
    return None


def _read(version: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(gzip.decompress((_HERE / f"{version}{_SUFFIX}").read_bytes()))
    return value
