"""scripts/torch-matrix: counting test results, and naming missing interpreters. No test makes an environment."""

import importlib.machinery
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "torch-matrix"

TESTS = """
import os
import pytest

def test_good(): pass

def test_bad(): assert False

@pytest.mark.skip
def test_left_out(): pass

@pytest.fixture
def broken(): raise ValueError

@pytest.mark.parametrize("pair", ["0-1"])
def test_unready(pair, broken): pass

def test_fatal(): os._exit(7)

@pytest.fixture
def leaking():
    yield
    raise KeyError("left")

def test_leak(leaking): pass
"""
OUTCOMES = [
    ("test_good", "passed", ""),
    ("test_bad", "failed", "assert False"),
    ("test_left_out", "skipped", ""),
    ("test_unready[0-1]", "failed", "ValueError"),
    ("test_fatal", "failed", "pytest ended with exit status 7 in this test"),
    ("test_leak", "failed", "KeyError: 'left'"),
]


@pytest.fixture(scope="module")
def matrix() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("torch_matrix", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _rootdir(tmp_path: Path) -> None:
    """Make the folder of the test the one that names of tests are relative to."""
    (tmp_path / "pytest.ini").write_text("[pytest]", encoding="utf-8")


def run(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = {**os.environ, "PATH": str(path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def outcomes(found: Iterable[Any]) -> list[tuple[str, str, str]]:
    """Return outcomes with the name of the test alone."""
    return [(each.test.rpartition("::")[2], each.outcome, each.why) for each in found]


def test_each_outcome_is_named_and_a_test_that_ends_the_process_ends_no_other(
    matrix: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    assert outcomes(matrix.run_tests(sys.executable, str(tmp_path))) == OUTCOMES


def test_the_workers_of_xdist_tell_the_same(matrix: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS.replace("os._exit(7)", "assert False"), encoding="utf-8")
    expected = [("test_fatal", "failed", "assert False") if each[0] == "test_fatal" else each for each in OUTCOMES]
    assert outcomes(matrix.run_tests(sys.executable, "-n", "1", str(tmp_path))) == expected


def test_a_run_goes_on_where_a_killed_one_ended(matrix: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    log = tmp_path / "log.jsonl"
    first = [
        {"test": "test_some.py::test_good", "outcome": "passed", "why": ""},
        {"test": "test_some.py::test_bad", "outcome": "failed", "why": "as it was"},
        {"test": "test_some.py::test_left_out", "outcome": "started", "why": ""},
    ]
    log.write_text("".join(json.dumps(each) + "\n" for each in first) + '{"test": "test_so', encoding="utf-8")
    matrix.keep_good(log)
    assert outcomes(matrix.run_tests(sys.executable, str(tmp_path), log=log)) == OUTCOMES[1:]
    assert outcomes(matrix.read_outcomes(log)) == OUTCOMES
    assert matrix.run_tests(sys.executable, str(tmp_path), log=log) == []


@pytest.mark.parametrize(("test", "fine"), [("test_good", True), ("test_bad", False), ("test_left_out", False)])
def test_the_tests_of_recordings_run_in_the_environment_of_any_version(
    test: str, fine: bool, matrix: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    monkeypatch.setattr(matrix, "RECORDING", (f"{tmp_path}/test_some.py::{test}",))
    monkeypatch.setattr(matrix, "makers", lambda versions, folder: {})
    monkeypatch.setattr(matrix, "prepare", lambda versions, folder: dict.fromkeys(versions, sys.executable))
    assert matrix.test_recording(["2.7.1"], tmp_path, tmp_path / "results") is fine
    output = capsys.readouterr().out
    assert f"| 2.7.1 | {platform.python_version()} |" in output
    assert ("\ntorch 2.7.1: " in output) is not fine


def test_an_interrupted_run_prints_its_table_and_what_did_not_begin(
    matrix: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupting = "def test_long():\n os.kill(os.getppid(), signal.SIGINT)\n time.sleep(600)"
    code = f"import os, signal, time\n\ndef test_good(): pass\n\n{interrupting}\n"
    (tmp_path / "test_some.py").write_text(code, encoding="utf-8")
    (tmp_path / "test_later.py").write_text("def test_good(): pass", encoding="utf-8")
    files = [f"{tmp_path}/test_some.py", f"{tmp_path}/test_later.py"]
    monkeypatch.setattr(matrix, "RECORDING", files)
    monkeypatch.setattr(matrix, "makers", lambda versions, folder: {})
    monkeypatch.setattr(matrix, "prepare", lambda versions, folder: dict.fromkeys(versions, sys.executable))
    assert matrix.test_recording(["2.7.1", "2.8.0"], tmp_path, tmp_path / "results") is False
    output = capsys.readouterr().out
    assert f"| 2.7.1 | {platform.python_version()} | 1      | 0      | 0 " in output
    assert f"torch 2.7.1: interrupted; these did not begin: {files[1]}\n" in output
    assert "2.8.0" not in output


def test_the_tests_of_recordings_are_there(matrix: ModuleType) -> None:
    assert [path for path in matrix.RECORDING if not (SCRIPT.parents[1] / path).is_file()] == []


def test_a_run_that_does_not_start_or_cannot_collect_has_failed(matrix: ModuleType, tmp_path: Path) -> None:
    unusable = ("pytest --no-such-option", "failed", "pytest ended with exit status 4")
    assert matrix.run_tests(sys.executable, "--no-such-option") == [unusable]
    empty, broken = (tmp_path / name for name in ("test_empty.py", "test_broken.py"))
    empty.touch()
    assert outcomes(matrix.run_tests(sys.executable, str(empty))) == [
        (f"pytest {empty}", "failed", "pytest ended with exit status 5")
    ]
    broken.write_text("import no_such_module", encoding="utf-8")
    assert outcomes(matrix.run_tests(sys.executable, str(broken))) == [
        ("test_broken.py", "failed", "not collected: ModuleNotFoundError: No module named 'no_such_module'")
    ]


def test_a_version_that_cannot_be_installed_does_not_end_the_others(
    matrix: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(versions: list[str], folder: Path) -> dict[str, str]:
        if versions == ["2.7.1"]:
            raise subprocess.CalledProcessError(1, ["python", "-m", "pip", "install"])
        return dict.fromkeys(versions, sys.executable)

    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    monkeypatch.setattr(matrix, "RECORDING", (f"{tmp_path}/test_some.py::test_good",))
    monkeypatch.setattr(matrix, "makers", lambda versions, folder: {})
    monkeypatch.setattr(matrix, "prepare", prepare)
    assert matrix.test_recording(["2.7.1", "2.8.0"], tmp_path, tmp_path) is False
    output = capsys.readouterr().out
    assert f"| 2.8.0 | {platform.python_version()} | 1 " in output
    assert "torch 2.7.1: not installed" in output


def test_all_pythons_that_are_missing_are_named(tmp_path: Path) -> None:
    placeholder = tmp_path / "python3.12"
    placeholder.write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    placeholder.chmod(0o755)
    done = run("test", "--venvs", str(tmp_path / "venvs"), "2.6.0", "2.9.1", path=tmp_path)
    assert done.returncode == 2
    assert "python3.10 (for torch 2.6.0), python3.12 (for torch 2.9.1)" in done.stderr
    assert not (tmp_path / "venvs").exists()


def test_a_torch_version_without_a_known_python_is_refused(tmp_path: Path) -> None:
    done = run("test", "2.5.1", path=tmp_path)
    assert done.returncode == 2
    assert "torch 2.5.1 with; choose from 2.6.0" in done.stderr


def test_the_torch_of_an_interpreter_is_not_captured_as_another_version(tmp_path: Path) -> None:
    done = run("capture", "--python", sys.executable, "1.0.0", path=tmp_path)
    assert done.returncode == 2
    assert f"{sys.executable} has torch {torch.__version__.partition('+')[0]}, not 1.0.0" in done.stderr


def test_the_table_is_aligned(matrix: ModuleType) -> None:
    assert matrix.table([["torch", "failed"], ["2.13.0", "0"]]).splitlines() == [
        "| torch  | failed |",
        "| ------ | ------ |",
        "| 2.13.0 | 0      |",
    ]
