"""Print drift and upgrades: as text for a terminal, and drift as Markdown."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

import attrs
import click

from decomp_ledger.analysis.behaviour import DIFFERS, DIFFERS_DYNAMIC, NOT_SAMPLED, SAME, UNKNOWN, DiffRow
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
from decomp_ledger.analysis.upgrade import FINDINGS, RULE_EFFECTS, UNCHANGED, Finding, RuleEffect, Upgrade, UpgradeCheck
from decomp_ledger.cli.behaviour_output import (
    ChangedOps,
    changed_ops,
    changed_ops_lines,
    one_line,
    rows_that_differ,
)
from decomp_ledger.cli.output import note, printable, rule_text
from decomp_ledger.model import op_names
from decomp_ledger.model.catalog import Entry

__all__ = [
    "decomposition_text",
    "only_used_text",
    "print_drift",
    "print_markdown",
    "print_upgrade",
    "print_upgrade_check",
]

_LIMIT = 10
# Without --all: lines of a group with a line for each op, and lines of names.
_SHORT, _NAMES = 6, 3
# One screen: what drift prints without --all, at most.
_SCREEN = 120
_WIDTH = 112
# Changes of these kinds to ops of a table are always listed, because each may change an export.
_ALWAYS_LISTED = frozenset(DRIFT_KINDS) - {NEW, HELPERS, WRAPPERS}
_TRACED = {BEHAVIOUR: DIFFERS, DYNAMIC: DIFFERS_DYNAMIC}
_TEXT = (MOVED, SOURCE, HELPERS)
_OPS_ONLY = (LEFT, ENTERED, GONE, NEW)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")


@attrs.frozen
class _Group:
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
        return f"{self.title}: {_count(len({change.op for change in self.changes}), 'op')}"

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
    more = f"; for {_count(wrapped, 'op')} only wrappers changed" if wrapped else ""
    verb = "affects" if few == 1 else "affect"
    return f"{few} of {_count(total, 'change')} {verb} {program}, which uses {_count(used, 'op')}{more}"


def print_drift(found: Drift, lead: str = "", *, everything: bool, whole: bool = False) -> None:
    """Print a drift as text, the strongest effect on exports first.

    Args:
        found: the drift.
        lead: a line to print first.
        everything: list every op.
        whole: print whole graphs, not only the nodes that differ.
    """
    rest = list(_rest(found, everything=everything))
    head = [*([lead] if lead else []), f"{_state(found.before)} -> {_state(found.after)}", _summary(found)]
    budget = None if everything or whole else _SCREEN - len(head) - len(rest)
    for line in (*head, *_behaviour_lines(found, budget, whole=whole), *rest):
        note(line)


def _behaviour_lines(found: Drift, budget: int | None, *, whole: bool) -> Iterator[str]:
    """Yield what behaves differently with its graphs, then what does so only with dynamic shapes."""
    differing, dynamic = (changed_ops(found, verdict) for verdict in (DIFFERS, DIFFERS_DYNAMIC))
    named = _first_lines(_wrapped_names([op for each in dynamic for op in each.ops])) if dynamic else ([], 0)
    if differing:
        yield from ("", f"{DRIFT_KINDS[BEHAVIOUR]}: {_ops_of_entries(differing)}")
        room = None if budget is None else budget - 2 - (len(named[0]) + 3 if dynamic else 0)
        yield from _indented(*changed_ops_lines(differing, room, whole=whole))
    if dynamic:
        yield from ("", f"{DRIFT_KINDS[DYNAMIC]}: {_ops_of_entries(dynamic)}")
        if whole:
            yield from _indented(*changed_ops_lines(dynamic, None, whole=True))
        else:
            yield from _indented(*(named if budget is not None else (list(map(one_line, dynamic)), 0)))


def _rest(found: Drift, *, everything: bool) -> Iterator[str]:
    """Yield the lines of all other changes, and of what could not be compared."""
    outside: Counter[str] = Counter()
    for group in _groups(found):
        if everything or group.changes[0].in_table or group.kind == TREATMENT:
            shown, hidden = _group_lines(group, everything=everything)
            yield from ("", group.heading if shown else f"{group.heading}; list them with --all")
            yield from _indented(shown, hidden if shown else 0)
        else:
            outside[DRIFT_KINDS[group.kind]] += len(group.changes)
    if outside:
        counts = ", ".join(f"{title}: {count}" for title, count in outside.items())
        yield from ("", f"outside both tables: {counts}; list them with --all")
    if notes := [*_notes(found)]:
        yield from ("", *notes)


def _group_lines(group: _Group, *, everything: bool) -> tuple[list[str], int]:
    """Return the lines of a group, and how many are left out."""
    lines = _lines(group.changes)
    if everything or (group.listed and len(lines) <= _SHORT):
        return lines, 0
    if group.kind == WRAPPERS:
        return [], len(group.changes)
    if not group.names_only:
        return lines[: _SHORT - 1], len(lines) - _SHORT + 1
    return _first_lines(_wrapped_names([change.op for change in group.changes]))


def _first_lines(names: Sequence[str]) -> tuple[list[str], int]:
    """Return the first lines of names, and how many names the other lines have."""
    return [*names[:_NAMES]], sum(line.count(", ") + 1 for line in names[_NAMES:])


def _wrapped_names(ops: Sequence[str]) -> list[str]:
    """Return names of ops in lines of one namespace each: `aten::all, all.out, any`."""
    lines: list[str] = []
    for op in ops:
        namespace, _, name = op.rpartition("::")
        if lines and lines[-1].startswith(f"{namespace}::") and len(lines[-1]) + len(name) + 2 <= _WIDTH:
            lines[-1] += f", {name}"
        else:
            lines.append(op)
    return lines


def print_markdown(found: Drift, lead: str = "", *, everything: bool, whole: bool = False) -> None:
    """Print a drift as Markdown: a table of counts, and a fold for each kind of change.

    Args:
        found: the drift.
        lead: a line to print first.
        everything: list every op.
        whole: print whole graphs, not only the nodes that differ.
    """
    note(f"### Decomposition drift: {_code(found.before.name)} to {_code(found.after.name)}")
    click.echo()
    if lead:
        note(f"**{_plain(lead)}**")
        click.echo()
    note(f"{_state_markdown(found.before)} to {_state_markdown(found.after)}: {_summary(found)}.")
    behaving = [(DRIFT_KINDS[kind], changed_ops(found, verdict)) for kind, verdict in _TRACED.items()]
    behaving = [(title, changed) for title, changed in behaving if changed]
    groups = list(_groups(found))
    if behaving or groups:
        click.echo("\n| what changed | ops |\n| --- | ---: |")
    for title, changed in behaving:
        note(f"| {title} | {sum(len(each.ops) for each in changed)} |")
    for group in groups:
        note(f"| {group.title} | {len(group.changes)} |")
    for title, changed in behaving:
        _print_behaviour_fold(title, changed, whole=whole)
    for group in groups:
        _print_fold(group, everything=everything)
    for text in _notes(found):
        click.echo()
        note(f"_{_plain(text)}_")


def _print_behaviour_fold(title: str, changed: Sequence[ChangedOps], *, whole: bool) -> None:
    click.echo("\n<details open>")
    note(f"<summary>{title}: {_ops_of_entries(changed)}</summary>")
    for each in changed:
        click.echo()
        note(f"- {_code(each.heading)}")
        rows = each.difference.rows if whole else rows_that_differ(each.difference)[:_LIMIT]
        if rows:
            click.echo("\n  ```diff")
            for mark, line in _diff_lines(rows):
                note(f"  {mark} {line}")
            click.echo("  ```")
    click.echo("\n</details>")


def _diff_lines(rows: Sequence[DiffRow]) -> Iterator[tuple[str, str]]:
    """Yield the lines of a unified diff, each with its mark."""
    for same, some in itertools.groupby(rows, lambda row: row.same):
        run = [*some]
        if same:
            yield from ((" ", row.after) for row in run)
        else:
            yield from (("-", row.before) for row in run if row.before)
            yield from (("+", row.after) for row in run if row.after)


_MAKER_DECIDES = "not known, because the table was a dict, and its maker decides what it has there"


def print_upgrade(found: Upgrade, *, everything: bool, whole: bool = False) -> None:
    """Print what a table is on another torch, and what the move there does to its ops.

    Args:
        found: the upgrade.
        everything: list every op.
        whole: print whole graphs, not only the nodes that differ.
    """
    snapshot = found.snapshot
    waiting = f", {len(snapshot.pending)} pending" if snapshot.pending else ""
    note(
        f"{found.after.name} on torch {snapshot.build.get('torch')}: {len(snapshot.ops)} decompositions, "
        f"{len(snapshot.preserved)} preserved, {len(snapshot.overridden)} overridden{waiting}; "
        f"snapshot {snapshot.digest[:12]}"
    )
    _print_effects(found, everything=everything)
    if found.drift is None:
        note(
            f"{found.after.name} was never materialized, so the effect on ops without a rule is unknown; "
            "export with it first"
        )
        return
    unknown = f"; {_MAKER_DECIDES}" if found.after.state.from_dict else ""
    _print_section(f"no rule, decomposed before, now kept in graphs{unknown}", [c.op for c in found.now_kept()])
    _print_section(f"no rule, kept in graphs before, now decomposed{unknown}", [c.op for c in found.now_decomposed()])
    gone = [f"{change.op}{_successors(ops)}" for change, ops in found.gone()]
    _print_section(
        f"no rule, decomposed before, now gone: {_count(len(gone), 'op')}", gone, None if everything else _LIMIT
    )
    _print_section("no rule, decomposed before, of libraries that the catalog was captured without", found.foreign)
    _print_behaviour(found, found.drift, whole=whole or everything)
    before = found.drift.before.catalog.build.get("torch")
    note(f"drift of the table from torch {before} to {snapshot.build.get('torch')}: {_summary(found.drift)}")
    if everything:
        for group in _groups(found.drift):
            _print_section(group.heading, _lines(group.changes))
    _print_notes(found.drift)


def _print_behaviour(found: Upgrade, moved: Drift, *, whole: bool) -> None:
    """Print what behaves differently: with graphs what the table's exports use, by name what they do not use."""
    used = moved if found.used is None else moved.only(found.used)
    for line in _behaviour_lines(used, None if whole else _SCREEN // 2, whole=whole):
        if line:
            note(line)
    rest = [each.op for each in moved.behaviours if each.differs and used.behaviour(each.op) is None]
    _print_section(f"behaves differently, not used by an export: {_count(len(rest), 'op')}", _wrapped_names(rest))


def print_upgrade_check(found: Upgrade, check: UpgradeCheck, exports: int, *, whole: bool = False) -> None:
    """Print whether the programs of a table stay the same on another torch, and the reasons if they may not.

    Args:
        found: the upgrade.
        check: its check.
        exports: the number of exports that were checked.
        whole: print whole graphs, not only the nodes that differ.
    """
    old, new = (state.catalog.build.get("torch") for state in (check.drift.before, check.drift.after))
    ops = len({each.op for each in check.findings})
    verdict = f"{_count(ops, 'op')} changed" if ops else "nothing changed"
    note(
        f"{found.after.name}, from torch {old} to {new}: {verdict} for {_count(exports, 'export')} "
        f"with {_count(len(check.used), 'op')}"
    )
    for line in _behaviour_lines(check.drift, None, whole=whole):
        if line:
            note(line)
    for kind, title in FINDINGS.items():
        if kind not in _TRACED:
            _print_section(title, _finding_lines([each for each in check.findings if each.kind == kind]))
    for text in (*_check_notes(check), *_unknown_notes(check.drift)):
        note(text)


def _finding_lines(found: Sequence[Finding]) -> list[str]:
    changes = [each.change for each in found if each.change is not None]
    return _lines(changes) if changes else [f"{each.op}: {each.detail}" for each in found]


def _check_notes(check: UpgradeCheck) -> Iterator[str]:
    """Yield a sentence for each note: what is known not to matter, or is not known."""
    for title, verdict in ((_SAME_TEXT, SAME), ("text changed, and no sample shows whether that matters", NOT_SAMPLED)):
        ops = [each.op for each in check.notes if each.behaviour is not None and each.behaviour.verdict == verdict]
        if ops:
            yield f"note: {title}: {_named(dict.fromkeys(ops))}"
    for each in check.notes:
        if each.change is not None and each.kind == SCHEMA:
            yield f"note: schema changed: {_of_kind(SCHEMA, [each.change])[0]}"
        if each.kind in (ENTERED, LEFT):
            yield f"note: {each.op} {DRIFT_KINDS[each.kind]} of torch's defaults: {_MAKER_DECIDES}"
    if check.kernels:
        yield f"not compared: C++ kernels of {_named(check.kernels)}, because no sample reaches them"
    if check.foreign:
        yield (
            f"not checked: {_named(check.foreign)}, because the catalog may lack ops of libraries and ops that torch "
            "registers late"
        )


def _unknown_notes(found: Drift) -> Iterator[str]:
    """Yield a sentence for each torch without traces."""
    for state in (found.before, found.after):
        if state.traces is None and found.verdicts()[UNKNOWN]:
            yield (
                f"behaviour unknown: {_state(state)} has no traces, so only text is compared; make them with "
                "`decomp-ledger catalog capture --python INTERPRETER -o FILE`, and name catalog:FILE"
            )


def _print_effects(found: Upgrade, *, everything: bool) -> None:
    lead = "entries of the dict" if found.after.state.from_dict else "rules"
    for effect, title in RULE_EFFECTS.items():
        here = [each for each in found.effects if each.effect == effect]
        if effect == UNCHANGED and len(here) > _LIMIT and not everything:
            note(f"{lead}: {len(here)} unchanged; list them with --all")
        else:
            _print_section(
                f"rules: {title}", [_effect_line(each, from_dict=found.after.state.from_dict) for each in here]
            )


def _effect_line(each: RuleEffect, *, from_dict: bool) -> str:
    detail = f"; {each.detail}" if each.detail else ""
    return f"{each.op}  {rule_text(each.rule, from_dict=from_dict)}{detail}{_successors(each.successors)}"


def _print_section(title: str, lines: Sequence[str], limit: int | None = None) -> None:
    """Print a title with indented lines; print nothing without lines."""
    if lines:
        note(title)
        _print_lines(lines[:limit], len(lines[limit:]) if limit is not None else 0)


def _print_lines(lines: Iterable[str], hidden: int) -> None:
    for line in _indented(list(lines), hidden):
        note(line)


def _indented(lines: Sequence[str], hidden: int) -> Iterator[str]:
    yield from (f"  {line}" for line in lines)
    if hidden > 0:
        yield f"  ... and {hidden} more; list them with --all" if lines else "  list them with --all"


def _print_fold(group: _Group, *, everything: bool) -> None:
    click.echo(f"\n<details{' open' if group.kind in (LEFT, ENTERED) else ''}>")
    note(f"<summary>{group.heading}</summary>")
    click.echo()
    lines = _lines(group.changes)
    shown = lines if everything or group.listed else lines[: _LIMIT * 2]
    for line in shown:
        note(f"- {_code(line)}")
    if len(shown) < len(lines):
        note(f"- and {len(lines) - len(shown)} more")
    click.echo("\n</details>")


def _successors(ops: Sequence[tuple[str, str]]) -> str:
    return f"; likely successor: {', '.join(f'{op} ({why})' for op, why in ops)}" if ops else ""


def _state(state: NamedState) -> str:
    return f"{state.name} (torch {state.catalog.build.get('torch', '?')})"


def _state_markdown(state: NamedState) -> str:
    return f"{_code(state.name)} (torch {_plain(state.catalog.build.get('torch', '?'))})"


def _summary(found: Drift) -> str:
    texts = [
        f"{title}: {count}"
        for kind, title in DRIFT_KINDS.items()
        if (count := sum(not _is_judged(change) for change in found.of(kind, in_table=True)))
    ]
    texts += [f"{title}: {len(changes)}" for title, changes in _judged(found) if changes]
    if missing := found.verdicts()[NOT_SAMPLED]:
        texts.append(f"{_NOT_SAMPLED}: {missing} of {_count(len(found.behaviours), 'op')}")
    others = sum(not change.in_table and change.kind != WRAPPERS for change in found.changes)
    texts += [f"{_count(others, 'change')} to ops outside both tables"] if others else []
    return "; ".join(texts) or ("only wrappers of ops outside both tables changed" if found.changes else "no drift")


_SAME_TEXT, _NOT_SAMPLED = "text changed, behaves the same on all samples", "not sampled"


def _is_judged(change: DriftChange) -> bool:
    """Tell whether a change of text is of an op whose traces are known, so that they decide whether it matters."""
    return change.kind in _TEXT and change.verdict not in ("", UNKNOWN)


def _judged(found: Drift) -> Iterator[tuple[str, list[DriftChange]]]:
    """Yield the changes of text of ops that behave the same on all samples, and of ops that no sample reached."""
    judged = [change for change in found.changes if _is_judged(change)]
    for title, verdict in ((_SAME_TEXT, SAME), (f"text changed, {_NOT_SAMPLED}", NOT_SAMPLED)):
        yield title, [change for change in judged if change.verdict == verdict]


def _groups(found: Drift) -> Iterator[_Group]:
    """Yield the groups of a drift but those of behaviour, the strongest effect on exports first."""
    for in_table in (True, False):
        for kind, title in DRIFT_KINDS.items():
            changes = [change for change in found.of(kind, in_table=in_table) if not _is_judged(change)]
            if changes and kind not in (*_TRACED, WRAPPERS):
                where = "" if in_table else ", outside both tables"
                listed = (in_table and kind in _ALWAYS_LISTED) or kind == TREATMENT
                yield _Group(f"{title}{where}", changes, listed, kind in _OPS_ONLY)
        if in_table:
            yield from (_Group(title, changes, names_only=True) for title, changes in _judged(found) if changes)
    wrapped = found.of(WRAPPERS)
    if wrapped:
        distinct = len({(change.before, change.after) for change in wrapped})
        yield _Group(f"{DRIFT_KINDS[WRAPPERS]} ({distinct} distinct)", wrapped)


def _lines(changes: Sequence[DriftChange]) -> list[str]:
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


def _print_notes(found: Drift) -> None:
    for text in _notes(found):
        click.echo()
        note(text)


def _notes(found: Drift) -> Iterator[str]:
    """Yield a sentence for each thing that could not be compared."""
    yield from _unknown_notes(found)
    if torchs := [op for op in found.kernels if op_names.is_torchs(op)]:
        yield (
            f"not compared: the C++ code of {_count(len(torchs), 'kernel')} that no sample reaches, because a "
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


def _ops_of_entries(found: Sequence[ChangedOps]) -> str:
    return _count(sum(len(entry.ops) for entry in found), "op")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _named(ops: Collection[str], noun: str = "op") -> str:
    """Return a count of ops with the first three names."""
    some = ", ".join(itertools.islice(ops, 3))
    return f"{_count(len(ops), noun)} ({some}{' ...' if len(ops) > 3 else ''})"


def _code(text: str) -> str:
    """Return text as Markdown code, inside which no character has a meaning."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{printable(text)}{pad}{fence}"


def _plain(text: str) -> str:
    """Return text with every character escaped that has a meaning in Markdown or HTML."""
    return _MARKDOWN.sub(r"\\\1", text)
