"""An untouched ledger verifies; every later change in it is a problem that names the first event it concerns."""

import gc
import hashlib
import itertools
import json
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from forging import Edit, rechain, tamper
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import (
    catalog_of,
    decomposition,
    new_table,
    override,
)

from decomp_ledger.errors import LedgerError
from decomp_ledger.integrity.content_checks import check_contents
from decomp_ledger.integrity.problems import Problem, Problems
from decomp_ledger.integrity.verify import Verification
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.canonical_json import canonical_json, digest_of
from decomp_ledger.model.catalog import Catalog, pack
from decomp_ledger.model.events import PRESERVE, Change, Created, Materialized, Popped, encode_body
from decomp_ledger.model.hash_chain import genesis
from decomp_ledger.model.materialize import Snapshot, materialize
from decomp_ledger.model.rules import TableState
from decomp_ledger.storage import audit_rows

MM, ADD, LATE = "aten::mm", "aten::add.Tensor", "mylib::late"
LOG = (
    "ledger",
    "decomp_table",
    "op",
    "environment",
    "decomposition",
    "provenance",
    "event",
    "change",
    "tag",
    "catalog",
)
EVENTS = 11


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Name a ledger with every kind of event, and more than one row in every table of its log."""
    path = tmp_path_factory.mktemp("original") / "ledger.db"
    with Ledger(path, actor="ann") as ledger:
        edge = new_table(ledger)  # seq 1
        edge.preserve([MM, LATE], reason="fused kernel")  # 2
        override(edge, ADD, "add", reason="faster")  # 3
        ledger.actor = "bob"
        mobile = new_table(ledger, "mobile", "empty")  # 4
        override(mobile, MM, "mm")  # 5
        edge.tag("v1")  # 6
        mobile.tag("start", 1)  # 7
        edge.materialize(catalog_of(MM, ADD))  # 8
        mobile.materialize(catalog_of(MM, ADD, LATE))  # 9
        fork = edge.fork_as("fork")  # 10
        fork.reset([MM, LATE])  # 11
        assert ledger.verify() == Verification(EVENTS, list(ledger.events())[-1].hash)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """Name a copy of it that a test may edit."""
    return copy(original, tmp_path)


def copy(ledger: Path, folder: Path) -> Path:
    """Copy a ledger to a folder, over an earlier copy and its -wal and -shm files."""
    for old in folder.glob("ledger.db*"):
        old.unlink()
    return Path(shutil.copy(ledger, folder / "ledger.db"))


def verified(path: Path) -> Verification:
    """Verify a file; one that cannot be opened has a problem without an event."""
    try:
        with Ledger(path, lazy=True) as ledger:
            return ledger.verify()
    except LedgerError as error:
        return Verification(0, "", (Problem(None, str(error)),))


# Untouched ledgers


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ([], "nothing is wrong"),
        (["its hash differs"], "event #3: its hash differs"),
        (["its hash differs", "its kind is unknown"], "event #3: its hash differs (and 1 more)"),
        (["its hash differs"] * 20, "event #3: its hash differs (and 19 more)"),
    ],
)
def test_a_verification_shows_its_first_problem(texts: list[str], shown: str) -> None:
    found = Verification(11, "ab" * 32, tuple(Problem(3, text) for text in texts))
    assert repr(found) == f"<Verification of 11 events, up to {'ab' * 6}: {shown}>"


def test_an_untouched_ledger_verifies(path: Path) -> None:
    with Ledger(path, read_only=True) as ledger:
        result = ledger.verify()
        hashes = [event.hash for event in ledger.events()]
    assert result.ok
    assert result.to_json() == {"ok": True, "events": EVENTS, "head": hashes[-1], "problems": [], "signatures": []}


def test_an_empty_ledger_verifies() -> None:
    with Ledger(":memory:") as ledger:
        head = genesis(*ledger.event_store.identity()).hex()
        assert ledger.verify() == Verification(0, head)
        new_table(ledger)
        assert ledger.verify(expect=[head]).ok


def test_a_ledger_can_be_verified_within_a_transaction_and_while_another_writes(path: Path) -> None:
    with Ledger(path, actor="ann") as ledger, Ledger(path, actor="bob") as other:
        with ledger.database.write_transaction():
            ledger.table_log("edge").preserve(["aten::gelu"])
            assert ledger.verify().events == EVENTS + 1
            assert other.verify().events == EVENTS
        assert other.verify().events == EVENTS + 1


# Every column of every row


def other_value(value: object, of_type: str, column: str = "") -> object:
    """Return another value that a column can have."""
    if column == "makes_version":
        return 1 if value is None else None
    if value is None:
        return 1 if of_type == "INTEGER" else "x"
    if isinstance(value, int):
        return value + 1000
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    return {"preserve": "reset", "reset": "preserve", "override": "reset"}.get(str(value), f"{value}x")


def columns_of(ledger: Path) -> list[tuple[str, str, str]]:
    """Return (table, column, type) of all the log."""
    db = sqlite3.connect(ledger)
    found = [(table, row[1], row[2]) for table in LOG for row in db.execute(f"PRAGMA table_info({table})").fetchall()]
    db.close()
    return found


def keys_of(ledger: Path, table: str) -> tuple[str, list[tuple[object, ...]]]:
    """Return the WHERE clause that finds a row of a table by its primary key, and the keys of all rows."""
    db = sqlite3.connect(ledger)
    names = [row[1] for row in db.execute(f"PRAGMA table_info({table})").fetchall() if row[5]]
    keys = [tuple(row) for row in db.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall()]
    db.close()
    return " AND ".join(f"{name} = ?" for name in names), keys


def change_value(path: Path, table: str, column: str, of_type: str, clause: str, key: tuple[object, ...]) -> None:
    """Change one value of one row."""

    def edit(db: sqlite3.Connection) -> None:
        (before,) = db.execute(f"SELECT {column} FROM {table} WHERE {clause}", key).fetchone()
        db.execute(
            f"UPDATE {table} SET {column} = ? WHERE {clause}",
            [other_value(before, of_type, column), *key],
        )

    tamper(path, edit)


def test_any_value_that_is_changed_is_noticed(original: Path, tmp_path: Path) -> None:
    unnoticed = []
    for table, column, of_type in columns_of(original):
        clause, keys = keys_of(original, table)
        for key in keys:
            path = copy(original, tmp_path)
            change_value(path, table, column, of_type, clause, key)
            if verified(path).ok:
                unnoticed.append((table, column, key))
    # No other row refers to that number.
    assert unnoticed == []


@pytest.mark.parametrize("table", LOG)
def test_any_row_that_is_removed_is_missed(original: Path, tmp_path: Path, table: str) -> None:
    clause, keys = keys_of(original, table)
    unnoticed = []
    for key in keys:
        path = copy(original, tmp_path)
        tamper(path, f"DELETE FROM {table} WHERE {clause.replace('?', '{!r}').format(*key)}")
        if verified(path).ok:
            unnoticed.append(key)
    assert keys
    assert unnoticed == []


@pytest.mark.parametrize("column", ["table_id", "version", "kind", "schema", "recorded_at", "provenance_id", "body"])
@pytest.mark.parametrize("seq", [1, 2, 3, 6, 8, 11])
def test_the_first_event_that_was_changed_is_named(path: Path, column: str, seq: int) -> None:
    def edit(db: sqlite3.Connection) -> None:
        query = f"SELECT {column} FROM event WHERE {column} != (SELECT {column} FROM event WHERE seq = ?) LIMIT 1"
        found = db.execute(query, [seq]).fetchone()
        db.execute(f"UPDATE event SET {column} = ? WHERE seq = ?", [found[0] if found else 3, seq])

    tamper(path, edit)
    result = verified(path)
    assert not result.ok
    assert result.problems[0].seq == seq
    assert result.to_json()["problems"][0] == {"seq": seq, "text": result.problems[0].text}


# One kind of tampering after another


def rewrite_body(db: sqlite3.Connection, seq: int, body: str) -> None:
    """Replace the body of an event and recompute its hash, and no other hash."""
    db.execute("UPDATE event SET body = ? WHERE seq = ?", [body, seq])
    later = db.execute("SELECT seq, prev_hash, hash FROM event WHERE seq > ?", [seq]).fetchall()
    rechain(db, seq)
    db.executemany(
        "UPDATE event SET prev_hash = ?, hash = ? WHERE seq = ?", [(prev, own, at) for at, prev, own in later]
    )


POPPED_ADD = encode_body(Popped((Change(ADD, PRESERVE),)))
FORGED = (
    "INSERT INTO event SELECT {seq}, table_id, version + 1, makes_version, kind, schema, recorded_at, provenance_id, "
    "body, (SELECT hash FROM event WHERE seq = {prev}), zeroblob(32) FROM event WHERE seq = 2;"
)


def another_decomposition(db: sqlite3.Connection) -> None:
    """Replace a decomposition by another one with a correct digest, in a row of negative number."""
    body = canonical_json({"origin": "import", "module": "mypkg", "qualname": "evil"})
    row = db.execute("SELECT decomposition_id FROM change WHERE decomposition_id IS NOT NULL").fetchone()
    db.execute("INSERT INTO decomposition VALUES (-1, ?, ?)", [hashlib.sha256(body.encode()).digest(), body])
    db.execute("UPDATE change SET decomposition_id = -1 WHERE decomposition_id = ?", row)
    db.execute("DELETE FROM decomposition WHERE id = ?", row)


# name -> (edit, the first event that it makes wrong, text of that event's problems)
TAMPERINGS: dict[str, tuple[Edit | str, int | None, str]] = {
    "an actor": ("UPDATE provenance SET actor = 'eve' WHERE actor = 'bob'", 4, "content"),
    "a reason": ("UPDATE provenance SET reason = 'because' WHERE reason = 'faster'", 3, "content"),
    "a reason taken away": ("UPDATE provenance SET reason = NULL", 2, "content"),
    "a reason made up": ("UPDATE provenance SET reason = '' WHERE reason IS NULL", 1, "content"),
    "a call site": (
        "UPDATE provenance SET call_site = replace(call_site, ':', ': ')",
        1,
        "its call site cannot be read: it is not canonical JSON",
    ),
    "a call site taken away": ("UPDATE provenance SET call_site = NULL WHERE reason = 'faster'", 3, "content"),
    "two actors swapped": (
        "UPDATE provenance SET actor = CASE actor WHEN 'ann' THEN 'bob' ELSE 'ann' END",
        1,
        "content",
    ),
    "a table's name": ("UPDATE decomp_table SET name = 'phone' WHERE name = 'mobile'", 4, "content"),
    "an op's name": ("UPDATE op SET name = 'mylib::never' WHERE name = 'mylib::late'", 2, "mylib::late"),
    "two ops' names swapped": (
        f"UPDATE op SET name = 'x' WHERE name = '{MM}'; UPDATE op SET name = '{MM}' WHERE name = '{ADD}';"
        f"UPDATE op SET name = '{ADD}' WHERE name = 'x'",
        2,
        "the row of its change of",
    ),
    "two events swapped": (
        "UPDATE event SET seq = -1 WHERE seq = 2; UPDATE event SET seq = 2 WHERE seq = 3;"
        "UPDATE event SET seq = 3 WHERE seq = -1",
        2,
        "does not follow",
    ),
    "two bodies swapped": (
        lambda db: db.executemany(
            "UPDATE event SET body = ? WHERE seq = ?",
            [(db.execute("SELECT body FROM event WHERE seq = ?", [7 - n]).fetchone()[0], n) for n in (2, 5)],
        ),
        2,
        "content",
    ),
    "the first event removed": ("DELETE FROM event WHERE seq = 1", 1, "event 1 is missing"),
    "an event removed": ("DELETE FROM event WHERE seq = 5", 5, "event 5 is missing"),
    "an event removed and the others moved up": (
        "DELETE FROM event WHERE seq = 5; UPDATE event SET seq = -seq WHERE seq > 5;"
        "UPDATE event SET seq = -seq - 1 WHERE seq < 0",
        5,
        "does not follow",
    ),
    "the last event removed": ("DELETE FROM event WHERE seq = 11", 11, "2 rows of 'change' do not come from an event"),
    "all events removed": ("DELETE FROM event", 1, "6 rows of 'change' do not come from an event"),
    "a change given to an earlier event": (
        "UPDATE change SET table_id = 1, version = 3 WHERE (table_id, version) = (SELECT table_id, version "
        "FROM event WHERE seq = 11) AND op_id = (SELECT id FROM op WHERE name = 'mylib::late')",
        3,
        "1 rows of 'change' do not come from an event",
    ),
    "an unknown op, by a row of negative number": (
        f"UPDATE op SET id = -1, name = 'mylib::evil' WHERE name = '{MM}';"
        f"UPDATE change SET op_id = -1 WHERE op_id NOT IN (SELECT id FROM op)",
        2,
        "the row of its change of aten::mm does not match it",
    ),
    "an unknown decomposition, by a row of negative number": (
        another_decomposition,
        3,
        "the row of its change of aten::add.Tensor",
    ),
    "an event of a newer version after the last": (
        "INSERT INTO event SELECT 12, table_id, version, makes_version, kind, 8, recorded_at, provenance_id, body, "
        "prev_hash, hash FROM event WHERE seq = 1",
        12,
        "does not follow",
    ),
    "an event before the first": (FORGED.format(seq=0, prev=1), 0, "out of order"),
    "an event of the smallest seq": (FORGED.format(seq="-9223372036854775807 - 1", prev=1), -(2**63), "out of order"),
    "an event of a negative seq": (FORGED.format(seq=-1, prev=1), -1, "out of order"),
    "an event of the largest seq": (FORGED.format(seq=2**63 - 1, prev=11), 12, "event 12 is missing"),
    "an event after the last": (FORGED.format(seq=12, prev=11), 12, "content"),
    "an event far after the last": (FORGED.format(seq=99, prev=11), 12, "event 12 is missing"),
    "an event that names no provenance": (
        "INSERT INTO event SELECT 12, table_id, version, makes_version, kind, schema, recorded_at, 999, body, "
        "prev_hash, hash FROM event WHERE seq = 2",
        12,
        "provenance or environment is missing",
    ),
    "a hash": ("UPDATE event SET hash = randomblob(32) WHERE seq = 4", 4, "content"),
    "a hash cut short": ("UPDATE event SET hash = substr(hash, 1, 31) WHERE seq = 4", 4, "content"),
    "the hash before": ("UPDATE event SET prev_hash = randomblob(32) WHERE seq = 4", 4, "does not follow"),
    "a body and its hash": (lambda db: rewrite_body(db, 2, POPPED_ADD), 2, "the row of its change of aten::add.Tensor"),
    "a body and the hashes from there on": (
        lambda db: (db.execute("UPDATE event SET body = ? WHERE seq = 2", [POPPED_ADD]), rechain(db, 2)),
        2,
        "the row of its change of aten::add.Tensor does not match it",
    ),
    "a body with a space": (
        "UPDATE event SET body = body || ' ' WHERE seq = 2",
        2,
        "its body cannot be read: it is not canonical JSON",
    ),
    "a body with a space, with all hashes": (
        lambda db: (
            db.execute("UPDATE event SET body = replace(body, '{', '{ ') WHERE seq = 2"),
            rechain(db, 2),
        ),
        2,
        "its body cannot be read: it is not canonical JSON",
    ),
    "an op changed twice by one event, with all hashes": (
        lambda db: (
            db.execute("UPDATE event SET body = ? WHERE seq = 2", [encode_body(Popped((Change(MM, PRESERVE),) * 2))]),
            rechain(db, 2),
        ),
        2,
        "it changes an op twice",
    ),
    "a body that is not JSON": ("UPDATE event SET body = '{' WHERE seq = 2", 2, "its body cannot be read"),
    "a decomposition's digest that is not one": (
        lambda db: (
            db.execute('UPDATE event SET body = replace(body, \'"override","\', \'"override","x\')'),
            rechain(db),
        ),
        3,
        "the row of its change of aten::add.Tensor does not match it",
    ),
    "a catalog's digest that is not one": (
        lambda db: (
            db.execute('UPDATE event SET body = replace(body, \'"catalog":"\', \'"catalog":"x\')'),
            rechain(db),
        ),
        8,
        "is missing or damaged",
    ),
    "an unknown kind": ("UPDATE event SET kind = 'merged' WHERE seq = 2", 2, "content"),
    "a version, with all hashes": (
        lambda db: (db.execute("UPDATE event SET version = 7 WHERE seq = 2"), rechain(db)),
        2,
        "it has version 7 of 'edge', which is at version 1",
    ),
    "a table created twice, with all hashes": (
        lambda db: (
            db.execute("UPDATE event SET kind = 'created', body = ? WHERE seq = 3", [encode_body(Created("torch"))]),
            rechain(db),
        ),
        3,
        "the table 'edge' is created twice",
    ),
    "a change's action": (
        "UPDATE change SET action = 'reset' WHERE action = 'preserve'",
        2,
        "the row of its change of",
    ),
    "a change's decomposition": (
        "UPDATE change SET decomposition_id = (SELECT max(id) FROM decomposition) WHERE decomposition_id IS NOT NULL",
        3,
        "the row of its change of aten::add.Tensor",
    ),
    "a change's decomposition taken away": ("UPDATE change SET decomposition_id = NULL", 3, "the row of its change of"),
    "a change's version": ("UPDATE change SET version = version + 5 WHERE table_id = 1", 2, "the row of its change of"),
    "a change removed": ("DELETE FROM change WHERE version = 3", 3, "the row of its change of aten::add.Tensor"),
    "all changes removed": ("DELETE FROM change", 2, "the row of its change of"),
    "a change added": (
        "INSERT INTO change SELECT table_id, op_id, 9, 'reset', NULL FROM change LIMIT 1",
        12,
        "1 rows of 'change' do not come from an event",
    ),
    "a change added to an event": (
        "INSERT INTO change SELECT 1, id, 2, 'preserve', NULL FROM op WHERE name = 'aten::add.Tensor'",
        2,
        "1 rows of 'change' do not come from an event",
    ),
    "a tag moved": ("UPDATE tag SET version = 1 WHERE name = 'v1'", 6, "the row of the tag 'v1' does not match it"),
    "a tag renamed": ("UPDATE tag SET name = 'v2' WHERE name = 'v1'", 6, "the row of the tag 'v1' does not match it"),
    "a tag removed": ("DELETE FROM tag WHERE name = 'start'", 7, "the row of the tag 'start' does not match it"),
    "a tag added": ("INSERT INTO tag VALUES (1, 'v9', 1)", None, "no event sets it"),
    "an environment": (
        "UPDATE environment SET body = replace(body, 'Linux', 'Plan 9') || ' '",
        1,
        "environment 1: its content does not match its digest",
    ),
    "an environment and its digest": (
        lambda db: db.execute(
            "UPDATE environment SET body = ?, digest = ?", [canonical_json({}), bytes.fromhex(digest_of({}))]
        ),
        1,
        "content",
    ),
    "a decomposition": (
        "UPDATE decomposition SET body = replace(body, 'mypkg', 'evil')",
        3,
        "the row of its change of aten::add.Tensor does not match it",
    ),
    "a decomposition and its digest": (
        lambda db: db.execute(
            "UPDATE decomposition SET body = ?, digest = ? WHERE id = 1",
            [canonical_json(decomposition("evil").to_json()), bytes.fromhex(decomposition("evil").identity())],
        ),
        3,
        "the row of its change of aten::add.Tensor does not match it",
    ),
    "two decompositions' ids swapped": (
        "PRAGMA foreign_keys = OFF; UPDATE decomposition SET id = -1 WHERE id = 1;"
        "UPDATE decomposition SET id = 1 WHERE id = 2; UPDATE decomposition SET id = 2 WHERE id = -1",
        3,
        "the row of its change of",
    ),
    "a decomposition removed": ("DELETE FROM decomposition WHERE id = 1", 3, "the row of its change of"),
    "a catalog": (
        lambda db: db.execute("UPDATE catalog SET body = ? WHERE id = 1", [pack(catalog_of("aten::gelu"), None)]),
        8,
        "is missing or damaged",
    ),
    "a catalog cut short": (
        "UPDATE catalog SET body = substr(body, 1, 20) WHERE id = 1",
        8,
        "is missing or damaged",
    ),
    "a catalog and its digest": (
        lambda db: db.execute(
            "UPDATE catalog SET body = ?, digest = ? WHERE id = 1",
            [pack(catalog_of("aten::gelu"), None), bytes.fromhex(catalog_of("aten::gelu").digest)],
        ),
        8,
        "is missing or damaged",
    ),
    "a catalog's base taken away": ("UPDATE catalog SET base_id = NULL", 9, "is missing or damaged"),
    "a catalog as its own base": ("UPDATE catalog SET base_id = id WHERE id = 2", 9, "is missing or damaged"),
    "a catalog removed": ("DELETE FROM catalog WHERE id = 2", 9, "is missing or damaged"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_named_with_the_first_event_it_makes_wrong(path: Path, name: str) -> None:
    edit, seq, text = TAMPERINGS[name]
    tamper(path, edit)
    with Ledger(path) as ledger:
        result = ledger.verify()
    assert not result.ok
    assert result.problems[0].seq == seq
    of_that_event = " ".join(problem.text for problem in result.problems if problem.seq == seq)
    assert any(part in of_that_event for part in text.split("|")), of_that_event


@pytest.mark.parametrize("of_type", ["REAL", "TEXT", "BLOB"])
@pytest.mark.parametrize("table", ["decomp_table", "provenance", "environment", "event", "change"])
def test_a_value_that_only_looks_like_what_was_written_is_not_taken_for_it(
    original: Path, tmp_path: Path, table: str, of_type: str
) -> None:
    for column, written in [(column, written) for name, column, written in columns_of(original) if name == table]:
        if of_type == "REAL" and written != "INTEGER":
            continue
        path = copy(original, tmp_path)
        loosen(path, table, column, None, f"CAST({column} AS {of_type})")
        assert not verified(path).ok


@pytest.mark.parametrize("text", ["null", ""])
def test_a_call_site_that_looks_like_none_is_not_taken_for_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, actor="ann") as ledger:
        ledger.append("edge", 1, Created("torch"), origin=("ann", None, {}))
        assert ledger.verify().ok
    db = sqlite3.connect(path)
    db.execute("DROP TRIGGER provenance_no_update")
    db.close()
    tamper(path, f"UPDATE provenance SET call_site = '{text}'")
    assert not verified(path).ok


def test_text_that_is_not_utf_8_is_a_problem_of_its_event(path: Path) -> None:
    tamper(path, "UPDATE event SET body = CAST(x'7bff7d' AS TEXT) WHERE seq = 5")
    with Ledger(path) as ledger:
        result = ledger.verify()
        assert ledger.verify() == result
    assert result.problems[0].seq == 5
    assert result.events == EVENTS
    assert "its body cannot be read" in result.problems[0].text
    assert len([problem for problem in result.problems if problem.seq == 5]) == 2


@pytest.mark.parametrize(
    ("table", "column", "seq"),
    [
        ("event", "body", 2), ("event", "recorded_at", 2), ("event", "kind", 2), ("decomp_table", "name", 1),
        ("provenance", "actor", 1), ("provenance", "reason", 2), ("provenance", "call_site", 1), ("op", "name", 2),
    ],
)  # fmt: skip
def test_a_byte_that_is_not_utf_8_is_a_problem_of_the_first_event_that_has_it(
    path: Path, table: str, column: str, seq: int
) -> None:
    def edit(db: sqlite3.Connection) -> None:
        db.create_function("strange", 1, lambda value: value and value.encode()[:15] + b"\xff" + value.encode()[16:])
        but = "seq > 1" if table == "event" else "1"  # its table has to begin well
        db.execute(f"UPDATE {table} SET {column} = CAST(strange({column}) AS TEXT) WHERE {but}")

    tamper(path, edit)
    result = verified(path)
    assert result.problems[0].seq == seq
    assert result.events == EVENTS


def test_a_snapshot_that_was_never_the_table_s_is_a_problem(path: Path) -> None:
    catalog = catalog_of(MM, ADD)
    with Ledger(path, actor="ann") as ledger:
        right = materialize(ledger.state("edge", 2), catalog)
        for version, snapshot, pending in (
            (2, right.digest, right.pending),
            (2, "0" * 64, right.pending),
            (2, right.digest, (MM,)),
            (3, right.digest, right.pending),
        ):
            ledger.append("edge", version, Materialized(catalog.digest, snapshot, pending))
        problems = ledger.verify().problems
    assert [problem.seq for problem in problems] == [EVENTS + 2, EVENTS + 3, EVENTS + 4]


def test_a_fork_of_what_was_not_there_is_a_problem(path: Path) -> None:
    with Ledger(path, actor="ann") as ledger:
        for number, parent in enumerate((("edge", 3), ("nope", 1), ("edge", 9), ("edge", 0), ("new4", 1))):
            ledger.append(f"new{number}", 1, Created("torch", parent))
        problems = ledger.verify().problems
    assert [problem.seq for problem in problems] == [EVENTS + 2, EVENTS + 3, EVENTS + 4, EVENTS + 5]


def test_a_table_that_is_gone_is_a_problem_or_an_error(original: Path, tmp_path: Path) -> None:
    for table in LOG:
        path = copy(original, tmp_path)
        tamper(path, f"DROP TABLE {table}")
        assert not verified(path).ok


def test_the_first_twenty_problems_are_returned_by_event(path: Path) -> None:
    tamper(path, "UPDATE event SET body = '{', prev_hash = zeroblob(32); DELETE FROM tag")
    result = verified(path)
    seqs = [problem.seq for problem in result.problems]
    assert len(seqs) == 20
    assert seqs == sorted(seqs)
    assert result.events == EVENTS


def test_a_head_kept_elsewhere_shows_a_cut_tail(path: Path) -> None:
    kept = verified(path)
    last = f"DELETE FROM event WHERE seq = {EVENTS}; DELETE FROM change WHERE table_id = 3;"
    tamper(path, last)
    (left,) = verified(path).problems
    assert "'provenance' has 1 rows that no event refers to" in left.text
    tamper(path, "DELETE FROM provenance WHERE id NOT IN (SELECT provenance_id FROM event)")
    cut = verified(path)
    assert (cut.ok, cut.events) == (True, EVENTS - 1)
    tamper(path, lambda db: (db.execute("UPDATE provenance SET actor = 'eve'"), rechain(db)))
    forged = verified(path)
    assert forged.ok
    assert len({kept.head, cut.head, forged.head}) == 3


# Rows without an event

OTHER_TORCH = catalog_of("aten::gelu", torch="2.6.0")  # no stored catalog is of its build
ADDED = {
    "decomp_table": "INSERT INTO decomp_table (name) VALUES ('forged')",
    "op": "INSERT INTO op (name) VALUES ('mylib::forged')",
    "environment": lambda db: db.execute(
        "INSERT INTO environment (digest, body) VALUES (?, ?)", [bytes.fromhex(digest_of({})), canonical_json({})]
    ),
    "decomposition": lambda db: db.execute(
        "INSERT INTO decomposition (digest, body) VALUES (?, ?)",
        [bytes.fromhex(decomposition("evil").identity()), canonical_json(decomposition("evil").to_json())],
    ),
    "provenance": "INSERT INTO provenance (actor, environment_id) SELECT 'eve', id FROM environment LIMIT 1",
    "catalog": lambda db: db.execute(
        "INSERT INTO catalog (digest, body) VALUES (?, ?)",
        [bytes.fromhex(OTHER_TORCH.digest), pack(OTHER_TORCH, None)],
    ),
}


@pytest.mark.parametrize("table", ADDED)
def test_a_row_that_no_event_refers_to_is_a_problem(path: Path, table: str) -> None:
    tamper(path, ADDED[table])
    (problem,) = verified(path).problems
    assert problem.seq is None
    assert problem.text.startswith(f"{table!r} has 1 rows that no event refers to: ")


def test_the_base_of_a_catalog_that_an_event_refers_to_is_not_unused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, actor="ann") as ledger:
        table = new_table(ledger)
        table.materialize(catalog_of(MM, ADD))
        table.materialize(catalog_of(MM, ADD, LATE))
        assert ledger.verify().ok
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(base_id) FROM catalog").fetchone() == (1,)
    db.close()


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        ("UPDATE ledger SET id = lower(hex(randomblob(16)))", "it does not follow the id and the date of the ledger"),
        ("UPDATE ledger SET created_at = '2020-01-01T00:00:00.000Z'", "it does not follow the id and the date"),
    ],
)
def test_another_ledger_s_id_is_a_problem_of_the_first_event(path: Path, edit: str, text: str) -> None:
    tamper(path, edit)
    (problem,) = verified(path).problems
    assert (problem.seq, text in problem.text) == (1, True)


def test_a_ledger_with_two_identities_does_not_verify_and_cannot_be_written(path: Path) -> None:
    tamper(path, "INSERT INTO ledger VALUES ('0', '2020-01-01T00:00:00.000Z')")
    assert "the table 'ledger' has 2 rows" in verified(path).problems[-1].text
    with Ledger(path) as ledger, pytest.raises(LedgerError, match="it has no id, or more than one; run verify"):
        _ = ledger.id


def test_a_chain_that_begins_with_zeros_is_a_problem_of_the_first_event(path: Path) -> None:
    tamper(path, lambda db: rechain(db, first=bytes(32)))
    (problem,) = verified(path).problems
    assert problem == Problem(1, "it does not follow the id and the date of the ledger")


GUARDS = {
    "a trigger dropped": (
        "DROP TRIGGER event_no_update",
        "the trigger 'event_no_update' of the file's schema is missing",
    ),
    "a trigger that does nothing": (
        "DROP TRIGGER event_no_delete; CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT 1; END",
        "the trigger 'event_no_delete' of the file's schema was changed",
    ),
    "a trigger that does something": (
        "CREATE TRIGGER sly AFTER INSERT ON event BEGIN INSERT INTO op (name) VALUES (NEW.seq); END",
        "the trigger 'sly' of the file's schema does not belong to a ledger",
    ),
    "an index dropped": ("DROP INDEX event_version", "the index 'event_version' of the file's schema is missing"),
    "an index on the log": (
        "CREATE INDEX mine ON event(hash)",
        "the index 'mine' of the file's schema does not",
    ),
    "a column": ("ALTER TABLE tag ADD COLUMN note TEXT", "the table 'tag' of the file's schema was changed"),
}


def test_the_number_of_a_provenance_as_another_number_is_named_with_its_event(path: Path) -> None:
    was, then = "provenance_id INTEGER NOT NULL", "provenance_id ANY NOT NULL"
    for edit in (f"UPDATE sqlite_master SET sql = replace(sql, '{was}', '{then}') WHERE name = 'event'",
                 "UPDATE event SET provenance_id = CAST(provenance_id AS REAL) WHERE seq = 5",
                 f"UPDATE sqlite_master SET sql = replace(sql, '{then}', '{was}') WHERE name = 'event'"):  # fmt: skip
        tamper(path, f"PRAGMA writable_schema = ON; {edit}")
    db = sqlite3.connect(path)
    assert db.execute("SELECT typeof(provenance_id) FROM event WHERE seq = 5").fetchone() == ("real",)
    db.close()
    found = verified(path).problems[0]
    assert (found.seq, found.text) == (5, "its table, provenance or environment is missing")


def test_nothing_is_written_behind_an_event_without_a_hash(path: Path) -> None:
    was, then = "    hash BLOB NOT NULL", "    hash BLOB"
    for edit in (f"UPDATE sqlite_master SET sql = replace(sql, '{was}', '{then}') WHERE name = 'event'",
                 "UPDATE event SET hash = NULL WHERE seq = 11",
                 f"UPDATE sqlite_master SET sql = replace(sql, '{then}', '{was}') WHERE name = 'event'"):  # fmt: skip
        tamper(path, f"PRAGMA writable_schema = ON; {edit}")
    with Ledger(path) as ledger, pytest.raises(LedgerError, match="is damaged: event #11 has no hash; run verify"):
        ledger.table_log("edge").preserve(["aten::gelu"])


def test_a_name_in_the_schema_that_is_not_text_is_a_problem(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_master SET name = CAST(name AS BLOB) WHERE name = 'op_no_update'")
    db.commit()
    db.close()
    texts = {problem.text for problem in verified(path).problems}
    assert texts >= {
        "the trigger 'op_no_update' of the file's schema is missing",
        "the trigger b'op_no_update' of the file's schema does not belong to a ledger",
    }


@pytest.mark.parametrize("name", GUARDS)
def test_a_schema_that_was_changed_is_a_problem(path: Path, name: str) -> None:
    edit, text = GUARDS[name]
    db = sqlite3.connect(path)
    db.executescript(edit)
    db.close()
    (problem,) = verified(path).problems
    assert (problem.seq, text in problem.text) == (None, True), problem


def test_every_table_and_index_of_another_program_is_a_problem(path: Path) -> None:
    db = sqlite3.connect(path)
    db.executescript("CREATE TABLE theirs (id INTEGER PRIMARY KEY, x); CREATE INDEX x ON theirs(x); ANALYZE")
    db.close()
    names = re.findall(r"the \w+ ('\w+') of the file's schema does not belong", str(verified(path).problems))
    assert {"'theirs'", "'x'", "'sqlite_stat1'"} <= set(names)


# Values of other types, and bytes

STRANGE = {"null": None, "an integer": 7, "a float": 1.5, "text": "x", "bytes": b"\xff"}


def loosen(path: Path, table: str, column: str, value: object, sql: str = "?") -> None:
    """Rebuild a table so that a column can have any value; set it in every row to a value, or by an SQL expression."""

    def edit(db: sqlite3.Connection) -> None:
        names = ", ".join(row[1] for row in db.execute(f"PRAGMA table_info({table})").fetchall())
        db.execute(f"CREATE TABLE loose ({names})")
        db.execute(f"INSERT INTO loose SELECT * FROM {table}")
        db.execute(f"DROP TABLE {table}")
        db.execute("PRAGMA legacy_alter_table = ON")  # which leaves the views as they are
        db.execute(f"ALTER TABLE loose RENAME TO {table}")
        db.execute(f"UPDATE {table} SET {column} = {sql}", [value] if sql == "?" else [])

    tamper(path, edit)


@pytest.mark.parametrize("value", STRANGE.values(), ids=list(STRANGE))
@pytest.mark.parametrize("table", LOG)
def test_a_value_of_another_type_is_a_problem_and_no_crash(
    original: Path, tmp_path: Path, table: str, value: object
) -> None:
    unnoticed = []
    for column in [column for name, column, _ in columns_of(original) if name == table]:
        path = copy(original, tmp_path)
        loosen(path, table, column, value)
        if verified(path).ok:
            unnoticed.append(column)
    assert unnoticed == []


def read_all(ledger: Ledger) -> None:
    """Read everything in a ledger, by every method."""
    for event in ledger.events(op=MM):
        ledger.environment(event.environment)
    for info in ledger.tables():
        ledger.resolve(info.name)
        ledger.tags(info.name)
        ledger.blame(info.name)
        ledger.history(info.name, MM, info.version)
    for event in ledger.events(kind="materialized"):
        if isinstance(event.body, Materialized):
            ledger.catalog(event.body.catalog)


@pytest.mark.parametrize("value", STRANGE.values(), ids=list(STRANGE))
@pytest.mark.parametrize("table", LOG)
def test_reading_a_value_of_another_type_raises_nothing_but_a_ledger_error(
    original: Path, tmp_path: Path, table: str, value: object
) -> None:
    crashes = {}
    for column in [column for name, column, _ in columns_of(original) if name == table]:
        path = copy(original, tmp_path)
        loosen(path, table, column, value)
        try:
            with Ledger(path, read_only=True) as ledger:
                read_all(ledger)
        except LedgerError:
            continue
        except Exception as error:
            crashes[column] = repr(error)
    assert crashes == {}


def test_a_name_changed_in_the_file_s_bytes_is_noticed_wherever_it_is_stored(original: Path, tmp_path: Path) -> None:
    data = original.read_bytes()
    places = [at for at in range(len(data)) if data.startswith(LATE.encode(), at)]
    unnoticed = []
    for at in places:
        path = copy(original, tmp_path)
        path.write_bytes(data[:at] + LATE.upper().encode() + data[at + len(LATE) :])
        if verified(path).ok:
            unnoticed.append(at)
    assert len(places) >= 3  # the table of ops, its index, and the body of an event
    assert unnoticed == []


def test_a_schema_that_is_not_text_is_a_ledger_error(original: Path, tmp_path: Path) -> None:
    path = copy(original, tmp_path)
    path.write_bytes(original.read_bytes().replace(b"CREATE TABLE decomp_table", b"CREATE TABL\xff decomp_table"))
    for read_only in (False, True):
        with pytest.raises(LedgerError, match="is damaged"):
            Ledger(path, read_only=read_only)


def rows_of(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of the log, read without its indexes and as bytes."""
    db = sqlite3.connect(path)
    db.text_factory = bytes
    try:
        return {table: db.execute(f"SELECT * FROM {table} NOT INDEXED").fetchall() for table in LOG}
    finally:
        db.close()


@settings(derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_byte_changed_in_the_file_changes_no_row_unnoticed(
    original: Path, tmp_path: Path, data: st.DataObject
) -> None:
    stored = bytearray(original.read_bytes())
    used = [at for at, byte in enumerate(stored) if byte and at >= 100]
    stored[data.draw(st.sampled_from(used))] ^= data.draw(st.integers(1, 255))
    path = copy(original, tmp_path)
    path.write_bytes(stored)
    if verified(path).ok:
        assert rows_of(path) == rows_of(original)


def test_the_body_of_the_file_s_rows_is_json_that_others_can_read(path: Path) -> None:
    rows = rows_of(path)
    for table, at in (("event", 8), ("environment", 2), ("decomposition", 2)):
        assert all(isinstance(json.loads(row[at]), dict) for row in rows[table])


@pytest.mark.parametrize("seq", [-(2**63), -1, 0, 2**63 - 1])
def test_events_are_read_whatever_integer_their_seq_is(path: Path, seq: int) -> None:
    tamper(path, FORGED.format(seq="-9223372036854775807 - 1" if seq == -(2**63) else seq, prev=1))
    with Ledger(path, read_only=True) as ledger, audit_rows.audit(ledger.database) as connection:
        assert seq in [row.event.seq for row in audit_rows.event_rows(connection)]
        assert audit_rows.event_hash_at(connection, seq) == "00" * 32
        assert seq in [event.seq for event in ledger.events(gt=-(2**80), lte=seq)] or seq == -(2**63)


def test_a_row_that_the_pass_does_not_read_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = audit_rows.event_rows
    monkeypatch.setattr(audit_rows, "event_rows", lambda connection: itertools.islice(read(connection), EVENTS - 1))
    assert "'event' has 11 rows; 10 were read, and the last is #10" in str(verified(path).problems)


def test_catalogs_are_unpacked_one_after_another(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        edge = new_table(ledger)
        for number in range(12):
            edge.materialize(catalog_of(MM, f"mylib::op{number}", torch=f"2.{number % 3}.0"))
        assert ledger.verify().ok
        gc.collect()
        before = sum(type(found) is Catalog for found in gc.get_objects())
        with audit_rows.audit(ledger.database) as connection:
            contents = check_contents(connection, Problems())
            assert len(contents.catalogs) == 12
            assert len(contents.bases) == 9
            assert sum(type(found) is Catalog for found in gc.get_objects()) == before


def test_a_snapshot_that_many_events_name_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(state: TableState, catalog: Catalog) -> Snapshot:
        asked.append(str(state.version))
        return materialize(state, catalog)

    monkeypatch.setattr("decomp_ledger.integrity.verify.materialize", counted)
    with Ledger(tmp_path / "ledger.db") as ledger:
        edge = new_table(ledger)
        edge.materialize(catalog_of(MM))
        event = next(ledger.events(desc=True))
        for _ in range(5):
            ledger.append("edge", 1, event.body)
        edge.preserve([MM])
        edge.materialize(catalog_of(MM))
        assert ledger.verify().ok
    assert asked == ["1", "2"]
