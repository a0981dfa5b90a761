"""Print drift and upgrades as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from decomp_ledger.analysis.behaviour import DIFFERS, DIFFERS_DYNAMIC
from decomp_ledger.analysis.drift import BEHAVIOUR, DRIFT_KINDS, DYNAMIC, TREATMENT, WRAPPERS, Drift
from decomp_ledger.analysis.upgrade import FINDINGS, RULE_EFFECTS, UNCHANGED, Upgrade, UpgradeCheck
from decomp_ledger.cli.behaviour_output import changed_ops_lines
from decomp_ledger.cli.output import count, note
from decomp_ledger.reports.drift_words import (
    MAKER_DECIDES,
    TRACED,
    Group,
    change_lines,
    changed_ops,
    check_notes,
    drift_groups,
    drift_notes,
    drift_summary,
    effect_line,
    finding_lines,
    one_line,
    ops_of_entries,
    state_text,
    successors_text,
    unknown_notes,
)

__all__ = ["print_drift", "print_upgrade", "print_upgrade_check"]

_LIMIT = 10
# Without --all: lines of a group with a line for each op, and lines of names.
_SHORT, _NAMES = 6, 3
# One screen: what drift prints without --all, at most.
_SCREEN = 120
_WIDTH = 112


def print_drift(found: Drift, lead: str = "", *, everything: bool, whole: bool = False) -> None:
    """Print a drift as text, the strongest effect on exports first.

    Args:
        found: the drift.
        lead: a line to print first.
        everything: list every op.
        whole: print whole graphs, not only the nodes that differ.
    """
    rest = list(_rest(found, everything=everything))
    head = [*([lead] if lead else []), f"{state_text(found.before)} -> {state_text(found.after)}", drift_summary(found)]
    budget = None if everything or whole else _SCREEN - len(head) - len(rest)
    for line in (*head, *_behaviour_lines(found, budget, whole=whole), *rest):
        note(line)


def _behaviour_lines(found: Drift, budget: int | None, *, whole: bool) -> Iterator[str]:
    """Yield what behaves differently with its graphs, then what does so only with dynamic shapes."""
    differing, dynamic = (changed_ops(found, verdict) for verdict in (DIFFERS, DIFFERS_DYNAMIC))
    named = _first_lines(_wrapped_names([op for each in dynamic for op in each.ops])) if dynamic else ([], 0)
    if differing:
        yield from ("", f"{DRIFT_KINDS[BEHAVIOUR]}: {ops_of_entries(differing)}")
        room = None if budget is None else budget - 2 - (len(named[0]) + 3 if dynamic else 0)
        yield from _indented(*changed_ops_lines(differing, room, whole=whole))
    if dynamic:
        yield from ("", f"{DRIFT_KINDS[DYNAMIC]}: {ops_of_entries(dynamic)}")
        if whole:
            yield from _indented(*changed_ops_lines(dynamic, None, whole=True))
        else:
            yield from _indented(*(named if budget is not None else (list(map(one_line, dynamic)), 0)))


def _rest(found: Drift, *, everything: bool) -> Iterator[str]:
    """Yield the lines of all other changes, and of what could not be compared."""
    outside: Counter[str] = Counter()
    for group in drift_groups(found):
        if everything or group.changes[0].in_table or group.kind == TREATMENT:
            shown, hidden = _group_lines(group, everything=everything)
            yield from ("", group.heading if shown else f"{group.heading}; list them with --all")
            yield from _indented(shown, hidden if shown else 0)
        else:
            outside[DRIFT_KINDS[group.kind]] += len(group.changes)
    if outside:
        counts = ", ".join(f"{title}: {number}" for title, number in outside.items())
        yield from ("", f"outside both tables: {counts}; list them with --all")
    if notes := [*drift_notes(found)]:
        yield from ("", *notes)


def _group_lines(group: Group, *, everything: bool) -> tuple[list[str], int]:
    """Return the lines of a group, and how many are left out."""
    lines = change_lines(group.changes)
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
        f"{found.after.name} on torch {snapshot.build.get('torch')}: {count(len(snapshot.ops), 'decomposition')}, "
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
    unknown = f"; {MAKER_DECIDES}" if found.after.state.from_dict else ""
    _print_section(f"no rule, decomposed before, now kept in graphs{unknown}", [c.op for c in found.now_kept()])
    _print_section(f"no rule, kept in graphs before, now decomposed{unknown}", [c.op for c in found.now_decomposed()])
    gone = [f"{change.op}{successors_text(ops)}" for change, ops in found.gone()]
    _print_section(
        f"no rule, decomposed before, now gone: {count(len(gone), 'op')}", gone, None if everything else _LIMIT
    )
    _print_section("no rule, decomposed before, of libraries that the catalog was captured without", found.foreign)
    _print_behaviour(found, found.drift, whole=whole or everything)
    before = found.drift.before.catalog.build.get("torch")
    note(f"drift of the table from torch {before} to {snapshot.build.get('torch')}: {drift_summary(found.drift)}")
    if everything:
        for group in drift_groups(found.drift):
            _print_section(group.heading, change_lines(group.changes))
    _print_notes(found.drift)


def _print_behaviour(found: Upgrade, moved: Drift, *, whole: bool) -> None:
    """Print what behaves differently: with graphs what the table's exports use, by name what they do not use."""
    used = moved if found.used is None else moved.only(found.used)
    for line in _behaviour_lines(used, None if whole else _SCREEN // 2, whole=whole):
        if line:
            note(line)
    rest = [each.op for each in moved.behaviours if each.differs and used.behaviour(each.op) is None]
    _print_section(f"behaves differently, not used by an export: {count(len(rest), 'op')}", _wrapped_names(rest))


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
    verdict = f"{count(ops, 'op')} changed" if ops else "nothing changed"
    note(
        f"{found.after.name}, from torch {old} to {new}: {verdict} for {count(exports, 'export')} "
        f"with {count(len(check.used), 'op')}"
    )
    for line in _behaviour_lines(check.drift, None, whole=whole):
        if line:
            note(line)
    for kind, title in FINDINGS.items():
        if kind not in TRACED:
            _print_section(title, finding_lines([each for each in check.findings if each.kind == kind]))
    for text in (*check_notes(check), *unknown_notes(check.drift)):
        note(text)


def _print_effects(found: Upgrade, *, everything: bool) -> None:
    lead = "entries of the dict" if found.after.state.from_dict else "rules"
    for effect, title in RULE_EFFECTS.items():
        here = [each for each in found.effects if each.effect == effect]
        if effect == UNCHANGED and len(here) > _LIMIT and not everything:
            note(f"{lead}: {len(here)} unchanged; list them with --all")
        else:
            _print_section(
                f"rules: {title}", [effect_line(each, from_dict=found.after.state.from_dict) for each in here]
            )


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


def _print_notes(found: Drift) -> None:
    for text in drift_notes(found):
        note("")
        note(text)
