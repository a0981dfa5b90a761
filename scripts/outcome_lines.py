"""A plugin of pytest for scripts/torch-tests: writes what became of each test into the file $OUTCOME_LINES.

It writes a line as each phase of a test ends, so that a crash keeps what came before it. Tests that the file has are
not run again. $OUTCOME_PART is the part of the tests that are to run, "2/8" for every eighth from the second.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FILE = Path(os.environ["OUTCOME_LINES"])


def write(line: dict[str, Any]) -> None:
    with FILE.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def outcomes_in(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file; a crash may have cut the last one."""
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(text)
            except ValueError:
                continue


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    done = {line.get("test") for line in outcomes_in(FILE)}
    first, step = map(int, os.environ.get("OUTCOME_PART", "1/1").split("/"))
    left = [item for item in items[first - 1 :: step] if item.nodeid not in done]
    config.hook.pytest_deselected(items=[item for item in items if item not in left])
    items[:] = left


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        write({"test": report.nodeid, "phase": "collect", "outcome": "failed", "error": error_of(report)})


def pytest_runtest_logstart(nodeid: str) -> None:
    write({"test": nodeid, "phase": "start"})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcome = "expected failure" if report.skipped and hasattr(report, "wasxfail") else report.outcome
    write({"test": report.nodeid, "phase": report.when, "outcome": outcome, "error": error_of(report)})


def pytest_warning_recorded(warning_message: warnings.WarningMessage, when: str, nodeid: str) -> None:
    if when == "runtest":
        where = os.path.basename(warning_message.filename)  # noqa: PTH119  # also of code that no file has
        text = f"{warning_message.category.__name__}, in {where}: {warning_message.message}"
        write({"test": nodeid, "phase": "warning", "warning": text})


def pytest_sessionfinish(exitstatus: int) -> None:
    if exitstatus not in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
        write({"finished": True})


def error_of(report: Any) -> str:
    """Return the line that a failure says first: the class of the error and its message."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return "" if not report.failed else str(crash.message if crash else report.longrepr)
