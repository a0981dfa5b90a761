"""A stranger's working tree and a stranger's references: nothing that they name runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hostile_trees import HOSTILE, ran_in

from torture.common import Row, Workspace, try_all

# In a process of its own, because only it may import torch. Every reference of one, two or three names.
_REFERENCES = """
import json, sys
from test_strangers import ran_by_references
print(json.dumps(ran_by_references(int(sys.argv[1]))))
"""


def of_a_working_tree(workspace: Workspace) -> list[Row]:
    """Ask git about working trees whose settings name programs."""
    trees = list(HOSTILE) if workspace.full else list(HOSTILE)[::8]

    def attempt(number: int) -> str:
        folder = workspace.folder / str(number)
        folder.mkdir()
        wrong, _ = ran_in(folder, HOSTILE[trees[number]])
        return f"{trees[number]}: {wrong}" if wrong else ""

    goal = "no program of the tree runs, and a changed tree is dirty or unknown"
    return [Row("git settings of a stranger that name programs", len(trees), goal, try_all(len(trees), attempt, 60))]


def by_reference(workspace: Workspace) -> list[Row]:
    """Load references into imported modules full of traps."""
    tests = Path(__file__).parents[2]
    paths = os.pathsep.join(map(str, (tests.parent, tests / "support", tests / "torch")))
    goal = "no code of a module runs, and none is used"
    done = subprocess.run(
        [sys.executable, "-c", _REFERENCES, str(workspace.amount(3, 1))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        return [Row("references to imported modules full of traps", 0, goal, (*last,), "NOT TRIED")]
    tried, wrong = json.loads(done.stdout)
    return [Row("references to imported modules full of traps", tried, goal, tuple(wrong))]


FAULTS = (of_a_working_tree, by_reference)
