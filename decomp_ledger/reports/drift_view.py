"""Pages about two torch versions: drift, upgrades and their checks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from decomp_ledger.analysis.drift import DRIFT_KINDS, ENTERED, LEFT, Drift
from decomp_ledger.analysis.upgrade import FINDINGS, PENDING, RULE_EFFECTS, UNCHANGED, Upgrade, UpgradeCheck
from decomp_ledger.queries import UpgradeReport
from decomp_ledger.reports.blocks import (
    BAD,
    GOOD,
    QUIET,
    WARN,
    Block,
    Cell,
    Code,
    Diff,
    Fold,
    Listing,
    Mark,
    Page,
    Part,
    Prose,
    Quote,
    Section,
    Table,
)
from decomp_ledger.reports.drift_words import (
    MAKER_DECIDES,
    TRACED,
    ChangedOps,
    change_lines,
    changed_ops,
    check_notes,
    diff_lines,
    drift_groups,
    drift_notes,
    drift_summary,
    effect_line,
    finding_lines,
    ops_of_entries,
    rows_that_differ,
    successors_text,
    unknown_notes,
)
from decomp_ledger.reports.words import count, first_ops

__all__ = ["check_page", "drift_page", "drift_sections", "newer_section", "upgrade_page"]

_ROWS = 10  # nodes of a graph that differ
_LINES = 20  # lines of a group
_OPS = 12  # ops of a table's cell


def drift_page(found: Drift, lead: str = "", *, everything: bool = False, whole: bool = False) -> Page:
    """Return the page of a drift: counts, then a fold for each kind of change.

    Args:
        found: the drift.
        lead: a line to show first.
        everything: list every op.
        whole: show whole graphs, not only the nodes that differ.
    """
    before, after = found.before, found.after
    torches = [str(state.catalog.build.get("torch", "?")) for state in (before, after)]
    summed = Quote(f"torch {torches[0]} to {torches[1]}: {drift_summary(found)}")
    return Page(
        "Decomposition drift",
        (Code(before.name), " to ", Code(after.name)),
        Mark(lead) if lead else None,
        "" if lead else summed,
        sections=(
            Section("", [Prose(summed)] if lead else []),
            *drift_sections(found, everything=everything, whole=whole),
        ),
    )


def drift_sections(found: Drift, *, everything: bool = False, whole: bool = False) -> Iterator[Section]:
    """Give the sections of a drift: counts, what behaves differently, what else changed, what was not compared."""
    behaving = [(DRIFT_KINDS[kind], changed_ops(found, verdict)) for kind, verdict in TRACED.items()]
    behaving = [(title, changed) for title, changed in behaving if changed]
    drifted = list(drift_groups(found))
    rows: list[tuple[Cell, Cell]] = [
        (title, str(sum(len(each.ops) for each in changed))) for title, changed in behaving
    ]
    rows += [(group.title, str(len(group.changes))) for group in drifted]
    if rows:
        yield Section("What changed", [Table(("what changed", "ops"), rows, frozenset({1}))])
    folds: list[Block] = [
        Fold(f"{title}: {ops_of_entries(changed)}", behaviour_blocks(changed, None, whole=whole), opened=True)
        for title, changed in behaving
    ]
    for group in drifted:
        lines = change_lines(group.changes)
        shown = lines if everything or group.listed else lines[:_LINES]
        items: list[Cell] = [Code(line) for line in shown]
        if len(shown) < len(lines):
            items.append(f"and {len(lines) - len(shown)} more")
        folds.append(Fold(group.heading, [Listing(items)], opened=group.kind in (LEFT, ENTERED)))
    yield Section("In detail", folds)
    yield Section("Not compared", [Prose(Quote(text)) for text in drift_notes(found)])


def behaviour_blocks(changed: Sequence[ChangedOps], limit: int | None, *, whole: bool = False) -> list[Block]:
    """Return a diff of the two graphs for each entry; with a limit, of the first entries, and the names of the others.

    Args:
        changed: what behaves differently.
        limit: how many entries to show with graphs.
        whole: show whole graphs, not only the nodes that differ.
    """
    blocks: list[Block] = []
    for entry in changed[:limit]:
        rows = entry.difference.rows if whole else rows_that_differ(entry.difference)[:_ROWS]
        blocks.append(Diff(list(diff_lines(rows)), Code(entry.heading)))
    rest = changed[len(blocks) :]
    if rest:
        blocks.append(Listing([Code(entry.heading) for entry in rest]))
    return blocks


def upgrade_page(found: Upgrade, *, everything: bool = False, whole: bool = False) -> Page:
    """Return the page of a table on another torch.

    Args:
        found: the upgrade.
        everything: list every op.
        whole: show whole graphs, not only the nodes that differ.
    """
    snapshot = found.snapshot
    moved = len(_to_look_at(found))
    figures: dict[str, Cell] = {
        "decompositions": str(len(snapshot.ops)),
        "preserved": str(len(snapshot.preserved)),
        "overridden": str(len(snapshot.overridden)),
        "pending": str(len(snapshot.pending)),
    }
    used: list[Section] = []
    if found.drift is None:
        lead = "The table was never materialized, so the effect on ops without a rule is unknown; export with it first."
        used.append(Section("Not compared", [Prose(lead, WARN)]))
    else:
        used += drift_sections(found.drift, everything=everything, whole=whole)
    return Page(
        "Upgrade",
        (Code(found.after.name), " on torch ", Code(str(snapshot.build.get("torch")))),
        Mark(f"{count(moved, 'rule')} to look at", WARN) if moved else Mark("no rule changes", GOOD),
        "" if found.drift is None else Quote(drift_summary(found.drift)),
        figures,
        (
            Section("Rules", _effect_blocks(found, everything=everything)),
            Section("Ops without a rule", _without_rule(found)),
            *used,
        ),
    )


def _to_look_at(found: Upgrade) -> list[str]:
    """Return the ops whose rules the move affects, but for those that still wait for their library."""
    return [each.op for each in found.effects if each.effect not in (UNCHANGED, PENDING)]


def _effect_blocks(found: Upgrade, *, everything: bool) -> list[Block]:
    blocks: list[Block] = []
    for effect, title in RULE_EFFECTS.items():
        here = [each for each in found.effects if each.effect == effect]
        if here:
            lines: list[Cell] = [Code(effect_line(each, from_dict=found.after.state.from_dict)) for each in here]
            shown = lines if everything else lines[:_LINES]
            more = [] if len(shown) == len(lines) else [f"and {len(lines) - len(shown)} more"]
            blocks.append(Fold(f"{title}: {count(len(here), 'rule')}", [Listing([*shown, *more])], effect != UNCHANGED))
    return blocks


def _without_rule(found: Upgrade) -> list[Block]:
    unknown = f"; {MAKER_DECIDES}" if found.after.state.from_dict else ""
    lists: Mapping[str, list[str]] = {
        f"decomposed before, now kept in graphs{unknown}": [change.op for change in found.now_kept()],
        f"kept in graphs before, now decomposed{unknown}": [change.op for change in found.now_decomposed()],
        "decomposed before, now gone": [f"{change.op}{successors_text(ops)}" for change, ops in found.gone()],
        "decomposed before, of libraries that the catalog was captured without": [*found.foreign],
    }
    return [
        Fold(f"{title}: {count(len(ops), 'op')}", [Listing([Code(op) for op in ops])], opened=len(ops) <= _LINES)
        for title, ops in lists.items()
        if ops
    ]


def check_page(report: UpgradeReport, *, whole: bool = False) -> Page:
    """Return the page that tells whether exported programs stay what they are on another torch.

    Args:
        report: the check of an upgrade.
        whole: show whole graphs, not only the nodes that differ.
    """
    check, after = report.check, report.upgrade.after
    old, new = (str(state.catalog.build.get("torch")) for state in (check.drift.before, check.drift.after))
    return Page(
        "Upgrade check",
        (Code(after.name), " from torch ", Code(old), " to ", Code(new)),
        _verdict(report),
        f"{count(report.exports, 'export')} with {count(len(check.used), 'op')}",
        sections=(
            Section("Changes", check_blocks(check, None, whole=whole)),
            Section("Notes", [Listing([Quote(text) for text in notes])] if (notes := _check_notes(check)) else []),
        ),
    )


def _verdict(report: UpgradeReport) -> Mark:
    ops = len({each.op for each in report.check.findings})
    return Mark(f"{count(ops, 'op')} changed", BAD) if ops else Mark("nothing changed", GOOD)


def _check_notes(check: UpgradeCheck) -> list[str]:
    return [*check_notes(check), *unknown_notes(check.drift)]


def check_blocks(check: UpgradeCheck, limit: int | None, *, whole: bool = False) -> list[Block]:
    """Return the findings of a check: what behaves differently with graphs, then the others by kind."""
    blocks: list[Block] = []
    for kind, title in FINDINGS.items():
        if kind in TRACED:
            changed = changed_ops(check.drift, TRACED[kind])
            if changed:
                shown = behaviour_blocks(changed, limit, whole=whole)
                blocks.append(Fold(f"{title}: {ops_of_entries(changed)}", shown, opened=True))
            continue
        lines = finding_lines([each for each in check.findings if each.kind == kind])
        if lines:
            blocks.append(Fold(f"{title}: {len(lines)}", [Listing([Code(line) for line in lines])], opened=True))
    return blocks


# What newer torch versions change, version by version


def newer_section(checks: Mapping[str, UpgradeReport | Upgrade | str]) -> Section:
    """Return the section that tells what each newer torch changes.

    Args:
        checks: torch version -> the check, the upgrade where no export tells what is used, or why there is neither.
    """
    rows: list[tuple[Cell, Cell, Cell]] = []
    details: list[tuple[list[str], int, list[Block]]] = []  # versions that change the same, together
    for version, found in checks.items():
        name = Code(f"torch {version}")
        if isinstance(found, str):
            rows.append((name, Mark("unknown", QUIET), Quote(found)))
        elif isinstance(found, Upgrade):
            rows.append((name, *_upgrade_row(found)))
        else:
            ops = sorted({each.op for each in found.check.findings})
            rows.append((name, _verdict(found), _ops(ops) if ops else _note_text(_check_notes(found.check))))
            if ops:
                blocks = [*check_blocks(found.check, 4), *_notes(found.check)]
                if details and details[-1][2] == blocks:
                    details[-1][0].append(version)
                else:
                    details.append(([version], len(ops), blocks))
    if not rows:
        return Section("Newer torch versions", [Prose("No newer torch version is shipped as a catalog.")])
    folds = [
        Fold((Code(f"torch {', '.join(versions)}"), f": {count(number, 'op')} changed"), blocks)
        for versions, number, blocks in details
    ]
    unknown = "No export succeeded, so it is not known which ops the programs use, and only the rules are judged."
    judged = [Prose(unknown)] if any(isinstance(found, Upgrade) for found in checks.values()) else []
    return Section("Newer torch versions", [*judged, Table(("torch", "verdict", "ops"), rows), *folds])


def _notes(check: UpgradeCheck) -> list[Block]:
    notes = _check_notes(check)
    return [Listing([Quote(text) for text in notes])] if notes else []


def _note_text(notes: Sequence[str]) -> Cell:
    return Quote(notes[0]) if len(notes) == 1 else count(len(notes), "note") if notes else ""


def _upgrade_row(found: Upgrade) -> tuple[Cell, Cell]:
    moved = _to_look_at(found)
    verdict = Mark(f"{count(len(moved), 'rule')} to look at", WARN) if moved else Mark("no rule changes", GOOD)
    drifted = "" if found.drift is None else f"drift: {drift_summary(found.drift)}"
    parts: list[Part] = [*_ops(moved)]
    return verdict, (*parts, *(["; "] if moved and drifted else []), *([Quote(drifted)] if drifted else []))


def _ops(ops: Sequence[str]) -> tuple[Part, ...]:
    return (Code(first_ops(ops, _OPS)),) if ops else ()
