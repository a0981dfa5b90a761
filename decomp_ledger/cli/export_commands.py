"""Commands about exports: exports, reproduce, and what `show` prints of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from decomp_ledger.cli.output import (
    LedgerOption,
    columns,
    event_json,
    json_option,
    note,
    pass_ledger,
    what,
    when,
    write_json,
)
from decomp_ledger.cli.state_specs import find
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import OVERRIDE, PRESERVE

if TYPE_CHECKING:
    from decomp_ledger.transfer.export_bundle import ExportBundle
    from decomp_ledger.transfer.stamp import Stamp

__all__ = ["COMMANDS", "export_json", "print_export", "print_stamp", "stamp_json"]


@click.command()
@json_option
@pass_ledger
def exports(option: LedgerOption, as_json: bool) -> None:
    """List the exports: with which table and torch, and what came of it."""
    with option.read() as ledger:
        found = list(ledger.exports())
        if as_json:
            write_json([event_json(event) for event in found])
            return
        columns(
            ("export", "table", "when (UTC)", "torch", "what"),
            (
                (
                    f"export:{event.seq}",
                    f"{event.table}@{event.version}",
                    when(event.recorded_at),
                    str(ledger.environment(event.environment).get("torch", "")),
                    what(event),
                )
                for event in found
            ),
        )


def print_stamp(name: str, stamp: Stamp) -> None:
    """Print what a file says of the program in it."""
    *earlier, last = (f"{bundle.name} of ledger {bundle.ledger[:8]}" for bundle in stamp.bundles)
    before = f", after {', '.join(earlier)}" if earlier else ""
    note(f"{name} was made by {last}{before}")
    if stamp.edited:
        note("  THE PROGRAM WAS CHANGED between that export and its being saved")


def stamp_json(stamp: Stamp) -> dict[str, Json]:
    """Return what a file says of the program in it, without the tables."""
    return {
        "graph": stamp.graph,
        "edited": stamp.edited,
        "exports": [{"ledger": bundle.ledger, "seq": bundle.event.seq, "hash": bundle.event.hash}
                    for bundle in stamp.bundles],
    }  # fmt: skip


def print_export(bundle: ExportBundle) -> None:
    """Print one export: what fired, and which of the table's changes did nothing in it."""
    event, body = bundle.event, bundle.body
    note(f"{bundle.name}  {event.table}@{event.version}  {what(event)}")
    where = f", at {event.call_site}" if event.call_site else ""
    note(f"  by {event.actor}{where}, {when(event.recorded_at)} UTC")
    if body.error is not None:
        note(f"  {body.error[0]}: {body.error[1]}")
    ops = sorted(body.ops_before.keys() | body.ops_after.keys() | body.fired.keys())
    counts = (body.ops_before, body.ops_after, body.fired)
    columns(("op", "before", "after", "fired"), ([op, *(str(c.get(op, "")) for c in counts)] for op in ops))
    if body.stale:
        note(f"its table was torch's own and read too early: it lacks {', '.join(body.stale[:8])}"
             + (f" and {len(body.stale) - 8} more" if len(body.stale) > 8 else ""))  # fmt: skip
    idle = idle_rules(bundle)
    if idle:
        note(f"the table also changes {len(idle)} ops that did nothing here: {', '.join(idle[:8])}"
             + (" ..." if len(idle) > 8 else ""))  # fmt: skip


def export_json(bundle: ExportBundle) -> dict[str, Json]:
    """Return one export as plain data."""
    return {**event_json(bundle.event), "ledger": bundle.ledger, "idle": list[Json](idle_rules(bundle))}


def idle_rules(bundle: ExportBundle) -> list[str]:
    """Return the ops whose override did not fire, or that were preserved and are not in the graph that came out."""
    unused = {OVERRIDE: bundle.body.fired, PRESERVE: bundle.body.ops_after}
    return sorted(op for op, rule in bundle.state.rules.items() if op not in unused[rule.action])


@click.command()
@click.argument("export", metavar="export:N|FILE.pt2")
@click.option("--program", type=click.Path(exists=True, dir_okay=False), metavar="FILE.pt2",
              help="The program before its export: run the export again. torch.export.load unpickles it.")  # fmt: skip
@click.option("--trust", multiple=True, metavar="MODULE",
              help="A module to import: one that has decompositions, or defines ops.")  # fmt: skip
@click.option(
    "--nearest", is_flag=True, help="With --program: run it with the nearest table, if there is no exact one."
)
@json_option
@pass_ledger
def reproduce(
    option: LedgerOption, export: str, program: str | None, trust: tuple[str, ...], nearest: bool, as_json: bool
) -> int:
    """Make the exact table of an export again, here; exit with 1 and name each difference if that cannot be.

    Of FILE.pt2 only the stamp is read. With --program the export is run again, and its graph compared with the one
    that was recorded, by digest; if they differ, the first node that does is shown.
    """
    from decomp_ledger.cli.reproduce_output import report

    found = find(option, f"export:{export}" if export.isdecimal() and export.isascii() else export)
    if found.bundle is None:
        raise click.UsageError(f"{export} is no export; name one of `decomp-ledger exports`, or a stamped FILE.pt2")
    return report(found, program=program, trust=trust, nearest=nearest, as_json=as_json)


COMMANDS = (exports, reproduce)
