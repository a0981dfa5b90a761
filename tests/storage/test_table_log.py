"""A table without torch: versions, tags, past states, reverts, forks, and two writers at once."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    OPS,
    catalog_of,
    decomposition,
    finish,
    new_table,
    ops,
    override,
    start_python,
)

from decomp_ledger.errors import (
    InvalidName,
    LedgerError,
    LedgerFileError,
    ReadOnlyTable,
    UnknownOp,
    UnknownVersion,
    UnusableValue,
    VersionConflict,
)
from decomp_ledger.ledger import Ledger
from decomp_ledger.log.table_log import Status, TableLog, Wanted
from decomp_ledger.model.events import OVERRIDE, PRESERVE, RESET, Change, Created, Reverted, Updated
from decomp_ledger.model.materialize import materialize
from decomp_ledger.model.rules import Rule, RuleDiff, TableState, changes_between, diff, fold

MM, ADD, GELU = "aten::mm", "aten::add.Tensor", "aten::gelu"
KEPT = Rule(PRESERVE)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Give a new ledger in a file."""
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        yield ledger


@pytest.fixture
def table(ledger: Ledger) -> TableLog:
    """Give a new table, `edge`."""
    return new_table(ledger)


def given_by(name: str) -> Rule:
    """Return the rule of an op that was overridden with a function of that name."""
    return Rule(OVERRIDE, decomposition(name))


def count(ledger: Ledger) -> int:
    """Return how many events a ledger has."""
    return sum(info.events for info in ledger.tables())


# Versions


def test_only_changes_make_versions(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    table.tag("v2")
    table.materialize(catalog_of(MM))
    override(table, ADD, "add")
    table.reset([MM])
    table.revert(2)
    assert [(event.seq, event.version, event.kind) for event in ledger.events()] == [
        (1, 1, "created"),
        (2, 2, "popped"),
        (3, 2, "tagged"),
        (4, 2, "materialized"),
        (5, 3, "set"),
        (6, 4, "reset"),
        (7, 5, "reverted"),
    ]
    assert table.version == 5


def test_a_change_of_many_ops_is_one_event(ledger: Ledger, table: TableLog) -> None:
    names = [f"mylib::op{number}" for number in range(50)]
    event = table.change(Updated, lambda _: [(op, OVERRIDE, decomposition("f")) for op in names])
    assert event is not None
    assert [change.op for change in event.changes] == names
    assert (count(ledger), table.version) == (2, 2)


def test_an_op_named_twice_is_changed_once(table: TableLog) -> None:
    event = table.preserve([MM, ADD, MM])
    assert event is not None
    assert event.changes == (Change(MM, PRESERVE), Change(ADD, PRESERVE))


def test_an_event_is_committed_before_the_call_returns(ledger: Ledger, table: TableLog) -> None:
    event = table.preserve([MM])
    with Ledger(ledger.path, read_only=True) as other:
        assert list(other.events())[-1] == event


def test_a_change_without_effect_writes_nothing(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    before = count(ledger)
    assert table.preserve([MM]) is None
    assert table.preserve([]) is None
    assert table.reset([ADD]) is None
    assert table.reset([]) is None
    assert table.revert(2) is None
    assert table.change(Updated, lambda _: []) is None
    assert (count(ledger), table.version) == (before, 2)


def test_only_the_ops_that_change_are_in_an_event(table: TableLog) -> None:
    table.preserve([MM])
    event = table.preserve([MM, ADD])
    assert event is not None
    assert event.changes == (Change(ADD, PRESERVE),)


def test_a_change_that_raises_writes_nothing(ledger: Ledger, table: TableLog) -> None:
    def refuse(_: object) -> list[tuple[str, str, None]]:
        raise KeyError(MM)

    with pytest.raises(KeyError, match=MM):
        table.change(Updated, refuse)
    assert (count(ledger), table.version, table.rules) == (1, 1, {})


def test_the_last_rule_of_an_op_counts(table: TableLog) -> None:
    table.preserve([MM])
    override(table, MM, "mm")
    assert table.rules == {MM: given_by("mm")}
    override(table, MM, "other")
    assert table.rules == {MM: given_by("other")}
    table.preserve([MM])
    assert table.rules == {MM: KEPT}
    table.reset([MM])
    assert table.rules == {}


@pytest.mark.parametrize("bad", [7, b"why", "\ud800"])
def test_an_invalid_reason_is_refused_and_nothing_is_written(ledger: Ledger, table: TableLog, bad: object) -> None:
    with pytest.raises(UnusableValue, match="reason"):
        table.preserve([MM], reason=bad)
    assert (count(ledger), table.rules) == (1, {})


def test_a_state_does_not_follow_later_changes(table: TableLog) -> None:
    table.preserve([MM])
    state = table.state
    table.preserve([ADD])
    assert state == TableState("edge", 2, "torch", {MM: KEPT})


# Past states


def test_a_past_state_has_the_rules_of_its_version(table: TableLog) -> None:
    table.preserve([MM])
    override(table, ADD, "add")
    table.reset([MM])
    assert [dict(table.at(version).rules) for version in (1, 2, 3, 4)] == [
        {},
        {MM: KEPT},
        {MM: KEPT, ADD: given_by("add")},
        {ADD: given_by("add")},
    ]


@pytest.mark.parametrize("version", [0, 3, -1, 2**70])
def test_an_unknown_version_is_refused_with_the_valid_ones(table: TableLog, version: int) -> None:
    table.preserve([MM])
    for use in (table.at, table.past, table.revert, table.diff):
        with pytest.raises(UnknownVersion, match="the table has 2 versions; give one of 1 to 2"):
            use(version)


@pytest.mark.parametrize("version", [2, 0, -1, 2**70])
def test_a_version_is_a_number_or_a_tag(ledger: Ledger, table: TableLog, version: int) -> None:
    for use in (table.at, table.past, table.revert, table.diff, lambda version: table.tag("v1", version)):
        with pytest.raises(UnknownVersion, match="the table has one version; give 1"):
            use(version)
    table.tag("v1", 1)
    assert (table.at("1"), ledger.verify().problems) == (table.at(1), ())


def test_a_past_version_refuses_changes(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    past = table.past(1)
    for change in (
        lambda: past.preserve([ADD]),
        lambda: past.reset([MM]),
        lambda: past.revert(2),
        lambda: override(past, ADD, "add"),
    ):
        with pytest.raises(ReadOnlyTable, match=r"edge@1: a past version cannot change; copy\(\) it, or revert to it"):
            change()
    assert (past.version, past.rules, count(ledger)) == (1, {}, 2)


def test_a_past_version_does_not_follow_the_table(table: TableLog) -> None:
    past = table.past(1)
    table.preserve([MM])
    assert past.sync() is False
    assert (past.version, past.rules) == (1, {})


def test_a_diff_names_each_op_with_its_rules_before_and_after(table: TableLog) -> None:
    table.preserve([MM, ADD])
    override(table, MM, "mm")
    table.reset([ADD])
    table.preserve([GELU])
    expected = [
        RuleDiff(ADD, KEPT, None),
        RuleDiff(GELU, None, KEPT),
        RuleDiff(MM, KEPT, given_by("mm")),
    ]
    assert table.diff(2) == table.diff(2, 5) == expected
    assert table.diff(5, 2) == [RuleDiff(one.op, one.after, one.before) for one in expected]
    assert table.diff(3, 3) == []


# Tags


def test_a_tag_names_a_version_wherever_a_number_does(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    table.tag("v2")
    table.preserve([ADD])
    assert table.at("v2") == table.at(2)
    assert ledger.resolve("edge@v2") == table.at(2)
    assert table.past("v2").version == 2
    assert [one.op for one in table.diff("v2")] == [ADD]
    table.revert("v2")
    assert table.rules == {MM: KEPT}


def test_a_tag_never_moves(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    assert table.tag("v1", 1) is not None
    before = count(ledger)
    with pytest.raises(VersionConflict, match="edge@v1: the tag is version 1 and never moves"):
        table.tag("v1")
    with pytest.raises(VersionConflict):
        table.tag("v1", 2)
    assert table.tag("v1", 1) is None
    assert (count(ledger), ledger.tags("edge")) == (before, {"v1": 1})


def test_a_tag_belongs_to_its_table(ledger: Ledger, table: TableLog) -> None:
    table.tag("v1")
    other = new_table(ledger, "other")
    other.preserve([MM])
    other.tag("v1")
    assert (ledger.tags("edge"), ledger.tags("other")) == ({"v1": 1}, {"v1": 2})


def test_a_version_can_have_many_tags_and_an_older_one_can_be_tagged(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    for name, version in (("b", 2), ("a", 2), ("first", 1)):
        table.tag(name, version)
    assert list(ledger.tags("edge").items()) == [("first", 1), ("a", 2), ("b", 2)]
    assert ledger.verify().problems == ()


@pytest.mark.parametrize("name", ["", "7", "-7", "a@b", "a:b", " a", "a.pt2"])
def test_a_numeric_or_invalid_tag_is_refused(ledger: Ledger, table: TableLog, name: str) -> None:
    with pytest.raises(InvalidName):
        table.tag(name)
    assert count(ledger) == 1


@pytest.mark.parametrize("version", [0, 2, -1, "first"])
def test_an_unknown_version_cannot_be_tagged(ledger: Ledger, table: TableLog, version: int | str) -> None:
    with pytest.raises(UnknownVersion, match=r"^edge@.*: the table has .*; give 1$"):
        table.tag("v1", version)
    assert count(ledger) == 1


def test_an_unknown_tag_is_refused_with_the_known_ones(table: TableLog) -> None:
    with pytest.raises(UnknownVersion, match="edge@v1: the table has no such tag; it has no tags"):
        table.at("v1")
    table.tag("b")
    table.tag("a")
    with pytest.raises(UnknownVersion, match="edge@v1: the table has no such tag; give one of its tags \\(a, b\\)"):
        table.at("v1")


# Reverts


def test_a_revert_appends_the_differences_and_rewrites_nothing(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM, ADD])
    override(table, MM, "mm")
    table.preserve([GELU])
    before = list(ledger.events())
    event = table.revert(2, reason="too early")
    assert event is not None
    assert event.body == Reverted((Change(GELU, RESET), Change(MM, PRESERVE)), to=2)
    assert (event.version, event.reason) == (5, "too early")
    assert list(ledger.events()) == [*before, event]
    assert table.rules == table.at(5).rules == table.at(2).rules


def test_a_revert_can_be_reverted(table: TableLog) -> None:
    override(table, MM, "mm")
    table.revert(1)
    assert table.rules == {}
    table.revert(2)
    assert table.rules == {MM: given_by("mm")}
    assert table.version == 4


# Expected versions


def test_a_wrong_expected_version_is_an_error_and_writes_nothing(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    for change in (
        lambda: table.preserve([ADD], expected_version=1),
        lambda: table.reset([MM], expected_version=3),
        lambda: table.revert(1, expected_version=1),
        lambda: table.preserve([MM], expected_version=1),
    ):
        with pytest.raises(VersionConflict, match="edge: the table is at version 2, not"):
            change()
    assert count(ledger) == 2
    event = table.preserve([ADD], expected_version=2)
    assert event is not None
    assert event.version == 3


def test_an_expected_version_is_compared_with_the_versions_of_others(ledger: Ledger, table: TableLog) -> None:
    with Ledger(ledger.path) as other:
        other.table_log("edge").preserve([MM])
    with pytest.raises(VersionConflict, match="edge: the table is at version 2, not 1"):
        table.preserve([ADD], expected_version=1)
    assert table.preserve([ADD], expected_version=2) is not None


@pytest.mark.parametrize("how", ["expected version", "raising change", "unknown version for a tag"])
def test_a_refused_change_keeps_version_and_rules_together(ledger: Ledger, table: TableLog, how: str) -> None:
    def fail(rules: Mapping[str, Rule]) -> Wanted:
        raise KeyError(ADD)

    refused: dict[str, Callable[[], object]] = {
        "expected version": lambda: table.preserve([ADD], expected_version=1),
        "raising change": lambda: table.change(Updated, fail),
        "unknown version for a tag": lambda: table.tag("v9", 9),
    }
    with Ledger(ledger.path, actor="bob") as other:
        other.table_log("edge").preserve([MM])
    with pytest.raises((VersionConflict, KeyError, UnknownVersion)):
        refused[how]()
    assert (table.version, table.rules) == (2, {MM: KEPT})
    fork = table.fork()
    fork.materialize(catalog_of(MM))
    assert fork.parent == ("edge", 2)
    assert ledger.verify().problems == ()


# Two writers


def test_two_writers_read_each_other_s_changes_before_their_own(ledger: Ledger, table: TableLog) -> None:
    with Ledger(ledger.path, actor="bob") as other:
        theirs = other.table_log("edge")
        table.preserve([MM])
        override(theirs, ADD, "add")
        assert theirs.rules == {MM: KEPT, ADD: given_by("add")}
        assert table.preserve([ADD, GELU]) is not None
        assert table.rules == {MM: KEPT, ADD: KEPT, GELU: KEPT}
        assert theirs.sync() is True
        assert theirs.sync() is False
        assert (theirs.rules, theirs.version) == (table.rules, table.version)
    assert [event.actor for event in ledger.events()] == ["ann", "ann", "bob", "ann"]
    assert ledger.verify().problems == ()


def test_a_change_that_another_writer_made_already_is_not_an_event(ledger: Ledger, table: TableLog) -> None:
    with Ledger(ledger.path) as other:
        other.table_log("edge").preserve([MM])
    assert table.preserve([MM]) is None
    assert (table.version, table.rules, count(ledger)) == (2, {MM: KEPT}, 2)


def test_a_tag_without_a_version_names_the_newest_one(ledger: Ledger, table: TableLog) -> None:
    with Ledger(ledger.path) as other:
        other.table_log("edge").preserve([MM])
    table.tag("v2")
    assert ledger.tags("edge") == {"v2": 2}


_PING_PONG = """
import sys
from decomp_ledger.ledger import Ledger
with Ledger(sys.argv[1], actor="bob") as ledger:
    table = ledger.table_log("edge")
    for line in sys.stdin:
        table.preserve([line.strip()])
        print(table.version, *sorted(table.rules), flush=True)
"""


def test_two_processes_on_one_table_take_turns(ledger: Ledger, table: TableLog) -> None:
    process = start_python(_PING_PONG, ledger.path)
    assert process.stdin is not None and process.stdout is not None
    printed = []
    for number in range(3):
        table.preserve([f"ann::op{number}"])
        process.stdin.write(f"bob::op{number}\n")
        process.stdin.flush()
        printed.append(process.stdout.readline().split())
    finish(process)
    assert printed == [
        ["3", "ann::op0", "bob::op0"],
        ["5", "ann::op0", "ann::op1", "bob::op0", "bob::op1"],
        ["7", "ann::op0", "ann::op1", "ann::op2", "bob::op0", "bob::op1", "bob::op2"],
    ]
    table.sync()
    assert (table.version, len(table.rules)) == (7, 6)
    assert ledger.verify().problems == ()


# Materializations


def test_a_materialization_is_recorded_once_for_each_version_and_catalog(ledger: Ledger, table: TableLog) -> None:
    catalog = catalog_of(MM, ADD)
    table.preserve([MM, "mylib::late"])
    snapshot = table.materialize(catalog)
    assert snapshot == materialize(table.state, catalog)
    assert table.materialize(catalog_of(MM, ADD)) == snapshot
    assert [event.kind for event in ledger.events()] == ["created", "popped", "materialized"]
    table.reset([MM])
    table.materialize(catalog)
    table.materialize(catalog_of(MM))
    bodies = [event.body for event in ledger.events(kind="materialized")]
    assert [body.catalog for body in bodies] == [catalog.digest, catalog.digest, catalog_of(MM).digest]
    assert bodies[0].snapshot == snapshot.digest
    assert bodies[0].pending == ("mylib::late",)
    assert ledger.catalog(catalog.digest) == catalog
    assert ledger.catalog(catalog_of(MM).digest) == catalog_of(MM)
    (stored,) = ledger.database.connection.execute("SELECT count(*) FROM catalog").fetchone()
    assert stored == 2


def test_a_materialization_of_another_process_is_not_recorded_again(ledger: Ledger, table: TableLog) -> None:
    with Ledger(ledger.path) as other:
        other.table_log("edge").materialize(catalog_of(MM))
    table.materialize(catalog_of(MM))
    assert [event.kind for event in ledger.events()] == ["created", "materialized"]


def test_a_past_version_can_be_materialized(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    snapshot = table.past(1).materialize(catalog_of(MM))
    assert list(snapshot.ops) == [MM]
    assert ledger.verify().problems == ()


def test_a_table_can_be_materialized_before_it_reads_the_changes_of_another(ledger: Ledger, table: TableLog) -> None:
    with Ledger(ledger.path) as other:
        other.table_log("edge").preserve([MM])
    table.materialize(catalog_of(MM))
    assert ledger.verify().problems == ()


# Forks


def test_a_fork_is_written_at_its_first_change(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    fork = table.fork()
    assert (fork.name, fork.version, fork.rules, count(ledger)) == ("edge/?", 0, {MM: KEPT}, 2)
    assert fork.preserve([MM]) is None
    assert fork.reset([ADD]) is None
    assert count(ledger) == 2
    fork.preserve([ADD])
    assert (fork.name, fork.version) == ("edge/1", 2)
    assert [(event.table, event.kind) for event in ledger.events(gt=2)] == [("edge/1", "created"), ("edge/1", "popped")]
    first = next(ledger.events(table="edge/1"))
    assert first.body == Created("torch", ("edge", 2))


def test_the_status_follows_the_life_of_a_table(table: TableLog) -> None:
    fork = table.fork()
    assert (table.status, fork.status) == (Status.WRITTEN, Status.UNWRITTEN)
    fork.create()
    assert (fork.status, fork.version) == (Status.WRITTEN, 1)
    past = fork.past(1)
    assert (past.status, past.writable) == (Status.WRITTEN, False)
    unwritten = table.fork()
    for log in (fork, past, unwritten):
        log.detach()
    assert {(log.status, log.ledger, log.version) for log in (fork, past, unwritten)} == {(Status.DETACHED, None, 1)}
    assert fork.fork().status is Status.DETACHED
    assert past.writable is False


def test_a_rollback_makes_a_table_unwritten_again(ledger: Ledger, table: TableLog) -> None:
    fork = table.fork()
    with pytest.raises(UnknownVersion):
        fork.tag("v9", 9)
    assert (fork.status, fork.version, fork.name) == (Status.UNWRITTEN, 0, "edge/?")


def test_a_fork_is_written_at_its_first_use(ledger: Ledger, table: TableLog) -> None:
    table.fork().materialize(catalog_of(MM))
    table.fork().tag("v1")
    assert [(event.table, event.version, event.kind) for event in ledger.events(gt=1)] == [
        ("edge/1", 1, "created"),
        ("edge/1", 1, "materialized"),
        ("edge/2", 1, "created"),
        ("edge/2", 1, "tagged"),
    ]


def test_reading_a_fork_writes_nothing(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    fork = table.fork()
    assert fork.events() == []
    assert fork.sync() is False
    for look in (lambda: fork.history(MM), fork.blame, lambda: fork.at(1), lambda: fork.diff(1), lambda: fork.past(1)):
        try:
            look()
        except LedgerError:
            continue  # it has no version yet, which may be an error
    assert count(ledger) == 2


def test_blame_of_an_unwritten_fork_is_that_of_its_parent(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    fork = table.fork()
    table.reset([MM])
    assert {op: event.seq for op, event in fork.blame().items()} == {MM: 2}
    assert [event.seq for event in fork.history(MM)] == [2]


def test_forks_are_numbered_in_the_order_of_their_first_events(ledger: Ledger, table: TableLog) -> None:
    first, second, third = table.fork(), table.fork(), table.fork()
    third.preserve([MM])
    first.preserve([MM])
    second.preserve([MM])
    assert (first.name, second.name, third.name) == ("edge/2", "edge/3", "edge/1")


def test_a_fork_gets_the_next_free_number(ledger: Ledger, table: TableLog) -> None:
    for name in ("edge/7", "edge/x", "edge/²", "edge/1/2", "edges/9", "edge"):
        new_table(ledger, name)
    fork = table.fork()
    fork.preserve([MM])
    assert fork.name == "edge/8"


def test_a_fork_and_its_parent_are_independent(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    fork = table.fork()
    table.reset([MM])
    fork.preserve([ADD])
    assert (table.rules, fork.rules) == ({}, {MM: KEPT, ADD: KEPT})
    assert ledger.state("edge").rules == {}
    assert ledger.state("edge/1").rules == {MM: KEPT, ADD: KEPT}
    assert [dict(fork.at(version).rules) for version in (1, 2)] == [{MM: KEPT}, {MM: KEPT, ADD: KEPT}]


def test_a_reset_in_a_fork_holds_for_its_own_forks(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    fork = table.fork_as("fork")
    fork.reset([MM])
    grandchild = fork.fork_as("grandchild")
    assert ledger.state("fork").rules == ledger.state("grandchild").rules == grandchild.rules == {}
    grandchild.revert(1)
    assert grandchild.version == 1


def test_a_named_fork_is_written_at_once_and_needs_a_free_name(ledger: Ledger, table: TableLog) -> None:
    fork = table.fork_as("mine")
    assert (fork.name, fork.version, count(ledger)) == ("mine", 1, 2)
    for name in ("mine", "edge"):
        with pytest.raises(LedgerError, match=f"'{name}': there is such a table already; fork under another name"):
            table.fork_as(name)
    with pytest.raises(InvalidName):
        table.fork_as("a@b")
    assert count(ledger) == 2


def test_of_two_forks_of_one_name_the_second_one_is_refused(ledger: Ledger, table: TableLog) -> None:
    first, second = table.fork("mine"), table.fork("mine")
    first.preserve([MM])
    for use in (lambda: second.preserve([ADD]), second.create, lambda: second.tag("v1")):
        with pytest.raises(LedgerError, match="'mine': there is such a table already; fork under another name"):
            use()
    assert (second.status, count(ledger)) == (Status.UNWRITTEN, 3)


def test_a_past_version_of_an_unwritten_fork_writes_nothing(ledger: Ledger, table: TableLog) -> None:
    past = table.fork().past(0)
    for use in (past.create, lambda: past.materialize(catalog_of(MM)), lambda: past.tag("v1")):
        with pytest.raises(ReadOnlyTable, match=r"edge/\?: the table has no event yet, so it has no past"):
            use()
    assert (past.status, count(ledger)) == (Status.UNWRITTEN, 1)


def test_a_fork_of_an_unwritten_fork_starts_from_the_table(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    grandchild = table.fork().fork()
    grandchild.preserve([ADD])
    assert next(ledger.events(table="edge/1")).body == Created("torch", ("edge", 2))


def test_a_fork_of_a_fork_is_numbered_under_the_first_table(ledger: Ledger, table: TableLog) -> None:
    child = table.fork()
    child.preserve([MM])
    grandchild = child.fork()
    grandchild.preserve([ADD])
    assert (child.name, grandchild.name) == ("edge/1", "edge/2")
    assert next(ledger.events(table="edge/2")).body == Created("torch", ("edge/1", 2))


def test_a_past_version_can_be_forked_and_the_fork_changed(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])
    table.preserve([ADD])
    fork = table.past(2).fork()
    fork.preserve([GELU])
    assert next(ledger.events(table="edge/1")).body == Created("torch", ("edge", 2))
    assert ledger.state("edge/1").rules == {MM: KEPT, GELU: KEPT}


def test_history_and_blame_reach_through_forks(ledger: Ledger, table: TableLog) -> None:
    table.preserve([MM])  # seq 2
    override(table, ADD, "add")  # 3
    child = table.fork_as("child")  # 4
    table.preserve([ADD])  # 5, after the fork
    child.preserve([GELU])  # 6
    grandchild = child.fork_as("grandchild")  # 7
    child.reset([MM])  # 8, after the fork
    override(grandchild, MM, "mm")  # 9
    assert [event.seq for event in grandchild.history(MM)] == [2, 9]
    assert [event.seq for event in grandchild.history(ADD)] == [3]
    assert [event.seq for event in child.history("aten.mm.default")] == [2, 8]
    assert [event.seq for event in table.history(ADD)] == [3, 5]
    assert {op: event.seq for op, event in grandchild.blame().items()} == {ADD: 3, GELU: 6, MM: 9}
    assert {op: event.seq for op, event in child.blame().items()} == {ADD: 3, GELU: 6}
    assert {op: event.seq for op, event in ledger.state_and_blame("grandchild", 1)[1].items()} == {
        ADD: 3,
        GELU: 6,
        MM: 2,
    }
    assert [event.seq for event in grandchild.events()] == [7, 9]


def test_history_of_a_past_version_ends_there(table: TableLog) -> None:
    table.preserve([MM])
    table.reset([MM])
    assert [event.version for event in table.past(2).history(MM)] == [2]
    assert list(table.past(2).blame()) == [MM]
    assert [event.version for event in table.past(2).history("mm")] == [2]
    assert table.history("mylib::never") == []
    with pytest.raises(InvalidName):
        table.history("aten mm")


# Without a ledger, and with one that cannot be written


def test_a_table_without_a_ledger_keeps_its_state_in_memory() -> None:
    table = TableLog(None, "loose", state=TableState("loose", 1, "torch", {}))
    assert table.preserve([MM]) is None
    assert (table.rules, table.version) == ({MM: KEPT}, 2)
    assert table.fork().rules == {MM: KEPT}
    with pytest.raises(LedgerError, match="loose: the table is no longer recorded"):
        table.tag("v1")


FAILURES = {
    "at once": ("PRAGMA query_only = ON", "PRAGMA query_only = OFF", "is read-only here"),
    "half way": (
        "CREATE TEMP TRIGGER fail BEFORE INSERT ON main.change BEGIN SELECT RAISE(ABORT, 'half way'); END",
        "DROP TRIGGER fail",
        "half way",
    ),
}


@pytest.mark.parametrize("when", FAILURES)
def test_a_failed_write_leaves_the_table_as_it_was(ledger: Ledger, table: TableLog, when: str) -> None:
    start, stop, message = FAILURES[when]
    table.preserve([MM])
    fork = table.fork()
    ledger.database.connection.execute(start)
    for change in (lambda: table.preserve([ADD]), lambda: fork.preserve([ADD]), lambda: override(fork, ADD, "add")):
        with pytest.raises(LedgerFileError, match=message):
            change()
    assert (table.version, table.rules) == (2, {MM: KEPT})
    assert (fork.version, fork.name, fork.rules) == (0, "edge/?", {MM: KEPT})
    ledger.database.connection.execute(stop)
    table.preserve([ADD])
    fork.preserve([GELU])
    assert (table.version, fork.version, fork.name) == (3, 2, "edge/1")
    assert ledger.verify().problems == ()


class Recording:
    """A TableOwner without torch."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.table_ids: list[TableLog] = []
        self.stopped = False

    def failed(self, error: Exception) -> None:
        self.failures.append(error)
        self.stopped = True

    def missed(self, error: Exception) -> None:
        raise AssertionError(error)

    def adopted(self, log: TableLog) -> None:
        self.table_ids.append(log)

    def series(self) -> str:
        return "job/maker"

    def new_name(self, series: str) -> str:
        return f"{series}-{len(self.table_ids)}/1"


def test_a_table_of_a_stopped_recording_is_detached(ledger: Ledger, table: TableLog) -> None:
    recording = Recording()
    table.adopt(recording)
    recording.failed(LedgerFileError("of another table"))
    assert table.preserve([MM]) is None
    assert (table.rules, table.ledger, count(ledger)) == ({MM: KEPT}, None, 1)


def test_a_table_of_a_recording_may_be_opened_by_name_too(ledger: Ledger, table: TableLog) -> None:
    table.adopt(Recording())
    second = ledger.table_log("edge")
    second.preserve([MM])
    table.preserve([ADD])
    second.preserve([GELU])
    assert (table.version, second.version) == (3, 4)
    assert (table.rules.keys(), second.rules.keys()) == ({MM, ADD}, {MM, ADD, GELU})
    assert ledger.verify().ok


@pytest.mark.parametrize(
    "wrong", [lambda fork: fork.fork_as("edge"), lambda fork: fork.tag("x", 9)], ids=["fork", "tag"]
)
def test_a_fork_can_be_changed_after_a_failure(ledger: Ledger, table: TableLog, wrong: Any) -> None:
    fork = table.fork()
    with pytest.raises(LedgerError):
        wrong(fork)
    assert (fork.version, fork.name) == (0, "edge/?")
    fork.preserve([MM])
    assert (fork.version, fork.name, ledger.verify().ok) == (2, "edge/1", True)


def test_a_table_of_a_recording_goes_on_in_memory_when_the_ledger_fails(ledger: Ledger, table: TableLog) -> None:
    recording = Recording()
    table.adopt(recording)
    table.preserve([MM])
    ledger.database.connection.execute("PRAGMA query_only = ON")
    table.preserve([ADD])
    table.preserve([GELU])
    assert table.materialize(catalog_of(MM, ADD)).preserved == (ADD, MM)
    assert (table.rules.keys(), table.version) == ({MM, ADD, GELU}, 4)
    assert [type(failure) for failure in recording.failures] == [LedgerFileError]
    assert ledger.state("edge").rules == {MM: KEPT}


def test_a_fork_of_a_table_of_a_recording_belongs_to_that_recording(ledger: Ledger, table: TableLog) -> None:
    recording = Recording()
    table.reason = "nightly"
    table.adopt(recording)
    fork = table.fork()
    grandchild = fork.fork()
    fork.preserve([MM], reason="why")
    assert recording.table_ids == [table, fork, grandchild]
    assert [event.reason for event in fork.events()] == ["nightly", "nightly / why"]


def test_an_error_of_the_caller_is_raised_unchanged(ledger: Ledger, table: TableLog) -> None:
    for error in (KeyError(MM), OSError("could not get source code"), PermissionError("no"), TypeError("no")):

        def refuse(_: object, error: Exception = error) -> list[tuple[str, str, None]]:
            raise error

        with pytest.raises(type(error)) as caught:
            table.change(Updated, refuse)
        assert caught.value is error
    assert count(ledger) == 1


def test_an_error_of_the_caller_does_not_stop_a_recording(ledger: Ledger, table: TableLog) -> None:
    recording = Recording()
    table.adopt(recording)

    def refuse(_: object) -> list[tuple[str, str, None]]:
        raise KeyError(MM)

    with pytest.raises(KeyError, match=MM):
        table.change(Updated, refuse)
    assert recording.failures == []


def test_a_child_forked_while_a_thread_changes_a_table_can_change_it(ledger: Ledger, table: TableLog) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with table.lock:
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(15)  # a child that hangs fails
        table.preserve([MM])
        os._exit(0 if table.version == 2 else 1)
    status = os.waitpid(child, 0)[1]
    done.set()
    thread.join()
    assert status == 0
    table.preserve([ADD])
    assert (table.version, ledger.verify().ok) == (3, True)


# Any sequence of changes

step = st.one_of(
    st.tuples(st.just("preserve"), st.integers(0, 9), st.lists(ops, max_size=3)),
    st.tuples(st.just("override"), st.integers(0, 9), st.tuples(ops, st.sampled_from("fg"))),
    st.tuples(st.just("reset"), st.integers(0, 9), st.lists(ops, max_size=3)),
    st.tuples(st.just("revert"), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.just("fork"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("past"), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.just("other"), st.integers(0, 9), st.lists(ops, min_size=1, max_size=2)),
    st.tuples(st.just("tag"), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.just("materialize"), st.integers(0, 9), st.lists(ops, max_size=3)),
    st.tuples(st.just("new"), st.integers(0, 9), st.sampled_from(["torch", "empty"])),
)


class Model:
    """Plain dicts that a ledger is compared with: for each table, its rules at each version."""

    def __init__(self) -> None:
        self.pasts: list[list[dict[str, Rule]]] = []

    def change(self, number: int, after: dict[str, Rule]) -> None:
        """Append a version if its rules differ from the last ones."""
        versions = self.pasts[number]
        if versions[-1] != after:
            versions.append(after)

    def apply(self, verb: str, number: int, what: object) -> None:
        """Apply a step to one of the tables."""
        now = dict(self.pasts[number][-1])
        if verb in ("preserve", "other"):
            self.change(number, {**now, **dict.fromkeys(what, KEPT)})
        elif verb == "override":
            op, name = what
            self.change(number, {**now, op: given_by(name)})
        elif verb == "reset":
            self.change(number, {op: rule for op, rule in now.items() if op not in what})
        elif verb == "revert":
            self.change(number, dict(self.pasts[number][what % len(self.pasts[number])]))
        elif verb == "fork":
            self.pasts.append([now])
        elif verb == "past":
            self.pasts.append([dict(self.pasts[number][what % len(self.pasts[number])])])
        elif verb == "new":
            self.pasts.append([{}])


def apply(ledger: Ledger, tables: list[TableLog], model: Model, verb: str, number: int, what: object) -> None:
    """Apply a step to one of the tables of a ledger."""
    table = tables[number]
    if verb == "preserve":
        table.preserve(what)
    elif verb == "other":
        ledger.table_log(table.name).preserve(what)
        table.sync()
    elif verb == "override":
        op, name = what
        if table.rules.get(op) != given_by(name):
            override(table, op, name)
    elif verb == "reset":
        table.reset(what)
    elif verb == "revert":
        table.revert(what % len(model.pasts[number]) + 1)
    elif verb == "fork":
        tables.append(table.fork_as(f"named{len(tables)}") if what else table.fork())
        tables[-1].create()
    elif verb == "past":
        tables.append(table.past(what % len(model.pasts[number]) + 1).fork_as(f"past{len(tables)}"))
    elif verb == "tag":
        table.tag(f"tag{len(ledger.tags(table.name))}", what % len(model.pasts[number]) + 1)
    elif verb == "materialize":
        table.materialize(catalog_of(*what))
    elif verb == "new":
        tables.append(new_table(ledger, f"new{len(tables)}", str(what)))


@settings(max_examples=50)
@given(st.lists(step, max_size=25))
def test_every_version_of_every_table_has_its_recorded_rules(steps: list[tuple[str, int, object]]) -> None:
    with Ledger(":memory:", actor="ann") as ledger:
        tables, model = [new_table(ledger, "table0")], Model()
        model.pasts.append([{}])
        for verb, number, what in steps:
            at = number % len(tables)
            apply(ledger, tables, model, verb, at, what)
            model.apply(verb, at, what)
        assert [dict(table.rules) for table in tables] == [pasts[-1] for pasts in model.pasts]
        assert [table.version for table in tables] == [len(pasts) for pasts in model.pasts]
        for table, pasts in zip(tables, model.pasts, strict=True):
            assert [dict(table.at(version + 1).rules) for version in range(len(pasts))] == pasts
            assert [dict(ledger.state(table.name, version + 1).rules) for version in range(len(pasts))] == pasts
            assert [folded(ledger, table.name, version + 1) for version in range(len(pasts))] == pasts
            assert dict(ledger.table_log(table.name).rules) == pasts[-1]
            assert set(table.blame()) == set(pasts[-1])
            for op, event in table.blame().items():
                assert event == table.history(op)[-1]
                assert [change.action for change in event.changes if change.op == op] == [pasts[-1][op].action]
        assert ledger.verify().problems == ()


def folded(ledger: Ledger, name: str, version: int) -> dict[str, Rule]:
    """Return a table's rules at a version, folded from the bodies of its events and its parents' events."""
    first, *later = ledger.events(table=name)
    assert isinstance(first.body, Created)
    found = {} if first.body.parent is None else folded(ledger, *first.body.parent)
    for event in later:
        if event.version <= version:
            digests = {change.decomposition for change in event.changes if change.decomposition}
            fold(found, event.changes, {digest: _stored(ledger, digest) for digest in digests})
    return found


def _stored(ledger: Ledger, digest: str) -> object:
    (body,) = ledger.database.connection.execute(
        "SELECT body FROM decomposition WHERE digest = ?", [bytes.fromhex(digest)]
    ).fetchone()
    return type(decomposition("f"))(**json.loads(body))


# States, as pure functions

rule_dicts = st.dictionaries(ops, st.sampled_from([KEPT, given_by("f"), given_by("g")]))


@given(rule_dicts, rule_dicts)
def test_the_changes_between_two_states_lead_from_one_to_the_other(
    before: dict[str, Rule], after: dict[str, Rule]
) -> None:
    wanted = changes_between(before, after)
    now = dict(before)
    known = {ref.identity(): ref for _, _, ref in wanted if ref is not None}
    fold(now, [Change(op, action, ref and ref.identity()) for op, action, ref in wanted], known)
    assert now == after
    assert [op for op, _, _ in wanted] == sorted(op for op in OPS if before.get(op) != after.get(op))


@given(rule_dicts, rule_dicts)
def test_a_diff_has_exactly_the_ops_that_differ(before: dict[str, Rule], after: dict[str, Rule]) -> None:
    found = diff(TableState("a", 1, "torch", before), TableState("b", 2, "empty", after))
    assert [(one.op, one.before, one.after) for one in found] == [
        (op, before.get(op), after.get(op)) for op in sorted(OPS) if before.get(op) != after.get(op)
    ]


@pytest.mark.parametrize("ops", ["aten.mm.default", [MM], ["torch.ops.aten.mm.default", MM]])
def test_one_name_or_many_names_in_any_form_are_ops(table: TableLog, ops: object) -> None:
    table.preserve(ops)  # type: ignore[arg-type]
    assert table.rules.keys() == {MM}
    table.reset(ops)  # type: ignore[arg-type]
    assert table.rules == {}


@pytest.mark.parametrize("ops", ["a b", ["aten::mm", ":"]])
def test_a_text_that_names_no_op_makes_no_rule(table: TableLog, ops: object) -> None:
    with pytest.raises(InvalidName):
        table.preserve(ops)  # type: ignore[arg-type]
    assert (table.rules, table.version) == ({}, 1)


# --- names without a namespace ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["preserve", "reset"])
def test_a_name_without_a_namespace_may_be_that_of_a_library_that_the_last_torch_had(
    change: str, ledger: Ledger, table: TableLog
) -> None:
    with pytest.raises(UnknownOp, match=r"'silu_mul': .* write 'NAMESPACE::silu_mul', .*; without torch, ops of lib"):
        getattr(table, change)(["silu_mul"])
    other = new_table(ledger, "other")
    other.materialize(catalog_of(MM, "fused::silu_mul", "fused::silu_mul.out"))
    table.preserve(["fused::silu_mul"])
    getattr(table, change)(["silu_mul"])
    kept = {} if change == "reset" else {"fused::silu_mul": KEPT, "fused::silu_mul.out": KEPT}
    assert table.rules == kept
