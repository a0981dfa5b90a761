"""The ledger: a file of tables, their events and the catalogs they met."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from decomp_ledger import names, provenance
from decomp_ledger.canonical import Json, check_text
from decomp_ledger.errors import LedgerError, UnknownExport, UnusableValue
from decomp_ledger.events import KINDS, Body, Event, Exported, Materialized
from decomp_ledger.past import IS_CHANGING, Past, number_in
from decomp_ledger.records import Provenance, Records, TableInfo
from decomp_ledger.state import Reference, TableState
from decomp_ledger.store import Store

# What only some processes need is imported in the functions that need it: to import it all takes as long as to answer.
if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path
    from types import TracebackType

    from decomp_ledger.bundle import Bundle
    from decomp_ledger.catalog import Catalog
    from decomp_ledger.checkpoints import Checkpoint
    from decomp_ledger.events import CallSite
    from decomp_ledger.live.reproducing import ReproducedTable
    from decomp_ledger.live.table import DecompTable
    from decomp_ledger.signing import Signer, SigningKey
    from decomp_ledger.stream import Stream
    from decomp_ledger.verify import Verification

__all__ = ["Ledger", "Origin", "TableInfo"]

Origin: TypeAlias = "tuple[str, CallSite | None, dict[str, Json]]"

_reasons: ContextVar[tuple[tuple[int, str], ...]] = ContextVar("reasons", default=())


class Ledger(Past):
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

    @cached_property
    def id(self) -> str:
        """32 hex digits that tell this ledger from every other."""
        return self.records.identity()[0]

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
        from decomp_ledger.stream import Stream

        names.check_label(name, "a table")
        if self.store.read_only:
            return self.stream(name)

        def write(connection: sqlite3.Connection) -> Stream:
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

        return self.store.write(write)

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
        from decomp_ledger.stream import Stream

        return Stream(self, name, state=self.state(name))

    def next_name(self, prefix: str) -> str:
        """Return `<prefix>/<n>` with the first free n; within a transaction it stays free."""
        with self.store.reading() as connection:
            rows = connection.execute(
                "SELECT name FROM stream WHERE substr(name, 1, ?) = ?", (len(prefix) + 1, f"{prefix}/")
            ).fetchall()
        numbers = (number_in(name[len(prefix) + 1 :]) for (name,) in rows)
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
            where.append("event.stream_id = ?")
            values.append(self._stream_id(table))
        if op is not None:
            where.append(
                f"{IS_CHANGING} AND (event.stream_id, event.version) IN (SELECT stream_id, version FROM change "
                "WHERE op_id = (SELECT id FROM op WHERE name = ?))"
            )
            values.append(names.normalize(op))
        if kind in KINDS:
            where.append(f"event.kind = '{kind}'")  # as text too: of a value SQLite does not know that an index has it
        conditions = (("provenance.actor = ?", actor), ("event.kind = ?", kind), ("event.seq > ?", gt))
        for text, value in (*conditions, ("event.seq <= ?", lte)):
            if value is not None:
                where.append(text)
                values.append(value)
        return self.records.events(where, values, desc=desc, limit=limit)

    def has_met(self, table: str, version: int, body: Materialized) -> bool:
        """Tell whether a table's version is known to have met a catalog."""
        # With a plus, or SQLite goes through all events of the kind, which are in order of seq.
        where = ["event.stream_id = ?", "event.version = ?", "+event.kind = 'materialized'"]
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

    def bundle(self, number: int) -> Bundle:
        """Return an export with all that tells its table: what a stamp in a `.pt2` holds of it.

        Raises:
            UnknownExport: there is none of that number.
        """
        event = self.export(number)
        assert isinstance(event.body, Exported)  # what export() returns
        return self.bundle_of(event, self.catalog(event.body.catalog))

    def reproduce(self, number: int, *, strict: bool = True) -> ReproducedTable:
        """Make again the exact table that an export was made with; see :func:`decomp_ledger.reproduce`.

        Args:
            number: of the export.
            strict: raise if anything differs; else return the nearest table, whose `differences` say what does.

        Raises:
            UnknownExport: there is none of that number.
            ReproductionError: something differs.
        """
        from decomp_ledger.live.reproducing import reproduce

        provided: dict[str, list[Any]] = {op: list(fns) for op, fns in self.provided.items()}
        for (op, _), fn in self.recorded.items():  # of this process
            provided.setdefault(op, []).append(fn)
        return reproduce(self.bundle(number), trust=self.trust, provide=provided, strict=strict)

    def bundle_of(self, event: Event, catalog: Catalog) -> Bundle:
        """Return the bundle of an `exported` event that met this catalog."""
        from decomp_ledger.bundle import Bundle

        said = self.last_words(event.table, event.version)
        state = self.state(event.table, event.version)
        events = (spoke for _, spoke in said.values())
        return Bundle.of(self.id, event, self.environment(event.environment), state, events, catalog)

    def changes_after(self, table: str, version: int) -> list[Event]:
        """Return the events that changed a table after a version, oldest first."""
        stream = self._stream_id(table)
        if self.records.version(stream) == version:
            return []
        where = ["event.stream_id = ?", "event.version > ?", IS_CHANGING]
        return list(self.records.events(where, [stream, version], desc=False, limit=None))

    def append(
        self, table: str, version: int, body: Body, *, reason: str | None = None, origin: Origin | None = None
    ) -> Event:
        """Append one event with this moment's provenance; within `store.write()`, in that transaction."""
        parts = [part for part in (self.reason, *self._because(), reason) if part]
        why = " / ".join(dict.fromkeys(parts)) if parts else None
        actor, call_site, environment = origin or self.origin()
        given = Provenance(actor, why, call_site, environment)
        return self.store.write(lambda _: self.records.append(table, version, body, given))

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
        return self.records.catalog(digest)

    def environment(self, digest: str) -> dict[str, Json]:
        """Return what a process ran in, by the digest in an event."""
        return self.records.environment(digest)

    # Keeping

    def verify(
        self,
        *,
        expect: Sequence[str] = (),
        anchors: Sequence[tuple[int, str]] = (),
        signers: Sequence[Signer] | None = None,
        checkpoints: Sequence[Checkpoint] = (),
        progress: Callable[[int, int], object] | None = None,
    ) -> Verification:
        """Check that nothing in the ledger was changed after it was written.

        A cut tail, and a chain that was wholly written anew, show only against what is known from elsewhere.

        Args:
            expect: hashes of events that were once in it, in hex.
            anchors: (seq, hash) of such events; `read_stamp(file).anchors(ledger.id)` gives those of a `.pt2`.
            signers: whose signatures count (`signing.read_signers`): at least one checkpoint must be there, and each
                must be theirs.
            checkpoints: that were kept outside the ledger (`checkpoints.read_file`).
            progress: told how many events were read, and how many there are.
        """
        from decomp_ledger.known import Known
        from decomp_ledger.verify import verify

        return verify(self.records, self.state, Known(expect, anchors, signers, checkpoints), progress)

    def checkpoint(self, key: SigningKey) -> Checkpoint:
        """Sign the last event, and with it all before; the signature is stored, and returned to be kept elsewhere.

        Args:
            key: whose signature (`signing.load_key`).

        Raises:
            SigningError: there is no event yet.
        """
        from decomp_ledger.checkpoints import sign_head

        return sign_head(self.records, key)

    def backup(
        self, path: str | os.PathLike[str], *, force: bool = False, progress: Callable[[int, int], object] | None = None
    ) -> Path:
        """Copy the ledger, as it is at one moment, to another file; writers go on meanwhile.

        Args:
            path: the other file; there is all of it afterwards, or, if this raises, none.
            force: take the place of a file that is there.
            progress: told how many pages were copied, and how many there are.

        Raises:
            LedgerFileError: the file is there, or cannot be written.
        """
        from decomp_ledger.backup import backup

        return backup(self.store, path, force=force, progress=progress)
