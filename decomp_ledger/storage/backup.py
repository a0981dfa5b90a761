"""Whole copies of a ledger, made while others write, and put in their place whole or not at all."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.database import MEMORY, Database, explain
from decomp_ledger.storage.file_checks import absolute, check_header, open_to_read

__all__ = ["Progress", "backup", "copy_file", "draft_of", "put", "sync_folder", "target_of"]

Progress: TypeAlias = "Callable[[int, int], object]"
_PAGES = 2000  # copied between two reports of progress


def backup(
    database: Database, path: str | os.PathLike[str], *, force: bool = False, progress: Progress | None = None
) -> Path:
    """Copy a ledger, as it is at one moment, to another file; writers go on meanwhile.

    Args:
        database: the ledger.
        path: the other file.
        force: take the place of a file that is there.
        progress: told how many pages were copied, and how many there are.

    Returns:
        The file's absolute path.

    Raises:
        LedgerFileError: the file is there, or cannot be written; nothing is left of it then.
    """
    target = target_of(path)
    if database.path != MEMORY and target.exists() and target.samefile(database.path):
        raise LedgerFileError(f"{target} is the ledger itself; name another file")
    _check_free(target, force)
    with draft_of(target) as draft:
        if database.path == MEMORY:
            with database.reading() as connection:
                copy_into(connection, draft, progress)
        else:
            # A connection of its own: the other threads of this process go on too.
            copy_file(Path(database.path), draft, progress)
        put(draft, target, force=force)
    return target


def target_of(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a file that is to be made.

    Raises:
        LedgerFileError: there can be none of that name.
    """
    target = Path(absolute(path))
    try:
        is_folder, has_folder = target.is_dir(), target.parent.is_dir()
    except OSError as error:
        raise LedgerFileError(f"{os.fspath(path)!r:.200} cannot be made: {error.strerror}") from None
    if is_folder:
        raise LedgerFileError(f"{target} is a folder; name a file in it")
    if not has_folder:
        raise LedgerFileError(f"{target} cannot be made: there is no folder {target.parent}")
    return target


def _check_free(target: Path, force: bool) -> None:
    if not target.exists():
        return
    if not force:
        raise LedgerFileError(f"{target} is there already; name another file, or replace it (--force)")
    wal = target.with_name(target.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        raise LedgerFileError(f"{target} is in use: {wal.name} beside it is not empty; name another file")


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """Name a file beside another, which is gone at the end unless it was put in that one's place."""
    draft = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.new")
    try:
        yield draft
    except sqlite3.Error as error:
        raise LedgerFileError(explain(str(target), error)) from error
    except LedgerFileError:
        raise
    except OSError as error:
        raise LedgerFileError(f"{target} cannot be made: {error.strerror}") from error
    finally:
        for name in (draft.name, f"{draft.name}-wal", f"{draft.name}-shm", f"{draft.name}-journal"):
            draft.with_name(name).unlink(missing_ok=True)


def copy_file(path: Path, draft: Path, progress: Progress | None) -> None:
    """Copy a ledger, of this schema or an older one, as it is at one moment, to a new file.

    Raises:
        LedgerFileError: it is no ledger, or damaged.
    """
    if not path.exists():
        raise LedgerFileError(f"there is no ledger at {path}")
    check_header(path)
    source = open_to_read(path)
    try:
        with fork_safety.using(path):
            copy_into(source, draft, progress)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.OperationalError):
            raise  # the disk, most likely that of the copy
        raise LedgerFileError(f"{path} is damaged ({error}); take another backup") from error
    finally:
        source.close()


def copy_into(source: sqlite3.Connection, draft: Path, progress: Progress | None) -> None:
    """Copy a database, as it is at one moment, to a new file."""
    copy = sqlite3.connect(draft, isolation_level=None)
    began = not source.in_transaction
    if began:
        source.execute("BEGIN")
    try:
        # Without a read under way, each write of another process would make the copy begin again.
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        told = None if progress is None else lambda _, left, total: progress(total - left, total)
        source.backup(copy, pages=_PAGES, progress=told)
    finally:
        copy.close()
        if began:
            source.execute("COMMIT")


def put(draft: Path, target: Path, *, force: bool = False) -> None:
    """Put a finished file in its place, on the disk too."""
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    if force:
        os.replace(draft, target)  # noqa: PTH105
    else:
        try:
            os.link(draft, target)
        except FileExistsError:
            raise LedgerFileError(f"{target} was made by somebody else meanwhile; it was left as it is") from None
        except OSError:  # a file system without hard links
            _check_free(target, False)
            os.replace(draft, target)  # noqa: PTH105
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # a file system that cannot
        pass
    finally:
        os.close(handle)
