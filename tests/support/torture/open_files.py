"""What lies next to a ledger, and what other programs do to its files while it is open."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from strategies import new_table

from decomp_ledger.errors import LedgerError
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage.new_file import draft_of
from decomp_ledger.transfer.jsonl import load
from decomp_ledger.transfer.restore import restore
from torture.common import Row, Workspace, act, everything, forked, lines_of, try_all, wait_for
from torture.disk import checked, refused

Way = Callable[[Path, random.Random], None]
SQLITE = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); print(db.execute(sys.argv[2]).fetchall())"


def by_another_process(path: Path, statement: str) -> None:
    """Execute a statement in another process, as the tool of another person does."""
    subprocess.run([sys.executable, "-c", SQLITE, str(path), statement], check=True, capture_output=True)


def next_to(path: Path, ending: str) -> Path:
    """Return the name of a file that SQLite keeps next to a ledger."""
    return path.with_name(path.name + ending)


# What lies where a file is made


def old_logs(workspace: Workspace) -> list[Row]:
    """Put an old log where a ledger is made; each maker refuses the name and leaves the log."""
    source = workspace.folder / "source.db"
    everything(source, 1)
    with Ledger(source, read_only=True) as ledger:
        lines = lines_of(ledger)
    logs = {"-wal": b"x" * 5000, "-journal": hot_journal(workspace.folder / "victim.db")}

    def make(kind: str, target: Path) -> object:
        if kind == "new":
            return Ledger(target)
        if kind == "load":
            return load(lines, target)
        if kind == "backup":
            with Ledger(source, read_only=True) as ledger:
                return ledger.backup(target)
        return restore(source, target)

    makers = ("new", "load", "backup", "restore")

    def attempt(number: int) -> str:
        choose = random.Random(f"{workspace.seed} {number}")
        home = workspace.folder / f"old {number}"
        home.mkdir()
        target = home / "ledger.db"
        kind, ending = makers[number % 4], ("-wal", "-journal")[number // 4 % 2]
        data = logs[ending][: choose.choice([1, 512, None])]
        next_to(target, ending).write_bytes(data)
        wrong = refused(partial(make, kind, target), "is the log of a ledger that is gone")
        left = {file.name: file.read_bytes() for file in home.iterdir()}
        if not wrong and left != {f"ledger.db{ending}": data}:
            wrong = f"in the folder afterwards: {sorted(left)}"
        shutil.rmtree(home)
        return f"{kind} with {ending}: {wrong}" if wrong else ""

    runs = workspace.amount(200, 16)
    goal = "a new, loaded, restored or copied ledger is refused where an old -wal or -journal lies; nothing is made"
    return [Row("an old log where a ledger is made", runs, goal, try_all(runs, attempt, 20))]


def hot_journal(path: Path) -> bytes:
    """Return a rollback journal of a process that was killed in the middle of a write."""
    write = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "db.execute('PRAGMA cache_size = 1'); db.execute('CREATE TABLE t (x)'); db.execute('BEGIN');"
        "[db.execute('INSERT INTO t VALUES (randomblob(900))') for _ in range(99)]; os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", write, str(path)], check=True)
    return next_to(path, "-journal").read_bytes()


# Two names


def two_names(workspace: Workspace) -> list[Row]:
    """Give a ledger a second name; it is refused, whatever opens it, until the name is gone."""
    wrong = []
    for where, symbolic in (("same folder", False), ("other folder", False), ("same folder", True)):
        home = workspace.folder / f"{where} {symbolic}"
        home.mkdir()
        path, other = home / "ledger.db", (home if where == "same folder" else workspace.folder) / "other.db"
        everything(path, 1)
        os.link(path, other)
        if symbolic:
            (home / "link.db").symlink_to(path)
        uses: list[Callable[[], object]] = [
            *(partial(Ledger, name, read_only=read) for name in (path, other) for read in (False, True)),
            partial(restore, other, home / "restored.db"),
            *([partial(Ledger, home / "link.db")] if symbolic else []),
        ]
        wrong += [f"{where}: {found}" for use in uses if (found := refused(use, "has 2 names (hard links)"))]
        other.unlink()
        with Ledger(path, actor="ann") as ledger:
            table = new_table(ledger, "after")
            os.link(path, other)
            wrong += [found] if (found := refused(partial(table.preserve, ["a::b"]), "has 2 names")) else []
            other.unlink()
            table.preserve(["a::b"])
    goal = "refused at opening and at the next write, for reading too; opens again once the other name is removed"
    return [
        Row("a ledger with a second hard link", 3, goal, tuple(wrong)),
        *drafts_left(workspace),
        *mounted(workspace),
    ]


def drafts_left(workspace: Workspace) -> list[Row]:
    """Kill the maker of a ledger while the draft and the ledger are one file; the next opening removes the draft."""
    wrong = []
    runs = workspace.amount(20, 2)
    for number in range(runs):
        path = workspace.folder / f"made {number}.db"
        Ledger(path).close()
        with draft_of(path) as draft:
            left = draft.with_name(draft.name.replace(str(os.getpid()), "1"))
        os.link(path, left)
        try:
            with Ledger(path, actor="ann", read_only=number % 2 == 1) as ledger:
                ledger.tables()
        except LedgerError as error:
            wrong.append(str(error))
        if left.exists():
            wrong.append("the draft is still there")
    return [Row("a draft that a killed process left linked", runs, "opens; the draft is removed", tuple(wrong))]


def mounted(workspace: Workspace) -> list[Row]:
    """Mount a ledger alone at another place."""
    what, goal = "a ledger that is mounted alone (bind mount)", "both names are refused; the file is unchanged"
    path, other = workspace.folder / "mounted.db", workspace.folder / "other name.db"
    everything(path, 1)
    other.touch()
    if subprocess.run(["mount", "--bind", str(path), str(other)], capture_output=True, check=False).returncode:
        return [Row(what, 0, goal, (), "NOT TRIED: cannot mount here")]
    try:
        before = path.read_bytes()
        uses = [partial(Ledger, name, read_only=read) for name in (path, other) for read in (False, True)]
        wrong = [found for use in uses if (found := refused(use, "is mounted alone"))]
        wrong += [] if path.read_bytes() == before else ["the file was changed"]
    finally:
        subprocess.run(["umount", str(other)], check=True)
    return [Row(what, len(uses), goal, tuple(wrong))]


# While it is open. Each takes the ledger and a random choice.


def cut(path: Path, choose: random.Random) -> None:
    """Truncate a file."""
    size = path.stat().st_size
    os.truncate(path, choose.choice([0, 0, 1, 100, size // 2, max(0, size - 1), choose.randrange(size or 1)]))


def log_removed(path: Path, choose: random.Random) -> None:
    """Remove the -wal, perhaps with a new one in its place."""
    wal = next_to(path, "-wal")
    data = wal.read_bytes()
    wal.unlink()
    if choose.random() < 0.5:
        wal.write_bytes(choose.choice([b"", data, data[:100], choose.randbytes(5000)]))


def log_cut(path: Path, choose: random.Random) -> None:
    """Truncate the -wal."""
    cut(next_to(path, "-wal"), choose)


def index_removed(path: Path, choose: random.Random) -> None:
    """Remove the -shm, perhaps with a new one in its place."""
    shm = next_to(path, "-shm")
    shm.unlink()
    if choose.random() < 0.5:
        shm.write_bytes(choose.choice([b"", bytes(32768)]))


def index_cut(path: Path, choose: random.Random) -> None:
    """Truncate the -shm."""
    cut(next_to(path, "-shm"), choose)


def file_cut(path: Path, choose: random.Random) -> None:
    """Truncate the file."""
    cut(path, choose)


def copied_over(path: Path, choose: random.Random) -> None:
    """Copy another ledger, or something else, over the file, as `cp` does."""
    other = path.with_name("other.db")
    path.write_bytes(choose.choice([other.read_bytes(), other.read_bytes() * 3, b"no ledger\n" * 20_000]))


def file_removed(path: Path, choose: random.Random) -> None:
    """Remove the file, perhaps with its log."""
    path.unlink()
    if choose.random() < 0.5:
        next_to(path, "-wal").unlink()


def checkpointed(path: Path, choose: random.Random) -> None:
    """Move the log into the file, which is right."""
    by_another_process(path, f"PRAGMA wal_checkpoint({choose.choice(['PASSIVE', 'FULL', 'RESTART', 'TRUNCATE'])})")


WAYS: tuple[Way, ...] = (
    log_removed, log_cut, index_removed, index_cut, file_cut, copied_over, file_removed, checkpointed,
)  # fmt: skip


def use_after(path: Path, way: Way, choose: random.Random) -> str:
    """Write to a ledger, change its files, and use it on; return what is wrong, or "=" and what happened."""
    copy = path.with_name("copy.db")
    known: dict[int, str] = {}
    ledger = Ledger(path, actor="ann")
    table = new_table(ledger)

    def write(number: int) -> bool:
        try:
            event = act(table, number, "x")
        except LedgerError as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                raise
            return False
        assert event is not None
        known[event.seq] = event.hash
        return True

    for number in range(choose.choice([3, 40])):
        write(number)
    if choose.random() < 0.5:
        checkpointed(path, choose)
        write(100)
    way(path, choose)
    written = [write(200 + number) for number in range(3)]
    if True in written and (False in written or (way is not checkpointed and "cut" not in way.__name__)):
        return f"writes went on: {written}"
    with suppress(LedgerError):
        ledger.verify()
        lines_of(ledger)
    try:
        ledger.backup(copy)
    except LedgerError as error:
        if way in (file_cut, copied_over, log_cut):
            return "=lost" if "restore a backup" in str(error) else f"the backup failed: {error}"
        return f"the backup failed: {error}"
    finally:
        ledger.close()
    if found := checked(copy, known):
        return f"the backup has not what was acknowledged: {found}"
    return "=went on" if True in written else "=saved"


def in_a_child(home: Path, way: Way, choose: random.Random) -> str:
    """Call `use_after` for a ledger in an empty folder, in a child, because a SIGBUS would end this process."""
    with Ledger(home / "other.db", actor="eve") as other:
        for name in range(choose.choice([1, 5])):
            act(new_table(other, f"t{name}"), 1, "theirs")
    reader, writer = os.pipe()
    child = forked(lambda: os.write(writer, use_after(home / "ledger.db", way, choose).encode()))
    how = wait_for(child)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        return f"the process died: {how}" if how else pipe.read()


def changed_while_open(workspace: Workspace) -> list[Row]:
    """Remove, replace, truncate or overwrite each file of an open ledger."""
    rows = []
    for way in WAYS:
        counts = workspace.folder / f"counts {way.__name__}"
        counts.mkdir()

        def attempt(number: int, way: Way = way, counts: Path = counts) -> str:
            home = workspace.folder / f"{way.__name__} {number}"
            home.mkdir()
            found = in_a_child(home, way, random.Random(f"{workspace.seed} {number}"))
            shutil.rmtree(home)
            if not found.startswith("="):
                return found
            (counts / f"{found[1:]}.{number}").touch()
            return ""

        runs = workspace.amount(60, 4)
        wrong = try_all(runs, attempt, 30)
        kinds = [file.name.rpartition(".")[0] for file in counts.iterdir()]
        note = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
        goal = (
            "writes are refused, or nothing is lost; a backup has all that was acknowledged, or is refused; no signal"
        )
        rows.append(Row(f"while open: {way.__name__.replace('_', ' ')}", runs, goal, wrong, note))
    return rows


FAULTS: tuple[Callable[[Workspace], list[Row]], ...] = (old_logs, two_names, changed_while_open)
