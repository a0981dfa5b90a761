"""What `--hub` prints: the answers of exports, log, blame and explain over all ledgers of a hub."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from decomp_ledger.analysis.outcome import NOT_IN_PROGRAM
from decomp_ledger.cli.output import (
    FOUND,
    columns,
    count,
    event_details,
    event_json,
    event_lines,
    explain_nothing,
    hanging,
    print_lines,
    print_page,
    printable,
    recorded_json,
    rule_json,
    rule_text,
    some,
    summary,
    when,
    write_json,
)
from decomp_ledger.hub.hub import Hub
from decomp_ledger.hub.pages import hub_exports_page
from decomp_ledger.hub.questions import HubBlame, HubEvent, HubExplanation, HubExport, HubRule
from decomp_ledger.hub.reading import LedgerName
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.times import shown_time

__all__ = ["LIMIT", "hub_options", "needs_hub", "print_blame", "print_explanations", "print_exports"]
__all__ += ["open_hub", "print_log", "without_hub"]

LIMIT = 100  # what is shown of a hub unless `-n` tells otherwise
_NAMED = 5  # programs that an answer of `explain` lists
_NO_SUCH_OP = "unknown, because neither the torch nor a rule nor the program has such an op,"
_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = {
    "of": click.option("--of", metavar="LEDGER", help="With --hub: only this ledger, by its name or its id."),
    "program": click.option(
        "--program", metavar="TEXT", help="With --hub: only programs whose table, class or file contains this text."
    ),
    "failed": click.option("--failed", is_flag=True, help="With --hub: only exports that failed."),
    "limit": click.option("-n", "--limit", callback=some, help=f"With --hub: at most this many; {LIMIT} by default."),
}


def hub_options(*names: str) -> Callable[[_Command], _Command]:
    """Add `--hub` to a command, and the options with these names that only it has."""

    def add(command: _Command) -> _Command:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return click.option(
            "--hub",
            is_flag=False,
            flag_value="",
            metavar="[URL]",
            help="Ask all ledgers of this hub instead; without URL, at the end of the line, the project's hub.",
        )(command)

    return add


def open_hub(url: str) -> Hub:
    """Return the hub of an address; of an empty one, the hub of the environment or of the project."""
    return Hub(url or None)


def needs_hub(**given: object) -> None:
    """Refuse options that only a hub has, in a command without `--hub`."""
    for name, value in given.items():
        if value not in (None, False):
            raise click.UsageError(f"--{name}: only with --hub; omit it, or give --hub URL")


def without_hub(**given: object) -> None:
    """Refuse what a command cannot take with `--hub`."""
    for name, value in given.items():
        if value not in (None, False):
            raise click.UsageError(f"{name}: not with --hub; omit it, or `decomp-ledger clone` the ledger and ask that")


def print_exports(found: Sequence[HubExport], hub: Hub, *, as_json: bool, markdown: bool) -> int:
    """Print exports of a hub; return the exit status: 1 if none was found."""
    if as_json:
        write_json([_export_json(each) for each in found])
    elif markdown:
        print_page(hub_exports_page(hub.url.label, found))
    elif found:
        heads = ("ledger", "export", "program", "table", "when (UTC)", "torch", "who", "result")
        columns(heads, map(_export_row, found))
    else:
        explain_nothing(f"{hub.url.label}: no export matches")
    return 0 if found else FOUND


def _export_row(found: HubExport) -> tuple[str, ...]:
    event = found.event
    return (
        found.ledger.name,
        f"export:{event.seq}",
        found.program,
        f"{event.table}@{event.version}",
        when(event.recorded_at),
        found.torch,
        event.actor,
        summary(event),
    )


def _export_json(found: HubExport) -> dict[str, Json]:
    of = _ledger_json(found.ledger)
    return {**of, "program": found.program, "torch": found.torch, **event_json(found.event)}


def print_log(
    found: Sequence[HubEvent],
    hub: Hub,
    *,
    as_json: bool,
    oneline: bool = False,
    verbose: bool = False,
    date: str,
) -> int:
    """Print events of a hub; return the exit status: 1 if none was found."""
    now = datetime.datetime.now().astimezone()
    if as_json:
        write_json([{**_ledger_json(each.ledger), **recorded_json(each.recorded)} for each in found])
    elif found:
        print_lines(line for each in found for line in _event_lines(each, date, now, oneline=oneline, verbose=verbose))
    else:
        explain_nothing(f"{hub.url.label}: no event matches")
    return 0 if found else FOUND


def _event_lines(found: HubEvent, date: str, now: datetime.datetime, *, oneline: bool, verbose: bool) -> Iterator[str]:
    event, name = found.event, printable(found.ledger.name)
    time = shown_time(event.recorded_at, date, now)
    if oneline:
        text = f" {time}  {event.table}@{event.version}  {event.kind}  {summary(event)}"
        yield f"{name} " + click.style(f"#{event.seq}", fg="yellow") + printable(text)
        return
    yield click.style(name, bold=True)
    yield from event_details(found.recorded, time=time) if verbose else event_lines(event, time=time)


def print_blame(found: HubBlame, hub: Hub, op: str, *, as_json: bool) -> int:
    """Print which tables of a hub have a rule for an op; return the exit status: 1 if none has."""
    if as_json:
        counts: dict[str, Json] = {name: dict(each) for name, each in found.counts.items()}
        write_json({"ops": list(found.ops), "counts": counts, "rules": [_rule_json(each) for each in found.rules]})
    elif found.total:
        print_lines(_blame_lines(found))
    else:
        explain_nothing(f"{op}: no table of {hub.url.label} has a rule for it{found.hint}")
    return 0 if found.total else FOUND


def _blame_lines(found: HubBlame) -> Iterator[str]:
    for op, counts in found.counts.items():
        of_op = [each for each in found.rules if each.op == op]
        numbers = ", ".join(f"{what} in {count(number, 'table')}" for what, number in counts.items())
        yield click.style(printable(op), bold=True) + f"  {numbers}"
        for each in of_op:
            rule = rule_text(each.rule, from_dict=each.from_dict)
            yield from hanging(f"  {each.ledger.name}  {each.table}@{each.version}  {rule}")
            yield from (f"  {line}" for line in event_lines(each.event))
        if (left := sum(counts.values()) - len(of_op)) > 0:
            yield f"  and {left} more; -n {found.total} shows all"


def _rule_json(found: HubRule) -> dict[str, Json]:
    return {
        **_ledger_json(found.ledger),
        "table": found.table,
        "version": found.version,
        "op": found.op,
        "from_dict": found.from_dict,
        "rule": rule_json(found.rule),
        "event": event_json(found.event),
    }


def print_explanations(found: Sequence[HubExplanation], hub: Hub, op: str, *, as_json: bool) -> int:
    """Print what happened to an op in programs of a hub, by answer; return the exit status: 1 if none knows the op."""
    known = any(each.explanation is not None for each in found)
    if as_json:
        write_json([_explanation_json(each) for each in found])
    elif found:
        print_lines(_explanation_lines(found, op))
    else:
        explain_nothing(f"{hub.url.label}: no export matches")
    return 0 if known else FOUND


def _explanation_lines(found: Sequence[HubExplanation], op: str) -> Iterator[str]:
    groups: dict[tuple[str, str], list[HubExplanation]] = {}
    for each in (each for each in found if each.unknown is None):
        answer = each.explanation
        groups.setdefault((op, _NO_SUCH_OP) if answer is None else (answer.op, answer.outcome), []).append(each)
    last = {NOT_IN_PROGRAM: 1, _NO_SUCH_OP: 2}  # they tell least
    order = sorted(groups.items(), key=lambda pair: (pair[0][0], last.get(pair[0][1], 0), -len(pair[1]), pair[0][1]))
    for (name, outcome), members in order:
        ledgers = len({each.ledger for each in members})
        head = f"{name}: {outcome} in {count(len(members), 'program')} of {count(ledgers, 'ledger')}"
        yield click.style(printable(head), bold=True)
        for each in members[:_NAMED]:
            yield from hanging(f"  {each.ledger.name}  export:{each.seq}  {each.program}")
            if each.explanation is not None:
                yield from hanging(f"    since {each.explanation.because}")
        if len(members) > _NAMED:
            yield f"  and {len(members) - _NAMED} more; --json has all, --of and --program choose"
    for each in found:
        if each.unknown is not None:
            yield from hanging(f"unknown: {each.ledger.name}  {each.program}: {each.unknown}")


def _explanation_json(found: HubExplanation) -> dict[str, Json]:
    answer = found.explanation
    of = {**_ledger_json(found.ledger), "program": found.program, "export": found.seq, "unknown": found.unknown}
    if answer is None:
        return {**of, "explanation": None}
    events: list[Json] = [event_json(event) for event in answer.events]
    return {**of, "explanation": {**answer.to_json(), "events": events}}


def _ledger_json(ledger: LedgerName) -> dict[str, Json]:
    return {"ledger": ledger.name, "ledger_id": ledger.id}
