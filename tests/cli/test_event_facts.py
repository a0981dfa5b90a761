"""What the command line tells of an event: each fact of its environment, and the command that made it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from decomp_ledger import Ledger
from decomp_ledger.cli import cli
from decomp_ledger.log import provenance

# One fact of each kind of value, and those that a machine has.
FACTS: dict[str, Any] = {
    "python": "3.99.1", "platform": "Plan9 mips", "host": "a-host", "git_commit": "c0ffee" * 6 + "abcd",
    "git_dirty": True, "ci_run": "https://ci.example.org/runs/17", "libraries": ["lib-one 1.2", "lib-two 3.4"],
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A ledger of two events that were made in the environment `FACTS`."""
    monkeypatch.setattr(provenance, "_machine", lambda *_: FACTS)
    monkeypatch.setattr(provenance, "_environments", {})
    monkeypatch.setattr(provenance, "torch_facts", None)
    with Ledger(tmp_path / "l.db", actor="Ada") as ledger:
        ledger.create_table("edge").preserve(["aten::linear"])
    yield tmp_path / "l.db"
    provenance._environments.clear()


def shown(fact: str) -> list[str]:
    """Return the texts that show a fact; of a bool its name, because pages say yes or no."""
    value = FACTS[fact]
    return [*value] if isinstance(value, list) else [fact.replace("_", " ") if value is True else value]


@pytest.mark.parametrize("fact", FACTS)
@pytest.mark.parametrize("command", ["show #2", "show #2 --markdown", "log --verbose", "show #2 --json", "log --json"])
def test_each_fact_of_the_environment_is_shown(command: str, fact: str, path: Path) -> None:
    done = CliRunner().invoke(cli, ["--ledger", str(path), *command.split()], standalone_mode=False)
    assert done.exception is None, done.output
    if command.endswith("--json"):
        found = json.loads(done.output)
        for each in found if isinstance(found, list) else [found]:
            assert each["environment_facts"][fact] == FACTS[fact]
    else:
        text = done.output.replace("\\", "").replace("_", " ")
        assert [each for each in shown(fact) if each.replace("_", " ") not in text] == []


def preserve_within(depth: int, ledger: Ledger) -> None:
    """Change a table within some calls of functions."""
    if depth:
        preserve_within(depth - 1, ledger)
    else:
        ledger.table_log("edge").preserve(["aten::mm"])


@pytest.mark.parametrize("depth", [0, 1, 3, 20])
@pytest.mark.parametrize("command", ["show #3", "show #3 --markdown", "log --verbose -1", "log -1 --json"])
def test_the_lines_that_led_to_an_event_are_shown(command: str, depth: int, path: Path) -> None:
    with Ledger(path, actor="Ada") as ledger:
        preserve_within(depth, ledger)
        (event,) = ledger.events(desc=True, limit=1)
    assert event.call_site is not None
    frames = event.call_site.frames
    assert len([each for each in frames if each.function == "preserve_within"]) == min(depth + 1, len(frames))
    assert len(frames) > min(depth, 4)
    done = CliRunner().invoke(cli, ["--ledger", str(path), *command.split()], standalone_mode=False)
    assert done.exception is None, done.output
    if command.endswith("--json"):
        assert json.loads(done.output)[0]["call_site"] == event.call_site.to_json()
    else:
        assert [str(each) for each in frames if str(each) not in done.output.replace("\\", "")] == []


CHANGES = {"tag": "tag edge@1 start --reason 'the first'", "revert": "revert edge --to 1"}


def test_each_command_that_appends_an_event_is_tried() -> None:
    commands = {name: cli.get_command(click.Context(cli), name) for name in cli.list_commands(click.Context(cli))}
    named = {name for name, each in commands.items() if each and any(p.name == "actor" for p in each.params)}
    # `run` records what its program does, and `log` searches.
    assert named - {"run", "log"} == CHANGES.keys()


@pytest.mark.parametrize("start", [["-m", "decomp_ledger"], ["{}/decomp-ledger"]], ids=["module", "program"])
@pytest.mark.parametrize("command", CHANGES)
def test_the_call_site_of_what_a_command_did_is_the_command_line(command: str, start: list[str], path: Path) -> None:
    program = [each.format(Path(sys.executable).parent) for each in start]
    words = [word.strip("'") for word in CHANGES[command].replace("'the first'", "'first'").split()]
    variables = {**os.environ, "DECOMP_LEDGER": str(path)}
    subprocess.run([sys.executable, *program, *words], check=True, capture_output=True, env=variables)
    with Ledger(path, read_only=True) as ledger:
        event = next(ledger.events(desc=True, limit=1))
    assert event.call_site is not None
    assert (str(event.call_site), event.call_site.callers) == (f"`decomp-ledger {' '.join(words)}`", ())
