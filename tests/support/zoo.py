"""The zoo: one small program for each of hundreds of ops, and what its graphs show happened to the op.

The oracle looks at the graphs before and after, at the schema, and at a counter planted in the decomposition that an
unrecorded lowering uses. It uses nothing of what a ledger recorded.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram, export
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode
from torch.utils import _pytree as pytree

from decomp_ledger import Ledger, catalogs, record
from decomp_ledger.model.samples import SampleCall, parse_call
from decomp_ledger.pytorch.sample_values import build_arguments, build_tensors

CIA = torch._C.DispatchKey.CompositeImplicitAutograd
TABLES = ("none", "preserve", "default", "override")

# Calls of ops that no default table has: what stays in graphs, views, and in-place forms.
UNARY = (
    "abs acos acosh asin asinh atan atanh bitwise_not ceil cos cosh digamma erf erfc erfinv exp exp2 expm1 floor "
    "frac i0 lgamma log log10 log1p log2 logit logical_not neg reciprocal relu round rsqrt sgn sigmoid sign silu sin "
    "sinc sinh sqrt square tan tanh trunc hardsigmoid hardswish mish celu elu selu leaky_relu hardtanh relu6 positive "
    "isfinite isinf isnan isneginf isposinf signbit alias detach clone gelu softplus softsign log_sigmoid "
    "deg2rad rad2deg angle nan_to_num softshrink hardshrink rrelu rand_like randn_like zeros_like ones_like "
    "zero fill_diagonal tril triu flip arcsin arctanh fix absolute negative"
)
OTHERS = {
    "aten::add.Tensor": "(f32[3], f32[3])",
    "aten::sub.Tensor": "(f32[3], f32[3])",
    "aten::mul.Tensor": "(f32[3], f32[3])",
    "aten::div.Tensor": "(f32[3], f32[3])",
    "aten::add.Scalar": "(f32[3], 2)",
    "aten::mul.Scalar": "(f32[3], 2)",
    "aten::pow.Tensor_Scalar": "(f32[3], 2)",
    "aten::remainder.Scalar": "(f32[3], 2)",
    "aten::fmod.Scalar": "(f32[3], 2)",
    "aten::eq.Tensor": "(f32[3], f32[3])",
    "aten::lt.Scalar": "(f32[3], 1)",
    "aten::maximum": "(f32[3], f32[3])",
    "aten::clamp": "(f32[3], 0, 1)",
    "aten::clamp_min": "(f32[3], 0)",
    "aten::lerp.Scalar": "(f32[3], f32[3], 0.5)",
    "aten::addcmul": "(f32[3], f32[3], f32[3])",
    "aten::addcdiv": "(f32[3], f32[3], f32[3])",
    "aten::addmm": "(f32[2, 2], f32[2, 2], f32[2, 2])",
    "aten::addmv": "(f32[2], f32[2, 2], f32[2])",
    "aten::addr": "(f32[2, 2], f32[2], f32[2])",
    "aten::baddbmm": "(f32[1, 2, 2], f32[1, 2, 2], f32[1, 2, 2])",
    "aten::mm": "(f32[2, 2], f32[2, 2])",
    "aten::bmm": "(f32[1, 2, 2], f32[1, 2, 2])",
    "aten::view": "(f32[2, 3], [3, 2])",
    "aten::_unsafe_view": "(f32[2, 3], [3, 2])",
    "aten::permute": "(f32[2, 3], [1, 0])",
    "aten::transpose.int": "(f32[2, 3], 0, 1)",
    "aten::t": "(f32[2, 3])",
    "aten::expand": "(f32[1, 3], [2, 3])",
    "aten::slice.Tensor": "(f32[4], 0, 1, 3)",
    "aten::select.int": "(f32[2, 3], 0, 1)",
    "aten::split.Tensor": "(f32[4], 2)",
    "aten::split_with_sizes": "(f32[4], [1, 3])",
    "aten::unbind.int": "(f32[2, 3])",
    "aten::squeeze": "(f32[1, 3])",
    "aten::squeeze.dim": "(f32[1, 3], 0)",
    "aten::unsqueeze": "(f32[3], 0)",
    "aten::diagonal": "(f32[3, 3])",
    "aten::as_strided": "(f32[4], [2, 2], [2, 1])",
    "aten::unfold": "(f32[6], 0, 2, 2)",
    "aten::view_as_real": "(c64[3])",
    "aten::view_as_complex": "(f32[3, 2])",
    "aten::chunk": "(f32[4], 2)",
    "aten::reshape": "(f32[2, 3], [3, 2])",
    "aten::flatten.using_ints": "(f32[2, 3])",
    "aten::contiguous": "(f32[2, 3])",
    "aten::hsplit.int": "(f32[4, 4], 2)",
    "aten::reshape_as": "(f32[2, 3], f32[3, 2])",
    "aten::view_as": "(f32[2, 3], f32[3, 2])",
    "aten::narrow": "(f32[4], 0, 1, 2)",
    "aten::movedim.int": "(f32[2, 3], 0, 1)",
    "aten::swapaxes": "(f32[2, 3], 0, 1)",
    "aten::tensor_split.sections": "(f32[4], 2)",
    "aten::expand_as": "(f32[1, 3], f32[2, 3])",
    "aten::unflatten.int": "(f32[4], 0, [2, 2])",
    "aten::matmul": "(f32[2, 2], f32[2, 2])",
    "aten::linear": "(f32[2, 3], f32[4, 3], f32[4])",
    "aten::softmax.int": "(f32[2, 3], -1)",
    "aten::dropout": "(f32[2, 3], 0.5, False)",
    "aten::layer_norm": "(f32[2, 3], [3])",
    "aten::batch_norm": "(f32[2, 3], None, None, f32[3], f32[3], False, 0.1, 1e-05, False)",
    "aten::group_norm": "(f32[1, 4, 2], 2)",
    "aten::instance_norm": "(f32[1, 2, 3], None, None, None, None, True, 0.1, 1e-05, False)",
    "aten::conv2d": "(f32[1, 1, 4, 4], f32[1, 1, 2, 2])",
    "aten::max_pool2d": "(f32[1, 1, 4, 4], [2, 2])",
    "aten::adaptive_avg_pool2d": "(f32[1, 1, 4, 4], [2, 2])",
    "aten::adaptive_max_pool2d": "(f32[1, 2, 4, 4], [2, 2])",
    "aten::avg_pool2d": "(f32[1, 1, 4, 4], [2, 2])",
    "aten::scaled_dot_product_attention": "(f32[1, 1, 2, 4], f32[1, 1, 2, 4], f32[1, 1, 2, 4])",
    "aten::upsample_nearest2d": "(f32[1, 1, 2, 2], [4, 4])",
    "aten::upsample_nearest2d.vec": "(f32[1, 1, 2, 2], [4, 4], None)",
    "aten::upsample_bilinear2d": "(f32[1, 1, 2, 2], [4, 4], False)",
    "aten::upsample_bilinear2d.vec": "(f32[1, 1, 2, 2], [4, 4], False, None)",
    "aten::upsample_bicubic2d": "(f32[1, 1, 2, 2], [4, 4], False)",
    "aten::upsample_bicubic2d.vec": "(f32[1, 1, 2, 2], [4, 4], False, None)",
    "aten::multi_margin_loss": "(f32[2, 3], i64[2] < 3)",
    "aten::multilabel_margin_loss_forward": "(f32[2, 3], i64[2, 3] < 3, 1)",
    "aten::native_batch_norm": "(f32[2, 3], None, None, None, None, True, 0.1, 1e-05)",
    "aten::native_layer_norm": "(f32[2, 3], [3], None, None, 1e-05)",
    "aten::sum": "(f32[2, 3])",
    "aten::mean.dim": "(f32[2, 3], [1])",
    "aten::amax": "(f32[2, 3], [1])",
    "aten::var.correction": "(f32[2, 3], [1])",
    "aten::std.dim": "(f32[2, 3], [1])",
    "aten::cumsum": "(f32[2, 3], 0)",
    "aten::sort": "(f32[3])",
    "aten::topk": "(f32[3], 2)",
    "aten::gather": "(f32[3, 3], 0, i64[3, 3] < 3)",
    "aten::scatter.src": "(f32[3, 3], 0, i64[3, 3] < 3, f32[3, 3])",
    "aten::scatter_add": "(f32[3, 3], 0, i64[3, 3] < 3, f32[3, 3])",
    "aten::index_select": "(f32[3, 3], 0, i64[2] < 3)",
    "aten::index_add": "(f32[3], 0, i64[2] < 3, f32[2])",
    "aten::index_copy": "(f32[3], 0, i64([0, 2]), f32[2])",
    "aten::index_fill.int_Scalar": "(f32[3], 0, i64[2] < 3, 1)",
    "aten::index_put": "(f32[3], [i64[2] < 3], f32[2])",
    "aten::index.Tensor": "(f32[3], [i64[2] < 3])",
    "aten::masked_fill.Scalar": "(f32[4], b8[4], 1)",
    "aten::masked_fill.Tensor": "(f32[4], b8[4], f32[()])",
    "aten::where.self": "(b8[4], f32[4], f32[4])",
    "aten::where.ScalarSelf": "(b8[4], 1.0, f32[4])",
    "aten::embedding": "(f32[5, 4], i64[2] < 5)",
    "aten::cat": "([f32[2], f32[2]])",
    "aten::stack": "([f32[2], f32[2]])",
    "aten::hstack": "([f32[2], f32[2]])",
    "aten::constant_pad_nd": "(f32[2, 3], [1, 1])",
    "aten::copy": "(f32[3], f32[3])",
    "aten::fill.Scalar": "(f32[3], 2)",
    "aten::full_like": "(f32[3], 2)",
    "aten::new_zeros": "(f32[3], [2])",
    "aten::to.dtype": "(f32[3], torch.float64)",
    "aten::_to_copy": "(f32[3], dtype=torch.float64)",
    "aten::type_as": "(f32[3], f64[3])",
    "aten::einsum": "('ij,jk->ik', [f32[2, 2], f32[2, 2]])",
    "aten::isclose": "(f32[3], f32[3])",
    "aten::fft_fft": "(f32[4])",
    "aten::_fft_r2c": "(f32[4], [0], 0, True)",
    "aten::linalg_norm": "(f32[2, 2])",
    "aten::pad": "(f32[2, 3], [1, 1])",
    "aten::roll": "(f32[4], [1], [0])",
    "aten::repeat": "(f32[2], [2])",
    "aten::tile": "(f32[2], [2])",
    "aten::bernoulli": "(f32[3])",
    "aten::native_dropout": "(f32[3], 0.5, True)",
    "aten::lift_fresh": "(f32[3])",
    "aten::unsafe_chunk": "(f32[4], 2)",
    "aten::resize": "(f32[4], [2, 2])",
    "aten::swapdims": "(f32[2, 3], 0, 1)",
    "aten::transpose_copy.int": "(f32[2, 3], 0, 1)",
    "aten::view_copy": "(f32[2, 3], [3, 2])",
    "aten::squeeze_copy": "(f32[1, 3])",
    "prims::convert_element_type": "(f32[3], torch.float64)",
    "prims::broadcast_in_dim": "(f32[3], [2, 3], [1])",
    "prims::mul": "(f32[3], f32[3])",
}


class Animal(NamedTuple):
    """One call of one op.

    Attributes:
        op: the op's name.
        call: its arguments; of an animal with `run`, the tensors of the program.
        run: a program of such tensors that calls the op once, among others; None for the call alone.
    """

    op: str
    call: SampleCall
    run: Callable[..., Any] | None = None


class Herd(NamedTuple):
    """A program in which each of some animals is alone with its inputs and outputs.

    Attributes:
        animals: the animals, each of another op.
        program: the exported program.
        inputs: how many tensors each has.
        before: the operators of each animal's part of the program.
    """

    animals: tuple[Animal, ...]
    program: ExportedProgram
    inputs: tuple[int, ...]
    before: tuple[Counter[str], ...] = ()


class Sighting(NamedTuple):
    """What one lowering of an animal shows, and what the ledger says.

    Attributes:
        op: an op of the lowering.
        table: one of `TABLES`.
        shown: what the graphs show happened to the op.
        answer: what the ledger says.
        because: the reason that the ledger gives.
        call: what calls the animal's op.
    """

    op: str
    table: str
    shown: str
    answer: str
    because: str
    call: str


class Calls(torch.nn.Module):
    """Calls of some ops, each on tensors of its own; the result has the tensors of each."""

    def __init__(self, animals: Sequence[Animal]) -> None:
        super().__init__()
        self.animals = animals

    def forward(self, *groups: list[torch.Tensor]) -> Any:
        found = []
        for animal, tensors in zip(self.animals, groups, strict=True):
            args, kwargs = build_arguments(animal.call, [*tensors])
            found.append((animal.run or operator(animal.op))(*args, **kwargs))
        return found


def operator(name: str) -> Any | None:
    """Return the live operator of a name; None if this torch does not have it."""
    space, _, rest = name.rpartition("::")
    family, _, overload = rest.partition(".")
    if not space:
        return torch._ops._higher_order_ops.get(name)
    try:
        torch._C._dispatch_find_schema_or_throw(f"{space}::{family}", overload)
    except RuntimeError:
        return None
    return getattr(getattr(getattr(torch.ops, space), family), overload or "default")


def calls() -> dict[str, list[str]]:
    """Return op -> sample calls: the shipped ones, those above, and the in-place forms of these."""
    found = {op: list(texts) for op, texts in catalogs.samples().items() if op.startswith(("aten::", "prims::"))}
    for name in UNARY.split():
        found.setdefault(f"aten::{name}", []).append("(f32[3, 3])")
    for op, text in OTHERS.items():
        found.setdefault(op, []).insert(0, text)
    for op, texts in list(found.items()):
        family, dot, overload = op.partition(".")
        if not family.endswith("_") and operator(f"{family}_{dot}{overload}") is not None:
            found.setdefault(f"{family}_{dot}{overload}", []).extend(texts)
    return {op: list(dict.fromkeys(texts)) for op, texts in sorted(found.items()) if operator(op) is not None}


def animals(chosen: Mapping[str, Sequence[str]]) -> Iterator[Animal]:
    """Give for each op the first of its calls that fake tensors can run."""
    for op, texts in chosen.items():
        for text in texts[:3]:
            call = parse_call(text)
            with contextlib.suppress(Exception), warnings.catch_warnings(), FakeTensorMode() as mode:
                warnings.simplefilter("ignore")
                tensors = [mode.from_tensor(tensor) for tensor in build_tensors(call)]
                args, kwargs = build_arguments(call, tensors)
                result = operator(op)(*args, **kwargs)
                if not call.dynamic and any(isinstance(x, torch.Tensor) for x in pytree.tree_leaves(result)):
                    yield Animal(op, call)
                    break


def herds(found: Sequence[Animal]) -> Iterator[Herd]:
    """Export animals together, without those that cannot be exported alone."""
    exported = list(_pieces(found))
    if len(exported) > 1:
        together = _herd([animal for herd in exported for animal in herd.animals])
        exported = exported if together is None else [together]
    yield from exported


def _pieces(found: Sequence[Animal]) -> Iterator[Herd]:
    """Export animals together, or in halves where that fails."""
    herd = _herd(found)
    if herd is not None:
        yield herd
    elif len(found) > 1:
        yield from _pieces(found[: len(found) // 2])
        yield from _pieces(found[len(found) // 2 :])


def _herd(found: Sequence[Animal]) -> Herd | None:
    """Export animals together; return None if that fails, or if the graph does not show each animal's op once."""
    tensors = tuple(build_tensors(animal.call) for animal in found)
    with contextlib.suppress(Exception), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = export(Calls(found), tensors, strict=False)
        herd = Herd(tuple(found), program, tuple(map(len, tensors)))
        before = tuple(parts(herd, program))
        if all(
            part[animal.op] == 1 and (animal.run or part.total() == 1)
            for animal, part in zip(found, before, strict=True)
        ):
            return herd._replace(before=before)
    return None


def parts(herd: Herd, program: ExportedProgram) -> list[Counter[str]]:
    """Count the operators of each animal's part of a program: what its inputs and outputs are connected with."""
    graph, signature = program.graph_module.graph, program.graph_signature
    owner: dict[Any, Any] = {}

    def root(node: Any) -> Any:
        while owner.setdefault(node, node) is not node:
            owner[node] = node = owner[owner[node]]
        return node

    for node in graph.nodes:
        if node.op != "output":
            for other in node.all_input_nodes:
                owner[root(other)] = root(node)
    nodes = {node.name: node for node in graph.nodes}
    inputs = [nodes[name] for name in signature.user_inputs if name in nodes]
    number: dict[Any, int] = {}
    for index, size in enumerate(herd.inputs):
        for node in inputs[:size]:
            number[root(node)] = index
        inputs = inputs[size:]
    leaves = [nodes.get(name) for name in signature.user_outputs]
    spec = pytree.tree_unflatten(leaves, program.call_spec.out_spec)
    for index, results in enumerate(spec):
        for node in pytree.tree_leaves(results):
            if node is not None:
                number.setdefault(root(node), index)
    found: list[Counter[str]] = [Counter() for _ in herd.animals]
    for node in graph.nodes:
        if node.op == "call_function" and root(node) in number:
            found[number[root(node)]].update(operators_of(program.graph_module, node))
    return found


def operators_of(module: GraphModule, node: Any) -> Iterator[str]:
    """Give the operator of a node, and those of the subgraphs that it runs."""
    if not isinstance(node.target, (torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
        return
    yield node.target.name()
    for argument in node.all_input_nodes:
        inner = getattr(module, argument.target, None) if argument.op == "get_attr" else None
        for each in inner.graph.nodes if isinstance(inner, GraphModule) else ():
            yield from operators_of(inner, each)


def zeros_instead(live: Any) -> Callable[..., Any]:
    """Return a decomposition of an op that torch does not decompose: zeros of the right shapes."""

    def zeros(*args: Any, **kwargs: Any) -> Any:
        with disable_proxy_modes_tracing():
            result = live(*args, **kwargs)
        return pytree.tree_map_only(
            torch.Tensor, lambda x: torch.ops.aten.full.default(list(x.shape), 0, dtype=x.dtype), result
        )

    return zeros


class Planted:
    """A decomposition that counts how often it replaced its op in a trace."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn, self.count, self.raised = fn, 0, False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        traced = get_proxy_mode() is not None
        try:
            result = self.fn(*args, **kwargs)
        except BaseException:
            self.raised = True
            raise
        self.count += traced and result is not NotImplemented
        return result


def lower(program: ExportedProgram, table: Any) -> Any:
    """Return a lowered program, or the exception that torch raises."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return program.run_decompositions(table)
        except Exception as error:
            return error


def what_the_graphs_show(op: str, before: Counter[str], after: Counter[str] | None, planted: Planted | None) -> str:
    """Return what happened to an op of a program, judged by its graphs and a planted counter."""
    if after is None:
        return "failed"
    replaced = planted is not None and planted.count > 0
    if replaced or after[op]:
        return "decomposed" if replaced else "kept"
    live = operator(op)
    if isinstance(live, torch._ops.HigherOrderOperator):
        return "decomposed"
    if torch._C._dispatch_has_kernel_for_dispatch_key(op, CIA) or CIA in live.py_kernels:
        return "decomposed"
    if live._schema.is_mutable:
        return "functionalized"
    return "decomposed" if after - before else "removed"


class Lowering(NamedTuple):
    """An unrecorded lowering of a herd.

    Attributes:
        herd: the herd.
        own: op -> a decomposition of it, for an override.
        planted: op -> the decomposition with a counter, of the ops whose decomposition the table has.
        result: the lowered program, or the exception that torch raised.
    """

    herd: Herd
    own: Mapping[str, Any]
    planted: Mapping[str, Planted]
    result: Any


def watch(found: Sequence[Animal], ledger: Ledger, kinds: Sequence[str] = TABLES) -> Iterator[Sighting]:
    """Lower animals with each kind of table, unrecorded and recorded, and compare what both show.

    An animal that torch cannot lower is watched alone.
    """
    together = list(herds(found))
    for kind in kinds:
        lowered = [each for herd in together for each in lower_plain(herd, kind)]
        for each in lowered:
            recorded = lower_recorded(each.herd, kind, ledger, each.own)
            yield from compared(each, kind, ledger, recorded)
        together = [each.herd for each in lowered]  # what one table cannot lower, the next one cannot either, mostly


def lower_plain(herd: Herd, kind: str) -> list[Lowering]:
    """Lower a herd with one kind of table; the animals that make it fail alone, and the others together."""
    lowered = list(_lower_apart(herd, kind))
    good = [each for each in lowered if not isinstance(each.result, Exception)]
    if len(good) < 2:
        return lowered
    bad = [each for each in lowered if isinstance(each.result, Exception)]
    together = herds([animal for each in good for animal in each.herd.animals])
    return bad + [each for smaller in together for each in _lower_apart(smaller, kind)]


def _lower_apart(herd: Herd, kind: str) -> Iterator[Lowering]:
    default = dict(torch.export.default_decompositions())
    live = {animal.op: operator(animal.op) for animal in herd.animals}
    own = {
        op: default.get(each) or torch._decomp.decomposition_table.get(each) or zeros_instead(each)
        for op, each in live.items()
    }
    planted: dict[str, Planted] = {}
    if kind in ("default", "override"):
        planted = {op: Planted(own[op]) for op in live if kind == "override" or live[op] in default}
    plain: dict[Any, Any] = {}
    if kind != "none":
        plain = {op: fn for op, fn in default.items() if op not in live.values()}
    result = lower(herd.program, plain | {live[op]: fn for op, fn in planted.items()})
    if not isinstance(result, Exception) or len(herd.animals) == 1:
        yield Lowering(herd, own, planted, result)
        return
    bad = blamed(herd, planted, result)
    bad = bad if len(bad) < len(herd.animals) else []
    rest = [each for each in herd.animals if each not in bad]
    half = 0 if bad else len(rest) // 2
    for some in (*([each] for each in bad), rest[:half], rest[half:]):
        for smaller in herds(some) if some else ():
            yield from _lower_apart(smaller, kind)


def blamed(herd: Herd, planted: Mapping[str, Planted], error: Exception) -> list[Animal]:
    """Return the animals that a failed lowering blames: torch names the node that it ran, or a decomposition raised."""
    bad = [each for each in herd.animals if f"[target=torch.ops.{as_torch_writes(each.op)}]" in str(error)]
    return bad or [each for each in herd.animals if each.op in planted and planted[each.op].raised]


def as_torch_writes(op: str) -> str:
    """Return the text of an operator: `aten.add.Tensor`."""
    return str(operator(op)) if "::" in op else f"higher_order.{op}"


def lower_recorded(herd: Herd, kind: str, ledger: Ledger, own: Mapping[str, Any]) -> Any:
    """Lower a herd with a recorded table of one kind."""
    if kind == "none":
        with record(ledger, name="none"):
            return lower(herd.program, {})
    table = ledger.table(kind)
    if kind == "preserve":
        table.preserve(*own)
    elif kind == "override":
        table.update(own)
    recorded = lower(herd.program, table)
    table.reset(*own)
    return recorded


def compared(lowering: Lowering, kind: str, ledger: Ledger, recorded: Any) -> Iterator[Sighting]:
    """Compare what two lowerings, unrecorded and recorded, show of each op with what the ledger says."""
    herd, alone, planted = lowering.herd, lowering.result, lowering.planted
    failed = isinstance(alone, Exception)
    names = [animal.op for animal in herd.animals]
    assert failed == isinstance(recorded, Exception), (names, kind, alone, recorded)
    assert failed or str(alone.graph_module.code) == str(recorded.graph_module.code), (names, kind)
    (event,) = ledger.events(kind="exported", desc=True, limit=1)
    found = ledger.show(f"export:{event.seq}")
    outcomes = found.outcomes
    after = [None] * len(names) if failed else parts(herd, alone)
    for animal, then, now in zip(herd.animals, herd.before, after, strict=True):
        op, answer = animal.op, outcomes[animal.op]
        shown = what_the_graphs_show(op, then, now, planted.get(op))
        yield Sighting(op, kind, shown, answer.word, answer.because, str(animal.call))
    if failed:
        return
    body = found.bundle.body
    before = sum(herd.before, Counter())
    for op, answer in outcomes.items():
        if op not in names:
            shown = "emitted" if op in body.ops_after else "decomposed"
            if op in before:
                shown = what_the_graphs_show(op, before, Counter(body.ops_after), None)
            yield Sighting(op, f"{kind}: other", shown, answer.word, answer.because, "")
    made = Counter[str]()
    for row in body.emitted:
        made[row.op] += row.count
    assert made == Counter(body.ops_after), names
