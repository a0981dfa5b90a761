"""Which exports of a ledger are of one program, decided here alone. Pure.

A program is a root module that is lowered with a table, known by the module's class and file, and by the table or the
series of its runs. Two tables that lower one module make two programs, because each gives a result of its own.

Two graphs of one class can be siblings, such as two sizes of a model, or an older and a newer form of one program.
Exports of one git commit have the same code, so their graphs are siblings; an export of a newer commit takes the place
of all before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import Event, Exported, RootModule

__all__ = ["Program", "programs"]

_DIGITS = 8  # of a graph's digest that a name shows


@displayed
@attrs.frozen
class Program:
    """A root module that is lowered with a table.

    Attributes:
        table: the table, or the series of the runs of a recorded one.
        module: the full name of the module's class; None if an export does not tell it.
        file: the file that defines the class; None likewise.
        graph: digest of its graph before the export, if it has siblings; else None.
    """

    table: str
    module: str | None = None
    file: str | None = None
    graph: str | None = None

    def __str__(self) -> str:
        name = "a program" if self.module is None else RootModule(self.module).label
        where = f" of {self.file}" if self.file else ""
        graph = "" if self.graph is None else f" (graph {self.graph[:_DIGITS]})"
        return f"{name}{where}{graph} with {self.table}"

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return attrs.asdict(self)


def programs(
    exports: Iterable[Event], series: Mapping[str, str], commits: Mapping[str, str]
) -> dict[Program, list[Event]]:
    """Return the exports of each program that count, oldest first; programs in the order of their newest exports.

    Args:
        exports: the `exported` events, oldest first.
        series: name of a table -> the series that it is a run of; a table that is missing stands for itself.
        commits: digest of an environment -> its git commit; one that is missing had none.
    """
    found: dict[Program, list[Event]] = {}
    for event in exports:
        module = _body(event).module
        table = series.get(event.table, event.table)
        program = Program(table) if module is None else Program(table, module.name, module.file)
        found.setdefault(program, []).append(event)
    each = [pair for program, events in found.items() for pair in _siblings(program, events, commits)]
    return dict(sorted(each, key=lambda pair: pair[1][-1].seq))


def _siblings(
    program: Program, events: Sequence[Event], commits: Mapping[str, str]
) -> Iterable[tuple[Program, list[Event]]]:
    """Give the programs of one class and table, by the exports of the newest commit."""
    newest = commits.get(events[-1].environment)
    by_graph: dict[str | None, list[Event]] = {}
    for event in events:
        if commits.get(event.environment) == newest:
            by_graph.setdefault(_body(event).before, []).append(event)
    if len(by_graph) == 1:
        return [(program, list(*by_graph.values()))]
    # A graph without a digest is shown as "unknown".
    return [(attrs.evolve(program, graph=graph or "unknown"), of_graph) for graph, of_graph in by_graph.items()]


def _body(event: Event) -> Exported:
    if not isinstance(event.body, Exported):
        raise TypeError(f"#{event.seq}: {event.kind} is not an export")
    return event.body
