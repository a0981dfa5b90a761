"""What the comparison of a decomposition with a kernel says, apart from running them."""

import json

import attrs
import pytest

from decomp_ledger import NumericDifference, NumericsCheck, OpNumerics, ProgramCheck, SampleRun
from decomp_ledger.analysis.numerics import TensorFacts, facts_differences, tolerance

PLAIN = TensorFacts("float32", (2, 3), "strided", (3, 1))


def run(outcome: str, *kinds: str, error: float | None = None) -> SampleRun:
    differences = tuple(NumericDifference(kind, "result 0", "other") for kind in kinds)
    return SampleRun("(f32[2])", "filled", outcome, differences, error)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"dtype": "float64"}, "dtype", "dtype float64, not float32"),
        ({"shape": (3, 2), "strides": (2, 1)}, "shape", "shape [3, 2], not [2, 3]"),
        ({"layout": "sparse_coo", "strides": None}, "layout", "layout sparse_coo, not strided"),
        ({"strides": (1, 2)}, "strides", "strides [1, 2], not [3, 1]"),
        ({"shares": ("input 0",)}, "aliasing", "shares memory with input 0, not with nothing"),
    ],
)
def test_each_fact_that_differs_is_named(changes: dict[str, object], kind: str, text: str) -> None:
    found = facts_differences("result 0", PLAIN, attrs.evolve(PLAIN, **changes))
    assert NumericDifference(kind, "result 0", text) in found
    assert {each.kind for each in found} <= {kind, "strides"}
    assert facts_differences("result 0", PLAIN, PLAIN) == []


@pytest.mark.parametrize(("shape", "strides"), [((2, 1), (7, 7)), ((0, 3), (9, 9)), ((1, 1), (5, 4))])
def test_strides_that_reach_no_other_element_do_not_count(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    usual = TensorFacts("float32", shape, "strided", (7 if shape[0] == 2 else 1, 1))
    assert facts_differences("", usual, attrs.evolve(usual, strides=strides)) == []


def test_tolerances_are_those_of_torchs_tests() -> None:
    assert tolerance("float32") == (1.3e-6, 1e-5)
    assert tolerance("bfloat16", "aten::gelu") == (1.6e-2, 1e-4)
    assert tolerance("int64") == tolerance("bool") == (0, 0)
    assert tolerance("float32", "aten::native_layer_norm") == (1e-3, 1e-3)
    assert tolerance("int64", "aten::linspace") == (0, 1)


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        ([run("compared"), run("refused")], "same"),
        ([run("refused")], "same"),
        ([run("compared"), run("compared", "dtype")], "differs"),
        ([run("random", "shape")], "differs"),
        ([run("refused", "accepts")], "differs"),
        ([run("random"), run("kept")], "same shapes"),
        ([run("kept"), run("no kernel")], "unknown"),
    ],
)
def test_the_verdict_follows_from_the_runs(runs: list[SampleRun], verdict: str) -> None:
    assert OpNumerics("aten::f", "f", tuple(runs)).verdict == verdict


def test_a_check_counts_its_verdicts_and_passes_if_nothing_differs() -> None:
    bad = OpNumerics("aten::f", "f", (run("compared", "values", error=0.5), run("compared", error=0.25)))
    lost = OpNumerics("aten::g", "g", not_run="no function", reason="supply it")
    check = NumericsCheck("edge@3", "2.13.0", (bad, lost))
    assert (check.passed, check.counts) == (False, {"differs": 1, "no function": 1})
    assert (check.differing, check.failed) == ((bad,), (lost,))
    assert (bad.error, bad.kinds, len(bad.differing)) == (0.5, ("values",), 1)
    assert NumericsCheck("edge@3", "2.13.0", (lost,)).passed
    assert repr(check) == "<NumericsCheck of edge@3 in torch 2.13.0: 1 differs, 1 no function>"


def test_json_has_only_what_every_parser_reads() -> None:
    infinite = OpNumerics("aten::f", "f", (run("compared", "values", error=float("inf")),))
    check = NumericsCheck("edge@3", "2.13.0", (infinite,))
    assert json.loads(json.dumps(check.to_json(), allow_nan=False))["ops"][0]["error"] == "inf"
    difference = NumericDifference("values", "result 0", "other")
    program = ProgramCheck("edge@3", "raw.pt2", "2.13.0", (difference,), float("nan"), False, ("aten::f",), "aten::f")
    assert json.loads(json.dumps(program.to_json(), allow_nan=False))["culprit"] == "aten::f"
