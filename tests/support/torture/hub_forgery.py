"""Forgery of a PostgreSQL hub by the roles of its users: each is refused, or found by `verify`."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from strategies import new_table

from decomp_ledger import clone
from decomp_ledger.errors import HubDiverged, HubError, LedgerError
from decomp_ledger.hub import push as pushing
from decomp_ledger.hub.migrations import READER, WRITER, init
from decomp_ledger.hub.verify import verify
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.canonical_json import canonical_json
from decomp_ledger.storage.migrations import hub_migrations_folder, load_migration
from torture.common import Row, Workspace, act, everything, lines_of
from torture.hub import unclear
from torture.postgres import Postgres, running

_REFUSED = "refused, nothing changed"
_FOUND = "found by `verify` of the hub, or of the owner's ledger or a clone"
_OWN = "an event of an own ledger, which verifies and can be cloned"
_HARMLESS = "without effect on what others read"
GOAL = "each refused with nothing changed, found by `verify`, or without effect on what others read and do"

_initial = load_migration(hub_migrations_folder(), "0001_initial")
WRITTEN, DERIVED = tuple(_initial.WRITTEN), tuple(_initial.DERIVED)
_TABLES = (*WRITTEN, *DERIVED, "hub_migration")
_OTHER_KINDS = ("tagged", "saved", "exported", "materialized")  # that make no version
_OTHER = "0" * 64

# What must stay: every row, and what guards them.
_ROWS = "SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM decomp_ledger.{} AS t"
_GUARDS = """
SELECT md5(string_agg(x, '|' ORDER BY x)) FROM (
    SELECT concat_ws(' ', p.oid::regprocedure, prosrc, proacl, proconfig, prosecdef) AS x
    FROM pg_proc AS p WHERE pronamespace = 'decomp_ledger'::regnamespace
    UNION ALL SELECT concat_ws(' ', oid::regclass, relkind, relacl, relowner, relrowsecurity, relhasrules)
    FROM pg_class WHERE relnamespace = 'decomp_ledger'::regnamespace
    UNION ALL SELECT concat_ws(' ', tgname, tgrelid::regclass, tgenabled, tgfoid::regprocedure) FROM pg_trigger
    WHERE tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'decomp_ledger'::regnamespace)
    UNION ALL SELECT concat_ws(' ', rolname, rolsuper, rolbypassrls, rolcreaterole) FROM pg_roles
    UNION ALL SELECT concat_ws(' ', roleid::regrole, member::regrole, admin_option) FROM pg_auth_members
    UNION ALL SELECT concat_ws(' ', nspname, nspacl) FROM pg_namespace WHERE nspname = 'decomp_ledger'
) AS guards
"""


@attrs.define
class Forger:
    """A connection with the writer's role, and what it knows of the hub.

    Attributes:
        connection: of psycopg, in autocommit mode.
        theirs: the row of a ledger that another user pushed.
        own: the row of a ledger that this user pushed.
    """

    connection: Any
    theirs: int
    own: int

    def run(self, *statements: str) -> None:
        """Execute statements."""
        for statement in statements:
            self.connection.execute(statement)

    def last(self, ledger: int) -> tuple[int, dict[str, Any], bytes]:
        """Return the seq, the text and the hash of the newest change of a ledger; its newest event follows nothing."""
        row = self.connection.execute(
            "SELECT seq, text, hash FROM decomp_ledger.event WHERE ledger_id = %s ORDER BY seq DESC LIMIT 1", [ledger]
        ).fetchone()
        return row[0], json.loads(row[1]), bytes(row[2])

    def add(self, text: str, seq: int, prev_hash: bytes, ledger: int | None = None, *, own_hash: bytes | None = None,
            copy: bool = False) -> None:  # fmt: skip
        """Insert a row into `event`."""
        row = [
            *(self.own if ledger is None else ledger, seq, text, prev_hash),
            own_hash or hashlib.sha256(prev_hash + text.encode(errors="surrogatepass")).digest(),
        ]
        if copy:
            with self.connection.cursor().copy("COPY decomp_ledger.event FROM STDIN") as into:
                into.write_row(row)
            return
        self.connection.execute("INSERT INTO decomp_ledger.event VALUES (%s, %s, %s, %s, %s)", row)

    def follow(self, ledger: int | None = None, encode: Callable[[Any], str] = canonical_json, *, copy: bool = False,
               **changed: Any) -> None:  # fmt: skip
        """Append an event like the newest one, with some of its facts changed; a body is updated, not replaced."""
        ledger = self.own if ledger is None else ledger
        seq, event, own_hash = self.last(ledger)
        event.update(seq=seq + 1, version=event["version"] + (changed.get("kind") not in _OTHER_KINDS))
        event["body"]["changes"] = [["mallory::op", "preserve"]]
        event["body"].update(changed.pop("body", {}))
        event.update({name: value for name, value in changed.items() if value is not _LEAVE_OUT})
        for name in [name for name, value in changed.items() if value is _LEAVE_OUT]:
            del event[name]
        self.add(encode(event), seq + 1, own_hash, ledger, copy=copy)

    def again(self, kind: str, **body: Any) -> None:
        """Append the newest event of a kind of the own ledger once more, with some facts of its body changed."""
        query = (
            "SELECT e.text FROM decomp_ledger.event AS e JOIN decomp_ledger.event_fact AS f USING (ledger_id, seq) "
            "WHERE ledger_id = %s AND f.kind = %s ORDER BY seq DESC LIMIT 1"
        )
        event = json.loads(self.connection.execute(query, [self.own, kind]).fetchone()[0])
        seq, _, own_hash = self.last(self.own)
        event["seq"] = seq + 1
        event["body"].update(body)
        self.add(canonical_json(event), seq + 1, own_hash)

    def blob(self, body: str, kind: str = "environment", digest: str | None = None) -> str:
        """Insert a row into `blob`; return its digest."""
        digest = hashlib.sha256(body.encode()).hexdigest() if digest is None else digest
        self.connection.execute("INSERT INTO decomp_ledger.blob VALUES (%s, %s, %s)", [digest, kind, body])
        return digest

    def a_digest(self, kind: str) -> str:
        """Return a digest that the hub has."""
        query = "SELECT digest FROM decomp_ledger.blob WHERE kind = %s ORDER BY digest LIMIT 1"
        return str(self.connection.execute(query, [kind]).fetchone()[0])


_LEAVE_OUT = object()
Forge = Callable[[Forger], object]


def _sql(*statements: str) -> Forge:
    return lambda forger: forger.run(*statements)


def _follow(**given: Any) -> Forge:
    return lambda forger: forger.follow(**given)


def _statements() -> Iterator[tuple[str, str, Forge]]:
    """Give what SQL statements try on each table, and on what guards them."""
    for table in _TABLES:
        name = f"decomp_ledger.{table}"
        column = "name" if table == "hub_migration" else {"blob": "body", "event": "text"}.get(table, "*")
        some = "ctid" if column == "*" else column
        verbs = {
            "UPDATE": f"UPDATE {name} SET {'ledger_id = ledger_id' if column == '*' else f'{column} = {column}'}",
            "DELETE": f"DELETE FROM {name}",
            "TRUNCATE": f"TRUNCATE {name} CASCADE",
            "MERGE": f"MERGE INTO {name} AS t USING (SELECT 1) AS x ON true WHEN MATCHED THEN DELETE",
            "DROP": f"DROP TABLE {name} CASCADE",
            "DISABLE TRIGGER": f"ALTER TABLE {name} DISABLE TRIGGER ALL",
            "DISABLE TRIGGER USER": f"ALTER TABLE {name} DISABLE TRIGGER USER",
            "ADD COLUMN": f"ALTER TABLE {name} ADD COLUMN evil text",
            "RENAME": f"ALTER TABLE {name} RENAME TO away",
            "OWNER": f"ALTER TABLE {name} OWNER TO mallory",
            "RULE": f"CREATE RULE evil AS ON INSERT TO {name} DO INSTEAD NOTHING",
            "TRIGGER": f"CREATE TRIGGER evil BEFORE INSERT ON {name} EXECUTE FUNCTION mallory.evil()",
            "POLICY": f"CREATE POLICY evil ON {name} USING (false)",
            "ROW SECURITY": f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
            "INHERITS": f"CREATE TEMP TABLE evil () INHERITS ({name})",
            "INDEX": f"CREATE INDEX evil ON {name} (({some}))",
            "LOCK": f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE",
            "FOR UPDATE": f"SELECT 1 FROM {name} FOR UPDATE",
        }
        for verb, statement in verbs.items():
            yield f"{verb} of '{table}'", _REFUSED, _sql(statement)
    for table in (*DERIVED, "hub_migration"):
        name = f"decomp_ledger.{table}"
        yield f"INSERT into '{table}'", _REFUSED, _sql(f"INSERT INTO {name} SELECT * FROM {name} LIMIT 1")
        yield f"COPY into '{table}'", _REFUSED, _copy(table)
    for table, key in (("event", "ledger_id, seq"), ("blob", "digest, kind"), ("checkpoint", "ledger_id, number")):
        name = f"decomp_ledger.{table}"
        column = {"event": "text", "blob": "body", "checkpoint": "body"}[table]
        insert = f"INSERT INTO {name} SELECT * FROM {name} ON CONFLICT"
        yield f"ON CONFLICT DO UPDATE of '{table}'", _REFUSED, _sql(f"{insert} ({key}) DO UPDATE SET {column} = ''")
        yield f"rows of '{table}' twice", _REFUSED, _sql(f"INSERT INTO {name} SELECT * FROM {name}")
    yield (
        "ON CONFLICT DO NOTHING of a number",
        _HARMLESS,
        _sql(
            "INSERT INTO decomp_ledger.event SELECT ledger_id, seq, text, prev_hash, hash FROM decomp_ledger.event "
            "ON CONFLICT DO NOTHING"
        ),
    )
    for statement in _POWERS:
        yield statement, _REFUSED, _sql(statement)
    for statement in _WITHOUT_EFFECT:
        yield statement, _HARMLESS, _sql(statement)


# What only an owner or an administrator may do.
_POWERS = (
    "SET session_replication_role = replica",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "ALTER ROLE mallory SUPERUSER",
    "GRANT pg_write_all_data TO mallory",
    "CREATE ROLE evil SUPERUSER",
    "ALTER SYSTEM SET session_replication_role = replica",
    "ALTER DATABASE CURRENT_DATABASE SET session_replication_role = replica",
    "ALTER SCHEMA decomp_ledger RENAME TO away",
    "DROP SCHEMA decomp_ledger CASCADE",
    "CREATE TABLE decomp_ledger.evil (x int)",
    "CREATE VIEW decomp_ledger.evil AS SELECT 1",
    "CREATE OR REPLACE VIEW decomp_ledger.exports AS SELECT 1",
    "CREATE FUNCTION decomp_ledger.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1'",
    "CREATE OPERATOR decomp_ledger.|| (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = mallory.evil_join)",
    "CREATE OR REPLACE FUNCTION decomp_ledger.accept_events() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "CREATE OR REPLACE FUNCTION decomp_ledger.utf8(value text) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea'",
    "ALTER FUNCTION decomp_ledger.accept_events() SECURITY INVOKER",
    "ALTER FUNCTION decomp_ledger.accept_events() SET search_path = mallory",
    "DROP FUNCTION decomp_ledger.refuse_edit() CASCADE",
    "SELECT decomp_ledger.accept_events()",
    "DROP TRIGGER accept_events ON decomp_ledger.event",
    "ALTER TABLE decomp_ledger.event DROP CONSTRAINT event_check",
    "ALTER TABLE decomp_ledger.ledger ALTER COLUMN genesis DROP EXPRESSION",
    "SELECT setval('decomp_ledger.ledger_id_seq', 1)",
    "SELECT nextval('decomp_ledger.ledger_id_seq')",
    "COPY decomp_ledger.event TO PROGRAM 'cat'",
    "COPY decomp_ledger.event FROM '/etc/passwd'",
    "SELECT pg_read_file('PG_VERSION')",
    "CREATE EXTENSION plpgsql SCHEMA decomp_ledger",
    "CREATE EVENT TRIGGER evil ON ddl_command_start EXECUTE FUNCTION mallory.evil()",
    "CREATE PUBLICATION evil FOR TABLE decomp_ledger.event",
    "REASSIGN OWNED BY postgres TO mallory",
    "COMMENT ON TABLE decomp_ledger.event IS 'evil'",
    "DO $$ BEGIN PERFORM set_config('session_replication_role', 'replica', true); END $$",
    "BEGIN; PREPARE TRANSACTION 'evil'",
    # A function with the rights of the hub's owner, called for rows of this user's own table.
    "CREATE TEMP TABLE fake (ledger_id int, seq bigint, text text, prev_hash bytea, hash bytea); "
    "CREATE TRIGGER fake AFTER INSERT ON fake REFERENCING NEW TABLE AS added FOR EACH STATEMENT "
    "EXECUTE FUNCTION decomp_ledger.accept_events(); "
    "INSERT INTO fake SELECT ledger_id, seq + 1, replace(text, '\"seq\":' || seq, '\"seq\":' || seq + 1), hash, ''"
    " FROM decomp_ledger.event WHERE (ledger_id, seq) IN (SELECT ledger_id, seq FROM decomp_ledger.head)",
    "CREATE TEMP TABLE fake (id int, genesis bytea); CREATE TRIGGER fake AFTER INSERT ON fake FOR EACH ROW "
    "EXECUTE FUNCTION decomp_ledger.accept_ledger(); INSERT INTO fake VALUES (1000, '')",
    "CREATE TEMP TABLE fake (ledger_id int, number int); CREATE TRIGGER fake BEFORE INSERT ON fake FOR EACH ROW "
    "EXECUTE FUNCTION decomp_ledger.refuse_checkpoint(); INSERT INTO fake VALUES (1, 1000)",
    "SELECT decomp_ledger.separate_runs(1, 'edge0')",
)
# What anybody may say to a server.
_WITHOUT_EFFECT = (
    "GRANT UPDATE ON decomp_ledger.event TO mallory",
    "REVOKE ALL ON decomp_ledger.event FROM PUBLIC",
    "SET CONSTRAINTS ALL DEFERRED",
    "SET search_path = mallory, pg_catalog, decomp_ledger",
    "SET row_security = off",
    "SELECT pg_advisory_lock(1, 1)",
    "BEGIN; LOCK TABLE decomp_ledger.event IN ROW EXCLUSIVE MODE; ROLLBACK",
    "ALTER DEFAULT PRIVILEGES GRANT UPDATE ON TABLES TO mallory",
    "CREATE TEMP VIEW event AS SELECT 1",
)
# Names that the functions of the hub use, taken by others that are found first.
_SHADOWS = {
    "temporary tables": "".join(f"CREATE TEMP TABLE {table} (ledger_id int, x text);" for table in (*_TABLES, "added")),
    "temporary functions": """
        CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1';
        CREATE FUNCTION pg_temp.convert_to(text, name) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$;""",
    "functions of a schema": """
        CREATE FUNCTION mallory.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1';
        CREATE FUNCTION mallory.convert_to(text, text) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$;
        CREATE FUNCTION mallory.convert_to(text, name) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$;
        CREATE FUNCTION mallory.refuse(text) RETURNS void LANGUAGE sql AS 'SELECT';
        CREATE FUNCTION mallory.length(text) RETURNS int LANGUAGE sql AS 'SELECT 1';""",
    "operators of a schema": """
        CREATE FUNCTION mallory.yes(bytea, bytea) RETURNS bool LANGUAGE sql AS 'SELECT true';
        CREATE FUNCTION mallory.no(bytea, bytea) RETURNS bool LANGUAGE sql AS 'SELECT false';
        CREATE OPERATOR mallory.= (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = mallory.yes);
        CREATE OPERATOR mallory.<> (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = mallory.no);
        CREATE OPERATOR mallory.|| (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = mallory.evil_join);""",
}
_PATHS = ("mallory, pg_catalog, decomp_ledger", "pg_temp, mallory, pg_catalog, decomp_ledger")


def _copy(table: str) -> Forge:
    def work(forger: Forger) -> None:
        with forger.connection.cursor().copy(f"COPY decomp_ledger.{table} FROM STDIN") as into:
            into.write(b"\\N\n")

    return work


def _shadowed(shadow: str, path: str, work: Forge) -> Forge:
    def forge(forger: Forger) -> None:
        forger.run("BEGIN", *filter(str.strip, shadow.split(";\n")), f"SET LOCAL search_path = {path}")
        work(forger)
        forger.run("COMMIT")

    return forge


def _wrong_hash(forger: Forger) -> None:
    seq, event, own_hash = forger.last(forger.own)
    event.update(seq=seq + 1, version=event["version"] + 1)
    forger.add(canonical_json(event), seq + 1, own_hash, own_hash=bytes(32))


def _wrong_previous(forger: Forger) -> None:
    seq, event, _ = forger.last(forger.own)
    event.update(seq=seq + 1, version=event["version"] + 1)
    forger.add(canonical_json(event), seq + 1, bytes(32))


def _gap(by: int) -> Forge:
    def forge(forger: Forger) -> None:
        seq, event, own_hash = forger.last(forger.own)
        event.update(seq=seq + by, version=event["version"] + 1)
        forger.add(canonical_json(event), seq + by, own_hash)

    return forge


def _other_number(forger: Forger) -> None:
    seq, event, own_hash = forger.last(forger.own)
    event.update(seq=seq + 7, version=event["version"] + 1)
    forger.add(canonical_json(event), seq + 1, own_hash)


def _new_ledger(forger: Forger, **columns: str) -> int:
    given = {"ledger": "ab" * 16, "created_at": "2026-01-01T00:00:00Z", "name": "evil", **columns}
    names, marks = ", ".join(given), ", ".join(["%s"] * len(given))
    query = f"INSERT INTO decomp_ledger.ledger ({names}) VALUES ({marks}) RETURNING id"
    return int(forger.connection.execute(query, [*given.values()]).fetchone()[0])


def _first_event(genesis: bytes | None, *, block: bool = True) -> Forge:
    """Begin a ledger with the first event of another one."""

    def forge(forger: Forger) -> None:
        query = "SELECT text, prev_hash FROM decomp_ledger.event WHERE ledger_id = %s AND seq = 1"
        text, theirs = forger.connection.execute(query, [forger.theirs]).fetchone()
        forger.run(*(["BEGIN"] if block else []))
        made = _new_ledger(forger)
        forger.add(text, 1, bytes(theirs) if genesis is None else genesis, made)
        forger.run(*(["COMMIT"] if block else []))

    return forge


def _whole_chain(forger: Forger) -> None:
    """Copy the events of another ledger into a new one."""
    forger.run("BEGIN")
    made = _new_ledger(forger)
    forger.run(
        f"INSERT INTO decomp_ledger.event SELECT {made}, seq, text, prev_hash, hash FROM decomp_ledger.event "
        f"WHERE ledger_id = {forger.theirs}",
        "COMMIT",
    )


def _with_environment(body: str, kind: str = "environment") -> Forge:
    def forge(forger: Forger) -> None:
        forger.run("BEGIN")
        forger.follow(environment=forger.blob(body, kind))
        forger.run("COMMIT")

    return forge


def _shuffled(event: Any) -> str:
    return json.dumps(dict(reversed(event.items())), separators=(",", ":"), ensure_ascii=False)


def _twice(name: str, first: Any) -> Callable[[Any], str]:
    """Encode an event with one name twice: PostgreSQL reads the last value, as Python does; others read the first."""
    return lambda event: f'{{"{name}":{json.dumps(first)},{canonical_json(event)[1:]}'


def _checkpoint(number: int, body: str, *, theirs: bool = False) -> Forge:
    def forge(forger: Forger) -> None:
        ledger = forger.theirs if theirs else forger.own
        has = forger.connection.execute(
            "SELECT count(*) FROM decomp_ledger.checkpoint WHERE ledger_id = %s", [ledger]
        ).fetchone()[0]
        query = "INSERT INTO decomp_ledger.checkpoint VALUES (%s, %s, %s)"
        forger.connection.execute(query, [ledger, has + number, body])

    return forge


def _signed_twice(forger: Forger) -> None:
    """Repeat the last checkpoint of a ledger."""
    forger.run(
        "INSERT INTO decomp_ledger.checkpoint SELECT ledger_id, number + 1, body FROM decomp_ledger.checkpoint "
        f"WHERE ledger_id = {forger.theirs} ORDER BY number DESC LIMIT 1"
    )


def _rows() -> Iterator[tuple[str, str, Forge]]:
    """Give the rows that a writer may try to insert."""
    yield "a hash that is not that of the text", _REFUSED, _wrong_hash
    yield "an event that follows another one than the newest", _REFUSED, _wrong_previous
    for by in (0, -1, 2, 2**40):
        yield f"a number that is {by} after the newest", _REFUSED, _gap(by)
    yield "a text with another number than its row", _REFUSED, _other_number
    yield "a first event that follows nothing", _REFUSED, _first_event(bytes(32))
    yield "a first event of another ledger", _REFUSED, _first_event(None)
    yield "the whole chain of another ledger", _REFUSED, _whole_chain
    yield "own events after those of another ledger", _FOUND, lambda forger: forger.follow(forger.theirs)
    yield "COPY of an event after those of another ledger", _FOUND, lambda f: f.follow(f.theirs, copy=True)
    yield "COPY of an event with a version too many", _REFUSED, _follow(copy=True, version=10**6)
    for name, changed in _WRONG.items():
        yield f"an event with {name}", _REFUSED, _follow(**changed)
    for name, changed in _ODD.items():
        yield f"an event with {name}", _FOUND, _follow(**changed)
    for name, encode in {
        "spaces": json.dumps,
        "its names in another order": _shuffled,
        "a name twice": _twice("reason", "another"),
        "its number twice": _twice("seq", 1),
        "its table twice": _twice("table", "edge0"),
        "its kind twice": _twice("kind", "reset"),
        "escapes": lambda event: canonical_json(event).replace("mallory", "\\u006dallory"),
    }.items():
        yield f"a text with {name}", _FOUND, _follow(encode=encode)
    for name, text in {"no JSON": "{", "a list": "[]", "a number": "1", "nothing": "", "depth": "[" * 10**6}.items():
        yield (
            f"a text that is {name}",
            _REFUSED,
            lambda forger, text=text: forger.add(text, forger.last(forger.own)[0] + 1, forger.last(forger.own)[2]),
        )
    for kind in ("decomposition", "catalog"):
        yield (
            f"an environment that is a {kind}",
            _REFUSED,
            lambda forger, kind=kind: forger.follow(environment=forger.a_digest(kind)),
        )
        yield f"an environment, stored as a {kind}", _REFUSED, _with_environment('{"torch":"9"}', kind)
    for body in ("no JSON", '"\\ud800"', "[]", '{"torch":"\\ud800"}'):
        yield f"an environment that is {body}", _REFUSED, _with_environment(body)
    for body in ('{"torch": 1}', '{"torch":"9","torch":"8"}', '{"b":1,"a":2}'):
        yield f"an environment that is {body}", _FOUND, _with_environment(body)
    for body in ('{"torch":"\\u0000"}', '{"torch":[1]}', "{}"):
        yield f"an environment that is {body}", _OWN, _with_environment(body)
    for kind, digest in (("environment", _OTHER), ("catalog", _OTHER), ("evil", None), ("environment", "")):
        yield (
            f"a blob {kind} of digest {digest}",
            _REFUSED,
            lambda forger, kind=kind, digest=digest: forger.blob("{}", kind, digest),
        )
    yield (
        "a blob with a digest in upper case",
        _REFUSED,
        lambda forger: forger.blob("{}", digest=hashlib.sha256(b"{}").hexdigest().upper()),
    )
    yield "a blob of 9 MB", _REFUSED, lambda forger: forger.blob("x" * 9_000_000)
    yield "an op of an odd name", _FOUND, _follow(body={"changes": [["<script>", "preserve"]]})
    yield "a snapshot of another table", _FOUND, lambda forger: forger.again("materialized", snapshot=_OTHER)
    yield "a tag that moves", _FOUND, lambda forger: forger.again("tagged")
    # As an own ledger may have it: rows for people show another letter for NUL.
    yield "an event with an actor with NUL", _OWN, _follow(actor="\x00")
    yield "an event that is repeated", _OWN, lambda forger: forger.again("materialized")
    yield "a blob that nothing names", _HARMLESS, lambda forger: forger.blob('{"torch":"9"}')
    for columns in (
        {"ledger": "AB" * 16},
        {"ledger": "ab"},
        {"name": ""},
        {"name": "x" * 201},
        {"name": "theirs"},
        {"created_at": "evil"},
        {"created_at": '","ledger":"'},
        {"genesis": "x"},
        {"id": "1000"},
    ):
        yield f"a ledger with {columns}", _REFUSED, lambda forger, columns=columns: _new_ledger(forger, **columns)
    yield (
        "a ledger with a number of its own",
        _REFUSED,
        _sql(
            "INSERT INTO decomp_ledger.ledger (id, ledger, created_at, name) OVERRIDING SYSTEM VALUE "
            f"VALUES (1000, '{'cd' * 16}', '2026-01-01T00:00:00Z', 'evil')"
        ),
    )
    yield "a checkpoint that is not JSON", _FOUND, _checkpoint(1, "evil")
    yield "a checkpoint without a signature", _FOUND, _checkpoint(1, "{}", theirs=True)
    yield "a checkpoint twice", _FOUND, _signed_twice
    for number in (0, -1, 2):
        yield f"a checkpoint {number} after the newest", _REFUSED, _checkpoint(number, "{}")
    for (name, shadow), path in itertools.product(_SHADOWS.items(), _PATHS):
        for what, work in {"a wrong hash": _wrong_hash, "a wrong previous hash": _wrong_previous}.items():
            yield f"{what}, with {name} found first by {path[:8]}", _REFUSED, _shadowed(shadow, path, work)
        yield (
            f"a first event that follows nothing, with {name} found first by {path[:8]}",
            _REFUSED,
            _shadowed(shadow, path, _first_event(hashlib.sha256(b"").digest(), block=False)),
        )


# Facts that the hub refuses, and facts that only `verify` knows to be wrong.
_WRONG: dict[str, dict[str, Any]] = {
    "a version too many": {"version": 10**6},
    "version 0": {"version": 0},
    "a version that is text": {"version": "x"},
    "no version": {"version": _LEAVE_OUT},
    "an unknown kind": {"kind": "evil"},
    "no kind": {"kind": _LEAVE_OUT},
    "no actor": {"actor": None},
    "no environment": {"environment": None},
    "an environment that the hub lacks": {"environment": _OTHER},
    "a table that nothing created": {"table": "evil"},
    "a table without a name": {"table": ""},
    "a name of 501 letters": {"table": "x" * 501},
    "a table created twice": {"kind": "created", "version": 1},
    "a new table at version 2": {"kind": "created", "table": "evil", "version": 2},
    "a fork of nothing": {"kind": "created", "table": "evil", "version": 1, "body": {"parent": ["none", 1]}},
    "a fork of a version to come": {"kind": "created", "table": "evil", "version": 1,
                                    "body": {"parent": ["edge0", 10**6]}},
    "an override that the hub lacks": {"body": {"changes": [["a::b", "override", _OTHER]]}},
    "an override without a digest": {"body": {"changes": [["a::b", "override"]]}},
    "a preserved op with a digest": {"body": {"changes": [["a::b", "preserve", _OTHER]]}},
    "an unknown action": {"body": {"changes": [["a::b", "evil"]]}},
    "an op twice": {"body": {"changes": [["a::b", "preserve"], ["a::b", "reset"]]}},
    "an op without a name": {"body": {"changes": [[None, "preserve"]]}},
    "changes that are not a list": {"body": {"changes": {"a::b": "preserve"}}},
    "a change that is not a list": {"body": {"changes": ["preserve"]}},
    "a catalog that the hub lacks": {"kind": "materialized", "body": {"catalog": _OTHER}},
    "a catalog without a digest": {"kind": "exported", "body": {"catalog": None}},
}  # fmt: skip
_ODD: dict[str, dict[str, Any]] = {
    "a schema to come": {"schema": 99},
    "a schema that is text": {"schema": "x"},
    "no reason": {"reason": _LEAVE_OUT},
    "a fact more": {"evil": 1},
    "a date that is not one": {"recorded_at": "yesterday"},
    "a call site that is a number": {"call_site": 5},
    "an op with NUL": {"body": {"changes": [["a::\x00", "preserve"]]}},
    "an op of a megabyte": {"body": {"changes": [["a::" + "b" * 2000, "preserve"]]}},
    "a tag of nothing": {"kind": "tagged"},
    "a body without its facts": {"kind": "saved"},
}


@attrs.define
class _Hub:
    """A hub with two ledgers, and the users of it."""

    server: Postgres
    folder: Path
    database: str = ""
    number: int = 0

    def make(self) -> None:
        server = self.server
        server.execute("CREATE DATABASE made")
        init(server.url("made"))
        for user, role in (("mallory", WRITER), ("rita", READER), ("ann", WRITER)):
            server.execute(f"CREATE ROLE {user} LOGIN IN ROLE {role}")
        server.execute(
            "CREATE SCHEMA mallory AUTHORIZATION mallory",
            "CREATE FUNCTION mallory.evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "CREATE FUNCTION mallory.evil_join(bytea, bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1'",
            database="made",
        )
        everything(self.folder / "theirs.db", 2)
        everything(self.folder / "own.db", 1)
        for name, user in (("theirs", "ann"), ("own", "mallory")):
            with Ledger(self.folder / f"{name}.db", actor=user) as ledger:
                act(new_table(ledger, "last"), 1, name)
                pushing.push(ledger, server.url("made", user), name=name)

    def fresh(self) -> None:
        """Use a database as it was made."""
        if self.database:
            self.server.execute(f"DROP DATABASE {self.database} WITH (FORCE)")
        self.number += 1
        self.database = f"hub{self.number}"
        self.server.execute(f"CREATE DATABASE {self.database} TEMPLATE made")

    def contents(self) -> dict[str, str]:
        """Return a digest of each table, and of what guards them."""
        with self.server.connect(self.database) as connection:
            found = {table: connection.execute(_ROWS.format(table)).fetchone()[0] for table in _TABLES}
            return {**found, "guards": connection.execute(_GUARDS).fetchone()[0]}

    def forger(self, connection: Any) -> Forger:
        ids = dict(connection.execute("SELECT name, id FROM decomp_ledger.ledger").fetchall())
        return Forger(connection, ids["theirs"], ids["own"])

    def tried(self, work: Forge, user: str) -> str:
        """Try a forgery as a user; return the error of the server, or ""."""
        import psycopg

        with self.server.connect(self.database, user) as connection:
            forger = self.forger(connection)
            try:
                work(forger)
            except psycopg.Error as error:
                return str(error) or type(error).__name__
            finally:
                with contextlib.suppress(psycopg.Error):
                    connection.rollback()
        return ""

    def found(self) -> str:
        """Return what `verify` finds in the hub, or in a ledger of the owner that is compared with it."""
        url = self.server.url(self.database)
        problems = [str(each) for each in verify(url).problems]
        with Ledger(self.folder / "theirs.db", read_only=True) as ledger:
            problems += [str(each) for each in ledger.verify(hub=url).problems]
        if not problems:
            copy = self.folder / f"found {self.number}.db"
            try:
                clone("own", url, copy)
            except HubError as error:
                problems.append(unclear(str(error), str(error)) or f"a clone: {error}")
            copy.unlink(missing_ok=True)
        return "; ".join(problems)

    def unusable(self) -> str:
        """Return what the owner of the other ledger, or a reader, can no longer do; "" if nothing."""
        for view in _initial._VIEWS:
            try:
                with self.server.connect(self.database, "rita") as connection:
                    connection.execute(f"SELECT * FROM decomp_ledger.{view}").fetchall()
            except Exception as error:
                return f"the view '{view}': {error!s:.200}"
        return ""

    def goes_on(self) -> str:
        """Push and clone the other ledger; return what is wrong, or ""."""
        path, copy = self.folder / "theirs.db", self.folder / f"clone {self.number}.db"
        url = self.server.url(self.database, "ann")
        with Ledger(path, actor="ann") as ledger:
            ledger.table_log("last").preserve([f"ann::op{self.number}"])
            try:
                pushing.push(ledger, url)
                for name in ("own", "theirs"):
                    copy.unlink(missing_ok=True)
                    clone(name, self.server.url(self.database, "rita"), copy)
            except LedgerError as error:
                return f"the owner cannot go on: {error}"
            with Ledger(copy, read_only=True) as cloned:
                same = lines_of(cloned) == lines_of(ledger)
        copy.unlink()
        return "" if same and verify(url).ok else "the clone differs"


def _judge(hub: _Hub, expected: str, work: Forge, before: dict[str, str]) -> str:
    """Try one forgery; return what is wrong, or ""."""
    error = hub.tried(work, "mallory")
    changed = sorted(table for table, value in hub.contents().items() if value != before[table])
    if expected == _REFUSED:
        return "" if error and not changed else f"accepted; it changed {changed}"
    if error:
        return f"refused, which was not expected: {error!s:.200}"
    if "guards" in changed:
        return "it changed what guards the hub"
    if expected == _FOUND:
        return hub.unusable() or ("" if hub.found() else f"it changed {changed}, and nothing finds it")
    if expected == _HARMLESS and changed not in ([], ["blob"]):
        return f"it changed {changed}"
    return hub.unusable() or hub.found() or hub.goes_on()


def forgeries(workspace: Workspace) -> list[Row]:
    """Try each forgery with the role of a writer, and each write with that of a reader."""
    with running(workspace.folder / "server") as server:
        hub = _Hub(server, workspace.folder)
        hub.make()
        cases = [*_statements(), *_rows()]
        if not workspace.full:
            cases = [*cases[:: len(cases) // 40], *[case for case in cases if case[1] == _FOUND][::4]]
        wrong: list[str] = []
        counts: dict[str, int] = {}
        hub.fresh()
        before = hub.contents()
        for name, expected, work in cases:
            try:
                fault = _judge(hub, expected, work, before)
            except Exception as error:
                fault = f"{error!r:.200}"
            counts[expected] = counts.get(expected, 0) + 1
            wrong += [f"{name:.80}: {fault}"] if fault else []
            if hub.contents() != before:
                hub.fresh()
        note = "; ".join(f"{number} {expected}" for expected, number in counts.items())
        return [
            Row("forgery of a PostgreSQL hub with the writer's role", len(cases), GOAL, tuple(wrong), note),
            _reader(hub),
        ]


def _reader(hub: _Hub) -> Row:
    """Try to write with the role of a reader."""
    hub.fresh()
    before = hub.contents()
    cases: dict[str, Forge] = {
        "an event": _follow(),
        "COPY of an event": _follow(copy=True),
        "a ledger": _new_ledger,
        "a blob": lambda forger: forger.blob("{}"),
        "a checkpoint": _checkpoint(1, "{}"),
    }
    for name, expected, work in _statements():
        if expected == _REFUSED:
            cases[name] = work
    wrong = [f"{name:.80}: accepted" for name, work in cases.items() if not hub.tried(work, "rita")]
    with Ledger(hub.folder / "own.db", actor="rita") as ledger:
        act(new_table(ledger, "last"), 3, "rita")
        try:
            pushing.push(ledger, hub.server.url(hub.database, "rita"))
            wrong.append("a push: accepted")
        except HubDiverged as error:
            wrong.append(f"a push: {error}")
        except HubError as error:
            text = str(error)
            wrong += [fault] if (fault := unclear(text, text)) else []
            wrong += [] if "decomp_ledger_writer" in text else [f"a push: {text}"]
    wrong += [] if hub.contents() == before else ["something changed"]
    return Row("writes with the reader's role", len(cases) + 1, "each refused; a push names the role", tuple(wrong))


FAULTS = (forgeries,)
