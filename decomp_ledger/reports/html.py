"""A page as HTML: one file, or a part of a notebook. It has no scripts and loads nothing."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decomp_ledger.model.printable import printable
from decomp_ledger.reports.blocks import Cell, Flow, Page, Part, Table, Timeline
from decomp_ledger.reports.charts import FlowChart, TimeChart, flow_chart, time_chart

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["style_sheet", "to_fragment", "to_html"]

_LONGEST = 2000  # characters of one text
_SHORT, _MIDDLE = 24, 60  # characters of a column that does not wrap, and of one that is not wide
_NARROW = 84  # characters of all columns together
_TEMPLATES = Path(__file__).parent / "templates"


def to_html(page: Page) -> str:
    """Return a page as one HTML file, the same for the same page."""
    return _environment().get_template("page.html").render(page=page, region="region")


def to_fragment(page: Page) -> str:
    """Return a page as a part of another page, such as a notebook: its styles apply to nothing else, it has no ids."""
    return _environment().get_template("fragment.html").render(page=page, region="group")


def style_sheet() -> str:
    """Return the CSS of the pages."""
    return (_TEMPLATES / "style.css").read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    # Imported late, because importing jinja2 takes 60 ms, and only this function needs it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return value if isinstance(value, Markup) else _shown(str(value))

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(kind=_kind, parts=_parts, chart=_chart, slug=_slug, percent=_percent, plain=_plain)
    made.filters.update(widths=_widths, is_narrow=_is_narrow)
    return made


def _shown(text: str) -> str:
    """Return the start of a text, with what does not print escaped."""
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)")


def _kind(value: object) -> str:
    return type(value).__name__


def _parts(cell: Cell) -> tuple[Part, ...]:
    return cell if isinstance(cell, tuple) else (cell,)


def _plain(cell: Cell) -> str:
    """Return the text of a cell."""
    return "".join(part if isinstance(part, str) else part.text for part in _parts(cell))


def _widths(table: Table) -> list[str]:
    """Return a class for each column, by its longest text: narrow columns do not wrap, and wide ones keep a width."""
    longest = [max((len(_plain(row[n])) for row in table.rows), default=0) for n in range(len(table.heads))]
    return ["short" if length <= _SHORT else "middle" if length <= _MIDDLE else "long" for length in longest]


def _is_narrow(table: Table) -> bool:
    """Tell whether a table needs less than the width of the page."""
    rows = [[len(_plain(head)) for head in table.heads], *([len(_plain(cell)) for cell in row] for row in table.rows)]
    widest: list[int] = [max(column) for column in zip(*rows, strict=True)]
    return sum(widest) <= _NARROW


def _chart(block: Flow | Timeline) -> FlowChart | TimeChart:
    return flow_chart(block) if isinstance(block, Flow) else time_chart(block)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _percent(number: int, of: int) -> str:
    return f"{100 * number / max(of, 1):.1f}"
