"""Reads that would not end: B-trees whose pages are shared by many branches, and interrupts while SQLite works."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
import signal
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from forging import tamper
from strategies import new_table

from decomp_ledger.errors import LedgerError
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage.connection import LedgerConnection
from decomp_ledger.transfer.jsonl import dump
from decomp_ledger.transfer.restore import restore
from torture.common import Row, Workspace, everything, read_all, try_all
from torture.schema import ENDLESS

PAGE = 4096
# Kinds of pages of B-trees: leaf -> interior, of a table, and of an index or a table WITHOUT ROWID.
INTERIOR = {13: 5, 10: 2}
LONG = 1 << 19  # bytes of a long text
MEMORY = 256 << 20  # bytes that one use may take, besides the process itself
SECONDS = 30  # of the processor, after which a use counts as one without end


# Endless B-trees


def multiply(path: Path, name: str, levels: int, cells: int) -> None:
    """Make SQLite find the rows of a table or index `cells ** levels` times.

    Each interior page names one child many times; fewer times, if the keys of an index need more room.
    """
    root = roots_of(path)[name]
    data = bytearray(path.read_bytes())
    child = leaf_of(data, root)
    kind, key = INTERIOR[data[at_head(child)]], first_key(data, child)
    if child == root:
        data += moved(data, root)
        child = len(data) // PAGE
    for _ in range(levels - 1):
        data += interior(kind, child, cells, key)
        child = len(data) // PAGE
    start = (root - 1) * PAGE
    head = bytes(data[:100]) if root == 1 else b""
    data[start : start + PAGE] = head + interior(kind, child, cells, key, len(head))[len(head) :]
    data[28:32] = struct.pack(">I", len(data) // PAGE)  # the size in the header of the file
    path.write_bytes(data)


def roots_of(path: Path) -> dict[str, int]:
    """Return the first page of each table and index."""
    query = "SELECT name, rootpage FROM sqlite_master WHERE rootpage > 0"
    with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as db:
        return {"sqlite_master": 1, **dict(db.execute(query))}


def at_head(page: int) -> int:
    """Return where the header of a page is in the file."""
    return (page - 1) * PAGE + (100 if page == 1 else 0)


def leaf_of(data: bytes, page: int) -> int:
    """Return the first leaf below a page."""
    while True:
        start, head = (page - 1) * PAGE, at_head(page)
        if data[head] in INTERIOR:
            return page
        (cell,) = struct.unpack(">H", data[head + 12 : head + 14])
        (page,) = struct.unpack(">I", data[start + cell : start + cell + 4])


def first_key(data: bytes, leaf: int) -> bytes:
    """Return the first cell of a leaf of an index, which is short here; b"" for a leaf of a table."""
    start, head = (leaf - 1) * PAGE, at_head(leaf)
    if INTERIOR[data[head]] == 5:
        return b""
    (cell,) = struct.unpack(">H", data[head + 8 : head + 10])
    size = data[start + cell]
    if size > 127:
        raise ValueError("the key is long")
    return bytes(data[start + cell : start + cell + 1 + size])


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


def interior(kind: int, child: int, cells: int, key: bytes, head: int = 0) -> bytes:
    """Return an interior page whose children are all one page."""
    page, content, pointers = bytearray(PAGE), PAGE, b""
    for number in range(1, cells + 1):
        row = bytes([number]) if number < 128 else bytes([128 | number >> 7, number & 127])
        cell = struct.pack(">I", child) + (key or row)
        if content - len(cell) < head + 12 + len(pointers) + 2:
            break
        content -= len(cell)
        page[content : content + len(cell)] = cell
        pointers += struct.pack(">H", content)
    start = struct.pack(">BHHHBI", kind, 0, len(pointers) // 2, content, 0, child) + pointers
    page[head : head + len(start)] = start
    return bytes(page)


def share(path: Path, table: str, pages: int) -> None:
    """Add rows to a table, on pages of their own, that all have the overflow pages of its largest row."""
    root = roots_of(path)[table]
    data = bytearray(path.read_bytes())
    size, local = max(cell for leaf in leaves_of(data, root) for cell in cells_of(data, leaf))
    assert size > 1 << 18, f"{table} has no long text"
    row, children = 1, []
    for _ in range(pages):
        page, content, pointers = bytearray(PAGE), PAGE, b""
        while True:
            cell = varint(size) + varint(row) + local
            if content - len(cell) < 8 + len(pointers) + 2:
                break
            content -= len(cell)
            page[content : content + len(cell)] = cell
            pointers += struct.pack(">H", content)
            row += 1
        start = struct.pack(">BHHHB", 13, 0, len(pointers) // 2, content, 0) + pointers
        page[: len(start)] = start
        data += page
        children.append((len(data) // PAGE, row - 1))
    page, content, pointers = bytearray(PAGE), PAGE, b""
    for child, last in children[:-1]:
        cell = struct.pack(">I", child) + varint(last)
        content -= len(cell)
        page[content : content + len(cell)] = cell
        pointers += struct.pack(">H", content)
    start = struct.pack(">BHHHBI", 5, 0, len(pointers) // 2, content, 0, children[-1][0]) + pointers
    page[: len(start)] = start
    data[(root - 1) * PAGE : root * PAGE] = page
    data[28:32] = struct.pack(">I", len(data) // PAGE)
    path.write_bytes(data)


def leaves_of(data: bytes, page: int) -> list[int]:
    """Return the leaves of a table below a page."""
    start, head = (page - 1) * PAGE, at_head(page)
    if data[head] == 13:
        return [page]
    (count,) = struct.unpack(">H", data[head + 3 : head + 5])
    pointers = struct.unpack(f">{count}H", data[head + 12 : head + 12 + 2 * count])
    children = [*(data[start + cell : start + cell + 4] for cell in pointers), data[head + 8 : head + 12]]
    return [leaf for child in children for leaf in leaves_of(data, int.from_bytes(child, "big"))]


def cells_of(data: bytes, leaf: int) -> list[tuple[int, bytes]]:
    """Return the size of each row of a leaf, and what the leaf has of it, with the number of its first other page."""
    start, head = (leaf - 1) * PAGE, at_head(leaf)
    (count,) = struct.unpack(">H", data[head + 3 : head + 5])
    found = []
    for cell in struct.unpack(f">{count}H", data[head + 8 : head + 8 + 2 * count]):
        size, at = read_varint(data, start + cell)
        _, at = read_varint(data, at)
        least = (PAGE - 12) * 32 // 255 - 23
        most = least + (size - least) % (PAGE - 4)
        local = size if size <= PAGE - 35 else 4 + (most if most <= PAGE - 35 else least)
        found.append((size, bytes(data[at : at + local])))
    return found


def varint(number: int) -> bytes:
    """Return a number as SQLite stores it."""
    found = [number & 127]
    while number := number >> 7:
        found.append(128 | number & 127)
    return bytes(reversed(found))


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of up to eight bytes, and where it ends."""
    number = 0
    while data[at] & 128:
        number, at = number << 7 | data[at] & 127, at + 1
    return number << 7 | data[at], at + 1


def enlarge(path: Path, size: int) -> None:
    """Put a text of a size into a row of each table that can have one."""

    def edit(db: sqlite3.Connection) -> None:
        for table, where, text in (
            ("environment", "id = 1", '"python":"'), ("decomposition", "id = 1", '"module":"'),
            ("event", "kind = 'tagged'", '"name":"'),
        ):  # fmt: skip
            db.execute(f"UPDATE {table} SET body = replace(body, ?, ?) WHERE {where}", [text, text + "y" * size])
        db.create_function("sha256", 1, lambda text: hashlib.sha256(text.encode()).digest())
        db.execute("UPDATE environment SET digest = sha256(body)")
        db.execute("UPDATE decomposition SET digest = sha256(body)")
        db.execute("UPDATE provenance SET reason = ? WHERE id = 1", ["y" * size])
        text = json.dumps({"build": {}, "ops": {}, "x": random.Random(1).randbytes(size).hex()})
        db.execute("UPDATE catalog SET body = ? WHERE id = 1", [zlib.compress(text.encode())])

    tamper(path, edit)


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
    """Make each table and index of a ledger endless; each use ends, with an answer or one error, in bounded memory."""
    small, large = sources(workspace)
    trees, names = list(roots_of(small)), list(uses_of(small))
    cases = [(tree, use) for use in names for tree in trees]

    def attempt(number: int) -> str:
        choose = random.Random(f"{workspace.seed} {number}")
        tree, use = cases[number % len(cases)] if workspace.full else choose.choice(cases)
        source = large if number // len(cases) % 2 else small
        levels, cells = choose.choice([3, 5, 8, 15]), choose.choice([50, 200, 300])
        return used(workspace, number, use, source, tree, lambda path: multiply(path, tree, levels, cells))

    runs = workspace.amount(2 * len(cases), 20)
    return [Row("a table or index whose pages never end", runs, _GOAL, try_all(runs, attempt, SECONDS))]


def shared_texts(workspace: Workspace) -> list[Row]:
    """Give each table thousands of rows that share one text of half a megabyte."""
    _, large = sources(workspace)
    tables = ("event", "provenance", "environment", "decomposition", "catalog", "_sqlite_migrations")
    cases = [(table, use) for use in uses_of(large) for table in tables]
    if not workspace.full:
        random.Random(workspace.seed).shuffle(cases)

    def attempt(number: int) -> str:
        table, use = cases[number]

        def damage(path: Path) -> None:
            if table == "_sqlite_migrations":  # only now, because no command reads such a ledger
                tamper(path, f"UPDATE {table} SET name = printf('%.*c', {LONG}, 'y') WHERE id = 1")
                with closing(sqlite3.connect(path)) as db:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            share(path, table, 300)

        return used(workspace, number, use, large, table, damage)

    runs = workspace.amount(len(cases), 6)
    return [Row("rows that share one long text", runs, _GOAL, try_all(runs, attempt, SECONDS))]


_GOAL = f"an answer or one error, in 10 s of the processor and {MEMORY >> 20} MB"


def sources(workspace: Workspace) -> tuple[Path, Path]:
    """Make a small ledger, and one that has long texts."""
    small, large = workspace.folder / "small.db", workspace.folder / "large.db"
    everything(small, 1)
    with closing(sqlite3.connect(small)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA journal_mode = WAL")
    shutil.copy(small, large)
    enlarge(large, LONG)
    with closing(sqlite3.connect(large)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return small, large


def used(
    workspace: Workspace, number: int, use: str, source: Path, table: str, damage: Callable[[Path], object]
) -> str:
    """Use a damaged copy of a ledger within limits; return what is wrong, or ""."""
    home = workspace.folder / f"endless {number}"
    home.mkdir()
    path = Path(shutil.copy(source, home / "ledger.db"))
    damage(path)
    name = f"{source.stem}: {table}: {use}"
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + MEMORY, limits[1]))
    begun = time.process_time()
    try:
        uses_of(path)[use]()
    except LedgerError as error:
        if "\n" in str(error) or len(str(error)) > 1000:
            return f"{name}: an unclear error: {error!s:.300}"
    except MemoryError:
        return f"{name} takes more than {MEMORY >> 20} MB"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        shutil.rmtree(home)
    seconds = time.process_time() - begun
    return f"{name} took {seconds:.1f} s of the processor" if seconds > 10 else ""


def address_space() -> int:
    """Return the bytes of memory that this process has reserved; where they cannot be known, 512 MB."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else 512 << 20


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
                begun = time.process_time()
                WAYS[number % len(WAYS)](ledger)
                return "the statement ended"
            except Alarm as error:
                seconds = time.process_time() - begun
                if error is not raised:
                    return f"another exception arrived: {error!r}"
            finally:
                signal.signal(signal.SIGALRM, before)
            event = table.preserve(["aten::after"])
            if event is None or not ledger.verify().ok or table.version != 2:
                return "the ledger does not work after the interrupt"
            return f"it took {seconds:.1f} s of the processor" if seconds > 5 else ""

    runs = workspace.amount(300, 10)
    goal = "the very exception of the handler arrives within 5 s of the processor; the ledger works on"
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

FAULTS: tuple[Callable[[Workspace], list[Row]], ...] = (endless_trees, shared_texts, interrupts)
