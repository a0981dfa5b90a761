"""A page as HTML: one file without scripts, that loads nothing."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decomp_ledger.model.printable import printable
from decomp_ledger.reports.blocks import Cell, Flow, Page, Part, Timeline
from decomp_ledger.reports.charts import FlowChart, TimeChart, flow_chart, time_chart

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["to_html"]

_LONGEST = 2000  # characters of one text
_TEMPLATES = Path(__file__).parent / "templates"


def to_html(page: Page) -> str:
    """Return a page as one HTML file, the same for the same page."""
    return _environment().get_template("page.html").render(page=page)


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
    )
    made.filters.update(kind=_kind, parts=_parts, chart=_chart, slug=_slug, percent=_percent, plain=_plain)
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


def _chart(block: Flow | Timeline) -> FlowChart | TimeChart:
    return flow_chart(block) if isinstance(block, Flow) else time_chart(block)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _percent(number: int, of: int) -> str:
    return f"{100 * number / max(of, 1):.1f}"
