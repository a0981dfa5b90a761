"""Follow which decompositions run during an export, and which of them made each node of the lowered graph.

Each decomposition of the table is wrapped. While one runs, its name is on a stack; when it returns, each node that was
made meanwhile gets the stack as a mark, unless a decomposition within it has marked the node already. The marks go with
the nodes through what torch does to the graph afterwards, and are taken out of the result.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from torch.fx import Graph, GraphModule, Node

from decomp_ledger.errors import InvalidName
from decomp_ledger.log.hidden_frames import hidden
from decomp_ledger.model import op_names
from decomp_ledger.model.events import ALWAYS, MUTATES, VIEWS, Emission
from decomp_ledger.model.safe_text import cause_of
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.dispatcher import resolve
from decomp_ledger.pytorch.entries import why_not_preservable

__all__ = ["Followed", "kinds", "unmark"]

Nodes: TypeAlias = Sequence[tuple[str, Node]]

_MARK = "decomp_ledger_chain"
_MAX_CHAIN = 12  # decompositions that a chain names, the innermost ones
_MAX_ROWS = 2000  # rows of one export; a model of a thousand layers has some hundred
_MAX_TEXT = 300
_MAX_CAUSES = 20  # errors that one error came from


class Followed:
    """The decompositions of one export.

    Attributes:
        fired: op -> how often its decomposition was traced and gave a result.
        declined: op -> how often its decomposition returned NotImplemented, which leaves the op.
        marked: whether every node that a decomposition made has its mark.
    """

    def __init__(self) -> None:
        self.fired: Counter[str] = Counter()
        self.declined: Counter[str] = Counter()
        self.marked = True
        self._running: list[str] = []
        self._raised: tuple[BaseException, tuple[str, ...]] | None = None

    def wrap(self, op: Any, fn: Any) -> Any:
        """Return a decomposition that is followed; a value that torch would not call as it is."""
        name = internals.operator_name(op)
        if name is None or not callable(fn):
            return fn

        # Not a closure, because each export makes a thousand, and one has five objects for the garbage collector.
        return partial(Followed._run, self, name, fn)

    @hidden
    def _run(self, name: str, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run a decomposition, and note what it did."""
        # Torch also calls decompositions outside of traces, for other reasons.
        traced = internals.is_tracing()
        before = self._graph_now() if traced else None
        self._running.append(name)
        try:
            result = fn(*args, **kwargs)
            if traced:
                self._returned(name, result, before)
            return result
        except BaseException as error:
            # An error that passes through several decompositions was raised in the innermost.
            if self._raised is None or self._raised[0] is not error:
                self._raised = error, tuple(self._running)
            raise
        finally:
            self._running.pop()

    def raised_in(self, error: BaseException) -> tuple[str, ...]:
        """Return the decompositions in which an error was raised, outermost first; none if it was outside of them."""
        found, self._raised = self._raised, None  # its traceback holds this object
        cause: BaseException | None = error
        for _ in range(_MAX_CAUSES):
            if cause is None or found is None:
                break
            if cause is found[0]:
                return found[1][-_MAX_CHAIN:]
            cause = cause_of(cause)
        return ()

    def emissions(self, program: Nodes, result: Nodes) -> tuple[Emission, ...]:
        """Return what made the nodes of the lowered graph.

        Args:
            program: the operator nodes of the program before, each with the name of its op.
            result: those of the lowered graph.
        """
        operators = {op: node.target for op, node in program}
        unmarked = () if self.marked else None
        counts = Counter((op, node.meta.get(_MARK, unmarked), _source(node, operators)) for op, node in result)
        every = counts.most_common()
        rows = [Emission(op, count, chain, source) for (op, chain, source), count in every[:_MAX_ROWS]]
        left: Counter[str] = Counter()
        for (op, _, _), count in every[_MAX_ROWS:]:
            left[op] += count
        rows += [Emission(op, count, None, None) for op, count in left.items()]
        return tuple(sorted(rows, key=lambda row: (row.op, row.chain or (), row.source or "", row.count)))

    def early_kernels(self, program: Nodes, result: Nodes) -> dict[str, str]:
        """Return the kernels before the table, of ops that left the program although no decomposition replaced them."""
        there = {op for op, _ in result} | self.fired.keys()
        lost = {op: node.target for op, node in program if op not in there}
        found = {op: internals.kernel_before_table(target)[:_MAX_TEXT] for op, target in sorted(lost.items())}
        return {op: kernel for op, kernel in found.items() if kernel}

    def _graph_now(self) -> _Place | None:
        """Return where the next node will be; None if that is not known."""
        with contextlib.suppress(Exception):  # of torch's private parts; the export goes on
            found = internals.graph_under_trace()
            if found is not None:
                return _Place(*found, next(iter(reversed(found[0].nodes)), None))
        return None

    def _returned(self, name: str, result: Any, before: _Place | None) -> None:
        """Count a call that returned, and mark the nodes that it made."""
        if result is NotImplemented:
            self.declined[name] += 1
        else:
            self.fired[name] += 1
        now = self._graph_now()
        made = None if before is None or now is None else before.nodes_since(now)
        if before is None or made is None:
            self.marked = False
        else:
            _mark(made, before.root, tuple(self._running[-_MAX_CHAIN:]))


class _Place(NamedTuple):
    """A place in a graph under trace: behind a node, or at the beginning."""

    graph: Graph
    root: Any
    node: Node | None

    def nodes_since(self, now: _Place) -> list[Node] | None:
        """Return the nodes that were made since; None if the place is gone."""
        if now.graph is not self.graph:
            return None
        made: list[Node] = []
        for node in reversed(self.graph.nodes):
            if node is self.node:
                return made
            made.append(node)
        return made if self.node is None else None


def _mark(nodes: Iterable[Node], root: Any, chain: tuple[str, ...]) -> None:
    for node in nodes:
        node.meta.setdefault(_MARK, chain)
        module = getattr(root, node.target, None) if node.op == "get_attr" and isinstance(node.target, str) else None
        if isinstance(module, GraphModule):
            _mark(module.graph.nodes, module, chain)


def _source(node: Node, operators: Mapping[str, Any]) -> str | None:
    """Return the op of the program that torch ran when it made a node; None if that is not known.

    Functionalization makes the views of a tensor that changed again, when the next op reads them. These do not come
    from that op, and from which one they do is not known.
    """
    try:
        name = op_names.normalize(internals.interpreted_target(node))
    except InvalidName:
        return None
    if name not in operators:
        return None
    source = operators[name]
    chain = node.meta.get(_MARK)
    first = resolve(chain[0]) if chain else node.target
    again = internals.is_view_op(first) and first is not source
    return None if again and not (internals.is_view_op(source) or internals.is_cia(source)) else name


def unmark(program: Any) -> None:
    """Take the marks out of a lowered program."""
    with contextlib.suppress(Exception):  # of a program that cannot be read
        for module in program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, GraphModule) else ():
                node.meta.pop(_MARK, None)


def kinds(program: Nodes) -> dict[str, str]:
    """Return the ops of a program that torch treats in a way of its own, with their kinds; see `model.events`."""
    found = ((op, _kind(target)) for op, target in sorted({op: node.target for op, node in program}.items()))
    return {op: kind for op, kind in found if kind}


def _kind(op: Any) -> str:
    if not isinstance(op, internals.OpOverload):
        return ""
    if internals.is_cia(op) and why_not_preservable(op):
        return ALWAYS
    if internals.mutates(op):
        return MUTATES
    return VIEWS if internals.is_view_op(op) else ""
