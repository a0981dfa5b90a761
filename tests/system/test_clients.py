"""`scripts/clients` runs real lowerings plain and recorded, and compares them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "scripts" / "client_programs"
# Puts a client in the place of the others.
OTHER = """
import runpy, sys
sys.path.insert(0, {programs!r})
import clients
clients.CLIENTS = {{"other": clients.Client("other", {script!r}, {requires!r}, is_quick=True)}}
sys.argv = ["clients", "--quick", "--runs", "1", *sys.argv[1:]]
runpy.run_path({programs!r}, run_name="__main__")
"""
# Looks for the command that runs it.
NOTICES = """
import sys
from pathlib import Path

recorded = "decomp_ledger" in sys.modules
Path(sys.argv[1], "out.txt").write_text(str(recorded))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)


def other(script: Path, *arguments: str, requires: tuple[str, ...] = ("attrs",)) -> subprocess.CompletedProcess[str]:
    return run("-c", OTHER.format(programs=str(PROGRAMS), script=str(script), requires=requires), *arguments)


def cells(table: str) -> list[list[str]]:
    """Return the cells of each row of a Markdown table, without its head."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return rows[2:]


def test_the_quick_clients_write_the_same_when_they_are_recorded() -> None:
    done = run(str(PROGRAMS), "--quick", "--runs", "1", "--no-goal")
    assert done.returncode == 0, done.stderr + done.stdout
    onnx, llama = cells(done.stdout)
    assert (onnx[0], onnx[2], onnx[3].split(",")[0]) == (
        "onnx",
        "model.onnx: the same bytes but for the stamp",
        "1 export",
    )
    assert (llama[0], llama[2], llama[3].split(",")[0]) == ("llama", "program.txt: the same bytes", "1 export")
    assert "0 times" not in llama[3]


def test_a_program_that_writes_something_else_when_it_is_recorded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notices.py").write_text(NOTICES)
    done = other(tmp_path / "notices.py", "--no-goal")
    assert done.returncode == 1, done.stderr
    assert "DIFFERS" in done.stdout
    assert "- other: the recorded program wrote something else" in done.stdout


@pytest.mark.parametrize(
    ("text", "requires", "shown"),
    [
        ("import sys; sys.exit('not on this machine')", ("attrs",), "does not run here: not on this machine"),
        ("", ("no-such-distribution==1.0",), "not installed here: not installed: no-such-distribution"),
    ],
)
def test_a_client_that_cannot_be_had_here_is_listed_with_the_reason(
    text: str, requires: tuple[str, ...], shown: str, tmp_path: Path
) -> None:
    (tmp_path / "client.py").write_text(text)
    done = other(tmp_path / "client.py", requires=requires)
    assert done.returncode == 0, done.stderr
    assert cells(done.stdout)[0][2] == shown


def test_a_recorded_program_that_takes_too_long_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text("import sys; open(sys.argv[1] + '/x', 'w')")
    done = other(tmp_path / "short.py", "--runs", "1")
    assert (done.returncode, "the goal is 1.03x" in done.stdout) == (1, True), done.stdout


def test_an_unknown_client_is_refused() -> None:
    done = run(str(PROGRAMS), "nope")
    assert (done.returncode, "nope: no such client" in done.stderr) == (2, True)
