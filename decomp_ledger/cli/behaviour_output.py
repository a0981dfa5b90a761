"""Print what behaves differently: the first sample on which it does, and the two graphs side by side."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

from decomp_ledger.analysis.behaviour import DiffRow
from decomp_ledger.reports.drift_words import ChangedOps, one_line, rows_that_differ

__all__ = ["changed_ops_lines"]

_MAX_ROWS = 8


def changed_ops_lines(found: Sequence[ChangedOps], budget: int | None, *, whole: bool = False) -> tuple[list[str], int]:
    """Return the lines that show entries with their graphs.

    Args:
        found: the entries.
        budget: how many lines they may take, so that fewer nodes of each graph are shown, and at last only the first
            entries have a graph; None for no limit.
        whole: show whole graphs, not only the nodes that differ.

    Returns:
        The lines, and how many entries are left out.
    """
    if budget is None:
        return [line for entry in found for line in _with_graphs(entry, None, whole=whole)], 0
    for rows in range(_MAX_ROWS, 1, -1):
        lines = [line for entry in found for line in _with_graphs(entry, rows, whole=whole)]
        if len(lines) <= budget:
            return lines, 0
    if len(found) > budget:
        return list(map(one_line, found[: max(budget - 1, 0)])), len(found) - max(budget - 1, 0)
    return _some_with_graphs(found, budget - len(found)), 0


def _some_with_graphs(found: Sequence[ChangedOps], room: int) -> list[str]:
    """Return lines for all entries; the first entries have one or two nodes of their graphs, while there is room."""
    often = sum(2 * len(entry.first.differences) >= entry.first.samples for entry in found)
    two, one = ([[*_with_graphs(entry, rows, whole=False)] for entry in found] for rows in (2, 1))
    graphs = two if sum(len(lines) - 1 for lines in two[:often]) <= room else one
    shown: list[str] = []
    for entry, lines in zip(found, graphs, strict=True):
        fits = 1 < len(lines) <= room + 1
        shown += lines if fits else [one_line(entry)]
        room -= len(lines) - 1 if fits else 0
    return shown


def _with_graphs(entry: ChangedOps, limit: int | None, *, whole: bool) -> Iterator[str]:
    rows = entry.difference.rows if whole else rows_that_differ(entry.difference, limit)
    shown = rows if limit is None or whole else rows[:limit]
    hidden = len(rows) - len(shown)
    yield entry.heading + (f"; {hidden} more with -v" if hidden else "")
    yield from side_by_side(shown)


def side_by_side(rows: Sequence[DiffRow]) -> Iterator[str]:
    """Yield rows in two columns; `|` stands between lines that differ."""
    room = max(20, (shutil.get_terminal_size((120, 24)).columns - 11) // 2)
    cells = [(_cell(row.before, room), "|" if not row.same else " ", _cell(row.after, room)) for row in rows]
    width = max((len(before) for before, _, _ in cells), default=0)
    for before, mark, after in cells:
        yield f"    {before:{width}} {mark} {after}".rstrip()


def _cell(line: str, room: int) -> str:
    text = line.replace("aten::", "")
    return text if len(text) <= room else f"{text[: room - 3]}..."
