"""`catalog capture` with samples and imports: files that drift compares, and one line for what is wrong."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = """
import torch

library = torch.library.Library("fused", "DEF")
library.define("silu_mul(Tensor x, Tensor y) -> Tensor")
library.impl("silu_mul", lambda x, y: {body}, "CompositeImplicitAutograd")
"""
SAMPLES = {"format": 1, "samples": {"fused::silu_mul": ["(f32[2, 3], f32[3])"], "aten::mm": ["(f32[2, 2], f32[2, 2])"]}}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command in the folder of the test."""

    def command(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "decomp_ledger", *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done

    return command


def test_two_versions_of_a_library_are_captured_and_compared(run: Run, tmp_path: Path) -> None:
    (tmp_path / "samples.json").write_text(json.dumps(SAMPLES), encoding="utf-8")
    capture = ("catalog", "capture", "--no-traces", "--samples", "samples.json", "--import", "fused_ops", "-o")
    for name, body in (("old", "x * torch.sigmoid(x) * y"), ("new", "torch.nn.functional.silu(x) * y")):
        (tmp_path / "fused_ops.py").write_text(LIBRARY.replace("{body}", body), encoding="utf-8")
        done = run(*capture, f"{name}.json")
        assert done.stdout.endswith(f"compare it as catalog:{name}.json\n")
        # No progress, because standard error is not a terminal.
        assert done.stderr == "aten::mm: not traced, because the default table does not decompose it\n"
    shown = run("drift", "catalog:old.json", "catalog:new.json", status=1).stdout
    assert shown.splitlines()[1:] == [
        "behaves differently: 1",
        "",
        "behaves differently: 1 op",
        "  fused::silu_mul: for (f32[2, 3], f32[3])",
        "      %0 = sigmoid(x0): f32[2, 3]        | %0 = silu(x0): f32[2, 3]",
        "      %1 = mul.Tensor(x0, %0): f32[2, 3] |",
        "      %2 = mul.Tensor(%1, x1): f32[2, 3]   %1 = mul.Tensor(%0, x1): f32[2, 3]",
    ]
    assert "no drift" in run("drift", "catalog:old.json", "catalog:old.json").stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "samples.json: not JSON"),
        (
            '{"format": 1, "samples": {"fused::f": ["(open)"]}}',
            "samples.json: fused::f: sample call: open: not a",
        ),
        ('{"format": 1, "samples": {"\\u001b[2J": []}}', "samples.json: '\\x1b[2J': it is not the name of an op"),
        ('{"format": 1, "samples": {"fused::none": ["()"]}}', "fused::none: torch "),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_and_status_2(run: Run, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "samples.json").write_text(text, encoding="utf-8")
    done = run("catalog", "capture", "--no-traces", "--samples", "samples.json", status=2)
    assert done.stdout == ""
    assert done.stderr.startswith(f"decomp-ledger: {message}")
    assert len(done.stderr.splitlines()) == 1


def test_a_module_that_cannot_be_imported_is_one_line_and_status_2(run: Run) -> None:
    done = run("catalog", "capture", "--no-traces", "--import", "no_such_module", status=2)
    assert done.stderr.startswith("decomp-ledger: module no_such_module: it cannot be imported: ModuleNotFoundError")
    assert len(done.stderr.splitlines()) == 1


def test_progress_has_counts_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    code = (
        "from decomp_ledger.cli.output import progress\n"
        "with progress('trace') as report: report(1, 873); report(873, 873)"
    )
    subprocess.run(
        [sys.executable, "-c", code], stderr=theirs, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "873/873" in shown
