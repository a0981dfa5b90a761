"""A lock that comes free when the blocks that held it have ended, however they ended."""

import ast
import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import pytest

import decomp_ledger
from decomp_ledger.errors import LedgerError
from decomp_ledger.ledger import Ledger
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.storage.block_lock import BlockLock

TIMEOUT = 10


def is_free(lock: BlockLock) -> bool:
    """Tell whether another thread gets a lock."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(lock.enter(sys._getframe(), TIMEOUT)))
    thread.start()
    thread.join()
    return found != [0]


def test_a_block_keeps_other_threads_out_and_may_be_nested() -> None:
    lock, found = BlockLock(), list[int]()
    with lock:
        with lock:
            assert lock.depth() == 2
        thread = threading.Thread(target=lambda: found.append(lock.enter(sys._getframe(), 0.1)))
        thread.start()
        thread.join()
    assert found == [0] and lock.depth() == 0 and is_free(lock)


def enter_only(lock: BlockLock) -> None:
    lock.enter(sys._getframe())


def enter_in_a_block(lock: BlockLock) -> None:
    with lock:
        lock.enter(sys._getframe())
        enter_only(lock)
        raise KeyboardInterrupt


def end_as_a_thread(lock: BlockLock) -> None:
    thread = threading.Thread(target=enter_only, args=(lock,))
    thread.start()
    thread.join()


@pytest.mark.parametrize("end", [enter_only, enter_in_a_block, end_as_a_thread])
def test_a_block_that_ended_without_leaving_holds_nothing(end: Callable[[BlockLock], None]) -> None:
    lock = BlockLock()
    try:
        end(lock)
    except KeyboardInterrupt as error:
        assert is_free(lock), error  # while the traceback keeps the frames
    assert lock.depth() == 0 and is_free(lock)
    with lock:
        assert lock.depth() == 1


def test_blocks_of_many_threads_take_turns() -> None:
    lock, counts = BlockLock(), [0]

    def count() -> None:
        for _ in range(500):
            with lock:
                before = counts[0]
                sys.getswitchinterval()
                counts[0] = before + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [2000]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_lock_is_free_in_a_child() -> None:
    locks, held, done = [BlockLock() for _ in range(3)], threading.Event(), threading.Event()

    def hold() -> None:
        with locks[0], locks[1], locks[2]:
            held.set()
            done.wait(TIMEOUT)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(TIMEOUT)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(lock.enter(sys._getframe(), 1) for lock in locks) else 1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_no_generator_pauses_within_a_block_of_a_lock() -> None:
    found = []
    for path in Path(decomp_ledger.__file__).parent.rglob("*.py"):
        for block in ast.walk(ast.parse(path.read_text())):
            if isinstance(block, ast.With) and any(
                isinstance(node, (ast.Yield, ast.YieldFrom)) for node in ast.walk(block)
            ):
                taken = [ast.unparse(item.context_expr) for item in block.items]
                found += [f"{path.name}: {text}" for text in taken if is_lock(text)]
    assert found == []


def is_lock(text: str) -> bool:
    return any(part in text for part in ("lock", "reading(", "read_transaction(", "write_transaction(", "audit("))


# Blocks that end without their `__exit__`


class Interrupter:
    """Raises KeyboardInterrupt at one traced point of the files that hold the blocks of a write.

    Args:
        at: the number of the point; -1 raises nowhere.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self.points = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> object:
        if not frame.f_code.co_filename.endswith(("storage/database.py", "log/table_log.py")):
            return None
        frame.f_trace_opcodes = True
        if self.points == self.at:
            self.points += 1
            raise KeyboardInterrupt
        self.points += 1
        return self


WRITES: dict[str, Callable[[TableLog, int], object]] = {
    "preserve": lambda table, number: table.preserve([f"mylib::op{number}"]),
    "tag": lambda table, number: table.tag(f"tag{number}"),
    "refused": lambda table, number: table.tag("taken", 1),
}


@pytest.mark.parametrize("write", WRITES)
def test_no_interrupt_leaves_the_file_locked_for_other_processes(write: str, path: Path) -> None:
    # In a thread, because an exception that a trace raises can stay the current one of its thread.
    with ThreadPoolExecutor(1) as threads:
        threads.submit(interrupt_everywhere, write, path).result()


def interrupt_everywhere(write: str, path: Path) -> None:
    """Interrupt a write at each traced point; another connection can write each time."""
    with Ledger(path, actor="ann") as ledger:
        table = ledger.table_log("edge")
        table.tag("taken")
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        kept: list[BaseException] = []

        def interrupted(at: int) -> int:
            interrupter = Interrupter(at)
            sys.settrace(interrupter)
            try:
                WRITES[write](table, at + 1)
            except (KeyboardInterrupt, LedgerError) as error:
                kept.append(error)  # its traceback keeps the blocks alive, as in a notebook
            finally:
                sys.settrace(None)
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
            return interrupter.points

        total = interrupted(-1)
        assert total > 100
        for at in range(total):
            interrupted(at)
        assert sum(isinstance(error, KeyboardInterrupt) for error in kept) > total // 2
        other.close()
        assert ledger.verify().ok
