"""Drift, upgrades and changed behaviour in words, the same in every output. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence

import attrs

from decomp_ledger.analysis.behaviour import (
    DIFFERS,
    DIFFERS_DYNAMIC,
    NOT_SAMPLED,
    SAME,
    UNKNOWN,
    Behaviour,
    DiffRow,
    SampleDifference,
    change_text,
    groups,
)
from decomp_ledger.analysis.drift import (
    BEHAVIOUR,
    DRIFT_KINDS,
    DYNAMIC,
    ENTERED,
    GONE,
    HELPERS,
    LEFT,
    MOVED,
    NEW,
    SCHEMA,
    SOURCE,
    TREATMENT,
    WRAPPERS,
    Drift,
    DriftChange,
    NamedState,
    schema_difference,
)
from decomp_ledger.analysis.upgrade import Finding, RuleEffect, UpgradeCheck
from decomp_ledger.model import op_names
from decomp_ledger.model.catalog import Entry
from decomp_ledger.reports.words import count, rule_text

__all__ = [
    "MAKER_DECIDES",
    "TRACED",
    "ChangedOps",
    "Group",
    "change_lines",
    "changed_ops",
    "check_notes",
    "decomposition_text",
    "diff_lines",
    "drift_groups",
    "drift_notes",
    "drift_summary",
    "effect_line",
    "finding_lines",
    "one_line",
    "only_used_text",
    "ops_of_entries",
    "rows_that_differ",
    "state_text",
    "successors_text",
    "unknown_notes",
]

TRACED = {BEHAVIOUR: DIFFERS, DYNAMIC: DIFFERS_DYNAMIC}
# Changes of these kinds to ops of a table are always listed, because each may change an export.
_ALWAYS_LISTED = frozenset(DRIFT_KINDS) - {NEW, HELPERS, WRAPPERS}
_TEXT = (MOVED, SOURCE, HELPERS)
_OPS_ONLY = (LEFT, ENTERED, GONE, NEW)
_SAME_TEXT, _NOT_SAMPLED = "text changed, behaves the same on all samples", "not sampled"
MAKER_DECIDES = "not known, because the table was a dict, and its maker decides what it has there"


@attrs.frozen
class ChangedOps:
    """Ops of one family that changed in the same way.

    Attributes:
        ops: their names, the plainest first.
        first: the behaviour of the first op.
        before: the version of the first torch; the name of the first state, if both have one version.
        after: the same of the second.
    """

    ops: tuple[str, ...]
    first: Behaviour
    before: str
    after: str

    @property
    def difference(self) -> SampleDifference:
        """The first sample on which the first op behaves differently."""
        return self.first.differences[0]

    @property
    def names(self) -> str:
        """The ops, the namespace only once: `aten::frac, frac_, frac.out`."""
        return ", ".join([self.ops[0], *(op.rpartition("::")[2] for op in self.ops[1:])])

    @property
    def heading(self) -> str:
        """The ops, the error if one side has one, and the first sample."""
        found = self.difference
        sides = ((self.before, found.before), (self.after, found.after))
        raised = [f" raises {trace.error} in {torch}" for torch, trace in sides if trace.error is not None]
        return f"{self.names}:{''.join(raised)} for {found.call}"


def changed_ops(found: Drift, verdict: str) -> list[ChangedOps]:
    """Return the ops of a verdict, those of one family that changed in the same way together.

    Those come first that differ on the largest part of their samples, because most calls of them are affected.
    """
    torches = [state.catalog.build.get("torch", "?").partition("+")[0] for state in (found.before, found.after)]
    if torches[0] == torches[1]:
        torches = [found.before.name, found.after.name]
    grouped = groups([each for each in found.behaviours if each.verdict == verdict])
    changed = [ChangedOps(tuple(each.op for each in group), group[0], *torches) for group in grouped]
    return sorted(changed, key=lambda each: -len(each.first.differences) / each.first.samples)


def one_line(entry: ChangedOps) -> str:
    """Return an entry in one line: its ops, what changed, and the first sample."""
    return f"{entry.names}: {change_text(entry.difference)} for {entry.difference.call}"


def rows_that_differ(found: SampleDifference, limit: int | None = None) -> tuple[DiffRow, ...]:
    """Return the rows of two graphs that differ, with one row before and after each, if these fit into a limit."""
    rows = found.rows
    differing = [number for number, row in enumerate(rows) if not row.same]
    # The last row names the results, which says nothing if it is the same.
    end = len(rows) if rows and not rows[-1].same else len(rows) - 1
    near = sorted({number + step for number in differing for step in (-1, 0, 1) if 0 <= number + step < end})
    wanted = near if limit is None or len(near) <= limit else differing
    return tuple(rows[number] for number in wanted)


@attrs.frozen
class Group:
    """Changes that are shown together.

    Attributes:
        title: what they have in common.
        changes: the changes.
        listed: whether all of them are listed even without --all.
        names_only: whether the names of the ops are enough without --all.
    """

    title: str
    changes: list[DriftChange]
    listed: bool = False
    names_only: bool = False

    @property
    def heading(self) -> str:
        """The title with the number of ops."""
        return f"{self.title}: {count(len({change.op for change in self.changes}), 'op')}"

    @property
    def kind(self) -> str:
        """The kind of the changes."""
        return self.changes[0].kind


def decomposition_text(entry: Entry) -> str:
    """Return the origin of an entry's decomposition, and its function if that is in Python."""
    return f"{entry.origin} {entry.module}.{entry.qualname}" if entry.module else str(entry.origin)


def only_used_text(program: str, used: int, whole: Drift, found: Drift) -> str:
    """Return a sentence that tells how many of the changes affect a program.

    Args:
        program: its state spec, such as `export:7`.
        used: the number of ops that it uses.
        whole: the whole drift.
        found: the part of the drift that affects the program.
    """
    total, few = (sum(change.kind != WRAPPERS for change in each.changes) for each in (whole, found))
    wrapped = len(found.changes) - few
    more = f"; for {count(wrapped, 'op')} only wrappers changed" if wrapped else ""
    verb = "affects" if few == 1 else "affect"
    return f"{few} of {count(total, 'change')} {verb} {program}, which uses {count(used, 'op')}{more}"


def finding_lines(found: Sequence[Finding]) -> list[str]:
    """Return a line for each op, or function, that findings of one kind are about."""
    changes = [each.change for each in found if each.change is not None]
    return change_lines(changes) if changes else [f"{each.op}: {each.detail}" for each in found]


def check_notes(check: UpgradeCheck) -> Iterator[str]:
    """Yield a sentence for each note: what is known not to matter, or is not known."""
    for title, verdict in ((_SAME_TEXT, SAME), ("text changed, and no sample shows whether that matters", NOT_SAMPLED)):
        ops = [each.op for each in check.notes if each.behaviour is not None and each.behaviour.verdict == verdict]
        if ops:
            yield f"note: {title}: {_named(dict.fromkeys(ops))}"
    for each in check.notes:
        if each.change is not None and each.kind == SCHEMA:
            yield f"note: schema changed: {_of_kind(SCHEMA, [each.change])[0]}"
        if each.kind in (ENTERED, LEFT):
            yield f"note: {each.op} {DRIFT_KINDS[each.kind]} of torch's defaults: {MAKER_DECIDES}"
    if check.kernels:
        yield f"not compared: C++ kernels of {_named(check.kernels)}, because no sample reaches them"
    if check.foreign:
        yield (
            f"not checked: {_named(check.foreign)}, because the catalog may lack ops of libraries and ops that torch "
            "registers late"
        )


def unknown_notes(found: Drift) -> Iterator[str]:
    """Yield a sentence for each torch without traces."""
    for state in (found.before, found.after):
        if state.traces is None and found.verdicts()[UNKNOWN]:
            yield (
                f"behaviour unknown: {state_text(state)} has no traces, so only text is compared; make them with "
                "`decomp-ledger catalog capture --python INTERPRETER -o FILE`, and name catalog:FILE"
            )


def effect_line(each: RuleEffect, *, from_dict: bool) -> str:
    """Return what a move does to a rule, in one line."""
    detail = f"; {each.detail}" if each.detail else ""
    return f"{each.op}  {rule_text(each.rule, from_dict=from_dict)}{detail}{successors_text(each.successors)}"


def successors_text(ops: Sequence[tuple[str, str]]) -> str:
    """Return the likely successors of an op as the end of a line; empty without any."""
    return f"; likely successor: {', '.join(f'{op} ({why})' for op, why in ops)}" if ops else ""


def state_text(state: NamedState) -> str:
    """Return the name of a state with its torch."""
    return f"{state.name} (torch {state.catalog.build.get('torch', '?')})"


def drift_summary(found: Drift) -> str:
    """Return a drift in one line: the kinds of change with their counts."""
    texts = [
        f"{title}: {number}"
        for kind, title in DRIFT_KINDS.items()
        if (number := sum(not _is_judged(change) for change in found.of(kind, in_table=True)))
    ]
    texts += [f"{title}: {len(changes)}" for title, changes in _judged(found) if changes]
    if missing := found.verdicts()[NOT_SAMPLED]:
        texts.append(f"{_NOT_SAMPLED}: {missing} of {count(len(found.behaviours), 'op')}")
    others = sum(not change.in_table and change.kind != WRAPPERS for change in found.changes)
    texts += [f"{count(others, 'change')} to ops outside both tables"] if others else []
    return "; ".join(texts) or ("only wrappers of ops outside both tables changed" if found.changes else "no drift")


def _is_judged(change: DriftChange) -> bool:
    """Tell whether a change of text is of an op whose traces are known, so that they decide whether it matters."""
    return change.kind in _TEXT and change.verdict not in ("", UNKNOWN)


def _judged(found: Drift) -> Iterator[tuple[str, list[DriftChange]]]:
    """Yield the changes of text of ops that behave the same on all samples, and of ops that no sample reached."""
    judged = [change for change in found.changes if _is_judged(change)]
    for title, verdict in ((_SAME_TEXT, SAME), (f"text changed, {_NOT_SAMPLED}", NOT_SAMPLED)):
        yield title, [change for change in judged if change.verdict == verdict]


def drift_groups(found: Drift) -> Iterator[Group]:
    """Yield the groups of a drift but those of behaviour, the strongest effect on exports first."""
    for in_table in (True, False):
        for kind, title in DRIFT_KINDS.items():
            changes = [change for change in found.of(kind, in_table=in_table) if not _is_judged(change)]
            if changes and kind not in (*TRACED, WRAPPERS):
                where = "" if in_table else ", outside both tables"
                listed = (in_table and kind in _ALWAYS_LISTED) or kind == TREATMENT
                yield Group(f"{title}{where}", changes, listed, kind in _OPS_ONLY)
        if in_table:
            yield from (Group(title, changes, names_only=True) for title, changes in _judged(found) if changes)
    wrapped = found.of(WRAPPERS)
    if wrapped:
        distinct = len({(change.before, change.after) for change in wrapped})
        yield Group(f"{DRIFT_KINDS[WRAPPERS]} ({distinct} distinct)", wrapped)


def change_lines(changes: Sequence[DriftChange]) -> list[str]:
    """Return a line for each op; for a kind that compares sources, a line for each function."""
    return [
        line for kind, some in itertools.groupby(changes, lambda each: each.kind) for line in _of_kind(kind, [*some])
    ]


def _of_kind(kind: str, changes: Sequence[DriftChange]) -> list[str]:
    if kind in (LEFT, ENTERED, GONE, NEW, MOVED, TREATMENT):
        return [f"{change.op}: {_step(change)}" for change in changes]
    if kind == SCHEMA:
        return [f"{change.op}: {schema_difference(str(change.before), str(change.after))}" for change in changes]
    together: dict[tuple[str, str | None, str | None], list[str]] = {}
    for change in changes:
        function = change.function if kind != WRAPPERS else ""
        together.setdefault((function, change.before, change.after), []).append(change.op)
    return [f"{', '.join(ops)}{f'  ({function})' if function else ''}" for (function, *_), ops in together.items()]


def _step(change: DriftChange) -> str:
    missing = ("nothing", "nothing") if change.kind == MOVED else ("not loaded", "gone")
    step = f"{change.before or missing[0]} -> {change.after or missing[1]}"
    return f"{step} ({change.function})" if change.function and change.function not in step else step


def drift_notes(found: Drift) -> Iterator[str]:
    """Yield a sentence for each thing that could not be compared."""
    yield from unknown_notes(found)
    if torchs := [op for op in found.kernels if op_names.is_torchs(op)]:
        yield (
            f"not compared: the C++ code of {count(len(torchs), 'kernel')} that no sample reaches, because a "
            "catalog has only schemas and origins"
        )
    if others := [op for op in found.kernels if not op_names.is_torchs(op)]:
        yield (
            f"not compared: the kernels of {_named(others, 'library op')}, because no sample reaches them; capture "
            "both with `catalog capture --import MODULE` or `--samples FILE`"
        )
    if found.unclear:
        yield (
            f"not compared: the source of {_named(found.unclear, 'in-place op')}, because the closure that makes them "
            "in-place changed, and one digest covers both"
        )
    if found.not_judged:
        bare = found.before if found.before.bare else found.after
        yield (
            f"not judged: {_named(found.not_judged)}, because the catalog of torch {bare.catalog.build.get('torch')} "
            "was captured without libraries and without the parts of torch that are imported late"
        )
    for what, ops in (("source", found.no_source), ("schema", found.no_schema)):
        if ops:
            yield (
                f"not compared: the {what} of {_named(ops)}, because one torch is not a released build; capture it "
                "with `catalog capture` and name it catalog:FILE"
            )


def ops_of_entries(found: Sequence[ChangedOps]) -> str:
    """Return how many ops entries have."""
    return count(sum(len(entry.ops) for entry in found), "op")


def _named(ops: Collection[str], noun: str = "op") -> str:
    """Return a count of ops with the first three names."""
    some = ", ".join(itertools.islice(ops, 3))
    return f"{count(len(ops), noun)} ({some}{' ...' if len(ops) > 3 else ''})"


def diff_lines(rows: Sequence[DiffRow]) -> Iterator[tuple[str, str]]:
    """Yield the lines of a unified diff, each with its mark."""
    for same, some in itertools.groupby(rows, lambda row: row.same):
        run = [*some]
        if same:
            yield from ((" ", row.after) for row in run)
        else:
            yield from (("-", row.before) for row in run if row.before)
            yield from (("+", row.after) for row in run if row.after)
