"""`scripts/bench` measures, prints a table, and exits with 1 when a goal is missed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "scripts" / "benchmarks"
# Replaces a function of measure.py before the rows import it.
CHANGED = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
import measure
measure.wall_median = lambda call, rounds: [call() for _ in range(rounds + 1)] and {taken}
sys.argv = ["bench", "--quick", "append"]
runpy.run_path("{folder}", run_name="__main__")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(("taken", "status", "shown"), [(0.0003, 0, "reached"), (0.0005, 1, "MISSED")])
def test_a_missed_goal_is_an_error(taken: float, status: int, shown: str) -> None:
    done = run("-c", CHANGED.format(taken=taken, folder=BENCHMARKS), str(BENCHMARKS))
    assert done.returncode == status, done.stderr
    head, _, row, _, summary, *missed = done.stdout.splitlines()
    assert head == "| what | goal | measured |  |"
    assert row.startswith("| append one event, ") and row.endswith(f" | {taken * 1e6:.0f} us | {shown} |")
    assert (summary, len(missed)) == (f"{status} of 1 goals missed", status)


def test_the_rows_about_a_large_ledger_run() -> None:
    code = f"""
import sys
sys.path[:0] = [{str(BENCHMARKS)!r}]
import pathlib, tempfile
import big_ledger, measure
class Small(measure.Settings):
    sizes = 2_000, 4_000
    def rounds(self, full): return 1
with tempfile.TemporaryDirectory() as folder:
    for result in big_ledger.large(Small(), pathlib.Path(folder)):
        print(result.what)
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8


def test_an_unknown_row_is_refused() -> None:
    done = run(str(BENCHMARKS), "nope")
    assert (done.returncode, "nope: no such row" in done.stderr) == (2, True)
