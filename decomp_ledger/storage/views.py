"""The SQL views for people in words, and questions in SQL that they answer.

`docs/sql.md` says the same, which a test compares. Nothing else of this package reads the views.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["LABELS", "QUESTIONS", "VIEWS", "Question", "View"]


@attrs.frozen
class View:
    """A view.

    Attributes:
        about: what a row is.
        columns: column -> what it is.
        facets: the columns whose values are few.
    """

    about: str
    columns: Mapping[str, str]
    facets: tuple[str, ...] = ()


@attrs.frozen
class Question:
    """A question, with the statement that answers it.

    Attributes:
        title: the question.
        about: what it shows, and what its parameters are.
        sql: the statement. A column `export` or `seq` holds a number of an export or an event.
    """

    title: str
    about: str
    sql: str


_ORIGIN = {
    "actor": "who",
    "reason": "why, or NULL",
}
VIEWS = {
    "changes": View(
        "One row for each op that an event changed, oldest first.",
        {
            "seq": "number of the event",
            "table_name": "the decomposition table",
            "version": "the version that the event made",
            "recorded_at": "when, UTC",
            "kind": "the event's kind: `popped`, `set`, `updated`, `reset`, `reverted`, `passed`",
            "op": "the op",
            "action": "`preserve`, `override` or `reset`",
            "decomposition": "for `override`: the function's name, or `torch's own (...)`",
            **_ORIGIN,
            "call_site": "the line that made the change, or the command",
        },
        ("action", "actor"),
    ),
    "current_rules": View(
        "One row for each op that has a rule in the newest version of a table.",
        {
            "table_name": "the decomposition table",
            "op": "the op",
            "action": "`preserve` or `override`",
            "decomposition": "for `override`: the function's name, or `torch's own (...)`",
            "since_table": "the table whose version made the rule: this one, or one that it was forked from",
            "since_version": "the version that made it",
            "seq": "number of the event that made it",
            "recorded_at": "when, UTC",
            **_ORIGIN,
            "call_site": "the line that made the rule, or the command",
        },
        ("action", "actor"),
    ),
    "exports": View(
        "One row for each export, oldest first.",
        {
            "seq": "number of the export: `export:SEQ`",
            "table_name": "the decomposition table that it used",
            "version": "the version of the table",
            "recorded_at": "when it ended, UTC",
            "result": "`lowered` or `failed`",
            "error": "type of the exception with which it failed, or NULL",
            "message": "its message, or NULL",
            "nodes_before": "nodes of ops in the program's graph",
            "nodes_after": "nodes of ops in the lowered graph; NULL if it failed",
            "milliseconds": "how long it took",
            "torch": "the version of torch",
            "environment": "the row of `environments`",
            **_ORIGIN,
            "call_site": "the line that exported",
        },
        ("result", "torch"),
    ),
    "fired": View(
        "One row for each op whose decomposition an export traced.",
        {
            "export": "number of the export",
            "table_name": "the decomposition table that it used",
            "version": "the version of the table",
            "op": "the op",
            "times": "how often its decomposition gave a result",
            "nodes_before": "the op's nodes in the program's graph",
            "nodes_after": "the op's nodes in the lowered graph",
        },
    ),
    "environments": View(
        "One row for each environment in which events were made.",
        {
            "environment": "SHA-256 of its facts",
            "torch": "the version of torch, or NULL without torch",
            "torch_git": "the commit that torch was built from",
            "python": "the version of Python",
            "platform": "system and processor",
            "host": "name of the machine",
            "events": "how many events were made in it",
            "first_seq": "number of the first of them",
            "last_seq": "number of the last of them",
            "facts": "everything that is recorded of it, as JSON",
        },
    ),
}

# Table of the log -> the column by which a person knows a row of it.
LABELS = {"decomp_table": "name", "op": "name", "provenance": "actor"}

_EVENTS = """
SELECT
    event.seq AS seq,
    decomp_table.name AS table_name,
    event.version AS version,
    event.kind AS kind,
    event.recorded_at AS recorded_at,
    provenance.actor AS actor,
    provenance.reason AS reason
FROM event
JOIN decomp_table ON decomp_table.id = event.table_id
JOIN provenance ON provenance.id = event.provenance_id
ORDER BY event.seq DESC
"""
_TABLES = """
SELECT
    decomp_table.name AS table_name,
    max(CASE WHEN event.makes_version = 1 THEN event.version END) AS version,
    coalesce(counted.rules, 0) AS rules,
    count(CASE WHEN event.kind = 'exported' THEN 1 END) AS exports,
    max(CASE WHEN event.kind = 'exported' THEN event.seq END) AS export,
    last.recorded_at AS recorded_at
FROM decomp_table
JOIN event ON event.table_id = decomp_table.id
JOIN event AS last ON last.seq = (SELECT max(seq) FROM event AS each WHERE each.table_id = decomp_table.id)
LEFT JOIN (SELECT table_name, count(*) AS rules FROM current_rules GROUP BY table_name) AS counted
    ON counted.table_name = decomp_table.name
GROUP BY decomp_table.id
ORDER BY last.seq DESC
"""
_WHO_PRESERVED = """
SELECT op, table_name, version, seq, kind, recorded_at, actor, reason, call_site
FROM changes
WHERE action = 'preserve' AND kind <> 'passed' AND instr(op, :op)
ORDER BY seq DESC, op
"""
# As `current_rules` has them, which migrations/0002_views.py explains.
_RULES_AT = """
WITH RECURSIVE lineage (table_id, ancestor_id, until, depth) AS (
    SELECT id, id, 9223372036854775807, 0 FROM decomp_table WHERE name = :table
    UNION ALL
    SELECT lineage.table_id, parent.id, json_extract(event.body, '$.parent[1]'), lineage.depth + 1
    FROM lineage
    CROSS JOIN event ON event.table_id = lineage.ancestor_id AND event.version = 1 AND event.makes_version = 1
    CROSS JOIN decomp_table AS parent ON parent.name = json_extract(event.body, '$.parent[0]')
    WHERE lineage.depth < 1000
),
placed AS (
    SELECT lineage.ancestor_id, change.op_id, change.action, change.version,
        min(lineage.depth * 1000000000000 - change.version)
    FROM lineage
    CROSS JOIN change ON change.table_id = lineage.ancestor_id AND change.version <= lineage.until
        AND (lineage.depth > 0 OR :version = '' OR change.version <= CAST(:version AS INTEGER))
    GROUP BY change.op_id
)
SELECT
    op.name AS op,
    placed.action AS action,
    (
        SELECT decomposition FROM changes
        WHERE table_name = decomp_table.name AND version = placed.version AND op = op.name
    ) AS decomposition,
    decomp_table.name AS table_name,
    placed.version AS since_version,
    event.seq AS seq,
    event.kind AS kind,
    event.recorded_at AS recorded_at,
    provenance.actor AS actor,
    provenance.reason AS reason,
    (
        SELECT call_site FROM changes
        WHERE table_name = decomp_table.name AND version = placed.version AND op = op.name
    ) AS call_site
FROM placed
CROSS JOIN decomp_table ON decomp_table.id = placed.ancestor_id
CROSS JOIN op ON op.id = placed.op_id
CROSS JOIN event
    ON event.table_id = placed.ancestor_id AND event.version = placed.version AND event.makes_version = 1
CROSS JOIN provenance ON provenance.id = event.provenance_id
WHERE placed.action <> 'reset'
ORDER BY op.name
"""
_THAT_RAN = """
SELECT
    fired.op AS op,
    fired.export AS export,
    fired.table_name AS table_name,
    fired.version AS version,
    fired.times AS times,
    fired.nodes_before AS nodes_before,
    fired.nodes_after AS nodes_after,
    exports.recorded_at AS recorded_at,
    exports.torch AS torch,
    exports.actor AS actor
FROM fired
JOIN exports ON exports.seq = fired.export
WHERE instr(fired.op, :op)
ORDER BY fired.export DESC, fired.op
"""
_FAILED = """
SELECT seq AS export, error, message, table_name, version, recorded_at, torch, actor, reason, call_site
FROM exports
WHERE result = 'failed'
ORDER BY seq DESC
"""
_WITH_TORCH = """
SELECT seq AS export, torch, result, table_name, version, recorded_at, nodes_before, nodes_after, actor, call_site
FROM exports
WHERE substr(torch, 1, length(:torch)) = :torch
ORDER BY seq DESC
"""
_SAVED = """
SELECT
    json_extract(event.body, '$.export') AS export,
    json_extract(event.body, '$.path') AS path,
    json_extract(event.body, '$.format') AS format,
    json_extract(event.body, '$.size') AS size,
    json_extract(event.body, '$.sha256') AS sha256,
    decomp_table.name AS table_name,
    event.version AS version,
    event.seq AS seq,
    event.recorded_at AS recorded_at
FROM event
JOIN decomp_table ON decomp_table.id = event.table_id
WHERE event.kind = 'saved' AND event.makes_version IS NULL
ORDER BY event.seq DESC
"""
QUESTIONS = {
    "tables": Question("Which tables are there?", "The one used last first, with its last export.", _TABLES),
    "events": Question("What happened?", "All events, newest first.", _EVENTS),
    "who_preserved": Question(
        "Who preserved this op?",
        "Each event that preserved it, newest first. `op`: a part of its name, such as `linear`; all ops if empty. "
        "What a dict lacks that a program passed is not a rule, and not among them.",
        _WHO_PRESERVED,
    ),
    "rules_at": Question(
        "What were the rules of a table?",
        "`table`: its whole name. `version`: a number; the newest version if empty. `table_name`: the table that set "
        "the rule, which may be one that it was forked from. `preserve` of kind `passed`: the dict that a program "
        "passed lacks the op.",
        _RULES_AT,
    ),
    "exports_that_ran": Question(
        "Which exports ran this decomposition?",
        "Each export that traced it, newest first. `op`: a part of the op's name.",
        _THAT_RAN,
    ),
    "failed_exports": Question("Which exports failed?", "Newest first, with the error.", _FAILED),
    "exports_with_torch": Question(
        "Which exports ran with this torch?", "`torch`: the start of its version, such as `2.13`.", _WITH_TORCH
    ),
    "saved_files": Question(
        "Which files came from which export?", "Each program that was saved within a recording.", _SAVED
    ),
}
