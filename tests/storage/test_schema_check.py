"""A file whose schema is not exactly a ledger's is refused before a row is read, and reported by verify."""

import contextlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import new_table
from torture import schema as hostile

from decomp_ledger.errors import DamagedSchema, LedgerError, LedgerFileError, SchemaError
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage import database
from decomp_ledger.transfer.restore import restore


def execute(path: Path, *statements: str) -> None:
    """Execute statements as another program does."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def command(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a ledger."""
    program = [sys.executable, "-m", "decomp_ledger", "--ledger", str(path), *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False)


SWALLOW = "CREATE TRIGGER h BEFORE INSERT ON {} BEGIN SELECT RAISE(IGNORE); END"


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
@pytest.mark.parametrize("table", hostile.TABLES)
def test_a_trigger_that_swallows_writes_is_refused_in_any_spelling(path: Path, table: str, read_only: bool) -> None:
    execute(path, SWALLOW.format(table.title()))
    with pytest.raises(
        DamagedSchema, match="the trigger 'h' of the file's schema does not belong to a ledger"
    ) as caught:
        Ledger(path, read_only=read_only)
    assert caught.value.problems == ("the trigger 'h' of the file's schema does not belong to a ledger",)
    assert str(caught.value).startswith(f"{path}: it is damaged: ")


@settings(derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(hostile.EDITS), st.integers(0, 10_000))
def test_no_edited_schema_is_used(path: Path, tmp_path: Path, edit: hostile.Edit, seed: int) -> None:
    if hostile.edited(path, tmp_path / "edited.db", edit, random.Random(seed)):
        assert hostile.outcome(tmp_path / "edited.db") == ""


def test_verify_reports_every_difference_and_exits_with_1(path: Path) -> None:
    execute(path, SWALLOW.format("EVENT"), "CREATE VIEW v AS SELECT 1", "DROP INDEX event_kind", "ANALYZE")
    texts = [
        "the index 'event_kind' of the file's schema is missing",
        "the table 'sqlite_stat1' of the file's schema does not belong to a ledger",
        "the trigger 'h' of the file's schema does not belong to a ledger",
        "the view 'v' of the file's schema does not belong to a ledger",
    ]
    done = command(path, "verify")
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (1, texts, "")
    done = command(path, "verify", "--json")
    assert done.returncode == 1
    problems = [{"seq": None, "text": text} for text in texts]
    answer = json.loads(done.stdout)
    assert answer.pop("compared") == {"expect": [], "checkpoints": [], "against": []}
    assert answer == {"ok": False, "events": 0, "head": "", "problems": problems, "signatures": []}
    done = command(path, "log")
    assert (done.returncode, "is damaged: the index 'event_kind'" in done.stderr) == (2, True)


def test_a_backup_with_another_schema_is_not_restored(path: Path, tmp_path: Path) -> None:
    execute(path, SWALLOW.format("change"))
    with pytest.raises(LedgerError, match="does not verify, so nothing was replaced: the trigger 'h'"):
        restore(path, tmp_path / "restored.db")
    assert not (tmp_path / "restored.db").exists()


def test_text_of_another_encoding_is_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path)) as db, contextlib.closing(sqlite3.connect(other)) as copy:
        copy.execute("PRAGMA encoding = 'UTF-16le'")
        for statement in db.iterdump():
            copy.execute(statement)
        copy.execute("PRAGMA application_id = 0x44434C47")
        copy.commit()
    with pytest.raises(DamagedSchema, match="its text is stored as UTF-16le, and a ledger's as UTF-8"):
        Ledger(other)


def test_a_schema_that_changes_while_the_ledger_is_open_is_refused_by_the_next_write(path: Path) -> None:
    with Ledger(path, actor="ann") as ledger:
        table = ledger.table_log("edge")
        execute(path, SWALLOW.format("event"))
        with pytest.raises(DamagedSchema, match="the trigger 'h'"):
            table.preserve(["aten::add"])
        execute(path, "DROP TRIGGER h")
        assert table.preserve(["aten::add"]) is not None
        assert ledger.verify().ok


@pytest.mark.parametrize("table", ["event", "change", "op", "provenance", "tag", "decomp_table", "environment"])
def test_a_swallowed_row_is_an_error_and_nothing_is_recorded(
    path: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "check_schema", lambda *_: [])  # so that the trigger is not found
    execute(path, SWALLOW.format(table))
    monkeypatch.setenv("CI", "another environment")
    with Ledger(path, actor="bob") as ledger:
        before = len(list(ledger.events()))
        refused = pytest.raises(LedgerFileError, match=rf"the table '{table}' of the ledger: SQLite kept 0 of \d rows")
        with refused, ledger.database.write_transaction():
            ledger.event_store.put_text("environment", '{"another":"one"}')
            log = new_table(ledger, "other")
            log.preserve(["aten::add"])
            log.tag("v1")
        assert len(list(ledger.events())) == before


def test_a_newer_schema_is_named_before_its_tables_are_compared(path: Path) -> None:
    execute(
        path,
        "CREATE TABLE later (x)",
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('decomp_ledger', '9999_later', '')",
    )
    with pytest.raises(SchemaError, match="'9999_later' is unknown: a newer decomp_ledger wrote the ledger"):
        Ledger(path)


def test_a_table_or_an_index_without_a_place_is_refused(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT rowid, type, rootpage FROM sqlite_master").fetchall()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert {kind for _, kind, _ in rows} == {"table", "index", "trigger", "view"}
    for row, kind, page in rows:
        for place in {0, -1, 1, page + 1000} - {page}:
            copy = path.with_name(f"{row}.{place}.db")
            shutil.copy(path, copy)
            change = f"UPDATE sqlite_master SET rootpage = {place} WHERE rowid = {row}"
            execute(copy, "PRAGMA writable_schema = ON", change)
            with pytest.raises(LedgerError, match="damaged"):
                Ledger(copy, read_only=True)
                pytest.fail(f"the {kind} of row {row} at {place} was not noticed")
