"""How `run` and `record()` name recordings, tables and runs, in one process and in several."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from decomp_ledger import Ledger, record
from decomp_ledger.pytorch.recording_name import default_name
from decomp_ledger.pytorch.run_number import RunNumber

WORK = """
def work(op="silu"):
    import torch
    table = torch.export.default_decompositions()
    table.pop(getattr(torch.ops.aten, op).default)
"""
# Its children write before it does.
FAMILY = """
import os, subprocess, sys
from work import work

subprocess.run([sys.executable, "-c", "from work import work; work()"], check=True)
import torch
if os.fork() == 0:
    work()
    os._exit(0)
os.wait()
work()
"""
FORKED = """
import os, torch
from decomp_ledger import record
from work import work

for _ in range(2):
    with record(name="job") as recording:
        if os.fork() == 0:
            work()
            os._exit(0)
        os.wait()
        work()
        print(recording.run)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


def python(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output + errors


def names(folder: Path) -> list[str]:
    with Ledger(folder / "decomp_ledger.db", read_only=True) as ledger:
        assert ledger.verify().ok
        return [info.name for info in ledger.tables()]


def family(number: int) -> Iterator[str]:
    yield from (f"main/{maker}/{number}" for maker in ("work", "work-2", "work-3"))


def test_all_processes_of_a_run_have_its_number(folder: Path) -> None:
    (folder / "main.py").write_text(FAMILY)
    for _ in range(2):
        errors = finished(python(folder, "-m", "decomp_ledger", "run", "main.py"))
        assert "0 exports, 3 tables, 3 processes ->" in errors
    assert names(folder) == [*family(1), *family(2)]


def test_forked_children_have_the_number_of_their_run_although_one_of_them_writes_first(folder: Path) -> None:
    (folder / "main.py").write_text(FORKED)
    assert finished(python(folder, "main.py")).split() == ["1", "2"]
    assert names(folder) == [f"job/{maker}/{run}" for run in (1, 2) for maker in ("work", "work-2")]


def test_runs_at_the_same_time_have_different_numbers(folder: Path) -> None:
    (folder / "main.py").write_text("from work import work\nwork()\nwork('linear')\n")
    started = [python(folder, "-m", "decomp_ledger", "run", "main.py") for _ in range(3)]
    for errors in map(finished, started):
        assert "0 exports, 2 tables ->" in errors
    assert sorted(names(folder)) == sorted(f"main/{maker}/{run}" for run in (1, 2, 3) for maker in ("work", "work-2"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["deep/export.model.py"], "export.model"),
        (["-m", "deep.export"], "deep.export"),
        (["-m", "deep"], "deep"),
        (["deep"], "deep"),
        (["-c", "import decomp_ledger as dl; print(dl.record().name)"], "python"),
    ],
)
def test_a_recording_is_named_by_the_program(arguments: list[str], expected: str, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "__init__.py").write_text("")
    for name in ("__main__.py", "export.py", "export.model.py"):
        (deep / name).write_text("import decomp_ledger as dl; print(dl.record().name)")
    assert finished(python(tmp_path, *arguments)).split() == [expected]


def test_run_gives_the_same_name_as_the_program_would(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("import decomp_ledger as dl; print(dl.record().name)")
    for arguments in (["one.py"], ["-m", "one"]):
        errors = finished(python(tmp_path, "-m", "decomp_ledger", "run", "--quiet", *arguments))
        assert errors.split() == [finished(python(tmp_path, *arguments)).strip()] == ["one"]


@pytest.mark.parametrize(
    ("script", "expected"),
    [("", "python"), ("-c", "python"), ("a:b@c.py", "a_b_c"), ("x.pt2.py", "x"), ("#5.py", "_5"), ("a~1.py", "a_1")],
)
def test_any_script_gives_a_name_that_tables_can_have(
    script: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert default_name() == expected


def test_children_find_the_number_in_the_notes(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.write_text('["torch", ""]\n["run", "x"]\nbroken\n["run"]\n')
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.create_table("job/f/4")
        first, second, other = (RunNumber("job", str(each)) for each in (notes, notes, tmp_path / "none"))
        assert (first.known(), second.known()) == (None, None)
        with ledger.database.write_transaction():
            assert first.take(ledger) == 5
        assert (second.known(), other.known()) == (5, None)
        with ledger.database.write_transaction():
            assert (second.take(ledger), other.take(ledger)) == (5, 5)  # no table of run 5 was made


def test_a_run_that_recorded_nothing_names_each_reason(folder: Path) -> None:
    lost = "import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', ''], check=True)\n"
    for program, why in (
        (lost, "torch was not imported in what was followed, and one child could not be followed"),
        (f"import torch\n{lost}", "no table was made and nothing was exported in what was followed, and one child"),
    ):
        (folder / "main.py").write_text(program)
        errors = finished(python(folder, "-m", "decomp_ledger", "run", "main.py"))
        assert errors.startswith(f"decomp-ledger: nothing was recorded: {why}")


def test_the_logger_tells_when_a_recording_begins_and_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="decomp_ledger")
    with Ledger(tmp_path / "l.db") as ledger:
        with record(ledger, name="job"):
            pass
        assert [entry.getMessage() for entry in caplog.records] == [
            f"recording job: it began, into {ledger.path}",
            "recording job: it ended; run without a table",
        ]


def test_diff_tells_what_a_run_changed_since_the_last_one(folder: Path) -> None:
    def run_and_compare() -> tuple[int, list[str]]:
        finished(python(folder, "-m", "decomp_ledger", "run", "main.py"))
        compared = python(folder, "-m", "decomp_ledger", "diff", "main/backend_table~1")
        output, _ = compared.communicate(timeout=300)
        return compared.returncode, [" ".join(line.split()) for line in output.splitlines()]

    script = (
        "import torch\ndef backend_table():\n    table = torch.export.default_decompositions()\n"
        "    table.pop(torch.ops.aten.linear.default)\n    return table\nbackend_table()\n"
    )
    (folder / "main.py").write_text(script)
    assert run_and_compare()[0] == 2  # there is no earlier run
    assert run_and_compare() == (0, ["nothing changed: base torch, 1 rule; the same environment"])
    (folder / "main.py").write_text(
        script.replace("linear.default)", "linear.default)\n    del table[torch.ops.aten.silu.default]")
    )
    status, (head, _, *lines) = run_and_compare()
    assert (status, lines) == (1, ["aten::silu (no rule) preserve"]), head
