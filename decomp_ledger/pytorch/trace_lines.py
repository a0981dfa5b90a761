"""Write a traced graph as canonical lines: two graphs have equal lines exactly if their data flow is equal.

A line reads `%1 = aten::add.Tensor(%0, x0, alpha=2): f32[2, 3]`. Inputs are `x0`, `x1`. Nodes are numbered in the order
in which the outputs reach them, so the order of their creation does not count, except for what has effects: `after %2`
stands at a node that reads what `%2` changed in place, or that draws random numbers after `%2` did.

Left out is what changes no result: names, unused nodes without effects, arguments that equal their default, how an
argument is passed, `device=cpu`, `pin_memory`, the strided layout, and a `detach` of what a `detach` gave.

This file is also a part of the standalone capture program, so it imports only the standard library, torch and the
other parts.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from decomp_ledger.model.samples import DTYPES
from decomp_ledger.pytorch.internals import (
    OpOverload,
    alias_sets,
    operator_name,
    schema_arguments,
    schema_returns,
    symbolic_expression,
)

_RECIPE = "trace 1"
_SHORT = {f"torch.{name}": short for short, name in DTYPES.items()}
# The state of the random number generators, as a storage that every random op changes.
_GENERATOR = "generator"
_MAX_CONSTANT = 64
_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
# The alias set of each result that is a list of views.
_ANY = "*"


def lines_digest(lines: Sequence[str]) -> str:
    """Return the digest that identifies a trace by its canonical lines: 32 hex digits of a SHA-256."""
    return hashlib.sha256("\n".join([_RECIPE, *lines]).encode()).hexdigest()[:32]


def canonical_lines(module: GraphModule) -> tuple[str, ...]:
    """Return the canonical lines of a graph that `make_fx` traced; the last one names the results."""
    return tuple(_Writer(module).write())


class _Effects:
    """What nodes change and read: `after` has, for a node, the earlier nodes whose changes it reads.

    A storage is identified by the node that made it, or by that node and an index. Views share the storage.
    """

    def __init__(self, graph: Graph) -> None:
        self.after: dict[Node, tuple[Node, ...]] = {}
        self.last_change: dict[Any, Node] = {}
        self.checks: list[Node] = []
        self._storages: dict[Node, tuple[Any, ...]] = {}
        for node in graph.nodes:
            self._add(node)

    def roots(self, graph: Graph) -> Iterator[Node]:
        """Yield nodes that must stay whatever the results use: changes of inputs, random draws, checks."""
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        for storage in (*inputs, _GENERATOR):
            if storage in self.last_change:
                yield self.last_change[storage]
        yield from self.checks

    def _add(self, node: Node) -> None:
        target = node.target
        if target is operator.getitem and isinstance(node.args[0], Node):
            inner = self._storages[node.args[0]]
            self._storages[node] = ((node.args[0], node.args[1]),) if inner == (node.args[0],) else inner
            return
        self._storages[node] = (node,)
        if not isinstance(target, OpOverload):
            return
        viewed, changed = _aliases(node, target)
        if viewed and not changed:
            # A view reads nothing, so it is the same before and after a change.
            self._storages[node] = self._of(viewed)
            return
        random = [_GENERATOR] if torch.Tag.nondeterministic_seeded in target.tags else []
        read = [*dict.fromkeys((*self._of(node.all_input_nodes), *random))]
        known = {*node.all_input_nodes}
        earlier = dict.fromkeys(self.last_change[storage] for storage in read if storage in self.last_change)
        self.after[node] = tuple(change for change in earlier if change not in known)
        for storage in (*self._of(changed), *random):
            self.last_change[storage] = node
        if changed:
            self._storages[node] = self._of(viewed) or (node,)
        if "assert" in target.name() or "sym_constrain" in target.name():
            self.checks.append(node)

    def _of(self, nodes: Sequence[Node]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(storage for node in nodes for storage in self._storages[node]))


def _aliases(node: Node, op: Any) -> tuple[list[Node], list[Node]]:
    """Return the inputs that the results are views of, and the inputs that the op changes."""
    arguments = [*schema_arguments(op)]
    returned = {name for result in schema_returns(op) for name in alias_sets(result)[0]}
    viewed: list[Node] = []
    changed: list[Node] = []
    for position, argument in enumerate(arguments):
        names, writes = alias_sets(argument)
        if not names and not writes:
            continue
        value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
        nodes = _nodes_in(value)
        if names & returned or (_ANY in names and not writes):
            viewed += nodes
        if writes:
            changed += nodes
    return viewed, changed


def _nodes_in(value: Any) -> list[Node]:
    if isinstance(value, Node):
        return [value]
    return [node for item in value for node in _nodes_in(item)] if isinstance(value, (list, tuple)) else []


class _Writer:
    """Number the nodes of one graph and write their lines."""

    def __init__(self, module: GraphModule) -> None:
        self._module = module
        self._effects = _Effects(module.graph)
        self._names: dict[Node, str] = {}
        self._symbols: dict[Any, Any] = {}
        self._lines: list[str] = []
        self._count = 0

    def write(self) -> list[str]:
        """Return the lines."""
        graph = self._module.graph
        for number, node in enumerate(node for node in graph.nodes if node.op == "placeholder"):
            self._names[node] = f"x{number}"
            self._value(node.meta.get("val"))
        (output,) = (node for node in graph.nodes if node.op == "output")
        for node in (*_nodes_in(output.args[0]), *self._effects.roots(graph)):
            self._reach(_same(node))
        self._lines.append(f"return {self._text(output.args[0])}")
        return self._lines

    def _reach(self, node: Node) -> None:
        """Write the lines of a node and of all that it needs; a loop, because a trace can be deep."""
        stack = [(node, iter(self._needs(node)))]
        while stack:
            current, needs = stack[-1]
            if current in self._names:
                stack.pop()
                continue
            following = next((need for need in needs if need not in self._names), None)
            if following is not None:
                stack.append((following, iter(self._needs(following))))
            else:
                stack.pop()
                self._write_node(current)

    def _needs(self, node: Node) -> list[Node]:
        arguments = [value for _, value in _arguments(node)]
        return [_same(need) for need in (*_nodes_in(arguments), *self._effects.after.get(node, ()))]

    def _write_node(self, node: Node) -> None:
        self._names[node] = name = f"%{self._count}"
        self._count += 1
        if node.op == "get_attr":
            call = self._constant(node)
        else:
            parts = [f"{key}={self._text(value)}" if key else self._text(value) for key, value in _arguments(node)]
            call = f"{_target(node.target)}({', '.join(parts)})"
        after = "".join(f" after {self._names[_same(change)]}" for change in self._effects.after.get(node, ()))
        value = self._value(node.meta.get("val"))
        self._lines.append(f"{name} = {call}{after}" + (f": {value}" if value else ""))

    def _constant(self, node: Node) -> str:
        value: Any = self._module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if not isinstance(value, torch.Tensor):
            return f"constant {type(value).__name__}"
        values = value.detach().cpu()
        text = str(values.tolist()) if values.numel() <= _MAX_CONSTANT else hashlib.sha256(
            repr(values.tolist()).encode()
        ).hexdigest()[:16]  # fmt: skip
        return f"constant {text}"

    def _text(self, value: Any) -> str:
        if isinstance(value, Node):
            return self._names[_same(value)]
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(self._text, value))}]"
        if isinstance(value, torch.device):
            return str(value)
        if isinstance(value, torch.dtype):
            return _SHORT.get(str(value), str(value))
        if isinstance(value, _SYMBOLIC):
            return self._expression(value)
        if value is None or isinstance(value, (bool, int, float, complex, str)):
            return repr(value)
        if isinstance(value, (torch.layout, torch.memory_format)):
            return str(value)
        return f"<{type(value).__name__}>"

    def _value(self, value: Any) -> str:
        """Return the dtype and shape of what a node gives."""
        if isinstance(value, torch.Tensor):
            sizes = ", ".join(map(self._expression, value.shape))
            return f"{_SHORT.get(str(value.dtype), str(value.dtype))}[{sizes}]"
        if isinstance(value, (list, tuple)):
            return f"({', '.join(self._value(item) or 'None' for item in value)})"
        return "" if value is None else self._expression(value)

    def _expression(self, value: Any) -> str:
        """Return a size, with its symbols named in the order of their appearance: `d0`, `d1`."""
        if not isinstance(value, _SYMBOLIC):
            return str(value)
        expression = symbolic_expression(value)
        for symbol in sorted(expression.free_symbols, key=str):
            if symbol not in self._symbols:
                name = f"d{len(self._symbols)}"
                self._symbols[symbol] = type(symbol)(name, **symbol.assumptions0)
        return str(expression.xreplace(self._symbols))


def _same(node: Node) -> Node:
    """Return the node whose value a node has too: a `detach` of a `detach` is the inner one."""
    while _is_detach(node) and _is_detach(node.args[0]):
        node = node.args[0]
    return node


def _is_detach(node: Any) -> bool:
    return isinstance(node, Node) and operator_name(node.target) == "aten::detach"


def _target(target: Any) -> str:
    name = operator_name(target)
    return name if name is not None else str(getattr(target, "__name__", target))


def _arguments(node: Node) -> list[tuple[str, Any]]:
    """Return the arguments of a node that count, each with its name, or with "" where its position tells it."""
    if not isinstance(node.target, OpOverload):
        return [*(("", value) for value in node.args), *sorted(node.kwargs.items())]
    found: list[tuple[str, Any]] = []
    by_position = True
    for position, argument in enumerate(schema_arguments(node.target)):
        given = position < len(node.args)
        if not given and argument.name not in node.kwargs:
            by_position = False
            continue
        value = node.args[position] if given else node.kwargs[argument.name]
        if argument.kwarg_only or not by_position:
            found.append((argument.name, value))
        else:
            found.append(("", value))
    return [*_without_defaults(found, node)]


def _without_defaults(found: list[tuple[str, Any]], node: Node) -> Iterator[tuple[str, Any]]:
    defaults = {
        argument.name: argument.default_value
        for argument in schema_arguments(node.target)
        if argument.has_default_value()
    }
    names = [argument.name for argument in schema_arguments(node.target)]
    positional = [value for name, value in found if not name]
    while positional and names[len(positional) - 1] in defaults:
        if not _equal(positional[-1], defaults[names[len(positional) - 1]]):
            break
        positional.pop()
    yield from (("", value) for value in positional)
    for name, value in found:
        if name and not (name in defaults and _equal(value, defaults[name])) and not _changes_nothing(name, value):
            yield name, value


def _equal(value: Any, default: Any) -> bool:
    return type(value) is type(default) and not isinstance(value, Node) and bool(value == default)


def _changes_nothing(name: str, value: Any) -> bool:
    return (
        (name == "device" and str(value) == "cpu")
        or (name == "pin_memory" and not value)
        or (name == "layout" and value in (None, torch.strided))
    )
