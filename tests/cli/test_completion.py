"""What a shell completes."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from decomp_ledger import Hub, Ledger, available_catalogs
from decomp_ledger.catalogs import opsets
from decomp_ledger.cli import cli
from decomp_ledger.cli.completion import commands_of, complete
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.events import Exported


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with two tables, tags, an export, and a changed op of a library."""
    file = tmp_path / "l.db"
    with Ledger(file, actor="Ada") as ledger:
        edge = ledger.create_table("edge")
        edge.preserve(["mylib::fused"])
        edge.tag("release")
        edge.tag("beta", 1)
        catalog = Catalog({"torch": "9.9.9", "git": "abc"}, {})
        snapshot = edge.materialize(catalog)
        edge.exported(Exported(catalog.digest, snapshot.digest, None, None, {}, {}, {}, 0), edge.version)
        ledger.create_table("plain")
    return file


def completed(path: Path, line: str) -> list[str]:
    """Return what bash is offered for the last word of a command line."""
    words = line.split(" ")
    env = {
        **os.environ,
        "DECOMP_LEDGER": str(path),
        "_DECOMP_LEDGER_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "from decomp_ledger.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [item.partition(",")[2] for item in done.stdout.splitlines() if item]


def test_a_state_is_completed(path: Path) -> None:
    torches = [f"torch:{version}" for version in reversed(available_catalogs())]
    assert completed(path, "decomp-ledger show ") == ["edge", "plain", *torches, "export:"]
    assert completed(path, "decomp-ledger show ed") == ["edge"]
    assert completed(path, "decomp-ledger diff edge@1 edge@") == ["edge@beta", "edge@release"]
    assert completed(path, "decomp-ledger blame export:") == ["export:6"]
    assert completed(path, "decomp-ledger drift torch:2.6.0 torch:2.15") == ["torch:2.15.0"]
    assert completed(path, "decomp-ledger log p") == ["plain"]


@pytest.mark.parametrize("command", ["exports", "log", "blame aten::mm", "explain aten::mm", "gate"])
def test_a_ledger_of_a_hub_is_completed(command: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = str(path.with_name("hub.db"))
    Hub(hub).init()
    with Ledger(path) as ledger:
        ledger.push(hub, name="ads/ranker")
    assert completed(path, f"decomp-ledger {command} --hub {hub} --of ") == ["ads/ranker"]
    assert completed(path, f"decomp-ledger {command} --hub {hub} --of speech") == []
    assert completed(path, f"decomp-ledger hub verify {hub} --ledger ad") == ["ads/ranker"]
    assert completed(path, "decomp-ledger clone ") == []
    monkeypatch.setenv("DECOMP_LEDGER_HUB", hub)
    assert completed(path, "decomp-ledger clone ") == ["ads/ranker"]
    assert completed(path, f"decomp-ledger {command} --hub {hub}.missing --of ") == []


def test_a_hub_that_does_not_answer_does_not_hold_up_the_shell() -> None:
    complete(cli)
    (exports,) = (each for each in commands_of(cli) if each.name == "exports")
    (of,) = (each for each in exports.params if each.name == "of")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hub = f"postgresql://ann@127.0.0.1:{silent.getsockname()[1]}/teams"
        context = click.Context(cli, info_name="exports")
        context.params = {"hub": hub}
        start = time.monotonic()
        assert of.type.shell_complete(context, of, "") == []
    assert 1 < time.monotonic() - start < 9  # a command waits for ten seconds


def test_a_series_is_completed_and_then_its_runs(path: Path) -> None:
    with Ledger(path) as ledger:
        for run in (1, 2, 10):
            ledger.create_table(f"job/make/{run}")
    assert completed(path, "decomp-ledger log j") == ["job/make"]
    assert completed(path, "decomp-ledger log job/make/") == ["job/make/10", "job/make/2", "job/make/1"]
    assert completed(path, "decomp-ledger diff job/make~") == ["job/make~1", "job/make~2"]


def test_an_op_a_version_and_an_opset_are_completed(path: Path) -> None:
    assert completed(path, "decomp-ledger explain mylib") == ["mylib::fused"]
    assert completed(path, "decomp-ledger blame edge --op aten::linear_back") == [
        "aten::linear_backward",
        "aten::linear_backward.out",
    ]
    assert completed(path, "decomp-ledger upgrade edge --torch 2.1") == [
        version for version in reversed(available_catalogs()) if version.startswith("2.1")
    ]
    assert completed(path, "decomp-ledger check opset edge --opset ") == list(opsets())


@pytest.mark.parametrize("content", [None, b"not a ledger"])
def test_a_missing_or_broken_ledger_offers_what_is_known_without_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "l.db"
    if content is not None:
        path.write_bytes(content)
    assert completed(path, "decomp-ledger show torch:2.15") == ["torch:2.15.0"]
    assert completed(path, "decomp-ledger log ") == []


def test_every_parameter_that_names_a_state_or_an_op_is_completed() -> None:
    others = {
        "name",
        "reason",
        "actor",
        "author",
        "grep",
        "since",
        "until",
        "gt",
        "limit",
        "trust",
        "script",
        "to",
        "of",
        "program",
        "port",
    }
    files = {
        "file",
        "files",
        "output",
        "page",
        "signers",
        "interpreter",
        "imports",
        "inputs",
        "against",
        "expect",
        "path",
        "key",
        "hub",
        "url",
        "ledger",
        "where",
    }
    missing = []

    def look(command: click.Command) -> None:
        for each in commands_of(command) if isinstance(command, click.Group) else ():
            look(each)
        for parameter in command.params:
            is_text = isinstance(parameter.type, type(click.STRING))
            if is_text and parameter.name not in others | files | {"expected_version"}:
                missing.append((command.name, parameter.name))

    complete(cli)
    look(cli)
    assert missing == []
