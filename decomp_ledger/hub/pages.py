"""The pages of a hub's answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from decomp_ledger.analysis.gate import GateResult
from decomp_ledger.hub.questions import HubExport
from decomp_ledger.hub.reading import LedgerName
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
from decomp_ledger.reports.gate_view import (
    file_blocks,
    finding_blocks,
    gate_mark,
    gate_summary,
    policy_blocks,
    program_blocks,
)
from decomp_ledger.reports.words import count, summary

__all__ = ["hub_exports_page", "hub_gate_page", "hub_gate_summary"]

LedgerResults: TypeAlias = "Sequence[tuple[LedgerName, GateResult]]"


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


def hub_gate_summary(results: LedgerResults) -> str:
    """Return the verdict over a hub in one line.

    Args:
        results: the ledgers by name, each with its result.
    """
    verdict = "passed" if all(each.passed for _, each in results) else "did not pass"
    return f"{verdict}: {_hub_judged(results)}"


def _hub_judged(results: LedgerResults) -> str:
    torch = next((f", for torch {each.torch}" for _, each in results if each.torch is not None), "")
    programs, tables = sum(len(each.programs) for _, each in results), sum(len(each.tables) for _, each in results)
    judged = f"{count(programs, 'program')} and {count(tables, 'table')} judged{torch}"
    passed = sum(each.passed for _, each in results)
    doubtful = sum(bool(each.unknown) for _, each in results)
    unknown = f"; something is unknown in {count(doubtful, 'ledger')}" if doubtful else ""
    return f"{passed} of {count(len(results), 'ledger')} passed; {judged}{unknown}"


def hub_gate_page(hub: str, results: LedgerResults) -> Page:
    """Return the page of a gate over a hub: the verdict of each ledger, and what is wrong or unknown in it.

    Args:
        hub: the address of the hub, without a password.
        results: the ledgers by name, each with its result.
    """
    failed = sum(not each.passed for _, each in results)
    status = Mark(f"did not pass: {count(failed, 'ledger')}", BAD) if failed else Mark("passed", GOOD)
    if not failed and any(each.unknown for _, each in results):
        status = Mark("passed, with unknown", WARN)
    rows: list[tuple[Cell, ...]] = []
    details: list[Block] = []
    for ledger, found in sorted(results, key=lambda pair: pair[1].passed):
        numbers = (found.programs, found.tables, found.findings, found.unknown)
        rows.append((Code(ledger.name), gate_mark(found), *(str(len(each)) for each in numbers), Code(found.head)))
        parts = finding_blocks(found)
        if any(parts.values()):
            parts |= {"Programs": program_blocks(found), "Files": file_blocks(found)}
            blocks = [Fold(title, blocks, opened=title == "Findings") for title, blocks in parts.items() if blocks]
            details.append(Fold((Code(ledger.name), f": {gate_summary(found)}"), blocks, opened=not found.passed))
    heads = ("ledger", "verdict", "programs", "tables", "findings", "unknown", "newest hash")
    sections = [
        Section("In detail", details),
        Section("Ledgers", [Table(heads, rows, frozenset({2, 3, 4, 5}))] if rows else []),
        Section("Policy", policy_blocks(results[0][1].policy) if results else []),
    ]
    return Page("Gate of a hub", Code(hub), status, _hub_judged(results), {}, sections)
