"""Edits of a ledger behind its back: each is noticed, and the first event that it makes wrong is named."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forging import GUARDS, cut, forge, unguarded

from decomp_ledger.errors import LedgerError
from decomp_ledger.integrity.allowed_signers import Signer
from decomp_ledger.integrity.checkpoints import stored_checkpoints
from decomp_ledger.ledger import Ledger
from torture.common import Row, Workspace, everything, try_all

Db = sqlite3.Connection
TABLES = (
    "ledger", "decomp_table", "op", "environment", "decomposition", "provenance", "event", "change", "tag", "catalog",
    "checkpoint",
)  # fmt: skip

# Each event with everything that it refers to and the numbers of these rows, by other SQL than the package's, so that
# the witness is independent.
WITNESS = """
SELECT event.seq, event.table_id, event.provenance_id, environment.id,
       decomp_table.name, event.version, event.kind, event.schema, event.recorded_at, actor, reason,
       call_site,
       environment.digest, environment.body, event.body, prev_hash, hash,
       (SELECT group_concat(change, '|') FROM (
        SELECT quote(op.name) || op.id || action || coalesce(quote(d.digest) || quote(d.body) || d.id, '') AS change
        FROM change AS c LEFT JOIN op ON op.id = c.op_id LEFT JOIN decomposition AS d ON d.id = c.decomposition_id
        WHERE c.table_id = event.table_id AND c.version = event.version
        AND event.kind NOT IN ('tagged', 'materialized', 'exported') ORDER BY change)),
       (SELECT group_concat(tag.name || tag.version) FROM tag WHERE event.kind = 'tagged'
        AND tag.table_id = event.table_id AND tag.name = json_extract(event.body, '$.name')),
       (SELECT quote(own.digest) || hexed(own.body) || own.id
               || coalesce(quote(base.digest) || hexed(base.body) || base.id, '')
        FROM catalog AS own LEFT JOIN catalog AS base ON base.id = own.base_id
        WHERE event.kind = 'materialized' AND hex(own.digest) = upper(json_extract(event.body, '$.catalog')))
FROM event LEFT JOIN decomp_table ON decomp_table.id = event.table_id
LEFT JOIN provenance ON provenance.id = event.provenance_id
LEFT JOIN environment ON environment.id = provenance.environment_id
"""


def inflated(body: object) -> str:
    """Return a catalog's JSON in hex, so that its compression does not matter."""
    try:
        return zlib.decompress(body).hex()
    except (zlib.error, TypeError):
        return f"damaged {body!r}"


def witness(db: Db) -> tuple[dict[int, Any], dict[str, Any]]:
    """Return every event by seq, and the rows of every table."""
    db.create_function("hexed", 1, inflated)
    db.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    events = {row[0]: row for row in _rows(db, WITNESS)}
    rows = {
        table: sorted(map(repr, _rows(db, f"SELECT * FROM {table} NOT INDEXED")))
        for table in (*TABLES, "sqlite_master")
    }
    return events, rows


def _rows(db: Db, query: str) -> list[Any]:
    try:
        return db.execute(query).fetchall()
    except sqlite3.Error:  # a body is not JSON: read each event by itself
        found = []
        for (seq,) in db.execute("SELECT seq FROM event").fetchall():
            try:
                found += db.execute(f"{query} WHERE event.seq = ?", [seq]).fetchall()
            except sqlite3.Error as error:
                found.append((seq, str(error)))
        return found


def first_difference(before: dict[int, Any], after: dict[int, Any]) -> int | None:
    """Return the first event that was changed, removed or added."""
    # An event added far after the last one leaves a gap; the first event of the gap is missing.
    seqs = range(1, max(*before, *after) + 1)
    return next((seq for seq in seqs if before.get(seq) != after.get(seq) or (seq not in after)), None)


# The edits. Each gets the database without its guards, and raises if it cannot be done.


def columns(db: Db, table: str) -> list[str]:
    """Return the names of a table's columns."""
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def key_of(db: Db, table: str) -> list[str]:
    """Return the names of the columns of its primary key."""
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[5]]


def some_row(db: Db, table: str, choose: random.Random) -> tuple[str, tuple[Any, ...]]:
    """Return a WHERE clause that finds one row, and its values."""
    key = key_of(db, table)
    rows = db.execute(f"SELECT {', '.join(key)} FROM {table}").fetchall()
    return " AND ".join(f"{name} = ?" for name in key), choose.choice(rows)


def other(value: Any, choose: random.Random) -> Any:
    """Change one byte of a value, or add to an integer."""
    if value is None:
        return choose.choice(["x", 1])
    if isinstance(value, int):
        return value + choose.choice([-1, 1, 7, 1 << 40])
    data = bytearray(value if isinstance(value, bytes) else value.encode())
    if not data:
        return "x" if isinstance(value, str) else b"x"
    at = choose.randrange(len(data))
    data[at] ^= choose.choice([1, 2, 4, 16, 32]) if isinstance(value, str) else choose.randrange(1, 256)
    return data.decode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(data)


def a_byte(db: Db, choose: random.Random) -> None:
    """Change a byte of a value."""
    table = choose.choice(TABLES)
    clause, key = some_row(db, table, choose)
    column = choose.choice(columns(db, table))
    (value,) = db.execute(f"SELECT {column} FROM {table} WHERE {clause}", key).fetchone()
    new = other(value, choose)
    db.execute(f"UPDATE {table} SET {column} = ? WHERE {clause}", [new, *key])


def a_removal(db: Db, choose: random.Random) -> None:
    """Remove a row."""
    table = choose.choice(TABLES)
    clause, key = some_row(db, table, choose)
    db.execute(f"DELETE FROM {table} WHERE {clause}", key)


def a_swap(db: Db, choose: random.Random) -> None:
    """Swap the values of two rows, in one column or in all but the key."""
    table = choose.choice(TABLES)
    (clause, one), (_, two) = some_row(db, table, choose), some_row(db, table, choose)
    key = key_of(db, table)
    names = [name for name in columns(db, table) if name not in key] or ["name"]
    names = names if choose.random() < 0.5 else [choose.choice(names)]
    values = [
        db.execute(f"SELECT {', '.join(names)} FROM {table} WHERE {clause}", row).fetchone() for row in (one, two)
    ]
    marks = ", ".join(f"{name} = ?" for name in names)
    free = [f"{name} = {name} || '-swapped'" for name in names if name in ("name", "digest")]
    if free:  # otherwise a unique column would refuse the swap
        db.execute(f"UPDATE {table} SET {free[0]} WHERE {clause}", one)
    db.execute(f"UPDATE {table} SET {marks} WHERE {clause}", [*values[0], *two])
    db.execute(f"UPDATE {table} SET {marks} WHERE {clause}", [*values[1], *one])


def an_insertion(db: Db, choose: random.Random) -> None:
    """Insert a copy of a row, with another key and other unique values."""
    table = choose.choice(TABLES)
    clause, row = some_row(db, table, choose)
    names = columns(db, table)
    values = list(db.execute(f"SELECT * FROM {table} WHERE {clause}", row).fetchone())
    for at, name in enumerate(names):
        if name in key_of(db, table) and isinstance(values[at], int):
            values[at] = choose.choice([values[at] + 1, values[at] + 100, choose.randrange(1, 60)])
        elif name in ("name", "id", "digest") or choose.random() < 0.1:
            values[at] = other(values[at], choose)
    db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def another_row(db: Db, choose: random.Random) -> None:
    """Make a row refer to another row."""
    table, column, of = choose.choice(
        [
            ("event", "table_id", "decomp_table"), ("event", "provenance_id", "provenance"), ("change", "op_id", "op"),
            ("change", "table_id", "decomp_table"), ("change", "decomposition_id", "decomposition"),
            ("tag", "table_id", "decomp_table"), ("catalog", "base_id", "catalog"), ("checkpoint", "seq", "event"),
        ]
    )  # fmt: skip
    clause, key = some_row(db, table, choose)
    number = "seq" if of == "event" else "id"
    (new,) = choose.choice(db.execute(f"SELECT {number} FROM {of}").fetchall())
    db.execute(f"UPDATE {table} SET {column} = ? WHERE {clause}", [new, *key])


SINGLE: tuple[Callable[[Db, random.Random], None], ...] = (a_byte, a_removal, a_swap, an_insertion, another_row)


def edited(source: Path, path: Path, edit: Callable[[Db, random.Random], object], choose: random.Random) -> Any:
    """Copy a ledger and edit it without its guards; return its witness, or None if SQLite refused the edit."""
    shutil.copy(source, path)
    db = sqlite3.connect(path)
    try:
        with unguarded(db):
            edit(db, choose)
        found = witness(db)
    except (sqlite3.Error, UnicodeError, OverflowError):
        return None
    finally:
        db.close()
    return found


def verified(path: Path, **anchors: Any) -> tuple[bool, int | None, str]:
    """Verify a ledger; return whether it is ok, and seq and text of its first problem."""
    try:
        with Ledger(path, read_only=True) as ledger:
            result = ledger.verify(**anchors)
    except LedgerError as error:
        return False, None, f"refused: {error}"
    if result.ok:
        return True, None, ""
    return False, result.problems[0].seq, result.problems[0].text


def original(workspace: Workspace) -> Path:
    """Make the ledger to tamper with, in one file."""
    path = workspace.folder / "original.db"
    everything(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return path


def single_edits(workspace: Workspace) -> list[Row]:
    """Make random single edits; verify must name the first event that each makes wrong."""
    source = original(workspace)
    before = edited(source, workspace.folder / "ledger.db", lambda db, _: None, random.Random())
    with Ledger(source, read_only=True) as ledger:
        kept = list(stored_checkpoints(ledger.database.connection, ledger.id))[-1:]
    rows = []
    for edit in SINGLE:

        def attempt(number: int, edit: Callable[[Db, random.Random], None] = edit) -> str:
            path, choose = workspace.folder / f"edited {number % 64}.db", random.Random(f"{workspace.seed} {number}")
            after = before
            while after is None or after == before:  # refused by SQLite, or no edit at all
                after = edited(source, path, edit, choose)
            first = first_difference(before[0], after[0])
            ok, seq, text = verified(path, checkpoints=kept)
            if not ok and first in (None, seq):
                return ""
            tables = [table for table in before[1] if before[1][table] != after[1][table]]
            return f"in {tables}: the first wrong event is {first}, verify names {seq} ({text}), ok={ok}"

        runs = workspace.amount(400, 12)
        goal = "noticed, and the first event that it makes wrong is named, where there is one"
        wrong = try_all(runs, attempt, patience=30)
        rows.append(Row(f"one edit: {edit.__name__.replace('_', ' ')}", runs, goal, wrong))
    return rows


def guards_dropped(workspace: Workspace) -> list[Row]:
    """Drop or disable each guard, and change nothing else."""
    source, path = original(workspace), workspace.folder / "ledger.db"
    wrong = []
    db = sqlite3.connect(source)
    guards = db.execute(GUARDS).fetchall()
    db.close()
    for kind, name, guard in guards:
        for new in (None, re.sub(r"RAISE\(ABORT, '.*'\)", "RAISE(IGNORE)", guard) if kind == "trigger" else None):
            shutil.copy(source, path)
            db = sqlite3.connect(path)
            db.execute(f"DROP {kind} {name}")
            if new is not None:
                db.execute(new)
            db.close()
            ok, _, text = verified(path)
            wrong += [f"{name}: {text}"] if ok or name not in text else []
    return [Row("triggers dropped, or made to do nothing", 2 * len(guards), "noticed and named", tuple(wrong))]


# Forgeries that the chain alone cannot show


def cut_and_forged(workspace: Workspace) -> list[Row]:
    """Cut the tail or rewrite the history, with a whole chain; anchors must show it."""
    source = original(workspace)
    with Ledger(source, read_only=True) as ledger:
        hashes = [(event.seq, event.hash) for event in ledger.events()]
        kept = list(stored_checkpoints(ledger.database.connection, ledger.id))[-1]
    signers = [Signer("ann", bytes.fromhex(kept.key))]
    head = hashes[-1][1]
    rows = []
    for name, edit in (("the tail cut", cut), ("history re-chained from an event on", forge)):

        def attempt(number: int, edit: Callable[[Db, int], None] = edit) -> str:
            path, choose = workspace.folder / f"forged {number % 64}.db", random.Random(f"{workspace.seed} {number}")
            at = choose.randrange(1, len(hashes)) if number else 1
            edited(source, path, lambda db, _: edit(db, at), choose)
            first = at if edit is forge else at + 1
            if not verified(path)[0]:
                return f"#{at}: the forger was clumsy: {verified(path)}"
            stamps = sorted(choose.sample(hashes, 5))  # as .pt2 files have them
            later = [seq for seq, _ in stamps if seq >= first]
            results = {
                "all hashes": (verified(path, anchors=hashes), first),
                "stamps": (verified(path, anchors=stamps), later[0] if later else "ok"),
                "the head": (verified(path, expect=[head]), None),
                "a kept checkpoint": (
                    verified(path, checkpoints=[kept], signers=signers), kept.seq if kept.seq >= first else "ok",
                ),
            }  # fmt: skip
            for what, ((ok, seq, text), wanted) in results.items():
                if ("ok" if ok else seq) != wanted:
                    return f"#{at} against {what}: wanted {wanted}, found {seq} {text}"
            return ""

        runs = workspace.amount(200, 8)
        goal = "ok by the chain alone; named with its event by stamps, --expect and a kept checkpoint"
        rows.append(Row(name, runs, goal, try_all(runs, attempt, patience=30)))
    return rows


FAULTS = (single_edits, guards_dropped, cut_and_forged)
