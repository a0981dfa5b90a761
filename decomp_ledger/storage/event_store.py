"""Rows of the ledger to events and back: the only module that reads and writes its tables."""

from __future__ import annotations

import datetime
import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from decomp_ledger.errors import LedgerError
from decomp_ledger.model.canonical_json import Json, canonical_json
from decomp_ledger.model.events import (
    ACTIONS,
    OVERRIDE,
    RESET,
    Body,
    CallSite,
    Event,
    encode_body,
    parse,
    read_event,
)
from decomp_ledger.model.hash_chain import HashedText, genesis, hash_of, hashed_text
from decomp_ledger.model.rules import Decomposition, Rule
from decomp_ledger.storage import sql
from decomp_ledger.storage.database import Database

if TYPE_CHECKING:
    from decomp_ledger.model.catalog import Catalog

__all__ = ["Provenance", "EventStore", "TableInfo", "utc_now"]

# Whole catalogs to compare a new one with, when it is stored as a difference.
_BASES_TRIED = 4


class Provenance(NamedTuple):
    """Who did it, why, where and in what.

    Attributes:
        actor: who.
        reason: why, or None.
        call_site: the user's line, or None.
        environment: what the process runs in, as plain data.
    """

    actor: str
    reason: str | None
    call_site: CallSite | None
    environment: dict[str, Json]


class _Source:
    """A provenance as it is stored.

    Args:
        given: it.
        row: its row.
        environment: digest of its environment.
        site: its call site, as it is stored.
    """

    def __init__(self, given: Provenance, row: int, environment: str, site: str | None) -> None:
        self.given, self.row, self.environment, self._site = given, row, environment, site
        self._texts: dict[tuple[str, str], HashedText] = {}

    def hashed_text(self, table: str, body: Body) -> HashedText:
        """Return what is hashed of all its events of a table and a kind: made once."""
        found = self._texts.get((table, body.kind))
        if found is None:
            given = self.given
            fields = {
                "actor": given.actor,
                "environment": self.environment,
                "kind": body.kind,
                "reason": given.reason,
                "schema": body.schema,
                "table": table,
            }
            self._texts[table, body.kind] = found = hashed_text(fields, self._site)
        return found


class TableInfo(NamedTuple):
    """One line of the list of tables.

    Attributes:
        name: the table.
        version: its version.
        events: how many it has.
        first_at: when it began, UTC.
        last_at: when its last event was recorded, UTC.
    """

    name: str
    version: int
    events: int
    first_at: str
    last_at: str


class EventStore:
    """Typed access to one store.

    Args:
        database: the open file.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._ids: dict[tuple[str, object], int] = {}
        self._generation = database.generation
        self._sources: dict[object, _Source] = {}
        self._head: tuple[object, tuple[int, bytes]] | None = None

    # Reading

    def identity(self) -> tuple[str, str]:
        """Return the ledger's id, and when it was made."""
        with self.database.reading() as connection:
            rows = connection.execute("SELECT id, created_at FROM ledger").fetchall()
        if len(rows) != 1 or not all(isinstance(value, str) for value in rows[0]):
            raise LedgerError(f"{self.database.path} is damaged: it does not say which ledger it is; run verify")
        return rows[0][0], rows[0][1]

    def table_id(self, table: str) -> int | None:
        """Return the row of a table's name, or None."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT id FROM decomp_table WHERE name = ?", [table]).fetchone()
        return None if row is None else int(row[0])

    def version(self, table_id: int) -> int:
        """Return a table's version; 0 if it has no event."""
        with self.database.reading() as connection:
            (version,) = connection.execute(sql.TABLE_VERSION, [table_id]).fetchone()
        if version is not None and not isinstance(version, int):
            raise LedgerError(f"{self.database.path} is damaged: a version is {version!r:.40}; run verify")
        return version or 0

    def as_of(self, table_id: int, version: int) -> dict[str, tuple[Rule | None, int]]:
        """Return op -> (what is said of it, since which version) at a version; restored ops have None."""
        with self.database.reading() as connection:
            rows = connection.execute(sql.AS_OF, {"table": table_id, "version": version}).fetchall()
        decompositions = self.decompositions({row[2] for row in rows if row[2] is not None})
        said: dict[str, tuple[Rule | None, int]] = {}
        for op, action, decomposition, since in rows:
            if (
                action not in ACTIONS
                or (action == OVERRIDE) != (decomposition is not None)
                or not isinstance(since, int)
            ):
                raise LedgerError(f"{self.database.path} is damaged: what is said of {op!r:.80} is unclear; run verify")
            said[str(op)] = (None if action == RESET else Rule(action, decompositions.get(decomposition))), since
        return said

    def decompositions(self, ids: Iterable[int]) -> dict[int, Decomposition]:
        """Return stored decompositions by their row."""
        found: dict[int, Decomposition] = {}
        with self.database.reading() as connection:
            for row_id in ids:
                row = connection.execute("SELECT body FROM decomposition WHERE id = ?", [row_id]).fetchone()
                if row is None:
                    raise LedgerError(f"{self.database.path} is damaged: decomposition {row_id} is missing; run verify")
                found[row_id] = _decomposition_of(row[0])
        return found

    def decompositions_by_digest(self, digests: Iterable[str]) -> dict[str, Decomposition]:
        """Return stored decompositions by the digest that an event names."""
        found: dict[str, Decomposition] = {}
        with self.database.reading() as connection:
            for digest in digests:
                row = connection.execute("SELECT body FROM decomposition WHERE digest = ?", [_unhex(digest)]).fetchone()
                if row is None:
                    raise LedgerError(
                        f"{self.database.path} is damaged: decomposition {digest[:12]} is missing; run verify"
                    )
                found[digest] = _decomposition_of(row[0])
        return found

    def environment(self, digest: str) -> dict[str, Json]:
        """Return a stored environment by its digest."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT body FROM environment WHERE digest = ?", [_unhex(digest)]).fetchone()
        value = parse(row[0], "an environment") if row else None
        if not isinstance(value, dict):
            raise LedgerError(f"{self.database.path} has no environment {digest[:12]}; run verify")
        return value

    def catalog(self, digest: str) -> Catalog:
        """Return a stored catalog by its digest.

        Raises:
            LedgerError: there is none, or it is damaged.
        """
        with self.database.reading() as connection:
            row = connection.execute("SELECT base_id, body FROM catalog WHERE digest = ?", [_unhex(digest)]).fetchone()
            if row is None:
                raise LedgerError(f"{self.database.path} has no catalog {digest[:12]}")
            return _unpacked(row[1], None if row[0] is None else self._whole_catalog(row[0]))

    def _whole_catalog(self, row_id: int) -> Catalog:
        with self.database.reading() as connection:
            row = connection.execute("SELECT body FROM catalog WHERE id = ? AND base_id IS NULL", [row_id]).fetchone()
        if row is None:
            raise LedgerError(f"{self.database.path} is damaged: a catalog's base is missing; run verify")
        return _unpacked(row[0], None)

    def events(self, where: Sequence[str], values: Sequence[Any], *, desc: bool, limit: int | None) -> Iterator[Event]:
        """Give events that meet all the SQL conditions, by seq."""
        text = sql.EVENT
        if where:
            text += "WHERE " + " AND ".join(where)
        text += f" ORDER BY event.seq {'DESC' if desc else 'ASC'}"
        if limit is not None:
            text += f" LIMIT {int(limit)}"
        with self.database.reading() as connection:
            rows = connection.execute(text, list(values)).fetchall()
        return (read_event(row) for row in rows)

    def head(self) -> tuple[int, bytes]:
        """Return the seq and the hash of the last event; 0 and what the first one is chained to, if there is none."""
        return self._last()[1]

    def _last(self) -> tuple[object, tuple[int, bytes]]:
        """Return when the head was read, and the head."""
        moment = self.database.moment()
        if self._head is None or self._head[0] != moment:
            with self.database.reading() as connection:
                row = connection.execute(sql.HEAD).fetchone()
            if row is not None and not isinstance(row[1], bytes):
                raise LedgerError(f"{self.database.path} is damaged: event #{row[0]} has no hash; run verify")
            self._head = moment, (int(row[0]), row[1]) if row else (0, genesis(*self.identity()))
        return self._head

    # Writing, within `store.write()`

    def append(self, table: str, version: int, body: Body, provenance: Provenance) -> Event:
        """Append one event, with its change rows, in the transaction that is under way.

        The head of the chain is read inside the transaction, so that appends of several processes follow
        one another.
        """
        connection = self.database.transaction
        table_id = self._named("decomp_table", table)
        moment, (last, prev_hash) = self._last()
        seq = last + 1
        source = self._source(provenance)
        at = utc_now()
        text = encode_body(body)
        own_hash = hash_of(prev_hash, source.hashed_text(table, body), text, at, seq, version)
        connection.execute(
            sql.INSERT_EVENT,
            (
                seq,
                table_id,
                version,
                1 if body.makes_version else None,
                body.kind,
                body.schema,
                at,
                source.row,
                text,
                prev_hash,
                own_hash,
            ),
        )
        self._derived_rows(connection, table_id, version, body)
        self._head = moment, (seq, own_hash)
        return Event(
            seq,
            table,
            version,
            body.kind,
            at,
            provenance.actor,
            provenance.reason,
            provenance.call_site,
            source.environment,
            body,
            prev_hash.hex(),
            own_hash.hex(),
            (body.schema, text),
        )

    def _derived_rows(self, connection: sqlite3.Connection, table_id: int, version: int, body: Body) -> None:
        """Write the rows that make reads plain indexed SQL; `verify` compares them with the bodies."""
        connection.executemany(
            sql.INSERT_CHANGE,
            [
                (
                    table_id,
                    self._named("op", change.op),
                    version,
                    change.action,
                    None if change.decomposition is None else self._ids["decomposition", change.decomposition],
                )
                for change in body.changes
            ],
        )
        if body.tag is not None:
            connection.execute(
                "INSERT INTO tag (table_id, name, version) VALUES (?, ?, ?)", (table_id, body.tag, version)
            )

    def put_decomposition(self, decomposition: Decomposition) -> str:
        """Store a decomposition once; return its digest."""
        digest = decomposition.identity()
        self._put("decomposition", digest, canonical_json(decomposition.to_json()))
        return digest

    def put_catalog(self, catalog: Catalog) -> str:
        """Store a catalog once, as a difference where a whole one of its build is stored; return its digest."""
        from decomp_ledger.model.catalog import pack

        connection = self.database.transaction
        digest = bytes.fromhex(catalog.digest)
        if connection.execute("SELECT 1 FROM catalog WHERE digest = ?", [digest]).fetchone() is None:
            base_id, base = self._nearest_base(connection, catalog)
            connection.execute(
                "INSERT INTO catalog (digest, base_id, body) VALUES (?, ?, ?)", (digest, base_id, pack(catalog, base))
            )
        return catalog.digest

    def _nearest_base(self, connection: sqlite3.Connection, catalog: Catalog) -> tuple[int | None, Catalog | None]:
        rows = connection.execute(
            "SELECT id, body FROM catalog WHERE base_id IS NULL ORDER BY id DESC LIMIT ?", [_BASES_TRIED]
        )
        for row_id, body in rows.fetchall():
            base = _unpacked(body, None)
            if base.build == catalog.build:
                return int(row_id), base
        return None, None

    def _source(self, given: Provenance) -> _Source:
        """Return a provenance as it is stored."""
        # The same object comes with every event until something changes: it is hashed once.
        environment = given.environment
        key = (given.actor, given.reason, given.call_site, id(environment))
        self._known_ids()  # which forgets these too
        known = self._sources.get(key)
        if known is None or known.given.environment is not environment:
            self._sources[key] = known = self._put_provenance(given)
        return known

    def _put_provenance(self, given: Provenance) -> _Source:
        body = canonical_json(given.environment)
        digest = hashlib.sha256(body.encode()).hexdigest()
        site = None if given.call_site is None else canonical_json(attrs.asdict(given.call_site))
        values = given.actor, given.reason, site, self._put("environment", digest, body)
        ids, key = self._known_ids(), ("provenance", values)
        if key not in ids:
            cursor = self.database.transaction.execute(
                "INSERT INTO provenance (actor, reason, call_site, environment_id) VALUES (?, ?, ?, ?)", values
            )
            ids[key] = int(cursor.lastrowid or 0)
        return _Source(given, ids[key], digest, site)

    def _put(self, table: str, digest: str, body: str) -> int:
        ids = self._known_ids()
        key = (table, digest)
        if key not in ids:
            connection, raw = self.database.transaction, bytes.fromhex(digest)
            row = connection.execute(f"SELECT id FROM {table} WHERE digest = ?", [raw]).fetchone()
            if row is None:
                row = [connection.execute(f"INSERT INTO {table} (digest, body) VALUES (?, ?)", (raw, body)).lastrowid]
            ids[key] = int(row[0])
        return ids[key]

    def _named(self, table: str, name: str) -> int:
        ids = self._known_ids()
        key = (table, name)
        if key not in ids:
            connection = self.database.transaction
            row = connection.execute(f"SELECT id FROM {table} WHERE name = ?", [name]).fetchone()
            if row is None:
                row = [connection.execute(f"INSERT INTO {table} (name) VALUES (?)", [name]).lastrowid]
            ids[key] = int(row[0])
        return ids[key]

    def _known_ids(self) -> dict[tuple[str, object], int]:
        """Rows this process has seen; forgotten when a transaction was rolled back, or a child forked."""
        if self._generation != self.database.generation:
            self._ids.clear()
            self._sources.clear()
            self._generation = self.database.generation
        return self._ids


def utc_now() -> str:
    """Return this moment as it is stored."""
    seconds, micros = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_second(seconds)}.{micros:06}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def _unpacked(data: bytes, base: Catalog | None) -> Catalog:
    from decomp_ledger.model.catalog import unpack  # a table that met no torch is read without

    return unpack(data, base)


def _decomposition_of(text: str) -> Decomposition:
    return Decomposition.from_json(parse(text, "a decomposition"))


def _unhex(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError:
        raise LedgerError(f"{digest[:20]!r} is no digest") from None
