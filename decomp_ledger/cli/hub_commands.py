"""Commands of a hub: push, clone, fetch, collect, and the group `hub`."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from decomp_ledger.cli.output import (
    FOUND,
    LedgerOption,
    columns,
    count,
    explain_nothing,
    json_option,
    note,
    pass_ledger,
    phases,
    progress,
    when,
    write_json,
)
from decomp_ledger.errors import LedgerFileError
from decomp_ledger.hub.clone import clone as clone_ledger
from decomp_ledger.hub.hub import Hub
from decomp_ledger.hub.push import Pushed
from decomp_ledger.storage.file_checks import absolute

__all__ = ["COMMANDS", "pushed_line"]


@click.command()
@click.argument("url", required=False)
@click.option("--as", "name", metavar="NAME", help="What people call the ledger, at its first push; by default "
              "FOLDER/FILE of its path.")  # fmt: skip
@click.option("--follow", is_flag=True, help="Go on as the ledger grows, until Ctrl-C.")
@json_option
@pass_ledger
def push(option: LedgerOption, url: str | None, name: str | None, follow: bool, as_json: bool) -> None:
    """Send to the hub URL the events that it lacks.

    URL is postgresql://USER@HOST/DATABASE or the file of an SQLite hub; by default $DECOMP_LEDGER_HUB, or `hub` in
    pyproject.toml. A push that was interrupted goes on where it ended. A ledger that differs from the hub's is
    refused.
    """
    if follow and as_json:
        raise click.UsageError("--follow and --json exclude each other; give one of them")
    with option.read() as ledger:
        if follow:
            ledger.follow(option.hub_or(url), name=name, report=lambda done: note(pushed_line(done)))
            return
        with progress("push") as report:
            done = ledger.push(option.hub_or(url), name=name, progress=report)
    if as_json:
        write_json(done.to_json())
    else:
        note(pushed_line(done))


def pushed_line(done: Pushed) -> str:
    """Return what a push did, in words."""
    sent = f"sent {count(done.sent, 'event')}" if done.sent else "nothing new"
    signed = f" and {count(done.checkpoints, 'checkpoint')}" if done.checkpoints else ""
    return f"{done.hub} has {count(done.events, 'event')} of {done.name} ({sent}{signed}); head {done.head}"


@click.command()
@click.argument("ledger")
@click.argument("where", nargs=-1, required=True, metavar="[URL] FILE")
@json_option
@pass_ledger
def clone(option: LedgerOption, ledger: str, where: Sequence[str], as_json: bool) -> None:
    """Make the new ledger FILE of LEDGER, the name or the id of one in the hub URL, once it verifies.

    Its events have the hashes of the original.
    """
    if len(where) > 2:
        raise click.UsageError("give LEDGER, the URL of the hub and FILE")
    *urls, file = where
    url = option.hub_or(urls[0] if urls else None)
    with phases("receive", "verify the clone") as (reading, verifying):
        result = clone_ledger(ledger, url, file, progress=verifying, reading=reading)
    if as_json:
        write_json({"ledger": file, "events": result.events, "head": result.head})
    else:
        note(f"{file} has {count(result.events, 'event')}; head {result.head}")


@click.command()
@click.argument("url", required=False)
@json_option
@pass_ledger
def fetch(option: LedgerOption, url: str | None, as_json: bool) -> None:
    """Append to the ledger, a clone, the events that the hub URL has more, once the whole verifies."""
    path = absolute(option.path)
    if not os.path.exists(path):  # noqa: PTH110
        raise LedgerFileError(f"{path}: the ledger does not exist; make it with `decomp-ledger clone`")
    with option.write() as ledger, progress("verify the ledger") as report:
        done = ledger.fetch(option.hub_or(url), progress=report)
    if as_json:
        write_json(done.to_json())
    else:
        new = count(done.received, "new event") if done.received else "nothing new"
        note(f"{option.path} has {count(done.events, 'event')} ({new}); head {done.head}")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", "url", metavar="URL", required=True, help="The hub; a file is made if it is missing.")
@json_option
def collect(files: Sequence[str], url: str, as_json: bool) -> int:
    """Push ledger files, such as those of CI jobs, into one hub; exit with 1 if one of them could not be pushed.

    Each has the name FOLDER/FILE in the hub. Collecting a file again sends what is new.
    """
    found = Hub(url).collect(files)
    if as_json:
        write_json([each.to_json() for each in found])
    else:
        for each in found:
            if each.pushed is not None:
                note(f"{each.path}: {count(each.pushed.sent, 'event')} sent, as {each.pushed.name}")
            elif each.problem is None:
                note(f"{each.path}: nothing new, the hub has a newer copy")
            else:
                explain_nothing(each.problem)
    return FOUND if any(each.problem is not None for each in found) else 0


@click.group()
def hub() -> None:
    """Make, list and check a hub: many ledgers in one database."""


@hub.command("init")
@click.argument("url", required=False)
@json_option
@pass_ledger
def init(option: LedgerOption, url: str | None, as_json: bool) -> None:
    """Make a hub in the database URL, or bring an older one to the newest schema."""
    done = Hub(option.hub_or(url)).init()
    if as_json:
        write_json(done.to_json())
        return
    note(f"{done.hub} is a hub{' now' if done.applied else ' already'}")
    if done.missing:
        note("An administrator has to execute, so that others than you can use it:")
        for statement in done.missing:
            note(f"  {statement};")


@hub.command("ledgers")
@click.argument("url", required=False)
@json_option
@pass_ledger
def ledgers(option: LedgerOption, url: str | None, as_json: bool) -> None:
    """List the ledgers of the hub URL."""
    found = Hub(option.hub_or(url))
    infos = found.ledgers()
    if as_json:
        write_json([each.to_json() for each in infos])
    elif infos:
        rows = [
            (each.name, str(each.events), str(each.tables), when(each.last_at) if each.last_at else "", each.id)
            for each in infos
        ]
        columns(("ledger", "events", "tables", "last event", "id"), rows)
    else:
        explain_nothing(f"{found.url.label}: it has no ledger yet; push one")


@hub.command("verify")
@click.argument("url", required=False)
@click.option("--ledger", "name", metavar="LEDGER", help="Check only this ledger, by its name or id.")
@json_option
@pass_ledger
def verify(option: LedgerOption, url: str | None, name: str | None, as_json: bool) -> int:
    """Recompute every chain of the hub URL, and what was derived from the events; exit with 1 if something is wrong."""
    with progress("verify") as report:
        result = Hub(option.hub_or(url)).verify(name, progress=report)
    if as_json:
        write_json(result.to_json())
    elif result.ok:
        chains = "the chain is" if result.ledgers == 1 else "their chains are"
        note(f"{count(result.ledgers, 'ledger')}, {count(result.events, 'event')}: {chains} whole")
    for problem in () if as_json else result.problems:
        note(str(problem))
    return 0 if result.ok else FOUND


COMMANDS = (push, clone, fetch, collect, hub)
