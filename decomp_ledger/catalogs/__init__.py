"""Catalogs of released torch versions, shipped as data. None of these versions needs to be installed.

`scripts/torch-matrix capture` made each from the package on PyPI for Linux x86-64. One file holds a whole catalog;
each other file holds a delta to it and names it as `base`.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs

from decomp_ledger.errors import UnknownCatalog
from decomp_ledger.model.behaviour import Trace, Traces, TraceSet
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog, CatalogDelta, Entry
from decomp_ledger.model.opset import Opset, opset_from_json

__all__ = [
    *("available", "complete", "completed", "of_build", "released"),
    *("graph", "opsets", "samples", "traced_versions", "traces", "without_samples", "write_traces"),
]

_HERE = Path(__file__).parent
_SUFFIX = ".json.gz"
_OPSETS = "opsets.json"
_SAMPLES, _TRACES, _GRAPHS = "samples.json", "traces.json.gz", "graphs.json.gz"


def available() -> list[str]:
    """Return the torch versions with a shipped catalog, oldest first."""
    versions = [path.name.removesuffix(_SUFFIX) for path in _HERE.glob(f"[0-9]*{_SUFFIX}")]
    return _by_version(versions)


def _by_version(versions: Iterable[str]) -> list[str]:
    from packaging.version import Version  # late, because a recording reads no shipped catalog

    return sorted(versions, key=Version)


# One command reads a catalog several times; without the cache each reading costs 20 ms.
@lru_cache(maxsize=4)
def released(version: str) -> Catalog:
    """Return the catalog of a released torch version.

    Args:
        version: one of `available()`, such as `2.13.0`; `2.13` means the newest of its releases that is shipped.

    Raises:
        UnknownCatalog: no catalog of that version is shipped; the message lists the shipped versions.
    """
    if version not in available():
        newest = [each for each in available() if re.fullmatch(r"\d+\.\d+", version) and each.startswith(f"{version}.")]
        if newest:
            return released(newest[-1])
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

    Each op is completed when it is asked for, because most questions are about one op, and all of them take 30 ms.

    Args:
        catalog: a live catalog, as a ledger stores it.
        released: the full catalog of the same torch build.
    """
    return attrs.evolve(catalog, ops=_Completed(catalog.ops, released.ops))


class _Completed(Mapping[str, Entry]):
    """The ops of a live catalog, each with what the released one adds."""

    def __init__(self, live: Mapping[str, Entry], released: Mapping[str, Entry]) -> None:
        self._live, self._released = live, released
        self._made: dict[str, Entry] = {}

    def __getitem__(self, op: str) -> Entry:
        found = self._made.get(op)
        if found is None:
            found = self._made[op] = _complete_entry(self._live[op], self._released.get(op))
        return found

    def __contains__(self, op: object) -> bool:
        return op in self._live

    def __iter__(self) -> Iterator[str]:
        return iter(self._live)

    def __len__(self) -> int:
        return len(self._live)


def _complete_entry(entry: Entry, known: Entry | None) -> Entry:
    if known is None or entry.schema:
        return entry
    bare = known.bare()
    if entry in (bare, attrs.evolve(bare, others=()), Entry(known.origin)):
        return known
    return attrs.evolve(entry, schema=known.schema)


def opsets() -> Mapping[str, Opset]:
    """Return the shipped opsets by name, such as `core-aten`."""
    value = json.loads((_HERE / _OPSETS).read_text(encoding="utf-8"))
    return {name: opset_from_json(name, {"format": value["format"], **each}) for name, each in value["opsets"].items()}


def samples() -> Mapping[str, tuple[str, ...]]:
    """Return the sample calls of ops of default tables and of core ops, as text.

    `decomp_ledger.model.samples` has their language.
    """
    return {op: tuple(calls) for op, calls in _sample_file()["samples"].items()}


def without_samples() -> Mapping[str, str]:
    """Return why an op of some torch's default table, or a core op, has no sample: op name -> reason."""
    return dict(_sample_file()["without"])


def traced_versions() -> list[str]:
    """Return the torch versions with shipped traces, oldest first."""
    return _by_version(_trace_file()["versions"])


# One command reads the traces of two versions.
@lru_cache(maxsize=4)
def traces(version: str) -> Traces | None:
    """Return the traces of a released torch version; None if none are shipped.

    Args:
        version: one of `available()`.
    """
    file = _trace_file()
    if version not in file["versions"]:
        return None
    position = file["versions"].index(version)
    known = [None if text is None else Trace.from_json(text) for text in file["results"]]
    ops = {}
    for op, calls in file["ops"].items():
        rows = ((call, known[row if isinstance(row, int) else row[position]]) for call, row in calls.items())
        if found := tuple((call, trace) for call, trace in rows if trace is not None):
            ops[op] = found
    return Traces(version, ops)


def graph(digest: str) -> tuple[str, ...] | None:
    """Return the canonical lines of a traced graph, one for each node; None if no shipped trace has that digest."""
    text = _graph_file().get(digest)
    return None if text is None else tuple(text.split("\n"))


def write_traces(folder: Path, captured: Mapping[str, TraceSet]) -> None:
    """Write the files of the traces: what each version gave, and every graph once.

    Args:
        folder: the folder of the catalogs.
        captured: torch version -> its traces. These are all that the files have afterwards.
    """
    versions = _by_version(captured)
    results: dict[Json, int] = {None: 0}
    ops: dict[str, dict[str, int | list[int]]] = {}
    for op in sorted({op for each in captured.values() for op in each.traces.of}):
        columns = [captured[version].traces.get(op) for version in versions]
        for call in dict.fromkeys(call for column in reversed(columns) for call in column):
            found = (column[call].to_json() if call in column else None for column in columns)
            row = [results.setdefault(result, len(results)) for result in found]
            ops.setdefault(op, {})[call] = row[0] if len({*row}) == 1 else row
    graphs = {digest: "\n".join(lines) for each in captured.values() for digest, lines in each.graphs.items()}
    named = {digest: lines for digest, lines in graphs.items() if digest in results}
    _write(folder / _TRACES, {"versions": versions, "results": [*results], "ops": ops})
    _write(folder / _GRAPHS, dict(sorted(named.items(), key=lambda item: (item[1], item[0]))))


def _write(path: Path, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


@lru_cache(maxsize=1)
def _sample_file() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((_HERE / _SAMPLES).read_text("utf-8"))
    return value


@lru_cache(maxsize=1)
def _trace_file() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(gzip.decompress((_HERE / _TRACES).read_bytes()))
    return value


@lru_cache(maxsize=1)
def _graph_file() -> dict[str, str]:
    value: dict[str, str] = json.loads(gzip.decompress((_HERE / _GRAPHS).read_bytes()))
    return value


def _read(version: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(gzip.decompress((_HERE / f"{version}{_SUFFIX}").read_bytes()))
    return value
