from __future__ import annotations

import copy
import io
import json
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import CustomObjArgument, InputKind, OutputKind
from torch.fx import Graph, GraphModule

from decomp_ledger.errors import UnusableValue
from decomp_ledger.pytorch.graph_digest import (
    GraphDifference,
    first_difference,
    graph_digest,
    op_histogram,
    values_digest,
)

aten = torch.ops.aten

Programs: TypeAlias = dict[str, dict[str, ExportedProgram]]


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(torch.relu(self.norm(self.conv(x))))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x)


class Recurrent(nn.Module):
    # Torch 2.9 refuses to export a bare nn.GRU.
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.gru(x)


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.register_buffer("scale", torch.full((4,), 2.0), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return (self.table(ids) * self.scale) @ self.table.weight.t()


class Branches(nn.Module):
    def __init__(self, offset: float = 0.5) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        def no(y: Tensor) -> Tensor:
            return y.sin() - self.offset

        return torch.cond(x.sum() > 0, self.linear, no, (x,))


class Loop(nn.Module):
    def forward(self, i: Tensor, x: Tensor) -> Any:
        from torch._higher_order_ops.while_loop import while_loop

        return while_loop(lambda i, x: i < 5, lambda i, x: (i + 1, x * 1.5), (i, x))


class Dynamic(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        joined = torch.cat([x, y])
        parts = joined.split([x.shape[0], y.shape[0]])
        return joined.reshape(joined.shape[0] * 2, -1).chunk(2), x.shape[0] * 3, parts[1]


class Joined(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y]).sin()


class JoinedRenamed(nn.Module):
    # The names change places, and with them the order in which sympy writes the sum of two sizes.
    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.cat([y, x]).sin()


class Unbacked(nn.Module):
    def forward(self, x: Tensor, n: Tensor) -> Any:
        length = n.item()
        torch._check(length >= 2)
        torch._check(length <= x.shape[0])
        return torch.zeros(length).sum(), torch.nonzero(x)


class Mutating(nn.Module):
    def __init__(self, mutated: str = "a") -> None:
        super().__init__()
        self.register_buffer("a", torch.zeros(3))
        self.register_buffer("b", torch.zeros(3))
        self.weight = nn.Parameter(torch.ones(3))
        self.mutated = mutated

    def forward(self, x: Tensor) -> Tensor:
        getattr(self, self.mutated).add_(x)
        x.mul_(2)
        return self.a * self.weight + self.b


class MutatingRenamed(Mutating):
    def forward(self, other: Tensor) -> Tensor:
        return super().forward(other)


class Constants(nn.Module):
    def __init__(self, attribute: float = 1.0, literal: float = 2.0) -> None:
        super().__init__()
        self.attribute = torch.tensor([attribute, 1.0])
        self.literal = literal

    def forward(self, x: Tensor, flag: bool, nothing: None) -> Any:
        y = x + self.attribute + torch.tensor([self.literal, 3.0])
        return y, 5, nothing, y.to(torch.float16), torch.full((2,), float("-inf"))


class NoGrad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.linear(x)
        return y * 2


class Function(nn.Module):
    """A model made of one function, and of the named parameters and buffers given."""

    def __init__(self, function: Callable[..., Any], **named: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in named.items():
            setattr(self, name, value)

    def forward(self, *args: Tensor) -> Any:
        return self.function(self, *args)


_ROWS = {0: Dim("rows", min=2, max=64)}
_COLUMNS = {0: Dim("columns", min=2, max=64)}

# What export gets: a model, its arguments, its dynamic shapes.
MODELS: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...], Any]]] = {
    "conv": lambda: (Conv().eval(), (torch.ones(1, 3, 8, 8),), None),
    "conv_training": lambda: (Conv(), (torch.ones(2, 3, 8, 8),), None),
    "attention": lambda: (Attention().eval(), (torch.ones(2, 3, 8),), None),
    "gru": lambda: (Recurrent(), (torch.ones(2, 3, 4),), None),
    "embedding": lambda: (Embedding(), (torch.arange(6).reshape(2, 3),), None),
    "branches": lambda: (Branches(), (torch.ones(3, 4),), None),
    "loop": lambda: (Loop(), (torch.tensor(0), torch.ones(3)), None),
    "dynamic": lambda: (Dynamic(), (torch.ones(4, 6), torch.ones(5, 6)), (_ROWS, _COLUMNS)),
    "unbacked": lambda: (Unbacked(), (torch.ones(7), torch.tensor(3)), None),
    "mutating": lambda: (Mutating(), (torch.ones(3),), None),
    "constants": lambda: (Constants(), (torch.ones(2), True, None), None),
    "no_grad": lambda: (NoGrad(), (torch.ones(2, 3),), None),
}
KINDS = ("undecomposed", "decomposed")
MUTATING_WHEN_DECOMPOSED = {"conv_training", "mutating"}


def export(model: nn.Module, *args: Any, shapes: Any = None) -> ExportedProgram:
    return torch.export.export(model, args, dynamic_shapes=shapes)


def export_named(name: str) -> dict[str, ExportedProgram]:
    torch.manual_seed(0)
    model, args, shapes = MODELS[name]()
    program = export(model, *args, shapes=shapes)
    return {"undecomposed": program, "decomposed": program.run_decompositions()}


def digests(programs: Programs) -> dict[str, str]:
    return {
        f"{name} {kind} {digest.__name__}": digest(program)
        for name, kinds in programs.items()
        for kind, program in kinds.items()
        for digest in (graph_digest, values_digest)
    }


def save_and_load(program: ExportedProgram) -> ExportedProgram:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.fixture(scope="module")
def programs() -> Programs:
    return {name: export_named(name) for name in MODELS}


@pytest.fixture(params=[(name, kind) for name in MODELS for kind in KINDS], ids=" ".join)
def case(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def program(programs: Programs, case: tuple[str, str]) -> Any:
    return programs[case[0]][case[1]]


# What leaves the digest alone


def test_another_export_has_the_same_digests(programs: Programs) -> None:
    for name, first in programs.items():
        second = export_named(name)
        for kind in KINDS:
            assert first_difference(first[kind], second[kind]) is None, (name, kind)
            assert graph_digest(first[kind]) == graph_digest(second[kind])
            assert values_digest(first[kind]) == values_digest(second[kind])


def test_another_process_with_another_hash_seed_has_the_same_digests(programs: Programs) -> None:
    names = ["branches", "dynamic", "mutating", "constants"]
    path = [str(Path(__file__).parents[1] / "support"), *sys.path]
    environment = os.environ | {"PYTHONHASHSEED": "17", "PYTHONPATH": os.pathsep.join(path)}
    code = f"""
import json, test_graph
programs = {{name: test_graph.export_named(name) for name in {names}}}
print(json.dumps(test_graph.digests(programs)))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    here = digests({name: programs[name] for name in names})
    assert json.loads(done.stdout.splitlines()[-1]) == here


def test_saving_and_loading_changes_nothing(program: ExportedProgram) -> None:
    loaded = save_and_load(program)
    assert first_difference(program, loaded) is None
    assert graph_digest(program) == graph_digest(loaded)
    assert values_digest(program) == values_digest(loaded)
    assert op_histogram(program) == op_histogram(loaded)
    assert graph_digest(program.module()) == graph_digest(loaded.module())


def test_the_module_has_the_programs_digest(program: ExportedProgram, case: Any) -> None:
    before = graph_digest(program)
    module = program.module()
    assert graph_digest(program) == before
    mutates = case[0] in MUTATING_WHEN_DECOMPOSED and case[1] == "decomposed"
    assert (graph_digest(module) == before) is not mutates
    assert values_digest(module) == values_digest(program)


@pytest.mark.parametrize(
    ("model", "renamed", "shapes"),
    [(Joined, JoinedRenamed, (_ROWS, _COLUMNS)), (Mutating, MutatingRenamed, None)],
)
def test_names_of_inputs_and_symbols_do_not_count(
    model: type[nn.Module], renamed: type[nn.Module], shapes: Any
) -> None:
    args = (torch.ones(3), torch.ones(4))[: len(shapes or (1,))]
    first = export(model(), *args, shapes=shapes).run_decompositions()
    second = export(renamed(), *args, shapes=shapes).run_decompositions()
    assert first_difference(first, second) is None


def by_keyword(graph: Graph) -> None:
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            names = [argument.name for argument in node.target._schema.arguments]
            node.kwargs = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
            node.args = ()


def with_defaults(graph: Graph) -> None:
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            for argument in node.target._schema.arguments[len(node.args) :]:
                node.kwargs = {argument.name: argument.default_value, **node.kwargs}


def with_other_names(graph: Graph) -> None:
    for node in graph.nodes:
        node.name = f"renamed_{node.name}"


def with_unused_items(graph: Graph) -> None:
    for node in list(graph.nodes):
        if "val" in node.meta:
            with graph.inserting_after(node):
                graph.call_function(operator.getitem, (node, 0))


def with_items_in_another_order(graph: Graph) -> None:
    for node in list(graph.nodes):
        items = [user for user in node.users if user.target is operator.getitem]
        for item in items:
            node.append(item)


def with_unused_arithmetic(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.target is aten.sym_size.int:
            with graph.inserting_after(node):
                size = graph.call_function(aten.sym_size.int, node.args)
            with graph.inserting_after(size):
                unused = graph.call_function(operator.mul, (size, 2))
            size.meta["val"] = node.meta["val"]
            unused.meta["val"] = node.meta["val"] * 2


def with_other_messages(graph: Graph) -> None:
    for node in graph.nodes:
        if node.target is aten._assert_scalar.default:
            node.args = (node.args[0], "another message")


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("conv_training", by_keyword),
        ("unbacked", by_keyword),
        ("conv_training", with_defaults),
        ("gru", with_defaults),
        ("gru", with_other_names),
        ("conv_training", with_unused_items),
        ("dynamic", with_unused_items),
        ("dynamic", with_items_in_another_order),
        ("dynamic", with_unused_arithmetic),
        ("unbacked", with_other_messages),
    ],
)
def test_another_way_to_write_the_same_graph_has_its_digest(
    programs: Programs, name: str, edit: Callable[[Graph], None]
) -> None:
    module = programs[name]["decomposed"].graph_module
    edited = copy.deepcopy(module)
    edit(edited.graph)
    assert str(edited.graph) != str(module.graph)
    assert first_difference(module, edited) is None
    assert graph_digest(module) == graph_digest(edited)
    assert op_histogram(module) == op_histogram(edited)


# What changes the digest

X = (torch.ones(2, 3),)
XY = (torch.ones(2, 3), torch.ones(2, 3))


def of(function: Callable[..., Any], *args: Tensor, **named: Tensor) -> ExportedProgram:
    return export(Function(function, **named), *args)


CHANGES: dict[str, Callable[[], tuple[ExportedProgram, ExportedProgram]]] = {
    "op": lambda: (of(lambda m, x: x.sin(), *X), of(lambda m, x: x.cos(), *X)),
    "overload": lambda: (of(lambda m, x, y: x + 1, *XY), of(lambda m, x, y: x + y, *XY)),
    "argument": lambda: (of(lambda m, x: x.sum(0), *X), of(lambda m, x: x.sum(0, True), *X)),
    "argument that is a node": lambda: (
        of(lambda m, x, y: x - y, *XY),
        of(lambda m, x, y: y - x, *XY),
    ),
    "float": lambda: (of(lambda m, x: x + 0.1, *X), of(lambda m, x: x + 0.1000001, *X)),
    "number type": lambda: (of(lambda m, x: x + 1, *X), of(lambda m, x: x + 1.0, *X)),
    "dtype": lambda: (of(lambda m, x: x + x, *X), of(lambda m, x: x + x, X[0].double())),
    "shape": lambda: (of(lambda m, x: x + x, *X), of(lambda m, x: x + x, torch.ones(3, 2))),
    "device": lambda: (of(lambda m, x: x + x, *X), of(lambda m, x: x + x, X[0].to("meta"))),
    "constant in the source": lambda: (
        export(Constants(literal=2.0), torch.ones(2), True, None),
        export(Constants(literal=4.0), torch.ones(2), True, None),
    ),
    "constant attribute": lambda: (
        export(Constants(attribute=1.0), torch.ones(2), True, None),
        export(Constants(attribute=4.0), torch.ones(2), True, None),
    ),
    "constant input": lambda: (
        export(Constants(), torch.ones(2), True, None),
        export(Constants(), torch.ones(2), False, None),
    ),
    "order of outputs": lambda: (
        of(lambda m, x: (x.sin(), x.cos()), *X),
        of(lambda m, x: (lambda a, b: (b, a))(x.sin(), x.cos()), *X),
    ),
    "which output": lambda: (
        of(lambda m, x: x.max(0)[0] + x.new_ones((), dtype=torch.int64), *X),
        of(lambda m, x: x.max(0)[1] + x.new_ones((), dtype=torch.int64), *X),
    ),
    "constant output": lambda: (of(lambda m, x: (x, 1), *X), of(lambda m, x: (x, 2), *X)),
    "branch": lambda: (
        export(Branches(0.5), torch.ones(3, 4)),
        export(Branches(0.25), torch.ones(3, 4)),
    ),
    "static instead of dynamic": lambda: (
        export(nn.ReLU(), torch.ones(4, 6), shapes=(_ROWS,)),
        export(nn.ReLU(), torch.ones(4, 6)),
    ),
    "target of an input": lambda: (
        of(lambda m, x: x * m.a, *X, a=nn.Parameter(torch.ones(3))),
        of(lambda m, x: x * m.b, *X, b=nn.Parameter(torch.ones(3))),
    ),
    "kind of an input": lambda: (
        of(lambda m, x: x * m.a, *X, a=nn.Parameter(torch.ones(3))),
        of(lambda m, x: x * m.a, *X, a=nn.Buffer(torch.ones(3))),
    ),
    "target of an output": lambda: (
        export(Mutating("a"), torch.ones(3)).run_decompositions(),
        export(Mutating("b"), torch.ones(3)).run_decompositions(),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_program_changes_its_digest(change: str) -> None:
    before, after = CHANGES[change]()
    assert graph_digest(before) != graph_digest(after)
    assert first_difference(before, after) is not None
    assert graph_digest(before.module()) != graph_digest(after.module())


def test_an_operator_whose_result_is_unused_counts(programs: Programs) -> None:
    module = programs["gru"]["decomposed"].graph_module
    edited = copy.deepcopy(module)
    x = next(iter(edited.graph.nodes))
    with edited.graph.inserting_after(x):
        edited.graph.call_function(aten.sin.default, (x,))
    assert graph_digest(module) != graph_digest(edited)


@pytest.mark.parametrize("part", ["input_specs", "output_specs"])
def test_each_entry_of_the_signature_counts(part: str) -> None:
    program = export(Mutating(), torch.ones(3)).run_decompositions()
    original = graph_digest(program)
    seen = {original}
    for spec in getattr(program.graph_signature, part):
        if spec.target is not None:
            kept, spec.target = spec.target, "elsewhere"
            seen.add(graph_digest(program))
            spec.target = kept
        other = InputKind.TOKEN if part == "input_specs" else OutputKind.LOSS_OUTPUT
        kind, spec.kind = spec.kind, other
        seen.add(graph_digest(program))
        spec.kind = kind
    assert graph_digest(program) == original
    # Two buffers, a parameter and an input, or two mutations and an output; the original is one.
    assert len(seen) == {"input_specs": 1 + 3 + 4, "output_specs": 1 + 2 + 3}[part]


def calling(function: Any, *args: Any, **kwargs: Any) -> GraphModule:
    """Make a graph of one call; its input stands before the arguments."""
    graph = Graph()
    graph.output(graph.call_function(function, (graph.placeholder("x"), *args), kwargs))
    return GraphModule(nn.Module(), graph)


@settings(max_examples=40, deadline=None)
@given(st.floats(), st.floats())
def test_floats_are_distinguished_exactly(a: float, b: float) -> None:
    first, second = (graph_digest(calling(aten.add.Tensor, number)) for number in (a, b))
    assert (first == second) is (a.hex() == b.hex())
    again = calling(aten.add.Tensor, float.fromhex(a.hex()))
    assert first == graph_digest(again)


PLAIN = st.none() | st.booleans() | st.integers(0, 2) | st.text("a ,'[", max_size=3)
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@settings(max_examples=40, deadline=None)
@given(NESTED, NESTED)
def test_nested_arguments_are_distinguished_exactly(a: Any, b: Any) -> None:
    first, second = (graph_digest(calling(torch.ops.higher_order.cond, value)) for value in (a, b))
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (first == second) is same


def test_the_order_of_keys_does_not_count() -> None:
    def one(**names: Any) -> str:
        return graph_digest(calling(torch.ops.higher_order.cond, names, **names))

    assert one(a=1, b=2) == one(b=2, a=1)
    assert one(a=1, b=2) != one(a=2, b=1)


def test_python_functions_are_distinguished() -> None:
    functions = [operator.add, operator.sub, torch.sym_max, torch.sym_min]
    assert len({graph_digest(calling(function, 2)) for function in functions}) == 4


def test_the_class_of_a_custom_object_counts() -> None:
    def taking(class_name: str) -> GraphModule:
        module = calling(aten.add.Tensor, 1)
        (x,) = (node for node in module.graph.nodes if node.op == "placeholder")
        x.meta["val"] = CustomObjArgument(name="x", class_fqn=class_name)
        return module

    assert graph_digest(taking("A")) == graph_digest(taking("A"))
    assert graph_digest(taking("A")) != graph_digest(taking("B"))


# Where programs part


def test_no_difference_between_a_program_and_itself(program: ExportedProgram) -> None:
    assert first_difference(program, program) is None


def test_the_first_difference_is_the_node_that_changed() -> None:
    left = of(lambda m, x: (x.sin() * 2).exp(), *X)
    right = of(lambda m, x: (x.sin() * 3).exp(), *X)
    difference = first_difference(left, right)
    assert difference == GraphDifference(
        index=2,
        left="%2 = aten::mul.Tensor(self=%1, other=2) : float32[2, 3] cpu",
        right="%2 = aten::mul.Tensor(self=%1, other=3) : float32[2, 3] cpu",
        made_by=difference.made_by,
    )
    # Up to torch 2.6 a node of a program that was not lowered tells of itself.
    assert difference.made_by in ((None, None), ("aten::mul.Tensor", "aten::mul.Tensor"))


def test_the_first_difference_is_inside_a_branch() -> None:
    args = (torch.ones(3, 4),)
    difference = first_difference(export(Branches(0.5), *args), export(Branches(0.25), *args))
    assert difference is not None
    assert difference.left is not None
    assert difference.right is not None
    assert difference.left.startswith(f"  %{difference.index} = aten::sub.Tensor(")
    assert "other=0.5)" in difference.left
    assert difference.right == difference.left.replace("0.5", "0.25")


def test_the_first_difference_is_an_input() -> None:
    left = of(lambda m, x: x * m.a, *X, a=nn.Parameter(torch.ones(3)))
    right = of(lambda m, x: x * m.b, *X, b=nn.Parameter(torch.ones(3)))
    assert first_difference(left, right) == GraphDifference(
        index=0,
        left="%0 = parameter 'a' : float32[3] cpu",
        right="%0 = parameter 'b' : float32[3] cpu",
    )


def test_a_program_that_ends_first_has_nothing_there() -> None:
    short, long = of(lambda m, x: (x,), *X), of(lambda m, x: (x, x), *X)
    assert first_difference(short, long) == GraphDifference(index=2, left=None, right="output %0")
    assert first_difference(long, short) == GraphDifference(index=2, left="output %0", right=None)


def test_symbols_are_numbered_by_first_appearance() -> None:
    left = export(Dynamic(), torch.ones(4, 6), torch.ones(5, 6), shapes=(_ROWS, _COLUMNS))
    right = export(Dynamic(), torch.ones(4, 8), torch.ones(5, 8), shapes=(_ROWS, _COLUMNS))
    difference = first_difference(left, right)
    assert difference == GraphDifference(
        index=0,
        left="%0 = input : float32[s0, 6] cpu",
        right="%0 = input : float32[s0, 8] cpu",
    )


# Counts


def test_a_histogram_counts_subgraphs_and_only_operators() -> None:
    program = export(Branches(), torch.ones(3, 4))
    assert op_histogram(program) == {
        "aten::gt.Scalar": 1,
        "aten::linear": 1,
        "aten::sin": 1,
        "aten::sub.Tensor": 1,
        "aten::sum": 1,
        "cond": 1,
    }


def test_a_histogram_is_sorted_and_counts_repeats() -> None:
    histogram = op_histogram(of(lambda m, x: (x.sin().cos() + x.sin()).split(1), *X))
    assert histogram == {
        "aten::add.Tensor": 1,
        "aten::cos": 1,
        "aten::sin": 2,
        "aten::split.Tensor": 1,
    }
    assert list(histogram) == sorted(histogram)


def test_a_histogram_leaves_out_arithmetic_on_sizes(programs: Programs) -> None:
    program = programs["dynamic"]["undecomposed"]
    assert any(node.target is operator.mul for node in program.graph.nodes)
    assert all("::" in name for name in op_histogram(program))


# The values of tensors


def test_a_parameter_changes_the_values_and_not_the_graph() -> None:
    args = (torch.ones(3, 4),)
    torch.manual_seed(0)
    first = export(nn.Linear(4, 4), *args)
    torch.manual_seed(1)
    second = export(nn.Linear(4, 4), *args)
    assert graph_digest(first) == graph_digest(second)
    assert values_digest(first) != values_digest(second)


@pytest.mark.parametrize("constant", ["literal", "attribute"])
def test_a_constant_changes_the_values(programs: Programs, constant: str) -> None:
    _, args, _ = MODELS["constants"]()
    other = export(Constants(**{constant: 4.0}), *args)
    assert values_digest(programs["constants"]["undecomposed"]) != values_digest(other)


@pytest.mark.parametrize("persistent", [True, False])
def test_a_buffer_changes_the_values(persistent: bool) -> None:
    def with_buffer(value: float) -> ExportedProgram:
        buffer = nn.Buffer(torch.tensor(value), persistent=persistent)
        return of(lambda m, x: x * m.a, *X, a=buffer)

    assert values_digest(with_buffer(1.0)) == values_digest(with_buffer(1.0))
    assert values_digest(with_buffer(1.0)) != values_digest(with_buffer(2.0))
    assert graph_digest(with_buffer(1.0)) == graph_digest(with_buffer(2.0))


def holding(**tensors: Any) -> GraphModule:
    """Make a graph that returns attributes of these names, got in this order."""
    graph, root = Graph(), nn.Module()
    for name, tensor in tensors.items():
        setattr(root, name, tensor)
    graph.output(tuple(graph.get_attr(name) for name in tensors))
    return GraphModule(root, graph)


def values_of(tensor: Any) -> str:
    return values_digest(holding(a=tensor))


TENSORS = {
    "bfloat16": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    "float8": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
    "bool": torch.tensor([False, True]),
    "int64": torch.tensor([1, 2]),
    "complex": torch.tensor([1 + 2j, 3 - 4j]),
    "scalar": torch.tensor(1.5),
    "strided": torch.arange(12.0).reshape(3, 4).t(),
    "sliced": torch.arange(12.0)[3:7],
    "expanded": torch.tensor([1.0]).expand(3),
    "conjugated": torch.tensor([1 + 2j, 3 - 4j]).conj(),
    "negated": torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    "trained": torch.ones(2, requires_grad=True) * 2,
}


@pytest.mark.parametrize("name", TENSORS)
def test_equal_tensors_have_equal_values_however_they_are_stored(name: str) -> None:
    tensor = TENSORS[name]
    plain = torch.empty(tensor.shape, dtype=tensor.dtype)
    plain.copy_(tensor.detach())
    assert values_of(tensor) == values_of(plain)
    plain.flatten()[-1:].copy_(torch.zeros((), dtype=tensor.dtype))
    assert values_of(tensor) != values_of(plain)


def test_dtype_shape_and_name_count_even_for_empty_tensors() -> None:
    tensors = [torch.ones(0), torch.ones(0, dtype=torch.int32), torch.ones(0, 2), torch.ones(2, 0)]
    assert len({values_of(tensor) for tensor in tensors}) == len(tensors)
    zeros = torch.zeros(4)
    assert values_of(zeros) != values_of(zeros.view(torch.int32))
    assert values_of(zeros) != values_of(zeros.reshape(2, 2))
    assert values_of(zeros) != values_digest(holding(b=zeros))


def test_the_order_of_names_does_not_change_the_values() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    assert values_digest(holding(a=a, b=b)) == values_digest(holding(b=b, a=a))


def test_views_of_one_storage_count_for_what_they_show() -> None:
    a, b = torch.arange(6.0)[:3], torch.arange(6.0)[3:]
    shared = torch.arange(6.0)
    assert values_digest(holding(a=shared[:3], b=shared[3:])) == values_digest(holding(a=a, b=b))
    assert values_digest(holding(a=shared[3:], b=shared[:3])) != values_digest(holding(a=a, b=b))


def test_submodules_that_a_graph_calls_count() -> None:
    def traced(size: int, weight: float, mean: float) -> GraphModule:
        norm = nn.BatchNorm1d(size)
        norm.weight.data.fill_(weight)
        norm.running_mean.fill_(mean)
        return torch.fx.symbolic_trace(nn.Sequential(norm))

    assert graph_digest(traced(2, 1.0, 0.0)) != graph_digest(traced(3, 1.0, 0.0))
    assert graph_digest(traced(2, 1.0, 0.0)) == graph_digest(traced(2, 5.0, 5.0))
    assert values_digest(traced(2, 1.0, 0.0)) == values_digest(traced(2, 1.0, 0.0))
    assert values_digest(traced(2, 1.0, 0.0)) != values_digest(traced(2, 5.0, 0.0))
    assert values_digest(traced(2, 1.0, 0.0)) != values_digest(traced(2, 1.0, 5.0))


class Wrapped(torch.Tensor):
    """A tensor subclass whose values may be anywhere."""


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantized"),
        (lambda: torch.eye(2).to_sparse(), "torch.sparse_coo tensor"),
        (lambda: torch.ones(2, device="meta"), "meta device"),
        (lambda: torch.ones(2).as_subclass(Wrapped), "a Wrapped"),
        (lambda: "text", "a str"),
    ],
    ids=["quantized", "sparse", "meta", "subclass", "text"],
)
def test_values_that_cannot_be_read_are_named(value: Callable[[], Any], kind: str) -> None:
    module = holding(a=value())
    with pytest.raises(UnusableValue, match=f"'a': it is .*{kind}"):
        values_digest(module)
    # A graph with such a constant has a digest all the same, which does not cover its values.
    assert graph_digest(module) == graph_digest(holding(a=value()))
