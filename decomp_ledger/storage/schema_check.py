"""Compare the schema of a file with that of a ledger, before any row of its tables is read.

Every command depends on the schema: a view, a trigger or a generated column can hide rows, swallow writes, or run for
years. So a file must have exactly the tables, indexes and triggers that its migrations make, in the same words.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from decomp_ledger.errors import DamagedSchema, SchemaError
from decomp_ledger.storage.bounded_rows import all_rows
from decomp_ledger.storage.migrations import (
    MIGRATION_SET,
    MIGRATIONS_TABLE,
    SCHEMA,
    SchemaRow,
    digest_of,
    migration_names,
    schema_digest,
    schema_made_by,
)

__all__ = ["any_text", "check_schema", "schema_version"]

_MOST = 1000  # rows that are read: a ledger has about 60
_APPLIED = f"SELECT id, migration_set, name, typeof(applied_at) FROM _sqlite_migrations ORDER BY id LIMIT {_MOST}"
_PAGES = f"SELECT type, rootpage FROM sqlite_master LIMIT {_MOST}"


def check_schema(connection: sqlite3.Connection, path: str) -> list[str]:
    """Return the names of the migrations that a ledger lacks, in order.

    Args:
        connection: to the ledger.
        path: its name, for the error.

    Raises:
        SchemaError: a newer version wrote it.
        DamagedSchema: its schema is not what its migrations make.
    """
    with _readable_text(connection):
        rows = all_rows(connection, SCHEMA, [_MOST])
        names, problems = _applied(connection, path, rows)
        if digest_of(rows) != schema_digest(names):
            problems += _differences(rows, names)
        problems += _problems_of_file(connection)
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise DamagedSchema(f"{path}: it is damaged: {problems[0]}{more}; restore a backup", tuple(problems))
    return list(migration_names()[len(names) :])


@contextmanager
def _readable_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Read text that is not UTF-8 as surrogate escapes, because SQLite's module would refuse the whole read."""
    connection.text_factory = any_text
    try:
        yield
    finally:
        connection.text_factory = str


def schema_version(connection: sqlite3.Connection) -> int:
    """Return a number that SQLite changes with the schema."""
    return int(connection.execute("PRAGMA schema_version").fetchone()[0])


def any_text(raw: bytes) -> str:
    """Return a stored text; bytes that are not UTF-8 become surrogate escapes."""
    return raw.decode("utf-8", "surrogateescape")


def _applied(connection: sqlite3.Connection, path: str, rows: list[SchemaRow]) -> tuple[tuple[str, ...], list[str]]:
    """Return the migrations that a file has, as far as they are known, and what is wrong with their table."""
    known = migration_names()
    # Not read if it is not a plain table: it may be a view that never ends.
    if any(row not in rows for row in MIGRATIONS_TABLE):
        return known, []  # the comparison of the schemas names it
    found = all_rows(connection, _APPLIED)
    names = [name for _, migration_set, name, _ in found if migration_set == MIGRATION_SET]
    unknown = [name for name in names if isinstance(name, str) and name not in known]
    if unknown:
        raise SchemaError(
            f"{path}: the schema {unknown[-1]!r:.80} is unknown: a newer decomp_ledger wrote the ledger, and this "
            f"version knows up to {known[-1]!r}; upgrade decomp_ledger to open it"
        )
    applied = known[: len(names)]
    if found != [(number, MIGRATION_SET, name, "text") for number, name in enumerate(applied, 1)] or not found:
        return applied or known, ["the rows of its table '_sqlite_migrations' are not those of its migrations"]
    return applied, []


def _differences(rows: list[SchemaRow], names: tuple[str, ...]) -> list[str]:
    """Name what differs between the schema of a file and the schema that migrations make."""
    expected = {row[:2]: row for row in schema_made_by(names)}
    found = {row[:2]: row for row in rows}
    problems = []
    for key in sorted(expected.keys() | found.keys(), key=repr):  # a damaged name may be bytes
        name = f"the {key[0]} {key[1]!r:.80} of the file's schema"
        if key not in found:
            problems.append(f"{name} is missing")
        elif key not in expected:
            problems.append(f"{name} does not belong to a ledger")
        elif found[key] != expected[key]:
            problems.append(f"{name} was changed")
    return problems or ["its schema has a row twice"]


def _problems_of_file(connection: sqlite3.Connection) -> list[str]:
    (encoding,) = connection.execute("PRAGMA encoding").fetchone()
    problems = [] if encoding == "UTF-8" else [f"its text is stored as {encoding}, and a ledger's as UTF-8"]
    pages = all_rows(connection, _PAGES)
    (last,) = connection.execute("PRAGMA page_count").fetchone()
    # Page 1 has the schema.
    own = [page for kind, page in pages if kind in ("table", "index") and type(page) is int and 1 < page <= last]
    if len(set(own)) + pages.count(("trigger", 0)) + pages.count(("view", 0)) != len(pages):
        problems.append("two tables or indexes of its schema are in one place, or one has no place")
    return problems
