"""The short form of each fault of `scripts/torture`."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from strategies import public_folder, without_torch  # noqa: F401
from torture.__main__ import GROUPS
from torture.common import Row, Workspace, processor_seconds, try_all

ROOT = Path(__file__).parents[2]
FAULTS = [(name, fault) for name, faults in GROUPS.items() for fault in faults]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}-{fault.__name__}" for name, fault in FAULTS])
def test_a_ledger_survives(name: str, fault: Callable[[Workspace], list[Row]]) -> None:
    with public_folder() as folder:  # some faults run as other users
        rows = fault(Workspace(folder, seed=1, full=False))
    assert [(row.fault, row.wrong) for row in rows if row.wrong] == []
    assert all(row.runs or row.note.startswith("NOT TRIED") for row in rows)


def test_failures_are_counted_while_other_runs_go_on() -> None:
    def attempt(number: int) -> str:
        if number == 2:
            os.kill(os.getpid(), 9)
        if number == 4:
            raise ValueError("no")
        while number == 5:
            pass
        if number == 6 and processor_seconds(os.getpid()) is not None:
            time.sleep(1.5)  # as long as on a machine with other work, and no hang
        return "wrong" if number == 7 else ""

    wrong = try_all(9, attempt, patience=1)
    assert [text.partition(" ")[0] for text in wrong] == ["[2]", "[4]", "[5]", "[7]"]
    assert wrong[0] == "[2] killed its process: SIGKILL"
    assert wrong[1].startswith("[4] ValueError in test_torture.py:") and wrong[1].endswith(": no")
    assert wrong[2].startswith("[5] hangs for ") and wrong[3:] == ("[7] wrong",)


def test_the_command_prints_a_table_and_exits_with_its_result() -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "torture", "--short", "keeping"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["| fault | runs | goal | result |", "|---|---|---|---|"]
    assert len(lines) == 2 + len(GROUPS["keeping"])
    # A ledger whose backups do nothing is reported.
    broken = "from decomp_ledger.ledger import Ledger; Ledger.backup = lambda *_, **__: None; "
    code = f"{broken}from torture.__main__ import main; main(['--short', '--json', 'keeping'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert json.loads(done.stdout)[0]["wrong"]
