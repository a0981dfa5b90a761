"""Policies: what their patterns match, and the values that they refuse."""

import attrs
import pytest
from hypothesis import given
from strategies import ops
from wrong_values import WRONG

from decomp_ledger.errors import LedgerError, UnusableValue
from decomp_ledger.model.policy import Policy, matching, policy_from_settings


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("aten::linear", "aten::linear aten::linear.out", "aten::linear_x mylib::linear"),
        ("aten.linear.default", "aten::linear", "aten::linear.out"),
        ("aten::add.Tensor", "aten::add.Tensor", "aten::add.Scalar aten::addmm"),
        ("torch.ops.aten.add", "aten::add.Tensor aten::add", "mylib::add"),
        ("softmax", "aten::softmax.int softmax", "mylib::softmax aten::log_softmax.int"),
        ("cond", "cond", "mylib::cond"),
        ("quantized::*", "quantized::linear quantized::add.out", "aten::quantized"),
        ("aten::*softmax*", "aten::softmax.int aten::_safe_softmax", "aten::relu"),
        ("*", "aten::mm cond", ""),
    ],
)
def test_a_pattern_matches_the_ops_that_it_names(pattern: str, matched: str, others: str) -> None:
    assert [op for op in matched.split() if matching([pattern], op) != pattern] == []
    assert [op for op in others.split() if matching([pattern], op) is not None] == []


@given(ops)
def test_each_name_of_an_op_matches_it(op: str) -> None:
    space, _, rest = op.rpartition("::")
    forms = [f"{space}::*", op.replace("::", ".") if "." in rest else f"{op}.default"] if space else ["*"]
    for form in (op, *forms):
        assert matching(Policy(keep=form).keep, op) == form


def test_the_pattern_of_an_actor_takes_brackets_as_they_are() -> None:
    patterns = ("*@example.org>", "dependabot[bot]")
    assert matching(patterns, "Ada <ada@example.org>", ops=False) == patterns[0]
    assert matching(patterns, "dependabot[bot]", ops=False) == patterns[1]
    assert matching(patterns, "dependabotb", ops=False) is None
    assert matching(patterns, "Ada <ada@example.org> x", ops=False) is None


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Policy)])
@pytest.mark.parametrize("value", WRONG, ids=range(len(WRONG)))
def test_a_wrong_value_is_one_error_that_names_it(name: str, value: object) -> None:
    for make in (lambda: Policy(**{name: value}), lambda: policy_from_settings({name: value})):
        try:
            policy = make()
        except LedgerError as error:
            text = str(error)
            assert name in text and "\n" not in text and len(text) < 500
        else:
            kinds = {"keep": tuple, "no_override": tuple, "actors": tuple, "opset": str | None}
            assert isinstance(getattr(policy, name), kinds.get(name, bool))


def test_a_pattern_that_can_match_nothing_is_refused() -> None:
    with pytest.raises(UnusableValue, match=r"keep: 'aten\.\*': it matches no op; write the namespace with ::"):
        Policy(keep=["aten.*"])
    with pytest.raises(UnusableValue, match="no_override: 'a b': it is not the name of an op"):
        policy_from_settings({"no_override": ["a b"]})


def test_settings_take_lists_and_name_the_keys() -> None:
    with pytest.raises(UnusableValue, match="keep is 'aten::mm'; give a list of texts"):
        policy_from_settings({"keep": "aten::mm"})
    with pytest.raises(UnusableValue, match=r"'kep' is unknown; the keys are keep, no_override, .* and enforce"):
        policy_from_settings({"kep": []})
    with pytest.raises(UnusableValue, match=r"policy is 3; write it as \[tool\.decomp-ledger\.policy\]"):
        policy_from_settings(3)


def test_a_policy_is_true_if_it_asks_for_anything() -> None:
    assert not Policy() and not Policy(enforce=True)
    for field in attrs.fields(Policy):
        value = {"keep": "cond", "no_override": "cond", "actors": "Ada", "opset": "core-aten"}.get(field.name, True)
        policy = Policy(**{field.name: value})
        assert bool(policy) is (field.name != "enforce")
        assert policy_from_settings(policy.to_json()) == policy and list(policy.to_json()) == [field.name]
