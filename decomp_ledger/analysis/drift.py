"""Drift: what differs between two catalogs, or between two tables on their catalogs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property

import attrs

from decomp_ledger.analysis.behaviour import (
    DIFFERS,
    DIFFERS_DYNAMIC,
    NOT_SAMPLED,
    UNKNOWN,
    VERDICTS,
    Behaviour,
    TraceData,
    compare,
    fits,
    trace_text,
)
from decomp_ledger.model import op_names
from decomp_ledger.model.behaviour import Trace, Traces
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.display import Row, displayed, guarded, to_rows
from decomp_ledger.model.materialize import Snapshot, materialize, own_origin
from decomp_ledger.model.rules import TORCH_ORIGINS, TableState
from decomp_ledger.model.schemas import schema_arguments

__all__ = [
    "BEHAVIOUR_KINDS",
    "DRIFT_KINDS",
    "NEVER_DECOMPOSED",
    "Drift",
    "DriftChange",
    "NamedState",
    "behaviour_of",
    "drift",
    "same_build",
    "schema_difference",
    "treatment",
]

LEFT, ENTERED, GONE, NEW, MOVED = "left", "entered", "gone", "new", "moved"
TREATMENT, SCHEMA, SOURCE, HELPERS, WRAPPERS = "treatment", "schema", "source", "helpers", "wrappers"
BEHAVIOUR, DYNAMIC = "behaviour", "dynamic"

# The kinds of change and their titles; the kind with the strongest effect on exports comes first.
DRIFT_KINDS: Mapping[str, str] = {
    BEHAVIOUR: "behaves differently",
    DYNAMIC: "behaves differently with dynamic shapes only",
    LEFT: "left the table",
    ENTERED: "entered the table",
    GONE: "gone from the dispatcher",
    MOVED: "decomposed by something else",
    TREATMENT: "kept or decomposed differently",
    SCHEMA: "schema changed",
    SOURCE: "own source changed",
    NEW: "new in the dispatcher",
    HELPERS: "only a helper changed",
    WRAPPERS: "only wrappers changed",
}
_RANK = {kind: rank for rank, kind in enumerate(DRIFT_KINDS)}
_OF_DECOMPOSITIONS = (BEHAVIOUR, DYNAMIC, MOVED, SOURCE, HELPERS, WRAPPERS)
# The kinds of change that traces show.
BEHAVIOUR_KINDS: Mapping[str, str] = {DIFFERS: BEHAVIOUR, DIFFERS_DYNAMIC: DYNAMIC}

IN_TABLE, ALWAYS, FUNCTIONALIZED, IN_GRAPH = "in the table", "always decomposed", "functionalized", "kept in graphs"
NEVER_DECOMPOSED = (IN_GRAPH, FUNCTIONALIZED)

_NO_DATA = TraceData()


@displayed
@attrs.define(frozen=True, slots=False)
class NamedState:
    """A table state with the catalog on which it is compared, and the name that the user gave to it.

    Attributes:
        name: a state spec: `torch:2.6.0`, `edge@3`.
        state: the table state; for a catalog alone, the state of a table without rules.
        catalog: the catalog.
        traces: what torch's default decompositions do in it; None if that is not known.
        bare: whether the catalog was captured of a torch alone, as the released ones are: it cannot know the ops of
            libraries, nor those that torch defines when a part of it is first imported.
        foreign: the ops of a live catalog that its torch alone does not have.
    """

    name: str
    state: TableState
    catalog: Catalog
    traces: Traces | None = attrs.field(default=None, repr=False)
    bare: bool = False
    foreign: frozenset[str] = attrs.field(default=frozenset(), repr=False)

    @guarded
    def __repr__(self) -> str:
        return f"<NamedState {self.name}: {len(self.state.rules)} rules, torch {self.catalog.build.get('torch')}>"

    @classmethod
    def of_catalog(cls, name: str, catalog: Catalog, traces: Traces | None = None) -> NamedState:
        """Return the state of torch's default table on the catalog of a torch alone."""
        return cls(name, TableState(name, 0, "torch", {}), catalog, traces, bare=True)

    def cannot_know(self, op: str, other: NamedState) -> bool:
        """Tell whether the catalog lacks an op only because it was captured without what defines the op in another."""
        return self.bare and op in other.foreign and op not in self.catalog.ops

    @cached_property
    def snapshot(self) -> Snapshot:
        """The rules applied to the catalog."""
        return materialize(self.state, self.catalog)

    def to_json(self) -> dict[str, Json]:
        """Return its name, its torch build and the size of its table, as plain data."""
        return {"name": self.name, "build": dict(self.catalog.build), "table": len(self.snapshot.ops)}


@displayed
@attrs.frozen
class DriftChange:
    """One difference between two states for one op.

    Attributes:
        op: name of the op.
        kind: one of `DRIFT_KINDS`.
        in_table: whether the table has the op in either state. If not, nothing decomposes it by default in either.
        before: the trace, treatment, origin, schema or digest in the first state, as the kind implies; None if absent.
        after: the same in the second state.
        function: `module.qualname` of the Python function that decomposes the op after, else before; "" if none does.
        verdict: what the traces of the op tell, one of `VERDICTS`: of a change of text, whether it matters. "" if
            torch's default does not decompose the op in both states, or if both are of one build.
    """

    op: str
    kind: str
    in_table: bool
    before: str | None
    after: str | None
    function: str = ""
    verdict: str = ""

    def sort_key(self) -> tuple[bool, bool, int, str]:
        """Return a key that puts the strongest effect on exports first."""
        return (self.kind == WRAPPERS, not self.in_table, _RANK[self.kind], self.op)


@displayed
@attrs.define(frozen=True, slots=False, repr=False)
class Drift:
    """The differences between two states, and what could not be compared.

    Attributes:
        before: the first state.
        after: the second state.
        changes: the differences, the strongest effect on exports first.
        behaviours: what the traces tell of each op that torch's default decomposes in both states. Within one build
            only of ops of libraries, and of ops that behave differently.
        kernels: ops of both tables that kernels decompose and that no sample reached: C++ kernels of two builds, and
            kernels of libraries. A catalog has no code of a kernel.
        no_source: ops of both tables that no sample reached and whose Python source could not be compared, because a
            state has no digest of it.
        no_schema: ops of both states whose schema could not be compared, because a state does not have it.
        unclear: in-place ops that no sample reached and whose digest changed, but perhaps only for the closure that
            makes them in-place: one digest covers both, and that closure changed.
        not_judged: ops that one catalog cannot know, because it was captured without the libraries of the other.
    """

    before: NamedState
    after: NamedState
    changes: tuple[DriftChange, ...]
    behaviours: tuple[Behaviour, ...] = ()
    kernels: tuple[str, ...] = ()
    no_source: tuple[str, ...] = ()
    no_schema: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()
    not_judged: tuple[str, ...] = ()

    @guarded
    def __repr__(self) -> str:
        differing = sum(each.differs for each in self.behaviours)
        names = f"{self.before.name} -> {self.after.name}"
        return f"<Drift {names}: {len(self.changes)} changes, {differing} ops behave differently>"

    def of(self, kind: str, *, in_table: bool | None = None) -> list[DriftChange]:
        """Return the changes of one kind, by op.

        Args:
            kind: one of `DRIFT_KINDS`.
            in_table: True for ops of a table, False for other ops, None for both.
        """
        return [c for c in self.changes if c.kind == kind and (in_table is None or c.in_table == in_table)]

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each difference, the strongest effect on exports first."""
        return to_rows(self.changes)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return, for each kind of change, the number of ops of a table and the number of other ops."""
        return {
            kind: {"in_table": len(self.of(kind, in_table=True)), "others": len(self.of(kind, in_table=False))}
            for kind in DRIFT_KINDS
        }

    def behaviour(self, op: str) -> Behaviour | None:
        """Return what the traces tell of an op; None if torch's default does not decompose it in both states."""
        return self._behaviours.get(op)

    @cached_property
    def _behaviours(self) -> Mapping[str, Behaviour]:
        return {each.op: each for each in self.behaviours}

    def verdicts(self) -> dict[str, int]:
        """Return, for each of `VERDICTS`, the number of ops that torch's default decomposes in both states."""
        count = Counter(each.verdict for each in self.behaviours)
        return {verdict: count[verdict] for verdict in VERDICTS}

    def only(self, used: Collection[str]) -> Drift:
        """Return the part that can affect programs with these ops.

        A changed decomposition counts only for an op that is decomposed in either state. An op that both states keep
        in the graph is the same in both, whatever decomposition torch has for it.
        """
        decomposed = {op for op in used if self._is_decomposed(op)}
        return attrs.evolve(
            self,
            changes=tuple(c for c in self.changes if c.op in (decomposed if c.kind in _OF_DECOMPOSITIONS else used)),
            behaviours=tuple(each for each in self.behaviours if each.op in decomposed),
            kernels=tuple(op for op in self.kernels if op in decomposed),
            no_source=tuple(op for op in self.no_source if op in decomposed),
            no_schema=tuple(op for op in self.no_schema if op in used),
            unclear=tuple(op for op in self.unclear if op in decomposed),
            not_judged=tuple(op for op in self.not_judged if op in used),
        )

    def _is_decomposed(self, op: str) -> bool:
        states = self.before, self.after
        treatments = (treatment(state.catalog.ops.get(op), in_table=op in state.snapshot.ops) for state in states)
        return any(each not in (*NEVER_DECOMPOSED, None) for each in treatments)

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        counts: dict[str, Json] = {kind: dict(count) for kind, count in self.counts().items()}
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "counts": counts,
            "changes": [attrs.asdict(change) for change in self.changes],
            "verdicts": dict(self.verdicts()),
            "behaviours": [each.to_json() for each in self.behaviours],
            "not_compared": {
                "kernels": list(self.kernels),
                "source": list(self.no_source),
                "schema": list(self.no_schema),
                "unclear": list(self.unclear),
                "not_judged": list(self.not_judged),
            },
        }


def treatment(entry: Entry | None, *, in_table: bool) -> str | None:
    """Return what an export does with an op.

    Args:
        entry: the op's entry in the catalog; None if it is not loaded.
        in_table: whether the table has the op.

    Returns:
        `in the table`, `always decomposed`, `functionalized` or `kept in graphs`; None if the op is not loaded.
    """
    if entry is None or in_table:
        return None if entry is None else IN_TABLE
    if entry.origin in ("cia", "py_cia") and entry.unpreservable:
        return ALWAYS
    return FUNCTIONALIZED if "!" in entry.schema.partition("->")[0] else IN_GRAPH


def behaviour_of(op: str, before: NamedState, after: NamedState, data: TraceData) -> Behaviour:
    """Compare the traces of an op that torch's default decomposes in both states."""
    states = before, after
    traces = [{} if state.traces is None else state.traces.get(op) for state in states]
    if not same_build(before, after) and any(state.traces is None for state in states):
        return Behaviour(op, UNKNOWN)
    schemas = [state.catalog.ops[op].schema for state in states]
    unfit: set[str] = set()
    if all(schemas) and schemas[0] != schemas[1]:
        for schema, side in zip(schemas, traces, strict=True):
            unfit |= {call for call, each in side.items() if each.error is not None and not fits(call, schema)}
    return compare(op, traces[0], traces[1], data, unfit)


def same_build(before: NamedState, after: NamedState) -> bool:
    """Tell whether two states are of one build of torch, as far as that is known."""
    builds = before.catalog.build.get("git"), after.catalog.build.get("git")
    return builds[0] is not None and builds[0] == builds[1]


def schema_difference(before: str, after: str) -> str:
    """Return the arguments that only one of two schemas has; both schemas, if they differ in anything else."""
    old, new = map(schema_arguments, (before, after))
    here, there = set(old), set(new)
    removed, added = [a for a in old if a not in there], [a for a in new if a not in here]
    if before.rpartition("->")[2] != after.rpartition("->")[2] or not (removed or added):
        return f"{before} -> {after}"
    return " ".join([*(f"-[{each}]" for each in removed), *(f"+[{each}]" for each in added)])


def drift(before: NamedState, after: NamedState, data: TraceData = _NO_DATA) -> Drift:
    """Compare two states.

    Within one torch build, the origin identifies a decomposition of torch's own. Across builds, traces tell whether
    it behaves the same, and digests of sources whether its text is the same. The result also lists what could not be
    compared.

    Args:
        before: the first state.
        after: the second state.
        data: what the traces share.
    """
    comparison = _Comparison(before, after, data)
    changes = sorted(comparison.changes(), key=DriftChange.sort_key)
    return Drift(
        before,
        after,
        tuple(changes),
        tuple(comparison.behaviours.values()),
        tuple(comparison.kernels),
        tuple(comparison.no_source),
        tuple(comparison.no_schema),
        tuple(comparison.unclear),
        tuple(comparison.not_judged),
    )


@attrs.frozen
class _Decomposer:
    """What decomposes an op in one state.

    Attributes:
        identity: the origin for torch's own decomposition, `origin: name` for another; None if nothing does.
        function: `module.qualname`, or "".
        digest: digest of the function's own source.
        helpers: digest of its source with the functions that it calls.
        wrappers: digest of the wrappers that its decorators add.
        traced: whether it is what the default table has, which the traces of the op are of.
    """

    identity: str | None
    function: str = ""
    digest: str | None = None
    helpers: str | None = None
    wrappers: str | None = None
    traced: bool = False


def _decomposer(state: NamedState, op: str, entry: Entry) -> _Decomposer:
    rule = state.state.rules.get(op)
    decomposition = None if rule is None else rule.decomposition
    if decomposition is not None and decomposition.origin not in TORCH_ORIGINS:
        label = decomposition.label()
        return _Decomposer(f"{decomposition.origin}: {label}", label, decomposition.digest, decomposition.helpers)
    if decomposition is not None:
        own = own_origin(decomposition, entry, state.catalog.build.get("git"))
        if own != entry.origin:
            return _Decomposer(own)
    function = f"{entry.module}.{entry.qualname}" if entry.module else ""
    return _Decomposer(entry.origin, function, entry.digest, entry.helpers, entry.wrappers, entry.default)


@attrs.frozen
class _Pair:
    """An op that the tables of both states have, or that neither has: its treatment and what decomposes it in each."""

    op: str
    in_table: bool
    was: str | None
    now: str | None
    old: _Decomposer
    new: _Decomposer

    def change(self, kind: str, before: str | None, after: str | None, verdict: str) -> DriftChange:
        """Return a change of the op."""
        return DriftChange(self.op, kind, self.in_table, before, after, self.new.function or self.old.function, verdict)


def _global_function(entry: Entry) -> str | None:
    """Return the name of an entry's function; None for a nested one, because many share one such name."""
    return f"{entry.module}.{entry.qualname}" if entry.qualname and "<locals>" not in entry.qualname else None


def _is_in_place(op: str) -> bool:
    name = op_names.split(op)[1]
    return name.endswith("_") and not name.endswith("__")


_NOTHING = Entry()


class _Comparison:
    def __init__(self, before: NamedState, after: NamedState, data: TraceData) -> None:
        self.before = before
        self.after = after
        self.data = data
        self.behaviours: dict[str, Behaviour] = {}
        self.same_build = same_build(before, after)
        self.kernels: list[str] = []
        self.no_source: list[str] = []
        self.no_schema: list[str] = []
        self.unclear: list[str] = []
        self.not_judged: list[str] = []

    def changes(self) -> Iterator[DriftChange]:
        """Yield every change, by op."""
        old, new = self.before.catalog.ops, self.after.catalog.ops
        for op in sorted(old.keys() | new.keys()):
            if (op not in old or op not in new) and self._cannot_judge(op):
                self.not_judged.append(op)
                continue
            was, now = op in self.before.snapshot.ops, op in self.after.snapshot.ops
            treatments = treatment(old.get(op), in_table=was), treatment(new.get(op), in_table=now)
            if op not in old or op not in new:
                yield DriftChange(op, GONE if op in old else NEW, was or now, *treatments, self._function(op))
                continue
            if was != now:
                yield DriftChange(op, LEFT if was else ENTERED, True, *treatments, self._function(op))
            else:
                decomposers = (_decomposer(state, op, state.catalog.ops[op]) for state in (self.before, self.after))
                yield from self._decomposition_changes(_Pair(op, now, *treatments, *decomposers))
            yield from self._schema_changes(op, old[op].schema, new[op].schema, in_table=was or now)

    def _cannot_judge(self, op: str) -> bool:
        """Tell whether an op that one catalog lacks may be in its torch all the same."""
        if self.same_build and self.before.bare != self.after.bare:
            return True  # one torch, with other libraries and parts imported, or for another accelerator
        return self.before.cannot_know(op, self.after) or self.after.cannot_know(op, self.before)

    def _function(self, op: str) -> str:
        for state in (self.after, self.before):
            entry = state.catalog.ops.get(op)
            if entry is not None and (found := _decomposer(state, op, entry).function):
                return found
        return ""

    def _decomposition_changes(self, pair: _Pair) -> Iterator[DriftChange]:
        verdict = ""
        if pair.in_table and pair.old.traced and pair.new.traced and self._is_judged(pair.op):
            found = self.behaviours[pair.op] = behaviour_of(pair.op, self.before, self.after, self.data)
            verdict = found.verdict
            if found.differs:
                first = found.differences[0]
                yield pair.change(BEHAVIOUR_KINDS[verdict], trace_text(first.before), trace_text(first.after), verdict)
        yield from self._text_changes(pair, verdict)

    def _is_judged(self, op: str) -> bool:
        """Tell whether traces decide if an op that torch's default decomposes in both states behaves the same.

        Within one build torch's own ops behave the same, unless a library replaced a decomposition. An op of a library
        may be of another version of it.
        """
        if not self.same_build:
            return True
        old, new = self._traces(op)
        if op_names.is_torchs(op):
            return any(old[call] != new[call] for call in old.keys() & new.keys())
        return bool(old or new)

    def _traces(self, op: str) -> tuple[Mapping[str, Trace], Mapping[str, Trace]]:
        old, new = ({} if state.traces is None else state.traces.get(op) for state in (self.before, self.after))
        return old, new

    def _is_of_build(self, op: str) -> bool:
        """Tell whether both states have the same code of an op, because it is torch's own and they are of one build."""
        return self.same_build and op_names.is_torchs(op)

    def _text_changes(self, pair: _Pair, verdict: str) -> Iterator[DriftChange]:
        """Yield the change of what decomposes an op, or of its text; at most one."""
        op, old, new = pair.op, pair.old, pair.new
        if old.identity != new.identity:
            yield pair.change(MOVED, old.identity, new.identity, verdict)
        elif pair.was != pair.now and self._same_schema(op):
            yield pair.change(TREATMENT, pair.was, pair.now, verdict)
        elif old.digest is None or new.digest is None:
            if pair.in_table and not self._is_of_build(op) and verdict in ("", NOT_SAMPLED, UNKNOWN):
                (self.kernels if old.identity == "cia" else self.no_source).append(op)
        elif old.digest != new.digest:
            changed = self._kind_of_source_change(op, old, new)
            if changed is not None:
                yield pair.change(changed, old.digest, new.digest, verdict)
            elif verdict in ("", NOT_SAMPLED, UNKNOWN):
                self.unclear.append(op)
        elif old.helpers != new.helpers:
            yield pair.change(HELPERS, old.helpers, new.helpers, verdict)
        elif old.wrappers != new.wrappers:
            yield pair.change(WRAPPERS, old.wrappers, new.wrappers, verdict)

    def _same_schema(self, op: str) -> bool:
        return self.before.catalog.ops[op].schema == self.after.catalog.ops[op].schema

    def _kind_of_source_change(self, op: str, old: _Decomposer, new: _Decomposer) -> str | None:
        """Return SOURCE if the function changed, HELPERS or WRAPPERS if only code around it did, None if unknown.

        The digest of an in-place op covers the function and the closure that makes it in-place. If the function
        decomposes another op with an unchanged digest, the closure changed. It is unknown which of the two changed if
        the function decomposes no other op and the closure of other ops changed.
        """
        if old.function != new.function:
            return SOURCE
        if old.function in self._unchanged:
            return WRAPPERS if self._unchanged[old.function] else HELPERS
        return None if _is_in_place(op) and self._closure_changed and old.function not in self._plain else SOURCE

    @cached_property
    def _unchanged(self) -> dict[str, bool]:
        """Functions that decompose some op with an unchanged digest -> whether their helpers are unchanged too."""
        unchanged: dict[str, bool] = {}
        for op, old in self.before.catalog.ops.items():
            new, function = self.after.catalog.ops.get(op, _NOTHING), _global_function(old)
            if function is not None and function == _global_function(new) and old.digest == new.digest:
                unchanged[function] = unchanged.get(function, True) and old.helpers == new.helpers
        return unchanged

    @cached_property
    def _plain(self) -> set[str | None]:
        """Functions that decompose an op that is not in-place."""
        return {_global_function(entry) for op, entry in self.after.catalog.ops.items() if not _is_in_place(op)}

    @cached_property
    def _closure_changed(self) -> bool:
        """Whether the digest of an in-place op changed although its function is unchanged."""
        new = self.after.catalog.ops
        return any(
            op in new and old.digest != new[op].digest and _global_function(old) in self._unchanged
            for op, old in self.before.catalog.ops.items()
            if _is_in_place(op)
        )

    def _schema_changes(self, op: str, old: str, new: str, *, in_table: bool) -> Iterator[DriftChange]:
        if old and new:
            if old != new:
                yield DriftChange(op, SCHEMA, in_table, old, new)
        elif "::" in op and not self.same_build:
            self.no_schema.append(op)
