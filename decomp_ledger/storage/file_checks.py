"""Check a ledger's file before SQLite opens it: its name, its header, and the write-ahead log next to it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.migrations import APPLICATION_ID, HUB_APPLICATION_ID

__all__ = [
    "LOG_FILES",
    "absolute",
    "check_header",
    "check_log_files",
    "check_no_journal",
    "check_no_log",
    "reading_uri",
    "wal_has_pages",
]

LOG_FILES = "-wal", "-shm", "-journal"  # the endings of the files that SQLite keeps next to a database
_HEADER = b"SQLite format 3\0"
_OLD_LOG = "{}: it is the log of a ledger that is gone; put {} back next to it, or move the log away"
_DUMP = b'{"ledger":{'  # the first bytes of a dump (transfer/jsonl.py)


def absolute(path: str | os.PathLike[str]) -> str:
    """Return the absolute form of a file's name, with links kept.

    Raises:
        LedgerFileError: the name is invalid, or the current folder was removed.
    """
    try:
        if b"\0" in os.fsencode(path):
            raise LedgerFileError(
                f"{os.fspath(path)!r:.200}: it cannot name a file, because it has a null character; give another name"
            )
        return os.path.abspath(os.fspath(path))  # noqa: PTH100  # Path.absolute keeps `..`
    except UnicodeEncodeError:
        raise LedgerFileError(
            f"{os.fspath(path)!r:.200}: it cannot name a file, because it has a lone surrogate; give another name"
        ) from None
    except FileNotFoundError:
        raise LedgerFileError(
            f"{os.fspath(path)!r:.200}: the current folder was removed; give an absolute path"
        ) from None


def wal_has_pages(path: Path) -> bool:
    """Tell whether a database has a write-ahead log that is not empty."""
    return _has_content(path, "-wal")


def _has_content(path: Path, ending: str) -> bool:
    """Tell whether a log of a database is not empty. SQLite keeps it next to the file that a symbolic link names."""
    try:
        return Path(os.path.realpath(path) + ending).stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def reading_uri(path: Path) -> str:
    """Return the URI by which SQLite reads a file and leaves no new file next to it."""
    # In a folder without write permission, SQLite cannot make its shared memory file. Without pages in the log the
    # file cannot be changing, so SQLite may read it as immutable.
    frozen = not os.access(path.parent, os.W_OK) and not wal_has_pages(path)
    return path.absolute().as_uri() + ("?immutable=1" if frozen else "?mode=ro")


def check_header(path: Path) -> None:
    """Refuse a file that SQLite would misread, or whose damage SQLite would report late.

    A file that this process has open passed the check before, and is not opened again (see fork_safety.py).

    Raises:
        LedgerFileError: the path is a folder, an empty file, no SQLite file, a truncated one, another application's,
            or one that the parent was using when it forked this process.
    """
    if fork_safety.is_open(path):
        return
    if path.is_dir():
        raise LedgerFileError(f"{path}: it is a folder, not a ledger; name a file in it")
    if not path.is_file():
        raise LedgerFileError(f"{path}: it is not a regular file; name a regular file")
    check_log_files(path)
    size = path.stat().st_size
    if size == 0:
        raise LedgerFileError(f"{path}: the file is empty, not a ledger; remove it, and a new ledger is made there")
    with path.open("rb") as file:
        header = file.read(100)
    if header.startswith(_DUMP):
        raise LedgerFileError(f"{path}: it is the dump of a ledger; make a ledger of it with `decomp-ledger load`")
    if header[:16] != _HEADER:
        raise LedgerFileError(f"{path}: it is not a ledger: not an SQLite file, or an encrypted one; name another file")
    if len(header) < 100 or _is_truncated(path, header, size):
        raise LedgerFileError(
            f"{path}: the file is truncated: {size} bytes are less than its header says; restore a backup"
        )
    # Read here, not by a PRAGMA, because opening another application's database would leave files next to it.
    if int.from_bytes(header[68:72], "big") == HUB_APPLICATION_ID:
        raise LedgerFileError(f"{path}: it is a hub, not a ledger; `decomp-ledger clone` gets a ledger out of it")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise LedgerFileError(f"{path}: it is an SQLite database, but not a ledger; name another file")


def check_log_files(path: Path) -> None:
    """Refuse a database whose log is a pipe or a device, because SQLite would open it, and wait.

    Raises:
        LedgerFileError: there is such a log.
    """
    file = os.path.realpath(path)
    for ending in LOG_FILES:
        log = file + ending
        try:
            mode = Path(log).stat().st_mode  # once, because another process may remove it at any time
        except OSError:
            continue
        if not stat.S_ISREG(mode):
            raise LedgerFileError(f"{log}: it is not a regular file, which SQLite needs there; move it away")


def check_no_log(path: Path) -> None:
    """Refuse a file name for a new database if an old log has it, because SQLite would replay that log.

    Raises:
        LedgerFileError: there is such a log.
    """
    if wal_has_pages(path):
        raise LedgerFileError(_OLD_LOG.format(f"{path}-wal", path.name))
    check_no_journal(path)


def check_no_journal(path: Path) -> None:
    """Refuse a file name for a database if an old rollback journal has it. No ledger in use has one.

    Raises:
        LedgerFileError: there is such a journal.
    """
    if _has_content(path, "-journal"):
        raise LedgerFileError(_OLD_LOG.format(f"{path}-journal", path.name))


def _is_truncated(path: Path, header: bytes, size: int) -> bool:
    if wal_has_pages(path):
        return False  # the missing pages may be in the log; SQLite finds them there
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size  # 1 stands for 65536 in the file format
    return size < page_size * int.from_bytes(header[28:32], "big")
