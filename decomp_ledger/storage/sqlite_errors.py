"""What an error of SQLite means for a ledger, in one line."""

from __future__ import annotations

import sqlite3

__all__ = ["UNREADABLE_SCHEMA", "describe_error", "is_busy", "is_interrupted", "one_line"]

# SQLite quotes a damaged schema in its error. If the quote is not UTF-8, Python 3.10 gives an error without a message,
# and later versions raise a UnicodeDecodeError.
UNREADABLE_SCHEMA = "{}: the file is damaged: its schema is not text; restore a backup"


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether an error means that another connection holds the lock."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or "locked" in str(error)


def is_interrupted(error: sqlite3.Error) -> bool:
    """Tell whether an error means that the progress handler stopped the statement."""
    return getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT" or str(error) == "interrupted"


def one_line(error: Exception | str) -> str:
    """Return the text of an error in one line, because SQLite quotes many lines of a damaged schema."""
    return " ".join(str(error).split())[:300]


def describe_error(path: str, error: sqlite3.Error) -> str:
    """Return one line that names the file, what is wrong, and what to do."""
    code = getattr(error, "sqlite_errorname", "")  # Python 3.10 has no name, only the text
    text = one_line(error)
    if is_busy(error):
        return f"{path}: another process is writing to it and did not finish in time; try again"
    if code.startswith("SQLITE_FULL") or "is full" in text:
        return f"{path}: the disk is full (every recorded event is intact); free some space"
    if code.startswith("SQLITE_READONLY") or "readonly" in text:
        return f"{path}: it is read-only here; make the file and its folder writable"
    if code.startswith("SQLITE_IOERR_SHM"):
        return f"{path}: its file system cannot map {path}-shm, which SQLite shares; move the ledger to a local disk"
    if code.startswith("SQLITE_CANTOPEN") or "unable to open" in text:
        return f"{path}: it cannot be opened: {text}; make the file and its folder readable"
    if not text:
        return UNREADABLE_SCHEMA.format(path)
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "malformed" in text or "not a database" in text:
        return f"{path}: the file is damaged: {text}; restore a backup"
    if "append-only" in text:
        return f"{path}: {text}"
    return f"{path}: SQLite reports {text}"
