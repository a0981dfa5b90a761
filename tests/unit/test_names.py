"""Op names in every form, and the names of tables and tags."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import (
    overloads,
    texts,
    words,
)

from decomp_ledger.errors import InvalidName
from decomp_ledger.model import op_names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("aten::linear", "aten::linear"),
        ("aten::linear.default", "aten::linear"),
        ("aten.linear.default", "aten::linear"),
        ("torch.ops.aten.linear.default", "aten::linear"),
        ("aten::add.Tensor", "aten::add.Tensor"),
        ("aten.add.Tensor", "aten::add.Tensor"),
        ("torch.ops.aten.add.Tensor", "aten::add.Tensor"),
        ("aten::_cudnn_rnn", "aten::_cudnn_rnn"),
        ("aten::pow.2", "aten::pow.2"),
        ("my.nested.space::op.out", "my.nested.space::op.out"),
        ("cond", "cond"),
        ("higher_order.cond", "cond"),
        ("torch.ops.higher_order.cond", "cond"),
    ],
)
def test_every_form_of_a_name_is_stored_in_one(given: str, expected: str) -> None:
    assert op_names.normalize(given) == expected


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        "aten::",
        "::linear",
        "aten::linear.",
        "aten::linear.a.b",
        "aten::linear ",
        "aten::linear\n",
        "aten: linear",
        "aten:linear",
        "1aten::linear",
        "aten::1linear",
        "aten::lin-ear",
        "a.b.c.d",
        "torch.ops.",
        "aten::linear;DROP TABLE event",
        "aten::\ud800",
        "aten::lin\x00ear",
        "x" * 501,
        "aten::" + "x" * 10_000,
    ],
)
def test_an_invalid_op_name_is_refused(bad: str) -> None:
    with pytest.raises(InvalidName):
        op_names.normalize(bad)


def test_a_family_of_overloads_is_refused_with_the_names_to_use() -> None:
    with pytest.raises(InvalidName, match=r"'aten::add' for the default overload or 'aten::add\.OVERLOAD'"):
        op_names.normalize("torch.ops.aten.add")


def test_a_message_about_a_long_name_stays_short() -> None:
    with pytest.raises(InvalidName) as caught:
        op_names.normalize("aten::" + "x" * 10_000)
    assert len(str(caught.value)) < 200


@given(words, words, overloads)
def test_all_forms_of_an_overload_agree(space: str, name: str, overload: str) -> None:
    stored = f"{space}::{name}" if overload == "default" else f"{space}::{name}.{overload}"
    assert op_names.normalize(f"{space}::{name}.{overload}") == stored
    assert op_names.normalize(f"torch.ops.{space}.{name}.{overload}") == stored


@given(
    st.one_of(
        texts,
        st.builds("::".join, st.tuples(words, words)),
        st.builds("".join, st.lists(st.sampled_from(["torch.ops.", "higher_order.", "aten", "::", ".", "x"]))),
    )
)
@example("higher_order.higher_order.space::op")
@example("torch.ops.torch.ops.space::op")
def test_a_stored_name_is_its_own_normal_form(text: str) -> None:
    try:
        once = op_names.normalize(text)
    except InvalidName:
        return
    assert op_names.normalize(once) == once


@pytest.mark.parametrize(
    ("op", "parts"),
    [
        ("aten::linear", ("aten", "linear", "")),
        ("aten::add.Tensor", ("aten", "add", "Tensor")),
        ("my.space::op.out", ("my.space", "op", "out")),
        ("cond", ("", "cond", "")),
    ],
)
def test_a_stored_name_is_split_into_its_parts(op: str, parts: tuple[str, str, str]) -> None:
    assert op_names.split(op) == parts
    assert op_names.namespace(op) == parts[0]


@pytest.mark.parametrize(("op", "expected"), [("aten::linear", True), ("atens::linear", False), ("aten", False)])
def test_only_torch_s_own_namespace_is_aten(op: str, expected: bool) -> None:
    assert op_names.is_aten(op) is expected


@pytest.mark.parametrize("name", ["edge", "nightly/1", "release-1.0", "日本語", "a b", "x" * 200, "-"])
def test_a_label_can_be_any_printable_text(name: str) -> None:
    assert op_names.check_label(name, "a table") == name


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        " edge",
        "edge ",
        "a\nb",
        "a\x1b[31mb",
        "a\u202eb",
        "\ud800",
        "edge@1",
        "a:b",
        "#5",
        "x" * 201,
        7,
        None,
        b"edge",
    ],
)
def test_a_label_that_cannot_be_named_or_printed_is_refused(bad: object) -> None:
    with pytest.raises(InvalidName, match="a tag"):
        op_names.check_label(bad, "a tag")
