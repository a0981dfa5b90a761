"""A connection to SQLite that waits for locks, hears an interrupt within a statement, and stops a runaway statement."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.model.limits import SQLITE_BYTES
from decomp_ledger.storage.sqlite_errors import is_busy, is_interrupted

__all__ = ["START_READING", "LedgerConnection", "connect"]

# After BEGIN alone, SQLite would still follow later writes. Not count(*), which SQLite does in one step.
START_READING = "SELECT name FROM sqlite_master LIMIT 1"

_LIMIT_LENGTH = 0  # SQLITE_LIMIT_LENGTH of sqlite3.h
_PAUSE = 0.0005, 0.004  # seconds between two attempts to get the lock
# A ledger may come from a stranger; with trusted_schema off, its schema cannot call functions with side effects.
# SQLite maps no part of the file, because reading a map of a truncated file kills the process.
_SETTINGS = "PRAGMA foreign_keys = ON", "PRAGMA trusted_schema = OFF", "PRAGMA mmap_size = 0"

# A damaged B-tree can make a statement run for years. The work of every statement of this package is proportional to
# the file, so a statement is stopped that took many times as much: steps of SQLite's virtual machine since the last
# `execute`, or seconds of the processor within one `execute`, where reading a schema does much in one step.
_STEPS = 100_000  # between two looks at the statement: about 2 ms
_STEPS_OF_ANY_FILE, _STEPS_OF_A_BYTE = 4_000_000, 4  # most measured: 0.4 a byte, for integrity_check
_SECONDS_OF_ANY_FILE, _SECONDS_OF_A_BYTE = 2.0, 1e-6


class _Watch:
    """What a connection's progress handler knows.

    Attributes:
        raised: what a signal handler raised while SQLite worked, or the error of a statement that was stopped.
        is_executing: whether the connection is within `execute`.
        looks: how often the handler was called since the last `execute`.
    """

    def __init__(self, path: Path | None) -> None:
        self.raised: BaseException | None = None
        self.is_executing = False
        self.looks = 0
        self._path = path
        self._since = 0.0
        self._most_looks = _STEPS_OF_ANY_FILE // _STEPS
        self._most_seconds = _SECONDS_OF_ANY_FILE

    def handler(self) -> Callable[[], int]:
        """Return a function for `set_progress_handler`."""
        # A generator, because Python runs signal handlers when it resumes one, which is within the `try`. It would run
        # them before the first line of a function, where SQLite's module drops what they raise.
        look = self._look()
        next(look)  # to the `yield`, which is within the `try`
        return look.__next__

    def _look(self) -> Iterator[int]:
        stop = 0
        while True:
            try:
                while True:  # within the `try`, because Python runs signal handlers at the end of a loop too
                    yield stop
                    stop = 0
                    self.looks += 1
                    if self.looks == 1:
                        self._since = time.thread_time()
                    if self._path is not None and self._is_too_much():
                        self._allow(self._path)
            except GeneratorExit:
                raise
            except BaseException as error:
                self.raised = error
                stop = 1

    def _is_too_much(self) -> bool:
        seconds = time.thread_time() - self._since if self.is_executing else 0.0
        return self.looks > self._most_looks or seconds > self._most_seconds

    def _allow(self, path: Path) -> None:
        """Allow more if the file is large; else raise the error."""
        size = sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists())
        self._most_looks = (_STEPS_OF_ANY_FILE + _STEPS_OF_A_BYTE * size) // _STEPS
        self._most_seconds = _SECONDS_OF_ANY_FILE + _SECONDS_OF_A_BYTE * size
        if self._is_too_much():
            raise LedgerFileError(
                f"{path}: the file is damaged: reading it takes more steps than an undamaged file of {size} bytes "
                "needs; restore a backup"
            )


class LedgerConnection(sqlite3.Connection):
    """A connection that retries a locked file at short random intervals, for `timeout` seconds.

    SQLite's own wait grows to 0.1 s between two attempts, which can starve a writer while another one is busy.
    """

    timeout = 0.0
    _watch = _Watch(None)

    def watch(self, path: Path | None) -> None:
        """Stop statements when a signal handler raises, and those that take too many steps for the file."""
        self._watch = _Watch(path)
        self.set_progress_handler(self._watch.handler(), _STEPS)

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Execute a statement; wait while another connection has the lock."""
        watch = self._watch
        watch.looks, watch.is_executing = 0, True
        try:
            return _execute(self, *arguments)
        except sqlite3.OperationalError as error:
            refused = error
        except sqlite3.DatabaseError as error:
            raise self.cause_of(error)  # noqa: B904  # most often `error` itself
        finally:
            watch.is_executing = False
        deadline = time.monotonic() + self.timeout
        # Within a transaction the lock is held already, so that waiting would not help.
        while is_busy(refused) and not self.in_transaction and time.monotonic() < deadline:
            time.sleep(random.uniform(*_PAUSE))
            try:
                return _execute(self, *arguments)
            except sqlite3.OperationalError as error:
                refused = error
        raise self.cause_of(refused)

    def cause_of(self, error: BaseException) -> BaseException:
        """Return what stopped a statement; else the error of SQLite as it is."""
        cause, self._watch.raised = self._watch.raised, None
        if cause is None and isinstance(error, sqlite3.Error) and is_interrupted(error):
            # A signal handler raised while the progress handler handled what another one raised.
            self.set_progress_handler(self._watch.handler(), _STEPS)
            return KeyboardInterrupt()
        return error if cause is None else cause


_execute = sqlite3.Connection.execute


def connect(target: str, *settings: str, path: Path | None = None, timeout: float = 0.0) -> LedgerConnection:
    """Open a database.

    Args:
        target: a file name, a URI or ":memory:".
        settings: statements to execute first.
        path: the file whose size limits the steps of a statement; None for a database that this process made.
        timeout: seconds to wait for a lock.
    """
    connection = sqlite3.connect(
        target,
        uri=target.startswith("file:"),
        timeout=0,
        isolation_level=None,
        check_same_thread=False,
        factory=LedgerConnection,
    )
    connection.timeout = timeout
    connection.watch(path)
    if hasattr(connection, "setlimit"):  # Python 3.11
        connection.setlimit(_LIMIT_LENGTH, SQLITE_BYTES)
    try:
        for setting in (*_SETTINGS, *settings):
            connection.execute(setting)
    except BaseException:
        connection.close()  # of a damaged file, which would else stay open until it is collected
        raise
    return connection
