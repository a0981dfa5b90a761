"""Commands about exports: exports, reproduce, and what `show` prints of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import click

from decomp_ledger.canonical import Json
from decomp_ledger.cli.common import (
    LedgerOption,
    columns,
    event_json,
    json_option,
    note,
    pass_ledger,
    what,
    write_json,
)
from decomp_ledger.cli.sides import find
from decomp_ledger.events import OVERRIDE, PRESERVE

if TYPE_CHECKING:
    from decomp_ledger.bundle import Bundle
    from decomp_ledger.stamp import Stamp

__all__ = ["COMMANDS", "export_json", "graph_steps", "print_export", "print_stamp", "print_steps", "stamp_json"]


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
                    event.recorded_at[:19].replace("T", " "),
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


def print_export(bundle: Bundle) -> None:
    """Print one export: what fired, and which of the table's changes did nothing in it."""
    event, body = bundle.event, bundle.body
    note(f"{bundle.name}  {event.table}@{event.version}  {what(event)}")
    where = f", at {event.call_site}" if event.call_site else ""
    note(f"  by {event.actor}{where}, {event.recorded_at[:19].replace('T', ' ')} UTC")
    if body.error is not None:
        note(f"  {body.error[0]}: {body.error[1]}")
    ops = sorted(body.ops_before.keys() | body.ops_after.keys() | body.fired.keys())
    counts = (body.ops_before, body.ops_after, body.fired)
    columns(("op", "before", "after", "fired"), ([op, *(str(c.get(op, "")) for c in counts)] for op in ops))
    if body.stale:
        note(f"its table was torch's own and read too early: it lacks {', '.join(body.stale[:8])}"
             + (f" and {len(body.stale) - 8} more" if len(body.stale) > 8 else ""))  # fmt: skip
    idle = idle_intents(bundle)
    if idle:
        note(f"the table also changes {len(idle)} ops that did nothing here: {', '.join(idle[:8])}"
             + (" ..." if len(idle) > 8 else ""))  # fmt: skip


def export_json(bundle: Bundle) -> dict[str, Json]:
    """Return one export as plain data."""
    return {**event_json(bundle.event), "ledger": bundle.ledger, "idle": list[Json](idle_intents(bundle))}


def idle_intents(bundle: Bundle) -> list[str]:
    """Return the ops whose override did not fire, or that were preserved and are not in the graph that came out."""
    unused = {OVERRIDE: bundle.body.fired, PRESERVE: bundle.body.ops_after}
    return sorted(op for op, intent in bundle.state.intents.items() if op not in unused[intent.action])


@attrs.frozen
class Steps:
    """What two exports differ in, besides their tables. True if anything differs.

    Attributes:
        same_program: whether they lowered one program; None if that is not known.
        after: op -> how often it is in what came out, of the one and of the other, where that differs.
        fired: op -> how often its decomposition fired, likewise.
        same_graph: whether the same came out; None if that is not known.
    """

    same_program: bool | None
    after: dict[str, tuple[int, int]]
    fired: dict[str, tuple[int, int]]
    same_graph: bool | None

    def __bool__(self) -> bool:
        return bool(self.after or self.fired) or self.same_program is False or self.same_graph is False

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "same_program": self.same_program,
            "same_graph": self.same_graph,
            "after": {op: list(counts) for op, counts in self.after.items()},
            "fired": {op: list(counts) for op, counts in self.fired.items()},
        }


def graph_steps(one: Bundle | None, other: Bundle | None) -> Steps | None:
    """Compare what came of two exports; None if not both are exports."""
    if one is None or other is None:
        return None
    a, b = one.body, other.body
    return Steps(
        _same(a.before, b.before), _steps(a.ops_after, b.ops_after), _steps(a.fired, b.fired), _same(a.after, b.after)
    )


def _same(one: str | None, other: str | None) -> bool | None:
    return None if one is None or other is None else one == other


def _steps(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    counts = {op: (one.get(op, 0), other.get(op, 0)) for op in sorted(one.keys() | other.keys())}
    return {op: pair for op, pair in counts.items() if pair[0] != pair[1]}


def print_steps(steps: Steps, before: str, after: str) -> None:
    """Print what two exports differ in, besides their tables."""
    if steps.same_program is False:
        note("they lowered different programs")
    for title, changed in (("in the graph", steps.after), ("fired", steps.fired)):
        if changed:
            columns((title, before, after), ((op, *map(str, pair)) for op, pair in changed.items()))
    if steps.same_graph is not None:
        alike = "but arguments, types or order differ" if not steps.after else ""
        note("the graphs are the same" if steps.same_graph else f"the graphs differ {alike}".rstrip())


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
    from decomp_ledger.cli.reproduction import report

    found = find(option, f"export:{export}" if export.isdecimal() and export.isascii() else export)
    if found.bundle is None:
        raise click.UsageError(f"{export} is no export; name one of `decomp-ledger exports`, or a stamped FILE.pt2")
    return report(found, program=program, trust=trust, nearest=nearest, as_json=as_json)


COMMANDS = (exports, reproduce)
