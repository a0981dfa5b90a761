"""Raw rows of a ledger, for `verify` and `dump`: no value is checked, and no event is skipped.

The other reads of this package join tables and so never see an event whose table, provenance or environment is
missing. These see every row, because they look for damage.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage.bounded_rows import all_rows, file_size, rows_in_order, too_much
from decomp_ledger.storage.database import Database
from decomp_ledger.storage.event_store import EVENT_COLUMNS, EventRow

__all__ = [
    "AuditRow",
    "CatalogRow",
    "broken_reference",
    "catalog_bodies",
    "catalog_rows",
    "catalog_rows_in_order",
    "change_at",
    "changes_in_order",
    "count_changes",
    "count_events",
    "digested_rows",
    "environment_without_provenance",
    "event_hash_at",
    "event_rows",
    "file_settings",
    "first_event_in",
    "has_event_hash",
    "identity_rows",
    "named_rows",
    "page_damage",
    "provenance_without_event",
    "rows_without_version",
    "tag_rows",
    "version_without_event",
]

# LEFT JOIN, because a row that an event refers to may be missing.
_EVENTS = f"""
SELECT {EVENT_COLUMNS}, event.table_id, event.provenance_id, event.makes_version, provenance.environment_id
FROM event
LEFT JOIN decomp_table ON decomp_table.id = event.table_id
LEFT JOIN provenance ON provenance.id = event.provenance_id
LEFT JOIN environment ON environment.id = provenance.environment_id
"""
_EVERY_EVENT = f"{_EVENTS} ORDER BY event.seq"
_EVENTS_FROM = f"{_EVENTS} WHERE event.seq >= ? ORDER BY event.seq"
# Materializations, exports and tags: few, by the partial index of them.
_EVENTS_WITHOUT_VERSION = f"{_EVENTS} WHERE event.makes_version IS NULL ORDER BY event.seq"

_OWN = slice(EventRow._fields.index("body"), len(EventRow._fields))  # the columns that no other event shares

_CHANGE_AT = "SELECT action, decomposition_id FROM change WHERE table_id = ? AND op_id = ? AND version = ?"

_CHANGES_IN_ORDER = """
SELECT event.seq, op.name FROM change JOIN event USING (table_id, version) JOIN op ON op.id = op_id
WHERE makes_version = 1 ORDER BY event.seq
"""

_VERSION_WITHOUT_EVENT = """
SELECT 1 FROM change WHERE NOT EXISTS (
    SELECT 1 FROM event
    WHERE event.table_id = change.table_id AND event.version = change.version AND makes_version = 1
) LIMIT 1
"""

_CATALOGS = """
SELECT own.id, own.digest, own.base_id, base.digest, own.body
FROM catalog AS own LEFT JOIN catalog AS base ON base.id = own.base_id
"""
_CATALOG = f"{_CATALOGS} WHERE own.id = ?"
_ORDER_BY_BASE = "SELECT id FROM catalog ORDER BY coalesce(base_id, id), base_id IS NOT NULL, id"
_CATALOGS_BY_ROW = f"{_CATALOGS} ORDER BY own.id"
_CATALOG_BODIES = """
SELECT own.body, base.body FROM catalog AS own LEFT JOIN catalog AS base ON base.id = own.base_id WHERE own.id = ?
"""

_FIRST_EVENT_IN = """
SELECT min(seq) FROM event JOIN provenance ON provenance.id = provenance_id WHERE environment_id IS ?
"""

_INTEGERS = range(-(2**63), 2**63)  # what SQLite can hold


class AuditRow(NamedTuple):
    """One row of `event`, as SQLite gives it: a damaged value may be of any type, and a missing one is None.

    Attributes:
        event: the event, with the table, provenance and environment that were found.
        table_id: the row of its table.
        provenance_id: the row of its provenance.
        makes_version: 1 if it makes its version, else None.
        environment_id: the row of its environment.
    """

    event: EventRow
    table_id: Any
    provenance_id: Any
    makes_version: Any
    environment_id: Any


class CatalogRow(NamedTuple):
    """One row of `catalog`, as SQLite gives it.

    Attributes:
        row_id: its row.
        digest: SHA-256 of the whole catalog, 32 bytes.
        base_id: the row of the catalog that it is a difference from, or None.
        base: the digest of that catalog.
        body: zlib of JSON.
    """

    row_id: Any
    digest: Any
    base_id: Any
    base: Any
    body: Any


def audit(database: Database) -> AbstractContextManager[sqlite3.Connection]:
    """Give a connection that sees the ledger at one moment, and can read text that is not UTF-8.

    Such bytes become surrogate escapes. Without them SQLite refuses the whole read, and no event could be named.
    """
    return database.read_transaction(any_bytes=True)


def page_damage(connection: sqlite3.Connection) -> str | None:
    """Return what SQLite finds wrong with its pages, indexes and column types; None if nothing."""
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    return None if found == "ok" else " ".join(str(found).split())  # newer SQLite writes several lines


def file_settings(connection: sqlite3.Connection) -> tuple[str, int]:
    """Return the encoding of the file's texts, by which SQLite sorts them, and its `user_version`."""
    (encoding,) = connection.execute("PRAGMA encoding").fetchone()
    (user_version,) = connection.execute("PRAGMA user_version").fetchone()
    return encoding, user_version


def broken_reference(connection: sqlite3.Connection) -> tuple[str, str] | None:
    """Return the first foreign key that names a missing row, as (its table, the missing row's table)."""
    row = connection.execute("PRAGMA foreign_key_check").fetchone()
    return None if row is None else (str(row[0]), str(row[2]))


def identity_rows(connection: sqlite3.Connection) -> list[tuple[Any, Any]]:
    """Return every (id, created_at) of the table `ledger`; an undamaged ledger has one."""
    return all_rows(connection, "SELECT id, created_at FROM ledger")


def named_rows(connection: sqlite3.Connection, table: str) -> list[tuple[Any, Any]]:
    """Return (name, row) of each row of `decomp_table` or `op`."""
    return all_rows(connection, f"SELECT name, id FROM {table}")


def digested_rows(connection: sqlite3.Connection, table: str) -> Iterator[tuple[Any, Any, Any]]:
    """Give (row, digest, body) of each row of `environment` or `decomposition`."""
    yield from rows_in_order(connection, f"SELECT id, digest, body FROM {table} ORDER BY id", name=table)


def catalog_rows(connection: sqlite3.Connection) -> Iterator[CatalogRow]:
    """Give the catalogs, each whole one directly before those that differ from it."""
    # First the order alone, because SQLite would write all bodies to a file to sort them.
    order = [row_id for (row_id,) in all_rows(connection, _ORDER_BY_BASE)]
    if len(set(order)) != len(order):
        raise LedgerFileError("the table 'catalog': it has a number twice; restore a backup")
    left = file_size(connection)
    for row_id in order:
        found = connection.execute(_CATALOG, [row_id]).fetchone()
        if found is None:
            raise LedgerFileError(f"catalog {row_id}: it is stored, and cannot be found; restore a backup")
        row = CatalogRow._make(found)
        left -= len(row.body) if isinstance(row.body, str | bytes) else 0
        if left < 0:
            raise too_much(connection)
        yield row


def catalog_rows_in_order(connection: sqlite3.Connection) -> Iterator[CatalogRow]:
    """Give the catalogs in the order in which they were stored, which puts each whole one before those that differ."""
    yield from map(CatalogRow._make, rows_in_order(connection, _CATALOGS_BY_ROW, name="catalog"))


def catalog_bodies(connection: sqlite3.Connection, row_id: int) -> tuple[bytes, bytes | None]:
    """Return the body of a catalog that exists, and that of the whole catalog that it differs from, or None."""
    body, base = connection.execute(_CATALOG_BODIES, [row_id]).fetchone()
    return body, base


def tag_rows(connection: sqlite3.Connection) -> list[tuple[Any, Any, Any]]:
    """Return (row of the table, name, version) of each tag."""
    return all_rows(connection, "SELECT table_id, name, version FROM tag")


def event_rows(connection: sqlite3.Connection, *, gte: int | None = None) -> Iterator[AuditRow]:
    """Give every event by seq, from a seq on or all. A forged seq may be any integer that SQLite holds.

    Raises:
        LedgerFileError: the table is damaged, so that its rows are not in order; they may then never end.
    """
    query, values = (_EVERY_EVENT, []) if gte is None else (_EVENTS_FROM, [gte])
    yield from map(_audit_row, rows_in_order(connection, query, values, name="event", own=_OWN))


def rows_without_version(connection: sqlite3.Connection) -> Iterator[AuditRow]:
    """Give the events that make no version, by seq."""
    yield from map(_audit_row, rows_in_order(connection, _EVENTS_WITHOUT_VERSION, name="event", own=_OWN))


def _audit_row(row: tuple[Any, ...]) -> AuditRow:
    fields = len(EventRow._fields)
    return AuditRow(EventRow._make(row[:fields]), *row[fields:])


def count_events(connection: sqlite3.Connection) -> int:
    """Return how many events there are."""
    # Not count(*), which SQLite does in one step, so that no interrupt could end it in a damaged file.
    return int(connection.execute("SELECT count(seq) FROM event").fetchone()[0])


def event_hash_at(connection: sqlite3.Connection, seq: int) -> str | None:
    """Return the hash of an event in hex; None if the event is missing or its hash damaged."""
    if seq not in _INTEGERS:
        return None
    row = connection.execute("SELECT hash FROM event WHERE seq = ?", [seq]).fetchone()
    return row[0].hex() if row is not None and isinstance(row[0], bytes) else None


def has_event_hash(connection: sqlite3.Connection, event_hash: str) -> bool:
    """Tell whether any event has a hash, given in hex."""
    found = connection.execute("SELECT 1 FROM event WHERE hash = ? LIMIT 1", [bytes.fromhex(event_hash)]).fetchone()
    return found is not None


def change_at(connection: sqlite3.Connection, table_id: int, op_id: int, version: int) -> tuple[Any, Any] | None:
    """Return (action, row of the decomposition) of the change that a version made to an op, or None."""
    found: tuple[Any, Any] | None = connection.execute(_CHANGE_AT, (table_id, op_id, version)).fetchone()
    return found


def count_changes(connection: sqlite3.Connection) -> int:
    """Return how many change rows there are."""
    return int(connection.execute("SELECT count(version) FROM change").fetchone()[0])


def changes_in_order(connection: sqlite3.Connection) -> Iterator[tuple[Any, Any]]:
    """Give (seq of the event, name of the op) of each change row that belongs to an event, by seq."""
    yield from connection.execute(_CHANGES_IN_ORDER)


def version_without_event(connection: sqlite3.Connection) -> bool:
    """Tell whether a change row belongs to a version that no event makes."""
    return connection.execute(_VERSION_WITHOUT_EVENT).fetchone() is not None


def first_event_in(connection: sqlite3.Connection, environment_id: int) -> int | None:
    """Return the seq of the first event recorded in an environment, or None."""
    (seq,) = connection.execute(_FIRST_EVENT_IN, [environment_id]).fetchone()
    return seq if isinstance(seq, int) else None


def provenance_without_event(connection: sqlite3.Connection) -> list[int]:
    """Return the rows of `provenance` that no event refers to."""
    query = "SELECT id FROM provenance WHERE id NOT IN (SELECT provenance_id FROM event)"
    return [row_id for (row_id,) in all_rows(connection, query)]


def environment_without_provenance(connection: sqlite3.Connection) -> list[int]:
    """Return the rows of `environment` that no provenance refers to."""
    query = "SELECT id FROM environment WHERE id NOT IN (SELECT environment_id FROM provenance)"
    return [row_id for (row_id,) in all_rows(connection, query)]
