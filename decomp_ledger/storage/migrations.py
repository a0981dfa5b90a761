"""Find and apply the numbered schema migrations.

They are in the repository's top-level `migrations/`, and inside the package in a wheel. A file's schema must be exactly
what its migrations make: see schema_check.py.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from decomp_ledger.errors import LedgerError
from decomp_ledger.storage import fork_safety

if TYPE_CHECKING:
    from sqlite_utils.migrations import Migrations

__all__ = [
    "APPLICATION_ID",
    "HUB_APPLICATION_ID",
    "MIGRATIONS_TABLE",
    "MIGRATION_SET",
    "SCHEMA",
    "SchemaRow",
    "apply_migrations",
    "digest_of",
    "add_only_views",
    "hub_migrations_folder",
    "load_migration",
    "migration_names",
    "schema_digest",
    "schema_made_by",
]

APPLICATION_ID = 0x44434C47  # "DCLG", in the header of every ledger
HUB_APPLICATION_ID = 0x44434C48  # "DCLH", in that of every hub
MIGRATION_SET = "decomp_ledger"
SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT ?"
# (type, name, table, SQL). A damaged file may have values of any type.
SchemaRow: TypeAlias = "tuple[Any, Any, Any, Any]"
_APPLY = "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, ?)"
_APPLIED = "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id"
# The table of sqlite_utils.Migrations, made here so that its text does not depend on the version of sqlite_utils.
_TABLE, _INDEX = "_sqlite_migrations", "_sqlite_migrations_name"
MIGRATIONS_TABLE: tuple[SchemaRow, ...] = (
    (
        "table", _TABLE, _TABLE,
        f"CREATE TABLE {_TABLE} (id INTEGER PRIMARY KEY, migration_set TEXT, name TEXT, applied_at TEXT)",
    ),
    ("index", _INDEX, _TABLE, f"CREATE UNIQUE INDEX {_INDEX} ON {_TABLE} (migration_set, name)"),
)  # fmt: skip
# The newest migration of a ledger -> digest of its schema. Making the schema to compare with takes 5 ms, which every
# command would wait for.
_DIGESTS = {
    "0001_initial": "7ef5c1adf265701577a0fd52e79037dcfd35a5d6df7cbb2fec6e78be658f311d",
    "0002_views": "28196a3ca4c715230990516d45f4c5712d54aafa0e5bd1537f00456474254074",
}
# Those that only add views, which this package never reads.
_ONLY_VIEWS = frozenset({"0002_views"})


@cache
def _folder() -> Path:
    package = Path(__file__).parent.parent
    for folder in (package / "_migrations", package.parent / "migrations"):
        if folder.is_dir():
            return folder
    raise LedgerError(f"{package}: the migrations of decomp_ledger are missing; install it again")


def hub_migrations_folder() -> Path:
    """Return the folder of the migrations of a hub."""
    return _folder() / "hub"


@cache
def migration_names() -> tuple[str, ...]:
    """Return the names of all migrations, in order."""
    return tuple(sorted(path.stem for path in _folder().glob("[0-9][0-9][0-9][0-9]_*.py")))


def add_only_views(names: Iterable[str]) -> bool:
    """Tell whether some migrations change nothing that this package reads."""
    return _ONLY_VIEWS.issuperset(names)


def apply_migrations(connection: sqlite3.Connection) -> None:
    """Bring a ledger to the newest schema, in one transaction.

    Args:
        connection: to a ledger or an empty file, in autocommit mode.
    """
    is_empty = not connection.execute(SCHEMA, [1]).fetchall()
    if not is_empty:
        _import_sqlite_utils()
    connection.execute("BEGIN IMMEDIATE")
    try:
        if is_empty:
            _make_schema(connection)
        # Read again, because another process may have migrated it before this one had the lock.
        applied = [name for (name,) in connection.execute(_APPLIED, [MIGRATION_SET])]
        if applied != list(migration_names()):
            _migrations().apply(_import_sqlite_utils()(connection, execute_plugins=False))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _make_schema(connection: sqlite3.Connection) -> None:
    """Give an empty file the newest schema, with the rows that sqlite_utils would write.

    Each recording may make a file, and the import of sqlite_utils takes 30 ms.
    """
    _make_table(connection)
    for name in migration_names():
        load_migration(_folder(), name).apply(connection)
        connection.execute(_APPLY, [MIGRATION_SET, name, str(datetime.datetime.now(datetime.timezone.utc))])


def _import_sqlite_utils() -> Any:
    """Return the `Database` of sqlite_utils.

    Imported late, because sqlite_utils imports numpy where it is installed: that takes 0.1 s, and would come before a
    script sets OMP_NUM_THREADS.
    """
    with fork_safety.importing("sqlite_utils"):
        from sqlite_utils import Database

    return Database


def _make_table(connection: sqlite3.Connection) -> None:
    for *_, statement in MIGRATIONS_TABLE:
        connection.execute(statement)


@cache
def _migrations() -> Migrations:
    from sqlite_utils import Migrations

    migrations = Migrations(MIGRATION_SET)
    for name in migration_names():
        migrations(name=name)(load_migration(_folder(), name).apply)
    return migrations


def load_migration(folder: Path, name: str) -> ModuleType:
    """Return the module of a migration."""
    spec = importlib.util.spec_from_file_location(f"decomp_ledger_migration_{name}", folder / f"{name}.py")
    if spec is None or spec.loader is None:
        raise LedgerError(f"{folder / name}.py: the migration cannot be imported; install decomp_ledger again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def schema_digest(names: tuple[str, ...]) -> str:
    """Return the digest of the schema that some migrations make."""
    return _DIGESTS.get(names[-1]) or digest_of(schema_made_by(names))


def digest_of(rows: Iterable[SchemaRow]) -> str:
    """Return the digest of a schema, whose rows may have any order."""
    return hashlib.sha256(repr(sorted(rows, key=repr)).encode("utf-8", "surrogateescape")).hexdigest()


def schema_made_by(names: tuple[str, ...]) -> list[SchemaRow]:
    """Return the schema that some migrations make.

    A migration uses only `execute` of sqlite_utils' Database, so that a plain connection serves here.
    """
    with closing(sqlite3.connect(":memory:")) as connection:
        _make_table(connection)
        for name in names:
            load_migration(_folder(), name).apply(connection)
        return connection.execute(SCHEMA, [-1]).fetchall()
