"""Check a ledger: its chain, and all that is derived from or named by its events."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import attrs

from decomp_ledger import sql
from decomp_ledger.canonical import Json
from decomp_ledger.catalog import unpack
from decomp_ledger.errors import LedgerError
from decomp_ledger.events import (
    CHANGING_KINDS,
    GENESIS,
    Changing,
    Created,
    Materialized,
    Tagged,
    chain_hash,
    decode_body,
)
from decomp_ledger.store import Store

__all__ = ["Problem", "Verification", "verify"]

_MAX_PROBLEMS = 20


@attrs.frozen
class Problem:
    """Something in a ledger that is not as it was written.

    Attributes:
        seq: the first event it concerns, or None if no single one is.
        text: what is wrong.
    """

    seq: int | None
    text: str


@attrs.frozen
class Verification:
    """The result of :meth:`Ledger.verify`.

    Attributes:
        events: how many events were read.
        head: hash of the last one, in hex; zeros if there is none. Keep it elsewhere: whoever can write the file
            can cut its tail or write the whole chain anew, and only this tells.
        problems: what is wrong, by seq; empty if all is well.
    """

    events: int
    head: str
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        found: list[Json] = [{"seq": problem.seq, "text": problem.text} for problem in self.problems]
        return {"ok": self.ok, "events": self.events, "head": self.head, "problems": found}


def verify(store: Store) -> Verification:
    """Recompute the chain, the change rows, the tags, and the digests of all that is stored once."""
    with store.reading() as connection:
        # One moment of the ledger, though writers go on.
        started = not connection.in_transaction
        if started:
            connection.execute("BEGIN")
        try:
            check = _Check(connection)
            check.run()
        finally:
            if started:
                connection.execute("COMMIT")
    problems = sorted(check.problems, key=lambda problem: (problem.seq is None, problem.seq or 0))
    return Verification(check.count, check.head.hex(), tuple(problems[:_MAX_PROBLEMS]))


class _Check:
    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.problems: list[Problem] = []
        self.count = 0
        self.head = GENESIS
        self.versions: dict[str, int] = {}
        self.changes = 0
        self.tags = 0

    def run(self) -> None:
        damaged = [str(row[0]) for row in self.connection.execute("PRAGMA quick_check(1)")]
        if damaged != ["ok"]:
            self.problem(None, f"the file is damaged: {damaged[0]}")
        self.stored_once()
        for row in self.connection.execute(f"{sql.EVENT} ORDER BY event.seq"):
            self.event(row)
        self.totals()

    def problem(self, seq: int | None, text: str) -> None:
        self.problems.append(Problem(seq, text))

    def event(self, row: tuple[Any, ...]) -> None:
        seq, table, version, kind, schema, at, actor, reason, site, environment, text, prev_hash, own_hash = row
        self.count += 1
        if seq != self.count:
            self.problem(seq, f"event {self.count} is missing" if seq > self.count else f"seq {seq} is out of order")
            self.count = seq
        if prev_hash != self.head:
            self.problem(seq, "it does not follow the event before it")
        fields = {
            "actor": actor,
            "environment": environment.hex(),
            "kind": kind,
            "reason": reason,
            "recorded_at": at,
            "schema": schema,
            "seq": seq,
            "table": table,
            "version": version,
        }
        if chain_hash(prev_hash, fields, text, site) != own_hash:
            self.problem(seq, "its content is not what its hash was made of")
        self.head = own_hash
        try:
            self.body(seq, table, version, decode_body(kind, schema, text))
        except LedgerError as error:
            self.problem(seq, str(error))

    def body(self, seq: int, table: str, version: int, body: Any) -> None:
        before = self.versions.get(table, 0)
        # What changes nothing may stand at any version there is: a past state can be used, and tagged.
        stands = version == before + 1 if body.kind in CHANGING_KINDS else 1 <= version <= before
        if not stands:
            self.problem(seq, f"it makes version {version} of {table!r}, which is at {before}")
        self.versions[table] = max(before, version)
        if isinstance(body, Created):
            if before:
                self.problem(seq, f"the table {table!r} is created twice")
        elif isinstance(body, Changing):
            self.change_rows(seq, table, version, body)
        elif isinstance(body, Tagged):
            self.tags += 1
            row = self.connection.execute(
                "SELECT version FROM tag JOIN stream ON stream.id = stream_id WHERE stream.name = ? AND tag.name = ?",
                (table, body.name),
            ).fetchone()
            if row is None or row[0] != version:
                self.problem(seq, f"the tag {body.name!r} is not stored as it says")
        elif isinstance(body, Materialized) and not self.has("catalog", body.catalog):
            self.problem(seq, f"the catalog {body.catalog[:12]} that it names is missing")

    def change_rows(self, seq: int, table: str, version: int, body: Changing) -> None:
        for change in body.changes:
            self.changes += 1
            row = self.connection.execute(
                "SELECT action, decomposition.digest FROM change "
                "JOIN stream ON stream.id = stream_id JOIN op ON op.id = op_id "
                "LEFT JOIN decomposition ON decomposition.id = decomposition_id "
                "WHERE stream.name = ? AND op.name = ? AND version = ?",
                (table, change.op, version),
            ).fetchone()
            digest = None if change.decomposition is None else bytes.fromhex(change.decomposition)
            if row is None or (row[0], row[1]) != (change.action, digest):
                self.problem(seq, f"the change of {change.op} is not stored as it says")

    def has(self, table: str, digest: str) -> bool:
        try:
            raw = bytes.fromhex(digest)
        except ValueError:
            return False
        return self.connection.execute(f"SELECT 1 FROM {table} WHERE digest = ?", [raw]).fetchone() is not None

    def stored_once(self) -> None:
        """Check what is named by digest, and that foreign keys hold."""
        for table in ("environment", "decomposition"):
            for row_id, digest, text in self.connection.execute(f"SELECT id, digest, body FROM {table}"):
                if hashlib.sha256(text.encode()).digest() != digest:
                    self.problem(None, f"{table} {row_id} is not what its digest was made of")
        for digest, problem in self.catalogs():
            self.problem(None, f"catalog {digest.hex()[:12]}: {problem}")
        broken = self.connection.execute("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            self.problem(None, f"a row of {broken[0]!r} names a row of {broken[2]!r} that is missing")

    def catalogs(self) -> Iterator[tuple[bytes, str]]:
        whole: dict[int, Any] = {}
        query = "SELECT id, digest, base_id, body FROM catalog ORDER BY base_id IS NOT NULL, id"
        for row_id, digest, base_id, body in self.connection.execute(query):
            try:
                catalog = unpack(body, None if base_id is None else whole[base_id])
            except (LedgerError, KeyError) as error:
                yield digest, f"it cannot be read: {error}"
                continue
            if base_id is None:
                whole[row_id] = catalog
            if bytes.fromhex(catalog.digest) != digest:
                yield digest, "it is not what its digest was made of"

    def totals(self) -> None:
        """Find rows that no event speaks of."""
        last = self.connection.execute("SELECT max(seq), count(*) FROM event").fetchone()
        if last[1] != self.count or (last[0] or 0) != self.count:
            self.problem(None, "events are missing, or name provenance that is")
        for table, expected in (("change", self.changes), ("tag", self.tags)):
            (found,) = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            if found != expected:
                self.problem(None, f"{found} rows in {table!r}, where the events speak of {expected}")
