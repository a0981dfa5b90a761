"""Catalogs: what one torch offers for each op, as data; and the delta between two catalogs. Pure."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs

from decomp_ledger.errors import LedgerError, UnusableValue
from decomp_ledger.model.behaviour import TraceSet
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import Row, displayed, row_of
from decomp_ledger.model.json_values import as_object, as_string, as_strings, check_json_size, parse_json
from decomp_ledger.model.limits import CATALOG_OPS, EXPANSION, EXPANSION_FREE, JSON_BYTES

__all__ = ["Catalog", "CatalogDelta", "Entry", "digest_of_entries", "inflate", "pack", "unpack", "whole_text"]


@displayed
@attrs.frozen(repr=False)
class Entry:
    """One op of a catalog: how a torch can decompose it.

    Attributes:
        origin: where its decomposition comes from (`cia`, `registry`, `py_cia`); None if nothing decomposes the op.
        default: whether torch's default table has the op.
        unpreservable: why torch cannot keep the op in a graph; empty if it can.
        schema: the op's schema. A live catalog leaves it out for torch's own ops, because the build implies it.
        tags: those of `core`, `cia`, `functional` that apply, sorted.
        module: the module of a decomposition in Python. A live catalog leaves it out for torch's own functions.
        qualname: the qualified name of the same function.
        digest: digest of the function's own source.
        helpers: digest of the function's source with the functions that it calls.
        wrappers: digest of the wrappers that its decorators add.
        others: origins of further decompositions that torch has for the op and does not use, sorted.
        registered: the file and the line of the library that registered its kernel, `lib/ops.py:12`; empty for torch's
            own, and where torch does not know it; "unknown" if such a library gives an op of torch's
            namespaces a kernel.
    """

    origin: str | None = None
    default: bool = False
    unpreservable: str = ""
    schema: str = ""
    tags: tuple[str, ...] = ()
    module: str | None = None
    qualname: str | None = None
    digest: str | None = None
    helpers: str | None = None
    wrappers: str | None = None
    others: tuple[str, ...] = ()
    registered: str = ""

    def to_json(self) -> dict[str, Json]:
        """Return the fields that have a value, as plain data."""
        values = ((name, getattr(self, name)) for name in _FIELDS)
        return {name: list(value) if name in _LIST_FIELDS else value for name, value in values if value}

    @classmethod
    def from_json(cls, value: object) -> Entry:
        """Check and read plain data of any origin.

        Raises:
            LedgerError: it is not an entry.
        """
        if not isinstance(value, dict):
            raise LedgerError(f"catalog entry: expected an object, found {type(value).__name__}")
        if not value:
            return _BARE  # half of a live catalog; to make 1,800 entries takes 10 ms
        for key, item in value.items():
            if key == "default":
                valid = isinstance(item, bool)
            elif key in _LIST_FIELDS:
                valid = isinstance(item, list) and all(isinstance(text, str) for text in item)
            else:
                valid = key in _TEXT_FIELDS and isinstance(item, str)
            if not valid:
                raise LedgerError(f"catalog entry: the field {key!r:.40} is unknown or its value has the wrong type")
        return cls(**{**value, **{key: tuple(value.get(key, ())) for key in _LIST_FIELDS}})

    def bare(self) -> Entry:
        """Return what a live catalog holds of one of torch's own ops; torch's build implies the other fields.

        `decomp_ledger.catalogs.complete` adds them again.
        """
        if not self.origin and self.schema:
            return Entry()
        # A higher-order operator, which has no schema, keeps the reason why torch cannot preserve it.
        return Entry(self.origin, self.default, self.unpreservable, others=self.others)

    def identity(self) -> str:
        """Return what tells the default decomposition from another one of the same op and build."""
        return f"{self.origin}:{self.digest}" if self.digest else str(self.origin)


_BARE = Entry()
_FIELDS = tuple(field.name for field in attrs.fields(Entry))
_LIST_FIELDS = ("tags", "others")
_TEXT_FIELDS = set(_FIELDS) - {"default", *_LIST_FIELDS}


@displayed
@attrs.define(frozen=True, slots=False, repr=False)
class Catalog:
    """What one torch offers at a moment.

    Attributes:
        build: `torch` (its version), `git` (its git version), `accelerator` (`cpu`, `cuda 12.4`).
        ops: op name -> entry, for every loaded op.
        traced: what the decompositions do, if that was captured. The digest of the catalog leaves it out. The traces of
            a released torch are apart: `decomp_ledger.catalogs.traces` reads them.
    """

    build: Mapping[str, str]
    ops: Mapping[str, Entry] = attrs.field(repr=lambda ops: f"<{len(ops)} ops>")
    traced: TraceSet | None = attrs.field(default=None, repr=False, eq=False)

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {"build": dict(self.build), "ops": _entries_to_json(self.ops)}

    def to_file(self) -> dict[str, Json]:
        """Return it as plain data, with its traces."""
        return self.to_json() if self.traced is None else {**self.to_json(), "traces": self.traced.to_json()}

    @classmethod
    def from_json(cls, value: object) -> Catalog:
        """Check and read plain data of any origin, such as a captured catalog.

        Raises:
            LedgerError: it is not a catalog.
        """
        if not isinstance(value, dict) or not {"build", "ops"} <= value.keys():
            raise LedgerError("catalog: expected an object with `build` and `ops`; make one with `catalog capture`")
        traced = None if value.get("traces") is None else TraceSet.from_json(value["traces"])
        return cls(_build_from_json(value["build"]), _entries_from_json(value["ops"]), traced)

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each op, with the attributes of its entry."""
        return [{"op": op, **row_of(entry)} for op, entry in self.ops.items()]

    @cached_property
    def defaults(self) -> Mapping[str, str]:
        """Torch's default table: op name -> identity of its decomposition, by name."""
        return {op: entry.identity() for op in sorted(self.ops) if (entry := self.ops[op]).default}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the build and the sorted entries: the same build and libraries give the same digest."""
        return hashlib.sha256(self._text).hexdigest()

    @cached_property
    def _text(self) -> bytes:
        """What the digest is over; a new catalog is stored as this text, too, which takes 4 ms to make."""
        return _dump(_shared_json(self))


def _shared_json(catalog: Catalog) -> dict[str, Json]:
    """Return a catalog as plain data in which equal entries are one object, to be written only.

    Thousands of ops have the same entry. Dicts of their own would take 20 ms, and the garbage collector more.
    """
    entries = {id(entry): entry for entry in catalog.ops.values()}
    values = {number: entry.to_json() for number, entry in entries.items()}
    return {"build": dict(catalog.build), "ops": {op: values[id(entry)] for op, entry in catalog.ops.items()}}


def _build_from_json(value: object) -> dict[str, str]:
    try:
        return {key: as_string(item) for key, item in as_object(value).items()}
    except UnusableValue as error:
        raise LedgerError(f"catalog: its build is damaged: {error}") from None


def _entries_to_json(ops: Mapping[str, Entry]) -> dict[str, Json]:
    return {op: entry.to_json() for op, entry in ops.items()}


def _entries_from_json(value: object) -> dict[str, Entry]:
    if not isinstance(value, dict):
        raise LedgerError(f"catalog: expected an object of entries, found {type(value).__name__}")
    if len(value) > CATALOG_OPS:
        raise LedgerError(f"catalog: it has {len(value)} ops; at most {CATALOG_OPS} can be read")
    return {op: Entry.from_json(entry) for op, entry in value.items()}


@attrs.frozen
class CatalogDelta:
    """How a catalog differs from another, its base.

    Attributes:
        build: the catalog's build.
        changed: op name -> entry, for each op whose entry the base does not have.
        gone: ops that only the base has, sorted.
    """

    build: Mapping[str, str]
    changed: Mapping[str, Entry]
    gone: tuple[str, ...]

    @classmethod
    def between(cls, base: Catalog, catalog: Catalog) -> CatalogDelta:
        """Return what `apply` needs to make `catalog` of `base`."""
        changed = {op: entry for op, entry in catalog.ops.items() if base.ops.get(op) != entry}
        return cls(catalog.build, changed, tuple(sorted(base.ops.keys() - catalog.ops.keys())))

    def apply(self, base: Catalog) -> Catalog:
        """Return the catalog that differs from `base` by this delta, its ops by name."""
        gone = set(self.gone)
        ops = {op: entry for op, entry in base.ops.items() if op not in gone} | dict(self.changed)
        return Catalog(self.build, dict(sorted(ops.items())))

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {"build": dict(self.build), "changed": _entries_to_json(self.changed), "gone": list(self.gone)}

    @classmethod
    def from_json(cls, value: object) -> CatalogDelta:
        """Check and read plain data of any origin.

        Raises:
            LedgerError: it is not a delta.
        """
        if not isinstance(value, dict) or not {"build", "changed", "gone"} <= value.keys():
            raise LedgerError("catalog delta: expected an object with `build`, `changed` and `gone`")
        try:
            gone = as_strings(value["gone"])
        except UnusableValue as error:
            raise LedgerError(f"catalog delta: `gone` is damaged: {error}") from None
        return cls(_build_from_json(value["build"]), _entries_from_json(value["changed"]), tuple(sorted(gone)))


def pack(catalog: Catalog, base: Catalog | None) -> bytes:
    """Compress a catalog for storage: whole, or as its delta to `base`.

    Raises:
        LedgerError: it is larger than what `unpack` reads.
    """
    text = _encode(catalog, base)
    check_json_size(text)
    if len(catalog.ops) > CATALOG_OPS:
        raise LedgerError(f"catalog: it has {len(catalog.ops)} ops; at most {CATALOG_OPS} can be stored")
    packed = zlib.compress(text, 6)
    # Text that repeats itself is stored less compressed, because nothing else tells it from a bomb.
    return packed if len(text) <= EXPANSION_FREE + EXPANSION * len(packed) else zlib.compress(text, 0)


def inflate(data: bytes) -> bytes:
    """Return the text that `pack` compressed.

    Raises:
        LedgerError: the data is damaged, or unpacks to more than a catalog has.
    """
    try:
        most = min(JSON_BYTES, EXPANSION_FREE + EXPANSION * len(data))
        decompressor = zlib.decompressobj()
        text = decompressor.decompress(data, most)
    except (zlib.error, TypeError) as error:
        raise LedgerError(f"stored catalog: it is damaged: {error}; run verify") from None
    if not decompressor.eof:
        problem = f"unpacks to more than {most} bytes" if len(text) == most else "is cut off"
        raise LedgerError(f"stored catalog: it is damaged: it {problem}; run verify")
    if decompressor.unused_data:
        raise LedgerError("stored catalog: it is damaged: its data continues after the end; run verify")
    return text


def unpack(data: bytes, base: Catalog | None, *, canonical: bool = False) -> Catalog:
    """Return the catalog that `pack` compressed.

    Args:
        data: what `pack` returned.
        base: the catalog that was given to `pack`.
        canonical: refuse a text that `pack` would not write for this catalog, such as one with an empty field, an
            unknown key, or an entry that the base has too. Its digest would not show that. Takes twice the time.

    Raises:
        LedgerError: the data is damaged, or unpacks to more than a catalog has.
    """
    text = inflate(data)
    try:
        value = parse_json(text)
    except UnusableValue as error:
        raise LedgerError(f"stored catalog: it is damaged: {error}; run verify") from None
    catalog = Catalog.from_json(value) if base is None else CatalogDelta.from_json(value).apply(base)
    if canonical and _encode(catalog, base) != text:
        raise LedgerError("stored catalog: its text is not the canonical one; run verify")
    return catalog


def _encode(catalog: Catalog, base: Catalog | None) -> bytes:
    return catalog._text if base is None else _dump(CatalogDelta.between(base, catalog).to_json())


def whole_text(catalog: Catalog) -> str:
    """Return the text of a whole catalog, whose SHA-256 is its digest."""
    return _encode(catalog, None).decode()


def digest_of_entries(value: dict[str, Json]) -> str:
    """Return the SHA-256 of a catalog's or snapshot's JSON, in hex."""
    return hashlib.sha256(_dump(value)).hexdigest()


def _dump(value: dict[str, Any]) -> bytes:
    # Like canonical_json, but with keys beyond ASCII: torch accepts any name for a higher-order operator.
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
