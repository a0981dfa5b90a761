"""Find and apply the numbered schema migrations.

They are in the repository's top-level `migrations/`, and inside the package in a wheel. A file's schema is known from
the names of its migrations, so that opening a ledger of the newest schema loads none.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from decomp_ledger.errors import LedgerError, SchemaError
from decomp_ledger.storage import fork_safety

if TYPE_CHECKING:
    from sqlite_utils.migrations import Migrations

__all__ = [
    "APPLICATION_ID",
    "apply_migrations",
    "expected_schema",
    "load_migrations",
    "migration_names",
    "pending_migrations",
    "schema_of",
]

APPLICATION_ID = 0x44434C47  # "DCLG", in the header of every ledger
_SET = "decomp_ledger"
_HAS_MIGRATIONS = "SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'"
_APPLIED = "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id"
_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master"


@cache
def _folder() -> Path:
    package = Path(__file__).parent.parent
    for folder in (package / "_migrations", package.parent / "migrations"):
        if folder.is_dir():
            return folder
    raise LedgerError(f"{package}: the migrations of decomp_ledger are missing; install it again")


@cache
def migration_names() -> tuple[str, ...]:
    """Return the names of all migrations, in order."""
    return tuple(sorted(path.stem for path in _folder().glob("[0-9][0-9][0-9][0-9]_*.py")))


def pending_migrations(connection: sqlite3.Connection) -> list[str]:
    """Return the names of the migrations that a ledger lacks, in order.

    Raises:
        SchemaError: the ledger has one that this version does not know.
    """
    has_table = connection.execute(_HAS_MIGRATIONS).fetchone() is not None
    rows = connection.execute(_APPLIED, [_SET]).fetchall() if has_table else []
    applied = [str(name) for (name,) in rows]
    unknown = [name for name in applied if name not in migration_names()]
    if unknown:
        raise SchemaError(
            f"the schema {unknown[-1]!r} is unknown: a newer decomp_ledger wrote the ledger, and this version knows "
            f"up to {migration_names()[-1]!r}; upgrade decomp_ledger to open it"
        )
    return [name for name in migration_names() if name not in applied]


def load_migrations() -> None:
    """Import what `apply_migrations` needs, before a lock is taken."""
    with fork_safety.importing("sqlite_utils"):
        import sqlite_utils  # noqa: F401


def apply_migrations(connection: sqlite3.Connection) -> None:
    """Bring a ledger to the newest schema, in one transaction.

    Args:
        connection: to a ledger or an empty file, in autocommit mode.
    """
    # Imported late, because sqlite_utils imports numpy where it is installed: that takes 0.1 s, and would come before
    # a script sets OMP_NUM_THREADS.
    with fork_safety.importing("sqlite_utils"):
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
    spec = importlib.util.spec_from_file_location(f"decomp_ledger_migration_{name}", folder / f"{name}.py")
    if spec is None or spec.loader is None:
        raise LedgerError(f"{folder / name}.py: the migration cannot be imported; install decomp_ledger again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def schema_of(connection: sqlite3.Connection) -> dict[tuple[str, str], tuple[str, str]]:
    """Return (type, name) -> (table, SQL) of everything in a file's schema."""
    rows = connection.execute(_SCHEMA).fetchall()
    return {(kind, name): (table, text) for kind, name, table, text in rows}


def expected_schema() -> dict[tuple[str, str], tuple[str, str]]:
    """Return the schema that the migrations make, as `schema_of` gives it.

    A migration uses only `execute` of sqlite_utils' Database, so that a plain connection serves here.
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
