"""One large ledger, filled by the library itself, and looked at as it grows from 10^3 to 10^6 events.

What the time goes to. State at a version: three quarters to the skip-scan, the rest to making intents. `verify`: a
third to SQLite's own check of its pages and indexes, a fifth each to reading the rows of events and to those of changes
with what they weigh, an eighth to the hashes, the rest to all else that is asked of an event, in Python. `log`,
`blame`, `show`: half to starting Python and importing click and sqlite3, a quarter to importing attrs and making its
classes; the questions take 5 to 35 ms. Resuming: to the walk over aten that torch's first table pays for too.
"""

import hashlib
import itertools
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from measure import Result, Settings, in_turns, longer, profile, seconds

ROOT = Path(__file__).parents[2]
OPS = 1_000
_TRANSACTION = 5_000
CLI = "from decomp_ledger.cli import main; main()"


def growing(settings: Settings, folder: Path) -> Iterator[Result]:
    """Fill one table, stop at each size to look at it, and compare at the last."""
    from decomp_ledger import Ledger

    os.environ.setdefault("DECOMP_LEDGER_ACTOR", "Ada <ada@example.org>")
    path = folder / "big.db"
    ledger = Ledger(path)
    fill = filler(ledger)
    for size in settings.sizes:
        before, started = head(ledger), time.perf_counter()
        fill(size)
        filled = (time.perf_counter() - started) / (head(ledger) - before)
        settings.grew("append, 5,000 in a transaction", size, f"{seconds(filled)} an event")
        last = size == settings.sizes[-1]
        yield from states(settings, path, size, last)
        yield from processes(settings, path, size, last)
        yield from resuming(settings, path, size, last)
        yield from verifying(settings, path, size, last)
        yield from disk(settings, path, size, last)
    ledger.close()


def head(ledger: object) -> int:
    with ledger.database.reading() as connection:
        return connection.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0]


def filler(ledger: object) -> Callable[[int], None]:
    """Return what changes a table, one op an event, until the ledger has so many events."""
    from decomp_ledger import catalogs
    from decomp_ledger.model.events import OVERRIDE, Popped, Set
    from decomp_ledger.model.rules import Decomposition

    catalog = catalogs.released("2.13.0")
    ops = sorted(catalog.ops, key=lambda op: (not catalog.ops[op].default, op))[:OPS]
    log = ledger.create_table("edge")
    turns = itertools.cycle(ops)
    rounds = itertools.count()

    def change(op: str) -> None:
        entry, number = catalog.ops[op], next(rounds) // OPS
        if number % 3 == 1 and entry.origin:
            decomposition = Decomposition(entry.origin, build=catalog.build["git"])
            log.change(Set, lambda rules: [(op, OVERRIDE, decomposition)])
        elif number % 3 == 2 or log.rules.get(op) is not None:
            log.reset([op])
        else:
            log.change(Popped, lambda rules: [(op, "preserve", None)])

    def fill(size: int) -> None:
        while (missing := size - head(ledger)) > 0:
            some = itertools.islice(turns, min(missing, _TRANSACTION))
            with ledger.database.write_transaction():
                for op in some:
                    change(op)
            # The loop above may change nothing where an op has no decomposition of torch's: then it goes on.

    return fill


def states(settings: Settings, path: Path, size: int, last: bool) -> Iterator[Result]:
    from decomp_ledger import Ledger
    from decomp_ledger.storage import sql

    connection = sqlite3.connect(path)
    with Ledger(path, read_only=True) as ledger:
        for version in (10, size - 1):

            def ours(version: int = version) -> object:
                return ledger.state("edge", version)

            def theirs(version: int = version) -> object:
                return connection.execute(sql.AS_OF, {"table": 1, "version": version}).fetchall()

            sides = in_turns(ours, theirs, settings.rounds(40), time.process_time)
            name = "version 10" if version == 10 else "the last but one"
            settings.grew(f"state at {name}", size, seconds(sides[0]))
            if last:
                yield longer(f"state at version {version:,} of {size:,}", "the skip-scan by hand", 2, sides)
        profile(settings, f"state at version {size - 1:,}", ours)
    connection.close()


# Click's bytecode comes with its installation; so would ours, and is kept here even where the shell says not to.
_KEPT = {"PYTHONDONTWRITEBYTECODE": ""}


def run(code: str, *arguments: str) -> float:
    """Return the processor seconds that a whole Python process takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL, check=False, env={**os.environ, "PYTHONPATH": str(ROOT), **_KEPT},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def processes(settings: Settings, path: Path, size: int, last: bool) -> Iterator[Result]:
    commands = (("log", "-n", "20"), ("blame", "edge"), ("show", f"edge@{size // 2}"))
    times: dict[tuple[str, ...], list[float]] = {command: [] for command in commands}
    plain = []
    for _ in range(settings.rounds(25 if last else 5)):
        plain.append(run("import sqlite3, click"))
        for command in commands:
            times[command].append(run(CLI, "--ledger", str(path), *command))
    for command in commands:
        name = " ".join(("log -n 20", "blame TABLE", "show TABLE@V")[commands.index(command)].split())
        sides = statistics.median(times[command]), statistics.median(plain)
        settings.grew(f"`{name}`, whole process", size, seconds(sides[0]))
        if last:
            ours = longer(f"`{name}`, whole process", '`python -c "import sqlite3, click"`', 2.5, sides)
            yield Result(ours.what, ours.against, ours.goal + "; no torch", ours.result,
                         bool(ours.good) and no_torch(path, command))  # fmt: skip


def no_torch(path: Path, command: tuple[str, ...]) -> bool:
    code = f"import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); {CLI}"
    done = subprocess.run(
        [sys.executable, "-c", code, "--ledger", str(path), *command],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return bool(done.stdout) and done.stderr.split()[-1] == "False"


_RESUME = """
import sys, time
import torch, torch.export, decomp_ledger as dl
import decomp_ledger.pytorch.table
start = time.process_time()
if sys.argv[1] == "ours":
    table = dl.Ledger(sys.argv[2]).table("edge")
else:
    table = torch.export.CustomDecompTable()
print(time.process_time() - start)
"""


def resuming(settings: Settings, path: Path, size: int, last: bool) -> Iterator[Result]:
    def one(side: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", _RESUME, side, str(path)],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        return float(done.stdout)

    if last or size == settings.sizes[0]:
        pairs = [(one("ours"), one("theirs")) for _ in range(settings.rounds(9))]
        sides = statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)
        settings.grew("resume, torch imported", size, seconds(sides[0]))
        if last:
            what = f"resume a table of {size:,} changes, torch imported"
            yield longer(what, "the first CustomDecompTable()", 1.5, sides)


_VERIFY = """
import re, sys
from decomp_ledger import Ledger

def peak():
    # Not ru_maxrss, which begins with what the parent of this process had.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024

with Ledger(sys.argv[1], read_only=True) as ledger:
    ledger.tables()
    before = peak()
    assert ledger.verify().ok
    print(peak() - before)
"""


def verifying(settings: Settings, path: Path, size: int, last: bool) -> Iterator[Result]:
    from decomp_ledger import Ledger

    with Ledger(path, read_only=True) as ledger:

        def ours() -> None:
            start = time.process_time()
            assert ledger.verify().ok
            times.append(time.process_time() - start)

        times: list[float] = []
        decomposition = []
        for _ in range(3 if last else 1):
            ours()
            decomposition.append(hashed(path))
        if size <= 10_000:
            profile(settings, f"verify {size:,} events", ours, 1)
    sides = statistics.median(times), statistics.median(decomposition)
    settings.grew("verify", size, f"{seconds(sides[0])}, {seconds(sides[0] / size)} an event")
    done = subprocess.run(
        [sys.executable, "-c", _VERIFY, str(path)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    settings.grew("verify, memory over baseline", size, f"{int(done.stdout)} MB")
    if last:
        yield longer(f"verify {size:,} events", "reading the rows, and hashlib.sha256 over the same bytes", 3, sides)
        yield Result(f"verify {size:,} events, memory over baseline", "-", "under 150 MB", f"{int(done.stdout)} MB",
                     int(done.stdout) < 150)  # fmt: skip


def hashed(path: Path) -> float:
    """Return the processor seconds of reading the rows, and of hashing bytes that are ready; making them is free."""
    from decomp_ledger.storage import sql

    connection = sqlite3.connect(path)
    clock, taken = time.process_time, 0.0
    start = clock()
    cursor = connection.execute(sql.EVERY_EVENT)
    while rows := cursor.fetchmany(1_000):
        taken += clock() - start
        texts = [row[11] + repr(row[:11]).encode() for row in rows]
        start = clock()
        for text in texts:
            hashlib.sha256(text).digest()
    taken += clock() - start
    connection.close()
    return taken


def disk(settings: Settings, path: Path, size: int, last: bool) -> Iterator[Result]:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    each = path.stat().st_size / size
    settings.grew("bytes on disk, an event", size, f"{each:.0f}")
    if last:
        yield Result(f"bytes on disk an event, of {size:,}", "-", "under 400", f"{each:.0f}", each < 400)


def drifting(settings: Settings, folder: Path) -> Iterator[Result]:
    """The whole process of comparing two released torches, by the clock on the wall."""
    times = []
    for _ in range(settings.rounds(15)):
        start = time.perf_counter()
        run(CLI, "drift", "torch:2.6.0", "torch:2.9.1")
        times.append(time.perf_counter() - start)
    taken = statistics.median(times)
    yield Result("`drift torch:2.6.0 torch:2.9.1`, whole process, wall clock", "-", "under 0.5 s", seconds(taken),
                 taken < 0.5)  # fmt: skip
