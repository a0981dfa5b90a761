"""The public queries: each is one call, with a ledger or without one.

A command of the command line and a method of :class:`decomp_ledger.Ledger` both call a function of this module. Every
function takes `ledger=`, because a state spec such as `torch:2.13.0` or `model.pt2` needs no ledger.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from decomp_ledger import catalogs
from decomp_ledger.analysis import drift as drifting
from decomp_ledger.analysis import explain as explaining
from decomp_ledger.analysis import opset_check as opset_checking
from decomp_ledger.analysis import totals as totalling
from decomp_ledger.analysis import upgrade as upgrading
from decomp_ledger.analysis.advice import Why, advise
from decomp_ledger.analysis.behaviour import TraceData
from decomp_ledger.analysis.drift import Drift, NamedState
from decomp_ledger.analysis.explain import Explanation
from decomp_ledger.analysis.export_diff import ExportDiff, export_diff
from decomp_ledger.analysis.export_results import ExportResult
from decomp_ledger.analysis.export_results import export_results as results_of
from decomp_ledger.analysis.idle import IdleRule, idle_rules, mutates
from decomp_ledger.analysis.numerics import NumericsCheck, ProgramCheck
from decomp_ledger.analysis.op_releases import OpReleases, op_releases
from decomp_ledger.analysis.opset_check import OpsetCheck
from decomp_ledger.analysis.outcome import Outcome, outcomes
from decomp_ledger.analysis.totals import ExportTotals
from decomp_ledger.analysis.upgrade import Upgrade, UpgradeCheck
from decomp_ledger.errors import (
    DamagedSchema,
    InvalidName,
    LedgerError,
    LedgerFileError,
    MissingStamp,
    SampleError,
    StampError,
    UnknownCatalog,
    UnknownEvent,
    UnknownOp,
    UnusableValue,
)
from decomp_ledger.integrity import verify as integrity
from decomp_ledger.integrity.allowed_signers import Signer, read_signers
from decomp_ledger.integrity.anchors import Anchors
from decomp_ledger.integrity.checkpoints import Checkpoint, read_file
from decomp_ledger.integrity.verify import Problem, Verification
from decomp_ledger.log import provenance
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.process_functions import ProcessFunctions
from decomp_ledger.model import op_names
from decomp_ledger.model.arguments import checked, one_or_more, shown
from decomp_ledger.model.behaviour import Traces, TraceSet
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.display import Row, Rows, displayed, guarded, to_rows
from decomp_ledger.model.events import PRESERVE, Event, Exported, Materialized, Saved
from decomp_ledger.model.json_values import check_json_size, parse_json
from decomp_ledger.model.limits import FILE_BYTES, JSON_BYTES
from decomp_ledger.model.materialize import Snapshot, materialize
from decomp_ledger.model.op_lookup import Lists, did_you_mean, ops_named
from decomp_ledger.model.opset import CORE_ATEN, Opset, opset_from_json
from decomp_ledger.model.opset import FORM as OPSET_FORM
from decomp_ledger.model.recorded_names import split_recorded
from decomp_ledger.model.rules import Decomposition, RuleDiff, TableState
from decomp_ledger.model.rules import diff as rule_diff
from decomp_ledger.model.sample_files import canonical_samples, samples_from_json
from decomp_ledger.model.samples import parse_call
from decomp_ledger.model.state_specs import (
    CatalogSpec,
    ExportSpec,
    StampSpec,
    StateSpec,
    TableSpec,
    TorchSpec,
    not_an_export,
    parse_export_spec,
    parse_state_spec,
)
from decomp_ledger.pytorch.capture_program import CaptureRequest, capture_with
from decomp_ledger.storage.bounded_read import read_bounded
from decomp_ledger.storage.history import Since
from decomp_ledger.storage.new_file import write_text
from decomp_ledger.transfer import jsonl
from decomp_ledger.transfer.artefacts import digest_of_file
from decomp_ledger.transfer.export_bundle import ExportBundle
from decomp_ledger.transfer.stamp import Stamp, read_stamp

if TYPE_CHECKING:
    from decomp_ledger.pytorch.graph_digest import GraphDifference
    from decomp_ledger.pytorch.imports import ImportRecording
    from decomp_ledger.pytorch.reproduced_table import ReproducedTable, Rerun
    from decomp_ledger.pytorch.would_change import WouldChange

__all__ = [
    "RecordedEvent",
    "Reproduction",
    "ResolvedState",
    "State",
    "StateDiff",
    "UpgradeReport",
    "available_catalogs",
    "blame",
    "capture_catalog",
    "catalog",
    "changed_rules",
    "check_numerics",
    "check_opset",
    "check_program",
    "check_upgrade",
    "diff",
    "drift",
    "event",
    "explain",
    "explain_releases",
    "export_results",
    "export_totals",
    "load_dump",
    "ops_of",
    "read_samples",
    "record_imports",
    "reproduce_export",
    "saved_file",
    "show",
    "sole_table",
    "state_and_blame",
    "trace",
    "upgrade",
    "used_ops",
    "verify",
    "why",
    "would_change",
]

Progress: TypeAlias = Callable[[int, int], object]
Path_: TypeAlias = str | os.PathLike[str]


@displayed
@attrs.frozen(repr=False)
class ResolvedState:
    """A table state that a state spec names, with the facts that are known about it.

    Attributes:
        name: what people call it: `edge@3`, `torch:2.6.0`, `export:7`, `model.pt2`.
        state: the rules of the table. The default table of a torch has none.
        catalog: the catalog of the table's last materialization, as it is stored; else the last one of any table of the
            ledger, because both are most likely used with one torch; None if the ledger has no materialization.
        materialization: the event that names the catalog: `materialized` or `exported`. A catalog alone has none.
        since: op -> the version that set its rule, with the reason.
        bundle: the export, if the spec names one.
        stamp: the stamp, if the spec names a `.pt2` file.
        environment: what the export ran in, or the event that made the version; empty for a catalog.
        result: what became of the export's result, if the ledger has the export.
        artefact: the `saved` event of the file, if the spec names a file that the ledger knows by its content.
    """

    name: str
    state: TableState
    catalog: Catalog | None
    materialization: Event | None = None
    since: Mapping[str, Since | Event] = attrs.field(factory=dict)
    bundle: ExportBundle | None = None
    stamp: Stamp | None = None
    environment: Mapping[str, Json] = attrs.field(factory=dict)
    result: ExportResult | None = None
    artefact: Event | None = None

    @guarded
    def __repr__(self) -> str:
        torch = "never materialized" if self.catalog is None else f"torch {self.catalog.build.get('torch')}"
        return f"<ResolvedState {self.name}: base {self.state.base}, {len(self.state.rules)} rules, {torch}>"

    @property
    def snapshot(self) -> Snapshot | None:
        """The rules applied to the catalog; None if the table was never materialized."""
        return None if self.catalog is None else materialize(self.state, self.catalog)

    @property
    def idle(self) -> tuple[IdleRule, ...]:
        """The rules that cannot act in the catalog's torch, by op, with what to do; none without a catalog."""
        return () if self.catalog is None else idle_rules(self.state, catalogs.completed(self.catalog))

    @property
    def outside_core(self) -> tuple[str, ...]:
        """The ops that are not Core ATen: of the result of an export, else of those that the table can keep."""
        if self.bundle is not None:
            ops: Collection[str] = self.bundle.body.ops_after
        else:
            loaded: Collection[str] = () if self.catalog is None else self.catalog.ops
            idle = {each.op for each in self.idle if each.op in loaded}
            kept = (op for op, rule in self.state.rules.items() if rule.action == PRESERVE)
            ops = [op for op in kept if op not in idle]
        return catalogs.opsets()[CORE_ATEN].outside(ops)

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """What happened to each op of the export; empty if the spec names none."""
        if self.bundle is None:
            return {}
        # A recent event has the facts in it; of an older one, the schemas tell some.
        whole = self.bundle.catalog if self.bundle.body.kinds is not None else catalogs.completed(self.bundle.catalog)
        return outcomes(self.bundle.body, self.state, whole, self.bundle.blame())

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each rule, with the version and the event that set it, and why."""
        rows = self.state.to_dicts()
        for row in rows:
            since = self.since.get(str(row["op"]))
            row |= {name: getattr(since, name, None) for name in ("version", "seq", "reason")}
        return rows

    def whole_catalog(self) -> Catalog:
        """Return the catalog with the schemas and digests that its torch build implies; it reads no traces.

        Raises:
            LedgerError: the table was never materialized.
        """
        if self.catalog is None:
            raise LedgerError(
                f"{self.name}: the table was never materialized, so it has no catalog to compare; export with it, or "
                f"try `upgrade {self.name} --torch VERSION`"
            )
        return catalogs.completed(self.catalog)

    def named_state(self) -> NamedState:
        """Return the state with its whole catalog and traces, for a comparison.

        Raises:
            LedgerError: the table was never materialized.
        """
        whole = self.whole_catalog()
        foreign = frozenset[str]() if self.bare else _foreign_ops(whole)
        return NamedState(self.name, self.state, whole, _traces(whole), self.bare, foreign)

    @property
    def bare(self) -> bool:
        """Whether the state is of a torch alone, whose catalog cannot know the ops of libraries."""
        return self.state.version == 0 and self.materialization is None


State: TypeAlias = str | os.PathLike[str] | StateSpec | Catalog | ResolvedState


@displayed
@attrs.frozen(repr=False)
class StateDiff:
    """The difference between two table states. True if anything differs.

    Attributes:
        before: the first state.
        after: the second state.
        rules: the ops whose rules differ.
        exports: the difference between the two exports, if both states are of exports.
        first_node: the first node in which their programs differ, if the programs were to be compared.
    """

    before: ResolvedState
    after: ResolvedState
    rules: tuple[RuleDiff, ...]
    exports: ExportDiff | None
    first_node: GraphDifference | None = None

    @property
    def environments(self) -> dict[str, tuple[Json, Json]]:
        """What differs between the environments: name -> its value before and after, None where it is not recorded.

        Empty if one of the states has no environment.
        """
        one, other = self.before.environment, self.after.environment
        names = dict.fromkeys([*one, *other]) if one and other else ()
        return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each op whose rule differs: the op, and its rule before and after."""
        return to_rows(self.rules)

    @property
    def same_base(self) -> bool:
        """Whether both tables have the same base."""
        return self.before.state.base == self.after.state.base

    def __bool__(self) -> bool:
        return bool(self.rules or self.exports) or not self.same_base

    @guarded
    def __repr__(self) -> str:
        return f"<StateDiff {self.before.name} -> {self.after.name}: {len(self.rules)} rules differ>"


@displayed
@attrs.frozen(repr=False)
class UpgradeReport:
    """An upgrade, judged by the programs that were exported with the table.

    Attributes:
        upgrade: the table on the other torch.
        check: the changes that touch the programs.
        exports: the number of exports that tell which ops the programs use.
    """

    upgrade: Upgrade
    check: UpgradeCheck
    exports: int

    @property
    def passed(self) -> bool:
        """Whether no change touches the programs."""
        return not self.check.findings

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each change that touches the programs."""
        return self.check.to_dicts()

    @guarded
    def __repr__(self) -> str:
        return f"<UpgradeReport: {len(self.check.findings)} findings for {self.exports} exports>"


@displayed
@attrs.frozen(repr=False)
class RecordedEvent:
    """One event with everything that it names.

    Attributes:
        event: the event.
        environment: what it was made in: torch, Python, platform, host, git commit, CI run, libraries.
        decompositions: digest -> decomposition, for the overrides of its changes.
    """

    event: Event
    environment: Mapping[str, Json]
    decompositions: Mapping[str, Decomposition]

    @guarded
    def __repr__(self) -> str:
        return f"<RecordedEvent #{self.event.seq}: {self.event.table}@{self.event.version} {self.event.kind}>"


@displayed
@attrs.frozen(repr=False)
class Reproduction:
    """An export whose table was made again, and which was run again if a program was given.

    Attributes:
        bundle: the recorded export.
        table: its table, made again here.
        rerun: the second run; None if it was not run.
        difference: the first node that differs; None if none does, or if the first result is not in a `.pt2`.
    """

    bundle: ExportBundle
    table: ReproducedTable
    rerun: Rerun | None = None
    difference: GraphDifference | None = None

    @property
    def exact(self) -> bool:
        """Whether the table is the recorded one, and the second run gave the recorded graph."""
        return not self.table.differences and (self.rerun is None or self.rerun.same)

    @property
    def git_commit(self) -> str | None:
        """The git commit of the working tree that the export ran in; None if it is not recorded."""
        found = self.bundle.environment.get("git_commit")
        return found if isinstance(found, str) else None

    @property
    def git_dirty(self) -> bool | str | None:
        """Whether that tree had other content than its commit; a text that says why if that is unknown."""
        found = self.bundle.environment.get("git_dirty")
        return found if isinstance(found, bool | str) else None

    @guarded
    def __repr__(self) -> str:
        run = "not run" if self.rerun is None else "the same graph" if self.rerun.same else "another graph"
        return f"<Reproduction of {self.bundle.name}: {len(self.table.differences)} differences, {run}>"


# One state


@checked
def show(spec: State | None = None, *, ledger: LedgerLog | None = None) -> ResolvedState:
    """Return a table state with the facts that are known about it.

    Args:
        spec: a state spec: `edge`, `edge@3`, `edge@v1`, `export:7`, `torch:2.13.0`, `catalog:FILE`, `model.pt2`; for a
            series of recorded tables `export_llama/backend_table`, and with `~1` the run before. A catalog stands for
            its default table. None means the only table of the ledger. A file may be a `.pt2` or an `.onnx`, which have
            a stamp, or any of these or a `.pte` or a `.ptd` that the ledger knows by its content.
        ledger: the ledger of tables and exports.

    Raises:
        LedgerError: the spec names nothing, or needs a ledger.
        StampError: the file has no stamp and the ledger does not know it, or it was changed after it was saved.
    """
    if isinstance(spec, ResolvedState):
        return spec
    if isinstance(spec, Catalog):
        return _default_table(f"torch {spec.build.get('torch')}", spec)
    parsed = _parsed(spec, ledger)
    if isinstance(parsed, TorchSpec):
        return _default_table(str(parsed), catalogs.released(parsed.version))
    if isinstance(parsed, CatalogSpec):
        return _default_table(str(parsed), _read_catalog(Path(parsed.path)))
    if isinstance(parsed, StampSpec):
        return _of_file(parsed.path, ledger)
    opened = _needed(ledger, parsed)
    if isinstance(parsed, ExportSpec):
        return _of_recorded(str(parsed), opened.export(parsed.number), opened)
    return _of_table(parsed, opened)


@checked
def event(number: int, *, ledger: LedgerLog) -> RecordedEvent:
    """Return one event with its environment and the decompositions that it names.

    Args:
        number: its seq.
        ledger: the ledger.

    Raises:
        UnknownEvent: the ledger has no such event.
    """
    found = next(ledger.events(gt=number - 1, lte=number), None)
    if found is None:
        last = ledger.event_store.head()[0]
        fix = f"give one of #1 to #{last}" if last else "it has none yet"
        raise UnknownEvent(f"#{number}: the ledger {ledger.path} has no such event; {fix}")
    return recorded(found, ledger)


def recorded(found: Event, ledger: LedgerLog) -> RecordedEvent:
    """Return an event with its environment and the decompositions that it names."""
    digests = {change.decomposition for change in found.changes if change.decomposition is not None}
    named = ledger.event_store.decompositions_by_digest(sorted(digests))
    return RecordedEvent(found, ledger.environment(found.environment), named)


@checked
def changed_rules(number: int, *, ledger: LedgerLog) -> tuple[RuleDiff, ...]:
    """Return the rules that one event changed, before and after it, by op; empty if it changed none.

    Args:
        number: the event's seq.
        ledger: the ledger.

    Raises:
        LedgerError: the ledger has no such event.
    """
    found = event(number, ledger=ledger).event
    if not found.changes:
        return ()
    before, after = (ledger.state(found.table, version).rules for version in (found.version - 1, found.version))
    ops = sorted({change.op for change in found.changes})
    return tuple(RuleDiff(op, before.get(op), after.get(op)) for op in ops if before.get(op) != after.get(op))


@checked
def blame(spec: State | None = None, *, op: object = None, ledger: LedgerLog | None = None) -> dict[str, Event]:
    """Return, for each op that has a rule, the event that set it.

    Args:
        spec: a state spec; None means the only table of the ledger.
        op: only this op; the name of a family means all its overloads.
        ledger: the ledger of tables and exports.

    Raises:
        UnknownOp: the text has no namespace, and no known op has that name.
        LedgerError: the spec names nothing, or needs a ledger.
    """
    return state_and_blame(spec, op=op, ledger=ledger)[1]


@checked
def state_and_blame(
    spec: State | None = None, *, op: object = None, ledger: LedgerLog | None = None
) -> tuple[TableState, dict[str, Event]]:
    """Return a table state, and for each op that has a rule, the event that set it; see :func:`blame`."""
    parsed = spec if isinstance(spec, (Catalog, ResolvedState)) else _parsed(spec, ledger)
    if isinstance(parsed, ResolvedState) and parsed.bundle is None and parsed.state.version > 0:
        parsed = TableSpec(parsed.state.table, parsed.state.version)
    if isinstance(parsed, TableSpec):
        opened = _needed(ledger, parsed)
        state, events = opened.state_and_blame(parsed.table, opened.version_of(parsed.table, parsed.version))
    else:
        found = show(parsed, ledger=ledger)
        state, events = found.state, {} if found.bundle is None else found.bundle.blame()
    if op is None:
        return state, events
    names = ops_of(op, Lists(state.rules, _NewestOps()))
    return state, {name: events[name] for name in names if name in events}


@checked
def explain(op: object, spec: State | None = None, *, ledger: LedgerLog | None = None) -> Rows[Explanation]:
    """Return why an op is, or is not, decomposed.

    Args:
        op: its name, or an `OpOverload`. The name of a family (`aten.add`, `add`) means all its overloads.
        spec: a state spec. None means every table that ever had a rule for the op, or else one table of each kind; of a
            series of recorded tables, the newest run.
        ledger: the ledger of tables and exports.

    Returns:
        One explanation for each op and state.

    Raises:
        UnknownOp: no torch, rule or export of the state has such an op.
        InvalidName: the text cannot name an op.
        LedgerError: the spec names nothing, or needs a ledger.
    """
    return Rows(_explain(name, state, ledger) for name, state in _asked(op, spec, ledger))


def _asked(op: object, spec: State | None, ledger: LedgerLog | None) -> list[tuple[str, ResolvedState]]:
    """Return each op and state that a question is about."""
    if spec is None and ledger is not None and len(ledger.table_series()) > 1:
        names = ops_of(op, Lists(ledger.changed_ops, _ops_of_last_catalog(ledger)))
        return [(name, show(TableSpec(table), ledger=ledger)) for name in names for table in _tables_for(name, ledger)]
    state = show(spec, ledger=ledger)
    return [(name, state) for name in ops_of(op, _ops_in(state))]


@checked
def why(op: object, spec: State | None = None, *, ledger: LedgerLog | None = None) -> Rows[Why]:
    """Return why an op is, or is not, decomposed, with the line to write to get the other; see :func:`explain`."""
    return Rows(_why(name, state, ledger) for name, state in _asked(op, spec, ledger))


@checked
def explain_releases(op: object) -> Rows[OpReleases]:
    """Return what each torch whose catalog is shipped does with an op by default, oldest first.

    Args:
        op: its name, or an `OpOverload`. The name of a family (`aten.add`, `add`) means all its overloads.

    Returns:
        One answer for each op.

    Raises:
        UnknownOp: no shipped torch has such an op.
        InvalidName: the text cannot name an op.
    """
    states = [show(f"torch:{version}").named_state() for version in catalogs.available()]
    states = [attrs.evolve(state, name=state.name.removeprefix("torch:")) for state in states]
    known = Lists(*(state.catalog.ops for state in reversed(states)))
    names = ops_of(op, known)
    if names[0] not in known:
        hint = did_you_mean(names[0], known) or "; catalogs have only the ops of torch itself"
        raise UnknownOp(f"{names[0]}: no torch whose catalog is shipped has the op{hint}")
    return Rows(op_releases(name, states, _trace_data()) for name in names)


# Two states


@checked
def diff(
    before: State, after: State | None = None, *, graphs: bool = False, ledger: LedgerLog | None = None
) -> StateDiff:
    """Return the difference between the rules of two states, and between their exports if they have them.

    Args:
        before: a state spec.
        after: a state spec; None means the newest version of the table, and of a series of recorded tables the newest
            run: `diff("export_llama/backend_table~1")` tells what the last run changed.
        graphs: load both programs and find the first node that differs. Both states must be stamped `.pt2` files,
            because a ledger holds only digests of graphs. `torch.export.load` unpickles parts of them.
        ledger: the ledger of tables and exports.

    Raises:
        LedgerError: a spec names nothing, or needs a ledger; or neither table can have rules, as of two torch versions;
            or a program cannot be loaded.
    """
    one = show(before, ledger=ledger)
    other = show(_newest(one, ledger) if after is None else after, ledger=ledger)
    if one.state.version == other.state.version == 0:
        raise LedgerError(f"{one.name} and {other.name}: torch's default tables have no rules to compare; use drift")
    exports = None
    if one.bundle is not None and other.bundle is not None:
        exports = export_diff(one.bundle.body, other.bundle.body, (one.outcomes, other.outcomes))
    first = _first_node(one, other) if graphs else None
    return StateDiff(one, other, tuple(rule_diff(one.state, other.state)), exports, first)


def _newest(state: ResolvedState, ledger: LedgerLog | None) -> TableSpec:
    """Return what a state is compared with by default: its table's newest version, in the newest run.

    Raises:
        LedgerError: it is that already, or it is not the state of a table of the ledger.
    """
    if state.bundle is not None or state.state.version == 0 or ledger is None:
        raise LedgerError(f"{state.name}: nothing to compare it with; give a second state")
    recorded = split_recorded(state.state.table)
    series = None if recorded is None or recorded.series == ledger.find_table(recorded.series) else recorded.series
    newest = ledger.table_named(series or state.state.table)
    if (newest, ledger.version_of(newest)) == (state.state.table, state.state.version):
        earlier = f"{series}~1" if series else f"{newest}@VERSION"
        raise LedgerError(f"{state.name}: it is the newest state of its table; give {earlier}, or a second state")
    return TableSpec(series or newest)


def _first_node(one: ResolvedState, other: ResolvedState) -> GraphDifference | None:
    for each in (one, other):
        if each.stamp is None:
            raise LedgerError(f"{each.name}: not a stamped .pt2 file, so it has no graph to compare; give both files")
    from decomp_ledger.pytorch.graph_digest import first_difference
    from decomp_ledger.pytorch.reproduced_table import load_program

    return first_difference(load_program(one.name), load_program(other.name))


@checked
def drift(
    before: State, after: State, *, only_used: State | int | None = None, ledger: LedgerLog | None = None
) -> Drift:
    """Return the difference between two states, each with its catalog.

    Of ops that torch's default decomposes in both, `behaviours` tells what shipped or captured traces show: whether
    they give the same graph on every sample call, and the two graphs where they do not.

    Args:
        before: a state spec; its table must have been materialized.
        after: a state spec; likewise.
        only_used: an export (`export:7`, `model.pt2`): leave out what touches none of the ops of its program.
        ledger: the ledger of tables and exports.

    Raises:
        LedgerError: a spec names nothing, needs a ledger, or was never materialized.
    """
    used = None if only_used is None else used_ops(only_used, ledger=ledger)
    one, other = show(before, ledger=ledger), show(after, ledger=ledger)
    states = one.named_state(), other.named_state()
    whole = drifting.drift(*states, _trace_data(*states))
    return whole if used is None else whole.only(used)


@checked
def used_ops(spec: State | int, *, ledger: LedgerLog | None = None) -> frozenset[str]:
    """Return the ops of an exported program: those before and after its export, and those that fired in it.

    Args:
        spec: `export:7`, 7, or `model.pt2`.
        ledger: the ledger of the export.

    Raises:
        LedgerError: the spec names no export, or needs a ledger.
    """
    return _ops_of(_export(spec, ledger)[1].body)


@checked
def upgrade(
    spec: State | None = None,
    *,
    torch: str | None = None,
    python: str | os.PathLike[str] | None = None,
    ledger: LedgerLog | None = None,
) -> Upgrade:
    """Return a table as it would be on another torch.

    Args:
        spec: a state spec.
        torch: the other torch: a version whose catalog is shipped.
        python: the other torch: a Python interpreter whose torch is captured, which runs it.
        ledger: the ledger of tables and exports.

    Raises:
        LedgerError: the spec names nothing, or needs a ledger.
        UnknownCatalog: no catalog of that version is shipped.
        UnsupportedTorch: the interpreter cannot be captured.
        UnusableValue: not exactly one of `torch` and `python` was given.
    """
    found = show(spec, ledger=ledger)
    exports = _successful_exports(found, ledger)
    moved = _upgraded(found, _other_torch(torch, python))
    return attrs.evolve(moved, used=_ops_of_all(exports)) if exports else moved


@checked
def check_upgrade(
    spec: State | None = None,
    *,
    torch: str | None = None,
    python: str | os.PathLike[str] | None = None,
    ledger: LedgerLog | None = None,
) -> UpgradeReport:
    """Return whether the programs exported with a table stay what they are on another torch; see :func:`upgrade`.

    They do not if an op that they use leaves the table, enters it, or behaves differently on a sample call. A change of
    text alone is only a note.

    Raises:
        LedgerError: as :func:`upgrade`; or no export of the table succeeded, so that its programs are not known.
    """
    found = show(spec, ledger=ledger)
    exports = _successful_exports(found, ledger)
    if not exports:
        raise LedgerError(
            f"{found.name}: no export succeeded, so the ops that its programs use are not known; record one with "
            "run_decompositions(table), or with `decomp-ledger run SCRIPT`"
        )
    used = _ops_of_all(exports)
    moved = attrs.evolve(_upgraded(found, _other_torch(torch, python)), used=used)
    return UpgradeReport(moved, upgrading.check_upgrade(moved, used), len(exports))


# Catalogs


def available_catalogs() -> tuple[str, ...]:
    """Return the torch versions whose catalogs are shipped, oldest first: `catalog("torch:VERSION")` gives each."""
    return tuple(catalogs.available())


@checked
def catalog(spec: State, *, ledger: LedgerLog | None = None) -> Catalog:
    """Return the whole catalog of a state.

    Args:
        spec: `torch:2.13.0`, `catalog:FILE`, or a table or an export that was materialized.
        ledger: the ledger of tables and exports.

    Raises:
        LedgerError: the spec names nothing, needs a ledger, or was never materialized.
    """
    return show(spec, ledger=ledger).whole_catalog()


@checked
def capture_catalog(
    python: str | os.PathLike[str] | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    traces: bool = True,
    samples: Mapping[Any, Sequence[str]] | str | os.PathLike[str] | None = None,
    imports: Sequence[str] = (),
    progress: Progress | None = None,
) -> Catalog:
    """Run a Python interpreter, and return the catalog of its torch, with what its decompositions do.

    Of your own ops, those are traced that have sample calls in `samples`, and those that a module of `imports` defines
    and the default table decomposes; without samples, calls are made from their schemas.

    Args:
        python: the interpreter; None is this one. It needs torch, and nothing of this package.
        output: a file to write, which `catalog:FILE` then names.
        traces: whether to trace torch's decompositions on the shipped samples, which takes about a minute.
        samples: op -> sample calls, such as `{"mylib::f": ["(f32[2, 3], alpha=2)"]}`; or a file of them, in the form of
            the shipped samples.json.
        imports: modules that the interpreter imports first, so that their ops are there.
        progress: called with the number of ops traced so far and of all.

    Raises:
        UnsupportedTorch: the interpreter cannot run, has no torch, or has one that cannot be captured.
        NotImportable: a module cannot be imported there.
        SampleError: the samples are not sample calls, or the torch has no such op.
        InvalidName: a text names no op.
        LedgerFileError: a file cannot be read or written.
        UnusableValue: `python` cannot be a path.
    """
    interpreter = sys.executable if python is None else os.fspath(python)
    given = samples if samples is None or isinstance(samples, Mapping) else read_samples(samples)
    own = None if given is None else canonical_samples({_one_op(op): _calls(op, given[op]) for op in given})
    request = CaptureRequest(catalogs.samples() if traces else None, own, one_or_more(imports))
    report = (lambda done, count: None) if progress is None else progress
    try:
        captured = Catalog.from_json(capture_with(interpreter, request=request, progress=report))
    except LedgerError:
        raise
    except ValueError:  # a null character, or a lone surrogate
        raise UnusableValue(f"{shown(interpreter)}: not a path; give the path of a Python interpreter") from None
    if output is not None:
        text = json.dumps(captured.to_file())
        check_json_size(text)
        write_text(output, text)
    return captured


@checked
def read_samples(file: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Read a file of sample calls, in the form of the shipped samples.json; nothing in it is run.

    Args:
        file: such as `{"format": 1, "samples": {"mylib::f": ["(f32[2, 3], alpha=2)"]}}`.

    Returns:
        op name -> its calls, as `capture_catalog` takes them.

    Raises:
        SampleError: it is something else, or a text in it is not a sample call.
        LedgerFileError: it cannot be read.
    """
    path = os.fspath(file)
    try:
        return samples_from_json(parse_json(read_bounded(path, FILE_BYTES)))
    except OSError as error:
        raise LedgerFileError(f"{path}: cannot read the samples: {error.strerror}; name another file") from None
    except (InvalidName, SampleError, UnusableValue) as error:
        raise SampleError(f"{path}: {error}") from None
    except ValueError:  # a null character
        raise LedgerFileError(f"{shown(path)}: it cannot name a file; name another file") from None


@checked
def trace(op: object, *calls: str, table: Mapping[Any, Any] | None = None) -> TraceSet:
    """Return what the decomposition of an op does in this process, for sample calls.

    Args:
        op: its name, or an `OpOverload`.
        calls: sample calls, such as `(f32[2, 3], alpha=2)`; without any, calls are made from the op's schema.
        table: the table that has the decomposition, such as a `DecompTable`; None is torch's default table.

    Returns:
        For each call the digest of the graph, or the error; and the graphs as lines.

    Raises:
        SampleError: a text is not a sample call, or nothing decomposes the op.
        InvalidName: the text names no op.
    """
    from decomp_ledger.pytorch.own_traces import trace_op

    name = _one_op(op)
    return TraceSet.from_json(trace_op(name, canonical_samples({name: _calls(op, calls)})[name], table))


def record_imports() -> ImportRecording:
    """Record, inside a `with` block, what libraries register with torch: ops, kernels, fake kernels, decompositions.

    Returns:
        The recording. After the block, its `report` tells for each library what it registered, at which file and line,
        and what that added to torch's default table, replaced in it or removed from it. This imports torch.
    """
    from decomp_ledger.pytorch.imports import ImportRecording

    return ImportRecording()


# Exports


@checked
def export_totals(table: str | None = None, *, ledger: LedgerLog) -> ExportTotals:
    """Return what all exports show together: rules that never did anything, ops lost again, results never used.

    Args:
        table: only the exports of this table.
        ledger: the ledger of the exports.

    Raises:
        UnknownTable: the ledger has no such table.
    """
    states: dict[tuple[str, int], TableState] = {}

    def state_of(name: str, version: int) -> TableState:
        if (name, version) not in states:
            states[name, version] = ledger.state(name, version)
        return states[name, version]

    return totalling.export_totals(list(ledger.events(table=table, kind=Exported.kind)), state_of)


@checked
def export_results(table: str | None = None, *, ledger: LedgerLog) -> Rows[ExportResult]:
    """Return each export with what became of its result: an earlier export with the same graph, and files.

    Args:
        table: only the exports of this table.
        ledger: the ledger of the exports.

    Raises:
        UnknownTable: the ledger has no such table.
    """
    own = None if table is None else {event.seq for event in ledger.events(table=table, kind=Exported.kind)}
    found = results_of(ledger.events(kind=Exported.kind), ledger.events(kind=Saved.kind))
    return Rows(each for each in found if own is None or each.event.seq in own)


@checked
def would_change(
    program: object, table: State | Mapping[object, object] | None = None, *, ledger: LedgerLog
) -> WouldChange:
    """Tell whether a lowering would change a program, and whether it was done before, without doing it.

    Args:
        program: an ExportedProgram, or the path of a `.pt2`, which `torch.export.load` unpickles.
        table: a table, a dict, or a state spec; None is torch's default table.
        ledger: the ledger of the table and of earlier exports.

    Raises:
        LedgerError: the spec names nothing.
        UnusableValue: the program is neither a program nor a path, or the table is not a table.
    """
    from decomp_ledger.pytorch.reproduced_table import load_program
    from decomp_ledger.pytorch.would_change import would_change as tell

    given: Any = table
    if isinstance(table, (str, os.PathLike, StateSpec, Catalog, ResolvedState)):
        given = show(table, ledger=ledger).state
    lowered = load_program(os.fspath(program)) if isinstance(program, (str, os.PathLike)) else program
    return tell(ledger, lowered, given)


@checked
def reproduce_export(
    spec: State | int,
    *,
    program: str | os.PathLike[str] | None = None,
    trust: Sequence[str] = (),
    nearest: bool = False,
    ledger: LedgerLog | None = None,
) -> Reproduction:
    """Make the table of an export again in this process, and run the export again if its program is given.

    Args:
        spec: `export:7`, 7, or a stamped `model.pt2`.
        program: the `.pt2` of the program before its export. `torch.export.load` unpickles it.
        trust: modules to import: those that have decompositions or define ops. The modules that the ledger trusts
            and the functions that were given to :meth:`decomp_ledger.Ledger.provide` are used too.
        nearest: run the program also with a table that is not exactly the recorded one.
        ledger: the ledger of the export.

    Raises:
        LedgerError: the spec names no export, or the program is not the recorded one.
        NotImportable: a module of `trust` cannot be imported.
        UnusableValue: `nearest` was given without a program.
    """
    if nearest and program is None:
        raise UnusableValue("nearest: no program is run; give `program` too")
    from decomp_ledger.pytorch.graph_digest import first_difference
    from decomp_ledger.pytorch.reproduced_table import import_trusted, load_program, reproduce, rerun

    found, bundle = _export(spec, ledger)
    trusted = one_or_more(trust)
    import_trusted(trusted)
    known = ProcessFunctions() if ledger is None else ledger.functions
    table = reproduce(bundle, trust=(*known.trust, *trusted), provide=known.candidates(), strict=False)
    if program is None or (table.differences and not nearest):
        return Reproduction(bundle, table)
    again = rerun(table, load_program(os.fspath(program)))
    if again.same or found.stamp is None:
        return Reproduction(bundle, table, again)
    return Reproduction(bundle, table, again, first_difference(load_program(found.name), again.program))


# Numerics


@checked
def check_numerics(
    spec: State | None = None,
    *,
    defaults: bool = False,
    samples: Mapping[str, Sequence[str]] | Path_ | None = None,
    trust: Sequence[str] = (),
    progress: Progress | None = None,
    ledger: LedgerLog | None = None,
) -> NumericsCheck:
    """Run each override of a table and the kernel of its op on sample calls, and compare what they give.

    Values are compared with the tolerances of torch's own tests of decompositions; dtypes, shapes, strides, and which
    memory results share with inputs, exactly. What the kernel refuses, the decomposition must refuse too.

    Args:
        spec: a state spec; None means the only table of the ledger.
        defaults: check torch's own default decompositions instead.
        samples: more sample calls: op -> texts such as `(f32[2, 3], dim=1)`, or a JSON file of these. They take the
            place of the shipped ones of the op.
        trust: modules to import: those that have decompositions or define ops. The modules that the ledger trusts and
            the functions that were given to :meth:`decomp_ledger.Ledger.provide` are used too.
        progress: called with the number of ops done and of all.
        ledger: the ledger of tables and exports.

    Raises:
        LedgerError: the spec names nothing, needs a ledger, or has no overrides because it is a torch version.
        NotImportable: a module of `trust` cannot be imported.
        SampleError: a text is not a sample call.
        UnusableValue: a spec was given with `defaults`.
    """
    from decomp_ledger.pytorch import numerics
    from decomp_ledger.pytorch.reproduced_table import import_trusted

    found = _checkable(spec, defaults, ledger)
    calls = _sample_calls(samples)
    import_trusted(one_or_more(trust))
    report = (lambda done, count: None) if progress is None else progress
    if found is None:
        return numerics.checked_defaults(calls, report)
    functions, failed = numerics.overrides_of(found.state, *_functions(ledger, trust))
    return numerics.checked_overrides(found.name, found.state, functions, failed, calls, report)


@checked
def check_program(
    program: object,
    spec: State | None = None,
    *,
    defaults: bool = False,
    inputs: str | Sequence[object] | None = None,
    trust: Sequence[str] = (),
    ledger: LedgerLog | None = None,
) -> ProgramCheck:
    """Run a program before and after it is lowered with a table; if results differ, name the first cause.

    Args:
        program: the program before its export: an `ExportedProgram`, or a `.pt2`, which `torch.export.load` unpickles.
        spec: a state spec; None means the only table of the ledger.
        defaults: lower with torch's default table instead.
        inputs: positional arguments, or the text of a sample call, such as `(f32[2, 3])`; None for the example inputs
            of the program.
        trust: modules to import: those that have decompositions or define ops. The modules that the ledger trusts and
            the functions that were given to :meth:`decomp_ledger.Ledger.provide` are used too.
        ledger: the ledger of tables and exports.

    Raises:
        LedgerError: the spec names nothing or needs a ledger; a function of the table cannot be loaded; or the program
            cannot be loaded, or does not run on the inputs.
        NotImportable: a module of `trust` cannot be imported.
        UnusableValue: the program is neither, or a spec was given with `defaults`.
    """
    from decomp_ledger.pytorch import program_check
    from decomp_ledger.pytorch.reproduced_table import import_trusted

    found = _checkable(spec, defaults, ledger)
    import_trusted(one_or_more(trust))
    name, table = ("torch's defaults", None) if found is None else (found.name, found.state)
    return program_check.check_program_with_state(program, name, table, inputs, *_functions(ledger, trust))


@checked
def check_opset(spec: State, opset: str | Path_ = CORE_ATEN, *, ledger: LedgerLog | None = None) -> OpsetCheck:
    """Return the ops of a lowered program that a backend does not take, what made them, and what would remove them.

    Args:
        spec: an export (`export:7`), a stamped `.pt2`, or a table, which means its newest export that did not fail.
        opset: the name of a shipped opset, `core-aten` or `executorch`, or a JSON file such as
            `{"format": 1, "source": "my backend 1.2", "date": "2026-01-31", "ops": ["aten::mm"]}`. With
            `"namespaces": ["aten"]` it judges only ops of these.
        ledger: the ledger of tables and exports.

    Raises:
        LedgerError: the spec names nothing or needs a ledger, the export failed, or the table was never exported.
        LedgerFileError: the file cannot be read.
        UnusableValue: the file is not an opset.
        InvalidName: a text in the file names no op.
    """
    found = show(spec, ledger=ledger)
    if found.bundle is None and ledger is not None and found.state.version > 0:
        events = ledger.events(table=found.state.table, kind=Exported.kind, desc=True)
        whole = (event for event in events if isinstance(event.body, Exported) and event.body.error is None)
        newest = next((event for event in whole if event.version <= found.state.version), None)
        found = found if newest is None else show(f"export:{newest.seq}", ledger=ledger)
    bundle = found.bundle
    if bundle is None:
        raise LedgerError(f"{found.name}: no export of it is recorded; export with it, or name an export")
    if bundle.body.error is not None:
        raise LedgerError(f"{found.name}: the export failed, so it has no result to check; name another one")
    resolved = found
    return opset_checking.check_opset(found.name, bundle.body, _opset(opset), lambda op: _why(op, resolved, ledger))


def _opset(name: str | os.PathLike[str]) -> Opset:
    shipped = catalogs.opsets()
    text = os.fspath(name)
    if text in shipped:
        return shipped[text]
    try:
        value = parse_json(read_bounded(text, FILE_BYTES))
    except OSError as error:
        names = ", ".join(shipped)
        raise LedgerFileError(f"{text}: cannot read the opset: {error.strerror}; name a file, or {names}") from None
    except UnusableValue as error:
        raise UnusableValue(f"{text}: not an opset: {error}; write it like {OPSET_FORM}") from None
    except ValueError:  # a null character
        raise LedgerFileError(f"{shown(text)}: it cannot name a file; name another file") from None
    return opset_from_json(text, value)


def _checkable(spec: State | None, defaults: bool, ledger: LedgerLog | None) -> ResolvedState | None:
    """Return the state to check; None for torch's defaults."""
    if defaults:
        if spec is not None:
            raise UnusableValue("defaults: torch's default table is checked instead of a table; give only one of them")
        return None
    found = show(spec, ledger=ledger)
    if found.state.version == 0:
        raise LedgerError(f"{found.name}: a torch version has no overrides; check the defaults of the torch that runs")
    return found


def _functions(ledger: LedgerLog | None, trust: Sequence[str]) -> tuple[Mapping[str, Sequence[object]], Sequence[str]]:
    """Return the functions that the caller supplied, by op, and the modules that may be imported."""
    known = ProcessFunctions() if ledger is None else ledger.functions
    return known.candidates(), (*known.trust, *one_or_more(trust))


def _sample_calls(given: Mapping[str, Sequence[str]] | Path_ | None) -> Mapping[str, Sequence[str]]:
    """Return the sample calls of each op: the given ones instead of the shipped ones."""
    if given is None:
        return catalogs.samples()
    more = given if isinstance(given, Mapping) else read_samples(given)
    calls = {_one_op(op): one_or_more(texts) for op, texts in more.items()}
    for text in (text for texts in calls.values() for text in texts):
        parse_call(text)
    return {**catalogs.samples(), **calls}


# Whole ledgers


@checked
def verify(
    ledger: LedgerLog,
    *,
    expect: Sequence[str] = (),
    anchors: Sequence[tuple[int, str]] = (),
    signers: Sequence[Signer] | Path_ | None = None,
    checkpoints: Sequence[Checkpoint | Path_] = (),
    against: Sequence[Path_] = (),
    progress: Progress | None = None,
) -> Verification:
    """Check a ledger against itself and against facts kept elsewhere; see :meth:`decomp_ledger.Ledger.verify`."""
    wanted = read_signers(signers) if isinstance(signers, (str, os.PathLike)) else signers
    kept = [each if isinstance(each, Checkpoint) else read_file(each) for each in one_or_more(checkpoints)]
    stamps = {os.fspath(path): read_stamp(path) for path in one_or_more(against)}
    try:
        stamped = [anchor for path, stamp in stamps.items() for anchor in _stamp_anchors(ledger, path, stamp)]
    except DamagedSchema as error:  # of the ledger, which this opens
        return integrity.refused(error)
    known = Anchors(one_or_more(expect), (*anchors, *stamped), wanted, kept)
    found = integrity.verify(ledger.event_store, ledger.state, known, progress)
    if not found.ok:
        return found
    return attrs.evolve(found, problems=tuple(each for pair in stamps.items() for each in _differing(ledger, *pair)))


@checked
def load_dump(
    dump: str | os.PathLike[str],
    ledger: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    reading: Progress | None = None,
) -> Verification:
    """Make a new ledger file from what `dump` wrote, once it verifies.

    Args:
        dump: the JSON Lines file; `-` is standard input.
        ledger: the new ledger file.
        progress: called with the number of events verified, and the number of all events.
        reading: called before that, with the number of bytes read, and of all bytes of the file.

    Raises:
        LedgerFileError: the ledger file exists, or a file cannot be read or written.
        LedgerError: a line is damaged or missing, or the whole does not verify.
    """
    return jsonl.load(dump, ledger, progress, reading)


@checked
def sole_table(ledger: LedgerLog) -> str:
    """Return the name of the only table of a ledger, or of the newest run of its only series.

    Raises:
        LedgerError: the ledger has no table, or more than one.
    """
    series = ledger.table_series()
    if len(series) == 1:
        return series[0].newest.name
    tables = [each.name for each in series]
    some = ", ".join(tables[:8]) + (" ..." if len(tables) > 8 else "")
    fix = f"name one of {some}" if tables else "record something first"
    raise LedgerError(f"{ledger.path}: the ledger has {len(tables)} tables; {fix}")


def ops_of(op: object, known: Collection[str]) -> list[str]:
    """Return the stored names of the ops that a value means.

    Args:
        op: text, as :func:`decomp_ledger.model.op_lookup.ops_named` reads it, an `OpOverload`, an `OpOverloadPacket`,
            or a higher-order operator.
        known: the names of the ops that a text without a namespace, or of a family, can mean.

    Raises:
        InvalidName: the text names no op.
        UnusableValue: the value is neither text nor an op.
    """
    if isinstance(op, str):
        return ops_named(op, known)
    if type(op).__name__ == "OpOverloadPacket":  # the text of one is the name of its family
        return ops_named(str(op), known)
    given = getattr(op, "name", None)
    name = given() if callable(given) else given
    if not isinstance(name, str):
        raise UnusableValue(f"{shown(op)}: not an op; give its name, or an OpOverload")
    return [op_names.normalize(name)]


def newest_ops() -> Collection[str]:
    """Return the ops of the newest released torch, whose catalog is read when it is asked for."""
    return _NewestOps()


def state_of_bundle(name: str, bundle: ExportBundle) -> ResolvedState:
    """Return the state of an export that no open ledger has, as `show` returns that of a stamp.

    Args:
        name: what people call it.
        bundle: the export.
    """
    return _of_bundle(name, bundle)


def _one_op(op: object) -> str:
    """Return the stored name of the one op that a value means; its library need not be loaded."""
    first, *others = ops_of(op, ())
    if others:
        raise InvalidName(f"{first}: {len(others) + 1} overloads have this name; name one of them")
    return first


class _NewestOps(Collection[str]):
    """The ops of the newest released torch, whose catalog is read when it is asked for (70 ms)."""

    def __contains__(self, name: object) -> bool:
        return name in catalogs.released(catalogs.available()[-1]).ops

    def __iter__(self) -> Iterator[str]:
        return iter(catalogs.released(catalogs.available()[-1]).ops)

    def __len__(self) -> int:
        return len(catalogs.released(catalogs.available()[-1]).ops)


def _is_in_no_torch(op: str) -> bool:
    """Tell whether an op would be torch's own, and no shipped catalog has it (0.3 s)."""
    return op_names.is_torchs(op) and not any(op in catalogs.released(version).ops for version in catalogs.available())


def _ops_of_last_catalog(ledger: LedgerLog) -> Collection[str]:
    """Return the ops of the newest materialization of a ledger; of the newest released torch if it has none."""
    event = next(ledger.events(kind=Materialized.kind, desc=True, limit=1), None)
    digest = _catalog_digest(event)
    return _NewestOps() if digest is None else ledger.catalog(digest).ops


def _ops_in(found: ResolvedState) -> Collection[str]:
    """Return the ops that a state has a rule for, that its torch has, or that its program has."""
    of_program = () if found.bundle is None else _ops_of(found.bundle.body)
    return Lists(found.state.rules, of_program, _NewestOps() if found.catalog is None else found.catalog.ops)


def _parsed(spec: str | os.PathLike[str] | StateSpec | None, ledger: LedgerLog | None) -> StateSpec:
    if spec is None:
        return TableSpec(sole_table(_needed(ledger, "spec=None")))
    if isinstance(spec, (str, os.PathLike)):
        return parse_state_spec(os.fspath(spec))
    if not isinstance(spec, StateSpec):
        raise UnusableValue(f"{shown(spec)}: not a state spec; give text, such as 'edge@3' or 'export:7'")
    return spec


def _export(spec: State | int, ledger: LedgerLog | None) -> tuple[ResolvedState, ExportBundle]:
    """Return the state of an export, and the export."""
    given: State = ExportSpec(spec) if isinstance(spec, int) else spec
    if isinstance(given, (str, os.PathLike)):
        given = parse_export_spec(os.fspath(given))
    found = show(given, ledger=ledger)
    if found.bundle is None:
        raise not_an_export(found.name)
    return found, found.bundle


def _needed(ledger: LedgerLog | None, what: object) -> LedgerLog:
    if ledger is None:
        raise LedgerError(f"{what}: needs a ledger; open one with Ledger(path), and call its method of the same name")
    return ledger


def _default_table(name: str, found: Catalog) -> ResolvedState:
    return ResolvedState(name, NamedState.of_catalog(name, found).state, found)


def _of_bundle(name: str, bundle: ExportBundle) -> ResolvedState:
    state, environment = bundle.state, bundle.environment
    return ResolvedState(name, state, bundle.catalog, bundle.event, bundle.blame(), bundle, environment=environment)


def _of_recorded(name: str, event: Event, ledger: LedgerLog) -> ResolvedState:
    """Return the state of an export of the ledger, with what became of its result."""
    exports = ledger.events(kind=Exported.kind, lte=event.seq)
    result = results_of(exports, ledger.events(kind=Saved.kind, gt=event.seq))[-1]
    return attrs.evolve(_of_bundle(name, ExportBundle.from_log(ledger, event)), result=result)


def _of_file(path: str, ledger: LedgerLog | None) -> ResolvedState:
    """Return the state of the export that made a file: from its stamp, or else by its content from the ledger."""
    try:
        stamp = read_stamp(path)
    except MissingStamp:
        if ledger is None or not ledger.database.exists:
            raise
    else:
        return attrs.evolve(_of_bundle(path, stamp.last), stamp=stamp)
    try:
        found = saved_file(path, ledger=ledger)
    except MissingStamp as error:
        raise MissingStamp(f"{path}: it has no stamp, and {str(error).removeprefix(f'{path}: ')}") from None
    body = found.body
    export = ledger.export(body.export if isinstance(body, Saved) else 0)
    return attrs.evolve(_of_recorded(path, export, ledger), artefact=found)


@checked
def saved_file(file: str | os.PathLike[str], *, ledger: LedgerLog) -> Event:
    """Return the newest `saved` event of a file, which its content finds, under any name.

    Args:
        file: its path.
        ledger: the ledger.

    Raises:
        MissingStamp: the ledger knows no file of that content.
        StampError: the file was changed after it was saved, or cannot be read.
    """
    path = os.fspath(file)
    _, sha256 = digest_of_file(path)
    name, of_name = provenance.shortened(path), None
    for event in ledger.events(kind=Saved.kind, desc=True):
        if isinstance(event.body, Saved):
            if event.body.sha256 == sha256:
                return event
            of_name = of_name or (event if event.body.path == name else None)
    if of_name is not None and isinstance(of_name.body, Saved):
        raise StampError(
            f"{path}: changed after export:{of_name.body.export} was saved into it (#{of_name.seq}): its sha256 is "
            f"{sha256[:12]}, and was {of_name.body.sha256[:12]}; save the program again"
        )
    raise MissingStamp(
        f"{path}: no event of the ledger {ledger.path} knows a file of its content (sha256 {sha256[:12]}); name the "
        "ledger that recorded its export, or save it within a recording"
    )


def _of_table(spec: TableSpec, ledger: LedgerLog) -> ResolvedState:
    state, since = ledger.state_and_since(spec.table, ledger.version_of(spec.table, spec.version))
    event = ledger.last_materialization(state.table, state.version)
    digest = _catalog_digest(event)
    found = None if digest is None else ledger.catalog(digest)
    environment = ledger.environment(ledger.event_of(state.table, state.version).environment)
    name = f"{state.table}@{state.version}"
    return ResolvedState(name, state, found, event, since, environment=environment)


def _read_catalog(path: Path) -> Catalog:
    try:
        return Catalog.from_json(parse_json(read_bounded(path, JSON_BYTES)))
    except LedgerError as error:
        raise LedgerError(f"{path}: not a catalog: {error}; make one with `catalog capture --output FILE`") from None
    except OSError as error:
        raise UnknownCatalog(f"{path}: cannot read the catalog: {error.strerror}; name another file") from None
    except ValueError:  # a null character
        raise UnknownCatalog(f"{shown(str(path))}: it cannot name a file; name another file") from None


def _calls(op: object, calls: object) -> tuple[str, ...]:
    """Return the calls of one op, if they are texts; one text stands for one call."""
    given = one_or_more(calls)
    if not all(isinstance(call, str) for call in given):
        raise UnusableValue(f"{shown(op)}: its samples are {shown(calls)}; give a list of texts, such as '(f32[2, 3])'")
    return given


def _history(op: str, found: ResolvedState, ledger: LedgerLog | None) -> list[Event]:
    """Return the events that changed an op's rule, up to a state."""
    if found.bundle is not None:
        last = found.bundle.last_events().get(op)
        return [] if last is None else [last]
    if ledger is None or found.state.version == 0:
        return []
    return ledger.history(found.state.table, op, found.state.version)


def _explain(op: str, found: ResolvedState, ledger: LedgerLog | None) -> Explanation:
    history = _history(op, found, ledger)
    bundle = found.bundle
    known = _ops_in(found)
    if op not in known and not history and (found.catalog is not None or _is_in_no_torch(op)):
        space = op_names.namespace(op)
        if found.bare and not any(op_names.namespace(each) == space for each in known):
            raise UnknownOp(
                f"{op}: not judged, because {found.name} is the catalog of a torch without libraries and without the "
                "parts that are imported late; name a table or an export that was made with them"
            )
        where = f"neither the torch of {found.name} nor a rule"
        if found.catalog is None:
            where = "no released torch and no rule"
        hint = did_you_mean(op, known) or "; `decomp-ledger catalog show` lists the ops of a torch"
        raise UnknownOp(f"{op}: {where} has such an op{hint}")
    if bundle is None:
        catalog = None if found.catalog is None else catalogs.completed(found.catalog)
        return explaining.explain(op, found.state, found.materialization, catalog, history)
    whole = found.whole_catalog()
    return explaining.explain_export(op, bundle.state, bundle.event, bundle.body, whole, history)


def _why(op: str, found: ResolvedState, ledger: LedgerLog | None) -> Why:
    ops = {} if found.catalog is None else catalogs.completed(found.catalog).ops

    def is_functional(name: str) -> bool:
        return name in ops and not mutates(ops[name])

    answer = _explain(op, found, ledger)
    return advise(answer, found.state, ops.get(op), is_functional, known=found.catalog is not None)


def _tables_for(op: str, ledger: LedgerLog) -> list[str]:
    """Return the tables that ever had a rule for an op; else one table of each base and catalog, as these agree.

    Of a series of recorded tables, only the newest run counts.
    """
    states = [ledger.state(each.newest.name) for each in ledger.table_series()]
    ruled = [each.table for each in states if op in each.rules or ledger.history(each.table, op, each.version)]
    if ruled:
        return ruled
    kinds: dict[tuple[str, str | None], str] = {}
    for state in states:
        event = ledger.last_materialization(state.table, state.version)
        kinds.setdefault((state.base, _catalog_digest(event)), state.table)
    return list(kinds.values())


def _catalog_digest(event: Event | None) -> str | None:
    return event.body.catalog if event is not None and isinstance(event.body, Materialized) else None


def _other_torch(torch: str | None, python: str | os.PathLike[str] | None) -> Catalog:
    if torch is not None and python is None:
        return catalogs.released(torch)
    if python is not None and torch is None:
        # Only a build that is not shipped is traced, because that takes a minute.
        quick = capture_catalog(python, traces=False)
        return quick if catalogs.of_build(quick.build) is not None else capture_catalog(python)
    raise UnusableValue("the other torch: give either a torch version or a Python interpreter, not both or none")


def _upgraded(found: ResolvedState, other: Catalog) -> Upgrade:
    whole = None if found.catalog is None else catalogs.completed(found.catalog)
    release = None if whole is None else catalogs.of_build(whole.build)
    torch_namespaces = set() if release is None else set(map(op_names.namespace, release.ops))
    here = None if whole is None else found.named_state()
    there = NamedState(found.name, found.state, other, _traces(other), bare=True)
    return upgrading.upgrade(there, here, torch_namespaces, _trace_data(here, there))


def _foreign_ops(catalog: Catalog) -> frozenset[str]:
    """Return the ops of a live catalog that its torch alone does not have."""
    release = catalogs.of_build(catalog.build)
    if release is not None:
        return frozenset(catalog.ops.keys() - release.ops.keys())
    # Of a build that is not shipped, the newest release tells which namespaces torch has without further imports.
    known = set(map(op_names.namespace, _NewestOps()))
    return frozenset(op for op in catalog.ops if not (op_names.is_torchs(op) and op_names.namespace(op) in known))


def _trace_data(*states: NamedState | None) -> TraceData:
    """Return the reasons without samples, and the graphs: of captured catalogs, and the shipped ones."""
    captured = [state.catalog.traced for state in states if state is not None and state.catalog.traced is not None]

    def graph(digest: str) -> tuple[str, ...] | None:
        return next((each.graphs[digest] for each in captured if digest in each.graphs), None) or catalogs.graph(digest)

    return TraceData(graph, catalogs.without_samples())


def _traces(catalog: Catalog) -> Traces | None:
    """Return what the default decompositions of a whole catalog do: as it was captured, and as its build does.

    Left out are ops whose entry is not the build's, because a library can replace a decomposition of torch's.

    Returns:
        The traces; None if the build is not shipped, and nothing was traced.
    """
    captured = None if catalog.traced is None else catalog.traced.traces
    release = catalogs.of_build(catalog.build)
    shipped = None if release is None else catalogs.traces(release.build["torch"].partition("+")[0])
    if release is None or shipped is None or catalog is release:
        return shipped if captured is None else captured
    own = {op: found for op, found in shipped.of.items() if catalog.ops.get(op) == release.ops.get(op)}
    if captured is not None:  # on a call that both have, the captured one is what this torch did
        own.update({op: tuple({**dict(own.get(op, ())), **captured.get(op)}.items()) for op in captured.of})
    return Traces(shipped.torch, own)


def _successful_exports(found: ResolvedState, ledger: LedgerLog | None) -> list[Exported]:
    """Return the exports that tell which ops a table is used for: those of the table, or the named one."""
    exports: list[Exported] = []
    if found.bundle is not None:
        exports = [found.bundle.body]
    elif ledger is not None and found.state.version > 0:
        events = ledger.events(table=found.state.table, kind=Exported.kind)
        exports = [event.body for event in events if isinstance(event.body, Exported)]
    return [export for export in exports if export.error is None]


def _ops_of_all(exports: Sequence[Exported]) -> frozenset[str]:
    return frozenset[str]().union(*map(_ops_of, exports))


def _ops_of(export: Exported) -> frozenset[str]:
    return frozenset(export.ops_before.keys() | export.ops_after.keys() | export.fired.keys())


def _differing(ledger: LedgerLog, path: str, stamp: Stamp) -> Iterator[Problem]:
    """Give the exports of a stamp that a verified ledger has otherwise, which their hashes alone would not show."""
    for bundle in stamp.bundles:
        if bundle.ledger == ledger.id:
            own = ExportBundle.from_log(ledger, ledger.export(bundle.event.seq))
            if bundle != (own.redact() if bundle.redacted else own):
                yield Problem(bundle.event.seq, f"{path} does not show this export as it is in the ledger")


def _stamp_anchors(ledger: LedgerLog, path: str, stamp: Stamp) -> Sequence[tuple[int, str]]:
    try:
        return stamp.anchors(ledger.id)
    except StampError as error:
        raise StampError(f"{path}: {error}") from None
