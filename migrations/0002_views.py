"""Create views for people: changes, current_rules, exports, fired, environments.

decomp_ledger itself reads none of them, so a ledger that lacks them gives the same answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

# Each uses the columns of `event` joined with `provenance`. `call_site` is written as the command line writes it.
_WHO = """
    provenance.actor AS actor,
    provenance.reason AS reason,
    CASE json_extract(provenance.call_site, '$.line')
        WHEN 0 THEN json_extract(provenance.call_site, '$.file')
        ELSE json_extract(provenance.call_site, '$.file') || ':' || json_extract(provenance.call_site, '$.line')
            || ' in ' || json_extract(provenance.call_site, '$.function')
    END AS call_site"""
_DECOMPOSITION = """
    CASE
        WHEN decomposition.body IS NULL THEN NULL
        WHEN json_extract(decomposition.body, '$.origin') IN ('cia', 'registry', 'py_cia')
            THEN 'torch''s own (' || json_extract(decomposition.body, '$.origin') || ')'
        ELSE coalesce(
            json_extract(decomposition.body, '$.module') || '.' || json_extract(decomposition.body, '$.qualname'),
            json_extract(decomposition.body, '$.qualname'),
            json_extract(decomposition.body, '$.module'),
            json_extract(decomposition.body, '$.origin')
        )
    END AS decomposition"""

# CROSS JOIN makes SQLite look up the event of each change by its index. Else it reads all events for each version of a
# table, which takes seconds for a thousand.

# One row for each op that an event changed, oldest first.
CHANGES = f"""
CREATE VIEW changes AS
SELECT
    event.seq AS seq,
    decomp_table.name AS table_name,
    event.version AS version,
    event.recorded_at AS recorded_at,
    event.kind AS kind,
    op.name AS op,
    change.action AS action,{_DECOMPOSITION},{_WHO}
FROM change
CROSS JOIN event
    ON event.table_id = change.table_id AND event.version = change.version AND event.makes_version = 1
JOIN decomp_table ON decomp_table.id = event.table_id
JOIN op ON op.id = change.op_id
JOIN provenance ON provenance.id = event.provenance_id
LEFT JOIN decomposition ON decomposition.id = change.decomposition_id
ORDER BY event.seq, op.name
"""

# One row for each op that the newest version of a table keeps or overrides, with the event that made it so.
# `lineage` is each table with those that it was forked from, up to which version, and how far away they are. Of the
# rows of an op, SQLite gives that of the smallest min(), which is the last change of the nearest table.
CURRENT_RULES = f"""
CREATE VIEW current_rules AS
WITH RECURSIVE lineage (table_id, ancestor_id, until, depth) AS (
    SELECT id, id, 9223372036854775807, 0 FROM decomp_table
    UNION ALL
    SELECT lineage.table_id, parent.id, json_extract(event.body, '$.parent[1]'), lineage.depth + 1
    FROM lineage
    CROSS JOIN event ON event.table_id = lineage.ancestor_id AND event.version = 1 AND event.makes_version = 1
    CROSS JOIN decomp_table AS parent ON parent.name = json_extract(event.body, '$.parent[0]')
    WHERE lineage.depth < 1000
),
rule AS (
    SELECT lineage.table_id, lineage.ancestor_id, change.op_id, change.action, change.version, change.decomposition_id,
        min(lineage.depth * 1000000000000 - change.version)
    FROM lineage
    CROSS JOIN change ON change.table_id = lineage.ancestor_id AND change.version <= lineage.until
    GROUP BY lineage.table_id, change.op_id
)
SELECT
    decomp_table.name AS table_name,
    op.name AS op,
    rule.action AS action,{_DECOMPOSITION},
    ancestor.name AS since_table,
    rule.version AS since_version,
    event.seq AS seq,
    event.recorded_at AS recorded_at,{_WHO}
FROM rule
CROSS JOIN decomp_table ON decomp_table.id = rule.table_id
CROSS JOIN decomp_table AS ancestor ON ancestor.id = rule.ancestor_id
CROSS JOIN op ON op.id = rule.op_id
CROSS JOIN event ON event.table_id = rule.ancestor_id AND event.version = rule.version AND event.makes_version = 1
CROSS JOIN provenance ON provenance.id = event.provenance_id
LEFT JOIN decomposition ON decomposition.id = rule.decomposition_id
WHERE rule.action <> 'reset'
ORDER BY decomp_table.name, op.name
"""

# One row for each export, oldest first. `nodes_before` and `nodes_after` count the ops' nodes in the two graphs.
EXPORTS = f"""
CREATE VIEW exports AS
SELECT
    event.seq AS seq,
    decomp_table.name AS table_name,
    event.version AS version,
    event.recorded_at AS recorded_at,
    CASE WHEN json_type(event.body, '$.error') = 'array' THEN 'failed' ELSE 'lowered' END AS result,
    json_extract(event.body, '$.error[0]') AS error,
    json_extract(event.body, '$.error[1]') AS message,
    (SELECT sum(value) FROM json_each(event.body, '$.ops_before')) AS nodes_before,
    (SELECT sum(value) FROM json_each(event.body, '$.ops_after')) AS nodes_after,
    json_extract(event.body, '$.milliseconds') AS milliseconds,
    json_extract(environment.body, '$.torch') AS torch,
    lower(hex(environment.digest)) AS environment,{_WHO}
FROM event
JOIN decomp_table ON decomp_table.id = event.table_id
JOIN provenance ON provenance.id = event.provenance_id
JOIN environment ON environment.id = provenance.environment_id
WHERE event.kind = 'exported' AND event.makes_version IS NULL
ORDER BY event.seq
"""

# One row for each op whose decomposition an export traced.
FIRED = """
CREATE VIEW fired AS
SELECT
    event.seq AS export,
    decomp_table.name AS table_name,
    event.version AS version,
    fired.key AS op,
    fired.value AS times,
    coalesce(
        (SELECT value FROM json_each(event.body, '$.ops_before') AS before WHERE before.key = fired.key), 0
    ) AS nodes_before,
    coalesce(
        (SELECT value FROM json_each(event.body, '$.ops_after') AS after WHERE after.key = fired.key), 0
    ) AS nodes_after
FROM event
JOIN decomp_table ON decomp_table.id = event.table_id
JOIN json_each(event.body, '$.fired') AS fired
WHERE event.kind = 'exported' AND event.makes_version IS NULL
ORDER BY event.seq, fired.key
"""

# One row for each environment, with its events.
ENVIRONMENTS = """
CREATE VIEW environments AS
SELECT
    lower(hex(environment.digest)) AS environment,
    json_extract(environment.body, '$.torch') AS torch,
    json_extract(environment.body, '$.torch_git') AS torch_git,
    json_extract(environment.body, '$.python') AS python,
    json_extract(environment.body, '$.platform') AS platform,
    json_extract(environment.body, '$.host') AS host,
    count(event.seq) AS events,
    min(event.seq) AS first_seq,
    max(event.seq) AS last_seq,
    environment.body AS facts
FROM environment
LEFT JOIN provenance ON provenance.environment_id = environment.id
LEFT JOIN event ON event.provenance_id = provenance.id
GROUP BY environment.id
ORDER BY environment.id
"""

VIEWS = (CHANGES, CURRENT_RULES, EXPORTS, FIRED, ENVIRONMENTS)


def apply(db: Database) -> None:
    """Create the views."""
    for view in VIEWS:
        db.execute(view.strip())
