"""The history of tables: their rules at any version, and the event that made each rule."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from decomp_ledger.errors import InvalidName, LedgerError, UnknownOp, UnknownTable
from decomp_ledger.model import op_names
from decomp_ledger.model.arguments import checked, shown
from decomp_ledger.model.display import Row, Rows, displayed, row_of
from decomp_ledger.model.events import Created, Event, Passed, read_event
from decomp_ledger.model.handles import Handle
from decomp_ledger.model.op_lookup import ops_named
from decomp_ledger.model.recorded_names import split_recorded
from decomp_ledger.model.rules import Rule, TableState
from decomp_ledger.model.state_specs import (
    LATEST,
    TableSpec,
    parse_runs_back,
    parse_state_spec,
    parse_version,
    unknown_version,
)
from decomp_ledger.storage.bounded_rows import all_rows
from decomp_ledger.storage.database import Database
from decomp_ledger.storage.event_store import EVENT, MAKES_VERSION, EventStore, TableInfo

__all__ = ["History", "Since", "TableSeries"]

_TABLES = """
SELECT counted.first, counted.name, counted.version, counted.events, first.recorded_at, last.recorded_at
FROM (
    SELECT
        decomp_table.name AS name, min(event.seq) AS first, max(event.seq) AS last, max(event.version) AS version,
        count(*) AS events
    FROM decomp_table JOIN event ON event.table_id = decomp_table.id
    GROUP BY decomp_table.id
) AS counted
JOIN event AS first ON first.seq = counted.first
JOIN event AS last ON last.seq = counted.last
"""
_TAGS = "SELECT name, version FROM tag WHERE table_id = ? ORDER BY version, name"
_VERSIONS_OF_OP = """
SELECT version FROM change
WHERE table_id = :table AND op_id = (SELECT id FROM op WHERE name = :op) AND version <= :version
ORDER BY version DESC
"""
_KIND = f"SELECT kind FROM event WHERE table_id = ? AND version = ? AND {MAKES_VERSION}"
# The few columns of an event that a list of rules shows.
_SINCE = """
SELECT event.version, event.seq, provenance.reason
FROM event
JOIN provenance ON provenance.id = event.provenance_id
"""
_AT_VERSIONS = f"WHERE event.table_id = ? AND event.version IN ({{}}) AND {MAKES_VERSION}"
_NAMED = 5  # runs that an error names
_CHUNK = 500  # versions in one query; SQLite before 3.32 allows 999 parameters


class _TableAt(NamedTuple):
    """One table of a lineage, up to a version."""

    name: str
    table_id: int
    version: int


class _Creation(NamedTuple):
    """A table's first event, and its body."""

    seq: int
    body: Created


# The last change of an op: its rule (None after a reset), the table that changed it, and the version that did.
_LastChange: TypeAlias = "tuple[Rule | None, _TableAt, int]"


@displayed
class Since(NamedTuple):
    """Since when a table has a rule, and why.

    Attributes:
        version: the version that the event made.
        seq: the event's number.
        reason: why, or None.
    """

    version: int
    seq: int
    reason: str | None


@displayed
class TableSeries(NamedTuple):
    """The runs of a recorded table, or one table that has a name of its own.

    Attributes:
        name: `RECORDING/MAKER`, or the name of the table.
        tables: one for each run, the newest last.
    """

    name: str
    tables: tuple[TableInfo, ...]

    @property
    def newest(self) -> TableInfo:
        """The table that the name stands for."""
        return self.tables[-1]

    @property
    def run(self) -> int | None:
        """The number of the newest run; None for a table with a name of its own."""
        found = None if self.newest.name == self.name else split_recorded(self.newest.name)
        return None if found is None else found.run

    def _row(self) -> Row:
        newest = {**row_of(self.newest), "name": self.name}
        return {**newest, "newest_run": self.run, "runs": None if self.run is None else len(self.tables)}


_Origin = TypeVar("_Origin", Event, Since)


@checked
class History(Handle):
    """Reads of tables at any version, through the versions that they were forked from.

    A base class rather than a part, because each of its methods is one of `Ledger` too: a part would need fifteen
    methods that only forward. LedgerLog adds appending, Ledger the layers above.

    Attributes:
        database: the open file.
        event_store: its rows as values.
    """

    database: Database
    event_store: EventStore

    @property
    def path(self) -> str:
        """The file's absolute path, or ":memory:"."""
        return self.database.path

    def tables(self) -> Rows[TableInfo]:
        """Return all tables, in the order of their first events."""
        with self.database.reading() as connection:
            rows = all_rows(connection, _TABLES)
        return Rows(TableInfo(self.event_store.stored_name(row[1]), *row[2:]) for row in sorted(rows))

    def table_series(self) -> Rows[TableSeries]:
        """Return all tables, those of one series together, in the order of their first events."""
        infos = self.tables()
        names = {info.name for info in infos}
        found: dict[str, dict[int, TableInfo]] = {}
        for info in infos:
            recorded = split_recorded(info.name)
            if recorded is None or recorded.series in names:
                found[info.name] = {0: info}
            else:
                found.setdefault(recorded.series, {})[recorded.run] = info
        return Rows(TableSeries(name, tuple(runs[run] for run in sorted(runs))) for name, runs in found.items())

    def table_named(self, text: str) -> str:
        """Return the name of the table that a text means.

        Args:
            text: the name of a table; else that of a series of recorded tables, which means its newest run, or with
                `~N` the run that is N runs before that.

        Raises:
            UnknownTable: the ledger has no such table, or the series has no such run.
        """
        found = self.find_table(text)
        if found is not None:
            return found
        series, back = parse_runs_back(text)
        if back and self.event_store.table_id(series) is not None:
            raise UnknownTable(f"{text:.80}: {series:.80} is one table, so it has no runs; {series:.80}@N is a version")
        runs = self.runs(series)
        if not runs:
            raise self._unknown_table(text)
        several = "one run" if len(runs) == 1 else f"{len(runs)} runs"
        raise UnknownTable(f"{text:.80}: the series has {several}; give one of {', '.join(runs[-_NAMED:])}")

    def find_table(self, text: str) -> str | None:
        """Return the name of the table that a text means, as `table_named` reads it, or None."""
        if self.event_store.table_id(text) is not None:
            return text
        series, back = parse_runs_back(text)
        if back and self.event_store.table_id(series) is not None:
            return None
        runs = self.runs(series)
        return runs[-1 - back] if back < len(runs) else None

    def runs(self, series: str) -> list[str]:
        """Return the names of the tables of a series, the newest run last."""
        names = map(split_recorded, self.event_store.table_names(f"{series}/"))
        runs = sorted(each.run for each in names if each is not None and each.series == series)
        return [f"{series}/{run}" for run in runs]

    def resolve(self, spec: str) -> TableState:
        """Return the state that `TABLE`, `TABLE@VERSION` or `TABLE@TAG` names.

        Raises:
            UnknownTable: the ledger has no such table.
            UnknownVersion: the table has no such version or tag.
        """
        return self.state(*self.locate(spec))

    def locate(self, spec: str) -> tuple[str, int]:
        """Return the table and the version number that `TABLE`, `TABLE@VERSION` or `TABLE@TAG` names.

        Raises:
            UnknownTable: the ledger has no such table.
            UnknownVersion: the table has no such version or tag.
        """
        named = parse_state_spec(spec)
        if not isinstance(named, TableSpec):
            raise UnknownTable(f"{spec:.80}: not a table; give TABLE, TABLE@VERSION or TABLE@TAG")
        table = self.table_named(named.table)
        return table, self.version_of(table, named.version)

    def state(self, table: str, version: int | str | None = None) -> TableState:
        """Return a table's rules at a version or tag; the newest version if None."""
        at = self.version_of(table, version)
        lineage, base = self._lineage(table, at)
        changes = sorted(self._last_changes(lineage).items())
        rules = {op: rule for op, (rule, _, _) in changes if rule is not None}
        return TableState(lineage[-1].name, at, base, rules, from_dict=self._is_from_dict(lineage[-1]))

    def version_of(self, table: str, version: int | str | None = None) -> int:
        """Return the number of a version.

        Args:
            table: the table's name.
            version: a number, a number as text, a tag, or None or `latest` for the newest version.

        Raises:
            UnknownTable: the ledger has no such table.
            UnknownVersion: the table has no such version or tag.
        """
        newest = self.event_store.version(self._table_id(table))
        if version is None:
            return newest
        number = parse_version(version) if isinstance(version, str) else version
        if isinstance(number, str):
            tags = self.tags(table)
            if number not in tags and number == LATEST:
                return newest
            if number not in tags:
                raise unknown_version(table, version, newest, tags)
            return tags[number]
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= newest:
            raise unknown_version(table, version, newest)
        return number

    def tags(self, table: str) -> dict[str, int]:
        """Return a table's tags: name -> version."""
        with self.database.reading() as connection:
            rows = all_rows(connection, _TAGS, [self._table_id(table)])
        if not all(isinstance(version, int) for _, version in rows):
            raise self._damaged(f"a tag of {table!r} names no version")
        return {self.event_store.stored_name(name): version for name, version in rows}

    def history(self, table: str, op: str, version: int) -> list[Event]:
        """Return every event up to a version that changed an op, oldest first, with those before a fork.

        Args:
            table: the table's name.
            op: the op's name, in any form that names one op.
            version: the last version.
        """
        op = op_names.normalize(op)
        found: list[Event] = []
        for _, table_id, until in self._lineage(table, version)[0]:
            with self.database.reading() as connection:
                values = {"table": table_id, "op": op, "version": until}
                rows = all_rows(connection, _VERSIONS_OF_OP, values)
            found += self._events_at(table_id, [row[0] for row in rows])
        return sorted(found, key=lambda event: event.seq)

    def event_of(self, table: str, version: int) -> Event:
        """Return the event that made a version of a table."""
        found = next(iter(self._events_at(self._table_id(table), [version])), None)
        if found is None:
            raise self._damaged(f"version {version} of {table} has no event")
        return found

    def state_and_blame(self, table: str, version: int) -> tuple[TableState, dict[str, Event]]:
        """Return a table's rules at a version, and for each op with a rule the event that made it."""
        return self._state_and(table, version, self._events_at)

    def state_and_since(self, table: str, version: int) -> tuple[TableState, dict[str, Since]]:
        """Return a table's rules at a version, and for each op with a rule since when and why.

        Takes half the time of `state_and_blame`, because it decodes no event.
        """
        return self._state_and(table, version, self._since_at)

    def _state_and(
        self, table: str, version: int, read: Callable[[int, Sequence[int]], list[_Origin]]
    ) -> tuple[TableState, dict[str, _Origin]]:
        lineage, base = self._lineage(table, version)
        changes = {op: change for op, change in self._last_changes(lineage).items() if change[0] is not None}
        origins = self._origins(changes, read)
        rules = {op: rule for op, (rule, _, _) in sorted(changes.items()) if rule is not None}
        return TableState(lineage[-1].name, version, base, rules, from_dict=self._is_from_dict(lineage[-1])), origins

    def last_events(self, table: str, version: int | str | None = None) -> dict[str, tuple[Rule | None, Event]]:
        """Return, for each op that a table ever changed, its rule (None after a reset) and the event that made it."""
        changes = self._last_changes(self._lineage(table, self.version_of(table, version))[0])
        events = self._origins(changes, self._events_at)
        return {op: (changes[op][0], event) for op, event in events.items()}

    def _last_changes(self, lineage: Sequence[_TableAt]) -> dict[str, _LastChange]:
        """Return, for each op that a lineage ever changed, its last change."""
        return {
            op: (rule, table, since)
            for table in lineage
            for op, (rule, since) in self.event_store.as_of(table.table_id, table.version).items()
        }

    def _origins(
        self, changes: Mapping[str, _LastChange], read: Callable[[int, Sequence[int]], list[_Origin]]
    ) -> dict[str, _Origin]:
        """Return, for each op, by name, what `read` gives of the event of its last change."""
        wanted: dict[_TableAt, set[int]] = {}
        for _, table, since in changes.values():
            wanted.setdefault(table, set()).add(since)
        found: dict[tuple[_TableAt, int], _Origin] = {}
        for table, versions in wanted.items():
            found.update({(table, each.version): each for each in read(table.table_id, sorted(versions))})
            if missing := [version for version in versions if (table, version) not in found]:
                raise self._damaged(f"version {min(missing)} of {table.name} has no event")
        return {op: found[table, since] for op, (_, table, since) in sorted(changes.items())}

    def _lineage(self, table: str, version: int) -> tuple[list[_TableAt], str]:
        """Return the tables that a version was forked from, oldest first and itself last, and its base."""
        found: list[_TableAt] = []
        parent: tuple[str, int] | None = (self.table_named(table), version)
        base, later = "torch", math.inf
        while parent is not None:
            name, until = parent
            table_id = self.event_store.table_id(name)
            if table_id is None:
                raise self._unknown_table(name)
            seq, created = self._created(name, table_id)
            # By the seqs, because they are hashed; the order of the rows is not.
            if seq >= later:
                raise self._damaged(f"{found[-1].name!r} is forked from the later {name!r}")
            later = seq
            found.append(_TableAt(name, table_id, until))
            parent, base = created.parent, created.base if len(found) == 1 else base
        return found[::-1], base

    def _is_from_dict(self, at: _TableAt) -> bool:
        """Tell whether a version is the content of a dict; a change of it makes a table of its own."""
        with self.database.reading() as connection:
            row = connection.execute(_KIND, [at.table_id, at.version]).fetchone()
        return row is not None and bool(row[0] == Passed.kind)

    def _table_id(self, table: str) -> int:
        table_id = self.event_store.table_id(table)
        if table_id is None:
            table_id = self.event_store.table_id(self.table_named(table))
        if table_id is None:
            raise self._unknown_table(table)
        return table_id

    def _unknown_table(self, table: str) -> UnknownTable:
        known = self.event_store.table_names("")
        series = {each.series: None for name in known if (each := split_recorded(name)) is not None}
        names = [*dict.fromkeys([*series, *known])]
        near = difflib.get_close_matches(table, names, 3) or _of_part(table, series) or names[:5]
        tables = ", ".join(map(repr, near)) or "none yet"
        op = "; for an op, use `explain`, or --op with `blame` or `log`" if self._is_op(table) else ""
        return UnknownTable(f"{self.path}: the ledger has no table {shown(table)}; it has {tables}{op}")

    def _is_op(self, text: str) -> bool:
        """Tell whether a text names an op rather than a table."""
        try:
            return bool(ops_named(text, self.event_store.op_names()))
        except (InvalidName, UnknownOp):
            return False

    def created(self, table: str) -> Created:
        """Return the body of a table's first event."""
        return self._created(table, self._table_id(table)).body

    def _created(self, table: str, table_id: int) -> _Creation:
        first = next(iter(self._events_at(table_id, [1])), None)
        if first is None or not isinstance(first.body, Created):
            raise self._damaged(f"the first event of the table {table!r} is not 'created'")
        return _Creation(first.seq, first.body)

    def _events_at(self, table_id: int, versions: Sequence[int]) -> list[Event]:
        """Return the events that made these versions of a table."""
        return [read_event(row) for row in self._rows_at(EVENT, table_id, versions)]

    def _since_at(self, table_id: int, versions: Sequence[int]) -> list[Since]:
        found = [Since(*row) for row in self._rows_at(_SINCE, table_id, versions)]
        if not all(type(each.seq) is int and isinstance(each.reason, str | None) for each in found):
            raise self._damaged("the seq or the reason of an event has another type")
        return found

    def _rows_at(self, select: str, table_id: int, versions: Sequence[int]) -> Iterator[Any]:
        for start in range(0, len(versions), _CHUNK):
            chunk = versions[start : start + _CHUNK]
            query = select + _AT_VERSIONS.format(", ".join("?" * len(chunk)))
            with self.database.reading() as connection:
                rows = all_rows(connection, query, [table_id, *chunk])
            yield from rows

    def _damaged(self, problem: str) -> LedgerError:
        return LedgerError(f"{self.path}: the ledger is damaged: {problem}; run verify")


def _of_part(text: str, series: Iterable[str]) -> list[str]:
    """Return the first series whose recording or maker has this name."""
    return [name for name in series if text in name.rsplit("/", 1)][:5]
