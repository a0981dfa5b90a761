"""Trace what a table of this process has for one op."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from decomp_ledger.errors import SampleError
from decomp_ledger.pytorch.entries import own_decompositions
from decomp_ledger.pytorch.internals import find_operator, upstream_table
from decomp_ledger.pytorch.schema_samples import made_texts
from decomp_ledger.pytorch.traces import trace_all

__all__ = ["trace_op"]


def trace_op(name: str, calls: Sequence[str], table: Mapping[Any, Any] | None) -> dict[str, Any]:
    """Trace the decomposition of an op on sample calls; see :func:`decomp_ledger.trace`.

    Returns:
        Plain data, as `TraceSet.from_json` reads it.

    Raises:
        SampleError: no loaded library has the op, nothing decomposes it, or no call can be made from its schema.
    """
    qualified, _, overload = name.partition(".")
    op = find_operator(qualified, overload)
    if op is None:
        raise SampleError(f"{name}: no loaded library has this op; import the library that defines it")
    decomposition = _torchs(op) if table is None else table.get(op)
    if not callable(decomposition):
        whose = "torch" if table is None else "the table"
        raise SampleError(f"{name}: {whose} has no decomposition of it; give a table that has one")
    texts = calls or made_texts(op)
    if not texts:
        raise SampleError(f"{name}: its schema has an argument that no text can give, so it cannot be traced")
    return {"torch": str(torch.__version__), **trace_all({name: decomposition}, {name: texts})}


def _torchs(op: Any) -> Callable[..., Any] | None:
    """Return the decomposition of torch's default table, else another one that torch has."""
    return upstream_table().get(op) or next(iter(own_decompositions(op).values()), None)
