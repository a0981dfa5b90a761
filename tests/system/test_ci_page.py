"""The snippets of docs/ci.md: each command of the workflow runs, and pre-commit runs the hooks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_ledgers import sample_ledger

import decomp_ledger as dl

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
WORKFLOW, HOOKS = (yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))

(POLICY,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a ledger, and a `decomp-ledger` that is this checkout's."""
    sample_ledger(tmp_path / "decomp_ledger.db")
    with dl.Ledger(tmp_path / "decomp_ledger.db", actor="Ada") as ledger:
        ledger.create_table("other").preserve(["aten::mm"])  # without a reason
    (tmp_path / "pyproject.toml").write_text(POLICY, encoding="utf-8")
    program = tmp_path / "bin" / "decomp-ledger"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m decomp_ledger "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return tmp_path


def run(command: list[str], project: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}", **more
    }  # fmt: skip
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_the_workflow_writes_a_summary_and_a_report(project: Path) -> None:
    summary = project / "summary.md"
    steps: list[dict[str, Any]] = WORKFLOW["jobs"]["table"]["steps"]
    commands = [step["run"] for step in steps if "decomp-ledger " in step.get("run", "")]
    status = [
        run(["bash", "-e", "-c", each], project, GITHUB_STEP_SUMMARY=str(summary)).returncode for each in commands
    ]
    assert status == [0, 1]  # the sample breaks the policy, and the next torch changes an op of its exports
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("### Difference: `edge@4` to `edge@4`") and "\n### Gate: `edge@4, other@2`" in text
    assert all(
        f"<code>{name}</code>: " in text for name in ("torch", "no&#95;failed&#95;exports", "require&#95;reason")
    )
    assert (project / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("changed", [False, True])
def test_pre_commit_runs_the_hooks(project: Path, changed: bool) -> None:
    program = shutil.which("pre-commit", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("needs pre-commit: pip install -e .[dev]")
    if changed:
        with dl.Ledger(project / "decomp_ledger.db") as ledger:
            ledger.table_log("edge").preserve(["aten::mm"])
    (project / ".pre-commit-config.yaml").write_text(yaml.safe_dump(HOOKS), encoding="utf-8")
    for command in (["git", "init", "-q"], ["git", "add", "decomp_ledger.db", ".pre-commit-config.yaml"]):
        assert run(command, project).returncode == 0
    done = run([program, "run", "--all-files"], project, PRE_COMMIT_HOME=str(project / "cache"))
    verdicts = re.findall(r"^(the .*?)\.+(Passed|Failed)$", done.stdout, re.MULTILINE)
    table = "Failed" if changed else "Passed"
    assert verdicts == [("the ledger verifies", "Passed"), ("the table is the released one", table)]
    assert done.returncode == int(changed)


def test_each_command_of_the_table_is_one(project: Path) -> None:
    commands = re.findall(r"^\|.*\| `decomp-ledger (.*?)` \|$", PAGE, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        if "numerics" not in command:  # which needs a module of the user's
            done = run(["decomp-ledger", *command.split()], project)
            assert done.returncode in (0, 1) and done.stdout.startswith("### "), command
