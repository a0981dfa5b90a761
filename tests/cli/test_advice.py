"""The next step that an error names: every command with wrong files and names, and what it then advises."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_leaves import leaves
from strategies import catalog_of, new_table

from decomp_ledger import Hub, Ledger, LedgerError
from decomp_ledger.cli import cli
from decomp_ledger.cli.completion import commands_of

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
COMMAND = re.compile(r"`decomp-ledger ([^`]*)`|with: decomp-ledger (.*)$")
# The first two run a program, and the others import torch.
OMITTED = {"run", "imports", "check numerics", "reproduce", "would-change", "catalog capture"}
WORDS = (
    "none.db", "none.pt2", "text.pt2", "hub.db", "newer.db", "dump.jsonl", "empty.db", "edge@99", "export:99",
    "torch:9", "nosuch", ".", "postgresql:///x?host=/nowhere",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger, and with a file of each kind that is not a ledger."""
    folder = tmp_path_factory.mktemp("advice")
    with Ledger(folder / "decomp_ledger.db", actor="Ada") as ledger:
        edge = new_table(ledger)
        edge.preserve(["aten::mm"], reason="fast")
        edge.materialize(catalog_of("aten::mm"))
        ledger.dump(folder / "dump.jsonl")
        ledger.backup(folder / "newer.db")
    with sqlite3.connect(folder / "newer.db") as newer:
        newer.execute("INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('decomp_ledger', '9999_later')")
    newer.close()
    Hub(str(folder / "hub.db")).init()
    (folder / "empty.db").touch()
    (folder / "text.pt2").write_text("text", encoding="utf-8")
    return folder


LEAVES = {name: command for name, command in leaves(cli) if name not in OMITTED}


def wrong_uses(name: str, command: click.Command) -> Iterator[list[str]]:
    """Give each word in the place of each argument and option of a command, and as its ledger."""
    options = [each for each in command.params if isinstance(each, click.Option)]
    required = [option.opts[0] for option in options if option.required]
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    for word in WORDS:
        given = [word for each in arguments if each.required]
        needed = [text for option in required for text in (option, word)]
        yield ["--ledger", word, *name.split(), *given, *needed]
        yield [*name.split(), *[word for _ in arguments], *needed]
        for option in options:
            if not option.is_flag and not option.required:
                yield [*name.split(), *given, option.opts[0], word, *needed]


def wrong_advice(message: str, command: click.Command, ledger: Path) -> Iterator[str]:
    """Give what a message advises that cannot be done."""
    for found in COMMAND.finditer(message):
        words = shlex.split(found[1] or found[2])
        target: click.Command = cli
        while words and isinstance(target, click.Group):
            below = {each.name: each for each in commands_of(target)}
            if words[0] not in below:
                break
            target = below[words.pop(0)]
        if isinstance(target, click.Group):
            yield f"there is no command {found[0]}"
        yield from (f"{found[0]} has no {each}" for each in OPTION.findall(found[0]) if each not in options_of(target))
    for each in OPTION.findall(COMMAND.sub("", message)):
        if each not in options_of(command) and not (each == "--ledger" and message.startswith(str(ledger))):
            yield f"it has no {each} for that"


def options_of(command: click.Command) -> set[str]:
    return {text for each in command.params for text in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize("name", LEAVES)
def test_each_error_advises_what_the_command_can_do(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DECOMP_LEDGER_HUB", raising=False)
    command, errors = LEAVES[name], 0
    for number, arguments in enumerate(wrong_uses(name, command)):
        here = tmp_path / str(number)
        shutil.copytree(folder, here)
        monkeypatch.chdir(here)
        if name == "browse" and "--ledger" not in arguments:  # with a right ledger it serves until Ctrl-C
            arguments = ["--ledger", "none.db", *arguments]
        done = CliRunner().invoke(cli, arguments, standalone_mode=False)
        if not isinstance(done.exception, LedgerError):
            assert done.exception is None or isinstance(done.exception, click.ClickException), arguments
            continue
        errors += 1
        ledger = arguments[1] if arguments[0] == "--ledger" else "decomp_ledger.db"
        message = str(done.exception)
        assert [*wrong_advice(message, command, here / ledger)] == [], (arguments, message)
        assert "; " in message, (arguments, message)
        shutil.rmtree(here)
    assert errors or not any(isinstance(each, click.Argument) for each in command.params)


@pytest.mark.parametrize("command", ["log", "log --hub hub.db", "exports --hub hub.db", "blame aten::mm --hub hub.db"])
def test_a_limit_of_nothing_is_refused(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(cli, [*command.split(), "-n", "0"])
    assert done.exit_code == 2 and "0: nothing would be shown; give 1 or more" in done.output


def test_a_fetch_without_a_ledger_advises_a_clone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(cli, ["--ledger", "none.db", "fetch", "hub.db", "--json"], standalone_mode=False)
    assert str(done.exception) == (
        f"{folder / 'none.db'}: the ledger does not exist; make it with `decomp-ledger clone`"
    )


def test_only_the_ledger_of_the_command_line_is_named_by_its_option(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for arguments, fix in (
        (["--ledger", "none.db", "tables"], "name one with --ledger, or record something first"),
        (["browse", "none.db"], "name another file, or record something first"),
    ):
        done = CliRunner().invoke(cli, arguments, standalone_mode=False)
        assert str(done.exception) == f"{folder / 'none.db'}: the ledger does not exist; {fix}"
    done = CliRunner().invoke(cli, ["collect", "none.db", "newer.db", "-o", "new-hub.db", "--json"])
    missing, newer = json.loads(done.output)
    assert missing["problem"].endswith("the ledger does not exist; name another file, or record something first")
    assert newer["problem"].startswith(f"{folder / 'newer.db'}: the schema '9999_later' is unknown: a newer")
