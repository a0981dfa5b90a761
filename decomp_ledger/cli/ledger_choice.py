"""What every command needs before it opens a ledger: which one was named, exit statuses, and a line for people.

`run` needs nothing more of the commands. It is imported without the class `Ledger`, because what a recording imports is
time that the recorded program takes longer.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, NamedTuple

import click

from decomp_ledger.hub.naming import hub_url
from decomp_ledger.model.printable import printable

__all__ = ["COMMAND_LINE", "FOUND", "INTERRUPTED", "WRONG_USE", "LedgerChoice", "explain_nothing", "part"]

# The key of the command line in click's context.
COMMAND_LINE = "decomp_ledger.command_line"

FOUND = 1  # exit status: the command found a difference or a fault
WRONG_USE = 2  # exit status: wrong use, or the command could not do its work
INTERRUPTED = 130  # exit status: Ctrl-C, as a shell reports it


class LedgerChoice(NamedTuple):
    """The ledger that the command line names, or the project has.

    Attributes:
        path: its file.
        given: whether the command line or the environment named it.
        actor: who makes changes, as the project says; or None.
        trust: the modules that may be imported, as the project says.
        hub: the address of the hub, as the project says.
    """

    path: str
    given: bool = True
    actor: str | None = None
    trust: tuple[str, ...] = ()
    hub: str | None = None

    def hub_or(self, given: str | None) -> str:
        """Return the address of the hub: as given, else as the environment has it, else as the project says."""
        return hub_url(given, self.hub)

    def actor_or(self, given: str | None) -> str | None:
        """Return who acts: as given, else as the environment has it, else as the project says."""
        return given or (None if os.environ.get("DECOMP_LEDGER_ACTOR") else self.actor)


def part(name: str) -> Any:
    """Import a module of the command line that few commands need."""
    return importlib.import_module(f"decomp_ledger.cli.{name}")


def explain_nothing(text: str) -> None:
    """Print one escaped line to standard error, which says why a command has nothing to show."""
    click.echo(f"decomp-ledger: {printable(text)}", err=True)
