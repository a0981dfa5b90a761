"""The programs of a hub: a ledger, its gate and every answer of a hub list the same ones, and call them the same."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest
from hub_ledgers import an_export
from strategies import new_table

from decomp_ledger import Hub, HubError, Ledger, Policy
from decomp_ledger.hub import push as pushing
from decomp_ledger.hub.connection import connect
from decomp_ledger.model.events import RootModule

# A class that is exported in two sizes, one that moved to another file, one whose name has NUL, and none.
MODULES = (
    RootModule("pkg.Net", "net.py", 3), RootModule("pkg.Net", "net.py", 9), RootModule("pkg.Net", "layers/net.py", 3),
    RootModule("pkg.Other", "net.py"), RootModule("pkg.\0"), RootModule(""), None,
)  # fmt: skip
GRAPHS = ("1" * 64, "2" * 64, "2" * 8 + "3" * 56, None)
COMMITS = ("a" * 40, "b" * 40, "c" * 40, "", "\0", None, 7)
TABLES = ("edge", "npu", "night/make/1", "night/make/2", "night/make/10", "job/maker/1", "job/maker", "job/maker/2")
ASKED = Policy(no_stale_exports=True)
_Listed: TypeAlias = "set[tuple[str, int]]"


class Writer:
    """Appends random exports to a ledger: of few classes, graphs and commits, so that siblings are frequent."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger, self.random = ledger, random.Random(seed)
        self.modules = self.random.sample(MODULES, 3)
        self.commits = self.random.sample(COMMITS, 3)

    def write(self, exports: int) -> None:
        for _ in range(exports):
            if self.random.random() < 0.15:
                self._create()
            self._export()
        self._create()  # perhaps a run that has no export then

    def _create(self) -> None:
        missing = [name for name in TABLES if self.ledger.event_store.table_id(name) is None]
        if missing:
            new_table(self.ledger, self.random.choice(missing))

    def _export(self) -> None:
        known = [info.name for info in self.ledger.tables()]
        table = new_table(self.ledger, self.random.choice(known or ["edge"]))
        body = attrs.evolve(
            an_export(table, self.random), module=self.random.choice(self.modules), before=self.random.choice(GRAPHS)
        )
        commit = self.random.choice(self.commits)
        environment = {"torch": "2.13.0"} | ({} if commit is None else {"git_commit": commit})
        self.ledger.append(table.name, table.version, body, origin=("ann", None, environment))


def by_hand(ledger: Ledger) -> dict[int, str]:
    """Return the name of the program of each export: with its graph where its table, class and commit have others."""
    series = {table.name: each.name for each in ledger.table_series() for table in each.tables}
    graphs: dict[tuple[object, ...], set[str | None]] = {}
    keys = {}
    for event in ledger.exports():
        commit = ledger.environment(event.environment).get("git_commit")
        module = event.body.module or RootModule("")
        key = (event.table, module.name, module.file, commit if isinstance(commit, str) and commit else None)
        keys[event.seq] = key
        graphs.setdefault(key, set()).add(event.body.before)
    found = {}
    for event in ledger.exports():
        table, name, file, _ = keys[event.seq]
        graph = f" (graph {(event.body.before or 'unknown')[:8]})" if len(graphs[keys[event.seq]]) > 1 else ""
        label = str(name).rpartition(".")[2] if name else "a program"
        found[event.seq] = f"{label}{f' of {file}' if file else ''}{graph} with {series[str(table)]}"
    return found


def of_gate(result: object) -> _Listed:
    return {(str(each.program), each.newest.seq) for each in result.programs}  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(5))
def test_every_answer_lists_the_programs_of_the_ledger(
    hub: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "BATCH_EVENTS", seed * 7 + 1)
    with Ledger(tmp_path / "one.db", actor="ann") as one, Ledger(tmp_path / "two.db", actor="ann") as two:
        ledgers = {"one": one, "two": two}
        writers = [Writer(each, seed * 2 + number) for number, each in enumerate(ledgers.values())]
        for _ in range(3):
            for writer, (name, ledger) in zip(writers, ledgers.items(), strict=True):
                writer.write(15)
                ledger.push(hub, name=name)
            _check(hub, ledgers)
        assert Hub(hub).verify().problems == ()


def _check(hub: str, ledgers: dict[str, Ledger]) -> None:
    asked = Hub(hub)
    own = {name: ledger.gate(policy=ASKED) for name, ledger in ledgers.items()}
    explained = asked.explain("aten::mm")
    gated = {ledger.name: result for ledger, result in asked.gate(policy=ASKED).results}
    exports = asked.exports(limit=None)
    with connect(hub) as connection:
        shown = connection.rows("SELECT ledger, series, module, file, newest_export, newest_success FROM programs")
    for name, ledger in ledgers.items():
        programs = of_gate(own[name])
        assert of_gate(gated[name]) == programs
        of_ledger = [each for each in explained if each.ledger.name == name]
        assert {(each.program, each.seq) for each in of_ledger if each.unknown is None} == programs
        unknown = {(each.subject, each.because) for each in own[name].unknown if "newest run" in each.because}
        assert {(each.program, each.unknown) for each in of_ledger if each.unknown is not None} == unknown
        called = by_hand(ledger)
        assert {each.event.seq: each.program for each in exports if each.ledger.name == name} == called
        assert programs <= {(program, seq) for seq, program in called.items()}
        facts = sorted(
            (each.program.table, each.newest.seq, each.judged and each.judged.seq) for each in own[name].programs
        )
        assert sorted((row[1], *row[4:]) for row in shown if row[0] == name) == facts
        # The part of a name is that of a class, so a filter never takes one of two siblings.
        net = [each.program for each in asked.explain("aten::mm", ledger=name, program="pkg.net") if not each.unknown]
        assert sorted(net) == sorted(program for program, _ in programs if program.startswith("Net "))


def test_the_random_ledgers_have_siblings_and_runs_without_an_export(tmp_path: Path) -> None:
    siblings, unknown, single = 0, 0, 0
    for seed in range(10):
        with Ledger(tmp_path / f"{seed}.db", actor="ann") as ledger:
            Writer(ledger, seed).write(15)
            result = ledger.gate(policy=ASKED)
            siblings += sum(each.program.graph is not None for each in result.programs)
            single += sum(each.program.graph is None for each in result.programs)
            unknown += sum("newest run" in each.because for each in result.unknown)
    assert siblings > 20 and single > 20 and unknown > 2


def test_both_sizes_of_a_model_are_explained(hub: str, ledgers: Callable[..., Ledger]) -> None:
    ledger = ledgers()
    table = new_table(ledger)
    body = attrs.evolve(an_export(table, random.Random(1)), module=MODULES[0], error=None, raised=None)
    for graph in GRAPHS[:2]:
        origin = ("ann", None, {"git_commit": "a" * 40})
        ledger.append("edge", table.version, attrs.evolve(body, before=graph), origin=origin)
    ledger.push(hub, name="mine")
    names = ["Net of net.py (graph 11111111) with edge", "Net of net.py (graph 22222222) with edge"]
    assert [each.program for each in Hub(hub).explain("aten::mm")] == names
    assert [each.program for each in Hub(hub).exports()] == names[::-1]


EDITS = {
    "graph": "UPDATE program SET graph = 'x'",
    "commit": "UPDATE program SET git_commit = 'x'",
    "module": "UPDATE program SET module = 'Other'",
    "seq": "UPDATE program SET seq = 1",
    "succeeded": "UPDATE program SET succeeded = NULL",
    "removed": "DELETE FROM program",
    "commit of an export": "UPDATE export SET git_commit = 'x'",
    "graph of an export": "UPDATE export SET graph = 'x'",
}


@pytest.mark.parametrize("name", EDITS)
def test_verify_finds_an_edited_program_and_no_answer_shows_one(
    tmp_path: Path, ledgers: Callable[..., Ledger], name: str
) -> None:
    hub, ledger = str(tmp_path / "hub.db"), ledgers()
    Hub(hub).init()
    table = new_table(ledger)
    body = attrs.evolve(an_export(table, random.Random(1)), module=MODULES[0], error=None, raised=None)
    ledger.append("edge", table.version, body, origin=("ann", None, {"git_commit": "a" * 40}))
    ledger.push(hub)
    assert Hub(hub).verify().ok
    with closing(sqlite3.connect(hub)) as db, db:
        db.execute(EDITS[name])
    assert any("the rows of" in each.text for each in Hub(hub).verify().problems)
    if name in ("graph", "commit", "module", "seq"):
        with pytest.raises(HubError, match="run `decomp-ledger hub verify`"):
            Hub(hub).explain("aten::mm")
