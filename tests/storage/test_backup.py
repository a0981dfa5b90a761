"""Backups of a ledger, restored only once they verify; and ledgers as JSON Lines, and back."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from forging import tamper
from strategies import catalog_of, new_table, override, run_python, start_python
from test_checkpoints import command, keys, sign  # noqa: F401

from decomp_ledger.errors import LedgerError, LedgerFileError
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage import fork_safety
from decomp_ledger.transfer import restore as restoring
from decomp_ledger.transfer.jsonl import dump, dump_to_file, load
from decomp_ledger.transfer.restore import restore


@pytest.fixture
def path(tmp_path: Path, keys: Path) -> Path:  # noqa: F811
    """Name a ledger with every kind of row."""
    path = tmp_path / "ledger.db"
    with Ledger(path, actor='Ann "x"\n\u202e日本') as ledger:
        edge = new_table(ledger)
        edge.preserve(["aten::mm", "mylib::late"], reason="line\nbreak")
        override(edge, "aten::add.Tensor", "add")
        sign(ledger, keys)
        edge.tag("v1")
        edge.materialize(catalog_of("aten::mm", "aten::add.Tensor"))
        edge.materialize(catalog_of("aten::mm", "aten::add.Tensor", "mylib::late"))
        edge.fork_as("fork").reset(["aten::mm"])
        edge.revert(1)
        sign(ledger, keys, "bob")
    return path


def head_of(path: Path) -> tuple[int, str]:
    """Verify a ledger; return how many events it has, and its head."""
    with Ledger(path, read_only=True) as ledger:
        result = ledger.verify()
    assert result.problems == ()
    return result.events, result.head


def lines_of(path: Path) -> list[str]:
    """Return a ledger as JSON Lines."""
    with Ledger(path, read_only=True) as ledger:
        return list(dump(ledger))


def names(folder: Path) -> list[str]:
    """Return the names in a folder, without the files that SQLite leaves after reading."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(("-wal", "-shm")))


# Backup


def test_a_backup_is_the_ledger_as_it_was(path: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    with Ledger(path, actor="ann") as ledger:
        made = ledger.backup(tmp_path / "copy.db", progress=lambda done, total: calls.append((done, total)))
        ledger.table_log("edge").preserve(["aten::later"])
    assert made == tmp_path / "copy.db"
    old, new = ([line for line in lines_of(file) if line.startswith('{"event"')] for file in (made, path))
    assert old == new[:-1]
    assert calls[-1][0] == calls[-1][1] > 0
    assert names(tmp_path) == ["copy.db", "ledger.db"]


def test_a_ledger_in_memory_can_be_kept(tmp_path: Path) -> None:
    with Ledger(":memory:", actor="ann") as ledger:
        new_table(ledger).preserve(["aten::mm"])
        ledger.backup(tmp_path / "kept.db")
        assert head_of(tmp_path / "kept.db") == (2, list(ledger.events())[-1].hash)


_WRITER = """
from decomp_ledger.ledger import Ledger
with Ledger(sys.argv[1], actor="writer") as ledger:
    table = ledger.table_log("edge")
    number = 0
    while True:
        table.preserve([f"aten::op{number}"])
        number += 1
        if number == 20:
            print("writing", flush=True)
"""


def test_a_backup_is_of_one_moment_while_others_write(path: Path, tmp_path: Path) -> None:
    writers = [start_python(_WRITER, path) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        counts = []
        with Ledger(path, read_only=True) as ledger:
            for number in range(5):
                before = next(ledger.events(desc=True, limit=1)).seq
                copy = ledger.backup(tmp_path / f"copy{number}.db")
                assert before <= head_of(copy)[0]
                counts.append(head_of(copy)[0])
        assert counts == sorted(counts) and counts[0] < counts[-1]
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def test_a_backup_replaces_a_file_only_with_force(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("mine")
    with Ledger(path, read_only=True) as ledger:
        with pytest.raises(LedgerFileError, match=r"other.txt: .* already; name another file, or replace it"):
            ledger.backup(other)
        assert other.read_text() == "mine"
        ledger.backup(other, force=True)
        for bad, message in (
            (path, "is the ledger itself"),
            (tmp_path, "is a folder; name a file in it"),
            (tmp_path / "no" / "where.db", "where.db: it cannot be made: the folder .* does not exist"),
            ("a\0b", "cannot name a file"),
        ):
            with pytest.raises(LedgerFileError, match=message):
                ledger.backup(bad, force=True)
    assert head_of(other) == head_of(path)
    assert names(tmp_path) == ["ledger.db", "other.txt"]


def test_a_backup_does_not_take_the_place_of_a_ledger_in_use(path: Path, tmp_path: Path) -> None:
    with Ledger(tmp_path / "used.db", actor="ann") as used, Ledger(path) as ledger:
        new_table(used)
        with pytest.raises(
            LedgerFileError, match=r"used.db-wal is not empty, because a program uses the file or was killed"
        ):
            ledger.backup(tmp_path / "used.db", force=True)


def test_a_ledger_of_a_killed_writer_can_be_replaced_once_it_was_opened(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "killed.db"
    code = "import os, sys; from decomp_ledger.ledger import Ledger; "
    run_python(code + "Ledger(sys.argv[1], actor='ann').create_table('edge'); os._exit(0)", target)
    with Ledger(path) as ledger:
        with pytest.raises(LedgerFileError, match=r"open the file once with Ledger\(\) and close it"):
            ledger.backup(target, force=True)
        Ledger(target).close()
        ledger.backup(target, force=True)
    assert head_of(target) == head_of(path)


_LIMITED = """
import resource, signal
from decomp_ledger.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Ledger(sys.argv[1], read_only=True) as ledger:
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
    try:
        ledger.backup(sys.argv[2])
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_backup_on_a_full_disk_leaves_nothing(path: Path, tmp_path: Path) -> None:
    printed = run_python(_LIMITED, path, tmp_path / "copy.db")
    assert printed.startswith(f"LedgerFileError {tmp_path / 'copy.db'}")
    assert names(tmp_path) == ["ledger.db"]


_KILLED = """
import os, signal
from decomp_ledger.ledger import Ledger
with Ledger(sys.argv[1], read_only=True) as ledger:
    ledger.backup(sys.argv[2], progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_backup_killed_half_way_leaves_no_half_a_file(path: Path, tmp_path: Path) -> None:
    process = start_python(_KILLED, path, tmp_path / "copy.db")
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert not (tmp_path / "copy.db").exists()
    with Ledger(path) as ledger:
        ledger.backup(tmp_path / "copy.db")


# Restore


def test_a_restored_ledger_is_the_backup_and_the_replaced_one_is_kept(path: Path, tmp_path: Path) -> None:
    with Ledger(path, actor="ann") as ledger:
        ledger.backup(tmp_path / "copy.db")
        ledger.table_log("edge").preserve(["aten::later"])
    newer = lines_of(path)
    with pytest.raises(LedgerFileError, match="exists already; --force replaces it and keeps it next to the new"):
        restore(tmp_path / "copy.db", path)
    done = restore(tmp_path / "copy.db", path, force=True)
    assert lines_of(path) == lines_of(tmp_path / "copy.db")
    assert (done.verified.events, done.verified.head) == head_of(path)
    assert done.kept is not None and lines_of(done.kept) == newer
    with Ledger(path, actor="ann") as ledger:
        ledger.table_log("edge").preserve(["aten::after"])
        assert ledger.verify().ok


def test_a_lost_ledger_is_restored_to_any_place(path: Path, tmp_path: Path) -> None:
    done = restore(path, tmp_path / "new.db")
    assert done.kept is None
    assert lines_of(tmp_path / "new.db") == lines_of(path)


def test_a_backup_that_does_not_verify_replaces_nothing(path: Path, tmp_path: Path) -> None:
    with Ledger(path) as ledger:
        bad = ledger.backup(tmp_path / "bad.db")
    tamper(bad, "UPDATE event SET recorded_at = '' WHERE seq = 3")
    before = lines_of(path)
    with pytest.raises(LedgerError, match=r"bad.db: it does not verify, so nothing was replaced: event #3: its con"):
        restore(bad, path, force=True)
    assert lines_of(path) == before
    assert names(tmp_path) == ["bad.db", "ledger.db"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello" * 100, "is not a ledger"),
        ("a dump", "bad.db: it is the dump of a ledger; make a ledger of it with `decomp-ledger load`"),
        (b"", "is empty, not a ledger"),
        (None, "the ledger does not exist"),
    ],
)
def test_a_file_that_is_not_a_ledger_replaces_nothing(
    path: Path, tmp_path: Path, content: bytes | str | None, message: str
) -> None:
    bad = tmp_path / "bad.db"
    if content == "a dump":
        bad.write_text("".join(lines_of(path)))
    elif isinstance(content, bytes):
        bad.write_bytes(content)
    before = lines_of(path)
    with pytest.raises(LedgerFileError, match=message):
        restore(bad, path, force=True)
    with pytest.raises(LedgerFileError, match="is the ledger itself; give a backup"):
        restore(path, path, force=True)
    assert lines_of(path) == before


def test_a_damaged_ledger_is_replaced_and_kept(path: Path, tmp_path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.backup(tmp_path / "copy.db")
    for damage in (b"not even SQLite", b"", path.read_bytes()[:5000], path.read_bytes()[:100] + bytes(9000)):
        path.write_bytes(damage)
        done = restore(tmp_path / "copy.db", path, force=True)
        assert lines_of(path) == lines_of(tmp_path / "copy.db")
        assert done.kept is not None and done.kept.read_bytes() == damage
        done.kept.unlink()


def test_a_program_that_has_the_replaced_ledger_open_loses_no_event(path: Path, tmp_path: Path) -> None:
    with Ledger(path, actor="ann") as ledger:
        ledger.backup(tmp_path / "copy.db")
        table = ledger.table_log("edge")
        table.preserve(["aten::one"])
        done = restore(tmp_path / "copy.db", path, force=True)
        with pytest.raises(LedgerFileError, match="was removed or replaced while it was open"):
            table.preserve(["aten::two"])
    assert done.kept is not None
    with Ledger(done.kept, read_only=True) as kept:
        assert kept.state("edge").rules.keys() >= {"aten::one"}
    assert lines_of(path) == lines_of(tmp_path / "copy.db")


def test_a_ledger_that_is_being_written_is_not_replaced(path: Path, tmp_path: Path) -> None:
    with Ledger(path, actor="ann") as ledger:
        copy = ledger.backup(tmp_path / "copy.db")
        refused = pytest.raises(LedgerFileError, match=r"another process is writing|another process uses it")
        with refused, ledger.database.write_transaction():
            restore(copy, path, force=True, timeout=0.1)
        ledger.table_log("edge").preserve(["aten::after"])
        assert ledger.verify().ok


_BUSY = """
from decomp_ledger.ledger import Ledger
with Ledger(sys.argv[1], actor="writer") as ledger:
    table = ledger.table_log("edge")
    print("writing", flush=True)
    try:
        for number in range(1_000_000):
            table.preserve([f"aten::op{number}"])
    except OSError as error:
        print(table.version, error)
"""


def test_each_event_that_was_acknowledged_while_a_ledger_was_replaced_is_in_the_kept_one(
    path: Path, tmp_path: Path
) -> None:
    with Ledger(path) as ledger:
        copy = ledger.backup(tmp_path / "copy.db")
    writer = start_python(_BUSY, path)
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    done = restore(copy, path, force=True)
    version, error = writer.communicate(timeout=60)[0].split(" ", 1)
    assert "was removed or replaced while it was open" in error
    assert done.kept is not None
    with Ledger(done.kept) as kept:
        assert kept.state("edge").version == int(version)
        assert kept.verify().ok
    assert lines_of(path) == lines_of(copy)


@pytest.mark.parametrize("is_taken", [True, False], ids=["name taken", "disk full"])
def test_a_restore_that_fails_at_the_end_does_not_hide_the_ledger(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    with Ledger(path) as ledger:
        copy = ledger.backup(tmp_path / "copy.db")
        new_table(ledger, "newer")
        lines = list(dump(ledger))
    real = restoring.put

    def put(draft: Path, target: Path) -> None:
        if not is_taken:
            raise OSError(28, "No space left on device")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: Ledger(target).close()).result(10)
        real(draft, target)

    monkeypatch.setattr(restoring, "put", put)
    with pytest.raises(LedgerFileError) as caught:
        restore(copy, path, force=True)
    kept = next((entry for entry in tmp_path.iterdir() if ".replaced-" in entry.name), path)
    assert lines_of(kept) == lines
    if is_taken:
        assert str(caught.value).endswith(f"name another file; the ledger that was there is kept at {kept}")
    else:
        assert names(tmp_path) == ["copy.db", "ledger.db"]


def test_a_log_without_its_ledger_is_taken_into_no_other(path: Path, tmp_path: Path) -> None:
    with Ledger(path) as ledger:
        copy = ledger.backup(tmp_path / "copy.db")
    shutil.copy(path, tmp_path / "lost.db")
    (tmp_path / "lost.db-wal").write_bytes(b"x" * 5000)
    (tmp_path / "lost.db").unlink()
    makers: list[Callable[[], object]] = [
        lambda: Ledger(tmp_path / "lost.db"),
        lambda: restore(copy, tmp_path / "lost.db"),
        lambda: load(lines_of(copy), tmp_path / "lost.db"),
    ]
    for make in makers:
        with pytest.raises(
            LedgerFileError, match=r"lost.db-wal: it is the log of a ledger that is gone; put lost.db back"
        ):
            make()
    assert names(tmp_path) == ["copy.db", "ledger.db"]


# Dump and load


def test_a_ledger_that_was_dumped_and_loaded_is_the_same(path: Path, tmp_path: Path) -> None:
    lines = lines_of(path)
    result = load(lines, tmp_path / "loaded.db")
    assert lines_of(tmp_path / "loaded.db") == lines
    assert (result.events, result.head) == head_of(path) == head_of(tmp_path / "loaded.db")
    assert [one.seq for one in result.signatures] == [3, 9]
    with Ledger(path) as one, Ledger(tmp_path / "loaded.db") as two:
        assert (one.id, list(one.events()), one.tags("edge")) == (two.id, list(two.events()), two.tags("edge"))
        assert [one.state(info.name) for info in one.tables()] == [two.state(info.name) for info in two.tables()]
        two.actor = "ann"
        two.table_log("edge").preserve(["aten::after"])
        assert two.verify().ok
    assert all(line.isascii() and line.count("\n") == 1 and len(json.loads(line)) == 1 for line in lines)


def test_an_empty_ledger_can_be_dumped_and_loaded(tmp_path: Path) -> None:
    with Ledger(tmp_path / "empty.db") as ledger:
        lines = list(dump(ledger))
    assert load(lines, tmp_path / "loaded.db").events == 0
    assert lines_of(tmp_path / "loaded.db") == lines


def test_a_dump_file_is_written_whole_and_loaded_by_its_path(path: Path, tmp_path: Path) -> None:
    with Ledger(path, read_only=True) as ledger:
        file = dump_to_file(ledger, tmp_path / "dump.jsonl")
        with pytest.raises(LedgerFileError, match=r"dump.jsonl: "):
            dump_to_file(ledger, file)
    assert file.read_text() == "".join(lines_of(path))
    assert load(file, tmp_path / "loaded.db").head == head_of(path)[1]


@pytest.mark.parametrize("in_memory", [False, True], ids=["file", "memory"])
def test_writes_between_the_lines_of_a_dump_are_not_in_it(path: Path, tmp_path: Path, in_memory: bool) -> None:
    with Ledger(":memory:" if in_memory else path, actor="ann") as ledger:
        table = new_table(ledger)
        lines = dump(ledger)
        first = next(lines)
        before = sum(info.events for info in ledger.tables())
        table.preserve(["aten::here"])
        with ThreadPoolExecutor(1) as pool:
            pool.submit(table.preserve, ["aten::there"]).result(10)
        loaded = load([first, *lines], tmp_path / "loaded.db")
        assert loaded.events == before
        assert sum(info.events for info in ledger.tables()) == before + 2


def test_a_dump_that_another_thread_drops_leaves_the_ledger_free(path: Path) -> None:
    with Ledger(path, actor="ann", timeout=1) as ledger:
        held = [dump(ledger)]
        next(held[0])
        with ThreadPoolExecutor(1) as pool:
            pool.submit(held.clear).result(10)
            assert pool.submit(ledger.table_log("edge").preserve, ["aten::there"]).result(10) is not None
    assert not fork_safety.is_open(path)


def test_a_damaged_ledger_leaves_no_dump_file(path: Path, tmp_path: Path) -> None:
    tamper(path, "UPDATE event SET body = '{' WHERE seq = 3")
    with Ledger(path, read_only=True) as ledger, pytest.raises(LedgerError, match="event 3: damaged"):
        dump_to_file(ledger, tmp_path / "dump.jsonl")
    assert names(tmp_path) == ["ledger.db"]


def replace(old: str, new: str) -> Callable[[list[str]], list[str]]:
    """Replace a text in the first line that has it."""

    def edit(lines: list[str]) -> list[str]:
        at = next(at for at, line in enumerate(lines) if old in line)
        return [*lines[:at], lines[at].replace(old, new), *lines[at + 1 :]]

    return edit


EDITS: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "nothing": (lambda lines: [], "the dump: ends after line 0 without an 'end' line"),
    "no JSON": (lambda lines: ["hello\n"], "line 1: cannot be loaded"),
    "a deep line": (lambda lines: ["[" * 100_000], "line 1: cannot be loaded"),
    "the end cut off": (lambda lines: lines[:-1], "the dump: ends after line 1[0-9] without an 'end' line"),
    "half a line": (lambda lines: [*lines[:-1], lines[-1][:9]], "cannot be loaded"),
    "an event left out": (lambda lines: [line for line in lines if '"seq":4,' not in line], "event 4 is missing"),
    "a reason": (replace("line\\nbreak", "another"), "event 2 does not match its hash"),
    "an actor": (replace("Ann", "Eve"), "event 1 does not match its hash"),
    "an environment": (replace('"python":"', '"python":"2'), "cannot be loaded"),
    "a catalog": (replace('"torch":"2.13.0"', '"torch":"2.14.0"'), "does not match its digest"),
    "another id": (replace('"id":"', '"id":"0'), "line [0-9]+: cannot be loaded|does not verify"),
    "another date": (replace('"created_at":"2', '"created_at":"1'), "event 1 does not follow the event before it"),
    "another format": (replace("dump 1", "dump 9"), "its format is 'decomp-ledger dump 9'"),
    "a line of another kind": (lambda lines: [lines[0], '{"merge":{}}\n', *lines[1:]], "a line of kind 'merge'"),
    "a line twice": (lambda lines: [lines[0], *lines], "a line of kind 'ledger'"),
    "more behind the end": (lambda lines: [*lines, lines[-1]], "does not belong there"),
    "an environment without an event": (
        lambda lines: [lines[0], '{"environment":{}}\n', *lines[1:]],
        "its row of 'environment' has the number 2, and the next is 1",
    ),
    "a checkpoint left out": (
        lambda lines: [line for line in lines if '"previous\\":null' not in line],
        "the dump should end with",
    ),
    "another head": (replace('"head":"', '"head":"0'), "the dump should end with"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_changed_dump_makes_no_ledger(path: Path, tmp_path: Path, name: str) -> None:
    edit, message = EDITS[name]
    with pytest.raises(LedgerError, match=message) as caught:
        load(edit(lines_of(path)), tmp_path / "loaded.db")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["ledger.db"]


def test_a_dump_is_not_loaded_over_a_file(path: Path) -> None:
    with pytest.raises(LedgerFileError, match="exists already; name another file"):
        load(lines_of(path), path)


def test_bytes_where_text_should_be_are_not_dumped(path: Path) -> None:
    for edit in ("UPDATE sqlite_master SET sql = replace(sql, ') STRICT', ')') WHERE name = 'provenance'",
                 "UPDATE provenance SET actor = x'00ff'",
                 "UPDATE sqlite_master SET sql = sql || ' STRICT' WHERE name = 'provenance'"):  # fmt: skip
        tamper(path, f"PRAGMA writable_schema = ON; {edit}")
    with pytest.raises(LedgerError, match="event 1: a value is not text"), Ledger(path, read_only=True) as ledger:
        list(dump(ledger))


def test_a_damaged_ledger_is_not_dumped_as_if_it_were_whole(path: Path) -> None:
    tamper(path, "UPDATE event SET body = '{' WHERE seq = 3")
    with pytest.raises(LedgerError, match="event 3: damaged"):
        lines_of(path)


# From the command line


def test_the_command_line_backs_up_and_restores(path: Path, tmp_path: Path) -> None:
    events, head = head_of(path)
    copy, dumped, loaded = tmp_path / "copy.db", tmp_path / "dump.jsonl", tmp_path / "loaded.db"
    assert command(path, "backup", str(copy)).stdout == f"{copy} is a copy of {path}\n"
    done = command(path, "backup", str(copy), "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (2, "LedgerFileError")
    assert json.loads(command(path, "backup", str(copy), "--force", "--json").stdout) == {"backup": str(copy)}
    done = command(path, "restore", str(copy))
    assert (done.returncode, "--force replaces it" in done.stderr) == (2, True)
    first, second = command(path, "restore", str(copy), "--force").stdout.splitlines()
    assert first == f"{path} has {events} events again; head {head}"
    assert Path(second.removeprefix("the replaced ledger is kept at ")).exists()
    assert command(path, "dump", "-o", str(dumped)).stderr == ""
    assert command(path, "dump").stdout == dumped.read_text() == "".join(lines_of(path))
    assert command(loaded, "load", str(dumped)).stdout == f"{loaded} has {events} events; head {head}\n"
    assert head_of(loaded) == (events, head)
    printed = json.loads(command(tmp_path / "two.db", "load", str(dumped), "--json").stdout)
    assert printed == {"ledger": str(tmp_path / "two.db"), "events": events, "head": head}
    done = command(tmp_path / "three.db", "load", str(tmp_path / "nowhere"))
    assert (done.returncode, "nowhere: cannot be read" in done.stderr) == (2, True)


def test_a_dump_goes_through_a_pipe(path: Path, tmp_path: Path) -> None:
    text = command(path, "dump").stdout
    program = [sys.executable, "-m", "decomp_ledger", "--ledger", str(tmp_path / "x.db"), "load", "-"]
    done = subprocess.run(program, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines_of(tmp_path / "x.db") == text.splitlines(keepends=True)


def test_a_file_that_sqlite_left_in_another_journal_mode_is_copied_too(path: Path, tmp_path: Path) -> None:
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    db.close()
    done = restore(path, tmp_path / "new.db")
    assert done.verified.ok


@pytest.mark.parametrize("table", ["op", "event", "provenance", "catalog"])
def test_a_backup_with_a_damaged_schema_is_refused_in_one_line(path: Path, tmp_path: Path, table: str) -> None:
    with Ledger(path) as ledger:
        ledger.backup(tmp_path / "copy.db")
    data = (tmp_path / "copy.db").read_bytes()
    text = f"CREATE TABLE {table} (".encode()
    assert text in data
    (tmp_path / "copy.db").write_bytes(data.replace(text, text[:-1] + b'"'))  # SQLite quotes the rest, with its lines
    with pytest.raises(LedgerError, match="malformed database schema") as raised:
        restore(tmp_path / "copy.db", tmp_path / "new.db")
    assert "\n" not in str(raised.value)
    with pytest.raises(LedgerError) as opened:
        Ledger(tmp_path / "copy.db")
    assert "\n" not in str(opened.value)


@pytest.mark.parametrize("make", ["backup", "restore"])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_special_file_is_never_replaced(make: str, kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    special = Path("special")
    if kind == "pipe":
        os.mkfifo(special)
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(special))
    before = special.stat()
    with pytest.raises(LedgerFileError, match="a device, a pipe or a socket, which is never replaced; name a file"):
        if make == "backup":
            Ledger(path).backup(special, force=True)
        else:
            restore(path, special, force=True)
    assert (special.stat().st_ino, special.stat().st_mode) == (before.st_ino, before.st_mode)
    assert not list(path.parent.glob(".special*"))
