"""What a ledger's file has besides its events, checked as it is read: for :mod:`decomp_ledger.integrity.verify`."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from typing import Any

import attrs

from decomp_ledger.errors import LedgerError
from decomp_ledger.model.catalog import Catalog, unpack
from decomp_ledger.model.hash_chain import GENESIS, genesis
from decomp_ledger.model.rules import Decomposition
from decomp_ledger.storage import sql
from decomp_ledger.storage.migrations import expected_schema, schema_of

__all__ = ["DAMAGE", "MAX_PROBLEMS", "Problem", "Stored"]

MAX_PROBLEMS = 20  # that are told
# What reading may raise that somebody edited.
DAMAGE = (LedgerError, ValueError, TypeError, AttributeError, LookupError, OverflowError)


@attrs.frozen
class Problem:
    """Something in a ledger that is not as it was written.

    Attributes:
        seq: the first event it concerns, or None if no single one is.
        text: what is wrong.
    """

    seq: int | None
    text: str


class Stored:
    """The pages, the schema, the identity, and all that is stored once.

    Args:
        connection: to the ledger.

    Attributes:
        problems: what is wrong with it.
        ledger: its id.
        head: what the first event is chained to.
        table_ids: name of a table -> its row.
        tables: row -> name of a table.
        ops: name of an op -> its row.
        decompositions: digest -> row.
        catalogs: digest -> catalog.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.problems: list[Problem] = []
        self.head = GENESIS
        self.ledger = ""
        self.catalogs: dict[str, Catalog] = {}

    def read(self) -> None:
        """Read and check all of it."""
        self.file()
        self.schema()
        self.identity()
        self.table_ids = self.named("decomp_table")
        self.tables = dict(self.connection.execute("SELECT id, name FROM decomp_table"))
        self.ops = self.named("op")
        self.decompositions = self.digested("decomposition", Decomposition.from_json)
        self.digested("environment", lambda value: value)
        self.stored_catalogs()

    def problem(self, seq: int | None, text: str) -> None:
        """Note what is wrong, and with which event."""
        if len(self.problems) < 100 * MAX_PROBLEMS:
            self.problems.append(Problem(seq if isinstance(seq, int) else None, text))

    def file(self) -> None:
        """Ask SQLite whether its pages and indexes are sound, and foreign keys hold."""
        damaged = [str(row[0]) for row in self.connection.execute("PRAGMA integrity_check(1)")]
        if damaged != ["ok"]:
            self.problem(None, f"the file is damaged: {damaged[0]}")
        broken = self.connection.execute("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            self.problem(None, f"a row of {broken[0]!r} names a row of {broken[2]!r} that is missing")

    def schema(self) -> None:
        """Ask whether the file still has what the migrations made: above all the triggers that refuse edits."""
        stored, expected = schema_of(self.connection), expected_schema()
        tables = {table for table, _ in expected.values()}
        for key in sorted(expected.keys() | stored.keys(), key=repr):  # a damaged name may be bytes
            name = f"the {key[0]} {key[1]!r} of the file's schema"
            if key not in stored:
                self.problem(None, f"{name} is missing")
            elif key in expected and stored[key] != expected[key]:
                self.problem(None, f"{name} is not as it was made")
            elif key not in expected and stored[key][0] in tables:
                self.problem(None, f"{name} is none of the ledger's")

    def identity(self) -> None:
        """Ask which ledger it is: the first event is chained to that."""
        rows = self.connection.execute("SELECT id, created_at FROM ledger").fetchall()
        try:
            ((self.ledger, created_at),) = rows
            self.head = genesis(self.ledger, created_at)
        except DAMAGE:
            self.problem(None, f"the file says {len(rows)} times which ledger it is, or nothing that can be read")

    def provenance(self, row_id: Any) -> tuple[Any, ...]:
        """Return actor, reason, call site and environment's digest; what is missing is None."""
        found: tuple[Any, ...] | None = None
        if isinstance(row_id, int):
            found = self.connection.execute(sql.PROVENANCE, [row_id]).fetchone()
        return found or (None, None, None, None)

    def named(self, table: str) -> dict[str, int]:
        """Read what is named by a text; return name -> row."""
        rows = self.connection.execute(f"SELECT name, id FROM {table}").fetchall()
        found = {name: row_id for name, row_id in rows if isinstance(name, str)}
        if len(found) != len(rows):
            self.problem(None, f"two rows of {table!r} have one name, or one has none")
        return found

    def digested(self, table: str, read: Callable[[Any], object]) -> dict[str, int]:
        """Check what is named by the digest of its content; return digest -> row."""
        found: dict[str, int] = {}
        for row_id, digest, text in self.connection.execute(f"SELECT id, digest, body FROM {table}"):
            try:
                if hashlib.sha256(text.encode()).digest() != digest:
                    raise ValueError("it is not what its digest was made of")
                read(json.loads(text))
                found[digest.hex()] = row_id
            except (*DAMAGE, RecursionError) as error:
                self.problem(self.first_in(row_id) if table == "environment" else None, f"{table} {row_id}: {error}")
        return found

    def first_in(self, environment: int) -> int | None:
        """Return the first event that was recorded in an environment."""
        query = "SELECT min(seq) FROM event JOIN provenance ON provenance.id = provenance_id WHERE environment_id IS ?"
        seq = self.connection.execute(query, [environment]).fetchone()[0]
        return seq if isinstance(seq, int) else None

    def stored_catalogs(self) -> None:
        """Unpack every catalog, and check that it is what its digest was made of."""
        whole: dict[int, Catalog] = {}
        query = "SELECT id, digest, base_id, body FROM catalog ORDER BY base_id IS NOT NULL, id"
        for row_id, digest, base_id, body in self.connection.execute(query):
            try:
                catalog = unpack(body, None if base_id is None else whole[base_id])
                if base_id is None:
                    whole[row_id] = catalog
                if bytes.fromhex(catalog.digest) != digest:
                    raise ValueError("it is not what its digest was made of")
                self.catalogs[catalog.digest] = catalog
            except DAMAGE as error:
                self.problem(None, f"catalog {row_id}: {error}")
