"""scripts/torch-matrix: counting test results, and naming missing interpreters. No test makes an environment."""

import importlib.machinery
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "torch-matrix"

TESTS = """
import pytest

def test_good(): pass

def test_bad(): assert False

@pytest.mark.skip
def test_left_out(): pass

@pytest.fixture
def broken(): raise ValueError

@pytest.mark.parametrize("pair", ["0-1"])
def test_unready(pair, broken): pass
"""


@pytest.fixture(scope="module")
def matrix() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("torch_matrix", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def run(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = {**os.environ, "PATH": str(path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_each_outcome_is_counted(matrix: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    assert list(matrix.run_tests(sys.executable, str(tmp_path))) == [
        ("test_good", "passed"),
        ("test_bad", "failed"),
        ("test_left_out", "skipped"),
        ("test_unready[0-1]", "failed"),
    ]


@pytest.mark.parametrize(("test", "fine"), [("test_good", True), ("test_bad", False), ("test_left_out", False)])
def test_the_tests_of_recordings_run_in_the_environment_of_any_version(
    test: str, fine: bool, matrix: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    monkeypatch.setattr(matrix, "RECORDING", (f"{tmp_path}/test_some.py::{test}",))
    monkeypatch.setattr(matrix, "prepare", lambda versions, folder: dict.fromkeys(versions, sys.executable))
    assert matrix.test_recording(["2.7.1"], tmp_path) is fine
    output = capsys.readouterr().out
    assert f"| 2.7.1 | {platform.python_version()} |" in output
    assert ("torch 2.7.1: " in output) is not fine


def test_the_tests_of_recordings_are_there(matrix: ModuleType) -> None:
    assert [path for path in matrix.RECORDING if not (SCRIPT.parents[1] / path).is_file()] == []


def test_a_run_that_does_not_start_or_cannot_collect_has_failed(matrix: ModuleType, tmp_path: Path) -> None:
    assert list(matrix.run_tests(sys.executable, "--no-such-option")) == [("pytest itself (exit status 4)", "failed")]
    (tmp_path / "test_broken.py").write_text("import no_such_module", encoding="utf-8")
    assert [outcome for _, outcome in matrix.run_tests(sys.executable, str(tmp_path))] == ["failed"]


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
