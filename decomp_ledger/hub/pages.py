"""The pages of a hub's answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from decomp_ledger.hub.gating import HubGate
from decomp_ledger.hub.questions import HubExport
from decomp_ledger.reports.blocks import (
    BAD,
    GOOD,
    WARN,
    Block,
    Cell,
    Code,
    Fold,
    Mark,
    Page,
    Prose,
    Quote,
    Section,
    Table,
)
from decomp_ledger.reports.event_blocks import moment
from decomp_ledger.reports.gate_view import gate_page, gate_summary
from decomp_ledger.reports.words import count, summary

__all__ = ["hub_exports_page", "hub_gate_page", "hub_gate_summary"]


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


def hub_gate_summary(found: HubGate) -> str:
    """Return the verdict over a hub in one line."""
    results = [result for _, result in found.results]
    torch = next((f", for torch {each.torch}" for each in results if each.torch is not None), "")
    programs, tables = sum(len(each.programs) for each in results), sum(len(each.tables) for each in results)
    judged = f"{count(programs, 'program')} and {count(tables, 'table')} judged{torch}"
    verdict = "passed" if found.passed else "did not pass"
    of = f"{len(results) - len(found.failed)} of {count(len(results), 'ledger')} passed"
    doubtful = sum(bool(each.unknown) for each in results)
    return f"{verdict}: {of}; {judged}" + (f"; something is unknown in {count(doubtful, 'ledger')}" if doubtful else "")


def hub_gate_page(hub: str, found: HubGate) -> Page:
    """Return the page of a gate over a hub: the ledgers with findings or with something unknown.

    Args:
        hub: the address of the hub, without a password.
        found: the result.
    """
    shown = [(ledger, result) for ledger, result in found.results if result.findings or result.unknown]
    status = Mark("passed", GOOD) if found.passed else Mark(f"did not pass: {len(found.failed)} ledgers", BAD)
    if found.passed and shown:
        status = Mark("passed, with unknown", WARN)
    blocks: list[Block] = []
    for ledger, result in shown:
        own = {section.title: section.blocks for section in gate_page(result).sections}
        title: Cell = (Code(ledger.name), f": {gate_summary(result)}")
        blocks.append(Fold(title, [*own.get("Findings", ()), *own.get("Unknown", ())], opened=not result.passed))
    return Page("Gate of a hub", Code(hub), status, hub_gate_summary(found), {}, [Section("Ledgers", blocks)])
