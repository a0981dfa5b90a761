"""Signed checkpoints: who vouched for which head of the chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

CHECKPOINT = """
CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY,                -- 1, 2, 3 ...
    seq INTEGER NOT NULL REFERENCES event(seq),
    hash BLOB NOT NULL,                    -- of that event
    signed_at TEXT NOT NULL,
    previous BLOB,                         -- SHA-256 of the checkpoint before it
    key BLOB NOT NULL,                     -- the public key, Ed25519
    signature BLOB NOT NULL
) STRICT
"""

REFUSED = """
CREATE TRIGGER checkpoint_no_{verb} BEFORE {event} ON checkpoint {condition}BEGIN
    SELECT RAISE(ABORT, 'the log is append-only: {name} on checkpoint is refused');
END
"""


def apply(db: Database) -> None:
    """Add the table of checkpoints, which only grows."""
    db.execute(CHECKPOINT)
    exists = "WHEN EXISTS (SELECT 1 FROM checkpoint WHERE id = NEW.id) "
    db.execute(REFUSED.format(verb="replace", event="INSERT", condition=exists, name="REPLACE"))
    for name in ("UPDATE", "DELETE"):
        db.execute(REFUSED.format(verb=name.lower(), event=name, condition="", name=name))
