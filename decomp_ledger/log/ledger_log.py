"""The log of a whole ledger: the history of its tables, and appending events with their provenance."""

from __future__ import annotations

import datetime
import heapq
import itertools
import os
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ContextDecorator
from contextvars import ContextVar
from functools import cached_property, partial
from types import TracebackType
from typing import TypeVar

from decomp_ledger.errors import InvalidName, UnknownExport, VersionConflict
from decomp_ledger.log import provenance
from decomp_ledger.log.passing import Passing
from decomp_ledger.log.process_functions import ProcessFunctions
from decomp_ledger.log.provenance import Origin
from decomp_ledger.log.settings import project_settings
from decomp_ledger.model import op_names
from decomp_ledger.model.arguments import checked, one_or_more
from decomp_ledger.model.canonical_json import Json, check_text
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.display import LazyRows, Rows, displayed, guarded
from decomp_ledger.model.events import Body, Created, Event, Exported, Lowered, Materialized, Traced
from decomp_ledger.model.op_lookup import ops_named
from decomp_ledger.model.policy import Policy
from decomp_ledger.model.state_specs import clamped, parse_number
from decomp_ledger.model.times import read_moment, stored_time
from decomp_ledger.storage.database import Database
from decomp_ledger.storage.event_store import EventFilter, EventStore, Provenance
from decomp_ledger.storage.history import History

__all__ = ["LedgerLog", "stored_moment"]

_Self = TypeVar("_Self", bound="LedgerLog")
# The `because` blocks of this context, outermost first. By weak reference, so that a block that an interrupt kept from
# its end gives no reason once it is gone.
_reasons: ContextVar[tuple[weakref.ref[_Because], ...]] = ContextVar("reasons", default=())


@displayed
@checked
class LedgerLog(History):
    """One open ledger file: its history, and appending to it.

    `decomp_ledger.Ledger` adds tables, answers, checks and copies.

    Args:
        path: the file; made or migrated if necessary. ":memory:" keeps the ledger in memory.
        actor: who acts; else `DECOMP_LEDGER_ACTOR`, git's user, or the login name.
        reason: why, for every event; a reason of its own is added to it.
        trust: names of modules that may be imported to find recorded decompositions, with the modules under them.
        read_only: never write to the file.
        timeout: seconds to wait for another writer.
        lazy: open the file at the first use, which then raises the errors below.
        durability: "process" or "power": what an event survives once its call returned.
        policy: what changes must hold to, if it is enforced; None takes that of the project of the current folder.

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
        policy: Policy | None = None,
    ) -> None:
        self._policy = policy
        self._id: str | None = None
        self.command: str | None = None  # the command line that acts, if one does
        self.actor = None if actor is None else check_text(actor, "the actor")
        self.reason = None if reason is None else check_text(reason, "the reason")
        self.functions = ProcessFunctions(one_or_more(trust))
        self.database = Database(path, read_only=read_only, timeout=timeout, durability=durability, lazy=lazy)
        self.event_store = EventStore(self.database)

    @guarded
    def __repr__(self) -> str:
        read_only = ", read-only" if self.database.read_only else ""
        return f"<{type(self).__name__} {self.path}, {self.database.status}{read_only}>"

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with Passing(error, f"{self.path}: the ledger could not be closed"):
            self.close()

    def close(self) -> None:
        """Close the file. Closing twice is allowed."""
        self.database.close()

    # No `cached_property`: up to Python 3.11 it holds a lock while it reads, and a fork would leave that to the child.

    @property
    def id(self) -> str:
        """The ledger's own id: 32 random hex digits."""
        if self._id is None:
            self._id = self.event_store.identity()[0]
        return self._id

    def head(self) -> tuple[int, str]:
        """Return how many events the ledger has, and the hash of the newest in hex; keep it elsewhere as an anchor."""
        number, own_hash = self.event_store.head()
        return number, own_hash.hex()

    @property
    def policy(self) -> Policy:
        """What changes must hold to: as given, else that of the project of the folder in which it is first asked for.

        Raises:
            UnusableValue: the settings of the project have an unknown key or a wrong value.
        """
        if self._policy is None:
            self._policy = project_settings().policy
        return self._policy

    def next_name(self, prefix: str) -> str:
        """Return `<prefix>/<n>` with the first free n; within a write transaction it stays free."""
        start = len(prefix) + 1
        numbers = (parse_number(name[start:]) for name in self.event_store.table_names(f"{prefix}/"))
        return f"{prefix}/{max((number for number in numbers if number is not None), default=0) + 1}"

    # Events

    def events(
        self,
        *,
        table: str | None = None,
        op: str | None = None,
        actor: str | None = None,
        author: str | None = None,
        grep: str | None = None,
        kind: str | None = None,
        since: str | datetime.datetime | None = None,
        until: str | datetime.datetime | None = None,
        gt: int | None = None,
        lte: int | None = None,
        limit: int | None = None,
        desc: bool = False,
    ) -> LazyRows[Event]:
        """Give the events that match every given condition, by seq.

        Args:
            table: the event's table; a series of recorded tables means its newest run.
            op: an op that the event changed; the name of a family means all its overloads.
            actor: who made it: the whole name.
            author: a part of the actor's name, the letters A to Z in either case.
            grep: a part of its reason, likewise.
            kind: its kind.
            since: it was recorded then or later: a datetime with a zone, or a text such as `2w`, `yesterday` or
                `2026-01-31`, in local time.
            until: it was recorded then or earlier, likewise.
            gt: its seq is greater.
            lte: its seq is at most this.
            limit: at most so many events.
            desc: newest first.

        Raises:
            UnknownTable: the ledger has no such table.
            UnknownOp: `op` has no namespace, and no event changed an op of that name.
            InvalidName: `op` is not the name of an op.
            UnusableValue: `since` or `until` names no moment, or has no zone.
        """
        most = clamped(limit)
        moments = stored_moment(since), stored_moment(until)
        where = EventFilter(actor, author, grep, kind, clamped(gt), clamped(lte), *moments)
        of_op = partial(
            self.event_store.events,
            table_id=None if table is None else self._table_id(table),
            where=where,
            limit=most,
            desc=desc,
        )
        first, *others = [None] if op is None else ops_named(op, self.changed_ops)
        if not others:
            return LazyRows(of_op(op=first))
        merged = heapq.merge(*(of_op(op=name) for name in (first, *others)), key=_seq, reverse=desc)
        once = (next(same) for _, same in itertools.groupby(merged, key=_seq))
        return LazyRows(once if most is None or most < 0 else itertools.islice(once, most))

    @property
    def changed_ops(self) -> Collection[str]:
        """The names of the ops that events changed, read when they are asked for."""
        return _ChangedOps(self.event_store)

    def has_materialized_as(self, table: str, version: int, body: Materialized) -> bool:
        """Tell whether the ledger has this materialization of a table's version."""
        found = self.event_store.materializations(self._table_id(table), version)
        return any(event.body == body for event in found)

    def last_materialization(self, table: str, version: int) -> Event | None:
        """Return the `materialized` event nearest to a version.

        That is the last one of that version or an earlier one; else the last of a later one; else the last of any
        table; else None.
        """
        own = list(self.events(table=table, kind=Materialized.kind, desc=True))
        earlier = (event for event in own if event.version <= version)
        any_table = self.events(kind=Materialized.kind, desc=True, limit=1)
        return next(earlier, None) or next(iter(own), None) or next(any_table, None)

    def exports(self) -> Rows[Event]:
        """Return the exports, oldest first; the number of each is its event's seq."""
        return Rows(self.events(kind=Exported.kind))

    def tracings(self) -> LazyRows[Event]:
        """Give what torch traced outside of exports, and the exports whose results it lowered again, by seq."""
        return LazyRows(heapq.merge(*(self.events(kind=body.kind) for body in (Traced, Lowered)), key=_seq))

    def export(self, number: int) -> Event:
        """Return one export by its number.

        Raises:
            UnknownExport: the ledger has no such export.
        """
        found = next(self.events(kind=Exported.kind, gt=number - 1, lte=number), None)
        if found is None:
            last = [event.seq for event in self.events(kind=Exported.kind, desc=True, limit=5)]
            numbers = ", ".join(map(str, last)) or "none"
            raise UnknownExport(f"{self.path}: the ledger has no export {number}; its last: {numbers}")
        return found

    def changes_after(self, table: str, version: int) -> list[Event]:
        """Return the events that changed a table after a version, oldest first."""
        return list(self.event_store.changes_after(self._table_id(table), version))

    def append(
        self, table: str, version: int, body: Body, *, reason: str | None = None, origin: Origin | None = None
    ) -> Event:
        """Append one event, in a write transaction of its own or in the open one.

        Args:
            table: the table's name.
            version: the version that the event makes, or that it is about.
            body: the event's body.
            reason: why; added to the reasons of the ledger and of `because`.
            origin: who, where and in what environment; the caller's if None.

        Raises:
            UnknownTable: the ledger has no such table.
            UnknownVersion: the event makes no version, and the table does not have this one.
            VersionConflict: the event makes a version that does not follow the newest one.
            InvalidName: the event changes something that is not the name of an op.
        """
        actor, call_site, environment = origin or self.origin()
        given = Provenance(actor, self.joined_reasons(reason), call_site, environment)
        with self.database.write_transaction():
            self._check_version(table, version, body)
            return self.event_store.append(table, version, body, given)

    def _check_version(self, table: str, version: int, body: Body) -> None:
        """Refuse an event that `verify` would reject, because an append-only log would keep it."""
        for change in body.changes:
            # The names of torch's ops are ASCII, but a higher-order operator may have any name.
            if not op_names.is_op_name(change.op):
                raise InvalidName(
                    f"{change.op!a:.80}: the ledger holds no op of such a name; give the op an ASCII name"
                )
        table_id = self.event_store.table_id(table)
        if not body.makes_version:
            if table_id is None:  # the name of a series is not that of a table
                raise self._unknown_table(table)
            self.version_of(table, version)
            return
        newest = 0 if table_id is None else self.event_store.version(table_id)
        if version != newest + 1 or (version == 1) != isinstance(body, Created):
            raise VersionConflict(
                f"{table}: a {body.kind!r} event cannot make version {version} of a table at version {newest}; "
                f"give {newest + 1}"
            )

    def origin(self) -> Origin:
        """Return who acts, where and in what environment.

        Call it before a write transaction, because the first call runs git.
        """
        return provenance.origin(self.actor, self.command)

    def because(self, reason: str) -> AbstractContextManager[None]:
        """Give every event in the block a reason; the reasons of nested blocks are joined, the outer first.

        Args:
            reason: why.
        """
        return _Because(self, check_text(reason, "the reason"))

    def joined_reasons(self, reason: str | None) -> str | None:
        """Return the whole reason of an event: that of the ledger, those of the `because` blocks, and its own."""
        own = [block.reason for block in _open_blocks() if block.ledger is self]
        parts = dict.fromkeys(part for part in (self.reason, *own, reason) if part)  # each once, in order
        return " / ".join(parts) or None

    # What events name by digest

    def catalog(self, digest: str) -> Catalog:
        """Return a stored catalog by the digest in a `materialized` event."""
        return self.event_store.catalog(digest)

    def environment(self, digest: str) -> dict[str, Json]:
        """Return a stored environment by the digest in an event."""
        return self.event_store.environment(digest)


class _ChangedOps(Collection[str]):
    def __init__(self, event_store: EventStore) -> None:
        self._read = event_store.op_names

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self._read())

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Because(ContextDecorator):
    """A block of `LedgerLog.because`.

    Not a generator, because `contextlib` sets attributes of an exception that passes one.
    """

    def __init__(self, ledger: LedgerLog, reason: str) -> None:
        self.ledger = ledger
        self.reason = reason
        self.is_open = False

    def _recreate_cm(self) -> _Because:
        return _Because(self.ledger, self.reason)  # for each call of a function that it decorates

    def __enter__(self) -> None:
        try:
            self.is_open = True
            _reasons.set((*_reasons.get(), weakref.ref(self)))
        except BaseException:  # Python does not call `__exit__` then
            self.is_open = False
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_open = False
        with Passing(error, "because(): the reason stays until the context ends"):
            _reasons.set(tuple(map(weakref.ref, _open_blocks())))


def _seq(event: Event) -> int:
    return event.seq


def _open_blocks() -> list[_Because]:
    blocks = (reference() for reference in _reasons.get())
    return [block for block in blocks if block is not None and block.is_open]


def stored_moment(moment: str | datetime.datetime | None) -> str | None:
    """Return a moment as times are stored: a datetime with a zone, or a text such as `2w`, in local time."""
    if moment is None:
        return None
    return stored_time(moment if isinstance(moment, datetime.datetime) else read_moment(moment, _local_now()))


def _local_now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()
