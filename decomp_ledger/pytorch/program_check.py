"""Run a program before and after it is lowered with a table, and find the first decomposition that changes its results.

Which one is decided by lowering again: with the decompositions that fired taken out of the table, except the first
ones. An op that is not in the table stays in the graph, or runs its own kernel. So the last of the fewest that make
the results differ is the first to do so, also where another decomposition called it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from decomp_ledger.analysis.numerics import RAISES, NumericDifference, ProgramCheck
from decomp_ledger.errors import LedgerError, UnusableValue
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.arguments import one_or_more, shown
from decomp_ledger.model.rules import TableState
from decomp_ledger.model.samples import parse_call
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.numerics import Compared, Ran, compare_results, error_text, overrides_of
from decomp_ledger.pytorch.reproduced_table import load_program
from decomp_ledger.pytorch.sample_values import build_arguments, build_tensors
from decomp_ledger.pytorch.table import DecompTable
from decomp_ledger.pytorch.traces import plain_state

__all__ = ["check_program", "check_program_with_state", "inputs_of"]

_SEEDS = (20, 21)
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def inputs_of(program: Any, name: str, given: str | Sequence[Any] | None) -> Inputs:
    """Return the positional and keyword arguments to run a program on.

    Args:
        program: the ExportedProgram.
        name: its name, for errors.
        given: the text of a sample call, or positional arguments; None for the example inputs of the program.

    Raises:
        LedgerError: none are given, and the program has none.
        SampleError: the text is not a sample call.
    """
    if isinstance(given, str):
        call = parse_call(given)
        return build_arguments(call, [*build_tensors(call)])
    if given is not None:
        return one_or_more(given), {}
    if program.example_inputs is None:
        raise LedgerError(f"{name}: the program has no example inputs; give inputs, such as '(f32[2, 3])'")
    args, kwargs = program.example_inputs
    return tuple(args), dict(kwargs)


def check_program_with_state(
    program: object,
    name: str,
    state: TableState | None,
    inputs: str | Sequence[Any] | None,
    provided: Mapping[str, Sequence[Any]],
    trust: Sequence[str],
) -> ProgramCheck:
    """Run a program before and after it is lowered with a table whose rules are data.

    Args:
        program: the ExportedProgram, or the path of its `.pt2`, which torch unpickles.
        name: what people call the table.
        state: its rules; None for torch's default table.
        inputs: as :func:`inputs_of` takes.
        provided: op -> functions that the caller supplied for it.
        trust: modules that may be imported.

    Raises:
        LedgerError: a function of the table cannot be loaded, or the program cannot be loaded or run.
        UnusableValue: it is not a program.
    """
    log = TableLog(None, name, state=state or TableState(name, 1, "torch", {}), writable=False)
    functions, failed = overrides_of(log.state, provided, trust)
    for error in failed.values():
        raise error
    for op, rule in log.rules.items():
        if op in functions and rule.decomposition is not None:
            log.functions.keep(op, rule.decomposition, functions[op], log.rules)
    loaded, label = _loaded(program)
    return check_program(name, label, loaded, DecompTable(log).materialize(), inputs_of(loaded, label, inputs))


def _loaded(program: object) -> tuple[Any, str]:
    """Return a program, and its name."""
    if isinstance(program, (str, os.PathLike)):
        path = os.fspath(program)
        return load_program(path), path
    if isinstance(program, torch.export.ExportedProgram):
        return program, "the program"
    raise UnusableValue(f"program: {shown(program)}: not an ExportedProgram; give one, or the path of a .pt2")


def check_program(
    name: str, label: str, program: Any, table: Mapping[Any, Callable[..., Any]], inputs: Inputs
) -> ProgramCheck:
    """Run a program before and after it is lowered with a table.

    Args:
        name: the name of the table.
        label: the name of the program.
        program: the ExportedProgram before it is lowered.
        table: operator -> decomposition.
        inputs: what to run it on.

    Raises:
        LedgerError: the program itself does not run on these inputs.
    """
    try:
        right, other = (_run(program, inputs, seed) for seed in _SEEDS)
    except Exception as error:  # whatever torch finds wrong with it
        raise LedgerError(
            f"{label}: the program does not run on its inputs: {error_text(error)}; give other inputs"
        ) from error
    # Within the tolerance, because a second run may add in another order.
    random = compare_results(right, other).has_values
    search = _Search(program, table, inputs, right, random)
    first = search.attempt(None)
    culprit, reason = (None, "") if not first.compared.differences else search.culprit(first)
    return ProgramCheck(
        name,
        label,
        str(torch.__version__),
        tuple(first.compared.differences),
        first.compared.error,
        random,
        first.fired,
        culprit,
        reason,
        first.raised,
    )


class _Attempt(NamedTuple):
    """What a lowering gave.

    Attributes:
        compared: its results, compared with those of the program before.
        fired: the ops whose decompositions were traced, in the order of their first trace.
        raised: the error of the lowering, or of the lowered program.
        raised_in: the op whose decomposition raised it, the innermost one.
    """

    compared: Compared
    fired: tuple[str, ...]
    raised: str = ""
    raised_in: str | None = None


class _Search:
    """The search for the first decomposition that makes the results of a program differ."""

    def __init__(
        self, program: Any, table: Mapping[Any, Callable[..., Any]], inputs: Inputs, right: Ran, random: bool
    ) -> None:
        self._program = program
        self._table = table
        self._inputs = inputs
        self._right = right
        self._random = random

    def attempt(self, left_out: frozenset[str] | None) -> _Attempt:
        """Lower the program with the table without some ops, and run it."""
        fired: dict[str, None] = {}
        raised_in: list[str] = []
        table = {
            op: _watched(str(name), fn, fired, raised_in)
            for op, fn in self._table.items()
            if (name := internals.operator_name(op)) is None or not left_out or name not in left_out
        }
        try:
            with plain_state():
                lowered = self._program.run_decompositions(table)
            given = _run(lowered, self._inputs, _SEEDS[0])
        except Exception as error:  # whatever a decomposition does
            text = error_text(error)
            difference = NumericDifference(RAISES, "", f"raises {text}")
            return _Attempt(Compared([difference], None), tuple(fired), text, next(iter(raised_in), None))
        return _Attempt(compare_results(self._right, given, values=not self._random), tuple(fired))

    def culprit(self, first: _Attempt) -> tuple[str | None, str]:
        """Return the first op whose decomposition makes the results differ, or None and the reason."""
        if first.raised_in is not None:
            return first.raised_in, ""
        if not first.fired:
            return None, "no decomposition fired"
        # Of the first decompositions that fired, `few` make no difference, and `many` do.
        few, many, middle = -1, len(first.fired), 0
        while many - few > 1:
            tried = self.attempt(frozenset(first.fired[middle:]))
            if tried.raised and not first.raised:
                return None, f"with only the first {middle} of the decompositions that fired, it raises {tried.raised}"
            if tried.compared.differences and middle == 0:
                return None, f"they differ also without the decompositions that fired: {tried.compared.differences[0]}"
            few, many = (few, middle) if tried.compared.differences else (middle, many)
            middle = (few + many) // 2
        return first.fired[many - 1], ""


def _watched(name: str, fn: Any, fired: dict[str, None], raised_in: list[str]) -> Any:
    """Return a decomposition that tells when it is traced, and when it raises."""
    if not callable(fn):
        return fn

    def watching(*args: Any, **kwargs: Any) -> Any:
        if internals.is_tracing():
            fired[name] = None
        try:
            return fn(*args, **kwargs)
        except Exception:
            raised_in.append(name)
            raise

    return watching


def _run(program: Any, inputs: Inputs, seed: int) -> Ran:
    """Run a program on copies of inputs and of its own tensors; the results include what it changes of these."""
    with plain_state():
        module = copy.deepcopy(program.module())
        args, kwargs = copy.deepcopy(inputs)
        torch.default_generator.manual_seed(seed)
        results = internals.tree_leaves(module(*args, **kwargs))
        own = {**program.state_dict, **program.constants, **dict(module.named_buffers())}
        buffers = [own.get(name) for name in sorted(program.graph_signature.buffers)]
        changeable = [each for each in internals.tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        # In memory of their own, because a lowered program need not keep strides and shared memory.
        return Ran([_plain(each) for each in results], [_plain(each) for each in (*changeable, *buffers)])


def _plain(value: Any) -> Any:
    """Return a tensor in memory of its own, in the usual order."""
    is_dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
    return value.detach().clone(memory_format=torch.contiguous_format) if is_dense else value
