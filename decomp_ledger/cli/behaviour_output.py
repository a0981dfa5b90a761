"""Print what behaves differently: the first sample on which it does, and the two graphs side by side."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

import attrs

from decomp_ledger.analysis.behaviour import Behaviour, DiffRow, SampleDifference, change_text, groups
from decomp_ledger.analysis.drift import Drift

__all__ = ["ChangedOps", "changed_ops", "changed_ops_lines", "one_line", "rows_that_differ"]

_MAX_ROWS = 8


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


def rows_that_differ(found: SampleDifference, limit: int | None = None) -> tuple[DiffRow, ...]:
    """Return the rows of two graphs that differ, with one row before and after each, if these fit into a limit."""
    rows = found.rows
    differing = [number for number, row in enumerate(rows) if not row.same]
    # The last row names the results, which says nothing if it is the same.
    end = len(rows) if rows and not rows[-1].same else len(rows) - 1
    near = sorted({number + step for number in differing for step in (-1, 0, 1) if 0 <= number + step < end})
    wanted = near if limit is None or len(near) <= limit else differing
    return tuple(rows[number] for number in wanted)


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
