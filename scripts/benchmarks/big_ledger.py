"""Appending to a ledger, and reading a ledger of a million changes."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from measure import Result, Settings, wall_median, within
from processes import python, timed, whole_process

OPS = 1_000
PER_TRANSACTION = 5_000
VERIFY_MEMORY_MB = 10  # a ledger ten times as large may take this much more


def append(settings: Settings, folder: Path) -> Iterator[Result]:
    """Measure one change of one op, committed, with the default durability."""
    from decomp_ledger import Ledger

    with Ledger(folder / "append.db", actor="bench") as ledger:
        log = ledger.create_table("edge")
        verbs = itertools.cycle((log.preserve, log.reset))
        rounds = settings.rounds(5_000)
        taken = wall_median(lambda: next(verbs)(["aten::mm"]), rounds)
        if log.version != rounds + 2:
            raise RuntimeError(f"{log.version} versions after {rounds + 1} changes: the time is of no use")
    yield within("append one event, durable against process death", 0.4e-3, taken)


def large(settings: Settings, folder: Path) -> Iterator[Result]:
    """Fill one table, and read and verify it at two sizes."""
    small, size = settings.sizes
    path = folder / "big.db"
    ops = ops_in_turn()
    fill(path, ops, small)
    _, small_memory = verified(path)
    fill(path, ops, size)
    yield state(settings, path, size)
    yield from commands(settings, path, size)
    taken, memory = verified(path)
    yield within(f"`verify` of {size:,} events", 60 * size / 1_000_000, taken)
    yield Result(
        f"memory of `verify`, {size:,} events against {small:,}",
        f"<= {VERIFY_MEMORY_MB} MB more",
        f"{memory:.0f} MB and {small_memory:.0f} MB",
        memory - small_memory <= VERIFY_MEMORY_MB,
    )


def ops_in_turn() -> Iterator[str]:
    """Yield the op of each change, without end."""
    ops = [f"aten::op{number}" for number in range(OPS)]
    yield from ops
    yield from ops[::2]  # so that from here on about half of the ops have a rule at any version
    yield from itertools.cycle(ops)


def fill(path: Path, ops: Iterator[str], size: int) -> None:
    """Append changes of one op each, until the ledger has so many events."""
    from decomp_ledger import Ledger

    with Ledger(path, actor="bench") as ledger:
        log = ledger.create_table("edge")
        while (left := size - log.version) > 0:
            # One transaction for many events, because making the ledger is not what is measured.
            with ledger.database.write_transaction():
                for op in itertools.islice(ops, min(left, PER_TRANSACTION)):
                    (log.reset if op in log.rules else log.preserve)([op])


def state(settings: Settings, path: Path, size: int) -> Result:
    """Measure the slowest of some past states."""
    from decomp_ledger import Ledger

    with Ledger(path, read_only=True) as ledger:
        taken = {
            version: wall_median(lambda version=version: ledger.state("edge", version), settings.rounds(40))
            for version in (2, size // 4, size // 2, size - 1)
        }
    slowest = max(taken, key=taken.__getitem__)
    return within(f"past state of {size:,} changes, slowest of {len(taken)} (version {slowest:,})", 0.02,
                  taken[slowest])  # fmt: skip


def commands(settings: Settings, path: Path, size: int) -> Iterator[Result]:
    """Measure whole processes of the commands that read."""
    named = {
        "log -n 20": ("log", "-n", "20"),
        "log TABLE -n 20": ("log", "edge", "-n", "20"),
        "log TABLE --op OP -n 20": ("log", "edge", "--op", "aten::op5", "-n", "20"),
        "blame TABLE": ("blame", "edge"),
        "show TABLE@V": ("show", f"edge@{size // 2}"),
    }
    ledger = ("--ledger", str(path))
    for name, result in timed({name: (*ledger, *arguments) for name, arguments in named.items()}, settings.rounds(15)):
        yield whole_process(f"`{name}` of {size:,} changes", 0.35, *result)


_VERIFY = """
import re, resource, sys, time
from pathlib import Path
from decomp_ledger import Ledger

def peak():
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins with the memory of the parent process there
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2

with Ledger(sys.argv[1], read_only=True) as ledger:
    ledger.tables()
    before, start = peak(), time.perf_counter()
    assert ledger.verify().ok
    print(time.perf_counter() - start, peak() - before)
"""


def verified(path: Path) -> tuple[float, float]:
    """Return the seconds of verifying a ledger in a new process, and by how many MB its memory grew."""
    taken, memory = map(float, python(_VERIFY, str(path)).stdout.split())
    return taken, memory
