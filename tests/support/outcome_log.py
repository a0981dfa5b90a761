"""A pytest plugin that appends each outcome to a file at once, so that a process that dies loses none.

Each line is a JSON object with the test, its outcome (passed, failed, skipped, or started) and, of a failure, the first
line of its error. Tests that have an outcome in the file already are left out. `scripts/torch-matrix` reads the file.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

LEFT_OUT = pytest.StashKey[bool]()


def read(log: Path, offset: int = 0) -> dict[str, dict[str, str]]:
    """Return the last line of each test, from an offset on. A killed process may leave half a line."""
    found = {}
    for line in log.read_bytes()[offset:].splitlines() if log.exists() else ():
        try:
            outcome = json.loads(line)
        except ValueError:
            continue
        found[outcome["test"]] = outcome
    return found


def append(log: Path, test: str, outcome: str, why: str = "") -> None:
    with log.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps({"test": test, "outcome": outcome, "why": why}) + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcome-log", type=Path, metavar="FILE", help="append the outcome of each test to this file")


def pytest_configure(config: pytest.Config) -> None:
    # A worker of xdist sends its reports to the main process.
    if (log := config.getoption("--outcome-log")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(OutcomeLog(log))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if log := config.getoption("--outcome-log"):
        done = {test for test, each in read(log).items() if each["outcome"] != "started"}
        config.stash[LEFT_OUT] = any(item.nodeid in done for item in items)
        items[:] = [item for item in items if item.nodeid not in done]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.stash.get(LEFT_OUT, False):
        session.exitstatus = pytest.ExitCode.OK


class OutcomeLog:
    def __init__(self, log: Path) -> None:
        self.log = log
        self.decided: dict[str, str] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            append(self.log, report.nodeid, "failed", f"not collected: {first_line(report)}")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        append(self.log, nodeid, "started")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.decided.get(report.nodeid) == "failed" or report.passed:
            return
        self.decided[report.nodeid] = report.outcome
        if report.failed:
            append(self.log, report.nodeid, "failed", first_line(report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if (outcome := self.decided.pop(nodeid, "passed")) != "failed":
            append(self.log, nodeid, outcome)


def first_line(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Return the first line of the error of a report."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message).partition("\n")[0]
    # What pytest could not import, and what xdist says of a worker that ended, is text.
    lines = str(report.longrepr).splitlines()
    errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")]
    return [*lines[:1], *errors][-1]
