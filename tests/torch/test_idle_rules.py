"""Rules that cannot act: a warning at once, `table.idle`, and the real graph, which shows that they did not."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from decomp_ledger import IdleRuleWarning, Ledger, catalogs, record
from decomp_ledger.analysis.outcome import EARLY_KERNELS
from decomp_ledger.cli import cli
from decomp_ledger.model.samples import SampleCall, parse_call
from decomp_ledger.pytorch.dispatcher import dispatcher, resolve, why_idle
from decomp_ledger.pytorch.sample_values import build_arguments, build_tensors

aten = torch.ops.aten
# All of them take minutes: DECOMP_LEDGER_IDLE=1000 tries each.
_TRIED = int(os.environ.get("DECOMP_LEDGER_IDLE", "12"))


@pytest.mark.parametrize(
    ("op", "instead"),
    [
        ("aten::chunk", "preserve the ops that it becomes"),
        ("aten::reshape", "preserve the ops that it becomes"),
        ("aten::contiguous", "preserve the ops that it becomes"),
        ("aten::silu_", "preserve aten::silu instead"),
    ],
)
def test_preserving_what_torch_cannot_keep_warns_once(op: str, instead: str, ledger: Ledger) -> None:
    table = ledger.table("edge")
    with pytest.warns(IdleRuleWarning, match=f"{op}: 'preserve' has no effect, because .*; {instead}") as seen:
        table.preserve(op)
        table.preserve(op)
        table.reset(op)
        table.preserve(op)
    assert len(seen) == 1 and seen[0].filename == __file__
    assert [each.op for each in table.idle] == [op]
    table.reset(op)
    assert table.idle == ()


@pytest.mark.parametrize("op", ["aten::silu_", "aten::add_.Tensor", "aten::hsplit.int", "aten::reshape_as"])
def test_overriding_what_never_reaches_the_table_warns_once(op: str, ledger: Ledger) -> None:
    table = ledger.table("edge")
    with pytest.warns(IdleRuleWarning, match=f"{op}: 'override' has no effect, because") as seen:
        table[op] = lambda *args: args[0]
        table[op] = lambda *args: args[0]
    assert len(seen) == 1


def test_one_call_gives_one_warning(ledger: Ledger) -> None:
    table = ledger.table("edge")
    with pytest.warns(IdleRuleWarning, match=r"aten::silu_: .* \(and 2 more, which table.idle lists\)") as seen:
        table.preserve("aten::silu_", "aten::linear", "aten::chunk", "aten::relu_")
    assert len(seen) == 1
    assert [each.op for each in table.idle] == ["aten::chunk", "aten::relu_", "aten::silu_"]


@pytest.mark.filterwarnings("error::decomp_ledger.errors.IdleRuleWarning")
def test_rules_that_can_act_and_pending_ones_do_not_warn(ledger: Ledger) -> None:
    table = ledger.table("edge")
    table.preserve("aten::linear", "aten::view", aten.silu, "aten::silu_", "nolib::late")
    table[aten.gelu.default] = lambda x, approximate="none": x
    with record(ledger):
        plain = dict(torch.export.default_decompositions())
        plain[aten.silu_.default] = lambda x: x
        torch.export.export(torch.nn.SiLU(), (torch.ones(2),)).run_decompositions(plain)
    *others, pending = table.idle
    assert {each.op for each in others} == {"aten::silu.out", "aten::silu_"}
    assert (pending.op, pending.because) == ("nolib::late", "no library that is loaded has the op")


def test_show_says_which_rules_cannot_act(ledger: Ledger) -> None:
    table = ledger.table("edge")
    with pytest.warns(IdleRuleWarning):
        table.preserve("aten::silu_", "aten::linear", "nolib::late")
    table.materialize()
    assert [each.op for each in ledger.show("edge").idle] == ["aten::silu_", "nolib::late"]
    shown = CliRunner().invoke(cli, ["--ledger", ledger.path, "show", "edge"]).output
    assert "aten::silu_: 'preserve' has no effect, because the op changes its argument" in shown
    assert "nolib::late (pending)" in shown and "nolib::late: 'preserve'" not in shown
    data = json.loads(CliRunner().invoke(cli, ["--ledger", ledger.path, "show", "edge", "--json"]).output)
    assert [each["op"] for each in data["idle"]] == ["aten::silu_", "nolib::late"]


@pytest.mark.parametrize("name", sorted(EARLY_KERNELS))
@pytest.mark.parametrize("action", ["override", "preserve"])
def test_a_rule_acts_past_an_early_kernel_only_within_another_decomposition(
    name: str, action: str, ledger: Ledger
) -> None:
    """The oracle is the graph, and a counter in the override."""
    op, fired = resolve(name), list[int]()
    program = None if op is None or op not in torch.export.default_decompositions() else _exported(op)
    if op is None or program is None:
        pytest.skip("this torch has no such kernel, or cannot export the op here")

    def override(*args: Any, **kwargs: Any) -> Any:
        fired.append(1)
        return NotImplemented

    table = ledger.table("edge")
    with pytest.warns(IdleRuleWarning, match=f"{name}: '{action}' has no effect where a program calls the op"):
        table.update({op: override}) if action == "override" else table.preserve(op)
    assert [(each.op, each.nested) for each in table.idle] == [(name, True)]
    lowered = program.run_decompositions(table)
    assert fired == [] and not any(node.target is op for node in lowered.graph.nodes)
    assert [each.op for each in ledger.show("edge").idle] == [name]


def test_the_rule_of_an_op_with_an_early_kernel_acts_within_another_decomposition(ledger: Ledger) -> None:
    table = ledger.table("edge")
    with pytest.warns(IdleRuleWarning):
        table.preserve("aten::hardshrink")
    table[aten.silu.default] = lambda x: aten.hardshrink.default(x)
    program = torch.export.export(torch.nn.SiLU(), (torch.ones(2),)).run_decompositions(table)
    assert [node.target for node in program.graph.nodes if node.op == "call_function"] == [aten.hardshrink.default]


# --- the real graph --------------------------------------------------------------------------------------------------


class _Calls(torch.nn.Module):
    """Calls an op as a sample says."""

    def __init__(self, op: Any, call: SampleCall) -> None:
        super().__init__()
        self.op, self.call = op, call

    def forward(self, *tensors: torch.Tensor) -> Any:
        copies = [tensor.clone() for tensor in tensors]
        args, kwargs = build_arguments(self.call, list(copies))
        return self.op(*args, **kwargs), copies


def _calls(op: Any) -> Iterator[Any]:
    for text in catalogs.samples().get(op.name(), ()):
        call = parse_call(text)
        if not call.dynamic:
            yield _Calls(op, call), tuple(build_tensors(call))


def _exported(op: Any) -> Any:
    """Return a program with an op, or None if torch cannot export one."""
    for module, tensors in _calls(op):
        try:
            with torch.no_grad():
                return torch.export.export(module, tensors, strict=False)
        except Exception:  # of torch: the next sample may do
            continue
    return None


COMPOSITE = {
    "aten::chunk": lambda x: x.chunk(2),
    "aten::reshape": lambda x: x.reshape(4),
    "aten::contiguous": lambda x: x.contiguous(),
    "aten::hsplit.int": lambda x: x.hsplit(2),
    "aten::reshape_as": lambda x: x.reshape_as(x),
}


@pytest.mark.parametrize("name", COMPOSITE)
def test_an_idle_rule_of_a_composite_op_has_no_effect_on_the_real_graph(name: str) -> None:
    module = type("Calls", (torch.nn.Module,), {"forward": lambda self, x: COMPOSITE[name](x)})()
    program = torch.export.export(module, (torch.ones(2, 2),))
    op, defaults, fired = resolve(name), dispatcher.full(), list[Any]()
    for table in (dict(defaults.table) | {op: lambda *args: fired.append(1)}, dict(defaults.table)):
        graph = program.run_decompositions(table).graph
        assert fired == [] and not any(node.target is op for node in graph.nodes)
    assert why_idle(name, "override") and why_idle(name, "preserve")


def test_idle_rules_have_no_effect_on_the_real_graph() -> None:
    """The oracle looks at the graph and at a counter in the override, and at nothing of this package."""
    defaults = dispatcher.full()
    ops = [op for op in sorted(catalogs.samples()) if resolve(op) is not None and why_idle(op, "override")]
    assert len(ops) > 100
    random.Random(0).shuffle(ops)
    tried, wrong = 0, []
    for name in ops:
        op = resolve(name)
        program = _exported(op) if tried < _TRIED else None
        if program is None:
            continue
        tried += 1
        fired = []

        def override(*args: Any, op: Any = op, fired: list[int] = fired, **kwargs: Any) -> Any:
            fired.append(1)
            return op(*args, **kwargs)

        changed, without = dict(defaults.table), dict(defaults.table)
        changed[op] = override
        without.pop(op, None)
        for table in (changed, without):
            try:
                graph = program.run_decompositions(table).graph
            except Exception:  # of torch: a graph that cannot be lowered shows nothing
                continue
            if fired or any(node.target is op for node in graph.nodes):
                wrong.append(name)
    assert tried >= min(_TRIED, 12)
    assert wrong == []
