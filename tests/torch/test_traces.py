"""Traces of decompositions: equal data flow gives equal lines, and every process gives the same ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from decomp_ledger import catalogs
from decomp_ledger.model.samples import parse_call, tensors_of
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.capture_program import CaptureRequest, capture_with
from decomp_ledger.pytorch.sample_values import build_arguments, build_tensors
from decomp_ledger.pytorch.trace_lines import canonical_lines, lines_digest
from decomp_ledger.pytorch.traces import error_text, trace, trace_defaults, trace_or_error

aten = torch.ops.aten
# Ops of 2x2 matrices: function, number of operands, whether it changes the first one.
OPS: dict[str, tuple[Any, int, bool]] = {
    "neg": (aten.neg.default, 1, False),
    "add": (aten.add.Tensor, 2, False),
    "view": (aten.alias.default, 1, False),
    "mul_": (aten.mul_.Tensor, 2, True),
    "rand": (aten.rand_like.default, 1, False),
}
INPUTS = 2
Step = tuple[str, tuple[int, ...]]


@st.composite
def programs(draw: st.DrawFn) -> list[Step]:
    """Programs of some steps, whose operands are earlier values: the inputs are 0 and 1, steps follow."""
    steps = []
    for number in range(draw(st.integers(2, 8))):
        name = draw(st.sampled_from(sorted(OPS)))
        values = st.integers(0, INPUTS + number - 1)
        steps.append((name, tuple(draw(values) for _ in range(OPS[name][1]))))
    return steps


def graph_of(steps: list[Step], order: list[int]) -> fx.GraphModule:
    """Return a graph of the steps, made in that order, that gives the last two values."""
    graph = fx.Graph()
    values: dict[int, fx.Node] = {number: graph.placeholder(f"x{number}") for number in range(INPUTS)}
    for number in order:
        name, operands = steps[number]
        values[INPUTS + number] = graph.call_function(OPS[name][0], tuple(values[operand] for operand in operands))
    graph.output([values[len(values) - 1], values[len(values) - 2]])
    return fx.GraphModule({}, graph)


def storages(steps: list[Step]) -> dict[int, int]:
    """Return the value that made the storage of each value."""
    found = {number: number for number in range(INPUTS)}
    for number, (name, operands) in enumerate(steps):
        shares = name in ("view", "mul_")
        found[INPUTS + number] = found[operands[0]] if shares else INPUTS + number
    return found


def commute(steps: list[Step], one: int, other: int) -> bool:
    """Tell whether two neighbours of an order may change places without changing any result."""
    made = storages(steps)
    first, second = steps[one], steps[other]
    if INPUTS + one in second[1] or (first[0] == second[0] == "rand"):
        return False
    for (name, operands), (other_name, others) in ((first, second), (second, first)):
        changes = OPS[name][2]
        reads = {made[operand] for operand in others} if other_name != "view" else set()
        if changes and made[operands[0]] in reads:
            return False
    return True


@given(steps=programs(), data=st.data())
@settings(deadline=None, max_examples=300)
def test_the_order_of_independent_nodes_does_not_count(steps: list[Step], data: st.DataObject) -> None:
    order = [*range(len(steps))]
    for place in data.draw(st.lists(st.integers(0, len(steps) - 2), max_size=20)):
        if commute(steps, order[place], order[place + 1]):
            order[place : place + 2] = [order[place + 1], order[place]]
    assert canonical_lines(graph_of(steps, order)) == canonical_lines(graph_of(steps, [*range(len(steps))]))


def results(module: fx.GraphModule) -> list[Any]:
    """Run a graph on numbers that tell its values apart; return its results and its inputs afterwards."""
    torch.manual_seed(0)
    inputs = [torch.tensor([[1.5, 2.25], [3.125, 5.0]]), torch.tensor([[7.0, 0.5], [11.0, 13.0]])]
    given = [value.clone() for value in inputs]
    return [value.tolist() for value in (*module(*given), *given)]


@given(steps=programs(), data=st.data())
@settings(deadline=None, max_examples=300)
def test_graphs_with_equal_lines_compute_the_same(steps: list[Step], data: st.DataObject) -> None:
    order: list[int] = []
    while len(order) < len(steps):  # any order in which operands come first, whatever the effects
        ready = [
            number
            for number in range(len(steps))
            if number not in order and all(operand - INPUTS in (-2, -1, *order) for operand in steps[number][1])
        ]
        order.append(data.draw(st.sampled_from(ready)))
    one, other = graph_of(steps, [*range(len(steps))]), graph_of(steps, order)
    if canonical_lines(one) == canonical_lines(other):
        assert results(one) == results(other)


@given(steps=programs(), data=st.data())
@settings(deadline=None, max_examples=200)
def test_another_op_that_the_results_need_gives_other_lines(steps: list[Step], data: st.DataObject) -> None:
    steps = [("neg", operands[:1]) if name in ("rand", "view") else (name, operands) for name, operands in steps]
    changed = [*steps]
    name, operands = changed[-1]
    changed[-1] = ("add", (operands[0], operands[0])) if name != "add" else ("neg", operands[:1])
    order = [*range(len(steps))]
    assert canonical_lines(graph_of(steps, order)) != canonical_lines(graph_of(changed, order))


def lines_of(function: Callable[..., Any], call: str) -> list[str]:
    """Return the lines of a function traced on a sample call."""
    return [*trace(function, parse_call(call))]


def test_lines_name_ops_arguments_dtypes_and_shapes() -> None:
    assert lines_of(lambda x, y: (x @ y).to(torch.float64), "(f32[2, 3], f32[3, 4])") == [
        "%0 = aten::mm(x0, x1): f32[2, 4]",
        "%1 = aten::_to_copy(%0, dtype=f64): f64[2, 4]",
        "return %1",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x.add(1), lambda x: torch.add(x, other=1)),
        (lambda x: aten.sum.dim_IntList(x, [0]), lambda x: aten.sum.dim_IntList(x, [0], False, dtype=None)),
        (lambda x: x.detach().detach() + 1, lambda x: x.detach() + 1),
        (lambda x: (x.sin(), x.cos())[0], lambda x: x.sin()),
        (lambda x: torch.zeros(2, device="cpu"), lambda x: torch.zeros(2)),
    ],
)
def test_what_changes_no_result_is_left_out(one: Any, other: Any) -> None:
    assert lines_of(one, "(f32[2, 3])") == lines_of(other, "(f32[2, 3])")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x.detach() + 1, lambda x: x + 1),
        (lambda x: x.sin() + x.sin(), lambda x: (y := x.sin()) + y),
        (lambda x: x - x.sin(), lambda x: x.sin() - x),
        (lambda x: torch.zeros(2), lambda x: torch.zeros(2, dtype=torch.int64)),
        (lambda x: x.sum(0), lambda x: x.sum(1)),
        (lambda x: x * 2.0, lambda x: x * 2),
        (lambda x: (x.sin(), x.cos()), lambda x: (x.cos(), x.sin())),
        (lambda x: x + torch.tensor([1.0, 2.0, 3.0]), lambda x: x + torch.tensor([1.0, 2.0, 4.0])),
    ],
)
def test_what_changes_a_result_or_the_nodes_is_seen(one: Any, other: Any) -> None:
    assert lines_of(one, "(f32[2, 3])") != lines_of(other, "(f32[2, 3])")


def test_symbols_are_named_in_the_order_of_their_appearance() -> None:
    for _ in range(2):
        assert lines_of(lambda x, y: x.view(-1), "dynamic(f32[2, 3], f32[5])") == [
            "%0 = aten::view(x0, [-1]): f32[d0*d1]",
            "return %0",
        ]


def test_an_error_is_its_class_and_the_op_that_its_message_names() -> None:
    missing = trace_or_error(lambda x: aten.nonzero_static.out(x, size=2), "(f32[1])")
    assert missing == "RuntimeError: aten::nonzero_static"
    assert trace_or_error(lambda x: bool(x.item()), "(f32[1])") == "GuardOnDataDependentSymNode"
    assert error_text(ValueError("0x7f00 at some address")) == "ValueError"


def test_tracing_leaves_the_state_of_torch_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        lines = lines_of(lambda x: torch.rand(2) + x, "(f32[2])")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert "f32[2]" in lines[0]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("op", ["aten::linear", "aten::nll_loss_nd", "aten::lstm.data", "aten::embedding_bag"])
def test_samples_are_calls_that_the_op_takes(op: str) -> None:
    qualified, _, overload = op.partition(".")
    operator = internals.find_operator(qualified, overload)
    calls = catalogs.samples()[op]
    assert len(calls) >= 2
    for text in calls:
        call = parse_call(text)
        args, kwargs = build_arguments(call, build_tensors(call))
        with torch.no_grad():
            assert operator(*args, **kwargs) is not None  # type: ignore[misc]


def test_values_are_as_the_call_describes_them() -> None:
    call = parse_call(
        "(f32[2, 3].strided(1, 2), i64[5] < 2, b8[3], i64([[4], [5]]), c64[()], f32[0, 2], [i32[2], None])"
    )
    tensors = build_tensors(call)
    assert [tuple(tensor.shape) for tensor in tensors] == [sample.shape for sample in tensors_of(call)]
    assert tensors[0].stride() == (1, 2)
    assert tensors[1].tolist() == [0, 1, 0, 1, 0]
    assert tensors[2].tolist() == [True, False, True]
    assert tensors[3].tolist() == [[4], [5]]
    assert all(map(torch.equal, tensors, build_tensors(call)))


# A part of the shipped traces, so that the test takes seconds: every seventh op.
def installed_version() -> str:
    version = str(torch.__version__).partition("+")[0]
    if version not in catalogs.traced_versions():
        pytest.skip(f"torch {version} has no shipped traces")
    return version


def shipped(version: str, step: int) -> dict[str, dict[str, str]]:
    """Return the shipped traces of every so manieth op, as `trace_defaults` gives them."""
    traces = catalogs.traces(version)
    assert traces is not None
    return {op: {call: str(trace.to_json()) for call, trace in traces.of[op]} for op in sorted(traces.of)[::step]}


def test_this_torch_gives_the_shipped_traces() -> None:
    expected = shipped(installed_version(), 7)
    found = trace_defaults({op: [*calls] for op, calls in expected.items()})
    assert found["ops"] == expected
    for digest, lines in found["graphs"].items():
        assert lines_digest(lines) == digest
        assert catalogs.graph(digest) == tuple(lines)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_other_processes_give_the_same_traces(seed: str) -> None:
    expected = shipped(installed_version(), 20)
    samples = {op: [*calls] for op, calls in expected.items()}
    code = (
        "import json, sys, torch._dynamo, torch._inductor.decomposition\n"
        "torch.manual_seed(int(sys.argv[1])); torch.set_num_threads(1); torch.set_grad_enabled(sys.argv[1] == '1')\n"
        "from decomp_ledger.pytorch.traces import trace_defaults\n"
        "print(json.dumps(trace_defaults(json.load(sys.stdin))['ops']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, seed], input=json.dumps(samples), capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_the_standalone_program_gives_the_same_traces_and_its_progress() -> None:
    expected = shipped(installed_version(), 40)
    steps: list[tuple[int, int]] = []
    samples = {op: [*calls] for op, calls in expected.items()}
    captured = capture_with(
        sys.executable, request=CaptureRequest(samples), progress=lambda *step: steps.append(step), processes=1
    )
    assert captured["traces"]["ops"] == expected
    assert steps == [(number, len(expected)) for number in range(len(expected) + 1)]


def test_a_graph_of_export_is_written_too() -> None:
    module = make_fx(lambda x: torch.ops.aten.linear.default(x, x), tracing_mode="fake")(torch.ones(2, 2))
    assert canonical_lines(module)[-1] == "return %1"
