"""The zoo: one small program for each of hundreds of ops, and what its graphs show happened to the op.

The oracle looks at the graphs before and after, at the schema, and at a counter planted in the decomposition that an
unrecorded lowering uses. It uses nothing of what a ledger recorded.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram, export
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode
from torch.utils import _pytree as pytree

from decomp_ledger import Ledger, catalogs, record
from decomp_ledger.model.samples import SampleCall, parse_call
from decomp_ledger.pytorch.sample_values import build_arguments, build_tensors

CIA = torch._C.DispatchKey.CompositeImplicitAutograd
TABLES = ("none", "default", "preserve", "override")

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
    """One program of one op.

    Attributes:
        op: the op's name.
        call: what calls it, in words.
        program: the exported program.
    """

    op: str
    call: str
    program: ExportedProgram


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
    """One call of one op."""

    def __init__(self, op: Any, call: SampleCall) -> None:
        super().__init__()
        self.op, self.call = op, call

    def forward(self, *tensors: torch.Tensor) -> Any:
        args, kwargs = build_arguments(self.call, [*tensors])
        return self.op(*args, **kwargs)


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


def program_of(op: str, texts: list[str]) -> Animal | None:
    """Export a program of the first call that can be exported with the op in it; None if none can."""
    live = operator(op)
    for text in texts[:3]:
        call = parse_call(text)
        if call.dynamic:
            continue
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                program = export(Calls(live, call), tuple(build_tensors(call)), strict=False)
        except Exception:
            continue
        if count(program)[op]:
            return Animal(op, text, program)
    return None


def count(program: Any) -> Counter[str]:
    """Count the operators of a program and of all its subgraphs."""
    found: Counter[str] = Counter()
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            if node.op == "call_function" and hasattr(node.target, "name") and callable(node.target.name):
                found[node.target.name()] += 1
    return found


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


def watch(animal: Animal, ledger: Ledger) -> Iterator[Sighting]:
    """Lower an animal with each kind of table, unrecorded and recorded, and compare what both show."""
    live, before = operator(animal.op), count(animal.program)
    default = dict(torch.export.default_decompositions())
    own = default.get(live) or torch._decomp.decomposition_table.get(live) or zeros_instead(live)
    for kind in TABLES:
        planted = Planted(default[live] if kind == "default" and live in default else own)
        there = kind == "override" or (kind == "default" and live in default)
        plain = {} if kind == "none" else {op: fn for op, fn in default.items() if op is not live}
        alone = lower(animal.program, {**plain, live: planted} if there else plain)
        if kind == "none":
            with record(ledger, name="none"):
                recorded = lower(animal.program, {})
        else:
            table = ledger.table(kind)
            if kind == "preserve":
                table.preserve(live)
            elif kind == "override":
                table[live] = own
            recorded = lower(animal.program, table)
            table.reset(live)
        yield from _compared(animal, kind, ledger, (before, alone, recorded), planted if there else None)


def _compared(
    animal: Animal, kind: str, ledger: Ledger, graphs: tuple[Counter[str], Any, Any], planted: Planted | None
) -> Iterator[Sighting]:
    before, alone, recorded = graphs
    failed = isinstance(alone, Exception)
    assert failed == isinstance(recorded, Exception), (animal, kind, alone, recorded)
    assert failed or str(alone.graph_module.code) == str(recorded.graph_module.code), (animal, kind)
    after = None if failed else count(alone)
    (event,) = ledger.events(kind="exported", desc=True, limit=1)
    found = ledger.show(f"export:{event.seq}")
    for op, outcome in found.outcomes.items():
        if op == animal.op:
            shown = what_the_graphs_show(op, before, after, planted)
        elif after is None:
            shown = "failed" if before[op] else outcome.word
        elif before[op]:  # what the program has besides the op
            shown = what_the_graphs_show(op, before, after, None) if after[op] else outcome.word
        else:
            shown = "emitted" if after[op] else "decomposed"
        yield Sighting(op, kind, shown, outcome.word, outcome.because, animal.call)
    made = Counter[str]()
    for row in found.bundle.body.emitted or ():
        made[row.op] += row.count
    assert failed or made == +Counter(found.bundle.body.ops_after), animal
