"""Notice that the files of an open ledger were removed, replaced, truncated or written by another program.

SQLite does not look: it goes on writing into a removed log, and dies by SIGBUS when it reads a truncated `-shm`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeAlias

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage.bounded_rows import all_rows
from decomp_ledger.storage.connection import LedgerConnection, connect
from decomp_ledger.storage.file_checks import reading_uri
from decomp_ledger.storage.other_names import check_one_name

__all__ = ["OpenFiles"]

_Stat: TypeAlias = "os.stat_result | None"

_HEAD = "SELECT id, (SELECT max(seq) FROM event), (SELECT hash FROM event ORDER BY seq DESC LIMIT 1) FROM ledger"
_SAVE = "save the ledger with `backup`, end the programs that use it, and open it again"
_REGION = 32768  # SQLite maps the -shm in regions of this size
_WRITER_LOCK = 120  # the byte of the -shm that SQLite locks to write
_TRIES, _PAUSE = 100, 0.01

# Files that stay open: closing one would release the locks that SQLite has on it in this process.
_kept_open: list[int] = []


class OpenFiles:
    """The file, the `-wal` and the `-shm` of a ledger, as they were when this process last used them.

    Args:
        path: the ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._name = path, str(path)
        real = os.path.realpath(path)
        self._wal_path, self._shm_path = f"{real}-wal", f"{real}-shm"
        self._main, self._wal, self._shm = _stat(self._name), _stat(self._wal_path), _stat(self._shm_path)
        self._shm_now = self._shm

    def note_commit(self) -> None:
        """Remember the sizes after a commit of this process."""
        self._note(_stat(self._name), _stat(self._wal_path))

    def _note(self, main: _Stat, wal: _Stat) -> None:
        if _identity(main) == _identity(self._main):
            self._main = main
        if _identity(wal) == _identity(self._wal):
            self._wal = wal

    def check(self, connection: LedgerConnection) -> None:
        """Refuse to write if an event could get lost. `mend_shared_memory` must have been called.

        Args:
            connection: of this process, in a transaction.

        Raises:
            LedgerFileError: a file is not the one that was opened, or has other content.
        """
        main, wal, shm = _stat(self._name), _stat(self._wal_path), self._shm_now
        if main is None or self._main is None or _identity(main) != _identity(self._main):
            raise LedgerFileError(
                f"{self._path}: the file was removed or replaced while it was open; put it back, or open it again"
            )
        if main.st_nlink != 1:
            check_one_name(self._path)
        for name, found, known in ((self._wal_path, wal, self._wal), (self._shm_path, shm, self._shm)):
            if _identity(found) != _identity(known):
                raise LedgerFileError(
                    f"{name}: the file was removed or replaced while the ledger was open; put it back, or {_SAVE}"
                )
        if main.st_size < self._main.st_size:
            raise LedgerFileError(f"{self._path}: the file was truncated while it was open; {_SAVE}")
        is_cut = wal is not None and self._wal is not None and wal.st_size < self._wal.st_size
        if is_cut or main.st_mtime_ns != self._main.st_mtime_ns:
            self._compare(connection, thoroughly=is_cut)
            self._note(main, wal)

    def _compare(self, connection: LedgerConnection, *, thoroughly: bool) -> None:
        """Compare what this connection remembers with what a new one reads.

        Another process may have moved the log into the file, which is right, or a program copied another file over it.
        """
        try:
            with closing(connect(reading_uri(self._path), path=self._path)) as other:
                same = all_rows(other, _HEAD) == all_rows(connection, _HEAD)
                if thoroughly:
                    same = same and other.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except sqlite3.DatabaseError:
            same = False
        if not same:
            name = self._wal_path if thoroughly else self._path
            raise LedgerFileError(f"{name}: another program changed the file while the ledger was open; {_SAVE}")

    def mend_shared_memory(self) -> None:
        """Rebuild a truncated `-shm`, because SQLite would die by SIGBUS when it reads what is gone.

        The file holds no events: SQLite makes it from the log when it is all zeros.

        Raises:
            LedgerFileError: another process is writing, so that it cannot be rebuilt.
        """
        known, found = self._shm, _stat(self._shm_path)
        self._shm_now = found
        if known is None or found is None or _identity(found) != _identity(known):
            return  # a removed file stays mapped
        if found.st_size >= known.st_size:
            self._shm = found
            return
        file = os.open(self._shm_path, os.O_RDWR)
        _kept_open.append(file)
        _lock(file, self._path)
        os.ftruncate(file, 0)
        os.ftruncate(file, -(-known.st_size // _REGION) * _REGION)
        os.lockf(file, os.F_ULOCK, 1)


def _stat(path: str) -> _Stat:
    try:
        return os.stat(path)  # noqa: PTH116  # 3 us less than Path.stat, several times an event
    except OSError:
        return None


def _identity(found: _Stat) -> tuple[int, int] | None:
    return None if found is None else (found.st_dev, found.st_ino)


def _lock(file: int, path: Path) -> None:
    """Take SQLite's lock for writing."""
    os.lseek(file, _WRITER_LOCK, os.SEEK_SET)
    for _ in range(_TRIES):
        with suppress(OSError):
            os.lockf(file, os.F_TLOCK, 1)
            return
        time.sleep(_PAUSE)
    raise LedgerFileError(f"{path}-shm: it was truncated while another process writes; end that process, and try again")
