"""Check a ledger: its chain, and everything that its events refer to or that is derived from them.

One pass over the events in flat memory. `EventCheck.check` states what one event has to be. It finds each change of an
event in the table `change` by primary key. If that table has more rows than were found, some do not come from an event.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import lru_cache

import attrs

from decomp_ledger.errors import DamagedSchema, LedgerFileError
from decomp_ledger.integrity.anchors import Anchors, ValidSignature, check_anchors
from decomp_ledger.integrity.content_checks import (
    Contents,
    References,
    check_contents,
    check_unused,
    parse_canonical,
)
from decomp_ledger.integrity.numbering import Numbering
from decomp_ledger.integrity.problems import Problem, Problems, reason_of
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog, unpack
from decomp_ledger.model.display import Row, displayed, guarded, to_rows
from decomp_ledger.model.events import (
    Change,
    Created,
    Event,
    Materialized,
    makes_version,
    read_event,
)
from decomp_ledger.model.hash_chain import event_hash
from decomp_ledger.model.json_values import DAMAGE
from decomp_ledger.model.materialize import materialize
from decomp_ledger.model.op_names import is_op_name
from decomp_ledger.model.rules import TableState
from decomp_ledger.model.times import read_time
from decomp_ledger.storage import audit_rows
from decomp_ledger.storage.audit_rows import AuditRow
from decomp_ledger.storage.backup import Progress
from decomp_ledger.storage.event_store import EventRow, EventStore

__all__ = ["EventCheck", "Problem", "Verification", "refused", "verify"]

_STEP = 2000  # events between two reports of progress


@displayed
@attrs.frozen
class Verification:
    """The result of :meth:`Ledger.verify`.

    Attributes:
        events: how many events were read; 0 if the file has not the schema of a ledger.
        head: hash of the last event, in hex; without events, what the first one will be chained to; "" if the file has
            not the schema of a ledger. Keep it elsewhere: anyone with write access can truncate the chain or rewrite
            it, and only a hash kept elsewhere shows that.
        problems: what is wrong, by seq, at most 20; empty if nothing is.
        signatures: the valid signatures, by the event up to which they vouch.
    """

    events: int
    head: str
    problems: tuple[Problem, ...] = ()
    signatures: tuple[ValidSignature, ...] = ()

    @guarded
    def __repr__(self) -> str:
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        found = "nothing is wrong" if self.ok else f"{self.problems[0]}{more}"
        return f"<Verification of {self.events} events, up to {self.head[:12] or 'none'}: {found}>"

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each problem: the event, and what is wrong."""
        return to_rows(self.problems)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        problems: list[Json] = [{"seq": problem.seq, "text": problem.text} for problem in self.problems]
        signatures: list[Json] = [one.to_json() for one in self.signatures]
        return {
            "ok": self.ok,
            "events": self.events,
            "head": self.head,
            "problems": problems,
            "signatures": signatures,
        }


def verify(
    event_store: EventStore,
    state_of: Callable[[str, int], TableState],
    anchors: Anchors | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Recompute the chain, the change rows, the tags, the snapshots, and the digests of everything stored once.

    Args:
        event_store: the ledger.
        state_of: returns a table's state at a version.
        anchors: facts about the ledger that are kept elsewhere.
        progress: called with the number of events checked, and of all events.
    """
    try:
        return _verify(event_store, state_of, anchors or Anchors(), progress)
    except DamagedSchema as error:
        return refused(error)


def refused(error: DamagedSchema) -> Verification:
    """Return the verification of a file that cannot be opened, because its schema is not that of a ledger."""
    problems = Problems()
    for text in error.problems:
        problems.add(None, text)
    return Verification(0, "", problems.first())


def _verify(
    event_store: EventStore, state_of: Callable[[str, int], TableState], anchors: Anchors, progress: Progress | None
) -> Verification:
    problems = Problems()
    try:
        return _pass(event_store, state_of, anchors, progress, problems)
    except LedgerFileError as error:
        if not problems.first():
            raise
        # The pages are damaged, so that not everything can be read.
        problems.add(None, reason_of(error))
        return Verification(0, "", problems.first())


def _pass(
    event_store: EventStore,
    state_of: Callable[[str, int], TableState],
    anchors: Anchors,
    progress: Progress | None,
    problems: Problems,
) -> Verification:
    with audit_rows.audit(event_store.database) as connection:
        contents = check_contents(connection, problems)
        events = EventCheck(connection, contents, problems)
        total = audit_rows.count_events(connection)
        for done, row in enumerate(audit_rows.event_rows(connection)):
            if progress is not None and done % _STEP == 0:
                progress(done, total)
            events.check(row)
        events.check_count(total)
        events.check_rest()
        events.check_snapshots(state_of)
        check_unused(connection, contents, events.used, problems)
        signatures = check_anchors(connection, contents, anchors, problems)
    return Verification(total, events.head.hex(), problems.first(), tuple(signatures))


class EventCheck:
    """A pass over the events of a ledger, in their order.

    Args:
        connection: to the ledger.
        contents: what is stored once.
        problems: gets what is wrong.

    Attributes:
        head: hash of the last event that was checked.
        used: what the events refer to.
    """

    def __init__(self, connection: sqlite3.Connection, contents: Contents, problems: Problems) -> None:
        self.head = contents.genesis
        self.used = References()
        self._connection, self._contents, self._problems = connection, contents, problems
        self._numbering = Numbering(problems)
        self._seq = self._read = 0
        self._change_rows = 0
        self._versions: dict[str, int] = {}
        self._tags = {(table, name): version for table, name, version in audit_rows.tag_rows(connection)}
        self._has_unreadable = False

    def check(self, audit_row: AuditRow) -> None:
        """Check one event: its place in the chain, its hash, and what is derived from it or named by it."""
        row = audit_row.event
        self._read += 1
        try:
            self._check_references(audit_row)
            self._check_place(row)
            if event_hash(row.prev_hash, row.hashed_fields(_parsed)) != row.hash:
                self._problems.add(row.seq, "its content does not match its hash")
            event = read_event(row)
            read_time(event.recorded_at)
            self._check_version(event)
            self._check_body(event)
        except DAMAGE as error:
            self._has_unreadable = True
            self._problems.add(row.seq, f"it is damaged: {reason_of(error)}")
        self.head = row.hash if isinstance(row.hash, bytes) else b""

    def check_count(self, total: int) -> None:
        """Check, after the last event, that the pass read every row of `event`.

        Args:
            total: how many rows SQLite counts.
        """
        if not self._read == self._seq == total:
            self._problems.add(None, f"'event' has {total} rows; {self._read} were read, and the last is #{self._seq}")

    def check_rest(self) -> None:
        """Check, after the last event, that every change row and every tag comes from an event."""
        extra = audit_rows.count_changes(self._connection) - self._change_rows
        if extra > 0:
            self._problems.add(self._first_with_extra_row(), f"{extra} rows of 'change' do not come from an event")
        for _, name in self._tags:
            self._problems.add(None, f"the tag {name!r} is stored, and no event sets it")

    def _check_references(self, audit_row: AuditRow) -> None:
        row = audit_row.event
        ids = type(audit_row.table_id) is type(audit_row.provenance_id) is int  # 1.0 finds the row 1 too
        if not ids or row.table is None or row.actor is None or row.environment is None:
            self._problems.add(row.seq, "its table, provenance or environment is missing")
        self._numbering.use("decomp_table", audit_row.table_id, row.seq)
        self._numbering.use("provenance", audit_row.provenance_id, row.seq)
        self._numbering.use("environment", audit_row.environment_id, row.seq)
        if (audit_row.makes_version is not None) != bool(makes_version(row.kind)):
            self._problems.add(row.seq, "its column makes_version does not match its kind")

    def _check_place(self, row: EventRow) -> None:
        expected = self._seq + 1
        if row.seq > expected:
            self._problems.add(expected, f"event {expected} is missing; the next one is #{row.seq}")
        elif row.seq < expected:
            self._problems.add(row.seq, "its seq is out of order")
        self._seq = row.seq
        if row.prev_hash != self.head:
            before = "the event before it" if row.seq > 1 else "the id and the date of the ledger"
            self._problems.add(row.seq, f"it does not follow {before}")

    def _check_version(self, event: Event) -> None:
        """Check that an event can follow those of its table. One that makes no version may name any that exists."""
        table, version, body = event.table, event.version, event.body
        before = self._versions.get(table, 0)
        if not (version == before + 1 if event.body.makes_version else 1 <= version <= before):
            self._problems.add(event.seq, f"it has version {version} of {table!r}, which is at version {before}")
        if isinstance(body, Created):
            if before:
                self._problems.add(event.seq, f"the table {table!r} is created twice")
            if body.parent is not None and not 1 <= body.parent[1] <= self._versions.get(body.parent[0], 0):
                self._problems.add(event.seq, f"its parent {body.parent[0]}@{body.parent[1]} does not exist before it")
        elif not before:
            self._problems.add(event.seq, f"the table {table!r} does not begin with 'created'")
        self._versions[table] = max(before, version)
        self.used.tables.add(table)

    def _check_body(self, event: Event) -> None:
        """Check what is derived from a body, or named by it."""
        body = event.body
        if len({change.op for change in body.changes}) != len(body.changes):
            self._problems.add(event.seq, "it changes an op twice")
        for change in body.changes:
            self._check_change(event, change)
        if body.tag is not None:
            self._check_tag(event, body.tag)

    def _check_tag(self, event: Event, tag: str) -> None:
        version = self._tags.pop((self._contents.tables[event.table], tag), None)
        if version != event.version:
            self._problems.add(event.seq, f"the row of the tag {tag!r} does not match it")

    def _check_change(self, event: Event, change: Change) -> None:
        contents, decomposition = self._contents, change.decomposition
        if change.op not in self.used.ops:
            self.used.ops.add(change.op)
            self._numbering.use("op", contents.ops.get(change.op), event.seq)
            if not is_op_name(change.op):
                self._problems.add(event.seq, f"it changes {change.op!r:.80}, which is not the name of an op")
        known = change.op in contents.ops
        row_of_decomposition = None
        if decomposition is not None:
            self.used.decompositions.add(decomposition)
            self._numbering.use("decomposition", contents.decompositions.get(decomposition), event.seq)
            known = known and decomposition in contents.decompositions
            row_of_decomposition = contents.decompositions.get(decomposition)
        row = None
        if known:
            key = contents.tables[event.table], contents.ops[change.op], event.version
            row = audit_rows.change_at(self._connection, *key)
        self._change_rows += row is not None
        if row != (change.action, row_of_decomposition):
            self._problems.add(event.seq, f"the row of its change of {change.op} does not match it")

    def check_snapshots(self, state_of: Callable[[str, int], TableState]) -> None:
        """Check, after the last event, the snapshot that each materialization and export names.

        Not in the pass over the events, because a damaged later event can change the state of an earlier version.
        """
        snapshots = Snapshots(self._connection, self._contents, state_of)
        for row in audit_rows.rows_without_version(self._connection):
            try:
                event = read_event(row.event)
            except DAMAGE:
                continue  # a problem already
            if event.body.catalog is not None:
                self._check_snapshot(event, event.body.catalog, snapshots)

    def _check_snapshot(self, event: Event, digest: str, snapshots: Snapshots) -> None:
        """Materialize the table against the catalog that the event names, and compare the digest of the result."""
        self.used.catalogs.add(digest)
        self._numbering.use("catalog", self._contents.catalogs.get(digest), event.seq)
        if digest not in self._contents.catalogs:
            self._problems.add(event.seq, f"its catalog {digest[:12]} is missing or damaged")
            return
        try:
            found, found_pending = snapshots.of(event.table, event.version, digest)
        except DAMAGE as error:
            # An event that cannot be read is a problem already, and the likely cause.
            if not self._has_unreadable:
                self._problems.add(event.seq, f"its table cannot be materialized: {reason_of(error)}")
            return
        body = event.body
        pending = body.pending if isinstance(body, Materialized) else found_pending
        if (found, found_pending) != (body.snapshot, pending):
            self._problems.add(event.seq, "its snapshot does not match its table and catalog")

    def _first_with_extra_row(self) -> int | None:
        """Return the first event with a change row that it does not have, or None.

        A row of a version that no event makes counts for the event after the last: it was removed.
        """
        seq, ops = 0, set[str]()
        for row_seq, op in audit_rows.changes_in_order(self._connection):
            if row_seq != seq:
                seq, ops = row_seq, self._ops_of(row_seq)
            if op not in ops:
                return int(row_seq)
        return self._seq + 1 if audit_rows.version_without_event(self._connection) else None

    def _ops_of(self, seq: int) -> set[str]:
        """Return the ops that an event changes; none if it is damaged."""
        try:
            row = next(audit_rows.event_rows(self._connection, gte=seq))
            return {change.op for change in read_event(row.event).changes}
        except DAMAGE:
            return set()


class Snapshots:
    """The snapshots of a ledger's tables; the last ones are kept, because one takes a millisecond.

    Args:
        connection: to the ledger.
        contents: what is stored once.
        state_of: returns a table's state at a version.
    """

    def __init__(
        self, connection: sqlite3.Connection, contents: Contents, state_of: Callable[[str, int], TableState]
    ) -> None:
        self._connection, self._contents, self._state_of = connection, contents, state_of
        # 140 kB a catalog of torch, 15 MB the largest that can be stored; 0.3 kB a snapshot's digest.
        self._catalog = lru_cache(maxsize=4)(self._unpacked)
        self.of = lru_cache(maxsize=256)(self._materialized)

    def _materialized(self, table: str, version: int, catalog: str) -> tuple[str, tuple[str, ...]]:
        """Return digest and pending ops of a table at a version, against the catalog of a digest."""
        snapshot = materialize(self._state_of(table, version), self._catalog(catalog))
        return snapshot.digest, snapshot.pending

    def _unpacked(self, digest: str) -> Catalog:
        body, base = audit_rows.catalog_bodies(self._connection, self._contents.catalogs[digest])
        return unpack(body, None if base is None else unpack(base, None))


def _parsed(text: str, what: str) -> Json:
    """Return the value of a stored text.

    Raises:
        ValueError: the text is not canonical JSON. The hash covers its value, so it would not show that.
    """
    try:
        value: Json = parse_canonical(text)
        return value
    except DAMAGE as error:
        raise ValueError(f"its {what} cannot be read: {reason_of(error)}") from None
