"""Trace decompositions on sample calls.

This file is also a part of the standalone capture program, so it imports only the standard library, torch and the
other parts.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from decomp_ledger.model.samples import SampleCall, parse_call
from decomp_ledger.pytorch.internals import upstream_table
from decomp_ledger.pytorch.sample_values import build_arguments, build_tensors
from decomp_ledger.pytorch.trace_lines import canonical_lines, lines_digest

Progress = Callable[[int, int, str], object]

# The one part of a message that is the same in every torch: the op that could not run.
_OP_IN_MESSAGE = re.compile(r"\b(?:aten|prims|quantized|c10d_functional)(?:::|\.)\w+(?:\.\w+)?")


def trace(decomposition: Callable[..., Any], call: SampleCall) -> tuple[str, ...]:
    """Trace a decomposition on a sample call, without real data and without gradients.

    Args:
        decomposition: What a table holds for an op.
        call: The arguments; its tensors become fake tensors, with symbolic shapes if the call is dynamic.

    Returns:
        The canonical lines of the graph.

    Raises:
        Exception: Whatever the decomposition raises for these arguments.
    """

    def run(*tensors: Any) -> Any:
        args, kwargs = build_arguments(call, [*tensors])
        return decomposition(*args, **kwargs)

    with plain_state():
        tensors = build_tensors(call)
        return canonical_lines(make_fx(run, tracing_mode="symbolic" if call.dynamic else "fake")(*tensors))


def trace_or_error(decomposition: Callable[..., Any], text: str) -> tuple[str, ...] | str:
    """Trace a decomposition on the text of a call; return the canonical lines, or the error as a short stable text."""
    call = parse_call(text)
    try:
        return trace(decomposition, call)
    except Exception as error:
        return error_text(error)


def error_text(error: BaseException) -> str:
    """Return the class of an error, with the op that its message names, if it does. Messages differ between torches."""
    found = _OP_IN_MESSAGE.search(str(error))
    return f"{type(error).__name__}: {found[0].replace('.', '::', 1)}" if found else type(error).__name__


def trace_defaults(samples: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Trace torch's default decompositions on the samples of their ops; see `trace_all`.

    Ops that are not in the default table are skipped.
    """
    table = {op.name(): decomposition for op, decomposition in upstream_table().items()}
    return trace_all(table, {name: samples[name] for name in sorted(samples.keys() & table.keys())})


def trace_all(
    decompositions: Mapping[str, Callable[..., Any]],
    samples: Mapping[str, Sequence[str]],
    progress: Progress = lambda done, count, name: None,
) -> dict[str, Any]:
    """Trace decompositions on sample calls.

    Args:
        decompositions: op name -> decomposition.
        samples: op name -> texts of calls; each of the ops has a decomposition.
        progress: It is called with the number of ops done, that of all ops, and the name of the next one, or "".

    Returns:
        `ops` (op name -> call -> digest, or `!` and an error) and `graphs` (digest -> canonical lines, sorted).
    """
    ops: dict[str, dict[str, str]] = {}
    graphs: dict[str, list[str]] = {}
    for number, (name, calls) in enumerate(samples.items()):
        progress(number, len(samples), name)
        found = ops[name] = {}
        for text in calls:
            lines = trace_or_error(decompositions[name], text)
            if isinstance(lines, str):
                found[text] = f"!{lines}"
            else:
                found[text] = lines_digest(lines)
                graphs[found[text]] = [*lines]
    progress(len(samples), len(samples), "")
    return {"ops": ops, "graphs": dict(sorted(graphs.items()))}


@contextlib.contextmanager
def plain_state() -> Iterator[None]:
    """Trace as a new process would: no gradients, float32 by default, no warnings, random numbers left as they are."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(dtype)
