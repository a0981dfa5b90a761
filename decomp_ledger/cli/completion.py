"""What a shell completes: tables, tags, exports, torch versions, ops, opsets, files, ledgers of a hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import attrs
import click
from click.shell_completion import CompletionItem

from decomp_ledger import catalogs
from decomp_ledger.errors import LedgerError
from decomp_ledger.hub.hub import Hub
from decomp_ledger.ledger import Ledger
from decomp_ledger.log.settings import project_settings

__all__ = ["commands_of", "complete"]

_MOST = 200  # exports, ops, and ledgers of a hub, that are offered
_HUB_SECONDS = "2"  # that a person at a shell waits for a server that does not answer


class _Completed(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """A text of the command line that a shell completes.

    Args:
        offer: gives the texts that may be meant, for the ledger of the command line.
        files: offer files too.
    """

    name = "text"

    def __init__(self, offer: Callable[[Ledger, str], Iterator[str]], *, files: bool) -> None:
        self.offer = offer
        self.files = files

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = []
        # A shell shows no error: what cannot be read offers nothing.
        with suppress(LedgerError), Ledger(_path(ctx), read_only=True, lazy=True) as ledger:
            found = [
                each for each in self.offer(ledger, incomplete) if each.startswith(incomplete) and each.isprintable()
            ]
        items = [CompletionItem(each) for each in found]
        return items or ([CompletionItem(incomplete, type="file")] if self.files else [])


class _LedgerOfHub(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # as above
    """The name of a ledger of the hub that the command line names before it; else of the project's hub."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names: list[str] = []
        with suppress(LedgerError):
            # An argument before an option that is not complete is not parsed.
            argument = next(iter(ctx.args), None) if "url" in ctx.params else None
            hub = Hub(ctx.params.get("hub") or argument)
            server = hub.url.url
            if server is not None:
                waits = {"connect_timeout": _HUB_SECONDS, **server.query}
                hub.url = attrs.evolve(hub.url, url=server.set(query=waits))
            names = [each.name for each in hub.ledgers()]
        found = (each for each in names if each.startswith(incomplete) and each.isprintable())
        return [CompletionItem(each) for each in islice(found, _MOST)]


def _path(ctx: click.Context) -> str:
    given = ctx.find_root().params.get("path") or os.environ.get("DECOMP_LEDGER")
    return str(given or project_settings().ledger)


def _of_ledger(ledger: Ledger, read: Callable[[], Iterator[str]]) -> Iterator[str]:
    """Give what a ledger offers, or nothing if it cannot be read."""
    with suppress(LedgerError):
        yield from list(read())


def _tables(ledger: Ledger, incomplete: str) -> Iterator[str]:
    yield from _of_ledger(ledger, lambda: _names(ledger, incomplete))


def _names(ledger: Ledger, incomplete: str) -> Iterator[str]:
    """Give the names of tables and series; of a series whose name is complete, those of its runs."""
    for series in ledger.table_series():
        yield series.name
        if series.run is not None and incomplete.startswith(f"{series.name}/"):
            yield from (info.name for info in reversed(series.tables))
        if series.run is not None and incomplete.startswith(f"{series.name}~"):
            yield from (f"{series.name}~{back}" for back in range(1, len(series.tables)))


def _tags(ledger: Ledger, incomplete: str) -> Iterator[str]:
    table = incomplete.partition("@")[0]
    yield from _of_ledger(ledger, lambda: (f"{table}@{tag}" for tag in ledger.tags(table)))


def _exports(ledger: Ledger, incomplete: str) -> Iterator[str]:
    newest = islice(ledger.events(kind="exported", desc=True), _MOST)
    yield from (f"export:{event.seq}" for event in newest)


def _states(ledger: Ledger, incomplete: str) -> Iterator[str]:
    if "@" in incomplete:
        yield from _tags(ledger, incomplete)
    elif incomplete.startswith("export:"):
        yield from _of_ledger(ledger, lambda: _exports(ledger, incomplete))
    else:
        yield from _tables(ledger, incomplete)
        yield from (f"torch:{version}" for version in reversed(catalogs.available()))
        yield from _of_ledger(ledger, lambda: iter(["export:"][: len(list(_exports(ledger, incomplete)))]))


def _ops(ledger: Ledger, incomplete: str) -> Iterator[str]:
    known = {*_of_ledger(ledger, lambda: iter(ledger.changed_ops)), *catalogs.released(catalogs.available()[-1]).ops}
    yield from islice((op for op in sorted(known) if op.startswith(incomplete)), _MOST)


def _versions(ledger: Ledger, incomplete: str) -> Iterator[str]:
    yield from reversed(catalogs.available())


def _opsets(ledger: Ledger, incomplete: str) -> Iterator[str]:
    yield from catalogs.opsets()


_STATE, _OP = _Completed(_states, files=True), _Completed(_ops, files=False)
# By the name of a parameter, or `command.name` where one name means two things.
_BY_NAME = {
    **dict.fromkeys(("state", "other", "before", "after", "export"), _STATE),
    "drift.program": _STATE,
    "table": _Completed(_tables, files=False),
    "op": _OP,
    "version": _Completed(_versions, files=False),
    "opset": _Completed(_opsets, files=True),
    # `exports --of`, `hub verify --ledger`, `clone`
    **dict.fromkeys(("of", "verify.name", "clone.ledger"), _LedgerOfHub()),
}


def commands_of(group: click.Group) -> Iterator[click.Command]:
    """Give the sub-commands of a command."""
    context = click.Context(group)
    found = (group.get_command(context, name) for name in group.list_commands(context))
    yield from (each for each in found if each is not None)


def complete(command: click.Command) -> None:
    """Let a shell complete the parameters of a command and of its sub-commands."""
    if isinstance(command, click.Group):
        for each in commands_of(command):
            complete(each)
    for parameter in command.params:
        found: Any = _BY_NAME.get(f"{command.name}.{parameter.name}") or _BY_NAME.get(parameter.name or "")
        if found is not None and isinstance(parameter.type, type(click.STRING)):
            parameter.type = found
