"""Copy a whole ledger while other processes write to it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.database import MEMORY, Database
from decomp_ledger.storage.file_checks import check_header, open_to_read
from decomp_ledger.storage.new_file import check_free, draft_of, put, target_of
from decomp_ledger.storage.sqlite_errors import one_line

__all__ = ["Progress", "backup", "copy_file"]

Progress: TypeAlias = "Callable[[int, int], object]"
_PAGES = 2000  # copied between two reports of progress
_READ_SCHEMA = "SELECT count(*) FROM sqlite_master"


def backup(
    database: Database, path: str | os.PathLike[str], *, force: bool = False, progress: Progress | None = None
) -> Path:
    """Copy a ledger, as it is at one moment, to another file; other processes may write meanwhile.

    Args:
        database: the ledger.
        path: the other file.
        force: replace an existing file.
        progress: called with the number of copied pages and of all pages.

    Returns:
        The file's absolute path.

    Raises:
        LedgerFileError: the file exists, or cannot be written; then no part of the copy is left.
    """
    target = target_of(path)
    if database.path != MEMORY and target.exists() and target.samefile(database.path):
        raise LedgerFileError(f"{target}: it is the ledger itself; name another file")
    check_free(target, force=force)
    with draft_of(target) as draft:
        if database.path == MEMORY:
            with database.reading() as connection:
                _copy(connection, draft, progress)
        else:
            # By a connection of its own, so that other threads of this process need not wait.
            copy_file(Path(database.path), draft, progress)
        put(draft, target, force=force)
    return target


def copy_file(path: Path, draft: Path, progress: Progress | None) -> None:
    """Copy a ledger of any schema, as it is at one moment, to a new file.

    Raises:
        LedgerFileError: the file is missing, damaged, or not a ledger.
    """
    if not path.exists():
        raise LedgerFileError(f"{path}: the ledger does not exist; name another file")
    check_header(path)
    try:
        with fork_safety.in_use(path), closing(open_to_read(path)) as source:
            _copy(source, draft, progress)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.OperationalError):
            raise  # a full disk, most likely that of the copy
        raise LedgerFileError(f"{path}: the file is damaged: {one_line(error)}; take another backup") from error


def _copy(source: sqlite3.Connection, draft: Path, progress: Progress | None) -> None:
    """Copy a database, as it is at one moment, to a new file."""
    copy = sqlite3.connect(draft, isolation_level=None)
    began = not source.in_transaction
    if began:
        source.execute("BEGIN")
    try:
        # This starts the read transaction; without it, each write of another process would restart the copy.
        source.execute(_READ_SCHEMA).fetchone()
        report = None if progress is None else lambda _, left, total: progress(total - left, total)
        source.backup(copy, pages=_PAGES, progress=report)
    finally:
        copy.close()
        if began:
            source.execute("COMMIT")
