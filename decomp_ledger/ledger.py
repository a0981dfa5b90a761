"""The ledger: a file of tables, their events and the catalogs they met."""

from __future__ import annotations

import difflib
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any

from decomp_ledger import names, provenance, sql
from decomp_ledger.canonical import Json, check_text
from decomp_ledger.catalog import Catalog
from decomp_ledger.errors import LedgerError, UnknownExport, UnknownTable, UnknownVersion, UnusableValue
from decomp_ledger.events import CHANGING_KINDS, Body, Created, Event, Exported, Materialized
from decomp_ledger.records import Provenance, Records, TableInfo, read_event
from decomp_ledger.state import Intent, Reference, TableState
from decomp_ledger.store import Store
from decomp_ledger.stream import Stream
from decomp_ledger.verify import Verification, verify

if TYPE_CHECKING:
    from types import TracebackType

    from decomp_ledger.live.table import DecompTable

__all__ = ["Ledger", "TableInfo"]

_IS_CHANGING = "event.kind IN (" + ", ".join(f"'{kind}'" for kind in sorted(CHANGING_KINDS)) + ")"
_CHUNK = 500

_reasons: ContextVar[tuple[tuple[int, str], ...]] = ContextVar("reasons", default=())


class Ledger:
    """An append-only file of decomposition tables.

    Args:
        path: the file, made or migrated if need be; ":memory:" keeps it in memory.
        actor: who acts; else `DECOMP_LEDGER_ACTOR`, git's user, or the login name.
        reason: why, for every event that gives no reason of its own.
        trust: names of modules (and what is under them) that may be imported to find recorded decompositions.
        read_only: never write to the file.
        timeout: seconds to wait for another writer.
        lazy: open the file when it is first needed; what is wrong with it is then said there.
        durability: "process" (default) or "power": what an event survives once the call returned.

    Raises:
        LedgerFileError: the file is no ledger, or cannot be opened.
        SchemaError: it was written by a newer version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "decomp_ledger.db",
        *,
        actor: str | None = None,
        reason: str | None = None,
        trust: Sequence[str] = (),
        read_only: bool = False,
        timeout: float = 30.0,
        durability: str = "process",
        lazy: bool = False,
    ) -> None:
        self.actor = None if actor is None else check_text(actor, "the actor")
        self.reason = None if reason is None else check_text(reason, "the reason")
        self.trust = tuple(trust)
        # Functions of this process: those recorded here, and for each op those that the caller supplied.
        # The former weakly: the tables that use them hold them.
        self.recorded: weakref.WeakValueDictionary[tuple[str, Reference], Any] = weakref.WeakValueDictionary()
        self.provided: dict[str, list[Any]] = {}
        self.store = Store(path, read_only=read_only, timeout=timeout, durability=durability, lazy=lazy)
        self.records = Records(self.store)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self.store.close()

    @property
    def path(self) -> str:
        """Its file, or ":memory:"."""
        return self.store.path

    @cached_property
    def id(self) -> str:
        """32 hex digits that tell this ledger from every other."""
        with self.store.reading() as connection:
            return str(connection.execute("SELECT id FROM ledger").fetchone()[0])

    # Tables

    def table(self, name: str, *, base: str = "torch") -> DecompTable:
        """Create or resume a table, as the dict that `run_decompositions` takes.

        Args:
            name: its name.
            base: for a new one: `torch` (its default table), `empty`, or another table's state (`edge@3`).

        Raises:
            InvalidName: it cannot name a table.
            LedgerError: it exists with another base.
        """
        # The one import that points upwards: everything else in a ledger works without torch.
        from decomp_ledger.live.table import DecompTable

        return DecompTable(self._open_or_create(name, base))

    def provide(self, op: Any, fn: Any) -> None:
        """Supply the function that a recorded decomposition without an importable name stands for.

        Args:
            op: the op it replaces: a name or an `OpOverload`.
            fn: the function; its source must be the recorded one, which is checked when it is used.

        Raises:
            UnusableValue: it is not callable.
        """
        given = op if isinstance(op, str) else getattr(op, "name", None)
        if given is None:
            raise UnusableValue(f"{op!r:.80} is not an op; give its name or an OpOverload")
        name = names.normalize(given if isinstance(given, str) else given())
        if not callable(fn):
            raise UnusableValue(f"the decomposition of {name} must be callable, not {type(fn).__name__}")
        self.provided.setdefault(name, []).append(fn)

    def _open_or_create(self, name: str, base: str) -> Stream:
        names.check_label(name, "a table")
        if self.store.read_only:
            return self.stream(name)
        with self.store.writing():
            if self.records.stream_id(name) is not None:
                stream = self.stream(name)
                self._check_base(name, base)
                return stream
            if base in ("torch", "empty"):
                stream = Stream(self, name, state=TableState(name, 0, base, {}))
            else:
                start = self.resolve(base)
                stream = Stream(self, name, state=start, parent=(start.table, start.version))
            stream.create()
        return stream

    def _check_base(self, name: str, base: str) -> None:
        """Refuse to resume a table that began otherwise than the caller says."""
        created = self._created(name, self._stream_id(name))
        began = created.base if created.parent is None else "{}@{}".format(*created.parent)
        if base == "torch":
            return  # what every caller says who says nothing
        if base != "empty":
            start = self.resolve(base)
            base = f"{start.table}@{start.version}"
        if base != began:
            raise LedgerError(f"the table {name!r} exists with the base {began!r}, not {base!r}")

    def stream(self, name: str) -> Stream:
        """Open a table without torch: its history, its states, and the changes that need no callable.

        Raises:
            UnknownTable: there is none of that name.
        """
        return Stream(self, name, state=self.state(name))

    def tables(self) -> list[TableInfo]:
        """Return all tables, in the order in which they began."""
        with self.store.reading() as connection:
            rows = connection.execute(sql.TABLES).fetchall()
        if not all(isinstance(row[0], str) for row in rows):
            raise LedgerError(f"{self.path} is damaged: a table has no name; run verify")
        return [TableInfo(*row[:5]) for row in rows]

    def next_name(self, prefix: str) -> str:
        """Return `<prefix>/<n>` with the first free n; within a transaction it stays free."""
        with self.store.reading() as connection:
            rows = connection.execute(
                "SELECT name FROM stream WHERE substr(name, 1, ?) = ?", (len(prefix) + 1, f"{prefix}/")
            ).fetchall()
        numbers = (_number(name[len(prefix) + 1 :]) for (name,) in rows)
        return f"{prefix}/{max((number for number in numbers if number is not None), default=0) + 1}"

    # States

    def resolve(self, spec: str) -> TableState:
        """Return the state that `TABLE`, `TABLE@VERSION` or `TABLE@TAG` names.

        Raises:
            UnknownTable: there is no such table.
            UnknownVersion: it has no such version or tag.
        """
        table, at, version = spec.partition("@")
        number = _number(version)
        return self.state(table, version if number is None else number) if at else self.state(table)

    def state(self, table: str, version: int | str | None = None) -> TableState:
        """Return what a table said at a version or tag; now, if None."""
        at = self.version_of(table, version)
        lineage, base = self._lineage(table, at)
        intents: dict[str, Intent] = {}
        for _, stream, until in lineage:
            for op, (intent, _) in self.records.as_of(stream, until).items():
                if intent is None:
                    intents.pop(op, None)
                else:
                    intents[op] = intent
        return TableState(table, at, base, intents)

    def version_of(self, table: str, version: int | str | None = None) -> int:
        """Return the version that a number or a tag names; the newest, if None."""
        newest = self.records.version(self._stream_id(table))
        if version is None:
            return newest
        if isinstance(version, str):
            tags = self.tags(table)
            if version not in tags:
                known = ", ".join(sorted(tags)) or "none"
                raise UnknownVersion(f"{table} has no tag {version!r}; its tags: {known}")
            return tags[version]
        if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= newest:
            raise UnknownVersion(f"{table} has versions 1 to {newest}, not {version!r}")
        return version

    def tags(self, table: str) -> dict[str, int]:
        """Return a table's tags: name -> version."""
        with self.store.reading() as connection:
            rows = connection.execute(
                "SELECT name, version FROM tag WHERE stream_id = ? ORDER BY version, name", [self._stream_id(table)]
            ).fetchall()
        if not all(isinstance(version, int) for _, version in rows):
            raise LedgerError(f"{self.path} is damaged: a tag of {table!r} names no version; run verify")
        return {str(name): version for name, version in rows}

    def history(self, table: str, op: str, version: int) -> list[Event]:
        """Return every event up to a version that touched an op, oldest first, those it was forked from included."""
        found: list[Event] = []
        for _, stream, until in self._lineage(table, version)[0]:
            with self.store.reading() as connection:
                rows = connection.execute(sql.TOUCHED, {"stream": stream, "op": op, "version": until}).fetchall()
            found += self._events_at(stream, [row[0] for row in rows])
        return sorted(found, key=lambda event: event.seq)

    def blame(self, table: str, version: int | str | None = None) -> dict[str, Event]:
        """Return, for each op of which a table says something, the event that said it."""
        blamed: dict[str, Event] = {}
        for name, stream, until in self._lineage(table, self.version_of(table, version))[0]:
            said = self.records.as_of(stream, until)
            events = {event.version: event for event in self._events_at(stream, [since for _, since in said.values()])}
            for op, (intent, since) in said.items():
                if intent is None:
                    blamed.pop(op, None)
                elif since in events:
                    blamed[op] = events[since]
                else:
                    raise LedgerError(f"{self.path} is damaged: version {since} of {name} has no event; run verify")
        return dict(sorted(blamed.items()))

    def _lineage(self, table: str, version: int) -> tuple[list[tuple[str, int, int]], str]:
        """Return the tables that a version comes of, the oldest first, each as (name, row, version), and the base."""
        found: list[tuple[str, int, int]] = []
        parent: tuple[str, int] | None = (table, version)
        base = "torch"
        while parent is not None:
            name, until = parent
            stream = self._stream_id(name)
            if found and stream >= found[-1][1]:
                later = f"{found[-1][0]!r} is forked from the later {name!r}"
                raise LedgerError(f"{self.path} is damaged: {later}; run verify")
            found.append((name, stream, until))
            created = self._created(name, stream)
            parent, base = created.parent, created.base if len(found) == 1 else base
        return found[::-1], base

    def _stream_id(self, table: str) -> int:
        stream = self.records.stream_id(table)
        if stream is None:
            known = [info.name for info in self.tables()]
            near = difflib.get_close_matches(table, known, 3) or known[:5]
            raise UnknownTable(f"{self.path} has no table {table!r}; it has {', '.join(map(repr, near)) or 'none yet'}")
        return stream

    def _created(self, table: str, stream: int) -> Created:
        first = next(iter(self._events_at(stream, [1])), None)
        if first is None or not isinstance(first.body, Created):
            raise LedgerError(f"{self.path} is damaged: the table {table!r} does not begin with 'created'; run verify")
        return first.body

    # Events

    def events(
        self,
        *,
        table: str | None = None,
        op: str | None = None,
        actor: str | None = None,
        kind: str | None = None,
        gt: int | None = None,
        lte: int | None = None,
        limit: int | None = None,
        desc: bool = False,
    ) -> Iterator[Event]:
        """Give the events that meet every condition, by seq.

        Args:
            table: of this table.
            op: that touched this op.
            actor: by this actor.
            kind: of this kind.
            gt: with a greater seq.
            lte: with at most this seq.
            limit: at most so many.
            desc: newest first.
        """
        where: list[str] = []
        values: list[Any] = []
        if table is not None:
            where.append("event.stream_id = ?")
            values.append(self._stream_id(table))
        if op is not None:
            where.append(
                f"{_IS_CHANGING} AND (event.stream_id, event.version) IN (SELECT stream_id, version FROM change "
                "WHERE op_id = (SELECT id FROM op WHERE name = ?))"
            )
            values.append(names.normalize(op))
        conditions = (("provenance.actor = ?", actor), ("event.kind = ?", kind), ("event.seq > ?", gt))
        for text, value in (*conditions, ("event.seq <= ?", lte)):
            if value is not None:
                where.append(text)
                values.append(value)
        return self.records.events(where, values, desc=desc, limit=limit)

    def has_met(self, table: str, version: int, body: Materialized) -> bool:
        """Tell whether a table's version is known to have met a catalog."""
        where = ["event.stream_id = ?", "event.version = ?", "event.kind = 'materialized'"]
        found = self.records.events(where, [self._stream_id(table), version], desc=False, limit=None)
        return any(event.body == body for event in found)

    def last_met(self, table: str, version: int) -> Event | None:
        """Return the `materialized` event that tells best which torch a version met.

        That is the last one of that version or an earlier one; else of a later one; else the last of any table.
        """
        own = list(self.events(table=table, kind=Materialized.kind, desc=True))
        earlier = (event for event in own if event.version <= version)
        return (
            next(earlier, None)
            or next(iter(own), None)
            or next(self.events(kind=Materialized.kind, desc=True, limit=1), None)
        )

    def exports(self) -> Iterator[Event]:
        """Give the exports, oldest first; the number of each is its event's seq."""
        return self.events(kind=Exported.kind)

    def export(self, number: int) -> Event:
        """Return one export by its number.

        Raises:
            UnknownExport: there is none of that number.
        """
        found = next(self.events(kind=Exported.kind, gt=number - 1, lte=number), None)
        if found is None:
            some = [event.seq for event in self.events(kind=Exported.kind, desc=True, limit=5)]
            raise UnknownExport(f"{self.path} has no export {number}; its last: {', '.join(map(str, some)) or 'none'}")
        return found

    def changes_after(self, table: str, version: int) -> list[Event]:
        """Return the events that changed a table after a version, oldest first."""
        stream = self._stream_id(table)
        if self.records.version(stream) == version:
            return []
        where = ["event.stream_id = ?", "event.version > ?", _IS_CHANGING]
        return list(self.records.events(where, [stream, version], desc=False, limit=None))

    def _events_at(self, stream: int, versions: Sequence[int]) -> list[Event]:
        """Return the events that made these versions of a table."""
        wanted = sorted(set(versions))
        found: list[Event] = []
        with self.store.reading() as connection:
            for start in range(0, len(wanted), _CHUNK):
                chunk = wanted[start : start + _CHUNK]
                marks = ", ".join("?" * len(chunk))
                text = f"{sql.EVENT} WHERE event.stream_id = ? AND event.version IN ({marks}) AND {_IS_CHANGING}"
                found += map(read_event, connection.execute(text, [stream, *chunk]).fetchall())
        return found

    def append(self, table: str, version: int, body: Body, *, reason: str | None = None) -> Event:
        """Append one event with this moment's provenance; for :class:`Stream`, in its transaction."""
        why = " / ".join(dict.fromkeys(part for part in (self.reason, *self._because(), reason) if part)) or None
        return self.records.append(
            table,
            version,
            body,
            Provenance(provenance.actor(self.actor), why, provenance.call_site(), provenance.environment()),
        )

    @contextmanager
    def because(self, reason: str) -> Iterator[None]:
        """Give every event inside a reason; nested reasons are joined, the outer first.

        Args:
            reason: why.
        """
        token = _reasons.set((*_reasons.get(), (id(self), check_text(reason, "the reason"))))
        try:
            yield
        finally:
            _reasons.reset(token)

    def _because(self) -> list[str]:
        return [reason for owner, reason in _reasons.get() if owner == id(self)]

    # What it stores once

    def catalog(self, digest: str) -> Catalog:
        """Return a catalog that a table met, by the digest in a `materialized` event."""
        return self.records.catalog(digest)

    def environment(self, digest: str) -> dict[str, Json]:
        """Return what a process ran in, by the digest in an event."""
        return self.records.environment(digest)

    def verify(self) -> Verification:
        """Check that nothing in the ledger was changed after it was written."""
        return verify(self.records, self.state)


def _number(text: str) -> int | None:
    """Return the version or number that a text is, if it is one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
