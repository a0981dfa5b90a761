"""Commands that read: tables, log, show, blame, explain, diff. None imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
import click

from decomp_ledger import names
from decomp_ledger.catalog import Snapshot, materialize
from decomp_ledger.cli.common import (
    FOUND,
    LedgerOption,
    columns,
    event_json,
    intent_json,
    intent_text,
    json_option,
    note,
    pass_ledger,
    print_lines,
    printable,
    snapshot_json,
    sole_table,
    what,
    write_json,
)
from decomp_ledger.cli.exports import (
    export_json,
    graph_steps,
    print_export,
    print_stamp,
    print_steps,
    stamp_json,
)
from decomp_ledger.cli.sides import STATE, Found, find, is_table
from decomp_ledger.events import KINDS, OVERRIDE, PRESERVE, Event
from decomp_ledger.ledger import Ledger
from decomp_ledger.state import Intent, TableState, diff

if TYPE_CHECKING:
    from decomp_ledger.explaining import Explanation

__all__ = ["COMMANDS"]


@click.command()
@json_option
@pass_ledger
def tables(option: LedgerOption, as_json: bool) -> None:
    """List the tables."""
    with option.read() as ledger:
        found = ledger.tables()
        if as_json:
            write_json([{**attrs.asdict(info), "tags": ledger.tags(info.name)} for info in found])
            return
        columns(
            ("table", "version", "events", "last event (UTC)", "tags"),
            (
                (
                    info.name,
                    str(info.version),
                    str(info.events),
                    _when(info.last_at),
                    ", ".join(f"{tag}@{version}" for tag, version in ledger.tags(info.name).items()),
                )
                for info in found
            ),
        )


@click.command()
@click.argument("table", required=False)
@click.option("--op", help="Only events that touched this op.")
@click.option("--actor", help="Only events by this actor.")
@click.option("--kind", type=click.Choice(KINDS), help="Only events of this kind.")
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
        print_lines(line for event in found for line in _event_lines(event))


def _event_lines(event: Event) -> Iterator[str]:
    said = f"  {_when(event.recorded_at)}  {event.table}@{event.version}  {event.kind}  {what(event)}"
    yield click.style(f"#{event.seq}", fg="yellow") + printable(said)
    yield printable(f"    by {event.actor}" + (f", at {event.call_site}" if event.call_site else ""))
    if event.reason:
        yield printable(f"    because {event.reason}")


def _when(recorded_at: str) -> str:
    return recorded_at[:19].replace("T", " ")


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
    intents = {op: said.intents[op] for op in sorted(said.intents)}
    if actions:
        intents = {op: intent for op, intent in intents.items() if intent.action in actions}
    snapshot = None if found.catalog is None else materialize(said, found.catalog)
    if as_json:
        write_json(
            {
                "table": said.table,
                "version": said.version,
                "base": said.base,
                "intents": {op: intent_json(intent) for op, intent in intents.items()},
                "snapshot": None if snapshot is None else snapshot_json(snapshot, everything=everything),
                "export": None if found.bundle is None else export_json(found.bundle),
                "stamp": None if found.stamp is None else stamp_json(found.stamp),
            }
        )
        return
    if found.stamp is not None:
        print_stamp(found.name, found.stamp)
    if found.bundle is not None:
        print_export(found.bundle)
    _print_table(found, intents, snapshot)
    if everything and snapshot is not None:
        columns(("op", "decomposition"), snapshot.ops.items())


def _print_table(found: Found, intents: Mapping[str, Intent], snapshot: Snapshot | None) -> None:
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
    if not intents:
        return
    columns(
        ("op", "", "since", "why"),
        (
            (
                op + (" (pending)" if op in pending else ""),
                intent_text(intent),
                f"@{found.blame[op].version} (#{found.blame[op].seq})",
                found.blame[op].reason or "",
            )
            for op, intent in intents.items()
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
    found = find(option, state)
    blamed = found.blame
    if op is not None:
        name = names.normalize(op)
        blamed = {name: blamed[name]} if name in blamed else {}
    if as_json:
        write_json({name: event_json(event) for name, event in blamed.items()})
        return
    print_lines(
        line
        for name, event in blamed.items()
        for line in (
            click.style(printable(name), bold=True) + printable(f"  {intent_text(found.state.intents[name])}"),
            *_event_lines(event),
        )
    )


@click.command("explain")
@click.argument("op")
@click.argument("state", required=False, metavar=f"[{STATE}]")
@click.option("--export", "export", metavar="N|FILE.pt2", help="By what happened in this export: as STATE export:N.")
@json_option
@pass_ledger
def explain_command(option: LedgerOption, op: str, state: str | None, export: str | None, as_json: bool) -> None:
    """Say why OP is, or is not, decomposed: by a table, in an export, or by every table that speaks of it."""
    name = names.normalize(op)
    if export is not None:
        if state is not None:
            raise click.UsageError("STATE and --export exclude each other")
        state = f"export:{export}" if export.isdecimal() and export.isascii() else export
    if state is not None and not is_table(state):
        answers = [_explain_found(name, find(option, state))]
    else:
        with option.read() as ledger:
            answers = [_explain(ledger, name, said) for said in _explained(ledger, name, state)]
    if as_json:
        write_json(
            [{**answer.to_json(), "events": [event_json(event) for event in answer.events]} for answer in answers]
        )
        return
    for answer in answers:
        _print_explanation(answer)


def _explain_found(op: str, found: Found) -> Explanation:
    """Explain by an export, or by a catalog alone."""
    from decomp_ledger.explaining import explain, explain_export

    bundle = found.bundle
    if bundle is None:
        return explain(op, found.state, None, found.catalog, ())
    last = bundle.last_words().get(op)
    history = () if last is None else (last,)
    return explain_export(op, bundle.state, bundle.event, bundle.body, found.side().catalog, history)


def _explained(ledger: Ledger, op: str, spec: str | None) -> Iterator[TableState]:
    tables = [info.name for info in ledger.tables()]
    if spec is not None or len(tables) < 2:
        yield sole_table(ledger, spec)
        return
    speaking = [
        said for said in map(ledger.state, tables) if op in said.intents or ledger.history(said.table, op, said.version)
    ]
    if speaking:
        yield from speaking
        return
    # None speaks of it: tables with one base that met one torch all have one answer.
    told = set()
    for said in map(ledger.state, tables):
        met = ledger.last_met(said.table, said.version)
        key = said.base, None if met is None else met.body.catalog  # type: ignore[union-attr]
        if key not in told:
            told.add(key)
            yield said


def _explain(ledger: Ledger, op: str, said: TableState) -> Explanation:
    from decomp_ledger.explaining import explain

    met = ledger.last_met(said.table, said.version)
    catalog = None if met is None else ledger.catalog(met.body.catalog)  # type: ignore[union-attr]
    return explain(op, said, met, catalog, ledger.history(said.table, op, said.version))


def _print_explanation(answer: Explanation) -> None:
    click.secho(printable(f"{answer.op} in {answer.table}@{answer.version}: "), bold=True, nl=False)
    note(f"{answer.outcome}, since {answer.because}")
    met = "" if answer.met is None else f", as {answer.met} met it"
    judged = "unknown" if answer.torch is None else f"{answer.torch}{met}"
    note(f"  torch {judged}: {answer.default}")
    loaded = "unknown" if answer.loaded is None else "yes" if answer.loaded else "no"
    note(f"  loaded there: {loaded}; can torch keep it in a graph: {answer.preservable}")
    if answer.counts is not None:
        note("  in the program: {before} before, {after} after, fired {fired}".format(**answer.counts))
    print_lines(line for event in answer.events for line in _event_lines(event))


@click.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@json_option
@pass_ledger
def diff_command(option: LedgerOption, before: str, after: str, as_json: bool) -> int:
    """Show the ops of which two table states say different things; exit with 1 if there are any.

    Each is TABLE, TABLE@VERSION, TABLE@TAG, export:N or FILE.pt2. Of two exports, also what differs in their programs.
    """
    one, other = find(option, before), find(option, after)
    found = diff(one.state, other.state)
    steps = graph_steps(one.bundle, other.bundle)
    based = one.state.base != other.state.base
    if as_json:
        write_json(
            {
                "before": {"table": one.state.table, "version": one.state.version, "base": one.state.base},
                "after": {"table": other.state.table, "version": other.state.version, "base": other.state.base},
                "ops": {d.op: {"before": intent_json(d.before), "after": intent_json(d.after)} for d in found},
                "graph": None if steps is None else steps.to_json(),
            }
        )
        return FOUND if found or based or steps else 0
    if based:
        note(f"the base is {one.state.base} in {before} and {other.state.base} in {after}")
    if found or based:
        columns(("op", before, after), ((d.op, intent_text(d.before), intent_text(d.after)) for d in found))
    if steps is not None:
        print_steps(steps, before, after)
    return FOUND if found or based or steps else 0


COMMANDS = (tables, log, show, blame, explain_command, diff_command)
