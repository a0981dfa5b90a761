"""The command that makes a page to look at: report. It imports no torch, unless --graphs compares programs."""

from __future__ import annotations

import click

from decomp_ledger.cli.output import LedgerOption, markdown_option, note, pass_ledger, print_lines, progress
from decomp_ledger.storage.new_file import write_text

__all__ = ["COMMANDS"]


@click.command()
@click.argument("state", required=False, metavar="[STATE")
@click.argument("other", required=False, metavar="[STATE]]")
@click.option("-o", "--output", metavar="FILE", help="Write to a file; by default to standard output.")
@click.option(
    "--graphs",
    is_flag=True,
    help="For two .pt2 files: show the first node that differs. torch.export.load unpickles them.",
)
@markdown_option
@pass_ledger
def report(
    option: LedgerOption,
    state: str | None,
    other: str | None,
    output: str | None,
    graphs: bool,
    markdown: bool,
) -> None:
    """Make a page to look at, of an export, a table, a .pt2, a difference, or the whole ledger: one HTML file.

    It has no scripts and loads nothing. For an export it shows what it was, each rule and who set it, the ops before
    and after, what made the nodes, what each newer torch changes, and how to make it again.

    With two states, it shows what differs: of two tables or exports their rules, sources and results, of torch:A and
    torch:B their drift. Without a state, it shows a time line of all tables and exports.
    """
    with option.ask() as ledger, progress("compare with newer torch versions") as report_progress:
        page = ledger.report(state, other, markdown=markdown, graphs=graphs, progress=report_progress)
    if output is None:
        print_lines(page.splitlines())
        return
    write_text(output, page)
    note(f"wrote {output}: {len(page.encode())} bytes")


COMMANDS = (report,)
