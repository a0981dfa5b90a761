"""Rows of the table `checkpoint`: signed heads of the chain."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple

from decomp_ledger.storage.bounded_rows import rows_in_order
from decomp_ledger.storage.inserts import inserted

__all__ = ["CheckpointRow", "checkpoint_rows", "insert_checkpoint_row", "last_checkpoint_row"]

_SELECT = "SELECT id, seq, hash, signed_at, previous, key, signature FROM checkpoint ORDER BY id"
_LAST = "SELECT max(id) FROM checkpoint"
_INSERT = "INSERT INTO checkpoint (seq, hash, signed_at, previous, key, signature) VALUES (?, ?, ?, ?, ?, ?)"


class CheckpointRow(NamedTuple):
    """One row of `checkpoint`, as SQLite gives it: a damaged value may be of any type.

    Attributes:
        row_id: its row: 1, 2, 3 in the order of signing.
        seq: the signed event.
        hash: that event's hash, 32 bytes.
        signed_at: when, UTC.
        previous: SHA-256 of the checkpoint before it, 32 bytes, or None.
        key: the public key, 32 bytes.
        signature: the signature, 64 bytes.
    """

    row_id: Any
    seq: Any
    hash: Any
    signed_at: Any
    previous: Any
    key: Any
    signature: Any


def checkpoint_rows(connection: sqlite3.Connection) -> Iterator[CheckpointRow]:
    """Give the checkpoints of a ledger in the order of signing."""
    yield from map(CheckpointRow._make, rows_in_order(connection, _SELECT, name="checkpoint"))


def last_checkpoint_row(connection: sqlite3.Connection) -> Any:
    """Return the number of the newest checkpoint of a ledger; None if it has none."""
    return connection.execute(_LAST).fetchone()[0]


def insert_checkpoint_row(connection: sqlite3.Connection, row: CheckpointRow) -> None:
    """Append a checkpoint within a write transaction; SQLite gives it the next row, so `row.row_id` is not used."""
    values = row.seq, row.hash, row.signed_at, row.previous, row.key, row.signature
    inserted(connection.execute(_INSERT, values), "checkpoint")
