"""Make the schema of a hub, bring an older one to the newest, and refuse a database that is not a hub."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from typing import Any

import attrs

from decomp_ledger.errors import HubError, SchemaError
from decomp_ledger.hub.connection import POSTGRESQL, SCHEMA, HubConnection, HubUrl, connect
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import displayed
from decomp_ledger.storage import migrations as ledger_migrations
from decomp_ledger.storage.event_store import utc_now

__all__ = ["READER", "WRITER", "HubInit", "check", "init", "migration_names", "open_hub"]

WRITER, READER = "decomp_ledger_writer", "decomp_ledger_reader"  # roles of PostgreSQL
_OLDEST_POSTGRESQL = 130000
_LOCK = 0x44434C48  # of an advisory lock, so that two `hub init` come one after the other

_TABLE = "CREATE TABLE hub_migration (name text PRIMARY KEY, applied_at text NOT NULL)"
_HAS_TABLE = "SELECT to_regclass('decomp_ledger.hub_migration') IS NOT NULL"
_HAS_TABLE_SQLITE = "SELECT count(*) FROM sqlite_master WHERE name = 'hub_migration'"
_APPLIED = "SELECT name FROM hub_migration ORDER BY name LIMIT 1000"
_NOTE = "INSERT INTO hub_migration (name, applied_at) VALUES (:name, :at)"
_SQLITE_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 1000"
_ROLES = "SELECT rolname FROM pg_roles WHERE rolname IN ('decomp_ledger_writer', 'decomp_ledger_reader')"
_CREATE_ROLE = "CREATE ROLE {} NOLOGIN"
_GRANTS = (
    f"GRANT USAGE ON SCHEMA {SCHEMA} TO {WRITER}, {READER}",
    f"GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMA} TO {WRITER}, {READER}",
    f"GRANT INSERT ON {SCHEMA}.blob, {SCHEMA}.event, {SCHEMA}.checkpoint TO {WRITER}",
    # Not its row id, which would take that of a later ledger.
    f"GRANT INSERT (ledger, created_at, name) ON {SCHEMA}.ledger TO {WRITER}",
)


@displayed
@attrs.frozen
class HubInit:
    """What `hub init` did.

    Attributes:
        hub: the address, without a password.
        applied: the migrations that it applied; empty if the hub was up to date.
        missing: statements for an administrator, because the user may not create roles; empty if none are needed.
    """

    hub: str
    applied: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {"hub": self.hub, "applied": [*self.applied], "missing": [*self.missing]}


@cache
def migration_names() -> tuple[str, ...]:
    """Return the names of all migrations of a hub, in order."""
    folder = ledger_migrations.hub_migrations_folder()
    return tuple(sorted(path.stem for path in folder.glob("[0-9][0-9][0-9][0-9]_*.py")))


def init(url: str | HubUrl) -> HubInit:
    """Make a hub in a database, or bring an older hub to the newest schema. Calling it again changes nothing.

    Args:
        url: the address of a PostgreSQL database that exists, or an SQLite file.

    Raises:
        HubError: the database has something else, cannot be reached, or the user may not create a schema.
        SchemaError: a newer version made the hub.
    """
    parsed = HubUrl.parse(url) if isinstance(url, str) else url
    with connect(parsed, write=True, create=True) as connection:
        with connection.transaction():
            if connection.dialect == POSTGRESQL:
                _begin_postgresql(connection)
            else:
                _refuse_other_file(connection)
            applied = _apply(connection)
        missing = _grant(connection) if connection.dialect == POSTGRESQL else ()
    return HubInit(parsed.label, applied, missing)


def _begin_postgresql(connection: HubConnection) -> None:
    version, encoding = connection.row(
        "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')"
    )
    if version < _OLDEST_POSTGRESQL:
        raise HubError(f"{connection.label}: PostgreSQL {version // 10000} is too old; use 13 or newer")
    if encoding != "UTF8":
        raise HubError(f"{connection.label}: the encoding of the database is {encoding}; create one with UTF8")
    connection.row("SELECT pg_advisory_xact_lock(:key)", key=_LOCK)
    connection.run(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")


def _refuse_other_file(connection: HubConnection) -> None:
    ((number,),) = connection.rows("PRAGMA application_id")
    ((tables,),) = connection.rows("SELECT count(*) FROM sqlite_master")
    if tables and not _has_table(connection):
        what = "a ledger" if number == ledger_migrations.APPLICATION_ID else "another program's database"
        raise HubError(f"{connection.label}: it is {what}, not a hub; name another file")


def _has_table(connection: HubConnection) -> bool:
    sql = _HAS_TABLE if connection.dialect == POSTGRESQL else _HAS_TABLE_SQLITE
    return bool(connection.row(sql)[0])


def _applied(connection: HubConnection) -> list[str]:
    return [str(name) for (name,) in connection.rows(_APPLIED)]


def _apply(connection: HubConnection) -> tuple[str, ...]:
    if not _has_table(connection):
        connection.run(_TABLE)
    applied = _applied(connection)
    _refuse_newer(connection, applied)
    new = tuple(name for name in migration_names() if name not in applied)
    folder = ledger_migrations.hub_migrations_folder()
    for name in new:
        ledger_migrations.load_migration(folder, name).apply(connection.run, connection.dialect)
        connection.execute(_NOTE, name=name, at=utc_now())
    return new


def _refuse_newer(connection: HubConnection, applied: list[str]) -> None:
    newer = sorted(set(applied) - set(migration_names()))
    if newer:
        raise SchemaError(f"{connection.label}: a newer decomp_ledger made the hub ({newer[0]:.60}); upgrade to use it")


def _grant(connection: HubConnection) -> tuple[str, ...]:
    """Create the roles and grant them their rights; return the statements that this user may not execute."""
    missing: list[str] = []
    known = {name for (name,) in connection.rows(_ROLES)}
    for role in (WRITER, READER):
        if role not in known and not _try(connection, _CREATE_ROLE.format(role)):
            missing.append(_CREATE_ROLE.format(role))
    return (*missing, *[grant for grant in _GRANTS if missing or not _try(connection, grant)])


def _try(connection: HubConnection, statement: str) -> bool:
    try:
        with connection.transaction():
            connection.run(statement)
    except HubError:
        return False
    return True


def open_hub(url: str | HubUrl, *, write: bool = False) -> HubConnection:
    """Connect to a hub of the newest schema.

    Raises:
        HubError: it cannot be reached, or has no hub or an older one.
        SchemaError: a newer version made it.
    """
    connection = connect(url, write=write)
    try:
        check(connection)
        if write and connection.dialect != POSTGRESQL:
            # Its triggers are ours, and use json_extract, which SQLite trusts in no schema by default.
            connection.run("PRAGMA trusted_schema = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def check(connection: HubConnection) -> None:
    """Refuse a database that is not a hub of the newest schema.

    Raises:
        HubError: it has no hub, an older one, or, in SQLite, another schema.
        SchemaError: a newer version made it.
    """
    label = connection.label
    with connection.transaction():
        if connection.dialect != POSTGRESQL:
            _refuse_other_file(connection)
        if not _has_table(connection):
            raise HubError(f"{label}: the database has no hub; make one with `decomp-ledger hub init`")
        applied = _applied(connection)
        _refuse_newer(connection, applied)
        if applied != list(migration_names()):
            raise HubError(f"{label}: an older decomp_ledger made the hub; bring it up with `decomp-ledger hub init`")
        if connection.dialect != POSTGRESQL and set(connection.rows(_SQLITE_SCHEMA)) != _sqlite_schema():
            raise HubError(f"{label}: its tables or triggers are not those of a hub; push the ledgers into a new one")


@cache
def _sqlite_schema() -> frozenset[tuple[Any, ...]]:
    """Return the schema that the migrations make, because a file of a stranger may have other triggers."""
    folder = ledger_migrations.hub_migrations_folder()
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(_TABLE)
        for name in migration_names():
            ledger_migrations.load_migration(folder, name).apply(connection.execute, "sqlite")
        return frozenset(connection.execute(_SQLITE_SCHEMA).fetchall())
