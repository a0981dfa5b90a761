"""A series of recorded tables, named on every way in: the newest run, the runs before, and what is not a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import decomp_ledger as dl
from decomp_ledger import Ledger
from decomp_ledger.cli import cli

SERIES = "job/make"
RULES = {1: ["aten::mm"], 2: ["aten::mm", "aten::add"], 10: ["aten::silu"]}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with the runs 1, 2 and 10 of a series, and with tables that are of no series."""
    with Ledger(tmp_path / "l.db", actor="tester") as opened:
        for run, ops in RULES.items():
            opened.create_table(f"{SERIES}/{run}").preserve(ops)
        opened.tag(f"{SERIES}/2@1", "start")
        for name in ("edge", "edge/1", "team/edge", "team/edge/1", "llama/1", "llama/2"):
            opened.create_table(name)
        yield opened


# Each way in that takes a table: what it gives, and the number of the run that it found.
WAYS: dict[str, Callable[[Ledger, str], Any]] = {
    "state": lambda ledger, name: ledger.state(name).table,
    "resolve": lambda ledger, name: ledger.resolve(name).table,
    "locate": lambda ledger, name: ledger.locate(name)[0],
    "events": lambda ledger, name: next(ledger.events(table=name)).table,
    "show": lambda ledger, name: ledger.show(name).state.table,
    "show a version": lambda ledger, name: ledger.show(f"{name}@2").state.table,
    "show the latest": lambda ledger, name: ledger.show(f"{name}@latest").state.table,
    "blame": lambda ledger, name: next(iter(ledger.blame(name).values())).table,
    "explain": lambda ledger, name: ledger.explain("aten::mm", name)[0].table,
    "why": lambda ledger, name: ledger.why("aten::mm", name)[0].answer.table,
    "diff": lambda ledger, name: ledger.diff("edge", name).after.state.table,
    "upgrade": lambda ledger, name: ledger.upgrade(name, torch="2.13.0").after.state.table,
    "table log": lambda ledger, name: ledger.table_log(name).name,
    "create a table": lambda ledger, name: ledger.create_table(name).name,
    "base of a table": lambda ledger, name: ledger.create_table("new", base=name).parent[0],
    "tag": lambda ledger, name: ledger.tag(name, "v1").table,
    "revert": lambda ledger, name: ledger.revert(name, 1).table,
    "history": lambda ledger, name: ledger.event_of(ledger.table_named(name), 2).table,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("text", "run"), [(SERIES, 10), (f"{SERIES}~0", 10), (f"{SERIES}~1", 2), (f"{SERIES}~2", 1),
                                           (f"{SERIES}/2", 2)])  # fmt: skip
def test_a_series_names_its_newest_run_everywhere(ledger: Ledger, way: str, text: str, run: int) -> None:
    assert WAYS[way](ledger, text) == f"{SERIES}/{run}"
    assert SERIES not in [info.name for info in ledger.tables()]
    assert ledger.verify().ok


@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"create a table"}))
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{SERIES}~3", f"the series has 3 runs; give one of {SERIES}/1, {SERIES}/2, {SERIES}/10"),
        (f"{SERIES}~99999999999999999999", "the series has 3 runs"),
        ("edge~1", "edge is one table, so it has no runs; edge@N is a version"),
        ("llama", "has no table 'llama'; it has "),
        ("make", f"has no table 'make'; it has '{SERIES}'"),
        (f"{SERIES}/3", f"has no table '{SERIES}/3'"),
    ],
)
def test_what_names_a_missing_run_is_an_error_that_names_those_there_are(
    ledger: Ledger, way: str, text: str, problem: str
) -> None:
    before = ledger.event_store.head()
    with pytest.raises(dl.UnknownTable) as caught:
        WAYS[way](ledger, text)
    assert problem in str(caught.value)
    assert ledger.event_store.head() == before


def test_a_run_too_far_back_is_not_created(ledger: Ledger) -> None:
    with pytest.raises(dl.InvalidName, match="which is an earlier run"):
        ledger.create_table(f"{SERIES}~3")


def test_a_table_with_the_name_of_a_series_is_itself(ledger: Ledger) -> None:
    assert ledger.state("team/edge").table == "team/edge"
    assert [each.name for each in ledger.table_series()] == [
        SERIES, "edge", "edge/1", "team/edge", "team/edge/1", "llama/1", "llama/2",
    ]  # fmt: skip
    first = ledger.table_series()[0]
    assert (first.run, first.newest.name, len(first.tables)) == (10, f"{SERIES}/10", 3)


def test_no_fork_takes_the_name_of_a_series(ledger: Ledger) -> None:
    with pytest.raises(dl.LedgerError, match="it names the runs of a recorded table; fork under another name"):
        ledger.table_log("edge").fork_as(SERIES)


def test_an_event_needs_the_table_itself(ledger: Ledger) -> None:
    event = next(ledger.events(table=SERIES, kind="popped"))
    with pytest.raises(dl.UnknownTable):
        ledger.append(SERIES, 2, dl.Tagged("v1"))
    assert event.table == f"{SERIES}/10" and ledger.verify().ok


def test_latest_is_the_newest_version_unless_an_older_ledger_has_such_a_tag(ledger: Ledger) -> None:
    assert ledger.locate(f"{SERIES}~1@latest") == (f"{SERIES}/2", 2)
    assert ledger.locate(f"{SERIES}~1@start") == (f"{SERIES}/2", 1)
    with pytest.raises(dl.InvalidName, match="'latest': it always names the newest version"):
        ledger.tag("edge", "latest")
    ledger.append(f"{SERIES}/2", 1, dl.Tagged("latest"))  # as an older version did
    assert ledger.locate(f"{SERIES}~1@latest") == (f"{SERIES}/2", 1)


def test_a_table_of_an_older_ledger_that_ends_with_a_run_is_itself(ledger: Ledger) -> None:
    ledger.append("edge~1", 1, dl.Created("torch", None))
    assert ledger.state("edge~1").table == "edge~1"


def test_one_state_alone_is_compared_with_the_newest_of_its_table(ledger: Ledger) -> None:
    for text in (f"{SERIES}~1", f"{SERIES}/2"):
        found = ledger.diff(text)
        assert (found.before.name, found.after.name) == (f"{SERIES}/2@2", f"{SERIES}/10@2")
        assert [each.op for each in found.rules] == ["aten::add", "aten::mm", "aten::silu"]
    assert ledger.diff(f"{SERIES}@1").after.name == f"{SERIES}/10@2"
    assert ledger.diff("edge/1@1", "edge").after.name == "edge@1"
    for text, fix in ((SERIES, f"give {SERIES}~1"), ("edge", "give edge@VERSION"), ("torch:2.13.0", "second state")):
        with pytest.raises(dl.LedgerError, match=fix):
            ledger.diff(text)


def command(ledger: Ledger, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["--ledger", ledger.path, *arguments], standalone_mode=False)
    assert done.exception is None
    return done.return_value or 0, done.output


def test_tables_shows_a_series_as_one_line(ledger: Ledger) -> None:
    status, text = command(ledger, "tables")
    lines = [line.split()[:3] for line in text.splitlines()[2:]]
    assert (status, lines[0]) == (0, [SERIES, "3", "2"])
    assert [line[0] for line in lines[1:]] == ["edge", "edge/1", "team/edge", "team/edge/1", "llama/1", "llama/2"]
    every = command(ledger, "tables", "--all")[1]
    assert [line.split()[0] for line in every.splitlines()[2:5]] == [f"{SERIES}/{run}" for run in RULES]


def test_diff_says_that_nothing_changed_since_the_last_run(ledger: Ledger) -> None:
    status, text = command(ledger, "diff", f"{SERIES}~1")
    assert status == 1 and "nothing" not in text
    ledger.create_table(f"{SERIES}/11").preserve(RULES[10])
    status, text = command(ledger, "diff", f"{SERIES}~1")
    assert (status, text) == (0, "nothing changed: base torch, 1 rule; the same environment\n")


def test_a_ledger_with_one_series_needs_no_table(tmp_path: Path) -> None:
    with Ledger(tmp_path / "one.db") as opened:
        for run, ops in RULES.items():
            opened.create_table(f"{SERIES}/{run}").preserve(ops)
        assert opened.show().state.table == f"{SERIES}/10"
        assert [each.table for each in opened.explain("aten::mm")] == [f"{SERIES}/10"]
