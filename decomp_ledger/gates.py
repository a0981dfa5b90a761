"""The query `gate`: it collects the facts of tables and programs, which `analysis/gate.py` judges."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, cast

import attrs

from decomp_ledger import catalogs, queries
from decomp_ledger.analysis import upgrade as upgrading
from decomp_ledger.analysis.gate import TORCH, GateResult, GateUnknown, ProgramFacts, TableFacts, TagFacts, judge
from decomp_ledger.analysis.outcome import DECOMPOSED
from decomp_ledger.analysis.programs import Program, programs, without_export
from decomp_ledger.analysis.upgrade import Upgrade
from decomp_ledger.errors import LedgerError
from decomp_ledger.log.ledger_log import LedgerLog, stored_moment
from decomp_ledger.log.settings import project_settings
from decomp_ledger.model import op_names
from decomp_ledger.model.arguments import checked, shown
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.events import Event, Exported, Materialized, Saved, Tagged
from decomp_ledger.model.materialize import DEFAULT, choose
from decomp_ledger.model.policy import Policy, matching
from decomp_ledger.model.rules import diff
from decomp_ledger.queries import ResolvedState, State
from decomp_ledger.storage.history import TableSeries
from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["Shared", "gate", "gate_of_one", "ignored_settings", "refuse_nothing"]

# What the policies and the torch version that an export is judged by are called, the strongest first.
_OF_EXPORTS = (TORCH, "keep", "opset", "no_stale_exports", "no_outdated_exports")
_Moment: TypeAlias = "str | datetime.datetime | None"
Upgrades: TypeAlias = "dict[tuple[object, ...], Upgrade]"


@checked
def gate(
    spec: State | None = None,
    *,
    torch: str | None = None,
    policy: Policy | None = None,
    strict: bool = False,
    since: str | datetime.datetime | None = None,
    progress: Callable[[int, int], object] | None = None,
    ledger: LedgerLog | None = None,
) -> GateResult:
    """Judge each program and each table by policies, and tell which programs another torch changes.

    A program is a root module with the table that lowers it: its class and file, and the table or the series of its
    runs. Its newest export counts; of the runs of a recorded table, the newest run. Different graphs of one class are
    programs of their own if they were exported at the same git commit.

    Args:
        spec: a table (`edge`, `edge@release-1`), an export (`export:7`) or a stamped file; None means the whole ledger.
        torch: another torch version, whose catalog is shipped: a program fails if the upgrade changes an op that its
            export uses, as `check_upgrade` judges it.
        policy: what tables and exports must hold to; None means the policy of the ledger, which is by default the
            `[tool.decomp-ledger.policy]` of the project.
        strict: fail also if something could not be judged.
        since: only exports that were recorded then or later, as `ledger.events` reads it. Without it, a program that
            is exported no longer is judged by its last export.
        progress: called with the number of programs judged, and the number of all.
        ledger: the ledger of tables and exports.

    Raises:
        LedgerError: nothing is to be judged, the spec names nothing, or it needs a ledger.
        UnknownCatalog: no catalog of that torch version is shipped.
        UnusableValue: the settings of the project have an unknown key or a wrong value, or the opset is not one.
    """
    given = _policy(policy, ledger)
    refuse_nothing(given, torch)
    version = _version(torch)
    scope = _whole(ledger, since) if spec is None else _of_spec(spec, since, ledger)
    if version is not None and not scope.programs:
        raise LedgerError(
            "gate: no export is recorded, so the ops that programs use are not known; record one with "
            "run_decompositions(table), or with `decomp-ledger run SCRIPT`"
        )
    found = _judged(_Collected(given, version, ledger, scope), _ignored(policy, ledger), strict, progress)
    return attrs.evolve(found, since=stored_moment(since))


def refuse_nothing(policy: Policy, torch: str | None) -> None:
    """Refuse a gate that would judge nothing.

    Raises:
        LedgerError: it would.
    """
    if not policy and torch is None:
        raise LedgerError(
            "gate: nothing to judge; give a torch version, or write [tool.decomp-ledger.policy] in pyproject.toml"
        )


@attrs.frozen
class Shared:
    """What the gates of many ledgers share.

    Attributes:
        whole: returns a catalog by its digest, with the schemas and digests that its torch build implies.
        ignored: the settings that were left out, in which the policy may be.
        upgrades: base, rules and catalog of a table -> the upgrade. Each gate adds to it.
    """

    whole: Callable[[str], Catalog]
    ignored: Sequence[GateUnknown] = ()
    upgrades: Upgrades = attrs.field(factory=dict)


def gate_of_one(
    ledger: LedgerLog,
    exports: Sequence[Event],
    policy: Policy,
    torch: str | None,
    *,
    strict: bool,
    since: str | datetime.datetime | None,
    shared: Shared,
) -> GateResult:
    """Judge one of many ledgers as `gate` does, also one in which nothing is recorded.

    Args:
        ledger: the ledger.
        exports: those that count, oldest first: of each series of recorded tables, those of the newest run.
        policy: what tables and exports must hold to.
        torch: the other torch version, or None.
        strict: as of `gate`.
        since: since when the exports were recorded, as of `gate`.
        shared: what an earlier gate found.
    """
    read = _Catalogs(ledger, shared.whole)
    scope = _whole_with(ledger, ledger.table_series(), exports, since, read)
    if not scope.programs and not scope.missing:
        scope = attrs.evolve(scope, missing={ledger.path: "no export is recorded, so no program is known"})
    found = _judged(
        _Collected(policy, _version(torch), ledger, scope, upgrades=shared.upgrades), shared.ignored, strict, None
    )
    return attrs.evolve(found, since=stored_moment(since))


def _version(torch: str | None) -> str | None:
    """Return the whole version of a torch whose catalog is shipped."""
    return None if torch is None else str(catalogs.released(torch).build["torch"]).partition("+")[0]


def _judged(
    collected: _Collected,
    ignored: Sequence[GateUnknown],
    strict: bool,
    progress: Callable[[int, int], object] | None,
) -> GateResult:
    scope, ledger = collected.scope, collected.source
    # Before anything is judged, because others may write meanwhile.
    name, events, head = ("", 0, "") if ledger is None else (ledger.path, *ledger.head())
    facts: list[ProgramFacts] = []
    for number, (program, exports) in enumerate(scope.programs.items(), 1):
        facts.append(collected.program(program, exports))
        if progress is not None:
            progress(number, len(scope.programs))
    tables = collected.tables(facts)
    asked = collected.asked or ("no_failed_exports" if collected.policy.no_failed_exports else "")
    unknown = [GateUnknown(asked, *each) for each in scope.missing.items()] if asked else []
    found = judge(
        collected.policy,
        tables,
        facts,
        [*unknown, *ignored],
        known=collected.known(),
        torch=collected.torch,
        strict=strict,
    )
    return attrs.evolve(found, ledger=name, events=events, head=head)


def _policy(policy: Policy | None, ledger: LedgerLog | None) -> Policy:
    if policy is not None:
        return policy
    return project_settings().policy if ledger is None else ledger.policy


def _ignored(policy: Policy | None, ledger: LedgerLog | None) -> list[GateUnknown]:
    """Return the settings that were left out although the project's policy is judged by, because it may be in them."""
    if policy is not None or (ledger is not None and ledger.policy != project_settings().policy):
        return []
    return ignored_settings()


def ignored_settings() -> list[GateUnknown]:
    """Return the settings of the project that were left out."""
    files = [str(file) for file in project_settings().ignored if file.suffix == ".toml"]
    return [GateUnknown("policy", file, "ignored, because it belongs to another user") for file in files]


class _Catalogs:
    """The catalogs of a ledger, each read once, because reading one takes 60 ms."""

    def __init__(self, ledger: LedgerLog, whole: Callable[[str], Catalog] | None = None) -> None:
        self._ledger, self._complete = ledger, whole
        self._stored: dict[str, Catalog] = {}
        self._whole: dict[str, Catalog] = {}

    def stored(self, digest: str) -> Catalog:
        """Return a catalog as it is stored."""
        if digest not in self._stored:
            self._stored[digest] = self._ledger.catalog(digest)
        return self._stored[digest]

    def whole(self, digest: str) -> Catalog:
        """Return a catalog with the schemas and digests that its torch build implies."""
        if digest not in self._whole:
            found = catalogs.completed(self.stored(digest)) if self._complete is None else self._complete(digest)
            self._whole[digest] = found
        return self._whole[digest]

    def of_export(self, event: Event) -> ResolvedState:
        """Return the state of an export."""
        digest = _body(event).catalog
        bundle = ExportBundle.from_log(self._ledger, event, self.stored(digest))
        return ResolvedState(bundle.name, bundle.state, self.whole(digest), event, bundle.blame(), bundle)

    def of_table(self, name: str) -> ResolvedState:
        """Return the newest state of a table."""
        state = self._ledger.state(name)
        event = self._ledger.last_materialization(state.table, state.version)
        body = None if event is None else event.body
        found = self.whole(body.catalog) if isinstance(body, Materialized) else None
        return ResolvedState(f"{state.table}@{state.version}", state, found, event)


@attrs.frozen
class _Scope:
    """What is judged.

    Attributes:
        tables: the tables, at a version, by name.
        programs: the exports of each program, oldest first.
        missing: series -> why its newest run tells nothing of its programs.
        catalogs: those of the ledger; None if one export is judged, which has its own.
    """

    tables: Mapping[str, ResolvedState]
    programs: Mapping[Program, Sequence[Event]]
    missing: Mapping[str, str] = attrs.field(factory=dict)
    catalogs: _Catalogs | None = None


def _whole(ledger: LedgerLog | None, since: _Moment) -> _Scope:
    """Return all tables, of each series the newest run, and all their programs."""
    if ledger is None:
        raise LedgerError("gate: needs a ledger or a state spec; open one with Ledger(path), or name a stamped file")
    series = ledger.table_series()
    if not series:
        raise LedgerError(f"{ledger.path}: the ledger has no table to judge; record something first")
    names = {each.newest.name for each in series}
    exports = [event for event in ledger.events(kind=Exported.kind, since=since) if event.table in names]
    return _whole_with(ledger, series, exports, since, _Catalogs(ledger))


def _whole_with(
    ledger: LedgerLog, series: Sequence[TableSeries], exports: Sequence[Event], since: _Moment, read: _Catalogs
) -> _Scope:
    """Return all tables, of each series the newest run, and the programs of these exports."""
    names = {each.newest.name: each.name for each in series}
    exported = {event.table for event in exports}
    missing: dict[str, str] = {}
    for each in series:
        newest = each.newest.name
        if newest in exported or _last_export([newest], None, ledger) is not None:
            continue
        last = _last_export([run.name for run in each.tables[-2::-1]], since, ledger)
        if last is not None:
            missing[each.name] = without_export(newest, last.seq)
    tables = {name: read.of_table(name) for name in names}
    return _Scope(tables, programs(exports, names, _commits(exports, ledger)), missing, read)


def _last_export(tables: Iterable[str], since: _Moment, ledger: LedgerLog) -> Event | None:
    """Return the last export of the first of some tables that has one."""
    found = (
        next(ledger.events(table=name, kind=Exported.kind, since=since, desc=True, limit=1), None) for name in tables
    )
    return next((event for event in found if event is not None), None)


def _of_spec(spec: State, since: _Moment, ledger: LedgerLog | None) -> _Scope:
    found = queries.show(spec, ledger=ledger)
    name = found.state.table
    if found.bundle is not None:
        return _Scope({name: found}, programs([found.bundle.event], {}, {}))
    if found.state.version == 0 or ledger is None:
        raise LedgerError(f"{found.name}: not of a ledger or a file, so nothing is judged; name a table or an export")
    events = ledger.events(table=name, kind=Exported.kind, since=since)
    exports = [event for event in events if event.version <= found.state.version]
    return _Scope({name: found}, programs(exports, {}, _commits(exports, ledger)), {}, _Catalogs(ledger))


def _commits(exports: Sequence[Event], ledger: LedgerLog) -> dict[str, str]:
    """Return the git commit of each environment that exports ran in, where one is recorded."""
    digests = dict.fromkeys(event.environment for event in exports)
    found = {digest: ledger.environment(digest).get("git_commit") for digest in digests}
    return {digest: commit for digest, commit in found.items() if isinstance(commit, str)}


@attrs.frozen
class _Collected:
    """The facts that a policy and a torch version ask for.

    Attributes:
        policy: the policy.
        torch: the other torch.
        ledger: the ledger of tables and exports.
        scope: what is judged.
        saved: the number of an export -> the `saved` events of its result.
        upgrades: base, rules and catalog of a table -> the upgrade, because many programs share it.
        ops: the ops of the programs.
    """

    policy: Policy
    torch: str | None
    ledger: LedgerLog | None
    scope: _Scope
    saved: Mapping[int, Sequence[Event]] = attrs.field(
        default=attrs.Factory(lambda self: _saved(self.source), takes_self=True)
    )
    upgrades: Upgrades = attrs.field(factory=dict)
    ops: set[str] = attrs.field(factory=set)

    @property
    def source(self) -> LedgerLog | None:
        """The ledger that is judged; None for a stamped file, which may be of another ledger."""
        return None if any(each.stamp is not None for each in self.scope.tables.values()) else self.ledger

    @property
    def asked(self) -> str:
        """The first of what the exports that succeeded are judged by; "" if they are not."""
        return next((n for n in _OF_EXPORTS if (self.torch if n == TORCH else getattr(self.policy, n))), "")

    def program(self, program: Program, exports: Sequence[Event]) -> ProgramFacts:
        """Return the facts of a program."""
        newest = exports[-1]
        judged = next((each for each in reversed(exports) if _body(each).error is None), None)
        facts = ProgramFacts(program, newest, judged, unknown=tuple(self._doubts(newest, judged)))
        facts = self._with_origin(facts)
        if judged is None or not self.asked:
            return facts
        self.ops.update(_ops_of(judged))
        state = self._state(judged)
        outcomes = state.outcomes if self.policy.keep else {}
        kept = {op: each for op, each in outcomes.items() if matching(self.policy.keep, op) is not None}
        facts = attrs.evolve(
            facts,
            blame=state.bundle.blame() if state.bundle is not None else {},
            outcomes=kept,
            to_keep={op: self._to_keep(op, state) for op, each in kept.items() if each.word == DECOMPOSED},
            changed=self._changed(state),
        )
        if self.policy.opset is not None:
            facts = self._with_opset(facts, state, self.policy.opset)
        return facts if self.torch is None else self._with_check(facts, state)

    def _with_origin(self, facts: ProgramFacts) -> ProgramFacts:
        """Add what the export ran in, and the files that its result was saved into."""
        event = facts.shown
        if self.scope.catalogs is None or self.ledger is None:  # one export is judged, which has both
            found = self.scope.tables[event.table]
            saved = () if found.result is None else found.result.saved
            file = "" if found.stamp is None else found.name
            return attrs.evolve(facts, environment=found.environment, saved=saved, file=file)
        saved = tuple(self.saved.get(event.seq, ()))
        return attrs.evolve(facts, environment=self.ledger.environment(event.environment), saved=saved)

    def _doubts(self, newest: Event, judged: Event | None) -> Iterator[tuple[str, str]]:
        """Give why answers about a program are not those of its newest export."""
        if not self.asked:
            return
        if judged is None:
            yield self.asked, f"no export of it succeeded; export:{newest.seq} is the newest"
        elif judged is not newest:
            yield self.asked, f"its newest export, export:{newest.seq}, failed; export:{judged.seq} was judged"

    def _state(self, event: Event) -> ResolvedState:
        found = self.scope.tables[event.table]
        return found if self.scope.catalogs is None else self.scope.catalogs.of_export(event)

    def _with_opset(self, facts: ProgramFacts, state: ResolvedState, opset: str) -> ProgramFacts:
        after = _body(facts.shown).ops_after
        odd = next((op for op in after if not op_names.is_op_name(op)), None)
        if odd is not None:  # no torch made it
            because = f"its result has {shown(odd)}, which is not the name of an op"
            return attrs.evolve(facts, unknown=(*facts.unknown, ("opset", because)))
        return attrs.evolve(facts, opset=queries.check_opset(state, opset, ledger=self.ledger))

    def _to_keep(self, op: str, state: ResolvedState) -> str:
        if not op_names.is_op_name(op):
            return ""
        return str(queries.why(op, state, ledger=self.ledger)[0].keep)

    def _changed(self, state: ResolvedState) -> dict[str, Event]:
        """Return the ops whose rules changed after an export, each with the event that did."""
        table = self.scope.tables[state.state.table]
        if table.state.version == state.state.version:
            return {}
        last = self._last_events(table)
        return {found.op: last[found.op] for found in diff(state.state, table.state)}

    def _with_check(self, facts: ProgramFacts, state: ResolvedState) -> ProgramFacts:
        table, body = state.state, _body(facts.shown)
        key = (table.base, table.from_dict, frozenset(table.rules.items()), body.catalog)
        if key not in self.upgrades:
            self.upgrades[key] = queries.upgrade(state, torch=self.torch)
        return attrs.evolve(facts, check=upgrading.check_upgrade(self.upgrades[key], _ops_of(facts.judged)))

    def tables(self, programs: Sequence[ProgramFacts]) -> list[TableFacts]:
        """Return the facts of the tables.

        Args:
            programs: those of all programs.
        """
        of_table: dict[str, list[ProgramFacts]] = {}
        for each in programs:
            if each.judged is not None:
                of_table.setdefault(each.judged.table, []).append(each)
        return [self._table(found, of_table.get(name)) for name, found in self.scope.tables.items()]

    def _table(self, found: ResolvedState, programs: Sequence[ProgramFacts] | None) -> TableFacts:
        moved = {op for each in programs or () for op in _ops_of(each.judged) if op in each.changed}
        return TableFacts(
            found.name,
            found.state,
            self._last_events(found),
            self._defaults(found),
            None if programs is None else frozenset(moved),
            self._tag(found),
            found.bundle is not None and found.bundle.redacted,
        )

    def _defaults(self, found: ResolvedState) -> frozenset[str] | None:
        """Return the ops that are to stay and that the table decomposes where it has no rule for them."""
        if found.catalog is None:
            return None
        return frozenset(
            op
            for op, entry in (found.catalog.ops.items() if self.policy.keep else ())
            if choose(None, found.state.base, loaded=True, default=entry.default) == DEFAULT
            and matching(self.policy.keep, op) is not None
        )

    def known(self) -> frozenset[str]:
        """Return the ops of the tables, of their catalogs and of the programs."""
        tables = self.scope.tables.values()
        loaded = {id(each.catalog): each.catalog.ops for each in tables if each.catalog is not None}
        return frozenset(self.ops).union(*(each.state.rules for each in tables), *loaded.values())

    def _last_events(self, found: ResolvedState) -> dict[str, Event]:
        if found.bundle is not None:
            return found.bundle.last_events()
        last = cast("LedgerLog", self.ledger).last_events(found.state.table, found.state.version)
        return {op: event for op, (_, event) in last.items()}

    def _tag(self, found: ResolvedState) -> TagFacts | None:
        """Return the newest tag of a table up to its version; None for an export."""
        if found.bundle is not None or self.ledger is None:
            return None
        for event in self.ledger.events(table=found.state.table, kind=Tagged.kind, desc=True):
            if event.version <= found.state.version and isinstance(event.body, Tagged):
                dirty = self.ledger.environment(event.environment).get("git_dirty")
                return TagFacts(event, event.body.name, dirty)
        return None


def _saved(ledger: LedgerLog | None) -> dict[int, list[Event]]:
    """Return the `saved` events of the result of each export, oldest first."""
    found: dict[int, list[Event]] = {}
    for event in ledger.events(kind=Saved.kind) if ledger is not None else ():
        if isinstance(event.body, Saved):
            found.setdefault(event.body.export, []).append(event)
    return found


def _body(event: Event) -> Exported:
    return cast("Exported", event.body)


def _ops_of(event: Event | None) -> frozenset[str]:
    if event is None:
        return frozenset()
    body = _body(event)
    return frozenset([*body.ops_before, *body.ops_after, *body.fired])
