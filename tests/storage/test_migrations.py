"""Schema migrations of a ledger file."""

import contextlib
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from forging import tamper
from sqlite_utils import Database
from strategies import (
    finish,
    new_table,
    start_python,
)

from decomp_ledger.errors import DamagedSchema, LedgerError, SchemaError
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage import migrations
from decomp_ledger.storage.migrations import APPLICATION_ID, migration_names

ADD_NOTE = """
def apply(db):
    db.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT")
    db.execute("INSERT INTO note (text) SELECT name FROM decomp_table")
"""
FAIL_HALF_WAY = """
def apply(db):
    db.execute("CREATE TABLE half (id INTEGER PRIMARY KEY)")
    db.execute("INSERT INTO half SELECT seq FROM event")
    db.execute("INSERT INTO nowhere VALUES (1)")
"""


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replace the migrations by a copy, to which a test can add later ones."""
    folder = tmp_path / "later"
    shutil.copytree(migrations._folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "_folder", lambda: folder)
    yield folder
    forget()


def forget() -> None:
    """Clear the caches, so that the migrations folder is read again."""
    migration_names.cache_clear()
    migrations._migrations.cache_clear()


def add(folder: Path, **sources: str) -> list[str]:
    """Write migrations into a folder, numbered after those that are there; return their names."""
    first = len(list(folder.glob("*.py"))) + 1
    names = [f"{number:04}_{name}" for number, name in enumerate(sources, first)]
    for name, source in zip(names, sources.values(), strict=True):
        (folder / f"{name}.py").write_text(source)
    forget()
    return names


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """Return the rows of a query, read without the package."""
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def applied(path: Path) -> list[str]:
    """Return the names of the migrations that a file records as applied."""
    return [str(name) for (name,) in rows(path, "SELECT name FROM _sqlite_migrations ORDER BY id")]


def test_a_new_file_is_as_sqlite_utils_would_make_it(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    Ledger(ours).close()
    with contextlib.closing(sqlite3.connect(theirs)) as connection:
        migrations._make_table(connection)
        migrations._migrations().apply(Database(connection))
    for query in (
        "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid",
        "SELECT id, migration_set, name, typeof(applied_at), length(applied_at) FROM _sqlite_migrations",
        "PRAGMA application_id",
    ):
        assert rows(ours, query) == rows(theirs, query) != []


def test_making_a_file_does_not_import_sqlite_utils(tmp_path: Path) -> None:
    code = "from decomp_ledger import Ledger; Ledger(sys.argv[1]).close(); print('sqlite_utils' in sys.modules)"
    assert finish(start_python(code, tmp_path / "new.db")) == "False\n"


def test_migrations_are_numbered_without_gaps() -> None:
    assert migration_names()[0] == "0001_initial"
    numbers = []
    for name in migration_names():
        match = re.fullmatch(r"(\d{4})_[a-z0-9_]+", name)
        assert match is not None, name
        numbers.append(int(match[1]))
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_new_ledger_has_every_migration(path: Path) -> None:
    assert applied(path) == list(migration_names())
    assert rows(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]
    assert rows(path, "SELECT length(id), created_at GLOB '20*Z' FROM ledger") == [(32, 1)]


def test_a_new_ledger_s_tables_are_strict(path: Path) -> None:
    query = "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
    tables = rows(path, f"{query} AND name NOT LIKE '%sqlite%'")
    assert {name for name, strict in tables if not strict} == set()
    assert {name for name, _ in tables} >= {
        "event",
        "change",
        "decomp_table",
        "op",
        "provenance",
        "environment",
        "catalog",
    }


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
def test_a_ledger_of_a_newer_version_is_refused_and_unchanged(path: Path, read_only: bool) -> None:
    db = sqlite3.connect(path)
    db.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('decomp_ledger', '9999_merged', '')"
    )
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(
        SchemaError, match=r"the schema '9999_merged' is unknown: a newer decomp_ledger wrote the ledger.*upgrade"
    ):
        Ledger(path, read_only=read_only)
    assert path.read_bytes() == before


ROWS = {
    "another package's": "INSERT INTO _sqlite_migrations VALUES (9, 'other', '0001_initial', '')",
    "none": "DELETE FROM _sqlite_migrations",
    "a number": "UPDATE _sqlite_migrations SET id = 9 WHERE id = 1",
    "no date": "UPDATE _sqlite_migrations SET applied_at = NULL",
    "bytes": "UPDATE _sqlite_migrations SET name = CAST(name AS BLOB)",
}


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
@pytest.mark.parametrize("name", ROWS)
def test_other_rows_of_migrations_are_refused(path: Path, name: str, read_only: bool) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(ROWS[name])
        db.commit()
    with pytest.raises(DamagedSchema, match="the rows of its table '_sqlite_migrations' are not those"):
        Ledger(path, read_only=read_only)


def test_the_digest_of_each_schema_is_known() -> None:
    names = migration_names()
    for count in range(1, len(names) + 1):
        rows = migrations.schema_made_by(names[:count])
        assert migrations._DIGESTS[names[count - 1]] == migrations.digest_of(rows), names[count - 1]


def test_a_migration_keeps_the_content_of_an_older_ledger(path: Path, later: Path) -> None:
    had = list(migration_names())
    added = add(later, note=ADD_NOTE, index="def apply(db):\n    db.execute('CREATE INDEX i ON note(text)')\n")
    with Ledger(path, actor="ann") as ledger:
        assert ledger.state("edge").rules.keys() == {"aten::mm"}
        assert ledger.verify().problems == ()
        table = ledger.table_log("edge")
        table.preserve(["aten::add"])
        assert table.version == 3
    assert applied(path) == [*had, *added]
    assert rows(path, "SELECT text FROM note") == [("edge",)]


def test_a_new_ledger_and_a_migrated_one_have_one_schema(path: Path, tmp_path: Path, later: Path) -> None:
    add(later, note=ADD_NOTE)
    Ledger(path).close()
    Ledger(tmp_path / "new.db").close()
    schema = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    assert rows(path, schema) == rows(tmp_path / "new.db", schema)


def test_a_migrated_ledger_is_not_migrated_again(path: Path, later: Path) -> None:
    add(later, note=ADD_NOTE)
    Ledger(path).close()
    before = path.read_bytes()
    Ledger(path).close()
    assert path.read_bytes() == before


def test_a_failed_migration_leaves_the_file_unchanged(path: Path, later: Path) -> None:
    had = list(migration_names())
    note, half = add(later, note=ADD_NOTE, half=FAIL_HALF_WAY)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="nowhere"):
        Ledger(path)
    assert path.read_bytes() == before
    assert applied(path) == had
    (later / f"{half}.py").unlink()
    (later / f"{note}.py").unlink()
    forget()
    with Ledger(path) as ledger:
        assert ledger.verify().problems == ()


def test_a_failed_migration_creates_no_ledger(tmp_path: Path, later: Path) -> None:
    add(later, half=FAIL_HALF_WAY)
    with pytest.raises(LedgerError, match="nowhere"):
        Ledger(tmp_path / "new.db")
    assert [entry.name for entry in tmp_path.iterdir()] == ["later"]


def test_a_reader_does_not_migrate_an_older_ledger(path: Path, later: Path) -> None:
    (note,) = add(later, note=ADD_NOTE)
    path.parent.chmod(0o555)
    before = path.read_bytes()
    try:
        with Ledger(path, read_only=True) as ledger:
            assert ledger.verify().ok
            assert ledger.state("edge").rules.keys() == {"aten::mm"}
            with pytest.raises(LedgerError):
                new_table(ledger).preserve(["aten::bmm"])
    finally:
        path.parent.chmod(0o755)
    assert path.read_bytes() == before
    assert note not in applied(path)
    Ledger(path).close()
    with Ledger(path, read_only=True) as ledger:
        assert ledger.verify().ok


def test_a_ledger_that_another_process_migrates_meanwhile_is_opened(
    path: Path, later: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(later, note=ADD_NOTE)
    apply_here = migrations.apply_migrations

    def after_the_other(connection: sqlite3.Connection) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(migrations, "_folder", lambda: later)
        Ledger(path).close()
        apply_here(connection)

    monkeypatch.setattr("decomp_ledger.storage.database.apply_migrations", after_the_other)
    with Ledger(path) as ledger:
        assert ledger.state("edge").version == 2
    assert applied(path) == [*migration_names()]


def test_missing_migrations_are_an_error_with_a_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(migrations, "__file__", str(tmp_path / "decomp_ledger" / "storage" / "migrations.py"))
    with pytest.raises(LedgerError, match=r"the migrations of decomp_ledger are missing; install it again"):
        migrations._folder.__wrapped__()


def test_migrations_inside_the_package_come_before_those_next_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "decomp_ledger"
    monkeypatch.setattr(migrations, "__file__", str(package / "storage" / "migrations.py"))
    (tmp_path / "migrations").mkdir()
    assert migrations._folder.__wrapped__() == tmp_path / "migrations"
    (package / "_migrations").mkdir(parents=True)
    assert migrations._folder.__wrapped__() == package / "_migrations"


_OPEN = """
import sys
from pathlib import Path
from decomp_ledger.storage import migrations
from decomp_ledger.ledger import Ledger
migrations._folder = lambda: Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
Ledger(sys.argv[1]).close()
"""


def test_processes_that_migrate_one_ledger_at_once_all_succeed(path: Path, later: Path) -> None:
    add(later, note=ADD_NOTE)
    processes = [start_python(_OPEN, path, later) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        finish(process)
    assert applied(path) == [*migration_names()]
    assert rows(path, "SELECT text FROM note") == [("edge",)]


ONE_INDEX_MORE = """
def apply(db):
    db.execute("CREATE UNIQUE INDEX one_time ON event(recorded_at)")
"""


@pytest.mark.parametrize("had", [1, 2, 3])
def test_a_ledger_of_each_earlier_schema_is_migrated_and_verifies(tmp_path: Path, had: int, later: Path) -> None:
    add(
        later,
        note=ADD_NOTE,
        tag="def apply(db):\n    db.execute('CREATE INDEX tag_version ON tag(version)')\n",
    )
    path = tmp_path / "new.db"
    Ledger(path).close()
    names = migration_names()
    for name in names[had:]:
        (later / f"{name}.py").rename(tmp_path / f"{name}.py")
    forget()
    old = tmp_path / "old.db"
    with Ledger(old, actor="ann") as ledger:
        log = new_table(ledger)
        log.preserve(["aten::mm"])
        log.tag("one")
        log.tag("two")
    assert applied(old) == [*names[:had]]
    for name in names[had:]:
        (tmp_path / f"{name}.py").rename(later / f"{name}.py")
    forget()
    with Ledger(old, actor="bob") as ledger:
        ledger.table_log("edge").preserve(["aten::add"])
        assert ledger.tags("edge") == {"one": 2, "two": 2}
        assert ledger.verify().problems == ()
    assert rows(old, "SELECT type, name, sql FROM sqlite_master ORDER BY name") == rows(
        path, "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    )


def test_a_version_is_made_by_one_event(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.table_log("edge").tag("one")
        ledger.table_log("edge").tag("two")
    db = sqlite3.connect(path)
    columns = "table_id, version, makes_version, kind, schema, recorded_at, provenance_id, body"
    again = f"INSERT INTO event SELECT 9, {columns}, x'', x'' FROM event"
    with pytest.raises(sqlite3.IntegrityError, match=r"UNIQUE constraint failed: event\.table_id, event\.version"):
        db.execute(f"{again} WHERE seq = 2")
    db.execute(f"{again} WHERE seq = 3")
    db.close()


def test_a_reader_verifies_an_older_ledger_that_cannot_be_migrated(path: Path, tmp_path: Path, later: Path) -> None:
    old = tmp_path / "old.db"
    with Ledger(old, actor="ann") as ledger:
        log = new_table(ledger)
        for op in ("aten::mm", "aten::add", "aten::mul"):
            log.preserve([op])
    add(later, index=ONE_INDEX_MORE)
    tamper(old, "UPDATE event SET recorded_at = (SELECT recorded_at FROM event WHERE seq = 3) WHERE seq = 4")
    with Ledger(old, read_only=True) as ledger:
        assert [event.version for event in ledger.events()] == [1, 2, 3, 4]
        assert ledger.verify().problems[0].seq == 4
    with pytest.raises(LedgerError, match=r"is damaged, and cannot be migrated \(.*\); run verify"):
        Ledger(old)
