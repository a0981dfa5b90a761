"""The SQLite file: opened, checked, and kept out of forked children and of the way of other threads."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from decomp_ledger.errors import LedgerError, LedgerFileError, UnusableValue
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.file_checks import absolute, check_header, check_no_log, reading_uri
from decomp_ledger.storage.migrations import apply_migrations, pending_migrations

__all__ = ["DURABILITY", "MEMORY", "Database"]

T = TypeVar("T")

MEMORY = ":memory:"
DURABILITY = {"process": "NORMAL", "power": "FULL"}
_PAUSE = 0.0005, 0.004  # seconds between two looks at whether another writer has finished
# SQLite quotes a damaged schema in its error. If that is no text, Python cannot read it: 3.10 gives an error without a
# message, and newer ones a UnicodeDecodeError.
_UNREADABLE_SCHEMA = "{} is damaged (its schema is no text); restore a backup"

_FORKED = "{} is being written by the process that forked this one"

# Connections that a parent process was using when it forked this one: to close one would undo what the parent does.
_inherited: list[sqlite3.Connection] = []


class _Patient(sqlite3.Connection):
    """A connection that waits for whoever has the file locked, as long as `timeout` says.

    SQLite would look every tenth of a second in the end, and never see a gap that a busy writer leaves: some writers
    would wait until their time is over. Looking often, at random moments, all come through.
    """

    timeout = 0.0

    def execute(self, *arguments: Any) -> sqlite3.Cursor:  # what takes a lock; in a transaction it is taken
        try:
            return _execute(self, *arguments)
        except sqlite3.OperationalError as error:
            refused = error
        deadline = time.monotonic() + self.timeout
        while is_busy(refused) and not self.in_transaction and time.monotonic() < deadline:
            import random  # few wait; it takes longer to import than a command to answer

            time.sleep(random.uniform(*_PAUSE))
            try:
                return _execute(self, *arguments)
            except sqlite3.OperationalError as error:
                refused = error
        raise refused


_execute = sqlite3.Connection.execute


class Database:
    """One ledger file, and the one connection that this process has to it; a fork closes it, and it is opened again.

    Args:
        path: the file; made when it is missing, unless `read_only`. ":memory:" keeps the ledger in memory.
        read_only: never write: neither make a missing ledger nor migrate an older one, of which a copy is read.
        timeout: seconds to wait for another writer.
        lazy: open the file when it is first needed, not now.
        durability: "process": an event survives the death of the process once its call returned. "power": it
            survives the loss of power too, at the cost of an fsync an event.

    Raises:
        LedgerFileError: the file is no ledger, or cannot be opened.
        SchemaError: the ledger was written by a newer version.
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
            raise LedgerFileError(f"durability is 'process' or 'power', not {durability!r}")
        self.path = MEMORY if str(path) == MEMORY else absolute(path)
        self.read_only = read_only
        self._timeout = timeout
        self._synchronous = DURABILITY[durability]
        self._lock = threading.RLock()
        self._users = self._depth = 0
        self._closed = False
        self._crossed = False
        self.place: fork_safety.Place | None = None
        self.generation = 0
        self._moment = (0, 0)
        self._connection: sqlite3.Connection | None = None
        if not lazy:
            with self.reading():
                pass

    def _open(self) -> sqlite3.Connection:
        try:
            return self._open_file()
        except LedgerError:  # which is an OSError too
            raise
        except UnicodeDecodeError as error:
            raise LedgerFileError(_UNREADABLE_SCHEMA.format(self.path)) from error
        except PermissionError as error:
            raise LedgerFileError(f"{self.path} may not be read: {error.strerror}") from error
        except OSError as error:
            raise LedgerFileError(f"{self.path:.200} cannot be used: {error.strerror}") from error

    def _open_file(self) -> sqlite3.Connection:
        if self.path == MEMORY:
            connection = self._connect(MEMORY)
            apply_migrations(connection)
            fork_safety.hold(self)
            return connection
        path = Path(self.path)
        if self.place is not None:  # it was open before a fork
            self._check_place()
            check_header(path)
            return self._up_to_date(self._connect_file(path))
        if not path.exists():
            self._create(path)
        with fork_safety.opening():
            check_header(path)
            connection = self._connect_file(path)
            self.place = fork_safety.place_of(path)
            fork_safety.hold(self)
        try:
            connection = self._up_to_date(connection)
        except BaseException:
            connection.close()
            self.place = None
            raise
        return connection

    def _create(self, path: Path) -> None:
        """Make a new ledger beside its place, then put it there: nobody ever sees half of one."""
        if self.read_only:
            raise LedgerFileError(f"there is no ledger at {path}; name one with --ledger, or record something first")
        if not path.parent.is_dir():
            raise LedgerFileError(f"{path} cannot be made: there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise LedgerFileError(f"{path} cannot be made: the folder {path.parent} is not writable here")
        check_no_log(path)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
        try:
            connection = self._connect(str(draft))
            try:
                apply_migrations(connection)
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()
            try:
                os.link(draft, path)
            except FileExistsError:
                pass  # another process was first; its ledger is as good
            except OSError:
                if path.exists():
                    return
                os.replace(draft, path)  # noqa: PTH105  # a file system without hard links
        finally:
            draft.unlink(missing_ok=True)

    def _connect_file(self, path: Path) -> sqlite3.Connection:
        if not self.read_only:
            # Asked first, since SQLite opens what it may not write, and says so at the first write only.
            if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
                raise LedgerFileError(f"{path} is read-only here; its file and folder must be writable")
            connection = self._connect(path.as_uri() + "?mode=rw")
            connection.execute("PRAGMA journal_mode = WAL")
            return connection
        return self._connect(reading_uri(path))

    def _connect(self, target: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            target,
            uri=target.startswith("file:"),
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            factory=_Patient,
        )
        connection.timeout = self._timeout
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        # A ledger may come from a stranger: its schema must not reach functions with effects.
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection

    def _up_to_date(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Migrate an older ledger; who may not write reads a copy of it in memory, as it is now."""
        if not pending_migrations(connection):
            return connection
        if self.read_only:
            copy = self._connect(MEMORY)
            connection.backup(copy)
            connection.close()
            connection = copy
        try:
            apply_migrations(connection)
        except sqlite3.IntegrityError as error:
            # Two events that make one version, say. Who only reads sees them as they are: `verify` is to name them.
            if not self.read_only:
                raise LedgerFileError(
                    f"{self.path} is damaged, and cannot be brought to the newest schema ({error}); run verify"
                ) from error
        if self.read_only:
            connection.execute("PRAGMA query_only = ON")
        return connection

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of this process; made anew after a fork."""
        if self._closed:
            raise LedgerFileError(f"the ledger {self.path} is closed; open it again with Ledger({self.path!r})")
        if self._crossed and self.path == MEMORY:
            raise LedgerFileError("a ledger in memory stays with the process that made it; use a file to share one")
        if self._connection is None:
            with self._lock:
                self._connection = self._connection or self._open()
        return self._connection

    def let_go(self, seconds: float) -> bool:
        """Before a fork: see :class:`openings.Holder`."""
        if not self._lock.acquire(timeout=seconds):
            return False
        # In use by the thread that forks, if at all: within a transaction, or while it goes through what it reads.
        if self._connection is not None and not self._users and self.path != MEMORY:
            with suppress(sqlite3.Error):
                self._connection.close()
                self._connection = None
                self.generation += 1  # the next connection counts others' commits anew
        return True

    def go_on(self) -> None:
        """After a fork, in the parent."""
        self._lock.release()

    def begin_anew(self) -> bool:
        """After a fork, in the child."""
        self._lock = threading.RLock()
        self._users = self._depth = 0
        self.generation += 1
        if self._connection is None or self._closed:
            return True
        _inherited.append(self._connection)
        self._connection = None
        self._crossed = True
        return False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the connection, to this thread alone, its errors turned into LedgerError."""
        try:
            with self._lock:
                connection = self.connection
                users = self._users
                self._users = users + 1
                try:
                    yield connection
                finally:
                    self._users = users  # not one less: a child that was forked here has forgotten who used it
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise self._explained(error) from error

    @contextmanager
    def read_transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection within BEGIN, so that every read sees the ledger at one moment; writers go on."""
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
    def write_transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection within BEGIN IMMEDIATE; commit at the end, or roll back and raise.

        Inside another `write_transaction()` of the same thread it takes part in that one.
        """
        if self.read_only:
            raise LedgerFileError(f"{self.path} was opened for reading only")
        try:
            with self._lock:
                connection = self.connection
                if self._depth:
                    yield connection
                    return
                users = self._users
                self._users, self._depth = users + 1, 1
                try:
                    # Inside, because an interrupt may come right after it.
                    connection.execute("BEGIN IMMEDIATE")
                    # With the lock, which a restore holds too.
                    self._check_place()
                    self._moment = self._asked(connection)
                    yield connection
                    if connection is not self._connection:
                        raise LedgerFileError(_FORKED.format(self.path))
                    connection.execute("COMMIT")
                except BaseException:
                    self.generation += 1  # ids that were handed out may be gone
                    if connection is self._connection and connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                finally:
                    self._users, self._depth = users, 0
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise self._explained(error) from error

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` with the connection within `write_transaction()`."""
        with self.write_transaction() as connection:
            return work(connection)

    @property
    def transaction(self) -> sqlite3.Connection:
        """The connection within `write()`, for what is called there."""
        if not self._depth or self._connection is None:
            raise LedgerFileError(_FORKED.format(self.path))
        return self._connection

    def moment(self) -> tuple[int, int]:
        """Return what changes when another connection has committed, or a transaction of this one was undone.

        What was known of the ledger at an equal moment is so still.
        """
        with self._lock:
            if self._depth:
                return self._moment  # nobody else can commit meanwhile
            with self.reading() as connection:
                return self._asked(connection)

    def _asked(self, connection: sqlite3.Connection) -> tuple[int, int]:
        return connection.execute("PRAGMA data_version").fetchone()[0], self.generation

    def _check_place(self) -> None:
        """Refuse to write into a file that has been removed or replaced: nobody would ever read it."""
        if self.path == MEMORY:
            return
        try:
            place = fork_safety.place_of(self.path)
        except OSError:
            place = None
        if place != self.place:
            raise LedgerFileError(
                f"{self.path} was removed or replaced while it was open; put it back, or open the ledger again"
            )

    def _explained(self, error: sqlite3.Error | UnicodeEncodeError) -> LedgerError:
        """Return what to raise for an error of SQLite; raise it as it is, if it is our own mistake."""
        if isinstance(error, UnicodeEncodeError):
            # Of a text to be looked for, by an argument of a command perhaps: those may be any bytes.
            return UnusableValue(f"{error.object!r:.80} is in no ledger: it has a lone surrogate")
        if not isinstance(error, sqlite3.ProgrammingError):
            return LedgerFileError(explain(self.path, error))
        if "closed" not in str(error):
            raise error
        return LedgerFileError(f"the ledger {self.path} was closed meanwhile; open it again")

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        with self._lock:
            if self._connection is not None and not self._closed:
                self._connection.close()
            self._closed = True
            self.place = None


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether an error says that another one has the lock."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or "locked" in str(error)


def explain(path: str, error: sqlite3.Error) -> str:
    """Say in one line what an error of SQLite means for the ledger, and what to do."""
    code = getattr(error, "sqlite_errorname", "")  # Python 3.10 has none: there the text tells
    text = " ".join(str(error).split())[:300]  # of a damaged schema SQLite quotes many lines
    if is_busy(error):
        return f"{path} is being written by another process and did not come free in time; try again"
    if code.startswith("SQLITE_FULL") or "is full" in text:
        return f"{path} cannot grow: the disk is full; what was recorded before is intact"
    if code.startswith("SQLITE_READONLY") or "readonly" in text:
        return f"{path} is read-only here; its file and folder must be writable"
    if code.startswith("SQLITE_CANTOPEN") or "unable to open" in text:
        return f"{path} cannot be opened: {text}; check that it and its folder are readable"
    if not text:
        return _UNREADABLE_SCHEMA.format(path)
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "malformed" in text or "not a database" in text:
        return f"{path} is damaged ({text}); restore a backup"
    if "append-only" in text:
        return f"{path}: {text}"
    return f"{path}: SQLite says {text}"
