"""Make sample calls of an op from its schema alone.

This file is also a part of the standalone capture program, so it imports only the standard library and the other
parts.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

from decomp_ledger.errors import SampleError
from decomp_ledger.model.samples import SampleCall, TensorSample, TorchConstant, parse_call, tensors_of
from decomp_ledger.pytorch.internals import schema_arguments

_SHAPES = ((2, 3), (2, 3, 4), (1, 2, 4, 4), (3,), (3, 3), (1, 2, 3, 4, 4), (), (0, 3))
# Dtypes that decompositions treat apart from float32.
_OTHER_DTYPES = ("bf16", "f64", "i64")


def made(op: Any) -> Iterator[SampleCall]:
    """Yield calls that fit the types of a schema, for several shapes; many of them an op refuses."""
    for shape, number in itertools.product(_SHAPES, (1, 0)):
        with contextlib.suppress(KeyError):
            yield _made(op, shape, number)


def made_texts(op: Any) -> list[str]:
    """Return calls of an op for several shapes, dtypes and dynamic shapes, as text; they depend on its schema alone.

    Whether the op accepts a call does not count, so that two versions of a library have the same samples.
    """
    calls = [*made(op)]
    first = calls[:1]
    calls += [with_dtype(call, dtype) for call in first for dtype in _OTHER_DTYPES]
    calls += [SampleCall(call.args, call.kwargs, True) for call in first if any(tensors_of(call))]
    texts = dict.fromkeys(map(str, calls))
    return [text for text in texts if _is_readable(text)]


def with_dtype(call: SampleCall, dtype: str) -> SampleCall:
    """Return a call with another dtype for its tensors of real numbers."""

    def changed(value: Any) -> Any:
        if isinstance(value, TensorSample) and value.dtype in ("f32", "f64"):
            return TensorSample(dtype, value.shape, value.strides)
        return tuple(map(changed, value)) if isinstance(value, tuple) else value

    return SampleCall(changed(call.args), {name: changed(value) for name, value in call.kwargs.items()}, call.dynamic)


def _made(op: Any, shape: tuple[int, ...], number: int) -> SampleCall:
    tensor = TensorSample("f32", shape)
    values = {
        **{"Tensor": tensor, "List[Tensor]": (tensor, tensor), "int": number, "float": 0.5, "number": 1, "bool": False},
        **{"List[int]": (1,) * len(shape), "List[float]": (1.0,), "str": "sum", "Device": "cpu"},
        **{"ScalarType": TorchConstant("float32"), "Layout": TorchConstant("strided")},
        "List[bool]": (True,) * 3,
    }
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in schema_arguments(op):
        kind = kind_of(argument)
        if argument.is_out:
            kwargs[argument.name] = TensorSample("f32", (0,))
        elif argument.has_default_value() and (argument.kwarg_only or not kwargs):
            continue
        else:
            value = None if kind.startswith("Optional") else values[kind]
            if argument.kwarg_only:
                kwargs[argument.name] = value
            else:
                args.append(value)
    return SampleCall(tuple(args), kwargs)


def kind_of(argument: Any) -> str:
    """Return the type of an argument of a schema: "List[int]", "ScalarType"."""
    # `type` calls a dtype and a layout an int; `real_type` has another name for sizes.
    return str(argument.real_type).replace("SymInt", "int")


def _is_readable(text: str) -> bool:
    try:
        return str(parse_call(text)) == text
    except SampleError:
        return False
