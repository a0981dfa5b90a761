"""What exports show together: pure functions over recorded events."""

from __future__ import annotations

from decomp_ledger.analysis.totals import LostOp, UnusedRule, export_totals
from decomp_ledger.model.events import Event, Exported
from decomp_ledger.model.rules import Decomposition, Rule, TableState

PRESERVE, MINE = Rule("preserve"), Rule("override", Decomposition("import", "m", "f", "1" * 64))
RULES = {"a::kept": PRESERVE, "a::idle": PRESERVE, "a::mine": MINE, "a::unused": MINE}


def event(seq: int, table: str, before: str, after: str | None, ops: list[str], fired: list[str]) -> Event:
    """Return an export; without a result it failed."""
    error = None if after else ("E", "no")
    body = Exported("c", "s", before, after, {}, dict.fromkeys(ops, 1), dict.fromkeys(fired, 1), 5, error)
    return Event(seq, table, 1, body.kind, "2026-01-01T00:00:00.000000Z", "ann", None, None, "", body, "", "")


def state(table: str, version: int) -> TableState:
    """Return the rules of a table; `dict` is the content of a dict, and `other` has none."""
    return TableState(table, version, "torch", {} if table == "other" else RULES, from_dict=table == "dict")


def test_a_rule_is_unused_only_if_no_successful_export_shows_an_effect() -> None:
    found = export_totals(
        [
            event(1, "edge", "p", "q", ["a::kept"], []),
            event(2, "edge", "p2", "q2", [], ["a::mine"]),
            event(3, "edge", "p3", None, ["a::idle"], ["a::unused"]),
            event(4, "dict", "p4", "q4", [], []),
        ],
        state,
    )
    assert (found.exports, found.failed) == (4, 1)
    assert found.unused_rules == (
        UnusedRule("edge", "a::idle", "preserve", 2),
        UnusedRule("edge", "a::unused", "override", 2),
    )


def test_an_op_is_lost_if_the_export_of_the_result_does_not_have_it() -> None:
    steps = [
        event(1, "edge", "p", "q", ["a::kept", "a::other"], []),
        event(2, "other", "q", "r", ["a::other"], []),
        event(3, "other", "q", "s", ["a::kept"], []),
        event(4, "other", "q", None, [], []),
    ]
    assert export_totals(steps, state).lost == (LostOp("a::kept", 1, 2),)
    assert export_totals(steps[::-1], state).lost == (LostOp("a::kept", 1, 2),)


def test_a_result_is_unused_if_no_later_export_lowered_it() -> None:
    steps = [
        event(1, "other", "q", "p", [], []),
        event(2, "other", "p", "q", [], []),  # its result was lowered only before
        event(3, "other", "x", "y", [], []),
        event(4, "other", "z", None, [], []),
    ]
    assert export_totals(steps, state).unused_results == (2, 3)
    assert export_totals([], state).to_json() == {
        "exports": 0, "failed": 0, "unused_rules": [], "lost": [], "unused_results": [],
    }  # fmt: skip
