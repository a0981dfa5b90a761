"""The gate: what in tables and programs breaks a policy, or changes on another torch. Pure.

`judge` takes facts as values, so that one ledger, a stamp and many ledgers are judged alike. What judges one change
before it is made is `analysis/refusal.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

import attrs

from decomp_ledger.analysis.opset_check import OpsetCheck
from decomp_ledger.analysis.outcome import DECOMPOSED, UNKNOWN, Outcome, failure
from decomp_ledger.analysis.programs import Program
from decomp_ledger.analysis.upgrade import FINDINGS, Finding, UpgradeCheck
from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import Row, columns_of, displayed, guarded, to_rows
from decomp_ledger.model.events import OVERRIDE, Event, Exported, Found, Saved
from decomp_ledger.model.op_lookup import did_you_mean
from decomp_ledger.model.policy import Policy, matching, single_op
from decomp_ledger.model.recorded_names import split_recorded
from decomp_ledger.model.rules import TORCH_ORIGINS, Rule, TableState

__all__ = [
    *("GateFinding", "GateResult", "GateUnknown", "ProgramFacts", "TableFacts", "TagFacts"),
    *("TORCH", "judge"),
]

TORCH = "torch"  # what a finding breaks that no policy tells: the results stay the same on another torch
_NAMED = 5  # ops that a sentence names


@attrs.frozen
class TagFacts:
    """The newest tag of a table.

    Attributes:
        event: the `tagged` event.
        name: the tag.
        dirty: whether its git tree had changes that were not committed: True or False, a text that says why that is
            unknown, or None if the tree was not one of git.
    """

    event: Event
    name: str
    dirty: Json


@attrs.frozen
class TableFacts:
    """What is judged of a table.

    Attributes:
        name: the table with its version: `edge@4`.
        state: its rules.
        last: op -> the last event that changed its rule, also where a reset left none.
        defaults: the ops that are to stay and that torch's default decomposes in its catalog; None if it was never
            materialized.
        moved: the ops of the programs that were exported with it whose rules changed afterwards. Of the other ops,
            the exports tell what the table does with them. None if no export of it succeeded.
        tag: its newest tag; None if it has none.
        redacted: whether the actors and reasons of its events are not known, because a minimal stamp leaves them out.
    """

    name: str
    state: TableState
    last: Mapping[str, Event]
    defaults: frozenset[str] | None
    moved: frozenset[str] | None
    tag: TagFacts | None = None
    redacted: bool = False


@displayed
@attrs.frozen
class ProgramFacts:
    """What is judged of a program: its newest export, and the newest one that succeeded.

    Attributes:
        program: the program.
        newest: the `exported` event of its newest export.
        judged: that of the newest one that succeeded; None if none did.
        blame: op -> the event that made its rule in the table of the judged export.
        outcomes: op -> what happened to it in the judged export.
        to_keep: op -> how to keep it in the graph, for those that it decomposed although they are to stay.
        changed: op -> the event that changed its rule after the judged export.
        opset: the check of its result against the opset of the policy; None if that is not asked.
        check: what another torch changes for it; None if that is not asked, or not known.
        unknown: (policy, why it cannot be judged).
        file: the stamped file that has the export; "" if it is judged from a ledger.
        environment: what the judged export ran in; the newest one, if none succeeded.
        saved: the `saved` events of its result.
    """

    program: Program
    newest: Event
    judged: Event | None = None
    blame: Mapping[str, Event] = attrs.field(factory=dict)
    outcomes: Mapping[str, Outcome] = attrs.field(factory=dict)
    to_keep: Mapping[str, str] = attrs.field(factory=dict)
    changed: Mapping[str, Event] = attrs.field(factory=dict)
    opset: OpsetCheck | None = None
    check: UpgradeCheck | None = None
    unknown: tuple[tuple[str, str], ...] = ()
    file: str = ""
    environment: Mapping[str, Json] = attrs.field(factory=dict, repr=False)
    saved: tuple[Event, ...] = ()

    @property
    def name(self) -> str:
        """The export that is judged, as a state spec: `export:7`, `model.pt2`."""
        return self.file or f"export:{self.shown.seq}"

    @property
    def shown(self) -> Event:
        """The export that is judged; the newest one, if none succeeded."""
        return self.judged or self.newest

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data, without what only the findings need."""
        torch, commit, dirty = (self.environment.get(name) for name in ("torch", "git_commit", "git_dirty"))
        saved: list[Json] = [
            {"path": body.path, "format": body.format, "size": body.size, "sha256": body.sha256}
            for event in self.saved
            if isinstance(body := event.body, Saved)
        ]
        return {
            **self.program.to_json(),
            "newest": self.newest.seq,
            "judged": None if self.judged is None else self.judged.seq,
            "recorded_at": self.shown.recorded_at,
            "actor": self.shown.actor,
            "environment": {"torch": torch, "git_commit": commit, "git_dirty": dirty},
            "saved": saved,
        }


@displayed
@attrs.frozen
class GateFinding:
    """One thing that breaks a policy, or that another torch changes.

    Attributes:
        policy: the name of the policy, or `torch`.
        op: the op; "" if it is not about one.
        table: the table with its version, `edge@4`.
        program: the program; None if it is about the table alone.
        export: the number of the export; None likewise.
        detail: what is wrong, one sentence.
        fix: what to do.
        event: the event that broke it; of a change of torch, the export.
        change: of another torch, what it changes.
    """

    policy: str
    op: str
    table: str
    program: Program | None
    export: int | None
    detail: str
    fix: str
    event: Event | None
    change: Finding | None = attrs.field(default=None, repr=False)

    def _row(self) -> Row:
        event = self.event
        return {
            **columns_of(self, without=("event", "change")),
            "event": None if event is None else event.seq,
            "actor": None if event is None else event.actor,
            "change": None if self.change is None else self.change.kind,
        }

    @property
    def subject(self) -> str:
        """The program with its export, else the table."""
        return self.table if self.program is None else f"{self.program} (export:{self.export})"

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data; of the event, who, when, where and why."""
        return {
            "policy": self.policy,
            "op": self.op,
            "table": self.table,
            "program": None if self.program is None else self.program.to_json(),
            "export": self.export,
            "detail": self.detail,
            "fix": self.fix,
            "event": None if self.event is None else _event_json(self.event),
            "change": None if self.change is None else self.change.kind,
        }


@displayed
@attrs.frozen
class GateUnknown:
    """One thing that could not be judged.

    Attributes:
        policy: the name of the policy, or `torch`.
        subject: the program, the table or the pattern that it is about.
        because: why, one sentence.
    """

    policy: str
    subject: str
    because: str

    def __str__(self) -> str:
        return f"{self.policy}: {self.subject}: {self.because}"

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return attrs.asdict(self)


@displayed
@attrs.frozen(repr=False)
class GateResult:
    """Whether tables and programs pass a gate.

    Attributes:
        policy: what they must hold to.
        torch: the other torch; None if that is not asked.
        strict: whether what could not be judged fails.
        tables: the tables, each with its version.
        programs: the programs.
        findings: what breaks the policy, and what the other torch changes.
        unknown: what could not be judged.
        ledger: the file of the ledger, or its name in a hub; "" for a stamped file.
        events: how many events the ledger had when the gate began.
        head: the hash of the newest of them, in hex; "" for a stamped file.
        since: the time in UTC since when exports count; None if all do.
    """

    policy: Policy
    torch: str | None
    strict: bool
    tables: tuple[str, ...]
    programs: tuple[ProgramFacts, ...]
    findings: tuple[GateFinding, ...]
    unknown: tuple[GateUnknown, ...]
    ledger: str = ""
    events: int = 0
    head: str = ""
    since: str | None = None

    @guarded
    def __repr__(self) -> str:
        verdict = "passed" if self.passed else "did not pass"
        return f"<GateResult: {verdict}; {len(self.findings)} findings, {len(self.unknown)} unknown>"

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each finding."""
        return to_rows(self.findings)

    @property
    def passed(self) -> bool:
        """Whether nothing was found; if it is strict, also whether everything could be judged."""
        return not self.findings and not (self.strict and self.unknown)

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "passed": self.passed,
            "policy": self.policy.to_json(),
            "torch": self.torch,
            "strict": self.strict,
            "since": self.since,
            "ledger": self.ledger or None,
            "events": self.events,
            "head": self.head or None,
            "tables": list[Json](self.tables),
            "programs": [each.to_json() for each in self.programs],
            "findings": [each.to_json() for each in self.findings],
            "unknown": [each.to_json() for each in self.unknown],
        }


def _event_json(event: Event) -> dict[str, Json]:
    return {
        "seq": event.seq,
        "kind": event.kind,
        "table": event.table,
        "version": event.version,
        "recorded_at": event.recorded_at,
        "actor": event.actor,
        "reason": event.reason,
        "call_site": None if event.call_site is None else event.call_site.to_json(),
    }


_Answers: TypeAlias = "Iterator[GateFinding | GateUnknown]"


def judge(
    policy: Policy,
    tables: Sequence[TableFacts],
    programs: Sequence[ProgramFacts],
    unknown: Sequence[GateUnknown] = (),
    *,
    known: Collection[str] = (),
    torch: str | None = None,
    strict: bool = False,
) -> GateResult:
    """Judge tables and programs.

    Args:
        policy: what they must hold to.
        tables: the tables.
        programs: the programs.
        unknown: what is known not to be judged.
        known: the ops of the tables, of their catalogs and of the programs.
        torch: the other torch that the checks of the programs are for.
        strict: whether what could not be judged fails.
    """
    answers: list[GateFinding | GateUnknown] = [*unknown]
    for program in programs:
        for of_program in _OF_PROGRAMS:
            answers += of_program(policy, program, torch)
    # A program tells more of an op that it decomposed than its table.
    decomposed = {
        (e.table.partition("@")[0], e.op) for e in answers if isinstance(e, GateFinding) and e.policy == "keep"
    }
    for table in tables:
        for of_table in _OF_TABLES:
            answers += (e for e in of_table(policy, table) if not _is_known(e, table, decomposed))
    answers += _of_patterns(policy, known)
    found = [each for each in answers if isinstance(each, GateFinding)]
    found.sort(key=lambda each: (_RANK[each.policy], each.program is None, each.subject, each.op))
    doubts = tuple(dict.fromkeys(each for each in answers if isinstance(each, GateUnknown)))
    names = tuple(each.name for each in tables)
    return GateResult(policy, torch, strict, names, tuple(programs), tuple(found), doubts)


def _is_known(found: GateFinding | GateUnknown, table: TableFacts, decomposed: Collection[tuple[str, str]]) -> bool:
    """Tell whether a program has a finding of the same op that is to stay."""
    return isinstance(found, GateFinding) and found.policy == "keep" and (table.state.table, found.op) in decomposed


# Programs


def _found(
    policy: str, program: ProgramFacts, op: str, detail: str, fix: str, event: Event | None = None,
    change: Finding | None = None,
) -> GateFinding:  # fmt: skip
    of = program.shown
    return GateFinding(
        policy, op, f"{of.table}@{of.version}", program.program, of.seq, detail, fix, event or of, change
    )


def _kept_in(policy: Policy, program: ProgramFacts, torch: str | None) -> _Answers:
    for op, outcome in sorted(program.outcomes.items()):
        if matching(policy.keep, op) is None:
            continue
        if outcome.word == DECOMPOSED:
            fix = program.to_keep.get(op) or f"table.preserve({op!r})"
            detail = f"{program.name} decomposed it, since {outcome.because}"
            yield _found("keep", program, op, detail, fix, program.blame.get(op))
        elif outcome.word == UNKNOWN:
            yield GateUnknown("keep", f"{program.program} ({program.name})", f"{op}: {outcome.because}")


def _takes(policy: Policy, program: ProgramFacts, torch: str | None) -> _Answers:
    check = program.opset
    if check is None:
        return
    for each in check.outside:
        answer = each.why.answer
        detail = f"{program.name} has it, and {check.opset.name} does not; {answer.outcome}, since {answer.because}"
        yield _found("opset", program, each.op, detail, str(each.why.decompose), program.blame.get(each.op))


def _succeeded(policy: Policy, program: ProgramFacts, torch: str | None) -> _Answers:
    event = program.newest
    body = event.body
    if policy.no_failed_exports and isinstance(body, Exported) and body.error is not None:
        detail = f"its newest export, export:{event.seq}, failed{failure(body)}: {_line(body.error)}"
        where = f"{event.table}@{event.version}"
        fix = f"see `decomp-ledger show export:{event.seq}`, and export it again"
        yield GateFinding("no_failed_exports", "", where, program.program, event.seq, detail, fix, event)


def _line(error: tuple[str, str]) -> str:
    return " ".join(": ".join(error).split())


def _not_stale(policy: Policy, program: ProgramFacts, torch: str | None) -> _Answers:
    body = program.shown.body
    if policy.no_stale_exports and isinstance(body, Exported) and body.stale:
        detail = f"the table of {program.name} was made or read too early, so it lacks {_some(body.stale)}"
        fix = "import the libraries of these ops before the table is made, and export it again"
        yield _found("no_stale_exports", program, "", detail, fix)


def _up_to_date(policy: Policy, program: ProgramFacts, torch: str | None) -> _Answers:
    if policy.no_outdated_exports and program.changed:
        last = max(program.changed.values(), key=lambda event: event.seq)
        detail = f"after {program.name}, its table changed {_some(sorted(program.changed))}"
        yield _found("no_outdated_exports", program, "", detail, "export it again", last)


def _same_on(policy: Policy, program: ProgramFacts, torch: str | None) -> _Answers:
    """Give what another torch changes for a program. What fires in it, and cannot be compared, is not known."""
    check, judged = program.check, program.judged
    if check is None or judged is None:
        return
    fix = f"see `decomp-ledger upgrade {program.name} --torch {torch} --check`"
    for each in check.findings:
        detail = f"in torch {torch}: {FINDINGS[each.kind]}{f' ({each.detail})' if each.detail else ''}"
        yield _found(TORCH, program, each.op, detail, fix, judged, each)
    subject = f"{program.program} ({program.name})"
    if check.kernels:
        because = f"no sample call reaches the C++ kernels of {_some(check.kernels)}, so they were not compared"
        yield GateUnknown(TORCH, subject, because)
    fired = judged.body.fired if isinstance(judged.body, Exported) else {}
    own = [op for op in check.foreign if op in fired]
    if own:
        because = f"it decomposed {_some(own)}, and the catalog of torch {torch} has no ops of libraries"
        yield GateUnknown(TORCH, subject, because)


def _not_judged(policy: Policy, program: ProgramFacts, torch: str | None) -> _Answers:
    for name, because in program.unknown:
        yield GateUnknown(name, str(program.program), because)


_OF_PROGRAMS: tuple[Callable[[Policy, ProgramFacts, str | None], _Answers], ...] = (
    _kept_in,
    _takes,
    _succeeded,
    _not_stale,
    _up_to_date,
    _same_on,
    _not_judged,
)


# Tables


def _of_table(policy: str, table: TableFacts, op: str, detail: str, fix: str, event: Event | None) -> GateFinding:
    return GateFinding(policy, op, table.name, None, None, detail, fix, event)


def _keeps(policy: Policy, table: TableFacts) -> _Answers:
    for op in sorted({*table.state.rules, *(table.defaults or ())}) if policy.keep else ():
        if matching(policy.keep, op) is None:
            continue
        rule, event = table.state.rules.get(op), table.last.get(op)
        if rule is not None and rule.action == OVERRIDE:
            fix = _instead(table, f"table.preserve({op!r})", event)
            yield _of_table("keep", table, op, _override_text(table, rule), fix, event)
        elif rule is None and op in (table.defaults or ()) and (table.moved is None or op in table.moved):
            reset = "" if event is None else f", since #{event.seq} reset its rule"
            detail = f"{table.name} has torch's default decomposition of it{reset}"
            # The table of a recorded program is torch's, which has no `preserve`; the op is loaded, as a default.
            fix = f"table.pop({op_names.operator(op)})" if _is_recorded(table) else f"table.preserve({op!r})"
            yield _of_table("keep", table, op, detail, fix, event)
    if policy.keep and table.defaults is None and table.state.base == "torch":
        yield GateUnknown("keep", table.name, "it was never used with a torch, whose defaults it then decomposes")


def _not_overridden(policy: Policy, table: TableFacts) -> _Answers:
    for op, rule in sorted(table.state.rules.items()):
        if rule.action == OVERRIDE and matching(policy.no_override, op) is not None:
            event = table.last.get(op)
            fix = _instead(table, f"table.reset({op!r})", event)
            yield _of_table("no_override", table, op, _override_text(table, rule), fix, event)


def _override_text(table: TableFacts, rule: Rule) -> str:
    if rule.decomposition is None:
        return f"{table.name} overrides it"
    label = rule.decomposition.label()
    if rule.decomposition.origin in TORCH_ORIGINS:
        label = f"torch's own decomposition, {label}"
    return f"{table.name} {'has an entry for it' if table.state.from_dict else 'overrides it'}: {label}"


def _instead(table: TableFacts, line: str, event: Event | None) -> str:
    """Return what ends an override: a line, or what to drop in the program that made a table of torch's own."""
    if table.state.from_dict:
        return "take its entry out of the dict"
    if not _is_recorded(table):
        return line
    return f"drop the change at {event.call_site}" if event is not None and event.call_site else "drop the change"


def _is_recorded(table: TableFacts) -> bool:
    return split_recorded(table.state.table) is not None


def _reasoned(policy: Policy, table: TableFacts) -> _Answers:
    if not policy.require_reason or table.state.from_dict:
        return
    if table.redacted:
        yield GateUnknown("require_reason", table.name, "its stamp is minimal, so it has no reasons")
        return
    for op, rule in sorted(table.state.rules.items()):
        event = table.last.get(op)
        # Torch itself made the others.
        if event is not None and not event.reason and not isinstance(event.body, Found):
            fix = 'reset the rule, and set it again with reason=, or within ledger.because("...")'
            if _is_recorded(table):
                fix = "record the program again with `decomp-ledger run --reason TEXT` or record(reason=...)"
            yield _of_table("require_reason", table, op, f"no reason is given for its {rule.action}", fix, event)


def _by_allowed(policy: Policy, table: TableFacts) -> _Answers:
    if policy.actors and table.redacted:
        yield GateUnknown("actors", table.name, "its stamp is minimal, so it has no actors")
        return
    events = [*sorted(table.last.items()), *([("", table.tag.event)] if table.tag is not None else [])]
    for op, event in events if policy.actors else ():
        if matching(policy.actors, event.actor, ops=False) is None:
            what = f"tagged {table.tag.name}" if not op and table.tag is not None else "changed its rule"
            fix = "let one that is allowed do it again, or add the actor to `actors`"
            yield _of_table("actors", table, op, f"{event.actor} {what}, and is not an allowed actor", fix, event)


def _cleanly_tagged(policy: Policy, table: TableFacts) -> _Answers:
    tag = table.tag
    if not policy.clean_tags or tag is None:
        return
    if tag.dirty is True:
        detail = f"the tag {tag.name} was made in a git tree with changes that are not committed"
        yield _of_table("clean_tags", table, "", detail, "commit them, and give another tag", tag.event)
    elif tag.dirty is not False:
        because = tag.dirty if isinstance(tag.dirty, str) else "no git tree was recorded"
        yield GateUnknown("clean_tags", table.name, f"whether {tag.name} was made in a clean git tree: {because}")


_OF_TABLES: tuple[Callable[[Policy, TableFacts], _Answers], ...] = (
    _keeps,
    _not_overridden,
    _reasoned,
    _by_allowed,
    _cleanly_tagged,
)
# The order of findings: first what changes a result.
_POLICIES = (
    *("no_failed_exports", TORCH, "keep", "no_override", "opset", "no_stale_exports", "no_outdated_exports"),
    *("require_reason", "actors", "clean_tags"),
)
_RANK = {name: rank for rank, name in enumerate(_POLICIES)}


def _of_patterns(policy: Policy, known: Collection[str]) -> _Answers:
    """Give the names that name nothing, because a wrong one would never be broken."""
    names = [(name, text) for name in ("keep", "no_override") for text in getattr(policy, name) if single_op(text)]
    for name, text in names:
        if not any(matching([text], op) for op in known):
            near = did_you_mean(op_names.normalize(text), known) if "::" in text else ""
            yield GateUnknown(name, text, f"no table, program or torch of the ledger has such an op{near}")


def _some(ops: Collection[str]) -> str:
    named = sorted(ops)
    return ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")
