"""The difference of two lists of lines, in a time that stays small for any lines. Pure.

The time of `difflib` grows with the square of the lines, 0.4 s for 2,000 equal ones, and they may be a stranger's.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["line_opcodes", "unified_diff"]

_Opcodes: TypeAlias = "list[tuple[str, int, int, int, int]]"

# What difflib may take: 10^7 steps are up to half a second. Two functions of 500 lines are a third of them.
_MOST_STEPS = 10_000_000


def unified_diff(before: Sequence[str], after: Sequence[str]) -> tuple[str, ...]:
    """Return the lines of a unified diff; one hunk without lines around it where difflib could take long."""
    if _is_quick(before, after):
        return tuple(difflib.unified_diff(before, after, "before", "after", lineterm=""))
    start, end, other_end = _changed(before, after)
    if start == end == other_end:
        return ()
    removed, added = before[start:end], after[start:other_end]
    ranges = f"@@ -{_range(start, end)} +{_range(start, other_end)} @@"
    return ("--- before", "+++ after", ranges, *(f"-{each}" for each in removed), *(f"+{each}" for each in added))


def line_opcodes(before: Sequence[str], after: Sequence[str]) -> _Opcodes:
    """Return how the lines become the others, as difflib's opcodes; one replacement where difflib could take long."""
    if _is_quick(before, after):
        return list(difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes())
    start, end, other_end = _changed(before, after)
    parts = [
        ("equal", 0, start, 0, start),
        ("replace", start, end, start, other_end),
        ("equal", end, len(before), other_end, len(after)),
    ]
    return [each for each in parts if each[1] != each[2] or each[3] != each[4]]


def _is_quick(before: Sequence[str], after: Sequence[str]) -> bool:
    """Tell whether difflib takes few steps: each of its searches goes through all pairs of equal lines."""
    here, there = Counter(before), Counter(after)
    pairs = sum(number * there[line] for line, number in here.items())
    return min(len(before), len(after)) * (len(before) + pairs) <= _MOST_STEPS


def _changed(before: Sequence[str], after: Sequence[str]) -> tuple[int, int, int]:
    """Return the first line that differs, and in each list the first one of those that are the same at the end."""
    shortest = min(len(before), len(after))
    start = next((n for n in range(shortest) if before[n] != after[n]), shortest)
    same = next((n for n in range(shortest - start) if before[-1 - n] != after[-1 - n]), shortest - start)
    return start, len(before) - same, len(after) - same


def _range(start: int, end: int) -> str:
    """Return lines in the form of a hunk: the first one, counted from 1, and how many there are."""
    return f"{start + (end > start)},{end - start}"
