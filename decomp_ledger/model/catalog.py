"""Catalogs: what a dispatcher offers, as data. Pure."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs

from decomp_ledger.errors import LedgerError
from decomp_ledger.model.canonical_json import Json

__all__ = ["Catalog", "Entry", "digest_of_entries", "pack", "unpack"]

_MAX_UNPACKED = 64 * 1024 * 1024


@attrs.frozen
class Entry:
    """What a dispatcher offers for one op.

    Attributes:
        origin: where its decomposition comes from (`cia`, `registry`, `py_cia`); None if nothing decomposes it.
        default: whether torch's default table has it.
        unpreservable: why torch cannot keep it in a graph; empty if it can.
        schema: its schema, where builds are compared or the op is not torch's.
        tags: of `core`, `cia`, `functional`, sorted.
        module: of the decomposition, if it is a Python function that is not torch's or builds are compared.
        qualname: of the same.
        digest: of its own source.
        helpers: of its source and that of the functions it calls.
        wrappers: of what its decorators wrap around it.
        others: where further decompositions that torch has for it, and does not use, come from, sorted.
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

    def to_json(self) -> dict[str, Json]:
        """Return its fields that have a value."""
        values = ((name, getattr(self, name)) for name in _FIELDS)
        return {name: list(value) if name in _LIST_FIELDS else value for name, value in values if value}

    @classmethod
    def from_json(cls, value: object) -> Entry:
        """Read one that may come from a file that somebody edited.

        Raises:
            LedgerError: it is none.
        """
        if not isinstance(value, dict):
            raise LedgerError("an entry of a catalog is no object")
        for key, item in value.items():
            if key == "default":
                good = isinstance(item, bool)
            elif key in _LIST_FIELDS:
                good = isinstance(item, list) and all(isinstance(text, str) for text in item)
            else:
                good = key in _TEXT_FIELDS and isinstance(item, str)
            if not good:
                raise LedgerError("an entry of a catalog has a field that it cannot have")
        return cls(**{**value, **{key: tuple(value.get(key, ())) for key in _LIST_FIELDS}})

    def bare(self) -> Entry:
        """Return what a process tells of one of torch's own ops: the rest is known by torch's build.

        `decomp_ledger.catalogs.complete` is the way back.
        """
        if not self.origin and self.schema:
            return Entry()
        # Only what is no operator of the dispatcher has no schema.
        return Entry(self.origin, self.default, self.unpreservable, others=self.others)

    def identity(self) -> str:
        """What tells its default decomposition from another one of the same op and build."""
        return f"{self.origin}:{self.digest}" if self.digest else str(self.origin)


_FIELDS = tuple(field.name for field in attrs.fields(Entry))
_LIST_FIELDS = ("tags", "others")
_TEXT_FIELDS = set(_FIELDS) - {"default", *_LIST_FIELDS}


@attrs.define(frozen=True, slots=False)
class Catalog:
    """What a dispatcher offers at a moment.

    Attributes:
        build: `torch` (version), `git` (its git version), `accelerator` (`cpu`, `cuda 12.4`).
        ops: op name -> entry, for every op that is loaded.
    """

    build: Mapping[str, str]
    ops: Mapping[str, Entry]

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        # Most ops have one of a few dozen entries.
        written = {entry: entry.to_json() for entry in set(self.ops.values())}
        ops: dict[str, Json] = {op: written[entry] for op, entry in self.ops.items()}
        return {"build": dict(self.build), "ops": ops}

    @classmethod
    def from_json(cls, value: object) -> Catalog:
        """Read one that may come from anywhere, such as what a capture gave.

        Raises:
            LedgerError: it is none.
        """
        if not isinstance(value, dict) or not all(isinstance(value.get(key), dict) for key in ("build", "ops")):
            raise LedgerError("this is no catalog; make one with `catalog capture`")
        build = {str(key): str(item) for key, item in value["build"].items()}
        return cls(build, {str(op): Entry.from_json(entry) for op, entry in value["ops"].items()})

    @cached_property
    def defaults(self) -> Mapping[str, str]:
        """What torch's default table has: op name -> identity of its decomposition, by name."""
        return {op: entry.identity() for op in sorted(self.ops) if (entry := self.ops[op]).default}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over its sorted entries: two processes of one build with the same libraries agree."""
        return digest_of_entries(self.to_json())


def pack(catalog: Catalog, base: Catalog | None) -> bytes:
    """Compress a catalog for storage: whole, or how it differs from `base`, which must be of the same build."""
    if base is None:
        return zlib.compress(_dump(catalog.to_json()), 6)
    changed = {op: entry.to_json() for op, entry in catalog.ops.items() if base.ops.get(op) != entry}
    gone = sorted(base.ops.keys() - catalog.ops.keys())
    return zlib.compress(_dump({"changed": changed, "gone": gone}), 6)


def unpack(data: bytes, base: Catalog | None) -> Catalog:
    """Read a stored catalog.

    Raises:
        LedgerError: the data is damaged, or unpacks to more than any catalog.
    """
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(data, _MAX_UNPACKED)
        if not inflate.eof or inflate.unused_data:
            raise LedgerError("a stored catalog is cut off, has more behind it, or is larger than any catalog")
        value = json.loads(text)
        if base is None:
            return Catalog.from_json(value)
        gone = set(value["gone"])
        ops = {op: entry for op, entry in base.ops.items() if op not in gone}
        ops.update((op, Entry.from_json(entry)) for op, entry in value["changed"].items())
        return Catalog(base.build, ops)
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(f"a stored catalog is damaged: {error}") from None


def digest_of_entries(value: dict[str, Json]) -> str:
    """Return the SHA-256 of a catalog's or snapshot's JSON, in hex."""
    return hashlib.sha256(_dump(value)).hexdigest()


def _dump(value: dict[str, Any]) -> bytes:
    # As canonical_json writes it: of names and digests, in which its checks would find nothing.
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
