"""Which exports of a ledger are of one program, decided here alone. Pure.

A program is a root module that is lowered with a table, known by the module's class and file, and by the table or the
series of its runs. Two tables that lower one module make two programs, because each gives a result of its own.

Two graphs of one class can be siblings, such as two sizes of a model, or an older and a newer form of one program.
Exports of one git commit have the same code, so their graphs are siblings; an export of a newer commit takes the place
of all before it.

A hub has only some facts of each export in its rows. These facts decide here too, so that a hub and a ledger list the
same programs, and call them the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import Event, Exported, RootModule

__all__ = ["Program", "ProgramExport", "current", "program_of", "programs", "without_export"]

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


@attrs.frozen
class ProgramExport:
    """What an export tells of its program.

    Attributes:
        seq: the number of its event.
        table: the table, or the series of the runs of a recorded one.
        module: the full name of the module's class; None if the export does not tell it.
        file: the file that defines the class; None likewise.
        graph: digest of the graph before the export; None if it is not known.
        commit: the git commit that the export ran at; None if it is not known.
    """

    seq: int
    table: str
    module: str | None
    file: str | None
    graph: str | None
    commit: str | None

    @classmethod
    def of(cls, event: Event, table: str, commit: object) -> ProgramExport:
        """Return what an event tells.

        Args:
            event: of the kind `exported`.
            table: its table, or the series of that.
            commit: the `git_commit` of its environment; only text names one.
        """
        body = _body(event)
        name, file = (None, None) if body.module is None else (body.module.name or None, body.module.file or None)
        return cls(event.seq, table, name, file, body.before or None, (isinstance(commit, str) and commit) or None)


def programs(
    exports: Iterable[Event], series: Mapping[str, str], commits: Mapping[str, str]
) -> dict[Program, list[Event]]:
    """Return the exports of each program that count, oldest first; programs in the order of their newest exports.

    Args:
        exports: the `exported` events, oldest first.
        series: name of a table -> the series that it is a run of; a table that is missing stands for itself.
        commits: digest of an environment -> its git commit; one that is missing had none.
    """
    events = {event.seq: event for event in exports}
    facts = (
        ProgramExport.of(event, series.get(event.table, event.table), commits.get(event.environment))
        for event in events.values()
    )
    return {program: [events[each.seq] for each in of_one] for program, of_one in current(facts).items()}


def current(exports: Iterable[ProgramExport]) -> dict[Program, list[ProgramExport]]:
    """Return the exports of each program that count, oldest first; programs in the order of their newest exports.

    Args:
        exports: oldest first; of each series of recorded tables, those of the newest run. One may stand for all older
            ones of the same table, class, commit and graph.
    """
    of_class: dict[tuple[str, str | None, str | None], list[ProgramExport]] = {}
    for each in exports:
        of_class.setdefault((each.table, each.module, each.file), []).append(each)
    found = [pair for of_one in of_class.values() for pair in _siblings(of_one)]
    return dict(sorted(found, key=lambda pair: pair[1][-1].seq))


def _siblings(exports: Sequence[ProgramExport]) -> Iterable[tuple[Program, list[ProgramExport]]]:
    """Give the programs of one class and table, by the exports of the newest commit."""
    newest = exports[-1].commit
    by_graph: dict[str | None, list[ProgramExport]] = {}
    for each in exports:
        if each.commit == newest:
            by_graph.setdefault(each.graph, []).append(each)
    return [(program_of(of_one[-1], siblings=len(by_graph) > 1), of_one) for of_one in by_graph.values()]


def program_of(export: ProgramExport, *, siblings: bool) -> Program:
    """Return the program of an export.

    Args:
        export: the export.
        siblings: whether its table, class and commit have exports of other graphs.
    """
    graph = export.graph or "unknown"
    return Program(export.table, export.module, export.file, graph if siblings else None)


def without_export(run: str, last: int) -> str:
    """Return why the programs of a series are not known.

    Args:
        run: the newest run, which has no export.
        last: the seq of the last export of an older run.
    """
    return f"its newest run, {run}, has no export; the last one is export:{last}"


def _body(event: Event) -> Exported:
    if not isinstance(event.body, Exported):
        raise TypeError(f"#{event.seq}: {event.kind} is not an export")
    return event.body
