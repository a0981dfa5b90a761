"""Writes that only `load` needs: they give a new ledger the id and the catalog rows of the one that was dumped."""

from __future__ import annotations

import sqlite3

from decomp_ledger.storage.inserts import inserted

__all__ = ["insert_catalog", "set_identity"]

_TRIGGER = "SELECT sql FROM sqlite_master WHERE name = 'ledger_no_update'"
_DROP_TRIGGER = "DROP TRIGGER ledger_no_update"
_SET_IDENTITY = "UPDATE ledger SET id = ?, created_at = ?"
_INSERT_CATALOG = """
INSERT INTO catalog (digest, base_id, body) VALUES (?, (SELECT id FROM catalog WHERE digest = ?), ?)
"""


def set_identity(connection: sqlite3.Connection, ledger: str, created_at: str) -> None:
    """Replace the id and the date of a new ledger, within a write transaction.

    A trigger refuses that in a ledger in use, because its first event is chained to them.
    """
    (trigger,) = connection.execute(_TRIGGER).fetchone()
    connection.execute(_DROP_TRIGGER)
    connection.execute(_SET_IDENTITY, (ledger, created_at))
    connection.execute(trigger)


def insert_catalog(connection: sqlite3.Connection, digest: str, base: str | None, body: bytes) -> None:
    """Insert a catalog, within a write transaction.

    Args:
        connection: to the ledger.
        digest: of the whole catalog, in hex.
        base: digest in hex of the stored catalog that it differs from; None if it is whole.
        body: the packed catalog.
    """
    base_digest = None if base is None else bytes.fromhex(base)
    values = bytes.fromhex(digest), base_digest, body
    inserted(connection.execute(_INSERT_CATALOG, values), "catalog")
