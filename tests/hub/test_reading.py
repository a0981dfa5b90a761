"""A hub that was edited: what is shown of it is checked, and damage is one error that names where."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hub_ledgers import random_ledger
from strategies import without_torch  # noqa: F401  # a fixture that this module uses

from decomp_ledger import Hub, HubError, Ledger, Policy, SchemaError
from decomp_ledger.hub.push import push
from decomp_ledger.model.canonical_json import canonical_json

# What may be asked of a hub, each over all that it has.
QUESTIONS: dict[str, Callable[[Hub], object]] = {
    "exports": lambda hub: hub.exports(limit=None),
    "events": lambda hub: hub.events(limit=None),
    "blame": lambda hub: [hub.blame(op, limit=None) for op in ("aten::linear", "aten::mm", "aten::gelu", "cond")],
    "explain": lambda hub: hub.explain("aten::linear"),
    "gate": lambda hub: hub.gate(policy=Policy(keep=("aten::linear",), require_reason=True), torch="2.15.0"),
}
OF_EXPORT = "(SELECT max(seq) FROM export)"
EVENT = f"UPDATE event SET {{}} WHERE seq = {OF_EXPORT}"
NOTED = f"(SELECT {{}} FROM export WHERE seq = {OF_EXPORT})"
# Name -> the statement that damages the hub, and the questions that must notice it; others may not read what it edits.
DAMAGES: dict[str, tuple[str, set[str]]] = {
    "another text": (EVENT.format("text = replace(text, 'milliseconds', 'millisecond')"), {"exports", "events"}),
    "no JSON": (EVENT.format("text = '{'"), {"exports", "events"}),
    "a key twice": (EVENT.format("text = '{\"actor\":\"Eve\",' || substr(text, 2)"), {"exports", "events"}),
    "spaces": (EVENT.format("text = replace(text, '\"seq\":', '\"seq\": ')"), {"exports", "events"}),
    "another hash": (EVENT.format("hash = zeroblob(32)"), {"exports", "events"}),
    "another hash before": (EVENT.format("prev_hash = zeroblob(32)"), {"exports", "events"}),
    "another number": (EVENT.format("seq = 999"), set()),
    "another environment": ("UPDATE blob SET body = '{\"torch\":\"6.6.6\"}' WHERE kind = 'environment'",
                            {"exports", "events", "explain", "gate"}),
    "no environment": ("DELETE FROM blob WHERE kind = 'environment'", {"exports", "events", "explain", "gate"}),
    "another decomposition": ("UPDATE blob SET body = '{\"origin\":\"opaque\"}' WHERE kind = 'decomposition'",
                              {"events", "blame"}),
    "another catalog": ("UPDATE blob SET body = '{\"build\":{},\"ops\":{}}' WHERE kind = 'catalog'",
                        {"explain", "gate"}),
    "no catalog": ("DELETE FROM blob WHERE kind = 'catalog'", {"explain", "gate"}),
    "a rule of another event": ("UPDATE rule SET seq = 1", {"blame"}),
    "another action": ("UPDATE rule SET action = CASE action WHEN 'preserve' THEN 'override' ELSE 'preserve' END",
                       {"blame"}),
    "changes that are gone": ("DELETE FROM change", {"explain", "gate"}),
    "another base": ("UPDATE decomp_table SET base = 'empty' WHERE base = 'torch'", {"explain", "gate"}),
    "no such base": ("UPDATE decomp_table SET base = 'x'", {"explain", "gate"}),
    "no tables": ("DELETE FROM decomp_table", {"explain"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a hub with two ledgers, without the triggers that refuse edits."""
    folder = tmp_path_factory.mktemp("sound")
    path = folder / "hub.db"
    Hub(str(path)).init()
    for seed in (1, 3):
        with Ledger(random_ledger(folder / f"{seed}.db", seed, steps=40), read_only=True) as ledger:
            push(ledger, str(path), name=f"team/{seed}")
    return path


def edited(sound: Path, path: Path, statement: str) -> Hub:
    """Copy a hub, and edit the copy past its triggers, whose texts it keeps."""
    with closing(sqlite3.connect(sound)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
        schema = target.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in schema:
            target.execute(f"DROP TRIGGER {name}")
        target.execute("PRAGMA ignore_check_constraints = ON")
        target.execute(statement)
        assert target.execute("SELECT changes()").fetchone()[0] > 0
        for _, sql in schema:
            target.execute(sql)
        target.commit()
    return Hub(str(path))


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_error_that_names_what_is_damaged(
    sound: Path, tmp_path: Path, damage: str, question: str
) -> None:
    statement, noticed_by = DAMAGES[damage]
    hub = edited(sound, tmp_path / "hub.db", statement)
    try:
        QUESTIONS[question](hub)
    except HubError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 1000 and text.isprintable()
        assert "damaged" in text or "missing" in text or "run `decomp-ledger hub verify`" in text
    else:
        assert question not in noticed_by


def test_an_undamaged_copy_answers_every_question(sound: Path, tmp_path: Path) -> None:
    hub = edited(sound, tmp_path / "hub.db", "UPDATE event SET seq = seq")
    for ask in QUESTIONS.values():
        assert ask(hub)


def test_an_error_names_the_ledger_and_the_event(sound: Path, tmp_path: Path) -> None:
    newest = Hub(str(sound)).exports(ledger="team/3", limit=1)[0].event.seq
    hub = edited(sound, tmp_path / "hub.db", f"UPDATE event SET hash = zeroblob(32) WHERE seq = {newest}")
    with pytest.raises(HubError, match=f"^event #{newest} of team/3: damaged: its text does not match its hash; run"):
        hub.exports(ledger="team/3")


@pytest.mark.parametrize("text", ["[]", '{"seq":1}', "{}", "1", '{"a":1e5}', "[" * 100_000, '"x"'])
def test_a_text_that_has_its_hash_but_is_not_an_event_is_damage(sound: Path, tmp_path: Path, text: str) -> None:
    with closing(sqlite3.connect(sound)) as connection:
        row, seq, before = connection.execute(
            f"SELECT ledger_id, seq, prev_hash FROM event WHERE seq = {OF_EXPORT}"
        ).fetchone()
    digest = hashlib.sha256(before + text.encode()).hexdigest()
    statement = f"UPDATE event SET text = '{text}', hash = x'{digest}' WHERE ledger_id = {row} AND seq = {seq}"
    with pytest.raises(HubError, match=f"^event #{seq} of team/.: damaged: "):
        edited(sound, tmp_path / "hub.db", statement).exports(limit=None)


def test_a_text_of_a_newer_version_is_a_schema_error(sound: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(sound)) as connection:
        row, seq, text, before = connection.execute(
            "SELECT ledger_id, seq, text, prev_hash FROM event WHERE seq = (SELECT max(seq) FROM export)"
        ).fetchone()
    newer = canonical_json({**json.loads(text), "schema": 99})
    digest = hashlib.sha256(before + newer.encode()).hexdigest()
    quoted = newer.replace("'", "''")
    statement = f"UPDATE event SET text = '{quoted}', hash = x'{digest}' WHERE ledger_id = {row} AND seq = {seq}"
    with pytest.raises(SchemaError, match=f"^event #{seq} of team/.: event of kind 'exported', schema 99: a newer"):
        edited(sound, tmp_path / "hub.db", statement).exports(limit=None)
