"""The ledger as Datasette reads it: over a connection of this package, and never written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasette import database as datasette_database

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage.database import Database

__all__ = ["ServedLedger"]


class ServedLedger(datasette_database.Database):  # type: ignore[misc]
    """A database of Datasette whose statements go through the connection of a ledger.

    So the file was checked before a row of it is read, an older one is read in a copy that has the views, and nothing
    else opens the file.

    Args:
        site: the Datasette.
        ledger_file: the ledger, opened for reading only.
    """

    def __init__(self, site: Any, ledger_file: Database) -> None:
        super().__init__(site, path=ledger_file.path, is_mutable=True)
        self._ledger_file = ledger_file

    async def execute_fn(self, fn: Callable[[sqlite3.Connection], Any]) -> Any:
        """Call a function with the connection.

        Raises:
            LedgerFileError: the file was removed or replaced.
        """
        self._ledger_file.check_served()
        with self._ledger_file.reading() as connection:
            connection.row_factory, connection.text_factory = sqlite3.Row, _text
            try:
                return fn(connection)
            except sqlite3.Error as error:
                refused = error
            finally:
                connection.row_factory, connection.text_factory = None, str
        # Outside of the block, which would take an error of a statement of the reader for one of the file.
        raise refused

    async def execute(self, sql: str, *arguments: Any, **options: Any) -> Any:
        """Execute a statement. Datasette would print its text to the terminal when it fails."""
        return await super().execute(sql, *arguments, **{**options, "log_sql_errors": False})

    async def execute_write_fn(self, fn: Callable[[sqlite3.Connection], Any], block: bool = True) -> Any:
        """Refuse to write.

        Raises:
            LedgerFileError: always.
        """
        raise LedgerFileError(f"{self.path}: it is served for reading only; write with the other commands")

    def connect(self, write: bool = False) -> sqlite3.Connection:
        """Refuse a connection of Datasette's own.

        Raises:
            LedgerFileError: always.
        """
        raise LedgerFileError(f"{self.path}: only the connection of the ledger reads it; use `execute_fn`")

    @property
    def size(self) -> int:
        """The size of the file; 0 if it was removed."""
        path = Path(str(self.path))
        return path.stat().st_size if path.exists() else 0


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
