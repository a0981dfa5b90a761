"""The outcome that a ledger gives of an op is what the graphs show, for hundreds of ops under four kinds of table.

`ZOO=400 pytest tests/torch/test_zoo.py` watches 400 ops instead of a sample, `ZOO=all` all of them (half an hour).
"""

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import zoo
import zoo_kinds
from dispatcher_changes import build_late_ops, compiler_is_here, load, unload
from torch.library import Library

from decomp_ledger import Ledger
from decomp_ledger.model.samples import parse_call

# In a herd of all ops, an override of `copy_` is counted when other animals call it within their own lowering.
SAMPLE, HERD, SEED = 120, 110, 16


def check(seen: Sequence[zoo.Sighting]) -> str:
    """Return the confusion table; fail with it if an answer is not what the graphs show."""
    counts = Counter((each.table, each.shown, each.answer) for each in seen)
    table = "\n".join(f"{count:6}  {' / '.join(key)}" for key, count in sorted(counts.items()))
    wrong = [each for each in seen if each.shown != each.answer]
    assert not wrong, f"table / shown by the graphs / answered:\n{table}\n{wrong[:20]}"
    return table


def test_the_outcome_of_each_op_is_what_the_graphs_show(ledger: Ledger) -> None:
    calls = zoo.calls()
    names = sorted(calls)
    random.Random(SEED).shuffle(names)
    wanted = os.environ.get("ZOO", str(SAMPLE))
    names = names if wanted == "all" else names[: int(wanted)]
    animals = list(zoo.animals({op: calls[op] for op in names}))
    seen: list[zoo.Sighting] = []
    for start in range(0, len(animals), HERD):
        seen += zoo.watch(animals[start : start + HERD], ledger)
    table = check(seen)
    watched = {each.op for each in seen if each.table == "none"}
    assert len(watched) > 0.8 * len(names), table
    assert {"decomposed", "kept", "functionalized", "emitted"} <= {each.answer for each in seen}
    print(table)


def test_the_outcome_of_each_higher_order_operator_is_what_the_graphs_show(ledger: Ledger) -> None:
    animals = zoo_kinds.higher_order()
    seen = list(zoo.watch(animals, ledger))
    check(seen)
    watched = {each.op for each in seen}
    assert {"cond", "while_loop", "out_dtype", "wrap_with_set_grad_enabled"} <= watched
    assert {each.op for each in animals} <= watched or not torch.__version__.startswith("2.13.")


@pytest.fixture
def libraries(library: Library) -> Iterator[list[zoo.Animal]]:
    yield zoo_kinds.libraries(library)
    zoo_kinds.forget(library)


def test_the_outcome_of_each_kind_of_op_of_a_library_is_what_the_graphs_show(
    libraries: list[zoo.Animal], ledger: Ledger
) -> None:
    seen = list(zoo.watch(libraries, ledger))
    check(seen)
    assert {each.op for each in libraries} <= {each.op for each in seen}
    assert {"decomposed", "kept", "functionalized"} <= {each.answer for each in seen}


@pytest.fixture
def op_of_cpp(library: Library, tmp_path: Path) -> Iterator[str]:
    built = build_late_ops(tmp_path)
    scene = SimpleNamespace(namespace=library.ns, late_ops=lambda: built)
    functions = load(scene, torch.ops.load_library)
    yield f"{library.ns}::at_load"
    unload(scene, functions)


@pytest.mark.skipif(not compiler_is_here(), reason="no C++ compiler here")
def test_the_outcome_of_an_op_of_cpp_is_what_the_graphs_show(op_of_cpp: str, ledger: Ledger) -> None:
    seen = list(zoo.watch([zoo.Animal(op_of_cpp, parse_call("(f32[3])"))], ledger))
    check(seen)
    words = {each.table: each.answer for each in seen if each.op == op_of_cpp}
    assert words == {"none": "kept", "preserve": "kept", "default": "decomposed", "override": "decomposed"}
