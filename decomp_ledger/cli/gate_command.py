"""The command that judges a ledger before a release: gate. It imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

import click

from decomp_ledger.analysis.gate import TORCH, GateResult
from decomp_ledger.cli.hub_answers import hub_options, needs_hub, open_hub, without_hub
from decomp_ledger.cli.output import (
    FOUND,
    LedgerOption,
    event_lines,
    hanging,
    json_option,
    markdown_option,
    pass_ledger,
    print_lines,
    printable,
    progress,
    write_json,
)
from decomp_ledger.hub.gating import HubGate
from decomp_ledger.hub.pages import hub_gate_summary
from decomp_ledger.reports import pages
from decomp_ledger.reports.gate_view import FindingGroup, finding_groups, gate_summary
from decomp_ledger.storage.new_file import write_text

__all__ = ["COMMANDS"]


@click.command()
@click.argument("state", required=False, metavar="[TABLE|TABLE@VERSION|TABLE@TAG|export:N|FILE.pt2]")
@click.option(
    "--torch", "version", metavar="VERSION", help="Judge what this torch version changes; its catalog is shipped."
)
@click.option("--since", metavar="WHEN", help="Only exports since then: 2w, '3 days ago', yesterday, 2026-01-31.")
@click.option("--strict", is_flag=True, help="Exit with 1 also if something could not be judged.")
@click.option("--html", "page", metavar="FILE", help="Also write a page to send: one HTML file, which loads nothing.")
@hub_options("of")
@markdown_option
@json_option
@pass_ledger
def gate(
    option: LedgerOption,
    state: str | None,
    version: str | None,
    since: str | None,
    strict: bool,
    hub: str | None,
    of: str | None,
    page: str | None,
    markdown: bool,
    as_json: bool,
) -> int:
    """Judge each program and table of the ledger, or one, by the project's policy; exit with 1 if any breaks it.

    With --torch, also name the programs that another torch changes: those whose newest export uses an op that enters
    or leaves its table, or behaves differently. The policy is [tool.decomp-ledger.policy] of pyproject.toml.

    What cannot be judged is listed as unknown, and passes unless --strict is given.

    With --hub, judge each program and table of every ledger of a hub.
    """
    found: GateResult | HubGate
    if hub is not None:
        without_hub(STATE=state)
        with progress("judge the ledgers") as report:
            found = open_hub(hub).gate(torch=version, strict=strict, since=since, ledger=of, progress=report)
    else:
        needs_hub(of=of)
        with option.ask() as ledger, progress("judge the programs") as report:
            found = ledger.gate(state, torch=version, strict=strict, since=since, progress=report)
    if page is not None:
        write_text(page, pages.report(found))
    if as_json:
        write_json(found.to_json())
    elif markdown:
        print_lines(pages.report(found, markdown=True).splitlines())
    else:
        print_lines(_lines(found) if isinstance(found, GateResult) else _hub_lines(found))
    return 0 if found.passed else FOUND


def _hub_lines(found: HubGate) -> Iterator[str]:
    yield from hanging(hub_gate_summary(found.results))
    for ledger, result in found.results:
        if result.findings or result.unknown:
            yield ""
            yield click.style(printable(ledger.name), bold=True)
            yield from (f"  {line}" for line in _lines(result))


def _lines(found: GateResult) -> Iterator[str]:
    yield from hanging(gate_summary(found))
    for group in finding_groups(found):
        yield from _group_lines(group)
    for each in found.unknown:
        yield from hanging(f"unknown: {each}")


def _group_lines(group: FindingGroup) -> Iterator[str]:
    first = group.first
    policy = click.style(first.policy, bold=True)
    line, *rest = hanging(group.heading)
    yield policy + line.removeprefix(first.policy)
    yield from rest
    for each in group.subjects:
        yield from hanging(f"  in {each}")
    if first.event is not None and first.policy != TORCH:
        yield from (f"  {text}" for text in event_lines(first.event))
    yield from hanging(f"  to mend: {first.fix}{group.others}")


COMMANDS = (gate,)
