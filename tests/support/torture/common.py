"""Shared by the faults: rows of the table, small ledgers, forked children, and reads of a whole ledger."""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs
from strategies import catalog_of, new_table, override

from decomp_ledger.ledger import Ledger
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.events import Event, Materialized
from decomp_ledger.transfer.jsonl import dump

MM, ADD, GELU, LATE = "aten::mm", "aten::add.Tensor", "aten::gelu", "mylib::late"


@attrs.frozen
class Row:
    """One line of the table.

    Attributes:
        fault: the fault that was injected.
        runs: how often.
        goal: what must hold each time.
        wrong: one text for each run in which it did not hold.
        note: figures for the reader.
    """

    fault: str
    runs: int
    goal: str
    wrong: tuple[str, ...] = ()
    note: str = ""

    @property
    def result(self) -> str:
        """The last column."""
        if self.wrong:
            return f"{len(self.wrong)} WRONG: {self.wrong[0]:.300}"
        return "held" + (f" ({self.note})" if self.note else "")


@attrs.frozen
class Workspace:
    """The folder of a fault, and the amount of its work.

    Attributes:
        folder: an empty folder.
        seed: the seed of random choices.
        full: whether to run the full amounts, not the short form.
    """

    folder: Path
    seed: int
    full: bool

    def amount(self, full: int, short: int) -> int:
        """Return the full or the short amount."""
        return full if self.full else short


def act(table: TableLog, number: int, unique: str) -> Event | None:
    """Append one event to a table; `unique` is a namespace that no other caller uses."""
    kind = number % 7
    if kind == 0:
        return override(table, f"{unique}::op{number}", f"fn{number % 3}", reason=f"round {number}")
    if kind == 1:
        return table.preserve([f"{unique}::op{number}_{part}" for part in range(5)])
    if kind == 2:
        return table.tag(f"{unique}-{number}")
    return table.preserve([f"{unique}::op{number}"])


def everything(path: Path, rounds: int = 3) -> None:
    """Make a ledger that has every kind of event and row."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from decomp_ledger.integrity.ssh_signatures import SigningKey

    key = Ed25519PrivateKey.generate()
    signer = SigningKey(key, key.public_key().public_bytes_raw())
    with Ledger(path, actor="ann") as ledger:
        for number in range(rounds):
            ledger.actor = f"actor {number % 2}"
            edge = new_table(ledger, f"edge{number}", "torch" if number % 2 == 0 else "empty")
            edge.preserve([MM, LATE], reason=f"fused kernel {number}")
            override(edge, ADD, f"add{number}", reason="faster")
            edge.materialize(catalog_of(MM, ADD))
            edge.materialize(catalog_of(*[f"aten::op{n}" for n in range(number + 2)], LATE))
            edge.tag(f"v{number}")
            override(edge, GELU, "gelu")
            edge.fork_as(f"fork{number}").reset([MM])
            edge.revert(2, reason="back")
            edge.tag("past", 1)
            ledger.checkpoint(signer)
        last = ledger.table_log("edge0")
        last.preserve([f"aten::last{n}" for n in range(4)])
        last.reset([GELU])


def lines_of(ledger: Ledger) -> list[str]:
    """Return the contents of a ledger as lines without row numbers."""
    return list(dump(ledger))


def read_all(ledger: Ledger) -> None:
    """Read everything in a ledger by every method that reads."""
    for event in ledger.events():
        ledger.environment(event.environment)
        if isinstance(event.body, Materialized):
            ledger.catalog(event.body.catalog)
    for info in ledger.tables():
        ledger.resolve(info.name)
        for version in range(1, min(info.version, 5) + 1):
            ledger.state(info.name, version)
        ledger.tags(info.name)
        ledger.blame(info.name)
        ledger.history(info.name, MM, info.version)


def forked(work: Callable[[], object]) -> int:
    """Run a function in a forked child that exits afterwards; return its process id."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def processor_seconds(child: int) -> float | None:
    """Return the seconds of the processor that a process and its ended children used; None where that is not known."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def wait_for(child: int) -> str:
    """Wait for a child; return "" if it exited with 0, else its signal or exit code."""
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return "" if code == 0 else signal.Signals(-code).name if code < 0 else f"exit {code}"


def acknowledge(into: int, event: Event | None) -> None:
    """Write an event to a pipe; the reader then knows that the call returned."""
    assert event is not None
    os.write(into, f"{event.seq} {event.hash}\n".encode())


def acknowledged(out: int) -> dict[int, str]:
    """Return seq -> hash of all acknowledged events of a pipe, after its writers have exited."""
    with os.fdopen(out) as lines:
        return {int(seq): text for seq, text in map(str.split, lines)}


_WALL = 20  # times the patience for a call that waits, because other work may leave it little of the processor
_TICK = 1.0  # seconds that count between two looks at the clock: a machine that stood still did not let the call run


@attrs.define
class _Worker:
    left: list[int]
    child: int = 0
    out: int = -1
    looked: float = 0.0
    waited: float = 0.0
    worked: float = 0.0
    text: bytes = b""

    def start(self, attempt: Callable[[int], str]) -> None:
        self.out, into = os.pipe()
        self.text = b""

        def work() -> None:
            for number in self.left:
                try:
                    wrong = attempt(number)
                except Exception as error:
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    wrong = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {error}"
                os.write(into, json.dumps(wrong).encode() + b"\n")

        self.child = forked(work)
        os.close(into)
        self._begin()

    def _begin(self) -> None:
        """Note that the next call begins."""
        self.looked, self.waited, self.worked = time.monotonic(), 0.0, processor_seconds(self.child) or 0.0

    def hangs(self, patience: float) -> bool:
        """Tell whether a call took too many seconds of the processor, or far too many of the clock."""
        now = time.monotonic()
        self.waited += min(now - self.looked, _TICK)
        self.looked = now
        used = processor_seconds(self.child)
        worked = self.waited if used is None else used - self.worked
        return self.waited > patience and (worked > patience or self.waited > _WALL * patience)

    def read(self) -> Iterator[str]:
        """Yield the results of the next numbers; close the pipe at its end."""
        data = os.read(self.out, 1 << 16)
        if not data:
            os.close(self.out)
            self.out = -1
        *lines, self.text = (self.text + data).split(b"\n")
        for line in lines:
            self._begin()
            yield json.loads(line)


def try_all(count: int, attempt: Callable[[int], str], patience: float = 5.0) -> tuple[str, ...]:
    """Call a function with each number below `count`, in one worker process per core; return the failures.

    Args:
        count: the number of calls.
        attempt: takes the number; returns what went wrong, or "".
        patience: the seconds of the processor that one call may take, and 20 times as many of the clock, because the
            machine may do other work. A call that hangs or kills its process is a failure; the other calls go on.
    """
    cores = os.cpu_count() or 1
    workers = [_Worker(list(range(first, count, cores))) for first in range(min(cores, count))]
    wrong: dict[int, str] = {}
    while workers:
        for worker in workers:
            if worker.out == -1:
                worker.start(attempt)
        ready, _, _ = select.select([worker.out for worker in workers], [], [], 0.2)
        for worker in workers:
            if worker.out in ready:
                for text in worker.read():
                    number = worker.left.pop(0)
                    wrong.update({number: text} if text else {})
            hangs = worker.out != -1 and bool(worker.left) and worker.hangs(patience)
            if hangs:
                os.kill(worker.child, signal.SIGKILL)
                os.close(worker.out)
                worker.out = -1
            if worker.out == -1:
                how = wait_for(worker.child)
                if worker.left:
                    wrong[worker.left.pop(0)] = (
                        f"hangs for {worker.waited:.0f} s" if hangs else f"killed its process: {how}"
                    )
        workers = [worker for worker in workers if worker.left or worker.out != -1]
    return tuple(f"[{number}] {text}" for number, text in sorted(wrong.items()))


def problems_text(problems: Iterable[object]) -> str:
    """Return the problems that verify found, in one line, or ""."""
    return "; ".join(map(str, problems))
