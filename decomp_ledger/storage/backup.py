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
from decomp_ledger.storage.connection import START_READING, connect
from decomp_ledger.storage.database import MEMORY, Database
from decomp_ledger.storage.file_checks import check_header, reading_uri
from decomp_ledger.storage.new_file import check_free, draft_of, put, target_of
from decomp_ledger.storage.other_names import check_one_name
from decomp_ledger.storage.schema_check import check_schema
from decomp_ledger.storage.sqlite_errors import one_line

__all__ = ["Progress", "backup", "copy_file"]

Progress: TypeAlias = "Callable[[int, int], object]"
_PAGES = 2000  # copied between two reports of progress


def backup(
    database: Database,
    path: str | os.PathLike[str],
    first_problem: Callable[[Path], str],
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Copy a ledger, as it is at one moment, to another file; other processes may write meanwhile.

    If another program removed, replaced or changed the files of the open ledger, the copy has what its connection can
    still read.

    Args:
        database: the ledger.
        path: the other file.
        first_problem: returns what `verify` finds first in a file, or "". Called for a copy of what the connection
            can still read, because SQLite takes pages of two files for one sound file.
        force: replace an existing file.
        progress: called with the number of copied pages and of all pages.

    Returns:
        The file's absolute path.

    Raises:
        LedgerFileError: the file exists, or cannot be written, or another program damaged the ledger while it was open;
            then no part of the copy is left.
    """
    target = target_of(path)
    if database.path != MEMORY and target.exists() and target.samefile(database.path):
        raise LedgerFileError(f"{target}: it is the ledger itself; name another file")
    check_free(target, force=force)
    with draft_of(target) as draft:
        if database.is_apart():
            with database.reading() as connection:
                _copy(connection, draft, progress)
            _check_copy(draft, database.path, first_problem)
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
    check_one_name(path)
    try:
        with fork_safety.in_use(path), closing(connect(reading_uri(path), path=path)) as source:
            _copy(source, draft, progress)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.OperationalError):
            raise  # a full disk, most likely that of the copy
        raise LedgerFileError(f"{path}: the file is damaged: {one_line(error)}; take another backup") from error


def _check_copy(draft: Path, path: str, first_problem: Callable[[Path], str]) -> None:
    """Refuse a copy of a file that another program changed while it was open, if not all of it could be read."""
    with closing(connect(str(draft), path=draft)) as copy:
        check_schema(copy, path)
        (found,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
    problem = one_line(found) if found != "ok" else "" if path == MEMORY else first_problem(draft)
    if problem:
        raise LedgerFileError(
            f"{path}: another program changed the file while it was open, and not all of it can be read any more "
            f"({problem}); restore a backup"
        )


def _copy(source: sqlite3.Connection, draft: Path, progress: Progress | None) -> None:
    """Copy a database, as it is at one moment, to a new file."""
    copy = sqlite3.connect(draft, isolation_level=None)
    began = not source.in_transaction
    if began:
        source.execute("BEGIN")
    try:
        # This starts the read transaction; without it, each write of another process would restart the copy.
        source.execute(START_READING).fetchone()
        report = None if progress is None else lambda _, left, total: progress(total - left, total)
        source.backup(copy, pages=_PAGES, progress=report)
    finally:
        copy.close()
        if began:
            source.execute("COMMIT")
