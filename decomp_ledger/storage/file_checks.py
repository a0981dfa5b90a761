"""A ledger's file, before SQLite opens it: its name, what it has to be, and what lies beside it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.migrations import APPLICATION_ID

__all__ = ["absolute", "check_header", "check_no_log", "open_to_read", "reading_uri"]

_HEADER = b"SQLite format 3\0"
_DUMP = b'{"ledger":{'  # what `dumping.dump` begins with


def absolute(path: str | os.PathLike[str]) -> str:
    """Return the absolute form of a file's name; links stay as they are.

    Raises:
        LedgerFileError: no file can have that name, or the current folder was removed.
    """
    try:
        if b"\0" in os.fsencode(path):
            raise LedgerFileError(f"{os.fspath(path)!r:.200} cannot name a file: it has a null character")
        return os.path.abspath(os.fspath(path))  # noqa: PTH100
    except UnicodeEncodeError:
        raise LedgerFileError(f"{os.fspath(path)!r:.200} cannot name a file: it has a lone surrogate") from None
    except FileNotFoundError:
        raise LedgerFileError(f"{os.fspath(path)!r:.200} is in the current folder, which was removed") from None


def reading_uri(path: Path) -> str:
    """Return what SQLite is to open in order to read a file and leave nothing beside it."""
    # A ledger in a folder that may not be written has no room for SQLite's shared memory file. With no
    # writer's log beside it, it cannot be changing, and is read as it is.
    wal = path.with_name(path.name + "-wal")
    frozen = not os.access(path.parent, os.W_OK) and not (wal.exists() and wal.stat().st_size)
    return path.absolute().as_uri() + ("?immutable=1" if frozen else "?mode=ro")


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a file of any schema, only to read it."""
    return sqlite3.connect(reading_uri(path), uri=True, isolation_level=None)


def check_header(path: Path) -> None:
    """Refuse what SQLite would misread or only notice later; of what this process has open that is known.

    Raises:
        LedgerFileError: a directory, an empty file, no SQLite file, or a truncated one; or one that the parent was
            using when it forked this process.
    """
    if fork_safety.is_open(path):
        return
    if path.is_dir():
        raise LedgerFileError(f"{path} is a folder, not a ledger; name a file in it")
    if not path.is_file():
        raise LedgerFileError(f"{path} is not a regular file; a ledger is one")
    size = path.stat().st_size
    if size == 0:
        raise LedgerFileError(f"{path} is empty, not a ledger; remove it to have a new one made there")
    with path.open("rb") as file:
        header = file.read(100)
    if header.startswith(_DUMP):
        raise LedgerFileError(f"{path} is the dump of a ledger, not one; make one of it with `decomp-ledger load`")
    if header[:16] != _HEADER:
        raise LedgerFileError(f"{path} is not a ledger: not an SQLite file, or an encrypted one")
    if len(header) < 100 or _is_truncated(path, header, size):
        raise LedgerFileError(f"{path} is truncated: it has {size} bytes, fewer than it should; restore a backup")
    # Read here, not by a PRAGMA: opening another application's database would leave files beside it.
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise LedgerFileError(f"{path} is an SQLite database, but not a ledger; name another file")


def check_no_log(path: Path) -> None:
    """Refuse to put a ledger where another one's log lies: SQLite would take that in.

    Raises:
        LedgerFileError: there is one.
    """
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        raise LedgerFileError(
            f"{wal} is the log of a ledger that is gone; put {path.name} back beside it, or move the log away"
        )


def _is_truncated(path: Path, header: bytes, size: int) -> bool:
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        return False  # pages may still be in the log; SQLite puts them together
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    return size < page_size * int.from_bytes(header[28:32], "big")
