"""One index over the versions of tables, where there were two, and one of the few events that stand at a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

# By OR, since each insertion of an event would make a list of three anew.
STANDS = "kind = 'exported' OR kind = 'materialized' OR kind = 'tagged'"

# A version is made by one event; what changes nothing may stand at it as often as it likes.
EVENT_VERSION = f"""
CREATE UNIQUE INDEX event_version ON event(stream_id, version, CASE WHEN {STANDS} THEN seq ELSE 0 END)
"""

# Of the few events that every command asks for that shows a table. With `seq` for the order, and the table, by which an
# entry is passed over without its row being read.
EVENT_KIND = f"""
CREATE INDEX event_kind ON event(kind, seq, stream_id) WHERE {STANDS}
"""


def apply(db: Database) -> None:
    """Put two indexes in the place of a plain and a partial unique one, in both of which every event was."""
    # Of a ledger that somebody edited, one may be missing; `verify` is to say what else is.
    db.execute("DROP INDEX IF EXISTS event_change")
    db.execute("DROP INDEX IF EXISTS event_version")
    db.execute(EVENT_VERSION)
    db.execute(EVENT_KIND)
