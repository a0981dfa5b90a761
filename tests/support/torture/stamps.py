"""Stamps that say more than led to their program, and exceptions of a program that get lost in a recording."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from odd_exceptions import frames, odd_exception
from stamp_edits import forged, write_stamp
from strategies import private_export

from decomp_ledger.errors import LedgerError, RecordingWarning
from decomp_ledger.ledger import Ledger, record
from decomp_ledger.transfer.stamp import Stamp
from torture.common import Row, Workspace

SUPPORT = Path(__file__).parents[1]


def _with_torch(workspace: Workspace, what: str, count: int) -> tuple[str, ...]:
    """Run cases that need torch, half of them in each of two processes; return what is wrong."""
    paths = os.pathsep.join([str(SUPPORT.parents[1]), str(SUPPORT)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SUPPORT / "stamp_cases.py"), what]
    half = -(-count // 2)
    children = [
        subprocess.Popen(
            [*command, str(min(half, count - first)), str(workspace.seed * 100_000 + first)],
            env=environment,
            cwd=workspace.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in range(0, count, half)
    ]
    wrong: list[str] = []
    for child in children:
        out, error = child.communicate()
        wrong += json.loads(out) if child.returncode == 0 else [f"exit {child.returncode}: {error[-300:]}"]
    return tuple(wrong)


def lives(workspace: Workspace) -> list[Row]:
    """Let programs of equal graphs be copied, transformed, lowered, saved and loaded in three ledgers at once."""
    count = workspace.amount(40, 1)
    wrong = _with_torch(workspace, "lives", count)
    goal = "each stamp has exactly the exports that its program went through, and no text of another ledger"
    return [Row("12 programs of equal graphs made of each other in random ways, in three ledgers", count, goal, wrong)]


def failing(workspace: Workspace) -> list[Row]:
    """Let decompositions raise odd exceptions while the ledger is closed, full, locked, read-only or removed."""
    count = workspace.amount(300, 4)
    wrong = _with_torch(workspace, "exceptions", count)
    goal = "the exception arrives that arrives without a recording, with its frames; a writable ledger records it"
    return [Row("decompositions that raise odd exceptions, with ledgers in six states", count, goal, wrong)]


BLOCKS: dict[str, Callable[[Path], AbstractContextManager[object]]] = {
    "record()": lambda path: record(path, name="job"),
    "Ledger": Ledger,
    "because()": lambda path: Ledger(":memory:").because("why"),
}


def blocks(workspace: Workspace) -> list[Row]:
    """Raise odd exceptions in blocks whose end fails, with warnings shown and as errors."""
    wrong, runs = list[str](), workspace.amount(2000, 60)

    def fail(*args: object) -> None:
        raise LedgerError("the ledger cannot be closed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "close", fail)
        for number, (name, strict) in itertools.product(range(runs // 6), itertools.product(BLOCKS, (False, True))):
            error = odd_exception(random.Random(workspace.seed * 100_000 + number))
            with warnings.catch_warnings():
                warnings.simplefilter("error" if strict else "ignore", RecordingWarning)
                found = _raised_in(BLOCKS[name](workspace.folder / f"{number}.db"), error)
            if found is not error or "exploding" not in frames(error):
                wrong.append(f"[{number}] {name}: {type.__repr__(type(error))} is lost")
    goal = "the program's own exception passes on with its frames"
    return [Row("odd exceptions in a block of ours that cannot be left", runs // 6 * 6, goal, tuple(wrong))]


def _raised_in(block: AbstractContextManager[object], error: BaseException) -> BaseException | None:
    def exploding() -> None:
        raise error

    try:
        with block:
            exploding()
    except BaseException as caught:
        return caught
    return None


def redacted(workspace: Workspace) -> list[Row]:
    """Make minimal stamps of random private facts, and change each value of them."""
    rng, hidden, unseen = random.Random(workspace.seed), list[str](), list[str]()
    stamps, edits = workspace.amount(200, 5), 0
    for number in range(stamps):
        facts = [f"private{''.join(rng.choices('abc é/@:', k=12))}{rng.random()}" for _ in range(5)]
        path = workspace.folder / f"{number}.db"
        export = private_export(path, *facts)
        with Ledger(path, read_only=True) as ledger:
            text = Stamp((ledger.bundle(export).redact(),), "a", "git").to_text()
            file = write_stamp(path.with_suffix(".pt2"), text)
            if "private" in text or not ledger.verify(against=[file]).ok:
                hidden.append(f"[{number}] {text[max(text.find('private'), 0) :][:80]}")
            every = list(forged(text))
            for what, changed in rng.sample(every, min(len(every), workspace.amount(25, 10))):
                edits += 1
                if _is_taken(ledger, write_stamp(file, changed)):
                    unseen.append(f"[{number}] {what}")
    return [
        Row("minimal stamps of random private facts", stamps, "none of them is in the file", tuple(hidden)),
        Row("values of a minimal stamp changed, digests made again", edits, "`verify --against` shows", tuple(unseen)),
    ]


def _is_taken(ledger: Ledger, file: Path) -> bool:
    try:
        return ledger.verify(against=[file]).ok
    except LedgerError:
        return False


FAULTS = (redacted, blocks, failing, lives)
