"""Send a ledger to a hub: the events that the hub lacks, with what they name."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import attrs

from decomp_ledger.errors import HubDiverged, HubError
from decomp_ledger.hub.connection import POSTGRESQL, HubConnection, HubUrl, Refused
from decomp_ledger.hub.migrations import open_hub
from decomp_ledger.integrity.checkpoints import stored_checkpoints
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.model.canonical_json import Json, canonical_json
from decomp_ledger.model.catalog import whole_text
from decomp_ledger.model.display import displayed
from decomp_ledger.model.hash_chain import genesis
from decomp_ledger.storage import audit_rows
from decomp_ledger.storage.checkpoint_rows import last_checkpoint_row
from decomp_ledger.storage.hashed_texts import HashedText, hashed_texts, stored_text

__all__ = [
    "KnownLedger",
    "NameTaken",
    "Pushed",
    "default_name",
    "first_difference",
    "follow",
    "known_ledger",
    "push",
    "reading",
]

Progress: TypeAlias = Callable[[int, int], object]
_Names: TypeAlias = "dict[tuple[str, str], None]"

BATCH_EVENTS, BATCH_BYTES = 5_000, 8 * 1024 * 1024
LONGEST_NAME = 200
_POLL_SECONDS = 1.0

_LEDGER = """
SELECT ledger.id, ledger.name, ledger.created_at, ledger.genesis, head.seq, head.hash
FROM ledger JOIN head ON head.ledger_id = ledger.id WHERE ledger.ledger = :ledger
"""
_INSERT_LEDGER = {
    POSTGRESQL: "INSERT INTO ledger (ledger, created_at, name) VALUES (:ledger, :created_at, :name)",
    "sqlite": "INSERT INTO ledger (ledger, created_at, name, genesis) VALUES (:ledger, :created_at, :name, :genesis)",
}
_NAME_TAKEN = "SELECT ledger FROM ledger WHERE name = :name"
_HEAD = "SELECT seq, hash FROM head WHERE ledger_id = :id"
_HASH = "SELECT hash FROM event WHERE ledger_id = :id AND seq = :seq"
_LOCK = "SELECT pg_advisory_xact_lock(:space, :id)"
_LOCK_SPACE = 0x44434C48
_HAS_BLOBS = {
    POSTGRESQL: "SELECT kind, digest FROM blob WHERE digest = ANY(CAST(:digests AS text[]))",
    "sqlite": "SELECT kind, digest FROM blob WHERE digest IN (SELECT value FROM json_each(:digests))",
}
_INSERT_BLOB = {
    POSTGRESQL: "INSERT INTO blob (digest, kind, body) VALUES (:digest, :kind, :body) ON CONFLICT DO NOTHING",
    # Its trigger that refuses REPLACE would refuse a row that another client inserted meanwhile.
    "sqlite": """INSERT INTO blob (digest, kind, body) SELECT :digest, :kind, :body
        WHERE NOT EXISTS (SELECT 1 FROM blob WHERE digest = :digest AND kind = :kind)""",
}
_CHECKPOINTS = "SELECT number, body FROM checkpoint WHERE ledger_id = :id ORDER BY number"
_INSERT_CHECKPOINT = "INSERT INTO checkpoint (ledger_id, number, body) VALUES (:id, :number, :body)"
_EVENT_COLUMNS = ("ledger_id", "seq", "text", "prev_hash", "hash")
_EVENT_TYPES = ("int4", "int8", "text", "bytea", "bytea")


class NameTaken(HubError):
    """Another ledger of the hub has the name."""


@attrs.frozen
class KnownLedger:
    """A ledger as a hub has it.

    Attributes:
        id: its row in the hub.
        ledger: its own id.
        name: what people call it.
        seq: the newest event that the hub has; 0 if none.
        hash: the hash of that event; without events, what the first one is chained to.
    """

    id: int
    ledger: str
    name: str
    seq: int
    hash: bytes


@displayed
@attrs.frozen
class Pushed:
    """What a push did.

    Attributes:
        hub: the address of the hub, without a password.
        ledger: the id of the ledger.
        name: what the hub calls it.
        sent: how many events were sent.
        events: how many the hub has now.
        head: the hash of the newest, in hex.
        checkpoints: how many checkpoints were sent.
    """

    hub: str
    ledger: str
    name: str
    sent: int
    events: int
    head: str
    checkpoints: int = 0

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return dict(attrs.asdict(self))


def push(ledger: LedgerLog, url: str | HubUrl, *, name: str | None = None, progress: Progress | None = None) -> Pushed:
    """Send the events that a hub lacks, and what they name. Calling it again sends what is new.

    Each batch of events is one transaction of the hub, so that a push that was interrupted goes on where it ended.

    Args:
        ledger: the ledger. It may be written to meanwhile; the events of this moment are sent.
        url: the address of the hub.
        name: what people call the ledger, at its first push; by default `FOLDER/FILE` of its path.
        progress: called with the number of events sent, and of all events to send.

    Raises:
        HubDiverged: the hub has other events than the ledger, or more.
        HubError: the hub cannot be used, or another ledger has the name.
        LedgerError: the ledger is damaged; nothing was sent.
    """
    with reading(ledger) as source, open_hub(url, write=True) as hub:
        return _Push(ledger, source, hub, progress).push(name)


def follow(
    ledger: LedgerLog,
    url: str | HubUrl,
    *,
    name: str | None = None,
    report: Callable[[Pushed], object],
    seconds: float = _POLL_SECONDS,
) -> None:
    """Push now, and again each time the ledger has grown by events or checkpoints, until an interrupt.

    Args:
        ledger: the ledger.
        url: the address of the hub.
        name: as of `push`.
        report: called with the first push, and with each that sent something.
        seconds: between two looks at the ledger.

    Raises:
        HubError: as `push` does.
        LedgerFileError: the file was removed or replaced, so that the ledger cannot grow any more.
    """
    seen = None
    while True:
        end = _end(ledger)
        if end != seen:
            pushed = push(ledger, url, name=name)
            if seen is None or pushed.sent or pushed.checkpoints:
                report(pushed)
            seen = end
        else:
            time.sleep(seconds)


def _end(ledger: LedgerLog) -> tuple[object, object]:
    """Return the newest event and the newest checkpoint of a ledger that is still where it was opened."""
    ledger.database.check_served()
    with ledger.database.reading() as connection:
        return ledger.event_store.head(), last_checkpoint_row(connection)


def reading(ledger: LedgerLog) -> contextlib.AbstractContextManager[sqlite3.Connection]:
    """Return a block with a connection that sees the ledger at one moment, and does not keep writers out."""
    database = ledger.database
    with database.reading():
        pass  # opens it, so that it is known whether it is in memory
    return database.read_transaction() if database.in_memory else database.long_read()


class _Push:
    """One push, of a ledger as it is at one moment."""

    def __init__(
        self, ledger: LedgerLog, source: sqlite3.Connection, hub: HubConnection, progress: Progress | None
    ) -> None:
        self._ledger, self._source, self._hub, self._progress = ledger, source, hub, progress
        self._id, self._created_at = ledger.event_store.identity()
        self._genesis = genesis(self._id, self._created_at)
        self._known: _Names = {}  # what the hub has

    def push(self, name: str | None) -> Pushed:
        known = known_ledger(self._hub, self._id)
        if known is not None and name is not None and known.name != name:
            raise HubError(f"{self._hub.label}: it calls this ledger {known.name!r:.210}; push without another name")
        seq = known.seq if known is not None else 0
        self._check_agreement(known)
        total = self._check_rest(seq, known.hash if known is not None else self._genesis)
        known = known or self._register(name)
        try:
            known, sent = self._send_events(known, total)
            checkpoints = self._send_checkpoints(known)
        except HubDiverged:
            raise
        except Refused as error:
            raise Refused(f"{error} (the hub has its events up to #{self._acknowledged})") from None
        except HubError as error:
            # It may have the last batch too, if only the answer to its COMMIT is missing.
            kept = f"the hub has at least the events up to #{self._acknowledged}, and the next push sends the rest"
            raise HubError(f"{error} ({kept})") from None
        return Pushed(self._hub.label, self._id, known.name, sent, known.seq, known.hash.hex(), checkpoints)

    def _check_agreement(self, known: KnownLedger | None) -> None:
        """Refuse a ledger that does not begin with the events of the hub."""
        if known is None:
            return
        if known.seq == 0:
            if known.hash != self._genesis:
                raise _diverged(self._hub, known, 1, "")
            return
        seq = first_difference(self._hub, known, self._source)
        if seq is not None:
            raise _diverged(self._hub, known, seq, audit_rows.event_hash_at(self._source, seq))

    def _is_held(self, known: KnownLedger) -> bool:
        """Tell whether the hub has every event of this moment of the ledger, and perhaps later ones."""
        seq = audit_rows.count_events(self._source)
        row = self._hub.row(_HASH, id=known.id, seq=seq)
        return row is not None and bytes(row[0]).hex() == audit_rows.event_hash_at(self._source, seq)

    def _check_rest(self, seq: int, last_hash: bytes) -> int:
        """Check every event that will be sent, before the first one is; return how many there are."""
        total = 0
        for _ in hashed_texts(self._source, seq, last_hash):
            total += 1
        return total

    def _register(self, name: str | None) -> KnownLedger:
        """Make the ledger known to the hub."""
        name = _usable_name(name) if name is not None else default_name(self._ledger)
        values: dict[str, object] = {"ledger": self._id, "created_at": self._created_at, "name": name}
        if self._hub.dialect != POSTGRESQL:
            values["genesis"] = self._genesis
        try:
            with self._hub.transaction():
                self._hub.execute(_INSERT_LEDGER[self._hub.dialect], **values)
        except Refused:
            known = known_ledger(self._hub, self._id)  # another client was first
            if known is not None:
                return known
            if self._hub.row(_NAME_TAKEN, name=name):
                raise NameTaken(
                    f"{self._hub.label}: another ledger has the name {name!r}; give this one another with --as NAME"
                ) from None
            raise
        known = known_ledger(self._hub, self._id)
        if known is None or known.hash != self._genesis:
            raise HubError(f"{self._hub.label}: it does not keep what was sent; make a new hub")
        return known

    def _send_events(self, known: KnownLedger, total: int) -> tuple[KnownLedger, int]:
        sent, self._acknowledged = 0, known.seq
        while True:
            moved = False
            for batch in self._prepared(hashed_texts(self._source, known.seq, known.hash)):
                moved = not self._send(known, batch)
                if moved:  # another client pushed this ledger meanwhile
                    break
                sent += len(batch)
                known = attrs.evolve(known, seq=batch[-1].seq, hash=batch[-1].hash)
                self._acknowledged = known.seq
                if self._progress is not None:
                    self._progress(sent, total)
            if not moved:
                return known, sent
            known = known_ledger(self._hub, self._id) or known
            self._acknowledged = known.seq
            if self._is_held(known):  # the other client read the ledger later
                return known, sent
            self._check_agreement(known)

    def _prepared(self, events: Iterator[HashedText]) -> Iterator[list[HashedText]]:
        """Give the events in batches; a second thread reads the next one while the hub takes this one.

        What a batch names is sent before the thread begins, because only one thread may use the connection.
        """
        batches = _batches(events)
        with ThreadPoolExecutor(1) as reader:
            batch = next(batches, None)
            while batch is not None:
                self._send_blobs(batch)
                try:
                    following = reader.submit(next, batches, None)
                except RuntimeError:  # Python starts no thread while it exits, as at the end of `run`
                    yield batch
                    batch = next(batches, None)
                    continue
                yield batch
                batch = following.result()

    def _send(self, known: KnownLedger, batch: list[HashedText]) -> bool:
        """Send a batch in one transaction; return False if the hub has another head than it had."""
        hub = self._hub
        with hub.transaction():
            if hub.dialect == POSTGRESQL:
                hub.row(_LOCK, space=_LOCK_SPACE, id=known.id)
            if tuple(hub.row(_HEAD, id=known.id) or ()) != (known.seq, known.hash):
                return False
            rows = [(known.id, event.seq, event.text, event.prev_hash, event.hash) for event in batch]
            hub.insert("event", _EVENT_COLUMNS, _EVENT_TYPES, rows)
        return True

    def _send_blobs(self, batch: list[HashedText]) -> None:
        """Send what events name and the hub lacks; each is true by its digest, whatever becomes of the events."""
        named: _Names = dict.fromkeys(each for event in batch for each in event.names if each not in self._known)
        if not named:
            return
        hub, digests = self._hub, [digest for _, digest in named]
        given: object = digests if hub.dialect == POSTGRESQL else json.dumps(digests)
        has = set(hub.rows(_HAS_BLOBS[hub.dialect], digests=given))
        rows: list[dict[str, object]] = []
        size = 0
        # Sorted, so that no two clients wait for each other.
        for kind, digest in sorted(set(named) - has, key=lambda each: each[::-1]):
            body = self._body(kind, digest)
            if body is not None:
                rows.append({"digest": digest, "kind": kind, "body": body})
                size += len(body)
            if size > BATCH_BYTES:
                self._insert_blobs(rows)
                rows, size = [], 0
        self._insert_blobs(rows)
        self._known.update(named)

    def _insert_blobs(self, rows: list[dict[str, object]]) -> None:
        if rows:
            with self._hub.transaction():
                self._hub.execute_many(_INSERT_BLOB[self._hub.dialect], rows)

    def _body(self, kind: str, digest: str) -> str | None:
        """Return what the ledger has of a digest; None if it does not, and then the hub refuses the event."""
        if kind != "catalog":
            return stored_text(self._source, kind, digest)
        catalog = self._ledger.event_store.catalog(digest)
        return whole_text(catalog) if catalog.digest == digest else None

    def _send_checkpoints(self, known: KnownLedger) -> int:
        hub = self._hub
        own = [canonical_json(dict(each.to_json())) for each in stored_checkpoints(self._source, self._id)]
        with hub.transaction():
            if hub.dialect == POSTGRESQL:
                hub.row(_LOCK, space=_LOCK_SPACE, id=known.id)
            has = hub.rows(_CHECKPOINTS, id=known.id)
            if [body for _, body in has] != own[: len(has)]:
                raise HubError(f"{hub.label}: it has other checkpoints of {known.name!r}; run `verify` on both")
            for number, body in enumerate(own[len(has) :], len(has) + 1):
                hub.execute(_INSERT_CHECKPOINT, id=known.id, number=number, body=body)
        return len(own) - len(has)

    _acknowledged = 0


def default_name(ledger: LedgerLog) -> str:
    """Return the name that a hub gives to a ledger: `FOLDER/FILE` of its path.

    Raises:
        HubError: the ledger is in memory.
    """
    if ledger.database.path == ":memory:":
        raise HubError("a ledger in memory has no name for a hub; give one with --as NAME")
    path = Path(ledger.path)
    return _usable_name(f"{path.parent.name}/{path.stem}".lstrip("/"))


def known_ledger(hub: HubConnection, ledger: str) -> KnownLedger | None:
    """Return a ledger as a hub has it, or None.

    Args:
        hub: the hub.
        ledger: the id of the ledger.
    """
    row = hub.row(_LEDGER, ledger=ledger)
    if row is None:
        return None
    own_id, name, _, _, seq, own_hash = row
    return KnownLedger(own_id, ledger, str(name), int(seq), bytes(own_hash))


def first_difference(hub: HubConnection, known: KnownLedger, source: sqlite3.Connection) -> int | None:
    """Return the first event of a hub that a ledger does not have alike; None if it has all of them.

    Where two chains agree in one event they agree in all before it, so a binary search finds the first difference.

    Args:
        hub: the hub.
        known: the ledger as the hub has it.
        source: a connection to the ledger.
    """
    if known.seq == 0 or audit_rows.event_hash_at(source, known.seq) == known.hash.hex():
        return None
    agreed, differs = 0, known.seq
    while differs - agreed > 1:
        middle = (agreed + differs) // 2
        row = hub.row(_HASH, id=known.id, seq=middle)
        alike = row is not None and bytes(row[0]).hex() == audit_rows.event_hash_at(source, middle)
        agreed, differs = (middle, differs) if alike else (agreed, middle)
    return differs


def _diverged(hub: HubConnection, known: KnownLedger, seq: int, own: str | None) -> HubDiverged:
    if own is None:
        return HubDiverged(
            f"{hub.label}: it has {known.seq} events of {known.name!r}, and this ledger ends with #{seq - 1}: it is an "
            "older copy, or its tail was cut; push the newer one, or `fetch` the rest",
            seq,
            is_shorter=True,
        )
    return HubDiverged(
        f"{hub.label}: {known.name!r} differs from this ledger from event #{seq} on, so nothing was sent; two copies "
        "of the ledger were written to, or one was changed: run `verify` on both",
        seq,
    )


def _usable_name(name: str) -> str:
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise HubError(f"{name!r:.80}: it cannot name a ledger; give 1 to {LONGEST_NAME} characters that print")
    return name


def _batches(events: Iterator[HashedText]) -> Iterator[list[HashedText]]:
    batch: list[HashedText] = []
    size = 0
    for event in events:
        if batch and (len(batch) >= BATCH_EVENTS or size + len(event.text) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += len(event.text)
    if batch:
        yield batch
