"""Ledgers with random histories, to be pushed into a hub: forks, series, dicts, resets, tags, exports."""

from __future__ import annotations

import random
from pathlib import Path

from strategies import OPS, catalog_of, decomposition, new_table

from decomp_ledger.ledger import Ledger
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.events import (
    OVERRIDE,
    PRESERVE,
    Change,
    Emission,
    Exported,
    Passed,
    RootModule,
    Set,
    Updated,
)

CATALOGS = tuple(catalog_of(*OPS[:count], torch=torch) for count, torch in ((4, "2.13.0"), (7, "2.9.1")))
ACTORS = ("Ada <ada@example.org>", "Bob", "ci \N{GREEK SMALL LETTER ALPHA}")
REASONS = (None, "a fused kernel", '100% "Quoted" _why_\nsecond line', "NUL \0 here")
MODULES = (None, RootModule("__main__.Model", "export.py", 3), RootModule("pkg.Net", "net.py", 7))


def random_ledger(path: Path, seed: int, steps: int = 25) -> Path:
    """Make a ledger whose history a seed determines, but for its id and its times."""
    choose = random.Random(seed)
    with Ledger(path, actor=choose.choice(ACTORS)) as ledger:
        tables = [new_table(ledger, "edge"), new_table(ledger, "night/make/1", base="empty")]
        for step in range(steps):
            ledger.actor, ledger.reason = choose.choice(ACTORS), choose.choice(REASONS)
            table = choose.choice(tables)
            kind = choose.choice(("preserve", "override", "update", "reset", "fork", "run", "revert", "tag", "dict",
                                  "export", "export", "export"))  # fmt: skip
            if kind in ("fork", "run"):
                base = f"{table.name}@{choose.randint(1, table.version)}" if kind == "fork" else "torch"
                name = f"fork{step}" if kind == "fork" else ledger.next_name("night/make")
                tables.append(new_table(ledger, name, base=base))
            elif kind == "dict":
                tables.append(_dict_table(ledger, f"dict{step}", choose))
            else:
                _change(table, kind, step, choose)
    return path


def _change(table: TableLog, kind: str, step: int, choose: random.Random) -> None:
    ops = choose.sample(OPS, choose.randint(1, 3))
    if kind == "preserve":
        table.preserve(ops)
    elif kind == "override":
        table.change(Set, lambda _: [(ops[0], OVERRIDE, decomposition(choose.choice("fgh")))])
    elif kind == "update":
        wanted = [(op, OVERRIDE, decomposition("u")) if op is ops[0] else (op, PRESERVE, None) for op in ops]
        table.change(Updated, lambda _: wanted)
    elif kind == "reset":
        table.reset(list(table.rules)[:2])
    elif kind == "revert":
        table.revert(choose.randint(1, table.version))
    elif kind == "tag":
        table.tag(f"tag{step}")
    elif kind == "export":
        _export(table, choose)


def _dict_table(ledger: Ledger, name: str, choose: random.Random) -> TableLog:
    table = new_table(ledger, name)
    changes = tuple(Change(op, PRESERVE) for op in choose.sample(OPS, 2))
    ledger.append(name, 2, Passed(changes, entries=5, later=(changes[0].op,), caller="torch/onnx"))
    table.sync()
    _export(table, choose)
    return table


def _export(table: TableLog, choose: random.Random) -> None:
    table.exported(an_export(table, choose), table.version)


def an_export(table: TableLog, choose: random.Random) -> Exported:
    """Return an export of the newest version of a table, as an event tells it."""
    catalog: Catalog = choose.choice(CATALOGS)
    snapshot = table.materialize(catalog)
    names = [op for op in OPS if op in catalog.ops]
    before = {op: choose.randint(1, 3) for op in choose.sample(names, 3)}
    after = {op: choose.randint(1, 3) for op in choose.sample(names, 2)}
    failed = choose.random() < 0.2
    made = tuple(Emission(op, number, (), op if op in before else None) for op, number in after.items())
    return Exported(
        catalog.digest, snapshot.digest, f"{choose.randint(1, 3)}" * 64, None if failed else "a" * 64, before,
        {} if failed else after, {choose.choice(names): 1}, choose.randint(1, 900),
        ("RuntimeError", "no kernel") if failed else None, declined={}, emitted=None if failed else made,
        raised=() if failed else None, kinds={}, early={}, module=choose.choice(MODULES),
    )  # fmt: skip
