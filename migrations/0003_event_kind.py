"""An index of the events that stand at a version: few among many, and asked for by every command that shows a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

# With `seq` for the order, and the table, by which an entry is passed over without its row being read.
EVENT_KIND = """
CREATE INDEX event_kind ON event(kind, seq, stream_id) WHERE kind IN ('exported', 'materialized', 'tagged')
"""


def apply(db: Database) -> None:
    """Add the index."""
    db.execute(EVENT_KIND)
