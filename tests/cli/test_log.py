"""The command `log`: its filters and its forms."""

import contextlib
import datetime
import itertools
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from forging import unguarded

from decomp_ledger import Ledger
from decomp_ledger.cli import cli
from decomp_ledger.cli.log_command import log as log_command
from decomp_ledger.model.events import Set
from decomp_ledger.model.rules import Decomposition

REASONS = (None, "XNNPACK has a fused kernel", "nightly 100%_sure", "größer")
ACTORS = ("Ada <ada@example.org>", "bob", "ÅSA")
DAYS = [f"2026-01-{day:02}T12:00:00.000000Z" for day in range(1, 13)]
OLD = "def gelu(x):\n    return x * 0.5\n"
NEW = "def gelu(x):\n    return x * 0.25\n"


def gelu(source: str) -> Decomposition:
    """Describe a function with a source."""
    return Decomposition("import", "mypkg.lower", "gelu", digest=f"{len(source):064}", source=source)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with an event for each actor and reason, a day apart, and an override whose source changes."""
    file = tmp_path / "l.db"
    for number, (actor, reason) in enumerate(itertools.product(ACTORS, REASONS)):
        with Ledger(file, actor=actor, reason=reason) as ledger:
            if number == 0:
                ledger.create_table("edge")
            else:
                ledger.table_log("edge").preserve([f"mylib::op{number}"])
    with contextlib.closing(sqlite3.connect(file)) as db, unguarded(db):
        for seq, day in enumerate(DAYS, 1):
            db.execute("UPDATE event SET recorded_at = ? WHERE seq = ?", [day, seq])
        db.commit()
    return file


def log(path: Path, *arguments: str) -> Result:
    """Run the command here."""
    return CliRunner().invoke(cli, ["--ledger", str(path), "log", *arguments])


def in_a_process(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process, for its exit status."""
    command = [sys.executable, "-m", "decomp_ledger", "--ledger", str(path), "log", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_filters_select_what_a_search_by_hand_selects(path: Path) -> None:
    with Ledger(path, read_only=True) as ledger:
        every = list(ledger.events())
        assert len(every) == len(DAYS)
        authors = [None, "ada", "ADA <", "b", "Å", "%", "eve"]
        reasons = [None, "xnnpack", "%", "_sure", "größ", "kernel"]
        moments = [None, "2026-01-04T12:00:00Z", "2026-01-09"]
        for author, grep, since, until in itertools.product(authors, reasons, moments, moments):
            bounds = [None if text is None else _utc(text) for text in (since, until)]
            expected = [
                event.seq
                for event in every
                if (author is None or author.lower() in event.actor.lower())
                and (grep is None or grep.lower() in (event.reason or "").lower())
                and (bounds[0] is None or event.recorded_at >= bounds[0])
                and (bounds[1] is None or event.recorded_at <= bounds[1])
            ]
            found = ledger.events(author=author, grep=grep, since=since, until=until)
            assert [event.seq for event in found] == expected, (author, grep, since, until)
            moment = None if bounds[0] is None else datetime.datetime.fromisoformat(bounds[0].replace("Z", "+00:00"))
            again = ledger.events(author=author, grep=grep, since=moment, until=until, desc=True)
            assert [event.seq for event in again] == expected[::-1]


def _utc(text: str) -> str:
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.mark.parametrize("count", ["-3", "-n3", "--limit=3"])
def test_a_count_is_given_as_to_git(path: Path, count: str) -> None:
    shown = log(path, "--oneline", count)
    assert [line.split()[0] for line in shown.output.splitlines()] == ["#12", "#11", "#10"]
    assert log(path, count, "edge", "--oneline").output == shown.output


TEXT_OPTIONS = [each.opts[0] for each in log_command.params if isinstance(each, click.Option) and not each.is_flag]


@pytest.mark.parametrize("option", TEXT_OPTIONS)
def test_the_value_of_an_option_is_not_a_count(path: Path, option: str) -> None:
    joined = f"{option}=-3" if option.startswith("--") else f"{option}-3"
    assert log(path, option, "-3").output == log(path, joined).output


def test_after_two_dashes_a_number_is_not_a_count(path: Path) -> None:
    assert "the ledger has no table '-3'" in str(log(path, "--", "-3").exception)


def test_one_line_tells_what_when_and_where(path: Path) -> None:
    assert log(path, "--oneline", "-1").output == "#12 2026-01-12 12:00:00  edge@12  popped  mylib::op11\n"


def test_times_are_shown_in_four_forms(path: Path) -> None:
    expected = {
        "utc": "2026-01-12 12:00:00",
        "iso": "2026-01-12T12:00:00.000000Z",
        "local": datetime.datetime(2026, 1, 12, 12, tzinfo=datetime.timezone.utc).astimezone().isoformat(" "),
    }
    for style, text in expected.items():
        assert log(path, "-1", "--date", style).output.splitlines()[0].startswith(f"#12  {text}  edge@12"), style
    assert " ago  edge@12  popped" in log(path, "-1", "--date", "relative").output


def test_nothing_found_names_the_filters_and_exits_with_1(path: Path) -> None:
    found = in_a_process(path, "--author", "eve", "--until", "2020-01-01", "--after", "3")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "decomp-ledger: no event matches --author eve, --until 2020-01-01, --after 3\n"


def test_a_patch_shows_rules_and_sources_as_they_changed(path: Path) -> None:
    with Ledger(path) as ledger:
        edge = ledger.table_log("edge")
        edge.change(Set, lambda _: [("aten::gelu", "override", gelu(OLD))])
        edge.change(Set, lambda _: [("aten::gelu", "override", gelu(NEW)), ("aten::mm", "preserve", None)])
        edge.preserve(["aten::gelu"])
        assert [each.op for each in ledger.changed_rules(14)] == ["aten::gelu", "aten::mm"]
    shown = log(path, "-p", "--oneline", "--after", "12", "--reverse", "edge").output.splitlines()
    assert [line.strip() for line in shown if line.startswith("    ")] == [
        "aten::gelu: (no rule) -> override: mypkg.lower.gelu",
        "@@ -0,0 +1,2 @@",
        "+def gelu(x):",
        "+    return x * 0.5",
        "aten::gelu: override: mypkg.lower.gelu -> override: mypkg.lower.gelu",
        "@@ -1,2 +1,2 @@",
        "def gelu(x):",
        "-    return x * 0.5",
        "+    return x * 0.25",
        "aten::mm: (no rule) -> preserve",
        "aten::gelu: override: mypkg.lower.gelu -> preserve",
        "@@ -1,2 +0,0 @@",
        "-def gelu(x):",
        "-    return x * 0.25",
    ]


def test_the_json_of_a_patch_has_its_rules(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.table_log("edge").change(Set, lambda _: [("aten::gelu", "override", gelu(OLD))])
    (event,) = json.loads(log(path, "-p", "-1", "--json").output)
    assert event["rules"]["aten::gelu"]["before"] is None
    assert event["rules"]["aten::gelu"]["after"]["action"] == "override"
    assert "rules" not in json.loads(log(path, "-1", "--json").output)[0]


@pytest.mark.parametrize("arguments", [["--since", "2x"], ["--oneline", "-v"], ["-0"], ["--date", "mine"]])
def test_wrong_use_is_one_line_and_exit_2(path: Path, arguments: list[str]) -> None:
    done = in_a_process(path, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
