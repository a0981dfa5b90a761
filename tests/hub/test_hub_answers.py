"""The commands with `--hub`: what they print, their exit status, and what they refuse."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click import ClickException
from click.testing import CliRunner
from hub_ledgers import an_export, random_ledger
from report_ledgers import HOSTILE, hostile_ledger
from strategies import new_table, without_torch  # noqa: F401  # a fixture that this module uses

from decomp_ledger import Hub, Ledger, LedgerError, Policy, report
from decomp_ledger.cli import cli
from decomp_ledger.hub.migrations import init
from decomp_ledger.hub.push import push


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Path]]]:
    """A hub of a folder with three ledgers, and the files of these by their names."""
    folder = tmp_path_factory.mktemp("hub")
    url = str(folder / "hub.db")
    init(url)
    paths = {f"team/{seed}": random_ledger(folder / f"{seed}.db", seed) for seed in range(3)}
    for name, path in paths.items():
        with Ledger(path, read_only=True) as ledger:
            push(ledger, url, name=name)
    yield url, paths


class Done(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


def run(*arguments: str) -> Done:
    """Run a command in this process, and return its exit status, as `main` gives it, and what it printed."""
    done = CliRunner().invoke(cli, list(arguments), standalone_mode=False)
    if done.exception is not None:
        message = done.exception.format_message() if isinstance(done.exception, ClickException) else done.exception
        assert isinstance(done.exception, (ClickException, LedgerError)), done.exception
        return Done(2, done.stdout, str(message))
    return Done(done.return_value or 0, done.stdout, done.stderr)


def test_exports_lists_those_of_all_ledgers(filled: tuple[str, dict[str, Path]]) -> None:
    url, paths = filled
    own = {}
    for name, path in paths.items():
        found = json.loads(run("--ledger", str(path), "exports", "--json").stdout)
        own |= {(name, each["seq"]): each["hash"] for each in found if each["kind"] == "exported"}
    done = run("exports", "--hub", url, "-n", "1000", "--json")
    assert {(each["ledger"], each["seq"]): each["hash"] for each in json.loads(done.stdout)} == own
    text = run("exports", "--hub", url, "-n", "2")
    assert text.exit_code == 0 and len(text.stdout.splitlines()) == 4
    page = run("exports", "--hub", url, "-n", "2", "--markdown")
    assert page.stdout.startswith("### Exports of a hub: `") and page.stdout.count("| `export:") == 2


def test_log_prints_the_forms_of_the_log(filled: tuple[str, dict[str, Path]]) -> None:
    url, paths = filled
    with Ledger(paths["team/1"], read_only=True) as ledger:
        seqs = [event.seq for event in ledger.events(op="aten::linear", desc=True)]
    done = run("log", "--hub", url, "--of", "team/1", "--op", "aten::linear", "--json")
    assert [each["seq"] for each in json.loads(done.stdout)] == seqs
    lines = run("log", "--hub", url, "--of", "team/1", "--op", "linear", "--oneline").stdout.splitlines()
    assert [line.split()[1] for line in lines] == [f"#{seq}" for seq in seqs]
    assert "    hash: " in run("log", "--hub", url, "-1", "-v").stdout
    assert run("log", "--hub", url, "--grep", "no event has this").exit_code == 1


def test_blame_counts_all_rules_and_shows_some(filled: tuple[str, dict[str, Path]]) -> None:
    url, _ = filled
    whole = json.loads(run("blame", "aten::linear", "--hub", url, "--json").stdout)
    total = sum(sum(each.values()) for each in whole["counts"].values())
    assert total == len(whole["rules"]) > 1
    text = run("blame", "--op", "aten::linear", "--hub", url, "-n", "1")
    assert f"  and {total - 1} more; -n {total} shows all" in text.stdout.splitlines()
    none = run("blame", "aten::linea", "--hub", url)
    assert (none.exit_code, none.stdout) == (1, "")
    assert none.stderr.endswith("has a rule for it; did you mean aten::linear?\n")


def test_explain_groups_programs_by_what_happened(filled: tuple[str, dict[str, Path]]) -> None:
    url, _ = filled
    found = json.loads(run("explain", "aten::linear", "--hub", url, "--json").stdout)
    unknown = [each for each in found if each["unknown"] is not None]
    found = [each for each in found if each["unknown"] is None]
    outcomes = [each["explanation"]["outcome"] for each in found]
    text = run("explain", "aten::linear", "--hub", url)
    heads = [line for line in text.stdout.splitlines() if line.startswith("aten::linear: ")]
    assert len(heads) == len(set(outcomes)) and heads[-1].startswith("aten::linear: not in the program in ")
    assert sum(int(head.split(" in ")[-1].split()[0]) for head in heads) == len(found)
    assert [each["unknown"] for each in unknown] == [
        line.partition(" night/make: ")[2] for line in text.stdout.splitlines() if line.startswith("unknown: ")
    ]
    assert run("explain", "nosuch::op", "--hub", url).exit_code == 1


def test_explain_names_a_series_whose_newest_run_has_no_export(tmp_path: Path) -> None:
    url = str(tmp_path / "hub.db")
    init(url)
    with Ledger(tmp_path / "one.db", actor="ann") as ledger:
        table = new_table(ledger, "night/make/1")
        table.exported(an_export(table, random.Random(1)), 1)
        new_table(ledger, "night/make/2")
        push(ledger, url, name="one")
        seq = [event.seq for event in ledger.exports()][-1]
    done = run("explain", "aten::mm", "--hub", url)
    because = f"its newest run, night/make/2, has no export; the last one is export:{seq}"
    assert (done.exit_code, done.stdout) == (1, f"unknown: one  night/make: {because}\n")
    (found,) = json.loads(run("explain", "aten::mm", "--hub", url, "--json").stdout)
    assert (found["unknown"], found["explanation"], found["export"]) == (because, None, seq)


def test_gate_names_the_ledgers_that_do_not_pass(filled: tuple[str, dict[str, Path]]) -> None:
    url, paths = filled
    found = json.loads(run("gate", "--hub", url, "--torch", "2.15.0", "--json").stdout)
    own = {name: run("--ledger", str(path), "gate", "--torch", "2.15.0").exit_code for name, path in paths.items()}
    assert {each["ledger"]: int(not each["passed"]) for each in found["ledgers"]} == own
    text = run("gate", "--hub", url, "--torch", "2.15.0")
    assert text.exit_code == int(not found["passed"]) == max(own.values())
    assert text.stdout.startswith(f"did not pass: {list(own.values()).count(0)} of 3 ledgers passed; ")
    page = run("gate", "--hub", url, "--torch", "2.15.0", "--markdown")
    assert page.stdout.startswith("### Gate of a hub: `") and page.exit_code == 1
    assert run("gate", "--hub", url).exit_code == 2


def test_the_page_of_a_gate_has_each_ledger_with_its_newest_hash(
    filled: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    url, paths = filled
    page = tmp_path / "gate.html"
    assert run("gate", "--hub", url, "--torch", "2.15.0", "--html", str(page)).stdout.startswith("did not pass: ")
    text = page.read_text()
    for name, path in paths.items():
        with Ledger(path, read_only=True) as ledger:
            assert f"<code>{name}</code>" in text and ledger.verify().head in text
    hostile_ledger(tmp_path / "hostile.db", " ".join(HOSTILE[:6]))
    other = str(tmp_path / "hub.db")
    init(other)
    with Ledger(tmp_path / "hostile.db", read_only=True) as ledger:
        ledger.push(other, name="<b>team</b>")
    found = Hub(other).gate(torch="2.15.0", policy=Policy(keep="*", no_override="*", actors="Bob"))
    for written in (report(found), found._repr_html_()):
        assert "&lt;b&gt;team&lt;/b&gt;" in written and "<script" not in written and "onerror=window" in written
        assert "<img" not in written


def test_the_environment_names_the_hub(filled: tuple[str, dict[str, Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, _ = filled
    monkeypatch.setenv("DECOMP_LEDGER_HUB", url)
    assert run("exports", "--hub").stdout == run("exports", "--hub", url).stdout != ""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["exports", "--of", "team/1"], "--of: only with --hub"),
        (["exports", "--failed"], "--failed: only with --hub"),
        (["blame", "-n", "3"], "--limit: only with --hub"),
        (["exports", "--totals", "--hub", "{}"], "--totals: not with --hub"),
        (["log", "--reverse", "--hub", "{}"], "--reverse: not with --hub"),
        (["log", "-p", "--hub", "{}"], "--patch: not with --hub"),
        (["log", "--after", "3", "--hub", "{}"], "--after: not with --hub"),
        (["explain", "aten::mm", "edge", "--hub", "{}"], "STATE: not with --hub"),
        (["blame", "--hub", "{}"], "name one op"),
        (["exports", "--hub", "none.db"], "none.db: the file does not exist; make a hub with `decomp-ledger hub init"),
        (["exports", "--hub", "."], "it is a folder"),
        (["exports", "--hub", "ftp://x/y"], "ftp:// is unknown"),
        (["blame", "aten::mm", "--op", "aten::mm", "--hub", "{}"], "name one op"),
    ],
)
def test_what_does_not_go_together_is_wrong_use(
    filled: tuple[str, dict[str, Path]], arguments: list[str], problem: str
) -> None:
    done = run(*(each.format(filled[0]) for each in arguments))
    assert done.exit_code == 2 and problem in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["exports"], ["exports", "--markdown"], ["log"], ["log", "-v"], ["log", "--oneline"], ["blame", "aten::mm"],
     ["explain", "aten::mm"]],
)  # fmt: skip
def test_hostile_texts_are_escaped(tmp_path: Path, arguments: list[str]) -> None:
    url = str(tmp_path / "hub.db")
    init(url)
    for number, text in enumerate(each for each in HOSTILE if each.strip()):
        hostile_ledger(tmp_path / f"{number}.db", text)
        with Ledger(tmp_path / f"{number}.db", actor=text) as ledger:
            new_table(ledger, "other").preserve(["aten::mm"])
            push(ledger, url, name=f"team/{number}")
    done = run(*arguments, "--hub", url)
    assert done.exit_code == 0 and done.stdout
    assert all(letter.isprintable() or letter == "\n" for letter in done.stdout)
