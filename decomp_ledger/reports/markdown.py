"""A page as Markdown, for a pull request and for `$GITHUB_STEP_SUMMARY`.

What a stranger may have written becomes a code span, in which nothing is a link, a mention or markup.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from decomp_ledger.model.printable import printable
from decomp_ledger.reports.blocks import (
    BAD,
    QUIET,
    WARN,
    Bars,
    Block,
    Cell,
    Code,
    Diff,
    Facts,
    Flow,
    Fold,
    Listing,
    Page,
    Part,
    Prose,
    Quote,
    Table,
    Timeline,
)

__all__ = ["to_markdown"]

_Item = TypeVar("_Item")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|~&@])")
_LONGEST = 400  # characters of one text
_ROWS = 100  # of one table or list, because GitHub shows at most 65,536 characters of a comment
_PARTS = 200  # of one cell or paragraph
_LINES = 60  # of one diff


def to_markdown(page: Page) -> str:
    """Return a page as Markdown of GitHub's dialect."""
    lines = [f"### {_text(page.kind)}: {_cell(page.name)}", ""]
    status = [] if page.status is None else [f"**{_text(page.status.text)}**"]
    lead = _cell(page.lead)
    lines += [": ".join([*status, *([lead] if lead else [])])] if status or lead else []
    if page.figures:
        lines += ["", ", ".join(f"{_text(name)} {_figure(value)}" for name, value in page.figures.items())]
    for section in page.shown:
        lines += ["", *([f"#### {_text(section.title)}", ""] if section.title else []), *_blocks(section.blocks)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _figure(value: Cell) -> str:
    return f"**{_text(value)}**" if isinstance(value, str) else _cell(value)


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    for number, block in enumerate(blocks):
        if number:
            yield ""
        yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Prose):
        yield f"**{_cell(block.text)}**" if block.tone in (BAD, WARN) else _cell(block.text)
    elif isinstance(block, Facts):
        yield from _table(("fact", "value"), block.rows)
    elif isinstance(block, Table):
        yield from _table(block.heads, block.rows, block.numbers)
    elif isinstance(block, Listing):
        yield from _first(block.items, _ROWS, lambda item: f"- {_cell(item)}", "- and {} more")
    elif isinstance(block, Diff):
        yield from _diff(block)
    elif isinstance(block, Bars):
        rows = [(Code(bar.op), str(bar.before), str(bar.after)) for bar in block.bars]
        yield from _table(("op", *block.heads), rows, frozenset({1, 2}))
    elif isinstance(block, Flow):
        links = [(Code(source), Code(op), str(number)) for source, op, number in block.links]
        yield from _table((*block.heads, "nodes"), links, frozenset({2}))
    elif isinstance(block, Timeline):
        moments = [(Code(each.row), Code(f"#{each.seq}"), each.kind, Code(each.at[:19])) for each in block.moments]
        yield from _table(("table", "event", "kind", "when (UTC)"), moments)
    else:
        yield from _fold(block)


def _fold(block: Fold) -> Iterator[str]:
    yield f"<details{' open' if block.opened else ''}>"
    yield f"<summary>{_cell(block.title, html=True)}</summary>"
    yield ""
    yield from _blocks(block.blocks)
    yield ""
    yield "</details>"


def _diff(block: Diff) -> Iterator[str]:
    """Yield a fenced block; below its title, as an item of a list, if it has one."""
    texts = [f"{mark} {printable(line)[:_LONGEST]}" for mark, line in block.lines]
    longest = max((len(run) for text in texts for run in re.findall("`+", text)), default=0)
    fence, indent = "`" * max(3, longest + 1), ""
    if block.title:
        yield f"- {_cell(block.title)}"
        if not texts:
            return
        yield ""
        indent = "  "
    yield f"{indent}{fence}diff"
    yield from _first(texts, _LINES, lambda text: f"{indent}{text}", f"{indent}  ... and {{}} more lines")
    yield f"{indent}{fence}"


def _table(
    heads: Sequence[Cell], rows: Sequence[Sequence[Cell]], numbers: frozenset[int] = frozenset()
) -> Iterator[str]:
    yield _row(heads)
    yield f"| {' | '.join('---:' if number in numbers else '---' for number in range(len(heads)))} |"
    rest = " |" * (len(heads) - 1)
    yield from _first(rows, _ROWS, _row, f"| and {{}} more |{rest}")


def _row(row: Sequence[Cell]) -> str:
    return f"| {' | '.join(_cell(cell, table=True) for cell in row)} |"


def _first(items: Sequence[_Item], limit: int, write: Callable[[_Item], str], more: str) -> Iterator[str]:
    """Yield the line of each of the first items, and a line that says how many more there are."""
    yield from map(write, items[:limit])
    if len(items) > limit:
        yield more.format(len(items) - limit)


def _cell(cell: Cell, *, table: bool = False, html: bool = False) -> str:
    parts = cell if isinstance(cell, tuple) else (cell,)
    more = " and more" if len(parts) > _PARTS else ""
    return "".join(_part(part, table=table, html=html) for part in _joined(parts[:_PARTS])) + more


def _joined(parts: Sequence[Part]) -> Iterator[Part]:
    """Yield the parts, with neighbours that become code as one, because the backticks of two would be read as one."""
    for is_code, some in itertools.groupby(parts, lambda part: isinstance(part, (Code, Quote))):
        if is_code:
            yield Code("".join(part.text for part in some if isinstance(part, (Code, Quote))))
        else:
            yield from some


def _part(part: Part, *, table: bool, html: bool) -> str:
    if isinstance(part, str):
        return _text(part)
    if isinstance(part, (Code, Quote)):
        return _code(part.text, table=table, html=html)
    return f"**{_text(part.text)}**" if part.tone not in ("", QUIET) and not html else _text(part.text)


def _clipped(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def _code(text: str, *, table: bool, html: bool) -> str:
    """Return text as code, inside which no character has a meaning."""
    shown = _clipped(text)
    if not shown.strip():
        return ""
    if html or (table and ("|" in shown or "\\" in shown)):
        # A table ends a cell at any `|`, in code too, and a summary reads no backticks.
        return f"<code>{''.join(c if c.isalnum() or c in ' .,:/-' else f'&#{ord(c)};' for c in shown)}</code>"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith(("`", " ")) or shown.endswith(("`", " ")) else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _text(text: str) -> str:
    """Return a text of ours with every character escaped that has a meaning in Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", _clipped(text))
