"""Commands about exports: exports, and what `show export:N` prints."""

from __future__ import annotations

import click

from decomp_ledger.canonical import Json
from decomp_ledger.cli.common import LedgerOption, columns, event_json, json_option, note, pass_ledger, what, write_json
from decomp_ledger.events import OVERRIDE, PRESERVE, Event, Exported
from decomp_ledger.ledger import Ledger

__all__ = ["COMMANDS", "show_export"]


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


def show_export(ledger: Ledger, number: int, as_json: bool) -> None:
    """Print one export: what fired, and which of the table's changes did nothing in it."""
    event = ledger.export(number)
    body = event.body
    assert isinstance(body, Exported)  # as it was asked for
    idle = idle_intents(ledger, event, body)
    if as_json:
        value: dict[str, Json] = {**event_json(event), "idle": list[Json](idle)}
        write_json(value)
        return
    note(f"export:{event.seq}  {event.table}@{event.version}  {what(event)}")
    note(f"  by {event.actor}" + (f", at {event.call_site}" if event.call_site else ""))
    if body.error is not None:
        note(f"  {body.error[0]}: {body.error[1]}")
    ops = sorted(body.ops_before.keys() | body.ops_after.keys() | body.fired.keys())
    counts = (body.ops_before, body.ops_after, body.fired)
    columns(("op", "before", "after", "fired"), ([op, *(str(c.get(op, "")) for c in counts)] for op in ops))
    if idle:
        note(f"the table also changes {len(idle)} ops that did nothing here: {', '.join(idle[:8])}"
             + (" ..." if len(idle) > 8 else ""))  # fmt: skip


def idle_intents(ledger: Ledger, event: Event, body: Exported) -> list[str]:
    """Return the ops whose override did not fire, or that were preserved and are not in the graph that came out."""
    said = ledger.state(event.table, event.version).intents
    unused = {OVERRIDE: body.fired, PRESERVE: body.ops_after}
    return sorted(op for op, intent in said.items() if op not in unused[intent.action])


COMMANDS = (exports,)
