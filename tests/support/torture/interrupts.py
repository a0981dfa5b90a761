"""Exceptions at traced points of the package, and real signals, in processes of their own that import torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torture.common import Row, Workspace

SUPPORT = Path(__file__).parents[1]
# Those of `interrupting.OPERATIONS`, which cannot be imported here because it imports torch.
OPERATIONS = (
    *("pop", "del", "set", "set a closure", "update", "preserve", "reset", "revert", "tag", "because", "copy", "fork"),
    *("materialize", "export", "record", "os.fork", "read", "dump"),
)


def run(workspace: Workspace, names: tuple[str, ...], count: int, how: str) -> tuple[int, int, list[str]]:
    """Interrupt operations, each in a process of its own; return the points, the runs, and what was wrong."""
    paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}

    def one(name: str) -> tuple[int, int, list[str]]:
        command = [sys.executable, "-m", "interrupting", name, str(workspace.seed), str(count), how]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            return 0, 0, [f"{name}: exit {done.returncode}: {done.stderr[-300:]}"]
        points, runs, wrong = json.loads(done.stdout)
        return points, runs, wrong

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(one, names))
    return sum(each[0] for each in found), sum(each[1] for each in found), [text for each in found for text in each[2]]


GOAL = "no event and the old state, or the event and the new one; view, locks and later writes as with a new process"


def traced(workspace: Workspace) -> list[Row]:
    """Raise an exception at points of every operation: before a line, an instruction, at a call, at a return."""
    names = OPERATIONS if workspace.full else ("pop", "materialize")
    points, runs, wrong = run(workspace, names, workspace.amount(1300, 15), "trace")
    note = f"{len(names)} operations of {points:,} points"
    return [Row("exceptions at traced points of an operation", runs, GOAL, tuple(wrong), note)]


def signalled(workspace: Workspace) -> list[Row]:
    """Send a signal, whose handler raises KeyboardInterrupt, at random times during an operation."""
    names = OPERATIONS if workspace.full else ("update",)
    _, runs, wrong = run(workspace, names, workspace.amount(500, 20), "signals")
    return [Row("KeyboardInterrupt by a signal at a random time", runs, GOAL, tuple(wrong))]


FAULTS = (traced, signalled)
