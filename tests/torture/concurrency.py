"""Many writers at once: processes, threads, forked children, and one that holds the lock."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

from strategies import new_table

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.ledger import Ledger
from torture.common import Place, Row, ended, faults, forked

GOAL = "nothing lost, no lock error, version and seq without gaps"


def lost(path: Path, wanted: set[str], table: str = "shared") -> list[str]:
    """Say what is wrong with a table to which each of these ops was added by an event of its own."""
    wrong: list[str] = []
    with Ledger(path, read_only=True) as ledger:
        state = ledger.state(table)
        events = list(ledger.events())
        if state.rules.keys() != wanted:
            wrong.append(f"{len(wanted - state.rules.keys())} changes lost")
        if [event.seq for event in events] != list(range(1, len(events) + 1)):
            wrong.append("seq has gaps")
        versions = [event.version for event in events if event.table == table]
        if versions != list(range(1, len(wanted) + 2)):
            wrong.append(f"version has gaps: {len(versions)} events, and {len(wanted)} changes")
        problems = ledger.verify().problems
        wrong += [faults(problems)] if problems else []
    return wrong


def writing(path: Path, name: str, count: int) -> None:
    """Change the shared table so many times."""
    with Ledger(path, actor=name) as ledger:
        table = new_table(ledger, "shared")
        for number in range(count):
            assert table.preserve([f"{name}::op{number}"]) is not None


def processes(place: Place) -> list[Row]:
    """Let processes change one table."""
    path, count, each = place.folder / "ledger.db", place.amount(8, 4), place.amount(1000, 40)
    begun = time.monotonic()
    children = [forked(lambda n=n: writing(path, f"p{n}", each)) for n in range(count)]
    wrong = [f"process {number} ended with {how}" for number, how in enumerate(map(ended, children)) if how]
    seconds = time.monotonic() - begun
    wrong += lost(path, {f"p{n}::op{op}" for n in range(count) for op in range(each)})
    note = f"{count * each / seconds:,.0f} changes a second"
    return [Row(f"{count} processes x {each:,} changes of one table", count * each, GOAL, tuple(wrong), note)]


def threads(place: Place) -> list[Row]:
    """Let threads change one table through one ledger: each its own stream of it, then one stream of all."""
    rows = []
    for shared in (False, True):
        path, each = place.folder / f"ledger{shared}.db", place.amount(1000, 40)
        wrong: list[str] = []
        with Ledger(path, actor="threads") as ledger:
            common = new_table(ledger, "shared")

            def work(number: int, shared: bool = shared) -> None:
                try:
                    table = common if shared else ledger.table_log("shared")  # noqa: B023
                    for op in range(each):  # noqa: B023
                        table.preserve([f"t{number}::op{op}"])
                except Exception as error:
                    wrong.append(repr(error))  # noqa: B023

            workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        wrong += lost(path, {f"t{n}::op{op}" for n in range(4) for op in range(each)})
        what = "through one object" if shared else "through an object each"
        rows.append(Row(f"4 threads x {each:,} changes of one table, {what}", 4 * each, GOAL, tuple(wrong)))
    return rows


def forks(place: Place) -> list[Row]:
    """Fork children of a process that has a ledger open, while its threads write, and go on in all of them."""
    path, count, each = place.folder / "ledger.db", place.amount(16, 4), place.amount(100, 10)
    wrong: list[str] = []
    ledger = Ledger(path, actor="parent")
    table = new_table(ledger, "shared")
    stop = threading.Event()
    written: list[str] = []

    def busy() -> None:
        own = ledger.table_log("shared")
        while not stop.is_set():
            op = f"parent::op{len(written)}"
            own.preserve([op])
            written.append(op)

    def child(number: int) -> None:
        for op in range(each):
            table.preserve([f"c{number}::op{op}"])
        assert ledger.verify().ok
        ledger.close()

    worker = threading.Thread(target=busy)
    worker.start()
    children = []
    for number in range(count):
        children.append(forked(lambda number=number: child(number)))
        time.sleep(0.01)
    stop.set()
    worker.join()
    table.preserve(["parent::last"])
    ledger.close()  # while the children go on
    wrong += [f"child {number} ended with {how}" for number, how in enumerate(map(ended, children)) if how]
    ops = {f"c{n}::op{op}" for n in range(count) for op in range(each)}
    wrong += lost(path, {*ops, *written, "parent::last"})
    return [Row(f"{count} children forked amid writes x {each} changes", count, GOAL, tuple(wrong))]


def held(place: Place) -> list[Row]:
    """Hold the lock for long: who may wait longer waits, and who may not is told when the time is over."""
    path, seconds = place.folder / "ledger.db", place.amount(30, 3)
    with Ledger(path, actor="first") as ledger:
        new_table(ledger, "shared")
    out, into = os.pipe()

    def hold() -> None:
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        os.write(into, b"held\n")
        time.sleep(seconds)
        db.execute("ROLLBACK")

    def patient(timeout: float | None) -> None:
        options = {} if timeout is None else {"timeout": timeout}
        with Ledger(path, actor="patient", **options) as ledger:
            ledger.table_log("shared").preserve([f"aten::patient{timeout}"])

    def impatient(timeout: float) -> None:
        with Ledger(path, actor="impatient", timeout=timeout) as ledger:
            table = ledger.table_log("shared")
            begun = time.monotonic()
            try:
                table.preserve(["aten::impatient"])
            except LedgerFileError as error:
                assert time.monotonic() - begun >= timeout * 0.9, "told before its time was over"
                assert "another process is writing to it and did not finish in time" in str(error)
                assert "database is locked" not in str(error)
            else:
                raise AssertionError("it was written while another held the lock")

    holder = forked(hold)
    assert os.read(out, 5) == b"held\n"
    time.sleep(0.2)
    children = {
        "one that may wait twice as long": forked(lambda: patient(2.0 * seconds)),
        "one with the default timeout": forked(lambda: patient(None)),
        "one that may wait a tenth": forked(lambda: impatient(seconds / 10)),
        "one that may not wait": forked(lambda: impatient(0)),
    }
    wrong = [f"{who}: {how}" for who, how in ((who, ended(child)) for who, child in children.items()) if how]
    wrong += [how] if (how := ended(holder)) else []
    wrong += lost(path, {f"aten::patient{2.0 * seconds}", "aten::patientNone"})
    goal = "who may wait (30 s unless said otherwise) writes; who may not is told then, and not earlier"
    return [Row(f"a writer that holds the lock for {seconds} s", len(children), goal, tuple(wrong))]


FAULTS = (processes, threads, forks, held)
