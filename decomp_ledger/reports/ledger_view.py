"""The pages of a whole ledger, and of its exports. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from decomp_ledger.analysis.export_results import ExportResult
from decomp_ledger.analysis.totals import ExportTotals
from decomp_ledger.model.events import Event, Exported
from decomp_ledger.reports.blocks import (
    BAD,
    Block,
    Cell,
    Code,
    Diff,
    Facts,
    Fold,
    Mark,
    Moment,
    Page,
    Prose,
    Quote,
    Section,
    Table,
    Timeline,
)
from decomp_ledger.reports.event_blocks import events_table, moment
from decomp_ledger.reports.export_view import exports_table, totals_blocks
from decomp_ledger.reports.words import count
from decomp_ledger.storage.history import TableSeries

__all__ = ["LedgerFacts", "exports_page", "ledger_page"]

_EVENTS = 300  # events of the log, and exports, that a page lists
_MOMENTS = 1500  # events that a time line shows
_FAILURES = 20


@attrs.frozen
class LedgerFacts:
    """What the page of a ledger shows.

    Attributes:
        path: the file, as the user named it.
        id: the ledger's own id.
        head: the hash of its last event.
        series: its tables, the runs of a recorded table together.
        tags: table -> its tags, each with its version.
        events: its last events, oldest first.
        exports: all its exports, oldest first.
        number: how many events it has.
        totals: what its exports show together.
        torches: the digest of an environment -> its torch version.
    """

    path: str
    id: str
    head: str
    series: Sequence[TableSeries]
    tags: Mapping[str, Mapping[str, int]]
    events: Sequence[Event]
    exports: Sequence[ExportResult]
    number: int
    totals: ExportTotals
    torches: Mapping[str, str]


def ledger_page(found: LedgerFacts) -> Page:
    """Return the page of a ledger: a time line, its tables, its exports, its log."""
    figures: dict[str, Cell] = {
        "events": str(found.number),
        "tables": str(len(found.series)),
        "exports": str(found.totals.exports),
        "failed": str(found.totals.failed),
    }
    lead: Cell = "It has no event yet." if not found.events else _lead(found)
    sections = [
        Section("Failed exports", _failures(found)),
        Section("To look at", totals_blocks(found.totals)),
        Section("Time line", _timeline(found)),
        Section("Tables", _tables(found)),
        Section("Exports", _exports(found)),
        Section("Log", _log(found)),
        Section("How to check it", _check(found)),
    ]
    status = Mark(f"{count(found.totals.failed, 'failed export')}", BAD) if found.totals.failed else None
    return Page("Ledger", Code(found.path), status, lead, figures, sections)


def _lead(found: LedgerFacts) -> Cell:
    first, last = found.events[0], found.events[-1]
    of = "" if len(found.events) == found.number else f", of the last {count(len(found.events), 'event')}"
    return ("From ", moment(first.recorded_at), " to ", moment(last.recorded_at), f" UTC{of}.")


def _failures(found: LedgerFacts) -> list[Block]:
    rows: list[tuple[Cell, Cell, Cell]] = []
    for each in found.exports:
        event, body = each.event, each.event.body
        if isinstance(body, Exported) and body.error is not None:
            what = " ".join(": ".join(body.error).split())  # on one line: a cell shows the end of a line as `\n`
            rows.append((Code(f"export:{event.seq}"), Code(f"{event.table}@{event.version}"), Quote(what)))
    return [Table(("export", "table", "error"), rows[-_FAILURES:])] if rows else []


def _timeline(found: LedgerFacts) -> list[Block]:
    names = {table.name: each.name for each in found.series for table in each.tables}
    moments = [
        Moment(
            names.get(event.table, event.table),
            event.recorded_at,
            event.kind,
            event.seq,
            isinstance(event.body, Exported) and event.body.error is not None,
        )
        for event in found.events[-_MOMENTS:]
    ]
    return [Timeline("Events of each table over time", moments)] if moments else []


def _tables(found: LedgerFacts) -> list[Block]:
    rows: list[tuple[Cell, ...]] = []
    for each in found.series:
        names, info = {table.name for table in each.tables}, each.newest
        tags = ", ".join(f"{name} (@{version})" for name, version in found.tags.get(info.name, {}).items())
        exports = sum(one.event.table in names for one in found.exports)
        runs = "" if each.run is None else str(len(each.tables))
        events = sum(table.events for table in each.tables)
        last = moment(info.last_at)
        rows.append((Code(each.name), runs, str(info.version), str(events), str(exports), last, Quote(tags)))
    heads = ("table", "runs", "version", "events", "exports", "last event (UTC)", "tags")
    return [Table(heads, rows, frozenset({1, 2, 3, 4}))] if rows else []


def _exports(found: LedgerFacts) -> list[Block]:
    if not found.exports:
        return []
    shown = found.exports[-_EVENTS:]
    more = len(found.exports) - len(shown)
    left_out = [Prose(f"{count(more, 'older export')} left out.")] if more else []
    return [*left_out, exports_table(shown, found.torches, found.id)]


def _log(found: LedgerFacts) -> list[Block]:
    if not found.events:
        return []
    shown = found.events[-_EVENTS:]
    title = f"The last {len(shown)} of {found.number} events" if len(shown) < found.number else "All events"
    return [Fold(title, [events_table(shown)], opened=len(shown) <= 40)]


def _check(found: LedgerFacts) -> list[Block]:
    return [
        Facts([("ledger", Code(found.id)), ("hash of the last event", Code(found.head))]),
        Prose("This page was made without checking the chain of hashes. To check it, and that it still has this head:"),
        Diff([(" ", f"decomp-ledger verify --expect {found.head}")]),
    ]


def exports_page(
    name: str,
    ledger: str,
    exports: Sequence[ExportResult],
    totals: ExportTotals,
    torches: Mapping[str, str],
    tracings: Sequence[Event] = (),
) -> Page:
    """Return the page of the exports of a ledger, and what they show together.

    Args:
        name: the path of the ledger.
        ledger: its id.
        exports: the exports, oldest first; empty for the totals alone.
        totals: what they show together.
        torches: the digest of an environment -> its torch version.
        tracings: what torch traced outside of exports.
    """
    status = Mark(f"{totals.failed} failed", BAD) if totals.failed else None
    sections = [
        Section("", [exports_table(exports, torches, ledger)] if exports else []),
        Section("To look at", totals_blocks(totals)),
        Section("Traced outside of exports", [events_table(tracings)] if tracings else []),
    ]
    return Page("Exports", Code(name), status, count(totals.exports, "export"), {}, sections)
