"""An exclusive lock on a ledger's file, held while another file takes its place."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage.connection import START_READING, connect
from decomp_ledger.storage.file_checks import wal_has_pages

__all__ = ["exclusive_lock", "remove_log_files"]

_TRIES = 5


@contextmanager
def exclusive_lock(path: Path, timeout: float) -> Iterator[None]:
    """Keep every other program from writing a ledger, with all of its content in its one file.

    A file that is not a database has no lock, and needs none.

    Args:
        path: the ledger.
        timeout: seconds to wait for the programs that use it.

    Raises:
        LedgerFileError: it did not come free in time.
        sqlite3.OperationalError: likewise.
    """
    # SQLite's own wait, because a busy checkpoint is not an error.
    wait = f"PRAGMA busy_timeout = {int(timeout * 1000)}"
    connection = connect(path.as_uri() + "?mode=rw", wait, path=path)
    try:
        try:
            _lock(connection, path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            pass  # not a database
        yield
    finally:
        connection.close()


def _lock(connection: sqlite3.Connection, path: Path) -> None:
    for _ in range(_TRIES):
        # This waits for readers too, and moves the content of the log into the file.
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.execute("BEGIN IMMEDIATE")
        if not busy and not wal_has_pages(path):
            return
        connection.execute("ROLLBACK")  # another program wrote between the two statements
    raise LedgerFileError(f"{path}: another process uses it and did not finish in time; try again")


def remove_log_files(path: Path) -> None:
    """Make SQLite remove the -wal and -shm files of a ledger, unless another program has it open."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(str(path), path=path)) as connection:
        connection.execute(START_READING).fetchone()
