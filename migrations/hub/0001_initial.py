"""Create a hub: ledgers, their events as they were hashed, what events name by digest, and what is derived from them.

People and programs write `ledger`, `blob`, `event` and `checkpoint`, and can only insert. Triggers derive every other
table from the texts of the events. PostgreSQL also checks the chain, so that a writer cannot forge it. SQLite has no
SHA-256: there the writer checks the hashes, and `hub verify` does it again.
"""

from __future__ import annotations

from collections.abc import Callable

# "DCLH": marks an SQLite file as a hub, in its header.
APPLICATION_ID = 0x44434C48

WRITTEN = ("ledger", "blob", "event", "checkpoint")
DERIVED = ("head", "decomp_table", "lineage", "op", "event_fact", "change", "rule", "export", "program")

_TABLES = """
CREATE TABLE ledger (
    id {identity},
    ledger {name} NOT NULL UNIQUE {hex_check},          -- its own id: 32 hex digits
    created_at {name} NOT NULL {date_check},
    name {name} NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200),
    genesis {genesis}                                   -- what its first event is chained to
){strict};

-- What events name by digest, each stored once for all ledgers. A catalog is stored whole.
CREATE TABLE blob (
    digest {name} NOT NULL,                             -- SHA-256 of body, in hex
    kind {name} NOT NULL CHECK (kind IN ('environment', 'decomposition', 'catalog')),
    body text NOT NULL CHECK ({size}(body) <= 8388608),
    PRIMARY KEY (digest, kind){blob_check}
){strict};

CREATE TABLE event (
    ledger_id integer NOT NULL,
    seq {big} NOT NULL,
    text text NOT NULL CHECK ({size}(text) <= 8388608), -- the canonical JSON that was hashed
    prev_hash {bytes} NOT NULL,
    hash {bytes} NOT NULL,
    PRIMARY KEY (ledger_id, seq){hash_check}
){strict};

CREATE TABLE checkpoint (
    ledger_id integer NOT NULL REFERENCES ledger(id),
    number integer NOT NULL CHECK (number >= 1),        -- 1, 2, 3 in the order of signing
    body text NOT NULL CHECK ({size}(body) <= 1048576), -- as a dump has it
    PRIMARY KEY (ledger_id, number)
){strict};

-- Everything below is derived from the events by triggers.

CREATE TABLE head (
    ledger_id integer PRIMARY KEY,
    seq {big} NOT NULL,                                -- of the newest event; 0 without events
    hash {bytes} NOT NULL,
    last_at {name}                                      -- when it was recorded
){strict};

CREATE TABLE decomp_table (
    id {identity},
    ledger_id integer NOT NULL,
    name {name} NOT NULL,
    series {name} NOT NULL,                             -- RECORDING/MAKER of a recorded table, else its name
    base {name} NOT NULL,
    parent_id integer,                                  -- what it was forked from, or NULL
    parent_version {big},
    version {big} NOT NULL,                            -- the newest
    from_dict integer NOT NULL,                         -- 1 if the newest version is the content of a dict
    newest integer NOT NULL DEFAULT 1,                  -- 1 if it is the newest run of its series, else 0
    UNIQUE (ledger_id, name)
){strict};

-- The newest run of a series of recorded tables has the greatest number.
CREATE INDEX decomp_table_series ON decomp_table(ledger_id, series, length(name) DESC, name DESC);

-- The tables whose changes make the rules of a table: itself (depth 0), its parent (1), the parent of that (2) ...
CREATE TABLE lineage (
    table_id integer NOT NULL,
    depth integer NOT NULL,
    ancestor_id integer NOT NULL,
    until {big} NOT NULL,                              -- the last version of the ancestor that counts
    PRIMARY KEY (table_id, depth)
){strict};

CREATE TABLE op (
    id {identity},
    name {name} NOT NULL UNIQUE
){strict};

-- What the text of each event tells.
CREATE TABLE event_fact (
    ledger_id integer NOT NULL,
    seq {big} NOT NULL,
    table_id integer NOT NULL,
    version {big} NOT NULL,
    makes_version integer NOT NULL,                     -- 1 or 0
    kind {name} NOT NULL,
    recorded_at {name} NOT NULL,
    actor {name} NOT NULL,
    PRIMARY KEY (ledger_id, seq)
){strict};
CREATE UNIQUE INDEX event_fact_version ON event_fact(table_id, version) WHERE makes_version = 1;
CREATE INDEX event_fact_other ON event_fact(table_id, kind, seq) WHERE makes_version = 0;
CREATE INDEX event_fact_time ON event_fact(recorded_at);

-- One row for each op that an event changed.
CREATE TABLE change (
    op_id integer NOT NULL,
    table_id integer NOT NULL,
    version {big} NOT NULL,
    seq {big} NOT NULL,
    action {name} NOT NULL CHECK (action IN ('preserve', 'override', 'reset')),
    decomposition {name},                               -- digest, of an override
    PRIMARY KEY (op_id, table_id, version),
    CHECK ((action = 'override') = (decomposition IS NOT NULL))
){strict};
CREATE INDEX change_table ON change(table_id, version);

-- The rule of each op in the newest version of each table, also those that a fork has from its parent.
CREATE TABLE rule (
    op_id integer NOT NULL,
    table_id integer NOT NULL,
    action {name} NOT NULL,
    decomposition {name},
    origin_id integer NOT NULL,                         -- the table whose event made the rule
    version {big} NOT NULL,                            -- the version of that table
    seq {big} NOT NULL,                                -- that event
    newest integer NOT NULL,                            -- that of its table
    PRIMARY KEY (op_id, table_id)
){strict};
CREATE INDEX rule_table ON rule(table_id);
-- Of a recording that ran a thousand times, one run counts for "who preserves this op now".
CREATE INDEX rule_newest ON rule(op_id, action, table_id) WHERE newest = 1;

CREATE TABLE export (
    ledger_id integer NOT NULL,
    seq {big} NOT NULL,
    table_id integer NOT NULL,
    version {big} NOT NULL,
    module {name} NOT NULL,                             -- the class of the program's root module; '' if it is not known
    file {name} NOT NULL,                               -- that defines it; '' if it is not known
    failed integer NOT NULL,                            -- 1 or 0
    recorded_at {name} NOT NULL,
    environment {name} NOT NULL,                        -- digest
    git_commit {name} NOT NULL,                         -- of the environment; '' if it is not known
    graph {name} NOT NULL,                              -- digest of the graph before it; '' if it is not known
    catalog {name} NOT NULL,                            -- digest
    PRIMARY KEY (ledger_id, seq)
){strict};
CREATE INDEX export_time ON export(recorded_at);
CREATE INDEX export_table ON export(table_id);

-- The newest export of each table, root module, git commit and graph. From these, decomp_ledger/analysis/programs.py
-- decides what programs there are.
CREATE TABLE program (
    table_id integer NOT NULL,
    module {name} NOT NULL,
    file {name} NOT NULL,
    git_commit {name} NOT NULL,
    graph {name} NOT NULL,
    seq {big} NOT NULL,                                -- the newest of these exports
    succeeded {big},                                   -- the newest that did not fail, or NULL
    PRIMARY KEY (table_id, module, file, git_commit, graph)
){strict};
"""

_POSTGRESQL_TYPES = {
    "identity": "integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "name": 'text COLLATE "C"',
    "big": "bigint",
    "bytes": "bytea",
    "strict": "",
    "size": "octet_length",
    "hex_check": "CHECK (ledger ~ '^[0-9a-f]{32}$')",
    "date_check": "CHECK (created_at ~ '^[0-9TZ:.+-]{1,40}$')",
    "genesis": """bytea GENERATED ALWAYS AS (
        sha256(utf8('{"created_at":"' || created_at || '","ledger":"' || ledger || '"}'))
    ) STORED""",
    # What the views read of an environment is read here too, so that no row makes them fail.
    "blob_check": """,
    CHECK (digest = encode(sha256(convert_to(body, 'UTF8')), 'hex')),
    CHECK (json_typeof(body::json) = 'object'),
    CHECK (kind <> 'environment' OR position('\\u0000' IN body) > 0 OR length(body::json ->> 'torch') >= 0)""",
    "hash_check": ",\n    CHECK (hash = sha256(prev_hash || convert_to(text, 'UTF8')))",
}
_SQLITE_TYPES = {
    "identity": "INTEGER PRIMARY KEY",
    "name": "TEXT",
    "big": "INTEGER",
    "bytes": "BLOB",
    "strict": " STRICT",
    "size": "length",
    "hex_check": "CHECK (length(ledger) = 32 AND ledger NOT GLOB '*[^0-9a-f]*')",
    "date_check": "CHECK (length(created_at) BETWEEN 1 AND 40 AND created_at NOT GLOB '*[^0-9TZ:.+-]*')",
    "genesis": "BLOB NOT NULL CHECK (length(genesis) = 32)",
    "blob_check": ",\n    CHECK (length(digest) = 64)",
    "hash_check": ",\n    CHECK (length(hash) = 32 AND length(prev_hash) = 32)",
}

_MAX = 9223372036854775807  # the `until` of a table itself
_KINDS = "'created', 'set', 'popped', 'updated', 'reset', 'reverted', 'passed', 'found'"
_OTHER_KINDS = "'tagged', 'materialized', 'exported', 'saved', 'traced', 'lowered'"

_POSTGRESQL_UTF8 = """
CREATE FUNCTION utf8(value text) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT pg_catalog.convert_to(value, 'UTF8')  -- a writer may have functions that are found before
$$;
"""

# One trigger for a whole statement, because a push sends thousands of events in one.
_POSTGRESQL_TRIGGERS = f"""
CREATE TYPE parsed_event AS (
    ledger_id integer, seq bigint, own_seq bigint, "table" text, version bigint, kind text, recorded_at text,
    actor text, environment text, body json
);
CREATE TYPE parsed_change AS (
    ledger_id integer, seq bigint, table_id integer, version bigint, op text, action text, decomposition text
);

CREATE FUNCTION refuse(problem text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', problem USING ERRCODE = 'DL001';
END $$;

-- Any user who may execute the function of a trigger can make it a trigger of a table of their own.
CREATE FUNCTION refuse_other_table(used regclass, own regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF used <> own THEN
        PERFORM refuse('a function of the hub was called for another table');
    END IF;
END $$;

-- PostgreSQL has no text with NUL, so another character stands for it, here as in the text of an event.
CREATE FUNCTION git_commit_of(environment text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    found json := (replace(environment, '\\u0000', '\\ufffd')::json) -> 'git_commit';
BEGIN
    RETURN CASE WHEN json_typeof(found) = 'string' THEN found #>> '{{}}' ELSE '' END;
END $$;

CREATE FUNCTION accept_ledger() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = decomp_ledger, pg_temp AS $$
BEGIN
    PERFORM refuse_other_table(TG_RELID, 'decomp_ledger.ledger');
    INSERT INTO head (ledger_id, seq, hash) VALUES (NEW.id, 0, NEW.genesis);
    RETURN NULL;
END $$;

CREATE FUNCTION accept_events() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = decomp_ledger, pg_temp AS $$
DECLARE
    events parsed_event[];
    changes parsed_change[];
    one record;
    parent record;
    made integer;
BEGIN
    PERFORM refuse_other_table(TG_RELID, 'decomp_ledger.event');
    -- The lock of a ledger's head puts the writers of one ledger one after the other.
    PERFORM 1 FROM head WHERE ledger_id IN (SELECT ledger_id FROM added) ORDER BY ledger_id FOR UPDATE;

    SELECT * INTO one FROM (
        SELECT ledger_id, seq, prev_hash, lag(hash) OVER own AS before, row_number() OVER own AS place
        FROM added WINDOW own AS (PARTITION BY ledger_id ORDER BY seq)
    ) AS placed LEFT JOIN head USING (ledger_id)
    WHERE head.ledger_id IS NULL OR placed.seq IS DISTINCT FROM head.seq + place
        OR placed.prev_hash IS DISTINCT FROM coalesce(before, head.hash)
    LIMIT 1;
    IF FOUND THEN
        PERFORM refuse('an event does not follow the newest event of its ledger');
    END IF;

    SELECT array_agg(ROW(
        added.ledger_id, added.seq, x.seq, x."table", x.version, x.kind, x.recorded_at, x.actor,
        x.environment,
        CASE WHEN x.kind NOT IN ('tagged', 'saved', 'lowered') THEN x.body END
    )::parsed_event ORDER BY added.ledger_id, added.seq) INTO events
    FROM added, json_to_record(
        -- PostgreSQL has no text with NUL.
        CASE WHEN position('\\u0000' IN added.text) > 0 THEN replace(added.text, '\\u0000', '\\ufffd')
        ELSE added.text END::json
    ) AS x(seq bigint, "table" text, version bigint, kind text, recorded_at text, actor text, environment text,
        body json);
    IF events IS NULL THEN
        RETURN NULL;
    END IF;

    FOR one IN SELECT * FROM unnest(events) AS e WHERE NOT coalesce(
        e.own_seq = e.seq AND e.kind IN ({_KINDS}, {_OTHER_KINDS}) AND e.version >= 1 AND e.environment IS NOT NULL
        AND length(e."table") BETWEEN 1 AND 500 AND length(e.recorded_at) BETWEEN 1 AND 40 AND e.actor IS NOT NULL,
        false) LIMIT 1
    LOOP
        PERFORM refuse(format('event %s has facts that no event of this version of the hub has', one.seq));
    END LOOP;

    FOR one IN SELECT * FROM unnest(events) AS e WHERE e.kind = 'created' ORDER BY e.ledger_id, e.seq LOOP
        IF EXISTS (SELECT 1 FROM decomp_table WHERE ledger_id = one.ledger_id AND name = one."table") THEN
            PERFORM refuse(format('event %s creates a table that exists', one.seq));
        END IF;
        SELECT id, name INTO parent FROM decomp_table
        WHERE ledger_id = one.ledger_id AND name = one.body -> 'parent' ->> 0;
        IF json_typeof(one.body -> 'parent') = 'array' AND parent.id IS NULL THEN
            PERFORM refuse(format('event %s forks a table that does not exist', one.seq));
        END IF;
        INSERT INTO decomp_table (ledger_id, name, series, base, parent_id, parent_version, version, from_dict)
        VALUES (
            one.ledger_id, one."table", regexp_replace(one."table", '^(.+/[^/]+)/[1-9][0-9]{{0,17}}$', '\\1'),
            coalesce(one.body ->> 'base', ''), parent.id, (one.body -> 'parent' ->> 1)::bigint, 0, 0
        ) RETURNING id INTO made;
        INSERT INTO lineage (table_id, depth, ancestor_id, until) VALUES (made, 0, made, {_MAX});
        INSERT INTO lineage (table_id, depth, ancestor_id, until)
        SELECT made, depth + 1, ancestor_id,
            CASE depth WHEN 0 THEN (one.body -> 'parent' ->> 1)::bigint ELSE until END
        FROM lineage WHERE table_id = parent.id;
        PERFORM separate_runs(one.ledger_id, one."table");
    END LOOP;

    INSERT INTO event_fact
        (ledger_id, seq, table_id, version, makes_version, kind, recorded_at, actor)
    SELECT e.ledger_id, e.seq, t.id, e.version, (e.kind IN ({_KINDS}))::integer, e.kind, e.recorded_at, e.actor
    FROM unnest(events) AS e JOIN decomp_table AS t ON t.ledger_id = e.ledger_id AND t.name = e."table";
    GET DIAGNOSTICS made = ROW_COUNT;
    IF made <> cardinality(events) THEN
        PERFORM refuse('the first event of a table is not the one that creates it');
    END IF;

    FOR one IN
        SELECT * FROM (
            SELECT e.seq, e.version, e.kind, e.kind IN ({_KINDS}) AS makes,
                t.version + count(*) FILTER (WHERE e.kind IN ({_KINDS})) OVER (PARTITION BY t.id ORDER BY e.seq)
                    AS newest
            FROM unnest(events) AS e JOIN decomp_table AS t ON t.ledger_id = e.ledger_id AND t.name = e."table"
        ) AS x
        WHERE CASE WHEN makes THEN x.version <> newest OR (kind = 'created') <> (newest = 1)
            ELSE x.version > newest OR newest = 0 END
        LIMIT 1
    LOOP
        PERFORM refuse(format('event %s has a version that does not follow those of its table', one.seq));
    END LOOP;
    FOR one IN
        SELECT e.seq FROM unnest(events) AS e
        JOIN decomp_table AS t ON t.ledger_id = e.ledger_id AND t.name = e."table"
        WHERE e.kind = 'created' AND t.parent_id IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM event_fact AS f WHERE f.table_id = t.parent_id AND f.version = t.parent_version
                AND f.makes_version = 1 AND f.seq < e.seq
        ) LIMIT 1
    LOOP
        PERFORM refuse(format('event %s forks a version that does not exist before it', one.seq));
    END LOOP;

    SELECT array_agg(ROW(
        e.ledger_id, e.seq, t.id, e.version, c.value ->> 0, c.value ->> 1, c.value ->> 2
    )::parsed_change) INTO changes
    FROM unnest(events) AS e
    JOIN decomp_table AS t ON t.ledger_id = e.ledger_id AND t.name = e."table",
    json_array_elements(e.body -> 'changes') AS c
    WHERE e.kind IN ({_KINDS}) AND e.kind <> 'created';

    FOR one IN
        SELECT named.digest, named.kind FROM (
            SELECT DISTINCT e.environment AS digest, 'environment' AS kind FROM unnest(events) AS e
            UNION SELECT DISTINCT c.decomposition, 'decomposition' FROM unnest(changes) AS c
            WHERE c.decomposition IS NOT NULL
            UNION SELECT DISTINCT e.body ->> 'catalog', 'catalog' FROM unnest(events) AS e
            WHERE e.kind IN ('materialized', 'exported', 'traced')
        ) AS named
        WHERE NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = named.digest AND blob.kind = named.kind) LIMIT 1
    LOOP
        PERFORM refuse(format('an event names the %s %s, which the hub does not have', one.kind,
            coalesce(left(one.digest, 12), 'of no digest')));
    END LOOP;

    -- Sorted, so that two transactions take new names in one order, and do not wait for each other.
    INSERT INTO op (name)
    SELECT DISTINCT c.op COLLATE "C" AS name FROM unnest(changes) AS c
    WHERE NOT EXISTS (SELECT 1 FROM op WHERE op.name = c.op) ORDER BY 1
    ON CONFLICT DO NOTHING;

    INSERT INTO change (op_id, table_id, version, seq, action, decomposition)
    SELECT op.id, c.table_id, c.version, c.seq, c.action, c.decomposition
    FROM unnest(changes) AS c JOIN op ON op.name = c.op;
    GET DIAGNOSTICS made = ROW_COUNT;
    IF made <> coalesce(cardinality(changes), 0) THEN
        PERFORM refuse('a change of an event names no op');
    END IF;

    -- What new forks have from their parents; then the last change of each op.
    INSERT INTO rule (op_id, table_id, action, decomposition, origin_id, version, seq, newest)
    SELECT op_id, table_id, action, decomposition, origin_id, version, seq, newest FROM (
        SELECT c.op_id, l.table_id, c.action, c.decomposition, c.table_id AS origin_id, c.version, c.seq, t.newest,
            row_number() OVER (PARTITION BY l.table_id, c.op_id ORDER BY l.depth, c.version DESC) AS place
        FROM unnest(events) AS e
        JOIN decomp_table AS t ON t.ledger_id = e.ledger_id AND t.name = e."table"
        JOIN lineage AS l ON l.table_id = t.id AND l.depth > 0
        JOIN change AS c ON c.table_id = l.ancestor_id AND c.version <= l.until
        WHERE e.kind = 'created' AND t.parent_id IS NOT NULL
    ) AS inherited WHERE place = 1 AND action <> 'reset';

    DELETE FROM rule USING (
        SELECT DISTINCT ON (c.table_id, c.op) op.id AS op_id, c.table_id, c.action
        FROM unnest(changes) AS c JOIN op ON op.name = c.op ORDER BY c.table_id, c.op, c.version DESC
    ) AS last
    WHERE rule.op_id = last.op_id AND rule.table_id = last.table_id AND last.action = 'reset';

    INSERT INTO rule (op_id, table_id, action, decomposition, origin_id, version, seq, newest)
    SELECT last.op_id, t.id, last.action, last.decomposition, t.id, last.version, last.seq, t.newest FROM (
        SELECT DISTINCT ON (c.table_id, c.op) op.id AS op_id, c.*
        FROM unnest(changes) AS c JOIN op ON op.name = c.op ORDER BY c.table_id, c.op, c.version DESC
    ) AS last JOIN decomp_table AS t ON t.id = last.table_id WHERE last.action <> 'reset'
    ON CONFLICT (op_id, table_id) DO UPDATE SET action = EXCLUDED.action, decomposition = EXCLUDED.decomposition,
        origin_id = EXCLUDED.origin_id, version = EXCLUDED.version, seq = EXCLUDED.seq;

    INSERT INTO export
        (ledger_id, seq, table_id, version, module, file, failed, recorded_at, environment, git_commit, graph, catalog)
    SELECT e.ledger_id, e.seq, t.id, e.version, coalesce(e.body -> 'module' ->> 0, ''),
        coalesce(e.body -> 'module' ->> 1, ''), coalesce(json_typeof(e.body -> 'error') = 'array', false)::integer,
        e.recorded_at, e.environment, git_commit_of(blob.body), coalesce(e.body ->> 'before', ''), e.body ->> 'catalog'
    FROM unnest(events) AS e JOIN decomp_table AS t ON t.ledger_id = e.ledger_id AND t.name = e."table"
    JOIN blob ON blob.digest = e.environment AND blob.kind = 'environment'
    WHERE e.kind = 'exported';
    GET DIAGNOSTICS made = ROW_COUNT;
    IF made > 0 THEN
        INSERT INTO program (table_id, module, file, git_commit, graph, seq, succeeded)
        SELECT x.table_id, x.module, x.file, x.git_commit, x.graph, max(x.seq), max(x.seq) FILTER (WHERE x.failed = 0)
        FROM unnest(events) AS e JOIN export AS x ON x.ledger_id = e.ledger_id AND x.seq = e.seq
        WHERE e.kind = 'exported'
        GROUP BY x.table_id, x.module, x.file, x.git_commit, x.graph
        ON CONFLICT (table_id, module, file, git_commit, graph) DO UPDATE SET seq = EXCLUDED.seq,
            succeeded = coalesce(EXCLUDED.succeeded, program.succeeded);
    END IF;

    UPDATE decomp_table SET version = newest.version, from_dict = newest.from_dict FROM (
        SELECT DISTINCT ON (e.ledger_id, e."table") e.ledger_id, e."table" AS name, e.version,
            (e.kind = 'passed')::integer AS from_dict
        FROM unnest(events) AS e WHERE e.kind IN ({_KINDS}) ORDER BY e.ledger_id, e."table", e.seq DESC
    ) AS newest
    WHERE decomp_table.ledger_id = newest.ledger_id AND decomp_table.name = newest.name;

    -- A join with event_fact would read all of it: a session keeps the plan of its first batch, when that was small.
    UPDATE head SET seq = newest.seq, hash = newest.hash, last_at = (
        SELECT f.recorded_at FROM event_fact AS f WHERE f.ledger_id = newest.ledger_id AND f.seq = newest.seq
    ) FROM (
        SELECT DISTINCT ON (ledger_id) ledger_id, seq, hash FROM added ORDER BY ledger_id, seq DESC
    ) AS newest
    WHERE head.ledger_id = newest.ledger_id;
    RETURN NULL;
END $$;

-- Where a table has the name of a series, the runs of the series are tables of their own.
CREATE FUNCTION separate_runs(of_ledger integer, new_table text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE decomp_table SET series = name
    WHERE ledger_id = of_ledger AND series = new_table AND name <> new_table;
    UPDATE decomp_table AS t SET series = name
    WHERE ledger_id = of_ledger AND name = new_table AND series <> name AND EXISTS (
        SELECT 1 FROM decomp_table AS other WHERE other.ledger_id = of_ledger AND other.name = t.series
    );
END $$;

-- A new run takes the place of the one before it. The trigger of `event` calls this with the rights of the owner.
CREATE FUNCTION mark_newest() RETURNS trigger LANGUAGE plpgsql
SET search_path = decomp_ledger, pg_temp AS $$
DECLARE
    of_series text;
BEGIN
    FOREACH of_series IN ARRAY CASE TG_OP WHEN 'INSERT' THEN ARRAY[NEW.series] ELSE ARRAY[NEW.series, OLD.series] END
    LOOP
        WITH marked AS (
            UPDATE decomp_table AS t SET newest = (t.id = run.id)::integer FROM (
                SELECT id FROM decomp_table WHERE ledger_id = NEW.ledger_id AND series = of_series
                ORDER BY length(name) DESC, name DESC LIMIT 1
            ) AS run
            WHERE t.ledger_id = NEW.ledger_id AND t.series = of_series AND (t.newest = 1 OR t.id = run.id)
                AND t.newest <> (t.id = run.id)::integer
            RETURNING t.id, t.newest
        )
        UPDATE rule SET newest = marked.newest FROM marked WHERE rule.table_id = marked.id;
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION refuse_edit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the hub is append-only: % on % is refused', TG_OP, TG_TABLE_NAME USING ERRCODE = 'DL002';
END $$;

CREATE FUNCTION refuse_checkpoint() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = decomp_ledger, pg_temp AS $$
BEGIN
    PERFORM refuse_other_table(TG_RELID, 'decomp_ledger.checkpoint');
    PERFORM 1 FROM head WHERE ledger_id = NEW.ledger_id FOR UPDATE;
    IF NEW.number <> (SELECT count(*) FROM checkpoint WHERE ledger_id = NEW.ledger_id) + 1 THEN
        PERFORM refuse('a checkpoint does not follow the one before it');
    END IF;
    RETURN NEW;
END $$;

REVOKE EXECUTE ON FUNCTION accept_ledger(), accept_events(), refuse_checkpoint() FROM PUBLIC;
CREATE TRIGGER accept_ledger AFTER INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION accept_ledger();
CREATE TRIGGER accept_events AFTER INSERT ON event REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION accept_events();
CREATE TRIGGER checkpoint_follows BEFORE INSERT ON checkpoint FOR EACH ROW EXECUTE FUNCTION refuse_checkpoint();
CREATE TRIGGER mark_newest AFTER INSERT OR UPDATE OF series ON decomp_table
    FOR EACH ROW EXECUTE FUNCTION mark_newest();
"""

_REFUSE_EDIT = """
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_edit();
"""
_REFUSE_DERIVED = """
CREATE TRIGGER {table}_derived BEFORE INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION refuse_edit();
CREATE TRIGGER {table}_kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_edit();
"""

# For SQLite: triggers of one event, whose statements do the same in the same order.
# SQLite's JSON ends a text at NUL, and PostgreSQL has no text with it, so another character stands for it in both.
_WITHOUT_NUL = "replace({}, '\\u0000', '\\ufffd')"
_FIELD = f"json_extract({_WITHOUT_NUL.format('NEW.text')}, '$.{{}}')"
_KIND, _NAME, _VERSION = (_FIELD.format(name) for name in ("kind", "table", "version"))
_MAKES = f"{_KIND} IN ({_KINDS})"
_PARENT, _PARENT_VERSION = _FIELD.format("body.parent[0]"), _FIELD.format("body.parent[1]")
_RUN = f"rtrim({_NAME}, '0123456789')"  # the name of a recorded table without the number of its run
_DIGITS = f"(length({_NAME}) - length({_RUN}))"
_SERIES = f"""
CASE
    WHEN substr({_RUN}, -1) = '/' AND substr({_RUN}, -2, 1) <> '/' AND {_DIGITS} BETWEEN 1 AND 18
        AND substr({_NAME}, length({_RUN}) + 1, 1) <> '0'
        AND instr(substr({_RUN}, 2, length({_RUN}) - 2), '/') > 0
    THEN substr({_RUN}, 1, length({_RUN}) - 1)
    ELSE {_NAME}
END"""
_TABLE = f"(SELECT id FROM decomp_table WHERE ledger_id = NEW.ledger_id AND name = {_NAME})"


def _refuse(problem: str, condition: str) -> str:
    return f"SELECT RAISE(ABORT, 'DL001: {problem}') WHERE {condition}"


def _lacks(kind: str, digest: str) -> str:
    return f"NOT EXISTS (SELECT 1 FROM blob WHERE digest = {digest} AND kind = '{kind}')"


_BEFORE_EVENT = (
    _refuse(
        "an event does not follow the newest event of its ledger",
        "NOT EXISTS (SELECT 1 FROM head WHERE ledger_id = NEW.ledger_id AND seq = NEW.seq - 1 "
        "AND hash = NEW.prev_hash)",
    ),
    _refuse(
        "an event has facts that no event of this version of the hub has",
        f"NOT coalesce({_FIELD.format('seq')} = NEW.seq AND {_KIND} IN ({_KINDS}, {_OTHER_KINDS}) AND {_VERSION} >= 1 "
        f"AND length({_NAME}) BETWEEN 1 AND 500 AND length({_FIELD.format('recorded_at')}) BETWEEN 1 AND 40 "
        f"AND {_FIELD.format('actor')} IS NOT NULL, 0)",
    ),
)
_CREATE = (
    _refuse("an event creates a table that exists", f"{_TABLE} IS NOT NULL"),
    _refuse(
        "an event forks a version that does not exist before it",
        f"json_type(NEW.text, '$.body.parent') = 'array' AND NOT EXISTS (SELECT 1 FROM decomp_table AS p "
        f"JOIN event_fact AS f ON f.table_id = p.id AND f.version = {_PARENT_VERSION} AND f.makes_version = 1 "
        f"WHERE p.ledger_id = NEW.ledger_id AND p.name = {_PARENT})",
    ),
    f"""
    INSERT INTO decomp_table (ledger_id, name, series, base, parent_id, parent_version, version, from_dict)
    VALUES (
        NEW.ledger_id, {_NAME}, {_SERIES}, coalesce({_FIELD.format("body.base")}, ''),
        (SELECT id FROM decomp_table WHERE ledger_id = NEW.ledger_id AND name = {_PARENT}), {_PARENT_VERSION}, 0, 0
    )""",
    f"INSERT INTO lineage (table_id, depth, ancestor_id, until) SELECT {_TABLE}, 0, {_TABLE}, {_MAX}",
    f"""
    INSERT INTO lineage (table_id, depth, ancestor_id, until)
    SELECT t.id, l.depth + 1, l.ancestor_id, CASE l.depth WHEN 0 THEN t.parent_version ELSE l.until END
    FROM decomp_table AS t JOIN lineage AS l ON l.table_id = t.parent_id WHERE t.id = {_TABLE}""",
    f"""
    INSERT INTO rule (op_id, table_id, action, decomposition, origin_id, version, seq, newest)
    SELECT op_id, table_id, action, decomposition, origin_id, version, seq,
        (SELECT newest FROM decomp_table WHERE id = table_id) FROM (
        SELECT c.op_id, l.table_id, c.action, c.decomposition, c.table_id AS origin_id, c.version, c.seq,
            row_number() OVER (PARTITION BY c.op_id ORDER BY l.depth, c.version DESC) AS place
        FROM lineage AS l JOIN change AS c ON c.table_id = l.ancestor_id AND c.version <= l.until
        WHERE l.table_id = {_TABLE} AND l.depth > 0
    ) WHERE place = 1 AND action <> 'reset'""",
    # Where a table has the name of a series, the runs of the series are tables of their own.
    f"""
    UPDATE decomp_table SET series = name
    WHERE ledger_id = NEW.ledger_id AND series <> name AND (series = {_NAME} OR name = {_NAME} AND EXISTS (
        SELECT 1 FROM decomp_table AS other WHERE other.ledger_id = NEW.ledger_id AND other.name = decomp_table.series
    ))""",
)
_EVERY = (
    _refuse("the first event of a table is not the one that creates it", f"{_TABLE} IS NULL"),
    f"""
    INSERT INTO event_fact (ledger_id, seq, table_id, version, makes_version, kind, recorded_at, actor)
    VALUES (
        NEW.ledger_id, NEW.seq, {_TABLE}, {_VERSION}, {_MAKES}, {_KIND}, {_FIELD.format("recorded_at")},
        {_FIELD.format("actor")}
    )""",
    _refuse(
        "an event names an environment that the hub does not have", _lacks("environment", _FIELD.format("environment"))
    ),
    _refuse(
        "an event has a version that does not follow those of its table",
        """EXISTS (
        SELECT 1 FROM event_fact AS f JOIN decomp_table AS t ON t.id = f.table_id
        WHERE f.ledger_id = NEW.ledger_id AND f.seq = NEW.seq AND CASE f.makes_version
            WHEN 1 THEN f.version <> t.version + 1 OR (f.kind = 'created') <> (f.version = 1)
            ELSE f.version > t.version END
    )""",
    ),
    "UPDATE head SET seq = NEW.seq, hash = NEW.hash, last_at = " + _FIELD.format("recorded_at") + " "
    "WHERE ledger_id = NEW.ledger_id",
    f"""
    UPDATE decomp_table SET version = {_VERSION}, from_dict = ({_KIND} = 'passed')
    WHERE id = {_TABLE} AND {_MAKES}""",
)
# Triggers of `event_fact`, of events that the trigger above took.
_TEXT = f"(SELECT {_WITHOUT_NUL.format('text')} FROM event WHERE ledger_id = NEW.ledger_id AND seq = NEW.seq)"
_CHANGES = f"json_each({_TEXT}, '$.body.changes')"
_CHANGE = (
    _refuse(
        "an event names a decomposition that the hub does not have",
        f"""EXISTS (
        SELECT 1 FROM {_CHANGES} AS c WHERE json_extract(c.value, '$[2]') IS NOT NULL
        AND {_lacks("decomposition", "json_extract(c.value, '$[2]')")}
    )""",
    ),
    f"INSERT OR IGNORE INTO op (name) SELECT json_extract(c.value, '$[0]') FROM {_CHANGES} AS c",
    f"""
    INSERT INTO change (op_id, table_id, version, seq, action, decomposition)
    SELECT op.id, NEW.table_id, NEW.version, NEW.seq, json_extract(c.value, '$[1]'), json_extract(c.value, '$[2]')
    FROM {_CHANGES} AS c JOIN op ON op.name = json_extract(c.value, '$[0]')""",
    _refuse(
        "a change of an event names no op",
        f"""(SELECT count(*) FROM {_CHANGES})
        <> (SELECT count(*) FROM change WHERE table_id = NEW.table_id AND version = NEW.version)""",
    ),
    """
    DELETE FROM rule WHERE table_id = NEW.table_id
    AND op_id IN (SELECT op_id FROM change WHERE table_id = NEW.table_id AND version = NEW.version)""",
    """
    INSERT INTO rule (op_id, table_id, action, decomposition, origin_id, version, seq, newest)
    SELECT op_id, table_id, action, decomposition, table_id, version, seq,
        (SELECT newest FROM decomp_table WHERE id = NEW.table_id) FROM change
    WHERE table_id = NEW.table_id AND version = NEW.version AND action <> 'reset'""",
)
_CATALOG = (
    _refuse(
        "an event names a catalog that the hub does not have",
        _lacks("catalog", f"json_extract({_TEXT}, '$.body.catalog')"),
    ),
)
_EXPORT = (
    f"""
    INSERT INTO export (
        ledger_id, seq, table_id, version, module, file, failed, recorded_at, environment, git_commit, graph, catalog
    )
    SELECT
        NEW.ledger_id, NEW.seq, NEW.table_id, NEW.version, coalesce(json_extract(event, '$.body.module[0]'), ''),
        coalesce(json_extract(event, '$.body.module[1]'), ''),
        coalesce(json_type(event, '$.body.error') = 'array', 0), NEW.recorded_at, json_extract(event, '$.environment'),
        CASE json_type(environment, '$.git_commit') WHEN 'text' THEN json_extract(environment, '$.git_commit')
            ELSE '' END,
        coalesce(json_extract(event, '$.body.before'), ''), json_extract(event, '$.body.catalog')
    FROM (
        SELECT {_TEXT} AS event, (
            SELECT {_WITHOUT_NUL.format("body")} FROM blob
            WHERE digest = json_extract({_TEXT}, '$.environment') AND kind = 'environment'
        ) AS environment
    )""",
    """
    INSERT INTO program (table_id, module, file, git_commit, graph, seq, succeeded)
    SELECT table_id, module, file, git_commit, graph, seq, CASE failed WHEN 0 THEN seq END
    FROM export WHERE ledger_id = NEW.ledger_id AND seq = NEW.seq
    ON CONFLICT (table_id, module, file, git_commit, graph) DO UPDATE SET seq = excluded.seq,
        succeeded = coalesce(excluded.succeeded, succeeded)""",
)
# A new run takes the place of the one before it.
_NEWEST, _NEWEST_OF_OLD = (
    f"""
    UPDATE decomp_table SET newest = 1 - newest
    WHERE ledger_id = NEW.ledger_id AND series = {row}.series AND newest <> (id = (
        SELECT run.id FROM decomp_table AS run WHERE run.ledger_id = NEW.ledger_id AND run.series = {row}.series
        ORDER BY length(run.name) DESC, run.name DESC LIMIT 1
    ))"""
    for row in ("NEW", "OLD")
)
# SQLite runs the triggers of one moment in no promised order, so each of these has a moment of its own.
_SQLITE_TRIGGERS = (
    (
        "accept_ledger",
        "AFTER INSERT ON ledger",
        ("INSERT INTO head (ledger_id, seq, hash) VALUES (NEW.id, 0, NEW.genesis)",),
    ),
    (
        "checkpoint_follows",
        "BEFORE INSERT ON checkpoint",
        (
            _refuse(
                "a checkpoint does not follow the one before it",
                "NEW.number <> (SELECT count(*) FROM checkpoint WHERE ledger_id = NEW.ledger_id) + 1",
            ),
        ),
    ),
    ("event_follows", "BEFORE INSERT ON event", _BEFORE_EVENT),
    ("accept_table", f"BEFORE INSERT ON event WHEN {_KIND} = 'created'", _CREATE),
    ("new_table", "AFTER INSERT ON decomp_table", (_NEWEST,)),
    ("other_series", "AFTER UPDATE OF series ON decomp_table", (_NEWEST, _NEWEST_OF_OLD)),
    (
        "mark_newest",
        "AFTER UPDATE OF newest ON decomp_table WHEN NEW.newest <> OLD.newest",
        ("UPDATE rule SET newest = NEW.newest WHERE table_id = NEW.id",),
    ),
    ("accept_event", "AFTER INSERT ON event", _EVERY),
    ("accept_changes", "AFTER INSERT ON event_fact WHEN NEW.makes_version = 1 AND NEW.kind <> 'created'", _CHANGE),
    (
        "accept_catalog",
        "BEFORE INSERT ON event_fact WHEN NEW.kind IN ('materialized', 'exported', 'traced')",
        _CATALOG,
    ),
    ("accept_export", "AFTER INSERT ON event_fact WHEN NEW.kind = 'exported'", _EXPORT),
)


def _edit_triggers(table: str) -> list[str]:
    """Return the triggers that make SQLite refuse UPDATE, DELETE and REPLACE on a table."""
    same = {
        "ledger": "id = NEW.id OR ledger = NEW.ledger OR name = NEW.name",
        "blob": "digest = NEW.digest AND kind = NEW.kind",
        "event": "ledger_id = NEW.ledger_id AND seq = NEW.seq",
        "checkpoint": "ledger_id = NEW.ledger_id AND number = NEW.number",
    }[table]
    message = "DL002: the hub is append-only: {} on " + table + " is refused"
    return [
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{message.format(verb)}'); END"
        for verb in ("UPDATE", "DELETE")
    ] + [
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) "
        f"BEGIN SELECT RAISE(ABORT, 'DL002: a row of {table} exists already'); END"
    ]


# For people. decomp_ledger itself reads none of them.
_VIEWS = {
    "ledgers": """
SELECT ledger.name AS name, ledger.ledger AS ledger, ledger.created_at AS created_at, head.seq AS events,
    head.last_at AS last_at, (SELECT count(*) FROM decomp_table AS t WHERE t.ledger_id = ledger.id) AS tables
FROM ledger JOIN head ON head.ledger_id = ledger.id""",
    "changes": """
SELECT ledger.name AS ledger, f.seq AS seq, t.name AS table_name, c.version AS version, f.recorded_at AS recorded_at,
    f.kind AS kind, f.actor AS actor, op.name AS op, c.action AS action, c.decomposition AS decomposition
FROM change AS c
JOIN op ON op.id = c.op_id
JOIN decomp_table AS t ON t.id = c.table_id
JOIN ledger ON ledger.id = t.ledger_id
JOIN event_fact AS f ON f.ledger_id = t.ledger_id AND f.seq = c.seq""",
    "current_rules": """
SELECT ledger.name AS ledger, t.name AS table_name, t.version AS version, t.from_dict AS from_dict, op.name AS op,
    r.action AS action, r.decomposition AS decomposition, r.seq AS seq, f.recorded_at AS recorded_at, f.actor AS actor
FROM rule AS r
JOIN op ON op.id = r.op_id
JOIN decomp_table AS t ON t.id = r.table_id
JOIN ledger ON ledger.id = t.ledger_id
JOIN event_fact AS f ON f.ledger_id = t.ledger_id AND f.seq = r.seq""",
    "exports": """
SELECT ledger.name AS ledger, x.seq AS seq, t.name AS table_name, x.version AS version, x.module AS module,
    x.file AS file, x.recorded_at AS recorded_at, f.actor AS actor,
    CASE x.failed WHEN 1 THEN 'failed' ELSE 'lowered' END AS result, {torch} AS torch
FROM export AS x
JOIN decomp_table AS t ON t.id = x.table_id
JOIN ledger ON ledger.id = x.ledger_id
JOIN event_fact AS f ON f.ledger_id = x.ledger_id AND f.seq = x.seq
JOIN blob ON blob.digest = x.environment AND blob.kind = 'environment'""",
    # One row for each program, as decomp_ledger/analysis/programs.py decides it.
    "programs": """
SELECT newest.ledger AS ledger, newest.series AS series, newest.module AS module, newest.file AS file,
    newest.git_commit AS git_commit, newest.graph AS graph, newest.seq AS newest_export,
    newest.succeeded AS newest_success, x.recorded_at AS recorded_at
FROM (
    SELECT ledger.name AS ledger, t.ledger_id, t.series, p.module, p.file, p.git_commit, p.graph, p.seq, p.succeeded,
        first_value(p.git_commit) OVER (PARTITION BY p.table_id, p.module, p.file ORDER BY p.seq DESC) AS last_commit
    FROM program AS p
    JOIN decomp_table AS t ON t.id = p.table_id AND t.newest = 1
    JOIN ledger ON ledger.id = t.ledger_id
) AS newest
JOIN export AS x ON x.ledger_id = newest.ledger_id AND x.seq = newest.seq
WHERE newest.git_commit = newest.last_commit""",
}
_TORCH = {
    "postgresql": "CASE WHEN position('\\u0000' IN blob.body) = 0 THEN blob.body::json ->> 'torch' END",
    "sqlite": "json_extract(blob.body, '$.torch')",
}


def _statements(dialect: str) -> list[str]:
    """Return the statements that make the schema."""
    types = {"postgresql": _POSTGRESQL_TYPES, "sqlite": _SQLITE_TYPES}[dialect]
    tables = [text.strip() for text in _TABLES.format(**types).split(";\n") if text.strip()]
    views = [f"CREATE VIEW {name} AS{text.format(torch=_TORCH[dialect])}" for name, text in _VIEWS.items()]
    if dialect == "postgresql":
        edits = [_REFUSE_EDIT.format(table=table) for table in WRITTEN]
        derived = [_REFUSE_DERIVED.format(table=table) for table in DERIVED]
        return [_POSTGRESQL_UTF8, *tables, _POSTGRESQL_TRIGGERS, *edits, *derived, *views]
    triggers = [
        f"CREATE TRIGGER {name} {moment} BEGIN\n{';'.join(statements)};\nEND"
        for name, moment, statements in _SQLITE_TRIGGERS
    ]
    edits = [text for table in WRITTEN for text in _edit_triggers(table)]
    return [f"PRAGMA application_id = {APPLICATION_ID}", *tables, *triggers, *edits, *views]


def apply(run: Callable[[str], object], dialect: str) -> None:
    """Create the hub.

    Args:
        run: executes SQL.
        dialect: `postgresql`, where the schema `decomp_ledger` exists and is the search path; or `sqlite`.
    """
    for statement in _statements(dialect):
        run(statement)
