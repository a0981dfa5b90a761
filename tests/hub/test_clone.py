"""Making ledgers of what a hub has, and checking a hub."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from strategies import catalog_of, new_table, override, private_export

from decomp_ledger import Hub, clone
from decomp_ledger.errors import HubDiverged, HubError
from decomp_ledger.hub.connection import connect
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.hash_chain import genesis
from decomp_ledger.storage.hashed_texts import hashed_texts

Ledgers = Callable[..., Ledger]


def rich(ledger: Ledger) -> None:
    """Append events with overrides, forks, catalogs of one build and of another, and a tag."""
    edge = new_table(ledger)
    override(edge, "aten::gelu", "gelu", reason="faster\u2028\x00'\"\\")
    override(edge, "aten::gelu", "gelu2")
    edge.materialize(catalog_of("aten::mm", "aten::gelu"))
    edge.materialize(catalog_of("aten::mm"))
    edge.materialize(catalog_of("aten::mm", torch="2.6.0"))
    ledger.tag("edge@2", "release")
    fork = ledger.create_table("fork", base="edge@2")
    fork.preserve(["cond", "aten::add.Tensor"])
    fork.reset(["aten::mm"])
    edge.revert(1)


def test_a_clone_is_the_original_to_the_last_line_of_its_dump(hub: str, tmp_path: Path, ledgers: Ledgers) -> None:
    private_export(tmp_path / "one.db", "why", "ann", "host", "ci", "folder")
    with Ledger(tmp_path / "one.db") as one:
        rich(one)
        one.push(hub, name="mine")
        result = clone("mine", hub, tmp_path / "clone.db")
        with Ledger(tmp_path / "clone.db") as copy:
            assert (result.head, list(copy.dump_lines())) == (one.verify().head, list(one.dump_lines()))
    assert Hub(hub).verify().ok


def test_a_clone_follows_the_original(hub: str, tmp_path: Path, ledgers: Ledgers) -> None:
    ledger = ledgers()
    ledger.push(hub, name="mine")
    clone(ledger.id, hub, tmp_path / "clone.db")
    with Ledger(tmp_path / "clone.db") as copy:
        assert copy.fetch(hub).received == 0
        rich(ledger)
        pushed = ledger.push(hub)
        assert copy.fetch(hub).received == pushed.sent
        assert list(copy.dump_lines()) == list(ledger.dump_lines())
        new_table(copy).preserve(["aten::mm"])
        with pytest.raises(HubDiverged, match="push them"):
            copy.fetch(hub)
        new_table(ledger).preserve(["aten::linear"])
        ledger.push(hub)
        with pytest.raises(HubDiverged, match=f"from event #{pushed.events + 1} on"):
            copy.fetch(hub)


def test_a_ledger_that_the_hub_lacks_is_named(hub: str, tmp_path: Path, ledgers: Ledgers) -> None:
    with pytest.raises(HubError, match="no ledger 'mine'; it has none yet"):
        clone("mine", hub, tmp_path / "clone.db")
    ledgers("one").push(hub, name="theirs")
    with pytest.raises(HubError, match="no ledger 'mine'; it has 'theirs'"):
        clone("mine", hub, tmp_path / "clone.db")
    with pytest.raises(HubError, match="does not have this ledger; push it first"):
        ledgers("other").fetch(hub)


def test_the_id_of_a_ledger_is_never_the_name_of_another(hub: str, tmp_path: Path, ledgers: Ledgers) -> None:
    one, other = ledgers("one"), ledgers("other")
    new_table(one).preserve(["aten::linear"])
    one.push(hub, name="mine")
    other.push(hub, name=one.id)
    clone(one.id, hub, tmp_path / "clone.db")
    with Ledger(tmp_path / "clone.db") as copy:
        assert copy.id == one.id
    opened = Hub(hub)
    assert {each.ledger.id for each in opened.events(ledger=one.id)} == {one.id}
    assert opened.verify(one.id).events == one.verify().events
    assert [name.id for name, _ in opened.gate(ledger=one.id, torch="2.15").results] == [one.id]


def test_a_ledger_that_was_cut_or_changed_differs_from_the_hub(hub: str, tmp_path: Path, ledgers: Ledgers) -> None:
    ledger = ledgers()
    ledger.backup(tmp_path / "short.db")
    new_table(ledger).preserve(["cond"])
    ledger.push(hub)
    assert ledger.verify(hub=hub).ok
    new_table(ledger).preserve(["aten::add.Tensor"])
    assert ledger.verify(hub=hub).ok
    with Ledger(tmp_path / "short.db") as short:
        assert [(each.seq, "the tail was cut" in each.text) for each in short.verify(hub=hub).problems] == [(3, True)]
        new_table(short).preserve(["aten::gelu"])
        assert "the history was rewritten (the anchors agree up to #2)" in short.verify(hub=hub).problems[0].text


WRONG_TEXTS = {
    "an unknown field": lambda text: text.replace('{"actor"', '{"a":1,"actor"'),
    "a space": lambda text: text.replace('"kind":', '"kind": '),
    "a body of another kind": lambda text: text.replace('"changes":', '"changes":[],"more":'),
    "a time that is not one": lambda text: text.replace('"recorded_at":"2', '"recorded_at":"x'),
}


@pytest.mark.parametrize("name", WRONG_TEXTS)
def test_a_clone_of_what_is_not_a_ledger_leaves_nothing(hub: str, tmp_path: Path, ledgers: Ledgers, name: str) -> None:
    """Someone who may write a hub appends an event that no ledger has, and that continues the chain."""
    ledger = ledgers()
    ledger.push(hub, name="mine")
    new_table(ledger).preserve(["cond"])
    clone("mine", hub, tmp_path / "older.db")
    with ledger.database.long_read() as source:
        *_, last = hashed_texts(source, 0, genesis(*ledger.event_store.identity()))
    text = WRONG_TEXTS[name](last.text)
    row = (1, 3, text, last.prev_hash, hashlib.sha256(last.prev_hash + text.encode()).digest())
    with connect(hub, write=True) as connection:
        if connection.dialect == "sqlite":
            connection.run("PRAGMA trusted_schema = ON")
        with connection.transaction():
            types = ("int4", "int8", "text", "bytea", "bytea")
            connection.insert("event", ("ledger_id", "seq", "text", "prev_hash", "hash"), types, [row])
    with pytest.raises(HubError, match=r"what it has of 'mine' is not a ledger: .*; run `decomp-ledger hub verify`"):
        clone("mine", hub, tmp_path / "clone.db")
    with Ledger(tmp_path / "older.db") as older:
        with pytest.raises(HubError, match="is not a ledger"):
            older.fetch(hub)
        assert older.verify().events == 2
    assert not (tmp_path / "clone.db").exists()
    assert not Hub(hub).verify().ok
    with pytest.raises(HubDiverged, match="from event #3 on"):
        ledger.push(hub)


def test_a_clone_finds_the_hub_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOMP_LEDGER_HUB", str(tmp_path / "hub.db"))
    Hub().init()
    with Ledger(tmp_path / "l.db", actor="ada") as ledger:
        new_table(ledger)
        pushed = ledger.push(name="mine")
    assert clone("mine", None, tmp_path / "clone.db").head == pushed.head
