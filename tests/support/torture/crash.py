"""Writers that are killed: at random moments, at each SQL statement, and within a write to the file."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import select
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from strategies import catalog_of, new_table

from decomp_ledger.ledger import Ledger
from decomp_ledger.model.events import OVERRIDE, PRESERVE, Updated
from decomp_ledger.model.rules import Decomposition
from decomp_ledger.storage import migrations
from decomp_ledger.storage.schema_check import check_schema
from torture.common import Row, Workspace, acknowledge, acknowledged, act, forked, lines_of, problems_text, wait_for

GOAL = "all acknowledged events are there, once; the chain verifies; the next writer succeeds"


def checked(path: Path, known: dict[int, str], unique: str = "") -> str:
    """Check a ledger against its acknowledged events; return what is wrong, or ""."""
    with Ledger(path) as ledger:
        result = ledger.verify(anchors=list(known.items()))
        if not result.ok:
            return problems_text(result.problems)
        rows = ledger.database.connection.execute(
            "SELECT count(*), count(DISTINCT hash), coalesce(max(seq), 0) FROM event"
        ).fetchone()
        if len(set(rows)) != 1:
            return f"{rows[0]} events, {rows[1]} hashes, last #{rows[2]}"
        ops = ledger.database.connection.execute(
            "SELECT op.name FROM change JOIN op ON op.id = op_id GROUP BY op_id HAVING count(*) > 1"
        ).fetchall()
        return f"changed twice: {ops[0][0]}" if unique and ops else ""


def killed_at_random(workspace: Workspace) -> list[Row]:
    """Kill one writer after another with SIGKILL at random moments, on one ledger."""
    path, known = workspace.folder / "ledger.db", dict[int, str]()
    choose, wrong = random.Random(workspace.seed), list[str]()
    runs = workspace.amount(300, 15)
    Ledger(path, actor="first").close()
    silent = 0
    for number in range(runs):
        out, into = os.pipe()

        def write(number: int = number, into: int = into) -> None:
            with Ledger(path, actor=f"writer {number}") as ledger:
                # A small WAL, so that SQLite often checkpoints.
                ledger.database.connection.execute(f"PRAGMA wal_autocheckpoint = {1 + number % 40}")
                table = new_table(ledger, f"table {number % 3}")
                for step in range(1_000_000):
                    acknowledge(into, act(table, step, f"r{number}"))

        child = forked(write)
        os.close(into)
        if number % 5:  # else it may die while it opens the ledger
            select.select([out], [], [], 60)
        time.sleep(choose.uniform(0, 0.04))
        os.kill(child, signal.SIGKILL)
        how = wait_for(child)
        new = acknowledged(out)
        silent += not new
        known.update(new)
        fault = checked(path, known, "r") if how == "SIGKILL" else f"the writer ended by itself: {how}"
        wrong += [f"kill {number}: {fault}"] if fault else []
    with Ledger(path, actor="last") as ledger:
        new_table(ledger, "table 0").preserve(["aten::last"])
        wrong += [] if ledger.verify().ok else ["the last writer"]
    note = f"{len(known)} events acknowledged, {silent} writers killed before their first"
    return [Row("SIGKILL at random moments of a writer, one ledger", runs, GOAL, tuple(wrong), note)]


def dying_at(count: int, connection: sqlite3.Connection) -> None:
    """Kill this process when SQLite begins its count-th statement from now on."""
    left = [count]

    def traced(_: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    connection.set_trace_callback(traced)


def one_event(path: Path, count: int) -> Callable[[], None]:
    """Return a function that writes new rows to every table, and dies at a statement of that."""

    def work() -> None:
        with Ledger(path, actor="new actor") as ledger:
            table = ledger.table_log("edge")
            new = Decomposition("import", "mypkg", "fresh", digest="7" * 64)
            wanted = [("aten::fresh1", OVERRIDE, new), ("aten::fresh2", PRESERVE, None), ("aten::mm", PRESERVE, None)]
            dying_at(count, ledger.database.connection)
            table.change(Updated, lambda _: wanted, reason="a new reason")
            table.materialize(catalog_of("aten::fresh1"))
            table.tag("fresh")

    return work


def opening(path: Path, count: int) -> Callable[[], None]:
    """Return a function that opens a ledger, and dies at a statement that makes or migrates it."""

    def work() -> None:
        connect, left = sqlite3.connect, [count]

        def connected(*arguments: object, **options: object) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **options)

            def traced(_: str) -> None:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            connection.set_trace_callback(traced)
            return connection

        sqlite3.connect = connected  # only in this child
        with Ledger(path, actor="ann"):
            pass

    return work


def at_each_statement(
    workspace: Workspace, name: str, start: Callable[[Path], object], work: Callable[..., object]
) -> Row:
    """Kill a writer at its first statement, the next at its second, and so on, until one ends by itself."""
    wrong: list[str] = []
    runs = 0
    for number in itertools.count(1, 1 if workspace.full else 7):
        runs += 1
        folder = workspace.folder / f"{name} {number}"
        folder.mkdir()
        path = folder / "ledger.db"
        start(path)
        known: dict[int, str] = {}
        if path.exists():
            db = sqlite3.connect(path)
            known = {seq: own.hex() for seq, own in db.execute("SELECT seq, hash FROM event")}
            db.close()
        how = wait_for(forked(work(path, number)))
        if how not in ("", "SIGKILL"):
            wrong.append(f"statement {number}: the writer ended with {how}")
        with Ledger(path, actor="next") as ledger:
            new_table(ledger, "after").preserve(["aten::after"])
        fault = checked(path, known)
        wrong += [f"statement {number}: {fault}"] if fault else []
        shutil.rmtree(folder)
        if how == "" or len(wrong) > 20:
            break
    return Row(f"SIGKILL at each statement of {name}", runs, GOAL, tuple(wrong))


def small(path: Path) -> None:
    """Make a ledger of a few events."""
    with Ledger(path, actor="ann") as ledger:
        table = new_table(ledger)
        for number in range(20):
            act(table, number, "first")


# A migration after all others, which changes the schema and copies rows.
LATER = """
def apply(db):
    db.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT")
    db.execute("INSERT INTO note (text) SELECT kind FROM event")
    db.execute("CREATE INDEX note_text ON note (text)")
"""


@contextlib.contextmanager
def migrations_in(folder: Path) -> Iterator[None]:
    """Use the migrations of a folder meanwhile."""
    real = migrations._folder
    caches = (migrations.migration_names, migrations._migrations)
    try:
        migrations._folder = lambda: folder
        for cached in caches:
            cached.cache_clear()
        yield
    finally:
        migrations._folder = real
        for cached in caches:
            cached.cache_clear()


def at_chosen_points(workspace: Workspace) -> list[Row]:
    """Kill a writer at each statement of an event, of a new ledger and of a migration."""
    real, later = migrations._folder(), workspace.folder / "later"
    shutil.copytree(real, later, ignore=shutil.ignore_patterns("__pycache__"))
    (later / "9999_later.py").write_text(LATER)

    def old(path: Path) -> None:
        with migrations_in(real):
            small(path)
        with contextlib.closing(sqlite3.connect(path)) as db:
            if check_schema(db, str(path)) != ["9999_later"]:
                raise RuntimeError("no migration is pending, so the fault is not injected")

    rows = [
        at_each_statement(workspace, "three events that write to every table", small, one_event),
        at_each_statement(workspace, "making a ledger", lambda path: None, opening),
    ]
    with migrations_in(later):
        return [*rows, at_each_statement(workspace, "a migration", old, opening)]


def in_the_middle_of_a_write(workspace: Workspace) -> list[Row]:
    """Let the system kill a writer within a write to the WAL, or to the file during a WAL checkpoint."""
    runs = workspace.amount(100, 6)
    rows = []
    for what in ("the WAL", "the file, in a WAL checkpoint"):
        wrong: list[str] = []
        cut = 0
        for number in range(runs):
            folder = workspace.folder / f"torn {what} {number}"
            folder.mkdir()
            path = folder / "ledger.db"
            small(path)
            out, into = os.pipe()
            choose = random.Random(f"{workspace.seed} {number}")
            child = forked(lambda path=path, into=into, what=what, choose=choose: _torn(path, into, what, choose))
            os.close(into)
            how = wait_for(child)
            known = acknowledged(out)
            cut += how == "SIGXFSZ"
            fault = checked(path, known) if how in ("SIGXFSZ", "") else f"the writer ended with {how}"
            if not fault:
                with Ledger(path, actor="next") as ledger:
                    lines_of(ledger)
                    new_table(ledger, "after").preserve(["aten::after"])
                    fault = problems_text(ledger.verify(anchors=list(known.items())).problems)
            wrong += [f"{number}: {fault}"] if fault else []
            shutil.rmtree(folder)
        if cut < runs // 2:
            wrong.append(f"only {cut} of {runs} writers died in a write, so the fault was not injected")
        rows.append(Row(f"killed within a write to {what}", runs, GOAL, tuple(wrong), f"{cut} torn writes"))
    return rows


def _torn(path: Path, into: int, what: str, choose: random.Random) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # because Python ignores it by default
    with Ledger(path, actor="torn") as ledger:
        connection = ledger.database.connection
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        table = ledger.table_log("edge")

        def write(number: int) -> None:
            acknowledge(into, act(table, number, "torn"))

        for number in range(60):
            write(number)
        log, file = path.with_name("ledger.db-wal").stat().st_size, path.stat().st_size
        if what == "the WAL":
            resource.setrlimit(resource.RLIMIT_FSIZE, (log + choose.randrange(1, 60_000), resource.RLIM_INFINITY))
            for number in range(60, 10_000):
                write(number)
        else:
            # The checkpoint must make the file grow; it may grow only so far.
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            room = choose.randrange(1, max(2, 4096 * pages - file))
            resource.setrlimit(resource.RLIMIT_FSIZE, (file + room, resource.RLIM_INFINITY))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


FAULTS = (killed_at_random, at_chosen_points, in_the_middle_of_a_write)
