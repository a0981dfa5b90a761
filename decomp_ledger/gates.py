"""The query `gate`: it collects the facts of tables and programs, which `analysis/gate.py` judges."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias, cast

import attrs

from decomp_ledger import catalogs, queries
from decomp_ledger.analysis import upgrade as upgrading
from decomp_ledger.analysis.gate import TORCH, GateResult, GateUnknown, ProgramFacts, TableFacts, TagFacts, judge
from decomp_ledger.analysis.outcome import DECOMPOSED
from decomp_ledger.analysis.programs import Program, programs
from decomp_ledger.analysis.upgrade import Upgrade
from decomp_ledger.errors import LedgerError
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.settings import project_settings
from decomp_ledger.model import op_names
from decomp_ledger.model.arguments import checked, shown
from decomp_ledger.model.events import Event, Exported, Tagged
from decomp_ledger.model.materialize import DEFAULT, choose
from decomp_ledger.model.policy import Policy, matching
from decomp_ledger.model.rules import diff
from decomp_ledger.queries import ResolvedState, State
from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["Upgrades", "gate", "gate_of_one"]

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
    if not given and torch is None:
        raise LedgerError(
            "gate: nothing to judge; give a torch version, or write [tool.decomp-ledger.policy] in pyproject.toml"
        )
    scope = _whole(ledger, since) if spec is None else _of_spec(spec, since, ledger)
    found = _judged(scope, _Collected(given, torch, ledger, scope.tables, {}), strict, progress)
    if torch is not None and not found.programs:
        raise LedgerError(
            "gate: no export is recorded, so the ops that programs use are not known; record one with "
            "run_decompositions(table), or with `decomp-ledger run SCRIPT`"
        )
    return found


def gate_of_one(
    ledger: LedgerLog, policy: Policy, torch: str | None, *, since: _Moment, strict: bool, upgrades: Upgrades
) -> GateResult:
    """Judge one of many ledgers as `gate` does, also one in which nothing is recorded.

    Args:
        ledger: the ledger.
        policy: what tables and exports must hold to.
        torch: the other torch version, or None.
        since: as of `gate`.
        strict: as of `gate`.
        upgrades: what an earlier call found, because programs of many ledgers share tables; it is added to.
    """
    scope = _whole(ledger, since) if ledger.tables() else _Scope((), {})
    collected = _Collected(policy, torch, ledger, scope.tables, upgrades)
    if collected.asked and not scope.programs and not scope.missing:
        recent = "" if since is None else " since then"
        scope = attrs.evolve(scope, missing={ledger.path: f"no export is recorded{recent}, so no program is known"})
    return _judged(scope, collected, strict, None)


def _judged(
    scope: _Scope, collected: _Collected, strict: bool, progress: Callable[[int, int], object] | None
) -> GateResult:
    torch, policy = collected.torch, collected.policy
    facts: list[ProgramFacts] = []
    for number, (program, exports) in enumerate(scope.programs.items(), 1):
        facts.append(collected.program(program, exports))
        if progress is not None:
            progress(number, len(scope.programs))
    tables = [collected.table(each, facts) for each in scope.tables]
    version = None if torch is None else str(catalogs.released(torch).build["torch"]).partition("+")[0]
    unknown = [GateUnknown(collected.asked, *each) for each in scope.missing.items()] if collected.asked else []
    return judge(policy, tables, facts, unknown, torch=version, strict=strict)


def _policy(policy: Policy | None, ledger: LedgerLog | None) -> Policy:
    if policy is not None:
        return policy
    return project_settings().policy if ledger is None else ledger.policy


@attrs.frozen
class _Scope:
    """What is judged.

    Attributes:
        tables: the tables, at a version.
        programs: the exports of each program, oldest first.
        missing: series -> why its newest run tells nothing of its programs.
    """

    tables: Sequence[ResolvedState]
    programs: Mapping[Program, Sequence[Event]]
    missing: Mapping[str, str] = attrs.field(factory=dict)


def _whole(ledger: LedgerLog | None, since: _Moment) -> _Scope:
    """Return all tables, of each series the newest run, and all their programs."""
    if ledger is None:
        raise LedgerError("gate: needs a ledger or a state spec; open one with Ledger(path), or name a stamped file")
    found = ledger.table_series()
    if not found:
        raise LedgerError(f"{ledger.path}: the ledger has no table to judge; record something first")
    names = {each.newest.name: each.name for each in found}
    exports = [each for name in names for each in ledger.events(table=name, kind=Exported.kind, since=since)]
    missing: dict[str, str] = {}
    for each in found:
        earlier = [info.name for info in each.tables[:-1]]
        if earlier and not any(event.table == each.newest.name for event in exports):
            last = [next(ledger.events(table=name, kind=Exported.kind, desc=True, limit=1), None) for name in earlier]
            if exported := [event for event in last if event is not None]:
                missing[each.name] = (
                    f"its newest run, {each.newest.name}, has no export; the last one is export:{exported[-1].seq}"
                )
    tables = [queries.show(name, ledger=ledger) for name in names]
    exports.sort(key=lambda event: event.seq)
    return _Scope(tables, programs(exports, names, _commits(exports, ledger)), missing)


def _commits(exports: Sequence[Event], ledger: LedgerLog) -> dict[str, str]:
    """Return the git commit of each environment that exports ran in, where one is recorded."""
    digests = dict.fromkeys(event.environment for event in exports)
    found = {digest: ledger.environment(digest).get("git_commit") for digest in digests}
    return {digest: commit for digest, commit in found.items() if isinstance(commit, str)}


def _of_spec(spec: State, since: _Moment, ledger: LedgerLog | None) -> _Scope:
    found = queries.show(spec, ledger=ledger)
    if found.bundle is not None:
        return _Scope([found], programs([found.bundle.event], {}, {}))
    if found.state.version == 0 or ledger is None:
        raise LedgerError(f"{found.name}: not of a ledger or a file, so nothing is judged; name a table or an export")
    name = found.state.table
    events = ledger.events(table=name, kind=Exported.kind, since=since)
    exports = [event for event in events if event.version <= found.state.version]
    return _Scope([found], programs(exports, {}, _commits(exports, ledger)))


@attrs.frozen
class _Collected:
    """The facts that a policy and a torch version ask for.

    Attributes:
        policy: the policy.
        torch: the other torch.
        ledger: the ledger of tables and exports.
        tables: the tables that are judged.
        upgrades: base, rules and catalog of a table -> the upgrade, because many programs share it.
    """

    policy: Policy
    torch: str | None
    ledger: LedgerLog | None
    tables: Sequence[ResolvedState]
    upgrades: Upgrades

    @property
    def asked(self) -> str:
        """The first of what exports are judged by; "" if they are not."""
        return next((n for n in _OF_EXPORTS if (self.torch if n == TORCH else getattr(self.policy, n))), "")

    def program(self, program: Program, exports: Sequence[Event]) -> ProgramFacts:
        """Return the facts of a program."""
        newest = exports[-1]
        judged = next((each for each in reversed(exports) if _body(each).error is None), None)
        unknown = list(self._doubts(newest, judged))
        if judged is None:
            return ProgramFacts(program, newest, unknown=tuple(unknown))
        state = self._state(judged)
        outcomes = state.outcomes if self.policy.keep else {}
        kept = {op: each for op, each in outcomes.items() if matching(self.policy.keep, op) is not None}
        facts = ProgramFacts(
            program,
            newest,
            judged,
            {} if state.bundle is None else state.bundle.blame(),
            kept,
            {op: self._to_keep(op, state) for op, each in kept.items() if each.word == DECOMPOSED},
            self._changed(state) if self.policy.no_outdated_exports or self.policy.keep else {},
            unknown=tuple(unknown),
        )
        if self.policy.opset is not None:
            facts = self._with_opset(facts, state, self.policy.opset)
        return facts if self.torch is None else self._with_check(facts, state)

    def _doubts(self, newest: Event, judged: Event | None) -> Iterator[tuple[str, str]]:
        """Give why answers about a program are not those of its newest export."""
        asked = self.asked
        if not asked:
            return
        if judged is None:
            yield asked, f"no export of it succeeded; export:{newest.seq} is the newest"
        elif judged is not newest:
            yield asked, f"its newest export, export:{newest.seq}, failed; export:{judged.seq} was judged"

    def _state(self, event: Event) -> ResolvedState:
        """Return the state of an export."""
        for each in self.tables:
            if each.bundle is not None and each.bundle.event == event:
                return each
        bundle = ExportBundle.from_log(cast("LedgerLog", self.ledger), event)
        return ResolvedState(bundle.name, bundle.state, bundle.catalog, event, bundle.blame(), bundle)

    def _with_opset(self, facts: ProgramFacts, state: ResolvedState, opset: str) -> ProgramFacts:
        odd = [op for op in _body(state.materialization or facts.newest).ops_after if not op_names.is_op_name(op)]
        if odd:  # of a ledger that no torch wrote
            because = f"its result has {shown(odd[0])}, which is not the name of an op"
            return attrs.evolve(facts, unknown=(*facts.unknown, ("opset", because)))
        return attrs.evolve(facts, opset=queries.check_opset(state, opset, ledger=self.ledger))

    def _to_keep(self, op: str, state: ResolvedState) -> str:
        if not op_names.is_op_name(op):
            return ""
        return str(queries.why(op, state, ledger=self.ledger)[0].keep)

    def _changed(self, state: ResolvedState) -> dict[str, Event]:
        """Return the ops whose rules changed after an export, each with the event that did."""
        for each in self.tables:
            if each.bundle is None and each.state.table == state.state.table:
                last = self._last_events(each)
                return {found.op: last[found.op] for found in diff(state.state, each.state)}
        return {}

    def _with_check(self, facts: ProgramFacts, state: ResolvedState) -> ProgramFacts:
        rules = frozenset(state.state.rules.items())
        key = (state.state.base, state.state.from_dict, rules, None if state.catalog is None else state.catalog.digest)
        if key not in self.upgrades:
            self.upgrades[key] = queries.upgrade(state, torch=self.torch)
        return attrs.evolve(facts, check=upgrading.check_upgrade(self.upgrades[key], queries.used_ops(state)))

    def table(self, found: ResolvedState, programs: Sequence[ProgramFacts]) -> TableFacts:
        """Return the facts of a table.

        Args:
            found: the table.
            programs: all programs, those of other tables too.
        """
        own = [each for each in programs if each.judged is not None and each.judged.table == found.state.table]
        used = [_ops_of(each.judged) for each in own if each.judged is not None]
        moved = [ops.intersection(each.changed) for each, ops in zip(own, used, strict=True)]
        loaded = {} if found.catalog is None else found.catalog.ops
        defaults = (op for op, entry in loaded.items() if _decomposes(found, default=entry.default))
        return TableFacts(
            found.name,
            found.state,
            self._last_events(found),
            None if found.catalog is None else frozenset(defaults),
            frozenset().union(found.state.rules, loaded, *used),
            frozenset().union(*moved) if own else None,
            self._tag(found),
            found.bundle is not None and found.bundle.redacted,
        )

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


def _body(event: Event) -> Exported:
    return cast("Exported", event.body)


def _ops_of(event: Event) -> frozenset[str]:
    body = _body(event)
    return frozenset([*body.ops_before, *body.ops_after, *body.fired])


def _decomposes(found: ResolvedState, *, default: bool) -> bool:
    """Tell whether a table without a rule for an op decomposes it."""
    return choose(None, found.state.base, loaded=True, default=default) == DEFAULT
