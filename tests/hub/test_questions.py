"""The questions to a hub: each answer is what the ledgers themselves give, on both databases."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hub_ledgers import ACTORS, random_ledger
from postgresql import Server
from strategies import OPS, without_torch  # noqa: F401  # a fixture that this module uses
from wrong_values import WRONG

import decomp_ledger as dl
from decomp_ledger import Hub, Ledger, Policy
from decomp_ledger.hub.ledger_view import LedgerInHub
from decomp_ledger.hub.migrations import init
from decomp_ledger.hub.push import push

SEEDS = range(4)
_Ledgers: TypeAlias = dict[str, Ledger]


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Ledgers]:
    """Ledgers with random histories, by the name that they have in the hub."""
    folder = tmp_path_factory.mktemp("ledgers")
    paths = {f"team/{seed}": random_ledger(folder / f"{seed}.db", seed) for seed in SEEDS}
    opened = {name: Ledger(path, read_only=True) for name, path in paths.items()}
    yield opened
    for each in opened.values():
        each.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ledgers: _Ledgers) -> Iterator[Hub]:
    """A hub that has all of them."""
    server: Server | None = None
    url = str(tmp_path_factory.mktemp("hub") / "hub.db")
    if request.param == "postgresql":
        server = request.getfixturevalue("server")
        url = server.url(server.new_database())
    init(url)
    for name, ledger in ledgers.items():
        push(ledger, url, name=name)
    yield Hub(url)


# Each question, and what the ledgers themselves answer.


def test_exports_are_those_of_the_ledgers_newest_first(asked: Hub, ledgers: _Ledgers) -> None:
    found = asked.exports(limit=None)
    own = {(name, event.seq): event for name, ledger in ledgers.items() for event in ledger.exports()}
    assert {(each.ledger.name, each.event.seq): each.event for each in found} == own and len(found) == len(own)
    times = [each.event.recorded_at for each in found]
    assert times == sorted(times, reverse=True)
    assert all(each.torch == ledgers[each.ledger.name].environment(each.event.environment).get("torch", "")
               for each in found)  # fmt: skip
    assert asked.exports(limit=3) == found[:3]


def test_exports_are_filtered(asked: Hub, ledgers: _Ledgers) -> None:
    every = asked.exports(limit=None)
    assert asked.exports(failed=True, limit=None) == [each for each in every if each.body.error is not None]
    for name, ledger in ledgers.items():
        of_one = [each.event for each in asked.exports(ledger=name, limit=None)]
        assert of_one == [*ledger.exports()][::-1]
        assert [each.event for each in asked.exports(ledger=ledger.id, limit=None)] == of_one
    for part, module in (("MODEL", "__main__.Model"), ("net.py", "pkg.Net")):
        wanted = [e for e in every if e.body.module is not None and e.body.module.name == module]
        assert asked.exports(program=part, limit=None) == wanted
    of_series = [e for e in every if e.event.table.startswith("night/make/")]
    assert asked.exports(program="night/make", limit=None) == of_series


FILTERS: dict[str, dict[str, object]] = {
    "none": {},
    "kind": {"kind": "exported"},
    "a kind without events": {"kind": "lowered"},
    **{f"op {op}": {"op": op} for op in (*OPS, "aten::add", "linear", "mylib.late")},
    **{f"actor {actor}": {"actor": actor} for actor in ACTORS},
    **{f"author {text}": {"author": text} for text in ("ADA", "@example", "\N{GREEK SMALL LETTER ALPHA}", "%", "_")},
    **{f"grep {text!a}": {"grep": text} for text in ("FUSED", "100%", '"Quoted"', "_why_", "\n", "\0", "kernel\n")},
    "table": {"table": "edge"},
    "no such table": {"table": "nope"},
    "since": {"since": "1 hour ago"},
    "until": {"until": "1 hour ago"},
    "several": {"op": "aten::linear", "author": "bob", "table": "edge"},
}  # fmt: skip


@pytest.mark.parametrize("wanted", FILTERS.values(), ids=FILTERS)
def test_the_log_has_the_filters_of_a_ledger(asked: Hub, ledgers: _Ledgers, wanted: dict[str, str]) -> None:
    found = asked.events(**wanted, limit=None)
    own = {name: _events(ledger, wanted) for name, ledger in ledgers.items()}
    for name, events in own.items():
        assert [each.event for each in found if each.ledger.name == name] == events
        assert [each.event for each in asked.events(ledger=name, **wanted, limit=None)] == events
    assert len(found) == sum(map(len, own.values()))
    assert [each.event for each in asked.events(**wanted, limit=2)] == [each.event for each in found[:2]]


def _events(ledger: Ledger, wanted: dict[str, str]) -> list[dl.Event]:
    if wanted.get("table") == "nope":
        return []
    try:
        return [*ledger.events(**wanted, desc=True)]  # type: ignore[arg-type]
    except dl.UnknownOp:  # one of the ledgers has no such op
        return []


def test_an_event_comes_with_what_it_names(asked: Hub, ledgers: _Ledgers) -> None:
    for each in asked.events(limit=None):
        assert each.recorded == ledgers[each.ledger.name].event(each.event.seq)


NAMED = {**{op: [op] for op in OPS}, "aten::add": ["aten::add.Tensor"], "linear": ["aten::linear"], "cond": ["cond"]}


@pytest.mark.parametrize("op", NAMED)
def test_blame_has_the_rules_of_each_table(asked: Hub, ledgers: _Ledgers, op: str) -> None:
    found = asked.blame(op, limit=None)
    own = {}
    for name, ledger in ledgers.items():
        for series in ledger.table_series():
            state, events = ledger.state_and_blame(series.newest.name, series.newest.version)
            for of_op in state.rules.keys() & NAMED[op]:
                own[name, state.table, of_op] = state.version, state.rules[of_op], state.from_dict, events[of_op]
    rules = {(r.ledger.name, r.table, r.op): (r.version, r.rule, r.from_dict, r.event) for r in found.rules}
    assert rules == own and len(found.rules) == found.total == len(own)
    assert asked.blame(op, limit=1).rules == found.rules[:1] and asked.blame(op, limit=1).total == found.total
    for action, of_dict in (("preserve", "missing"), ("override", "entry")):
        for word, from_dict in ((action, False), (of_dict, True)):
            number = sum((each[1].action, each[2]) == (action, from_dict) for each in own.values())
            assert sum(counts.get(word, 0) for counts in found.counts.values()) == number


def test_of_a_series_the_run_of_the_greatest_number_counts(hub: str, tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db", actor="Ada") as ledger:
        for run in (2, 10, 9, 1):
            ledger.create_table(f"job/make/{run}").preserve(["aten::mm"])
            push(ledger, hub, name="l")
            newest = ledger.table_series()[0].newest.name
            assert [rule.table for rule in Hub(hub).blame("aten::mm").rules] == [newest]
        ledger.create_table("job/make/11")
        push(ledger, hub)
        assert Hub(hub).blame("aten::mm").total == 0
    with Ledger(tmp_path / "other.db", actor="Ada") as ledger:
        ledger.create_table("job/make")
        for run in (1, 2):  # of no series, because a table has the name of one
            ledger.create_table(f"job/make/{run}").preserve(["aten::mm"])
        ledger.create_table("job/fork/1", base="job/make/2")
        push(ledger, hub, name="other")
    found = Hub(hub).blame("aten::mm")
    assert [rule.table for rule in found.rules] == ["job/fork/1", "job/make/1", "job/make/2"] and found.total == 3
    assert Hub(hub).verify().ok


def test_a_hub_of_random_ledgers_verifies(asked: Hub) -> None:
    assert asked.verify().ok


def test_explain_is_what_each_ledger_explains_of_its_newest_exports(asked: Hub, ledgers: _Ledgers) -> None:
    for op in (*OPS, "linear"):
        found = asked.explain(op)
        assert {each.ledger.name for each in found} == set(ledgers)
        for each in found:
            ledger = ledgers[each.ledger.name]
            if each.unknown is not None:
                continue
            try:
                own = ledger.explain(op, f"export:{each.seq}")
            except dl.UnknownOp:
                assert each.explanation is None
            else:
                assert each.explanation in own


def test_each_bundle_is_that_of_its_ledger(asked: Hub, ledgers: _Ledgers) -> None:
    with asked.reader() as reader:
        for each in asked.exports(limit=None):
            assert reader.bundle(each.ledger, each.event) == ledgers[each.ledger.name].bundle(each.event.seq)


def test_the_log_of_one_ledger_answers_as_the_ledger(asked: Hub, ledgers: _Ledgers) -> None:
    with asked.reader() as reader:
        for name, ledger in ledgers.items():
            seen = LedgerInHub(reader, name)
            assert (seen.id, [info.name for info in seen.tables()]) == (ledger.id, [i.name for i in ledger.tables()])
            for info in ledger.tables():
                for version in range(1, info.version + 1):
                    at = info.name, version
                    assert seen.event_of(*at) == ledger.event_of(*at)
                    assert seen.state(*at) == ledger.state(*at) and seen.last_events(*at) == ledger.last_events(*at)
                    assert seen.state_and_since(*at) == ledger.state_and_since(*at)
                    assert seen.state_and_blame(*at) == ledger.state_and_blame(*at)
                    assert seen.last_materialization(*at) == ledger.last_materialization(*at)
                    assert seen.state(*at).from_dict == ledger.state(*at).from_dict
                for given in ({"desc": True}, {"gt": 5}, {"lte": 9, "limit": 2}, {"kind": "exported"}):
                    assert [*seen.events(table=info.name, **given)] == [*ledger.events(table=info.name, **given)]  # type: ignore[arg-type]


POLICIES = {
    "torch": (Policy(), "2.15.0"),
    "keep": (Policy(keep=("aten::linear", "mylib::*")), None),
    "reasons and actors": (Policy(require_reason=True, actors=("Ada*",)), None),
    "exports": (Policy(no_failed_exports=True, no_stale_exports=True, no_outdated_exports=True), "2.9.1"),
    "all": (Policy(keep=("aten::mm",), no_override=("aten::*",), clean_tags=True, opset="core-aten"), "2.15.0"),
}


@pytest.mark.parametrize("more", [{}, {"strict": True}, {"since": "2020-01-01"}], ids=str)
@pytest.mark.parametrize("name", POLICIES)
def test_the_gate_judges_each_ledger_as_it_judges_it_alone(
    asked: Hub, ledgers: _Ledgers, name: str, more: dict[str, Any]
) -> None:
    policy, torch = POLICIES[name]
    found = asked.gate(policy=policy, torch=torch, **more)
    own = {of: ledger.gate(policy=policy, torch=torch, **more) for of, ledger in ledgers.items()}
    assert {ledger.name: result.to_json() for ledger, result in found.results} == {
        of: {**result.to_json(), "ledger": of} for of, result in own.items()
    }
    assert found.passed == all(result.passed for result in own.values())
    assert any(result.findings for result in own.values())


def test_a_ledger_without_an_export_is_unknown_to_the_gate(tmp_path: Path) -> None:
    init(str(tmp_path / "hub.db"))
    for name in ("empty", "tables"):
        with Ledger(tmp_path / f"{name}.db") as ledger:
            if name == "tables":
                ledger.create_table("edge")
            push(ledger, str(tmp_path / "hub.db"), name=name)
    found = Hub(str(tmp_path / "hub.db")).gate(torch="2.15.0")
    assert found.passed and len(found.results) == 2
    for ledger, result in found.results:
        assert [(each.policy, each.subject) for each in result.unknown] == [("torch", ledger.name)]
    assert not Hub(str(tmp_path / "hub.db")).gate(torch="2.15.0", strict=True).passed


# What is wrong


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        (lambda asked: asked.exports(ledger="nope"), "it has no ledger 'nope'; it has 'team/"),
        (lambda asked: asked.events(ledger="nope"), "it has no ledger 'nope'; it has 'team/"),
        (lambda asked: asked.verify("nope"), "it has no ledger 'nope'; it has 'team/"),
        (lambda asked: asked.blame("nosuch"), "'nosuch': no known op has this name"),
        (lambda asked: asked.blame("a b"), "a b"),
        (lambda asked: asked.exports(program="\ud800"), "lone surrogate"),
        (lambda asked: asked.events(grep="\ud800"), "lone surrogate"),
        (lambda asked: asked.events(since="nonsense"), "nonsense"),
    ],
)
def test_a_wrong_question_gives_one_clear_error(asked: Hub, question: Callable[[Hub], object], problem: str) -> None:
    with pytest.raises(dl.LedgerError) as caught:
        question(asked)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["exports", "events", "blame", "explain", "gate"])
def test_a_wrong_argument_gives_one_clear_error(asked: Hub, name: str) -> None:
    question = getattr(asked, name)
    parameters = inspect.signature(question).parameters
    valid = {"op": "aten::mm"} if "op" in parameters else {}
    more = {"policy": Policy(require_reason=True)} if "policy" in parameters else {}
    for parameter, value in itertools.product(parameters, WRONG):
        if parameter == "progress" and callable(value):
            continue  # what it raises is passed on
        try:
            question(**{**valid, **more, parameter: value})
        except dl.LedgerError as error:
            text = str(error)
            assert text and "\n" not in text and len(text) < 1000, (parameter, text)
            text.encode()  # it can be printed
