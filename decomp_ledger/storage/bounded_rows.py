"""The rows of a query. A damaged B-tree can give the same ones for years.

The limit of steps in connection.py ends that, but until then `fetchall` would keep millions of rows, a loop would check
or write each of them, and each could have a text of 8 MB that all of them share.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from decomp_ledger.errors import LedgerFileError

__all__ = ["all_rows", "file_size", "rows_in_order", "too_much"]

_Values: TypeAlias = "Sequence[Any] | Mapping[str, Any]"

# What is kept of a row counts as its texts and blobs and _BYTES_OF_A_ROW more. The rows of an undamaged ledger count as
# 13 times its size at most: a row of `change` takes 12 bytes of the file.
_BYTES_OF_A_ROW = 100
_KEPT_OF_ANY_FILE, _KEPT_OF_A_BYTE = 1 << 25, 16
# What is read of all rows; most of it takes 1 ns a byte. Thousands of events can have one call site or one reason,
# so a longer text is kept once.
_READ_OF_ANY_FILE, _READ_OF_A_BYTE = 1 << 30, 100
_LONG = 64
_EVERY_COLUMN = slice(None)


def all_rows(connection: sqlite3.Connection, query: str, values: _Values = ()) -> list[Any]:
    """Return all rows of a query.

    Args:
        connection: to a ledger.
        query: a SELECT.
        values: its parameters.

    Raises:
        LedgerFileError: they are more than an undamaged file of this size can hold.
    """
    found: list[Any] = []
    texts: dict[str, str] = {}
    keep = texts.setdefault
    kept, most_kept = 0, _KEPT_OF_ANY_FILE
    read, most_read = 0, _READ_OF_ANY_FILE
    for row in connection.execute(query, values):
        kept += _BYTES_OF_A_ROW
        has_long = False
        for value in row:  # most have only short ones, so that the loop takes less than 1 us
            if type(value) is str and len(value) > _LONG:
                has_long = True
                read += len(value)
                kept += 0 if value in texts else len(value)
            elif type(value) is str or type(value) is bytes:
                kept += len(value)
        if has_long:
            row = tuple([keep(value, value) if type(value) is str and len(value) > _LONG else value for value in row])
        found.append(row)
        if kept > most_kept or read > most_read:
            size = file_size(connection)
            most_kept = _KEPT_OF_ANY_FILE + _KEPT_OF_A_BYTE * size
            most_read = _READ_OF_ANY_FILE + _READ_OF_A_BYTE * size
            if kept > most_kept or read > most_read:
                raise too_much(connection)
    return found


def rows_in_order(
    connection: sqlite3.Connection, query: str, values: _Values = (), *, name: str, own: slice = _EVERY_COLUMN
) -> Iterator[Any]:
    """Give the rows of a query that orders them by its first column, which is a unique number.

    Args:
        connection: to a ledger.
        query: a SELECT.
        values: its parameters.
        name: what a row is, for the error.
        own: the columns that belong to this row alone, so that the file holds the bytes of all of them.

    Raises:
        LedgerFileError: the table is damaged: a number does not follow the one before it, or the rows have more bytes
            than an undamaged file of this size.
    """
    size = file_size(connection)
    most = _READ_OF_ANY_FILE + _READ_OF_A_BYTE * size
    last, own_bytes, read = None, 0, 0
    for row in connection.execute(query, values):
        if last is not None and row[0] <= last:
            raise LedgerFileError(f"{name} {row[0]}: it is stored after {name} {last}; restore a backup")
        last = row[0]
        own_bytes += _bytes_of(row[own])
        read += _bytes_of(row)
        if own_bytes > size or read > most:
            raise too_much(connection)
        yield row


def _bytes_of(values: tuple[Any, ...]) -> int:
    return sum([len(value) for value in values if type(value) is str or type(value) is bytes])


def file_size(connection: sqlite3.Connection) -> int:
    """Return the size of a ledger in bytes, as a connection sees it. SQLite refuses a file that is smaller."""
    # Not by the connection's own `execute`, which would count the steps of the query again.
    (pages,), (page,) = (
        sqlite3.Connection.execute(connection, f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
    )
    return int(pages * page)


def too_much(connection: sqlite3.Connection) -> LedgerFileError:
    """Return the error for a query that finds more than the file can hold."""
    (_, _, path) = sqlite3.Connection.execute(connection, "PRAGMA database_list").fetchone()
    return LedgerFileError(
        f"{path or 'the ledger'}: the file is damaged: a query finds more than an undamaged file of "
        f"{file_size(connection)} bytes holds; restore a backup"
    )
