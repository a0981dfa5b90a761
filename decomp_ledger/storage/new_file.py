"""Make a new file whole or not at all: write a draft next to it, then give the draft the file's name."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage.file_checks import LOG_FILES, absolute, check_no_journal, check_no_log, wal_has_pages
from decomp_ledger.storage.sqlite_errors import describe_error

__all__ = [
    "check_free",
    "check_replaceable",
    "draft_of",
    "drafts_of",
    "link_unless_exists",
    "put",
    "sync_folder",
    "target_of",
    "write_text",
]

_DRAFT = ".new"


def target_of(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a file to be made.

    Raises:
        LedgerFileError: the name is invalid, names a folder, or is in a folder that does not exist.
    """
    target = Path(absolute(path))
    try:
        is_folder, has_folder = target.is_dir(), target.parent.is_dir()
    except OSError as error:
        raise LedgerFileError(f"{os.fspath(path)!r:.200}: it cannot be made: {error.strerror}") from None
    if is_folder:
        raise LedgerFileError(f"{target}: it is a folder; name a file in it")
    if not has_folder:
        raise LedgerFileError(f"{target}: it cannot be made: the folder {target.parent} does not exist; make it first")
    return target


def check_free(target: Path, *, force: bool = False) -> None:
    """Refuse a name that a file has; with `force`, only if that file is a database in use.

    Raises:
        LedgerFileError: the name is not free.
    """
    if not target.exists():
        check_no_log(target)
        return
    if not force:
        raise LedgerFileError(f"{target}: the file exists already; name another file, or replace it (--force)")
    check_replaceable(target)
    check_no_journal(target)
    if wal_has_pages(target):
        raise LedgerFileError(
            f"{target}: {target.name}-wal is not empty, because a program uses the file or was killed while it wrote; "
            "end the program, then open the file once with Ledger() and close it, or name another file"
        )


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """Give the name of a draft next to a file; remove the draft at the end, if it still has that name.

    Raises:
        LedgerFileError: the block raised an error of SQLite or of the operating system.
    """
    draft = target.with_name(f"{_draft_prefix(target)}{os.getpid()}.{threading.get_ident()}{_DRAFT}")
    try:
        _remove(draft)  # of a process that was killed, and had the same id
        yield draft
    except sqlite3.Error as error:
        raise LedgerFileError(describe_error(str(target), error)) from error
    except LedgerFileError:  # which is an OSError too
        raise
    except OSError as error:
        raise LedgerFileError(f"{target}: it cannot be made: {error.strerror}; name another file") from error
    finally:
        with suppress(OSError):  # on a read-only file system it was never made, and the error above tells why
            _remove(draft)


def drafts_of(target: Path) -> list[Path]:
    """Return the drafts of a file that exist, of any process."""
    prefix = _draft_prefix(target)
    try:
        names = os.listdir(target.parent)  # noqa: PTH208
    except OSError:
        return []
    return [target.with_name(name) for name in names if name.startswith(prefix) and name.endswith(_DRAFT)]


def check_replaceable(target: Path) -> None:
    """Refuse to put a file in the place of a device, a pipe or a socket: as root, `/dev/null` would be gone.

    Raises:
        LedgerFileError: the name is that of one.
    """
    if target.exists() and not target.is_file():
        raise LedgerFileError(f"{target}: it is a device, a pipe or a socket, which is never replaced; name a file")


def _draft_prefix(target: Path) -> str:
    return f".{target.name}."


def _remove(draft: Path) -> None:
    for ending in ("", *LOG_FILES):
        draft.with_name(draft.name + ending).unlink(missing_ok=True)


def put(draft: Path, target: Path, *, force: bool = False) -> None:
    """Give a finished draft its name, durably.

    Args:
        draft: the draft.
        target: the name.
        force: replace a file of that name.

    Raises:
        LedgerFileError: there is a file of that name, without `force`, or an old log.
    """
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    check_no_log(target)
    if force:
        check_replaceable(target)
        draft.replace(target)
    elif not link_unless_exists(draft, target):
        raise LedgerFileError(f"{target}: another process made it meanwhile; it is unchanged, name another file")
    sync_folder(target.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole, or leave what was there; a device or a pipe, such as /dev/stdout, gets the text.

    Raises:
        LedgerFileError: it cannot be written.
    """
    target = Path(os.path.realpath(target_of(path)))
    if target.exists() and not target.is_file():
        try:
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise LedgerFileError(f"{target}: it cannot be written: {error.strerror}; name another file") from None
        return
    with draft_of(target) as draft:
        draft.write_text(text, encoding="utf-8")
        put(draft, target, force=True)


def link_unless_exists(draft: Path, target: Path) -> bool:
    """Give a draft the name of a file; return False if there is a file of that name."""
    try:
        os.link(draft, target)
    except FileExistsError:
        return False
    except OSError:  # the file system has no hard links
        if target.exists():
            return False
        draft.replace(target)
    return True


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
