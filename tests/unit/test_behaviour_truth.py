"""The judge of the truth test: what it counts as false, named, missed and unexplained."""

from typing import Any

import attrs
import pytest
from behaviour_truth import Truth, compare, details

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


def answer(sample: str, after: list[str], fired: list[tuple[str, str]], program: str = "p") -> dict[str, Any]:
    """Return what a process answers of one model."""
    model = {
        "before": [program],
        "after": after,
        "fired": [(op, "(f32[2])", digest) for op, digest in fired],
        "ops": ["aten::x"],
    }
    return {"samples": {"aten::differs": {"(1)": sample}}, "models": {"net": model}}


def judged(old: dict[str, Any], new: dict[str, Any], used: set[str]) -> Truth:
    return compare(("1.0.0", "2.0.0"), whole(), old, new, {"net": frozenset(used)})


@pytest.mark.parametrize(
    ("old", "new", "used", "false", "missed", "elsewhere", "unexplained", "passed"),
    [
        # Named, and it is true.
        (("x", ["1"], [("aten::differs", "1")]), ("y", ["2"], [("aten::differs", "2")]), {"aten::differs"},
         0, 0, 0, False, True),
        # The two processes do the same on the sample.
        (("x", ["1"], []), ("x", ["1"], []), set(), 1, 0, 0, False, False),
        # An op gives another graph in the model, and no sample shows it.
        (("x", ["1"], [("aten::same", "1")]), ("y", ["2"], [("aten::same", "2")]), {"aten::same"},
         0, 1, 0, False, False),
        # It fired, with inputs for which it does the same.
        (("x", ["1"], [("aten::differs", "1")]), ("y", ["1"], [("aten::differs", "1")]), {"aten::differs"},
         0, 0, 1, False, True),
        # The graphs differ, and no op changed: torch.export lowers in another way.
        (("x", ["1"], []), ("y", ["2"], []), set(), 0, 0, 0, True, True),
        # The graphs are the same although an op that fired gives another one: the export removed the difference.
        (("x", ["1"], [("aten::same", "1")]), ("y", ["1"], [("aten::same", "2")]), {"aten::same"},
         0, 1, 0, False, True),
        # An op that only the new table decomposes.
        (("x", ["1"], []), ("y", ["2"], [("aten::entered", "2")]), {"aten::entered"}, 0, 0, 0, False, True),
    ],
)  # fmt: skip
def test_the_judge(
    old: Any, new: Any, used: set[str], false: int, missed: int, elsewhere: int, unexplained: bool, passed: bool
) -> None:
    truth = judged(answer(*old), answer(*new), used)
    (model,) = truth.models
    assert (truth.claimed, len(truth.false)) == (1, false)
    assert (len(model.missed), len(model.elsewhere), model.unexplained) == (missed, elsewhere, unexplained)
    assert truth.passed is passed
    assert ("unexplained" in details(truth)) is unexplained


def test_graphs_of_different_programs_are_not_unexplained() -> None:
    truth = judged(answer("x", ["1"], []), answer("y", ["2"], [], program="q"), set())
    assert not truth.models[0].unexplained
