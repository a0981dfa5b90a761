"""Other names of a ledger's file, what lies next to it, and changes by other programs while it is open."""

import os
import random
import signal
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
from torture import open_files as torture
from torture import runaway

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage import other_names
from decomp_ledger.storage.connection import connect
from decomp_ledger.transfer.restore import restore


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
@pytest.mark.parametrize("name", ["ledger.db", "other.db"])
def test_a_file_with_two_names_is_refused_by_both(path: Path, name: str, read_only: bool) -> None:
    os.link(path, path.with_name("other.db"))
    with pytest.raises(LedgerFileError, match=r"the file has 2 names \(hard links\).*; remove the other names, or"):
        Ledger(path.with_name(name), read_only=read_only)
    with pytest.raises(LedgerFileError, match="the file has 2 names"):
        restore(path.with_name(name), path.with_name("restored.db"))
    path.with_name("other.db").unlink()
    Ledger(path, read_only=read_only).close()


def test_a_mounted_file_is_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = f"36 25 254:0 / / rw - ext4 x rw\n40 36 254:0 /home/ann/some.db {tmp_path}/led\\147er.db rw - ext4 x rw\n"
    (tmp_path / "mounts").write_text(lines)
    monkeypatch.setattr(other_names, "_MOUNTS", tmp_path / "mounts")
    with pytest.raises(LedgerFileError, match=r"is mounted alone, at .*ledger\.db, .*; mount its folder instead"):
        Ledger(path)


def test_the_name_of_a_draft_does_not_count(path: Path) -> None:
    draft = path.with_name(".ledger.db.1.2.new")
    os.link(path, draft)
    Ledger(path, read_only=True).close()
    assert not draft.exists()


@pytest.mark.parametrize("make", ["new", "restore", "load", "backup"])
@pytest.mark.parametrize("ending", ["-wal", "-journal"])
def test_nothing_is_made_where_an_old_log_lies(path: Path, tmp_path: Path, make: str, ending: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    target = folder / "new.db"
    target.with_name(f"new.db{ending}").write_bytes(b"x")
    makers: dict[str, Callable[[], object]] = {
        "new": lambda: Ledger(target),
        "restore": lambda: restore(path, target),
        "load": lambda: torture.load(torture.lines_of(Ledger(path, read_only=True)), target),
        "backup": lambda: Ledger(path).backup(target),
    }
    with pytest.raises(LedgerFileError, match=f"new.db{ending}: it is the log of a ledger that is gone; put new.db"):
        makers[make]()
    assert [file.name for file in folder.iterdir()] == [f"new.db{ending}"]


def test_a_backup_does_not_replace_a_file_with_an_old_journal(path: Path) -> None:
    copy = path.with_name("copy.db")
    with Ledger(path) as ledger:
        ledger.backup(copy)
        copy.with_name("copy.db-journal").write_bytes(b"x")
        with pytest.raises(LedgerFileError, match=r"copy.db-journal: it is the log of a ledger that is gone"):
            ledger.backup(copy, force=True)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("way", torture.WAYS, ids=lambda way: way.__name__)
def test_what_other_programs_do_to_an_open_ledger_loses_nothing(tmp_path: Path, way: torture.Way, seed: int) -> None:
    assert torture.in_a_child(tmp_path, way, random.Random(seed)).startswith("=")


@pytest.mark.parametrize("way", runaway.WAYS)
def test_what_a_signal_handler_raises_ends_a_statement(path: Path, way: Callable[[Ledger], None]) -> None:
    with Ledger(path, actor="ann") as ledger:
        ledger.database.connection.watch(None)
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.1, os.kill, [os.getpid(), 2]).start()
            way(ledger)
        assert ledger.table_log("edge").preserve(["aten::add"]) is not None
        assert ledger.verify().ok


def test_a_statement_is_stopped_that_takes_too_many_steps_for_its_file(path: Path) -> None:
    connection = connect(str(path), path=path)
    with pytest.raises(LedgerFileError, match=r"reading it takes more steps than an undamaged file of \d+ bytes needs"):
        connection.execute(f"SELECT count(x) FROM ({runaway.ENDLESS})")
    assert connection.execute("SELECT count(seq) FROM event").fetchone() == (2,)
    connection.close()


BLOCKS = ("reading", "read_transaction", "long_read", "write_transaction")


@pytest.mark.parametrize("block", BLOCKS)
def test_rows_that_do_not_end_are_one_error_of_the_file_in_every_block(path: Path, block: str) -> None:
    with Ledger(path, actor="ann") as ledger:
        with (
            pytest.raises(LedgerFileError, match="more steps than an undamaged file"),
            getattr(ledger.database, block)() as connection,
        ):
            deque(connection.execute(runaway.ENDLESS), maxlen=0)
        assert ledger.table_log("edge").preserve(["aten::add"]) is not None
        assert ledger.verify().ok


class Stop(Exception):
    """What a signal handler of a program raises."""


@pytest.mark.parametrize("block", BLOCKS)
def test_what_a_signal_handler_raises_between_rows_ends_every_block(path: Path, block: str) -> None:
    def stop(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1])
    try:
        with Ledger(path, actor="ann") as ledger:
            with pytest.raises(Stop), getattr(ledger.database, block)() as connection:
                connection.watch(None)
                timer.start()
                deque(connection.execute(runaway.ENDLESS), maxlen=0)
            timer.join()
            assert ledger.table_log("edge").preserve(["aten::add"]) is not None
            assert ledger.verify().ok
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_statement_in_memory_has_no_limit() -> None:
    connection = connect(":memory:")
    many = f"SELECT count(x) FROM ({runaway.ENDLESS} LIMIT 500000)"
    assert connection.execute(many).fetchone() == (500_000,)
    connection.close()


@pytest.mark.parametrize("table", ["sqlite_master", "event", "op"])
def test_a_table_without_an_end_is_reported_by_verify(path: Path, table: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    runaway.multiply(path, table, 8, 200)
    try:
        with Ledger(path, read_only=True, lazy=True) as ledger:
            assert not ledger.verify().ok
    except LedgerFileError as error:
        assert "damaged" in str(error)
