"""The part of the truth test that runs in each torch: export models, and trace what fired in them.

    python behaviour_child.py LEDGER SAMPLES

It exports every model with torch's default table, records the exports in LEDGER, and prints JSON: the graphs of each
model, what the decomposition of each op that it uses does on the inputs that it has there, and what an export of that
one call becomes. It also traces the calls of the file SAMPLES (op -> calls). Graphs are identified by a digest that
does not come from the package: of each node, its target, its arguments, and the digests of the nodes that it reads. A
`detach` of a `detach` is one `detach`.
"""

import contextlib
import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from behaviour_models import MODELS
from torch.fx.experimental.proxy_tensor import make_fx

from decomp_ledger import Ledger
from decomp_ledger.model.samples import CONSTANTS, DTYPES, SampleCall, TensorSample, TorchConstant, parse_call
from decomp_ledger.pytorch.sample_values import build_arguments, build_tensors

SHORT = {long: short for short, long in DTYPES.items()}
NOISE = {"device", "pin_memory", "layout"}


def digests(graph: torch.fx.Graph) -> list[str]:
    """Return a digest of each node that computes something the results need, or that has an effect; sorted."""
    found: dict[Any, str] = {}
    needed = set()
    for node in reversed(graph.nodes):
        impure = node.op == "output" or str(node.target).split(".")[-2:-1] == ["_assert_async"] or _mutates(node)
        if impure or node in needed:
            needed.add(node)
            needed.update(node.all_input_nodes)
    for number, node in enumerate(graph.nodes):
        if _is_detach(node) and _is_detach(node.args[0]):
            found[node] = found[node.args[0]]
            continue
        text = _label(node, number, graph) + "|" + _text([*node.args], found) + "|" + _text(_kwargs(node), found)
        found[node] = hashlib.sha256(text.encode()).hexdigest()[:16]
    counted = (node for node in needed if node.op not in ("placeholder", "get_attr"))
    return sorted(found[node] for node in counted if not (_is_detach(node) and _is_detach(node.args[0])))


def _is_detach(node: Any) -> bool:
    return isinstance(node, torch.fx.Node) and str(node.target) == "aten.detach.default"


def _mutates(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _label(node: Any, number: int, graph: torch.fx.Graph) -> str:
    if node.op == "get_attr":
        value = getattr(graph.owning_module, str(node.target), None)
        return f"constant {value.tolist()}" if isinstance(value, torch.Tensor) else "constant"
    # Names of inputs may differ between versions; their places do not.
    target = number if node.op == "placeholder" else str(node.target)
    return f"{node.op} {target} {_meta(node.meta.get('val'))}"


def _meta(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{tuple(value.shape)}"
    return f"({', '.join(map(_meta, value))})" if isinstance(value, (tuple, list)) else ""


def _kwargs(node: Any) -> list[Any]:
    return [(name, value) for name, value in sorted(node.kwargs.items()) if name not in NOISE]


def _text(value: Any, found: dict[Any, str]) -> str:
    if isinstance(value, torch.fx.Node):
        return found[value]
    return f"[{', '.join(_text(item, found) for item in value)}]" if isinstance(value, (tuple, list)) else repr(value)


def call_of(node: Any) -> SampleCall | None:
    """Return the call of a node as a sample, or None if its arguments cannot be written as one."""
    try:
        args = tuple(map(_sample, node.args))
        kwargs = {
            name: _sample(value)
            for name, value in node.kwargs.items()
            if not (name == "device" and str(value) == "cpu") and not (name == "pin_memory" and not value)
        }
        return parse_call(str(SampleCall(args, kwargs)))
    except (TypeError, ValueError):
        return None


def _sample(value: Any) -> Any:
    if isinstance(value, torch.fx.Node):
        return _sample(value.meta["val"])
    if isinstance(value, torch.Tensor):
        shape, strides = tuple(map(int, value.shape)), tuple(map(int, value.stride()))
        plain = value.is_contiguous()
        return TensorSample(SHORT[str(value.dtype).removeprefix("torch.")], shape, None if plain else strides)
    if isinstance(value, (tuple, list)):
        return tuple(map(_sample, value))
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        name = str(value).removeprefix("torch.")
        if name in CONSTANTS:
            return TorchConstant(name)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(type(value).__name__)


def traced(decomposition: Callable[..., Any], call: SampleCall) -> torch.fx.GraphModule:
    """Trace a decomposition on a call; nothing of the package's tracing is used."""

    def run(*tensors: Any) -> Any:
        args, kwargs = build_arguments(call, [*tensors])
        return decomposition(*args, **kwargs)

    with torch.no_grad():
        return make_fx(run, tracing_mode="symbolic" if call.dynamic else "fake")(*build_tensors(call))


def result(decomposition: Callable[..., Any], call: SampleCall) -> tuple[Any, Any]:
    """Return the digests of a trace, or an error, and the graph."""
    try:
        graph = traced(decomposition, call).graph
    except Exception as error:
        return f"{type(error).__name__}", None
    return digests(graph), graph


class Program(torch.nn.Module):
    """One call of an op, between copies: an export treats inputs and results of a program in its own way."""

    def __init__(self, op: Any, call: SampleCall) -> None:
        super().__init__()
        self.op, self.call = op, call

    def forward(self, *tensors: Any) -> Any:
        args, kwargs = build_arguments(self.call, [tensor.clone() for tensor in tensors])
        found = self.op(*args, **kwargs)
        return torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, found)


@cache
def lowered(op: Any, text: str) -> list[str]:
    """Return the digests of what an export of one call becomes, with all that an export does besides; or an error."""
    call = parse_call(text)
    try:
        with torch.no_grad():
            program = torch.export.export(Program(op, call), (*build_tensors(call),), strict=False)
            return digests(program.run_decompositions(torch.export.default_decompositions()).graph)
    except Exception as error:
        return [f"!{type(error).__name__}"]


def calls_in(graph: torch.fx.Graph) -> Iterator[tuple[Any, str | None]]:
    """Yield the operators of a graph, each with its call; None if its arguments cannot be written."""
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            call = call_of(node)
            yield node.target, None if call is None else str(call)


class Fired:
    """What the decompositions that are reached from a program do.

    Attributes:
        table: name of an op -> its decomposition.
        results: op and call -> the digests of a trace of its decomposition, or an error.
        inside: op and call -> the ops and calls of that trace.
    """

    def __init__(self, table: dict[str, Any]) -> None:
        self.table = table
        self.results: dict[tuple[str, str], Any] = {}
        self.inside: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def of(self, graph: torch.fx.Graph) -> list[tuple[str, str]]:
        """Trace what the ops of a graph become, and what these become; return its own ops that the table has."""
        here = []
        for op, text in calls_in(graph):
            key = op.name(), text
            if text is None or key[0] not in self.table:
                continue
            here.append(key)
            if key not in self.results:
                self.results[key], inner = result(self.table[key[0]], parse_call(text))
                self.inside[key] = [] if inner is None else self.of(inner)
        return here

    def below(self, key: tuple[str, str]) -> set[tuple[str, str]]:
        """Return an op and call with all that are inside it. An op that refuses to be decomposed is inside itself."""
        found, waiting = {key}, [key]
        while waiting:
            inner = {*self.inside.get(waiting.pop(), ())} - found
            found |= inner
            waiting += inner
        return found


def export(name: str, table: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    """Export one model, and return what the two versions are compared by; `error` if it cannot be exported."""
    make, example = MODELS[name]
    torch.manual_seed(0)
    with torch.no_grad():
        try:
            program = torch.export.export(make().eval(), (example,), strict=False)
            own = ledger.table(name)  # before `run_decompositions` is looked up, because the first table patches it
            after = digests(program.run_decompositions(own).graph)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    fired = Fired(table)
    fired.of(program.graph)
    calls = [(op, text) for op, text in calls_in(program.graph) if text is not None]
    below = {(op.name(), text): fired.below((op.name(), text)) for op, text in calls}
    return {
        "before": digests(program.graph),
        "after": after,
        "ops": sorted({op.name() for op, _ in calls_in(program.graph)}),
        "unwritten": sorted({op.name() for op, text in calls_in(program.graph) if text is None}),
        "lowered": [(op.name(), text, lowered(op, text)) for op, text in dict.fromkeys(calls)],
        "fired": [(*key, fired.results[key]) for key in sorted(set().union(*below.values()) & fired.results.keys())],
        "below": [(*key, sorted(found & fired.results.keys())) for key, found in below.items()],
    }


def main(path: str, samples: str) -> dict[str, Any]:
    """Return everything that the other process compares."""
    table = {op.name(): fn for op, fn in torch.export.default_decompositions().items()}
    models = {}
    with Ledger(path, actor="truth") as ledger:
        for name in MODELS:
            models[name] = export(name, table, ledger)
        numbers = {event.table: event.seq for event in ledger.exports() if event.body.error is None}
    calls = json.loads(Path(samples).read_text(encoding="utf-8"))
    reproduced = {
        op: {text: result(table[op], parse_call(text))[0] for text in texts}
        for op, texts in calls.items()
        if op in table
    }
    return {"torch": str(torch.__version__), "models": models, "exports": numbers, "samples": reproduced}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        answer = main(*sys.argv[1:])
    print(json.dumps(answer))
