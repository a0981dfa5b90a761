"""What happened to an op is decided by what happened: each kind of op whose answer could be wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._higher_order_ops.map import map as map_  # up to torch 2.7, the package has no function of this name
from torch.export import ExportedProgram, export

from decomp_ledger import Explanation, Exported, Ledger, record
from decomp_ledger.analysis.outcome import EARLY_KERNELS
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.dispatcher import resolve

aten = torch.ops.aten
X = torch.ones(2, 4)


class Calls(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def program(function: Callable[..., Any]) -> ExportedProgram:
    with torch.no_grad():
        return export(Calls(function), (X,), strict=False)


def lower(function: Callable[..., Any], table: Any) -> ExportedProgram:
    """Lower a function; a recorded table is made first, because that is when torch is patched."""
    return program(function).run_decompositions(table)


def body(ledger: Ledger) -> Exported:
    return list(ledger.exports())[-1].body


def answer(ledger: Ledger, op: str) -> Explanation:
    """Return what the ledger says of an op in the last export."""
    (found,) = ledger.explain(op, f"export:{list(ledger.exports())[-1].seq}")
    return found


def mine(*args: Any, **kwargs: Any) -> Any:
    return args[0] * 2


def declining(*args: Any, **kwargs: Any) -> Any:
    return NotImplemented


def raising(*args: Any, **kwargs: Any) -> Any:
    raise ZeroDivisionError("of the decomposition")


# What torch never asks a table about: each kind, and what takes the op's place.
NEVER_ASKED = {
    "aten::leaky_relu_": (lambda x: torch.nn.functional.leaky_relu_(x.clone()), "functionalized", "aten::leaky_relu"),
    "aten::silu_": (lambda x: torch.nn.functional.silu(x.clone(), inplace=True), "functionalized", "aten::silu"),
    "aten::add_.Tensor": (lambda x: x.clone().add_(x), "functionalized", "aten::add.Tensor"),
    "aten::zero_": (lambda x: x.clone().zero_() + x, "functionalized", "aten::zero"),
    "aten::softshrink": (torch.nn.functional.softshrink, "decomposed", "aten::abs"),
    "aten::hardshrink": (torch.nn.functional.hardshrink, "decomposed", "aten::abs"),
    "aten::hsplit.int": (lambda x: x.hsplit(2)[0] + 1, "decomposed", "aten::slice.Tensor"),
    "aten::reshape_as": (lambda x: x.reshape_as(torch.ones(4, 2)) + 1, "decomposed", "aten::view"),
    "aten::chunk": (lambda x: x.chunk(2)[0] + 1, "decomposed", "aten::split.Tensor"),
}


@pytest.mark.parametrize("rule", ["default", "preserve", "override"])
@pytest.mark.parametrize("op", NEVER_ASKED)
def test_a_rule_that_torch_never_asks_for_is_not_called_the_reason(op: str, rule: str, ledger: Ledger) -> None:
    function, outcome, made = NEVER_ASKED[op]
    table = ledger.table("edge", base="empty")
    if rule != "default":
        table.preserve(op) if rule == "preserve" else table.override(op, mine)
    lowered = lower(function, table)
    found = answer(ledger, op)
    assert found.outcome == outcome
    assert (found.counts, made in body(ledger).ops_after) == ({"before": 1, "after": 0, "fired": 0}, True)
    assert "given mine" not in found.because and "was preserved" not in found.because
    assert found.preservable.startswith("no: ")
    assert made.removeprefix("aten::").partition(".")[0] in str(lowered.graph)
    (expected,) = ledger.explain(op, "edge")
    assert expected.outcome == outcome
    assert ("does nothing" in expected.because) == (rule != "default")


@pytest.mark.parametrize(
    ("op", "function"),
    {
        "aten::view": lambda x: x.view(4, 2),
        "aten::permute": lambda x: x.permute(1, 0),
        "aten::transpose.int": lambda x: x.transpose(0, 1),
        "aten::expand": lambda x: x.expand(3, 2, 4),
        "aten::split.Tensor": lambda x: x.split(2, 1)[0],
        "cond": lambda x: torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,)),
    }.items(),
)
def test_a_view_and_a_higher_order_operator_stay_in_graphs(
    op: str, function: Callable[..., Any], ledger: Ledger
) -> None:
    lower(function, ledger.table("edge", base="empty"))
    found = answer(ledger, op)
    assert (found.outcome, found.preservable) == ("kept", "yes")
    assert ledger.explain(op, "edge")[0].preservable == "yes"


def test_a_view_of_a_tensor_that_changed_later_is_kept(ledger: Ledger) -> None:
    def changed(x: Any) -> Any:
        base = x.clone()
        part = base.view(8)
        base.add_(1)
        return part.sigmoid()

    lower(changed, ledger.table("edge", base="empty"))
    assert [row.source for row in body(ledger).emitted or () if row.op == "aten::view"] != ["aten::sigmoid"]
    assert answer(ledger, "aten::view").outcome == "kept"
    assert answer(ledger, "aten::sigmoid").outcome == "kept"


def test_a_kernel_of_a_library_that_runs_before_the_table_is_named(
    ledger: Ledger, make_library: Callable[..., Any]
) -> None:
    library = make_library()
    library.define("early(Tensor x) -> Tensor")
    library.impl("early", lambda x: x.sin().cos(), "Autograd")
    op = getattr(torch.ops, library.ns).early.default
    table = ledger.table("edge")
    table[op] = mine
    lower(lambda x: op(x), table)
    found = answer(ledger, op.name())
    assert found.outcome == "decomposed"
    assert found.because.startswith("its library's kernel for Autograd runs before")
    assert "1 aten::cos, 1 aten::sin" in found.because


def test_the_listed_early_kernels_are_those_of_this_torch() -> None:
    live = (internals.find_operator(*name.partition(".")[::2]) for name in internals.dispatcher_names())
    autograd = torch._C.DispatchKey.Autograd
    found = {op.name() for op in live if op is not None and autograd in op.py_kernels and not internals.is_cia(op)}
    there = {op for op in EARLY_KERNELS if resolve(op) in internals.registry()}
    of_torch = {op for op in found if op.startswith("aten::")}
    # The kernel of one of them comes only with Inductor.
    assert there <= of_torch <= EARLY_KERNELS


def test_a_decomposition_that_declines_is_not_called_decomposing(ledger: Ledger) -> None:
    table = ledger.table("edge")
    table[aten.gelu.default] = declining
    table[aten.linear.default] = declining  # by another way, because it has a CIA kernel
    lowered = lower(lambda x: torch.nn.functional.gelu(torch.nn.functional.linear(x, X)), table)
    assert "gelu" in str(lowered.graph) and "linear" in str(lowered.graph)
    for op in ("aten::gelu", "aten::linear"):
        found = answer(ledger, op)
        assert (found.outcome, found.counts) == ("kept", {"before": 1, "after": 1, "fired": 0})
        assert found.declined
        assert found.because.startswith("its decomposition returned NotImplemented")


def test_torchs_own_decomposition_that_declines_is_seen(ledger: Ledger) -> None:
    table = ledger.table("edge")
    table[aten.adaptive_max_pool2d.default] = torch._decomp.decomposition_table.get(
        aten.adaptive_max_pool2d.default, declining
    )
    pool = torch.nn.AdaptiveMaxPool2d((2, 2), return_indices=True)
    with torch.no_grad():
        export(pool, (torch.ones(1, 1, 5, 5),), strict=False).run_decompositions(table)
    found = answer(ledger, "aten::adaptive_max_pool2d")
    assert (found.outcome == "kept") == (body(ledger).ops_after.get("aten::adaptive_max_pool2d", 0) == 1)
    assert (found.declined or 0) + found.counts["fired"] == 1


@pytest.mark.parametrize("op", ["aten::gelu", "aten::linear", "aten::addmm"])
def test_the_decomposition_that_raised_is_named_first(op: str, ledger: Ledger) -> None:
    table = ledger.table("edge")
    table.override(op, raising)
    with pytest.raises(ZeroDivisionError):
        lower(lambda x: torch.nn.functional.gelu(torch.nn.functional.linear(x, X, X[:, 0])), table)
    found = answer(ledger, op)
    assert (found.outcome, found.counts["fired"]) == ("failed", 0)
    assert found.because.startswith("its decomposition raised ZeroDivisionError")
    assert body(ledger).raised[-1] == op
    assert ("aten::linear" in found.because) == (op == "aten::addmm")  # which linear's decomposition uses
    others = {"aten::gelu", "aten::linear"} - {op}
    assert {answer(ledger, other).outcome for other in others} == {"failed"}


def test_an_error_that_another_decomposition_handles_is_not_called_the_failure(ledger: Ledger) -> None:
    def handling(x: Any, approximate: str = "none") -> Any:
        try:
            return torch.nn.functional.silu(x)
        except ZeroDivisionError:
            return x * 3

    table = ledger.table("edge")
    table.override("aten::gelu", handling)
    table.override("aten::silu", raising)
    lower(torch.nn.functional.gelu, table)
    assert (answer(ledger, "aten::gelu").outcome, body(ledger).raised) == ("decomposed", None)
    assert "aten::silu" not in body(ledger).fired


def test_an_export_that_fails_outside_of_decompositions_says_so(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("of torch")

    made, table = program(torch.nn.functional.gelu), ledger.table("edge")
    monkeypatch.setattr("torch.export.exported_program._decompose_exported_program", fail)
    with pytest.raises(ZeroDivisionError):
        made.run_decompositions(table)
    assert body(ledger).raised == ()
    assert "outside of any decomposition" in answer(ledger, "aten::gelu").because


def test_what_emitted_an_op_is_recorded_with_its_chain(ledger: Ledger) -> None:
    lower(lambda x: torch.nn.functional.linear(x, X, X[:, 0]).relu() + x.sum(), ledger.table("edge"))
    rows = {(row.op, row.chain): row for row in body(ledger).emitted or ()}
    assert rows["aten::addmm", ("aten::linear",)].source == "aten::linear"
    assert rows["aten::permute", ("aten::linear", "aten::t", "aten::transpose.int")].count == 1
    assert rows["aten::relu", ()].source == "aten::relu"
    found = answer(ledger, "aten::addmm")
    assert found.outcome == "emitted"
    assert found.because.startswith("the program does not have the op; the decomposition of aten::linear made 1 node")


def test_what_a_decomposition_makes_within_subgraphs_is_its_own(ledger: Ledger) -> None:
    def branching(x: Any, approximate: str = "none") -> Any:
        return torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: torch.nn.functional.silu(y), (x,))

    table = ledger.table("edge")
    table.override("aten::gelu", branching)
    lower(torch.nn.functional.gelu, table)
    chains = {row.op: row.chain for row in body(ledger).emitted or ()}
    assert chains["cond"] == chains["aten::sin"] == ("aten::gelu",)
    assert chains["aten::sigmoid"] == ("aten::gelu", "aten::silu")


def test_a_recording_leaves_no_mark_in_the_lowered_program(ledger: Ledger) -> None:
    made = program(lambda x: torch.cond(x.sum() > 0, torch.nn.functional.gelu, torch.nn.functional.silu, (x,)))
    expected = made.run_decompositions()
    with record(ledger):
        lowered = made.run_decompositions()
    for one, other in ((expected, lowered), (expected, made.run_decompositions(ledger.table("edge")))):
        graphs = [
            [(str(node), sorted(node.meta)) for module in each.graph_module.modules() for node in module.graph.nodes]
            for each in (one, other)
        ]
        graphs = [[(name, [key for key in keys if key != "decomp_ledger"]) for name, keys in each] for each in graphs]
        assert graphs[0] == graphs[1]


def test_a_decomposition_of_torchs_own_is_not_called_a_default_that_it_is_not(ledger: Ledger) -> None:
    table = ledger.table("edge")
    own = torch._decomp.decomposition_table[aten.add.Tensor]
    assert aten.add.Tensor not in torch.export.default_decompositions()
    table[aten.add.Tensor] = own
    lower(lambda x: x + x, table)
    found = answer(ledger, "aten::add.Tensor")
    assert found.because.startswith("it was overridden with torch's own (registry) by event #")


def test_a_library_that_executorch_hides_an_op_in_is_known(
    ledger: Ledger, make_library: Callable[..., Any], tmp_path: Path
) -> None:
    library = make_library("EDGE_DO_NOT_DECOMP")
    library.define("linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor")
    library.impl("linear", aten.linear.default, "CompositeExplicitAutograd")
    library.impl("linear", lambda x, w, b=None: x.new_empty(x.shape[0], w.shape[0]), "Meta")
    lower(lambda x: torch.ops.EDGE_DO_NOT_DECOMP.linear(x, X), ledger.table("edge"))
    found = answer(ledger, "aten::linear")
    assert (found.outcome, found.counts) == ("kept", {"before": 1, "after": 1, "fired": 0})
    assert "ExecuTorch hid it as EDGE_DO_NOT_DECOMP::linear" in found.because


HIGHER_ORDER = {
    "cond": lambda x: torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: torch.nn.functional.silu(y), (x,)),
    "while_loop": lambda x: torch._higher_order_ops.while_loop(
        lambda i, y: i < 3, lambda i, y: (i + 1, torch.nn.functional.silu(y)), (torch.tensor(0), x)
    )[1],
    "map_impl": lambda x: map_(torch.nn.functional.silu, x),
    "scan": lambda x: torch._higher_order_ops.scan(
        lambda carry, y: (carry + y, torch.nn.functional.silu(carry)), x[0] * 0, x
    )[1],
    "wrap_with_set_grad_enabled": None,
}


class NoGrad(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            y = torch.nn.functional.silu(x) * x
        return y + 1


@pytest.mark.parametrize("base", ["torch", "empty"])
@pytest.mark.parametrize("op", HIGHER_ORDER)
def test_higher_order_operators_and_what_is_in_them_are_judged_by_the_graphs(
    op: str, base: str, ledger: Ledger
) -> None:
    if op == "while_loop" and torch.__version__.startswith("2.6."):
        pytest.skip("torch 2.6 cannot export this loop; nothing is recorded by then")
    function = HIGHER_ORDER[op]
    made = export(NoGrad(), (X,), strict=False) if function is None else program(function)
    table = ledger.table("edge", base=base)
    made.run_decompositions(table)
    found = body(ledger)
    if op not in found.ops_before:
        pytest.skip(f"this torch exports it as {sorted(found.ops_before)}")
    assert answer(ledger, op).outcome == ("kept" if op in found.ops_after else "decomposed")
    silu = answer(ledger, "aten::silu")
    assert silu.outcome == ("kept" if base == "empty" else "decomposed")
    assert (silu.counts["after"] > 0) == (base == "empty")


CUSTOM = {
    "opaque(Tensor x) -> Tensor": ("kept", "kept", "decomposed"),
    "composite(Tensor x) -> Tensor": ("decomposed", "kept", "decomposed"),
    "changing(Tensor(a!) x) -> ()": ("functionalized", "functionalized", "functionalized"),
}


@pytest.mark.parametrize("schema", CUSTOM)
def test_custom_ops_of_each_kind_are_judged_by_the_graphs(
    schema: str, ledger: Ledger, make_library: Callable[..., Any]
) -> None:
    library = make_library()
    library.define(schema)
    name = schema.partition("(")[0]
    if name == "composite":
        library.impl(name, lambda x: x.sin(), "CompositeImplicitAutograd")
    elif name == "opaque":
        library.impl(name, lambda x: x.clone(), "CompositeExplicitAutograd")
        library.impl(name, torch.empty_like, "Meta")
    else:
        library.impl(name, lambda x: x.add_(1) and None, "CompositeExplicitAutograd")
        library.impl(name, lambda x: None, "Meta")
    op = getattr(getattr(torch.ops, library.ns), name).default

    def use(x: Any) -> Any:
        y = x.clone()
        return y if op(y) is None else op(y)

    made, table = program(use), ledger.table("edge")
    for rule, outcome in zip(("default", "preserve", "override"), CUSTOM[schema], strict=True):
        if rule == "preserve":
            table.preserve(op)
        elif rule == "override":
            table[op] = mine
        lowered = made.run_decompositions(table)
        assert answer(ledger, op.name()).outcome == outcome, rule
        assert (str(op) in str(lowered.graph).replace("auto_functionalized", "")) == (outcome == "kept") or (
            name == "changing"
        )
