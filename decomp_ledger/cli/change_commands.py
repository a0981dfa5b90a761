"""Commands that append an event without torch: tag, revert."""

from __future__ import annotations

import click

from decomp_ledger.cli.output import LedgerOption, event_json, json_option, note, pass_ledger, whole_number, write_json
from decomp_ledger.model.events import Event

__all__ = ["COMMANDS"]

_reason = click.option("--reason", help="Why; kept in the log.")
_actor = click.option("--actor", help="Who; by default $DECOMP_LEDGER_ACTOR, git's user or the login name.")


@click.command()
@click.argument("state", metavar="TABLE[@VERSION]")
@click.argument("name")
@_reason
@_actor
@json_option
@pass_ledger
def tag(option: LedgerOption, state: str, name: str, reason: str | None, actor: str | None, as_json: bool) -> None:
    """Name a version permanently: a tag never moves."""
    with option.write(actor) as ledger:
        event = ledger.tag(state, name, reason=reason)
    done = "" if event is None else f"{event.table}@{event.version} is now {event.table}@{name}"
    _report(event, as_json, done, f"nothing to do: {state} already has the tag {name}")


@click.command()
@click.argument("table")
@click.option("--to", required=True, metavar="VERSION|TAG", help="The version whose rules to bring back.")
@click.option(
    "--expected-version", metavar="VERSION", callback=whole_number, help="Refuse if the table is at another version."
)
@_reason
@_actor
@json_option
@pass_ledger
def revert(
    option: LedgerOption,
    table: str,
    to: str,
    expected_version: int | None,
    reason: str | None,
    actor: str | None,
    as_json: bool,
) -> None:
    """Bring back the rules of an earlier version, by appending one event."""
    with option.write(actor) as ledger:
        event = ledger.revert(table, to, reason=reason, expected_version=expected_version)
    done = "" if event is None else f"{table}@{event.version} has the rules of {table}@{to}"
    _report(event, as_json, done, f"nothing to do: {table} already has the rules of {table}@{to}")


def _report(event: Event | None, as_json: bool, done: str, nothing: str) -> None:
    if as_json:
        write_json({"event": None if event is None else event_json(event)})
    else:
        note(nothing if event is None else f"{done} (#{event.seq})")


COMMANDS = (tag, revert)
