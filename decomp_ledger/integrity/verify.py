"""Check a ledger: its chain, and all that is derived from or named by its events.

Two scans, in flat memory: one over the events, one over the change rows. Each adds up a keyed hash of every change that
it meets; equal sums mean equal changes. Only where they differ are the rows of single events looked up.

`_Check.event` says what an event has to be, and what is wrong with one that is not so. Most events follow, and change
ops as others did before: `_Check.usual` knows those in a few steps, by what it remembers of others like them, and
leaves all others to `event`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import attrs

from decomp_ledger.errors import LedgerError
from decomp_ledger.integrity.anchors import Anchors, Fault, Signed, disagreements
from decomp_ledger.integrity.content_checks import DAMAGE, MAX_PROBLEMS, Problem, Stored
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import (
    VERSION_KINDS,
    Changing,
    Created,
    Event,
    Exported,
    Materialized,
    Tagged,
    decode_body,
    read_call_site,
    read_event,
)
from decomp_ledger.model.hash_chain import GENESIS, HashedText, chain_hash, hash_of, hashed_text
from decomp_ledger.model.materialize import materialize
from decomp_ledger.model.rules import TableState
from decomp_ledger.storage import sql
from decomp_ledger.storage.event_store import EventStore

__all__ = ["Problem", "Verification", "verify"]

_STEP = 2000  # events between two reports of progress
_REMEMBERED = 4096  # of each that is remembered of events before
_SHORT = 1000  # characters of what is remembered


@attrs.frozen
class Verification:
    """The result of :meth:`Ledger.verify`.

    Attributes:
        events: how many events were read.
        head: hash of the last one, in hex; zeros if there is none. Keep it elsewhere: whoever can write the file
            can cut its tail or write the whole chain anew, and only this tells.
        problems: what is wrong, by seq, at most 20; empty if all is well.
        signed: the signatures that hold, by the event up to which they vouch.
    """

    events: int
    head: str
    problems: tuple[Problem, ...]
    signed: tuple[Signed, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        found: list[Json] = [{"seq": problem.seq, "text": problem.text} for problem in self.problems]
        signed: list[Json] = [one.to_json() for one in self.signed]
        return {"ok": self.ok, "events": self.events, "head": self.head, "problems": found, "signed": signed}


def verify(
    event_store: EventStore,
    state_of: Callable[[str, int], TableState],
    anchors: Anchors | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Verification:
    """Recompute the chain, the change rows, the tags, the snapshots, and the digests of all that is stored once.

    Args:
        event_store: the ledger.
        state_of: gives a table's state at a version.
        anchors: facts about it that are kept elsewhere.
        progress: told how many events were read, and how many there are.
    """
    with event_store.database.reading() as connection, _one_moment(connection):
        try:
            check, faults, signed = _checked(connection, state_of, anchors or Anchors(), progress)
        except (sqlite3.OperationalError, UnicodeDecodeError):
            # Most likely there is text that is no UTF-8. It can be read as text that cannot be stored, but then all
            # rows take twice as long to read: so only now, from the start.
            connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
            check, faults, signed = _checked(connection, state_of, anchors or Anchors(), progress)
    check.problems += [Problem(seq, text) for seq, text in faults]
    problems = sorted(check.problems, key=lambda problem: (problem.seq is None, problem.seq or 0))
    head = check.head if check.count else GENESIS
    return Verification(check.count, head.hex(), tuple(problems[:MAX_PROBLEMS]), tuple(signed))


@contextmanager
def _one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """See one moment of the ledger, though writers go on."""
    began = not connection.in_transaction
    if began:
        connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.text_factory = str
        if began:
            connection.execute("COMMIT")


def _checked(
    connection: sqlite3.Connection,
    state_of: Callable[[str, int], TableState],
    anchors: Anchors,
    progress: Callable[[int, int], object] | None,
) -> tuple[_Check, list[Fault], list[Signed]]:
    check = _Check(connection, state_of)
    check.run(progress)
    return check, *disagreements(connection, check.ledger, anchors)


# What events of one table, provenance, kind and schema share: what is hashed of them, their table, what the text begins
# with that weighs their changes, and what the bodies say that were met.
_Group: TypeAlias = "tuple[HashedText, str, str, dict[str, tuple[str, ...]]]"


class _Missing:
    """The row of what an event names and nobody has. No number could stand for it: a row may have any."""

    def __repr__(self) -> str:
        return "missing"  # as it is weighed: no value of SQLite's is written so


_MISSING = _Missing()


class _Check(Stored):
    def __init__(self, connection: sqlite3.Connection, state_of: Callable[[str, int], TableState]) -> None:
        super().__init__(connection)
        self.state_of = state_of
        self.count = 0
        self.versions: dict[str, int] = {}
        self.tags: dict[tuple[Any, str], Any] = {}
        self.met: list[Event] = []
        # Rows of ops and of decompositions that an event names.
        self.used: set[Any] = set()
        self.replaced: set[Any] = set()
        # A change weighs what Python's own hash of its text is: SipHash, and much faster than any of hashlib. The text
        # begins with a key that nobody knew before, so that nobody could prepare rows that add up.
        self.key = os.urandom(16).hex()
        self.sum = self.changes = 0
        self.unreadable = False  # whether any event is
        # What is remembered of events before: by stream, provenance, kind and schema; and by kind and schema.
        self.groups: dict[tuple[Any, ...], _Group] = {}
        self.bodies: dict[tuple[str, int], dict[str, tuple[str, ...]]] = {}

    def run(self, progress: Callable[[int, int], object] | None) -> None:
        self.read()
        self.tags = {row[:2]: row[2] for row in self.connection.execute("SELECT table_id, name, version FROM tag")}
        (total,) = self.connection.execute("SELECT count(*) FROM event").fetchone()
        for done, row in enumerate(self.connection.execute(sql.EVERY_EVENT_ROW)):
            if progress is not None and done % _STEP == 0:
                progress(done, total)
            if not self.usual(row):
                seq, table_id, version, kind, schema, at, provenance, *rest = row
                who = self.provenance(provenance)
                self.event((seq, self.tables.get(table_id), version, kind, schema, at, *who, *rest))
        self.version_marks()
        self.totals()
        for event in self.met:
            self.snapshot(event)
        self.unnamed()

    def version_marks(self) -> None:
        """Check that the column `makes_version`, which reads rely on, is what each event's kind implies."""
        kinds = ", ".join("?" * len(VERSION_KINDS))
        query = (
            f"SELECT seq FROM event WHERE (makes_version IS NOT NULL) IS NOT (kind IN ({kinds})) ORDER BY seq LIMIT 1"
        )
        row = self.connection.execute(query, sorted(VERSION_KINDS)).fetchone()
        if row is not None:
            self.problem(row[0], "its column makes_version is not what its kind implies")

    def usual(self, row: tuple[Any, ...]) -> bool:
        """Tell whether an event changes ops of a table that has begun, follows, and is not damaged; if so, count it.

        True only where `event` would find nothing.
        """
        seq, table_id, version, kind, schema, at, provenance, text, prev_hash, own_hash = row
        group = self.groups.get((table_id, provenance, kind, schema)) or self.group(table_id, provenance, kind, schema)
        if group is None:
            return False
        hashed, table, start, bodies = group
        said = bodies.get(text)
        if said is None:
            said = self.said(kind, schema, text, bodies)
        before = self.versions.get(table)
        try:
            if (
                not said
                or not before
                or version != before + 1
                or seq != self.count + 1
                or prev_hash != self.head
                # As keys, and compared, 1.0 is 1; as it is hashed and stored, it is not.
                or not type(seq) is type(table_id) is type(version) is type(schema) is type(provenance) is int
                or type(at) is not str
                or hash_of(prev_hash, hashed, text, at, seq, version) != own_hash
            ):
                return False
        except UnicodeEncodeError:
            return False  # text that is no UTF-8
        self.count = seq
        self.head = own_hash
        self.versions[table] = version
        for change in said:
            self.changes += 1
            self.sum += hash(f"{start}{version}{change}")
        return True

    def group(self, table_id: Any, provenance: Any, kind: Any, schema: Any) -> _Group | None:
        """Return what events of one table, provenance, kind and schema share; None if `event` is to look at them."""
        if kind not in VERSION_KINDS or kind == Created.kind:
            return None
        table = self.tables.get(table_id)
        actor, reason, site, environment = self.provenance(provenance)
        try:
            if not type(table) is type(actor) is str or type(schema) is not int or not 1 <= schema <= Changing.schema:
                return None
            if site is not None:
                read_call_site(site)
            fields = {
                "actor": actor,
                "environment": environment.hex(),
                "kind": kind,
                "reason": reason,
                "schema": schema,
                "table": table,
            }
            hashed = hashed_text(fields, site)
        except DAMAGE:
            return None
        bodies = self.bodies.setdefault((kind, schema), {})
        group = hashed, table, f"{self.key}{self.table_ids[table]!r} ", bodies
        if sum(map(len, hashed)) <= _SHORT:
            if len(self.groups) >= _REMEMBERED:
                self.groups.clear()
            self.groups[table_id, provenance, kind, schema] = group
        return group

    def said(self, kind: str, schema: int, text: Any, bodies: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
        """Return what a body says of ops, as it is weighed; nothing if it cannot be read."""
        try:
            body = decode_body(kind, schema, text)
        except LedgerError:
            return ()
        said = self.weighed(body) if isinstance(body, Changing) else ()
        if len(text) <= _SHORT:
            if len(bodies) >= _REMEMBERED:
                bodies.clear()
            bodies[text] = said
        return said

    def event(self, row: tuple[Any, ...]) -> None:
        seq, table, version, kind, schema, at, actor, reason, site, environment, text, prev_hash, own_hash = row
        self.count += 1
        try:
            if seq > self.count:
                self.problem(self.count, f"event {self.count} is missing; the next there is #{seq}")
            elif seq < self.count:
                self.problem(seq, "its seq is out of order")
            self.count = seq
            if actor is None or environment is None or table is None:
                self.problem(seq, "its table, provenance or environment is missing")
            # The chains of ledgers from before `genesis` begin with zeros.
            if prev_hash != self.head and (seq != 1 or prev_hash != GENESIS):
                before = "the event before it" if seq > 1 else "the id and the date of the ledger"
                self.problem(seq, f"it does not follow {before}")
            fields = {
                "actor": actor,
                "environment": environment.hex(),
                "kind": kind,
                "reason": reason,
                "recorded_at": at,
                "schema": schema,
                "seq": seq,
                "table": table,
                "version": version,
            }
            if chain_hash(prev_hash, fields, text, site) != own_hash:
                self.problem(seq, "its content is not what its hash was made of")
            self.head = own_hash
            self.content(read_event(row))
        except DAMAGE as error:
            self.unreadable = True
            self.head = own_hash if isinstance(own_hash, bytes) else GENESIS
            self.problem(seq, f"it is damaged: {error}")

    def content(self, event: Event) -> None:
        """Check that an event can follow those before it, and that what is derived from it is there."""
        before = self.versions.get(event.table, 0)
        # What changes nothing may stand at any version there is: a past state can be used, and tagged.
        stands = event.version == before + 1 if event.kind in VERSION_KINDS else 1 <= event.version <= before
        if not stands:
            self.problem(event.seq, f"it makes version {event.version} of {event.table!r}, which is at {before}")
        body = event.body
        if isinstance(body, Created):
            if before:
                self.problem(event.seq, f"the table {event.table!r} is created twice")
            if body.parent is not None and not 1 <= body.parent[1] <= self.versions.get(body.parent[0], 0):
                self.problem(event.seq, f"there was no {body.parent[0]}@{body.parent[1]} to fork from")
        elif not before:
            self.problem(event.seq, f"the table {event.table!r} does not begin with 'created'")
        self.versions[event.table] = max(before, event.version)
        if isinstance(body, Changing):
            start = f"{self.key}{self.table_ids[event.table]!r} "
            for change in self.weighed(body):
                self.changes += 1
                self.sum += hash(f"{start}{event.version}{change}")
        elif isinstance(body, Tagged):
            if self.tags.pop((self.table_ids[event.table], body.name), None) != event.version:
                self.problem(event.seq, f"the tag {body.name!r} is not stored as it says")
        elif isinstance(body, (Materialized, Exported)):
            self.met.append(event)

    def rows_of(self, body: Changing) -> Iterator[tuple[int | _Missing, str, int | _Missing | None]]:
        """Give op, action and decomposition of the change rows that a body stands for."""
        for change in body.changes:
            decomposition = None
            if change.decomposition is not None:
                decomposition = self.decompositions.get(change.decomposition, _MISSING)
            yield self.ops.get(change.op, _MISSING), change.action, decomposition

    def weighed(self, body: Changing) -> tuple[str, ...]:
        """Return the changes of a body as they end in the text that is weighed, and note what they name."""
        rows = list(self.rows_of(body))
        self.used.update(op for op, _, _ in rows)
        self.replaced.update(decomposition for _, _, decomposition in rows)
        return tuple(f" {op!r} {action!r} {decomposition!r}" for op, action, decomposition in rows)

    def totals(self) -> None:
        """Compare what is stored with all that the events speak of."""
        query = "SELECT table_id, version, op_id, action, decomposition_id FROM change"
        key, total = self.key, 0
        for table_id, version, op, action, decomposition in self.connection.execute(query):
            total += hash(f"{key}{table_id!r} {version!r} {op!r} {action!r} {decomposition!r}")
        if total != self.sum:
            self.wrong_changes()
        for _, name in self.tags:
            self.problem(None, f"the tag {name!r} is stored, and no event speaks of it")
        last, count = self.connection.execute("SELECT max(seq), count(*) FROM event").fetchone()
        if (last or 0, count) != (self.count, self.count):
            self.problem(None, f"there are {count} events, the last of them #{last}")

    def wrong_changes(self) -> None:
        """Find the first events whose change rows are not theirs; only asked when there are some."""
        for op, decomposition in self.connection.execute("SELECT DISTINCT op_id, decomposition_id FROM change"):
            # Whatever such a row is, it is told of, and not what it names too.
            self.used.add(op)
            self.replaced.add(decomposition)
        found = len(self.problems)
        query = "SELECT action, decomposition_id FROM change WHERE table_id = ? AND op_id = ? AND version = ?"
        for row in self.connection.execute(sql.EVERY_EVENT):
            try:
                event = read_event(row)
                if not isinstance(event.body, Changing):
                    continue
                table_id = self.table_ids[event.table]
                for change, (op, *wanted) in zip(event.changes, self.rows_of(event.body), strict=True):
                    key = [table_id, op, event.version]
                    if op is _MISSING or self.connection.execute(query, key).fetchone() != tuple(wanted):
                        self.problem(event.seq, f"the change of {change.op} is not stored as it says")
            except DAMAGE:
                continue  # told already
            if len(self.problems) - found > MAX_PROBLEMS:
                return
        added = self.first_added()
        if added is not None or len(self.problems) == found:
            (stored,) = self.connection.execute("SELECT count(*) FROM change").fetchone()
            self.problem(added, f"{stored} rows in 'change', where the events speak of {self.changes}")

    def first_added(self) -> int | None:
        """Return the first event that has a change row which it does not speak of; None if no event has.

        A row of which there is no event is what is left of one behind the last.
        """
        query = (
            "SELECT event.seq, op.name FROM change JOIN event USING (table_id, version) JOIN op ON op.id = op_id "
            "WHERE makes_version = 1 ORDER BY event.seq"
        )
        spoken: tuple[int, set[str]] = (0, set())
        for seq, op in self.connection.execute(query):
            if spoken[0] != seq:
                row = self.connection.execute(f"{sql.EVENT} WHERE event.seq = ?", [seq]).fetchone()
                try:
                    spoken = seq, {change.op for change in read_event(row).changes}
                except DAMAGE:
                    return int(seq)  # told already
            if op not in spoken[1]:
                return int(seq)
        query = (
            "SELECT 1 FROM change WHERE NOT EXISTS (SELECT 1 FROM event WHERE event.table_id = change.table_id "
            "AND event.version = change.version AND makes_version = 1) LIMIT 1"
        )
        left = self.connection.execute(query).fetchone()
        return None if left is None else self.count + 1

    def snapshot(self, event: Event) -> None:
        """Replay a table against the catalog that it met."""
        body = event.body
        assert isinstance(body, (Materialized, Exported))  # as it was collected
        catalog = self.catalogs.get(body.catalog)
        if catalog is None:
            self.problem(event.seq, f"the catalog {body.catalog[:12]} that it names is missing or damaged")
            return
        try:
            snapshot = materialize(self.state_of(event.table, event.version), catalog)
        except DAMAGE as error:
            # Of an event that cannot be read, it was told already; the earlier ones of its table are as they were.
            if not self.unreadable:
                self.problem(event.seq, f"its table cannot be replayed: {error}")
            return
        pending = body.pending if isinstance(body, Materialized) else snapshot.pending
        if (snapshot.digest, snapshot.pending) != (body.snapshot, pending):
            self.problem(event.seq, "the snapshot that it names is not what its table gives")

    def unnamed(self) -> None:
        """Look for rows that no event speaks of: nothing writes one without its event."""
        wanted = {body.catalog for event in self.met if isinstance(body := event.body, (Materialized, Exported))}
        bases = (
            "SELECT lower(hex(own.digest)), lower(hex(base.digest)) "
            "FROM catalog AS own JOIN catalog AS base ON base.id = own.base_id"
        )
        wanted |= {base for own, base in self.connection.execute(bases) if own in wanted}
        unnamed = {
            "decomp_table": self.table_ids.keys() - self.versions.keys(),
            "op": {name for name, row_id in self.ops.items() if row_id not in self.used},
            "decomposition": {name for name, row_id in self.decompositions.items() if row_id not in self.replaced},
            "catalog": self.catalogs.keys() - wanted,
        }
        for table, column, named_by in (
            ("provenance", "provenance_id", "event"),
            ("environment", "environment_id", "provenance"),
        ):
            query = f"SELECT id FROM {table} WHERE id NOT IN (SELECT {column} FROM {named_by})"
            unnamed[table] = {str(row_id) for (row_id,) in self.connection.execute(query)}
        for table, found in unnamed.items():
            if found:
                some = ", ".join(repr(name[:80]) for name in sorted(found)[:3])
                self.problem(None, f"{len(found)} rows of {table!r} that no event names: {some}")
