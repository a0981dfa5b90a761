"""The connection to a hub: its address, transactions, bulk inserts, and errors without passwords."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from decomp_ledger.errors import HubError, LedgerFileError
from decomp_ledger.hub.naming import without_password
from decomp_ledger.hub.silence import connection_class
from decomp_ledger.model.limits import SQLITE_BYTES
from decomp_ledger.model.printable import printable
from decomp_ledger.storage.file_checks import absolute, check_log_files

if TYPE_CHECKING:
    from sqlalchemy import Connection as AlchemyConnection
    from sqlalchemy import Engine

__all__ = [
    *("POSTGRESQL", "SCHEMA", "SQLITE"),
    *("HubConnection", "HubUrl", "Refused"),
    *("check_address", "connect"),
]

POSTGRESQL, SQLITE = "postgresql", "sqlite"
SCHEMA = "decomp_ledger"  # of a PostgreSQL hub

_MISSING = "a hub needs SQLAlchemy and psycopg; pip install 'decomp-ledger[hub]'"
_FORMS = "give postgresql://USER@HOST/DATABASE, sqlite:///FILE or the name of a file"
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_SCHEMES = {"postgresql": POSTGRESQL, "postgresql+psycopg": POSTGRESQL, "postgres": POSTGRESQL, "sqlite": SQLITE}
_IN_AUTHORITY = re.compile(r"[A-Za-z0-9+.-]+://(?P<user>[^/?#@]*@)?[^/?#@]*([/?#][^@]*)?")

_CONNECT_SECONDS = 10
_STATEMENT_SECONDS = 300  # of the server; a batch takes a second
# After its time for a statement, a server that can be reached sends an error; so long may the network need for that.
_GRACE_SECONDS = 30.0
_LOCK_SECONDS = 60
_SQLITE_SECONDS = 30.0
_FETCHED = 500  # rows that are held of a stream
_ALIVE: dict[str, int] = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
_SETTINGS = (
    f"SET search_path = {SCHEMA}, pg_temp",
    "SET client_min_messages = error",
    "SET timezone = 'UTC'",
)
# Times of the server, unless the `options` of the address give them.
_TIMES = {
    "statement_timeout": f"{_STATEMENT_SECONDS}s",
    "lock_timeout": f"{_LOCK_SECONDS}s",
    # The server keeps the locks of a client whose machine went off until it notices that, by default after two hours.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60s",
}
_IN_OPTIONS = re.compile(r"(?:-c\s*|--)([\w-]+)\s*=")
_STATEMENT_TIMEOUT = "SELECT setting::integer FROM pg_settings WHERE name = 'statement_timeout'"  # in milliseconds
# A hub may come from a stranger; with trusted_schema off, its schema cannot call functions with side effects.
_SQLITE_SETTINGS = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA mmap_size = 0",
    "PRAGMA synchronous = FULL",
)
_LIMIT_LENGTH = 0  # SQLITE_LIMIT_LENGTH of sqlite3.h

# What a hub's own triggers raise.
_REFUSED, _APPEND_ONLY = "DL001", "DL002"
_STATES = {
    "28": "the server refused the user or the password; check both, or set PGPASSWORD",
    "3D000": "the server has no such database; create it first",
    "42501": "the user may not do that; ask for the role decomp_ledger_writer (to push) or decomp_ledger_reader",
    "53100": "the disk of the server is full; make room, and try again",
    "53": "the server is out of connections or memory; try again later",
    "55P03": "another client has a lock; try again",
    "57014": "the server ended a statement that took too long; try again when it is less busy",
    "57P": "the server is shutting down or starting; try again",
    "25006": "the server is read-only; use the primary one",
}


@attrs.frozen
class HubUrl:
    """The address of a hub.

    Attributes:
        dialect: `postgresql` or `sqlite`.
        label: the address without a password, to be shown.
        path: the absolute path of the file; "" for PostgreSQL.
        url: what SQLAlchemy connects to; None for a file.
    """

    dialect: str
    label: str
    path: str = ""
    url: Any = attrs.field(default=None, repr=False, eq=False)
    secrets: tuple[str, ...] = attrs.field(default=(), repr=False)

    @classmethod
    def parse(cls, text: str) -> HubUrl:
        """Read an address as a user gives it.

        Args:
            text: `postgresql://user:password@host/database`, `sqlite:///hub.db`, or the name of a file.

        Raises:
            HubError: the text is not one of them.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise HubError(
                f"the address of the hub: it has a lone surrogate, which UTF-8 cannot encode; {_FORMS}"
            ) from None
        found = _SCHEME.match(text)
        if found is None:
            if re.match(r"(postgres(ql)?(\+\w+)?|sqlite):", text):
                raise HubError(f"the address of the hub: '//' is missing after the colon; {_FORMS}")
            return cls._file(text)
        dialect = _SCHEMES.get(found["scheme"].lower())
        if dialect is None:
            raise HubError(f"the address of the hub: {found['scheme']:.40}:// is unknown; {_FORMS}")
        if dialect == SQLITE:
            if not text[found.end() :].startswith("/") or "?" in text:
                raise HubError(f"the address of the hub: sqlite:///FILE has three slashes and no '?'; {_FORMS}")
            return cls._file(text[found.end() + 1 :])
        return cls._server(text)

    @classmethod
    def _file(cls, name: str) -> HubUrl:
        if re.search(r":[^/]*@", name):  # an address without its beginning; shown as a path, it would show a password
            raise HubError(f"the address of the hub: it begins with no scheme; {_FORMS}")
        if not name:
            raise HubError(f"the address of the hub: it names no file; {_FORMS}")
        path = absolute(name)
        return cls(SQLITE, path, path)

    @classmethod
    def _server(cls, text: str) -> HubUrl:
        # Checked here, because an error of the driver could name a part of the password as the host.
        if not _IN_AUTHORITY.fullmatch(text):
            raise HubError(
                "the address of the hub: '@' stands only before the host; write '@', '/', '?' and '#' of a password "
                "as %40, %2F, %3F and %23, or set PGPASSWORD"
            )
        alchemy = _sqlalchemy()
        try:
            url = alchemy.make_url(text).set(drivername="postgresql+psycopg")
        except Exception:  # its message may have the password
            raise HubError(f"the address of the hub: it cannot be read; {_FORMS}") from None
        query = dict(url.query)
        host = str(url.host or query.get("host") or "")
        where = f"{url.username}@{host}" if url.username else host
        port = f":{url.port}" if url.port else ""
        secrets = [url.password, query.get("password"), query.get("sslpassword"), os.environ.get("PGPASSWORD")]
        kept = tuple(sorted({str(each) for each in secrets if each}, key=len, reverse=True))
        return cls(POSTGRESQL, f"postgresql://{where}{port}/{url.database or ''}", "", url, kept)

    def scrub(self, text: str) -> str:
        """Return a text without the passwords of the address, as one line that prints."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return printable(without_password(" ".join(text.split())))[:500]


def check_address(url: str) -> None:
    """Refuse an address that cannot be read, or a hub whose packages are not installed.

    Raises:
        HubError: it is one.
    """
    parsed = HubUrl.parse(url)
    _sqlalchemy()
    if parsed.dialect == POSTGRESQL and not _driver_errors():
        raise HubError(_MISSING)


class Refused(HubError):
    """A trigger or a constraint of the hub refused a row."""


def _sqlalchemy() -> Any:
    try:
        import sqlalchemy
    except ImportError:
        raise HubError(_MISSING) from None
    return sqlalchemy


def connect(url: str | HubUrl, *, write: bool = False, create: bool = False) -> HubConnection:
    """Connect to a hub. Its schema is not checked: see `migrations.check`.

    Args:
        url: its address.
        write: whether rows will be inserted.
        create: make the file of an SQLite hub if it is missing.

    Raises:
        HubError: it cannot be reached.
    """
    parsed = HubUrl.parse(url) if isinstance(url, str) else url
    return HubConnection(parsed, write=write, create=create)


class HubConnection:
    """A connection to a hub, for one thread.

    Attributes:
        url: the address.
        dialect: `postgresql` or `sqlite`.
        label: the address without a password.
    """

    def __init__(self, url: HubUrl, *, write: bool, create: bool) -> None:
        self.url, self.dialect, self.label = url, url.dialect, url.label
        self._write = write
        self._is_in_block = False
        self._watched: Any = None
        alchemy = _sqlalchemy()
        self._text = lru_cache(maxsize=256)(alchemy.text)
        with self._errors("it cannot be reached"):
            self._engine = self._make_engine(alchemy, create)
            self._connection: AlchemyConnection = self._engine.connect()

    def _make_engine(self, alchemy: Any, create: bool) -> Engine:
        if self.dialect == POSTGRESQL:
            settings = {"connect_timeout": _CONNECT_SECONDS, "application_name": "decomp-ledger", **_ALIVE}
            given = {name: value for name, value in settings.items() if name not in self.url.url.query}
            try:
                engine: Engine = alchemy.create_engine(self.url.url, poolclass=alchemy.NullPool, connect_args=given)
            except ImportError:
                raise HubError(_MISSING) from None
            alchemy.event.listen(engine, "do_connect", self._connect)
            return engine
        engine = alchemy.create_engine("sqlite://", creator=self._opener(create), poolclass=alchemy.NullPool)
        alchemy.event.listen(engine, "begin", self._begin)
        return engine

    def _connect(self, dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> Any:
        """Return a connection of psycopg to SQLAlchemy, which would make one of another class."""
        self._watched = connection_class().connect(*arguments, **parameters)
        self._watched.most_silence = _STATEMENT_SECONDS + _GRACE_SECONDS
        given = {name.replace("-", "_") for name in _IN_OPTIONS.findall(str(self.url.url.query.get("options")).lower())}
        times = [f"SET {name} = '{time}'" for name, time in _TIMES.items() if name not in given]
        self._watched.execute("; ".join([*_SETTINGS, *times]))
        if "statement_timeout" in given:
            milliseconds = self._watched.execute(_STATEMENT_TIMEOUT).fetchone()[0]
            self._watched.most_silence = milliseconds / 1000 + _GRACE_SECONDS if milliseconds else None
        self._watched.commit()
        return self._watched

    def _opener(self, create: bool) -> Any:
        path = Path(self.url.path)
        mode = "rwc" if create else "rw" if self._write else "ro"
        if not create:
            _check_file(path)

        def open_file() -> sqlite3.Connection:
            connection = sqlite3.connect(
                f"{path.as_uri()}?mode={mode}", uri=True, timeout=_SQLITE_SECONDS, isolation_level=None
            )
            if hasattr(connection, "setlimit"):  # Python 3.11
                connection.setlimit(_LIMIT_LENGTH, SQLITE_BYTES)
            for setting in _SQLITE_SETTINGS:
                connection.execute(setting)
            return connection

        return open_file

    def _begin(self, connection: AlchemyConnection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if self._write and self._is_in_block else "BEGIN")

    def __enter__(self) -> HubConnection:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; what was not committed is rolled back."""
        with contextlib.suppress(Exception):  # the server may be gone
            self._connection.close()
        self._engine.dispose()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[HubConnection]:
        """Commit what the block does, or roll it back and raise. A read outside of a block is a transaction alone."""
        with self._errors():
            self._is_in_block = True
            try:
                with self._connection.begin():
                    yield self
            finally:
                self._is_in_block = False

    def _end_read(self) -> None:
        if not self._is_in_block:
            self._connection.rollback()

    def rows(self, sql: str, **values: object) -> list[Any]:
        """Return the rows of a query."""
        with self._errors():
            found = [tuple(row) for row in self._connection.execute(self._text(sql), values)]
            self._end_read()
        return found

    def row(self, sql: str, **values: object) -> Any:
        """Return the first row of a query, or None."""
        with self._errors():
            found = self._connection.execute(self._text(sql), values).first()
            self._end_read()
        return None if found is None else tuple(found)

    def stream(self, sql: str, **values: object) -> Iterator[Any]:
        """Give the rows of a query, a few at a time, within a transaction."""
        with self._errors():
            result = self._connection.execute(
                self._text(sql), values, execution_options={"stream_results": True, "yield_per": _FETCHED}
            )
            try:
                for row in result:
                    yield tuple(row)
            finally:
                result.close()

    def execute(self, sql: str, **values: object) -> int:
        """Execute a statement that gives no rows; return how many rows it changed."""
        with self._errors():
            return int(self._connection.execute(self._text(sql), values).rowcount)

    def execute_many(self, sql: str, rows: list[dict[str, object]]) -> None:
        """Execute a statement once for each row of values."""
        with self._errors():
            self._connection.execute(self._text(sql), rows)

    def run(self, script: str) -> None:
        """Execute SQL of this package without parameters; on PostgreSQL, also several statements."""
        with self._errors():
            self._driver.execute(script)

    def insert(self, table: str, columns: Sequence[str], types: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert many rows by one statement: COPY on PostgreSQL.

        Args:
            table: the table.
            columns: its columns.
            types: their types in PostgreSQL.
            rows: the values.
        """
        names = ", ".join(columns)
        with self._errors():
            if self.dialect == SQLITE:
                marks = ", ".join("?" * len(columns))
                self._driver.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)
                return
            with (
                self._driver.cursor() as cursor,
                cursor.copy(f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)") as copy,
            ):
                copy.set_types(types)
                for row in rows:
                    copy.write_row(row)

    @property
    def _driver(self) -> Any:
        return self._connection.connection.driver_connection

    @contextlib.contextmanager
    def _errors(self, doing: str = "") -> Iterator[None]:
        """Raise an error of the database as a HubError, which names no SQL, no value and no password."""
        alchemy = _sqlalchemy()
        of_driver: tuple[type[BaseException], ...] = (sqlite3.Error, *_driver_errors())
        failure: HubError
        try:
            yield
            return
        except alchemy.exc.DBAPIError as error:
            failure = self._as_hub_error(error.orig, doing)
        except alchemy.exc.SQLAlchemyError as error:
            failure = HubError(f"{self.label}: {doing or 'the connection failed'}: {type(error).__name__}; try again")
        except of_driver as error:
            failure = self._as_hub_error(error, doing)
        raise failure from None

    def _as_hub_error(self, error: BaseException | None, doing: str) -> HubError:
        silence = None if self._watched is None else self._watched.silence
        if silence is not None:
            return HubError(
                f"{self.label}: the server did not answer for {silence:.0f} s; see that it and each proxy to it run, "
                "and try again"
            )
        state = getattr(error, "sqlstate", None) or ""
        diagnostic = getattr(getattr(error, "diag", None), "message_primary", None)
        lines = (diagnostic or str(error)).strip().splitlines()
        message = self.url.scrub(lines[0] if lines else type(error).__name__)
        if isinstance(error, sqlite3.Error):
            return self._as_sqlite_error(error, message)
        if state in (_REFUSED, _APPEND_ONLY) or state.startswith("23"):
            return Refused(f"{self.label}: the hub refused what was sent: {message}; run `decomp-ledger verify`")
        advice = next((text for start, text in _STATES.items() if state.startswith(start)), None)
        if state and state[:2] != "08":
            return HubError(f"{self.label}: {message}; {advice or 'try again'}")
        found = str(error)
        whole = self.url.scrub(found), "see that the server runs"
        refused, fix = next((texts for words, texts in _REASONS.items() if re.search(words, found)), whole)
        return HubError(f"{self.label}: {doing or 'the connection broke'}: {refused}; {fix}")

    def _as_sqlite_error(self, error: sqlite3.Error, message: str) -> HubError:
        if message.startswith((_REFUSED, _APPEND_ONLY)) or isinstance(error, sqlite3.IntegrityError):
            text = message.partition(": ")[2] if message.startswith("DL") else message
            return Refused(f"{self.label}: the hub refused what was sent: {text}; run `decomp-ledger verify`")
        advice = {
            "database is locked": "another program writes to it; try again",
            "database or disk is full": "make room on the disk, and try again",
            "attempt to write a readonly database": "make the file and its folder writable",
            "unable to open database file": "see that its folder exists and may be written to",
        }.get(message, "restore a backup of it, or push the ledgers into a new one")
        return HubError(f"{self.label}: {message}; {advice}")


# Parts of the messages of libpq, which has no code for a failed connection, with what they mean and the next step.
_REASONS = {
    "password authentication failed": ("the server refused the password", "check it, or set PGPASSWORD"),
    "no password supplied": ("the server asks for a password", "set PGPASSWORD, or write it into the address"),
    "could not translate host name": ("no host has that name", "check the address"),
    "failed to resolve host": ("no host has that name", "check the address"),
    "FATAL: +database .* does not exist": ("the server has no such database", "create it first"),
    "FATAL: +role .* does not exist": ("the server has no such user", "name one in the address, or set PGUSER"),
    "invalid connection option|invalid URI query parameter": (
        "libpq has no such setting",
        "check what follows the `?`",
    ),
    "Connection refused": ("no server listens there", "see that the server runs"),
    "timeout expired": ("the server does not answer", "see that the server runs"),
    "No such file or directory": ("no server listens there", "see that the server runs"),
}


def _driver_errors() -> tuple[type[BaseException], ...]:
    try:
        import psycopg
    except ImportError:
        return ()
    return (psycopg.Error,)


def _check_file(path: Path) -> None:
    """Refuse a file that cannot be a hub, before SQLite opens it."""
    header = b""
    try:
        is_file = path.is_file()
        if is_file:
            with path.open("rb") as file:
                header = file.read(100)
    except PermissionError as error:
        raise HubError(f"{path}: it may not be read: {error.strerror}; make it readable") from None
    except OSError as error:
        raise HubError(f"{path}: it cannot be read: {error.strerror}; name another file") from None
    if not is_file:
        what = "it is a folder" if path.is_dir() else "the file does not exist"
        raise HubError(f"{path}: {what}; make a hub with `decomp-ledger hub init {path.name}`")
    if header and header[:16] != b"SQLite format 3\0":
        raise HubError(f"{path}: it is not a hub: not an SQLite file; name another file")
    try:
        check_log_files(path)
    except LedgerFileError as error:
        raise HubError(str(error)) from None


def batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Give rows in lists of at most `size`."""
    rest = iter(rows)
    while some := list(itertools.islice(rest, size)):
        yield some
