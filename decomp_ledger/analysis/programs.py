"""Which exports of a ledger are of one program, decided here alone. Pure.

A program is a root module that is lowered with a table. Two tables that lower one module make two programs, because
each gives a result of its own; and the runs of one recorded table, which are a series, are one table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import Event, Exported, RootModule

__all__ = ["Program", "program_of", "programs"]


@attrs.frozen
class Program:
    """A root module that is lowered with a table.

    Attributes:
        table: the table, or the series of the runs of a recorded one.
        module: the full name of the module's class; None if an export does not tell it.
        file: the file that defines the class; None likewise.
    """

    table: str
    module: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        if self.module is None:
            return f"a program of {self.table}"
        where = f" of {self.file}" if self.file else ""
        return f"{RootModule(self.module).label}{where} with {self.table}"

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return attrs.asdict(self)


def program_of(event: Event, series: Mapping[str, str]) -> Program:
    """Return the program of an export.

    Args:
        event: the `exported` event.
        series: name of a table -> the series that it is a run of; a table that is missing stands for itself.
    """
    module = event.body.module if isinstance(event.body, Exported) else None
    table = series.get(event.table, event.table)
    return Program(table) if module is None else Program(table, module.name, module.file)


def programs(exports: Iterable[Event], series: Mapping[str, str]) -> dict[Program, list[Event]]:
    """Return the exports of each program, in the order of the programs' first exports.

    Args:
        exports: the `exported` events, oldest first.
        series: as of `program_of`.
    """
    found: dict[Program, list[Event]] = {}
    for event in exports:
        found.setdefault(program_of(event, series), []).append(event)
    return found
