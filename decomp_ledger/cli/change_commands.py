"""Commands that append without torch: tag, revert."""

from __future__ import annotations

import click

from decomp_ledger.cli.output import LedgerOption, event_json, json_option, note, pass_ledger, write_json
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
    """Name a version, for ever."""
    with option.write(actor) as ledger:
        said = ledger.resolve(state)
        event = ledger.table_log(said.table).tag(name, said.version, reason=reason)
    _report(event, as_json, f"{said.table}@{said.version} is now {said.table}@{name}", "it has that tag already")


@click.command()
@click.argument("table")
@click.option("--to", required=True, metavar="VERSION|TAG", help="The version whose state to bring back.")
@click.option("--expected-version", type=int, help="Refuse if the table has another version by now.")
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
    """Bring back the state of an earlier version, by appending what differs."""
    with option.write(actor) as ledger:
        log = ledger.table_log(table)
        event = log.revert(int(to) if to.isdecimal() else to, reason=reason, expected_version=expected_version)
    _report(event, as_json, f"{table}@{log.version} says again what {table}@{to} said", "it says that already")


def _report(event: Event | None, as_json: bool, done: str, nothing: str) -> None:
    if as_json:
        write_json({"event": None if event is None else event_json(event)})
    else:
        note(nothing if event is None else f"{done} (#{event.seq})")


COMMANDS = (tag, revert)
