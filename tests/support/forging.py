"""Attacks on a ledger by someone who can write its file: single edits, a cut tail, and a rewritten history."""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from decomp_ledger.model.hash_chain import event_hash, genesis

Edit: TypeAlias = Callable[[sqlite3.Connection], object]

# The triggers and the index that refuse edits.
GUARDS = "SELECT type, name, sql FROM sqlite_master WHERE type = 'trigger' OR name = 'event_version'"

_EVENTS = """
SELECT seq, decomp_table.name, version, kind, schema, recorded_at, actor, reason, digest, event.body, call_site
FROM event JOIN decomp_table ON decomp_table.id = table_id JOIN provenance ON provenance.id = provenance_id
JOIN environment ON environment.id = environment_id WHERE seq >= ? ORDER BY seq
"""
_FIELDS = ("seq", "table", "version", "kind", "schema", "recorded_at", "actor", "reason")


@contextmanager
def unguarded(db: sqlite3.Connection) -> Iterator[None]:
    """Drop the guards, and create them again."""
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA foreign_keys = OFF")
    guards = db.execute(GUARDS).fetchall()
    for kind, name, _ in guards:
        db.execute(f"DROP {kind} {name}")
    yield
    for _, _, text in guards:
        try:
            db.execute(text)
        except sqlite3.IntegrityError:  # two rows have one version
            _index_anyway(db, text)
        except sqlite3.Error:  # the table is gone
            pass
    db.commit()


def _index_anyway(db: sqlite3.Connection, text: str) -> None:
    """Create a unique index over rows that are not unique, like an attacker who edits the schema."""
    db.execute(text.replace("UNIQUE ", ""))
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_master SET sql = ? WHERE sql = ?", [text, text.replace("UNIQUE ", "")])
    db.execute("PRAGMA writable_schema = RESET")


def tamper(path: Path, edit: Edit | str) -> None:
    """Edit a ledger: by SQL, or by a function that gets the connection."""
    with contextlib.closing(sqlite3.connect(path)) as db, unguarded(db):
        if callable(edit):
            edit(db)
        else:
            db.executescript(edit)


def rechain(db: sqlite3.Connection, start: int = 1, first: bytes | None = None) -> None:
    """Recompute the hashes from an event on, like an attacker who knows how they are computed."""
    found = db.execute("SELECT hash FROM event WHERE seq = ?", [start - 1]).fetchone()
    previous = first or genesis(*db.execute("SELECT id, created_at FROM ledger").fetchone())
    previous = found[0] if found else previous
    for row in db.execute(_EVENTS, [start]).fetchall():
        *fields, environment, body, site = row
        named = {**dict(zip(_FIELDS, fields, strict=True)), "environment": environment.hex()}
        named |= {"body": json.loads(body), "call_site": None if site is None else json.loads(site)}
        own = event_hash(previous, named)
        db.execute("UPDATE event SET prev_hash = ?, hash = ? WHERE seq = ?", [previous, own, row[0]])
        previous = own


def cut(db: sqlite3.Connection, after: int) -> None:
    """Cut the tail after an event with everything only it refers to, like an attacker who knows the schema."""
    db.execute("DELETE FROM event WHERE seq > ?", [after])
    db.execute("DELETE FROM checkpoint WHERE seq > ?", [after])
    db.execute("DELETE FROM change WHERE (table_id, version) NOT IN (SELECT table_id, version FROM event)")
    db.execute(
        "DELETE FROM tag WHERE (table_id, name) NOT IN "
        "(SELECT table_id, json_extract(body, '$.name') FROM event WHERE kind = 'tagged')"
    )
    used = "SELECT upper(json_extract(body, '$.catalog')) FROM event WHERE kind IN ('materialized', 'exported')"
    bases = f"SELECT base_id FROM catalog WHERE base_id IS NOT NULL AND hex(digest) IN ({used})"
    for table, named in (
        ("decomp_table", "SELECT table_id FROM event"),
        ("op", "SELECT op_id FROM change"),
        ("decomposition", "SELECT decomposition_id FROM change WHERE decomposition_id IS NOT NULL"),
        ("provenance", "SELECT provenance_id FROM event"),
        ("environment", "SELECT environment_id FROM provenance"),
    ):
        db.execute(f"DELETE FROM {table} WHERE id NOT IN ({named})")
    db.execute(f"DELETE FROM catalog WHERE hex(digest) NOT IN ({used}) AND id NOT IN ({bases})")


def forge(db: sqlite3.Connection, start: int) -> None:
    """Rewrite the history from an event on, so that the chain is whole again."""
    db.execute("UPDATE event SET recorded_at = '2020-01-01T00:00:00.000000Z' WHERE seq = ?", [start])
    db.execute("DELETE FROM checkpoint WHERE seq >= ?", [start])
    rechain(db, start)
