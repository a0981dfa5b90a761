"""SQL that only the checks and the transfer of whole ledgers use."""

from __future__ import annotations

from decomp_ledger.storage.event_store import AS_OF, EVENT, HEAD, INSERT_CHANGE, INSERT_EVENT

__all__ = ["AS_OF", "EVENT", "EVERY_EVENT", "EVERY_EVENT_ROW", "HEAD", "INSERT_CHANGE", "INSERT_EVENT", "PROVENANCE"]

# Every event, those whose foreign keys have no row included.
EVERY_EVENT = EVENT.replace("JOIN", "LEFT JOIN") + "ORDER BY event.seq"

# The same without the columns that many events have in common.
EVERY_EVENT_ROW = """
SELECT seq, table_id, version, kind, schema, recorded_at, provenance_id, body, prev_hash, hash
FROM event ORDER BY seq
"""

PROVENANCE = """
SELECT actor, reason, call_site, digest FROM provenance LEFT JOIN environment ON environment.id = environment_id
WHERE provenance.id = ?
"""
