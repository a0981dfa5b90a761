"""The connection to a ledger file: opening, transactions, locking between threads, closing around forks."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from decomp_ledger.errors import LedgerError, LedgerFileError, UnusableValue
from decomp_ledger.model.limits import SQLITE_BYTES
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.file_checks import absolute, check_header, check_no_log, reading_uri
from decomp_ledger.storage.migrations import apply_migrations, pending_migrations
from decomp_ledger.storage.new_file import draft_of, link_unless_exists
from decomp_ledger.storage.sqlite_errors import UNREADABLE_SCHEMA, describe_error, is_busy, one_line

__all__ = ["DURABILITY", "MEMORY", "Database"]

MEMORY = ":memory:"
DURABILITY = {"process": "NORMAL", "power": "FULL"}
_LIMIT_LENGTH = 0  # SQLITE_LIMIT_LENGTH of sqlite3.h
_PAUSE = 0.0005, 0.004  # seconds between two attempts to get the lock
# A ledger may come from a stranger; with trusted_schema off, its schema cannot call functions with side effects.
_SETTINGS = "PRAGMA foreign_keys = ON", "PRAGMA trusted_schema = OFF"
_USE_WAL = "PRAGMA journal_mode = WAL"
_REFUSE_WRITES = "PRAGMA query_only = ON"
_START_READING = "SELECT count(*) FROM sqlite_master"  # after BEGIN alone, SQLite would still follow later writes
_FORKED = "{}: the process that forked this one is writing to it; open the ledger again in this process"

# Connections that a parent was using when it forked this process. They are never closed, because closing one would
# roll back the parent's transaction.
_inherited: list[sqlite3.Connection] = []


class _RetryingConnection(sqlite3.Connection):
    """A connection that retries a locked file at short random intervals, for `timeout` seconds.

    SQLite's own wait grows to 0.1 s between two attempts, which can starve a writer while another one is busy.
    """

    timeout = 0.0

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
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
        raise refused


_execute = sqlite3.Connection.execute


class Database:
    """One ledger file, and the one connection that this process has to it.

    A fork closes the connection, unless it is in use; the next use in parent or child opens another.

    Args:
        path: the file; made if it is missing, unless `read_only`. ":memory:" keeps the ledger in memory.
        read_only: never write. A missing ledger is an error; an older one is migrated in a copy in memory.
        timeout: seconds to wait for another writer.
        lazy: open the file at the first use, not now.
        durability: "process": an event survives the death of the process once its call returned. "power": an event
            survives the loss of power too, at the cost of one fsync an event.

    Attributes:
        path: the file's absolute path, or ":memory:".
        identity: the file's device and inode; None before it is opened and after `close()`. A fork keeps it.
        in_memory: whether the ledger is in memory: ":memory:", or the migrated copy of an older one.
        generation: raised when row ids that this process knows may be invalid: after a rollback or a fork.

    Raises:
        LedgerFileError: the file is not a ledger, or cannot be opened.
        SchemaError: a newer version wrote the ledger.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        timeout: float = 30.0,
        durability: str = "process",
        lazy: bool = False,
    ) -> None:
        if durability not in DURABILITY:
            raise LedgerFileError(f"durability: {durability!r} is unknown; give 'process' or 'power'")
        self.path = MEMORY if str(path) == MEMORY else absolute(path)
        self.read_only = read_only
        self._timeout = timeout
        self._synchronous = f"PRAGMA synchronous = {DURABILITY[durability]}"
        self._lock = threading.RLock()
        self._users = 0  # blocks that use the connection now, all of the thread that has the lock
        self._is_writing = False
        self._on_rollback: list[Callable[[], object]] = []
        self._is_closed = False
        self._was_in_use_by_parent = False
        self.identity: fork_safety.FileIdentity | None = None
        self.in_memory = self.path == MEMORY
        self.generation = 0
        self._connection: sqlite3.Connection | None = None
        if not lazy:
            with self.reading():
                pass

    # Opening

    def _open(self) -> sqlite3.Connection:
        try:
            if self.path == MEMORY:
                return self._open_memory()
            return self._open_file(Path(self.path))
        except LedgerError:  # which may be an OSError too
            raise
        except UnicodeDecodeError as error:
            raise LedgerFileError(UNREADABLE_SCHEMA.format(self.path)) from error
        except PermissionError as error:
            raise LedgerFileError(f"{self.path}: it may not be read: {error.strerror}; make it readable") from error
        except OSError as error:
            raise LedgerFileError(f"{self.path:.200}: it cannot be used: {error.strerror}") from error

    def _open_memory(self) -> sqlite3.Connection:
        connection = self._connect(MEMORY)
        apply_migrations(connection)
        fork_safety.register_open_file(self)
        return connection

    def _open_file(self, path: Path) -> sqlite3.Connection:
        if self.identity is not None:  # a fork closed the connection
            self._check_identity()
            check_header(path)
            return self._migrate(self._connect_file(path))
        if not path.exists():
            self._create(path)
        try:
            with fork_safety.opening_lock():
                check_header(path)
                # Before the connection, so that a child that is forked meanwhile refuses the file.
                self.identity = fork_safety.file_identity(path)
                fork_safety.register_open_file(self)
                connection = self._connect_file(path)
            try:
                return self._migrate(connection)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            self.identity = None
            raise

    def _create(self, path: Path) -> None:
        """Make a new ledger as a draft, then link it, so that no process sees half of one."""
        if self.read_only:
            raise LedgerFileError(
                f"{path}: the ledger does not exist; name one with --ledger, or record something first"
            )
        if not path.parent.is_dir():
            raise LedgerFileError(f"{path}: it cannot be made: the folder {path.parent} does not exist; make it first")
        if not os.access(path.parent, os.W_OK):
            raise LedgerFileError(f"{path}: it cannot be made: the folder {path.parent} is read-only; use another one")
        check_no_log(path)
        with draft_of(path) as draft:
            connection = self._connect(str(draft))
            try:
                apply_migrations(connection)
                connection.execute(_USE_WAL)
            finally:
                connection.close()
            link_unless_exists(draft, path)  # if another process was first, its ledger serves as well

    def _connect_file(self, path: Path) -> sqlite3.Connection:
        if self.read_only:
            return self._connect(reading_uri(path))
        # Checked here, because SQLite opens a read-only file and fails at the first write.
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise LedgerFileError(f"{path}: it is read-only here; make the file and its folder writable")
        return self._connect(path.as_uri() + "?mode=rw", _USE_WAL)

    def _connect(self, target: str, *settings: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            target,
            uri=target.startswith("file:"),
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            factory=_RetryingConnection,
        )
        connection.timeout = self._timeout
        if hasattr(connection, "setlimit"):  # Python 3.11
            connection.setlimit(_LIMIT_LENGTH, SQLITE_BYTES)
        try:
            for setting in (*_SETTINGS, self._synchronous, *settings):
                connection.execute(setting)
        except BaseException:
            connection.close()  # of a damaged file, which would else stay open until it is collected
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Bring an older ledger to the newest schema; with `read_only`, a copy of it in memory."""
        if not pending_migrations(connection):
            return connection
        if self.read_only:
            copy = self._connect(MEMORY)
            connection.backup(copy)
            connection.close()
            connection = copy
            self.in_memory = True
        try:
            apply_migrations(connection)
        except sqlite3.IntegrityError as error:
            # Two events that make one version, for example. A reader still reads the old schema, so that `verify` can
            # name them.
            if not self.read_only:
                raise LedgerFileError(
                    f"{self.path}: the ledger is damaged, and cannot be migrated ({one_line(error)}); run verify"
                ) from error
        if self.read_only:
            connection.execute(_REFUSE_WRITES)
        return connection

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of this process, opened if necessary."""
        if self._is_closed:
            raise LedgerFileError(f"{self.path}: the ledger is closed; open it again with Ledger({self.path!r})")
        if self._was_in_use_by_parent and self.path == MEMORY:
            raise LedgerFileError(
                f"{self.path}: a ledger in memory belongs to the process that made it; use a file to share one"
            )
        if self._connection is None:
            with self._lock:
                self._connection = self._connection or self._open()
        return self._connection

    # Transactions

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to this thread alone, for a short read; raise its errors as LedgerError."""
        try:
            with self._lock:
                connection = self.connection
                users = self._users
                self._users = users + 1
                try:
                    yield connection
                finally:
                    self._users = users  # not -= 1, because after_fork_in_child may have set it to 0
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise self._as_ledger_error(error) from error

    @contextmanager
    def read_transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection within BEGIN, so that every read sees the ledger at one moment."""
        with self.reading() as connection:
            began = not connection.in_transaction
            if began:
                connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if began and connection.in_transaction:
                    connection.execute("COMMIT")

    @contextmanager
    def long_read(self) -> Iterator[sqlite3.Connection]:
        """Give a connection of its own that sees the file at one moment, for a read that may pause or change threads.

        No other read or write waits for it. A child that is forked meanwhile refuses the file. Not for a ledger with
        `in_memory`, which has one connection only.
        """
        with self.reading():
            self._check_identity()
        path, process = Path(self.path), os.getpid()
        try:
            with fork_safety.in_use(path):
                connection = self._connect(reading_uri(path), _REFUSE_WRITES)
                try:
                    connection.execute("BEGIN")
                    connection.execute(_START_READING).fetchone()
                    yield connection
                finally:
                    if os.getpid() == process:
                        connection.close()
                    else:
                        _inherited.append(connection)
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise self._as_ledger_error(error) from error

    @contextmanager
    def write_transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection within BEGIN IMMEDIATE; commit at the end, or roll back and raise.

        A `write_transaction()` inside another one of the same thread is part of the outer one.
        """
        if self.read_only:
            raise LedgerFileError(f"{self.path}: it was opened for reading only; open it without read_only")
        try:
            with self._lock:
                connection = self.connection
                if self._is_writing:
                    yield connection
                    return
                users = self._users
                if users and connection.in_transaction:
                    raise LedgerFileError(
                        f"{self.path}: this thread reads it in a transaction, which cannot write; end the read first"
                    )
                self._users, self._is_writing = users + 1, True
                self._on_rollback = []
                is_committing = False
                try:
                    # Inside the try, because an interrupt may come right after the lock was taken.
                    connection.execute("BEGIN IMMEDIATE")
                    # Under the lock, because a restore takes the lock before it replaces the file.
                    self._check_identity()
                    yield connection
                    if connection is not self._connection:
                        raise LedgerFileError(_FORKED.format(self.path))
                    is_committing = True
                    connection.execute("COMMIT")
                except BaseException as error:
                    self.generation += 1
                    # An interrupt may come right after the commit; an error of SQLite means that there was none.
                    if is_committing and not connection.in_transaction and not isinstance(error, sqlite3.Error):
                        raise
                    for undo in reversed(self._on_rollback):
                        undo()
                    if connection is self._connection and connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                finally:
                    self._users, self._is_writing = users, False
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise self._as_ledger_error(error) from error

    def on_rollback(self, undo: Callable[[], object]) -> None:
        """Call a function if the open `write_transaction()` is rolled back."""
        self._on_rollback.append(undo)

    @property
    def transaction(self) -> sqlite3.Connection:
        """The connection within `write_transaction()`, for functions that the block calls."""
        if not self._is_writing or self._connection is None:
            raise LedgerFileError(_FORKED.format(self.path))
        return self._connection

    def _check_identity(self) -> None:
        """Refuse to use a file that was removed or replaced, because its events would be lost."""
        if self.path == MEMORY:
            return
        try:
            identity = fork_safety.file_identity(self.path)
        except OSError:
            identity = None
        if identity != self.identity:
            raise LedgerFileError(
                f"{self.path}: the file was removed or replaced while it was open; put it back, or open it again"
            )

    def _as_ledger_error(self, error: sqlite3.Error | UnicodeEncodeError) -> LedgerError:
        """Return the LedgerError for an error of SQLite; raise it unchanged if it is a fault of this package."""
        if isinstance(error, UnicodeEncodeError):
            # The text of a search, most likely from the command line, where any bytes may come in.
            return UnusableValue(f"{error.object!r:.80}: no ledger holds a lone surrogate; give other text")
        if not isinstance(error, sqlite3.ProgrammingError):
            return LedgerFileError(describe_error(self.path, error))
        if "closed" not in str(error):
            raise error
        return LedgerFileError(f"{self.path}: the ledger was closed meanwhile; open it again")

    def close(self) -> None:
        """Close the file. Closing twice is allowed."""
        with self._lock:
            if self._connection is not None and not self._is_closed:
                self._connection.close()
            self._is_closed = True
            self.identity = None

    # Forks: the methods of fork_safety.OpenFile

    def before_fork(self, seconds: float) -> bool:
        """Lock out other threads, then close the connection unless it is in use."""
        if not self._lock.acquire(timeout=seconds):
            return False
        # If the connection is in use, then by the thread that forks: in a transaction, or between two rows.
        if self._connection is not None and not self._users and self.path != MEMORY:
            with suppress(sqlite3.Error):
                self._connection.close()
                self._connection = None
        return True

    def after_fork_in_parent(self) -> None:
        """Let other threads in again."""
        self._lock.release()

    def after_fork_in_child(self) -> bool:
        """Drop the parent's threads and connection; return whether the parent had closed its connection."""
        self._lock = threading.RLock()
        self._users, self._is_writing = 0, False
        self.generation += 1
        if self._connection is None or self._is_closed:
            return True
        _inherited.append(self._connection)
        self._connection = None
        self._was_in_use_by_parent = True
        return False
