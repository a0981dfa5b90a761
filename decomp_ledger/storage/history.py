"""What a ledger's tables said at any version, and who said it: the reading half of :class:`Ledger`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from decomp_ledger.errors import LedgerError, UnknownTable
from decomp_ledger.model.events import Created, Event, read_event
from decomp_ledger.model.rules import Rule, TableState
from decomp_ledger.model.state_specs import TableSpec, parse_state_spec, parse_version, unknown_version
from decomp_ledger.storage import sql
from decomp_ledger.storage.database import Database
from decomp_ledger.storage.event_store import EventStore, TableInfo

__all__ = ["MAKES_VERSION", "History", "Since"]

MAKES_VERSION = "event.makes_version = 1"
_CHUNK = 500
# What is said of an op or None if it was restored, in which table and its row, since which version.
Word: TypeAlias = "tuple[Rule | None, tuple[str, int], int]"


class Since(NamedTuple):
    """Since when a table says something, and why: what most who ask for the event want to know of it.

    Attributes:
        version: the version that the event made.
        seq: the event's.
        reason: why, or None.
    """

    version: int
    seq: int
    reason: str | None


_Told = TypeVar("_Told", Event, Since)


class History:
    """Reads of tables as of any version; what a version was forked from is part of it.

    Attributes:
        database: the open file.
        event_store: its rows as values.
    """

    database: Database
    event_store: EventStore

    @property
    def path(self) -> str:
        """Its file, or ":memory:"."""
        return self.database.path

    def tables(self) -> list[TableInfo]:
        """Return all tables, in the order in which they began."""
        with self.database.reading() as connection:
            rows = connection.execute(sql.TABLES).fetchall()
        if not all(isinstance(row[0], str) for row in rows):
            raise LedgerError(f"{self.path} is damaged: a table has no name; run verify")
        return [TableInfo(*row[:5]) for row in rows]

    def resolve(self, spec: str) -> TableState:
        """Return the state that `TABLE`, `TABLE@VERSION` or `TABLE@TAG` names.

        Raises:
            UnknownTable: there is no such table.
            UnknownVersion: it has no such version or tag.
        """
        return self.state(*self.locate(spec))

    def locate(self, spec: str) -> tuple[str, int]:
        """Return the table and the version number that `TABLE`, `TABLE@VERSION` or `TABLE@TAG` names.

        Raises:
            UnknownTable: there is no such table.
            UnknownVersion: it has no such version or tag.
        """
        named = parse_state_spec(spec)
        if not isinstance(named, TableSpec):
            raise UnknownTable(f"{spec:.80}: not a table; give TABLE, TABLE@VERSION or TABLE@TAG")
        return named.table, self.version_of(named.table, named.version)

    def state(self, table: str, version: int | str | None = None) -> TableState:
        """Return what a table said at a version or tag; now, if None."""
        at = self.version_of(table, version)
        lineage, base = self._lineage(table, at)
        said = {op: rule for op, (rule, _, _) in self._words(lineage).items() if rule is not None}
        return TableState(table, at, base, said)

    def version_of(self, table: str, version: int | str | None = None) -> int:
        """Return the number of a version.

        Args:
            table: the table's name.
            version: a number, a number as text, a tag, or None for the newest version.

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
            if number not in tags:
                raise unknown_version(table, version, newest, tags)
            return tags[number]
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= newest:
            raise unknown_version(table, version, newest)
        return number

    def tags(self, table: str) -> dict[str, int]:
        """Return a table's tags: name -> version."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT name, version FROM tag WHERE table_id = ? ORDER BY version, name", [self._table_id(table)]
            ).fetchall()
        if not all(isinstance(version, int) for _, version in rows):
            raise LedgerError(f"{self.path} is damaged: a tag of {table!r} names no version; run verify")
        return {str(name): version for name, version in rows}

    def history(self, table: str, op: str, version: int) -> list[Event]:
        """Return every event up to a version that touched an op, oldest first, those it was forked from included."""
        found: list[Event] = []
        for _, table_id, until in self._lineage(table, version)[0]:
            with self.database.reading() as connection:
                rows = connection.execute(sql.TOUCHED, {"table": table_id, "op": op, "version": until}).fetchall()
            found += self._events_at(table_id, [row[0] for row in rows])
        return sorted(found, key=lambda event: event.seq)

    def state_and_blame(self, table: str, version: int) -> tuple[TableState, dict[str, Event]]:
        """Return both at once: what a table said at a version, and for each op of it the event that said it."""
        return self._state_and(table, version, self._events_at)

    def state_and_since(self, table: str, version: int) -> tuple[TableState, dict[str, Since]]:
        """Return what a table said at a version, and for each op of it since when and why; in half the time."""
        return self._state_and(table, version, self._since_at)

    def _state_and(
        self, table: str, version: int, ask: Callable[[int, Sequence[int]], list[_Told]]
    ) -> tuple[TableState, dict[str, _Told]]:
        lineage, base = self._lineage(table, version)
        said = self._told({op: word for op, word in self._words(lineage).items() if word[0] is not None}, ask)
        rules = {op: rule for op, (rule, _) in said.items() if rule is not None}
        return TableState(table, version, base, rules), {op: told for op, (_, told) in said.items()}

    def last_events(self, table: str, version: int | str | None = None) -> dict[str, tuple[Rule | None, Event]]:
        """Return, for each op that a table ever spoke of, what it said last, and the event that said it."""
        return self._told(self._words(self._lineage(table, self.version_of(table, version))[0]), self._events_at)

    def _words(self, lineage: Sequence[tuple[str, int, int]]) -> dict[str, Word]:
        """Return, for each op that a table ever spoke of, what it said last, in which table's row, at which version."""
        return {
            op: (rule, (name, table_id), since)
            for name, table_id, until in lineage
            for op, (rule, since) in self.event_store.as_of(table_id, until).items()
        }

    def _told(
        self, words: Mapping[str, Word], ask: Callable[[int, Sequence[int]], list[_Told]]
    ) -> dict[str, tuple[Rule | None, _Told]]:
        """Return, for each op, what was said, and what `ask` tells of the event that said it."""
        versions: dict[tuple[str, int], list[int]] = {}
        for _, place, since in words.values():
            versions.setdefault(place, []).append(since)
        told: dict[tuple[str, int], dict[int, _Told]] = {}
        for (name, table_id), wanted in versions.items():
            told[name, table_id] = {each.version: each for each in ask(table_id, wanted)}
            if missing := set(wanted) - told[name, table_id].keys():
                raise LedgerError(f"{self.path} is damaged: version {min(missing)} of {name} has no event; run verify")
        return {op: (rule, told[place][since]) for op, (rule, place, since) in sorted(words.items())}

    def _lineage(self, table: str, version: int) -> tuple[list[tuple[str, int, int]], str]:
        """Return the tables that a version comes of, the oldest first, each as (name, row, version), and the base."""
        found: list[tuple[str, int, int]] = []
        parent: tuple[str, int] | None = (table, version)
        base = "torch"
        while parent is not None:
            name, until = parent
            table_id = self._table_id(name)
            if found and table_id >= found[-1][1]:
                later = f"{found[-1][0]!r} is forked from the later {name!r}"
                raise LedgerError(f"{self.path} is damaged: {later}; run verify")
            found.append((name, table_id, until))
            created = self._created(name, table_id)
            parent, base = created.parent, created.base if len(found) == 1 else base
        return found[::-1], base

    def _table_id(self, table: str) -> int:
        table_id = self.event_store.table_id(table)
        if table_id is None:
            import difflib  # for those who mistype

            known = [info.name for info in self.tables()]
            near = difflib.get_close_matches(table, known, 3) or known[:5]
            raise UnknownTable(f"{self.path} has no table {table!r}; it has {', '.join(map(repr, near)) or 'none yet'}")
        return table_id

    def created(self, table: str) -> Created:
        """Return how a table began."""
        return self._created(table, self._table_id(table))

    def _created(self, table: str, table_id: int) -> Created:
        first = next(iter(self._events_at(table_id, [1])), None)
        if first is None or not isinstance(first.body, Created):
            raise LedgerError(f"{self.path} is damaged: the table {table!r} does not begin with 'created'; run verify")
        return first.body

    def _events_at(self, table_id: int, versions: Sequence[int]) -> list[Event]:
        """Return the events that made these versions of a table."""
        return list(map(read_event, self._rows_at(sql.EVENT, table_id, versions)))

    def _since_at(self, table_id: int, versions: Sequence[int]) -> list[Since]:
        found = [Since(*row) for row in self._rows_at(sql.SINCE, table_id, versions)]
        if not all(type(each.seq) is int and isinstance(each.reason, str | None) for each in found):
            raise LedgerError(f"{self.path} is damaged: an event's seq or reason is of another type; run verify")
        return found

    def _rows_at(self, select: str, table_id: int, versions: Sequence[int]) -> list[Any]:
        wanted = sorted(set(versions))
        found: list[Any] = []
        with self.database.reading() as connection:
            for start in range(0, len(wanted), _CHUNK):
                chunk = wanted[start : start + _CHUNK]
                marks = ", ".join("?" * len(chunk))
                text = f"{select} WHERE event.table_id = ? AND event.version IN ({marks}) AND {MAKES_VERSION}"
                found += connection.execute(text, [table_id, *chunk]).fetchall()
        return found
