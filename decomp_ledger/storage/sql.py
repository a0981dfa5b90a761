"""The SQL of the ledger, as named constants."""

from __future__ import annotations

# The greatest version <= :version of each op, by hopping from op to op on the primary key of `change`: a few
# milliseconds at any version of a table with a million changes, where GROUP BY would read the million.
AS_OF = """
WITH RECURSIVE hop(op_id) AS (
    SELECT min(op_id) FROM change WHERE table_id = :table
    UNION ALL
    SELECT (SELECT min(op_id) FROM change WHERE table_id = :table AND op_id > hop.op_id)
    FROM hop WHERE hop.op_id IS NOT NULL
)
SELECT op.name, change.action, change.decomposition_id, change.version
FROM hop
JOIN change ON change.table_id = :table AND change.op_id = hop.op_id AND change.version = (
    SELECT max(version) FROM change
    WHERE table_id = :table AND op_id = hop.op_id AND version <= :version
)
JOIN op ON op.id = hop.op_id
"""

EVENT = """
SELECT event.seq, decomp_table.name, event.version, event.kind, event.schema, event.recorded_at, provenance.actor,
       provenance.reason, provenance.call_site, environment.digest, event.body, event.prev_hash, event.hash
FROM event
JOIN decomp_table ON decomp_table.id = event.table_id
JOIN provenance ON provenance.id = event.provenance_id
JOIN environment ON environment.id = provenance.environment_id
"""

# Of an event no more than what tells since when a table says something, and why.
SINCE = """
SELECT event.version, event.seq, provenance.reason
FROM event
JOIN provenance ON provenance.id = event.provenance_id
"""

# Every event, whatever it names that may be missing.
EVERY_EVENT = EVENT.replace("JOIN", "LEFT JOIN") + "ORDER BY event.seq"

# The same without what many events have in common.
EVERY_EVENT_ROW = """
SELECT seq, table_id, version, kind, schema, recorded_at, provenance_id, body, prev_hash, hash
FROM event ORDER BY seq
"""

PROVENANCE = """
SELECT actor, reason, call_site, digest FROM provenance LEFT JOIN environment ON environment.id = environment_id
WHERE provenance.id = ?
"""

# Versions of a table that touched an op, newest first.
TOUCHED = """
SELECT version FROM change
WHERE table_id = :table AND op_id = (SELECT id FROM op WHERE name = :op) AND version <= :version
ORDER BY version DESC
"""

HEAD = "SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1"

TABLE_VERSION = "SELECT max(version) FROM event WHERE table_id = ?"

INSERT_EVENT = """
INSERT INTO event
    (seq, table_id, version, makes_version, kind, schema, recorded_at, provenance_id, body, prev_hash, hash)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

INSERT_CHANGE = "INSERT INTO change (table_id, op_id, version, action, decomposition_id) VALUES (?, ?, ?, ?, ?)"

TABLES = """
SELECT decomp_table.name, max(event.version), count(*), min(event.recorded_at), max(event.recorded_at), max(event.seq)
FROM decomp_table JOIN event ON event.table_id = decomp_table.id
GROUP BY decomp_table.id ORDER BY decomp_table.id
"""
