"""The ledger file: creation, bad files, permissions, processes, forks, threads, transactions, full disks."""

import json
import os
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from strategies import (
    finish,
    new_table,
    public_folder,
    run_python,
    run_unprivileged,
    start_python,
)

from decomp_ledger.errors import LedgerError, LedgerFileError
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.database import Database
from decomp_ledger.storage.new_file import draft_of, put
from decomp_ledger.storage.sqlite_errors import describe_error


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return name -> bytes of each file in a folder; None for a folder."""
    return {entry.name: None if entry.is_dir() else entry.read_bytes() for entry in sorted(folder.iterdir())}


# Bad files


def truncate(ledger: Path, size: int) -> bytes:
    """Return the first bytes of a ledger."""
    return ledger.read_bytes()[:size]


def other_database(ledger: Path, journal: str, application_id: int) -> bytes:
    """Return an SQLite file of another application."""
    other = ledger.with_name("other.db")
    db = sqlite3.connect(other)
    db.execute(f"PRAGMA journal_mode = {journal}")
    db.execute(f"PRAGMA application_id = {application_id}")
    db.execute("CREATE TABLE event (seq INTEGER PRIMARY KEY, body TEXT)")
    db.execute("INSERT INTO event (body) VALUES ('theirs')")
    db.commit()
    db.close()
    data = other.read_bytes()
    other.unlink()
    return data


def scribble(ledger: Path) -> bytes:
    """Return a ledger whose pages after the header are overwritten."""
    data = ledger.read_bytes()
    return data[:100] + bytes(range(256)) * (len(data) // 256 + 1)


BAD_FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "text": (lambda ledger: b"op,action\naten::mm,preserve\n" * 50, "not a ledger: not an SQLite file"),
    "empty": (lambda ledger: b"", "is empty, not a ledger; remove it"),
    "encrypted": (lambda ledger: os.urandom(8192), "not a ledger: not an SQLite file, or an encrypted one"),
    "one byte": (lambda ledger: b"S", "not a ledger"),
    "half a header": (lambda ledger: truncate(ledger, 50), "is truncated: 50 bytes"),
    "a header alone": (lambda ledger: truncate(ledger, 100), "is truncated: 100 bytes"),
    "a page alone": (lambda ledger: truncate(ledger, 4096), "is truncated: 4096 bytes"),
    "all but a byte": (lambda ledger: ledger.read_bytes()[:-1], r"is truncated: \d+ bytes"),
    "another's database": (lambda ledger: other_database(ledger, "DELETE", 0), "SQLite database, but not a ledger"),
    "another's in WAL": (lambda ledger: other_database(ledger, "WAL", 7), "SQLite database, but not a ledger"),
    "overwritten": (scribble, "is damaged|not a ledger"),
}


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gives_one_clear_error_and_is_unchanged(
    path: Path, tmp_path: Path, name: str, read_only: bool
) -> None:
    make, message = BAD_FILES[name]
    folder = tmp_path / "bad"
    folder.mkdir()
    bad = folder / "bad.db"
    bad.write_bytes(make(path))
    before = contents(folder)
    with pytest.raises(LedgerFileError, match=message) as caught:
        Ledger(bad, read_only=read_only)
    assert str(caught.value).startswith(str(bad))
    assert "\n" not in str(caught.value)
    after = contents(folder)
    if name == "overwritten":  # its header is good, so that SQLite opened it and left its two files
        after = {key: data for key, data in after.items() if key not in ("bad.db-wal", "bad.db-shm")}
    assert after == before


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
def test_a_folder_is_refused(tmp_path: Path, read_only: bool) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    with pytest.raises(LedgerFileError, match="is a folder, not a ledger; name a file in it"):
        Ledger(folder, read_only=read_only)
    assert contents(tmp_path) == {"runs": None}


def test_a_file_that_is_not_regular_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "dangling"):
        with pytest.raises(LedgerFileError, match="is not a regular file"):
            Ledger(tmp_path / name)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dangling", "pipe"]


@pytest.mark.parametrize("below", ["nowhere/ledger.db", "file/ledger.db"], ids=["missing", "a file"])
def test_a_ledger_in_a_missing_folder_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerFileError, match=r"cannot be made: the folder .* does not exist"):
        Ledger(tmp_path / below)
    assert contents(tmp_path) == {"file": b""}


def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(LedgerFileError, match=r"the ledger does not exist; name another file, or record something"):
        Ledger(tmp_path / "ledger.db", read_only=True)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "a\ud800b"], ids=["too long", "a null", "a surrogate"])
@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
def test_an_invalid_file_name_is_a_ledger_error(tmp_path: Path, name: str, read_only: bool) -> None:
    with pytest.raises(LedgerError):
        Ledger(tmp_path / name, read_only=read_only)
    assert contents(tmp_path) == {}


def test_a_lazy_ledger_raises_at_its_first_use(tmp_path: Path) -> None:
    bad = tmp_path / "bad.db"
    bad.write_text("not a ledger")
    ledger = Ledger(bad, lazy=True)
    with pytest.raises(LedgerFileError, match="not an SQLite file"):
        ledger.tables()
    bad.unlink()
    assert ledger.tables() == []
    ledger.close()


def test_a_lazy_ledger_makes_no_file_until_it_is_used(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", lazy=True) as ledger:
        assert contents(tmp_path) == {}
        new_table(ledger)
    assert contents(tmp_path).keys() == {"ledger.db"}


def test_durability_is_one_of_two(tmp_path: Path) -> None:
    with pytest.raises(LedgerFileError, match="'disk' is unknown; give 'process' or 'power'"):
        Ledger(tmp_path / "ledger.db", durability="disk")
    for durability, synchronous in (("process", 1), ("power", 2)):
        with Ledger(tmp_path / "ledger.db", durability=durability) as ledger:
            assert ledger.database.connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)


# Permissions, as a user to whom they apply

_TRY = """
import stat
path, mode = sys.argv[1], sys.argv[2]
try:
    with Ledger(path, read_only=mode == "reading") as ledger:
        print("opened", [info.version for info in ledger.tables()])
except errors.LedgerError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "mode", "expected"),
    [
        (0o000, 0o777, "reading", "may not be read|cannot be opened"),
        (0o000, 0o777, "writing", "may not be read|cannot be opened|is read-only here"),
        (0o444, 0o777, "writing", "is read-only here; make the file and its folder writable"),
        (0o666, 0o555, "writing", "is read-only here; make the file and its folder writable"),
        (0o644, 0o000, "reading", "may not be read|cannot be opened"),
        (0o644, 0o000, "writing", "may not be read|cannot be opened"),
        (0o444, 0o555, "reading", None),
        (0o444, 0o777, "reading", None),
    ],
    ids=[
        "unreadable",
        "unreadable-w",
        "read-only file",
        "read-only folder",
        "closed folder",
        "closed-w",
        "ro-ro",
        "ro",
    ],
)
def test_missing_permissions_give_one_clear_error(
    path: Path, file_mode: int, folder_mode: int, mode: str, expected: str | None
) -> None:
    with public_folder() as folder:
        copy = folder / "ledger.db"
        shutil.copy(path, copy)
        before = copy.read_bytes()
        copy.chmod(file_mode)
        folder.chmod(folder_mode)
        printed = run_unprivileged(_TRY, copy, mode)
        folder.chmod(0o755)
        copy.chmod(0o644)
        assert copy.read_bytes() == before
    if expected is None:
        assert printed == "opened [2]\n"
    else:
        assert printed.startswith("LedgerFileError")
        assert any(text in printed for text in expected.split("|")), printed
        assert printed.count("\n") == 1


def test_a_ledger_in_a_read_only_folder_is_refused() -> None:
    with public_folder() as folder:
        folder.chmod(0o555)
        printed = run_unprivileged(_TRY, folder / "ledger.db", "writing")
        assert printed.startswith("LedgerFileError")
        assert contents(folder) == {}


@pytest.mark.parametrize("lost", [False, True], ids=["alone", "after another"])
def test_a_ledger_is_made_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    path = tmp_path / "ledger.db"

    def link(source: Path, target: Path) -> None:
        if lost:
            source.rename(target)
            with Ledger(target, actor="other") as first:
                new_table(first, "theirs")
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", link)
    with Ledger(path, actor="ann") as ledger:
        new_table(ledger)
        assert [info.name for info in ledger.tables()] == (["theirs", "edge"] if lost else ["edge"])
    assert contents(tmp_path).keys() == {"ledger.db"}


# Names and paths


@pytest.mark.parametrize(
    "name", ["a b?mode=memory#x%41.db", "läger.db", os.fsdecode(b"\xff\xfe.db"), "file:x.db", "-", " .db"]
)
def test_any_valid_file_name_can_name_a_ledger(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with Ledger(path, actor="ann") as ledger:
        new_table(ledger)
        assert ledger.path == str(path)
    with Ledger(path, read_only=True) as ledger:
        assert [info.name for info in ledger.tables()] == ["edge"]
    assert name in {entry.name for entry in tmp_path.iterdir()}


def test_a_relative_path_is_resolved_when_the_ledger_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger("ledger.db") as ledger:
        monkeypatch.chdir("/")
        new_table(ledger)
    assert (tmp_path / "ledger.db").exists()


def test_a_ledger_in_memory_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger(":memory:") as ledger:
        new_table(ledger)
        assert ledger.path == ":memory:"
    assert contents(tmp_path) == {}


def test_a_closed_ledger_leaves_one_file(path: Path) -> None:
    assert contents(path.parent).keys() == {"ledger.db"}


def test_each_ledger_has_its_own_id_and_keeps_it(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as first, Ledger(tmp_path / "b.db") as second:
        ids = {first.id, second.id}
        assert len(ids) == 2
        assert all(len(bytes.fromhex(name)) == 16 for name in ids)
        kept = first.id
    with Ledger(tmp_path / "a.db", read_only=True) as again:
        assert again.id == kept


# Closed, read-only, lost


def test_a_closed_ledger_refuses_every_use(path: Path) -> None:
    ledger = Ledger(path)
    table = ledger.table_log("edge")
    ledger.close()
    ledger.close()
    for use in (ledger.tables, lambda: table.preserve(["aten::add"]), ledger.verify, lambda: list(ledger.events())):
        with pytest.raises(LedgerFileError, match="is closed; open it again"):
            use()
    assert table.version == 2


def test_a_ledger_opened_for_reading_refuses_every_write(path: Path) -> None:
    before = path.read_bytes()
    with Ledger(path, read_only=True) as ledger:
        table = ledger.table_log("edge")
        for write in (
            lambda: table.preserve(["aten::add"]),
            lambda: table.tag("v1"),
            lambda: table.fork_as("other"),
            lambda: table.fork().preserve(["aten::add"]),
        ):
            with pytest.raises(LedgerFileError, match="was opened for reading only"):
                write()
        assert (table.version, table.rules.keys()) == (2, {"aten::mm"})
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            ledger.database.connection.execute("INSERT INTO op (name) VALUES ('aten::add')")
    assert path.read_bytes() == before


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_removed_or_replaced_file_gets_no_more_events(path: Path, replaced: bool) -> None:
    with Ledger(path) as ledger:
        table = ledger.table_log("edge")
        away = path.rename(path.with_name("away.db"))
        if replaced:
            Ledger(path).close()
        with pytest.raises(LedgerFileError, match="was removed or replaced while it was open; put it back"):
            table.preserve(["aten::add"])
        assert (table.version, table.rules.keys()) == (2, {"aten::mm"})
        away.rename(path)
        if replaced:  # the other ledger's last user removed the log of that name
            with pytest.raises(LedgerFileError, match=r"ledger\.db-wal: the file was removed or replaced"):
                table.preserve(["aten::add"])
        else:
            event = table.preserve(["aten::add"])
            assert event is not None
            assert event.version == 3


# Several processes

_APPEND = """
import sys
from decomp_ledger.ledger import Ledger
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with Ledger(path, actor=name) as ledger:
    table = ledger.create_table("shared")
    for number in range(count):
        table.preserve([f"{name}::op{number}"])
"""


def test_processes_that_create_one_ledger_at_once_share_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    names = ["one", "two", "three"]
    processes = [start_python(_APPEND, path, name, 10) for name in names]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        finish(process)
    with Ledger(path, read_only=True) as ledger:
        assert ledger.state("shared").rules.keys() == {f"{name}::op{n}" for name in names for n in range(10)}
        assert ledger.state("shared").version == 31
        assert {name: len(list(ledger.events(actor=name, kind="popped"))) for name in names} == dict.fromkeys(names, 10)
        assert ledger.verify().problems == ()
    assert contents(tmp_path).keys() <= {"ledger.db", "ledger.db-wal", "ledger.db-shm"}


_LOOK = """
import sqlite3, sys
print(*sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM event").fetchone())
"""


def test_opening_a_ledger_twice_keeps_the_locks_of_the_first(path: Path) -> None:
    with Ledger(path, actor="ann") as ledger:
        table = ledger.table_log("edge")
        table.preserve(["aten::add.Tensor"])
        Ledger(path, read_only=True).close()
        ledger.backup(path.with_name("copy.db"))
        # A process that takes itself for the last user of the file removes the write-ahead log.
        assert run_python(_LOOK, path) == "3\n"
        table.preserve(["aten::relu"])
        assert run_python(_LOOK, path) == "4\n"


_FORK = """
import os, sys
from decomp_ledger.ledger import Ledger
ledger = Ledger(sys.argv[1], actor="parent")
table = ledger.create_table("edge")
table.preserve(["aten::add"])
child = os.fork()
if child == 0:
    try:
        ledger.actor = "child"
        assert table.preserve(["aten::mul"]).version == 4
        assert ledger.verify().ok
        ledger.close()
        status = 0
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        status = 1
    os._exit(status)
assert os.waitpid(child, 0)[1] == 0
assert table.preserve(["aten::sub"]).version == 5
assert ledger.verify().ok
print(*[event.actor for event in ledger.events(gt=2)])
"""


def test_a_forked_child_writes_through_its_own_connection(path: Path) -> None:
    assert run_python(_FORK, path).split() == ["parent", "child", "parent"]
    with Ledger(path, read_only=True) as ledger:
        assert ledger.state("edge").rules.keys() == {"aten::mm", "aten::add", "aten::mul", "aten::sub"}


_FORK_CLOSED = """
import os, sys
from decomp_ledger.ledger import Ledger
ledger = Ledger(sys.argv[1], actor="ann")
table = ledger.table_log("edge")
ends, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    table.preserve(["aten::add"])
    os.write(ends[1], b"1")
    os.read(go[0], 1)
    print(table.preserve(["aten::mul"]).seq, flush=True)
    os._exit(0)
os.read(ends[0], 1)
ledger.close()
other = os.fork()
if other == 0:
    with Ledger(sys.argv[1], actor="other") as own:
        own.table_log("edge").preserve(["aten::sub"])
    os._exit(0)
os.waitpid(other, 0)
os.write(go[1], b"1")
os.waitpid(child, 0)
"""


def test_events_of_a_forked_child_survive_when_others_close_the_ledger(path: Path) -> None:
    # If the child trusted its parent's locks, the last process to close would remove the child's write-ahead log.
    assert run_python(_FORK_CLOSED, path) == "5\n"
    with Ledger(path, read_only=True) as ledger:
        assert ledger.state("edge").rules.keys() == {"aten::mm", "aten::add", "aten::mul", "aten::sub"}


_FORK_WITHIN = """
import os, sys
from decomp_ledger.errors import LedgerFileError
from decomp_ledger.ledger import Ledger
ledger = Ledger(sys.argv[1], actor="ann")
table = ledger.table_log("edge")

def fork():
    child = os.fork()
    if child == 0:
        for use in (ledger.tables, lambda: Ledger(sys.argv[1])):
            try:
                use()
            except LedgerFileError as error:
                print("in use when this process was forked" in str(error), flush=True)
    return child

if sys.argv[2] == "writing":
    try:
        with ledger.database.write_transaction():
            child = fork()
    except LedgerFileError as error:
        print(error, flush=True)
        os._exit(0)
else:
    with ledger.database.reading():
        child = fork()
    if child == 0:
        os._exit(0)
os.waitpid(child, 0)
print(table.preserve(["aten::add"]).seq)
"""


@pytest.mark.parametrize("within", ["reading", "writing"])
def test_a_child_forked_while_a_ledger_is_in_use_refuses_it(path: Path, within: str) -> None:
    printed = run_python(_FORK_WITHIN, path, within)
    more = (
        f"{path}: the process that forked this one is writing to it; open the ledger again in this process\n"
        if within == "writing"
        else ""
    )
    assert printed == f"True\nTrue\n{more}3\n"


_FORK_OPENING = """
import os, sys, threading
from decomp_ledger.errors import LedgerFileError
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.database import Database
fork_safety._FORK_TIMEOUT = 0.1
inside, leave = threading.Event(), threading.Event()
real = getattr(Database, sys.argv[2])

def slow(self, argument):
    result = real(self, argument)
    inside.set()
    leave.wait(30)
    return result

setattr(Database, sys.argv[2], slow)
ledger = Ledger(sys.argv[1], actor="ann", lazy=True)
opener = threading.Thread(target=ledger.tables)
opener.start()
inside.wait(30)
setattr(Database, sys.argv[2], real)
child = os.fork()
if child == 0:
    for use in (ledger.tables, lambda: Ledger(sys.argv[1])):
        try:
            use()
            print("the child opened it", flush=True)
        except LedgerFileError as error:
            print("in use when this process was forked" in str(error), flush=True)
    os._exit(0)
os.waitpid(child, 0)
leave.set()
opener.join()
print(ledger.table_log("edge").preserve(["aten::add"]).seq)
"""


@pytest.mark.parametrize("within", ["_connect_file", "_migrate"])
def test_a_child_forked_while_a_thread_opens_a_ledger_refuses_it(path: Path, within: str) -> None:
    assert run_python(_FORK_OPENING, path, within) == "True\nTrue\n3\n"


_FORK_GONE = """
import os, sys
from decomp_ledger.errors import LedgerFileError
from decomp_ledger.ledger import Ledger
ledger = Ledger(sys.argv[1], actor="ann")
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
os.rename(sys.argv[1], sys.argv[1] + ".away")
try:
    ledger.tables()
except LedgerFileError as error:
    print("was removed or replaced while it was open" in str(error), os.path.exists(sys.argv[1]))
os.rename(sys.argv[1] + ".away", sys.argv[1])
print(len(ledger.tables()))
"""


def test_a_ledger_removed_after_a_fork_is_not_created_again(path: Path) -> None:
    assert run_python(_FORK_GONE, path) == "True False\n1\n"


_FORK_MEMORY = """
import os
from decomp_ledger.errors import LedgerFileError
from decomp_ledger.ledger import Ledger
ledger = Ledger(":memory:", actor="ann")
if os.fork() == 0:
    try:
        ledger.tables()
    except LedgerFileError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
print(len(ledger.tables()))
"""


def test_a_forked_child_refuses_a_ledger_in_memory() -> None:
    printed = run_python(_FORK_MEMORY)
    assert printed == ":memory:: a ledger in memory belongs to the process that made it; use a file to share one\n0\n"


_HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute(sys.argv[2])
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_locked_ledger_is_an_error_after_the_timeout(path: Path) -> None:
    holder = start_python(_HOLD, path, "BEGIN IMMEDIATE")
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with Ledger(path, timeout=0.2) as ledger:
        table = ledger.table_log("edge")
        with pytest.raises(LedgerFileError, match="another process is writing to it and did not finish in time"):
            table.preserve(["aten::add"])
        assert (table.version, table.rules.keys()) == (2, {"aten::mm"})
        finish(holder)
        event = table.preserve(["aten::add"])
        assert event is not None
        assert event.version == 3


_GREEDY = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
end = time.monotonic() + 60
print("begun", flush=True)
while time.monotonic() < end:
    db.execute("BEGIN IMMEDIATE")
    time.sleep(0.06)
    db.execute("ROLLBACK")
    time.sleep(0.0015)
"""


def test_a_writer_gets_the_lock_in_the_short_gaps_of_another(path: Path) -> None:
    greedy = start_python(_GREEDY, path)
    assert greedy.stdout is not None and greedy.stdout.readline() == "begun\n"
    with Ledger(path, timeout=1.5) as ledger:
        table = ledger.table_log("edge")
        for number in range(15):
            time.sleep(0.07)  # meanwhile the other writer takes the lock again
            table.preserve([f"aten::op{number}"])
    greedy.kill()
    greedy.communicate()
    assert table.version == 17


def test_acknowledged_events_survive_the_kill_of_a_writer(path: Path) -> None:
    process = start_python(
        _APPEND.replace("    for number", "    print('open', flush=True)\n    for number"), path, "x", 9999
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "open\n"
    with Ledger(path) as ledger:
        while not list(ledger.events(actor="x", kind="popped", limit=3)):
            pass
        process.kill()
        process.communicate()
        before = list(ledger.events())
        new_table(ledger, "after").preserve(["aten::add"])
        assert list(ledger.events())[: len(before)] == before
        assert ledger.verify().problems == ()


# Threads


def test_threads_share_a_ledger_and_lose_no_event(path: Path) -> None:
    with Ledger(path) as ledger, ThreadPoolExecutor(8) as pool:
        shared = ledger.table_log("edge")

        def work(number: int) -> None:
            own = new_table(ledger, f"own{number}")
            for step in range(5):
                shared.preserve([f"t{number}::op{step}"])
                own.preserve([f"t{number}::op{step}"])
                assert ledger.state(f"own{number}").version == step + 2

        list(pool.map(work, range(8)))
        assert shared.version == 2 + 40
        assert ledger.state("edge").rules == shared.rules
        assert [info.version for info in ledger.tables()] == [42, *[6] * 8]
        assert ledger.verify().problems == ()


def test_is_open_holds_while_other_threads_open_files(path: Path) -> None:
    stop, held = threading.Event(), []

    def open_more() -> None:
        while not stop.is_set():
            held.append(Database(path, lazy=True))
            with fork_safety.opening_lock():
                fork_safety.register_open_file(held[-1])
            del held[:-500]

    threads = [threading.Thread(target=open_more) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        with Ledger(path):
            assert {fork_safety.is_open(path) for _ in range(500)} == {True}
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        for thread in threads:
            thread.join()


def test_a_thread_never_sees_half_a_transaction_of_another(path: Path) -> None:
    inside, leave = threading.Event(), threading.Event()
    with Ledger(path) as ledger, ThreadPoolExecutor(2) as pool:

        def write() -> None:
            with ledger.database.write_transaction() as connection:
                connection.execute("INSERT INTO op (name) VALUES ('aten::half')")
                inside.set()
                leave.wait(10)
                raise KeyError("gives up")

        writer = pool.submit(write)
        assert inside.wait(10)
        reader = pool.submit(lambda: ledger.database.connection and _ops(ledger))
        leave.set()
        with pytest.raises(KeyError):
            writer.result(10)
        assert reader.result(10) == ["aten::mm"]


def _ops(ledger: Ledger) -> list[str]:
    with ledger.database.reading() as connection:
        return [name for (name,) in connection.execute("SELECT name FROM op ORDER BY id")]


# Transactions


def test_an_exception_rolls_a_transaction_back(path: Path) -> None:
    with Ledger(path) as ledger:
        with pytest.raises(KeyError), ledger.database.write_transaction() as connection:
            new_table(ledger, "inner").preserve(["aten::inner"])
            assert _ops(ledger) == ["aten::mm", "aten::inner"]
            assert connection.in_transaction
            raise KeyError
        assert _ops(ledger) == ["aten::mm"]
        # The row ids of the transaction must be forgotten.
        new_table(ledger, "later").preserve(["aten::outer", "aten::inner"])
        assert [info.name for info in ledger.tables()] == ["edge", "later"]
        assert ledger.state("later").rules.keys() == {"aten::outer", "aten::inner"}
        assert ledger.verify().problems == ()


def test_a_read_transaction_sees_the_ledger_at_one_moment(path: Path) -> None:
    with Ledger(path) as ledger, Ledger(path) as other:
        with ledger.database.read_transaction():
            before = ledger.state("edge")
            new_table(other, "theirs")
            other.table_log("edge").preserve(["aten::add"])
            with ledger.database.read_transaction():  # part of the outer one
                assert ledger.state("edge") == before
            assert [info.name for info in ledger.tables()] == ["edge"]
        assert [info.name for info in ledger.tables()] == ["edge", "theirs"]


def test_a_write_within_a_read_transaction_is_refused_and_the_read_goes_on(path: Path) -> None:
    with Ledger(path) as ledger, Ledger(path) as other:
        with ledger.database.read_transaction() as connection:
            before = ledger.state("edge")
            with pytest.raises(LedgerFileError, match="this thread reads it in a transaction, which cannot write"):
                new_table(ledger, "mine")
            assert connection.in_transaction
            other.table_log("edge").preserve(["aten::add"])
            assert ledger.state("edge") == before
        assert new_table(ledger, "mine").version == 1


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no links"])
def test_a_draft_does_not_replace_a_file_made_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError("no hard links here")

    if not has_links:
        monkeypatch.setattr(os, "link", link)
    target = tmp_path / "copy.db"
    with pytest.raises(LedgerFileError, match="another process made it meanwhile"), draft_of(target) as draft:
        draft.write_text("mine")
        target.write_text("theirs")
        put(draft, target)
    assert contents(tmp_path) == {"copy.db": b"theirs"}
    with draft_of(target) as draft:
        draft.write_text("mine")
        put(draft, target, force=True)
    assert contents(tmp_path) == {"copy.db": b"mine"}


def test_a_draft_that_a_killed_process_left_is_not_used(tmp_path: Path) -> None:
    target = tmp_path / "ledger.db"
    with draft_of(target) as draft:
        pass
    for ending in ("", "-wal", "-shm", "-journal"):
        draft.with_name(draft.name + ending).write_bytes(b"left")
    with draft_of(target):
        assert contents(tmp_path) == {}
    draft.write_bytes(b"left")
    with Ledger(target) as ledger:
        assert ledger.verify().ok


def test_a_write_transaction_locks_other_writers_out_from_its_start(path: Path) -> None:
    with Ledger(path) as ledger, Ledger(path, timeout=0) as other:
        with ledger.database.write_transaction():
            with pytest.raises(LedgerFileError, match="another process is writing to it"):
                new_table(other)
            assert other.state("edge").version == 2
        new_table(other, "theirs")
        assert [info.name for info in ledger.tables()] == ["edge", "theirs"]


# A full disk


def test_a_full_disk_loses_no_event_and_the_ledger_stays_usable(path: Path) -> None:
    with Ledger(path, actor="ann") as ledger:
        table = ledger.table_log("edge")
        (pages,) = ledger.database.connection.execute("PRAGMA page_count").fetchone()
        ledger.database.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        acknowledged = fill(table)
        assert table.version == 2 + acknowledged
        assert table.rules == ledger.state("edge").rules
        assert ledger.verify().problems == ()
        ledger.database.connection.execute("PRAGMA max_page_count = 1000000")
        event = table.preserve(["aten::after"])
        assert event is not None
        assert event.version == 3 + acknowledged
        assert ledger.verify().problems == ()


def fill(table: object) -> int:
    """Change a table until its ledger cannot grow; return the number of acknowledged changes."""
    for number in range(10_000):
        try:
            table.preserve([f"aten::op{number}_{'x' * 300}"])
        except LedgerFileError as error:
            assert "the disk is full (every recorded event is intact); free some space" in str(error)
            return number
    raise AssertionError("the ledger was never full")


_FULL = """
import resource, sys, json
from decomp_ledger.errors import LedgerFileError
from decomp_ledger.ledger import Ledger
ledger = Ledger(sys.argv[1], actor="ann")
table = ledger.table_log("edge")
limit = 300_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
acknowledged = []
for number in range(10_000):
    try:
        table.preserve([f"aten::op{number}"])
        acknowledged.append(f"aten::op{number}")
    except LedgerFileError as error:
        message = str(error)
        break
intact = ledger.verify().ok and set(ledger.state("edge").rules) == {"aten::mm", *acknowledged}
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
after = table.preserve(["aten::after"]).version == table.version == len(acknowledged) + 3
print(json.dumps([message, intact, after, acknowledged]))
"""


def test_a_file_size_limit_loses_no_event_and_the_ledger_stays_usable(path: Path) -> None:
    message, intact, after, acknowledged = json.loads(run_python(_FULL, path))
    assert message.startswith(str(path))
    assert (intact, after) == (True, True)
    assert len(acknowledged) > 10
    with Ledger(path, read_only=True) as ledger:
        assert ledger.state("edge").rules.keys() == {"aten::mm", *acknowledged, "aten::after"}
        assert ledger.verify().problems == ()


# Safety and messages


def test_foreign_keys_are_on_and_the_schema_is_not_trusted(path: Path) -> None:
    with Ledger(path) as ledger:
        pragmas = {name: ledger.database.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS}
    assert pragmas == PRAGMAS


PRAGMAS = {"foreign_keys": 1, "trusted_schema": 0, "journal_mode": "wal"}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("SQLITE_BUSY", "database is locked", "another process is writing to it"),
        ("SQLITE_FULL", "database or disk is full", "the disk is full"),
        ("SQLITE_READONLY_DIRECTORY", "attempt to write a readonly database", "read-only here"),
        ("SQLITE_CANTOPEN", "unable to open database file", "cannot be opened"),
        ("SQLITE_CORRUPT", "database disk image is malformed", "is damaged"),
        ("SQLITE_ERROR", "malformed database schema (a) -\n near\r\n 'x'", "schema (a) - near 'x'"),
        ("SQLITE_CONSTRAINT_TRIGGER", "the log is append-only: DELETE on op is refused", "append-only"),
        ("SQLITE_IOERR", "disk I/O error", "SQLite reports disk I/O error"),
    ],
)
@pytest.mark.parametrize("with_name", [True, False], ids=["named", "Python 3.10"])
def test_each_error_of_sqlite_is_described_in_one_line(name: str, text: str, expected: str, with_name: bool) -> None:
    error = sqlite3.OperationalError(text)
    if with_name:
        error.sqlite_errorname = name
    elif name == "SQLITE_CANTOPEN":
        expected = text
    assert expected in describe_error("ledger.db", error)
    assert describe_error("ledger.db", error).startswith("ledger.db: ")


def test_a_search_for_a_lone_surrogate_is_a_ledger_error(path: Path) -> None:
    with Ledger(path) as ledger:
        for ask in (
            lambda: list(ledger.events(actor="a\ud800")),
            lambda: ledger.state("a\ud800"),
            lambda: ledger.table_log("a\ud800"),
        ):
            with pytest.raises(LedgerError, match="no ledger holds a lone surrogate"):
                ask()


def test_opening_a_ledger_of_the_newest_schema_writes_nothing(path: Path) -> None:
    before = path.read_bytes()
    Database(path).close()
    assert path.read_bytes() == before


@pytest.mark.parametrize("is_committed", [True, False], ids=["after", "before"])
def test_an_interrupt_around_the_commit_leaves_a_log_as_the_file_is(tmp_path: Path, is_committed: bool) -> None:
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        fork = new_table(ledger).fork("mine")
        real = ledger.database.connection

        class Interrupted:
            """The connection, with a Ctrl-C right before or after the commit."""

            def execute(self, text: str, *arguments: object) -> object:
                if text == "COMMIT" and not is_committed:
                    raise KeyboardInterrupt
                result = real.execute(text, *arguments)
                if text == "COMMIT":
                    raise KeyboardInterrupt
                return result

            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

        ledger.database._connection = Interrupted()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            fork.preserve(["aten::mm"])
        ledger.database._connection = real
        assert [info.name for info in ledger.tables()] == (["edge", "mine"] if is_committed else ["edge"])
        fork.preserve(["aten::add"])
        assert fork.rules.keys() == ({"aten::mm", "aten::add"} if is_committed else {"aten::add"})
        assert fork.rules == ledger.state("mine").rules
        assert ledger.verify().problems == ()


def test_an_interrupt_right_after_the_lock_leaves_no_transaction_open(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", actor="ann", timeout=1) as ledger, Ledger(tmp_path / "ledger.db") as other:
        real = ledger.database.connection

        class Interrupted:
            """The connection, with a Ctrl-C right after the lock was taken."""

            def execute(self, text: str) -> None:
                real.execute(text)
                if text == "BEGIN IMMEDIATE":
                    raise KeyboardInterrupt

            in_transaction = property(lambda self: real.in_transaction)

        ledger.database._connection = Interrupted()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt), ledger.database.write_transaction():
            pytest.fail("it was interrupted before")
        ledger.database._connection = real
        assert not real.in_transaction
        new_table(other)
        new_table(ledger, "mine")
        assert ledger.verify().ok
