"""What differs between two table states or catalogs, each kind of change named apart. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property

import attrs

from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.materialize import Snapshot, materialize, own_origin
from decomp_ledger.model.rules import TORCH_ORIGINS, TableState

__all__ = [
    "DRIFT_KINDS",
    "NEVER_DECOMPOSED",
    "DriftChange",
    "Drift",
    "NamedState",
    "drift",
    "fate",
    "schema_step",
]

LEFT, ENTERED, GONE, NEW, MOVED = "left", "entered", "gone", "new", "moved"
FATE, SCHEMA, SOURCE, HELPERS, WRAPPERS = "fate", "schema", "source", "helpers", "wrappers"

# The kinds of change, what weighs most first, and what each says of an op.
DRIFT_KINDS: Mapping[str, str] = {
    LEFT: "left the table",
    ENTERED: "entered the table",
    GONE: "gone from the dispatcher",
    MOVED: "decomposed by something else",
    FATE: "kept, or decomposed, otherwise than before",
    SCHEMA: "schema changed",
    SOURCE: "own source changed",
    NEW: "new in the dispatcher",
    HELPERS: "only a helper changed",
    WRAPPERS: "only wrappers changed",
}
_RANK = {kind: rank for rank, kind in enumerate(DRIFT_KINDS)}
_OF_DECOMPOSITIONS = (MOVED, SOURCE, HELPERS, WRAPPERS)

IN_TABLE, ALWAYS, FUNCTIONALIZED, IN_GRAPH = "in the table", "decomposed always", "functionalized", "stays in graphs"
NEVER_DECOMPOSED = (IN_GRAPH, FUNCTIONALIZED)


@attrs.define(frozen=True, slots=False)
class NamedState:
    """One side of a comparison: a table state, and the catalog it is materialized with.

    Attributes:
        name: what people call it: `torch:2.6.0`, `edge@3`.
        state: the table state; of a catalog alone, that of a table that says nothing.
        catalog: the catalog.
    """

    name: str
    state: TableState
    catalog: Catalog

    @classmethod
    def of_catalog(cls, name: str, catalog: Catalog) -> NamedState:
        """Make the side that torch's default table is, as a catalog has it."""
        return cls(name, TableState(name, 0, "torch", {}), catalog)

    @cached_property
    def snapshot(self) -> Snapshot:
        """The table that the state makes of the catalog."""
        return materialize(self.state, self.catalog)

    def to_json(self) -> dict[str, Json]:
        """Return what names it, as plain data."""
        return {"name": self.name, "build": dict(self.catalog.build), "table": len(self.snapshot.ops)}


@attrs.frozen
class DriftChange:
    """One way in which the two sides differ for one op.

    Attributes:
        op: its name.
        kind: one of `DRIFT_KINDS`.
        in_table: whether a table of either side has it; else nothing decomposes it by default, before or after.
        before: what it was: fate, origin, schema or digest, after the kind; None if there was nothing.
        after: what it is.
        function: the Python function that decomposes it now, or did, as `module.qualname`; "" if none does.
    """

    op: str
    kind: str
    in_table: bool
    before: str | None
    after: str | None
    function: str = ""

    def weight(self) -> tuple[bool, bool, int, str]:
        """Sort what weighs more before what weighs less."""
        return (self.kind == WRAPPERS, not self.in_table, _RANK[self.kind], self.op)


@attrs.frozen
class Drift:
    """What differs between two sides.

    Attributes:
        before: the one.
        after: the other.
        changes: what differs, what weighs most first.
        kernels: ops of both tables that a C++ kernel decomposes in different builds: only that they have one is known.
        no_source: ops of both tables whose Python source could not be compared, as a side has no digest of it.
        no_schema: ops of both sides whose schema could not be compared, as a side does not have it.
        unclear: in-place ops whose source cannot be told from that of the closure they are made by, which changed.
    """

    before: NamedState
    after: NamedState
    changes: tuple[DriftChange, ...]
    kernels: tuple[str, ...] = ()
    no_source: tuple[str, ...] = ()
    no_schema: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()

    def of(self, kind: str, *, in_table: bool | None = None) -> list[DriftChange]:
        """Return the changes of one kind, by op; only those (not) in a table, if so asked."""
        return [c for c in self.changes if c.kind == kind and (in_table is None or c.in_table == in_table)]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return for each kind of change how many ops of a table it touches, and how many others."""
        return {
            kind: {"in_table": len(self.of(kind, in_table=True)), "others": len(self.of(kind, in_table=False))}
            for kind in DRIFT_KINDS
        }

    def only(self, used: Collection[str]) -> Drift:
        """Return what of it touches programs that have some ops.

        What decomposes an op counts only where something does: one that stays in the graph on both sides is the same
        there, whatever became of the decomposition that torch has for it and does not use.
        """
        decomposed = {op for op in used if self._is_decomposed(op)}
        changes = tuple(c for c in self.changes if c.op in (decomposed if c.kind in _OF_DECOMPOSITIONS else used))
        lists = (
            (self.kernels, decomposed),
            (self.no_source, decomposed),
            (self.no_schema, used),
            (self.unclear, decomposed),
        )
        return Drift(self.before, self.after, changes, *(tuple(op for op in ops if op in some) for ops, some in lists))

    def _is_decomposed(self, op: str) -> bool:
        sides = self.before, self.after
        fates = (fate(side.catalog.ops.get(op), in_table=op in side.snapshot.ops) for side in sides)
        return any(each not in (*NEVER_DECOMPOSED, None) for each in fates)

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        counts: dict[str, Json] = {kind: dict(count) for kind, count in self.counts().items()}
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "counts": counts,
            "changes": [attrs.asdict(change) for change in self.changes],
            "not_compared": {
                "kernels": list(self.kernels),
                "source": list(self.no_source),
                "schema": list(self.no_schema),
                "unclear": list(self.unclear),
            },
        }


def fate(entry: Entry | None, *, in_table: bool) -> str | None:
    """Tell what becomes of an op in an export: one of four fates, or None if it is not loaded.

    Args:
        entry: what the dispatcher offers for it.
        in_table: whether the table has it.
    """
    if entry is None or in_table:
        return None if entry is None else IN_TABLE
    if entry.origin in ("cia", "py_cia") and entry.unpreservable:
        return ALWAYS
    return FUNCTIONALIZED if "!" in entry.schema.partition("->")[0] else IN_GRAPH


def schema_step(before: str, after: str) -> str:
    """Return the arguments that one of two schemas has and the other lacks; both schemas, if that is not all."""
    inner = (text.partition("(")[2].rpartition(") ->")[0] for text in (before, after))
    old, new = (re.split(r", (?![^\[(]*[\])])", text) for text in inner)
    lost, came = [a for a in old if a not in new], [a for a in new if a not in old]
    if before.rpartition("->")[2] != after.rpartition("->")[2] or not (lost or came):
        return f"{before} -> {after}"
    return " ".join([*(f"-[{each}]" for each in lost), *(f"+[{each}]" for each in came)])


def drift(before: NamedState, after: NamedState) -> Drift:
    """Compare two sides.

    Within one torch build a decomposition of torch's own is known by its origin; across builds, sources are compared
    by digest. What cannot be compared is in the result too.
    """
    comparison = _Comparison(before, after)
    changes = sorted(comparison.changes(), key=DriftChange.weight)
    return Drift(
        before,
        after,
        tuple(changes),
        tuple(comparison.kernels),
        tuple(comparison.no_source),
        tuple(comparison.no_schema),
        tuple(comparison.unclear),
    )


@attrs.frozen
class _Decomposition:
    """What decomposes an op on one side.

    Attributes:
        place: where it comes from: an origin, for one of torch's own; None if nothing decomposes it.
        function: `module.qualname`, or "".
        digest: of its own source.
        helpers: with the functions it calls.
        wrappers: of what its decorators wrap around it.
    """

    place: str | None
    function: str = ""
    digest: str | None = None
    helpers: str | None = None
    wrappers: str | None = None


def _decomposition(side: NamedState, op: str, entry: Entry) -> _Decomposition:
    rule = side.state.rules.get(op)
    decomposition = None if rule is None else rule.decomposition
    if decomposition is not None and decomposition.origin not in TORCH_ORIGINS:
        place = f"{decomposition.origin}: {decomposition.label()}"
        return _Decomposition(place, decomposition.label(), decomposition.digest)
    if decomposition is not None:
        own = own_origin(decomposition, entry, side.catalog.build.get("git"))
        if own != entry.origin:
            return _Decomposition(own)
    function = f"{entry.module}.{entry.qualname}" if entry.module else ""
    return _Decomposition(entry.origin, function, entry.digest, entry.helpers, entry.wrappers)


def _global_function(entry: Entry) -> str | None:
    """Name the function of an entry, unless it was made within another: many go by one such name."""
    return f"{entry.module}.{entry.qualname}" if entry.qualname and "<locals>" not in entry.qualname else None


def _is_in_place(op: str) -> bool:
    name = op_names.split(op)[1]
    return name.endswith("_") and not name.endswith("__")


_NOTHING = Entry()


class _Comparison:
    def __init__(self, before: NamedState, after: NamedState) -> None:
        self.before = before
        self.after = after
        builds = before.catalog.build.get("git"), after.catalog.build.get("git")
        self.same_build = builds[0] is not None and builds[0] == builds[1]
        self.kernels: list[str] = []
        self.no_source: list[str] = []
        self.no_schema: list[str] = []
        self.unclear: list[str] = []

    def changes(self) -> Iterator[DriftChange]:
        """Give every change, by op."""
        old, new = self.before.catalog.ops, self.after.catalog.ops
        for op in sorted(old.keys() | new.keys()):
            was, now = op in self.before.snapshot.ops, op in self.after.snapshot.ops
            if op not in old or op not in new:
                kind = GONE if op in old else NEW
                fates = fate(old.get(op), in_table=was), fate(new.get(op), in_table=now)
                yield DriftChange(op, kind, was or now, *fates, self._function(op))
                continue
            fates = fate(old[op], in_table=was), fate(new[op], in_table=now)
            if was != now:
                yield DriftChange(op, LEFT if was else ENTERED, True, *fates, self._function(op))
            else:
                yield from self._of_decompositions(op, *fates, in_table=now)
            yield from self._of_schemas(op, old[op].schema, new[op].schema, in_table=was or now)

    def _function(self, op: str) -> str:
        for side in (self.after, self.before):
            entry = side.catalog.ops.get(op)
            if entry is not None and (found := _decomposition(side, op, entry).function):
                return found
        return ""

    def _of_decompositions(self, op: str, was: str | None, now: str | None, *, in_table: bool) -> Iterator[DriftChange]:
        one = _decomposition(self.before, op, self.before.catalog.ops[op])
        two = _decomposition(self.after, op, self.after.catalog.ops[op])
        function = two.function or one.function
        if one.place != two.place:
            yield DriftChange(op, MOVED, in_table, one.place, two.place, function)
        elif was != now and self._same_schema(op):
            yield DriftChange(op, FATE, in_table, was, now, function)
        elif one.digest is None or two.digest is None:
            self._note_unknown(op, one.place, in_table=in_table)
        elif one.digest != two.digest:
            kind = self._kind_of_source(op, one, two)
            if kind is None:
                self.unclear.append(op)
            else:
                yield DriftChange(op, kind, in_table, one.digest, two.digest, function)
        elif one.helpers != two.helpers:
            yield DriftChange(op, HELPERS, in_table, one.helpers, two.helpers, function)
        elif one.wrappers != two.wrappers:
            yield DriftChange(op, WRAPPERS, in_table, one.wrappers, two.wrappers, function)

    def _same_schema(self, op: str) -> bool:
        return self.before.catalog.ops[op].schema == self.after.catalog.ops[op].schema

    def _kind_of_source(self, op: str, one: _Decomposition, two: _Decomposition) -> str | None:
        """Tell a function that changed from one that only what is made around it changed for.

        The digest of an in-place op covers the closure that makes it of a function, and the function. Where the
        function decomposes another op as it did, the closure changed; where it decomposes no other op, and the closure
        of others changed, which of the two changed is not known: None.
        """
        if one.function != two.function:
            return SOURCE
        if one.function in self._kept:
            return WRAPPERS if self._kept[one.function] else HELPERS
        return None if _is_in_place(op) and self._closure_changed and one.function not in self._plain else SOURCE

    @cached_property
    def _kept(self) -> dict[str, bool]:
        """Functions that decompose some op as they did -> whether their helpers do too."""
        kept: dict[str, bool] = {}
        for op, old in self.before.catalog.ops.items():
            new, function = self.after.catalog.ops.get(op, _NOTHING), _global_function(old)
            if function is not None and function == _global_function(new) and old.digest == new.digest:
                kept[function] = kept.get(function, True) and old.helpers == new.helpers
        return kept

    @cached_property
    def _plain(self) -> set[str | None]:
        """Functions that decompose an op that is not in place."""
        return {_global_function(entry) for op, entry in self.after.catalog.ops.items() if not _is_in_place(op)}

    @cached_property
    def _closure_changed(self) -> bool:
        """Whether an in-place op changed though the function it is made of did not."""
        new = self.after.catalog.ops
        return any(
            op in new and old.digest != new[op].digest and _global_function(old) in self._kept
            for op, old in self.before.catalog.ops.items()
            if _is_in_place(op)
        )

    def _note_unknown(self, op: str, place: str | None, *, in_table: bool) -> None:
        if in_table and not self.same_build:
            (self.kernels if place == "cia" else self.no_source).append(op)

    def _of_schemas(self, op: str, old: str, new: str, *, in_table: bool) -> Iterator[DriftChange]:
        if old and new:
            if old != new:
                yield DriftChange(op, SCHEMA, in_table, old, new)
        elif "::" in op and not self.same_build:
            self.no_schema.append(op)
