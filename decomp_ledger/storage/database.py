"""The connection to a ledger file: opening, transactions, locking between threads, closing around forks."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType

from decomp_ledger.errors import LedgerError, LedgerFileError, MissingLedger, UnusableValue
from decomp_ledger.model.arguments import after_failure
from decomp_ledger.model.handles import Handle
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.block_lock import BlockLock
from decomp_ledger.storage.connection import START_READING, LedgerConnection, connect
from decomp_ledger.storage.file_checks import absolute, check_header, check_no_log, reading_uri
from decomp_ledger.storage.migrations import add_only_views, apply_migrations
from decomp_ledger.storage.new_file import draft_of, link_unless_exists
from decomp_ledger.storage.open_files import OpenFiles
from decomp_ledger.storage.other_names import check_one_name
from decomp_ledger.storage.schema_check import any_text, check_schema, schema_version
from decomp_ledger.storage.sqlite_errors import UNREADABLE_SCHEMA, describe_error, one_line

__all__ = ["DURABILITY", "MEMORY", "Database", "Transaction"]

MEMORY = ":memory:"
DURABILITY = {"process": "NORMAL", "power": "FULL"}
_USE_WAL = "PRAGMA journal_mode = WAL"
_REFUSE_WRITES = "PRAGMA query_only = ON"
_TRUST_VIEWS = "PRAGMA trusted_schema = ON"  # without it, SQLite refuses the JSON functions of the views
_FORKED = "{}: the process that forked this one is writing to it; open the ledger again in this process"

# What SQLite, or Python on the way to it, raises.
_ERRORS = (sqlite3.Error, UnicodeEncodeError, OverflowError)

# Connections that a parent was using when it forked this process. They are never closed, because closing one would
# roll back the parent's transaction.
_inherited: list[sqlite3.Connection] = []


class Database(Handle):
    """One ledger file, and the one connection that this process has to it.

    A fork closes the connection, unless it is in use; the next use in parent or child opens another.

    Args:
        path: the file; made if it is missing, unless `read_only`. ":memory:" keeps the ledger in memory.
        read_only: never write. A missing ledger is an error; an older one is migrated in a copy in memory.
        timeout: seconds to wait for another writer.
        lazy: open the file at the first use, not now.
        with_views: for a reader of the views, which an older ledger has only in a migrated copy in memory.
        durability: "process": an event survives the death of the process once its call returned. "power": an event
            survives the loss of power too, at the cost of one fsync an event.

    Attributes:
        path: the file's absolute path, or ":memory:".
        identity: the file's device and inode; None before it is opened and after `close()`. A fork keeps it.
        in_memory: whether the ledger is in memory: ":memory:", or the migrated copy of an older one.

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
        with_views: bool = False,
    ) -> None:
        if durability not in DURABILITY:
            raise LedgerFileError(f"durability: {durability!r} is unknown; give 'process' or 'power'")
        self.path = MEMORY if str(path) == MEMORY else absolute(path)
        self.read_only = read_only
        self._with_views = with_views
        self._timeout = timeout
        self._synchronous = f"PRAGMA synchronous = {DURABILITY[durability]}"
        self._lock = BlockLock()
        self._transaction: Transaction | None = None  # that of the thread that has the lock
        self._is_closed = False
        self._was_in_use_by_parent = False
        self.identity: fork_safety.FileIdentity | None = None
        self.in_memory = self.path == MEMORY
        self._schema_version = 0
        self._files: OpenFiles | None = None
        self._connection: LedgerConnection | None = None
        if not lazy:
            with self.reading():
                pass

    @property
    def status(self) -> str:
        """Whether it is in use, in words. This opens and reads nothing."""
        if self._is_closed:
            return "closed"
        return "not opened yet" if self._connection is None and self.identity is None else "open"

    @property
    def exists(self) -> bool:
        """Whether there is a ledger to read: it is in memory, or its file exists."""
        return self.in_memory or Path(self.path).exists()

    # Opening

    def _open(self) -> LedgerConnection:
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

    def _open_memory(self) -> LedgerConnection:
        connection = self._connect(MEMORY)
        apply_migrations(connection)
        fork_safety.register_open_file(self)
        return connection

    def _open_file(self, path: Path) -> LedgerConnection:
        if self.identity is not None:  # a fork closed the connection
            self._check_identity()
            check_header(path)
            check_one_name(path)
            return self._checked(self._connect_file(path))
        if not path.exists():
            self._create(path)
        try:
            with fork_safety.opening_lock():
                check_header(path)
                check_one_name(path)
                # Before the connection, so that a child that is forked meanwhile refuses the file.
                self.identity = fork_safety.file_identity(path)
                fork_safety.register_open_file(self)
                connection = self._connect_file(path)
            return self._checked(connection)
        except BaseException:
            self.identity = None
            raise

    def _create(self, path: Path) -> None:
        """Make a new ledger as a draft, then link it, so that no process sees half of one."""
        if self.read_only:
            raise MissingLedger(str(path))
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

    def _connect_file(self, path: Path) -> LedgerConnection:
        if self.read_only:
            return self._connect(reading_uri(path))
        # Checked here, because SQLite opens a read-only file and fails at the first write.
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise LedgerFileError(f"{path}: it is read-only here; make the file and its folder writable")
        return self._connect(path.as_uri() + "?mode=rw", _USE_WAL)

    def _connect(self, target: str, *settings: str) -> LedgerConnection:
        path = None if self.path == MEMORY else Path(self.path)
        return connect(target, self._synchronous, *settings, path=path, timeout=self._timeout)

    def _checked(self, connection: LedgerConnection) -> LedgerConnection:
        try:
            return self._migrate(connection)
        except BaseException as error:
            connection.close()
            raise connection.cause_of(error)  # noqa: B904  # most often `error` itself

    def _migrate(self, connection: LedgerConnection) -> LedgerConnection:
        """Check the schema, and bring it to the newest one; with `read_only`, that of a copy in memory."""
        missing = check_schema(connection, self.path)
        if missing and not (self.read_only and add_only_views(missing) and not self._with_views):
            if self.read_only:
                copy = self._connect(MEMORY)
                connection.backup(copy)
                connection.close()
                connection = copy
                self.in_memory = True
            try:
                apply_migrations(connection)
            except sqlite3.IntegrityError as error:
                # Two events that make one version, for example. A reader still reads the old schema, so that `verify`
                # can name them.
                if not self.read_only:
                    raise LedgerFileError(
                        f"{self.path}: the ledger is damaged, and cannot be migrated ({one_line(error)}); run verify"
                    ) from error
            check_schema(connection, self.path)
            if self.read_only:
                connection.execute(_REFUSE_WRITES)
        if self._with_views:  # which are those of the migrations, because the schema was checked
            connection.execute(_TRUST_VIEWS)
        self._schema_version = schema_version(connection)
        self._files = None if self.in_memory else OpenFiles(Path(self.path))
        return connection

    @property
    def connection(self) -> LedgerConnection:
        """The connection of this process, opened if necessary."""
        if self._is_closed:
            raise LedgerFileError(f"{self.path}: the ledger is closed; open it again with Ledger({self.path!r})")
        if self._was_in_use_by_parent and self.path == MEMORY:
            raise LedgerFileError(
                f"{self.path}: a ledger in memory belongs to the process that made it; use a file to share one"
            )
        if self._connection is None:
            # A thread that forks waits until the file is made, because SQLite has locks that a child could not free.
            with self._lock, fork_safety.opening_lock():
                self._connection = connection = self._connection or self._open()
            return connection
        return self._connection

    # Transactions

    def reading(self) -> _Reading:
        """Give the connection to this thread alone, for a short read; raise its errors as LedgerError."""
        return _Reading(self)

    def read_transaction(self, *, any_bytes: bool = False) -> _ReadTransaction:
        """Give the connection within BEGIN, so that every read sees the ledger at one moment.

        Args:
            any_bytes: read text that is not UTF-8 too, as surrogate escapes. Else SQLite refuses the whole read.
        """
        return _ReadTransaction(self, any_bytes=any_bytes)

    def long_read(self) -> _LongRead:
        """Give a connection of its own that sees the file at one moment, for a read that may pause or change threads.

        No other read or write waits for it. A child that is forked meanwhile refuses the file. Not for a ledger with
        `in_memory`, which has one connection only.
        """
        return _LongRead(self)

    def write_transaction(self) -> _Writing:
        """Give the connection within BEGIN IMMEDIATE; commit at the end, or roll back and raise.

        A `write_transaction()` inside another one of the same thread is part of the outer one.
        """
        if self.read_only:
            raise LedgerFileError(f"{self.path}: it was opened for reading only; open it without read_only")
        return _Writing(self)

    def enter(self, frame: FrameType) -> LedgerConnection:
        """Take the connection for a block, and put right what an interrupted block left behind.

        Args:
            frame: the frame of the block, which must call `leave`.
        """
        depth = self._lock.enter(frame)
        try:
            connection = self.connection
            if depth == 1 and self._files is not None:
                self._files.mend_shared_memory()
            if depth == 1 and (connection.in_transaction or self._transaction is not None):
                self._transaction = None
                connection.text_factory = str
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return connection
        except BaseException:
            self._lock.leave(frame)
            raise

    def leave(self, frame: FrameType) -> None:
        """Give the connection back."""
        self._lock.leave(frame)

    @property
    def open_transaction(self) -> Transaction | None:
        """The `write_transaction()` that this thread is in, or None."""
        return self._transaction if self._transaction is not None and self._lock.depth() else None

    @property
    def last_transaction(self) -> Transaction | None:
        """The same, for functions that a `write_transaction()` calls; it may have been interrupted."""
        return self._transaction

    @property
    def transaction(self) -> LedgerConnection:
        """The connection within `write_transaction()`, for functions that the block calls."""
        if self._transaction is None or self._connection is None:
            raise LedgerFileError(_FORKED.format(self.path))
        return self._connection

    def _check_file(self, connection: LedgerConnection) -> None:
        """Refuse to write if the file is another one, or has another schema, than when it was opened."""
        self._check_files(connection)
        self._check_schema(connection)

    def check_served(self) -> None:
        """Refuse to read on from a file that was removed or replaced, or whose schema is not a ledger's any more."""
        with self.reading() as connection:
            self._check_identity()
            if not self.in_memory:
                self._check_schema(connection)

    def _check_schema(self, connection: LedgerConnection) -> None:
        version = schema_version(connection)
        if version != self._schema_version:
            check_schema(connection, self.path)
            self._schema_version = version

    def note_commit(self) -> None:
        """Take note of what a commit of this connection changed in the files."""
        if self._files is not None:
            self._files.note_commit()

    def _check_files(self, connection: LedgerConnection) -> None:
        if self._files is not None:
            self._files.check(connection)

    def is_apart(self) -> bool:
        """Tell whether only this object's connection sees the whole ledger, which `backup` then reads."""
        if self.path == MEMORY:
            return True
        with self.reading() as connection:
            if self.read_only:
                return False
            try:
                self._check_files(connection)
            except LedgerFileError:
                return True
        return False

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

    def _as_ledger_error(
        self, error: sqlite3.Error | UnicodeEncodeError | OverflowError, connection: LedgerConnection | None
    ) -> BaseException:
        """Return the LedgerError for an error of SQLite on a connection, or what interrupted it.

        Raises a fault of this package as it is.
        """
        cause = error if connection is None else connection.cause_of(error)
        if cause is not error:
            return cause
        if isinstance(error, UnicodeEncodeError):
            # The text of a search, most likely from the command line, where any bytes may come in.
            return UnusableValue(f"{error.object!r:.80}: no ledger holds a lone surrogate; give other text")
        if isinstance(error, OverflowError):
            return UnusableValue(f"{self.path}: no ledger holds a number beyond 64 bits; give a smaller one")
        if not isinstance(error, sqlite3.ProgrammingError):
            return LedgerFileError(describe_error(self.path, error))
        if "closed" not in str(error):
            raise error
        return LedgerFileError(f"{self.path}: the ledger was closed meanwhile; open it again")

    def close(self) -> None:
        """Close the file. Closing twice is allowed."""
        with self._lock:
            if self._connection is not None and not self._is_closed:
                if self._files is not None:
                    self._files.mend_shared_memory()
                self._connection.close()
            self._is_closed = True
            self.identity = None

    # Forks: the methods of fork_safety.OpenFile

    def before_fork(self, forking: FrameType, seconds: float) -> bool:
        """Lock out other threads, then close the connection unless it is in use."""
        if not self._lock.enter(forking, seconds):
            return False
        # If the connection is in use, then by the thread that forks: in a transaction, or between two rows.
        if self._connection is not None and self._lock.depth() == 1 and self.path != MEMORY:
            with suppress(sqlite3.Error, LedgerError):
                if self._files is not None:
                    self._files.mend_shared_memory()
                connection, self._connection = self._connection, None  # first, so that an interrupt leaves none closed
                connection.close()
        return True

    def after_fork_in_parent(self, forking: FrameType) -> None:
        """Let other threads in again."""
        self._lock.leave(forking)

    def after_fork_in_child(self) -> bool:
        """Drop the parent's threads and connection; return whether the parent had closed its connection."""
        self._transaction = None
        _unfinished.clear()
        if self._connection is not None and not self._is_closed:
            self._was_in_use_by_parent = True
            _inherited.append(self._connection)
            self._connection = None
        return not self._was_in_use_by_parent


class Transaction:
    """One `write_transaction()`, from its begin on.

    Attributes:
        last_event: (seq, hash) of the last event that it appended, or None.
        is_committed: True after the commit, False after a rollback. None means that it is open, or that it is not
            known how it ended, because an interrupt came: then the ledger has its events or not.
    """

    __slots__ = ("is_committed", "last_event")

    def __init__(self) -> None:
        self.last_event: tuple[int, bytes] | None = None
        self.is_committed: bool | None = None


class _Block:
    """A `with` block that uses the connection of a database.

    A class and no generator, because an exception that a signal handler raises can end a generator early or late.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.frame: FrameType | None = None

    def leave(self, error: BaseException | None) -> None:
        """Give the connection back; raise an error of SQLite as a LedgerError."""
        frame, self.frame = self.frame, None
        if frame is not None:
            self.database.leave(frame)
        if isinstance(error, _ERRORS):
            raise self.database._as_ledger_error(error, self.database._connection) from error


class _Reading(_Block):
    """The block of `Database.reading`."""

    def __enter__(self) -> LedgerConnection:
        self.frame = frame = sys._getframe(1)
        try:
            return self.database.enter(frame)
        except BaseException as error:
            self.leave(error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(error)


class _ReadTransaction(_Block):
    """The block of `Database.read_transaction`."""

    def __init__(self, database: Database, *, any_bytes: bool) -> None:
        super().__init__(database)
        self.any_bytes = any_bytes
        self.began = False

    def __enter__(self) -> LedgerConnection:
        self.frame = frame = sys._getframe(1)
        try:
            self.connection = connection = self.database.enter(frame)
            self.began = not connection.in_transaction
            if self.began:
                connection.execute("BEGIN")
            if self.any_bytes:
                connection.text_factory = any_text
            return connection
        except BaseException as error:
            self.leave(error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.any_bytes:
                self.connection.text_factory = str
            if self.began and self.connection.in_transaction:
                self.connection.execute("COMMIT")
        except sqlite3.Error as failure:
            error = error or failure
        finally:
            self.leave(error)


class _LongRead:
    """The block of `Database.long_read`, which its own connection lets outlive the frame."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.connection: LedgerConnection | None = None

    def __enter__(self) -> LedgerConnection:
        database, path = self.database, Path(self.database.path)
        with database.reading() as own:
            database._check_identity()
            if not database.read_only:
                database._check_files(own)
        self.process, self.file = os.getpid(), fork_safety.in_use(path)
        try:
            self.file.__enter__()
            self.connection = connection = database._connect(reading_uri(path), _REFUSE_WRITES)
            connection.execute("BEGIN")
            connection.execute(START_READING).fetchone()
            return connection
        except BaseException as error:
            self.__exit__(type(error), error, None)  # not its `__traceback__`, which its class may define
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self.connection
        try:
            if isinstance(error, _ERRORS):
                raise self.database._as_ledger_error(error, connection) from error
        finally:
            try:
                if connection is not None and os.getpid() == self.process:
                    connection.close()
                elif connection is not None:
                    _inherited.append(connection)
            finally:
                self.file.__exit__(kind, error, trace)


class _Writing(_Block):
    """The block of `Database.write_transaction`."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.own: Transaction | None = None  # None within an outer `write_transaction()`

    def __enter__(self) -> LedgerConnection:
        self.frame = frame = sys._getframe(1)
        try:
            self.connection = connection = self.database.enter(frame)
            if self.database._transaction is None:
                self._begin(connection)
            return connection
        except BaseException as error:
            self._end(error)
            raise

    def _begin(self, connection: LedgerConnection) -> None:
        database = self.database
        if connection.in_transaction:
            raise LedgerFileError(
                f"{database.path}: this thread reads it in a transaction, which cannot write; end the read first"
            )
        _unfinished[id(self)] = database
        self.own = database._transaction = Transaction()
        connection.execute("BEGIN IMMEDIATE")
        # Under the lock, because a restore takes the lock before it replaces the file.
        database._check_file(connection)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        own = self.own
        if own is None or error is not None:
            self._end(error)
            return
        try:
            if self.connection is not self.database._connection:
                raise LedgerFileError(_FORKED.format(self.database.path))
            self.connection.execute("COMMIT")
            own.is_committed = True
            self.database.note_commit()
        except BaseException as failure:
            self._end(failure)
            raise
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        """Roll back what was not committed, and leave."""
        database, own = self.database, self.own
        try:
            if own is not None and database._transaction is own:
                connection = database._connection
                if connection is not None and connection.in_transaction:
                    connection.execute("ROLLBACK")
                    own.is_committed = False
                elif isinstance(error, sqlite3.Error):  # which has rolled back already
                    own.is_committed = False
                database._transaction = None
            _unfinished.pop(id(self), None)
        finally:
            self.leave(error)


# id of the block -> the database, of each `write_transaction()` that has not ended.
_unfinished: dict[int, Database] = {}


def _end_void_transactions() -> None:
    """Roll back the transactions of this thread whose blocks an interrupt ended, so that other processes can write."""
    for block, database in list(_unfinished.items()):
        if not database._lock.is_held():
            with suppress(LedgerError), database.reading():
                pass
            _unfinished.pop(block, None)


after_failure.append(_end_void_transactions)
