"""Generators that are read in part hold nothing, and forks wait for no import longer than they must."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from strategies import new_table, without_torch  # noqa: F401

from decomp_ledger.errors import LedgerError, LedgerFileError
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage import fork_safety

MM, ADD = "aten::mm", "aten::add.Tensor"
TIMEOUT = 10
GENERATORS: dict[str, Callable[[Ledger], Iterator[Any]]] = {
    "dump_lines": lambda ledger: ledger.dump_lines(),
    "events": lambda ledger: ledger.events(),
    "events of an op": lambda ledger: ledger.events(op=MM, table="edge"),
}
USES: dict[str, Callable[[Ledger], object]] = {
    "write": lambda ledger: ledger.table_log("edge").preserve([ADD]),
    "write in another thread": lambda ledger: in_thread(lambda: ledger.table_log("edge").preserve([ADD])),
    "write by another ledger": lambda ledger: write_by_another(ledger),
    "verify": lambda ledger: ledger.verify(),
    "close": lambda ledger: ledger.close(),
}


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def write_by_another(ledger: Ledger) -> None:
    if ledger.path != ":memory:":
        with Ledger(ledger.path, timeout=1) as other:
            other.table_log("edge").preserve([ADD])


@pytest.fixture(params=["file", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    made = Ledger(":memory:" if request.param == "memory" else tmp_path / "a.db")
    table = new_table(made)
    for _ in range(3):
        table.preserve([MM])
        table.reset([MM])
    return made


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_that_is_read_in_part_holds_nothing(name: str, use: str, ledger: Ledger) -> None:
    whole = list(GENERATORS[name](ledger))
    generator = GENERATORS[name](ledger)
    first = [next(generator, None)]
    USES[use](ledger)
    assert [each for each in first if each is not None] + list(generator) == whole  # as it was at the first line


def forked(work: Callable[[], object]) -> int:
    """Run a function in a child; return its exit status: 1 if it raised a LedgerError, -1 if it hangs."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except LedgerError:
            os._exit(1)
        except BaseException:
            os._exit(2)
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


@forks
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_does_not_go_on_with_a_dump_of_its_parent(ledger: Ledger) -> None:
    lines = ledger.dump_lines()
    first = next(lines)
    refused = 0 if ledger.path == ":memory:" else 1  # a list of lines, which the child has too
    assert forked(lambda: list(lines)) == refused
    assert len([first, *lines]) > 5
    ledger.table_log("edge").preserve([ADD])


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module whose import takes half a second."""
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.5)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "slow_to_import"
    sys.modules.pop("slow_to_import", None)


@forks
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("patience", [10.0, 0.01])
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_a_fork_during_an_import_of_another_thread_does_not_hang_the_child(
    patience: float, delay: float, slow_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_safety, "_IMPORT_TIMEOUT", patience)
    begun = threading.Event()

    def use() -> None:
        with fork_safety.importing(slow_module):
            begun.set()
            __import__(slow_module)

    thread = threading.Thread(target=use)
    thread.start()
    begun.wait(TIMEOUT)
    time.sleep(delay)
    status = forked(use)
    thread.join()
    assert status in ((0,) if patience > 1 else (0, 1))


@forks
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("moment", range(12))
def test_a_child_that_is_forked_while_ledgers_are_made_can_use_one(moment: int, tmp_path: Path) -> None:
    stop = threading.Event()

    def make() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with Ledger(tmp_path / f"{threading.get_ident()}-{number}.db", actor="ann") as one:
                new_table(one).preserve([MM])

    def use() -> None:
        with Ledger(tmp_path / "child.db", actor="ann") as one:
            new_table(one).preserve([MM])

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(moment * 0.007)
    try:
        assert forked(use) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_file_that_was_in_use_names_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_safety, "_cut_off", ["some.module"])
    with pytest.raises(LedgerFileError, match="another thread was importing it"), fork_safety.importing("some.module"):
        pass
