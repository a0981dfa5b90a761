"""The pages of a hub's answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from decomp_ledger.hub.questions import HubExport
from decomp_ledger.reports.blocks import BAD, GOOD, Cell, Code, Mark, Page, Prose, Quote, Section, Table
from decomp_ledger.reports.event_blocks import moment
from decomp_ledger.reports.words import count, summary

__all__ = ["hub_exports_page"]


def hub_exports_page(hub: str, exports: Sequence[HubExport]) -> Page:
    """Return the page of exports of a hub.

    Args:
        hub: the address of the hub, without a password.
        exports: the exports, newest first.
    """
    failed = sum(each.body.error is not None for each in exports)
    rows: list[tuple[Cell, ...]] = [
        (
            Code(each.ledger.name),
            Code(f"export:{each.event.seq}"),
            Quote(each.program),
            Code(f"{each.event.table}@{each.event.version}"),
            moment(each.event.recorded_at),
            Quote(each.torch),
            Quote(each.event.actor),
            Mark("failed", BAD) if each.body.error is not None else Mark("succeeded", GOOD),
            Quote(summary(each.event)),
        )
        for each in exports
    ]
    heads = ("ledger", "export", "program", "table", "when (UTC)", "torch", "who", "status", "result")
    found = [Table(heads, rows)] if rows else [Prose("No export of the hub matches.")]
    status = Mark(f"{failed} failed", BAD) if failed else None
    return Page("Exports of a hub", Code(hub), status, count(len(exports), "export"), {}, [Section("", found)])
