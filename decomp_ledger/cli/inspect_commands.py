"""Commands that read tables and events: tables, show, blame. None imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from decomp_ledger import queries
from decomp_ledger.analysis.outcome import NOT_IN_PROGRAM, Outcome
from decomp_ledger.analysis.totals import ExportTotals
from decomp_ledger.cli.export_commands import export_json, print_export, print_stamp, print_totals, stamp_json
from decomp_ledger.cli.hub_answers import LIMIT, hub_options, needs_hub, open_hub, print_blame, without_hub
from decomp_ledger.cli.output import (
    FOUND,
    STAR,
    LedgerOption,
    columns,
    count,
    event_details,
    event_json,
    event_lines,
    explain_nothing,
    first_ops,
    hanging,
    json_option,
    markdown_option,
    note,
    pass_ledger,
    print_lines,
    print_page,
    printable,
    prose,
    recorded_json,
    rule_json,
    rule_text,
    snapshot_json,
    summary,
    when,
    write_json,
)
from decomp_ledger.errors import LedgerError, MissingStamp, StampError
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import OVERRIDE, PRESERVE, Event
from decomp_ledger.model.materialize import Snapshot
from decomp_ledger.model.op_lookup import did_you_mean
from decomp_ledger.model.rules import Rule, TableState
from decomp_ledger.model.state_specs import (
    STATE,
    ExportSpec,
    StampSpec,
    parse_event_number,
    parse_state_spec,
)
from decomp_ledger.queries import ResolvedState
from decomp_ledger.reports.export_view import event_page
from decomp_ledger.reports.pages import state_page

__all__ = ["COMMANDS"]


@click.command()
@click.option("--all", "everything", is_flag=True, help="List each run of a recorded table, not only the newest.")
@json_option
@pass_ledger
def tables(option: LedgerOption, everything: bool, as_json: bool) -> None:
    """List the tables; of a recorded table the newest run, with the number of runs.

    TABLE~1 names the run before, TABLE~2 the one before that. With --json, each run is listed.
    """
    with option.read() as ledger:
        found = [(each, info, ledger.tags(info.name)) for each in ledger.table_series() for info in each.tables]
    if as_json:
        write_json([{**info._asdict(), "series": each.name, "tags": tags} for each, info, tags in found])
        return
    rows = (
        (
            info.name if everything else each.name,
            "" if each.run is None else str(len(each.tables)),
            str(info.version),
            str(info.events),
            when(info.last_at),
            ", ".join(f"{tag}@{version}" for tag, version in tags.items()),
        )
        for each, info, tags in found
        if everything or info is each.newest
    )
    columns(("table", "runs", "version", "events", "last event (UTC)", "tags"), rows)


@click.command()
@click.argument("state", required=False, metavar=f"[{STATE}|#SEQ]")
@click.option("--preserved", is_flag=True, help="Only ops that the table preserves.")
@click.option("--overridden", is_flag=True, help="Only ops that the table overrides.")
@click.option("--all", "everything", is_flag=True, help="Every op of the table, torch's defaults included.")
@markdown_option
@json_option
@pass_ledger
def show(
    option: LedgerOption,
    state: str | None,
    preserved: bool,
    overridden: bool,
    everything: bool,
    markdown: bool,
    as_json: bool,
) -> None:
    """Show the rules of a table, now or at a version or tag; for an export or a file, also its result.

    '#5' shows all of one event: its changes, the lines that made it, and the environment.
    The stamp of a .pt2 or an .onnx needs neither torch nor a ledger; a .pte is found in the ledger by its content.
    """
    number = None if state is None else parse_event_number(state)
    if number is not None:
        if preserved or overridden or everything:
            raise click.UsageError(f"{state}: --preserved, --overridden and --all are about tables; omit them")
        _show_event(option, number, as_json=as_json, markdown=markdown)
        return
    with option.ask() as ledger:
        found = ledger.show(state)
        of_table = found.bundle is None and found.state.version > 0
        totals = ledger.export_totals(found.state.table) if of_table else None
        content = "" if as_json or markdown else _content(ledger, found)
        blame = queries.blame(found, ledger=ledger) if markdown else {}
    wanted = [action for action, chosen in ((PRESERVE, preserved), (OVERRIDE, overridden)) if chosen]
    rules = {op: rule for op, rule in sorted(found.state.rules.items()) if not wanted or rule.action in wanted}
    snapshot = found.snapshot
    if markdown:
        print_page(state_page(found, rules, blame, totals, everything=everything))
        return
    if as_json:
        write_json(_state_json(found, rules, totals, everything=everything))
        return
    _print_file(found, content)
    if found.bundle is not None:
        print_export(found, found.bundle)
    _print_table(found, snapshot)
    pending = () if snapshot is None else snapshot.pending
    _print_rules(found, rules, pending)
    for idle in found.idle:
        if idle.op in rules and idle.op not in pending:
            prose(f"{idle}")
    if totals is not None:
        print_totals(totals)
    if not everything:
        return
    if snapshot is None:
        note(f"{found.name}: no torch is recorded, so its decompositions are unknown; export with it first")
    else:
        columns(("op", "decomposition"), snapshot.ops.items())


def _state_json(
    found: ResolvedState, rules: Mapping[str, Rule], totals: ExportTotals | None, *, everything: bool
) -> dict[str, Json]:
    snapshot = found.snapshot
    return {
        "table": found.state.table,
        "version": found.state.version,
        "base": found.state.base,
        "from_dict": found.state.from_dict,
        "rules": {op: rule_json(rule) for op, rule in rules.items()},
        "idle": [each.to_json() for each in found.idle],
        "outside_core": list(found.outside_core),
        "snapshot": None if snapshot is None else snapshot_json(snapshot, everything=everything),
        "export": None if found.bundle is None else export_json(found, found.bundle),
        "totals": None if totals is None else totals.to_json(),
        "stamp": None if found.stamp is None else stamp_json(found.stamp),
        "artefact": None if found.artefact is None else event_json(found.artefact),
    }


def _print_file(found: ResolvedState, content: str) -> None:
    """Print which export made a file, and whether its content is as it was saved."""
    if found.stamp is not None:
        print_stamp(found.name, found.stamp)
        if content:
            note(f"  {content}")
    if found.artefact is not None:
        note(f"{found.name} was made by {summary(found.artefact)}: #{found.artefact.seq}, by its content")


def _content(ledger: Ledger, found: ResolvedState) -> str:
    """Return whether a stamped file has the content that was saved, if the ledger recorded it; else ""."""
    try:
        if found.stamp is None or not ledger.database.exists or found.stamp.last.ledger != ledger.id:
            return ""
        event = ledger.saved_file(found.name)
        return f"its content is as it was saved at {when(event.recorded_at)} UTC (#{event.seq})"
    except MissingStamp:
        return ""
    except StampError as error:
        return str(error)
    except LedgerError:  # the stamp needs no ledger
        return ""


def _show_event(option: LedgerOption, number: int, *, as_json: bool, markdown: bool) -> None:
    with option.read() as ledger:
        recorded = ledger.event(number)
    if as_json:
        write_json(recorded_json(recorded))
    elif markdown:
        print_page(event_page(recorded))
    else:
        print_lines(event_details(recorded, whole=True))


def _print_table(found: ResolvedState, snapshot: Snapshot | None) -> None:
    state, event = found.state, found.materialization
    base = f"the content of a dict, base {state.base}" if state.from_dict else f"base {state.base}"
    note(f"{state.table}@{state.version}, {base}" if state.version else f"{state.table}, its default table")
    if snapshot is None:
        return
    preserved, overridden = ("missing", "other entries") if state.from_dict else ("preserved", "overridden")
    by = "" if event is None else f", as materialized by {event.table}@{event.version}"
    pending = f", {len(snapshot.pending)} pending" if snapshot.pending else ""
    prose(
        f"with torch {snapshot.build.get('torch')}{by}: "
        f"{count(len(snapshot.ops), 'decomposition')}, {len(snapshot.preserved)} {preserved}, "
        f"{len(snapshot.overridden)} {overridden}{pending}; snapshot {snapshot.digest[:12]}"
    )


def _print_rules(found: ResolvedState, rules: Mapping[str, Rule], pending: tuple[str, ...]) -> None:
    if not rules:
        return
    # What an export kept is marked in its result.
    outside = [] if found.bundle is not None else [op for op in found.outside_core if op in rules]
    rows = (
        (
            op + (" (pending)" if op in pending else "") + (STAR if op in outside else ""),
            rule_text(rule, from_dict=found.state.from_dict),
            f"@{found.since[op].version} (#{found.since[op].seq})",
            found.since[op].reason or "",
        )
        for op, rule in rules.items()
    )
    columns(("op", "rule", "since", "why"), rows)
    if outside:
        kept = "missing" if found.state.from_dict else "preserved"
        note(f"* {count(len(outside), f'{kept} op')} {'is' if len(outside) == 1 else 'are'} not Core ATen")


@click.command()
@click.argument("state", required=False, metavar=f"[{STATE}]")
@click.option("--op", help="Only this op, or the overloads of this family.")
@click.option("--all", "everything", is_flag=True, help="Show the event of each op, also where many have the same one.")
@hub_options("of", "limit")
@json_option
@pass_ledger
def blame(
    option: LedgerOption,
    state: str | None,
    op: str | None,
    everything: bool,
    hub: str | None,
    of: str | None,
    limit: int | None,
    as_json: bool,
) -> int:
    """Show, for each rule of a table, the event that set it: who, where, why. For an export, also what happened.

    Ops that one event preserved, or overrode, are shown together. Exit with 1 if --op has no rule.

    With --hub, `blame OP --hub URL` shows which tables of all ledgers have a rule for OP now.
    """
    if hub is not None:
        without_hub(**{"--all": everything})
        return _blame_hub(hub, [each for each in (state, op) if each is not None], of, limit or LIMIT, as_json=as_json)
    needs_hub(of=of, limit=limit)
    with option.ask() as ledger:
        found, events = queries.state_and_blame(state, op=op, ledger=ledger)
        outcomes = queries.show(state, ledger=ledger).outcomes if _is_export(state) else {}
    if as_json:
        happened: dict[str, dict[str, Json]] = {name: outcomes[name].to_json() for name in outcomes}
        write_json({name: {**event_json(event), **happened.get(name, {})} for name, event in events.items()})
    else:
        _print_blame(found, events, outcomes, everything=everything)
    if op is None or events:
        return 0
    hint = did_you_mean(op, found.rules) or "; `decomp-ledger explain` says what happens to an op without a rule"
    if not as_json:
        explain_nothing(f"{op}: it has no rule in {found.table}@{found.version}{hint}")
    return FOUND


def _blame_hub(hub: str, ops: Sequence[str], of: str | None, limit: int, *, as_json: bool) -> int:
    if len(ops) != 1:
        raise click.UsageError("blame --hub: name one op: blame OP --hub URL")
    opened = open_hub(hub)
    return print_blame(opened.blame(ops[0], ledger=of, limit=limit), opened, ops[0], as_json=as_json)


def _print_blame(
    found: TableState, events: Mapping[str, Event], outcomes: Mapping[str, Outcome], *, everything: bool
) -> None:
    """Print the events of rules.

    Args:
        found: the table.
        events: op -> the event that set its rule.
        outcomes: op -> what happened to it, for an export; ops are shown together only if the same did.
        everything: print each op alone.
    """
    together: dict[object, list[str]] = {}
    for op, event in events.items():
        group = event.seq, found.rules[op].action, tuple(_outcome_lines(outcomes, op))
        together.setdefault(op if everything else group, []).append(op)
    print_lines(
        line
        for ops in together.values()
        for line in (
            click.style(printable(first_ops(ops)), bold=True) + f"  {_rule_of(ops, found)}",
            *_outcome_lines(outcomes, ops[0]),
            *event_lines(events[ops[0]]),
        )
    )


def _rule_of(ops: Sequence[str], found: TableState) -> str:
    """Return the rule of ops that one event set; of different functions their number."""
    texts = dict.fromkeys(rule_text(found.rules[op], from_dict=found.from_dict) for op in ops)
    is_one = len(texts) == 1
    return printable(next(iter(texts)) if is_one else f"{found.rules[ops[0]].action}: {len(texts)} functions")


def _is_export(state: str | None) -> bool:
    return state is not None and isinstance(parse_state_spec(state), (ExportSpec, StampSpec))


def _outcome_lines(outcomes: Mapping[str, Outcome], op: str) -> list[str]:
    if not outcomes:
        return []
    found = outcomes.get(op)
    return hanging(f"    {NOT_IN_PROGRAM}" if found is None else f"    {found.word}: {found.because}")


COMMANDS = (tables, show, blame)
