"""Blocks: what a page is made of, whatever it is written as.

A text of ours is a `str`. What a ledger, a stamp or a program brings is a `Code` or a `Quote`, which no format may read
as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import attrs

__all__ = [
    "BAD",
    "GOOD",
    "QUIET",
    "WARN",
    "Bar",
    "Bars",
    "Block",
    "Cell",
    "Code",
    "Diff",
    "Facts",
    "Flow",
    "Fold",
    "Listing",
    "Mark",
    "Moment",
    "Page",
    "Prose",
    "Quote",
    "Section",
    "Table",
    "Timeline",
    "ops_cell",
]

# The tones of a mark: what is well, what is not, what needs a look, what matters little.
GOOD, BAD, WARN, QUIET = "good", "bad", "warn", "quiet"


@attrs.frozen
class Code:
    """A name or a piece of code."""

    text: str


@attrs.frozen
class Quote:
    """Words that a stranger may have written, or that name things of theirs."""

    text: str


@attrs.frozen
class Mark:
    """A word that stands out.

    Attributes:
        text: the word.
        tone: one of the tones; "" for none.
    """

    text: str
    tone: str = ""


Part: TypeAlias = "str | Code | Quote | Mark"
Cell: TypeAlias = "Part | tuple[Part, ...]"


@attrs.frozen
class Prose:
    """A paragraph.

    Attributes:
        text: its text.
        tone: one of the tones for a note that stands out; "" for a plain paragraph.
    """

    text: Cell
    tone: str = ""


@attrs.frozen
class Facts:
    """Names with their values."""

    rows: Sequence[tuple[Cell, Cell]]


@attrs.frozen
class Table:
    """A table.

    Attributes:
        heads: the heads of its columns.
        rows: its rows.
        numbers: the columns of numbers, which are aligned to the right.
        caption: what it shows; "" if the heading above tells it.
    """

    heads: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[int] = frozenset()
    caption: str = ""


@attrs.frozen
class Listing:
    """A list of lines."""

    items: Sequence[Cell]


@attrs.frozen
class Diff:
    """Lines of code, or of a diff.

    Attributes:
        lines: each with its mark: "-", "+" or " ".
        title: what it shows.
    """

    lines: Sequence[tuple[str, str]]
    title: Cell = ""


@attrs.frozen
class Bar:
    """One op with two numbers."""

    op: str
    before: int
    after: int


@attrs.frozen
class Bars:
    """Pairs of numbers by op, each drawn as two bars.

    Attributes:
        heads: what the numbers are.
        bars: the ops, in the order in which they are shown.
    """

    heads: tuple[Cell, Cell]
    bars: Sequence[Bar]

    @property
    def highest(self) -> int:
        """The largest number."""
        return max((max(bar.before, bar.after) for bar in self.bars), default=0)


@attrs.frozen
class Flow:
    """How many nodes each source made, by op.

    Attributes:
        title: what it shows.
        heads: what a source and an op are.
        links: (source, op, number of nodes).
    """

    title: str
    heads: tuple[str, str]
    links: Sequence[tuple[str, str, int]]


@attrs.frozen
class Moment:
    """One event of a time line.

    Attributes:
        row: the row that it is shown in.
        at: its time in UTC, in the form of ISO 8601.
        kind: the kind of the event.
        seq: its seq.
        failed: whether it is an export that failed.
    """

    row: str
    at: str
    kind: str
    seq: int
    failed: bool = False


@attrs.frozen
class Timeline:
    """Events along a time axis, a row for each table.

    Attributes:
        title: what it shows.
        moments: the events, oldest first.
    """

    title: str
    moments: Sequence[Moment]


@attrs.frozen
class Fold:
    """Blocks that a reader opens.

    Attributes:
        title: what is inside.
        blocks: the blocks.
        opened: whether it is open at first.
    """

    title: Cell
    blocks: Sequence[Block]
    opened: bool = False


Block: TypeAlias = "Prose | Facts | Table | Listing | Diff | Bars | Flow | Timeline | Fold"


@attrs.frozen
class Section:
    """A part of a page with a title.

    Attributes:
        title: the title, unique on the page.
        blocks: its blocks.
    """

    title: str
    blocks: Sequence[Block]


@attrs.frozen
class Page:
    """A whole page.

    Attributes:
        kind: what it is about in one or two words: `Export`, `Drift`.
        name: the state spec or the file that it is about.
        status: the verdict in a few words; None if nothing is judged.
        lead: one sentence that sums it up.
        figures: the numbers that matter most: name -> its value.
        sections: its parts, the most important one first. Sections without blocks are left out.
    """

    kind: str
    name: Cell
    status: Mark | None
    lead: Cell
    figures: Mapping[str, Cell] = attrs.field(factory=dict)
    sections: Sequence[Section] = ()

    @property
    def shown(self) -> tuple[Section, ...]:
        """The sections that have blocks."""
        return tuple(section for section in self.sections if section.blocks)


def ops_cell(ops: Sequence[str], limit: int = 6) -> tuple[Part, ...]:
    """Return a cell with the names of ops; of more than the limit the first ones, and how many more there are."""
    parts: list[Part] = []
    limit = limit if len(ops) <= limit else min(limit, 5)
    for op in ops[:limit]:
        parts += [", ", Code(op)] if parts else [Code(op)]
    if len(ops) > limit:
        parts.append(f" and {len(ops) - limit} more")
    return tuple(parts)
