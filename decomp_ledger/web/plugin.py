"""What this package adds to Datasette: links, reports, the text of cells, errors, and who may ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from datasette import hookimpl
from datasette.database import QueryInterrupted
from datasette.utils import tilde_decode, tilde_encode
from datasette.utils.asgi import Base400, NotFound, Response
from datasette.views.base import DatasetteError
from markupsafe import Markup, escape

from decomp_ledger.errors import LedgerError
from decomp_ledger.model.printable import printable
from decomp_ledger.model.state_specs import TableSpec, parse_number
from decomp_ledger.model.times import shown_time
from decomp_ledger.queries import State
from decomp_ledger.reports.html import style_sheet
from decomp_ledger.reports.pages import report
from decomp_ledger.storage.views import VIEWS
from decomp_ledger.web.guard import guarded

_LONGEST = 2000  # characters of a cell
_SHORT, _MIDDLE = 28, 60  # characters of a cell that does not wrap, and of one that is not wide
_FIRST = 12  # letters of a digest that is a link
_LONGEST_DIGEST = 64  # bytes of a value that is shown in hex
_FOREIGN = {
    "table_id": "decomp_table",
    "op_id": "op",
    "provenance_id": "provenance",
    "environment_id": "environment",
    "decomposition_id": "decomposition",
    "base_id": "catalog",
}


# Templates


@hookimpl
def prepare_jinja2_environment(env: Any) -> None:
    """Show every text with what does not print escaped, also where a template has no filter."""
    env.finalize = lambda value: value if isinstance(value, Markup) else printable(str(value))
    env.globals.update(style_sheet=Markup(style_sheet()), described=VIEWS)
    env.filters.update(marked=_marked, lines=_lines, exact=lambda text: Markup(escape(text)))
    env.filters.update(report=_report_of, width=_width)


def _marked(text: str) -> Markup:
    """Return a text of this package whose code stands between backticks."""
    parts = [
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(text.split("`"))
    ]
    return Markup().join(parts)


def _lines(text: object) -> Markup:
    """Return a text of any origin on its own lines."""
    return Markup("\n").join(printable(line) for line in str(text).split("\n"))


def _width(cell: object) -> str:
    """Return a class for a cell, by the length of its text: short ones do not wrap, and long ones keep a width."""
    length = len(cell.striptags() if isinstance(cell, Markup) else str(cell))
    return "short" if length <= _SHORT else "middle" if length <= _MIDDLE else "long"


# Cells


@hookimpl
def extra_template_vars(datasette: Any) -> dict[str, object]:
    """Give templates the name of the file, and what there is to know about it."""
    old = datasette.ledger_file.in_memory
    notice = "An older version wrote it: the pages show it as it was when the server began." if old else ""
    return {"file_name": Path(datasette.ledger.path).name, "notice": notice}


@hookimpl
def render_cell(row: Any, value: Any, column: str, table: str | None, database: str, datasette: Any) -> object:
    """Return what a cell shows: a link where there is more to see, and text that prints. None means as Datasette."""
    if isinstance(value, bytes):
        return Markup("<code>{}</code>").format(value.hex()) if len(value) <= _LONGEST_DIGEST else None
    if isinstance(value, dict):  # a row of another table, with its label
        return _foreign(datasette, database, column, value["value"], value["label"])
    if isinstance(value, int):
        return _number(row, value, column, table, database, datasette)
    if not isinstance(value, str) or not value:
        return None
    if column == "recorded_at":
        value = shown_time(value)
    shown = printable(value if len(value) <= _LONGEST else f"{value[:_LONGEST]}... ({len(value)} characters)")
    address = _address_of_text(row, value, column, table, database, datasette)
    if address is None:
        return escape(shown)
    return _link(address, shown[:_FIRST] if column == "environment" else shown)


def _link(address: str, text: object) -> Markup:
    return Markup('<a href="{}">{}</a>').format(address, text)


def _foreign(datasette: Any, database: str, column: str, value: object, label: object) -> Markup | None:
    if column not in _FOREIGN or not isinstance(value, int):
        return None
    return _link(datasette.urls.row(database, _FOREIGN[column], str(value)), printable(str(label)[:_LONGEST]))


def _number(
    row: Any, value: int, column: str, table: str | None, database: str, datasette: Any
) -> Markup | Awaitable[Markup | None] | None:
    """Return the link of a number, as the name of its column says what it counts."""
    if column == "export" or (table, column) == ("exports", "seq"):
        return _link(datasette.urls.path(f"/-/report/export/{value}"), value)
    if column in ("seq", "first_seq", "last_seq") and table != "event":
        return _link(datasette.urls.row(database, "event", str(value)), value)
    names = row.keys()  # `in` would search the values
    if column in ("version", "since_version") and "table_name" in names:
        return _link(_table_report(datasette, str(row["table_name"]), value), value)
    if column in _FOREIGN and table is not None:
        return _labelled(datasette, database, table, column, value)
    return None


async def _labelled(datasette: Any, database: str, table: str, column: str, value: int) -> Markup | None:
    labels: Mapping[Any, object] = await datasette.expand_foreign_keys(database, table, column, [value])
    return _foreign(datasette, database, column, value, labels.get((column, value), value))


def _address_of_text(row: Any, value: str, column: str, table: str | None, database: str, datasette: Any) -> str | None:
    if column == "table_name" or (table, column) == ("decomp_table", "name"):
        return _table_report(datasette, value)
    if column == "op" or (table, column) == ("op", "name"):
        return _filtered(datasette, database, "changes", {"op": value})
    if column == "environment" and table != "environments":
        return _filtered(datasette, database, "environments", {"environment": value})
    if table == "event" and column == "kind" and value == "exported":
        return str(datasette.urls.path(f"/-/report/export/{row['seq']}"))
    return None


def _filtered(datasette: Any, database: str, table: str, values: Mapping[str, str]) -> str:
    return f"{datasette.urls.table(database, table)}?{urlencode({f'{name}__exact': v for name, v in values.items()})}"


def _table_report(datasette: Any, table: str, version: int | None = None) -> str:
    at = "" if version is None else f"?version={version}"
    return f"{datasette.urls.path(f'/-/report/table/{tilde_encode(table)}')}{at}"


def _report_of(row: Any) -> int | None:
    """Return the number of the export that a row of `event` is."""
    return row["seq"] if row["kind"] == "exported" and isinstance(row["seq"], int) else None


# Reports


@hookimpl
def register_routes() -> list[tuple[str, Callable[..., Any]]]:
    """Return the addresses of reports. No other address below `/-/` is served: those tell about the machine."""
    return [
        (r"^/$", _first_page),
        (r"^/-/report$", _of_ledger),
        (r"^/-/report/export/(?P<number>[0-9]{1,18})$", _of_export),
        (r"^/-/report/exports/(?P<before>[0-9]{1,18})/(?P<after>[0-9]{1,18})$", _of_two_exports),
        (r"^/-/report/table/(?P<table>[^/]+)$", _of_table),
        (r"^/-/(?P<rest>.*)$", _nothing),
    ]


def _first_page(datasette: Any) -> Any:
    return Response.redirect(datasette.urls.database("ledger"))


async def _of_ledger(datasette: Any) -> Any:
    return await _report(datasette)


async def _of_export(datasette: Any, request: Any) -> Any:
    return await _report(datasette, f"export:{request.url_vars['number']}")


async def _of_two_exports(datasette: Any, request: Any) -> Any:
    return await _report(datasette, *(f"export:{request.url_vars[name]}" for name in ("before", "after")))


async def _of_table(datasette: Any, request: Any) -> Any:
    # Not as a text, which may also name a file.
    version = request.args.get("version")
    number = None if version is None else parse_number(version)
    return await _report(
        datasette, TableSpec(tilde_decode(request.url_vars["table"]), version if number is None else number)
    )


async def _report(datasette: Any, *states: State) -> Any:
    """Return the page of a report. In a thread, because it compares the catalogs of several torch versions."""
    datasette.ledger_file.check_served()
    return Response.html(await asyncio.to_thread(report, *states, ledger=datasette.ledger))


def _nothing(request: Any) -> Any:
    raise NotFound(f"{request.path}: no page has this address; begin at /")


# Errors, and who may ask


@hookimpl
def handle_exception(datasette: Any, request: Any, exception: Exception) -> Callable[[], Awaitable[Any]]:
    """Return the page of an error. Datasette's own prints the error, with texts of the ledger, to the terminal."""

    async def page() -> Any:
        status, title, message = _problem(exception)
        if request.path.endswith(".json"):
            return Response.json({"ok": False, "error": message, "status": status, "title": title}, status=status)
        template = datasette.jinja_env.get_template("error.html")
        return Response.html(
            await template.render_async(title=title, error=message, urls=datasette.urls), status=status
        )

    return page


def _problem(error: Exception) -> tuple[int, str, str]:
    """Return the HTTP status, the title and the text of an error."""
    if isinstance(error, LedgerError):
        return 404 if isinstance(error, LookupError) else 500, "The ledger has no answer", str(error)
    if isinstance(error, DatasetteError) and isinstance(error.__context__, QueryInterrupted):
        return 400, "The statement took too long", "It was stopped; ask for less, for example with LIMIT"
    if isinstance(error, DatasetteError):
        return error.status, error.title or "Wrong use", str(error.message)
    if isinstance(error, Base400):
        return error.status, "There is nothing here" if error.status == 404 else "Wrong use", str(error)
    return 500, "The page could not be made", f"{type(error).__name__}: {error}"


@hookimpl
def asgi_wrapper() -> Callable[[Any], Any]:
    """Refuse what no page of this site asks for."""
    return guarded
