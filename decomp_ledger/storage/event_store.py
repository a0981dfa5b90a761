"""Events and what they name, as rows: the codec between the ledger's tables and the values of the model."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from decomp_ledger.errors import LedgerError, LedgerFileError
from decomp_ledger.model.canonical_json import Json, canonical_json
from decomp_ledger.model.catalog import Catalog, pack, unpack
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import (
    ACTIONS,
    OVERRIDE,
    RESET,
    Body,
    CallSite,
    Change,
    Event,
    Materialized,
    encode_body,
    makes_version,
    parse,
    read_event,
)
from decomp_ledger.model.handles import Handle
from decomp_ledger.model.hash_chain import event_hash, genesis
from decomp_ledger.model.json_values import as_object
from decomp_ledger.model.op_names import LONGEST_NAME
from decomp_ledger.model.rules import Decomposition, Rule
from decomp_ledger.storage.bounded_rows import all_rows
from decomp_ledger.storage.database import Database, Transaction
from decomp_ledger.storage.inserts import inserted

__all__ = [
    "BASES_TRIED",
    "EVENT",
    "EVENT_COLUMNS",
    "EVERY",
    "EventFilter",
    "MAKES_VERSION",
    "EventRow",
    "EventStore",
    "Provenance",
    "RunTotals",
    "TableInfo",
    "utc_now",
]

# The fields of EventRow, in their order.
EVENT_COLUMNS = """
event.seq, decomp_table.name, event.version, event.kind, event.schema, event.recorded_at, provenance.actor,
provenance.reason, provenance.call_site, environment.digest, event.body, event.prev_hash, event.hash
"""
# CROSS JOIN makes SQLite begin with `event`, in the order of an index, and look up the rest of each row by its id.
_ORIGIN = """
CROSS JOIN provenance ON provenance.id = event.provenance_id
CROSS JOIN environment ON environment.id = provenance.environment_id
"""
EVENT = f"""
SELECT {EVENT_COLUMNS}
FROM event
CROSS JOIN decomp_table ON decomp_table.id = event.table_id
{_ORIGIN}
"""
MAKES_VERSION = "event.makes_version = 1"  # as the index event_version has it
_MAKES_NO_VERSION = "event.makes_version IS NULL"  # as the indexes event_kind, event_kind_of_... have it
# By the primary key of `change` for each table, because an index of it by op would slow each append.
_EVENT_OF_OP = f"""
SELECT {EVENT_COLUMNS}
FROM decomp_table
CROSS JOIN change ON change.table_id = decomp_table.id AND change.op_id = (SELECT id FROM op WHERE name = ?)
CROSS JOIN event ON event.table_id = change.table_id AND event.version = change.version AND {MAKES_VERSION}
{_ORIGIN}
"""
_MATERIALIZED = f"""
{EVENT} WHERE event.table_id = ? AND event.version = ? AND event.kind = ? AND {_MAKES_NO_VERSION} ORDER BY event.seq
"""
# The order of the versions is that of the seqs.
_CHANGED_AFTER = f"{EVENT} WHERE event.table_id = ? AND event.version > ? AND {MAKES_VERSION} ORDER BY event.version"
_HEAD = "SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1"
_HAS_EVENT = "SELECT 1 FROM event WHERE seq = ? AND hash = ?"

# The greatest version <= :version of each op, by a skip-scan over the primary key of `change`: a few milliseconds at
# any version of a table with a million changes, where GROUP BY would read the million.
_AS_OF = """
WITH RECURSIVE hop(op_id) AS (
    SELECT min(op_id) FROM change WHERE table_id = :table
    UNION ALL
    SELECT (SELECT min(op_id) FROM change WHERE table_id = :table AND op_id > hop.op_id)
    FROM hop WHERE hop.op_id IS NOT NULL
)
SELECT op.name, change.action, change.decomposition_id, change.version
FROM hop
JOIN change ON change.table_id = :table AND change.op_id = hop.op_id AND change.version = (
    SELECT max(version) FROM change
    WHERE table_id = :table AND op_id = hop.op_id AND version <= :version
)
JOIN op ON op.id = hop.op_id
"""

_LEDGER = "SELECT id, created_at FROM ledger"
_TABLE_ID = "SELECT id FROM decomp_table WHERE name = ?"
# By the index of names, whose order is that of the code points. No name starts with the last code point.
_TABLE_NAMES = "SELECT name FROM decomp_table WHERE name >= :prefix AND name < :prefix || char(0x10FFFF) ORDER BY name"
_OP_NAMES = "SELECT name FROM op ORDER BY name"
_BY_ACTOR = "event.provenance_id IN (SELECT id FROM provenance WHERE actor = ?)"
# lower() changes the letters A to Z alone.
_BY_AUTHOR = "event.provenance_id IN (SELECT id FROM provenance WHERE instr(lower(actor), lower(?)))"
_BY_REASON = "event.provenance_id IN (SELECT id FROM provenance WHERE instr(lower(reason), lower(?)))"
_TABLE_VERSION = f"SELECT max(version) FROM event WHERE table_id = ? AND {MAKES_VERSION}"
_DECOMPOSITION = "SELECT body FROM decomposition WHERE id = ?"
_DECOMPOSITION_BY_DIGEST = "SELECT body FROM decomposition WHERE digest = ?"
_ENVIRONMENT = "SELECT body FROM environment WHERE digest = ?"
_CATALOG = "SELECT base_id, body FROM catalog WHERE digest = ?"
_WHOLE_CATALOG = "SELECT body FROM catalog WHERE id = ? AND base_id IS NULL"
_NEWEST_WHOLE_CATALOGS = "SELECT id, body FROM catalog WHERE base_id IS NULL ORDER BY id DESC LIMIT ?"

_INSERT_EVENT = """
INSERT INTO event
    (seq, table_id, version, makes_version, kind, schema, recorded_at, provenance_id, body, prev_hash, hash)
VALUES (
    :seq, :table_id, :version, :makes_version, :kind, :schema, :recorded_at, :provenance_id, :body, :prev_hash, :hash
)
"""
_INSERT_CHANGE = "INSERT INTO change (table_id, op_id, version, action, decomposition_id) VALUES (?, ?, ?, ?, ?)"
_INSERT_TAG = "INSERT INTO tag (table_id, name, version) VALUES (?, ?, ?)"
_INSERT_PROVENANCE = "INSERT INTO provenance (actor, reason, call_site, environment_id) VALUES (?, ?, ?, ?)"
_INSERT_CATALOG = "INSERT INTO catalog (digest, base_id, body) VALUES (?, ?, ?)"
# The tables whose rows are stored once, each found by a unique column: how to find a row, how to insert one.
_BY_NAME = {
    "decomp_table": (_TABLE_ID, "INSERT INTO decomp_table (name) VALUES (?)"),
    "op": ("SELECT id FROM op WHERE name = ?", "INSERT INTO op (name) VALUES (?)"),
}
_BY_DIGEST = {
    "decomposition": (
        "SELECT id FROM decomposition WHERE digest = ?",
        "INSERT INTO decomposition (digest, body) VALUES (?, ?)",
    ),
    "environment": (
        "SELECT id FROM environment WHERE digest = ?",
        "INSERT INTO environment (digest, body) VALUES (?, ?)",
    ),
}

# A body leaves out its fields that have their default value, and of a failed export the error is not the default. In
# canonical JSON no text holds this, because its quotes are escaped.
_OF_RUN = """
SELECT
    event.table_id, environment.body, sum(event.kind = 'exported'),
    sum(event.kind = 'exported' AND instr(event.body, '"error":[') > 0)
FROM event
CROSS JOIN decomp_table ON decomp_table.id = event.table_id
CROSS JOIN provenance ON provenance.id = event.provenance_id
CROSS JOIN environment ON environment.id = provenance.environment_id
WHERE event.seq > :gt AND substr(decomp_table.name, 1, length(:start)) = :start
    AND decomp_table.name LIKE '%/' || :run AND substr(decomp_table.name, length(:start) + 1) NOT LIKE '%/%/%'
GROUP BY event.table_id, environment.id
"""

# How many whole catalogs of the same build a new catalog is compared with, to be stored as a difference.
BASES_TRIED = 4
# How many row ids one process remembers: 4 MB. A provenance that is forgotten gets one more row when it comes again.
_MAX_IDS = 10_000

_Ids: TypeAlias = "dict[tuple[str, object], int]"


class Provenance(NamedTuple):
    """Who made an event, why, where and in what environment.

    Attributes:
        actor: who.
        reason: why, or None.
        call_site: where, or None.
        environment: the environment's facts, as JSON.
    """

    actor: str
    reason: str | None
    call_site: CallSite | None
    environment: dict[str, Json]


class EventFilter(NamedTuple):
    """Conditions on events; None means any.

    Attributes:
        actor: who made it.
        author: a part of the actor's name, the letters A to Z in either case.
        grep: a part of its reason, likewise.
        kind: its kind.
        gt: its seq is greater.
        lte: its seq is at most this.
        since: recorded then or later, as `utc_now` writes it.
        until: recorded then or earlier, likewise.
    """

    actor: str | None = None
    author: str | None = None
    grep: str | None = None
    kind: str | None = None
    gt: int | None = None
    lte: int | None = None
    since: str | None = None
    until: str | None = None


EVERY = EventFilter()


class EventRow(NamedTuple):
    """One event as it is stored, its foreign keys resolved.

    Attributes:
        seq: number in the ledger.
        table: the table's name.
        version: the table's version after the event.
        kind: the event's kind.
        schema: schema number of the body.
        recorded_at: UTC, as `utc_now` writes it.
        actor: who.
        reason: why, or None.
        call_site: canonical JSON of the call site, or None.
        environment: digest of the environment, 32 bytes.
        body: canonical JSON of the body.
        prev_hash: hash of the event before it, 32 bytes.
        hash: the event's hash, 32 bytes.
    """

    seq: int
    table: str
    version: int
    kind: str
    schema: int
    recorded_at: str
    actor: str
    reason: str | None
    call_site: str | None
    environment: bytes
    body: str
    prev_hash: bytes
    hash: bytes

    def hashed_fields(self, parse: Callable[[str, str], Json]) -> dict[str, Json]:
        """Return what the event's hash covers besides the previous hash, for `event_hash`.

        Args:
            parse: returns the value of a stored JSON text; its second argument names the text, for a message.
        """
        return {
            "seq": self.seq,
            "table": self.table,
            "version": self.version,
            "kind": self.kind,
            "schema": self.schema,
            "recorded_at": self.recorded_at,
            "actor": self.actor,
            "reason": self.reason,
            "call_site": None if self.call_site is None else parse(self.call_site, "call site"),
            "environment": self.environment.hex(),
            "body": parse(self.body, "body"),
        }


@displayed
class TableInfo(NamedTuple):
    """One line of the list of tables.

    Attributes:
        name: the table's name.
        version: the table's version.
        events: the number of its events.
        first_at: time of the first event, UTC.
        last_at: time of the last event, UTC.
    """

    name: str
    version: int
    events: int
    first_at: str
    last_at: str


class RunTotals(NamedTuple):
    """How much one run of a recording holds.

    Attributes:
        exports: exports that were run.
        failed: those of them that failed.
        tables: tables that were changed or used.
        processes: processes that recorded something.
    """

    exports: int = 0
    failed: int = 0
    tables: int = 0
    processes: int = 0


class EventStore(Handle):
    """Typed access to the rows of one ledger.

    Args:
        database: the open file.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        # (table, key) -> row id, of committed rows. A provenance has no unique index, so that only this cache keeps its
        # rows few.
        self._ids: _Ids = {}
        # Those that a transaction inserted or read; they join the others once it is known to be committed.
        self._new_ids: tuple[Transaction | None, _Ids] = None, {}

    # Reading

    def identity(self) -> tuple[str, str]:
        """Return the ledger's id, and when it was made."""
        with self.database.reading() as connection:
            rows = all_rows(connection, _LEDGER)
        if len(rows) != 1 or not all(isinstance(value, str) for value in rows[0]):
            raise self._damaged("it has no id, or more than one")
        return rows[0][0], rows[0][1]

    def table_id(self, table: str) -> int | None:
        """Return the row id of a table's name, or None."""
        with self.database.reading() as connection:
            row = connection.execute(_TABLE_ID, [table]).fetchone()
        return None if row is None else int(row[0])

    def op_names(self) -> list[str]:
        """Return the names of the ops that events changed, sorted."""
        with self.database.reading() as connection:
            return [self.stored_name(name) for (name,) in all_rows(connection, _OP_NAMES)]

    def table_names(self, prefix: str) -> list[str]:
        """Return the names of the tables whose names start with a prefix, sorted by code points."""
        with self.database.reading() as connection:
            return [self.stored_name(name) for (name,) in all_rows(connection, _TABLE_NAMES, {"prefix": prefix})]

    def stored_name(self, value: object) -> str:
        """Return the name of an op, a table or a tag as it is stored.

        Raises:
            LedgerError: no writer stores such a name. One of a stranger may have megabytes.
        """
        if not isinstance(value, str) or len(value) > LONGEST_NAME:
            raise self._damaged(f"a name is not a text of at most {LONGEST_NAME} characters")
        return value

    def version(self, table_id: int) -> int:
        """Return a table's version; 0 if it has no event."""
        with self.database.reading() as connection:
            (version,) = connection.execute(_TABLE_VERSION, [table_id]).fetchone()
        if version is not None and not isinstance(version, int):
            raise self._damaged(f"{version!r:.40} is not a version")
        return version or 0

    def as_of(self, table_id: int, version: int) -> dict[str, tuple[Rule | None, int]]:
        """Return op -> (rule, the version that made it) at a version; the rule is None after a reset."""
        with self.database.reading() as connection:
            rows = all_rows(connection, _AS_OF, {"table": table_id, "version": version})
        decompositions = self.decompositions({row[2] for row in rows if row[2] is not None})
        found: dict[str, tuple[Rule | None, int]] = {}
        for op, action, decomposition, since in rows:
            is_override = action == OVERRIDE
            if action not in ACTIONS or is_override != (decomposition is not None) or not isinstance(since, int):
                raise self._damaged(f"a change of {op!r:.80} is not a change")
            rule = None if action == RESET else Rule(action, decompositions.get(decomposition))
            found[self.stored_name(op)] = rule, since
        return found

    def decompositions(self, ids: Iterable[int]) -> dict[int, Decomposition]:
        """Return stored decompositions by row id."""
        return {row_id: self._decomposition(_DECOMPOSITION, row_id, str(row_id)) for row_id in ids}

    def decompositions_by_digest(self, digests: Iterable[str]) -> dict[str, Decomposition]:
        """Return stored decompositions by the digest that an event names."""
        return {
            digest: self._decomposition(_DECOMPOSITION_BY_DIGEST, _unhex(digest), digest[:12]) for digest in digests
        }

    def _decomposition(self, query: str, key: int | bytes, label: str) -> Decomposition:
        with self.database.reading() as connection:
            row = connection.execute(query, [key]).fetchone()
        if row is None:
            raise self._damaged(f"decomposition {label} is missing")
        return Decomposition.from_json(parse(row[0], "a decomposition"))

    def environment(self, digest: str) -> dict[str, Json]:
        """Return a stored environment by its digest."""
        with self.database.reading() as connection:
            row = connection.execute(_ENVIRONMENT, [_unhex(digest)]).fetchone()
        value = parse(row[0], "an environment") if row else None
        if not isinstance(value, dict):
            raise LedgerError(f"{self.database.path}: it has no environment {digest[:12]}; run verify")
        return value

    def catalog(self, digest: str) -> Catalog:
        """Return a stored catalog by its digest.

        Raises:
            LedgerError: the catalog is missing or damaged.
        """
        with self.database.reading() as connection:
            row = connection.execute(_CATALOG, [_unhex(digest)]).fetchone()
            if row is None:
                raise LedgerError(
                    f"{self.database.path}: it has no catalog {digest[:12]}; give the digest of a `materialized` event"
                )
            base_id, body = row
            return unpack(body, None if base_id is None else self._whole_catalog(base_id))

    def _whole_catalog(self, row_id: int) -> Catalog:
        with self.database.reading() as connection:
            row = connection.execute(_WHOLE_CATALOG, [row_id]).fetchone()
        if row is None:
            raise self._damaged("the base of a catalog is missing")
        return unpack(row[0], None)

    def events(
        self,
        *,
        table_id: int | None = None,
        op: str | None = None,
        where: EventFilter = EVERY,
        limit: int | None = None,
        desc: bool = False,
    ) -> Iterator[Event]:
        """Give the events that match every given condition, by seq.

        Args:
            table_id: row id of the event's table.
            op: name of an op that the event changed.
            where: the other conditions.
            limit: at most so many events.
            desc: newest first.
        """
        kind = where.kind
        conditions = {
            "decomp_table.id = ?" if op is not None else "event.table_id = ?": table_id,
            _BY_ACTOR: where.actor,
            _BY_AUTHOR: where.author,
            _BY_REASON: where.grep,
            "event.kind = ?": kind,
            "event.seq > ?": where.gt,
            "event.seq <= ?": where.lte,
            "event.recorded_at >= ?": where.since,
            "event.recorded_at <= ?": where.until,
        }
        given = {text: value for text, value in conditions.items() if value is not None}
        texts = list(given)
        if kind is not None and makes_version(kind) is False:
            texts.append(_MAKES_NO_VERSION)
        query = (EVENT if op is None else _EVENT_OF_OP) + ("WHERE " + " AND ".join(texts) if texts else "")
        # The versions of one table have the order of their seqs, and the primary key of `change` gives that order.
        order = "event.seq" if op is None or table_id is None else "change.version"
        query += f" ORDER BY {order} {'DESC' if desc else 'ASC'} LIMIT ?"
        values = [*([] if op is None else [op]), *given.values(), -1 if limit is None else limit]
        return self._events(query, values)

    def materializations(self, table_id: int, version: int) -> Iterator[Event]:
        """Give the `materialized` events of one version of a table."""
        return self._events(_MATERIALIZED, [table_id, version, Materialized.kind])

    def changes_after(self, table_id: int, version: int) -> Iterator[Event]:
        """Give the events that made the versions after one, oldest first."""
        return self._events(_CHANGED_AFTER, [table_id, version])

    def _events(self, query: str, values: list[Any]) -> Iterator[Event]:
        with self.database.reading() as connection:
            rows = all_rows(connection, query, values)
        return (read_event(row) for row in rows)

    def run_totals(self, recording: str, run: int, *, gt: int = 0) -> RunTotals:
        """Return how much a run of a recording holds.

        Args:
            recording: its name.
            run: the number of the run.
            gt: a seq after which its events are.
        """
        values = {"start": f"{recording}/", "run": str(run), "gt": gt}
        with self.database.reading() as connection:
            rows = all_rows(connection, _OF_RUN, values)
        environments = {text: as_object(parse(text, "an environment")) for _, text, _, _ in rows}
        return RunTotals(
            exports=sum(row[2] for row in rows),
            failed=sum(row[3] for row in rows),
            tables=len({row[0] for row in rows}),
            processes=len({environments[row[1]].get("process") for row in rows}),
        )

    def head(self) -> tuple[int, bytes]:
        """Return seq and hash of the last event.

        Of an empty ledger, return 0 and the hash to which the first event will be chained.
        """
        with self.database.reading() as connection:
            row = connection.execute(_HEAD).fetchone()
        if row is None:
            return 0, genesis(*self.identity())
        if not isinstance(row[1], bytes):
            raise self._damaged(f"event #{row[0]} has no hash")
        return int(row[0]), row[1]

    # Writing, within `Database.write_transaction()`

    def append(self, table: str, version: int, body: Body, provenance: Provenance) -> Event:
        """Append one event, chained to the head that the transaction sees.

        Args:
            table: the table's name.
            version: the table's version after the event.
            body: the event's body.
            provenance: who, why, where, in what.
        """
        last, prev_hash = self.head()
        site = provenance.call_site
        row = EventRow(
            seq=last + 1,
            table=table,
            version=version,
            kind=body.kind,
            schema=body.schema,
            recorded_at=utc_now(),
            actor=provenance.actor,
            reason=provenance.reason,
            call_site=None if site is None else _site_text(site),
            environment=bytes.fromhex(self.put_text("environment", canonical_json(provenance.environment))),
            body=encode_body(body),
            prev_hash=prev_hash,
            hash=b"",
        )
        row = row._replace(hash=event_hash(prev_hash, row.hashed_fields(_parsed)))
        self.insert_event(row, body)
        if (transaction := self.database.last_transaction) is not None:
            transaction.last_event = row.seq, row.hash
        return read_event(row)

    def is_committed(self, transaction: Transaction) -> bool:
        """Tell whether a transaction was committed; by its last event if an interrupt hid how it ended."""
        if transaction.is_committed is None:
            with self.database.reading() as connection:
                found = connection.execute(_HAS_EVENT, transaction.last_event or (None, None)).fetchone()
            transaction.is_committed = found is not None
        return transaction.is_committed

    def insert_event(self, row: EventRow, body: Body) -> None:
        """Insert an event, with the rows that are derived from its body.

        Its environment and its decompositions must be stored before. Neither the hash nor the chain is checked.

        Args:
            row: the event as it is stored.
            body: its decoded body.

        Raises:
            LedgerError: the environment or a decomposition is not stored.
        """
        connection = self.database.transaction
        table_id = self._named("decomp_table", row.table)
        makes_version = 1 if body.makes_version else None
        provenance_id = self._provenance(row)
        cursor = connection.execute(
            _INSERT_EVENT,
            {**row._asdict(), "table_id": table_id, "makes_version": makes_version, "provenance_id": provenance_id},
        )
        inserted(cursor, "event")
        # These rows make reads plain indexed SQL; `verify` compares them with the bodies.
        rows = [
            (table_id, self._named("op", change.op), row.version, change.action, self._decomposition_id(change))
            for change in body.changes
        ]
        if rows:
            inserted(connection.executemany(_INSERT_CHANGE, rows), "change", len(rows))
        if body.tag is not None:
            inserted(connection.execute(_INSERT_TAG, (table_id, body.tag, row.version)), "tag")

    def put_decomposition(self, decomposition: Decomposition) -> str:
        """Store a decomposition once; return its digest."""
        return self.put_text("decomposition", canonical_json(decomposition.to_json()))

    def put_text(self, table: str, text: str) -> str:
        """Store canonical JSON once; return its digest.

        Args:
            table: `decomposition` or `environment`.
            text: the JSON.
        """
        raw = hashlib.sha256(text.encode()).digest()
        key, new = (table, raw), self._ids_of_transaction()
        if key not in self._ids and key not in new:
            connection, (find, insert) = self.database.transaction, _BY_DIGEST[table]
            row = connection.execute(find, [raw]).fetchone()
            new[key] = row[0] if row else inserted(connection.execute(insert, [raw, text]), table)
        return raw.hex()

    def put_catalog(self, catalog: Catalog) -> str:
        """Store a catalog once; return its digest.

        It is stored as a difference from a whole catalog of the same torch build, if a recent one is stored.
        """
        connection = self.database.transaction
        digest = bytes.fromhex(catalog.digest)
        if connection.execute(_CATALOG, [digest]).fetchone() is None:
            base_id, base = self._base_for(catalog)
            inserted(connection.execute(_INSERT_CATALOG, (digest, base_id, pack(catalog, base))), "catalog")
        return catalog.digest

    def _base_for(self, catalog: Catalog) -> tuple[int | None, Catalog | None]:
        for row_id, body in self.database.transaction.execute(_NEWEST_WHOLE_CATALOGS, [BASES_TRIED]).fetchall():
            base = unpack(body, None)
            if base.build == catalog.build:
                return int(row_id), base
        return None, None

    def _provenance(self, row: EventRow) -> int:
        environment_id = self._digested("environment", row.environment)
        values = (row.actor, row.reason, row.call_site, environment_id)
        key, new = ("provenance", values), self._ids_of_transaction()
        found = self._ids.get(key) or new.get(key)
        if found is None:
            found = new[key] = inserted(self.database.transaction.execute(_INSERT_PROVENANCE, values), "provenance")
        return found

    def _named(self, table: str, name: str) -> int:
        """Return the row id of a name, which is stored once."""
        key, new = (table, name), self._ids_of_transaction()
        found = self._ids.get(key) or new.get(key)
        if found is None:
            connection, (find, insert) = self.database.transaction, _BY_NAME[table]
            row = connection.execute(find, [name]).fetchone()
            found = new[key] = row[0] if row else inserted(connection.execute(insert, [name]), table)
        return found

    def _decomposition_id(self, change: Change) -> int | None:
        return None if change.decomposition is None else self._digested("decomposition", _unhex(change.decomposition))

    def _digested(self, table: str, digest: bytes) -> int:
        """Return the row id of a stored digest."""
        key, new = (table, digest), self._ids_of_transaction()
        found = self._ids.get(key) or new.get(key)
        if found is None:
            row = self.database.transaction.execute(_BY_DIGEST[table][0], [digest]).fetchone()
            if row is None:
                raise LedgerError(f"{self.database.path}: it has no {table} {digest.hex()[:12]}; store it first")
            found = new[key] = row[0]
        return found

    def _ids_of_transaction(self) -> _Ids:
        """Return the row ids that only the open transaction knows."""
        before, now = self._new_ids, self.database.last_transaction
        if before[0] is not now:
            if before[0] is not None and before[0].is_committed:
                self._ids.update(before[1])
            if len(self._ids) >= _MAX_IDS:
                self._ids = {}
            self._new_ids = before = now, {}
        elif len(before[1]) >= _MAX_IDS:
            before[1].clear()
        return before[1]

    def _damaged(self, problem: str) -> LedgerError:
        return LedgerError(f"{self.database.path}: the ledger is damaged: {problem}; run verify")


# Writing six lines as text takes 20 us, and reading them 10; an append takes 260.
@lru_cache(maxsize=1024)
def _site_text(site: CallSite) -> str:
    return canonical_json(site.to_json())


_parsed_once = lru_cache(maxsize=1024)(parse)


def _parsed(text: str, what: str) -> Json:
    """Return the value of a stored text; that of a call site only to be read, because it is kept."""
    value: Json = _parsed_once(text, what) if what == "call site" else parse(text, what)
    return value


def utc_now() -> str:
    """Return the time as it is stored: `2026-01-31T12:00:00.000000Z`.

    It is what the clock of the writer shows, right or wrong. The order of events is that of their numbers.

    Raises:
        LedgerFileError: the clock shows no time of the years 1 to 9999.
    """
    try:
        now = datetime.datetime.now(datetime.timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise LedgerFileError(f"the clock: it shows no time that can be recorded: {error}; set the clock") from error
    return now.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _unhex(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError:
        raise LedgerError(f"{digest[:20]!r}: it is not a digest; give 64 hex digits") from None
