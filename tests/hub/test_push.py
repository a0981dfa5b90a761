"""Pushing ledgers to a hub, in PostgreSQL and in SQLite."""

from collections.abc import Callable
from pathlib import Path

import pytest
from strategies import OPS, new_table, override, private_export

from decomp_ledger.errors import HubDiverged, HubError
from decomp_ledger.hub.connection import connect
from decomp_ledger.hub.push import push
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.events import EVENT_KINDS

Ledgers = Callable[..., Ledger]


def rows(hub: str, sql: str) -> list[tuple[object, ...]]:
    with connect(hub) as connection:
        return connection.rows(sql)


def test_a_push_sends_every_event_once(hub: str, ledgers: Ledgers) -> None:
    ledger = ledgers()
    first = push(ledger, hub, name="mine")
    assert (first.sent, first.events, first.name) == (2, 2, "mine")
    assert (push(ledger, hub).sent, push(ledger, hub, name="mine").sent) == (0, 0)
    new_table(ledger).preserve(["aten::add.Tensor"])
    assert push(ledger, hub).sent == 1
    head = ledger.verify().head
    assert rows(hub, "SELECT seq, hash FROM event ORDER BY seq")[-1] == (3, bytes.fromhex(head))


def test_rules_of_forks_are_those_of_the_ledger(hub: str, ledgers: Ledgers) -> None:
    ledger = ledgers()
    edge = new_table(ledger)
    override(edge, "aten::gelu", "gelu")
    fork = ledger.create_table("fork", base="edge@2")
    fork.reset(["aten::mm"])
    fork.preserve(["cond"])
    ledger.create_table("second", base="fork").preserve(["aten::mm"])
    push(ledger, hub)
    found = rows(
        hub,
        "SELECT t.name, op.name, action, seq FROM rule JOIN op ON op.id = op_id JOIN decomp_table t ON t.id = table_id",
    )
    expected = [
        (name, op, rule.action, since.seq)
        for name in ("edge", "fork", "second")
        for state, blame in [ledger.state_and_since(name, ledger.version_of(name))]
        for op, rule in state.rules.items()
        for since in [blame[op]]
    ]
    assert sorted(found) == sorted(expected)  # type: ignore[type-var]
    assert len(found) == 5


def test_a_ledger_with_an_export_is_pushed(hub: str, tmp_path: Path) -> None:
    path = tmp_path / "exports.db"
    number = private_export(path, "why", "ann", "host", "ci", "folder")
    with Ledger(path) as ledger:
        push(ledger, hub)
    assert rows(hub, "SELECT seq, failed FROM export") == [(number, 0)]
    assert rows(hub, "SELECT series, module, newest_export, newest_success FROM programs") == [
        ("edge", "", number, number)
    ]
    assert {kind for (kind,) in rows(hub, "SELECT kind FROM blob")} == {"catalog", "decomposition", "environment"}


def test_a_ledger_that_was_written_to_in_two_places_is_refused(hub: str, ledgers: Ledgers, tmp_path: Path) -> None:
    ledger = ledgers()
    ledger.backup(tmp_path / "copy.db")
    for op in OPS[:3]:
        new_table(ledger).preserve([op])
    push(ledger, hub)
    with Ledger(tmp_path / "copy.db", actor="ben") as copy:
        with pytest.raises(HubDiverged, match="ends with #2") as older:
            push(copy, hub)
        assert older.value.seq == 3
        for op in OPS:
            new_table(copy).preserve([op])
        with pytest.raises(HubDiverged, match="from event #3 on") as diverged:
            push(copy, hub)
        assert diverged.value.seq == 3


def test_two_ledgers_cannot_have_one_name(hub: str, ledgers: Ledgers) -> None:
    push(ledgers("one"), hub, name="mine")
    with pytest.raises(HubError, match=r"another ledger has the name 'mine'.*--as NAME"):
        push(ledgers("other"), hub, name="mine")


def test_the_hub_knows_every_kind_of_event() -> None:
    from decomp_ledger.storage.migrations import hub_migrations_folder, load_migration

    module = load_migration(hub_migrations_folder(), "0001_initial")
    named = {name.strip(" '"): "made" for name in module._KINDS.split(",")}
    named |= {name.strip(" '"): "" for name in module._OTHER_KINDS.split(",")}
    assert named == {kind: "made" if body.makes_version else "" for kind, body in EVENT_KINDS.items()}
