"""Tell whether two programs are the same graph, and where they differ first.

A graph becomes canonical lines, one for each node. The digest is over these lines, and the first difference between
two programs is their first unequal line, so the two never disagree.

Left out is what torch changes without changing the program: names of nodes and symbols, how an argument is passed (by
position, by keyword, as its default), the text of assertions (it quotes node names), and unused sizes and items. Left
out too: values of parameters and buffers (`values_digest` has them), strides, ranges of symbols, containers of inputs
and outputs.
"""

from __future__ import annotations

import ctypes
import hashlib
import operator
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, TypeAlias

import attrs
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node

from decomp_ledger.errors import InvalidName, UnusableValue
from decomp_ledger.model import op_names
from decomp_ledger.model.display import displayed
from decomp_ledger.pytorch import internals

__all__ = ["GraphDifference", "first_difference", "graph_digest", "op_histogram", "operator_nodes", "values_digest"]

Program: TypeAlias = ExportedProgram | GraphModule
_Outputs: TypeAlias = list[tuple[OutputKind, str | None]]

# Hashed first, so that digests by another recipe never equal digests by this one.
_GRAPH_RECIPE = "decomp_ledger graph 1"
_VALUES_RECIPE = "decomp_ledger values 1"

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
_NUMBERS = (*_SYMBOLIC, int, float)


@displayed
@attrs.frozen(repr=False)
class GraphDifference:
    """The first node in which two programs differ.

    Attributes:
        index: the node's number, from 0, as `left` and `right` number nodes.
        left: the first program's line there; None after its end.
        right: the second program's line there; None after its end.
        made_by: the ops of the undecomposed programs whose lowering made the two nodes, where torch records them.
    """

    index: int
    left: str | None
    right: str | None
    made_by: tuple[str | None, str | None] = (None, None)


def graph_digest(program: Program) -> str:
    """Return the SHA-256 that identifies a program's graph.

    It is the same for repeated exports, in other processes, after `torch.export.save` and `load`,
    and for ``program.module()`` if the signature has no mutations or tokens. It changes with an op,
    argument, dtype, shape, device, value of a constant tensor, order of inputs or outputs, and kind
    or target in the signature; not with the values of parameters and buffers. Torch versions trace
    differently, so theirs need not agree.

    Args:
        program: An exported program, or a graph module, which has no signature.

    Returns:
        64 hex digits.
    """
    text = "\n".join([_GRAPH_RECIPE, *_canonical_lines(program)])
    return hashlib.sha256(text.encode()).hexdigest()


def first_difference(a: Program, b: Program) -> GraphDifference | None:
    """Find the first node in which two programs differ.

    Args:
        a: The program whose line is `left`.
        b: The program whose line is `right`.

    Returns:
        The difference; None exactly if the two have the same `graph_digest`.
    """
    one, two = _lines_of(a), _lines_of(b)
    for i, (left, right) in enumerate(zip_longest(one.lines, two.lines)):
        if left != right:
            return GraphDifference(i, left, right, (_source_op(one.nodes[i : i + 1]), _source_op(two.nodes[i : i + 1])))
    return None


def op_histogram(program: Program) -> dict[str, int]:
    """Count the operators in a program, subgraphs of higher-order operators included.

    Args:
        program: As for `graph_digest`.

    Returns:
        Counts by name (``aten::add.Tensor``, ``cond``), sorted; none for Python's own arithmetic.
    """
    return dict(sorted(Counter(op for op, _ in operator_nodes(program)).items()))


def operator_nodes(program: Program) -> list[tuple[str, Node]]:
    """Return the nodes that `op_histogram` counts, each with the name of its op."""
    return list(_operators(getattr(program, "graph_module", program)))


def values_digest(program: Program) -> str:
    """Return the SHA-256 of the values of a program's parameters, buffers and constant tensors.

    It covers the name, dtype, shape and bytes of each, in the order of names. Shared storage and strides do not count.

    Args:
        program: An exported program or a graph module.

    Returns:
        64 hex digits.

    Raises:
        UnusableValue: One of them has no plain values: it is quantized, sparse, on the meta device, of a tensor
            subclass, or not a tensor.
    """
    lines = [_VALUES_RECIPE]
    for name, value in sorted(_named_values(program).items()):
        kind = _unreadable_kind(value)
        if kind is not None:
            raise UnusableValue(
                f"{name!r}: it is {kind}, and only plain dense tensors have values to digest; use graph_digest()"
            )
        lines.append(f"{name!r} {value.dtype} {list(value.shape)} {_bytes_digest(value)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _canonical_lines(program: Program) -> list[str]:
    return _lines_of(program).lines


def _lines_of(program: Program) -> _Writer:
    """Write a program's text: its live nodes in order, then its outputs.

    A line reads ``%4 = aten::add.Tensor(self=%3, other=%1) : float32[2, s0] cpu``. The lines of a
    subgraph are indented and stand before the node that runs it.
    """
    writer = _Writer()
    if isinstance(program, ExportedProgram):
        outputs = [(spec.kind, spec.target) for spec in program.graph_signature.output_specs]
        writer.write_graph(program.graph_module, _lifted_inputs(program), outputs)
    else:
        writer.write_graph(program, {}, [])
    return writer


class _Writer:
    """Writes graphs as canonical lines; numbers values and symbols by their first appearance."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.nodes: list[Node] = []  # the node of each line
        self._indent = ""
        self._names: dict[Node, str] = {}
        self._subgraphs: dict[Node, GraphModule] = {}
        self._symbols: dict[str, Any] = {}
        self._expressions: dict[Any, str] = {}
        self._schemas: dict[Any, dict[str, str]] = {}

    def write_graph(self, module: GraphModule, inputs: dict[Node, str], outputs: _Outputs) -> None:
        """Append a graph's lines; inputs and outputs outside the given signature count as the user's."""
        for node in _live_nodes(module.graph):
            subgraph = _owned(module, node) if node.op == "get_attr" else None
            if node.op == "output":
                self._write_outputs(node, outputs)
            elif isinstance(subgraph, GraphModule):
                # Written where it is run, because a loaded program has an attribute for each use.
                self._subgraphs[node] = subgraph
            elif _is_item(node):
                self._names[node] = f"{self._names[node.args[0]]}[{node.args[1]}]"
            else:
                text = inputs.get(node) or self._describe(module, node)
                value = node.meta.get("val")
                typed = "" if value is None else f" : {self._type(value)}"
                self._names[node] = f"%{len(self.lines)}"
                self.lines.append(f"{self._indent}{self._names[node]} = {text}{typed}")
                self.nodes.append(node)

    def _write_outputs(self, node: Node, kinds: _Outputs) -> None:
        values = node.args[0] if isinstance(node.args[0], (list, tuple)) else node.args
        inputs = {n.name: name for n, name in self._names.items() if n.op == "placeholder"}
        unlisted = [(OutputKind.USER_OUTPUT, None)] * (len(values) - len(kinds))
        for value, (kind, target) in zip(values, kinds + unlisted, strict=False):
            text = "output" if kind is OutputKind.USER_OUTPUT else kind.name.lower()
            if kind is OutputKind.USER_INPUT_MUTATION:
                text += f" {inputs.get(target, target)}"
            elif target is not None:
                text += f" {target!r}"
            self.lines.append(f"{self._indent}{text} {self._value(value)}")
            self.nodes.append(node)

    def _write_subgraph(self, module: GraphModule) -> str:
        first, outer = len(self.lines), self._indent
        self._indent += "  "
        self.write_graph(module, {}, [])
        self._indent = outer
        return f"graph({first}-{len(self.lines) - 1})" if len(self.lines) > first else "graph()"

    def _describe(self, module: GraphModule, node: Node) -> str:
        if node.op == "placeholder":
            return "input"
        if node.op == "get_attr":
            return _attribute_text(module, node)
        name = self._value(node.target)
        if "::" in name:
            return f"{name}({', '.join(self._bound(node))})"
        if node.op == "call_module":
            name += f" {str(_owned(module, node))!r}"
        arguments = [self._value(value) for value in node.args]
        arguments += [f"{key}={self._value(value)}" for key, value in sorted(node.kwargs.items())]
        return f"{name}({', '.join(arguments)})"

    def _bound(self, node: Node) -> Iterator[str]:
        """Yield an operator's arguments by name, without those that equal their default."""
        defaults = self._schemas.get(node.target)
        if defaults is None:
            # A required argument has the default None, and cannot be left out.
            arguments = internals.schema_arguments(node.target)
            defaults = {each.name: self._value(each.default_value) for each in arguments}
            self._schemas[node.target] = defaults
        given = {**dict(zip(defaults, node.args, strict=False)), **node.kwargs}
        for name, default in defaults.items():
            text = self._value(given[name]) if name in given else default
            if text != default and name != "assert_msg":
                yield f"{name}={text}"

    def _value(self, value: Any) -> str:
        """Return an argument as text; equal texts mean equal arguments."""
        if isinstance(value, Node):
            subgraph = self._subgraphs.get(value)
            return self._names[value] if subgraph is None else self._write_subgraph(subgraph)
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(self._value(item) for item in value)}]"
        if isinstance(value, dict):
            items = [f"{self._value(key)}: {self._value(item)}" for key, item in value.items()]
            return f"{{{', '.join(sorted(items))}}}"
        if isinstance(value, _SYMBOLIC):
            return self._symbolic(value)
        name = internals.operator_name(value)
        if name is None and hasattr(value, "__qualname__"):
            name = f"{value.__module__}.{value.__qualname__}"
        # The repr of a float is as exact as its hex form, and people can read it.
        return name or repr(value)

    def _type(self, value: Any) -> str:
        """Return a node's value as text: dtype, shape and device, or the number."""
        if isinstance(value, torch.Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            return f"{dtype}{self._value(value.shape)} {value.device}"
        if isinstance(value, (list, tuple)):
            return f"({', '.join(self._type(item) for item in value)})"
        if value is None or isinstance(value, (str, *_NUMBERS)):
            return self._value(value)
        # A CustomObjArgument names the class of the object.
        return str(getattr(value, "class_fqn", type(value).__qualname__))

    def _symbolic(self, value: Any) -> str:
        expression = internals.symbolic_expression(value)
        text = self._expressions.get(expression)
        if text is None:
            # Renamed before it is text, because sympy orders the terms of a sum by their names.
            symbols = sorted(expression.free_symbols, key=str)
            for symbol in symbols:
                renamed = symbol.func(f"s{len(self._symbols)}", **symbol.assumptions0)
                self._symbols.setdefault(symbol.name, renamed)
            text = str(expression.xreplace({s: self._symbols[s.name] for s in symbols}))
            self._expressions[expression] = text
        return text


def _source_op(nodes: list[Node]) -> str | None:
    """Return the op of the undecomposed program that a node comes from, as `aten::linear`; None if torch lost it."""
    if not nodes:
        return None
    target, decomposed = internals.source_operator(nodes[0])
    try:
        return op_names.normalize(target)
    except InvalidName:
        return internals.operator_name(decomposed)


def _live_nodes(graph: Graph) -> list[Node]:
    dead: set[Node] = set()
    for node in reversed(graph.nodes):
        # The call of `_guards_fn` checks inputs; ExportedProgram.module() adds it.
        guard = node.op == "call_module" and node.target == "_guards_fn"
        if guard or (_only_gives_its_value(node) and dead.issuperset(node.users)):
            dead.add(node)
    return [node for node in graph.nodes if node not in dead]


def _only_gives_its_value(node: Node) -> bool:
    """Tell whether a node picks an item or computes with sizes.

    Torch adds and drops unused nodes of this kind between traces, and when it saves and loads.
    """
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return True
    name = internals.operator_name(node.target)
    if name is None:
        name = f"{node.target.__module__}::{node.target.__name__.lstrip('_')}"
    sizes = name.startswith(("_operator::", "math::", "torch::sym_", "aten::sym_"))
    return sizes and isinstance(node.meta.get("val"), _NUMBERS)


def _is_item(node: Node) -> bool:
    """Tell whether a node picks one output of a node whose outputs are known."""
    producer = node.args[0] if node.target is operator.getitem else None
    outputs = producer.meta.get("val") if isinstance(producer, Node) else None
    return isinstance(outputs, (list, tuple)) and isinstance(node.args[1], int)


def _operators(module: GraphModule) -> Iterator[tuple[str, Node]]:
    for node in _live_nodes(module.graph):
        name = internals.operator_name(node.target)
        if name is not None:
            yield name, node
            for argument in node.all_input_nodes:
                if isinstance(subgraph := _owned(module, argument), GraphModule):
                    yield from _operators(subgraph)


def _owned(module: GraphModule, node: Node) -> Any:
    """Return the attribute or module that a node names; None for other nodes."""
    named = node.op in ("get_attr", "call_module")
    return operator.attrgetter(node.target)(module) if named else None


def _lifted_inputs(program: ExportedProgram) -> dict[Node, str]:
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    specs = zip(placeholders, program.graph_signature.input_specs, strict=False)
    constants = program.constants
    return {n: _input_text(s.kind, s.target, constants.get(s.target)) for n, s in specs}


def _attribute_text(module: GraphModule, node: Node) -> str:
    """Describe an attribute that a graph reads by name, as a signature would if it were lifted."""
    value = _owned(module, node)
    path, _, name = node.target.rpartition(".")
    kind = InputKind.CUSTOM_OBJ
    if isinstance(value, torch.nn.Parameter):
        kind = InputKind.PARAMETER
    elif isinstance(value, torch.Tensor):
        buffers = dict(module.get_submodule(path).named_buffers(recurse=False))
        kind = InputKind.BUFFER if name in buffers else InputKind.CONSTANT_TENSOR
    return _input_text(kind, node.target, value)


def _input_text(kind: InputKind, target: str | None, value: Any) -> str:
    text = "input" if kind is InputKind.USER_INPUT else kind.name.lower()
    if target is not None:
        text += f" {target!r}"
    if kind is InputKind.CONSTANT_TENSOR:
        text += f" {_unreadable_kind(value) or _bytes_digest(value)}"
    return text


def _named_values(program: Program) -> dict[str, Any]:
    module = getattr(program, "graph_module", program)
    values: dict[str, Any] = dict(module.named_parameters(remove_duplicate=False))
    values |= module.named_buffers(remove_duplicate=False)
    for prefix, owner in module.named_modules():
        for node in owner.graph.nodes if isinstance(owner, GraphModule) else ():
            value = _owned(owner, node)
            if value is not None and not isinstance(value, torch.nn.Module):
                values[f"{prefix}.{node.target}".removeprefix(".")] = value
    if isinstance(program, ExportedProgram):
        values |= {**program.state_dict, **program.constants}
    return values


def _unreadable_kind(value: Any) -> str | None:
    """Return why a value cannot be read as plain bytes, or None if it can."""
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return f"a {type(value).__qualname__}"
    if value.is_quantized:
        return "a quantized tensor"
    if value.layout is not torch.strided:
        return f"a {value.layout} tensor"
    return "a tensor on the meta device" if value.is_meta else None


def _bytes_digest(tensor: torch.Tensor) -> str:
    # The memory itself, because numpy is optional to torch and has no bfloat16 and float8.
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    size = plain.numel() * plain.element_size()
    memory = (ctypes.c_char * size).from_address(plain.data_ptr()) if size else b""
    return hashlib.sha256(memory).hexdigest()
