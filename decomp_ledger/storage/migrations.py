"""Find and apply the numbered schema migrations.

They lie in the repository's top-level `migrations/`, and inside the package once it is built into a wheel. Their
names alone tell which schema a file has, so reading a ledger loads none of them.
"""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from decomp_ledger.errors import LedgerError, SchemaError

if TYPE_CHECKING:
    from sqlite_utils.migrations import Migrations

__all__ = [
    "APPLICATION_ID",
    "apply_migrations",
    "expected_schema",
    "migration_names",
    "pending_migrations",
    "schema_of",
]

APPLICATION_ID = 0x44434C47  # "DCLG", in the header of every ledger
_SET = "decomp_ledger"


@cache
def _folder() -> Path:
    package = Path(__file__).parent.parent
    for folder in (package / "_migrations", package.parent / "migrations"):
        if folder.is_dir():
            return folder
    raise LedgerError(f"the migrations of decomp_ledger are missing beside {package}; install it again")


@cache
def migration_names() -> tuple[str, ...]:
    """Return the names of all migrations, in order."""
    return tuple(sorted(path.stem for path in _folder().glob("[0-9][0-9][0-9][0-9]_*.py")))


def pending_migrations(connection: sqlite3.Connection) -> list[str]:
    """Return the names of the migrations that a ledger has not had, in order.

    Raises:
        SchemaError: it has had one that this version does not know.
    """
    has_table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone()
    rows = (
        connection.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id", [_SET]).fetchall()
        if has_table
        else []
    )
    applied = [str(name) for (name,) in rows]
    unknown = [name for name in applied if name not in migration_names()]
    if unknown:
        raise SchemaError(
            f"the ledger was written by a newer decomp_ledger: it has the schema {unknown[-1]!r}, and this version "
            f"knows up to {migration_names()[-1]!r}; upgrade decomp_ledger to open it"
        )
    return [name for name in migration_names() if name not in applied]


def apply_migrations(connection: sqlite3.Connection) -> None:
    """Bring a ledger to the newest schema, in one transaction: wholly, or not at all.

    Args:
        connection: in autocommit mode, to a ledger or an empty file.
    """
    # sqlite_utils imports numpy where it is installed: too slow for those who only read, and too early for a
    # script that sets OMP_NUM_THREADS before it imports numpy itself.
    from sqlite_utils import Database

    connection.execute("BEGIN IMMEDIATE")
    try:
        if pending_migrations(connection):
            _migrations().apply(Database(connection, execute_plugins=False))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@cache
def _migrations() -> Migrations:
    from sqlite_utils import Migrations

    migrations = Migrations(_SET)
    for name in migration_names():
        migrations(name=name)(_module(_folder(), name).apply)
    return migrations


def _module(folder: Path, name: str) -> ModuleType:
    import importlib.util  # a reader loads no migration

    spec = importlib.util.spec_from_file_location(f"decomp_ledger_migration_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def schema_of(connection: sqlite3.Connection) -> dict[tuple[str, str], tuple[str, str]]:
    """Return (type, name) -> (table, SQL) of all that a file's schema has."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    return {(kind, name): (table, text) for kind, name, table, text in rows}


def expected_schema() -> dict[tuple[str, str], tuple[str, str]]:
    """Return the schema that the migrations make, as `schema_of` gives it.

    Made without sqlite_utils, since a reader asks for it: a migration uses nothing of it but `execute`.
    """
    return _schema_made_by(_folder(), migration_names())


@cache
def _schema_made_by(folder: Path, names: tuple[str, ...]) -> dict[tuple[str, str], tuple[str, str]]:
    connection = sqlite3.connect(":memory:")
    try:
        for name in names:
            _module(folder, name).apply(connection)
        return schema_of(connection)
    finally:
        connection.close()
