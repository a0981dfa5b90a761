"""Create the log: tables, ops, provenance, events, changes, tags, catalogs, checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

# "DCLG": marks an SQLite file as a ledger, in its header.
APPLICATION_ID = 0x44434C47

SCHEMA = """
CREATE TABLE ledger (
    id TEXT PRIMARY KEY,                   -- 32 hex digits, random
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The rows that many events share, each stored once.
CREATE TABLE decomp_table (                -- TABLE alone is a keyword of SQL
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE op (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE environment (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,           -- SHA-256 of body
    body TEXT NOT NULL                     -- canonical JSON
) STRICT;
CREATE TABLE decomposition (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,           -- SHA-256 of body
    body TEXT NOT NULL                     -- canonical JSON
) STRICT;
CREATE TABLE provenance (
    id INTEGER PRIMARY KEY,
    actor TEXT NOT NULL,
    reason TEXT,
    call_site TEXT,                        -- canonical JSON
    environment_id INTEGER NOT NULL REFERENCES environment(id)
) STRICT;
CREATE INDEX provenance_actor ON provenance(actor);

CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    table_id INTEGER NOT NULL REFERENCES decomp_table(id),
    version INTEGER NOT NULL,
    makes_version INTEGER CHECK (makes_version = 1),  -- 1 if the event makes this version, else NULL
    kind TEXT NOT NULL,
    schema INTEGER NOT NULL,
    recorded_at TEXT NOT NULL,
    provenance_id INTEGER NOT NULL REFERENCES provenance(id),
    body TEXT NOT NULL,                    -- canonical JSON
    prev_hash BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;
-- At most one event makes a version; exports, materializations and tags name one that exists.
CREATE UNIQUE INDEX event_version ON event(table_id, version) WHERE makes_version = 1;
-- The newest events of a table. An index ends with the rowid, which is the seq, so that it also gives the order.
CREATE INDEX event_table ON event(table_id);
-- Most commands search the few events that make no version: of a kind, of a table, or of one version of it.
CREATE INDEX event_kind ON event(kind) WHERE makes_version IS NULL;
CREATE INDEX event_kind_of_table ON event(kind, table_id) WHERE makes_version IS NULL;
CREATE INDEX event_kind_of_version ON event(kind, table_id, version) WHERE makes_version IS NULL;

-- One row for each op that an event changed, for as-of reads, history and blame by index alone.
CREATE TABLE change (
    table_id INTEGER NOT NULL REFERENCES decomp_table(id),
    op_id INTEGER NOT NULL REFERENCES op(id),
    version INTEGER NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('preserve', 'override', 'reset')),
    decomposition_id INTEGER REFERENCES decomposition(id),
    PRIMARY KEY (table_id, op_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE tag (
    table_id INTEGER NOT NULL REFERENCES decomp_table(id),
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (table_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE catalog (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,           -- of the whole catalog
    base_id INTEGER REFERENCES catalog(id),
    body BLOB NOT NULL                     -- zlib of JSON: the whole catalog, or its difference from the base
) STRICT;

CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY,                -- 1, 2, 3 ...
    seq INTEGER NOT NULL REFERENCES event(seq),
    hash BLOB NOT NULL,                    -- of that event
    signed_at TEXT NOT NULL,
    previous BLOB,                         -- SHA-256 of the checkpoint before it
    key BLOB NOT NULL,                     -- the public key, Ed25519
    signature BLOB NOT NULL
) STRICT;
"""

# Table -> the keys that no two of its rows may share.
LOG_TABLES = {
    "ledger": ("id",),
    "decomp_table": ("id", "name"),
    "op": ("id", "name"),
    "environment": ("id", "digest"),
    "decomposition": ("id", "digest"),
    "provenance": ("id",),
    "event": ("seq",),
    "change": ("(table_id, op_id, version)",),
    "tag": ("(table_id, name)",),
    "catalog": ("id", "digest"),
    "checkpoint": ("id",),
}


def refuse_edits(db: Database, table: str, keys: tuple[str, ...]) -> None:
    """Make SQLite refuse UPDATE, DELETE and REPLACE on a table of the log."""
    # A trigger of its own for REPLACE, which removes the old row without the DELETE trigger (unless the connection sets
    # recursive_triggers).
    same = " OR ".join(
        f"{key} = {key.replace('(', '(NEW.').replace(', ', ', NEW.') if '(' in key else 'NEW.' + key}" for key in keys
    )
    db.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) "
        f"BEGIN SELECT RAISE(ABORT, 'the log is append-only: REPLACE on {table} is refused'); END"
    )
    for verb in ("UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, 'the log is append-only: {verb} on {table} is refused'); END"
        )


def apply(db: Database) -> None:
    """Create the log in an empty file."""
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            db.execute(statement)
    db.execute(
        "INSERT INTO ledger (id, created_at) VALUES (lower(hex(randomblob(16))), strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"
    )
    for table, keys in LOG_TABLES.items():
        refuse_edits(db, table, keys)
