"""The log of a whole ledger: the history of its tables, and appending to it with who, why and where."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from decomp_ledger.errors import UnknownExport
from decomp_ledger.log import provenance
from decomp_ledger.log.process_functions import ProcessFunctions
from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json, check_text
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.events import EVENT_KINDS, VERSION_KINDS, Body, CallSite, Event, Exported, Materialized
from decomp_ledger.model.state_specs import clamped, parse_number
from decomp_ledger.storage.database import Database
from decomp_ledger.storage.event_store import EventStore, Provenance
from decomp_ledger.storage.history import MAKES_VERSION, History

__all__ = ["LedgerLog", "Origin"]

Origin: TypeAlias = "tuple[str, CallSite | None, dict[str, Json]]"

_Self = TypeVar("_Self", bound="LedgerLog")
_reasons: ContextVar[tuple[tuple[int, str], ...]] = ContextVar("reasons", default=())


class LedgerLog(History):
    """One open ledger file: reads of any past state, and appends with their provenance.

    :class:`decomp_ledger.Ledger` adds tables, answers, checks and copies on top of it.

    Args:
        path: the file, created or migrated if needed; ":memory:" keeps it in memory.
        actor: who acts; else `DECOMP_LEDGER_ACTOR`, git's user, or the login name.
        reason: why, for every event that gives no reason of its own.
        trust: names of modules (and what is under them) that may be imported to find recorded decompositions.
        read_only: never write to the file.
        timeout: seconds to wait for another writer.
        lazy: open the file when it is first needed; errors in it are then raised there.
        durability: "process" or "power": what an event survives once the call returned.

    Raises:
        LedgerFileError: the file is not a ledger, or cannot be opened.
        SchemaError: a newer version wrote it.
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
        self.functions = ProcessFunctions(tuple(trust))
        self.database = Database(path, read_only=read_only, timeout=timeout, durability=durability, lazy=lazy)
        self.event_store = EventStore(self.database)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self.database.close()

    @cached_property
    def id(self) -> str:
        """32 hex digits that tell this ledger from every other."""
        return self.event_store.identity()[0]

    def next_name(self, prefix: str) -> str:
        """Return `<prefix>/<n>` with the first free n; within a transaction it stays free."""
        with self.database.reading() as connection:
            rows = connection.execute(
                "SELECT name FROM decomp_table WHERE substr(name, 1, ?) = ?", (len(prefix) + 1, f"{prefix}/")
            ).fetchall()
        numbers = (parse_number(name[len(prefix) + 1 :]) for (name,) in rows)
        return f"{prefix}/{max((number for number in numbers if number is not None), default=0) + 1}"

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
            where.append("event.table_id = ?")
            values.append(self._table_id(table))
        if op is not None:
            where.append(
                f"{MAKES_VERSION} AND (event.table_id, event.version) IN (SELECT table_id, version FROM change "
                "WHERE op_id = (SELECT id FROM op WHERE name = ?))"
            )
            values.append(op_names.normalize(op))
        if kind in EVENT_KINDS and kind not in VERSION_KINDS:
            where.append("event.makes_version IS NULL")  # so that SQLite takes the index of these kinds
        conditions = (("provenance.actor = ?", actor), ("event.kind = ?", kind), ("event.seq > ?", clamped(gt)))
        for text, value in (*conditions, ("event.seq <= ?", clamped(lte))):
            if value is not None:
                where.append(text)
                values.append(value)
        return self.event_store.events(where, values, desc=desc, limit=clamped(limit))

    def has_materialized_as(self, table: str, version: int, body: Materialized) -> bool:
        """Tell whether a table's version is known to have met a catalog."""
        # With a plus, or SQLite goes through all events of the kind, which are in order of seq.
        where = ["event.table_id = ?", "event.version = ?", "+event.kind = 'materialized'"]
        found = self.event_store.events(where, [self._table_id(table), version], desc=False, limit=None)
        return any(event.body == body for event in found)

    def last_materialization(self, table: str, version: int) -> Event | None:
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
        table_id = self._table_id(table)
        if self.event_store.version(table_id) == version:
            return []
        where = ["event.table_id = ?", "event.version > ?", MAKES_VERSION]
        return list(self.event_store.events(where, [table_id, version], desc=False, limit=None))

    def append(
        self, table: str, version: int, body: Body, *, reason: str | None = None, origin: Origin | None = None
    ) -> Event:
        """Append one event with this moment's provenance; within `store.write()`, in that transaction."""
        parts = [part for part in (self.reason, *self._because(), reason) if part]
        why = " / ".join(dict.fromkeys(parts)) if parts else None
        actor, call_site, environment = origin or self.origin()
        given = Provenance(actor, why, call_site, environment)
        return self.database.write(lambda _: self.event_store.append(table, version, body, given))

    def origin(self) -> Origin:
        """Return who acts, where and in what; asked before the ledger is locked, as the first time it asks git."""
        return provenance.origin(self.actor)

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
        given = _reasons.get()
        return [reason for owner, reason in given if owner == id(self)] if given else []

    # What it stores once

    def catalog(self, digest: str) -> Catalog:
        """Return a catalog that a table met, by the digest in a `materialized` event."""
        return self.event_store.catalog(digest)

    def environment(self, digest: str) -> dict[str, Json]:
        """Return what a process ran in, by the digest in an event."""
        return self.event_store.environment(digest)
