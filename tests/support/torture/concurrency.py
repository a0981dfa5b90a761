"""Concurrent writers: processes, threads, forked children, and a process that holds the lock."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

from strategies import new_table

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.ledger import Ledger
from torture.common import Row, Workspace, forked, problems_text, wait_for

GOAL = "nothing lost, no lock error, version and seq without gaps"


def lost(path: Path, wanted: set[str], table: str = "shared") -> list[str]:
    """Check a table to which one event added each of these ops; return what is wrong."""
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
            wrong.append(f"version has gaps: {len(versions)} events for {len(wanted)} changes")
        problems = ledger.verify().problems
        wrong += [problems_text(problems)] if problems else []
    return wrong


def writing(path: Path, name: str, count: int) -> None:
    """Change the shared table `count` times."""
    with Ledger(path, actor=name) as ledger:
        table = new_table(ledger, "shared")
        for number in range(count):
            assert table.preserve([f"{name}::op{number}"]) is not None


def processes(workspace: Workspace) -> list[Row]:
    """Change one table from several processes."""
    path, count, each = workspace.folder / "ledger.db", workspace.amount(8, 4), workspace.amount(1000, 40)
    begun = time.monotonic()
    children = [forked(lambda n=n: writing(path, f"p{n}", each)) for n in range(count)]
    wrong = [f"process {number} ended with {how}" for number, how in enumerate(map(wait_for, children)) if how]
    seconds = time.monotonic() - begun
    wrong += lost(path, {f"p{n}::op{op}" for n in range(count) for op in range(each)})
    note = f"{count * each / seconds:,.0f} changes a second"
    return [Row(f"{count} processes x {each:,} changes of one table", count * each, GOAL, tuple(wrong), note)]


def threads(workspace: Workspace) -> list[Row]:
    """Change one table from several threads: first with a table log each, then with one for all."""
    rows = []
    for shared in (False, True):
        path, each = workspace.folder / f"ledger{shared}.db", workspace.amount(1000, 40)
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


def forks(workspace: Workspace) -> list[Row]:
    """Fork a process while its threads write to an open ledger; write in the parent and in all children."""
    path, count, each = workspace.folder / "ledger.db", workspace.amount(16, 4), workspace.amount(100, 10)
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
    ledger.close()  # while the children still write
    wrong += [f"child {number} ended with {how}" for number, how in enumerate(map(wait_for, children)) if how]
    ops = {f"c{n}::op{op}" for n in range(count) for op in range(each)}
    wrong += lost(path, {*ops, *written, "parent::last"})
    return [Row(f"{count} children forked amid writes x {each} changes", count, GOAL, tuple(wrong))]


def held(workspace: Workspace) -> list[Row]:
    """Hold the lock for long; writers with a longer timeout wait, others fail when theirs is over."""
    path, seconds = workspace.folder / "ledger.db", workspace.amount(30, 3)
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
                assert time.monotonic() - begun >= timeout * 0.9, "it failed before its timeout"
                assert "another process is writing to it and did not finish in time" in str(error)
                assert "database is locked" not in str(error)
            else:
                raise AssertionError("it wrote while another process held the lock")

    holder = forked(hold)
    assert os.read(out, 5) == b"held\n"
    time.sleep(0.2)
    children = {
        "a timeout of twice as long": forked(lambda: patient(2.0 * seconds)),
        "the default timeout": forked(lambda: patient(None)),
        "a timeout of a tenth": forked(lambda: impatient(seconds / 10)),
        "a timeout of 0": forked(lambda: impatient(0)),
    }
    wrong = [f"{who}: {how}" for who, how in ((who, wait_for(child)) for who, child in children.items()) if how]
    wrong += [how] if (how := wait_for(holder)) else []
    wrong += lost(path, {f"aten::patient{2.0 * seconds}", "aten::patientNone"})
    goal = "a writer with a longer timeout (default: 30 s) writes; others fail at their timeout, not earlier"
    return [Row(f"a process that holds the lock for {seconds} s", len(children), goal, tuple(wrong))]


FAULTS = (processes, threads, forks, held)
