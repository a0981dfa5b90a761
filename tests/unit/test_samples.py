"""The language of sample calls: what is written is read again, and nothing else is accepted."""

from __future__ import annotations

import contextlib
import math
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decomp_ledger.errors import LedgerError, SampleError
from decomp_ledger.model.samples import CONSTANTS, DTYPES, SampleCall, TensorSample, TorchConstant, parse_call

SIZES = st.integers(0, 9)


@st.composite
def tensors(draw: st.DrawFn) -> TensorSample:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(draw(st.lists(SIZES, max_size=4)))
    strides = tuple(draw(st.lists(SIZES, min_size=len(shape), max_size=len(shape)))) if draw(st.booleans()) else None
    below = draw(st.none() | st.integers(1, 99)) if dtype[0] in "iu" else None
    if draw(st.booleans()) and len(shape) == 1 and not strides:
        values = st.integers(-9, 9) | st.floats(allow_nan=False)
        return TensorSample(dtype, shape, None, None, tuple(draw(values) for _ in range(shape[0])))
    return TensorSample(dtype, shape, strides or None, below)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
VALUES = PLAIN | tensors() | st.sampled_from(sorted(CONSTANTS)).map(TorchConstant)
ARGUMENTS = st.recursive(VALUES, lambda items: st.lists(items, max_size=3).map(tuple), max_leaves=4)
NAMES = st.sampled_from(["dim", "out", "dtype", "alpha"])
CALLS = st.builds(
    SampleCall, st.lists(ARGUMENTS, max_size=4).map(tuple), st.dictionaries(NAMES, ARGUMENTS, max_size=2), st.booleans()
)


@given(call=CALLS)
def test_a_call_is_read_as_it_was_written(call: SampleCall) -> None:
    assert parse_call(str(call)) == call
    assert str(parse_call(str(call))) == str(call)


def test_not_a_number_is_a_value_too() -> None:
    assert math.isnan(parse_call("(nan)").args[0])
    assert parse_call("(-inf, 2j)").args == (-math.inf, 2j)


@given(text=st.text(max_size=30) | st.text("([f32i64,<=.]) '-", max_size=30).map(lambda text: f"({text})"))
def test_any_text_is_a_call_or_an_error(text: str) -> None:
    try:
        assert isinstance(parse_call(text), SampleCall)
    except SampleError as error:
        assert str(error).startswith("sample call: ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f32[2]",
        "x()",
        "()()",
        "(__import__('os'))",
        "(open)",
        "(lambda: 1)",
        "(1 + 1)",
        "(torch.load)",
        "(torch.ops.aten)",
        "(*[1])",
        "(**{})",
        "(f32)",
        "(f32[x])",
        "(f32[-1])",
        "(f32[True])",
        "(f33[2])",
        "(f32[2] < 3)",
        "(i64[2] < 0)",
        "(i64[2] < 3 < 4)",
        "(i64([0, [1]]))",
        "(i64(['a']))",
        "(i64([0]) < 3)",
        "(f32[2, 3].strided(1))",
        "(f32[2].other(1))",
        "(f32[9999, 9999])",
        "(f32[2].strided(99999999))",
        "(f32[9999].strided(9999))",
        "(f32[0, 99999999])",
        f"({'f32[999, 999], ' * 2})",
        f"([{'f32[999, 999], ' * 2}])",
        "dynamics(1)",
        "(" + "[" * 300 + "]" * 300 + ")",
        "(" + "1, " * 3000 + ")",
    ],
)
def test_everything_else_is_refused_and_never_run(text: str) -> None:
    with pytest.raises(SampleError, match=r"^sample call: .*; write ") as caught:
        parse_call(text)
    assert isinstance(caught.value, (LedgerError, ValueError))


@pytest.mark.parametrize("text", [r"('\d')", "(1is 2)", "('a' is None)", "(1, ())"])
def test_python_warns_of_no_text(text: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(SampleError):
            parse_call(text)
    assert caught == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(f32[()])", TensorSample("f32", ())),
        ("(i64[4] < 5)", TensorSample("i64", (4,), None, 5)),
        ("(f32[2, 3].strided(1, 2))", TensorSample("f32", (2, 3), (1, 2))),
        ("(i64([[0, 2]]))", TensorSample("i64", (1, 2), None, None, ((0, 2),))),
        ("(b8[0])", TensorSample("b8", (0,))),
        ("(torch.float64)", TorchConstant("float64")),
        ("([1, None, 'a'])", (1, None, "a")),
    ],
)
def test_each_form_of_a_value(text: str, expected: Any) -> None:
    assert parse_call(text).args == (expected,)
