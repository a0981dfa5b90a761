"""Insert rows, and check that they are there: a trigger can make SQLite ignore an INSERT without an error."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from decomp_ledger.errors import LedgerFileError

__all__ = ["insert", "insert_all"]


def insert(connection: sqlite3.Connection, statement: str, values: Sequence[Any] | Mapping[str, Any]) -> int:
    """Insert one row; return its number.

    Raises:
        LedgerFileError: SQLite inserted none.
    """
    cursor = connection.execute(statement, values)
    _check(statement, cursor, 1)
    return int(cursor.lastrowid or 0)


def insert_all(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows.

    Raises:
        LedgerFileError: SQLite inserted fewer.
    """
    if rows:
        _check(statement, connection.executemany(statement, rows), len(rows))


def _check(statement: str, cursor: sqlite3.Cursor, wanted: int) -> None:
    if cursor.rowcount != wanted:
        table = statement.split()[2]
        raise LedgerFileError(
            f"the table {table!r} of the ledger: SQLite kept {cursor.rowcount} of {wanted} rows, so nothing was "
            "recorded; run verify"
        )
