"""Rules that cannot act: decided from the op's entry, with the op to name instead."""

from __future__ import annotations

import pytest

from decomp_ledger.analysis.idle import IdleRule, functional_name, idle_rule, idle_rules, mutates
from decomp_ledger.catalogs import available, released
from decomp_ledger.model.rules import Rule, TableState

CATALOG = released("2.13.0")


@pytest.mark.parametrize(
    ("op", "functional"),
    [
        ("aten::silu_", "aten::silu"),
        ("aten::add_.Tensor", "aten::add.Tensor"),
        ("aten::silu.out", "aten::silu"),
        ("aten::sort.values_stable", None),
        ("mylib::mine_", None),
    ],
)
def test_the_functional_form_of_an_op_is_named_only_if_torch_has_it(op: str, functional: str | None) -> None:
    has = {"aten::silu", "aten::add.Tensor", op}.__contains__
    assert functional_name(op, has) == functional


@pytest.mark.parametrize("version", [*available()[:1], "2.13.0"])
def test_the_functional_form_of_each_in_place_op_changes_nothing(version: str) -> None:
    ops = released(version).ops
    in_place = [op for op in ops if op.startswith("aten::") and op.partition(".")[0].endswith("_")]
    found = {op: functional_name(op, lambda name: name in ops and not mutates(ops[name])) for op in in_place}
    named = [name for name in found.values() if name is not None]
    assert len(named) > 200
    assert [name for name in named if "!" in ops[name].schema.partition("->")[0]] == []


@pytest.mark.parametrize("action", ["preserve", "override"])
@pytest.mark.parametrize(
    ("op", "because"),
    [
        ("aten::chunk", "torch decomposes the op before it asks the table (its schema mutates or aliases an argument)"),
        ("aten::reshape", "torch decomposes the op before it asks the table (its schema mutates or aliases"),
        ("aten::contiguous", "torch decomposes the op before it asks the table (its schema mutates or aliases"),
        ("aten::silu_", "the op changes its argument, so torch.export replaces it by its functional form"),
        ("aten::nothing", "no library that is loaded has the op"),
        ("aten::linear", None),
        ("aten::view", None),
        ("aten::silu", None),
        ("cond", None),
    ],
)
def test_a_rule_that_cannot_act_is_explained(op: str, action: str, because: str | None) -> None:
    found = idle_rule(op, action, CATALOG.ops.get(op), lambda name: name in CATALOG.ops)
    assert (found is None) == (because is None)
    if found is not None and because is not None:
        assert found.because.startswith(because)
        assert str(found) == f"{op}: '{action}' has no effect, because {found.because}; {found.instead}"


def test_a_table_lists_its_idle_rules_and_a_dict_has_none() -> None:
    state = TableState("edge", 2, "torch", {"aten::silu_": Rule("preserve"), "aten::linear": Rule("preserve")})
    why = "the op changes its argument, so torch.export replaces it by its functional form"
    assert idle_rules(state, CATALOG) == (IdleRule("aten::silu_", "preserve", why, "preserve aten::silu instead"),)
    assert idle_rules(TableState("d", 2, "torch", state.rules, from_dict=True), CATALOG) == ()
