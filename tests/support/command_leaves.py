"""The commands of the command line that have no commands below them."""

from __future__ import annotations

from collections.abc import Iterator

import click

from decomp_ledger.cli.completion import commands_of

__all__ = ["leaves"]


def leaves(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield each command below one, with the words that call it."""
    if isinstance(command, click.Group):
        for below in commands_of(command):
            yield from leaves(below, f"{name} {below.name}".strip())
    else:
        yield name, command
