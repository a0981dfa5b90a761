"""Generated ledgers with every kind of event: what a hub derives of them is what they answer."""

import random
from pathlib import Path

import pytest
from strategies import OPS, catalog_of, decomposition, new_table, override

from decomp_ledger import Hub, clone
from decomp_ledger.hub.connection import connect
from decomp_ledger.ledger import Ledger
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.events import (
    EVENT_KINDS,
    OVERRIDE,
    PRESERVE,
    RESET,
    Change,
    Exported,
    Found,
    Lowered,
    Passed,
    RootModule,
    Saved,
    Traced,
    Updated,
)
from decomp_ledger.storage.event_store import Provenance

NAMES = ("edge", "job/maker/1", "job/maker/2", "job/maker/10", "other/maker/1", "job/maker", "a/b", "x/0", "edge/1")
CATALOGS = (catalog_of("aten::mm", "aten::gelu"), catalog_of("aten::mm"), catalog_of("cond", torch="2.6.0"))
MODULES = (None, RootModule("pkg.Model"), RootModule("pkg.Model", "model.py", 3), RootModule("pkg.Other", "model.py"))


class Writer:
    """Appends random events to a ledger."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger, self.random = ledger, random.Random(seed)

    def write(self, events: int) -> None:
        for _ in range(events):
            getattr(self, self.random.choice(STEPS))()

    def table(self) -> TableLog:
        known = [info.name for info in self.ledger.tables()]
        name = self.random.choice(NAMES)
        if self.ledger.find_table(name) is not None:  # a series means its newest run
            return self.ledger.table_log(name)
        bases = ["torch", "empty", *(f"{each}@{self.ledger.version_of(each)}" for each in known)]
        bases += [f"{each}@{self.random.randint(1, self.ledger.version_of(each))}" for each in known]
        return new_table(self.ledger, name, self.random.choice(bases))

    def append(self, body: object, *, makes: bool) -> None:
        table = self.table()
        store = self.ledger.event_store
        actor = self.random.choice(["ann", "ben\u2028\x07", "eve\x00"])
        reason = self.random.choice([None, 'why "\\ \x00 \u65e5'])
        with self.ledger.database.write_transaction():
            provenance = Provenance(actor, reason, None, {"torch": self.random.choice(["2.13.0", "2.6.0"])})
            store.append(table.name, table.version + makes, body, provenance)  # type: ignore[arg-type]

    def change(self) -> None:
        ops = self.random.sample(OPS, self.random.randint(1, 3))
        self.table().change(
            Updated,
            lambda _: [
                (op, action, decomposition(self.random.choice("fg")) if action == OVERRIDE else None)
                for op in ops
                for action in [self.random.choice([PRESERVE, OVERRIDE, RESET])]
            ],
        )

    def preserve(self) -> None:
        self.table().preserve([self.random.choice(OPS)])

    def override(self) -> None:
        override(self.table(), self.random.choice(OPS), self.random.choice("fgh"))

    def reset(self) -> None:
        self.table().reset([self.random.choice(OPS)])

    def revert(self) -> None:
        table = self.table()
        table.revert(self.random.randint(1, table.version))

    def tag(self) -> None:
        self.table().tag(f"tag{self.ledger.event_store.head()[0]}")

    def materialize(self) -> None:
        self.table().materialize(self.random.choice(CATALOGS))

    def passed(self) -> None:
        self.append(Passed((Change("aten::mm", PRESERVE),), entries=9), makes=True)

    def found(self) -> None:
        self.append(Found((Change("cond", PRESERVE), Change("aten::mm", RESET))), makes=True)

    def saved(self) -> None:
        self.append(Saved(1, "m.pt2", "pt2", 1, "0" * 64), makes=False)

    def lowered(self) -> None:
        self.append(Lowered("make_fx", 3, None, 1), makes=False)

    def export(self) -> None:
        table, catalog = self.table(), self.random.choice(CATALOGS)
        snapshot = table.materialize(catalog)
        counts = {"aten::mm": 1}
        error = self.random.choice([None, ("RuntimeError", "no \x00 kernel")])
        module = self.random.choice(MODULES)
        body = Exported(catalog.digest, snapshot.digest, "b", "a", counts, {}, {}, 3, error, module=module)
        table.exported(body, table.version)

    def traced(self) -> None:
        table, catalog = self.table(), self.random.choice(CATALOGS)
        snapshot = table.materialize(catalog)
        body = Traced(catalog.digest, snapshot.digest, "make_fx", 3, "empty")
        store = self.ledger.event_store
        with self.ledger.database.write_transaction():
            store.append(table.name, table.version, body, Provenance("ann", None, None, {}))


STEPS = [name for name in vars(Writer) if name not in ("write", "table", "append") and not name.startswith("_")]


def programs(ledger: Ledger) -> set[tuple[object, ...]]:
    """Return the newest export of each table, module, commit and graph, and the newest that succeeded."""
    found: dict[tuple[str, ...], tuple[int, int | None]] = {}
    for event in ledger.exports():
        module, commit = event.body.module, ledger.environment(event.environment).get("git_commit")
        names = (module.name, module.file or "") if module else ("", "")
        key = (event.table, *names, str(commit or ""), event.body.before or "")
        found[key] = (event.seq, found.get(key, (0, None))[1] if event.body.error else event.seq)
    return {(*key, *newest) for key, newest in found.items()}


def rules(ledger: Ledger) -> set[tuple[object, ...]]:
    return {
        (info.name, op, rule.action, since.seq, int(state.from_dict))
        for info in ledger.tables()
        for state, origins in [ledger.state_and_since(info.name, info.version)]
        for op, rule in state.rules.items()
        for since in [origins[op]]
    }


RULES = """
SELECT t.name, op.name, r.action, r.seq, t.from_dict FROM rule AS r
JOIN op ON op.id = r.op_id JOIN decomp_table AS t ON t.id = r.table_id
"""
PROGRAMS = """
SELECT t.name, p.module, p.file, p.git_commit, p.graph, p.seq, p.succeeded
FROM program AS p JOIN decomp_table AS t ON t.id = p.table_id
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_hub_derives_what_the_ledger_answers(
    hub: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decomp_ledger.hub.push.BATCH_EVENTS", seed * 20 + 1)
    with Ledger(tmp_path / "l.db", actor="ann") as ledger:
        writer = Writer(ledger, seed)
        for _ in range(3):
            writer.write(25)
            ledger.push(hub, name="mine")
            with connect(hub) as connection:
                assert set(connection.rows(RULES)) == rules(ledger)
                assert set(connection.rows(PROGRAMS)) == programs(ledger)
        assert Hub(hub).verify().problems == ()
        clone("mine", hub, tmp_path / "clone.db")
        with Ledger(tmp_path / "clone.db") as copy:
            assert list(copy.dump_lines()) == list(ledger.dump_lines())


def test_the_generated_ledgers_have_every_kind(tmp_path: Path) -> None:
    kinds = set()
    for seed in range(6):
        with Ledger(tmp_path / f"{seed}.db", actor="ann") as ledger:
            Writer(ledger, seed).write(75)
            assert ledger.verify().problems == ()
            kinds |= {event.kind for event in ledger.events()}
    assert kinds == set(EVENT_KINDS)
