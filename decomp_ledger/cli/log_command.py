"""The command `log`, with the filters and the forms of git's."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterator
from typing import Any

import click

from decomp_ledger import queries
from decomp_ledger.cli.hub_answers import LIMIT, hub_options, needs_hub, open_hub, print_log, without_hub
from decomp_ledger.cli.output import (
    FOUND,
    LedgerOption,
    event_details,
    event_lines,
    explain_nothing,
    json_option,
    pass_ledger,
    print_lines,
    printable,
    recorded_json,
    rule_diff_json,
    rule_text,
    some,
    summary,
    whole_number,
    write_json,
)
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import EVENT_KINDS, Event
from decomp_ledger.model.op_lookup import did_you_mean
from decomp_ledger.model.rules import RuleDiff
from decomp_ledger.model.state_specs import TableSpec, parse_state_spec, shorten
from decomp_ledger.model.times import STYLES, shown_time

__all__ = ["COMMANDS"]

_COUNT = re.compile(r"-([0-9]+)")


class _LogCommand(click.Command):
    """A command that reads `-3` as `-n 3`, as git does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takers = {
            name for each in self.params if isinstance(each, click.Option) and not each.is_flag for name in each.opts
        }
        read, rest = [], iter(args)
        for each in rest:
            read.append(_COUNT.sub(r"--limit=\1", each) if _COUNT.fullmatch(each) else each)
            if each == "--":
                read.extend(rest)
            elif each in takers:  # the next is its value, also if it is `-3`
                read.extend(itertools.islice(rest, 1))
        return super().parse_args(ctx, read)


@click.command(cls=_LogCommand)
@click.argument("table", required=False)
@click.option("--op", help="Only events that changed the rule of this op, or of the overloads of this family.")
@click.option("--actor", help="Only events by this actor: the whole name.")
@click.option("--author", metavar="TEXT", help="Only events whose actor contains this text.")
@click.option("--grep", metavar="TEXT", help="Only events whose reason contains this text.")
@click.option("--kind", type=click.Choice(EVENT_KINDS), help="Only events of this kind.")
@click.option("--since", metavar="WHEN", help="Only events since then: 2w, '3 days ago', yesterday, 2026-01-31.")
@click.option("--until", metavar="WHEN", help="Only events until then.")
@click.option("--after", "gt", callback=whole_number, metavar="SEQ", help="Only events after this one.")
@click.option("-n", "--limit", callback=some, help="At most this many events; also -3.")
@click.option("--reverse", is_flag=True, help="Oldest first.")
@click.option("--oneline", is_flag=True, help="One line for each event.")
@click.option(
    "-p", "--patch", is_flag=True, help="Show the rules that each event changed, with the differences of sources."
)
@click.option("-v", "--verbose", is_flag=True, help="Show all of each event, with the environment that it was made in.")
@hub_options("of")
@click.option("--date", type=click.Choice(STYLES), default="utc", show_default=True, help="How to show times.")
@json_option
@pass_ledger
def log(
    option: LedgerOption,
    /,
    table: str | None,
    limit: int | None,
    reverse: bool,
    oneline: bool,
    patch: bool,
    verbose: bool,
    date: str,
    hub: str | None,
    of: str | None,
    as_json: bool,
    **filters: Any,
) -> int:
    """Show the events, newest first: what, who, where, why; exit with 1 if no event matches.

    OP is a name such as aten::linear or aten.add.Tensor. A family such as aten.add, add or linear means its overloads.
    WHEN without a time zone is local time. `show '#5'` shows one event.

    With --hub, show the events of all ledgers of a hub, by the time that the clock of each writer showed; 100 unless -n
    tells otherwise. TABLE is then the whole name of a table.
    """
    spec = None if table is None else parse_state_spec(table)
    if spec is not None and not (isinstance(spec, TableSpec) and spec.version is None):
        raise click.UsageError(
            f"{shorten(str(spec))}: not the name of a table, and only tables have a log; `decomp-ledger show` shows it"
        )
    if oneline + verbose > 1:
        raise click.UsageError("--oneline and --verbose: give one of them")
    if hub is not None:
        without_hub(**{"--after": filters.pop("gt"), "--reverse": reverse, "--patch": patch})
        opened = open_hub(hub)
        answer = opened.events(table=table, ledger=of, limit=limit or LIMIT, **filters)
        return print_log(answer, opened, as_json=as_json, oneline=oneline, verbose=verbose, date=date)
    needs_hub(of=of)
    with option.read() as ledger:
        found = ledger.events(table=table, **filters, limit=limit, desc=not reverse)
        first = next(found, None)
        every = itertools.chain([] if first is None else [first], found)
        if as_json:
            write_json([_json(event, ledger, patch=patch) for event in every])
        else:
            now = datetime.datetime.now().astimezone()
            print_lines(
                line
                for event in every
                for line in itertools.chain(
                    _event(event, ledger, shown_time(event.recorded_at, date, now), verbose=verbose, oneline=oneline),
                    _patch(ledger.changed_rules(event.seq)) if patch else (),
                )
            )
        if first is not None:
            return 0
        op = filters["op"]
        hint = "" if op is None else did_you_mean(op, ledger.changed_ops)
    if not as_json:
        given = ", ".join(
            f"--{'after' if name == 'gt' else name} {value}" for name, value in filters.items() if value is not None
        )
        explain_nothing(f"no event matches{f' {given}' if given else ''}{hint}")
    return FOUND


def _json(event: Event, ledger: Ledger, *, patch: bool) -> dict[str, Json]:
    value = recorded_json(queries.recorded(event, ledger))
    if patch:
        rules = ledger.changed_rules(event.seq)
        value["rules"] = {each.op: rule_diff_json(each) for each in rules}
    return value


def _event(event: Event, ledger: Ledger, time: str, *, verbose: bool, oneline: bool) -> Iterator[str]:
    """Give the escaped lines that show an event in the form that was asked for."""
    if verbose:
        return event_details(queries.recorded(event, ledger), time=time)
    if oneline:
        text = f" {time}  {event.table}@{event.version}  {event.kind}  {summary(event)}"
        return iter([click.style(f"#{event.seq}", fg="yellow") + printable(text)])
    return event_lines(event, time=time)


def _patch(found: tuple[RuleDiff, ...]) -> Iterator[str]:
    """Give the escaped lines that show what an event changed."""
    for each in found:
        yield printable(f"    {each.op}: {rule_text(each.before)} -> {rule_text(each.after)}")
        for line in each.source_diff(whole=True)[2:]:
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            yield click.style(printable(f"      {line}"), fg=colour)


COMMANDS = (log,)
