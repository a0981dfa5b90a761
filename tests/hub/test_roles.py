"""What a hub lets a writer and a reader do, and who cannot be fooled by a damaged or foreign database."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forging import rechain, tamper
from postgresql import Server
from strategies import new_table, override

from decomp_ledger import Hub, clone
from decomp_ledger.errors import HubError, LedgerError, LedgerFileError, SchemaError
from decomp_ledger.hub.connection import connect
from decomp_ledger.hub.migrations import READER, WRITER
from decomp_ledger.ledger import Ledger

Ledgers = Callable[..., Ledger]


@pytest.fixture
def users(server: Server, postgresql_hub: str) -> Callable[[str], str]:
    """Return the address of the hub for a user who is in the role of the writer or the reader."""

    def user(role: str) -> str:
        name = f"a_{role}"
        with server.connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
                connection.execute(f"CREATE USER {name}; GRANT {role} TO {name}")
        return postgresql_hub.replace("//postgres@", f"//{name}@")

    return user


def test_a_writer_pushes_and_a_reader_reads(users: Callable[[str], str], tmp_path: Path, ledgers: Ledgers) -> None:
    writer, reader = users(WRITER), users(READER)
    assert ledgers().push(writer, name="mine").sent == 2
    assert [each.events for each in Hub(reader).ledgers()] == [2]
    assert Hub(reader).verify().ok
    clone("mine", reader, tmp_path / "clone.db")
    with pytest.raises(HubError, match=r"permission denied.*ask for the role decomp_ledger_writer"):
        ledgers("other").push(reader)
    with pytest.raises(HubError, match="permission denied"):
        Hub(reader.replace(f"a_{READER}", f"a_{WRITER}")).init()


FORGERIES = {
    "an event is changed": "UPDATE event SET text = 'x'",
    "an event is deleted": "DELETE FROM event WHERE seq = 2",
    "the events are emptied": "TRUNCATE event CASCADE",
    "a name is changed": "UPDATE ledger SET name = 'theirs'",
    "a blob is changed": "UPDATE blob SET body = '{}'",
    "a head is moved": "UPDATE head SET seq = 1",
    "a head is made": "INSERT INTO head VALUES (77, 0, '')",
    "a rule is added": "INSERT INTO rule VALUES (1, 1, 'preserve', NULL, 1, 1, 1, 1)",
    "a rule is removed": "DELETE FROM rule",
    "a change is added": "INSERT INTO change VALUES (1, 1, 9, 9, 'preserve', NULL)",
    "an export is added": "INSERT INTO export SELECT 1, 9, 1, 1, '', '', 0, '', '', ''",
    "a row id is taken": "INSERT INTO ledger (id, ledger, created_at, name) OVERRIDING SYSTEM VALUE "
    "VALUES (9, repeat('a', 32), '2026', 'x')",
    "a trigger is turned off": "ALTER TABLE event DISABLE TRIGGER ALL",
    "triggers are turned off": "SET session_replication_role = replica",
    "the function is replaced": "CREATE OR REPLACE FUNCTION refuse(problem text) RETURNS void LANGUAGE sql AS ''",
    "the table is dropped": "DROP TABLE event CASCADE",
    "a rule rewrites inserts": "CREATE RULE r AS ON INSERT TO event DO INSTEAD NOTHING",
    "a blob that is not its digest": "INSERT INTO blob VALUES (repeat('a', 64), 'environment', '{}')",
    "an update in an upsert": "INSERT INTO event SELECT * FROM event "
    "ON CONFLICT (ledger_id, seq) DO UPDATE SET text = 'x'",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_writer_cannot_forge(users: Callable[[str], str], ledgers: Ledgers, name: str) -> None:
    writer = users(WRITER)
    ledgers().push(writer)
    with connect(writer, write=True) as connection, pytest.raises(HubError), connection.transaction():
        connection.run(FORGERIES[name].replace(":", r"\:"))
    assert Hub(writer).verify().ok


def event_of(ledger: Ledger, **changed: object) -> tuple[Any, ...]:
    """Return the row of a third event, as someone would write it who knows how events are hashed."""
    last = list(ledger.events())[-1]
    fields = json.loads(next(line for line in ledger.dump_lines() if '"seq":2' in line))["event"]
    previous = bytes.fromhex(fields.pop("hash"))
    fields.pop("prev_hash")
    body = {"changes": [["aten::add.Tensor", "preserve"]]}
    fields |= {"seq": 3, "version": 3, "body": body, "actor": last.actor, **changed}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return 1, 3, text, previous, hashlib.sha256(previous + text.encode()).digest()


WRONG_EVENTS = {
    "another number in the text": {"seq": 4},
    "a version that is taken": {"version": 2},
    "a version that comes later": {"version": 4},
    "a table that does not exist": {"table": "other"},
    "a table that exists is created": {"kind": "created", "body": {"base": "torch"}},
    "a fork of a table that does not exist": {
        "table": "f", "version": 1, "kind": "created", "body": {"base": "torch", "parent": ["no", 1]}
    },
    "a fork of a version that does not exist": {
        "table": "f", "version": 1, "kind": "created", "body": {"base": "torch", "parent": ["edge", 9]}
    },
    "a kind of another version": {"kind": "eaten"},
    "an environment that is missing": {"environment": "a" * 64},
    "an environment that is not a digest": {"environment": "x"},
    "a decomposition that is missing": {"body": {"changes": [["aten::mm", "override", "a" * 64]]}},
    "an override without a decomposition": {"body": {"changes": [["aten::mm", "override"]]}},
    "an action of another version": {"body": {"changes": [["aten::mm", "forget"]]}},
    "an op twice": {"body": {"changes": [["aten::mm", "preserve"], ["aten::mm", "reset"]]}},
    "a catalog that is missing": {"kind": "materialized", "version": 2, "body": {"catalog": "a" * 64, "snapshot": "b"}},
    "an actor that is null": {"actor": None},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_EVENTS)
def test_an_event_that_no_ledger_has_is_refused(hub: str, ledgers: Ledgers, name: str) -> None:
    ledger = ledgers()
    ledger.push(hub)
    columns = ("ledger_id", "seq", "text", "prev_hash", "hash"), ("int4", "int8", "text", "bytea", "bytea")
    with connect(hub, write=True) as connection:
        if connection.dialect == "sqlite":
            connection.run("PRAGMA trusted_schema = ON")
        with pytest.raises(HubError, match="the hub refused what was sent"), connection.transaction():
            connection.insert("event", *columns, [event_of(ledger, **WRONG_EVENTS[name])])
        with connection.transaction():
            connection.insert("event", *columns, [event_of(ledger)])  # the same event, right
    assert Hub(hub).verify().ok


CHAINS = {
    "a gap": lambda row: (row[0], 4, *row[2:]),
    "a number that is taken": lambda row: (row[0], 2, *row[2:]),
    "another hash": lambda row: (*row[:4], bytes(32)),
    "another predecessor": lambda row: (*row[:3], bytes(32), hashlib.sha256(bytes(32) + row[2].encode()).digest()),
    "no ledger": lambda row: (77, *row[1:]),
    "text that is not JSON": lambda row: (*row[:2], "{", row[3], hashlib.sha256(row[3] + b"{").digest()),
}


@pytest.mark.parametrize("name", CHAINS)
def test_postgresql_refuses_what_does_not_continue_the_chain(postgresql_hub: str, ledgers: Ledgers, name: str) -> None:
    ledger = ledgers()
    ledger.push(postgresql_hub)
    columns = ("ledger_id", "seq", "text", "prev_hash", "hash"), ("int4", "int8", "text", "bytea", "bytea")
    with connect(postgresql_hub, write=True) as connection, pytest.raises(HubError), connection.transaction():
        connection.insert("event", *columns, [CHAINS[name](event_of(ledger))])
    assert Hub(postgresql_hub).verify().events == 2


EDITS = {
    "text": "UPDATE event SET text = replace(text, 'ann', 'eve') WHERE seq = 2",
    "cut": "DELETE FROM event WHERE seq = 3",
    "hash": "UPDATE event SET hash = zeroblob(32) WHERE seq = 2",
    "rule": "UPDATE rule SET action = 'override' WHERE op_id = 1",
    "rule removed": "DELETE FROM rule",
    "rule added": "INSERT INTO rule SELECT op_id, 9, action, decomposition, origin_id, version, seq, 1 FROM rule",
    "change": "UPDATE change SET seq = 1",
    "fact": "UPDATE event_fact SET actor = 'eve' WHERE seq = 2",
    "table": "UPDATE decomp_table SET version = 7",
    "lineage": "UPDATE lineage SET until = 1",
    "blob": "UPDATE blob SET body = '{}'",
    "blob removed": "DELETE FROM blob",
    "genesis": "UPDATE ledger SET created_at = '2020'",
    "head": "UPDATE head SET seq = 2",
}


@pytest.mark.parametrize("name", EDITS)
def test_verify_finds_what_someone_edited_in_the_file_of_a_hub(tmp_path: Path, ledgers: Ledgers, name: str) -> None:
    ledger, hub = ledgers(), str(tmp_path / "hub.db")
    override(new_table(ledger), "aten::gelu", "gelu")
    Hub(hub).init()
    ledger.push(hub)
    with sqlite3.connect(hub) as db:
        guards = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for trigger, _ in guards:
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute(EDITS[name])
        for _, sql in guards:
            db.execute(sql)
    found = Hub(hub).verify()
    assert not found.ok and found.problems[0].text


def test_a_damaged_ledger_is_refused_before_anything_is_sent(hub: str, ledgers: Ledgers, tmp_path: Path) -> None:
    ledger = ledgers()
    override(new_table(ledger), "aten::gelu", "gelu", reason="why")
    ledger.close()
    edits: dict[str, Any] = {
        "time": "UPDATE event SET recorded_at = '2020-01-01T00:00:00.000000Z' WHERE seq = 3",
        "body": "UPDATE event SET body = '{' WHERE seq = 3",
        "schema": "UPDATE event SET schema = 1 WHERE seq = 3",
        "gap": "DELETE FROM event WHERE seq = 2",
        "provenance": "DELETE FROM provenance WHERE id = 2",
        "environment": lambda db: (db.execute("UPDATE environment SET digest = zeroblob(32)"), None),
    }
    for name, edit in edits.items():
        path = shutil.copy(ledger.path, tmp_path / f"{name}.db")
        tamper(path, edit)
        with Ledger(path, read_only=True) as damaged, pytest.raises(LedgerError, match="run verify"):
            damaged.push(hub)
        assert Hub(hub).ledgers() == [], name


def test_a_ledger_that_was_rewritten_in_whole_differs(hub: str, ledgers: Ledgers) -> None:
    ledger = ledgers()
    ledger.push(hub)
    ledger.close()
    tamper(Path(ledger.path), lambda db: (db.execute("UPDATE provenance SET actor = 'eve'"), rechain(db)))
    with Ledger(ledger.path) as forged:
        assert forged.verify().ok
        with pytest.raises(HubError, match="differs from this ledger from event #1 on"):
            forged.push(hub)


def test_a_database_without_a_hub_is_named(empty_hub: str, ledgers: Ledgers) -> None:
    if "//" not in empty_hub:
        sqlite3.connect(empty_hub).execute("VACUUM").connection.close()
    with pytest.raises(HubError, match=r"has no hub; make one with `decomp-ledger hub init`"):
        ledgers().push(empty_hub)


def test_an_older_and_a_newer_hub_are_named(hub: str, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(hub, write=True) as connection, connection.transaction():
        connection.execute("INSERT INTO hub_migration VALUES ('9999_later', '2040')")
    for use in (ledgers().push, lambda url: Hub(url).ledgers(), lambda url: Hub(url).init()):
        with pytest.raises(SchemaError, match="a newer decomp_ledger made the hub"):
            use(hub)
    names = ("0001_initial", "9999_later", "9999_much_later")
    monkeypatch.setattr("decomp_ledger.hub.migrations.migration_names", lambda: names)
    with pytest.raises(HubError, match="an older decomp_ledger made the hub; bring it up with"):
        Hub(hub).ledgers()


def test_a_hub_is_not_taken_for_a_ledger_nor_a_ledger_for_a_hub(tmp_path: Path, ledgers: Ledgers) -> None:
    hub, ledger = str(tmp_path / "hub.db"), ledgers()
    Hub(hub).init()
    with pytest.raises(LedgerFileError, match="it is a hub, not a ledger"):
        Ledger(hub)
    for use in (Hub(ledger.path).init, Hub(ledger.path).ledgers, lambda: ledger.push(ledger.path)):
        with pytest.raises(HubError, match="it is a ledger, not a hub"):
            use()
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(HubError, match="another program's database, not a hub"):
        Hub(str(tmp_path / "other.db")).init()


def test_a_hub_file_with_a_trigger_of_its_own_is_refused(tmp_path: Path, ledgers: Ledgers) -> None:
    hub = str(tmp_path / "hub.db")
    Hub(hub).init()
    sqlite3.connect(hub).execute("CREATE TRIGGER t AFTER INSERT ON op BEGIN SELECT 1; END").connection.close()
    with pytest.raises(HubError, match="its tables or triggers are not those of a hub"):
        ledgers().push(hub)


def test_a_user_who_may_not_make_roles_gets_what_to_run(server: Server) -> None:
    database = server.new_database()
    with server.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS plain")
        connection.execute(f"CREATE USER plain; GRANT CREATE ON DATABASE {database} TO plain")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("decomp_ledger.hub.migrations.WRITER", "no_such_writer")
            patch.setattr("decomp_ledger.hub.migrations.READER", "no_such_reader")
            done = Hub(server.url(database, "plain")).init()
        assert done.missing[:2] == ("CREATE ROLE no_such_writer NOLOGIN", "CREATE ROLE no_such_reader NOLOGIN")
        server.drop_database(database)
        connection.execute("DROP ROLE plain")
