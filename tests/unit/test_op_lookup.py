"""Which ops a text means, and what is suggested for a name that is not known."""

import pytest
from hypothesis import given
from strategies import overloads, words

from decomp_ledger.errors import InvalidName, UnknownOp
from decomp_ledger.model.op_lookup import Lists, did_you_mean, ops_named, suggestions

KNOWN = (
    "aten::add.Scalar",
    "aten::add.Tensor",
    "aten::add.out",
    "aten::addr",
    "aten::gelu",
    "aten::linear",
    "aten::linear.out",
    "aten::softmax.int",
    "cond",
    "fused_ops::silu_mul",
    "one::twin",
    "other::twin.x",
    "prims::gelu",
)
LINEAR = ["aten::linear", "aten::linear.out"]
ADD = ["aten::add.Scalar", "aten::add.Tensor", "aten::add.out"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aten::linear", ["aten::linear"]),
        ("aten.linear.default", ["aten::linear"]),
        ("linear.default", ["aten::linear"]),
        ("aten.linear", LINEAR),
        ("torch.ops.aten.linear", LINEAR),
        ("linear", LINEAR),
        ("aten::add", ADD),
        ("aten.add", ADD),
        ("add", ADD),
        ("add.Tensor", ["aten::add.Tensor"]),
        ("softmax", ["aten::softmax.int"]),
        ("gelu", ["aten::gelu"]),
        ("prims.gelu", ["prims::gelu"]),
        ("silu_mul", ["fused_ops::silu_mul"]),
        ("cond", ["cond"]),
        ("torch.ops.higher_order.cond", ["cond"]),
        ("higher_order.late", ["late"]),
        ("mylib::later", ["mylib::later"]),
        ("mylib.later.default", ["mylib::later"]),
        ("aten::later.Tensor", ["aten::later.Tensor"]),
    ],
)
def test_a_name_means_its_op_or_else_its_family(text: str, expected: list[str]) -> None:
    assert ops_named(text, KNOWN) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "silu_mull",
            "no known op has this name; did you mean fused_ops::silu_mul?; to name an op that is loaded later",
        ),
        ("nothing", "write 'NAMESPACE::nothing', or 'higher_order.nothing'"),
        ("mylib.later", "write 'mylib::later' or 'mylib::later.OVERLOAD'"),
    ],
)
def test_a_name_that_no_known_op_has_is_refused_with_the_full_form(text: str, message: str) -> None:
    with pytest.raises(UnknownOp) as caught:
        ops_named(text, KNOWN)
    assert message in str(caught.value)


def test_a_name_of_several_libraries_is_refused_with_each() -> None:
    with pytest.raises(
        InvalidName, match="ops of several libraries have this name; give one of one::twin, other::twin"
    ):
        ops_named("twin", KNOWN)


@pytest.mark.parametrize("text", ["", "a b", "x" * 501, "aten::linear.a.b"])
def test_what_is_not_a_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        ops_named(text, KNOWN)


@given(words, words, overloads)
def test_every_form_of_a_known_overload_means_it(space: str, name: str, overload: str) -> None:
    stored = f"{space}::{name}" if overload == "default" else f"{space}::{name}.{overload}"
    for form in (f"{space}::{name}.{overload}", f"{space}.{name}.{overload}", f"torch.ops.{space}.{name}.{overload}"):
        assert ops_named(form, [stored]) == [stored]
    if space != "higher_order":
        assert ops_named(f"{space}.{name}", [stored]) == ops_named(f"{space}::{name}", [stored]) == [stored]


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("aten::add.Tensr", ["aten::add.Tensor", "aten::add.Scalar", "aten::add.out"]),
        ("aten::linear.ot", ["aten::linear.out", "aten::linear"]),
        ("mylib::gelu", ["aten::gelu", "prims::gelu"]),
        ("aten::silu_mul", ["fused_ops::silu_mul"]),
        ("aten::lineer", ["aten::linear"]),
        ("fused_opps::silu_mull", ["fused_ops::silu_mul"]),
        ("a_long_namespace::late", []),
    ],
)
def test_suggestions_are_of_the_family_then_of_the_name_then_of_the_spelling(op: str, expected: list[str]) -> None:
    assert suggestions(op, [*KNOWN, "a_long_namespace::early"]) == expected
    assert did_you_mean(op, KNOWN) == (f"; did you mean {', '.join(expected)}?" if expected else "")


def test_lists_are_read_only_as_far_as_needed() -> None:
    class Unread(tuple[str, ...]):
        def __contains__(self, name: object) -> bool:
            raise AssertionError(name)

    assert "a" in Lists(["a"], Unread())
    both = Lists(["a", "b"], ["b", "c"])
    assert (list(both), len(both)) == (["a", "b", "c"], 3)
