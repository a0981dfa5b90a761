"""An index of the events that stand at a version: few among many, and asked for by every command that shows a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

# With `seq` for the order, and the table, by which an entry is passed over without its row being read. By OR, since
# each insertion of an event would make a list of three anew.
EVENT_KIND = """
CREATE INDEX event_kind ON event(kind, seq, stream_id)
WHERE kind = 'exported' OR kind = 'materialized' OR kind = 'tagged'
"""


def apply(db: Database) -> None:
    """Add the index."""
    db.execute(EVENT_KIND)
