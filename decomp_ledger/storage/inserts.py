"""Check that inserted rows are there: a trigger can make SQLite ignore an INSERT without an error."""

from __future__ import annotations

import sqlite3

from decomp_ledger.errors import LedgerFileError

__all__ = ["inserted"]


def inserted(cursor: sqlite3.Cursor, table: str, rows: int = 1) -> int:
    """Return the number of the row that an INSERT made.

    Args:
        cursor: of the INSERT.
        table: the table, for the error.
        rows: how many rows it should have made.

    Raises:
        LedgerFileError: SQLite inserted fewer.
    """
    if cursor.rowcount != rows:
        raise LedgerFileError(
            f"the table {table!r} of the ledger: SQLite kept {cursor.rowcount} of {rows} rows, so nothing was "
            "recorded; run verify"
        )
    return int(cursor.lastrowid or 0)
