"""Make the values of a sample call: tensors, dtypes and other arguments of torch.

The same call gives the same values in every process. This file is also a part of the standalone capture program, so
it imports only the standard library, torch and the other parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from decomp_ledger.model.samples import DTYPES, SampleCall, TensorSample, TorchConstant, tensors_of


def build_tensors(call: SampleCall) -> list[torch.Tensor]:
    """Return the tensors of a call, in the order of `tensors_of`."""
    return [_build(sample) for sample in tensors_of(call)]


def build_arguments(call: SampleCall, tensors: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call.

    Args:
        call: The call.
        tensors: What takes the place of its tensors, in the order of `tensors_of`.
    """
    taken = iter(tensors)
    args = tuple(_argument(value, taken) for value in call.args)
    return args, {name: _argument(value, taken) for name, value in call.kwargs.items()}


def _argument(value: Any, tensors: Iterator[Any]) -> Any:
    if isinstance(value, TensorSample):
        return next(tensors)
    if isinstance(value, TorchConstant):
        return getattr(torch, value.name)
    return [_argument(item, tensors) for item in value] if isinstance(value, tuple) else value


def _build(sample: TensorSample) -> torch.Tensor:
    dtype = getattr(torch, DTYPES[sample.dtype])
    strides = sample.strides or _contiguous(sample.shape)
    # Every element that a stride reaches; overlapping strides reach fewer than the sizes tell.
    reached = 1 + sum((size - 1) * stride for size, stride in zip(sample.shape, strides, strict=True))
    reached = reached if math.prod(sample.shape) else 0
    result = torch.empty_strided(sample.shape, strides, dtype=dtype, device="cpu")
    if sample.values is not None:
        result.copy_(torch.tensor(_lists(sample.values), dtype=dtype, device="cpu"))
    else:
        result.as_strided((reached,), (1,)).copy_(_filling(sample, reached))
    return result


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(max(size, 1) for size in shape[index + 1 :]) for index in range(len(shape)))


def _filling(sample: TensorSample, count: int) -> torch.Tensor:
    """Return values that most ops accept: fractions between 0 and 1, integers from 1 to 9, alternating booleans."""
    positions = torch.arange(count, dtype=torch.int64, device="cpu")
    if sample.below is not None:
        return positions % sample.below
    if sample.dtype == "b8":
        return positions % 2 == 0
    if sample.dtype[0] in "iu":
        return positions % 9 + 1
    fractions = (positions * 7 % 11 + 1).to(torch.float64) / 12
    return torch.complex(fractions, fractions / 2) if sample.dtype[0] == "c" else fractions


def _lists(values: Any) -> Any:
    return list(map(_lists, values)) if isinstance(values, tuple) else values
