"""The judge of the truth test: what it counts as false, named, missed and unexplained."""

from typing import Any

import attrs
import pytest
from behaviour_truth import HEADS, Truth, compare, details

from decomp_ledger.analysis.drift import Drift, NamedState, drift
from decomp_ledger.model.behaviour import Trace, Traces
from decomp_ledger.model.catalog import Catalog, Entry

ENTRY = Entry("cia", True, schema="aten::f(Tensor x) -> Tensor")
OPS = ("aten::differs", "aten::same", "aten::entered")


def whole() -> Drift:
    """Return a drift in which `differs` behaves differently and `entered` entered the table."""
    states = []
    for version, digest in (("1.0.0", "a"), ("2.0.0", "b")):
        entries = dict.fromkeys(OPS, ENTRY)
        entries["aten::entered"] = attrs.evolve(ENTRY, default=version == "2.0.0")
        traces = {"aten::differs": (("(1)", Trace(digest)),), "aten::same": (("(1)", Trace("s")),)}
        catalog = Catalog({"torch": version, "git": version}, entries)
        states.append(NamedState.of_catalog(version, catalog, Traces(version, traces)))
    return drift(*states)


# What a process did with one model: its lowered graph, and the ops of its program, each with its digest when exported
# alone and the digests of the ops that are inside it.
Did = tuple[str, dict[str, tuple[str, dict[str, str]]]]
X, Y = "(f32[2])", "(1)"


def answer(sample: str, did: Did, program: str = "p") -> dict[str, Any]:
    """Return what a process answers of one model, and of the sample."""
    after, ops = did
    fired = {(inner, digest) for _, inside in ops.values() for inner, digest in inside.items()}
    model = {
        "before": [program],
        "after": [after],
        "ops": ["aten::x", *ops],
        "unwritten": [],
        "lowered": [(op, X, [digest]) for op, (digest, _) in ops.items()],
        "fired": [(op, X, [digest]) for op, digest in sorted(fired)],
        "below": [(op, X, [(inner, X) for inner in inside]) for op, (_, inside) in ops.items()],
    }
    return {"samples": {"aten::differs": {Y: sample}}, "models": {"net": model}}


def judged(old: dict[str, Any], new: dict[str, Any], used: set[str]) -> Truth:
    return compare(("1.0.0", "2.0.0"), whole(), old, new, {"net": frozenset(used)})


def uses(op: str, lowered: str, traced: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Return a program of one op that becomes a graph when it is exported, and another when it is traced."""
    return {op: (lowered, {op: traced})}


NOTHING: Did = ("1", {})
EMPTY = {"changed": 0, "missed": 0, "undone": 0, "by_export": 0, "elsewhere": 0}


@pytest.mark.parametrize(
    ("old", "new", "used", "expected", "unexplained", "passed"),
    [
        # It changed the result, and is named.
        (("1", uses("aten::differs", "1", "1")), ("2", uses("aten::differs", "2", "2")), {"aten::differs"},
         {"changed": 1}, False, True),
        # It changed the result from inside another op.
        (("1", {"aten::same": ("1", {"aten::same": "s", "aten::differs": "1"})}),
         ("2", {"aten::same": ("2", {"aten::same": "s", "aten::differs": "2"})}), {"aten::differs"},
         {"changed": 1}, False, True),
        # It changed the result, and no sample shows it.
        (("1", uses("aten::same", "1", "1")), ("2", uses("aten::same", "2", "2")), {"aten::same"},
         {"changed": 1, "missed": 1}, False, False),
        # It gives another graph, which the rest of the export makes the same.
        (("1", uses("aten::differs", "1", "1")), ("1", uses("aten::differs", "1", "2")), {"aten::differs"},
         {"undone": 1}, False, True),
        # Alone it becomes another graph, but the result is the same.
        (("1", uses("aten::differs", "1", "1")), ("1", uses("aten::differs", "2", "2")), {"aten::differs"},
         {"changed": 1}, False, False),
        # It fired, with inputs for which it does the same.
        (("1", uses("aten::differs", "1", "1")), ("1", uses("aten::differs", "1", "1")), {"aten::differs"},
         {"elsewhere": 1}, False, True),
        # The export does something else with an op that did not change.
        (("1", uses("aten::same", "1", "1")), ("2", uses("aten::same", "2", "1")), {"aten::same"},
         {"by_export": 1}, False, True),
        # The graphs differ, and no op tells why.
        (("1", {}), ("2", {}), set(), {}, True, True),
        # An op that only the new table decomposes.
        (("1", {"aten::entered": ("1", {})}), ("2", uses("aten::entered", "2", "2")), {"aten::entered"},
         {"changed": 1}, False, True),
    ],
)  # fmt: skip
def test_the_judge(
    old: Did, new: Did, used: set[str], expected: dict[str, int], unexplained: bool, passed: bool
) -> None:
    truth = judged(answer("x", old), answer("y", new), used)
    (model,) = truth.models
    assert {kind: len(getattr(model, kind)) for kind in EMPTY} == EMPTY | expected
    assert model.unexplained is unexplained
    assert truth.passed is passed
    assert ("unexplained" in details(truth)) is unexplained


def test_a_sample_on_which_both_processes_do_the_same_is_false() -> None:
    truth = judged(answer("x", NOTHING), answer("x", NOTHING), set())
    assert (truth.claimed, truth.false, truth.passed) == (1, (("aten::differs", Y),), False)
    assert judged(answer("x", NOTHING), answer("y", NOTHING), set()).passed


def test_graphs_of_different_programs_are_not_unexplained() -> None:
    truth = judged(answer("x", NOTHING), answer("y", ("2", {}), program="q"), set())
    assert not truth.models[0].unexplained


@pytest.mark.parametrize("side", [0, 1])
def test_a_model_that_one_torch_cannot_export_is_named_and_not_judged(side: int) -> None:
    answers = [answer("x", NOTHING), answer("y", NOTHING)]
    answers[side]["models"]["net"] = {"error": "ValueError: too new"}
    truth = judged(*answers, set())
    assert (truth.models, truth.failed) == ((), {"net": "ValueError: too new"})
    assert "net: not exported in both: ValueError: too new" in details(truth)


def test_a_row_has_a_cell_for_each_head() -> None:
    assert len(judged(answer("x", NOTHING), answer("y", NOTHING), set()).row()) == len(HEADS)
