"""A connection to SQLite that waits for locks, hears an interrupt within a statement, and stops a runaway statement."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage.sqlite_errors import is_busy, is_interrupted

__all__ = ["START_READING", "LedgerConnection", "connect"]

# After BEGIN alone, SQLite would still follow later writes. Not count(*), which SQLite does in one step.
START_READING = "SELECT name FROM sqlite_master LIMIT 1"

_PAUSE = 0.0005, 0.004  # seconds between two attempts to get the lock
# A ledger may come from a stranger; with trusted_schema off, its schema cannot call functions with side effects.
# SQLite maps no part of the file, because reading a map of a truncated file kills the process.
_SETTINGS = "PRAGMA foreign_keys = ON", "PRAGMA trusted_schema = OFF", "PRAGMA mmap_size = 0"

# A damaged B-tree can make a statement run for years. The work of every statement of this package is proportional to
# the file: 3 steps of SQLite's virtual machine a byte were the most that was measured (verify of 10^6 events).
_STEPS = 100_000  # between two looks at the statement: about 2 ms
_STEPS_OF_ANY_FILE = 100_000_000  # about 2 s
_STEPS_OF_A_BYTE = 20


class _Watch:
    """What a connection's progress handler found.

    Attributes:
        raised: what a signal handler raised while SQLite worked, or the error of a statement that was stopped.
        looks: how often the handler was called since the last `execute`.
    """

    def __init__(self, path: Path | None) -> None:
        self.raised: BaseException | None = None
        self.looks = 0
        self._path = path
        self._allowed = _STEPS_OF_ANY_FILE // _STEPS

    def handler(self) -> Callable[[], int]:
        """Return a function for `set_progress_handler`."""
        # A generator, because Python runs signal handlers when it resumes one, which is within the `try`. It would run
        # them before the first line of a function, where SQLite's module drops what they raise.
        return self._look().__next__

    def _look(self) -> Iterator[int]:
        stop = 0
        while True:
            try:
                yield stop
                stop = 0
                self.looks += 1
                if self.looks > self._allowed:
                    self._allow()
            except GeneratorExit:
                raise
            except BaseException as error:
                self.raised = error
                stop = 1

    def _allow(self) -> None:
        """Allow more steps if the file has grown; else raise the error."""
        if self._path is None:  # in memory
            return
        size = sum(file.stat().st_size for file in (self._path, self._path.with_name(f"{self._path.name}-wal"))
                   if file.exists())  # fmt: skip
        self._allowed = (_STEPS_OF_ANY_FILE + _STEPS_OF_A_BYTE * size) // _STEPS
        if self.looks > self._allowed:
            raise LedgerFileError(
                f"{self._path}: a query took more than {self.looks * _STEPS:,} steps, which an undamaged file of "
                f"{size} bytes never needs; run verify, or restore a backup"
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
        self._watch.looks = 0
        try:
            return _execute(self, *arguments)
        except sqlite3.OperationalError as error:
            refused = error
        deadline = time.monotonic() + self.timeout
        # Within a transaction the lock is held already, so that waiting would not help.
        while is_busy(refused) and not self.in_transaction and time.monotonic() < deadline:
            time.sleep(random.uniform(*_PAUSE))
            try:
                return _execute(self, *arguments)
            except sqlite3.OperationalError as error:
                refused = error
        if is_interrupted(refused):
            raise self.cause_of(refused) from refused
        raise refused

    def cause_of(self, error: BaseException) -> BaseException:
        """Return what stopped a statement, for SQLite's error "interrupted"; any other error as it is."""
        if not isinstance(error, sqlite3.Error) or not is_interrupted(error):
            return error
        cause, self._watch.raised = self._watch.raised, None
        if cause is None:  # raised while the handler handled another one
            self.set_progress_handler(self._watch.handler(), _STEPS)
            return KeyboardInterrupt()
        return cause


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
    try:
        for setting in (*_SETTINGS, *settings):
            connection.execute(setting)
    except BaseException:
        connection.close()  # of a damaged file, which would else stay open until it is collected
        raise
    return connection
