"""Reads that would not end: B-trees whose pages are shared by many branches, and interrupts while SQLite works."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import sqlite3
import struct
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from strategies import new_table

from decomp_ledger.errors import LedgerError
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage.connection import LedgerConnection
from decomp_ledger.transfer.jsonl import dump
from decomp_ledger.transfer.restore import restore
from torture.common import Row, Workspace, everything, read_all, try_all
from torture.schema import ENDLESS

PAGE = 4096
TABLES = ("sqlite_master", "event", "op", "decomp_table", "provenance", "environment", "decomposition", "catalog",
          "checkpoint", "_sqlite_migrations")  # fmt: skip
LEAF, INTERIOR = 13, 5  # kinds of pages of a table
MEMORY = 512 << 20  # bytes that one use may take, with the process itself
SECONDS = 60  # in which one use must end while other processes run: it takes less than 5 s of the processor


# Endless B-trees


def multiply(path: Path, table: str, levels: int, cells: int) -> None:
    """Make SQLite find the rows of a table `cells ** levels` times: each interior page names one child many times."""
    with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as db:
        found = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [table]).fetchone()
    root = found[0] if found else 1
    data = bytearray(path.read_bytes())
    child = leaf_of(data, root)
    if child == root:
        data += moved(data, root)
        child = len(data) // PAGE
    for _ in range(levels - 1):
        data += interior(child, cells)
        child = len(data) // PAGE
    start = (root - 1) * PAGE
    head = bytes(data[:100]) if root == 1 else b""
    data[start : start + PAGE] = head + interior(child, cells, len(head))[len(head) :]
    data[28:32] = struct.pack(">I", len(data) // PAGE)  # the size in the header of the file
    path.write_bytes(data)


def leaf_of(data: bytes, page: int) -> int:
    """Return the first leaf below a page."""
    while True:
        start = (page - 1) * PAGE
        head = start + (100 if page == 1 else 0)
        if data[head] == LEAF:
            return page
        (cell,) = struct.unpack(">H", data[head + 12 : head + 14])
        (page,) = struct.unpack(">I", data[start + cell : start + cell + 4])


def moved(data: bytes, page: int) -> bytes:
    """Return a leaf as it is on another page than the first, which has the header of the file."""
    start = (page - 1) * PAGE
    if page != 1:
        return bytes(data[start : start + PAGE])
    (cells, content) = struct.unpack(">HH", data[103:107])
    new = bytearray(PAGE)
    new[: 8 + 2 * cells] = data[100 : 108 + 2 * cells]
    new[content:] = data[content:PAGE]
    return bytes(new)


def interior(child: int, cells: int, head: int = 0) -> bytes:
    """Return an interior page whose children are all one page."""
    page, content, pointers = bytearray(PAGE), PAGE, b""
    for key in range(1, cells + 1):
        cell = struct.pack(">I", child) + (bytes([key]) if key < 128 else bytes([128 | key >> 7, key & 127]))
        content -= len(cell)
        page[content : content + len(cell)] = cell
        pointers += struct.pack(">H", content)
    start = struct.pack(">BHHHBI", INTERIOR, 0, cells, content, 0, child) + pointers
    page[head : head + len(start)] = start
    return bytes(page)


def uses_of(path: Path) -> dict[str, Callable[[], object]]:
    """Return what a person does with a ledger of another person."""

    def read(use: Callable[[Ledger], object]) -> object:
        with Ledger(path, read_only=True, lazy=True) as ledger:
            return use(ledger)

    def write() -> object:
        with Ledger(path, actor="ann") as ledger:
            return new_table(ledger, "after").preserve(["aten::after"])

    copy = path.with_name(f"{path.name}.copy")
    return {
        "tables": partial(read, lambda ledger: ledger.tables()),
        "read all": partial(read, read_all),
        "verify": partial(read, lambda ledger: ledger.verify()),
        "dump": partial(read, lambda ledger: sum(map(len, dump(ledger)))),
        "backup": partial(read, lambda ledger: ledger.backup(copy)),
        "restore": partial(restore, path, copy),
        "write": write,
    }


def endless_trees(workspace: Workspace) -> list[Row]:
    """Make each table of a ledger endless; each use ends, with an answer or one error, in bounded memory."""
    source = workspace.folder / "original.db"
    everything(source, 1)
    with closing(sqlite3.connect(source)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA journal_mode = WAL")
    names = list(uses_of(source))

    def attempt(number: int) -> str:
        choose = random.Random(f"{workspace.seed} {number}")
        table = TABLES[number % len(TABLES)]
        name = names[number // len(TABLES) % len(names)] if workspace.full else choose.choice(names)
        home = workspace.folder / f"endless {number}"
        home.mkdir()
        path = Path(shutil.copy(source, home / "ledger.db"))
        multiply(path, table, choose.choice([3, 5, 8, 15]), choose.choice([50, 200, 300]))
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, limits[1]))
        begun = time.process_time()
        try:
            uses_of(path)[name]()
        except LedgerError as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                return f"{table}: {name}: an unclear error: {error!s:.300}"
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
            shutil.rmtree(home)
        seconds = time.process_time() - begun
        return f"{table}: {name} took {seconds:.1f} s of the processor" if seconds > 10 else ""

    runs = workspace.amount(140, 10)
    goal = f"an answer or one error, in 10 s of the processor and {MEMORY >> 20} MB"
    return [Row("a table whose pages never end", runs, goal, try_all(runs, attempt, SECONDS))]


# Interrupts


class Alarm(BaseException):
    """What a signal handler raises."""


def interrupts(workspace: Workspace) -> list[Row]:
    """Raise from a signal handler while SQLite works; the exception arrives, and the ledger works on."""

    def attempt(number: int) -> str:
        choose = random.Random(f"{workspace.seed} {number}")
        path = workspace.folder / f"interrupted {number}.db"
        with Ledger(path, actor="ann") as ledger:
            table = new_table(ledger)
            raised = Alarm(number)

            def handle(*_: object) -> None:
                raise raised

            before = signal.signal(signal.SIGALRM, handle)
            ledger.database.connection.watch(None)  # so that only the signal ends the statement
            begun = 0.0
            try:
                signal.setitimer(signal.ITIMER_REAL, choose.uniform(0.01, 0.1))
                begun = time.monotonic()
                WAYS[number % len(WAYS)](ledger)
                return "the statement ended"
            except Alarm as error:
                seconds = time.monotonic() - begun
                if error is not raised:
                    return f"another exception arrived: {error!r}"
            finally:
                signal.signal(signal.SIGALRM, before)
            event = table.preserve(["aten::after"])
            if event is None or not ledger.verify().ok or table.version != 2:
                return "the ledger does not work after the interrupt"
            return f"it took {seconds:.1f} s" if seconds > 5 else ""

    runs = workspace.amount(300, 10)
    goal = "the very exception of the handler arrives within the statement; the ledger works on"
    return [Row("an interrupt while SQLite works", runs, goal, try_all(runs, attempt, SECONDS))]


def _execute(connection: LedgerConnection) -> None:
    connection.execute(f"SELECT count(x) FROM ({ENDLESS})").fetchone()


def _iterate(connection: LedgerConnection) -> None:
    for _ in connection.execute(f"SELECT x FROM ({ENDLESS}) WHERE x < 0"):
        pass


def _insert(connection: LedgerConnection) -> None:
    connection.executemany(f"INSERT INTO op (name) SELECT x FROM ({ENDLESS}) WHERE x < 0 AND ? > 0", [(1,), (2,)])


def _reading(ledger: Ledger, use: Callable[[LedgerConnection], None]) -> None:
    with ledger.database.reading() as connection:
        use(connection)


def _writing(ledger: Ledger, use: Callable[[LedgerConnection], None]) -> None:
    with ledger.database.write_transaction() as connection:
        connection.execute("INSERT INTO op (name) VALUES ('rolled::back')")
        use(connection)


WAYS: tuple[Callable[[Ledger], None], ...] = (
    *(partial(_reading, use=use) for use in (_execute, _iterate)),
    *(partial(_writing, use=use) for use in (_execute, _iterate, _insert)),
)

FAULTS: tuple[Callable[[Workspace], list[Row]], ...] = (endless_trees, interrupts)
