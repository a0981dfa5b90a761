"""Commands that read: tables, log, show, blame, explain, diff. None imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from decomp_ledger.cli.output import (
    LedgerOption,
    columns,
    event_json,
    event_lines,
    json_option,
    note,
    pass_ledger,
    print_lines,
    printable,
    rule_json,
    rule_text,
    snapshot_json,
    sole_name,
    when,
    write_json,
)
from decomp_ledger.cli.state_specs import STATE, Found, find, is_table
from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import EVENT_KINDS, OVERRIDE, PRESERVE, Event
from decomp_ledger.model.rules import Rule, TableState

if TYPE_CHECKING:
    from decomp_ledger.model.materialize import Snapshot

__all__ = ["COMMANDS"]


@click.command()
@json_option
@pass_ledger
def tables(option: LedgerOption, as_json: bool) -> None:
    """List the tables."""
    with option.read() as ledger:
        found = ledger.tables()
        if as_json:
            write_json([{**info._asdict(), "tags": ledger.tags(info.name)} for info in found])
            return
        columns(
            ("table", "version", "events", "last event (UTC)", "tags"),
            (
                (
                    info.name,
                    str(info.version),
                    str(info.events),
                    when(info.last_at),
                    ", ".join(f"{tag}@{version}" for tag, version in ledger.tags(info.name).items()),
                )
                for info in found
            ),
        )


@click.command()
@click.argument("table", required=False)
@click.option("--op", help="Only events that touched this op.")
@click.option("--actor", help="Only events by this actor.")
@click.option("--kind", type=click.Choice(EVENT_KINDS), help="Only events of this kind.")
@click.option("--after", "gt", type=int, metavar="SEQ", help="Only events after this one.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--reverse", is_flag=True, help="Oldest first.")
@json_option
@pass_ledger
def log(
    option: LedgerOption,
    table: str | None,
    op: str | None,
    actor: str | None,
    kind: str | None,
    gt: int | None,
    limit: int | None,
    reverse: bool,
    as_json: bool,
) -> None:
    """Show the events, newest first: what, who, where, why."""
    with option.read() as ledger:
        found = ledger.events(table=table, op=op, actor=actor, kind=kind, gt=gt, limit=limit, desc=not reverse)
        if as_json:
            write_json([event_json(event) for event in found])
            return
        print_lines(line for event in found for line in event_lines(event))


@click.command()
@click.argument("state", required=False, metavar=f"[{STATE}]")
@click.option("--preserved", is_flag=True, help="Only ops that are kept in the graph.")
@click.option("--overridden", is_flag=True, help="Only ops with a decomposition of their own.")
@click.option("--all", "everything", is_flag=True, help="Every op of the table, torch's defaults included.")
@json_option
@pass_ledger
def show(
    option: LedgerOption, state: str | None, preserved: bool, overridden: bool, everything: bool, as_json: bool
) -> None:
    """Show what a table says of each op, now or at a version or tag; of an export or a .pt2, also what came of it.

    Of a .pt2 only the stamp is read; neither torch nor a ledger is needed.
    """
    found = find(option, state)
    said = found.state
    actions = [action for action, wanted in ((PRESERVE, preserved), (OVERRIDE, overridden)) if wanted]
    rules = {op: said.rules[op] for op in sorted(said.rules)}
    if actions:
        rules = {op: rule for op, rule in rules.items() if rule.action in actions}
    snapshot = found.snapshot()
    if as_json:
        write_json(
            {
                "table": said.table,
                "version": said.version,
                "base": said.base,
                "rules": {op: rule_json(rule) for op, rule in rules.items()},
                "snapshot": None if snapshot is None else snapshot_json(snapshot, everything=everything),
                **_export_json(found),
            }
        )
        return
    _print_export(found)
    _print_table(found, rules, snapshot)
    if everything and snapshot is not None:
        columns(("op", "decomposition"), snapshot.ops.items())


# Most tables that are shown are no export's: what shows one is imported for those that are.


def _export_json(found: Found) -> dict[str, Json]:
    if found.bundle is None:
        return {"export": None, "stamp": None}
    from decomp_ledger.cli.export_commands import export_json, stamp_json

    return {
        "export": export_json(found.bundle),
        "stamp": None if found.stamp is None else stamp_json(found.stamp),
    }


def _print_export(found: Found) -> None:
    if found.bundle is None:
        return
    from decomp_ledger.cli.export_commands import print_export, print_stamp

    if found.stamp is not None:
        print_stamp(found.name, found.stamp)
    print_export(found.bundle)


def _print_table(found: Found, rules: Mapping[str, Rule], snapshot: Snapshot | None) -> None:
    said = found.state
    note(f"{said.table}@{said.version}, base {said.base}" if said.version else f"{said.table}, its default table")
    if snapshot is not None:
        waiting = f", {len(snapshot.pending)} pending" if snapshot.pending else ""
        met = "" if found.met is None else f", as {_met(found.met)} met it"
        note(
            f"with torch {snapshot.build.get('torch')}{met}: "
            f"{len(snapshot.ops)} decompositions, {len(snapshot.preserved)} preserved, "
            f"{len(snapshot.overridden)} overridden{waiting}; snapshot {snapshot.digest[:12]}"
        )
    pending = set(snapshot.pending) if snapshot is not None else set()
    if not rules:
        return
    columns(
        ("op", "", "since", "why"),
        (
            (
                op + (" (pending)" if op in pending else ""),
                rule_text(rule),
                f"@{found.since[op].version} (#{found.since[op].seq})",
                found.since[op].reason or "",
            )
            for op, rule in rules.items()
        ),
    )


def _met(event: Event) -> str:
    return f"{event.table}@{event.version}"


@click.command()
@click.argument("state", required=False, metavar=f"[{STATE}]")
@click.option("--op", help="Only this op.")
@json_option
@pass_ledger
def blame(option: LedgerOption, state: str | None, op: str | None, as_json: bool) -> None:
    """Show, for each op of which a table says something, who said it, where and why."""
    said, blamed = _blamed(option, state)
    if op is not None:
        name = op_names.normalize(op)
        blamed = {name: blamed[name]} if name in blamed else {}
    if as_json:
        write_json({name: event_json(event) for name, event in blamed.items()})
        return
    print_lines(
        line
        for name, event in blamed.items()
        for line in (
            click.style(printable(name), bold=True) + printable(f"  {rule_text(said.rules[name])}"),
            *event_lines(event),
        )
    )


def _blamed(option: LedgerOption, spec: str | None) -> tuple[TableState, Mapping[str, Event]]:
    if spec is None or is_table(spec):
        with option.read() as ledger:
            return ledger.state_and_blame(*ledger.place(sole_name(ledger, spec)))
    found = find(option, spec)
    return found.state, {} if found.bundle is None else found.bundle.blame()


COMMANDS = (tables, log, show, blame)
