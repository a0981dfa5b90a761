"""The outcome that a ledger gives of an op is what the graphs show, for hundreds of ops under four kinds of table.

`ZOO=400 pytest tests/torch/test_zoo.py` watches 400 ops instead of a sample, `ZOO=all` all of them (an hour).
"""

import os
import random
from collections import Counter

import zoo

from decomp_ledger import Ledger

SAMPLE, HERD, SEED = 120, 60, 16


def test_the_outcome_of_each_op_is_what_the_graphs_show(ledger: Ledger) -> None:
    calls = zoo.calls()
    names = sorted(calls)
    random.Random(SEED).shuffle(names)
    wanted = os.environ.get("ZOO", str(SAMPLE))
    names = names if wanted == "all" else names[: int(wanted)]
    animals = list(zoo.animals({op: calls[op] for op in names}))
    seen: list[zoo.Sighting] = []
    for start in range(0, len(animals), HERD):
        for herd in zoo.herds(animals[start : start + HERD]):
            seen += zoo.watch(herd, ledger)
    counts = Counter((each.table, each.shown, each.answer) for each in seen)
    table = "\n".join(f"{count:6}  {' / '.join(key)}" for key, count in sorted(counts.items()))
    wrong = [each for each in seen if each.shown != each.answer]
    assert not wrong, f"table / shown by the graphs / answered:\n{table}\n{wrong[:20]}"
    assert len({each.op for each in seen if each.table == "none"}) > 0.8 * len(names), table
    assert {"decomposed", "kept", "functionalized", "emitted"} <= {each.answer for each in seen}
    print(table)
