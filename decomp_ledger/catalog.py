"""Catalogs, snapshots, and :func:`materialize`, the one place that decides what is in a table. Pure."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs

from decomp_ledger.canonical import Json
from decomp_ledger.errors import LedgerError
from decomp_ledger.events import OVERRIDE, PRESERVE
from decomp_ledger.state import TORCH_ORIGINS, Reference, TableState

__all__ = ["Catalog", "Entry", "Snapshot", "choose", "materialize", "own_origin", "pack", "unpack"]

ABSENT, DEFAULT = "absent", "default"
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

        `decomp_ledger.drift.complete` is the way back.
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
        return hashlib.sha256(_dump(self.to_json())).hexdigest()


@attrs.define(frozen=True, slots=False)
class Snapshot:
    """A table as it was, or would be, in a torch.

    Attributes:
        catalog: what the dispatcher has.
        ops: op name -> identity of its decomposition.
        preserved: ops that its base has and the table leaves out.
        overridden: ops with a decomposition that the table gives.
        pending: ops the table speaks of and the catalog does not have.
        lost: ops to be decomposed with torch's own, of which this torch has none: it refuses to make the table.
    """

    catalog: Catalog = attrs.field(repr=False, eq=lambda catalog: dict(catalog.build))
    ops: Mapping[str, str]
    preserved: tuple[str, ...]
    overridden: tuple[str, ...]
    pending: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def build(self) -> Mapping[str, str]:
        """The catalog's build."""
        return self.catalog.build

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the build and `ops`; made when it is asked for, as it takes longer than all the rest."""
        return hashlib.sha256(_dump({"build": dict(self.build), "ops": dict(self.ops)})).hexdigest()


def choose(action: str | None, base: str, *, loaded: bool, default: bool) -> str:
    """Decide what a table has for one op. Live tables and replays both ask here, and nowhere else.

    Args:
        action: the last thing said of the op: `preserve`, `override`, or None.
        base: `torch` or `empty`.
        loaded: whether the dispatcher has the op.
        default: whether torch's default table has it.

    Returns:
        `absent`, `default` (torch's decomposition) or `override` (the table's).
    """
    if not loaded or action == PRESERVE:
        return ABSENT
    if action == OVERRIDE:
        return OVERRIDE
    return DEFAULT if default and base == "torch" else ABSENT


def own_origin(reference: Reference, entry: Entry, git: str | None) -> str | None:
    """Decide which of torch's own decompositions an op has that is overridden with one of them.

    The one that was recorded, wherever torch has it: the build in which it was recorded does. A torch that has moved
    it, from C++ to Python say, gives the one it has now; live tables and replays both ask here.

    Args:
        reference: what is recorded, of an origin of torch's own.
        entry: what the dispatcher offers for the op.
        git: the git version of its torch.

    Returns:
        An origin, or None if this torch has no decomposition of that op.
    """
    recorded = reference.origin
    kept = recorded in (entry.origin, *entry.others) or (git is not None and reference.build == git)
    return recorded if kept else entry.origin


def materialize(state: TableState, catalog: Catalog) -> Snapshot:
    """Replay a table's state against what a dispatcher offers.

    Args:
        state: what the table says.
        catalog: what the dispatcher has: the live one, one that was met earlier, or another torch's.
    """
    base = catalog.defaults if state.base == "torch" else {}
    ops = dict(base)
    said = state.intents.keys()
    overridden: list[str] = []
    lost: set[str] = set()
    for op, intent in state.intents.items():
        entry = catalog.ops.get(op)
        choice = choose(
            intent.action, state.base, loaded=entry is not None, default=entry is not None and entry.default
        )
        if choice == OVERRIDE:
            assert entry is not None and intent.reference is not None  # an override of a loaded op
            ref = intent.reference
            own = own_origin(ref, entry, catalog.build.get("git")) if ref.origin in TORCH_ORIGINS else None
            if own is None and ref.origin in TORCH_ORIGINS:
                ops.pop(op, None)
                lost.add(op)
            else:
                ops[op] = own or f"override:{ref.identity()}"
                overridden.append(op)
        else:
            ops.pop(op, None)
    return Snapshot(
        catalog=catalog,
        ops=dict(sorted(ops.items())),  # nearly sorted already, as the defaults are
        preserved=tuple(sorted(op for op in said & base.keys() if op not in ops and op not in lost)),
        overridden=tuple(sorted(overridden)),
        pending=tuple(sorted(op for op in said if op not in catalog.ops)),
        lost=tuple(sorted(lost)),
    )


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


def _dump(value: dict[str, Any]) -> bytes:
    # As canonical_json writes it: of names and digests, in which its checks would find nothing.
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
