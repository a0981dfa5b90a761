"""Raise an exception at any traced point of the package, and compare what is left with the ledger.

`python -m interrupting OPERATION SEED COUNT` prints the number of points, of runs, and what was wrong, as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import torch

import decomp_ledger as dl
from decomp_ledger.pytorch import active

PACKAGE = str(Path(dl.__file__).parent) + os.sep
aten = torch.ops.aten
LINEAR, GELU, MM, SILU = aten.linear.default, aten.gelu.default, aten.mm.default, aten.silu.default
EVENTS = ("call", "line", "return", "opcode")
POINTS_OF_A_SCENE = 60
DEFAULTS = frozenset(torch.export.default_decompositions())


class Injected(Exception):
    """An exception other than a LedgerError, as a signal handler may raise it."""


KINDS: tuple[type[BaseException], ...] = (KeyboardInterrupt, MemoryError, Injected)


def gelu(x: Any, approximate: str = "none") -> Any:
    """Stand for a user's decomposition."""
    return x * torch.sigmoid(x)


class Trace:
    """Counts the traced points of the package; raises an exception at one of them.

    Args:
        at: the number of the point; -1 raises nowhere.
        error: what is raised.
        opcodes: whether each instruction is a point.
    """

    def __init__(self, at: int, error: BaseException, opcodes: bool) -> None:
        self.at = at
        self.error = error
        self.opcodes = opcodes
        self.points = 0
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "call":
            frame.f_trace_opcodes = self.opcodes
        if event in EVENTS:
            if self.points == self.at:
                self.at = -1
                name = frame.f_code.co_filename.removeprefix(PACKAGE)
                self.where = f"{event} at {name}:{frame.f_lineno} in {frame.f_code.co_name}"
                raise self.error
            self.points += 1
        return self


def run_traced(trace: Trace, work: Callable[[], object]) -> BaseException | None:
    """Call a function under a trace; return what it raised."""
    sys.settrace(trace)
    try:
        work()
    except BaseException as error:
        return error
    finally:
        sys.settrace(None)
    return None


class Program(torch.nn.Module):
    """A program whose export takes little time."""

    def forward(self, x: Any) -> Any:
        return torch.nn.functional.gelu(x)


@attrs.define
class Scene:
    """A ledger file that is open, and a table of it.

    Attributes:
        path: the file.
        ledger: the ledger.
        table: its table `edge`.
        other: another table of the same ledger, which another thread writes.
        round: a number that differs in each run.
        recording: the recording of the run, if it makes one.
        block: its `because`, if it has one.
    """

    path: Path
    ledger: dl.Ledger
    table: Any
    other: Any
    program: Any = None
    round: int = 0
    recording: Any = None
    block: Any = None

    @classmethod
    def make(cls, folder: Path) -> Scene:
        path = folder / f"{time.monotonic_ns()}.db"
        ledger = dl.Ledger(path, actor="ann", timeout=5)
        table, other = ledger.table("edge"), ledger.table("other")
        with ledger.because("a start"):
            table.preserve(MM)
        return cls(path, ledger, table, other)


def fork_child(scene: Scene) -> None:
    child = os.fork()
    if child == 0:
        sys.settrace(None)
        os._exit(0)
    os.waitpid(child, 0)


def record_tables(scene: Scene) -> None:
    scene.recording = dl.record(scene.ledger, name=f"rec{scene.round}")
    with scene.recording:
        table = torch.export.default_decompositions()
        table.pop(LINEAR)
        table.copy().pop(aten.matmul.default)


def export_recorded(scene: Scene) -> None:
    if scene.program is None:
        scene.program = torch.export.export(Program(), (torch.ones(2),))
    scene.program.run_decompositions(scene.table)


def change_with_reason(scene: Scene) -> None:
    scene.block = scene.ledger.because("an inner reason")
    with scene.block:
        scene.table.pop(LINEAR)


def copy_and_change(scene: Scene) -> None:
    scene.table.copy().pop(LINEAR)


def use_first(scene: Scene) -> None:
    scene.ledger.table(f"new{scene.round}").materialize()


def revert(scene: Scene) -> None:
    scene.table.revert(2)


OPERATIONS: dict[str, Callable[[Scene], object]] = {
    "pop": lambda scene: scene.table.pop(LINEAR),
    "del": lambda scene: scene.table.__delitem__(LINEAR),
    "set": lambda scene: scene.table.__setitem__(GELU, gelu),
    "set a closure": lambda scene: scene.table.__setitem__(GELU, lambda x, n=scene.round: x * n),
    "update": lambda scene: scene.table.update({GELU: gelu, LINEAR: gelu}),
    "preserve": lambda scene: scene.table.preserve(GELU, "mylib::late", reason="why"),
    "reset": lambda scene: scene.table.reset(MM),
    "revert": revert,
    "tag": lambda scene: scene.table.tag(f"tag-{scene.round}"),
    "because": change_with_reason,
    "copy": copy_and_change,
    "fork": lambda scene: scene.table.fork(f"fork{scene.round}"),
    "materialize": use_first,
    "export": export_recorded,
    "record": record_tables,
    "os.fork": fork_child,
    "read": lambda scene: (list(scene.ledger.events()), scene.table.history(MM), scene.ledger.verify()),
    "dump": lambda scene: list(scene.ledger.dump_lines()),
}


def prepare(scene: Scene) -> None:
    """Bring the table to a state in which each operation changes something."""
    scene.round += 1
    scene.table.reset(LINEAR, GELU, "mylib::late")
    scene.table.preserve(MM, SILU)


def in_thread(work: Callable[[], object], seconds: float) -> str:
    """Call a function in a thread of its own; return what is wrong with that."""
    wrong = ["hangs"]

    def guarded() -> None:
        try:
            work()
            wrong[0] = ""
        except BaseException as error:
            wrong[0] = repr(error)[:300]

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(seconds)
    return wrong[0]


def is_same(function: Any, other: Any) -> bool:
    """Tell whether two decompositions do the same: each full look at the dispatcher makes those of kernels again."""
    if isinstance(function, functools.partial) and isinstance(other, functools.partial):
        same_code = getattr(function.func, "__code__", 0) == getattr(other.func, "__code__", 1)
        return same_code and (function.args, function.keywords) == (other.args, other.keywords)
    return function is other


def left_wrong(scene: Scene, head: int) -> str:
    """Return what an interrupted operation left wrong, or "".

    Args:
        scene: the scene after it.
        head: the seq of the last event before it.
    """
    table, ledger = scene.table, scene.ledger
    # An exception at the very call of their `__exit__` leaves these open; see docs/architecture.md.
    for block in (scene.recording, *active._entered, scene.block):
        if block is not None:
            block.__exit__(None, None, None)
    # First, reads of one op: they look at little.
    seen = {op: (op in table, table.get(op)) for op in (LINEAR, GELU, MM, SILU)}
    with dl.Ledger(scene.path, read_only=True) as fresh:
        state = fresh.state("edge")
        if (table.version, table.state.rules) != (state.version, state.rules):
            return f"the table is at {table.version}, the ledger at {state.version}"
        expected = {op: state.rules.get(op.name()) for op in seen}
    for op, (has, fn) in seen.items():
        rule = expected[op]
        is_kept = rule is not None and rule.action == "preserve"
        if has != (not is_kept and (rule is not None or op in DEFAULTS)) or (fn is not None) != has:
            return f"{op}: in the view {has}, by the ledger {rule}"
    wholly = dict(table.items())
    if len(table) != len(wholly) or any((op in wholly) != has for op, (has, _) in seen.items()):
        return "the view differs from its own reads"
    if any(not is_same(fn, wholly.get(op)) for op, (_, fn) in seen.items()):
        return "the view has another function"
    connection = sqlite3.connect(scene.path, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return f"a transaction is open: {error}"
    finally:
        connection.close()
    if wrong := in_thread(lambda: scene.other.preserve(f"mylib::op{scene.round}"), 5):
        return f"another thread: {wrong}"
    if wrong := in_thread(lambda: (table.version, len(table), ledger.tables()), 5):
        return f"a read of another thread: {wrong}"
    before = table.version
    table.preserve(f"mylib::probe{scene.round}")
    event = table.events()[-1]
    if table.version != before + 1 or event.version != table.version:
        return "a later write was lost"
    if event.reason is not None:
        return f"a later write has the reason {event.reason!r}"
    table.reset(f"mylib::probe{scene.round}")
    return ""


def attempt(scene: Scene, name: str, at: int, opcodes: bool, kind: type[BaseException]) -> tuple[str, int]:
    """Interrupt an operation once; return what is wrong, and the number of points."""
    prepare(scene)
    head = scene.ledger.event_store.head()[0]
    trace = Trace(at, kind(), opcodes)
    raised = run_traced(trace, lambda: OPERATIONS[name](scene))  # kept, because its traceback keeps frames
    try:
        wrong = left_wrong(scene, head)
    except Exception as error:
        wrong = f"{error!r:.300}"
    scene.recording = None
    if raised is not None and raised is not trace.error and not isinstance(raised, dl.LedgerError):
        wrong = wrong or f"raised {raised!r:.200}"
    return (f"{name}: {kind.__name__} on {trace.where}: {wrong}" if wrong else ""), trace.points


def attempts(name: str, seed: int, count: int, folder: Path) -> tuple[int, int, list[str]]:
    """Interrupt an operation at chosen points; return the number of all points, of runs, and what was wrong."""
    choose, wrong = random.Random(f"{name} {seed}"), list[str]()
    scene = Scene.make(folder)
    if wrong := [found for found, _ in [attempt(scene, name, -1, False, KeyboardInterrupt)] if found]:
        return 0, 0, wrong  # without an interrupt, which also warms the caches
    totals = {opcodes: attempt(scene, name, -1, opcodes, KeyboardInterrupt)[1] for opcodes in (False, True)}
    every = [(opcodes, at) for opcodes, total in totals.items() for at in range(total)]
    chosen = every if len(every) <= count else choose.sample(every, count)
    for number, (opcodes, at) in enumerate(chosen):
        if number % POINTS_OF_A_SCENE == 0:
            wrong += not_verified(scene)
            scene = Scene.make(folder)
        found, _ = attempt(scene, name, at, opcodes, KINDS[number % 3])
        if found:
            wrong.append(found)
            scene = Scene.make(folder)
    wrong += not_verified(scene)
    return sum(totals.values()), len(chosen), wrong


def not_verified(scene: Scene) -> list[str]:
    """Return the problems of a scene's ledger, and close it."""
    problems = [f"verify: {problem}" for problem in scene.ledger.verify().problems]
    scene.ledger.close()
    return problems


def signalled(name: str, seed: int, count: int, folder: Path) -> tuple[int, int, list[str]]:
    """Interrupt an operation by real signals at random times."""
    choose, wrong = random.Random(f"{name} {seed}"), list[str]()

    def ring(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    scene = Scene.make(folder)
    signal.signal(signal.SIGALRM, ring)
    begun = time.perf_counter()
    prepare(scene)
    OPERATIONS[name](scene)
    took = time.perf_counter() - begun
    for number in range(count):
        if number % POINTS_OF_A_SCENE == 0:
            wrong += not_verified(scene)
            scene = Scene.make(folder)
        prepare(scene)
        head, raised = scene.ledger.event_store.head()[0], None
        try:
            signal.setitimer(signal.ITIMER_REAL, choose.uniform(1e-5, took))
            try:
                OPERATIONS[name](scene)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException as error:
            raised = error
        try:
            found = left_wrong(scene, head)
        except Exception as error:
            found = f"{error!r:.300}"
        scene.recording = None
        if found:
            wrong.append(f"{name}: by a signal ({raised!r:.60}): {found}")
            scene = Scene.make(folder)
    wrong += not_verified(scene)
    return count, count, wrong


def main() -> None:
    """Run one operation; print the result."""
    name, seed, count, how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with tempfile.TemporaryDirectory() as folder:
        run = signalled if how == "signals" else attempts
        print(json.dumps(run(name, seed, count, Path(folder))))


if __name__ == "__main__":
    main()
