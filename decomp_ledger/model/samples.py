"""Sample calls: the arguments of one call of an op, written as one line that looks like Python. Pure.

    (f32[2, 3], f32[2, 3], alpha=2)          two tensors that a rule fills, and a keyword argument
    (i64[4] < 5, f32[()], i64([0, 2]))       integers below 5, a 0-dim tensor, a tensor of these values
    (f32[2, 3].strided(1, 2), [0, None])     strides; lists, None, True, 1.5, 1j, inf, nan and strings are themselves
    (f32[2], torch.float64, out=f64[2])      dtypes, layouts and memory formats; an output is a tensor
    dynamic(f32[2, 3])                       traced with dynamic shapes

The text depends on no torch version. It is parsed, never evaluated. This file is also a part of the standalone
capture program, so it imports only the standard library and the errors.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from decomp_ledger.errors import SampleError

# Short names of dtypes, as they stand before a shape, and torch's names.
DTYPES = {
    **{"b8": "bool", "u8": "uint8", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64"},
    **{"f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64"},
    **{"c32": "complex32", "c64": "complex64", "c128": "complex128"},
}
# What `torch.NAME` may name.
CONSTANTS = frozenset(
    {*DTYPES.values(), "strided", "sparse_coo", "contiguous_format", "preserve_format"}
    | {"channels_last", "channels_last_3d"}
)
_STATIC, _DYNAMIC = "call", "dynamic"
_NUMBERS = {"inf": math.inf, "nan": math.nan}
_MAX_TEXT, _MAX_ELEMENTS = 4000, 1 << 20


@dataclass(frozen=True)
class TensorSample:
    """A dense tensor on the CPU.

    Attributes:
        dtype: short name, one of `DTYPES`.
        shape: its sizes.
        strides: its strides; None if it is contiguous.
        below: for integers, the first number that is not in it; None for the usual filling.
        values: the values instead of a filling, as nested tuples.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    below: int | None = None
    values: Any = None

    def __str__(self) -> str:
        """Return it as a sample call writes it."""
        if self.values is not None:
            text = f"{self.dtype}({_written_value(self.values)})"
        else:
            text = f"{self.dtype}[{', '.join(map(str, self.shape)) or '()'}]"
        if self.strides is not None:
            text += f".strided({', '.join(map(str, self.strides))})"
        return text if self.below is None else f"{text} < {self.below}"


@dataclass(frozen=True)
class TorchConstant:
    """A dtype, layout or memory format: `torch.NAME`."""

    name: str

    def __str__(self) -> str:
        """Return it as a sample call writes it."""
        return f"torch.{self.name}"


@dataclass(frozen=True)
class SampleCall:
    """The arguments of one call.

    Attributes:
        args: positional arguments: tensors, constants, numbers, strings, None, and tuples of these for lists.
        kwargs: keyword arguments by name.
        dynamic: whether to trace the call with dynamic shapes.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    dynamic: bool = False

    def __str__(self) -> str:
        """Return the text of the call; `parse_call` reads it."""
        parts = [_written_value(value) for value in self.args]
        parts += [f"{name}={_written_value(value)}" for name, value in self.kwargs.items()]
        return f"{_DYNAMIC if self.dynamic else ''}({', '.join(parts)})"


def parse_call(text: str) -> SampleCall:
    """Read the text of a sample call.

    Args:
        text: such as `(f32[2, 3], alpha=2)`.

    Returns:
        The call; `str()` of it is the canonical text.

    Raises:
        SampleError: the text is something else.
    """
    if not isinstance(text, str):
        raise SampleError(
            f"sample call: a {type(text).__name__}: not text; write it like (f32[2, 3], i64[4] < 5, dim=1)"
        )
    dynamic = text.startswith(_DYNAMIC)
    try:
        if len(text) > _MAX_TEXT:
            _refuse(text, f"longer than {_MAX_TEXT} characters")
        with warnings.catch_warnings():  # Python warns of texts such as '\\d' on standard error
            warnings.simplefilter("ignore")
            node = ast.parse(text if dynamic else f"{_STATIC}{text}", mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            _refuse(text, "not the arguments of a call")
        if node.func.id != (_DYNAMIC if dynamic else _STATIC):
            _refuse(text, "something stands before the arguments")
        if any(keyword.arg is None for keyword in node.keywords):
            _refuse(text, "`**` is not allowed")
        kwargs = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
        call = SampleCall(tuple(map(_value, node.args)), kwargs, dynamic)
        if sum(map(_elements, tensors_of(call))) > _MAX_ELEMENTS:
            _refuse(text, f"its tensors have more than {_MAX_ELEMENTS} elements")
        return call
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, SampleError):
            raise
        return _refuse(text, f"not Python syntax ({type(error).__name__})")


def tensors_of(value: Any) -> Iterator[TensorSample]:
    """Yield the tensors in arguments, in order."""
    if isinstance(value, TensorSample):
        yield value
    elif isinstance(value, SampleCall):
        yield from tensors_of((*value.args, *value.kwargs.values()))
    elif isinstance(value, tuple):
        for item in value:
            yield from tensors_of(item)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, complex, str, type(None))):
        return node.value
    if isinstance(node, ast.Name) and node.id in _NUMBERS:
        return _NUMBERS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _negative(node)
    if isinstance(node, ast.List):
        return tuple(map(_value, node.elts))
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
        return TorchConstant(node.attr) if node.attr in CONSTANTS else _refuse(node, "not a constant of torch")
    return _tensor(node)


def _negative(node: ast.UnaryOp) -> Any:
    value = _value(node.operand)
    if isinstance(value, (int, float, complex)) and not isinstance(value, bool):
        return -value
    return _refuse(node, "not a number")


def _tensor(node: ast.expr) -> TensorSample:
    below = strides = None
    inner = node
    if isinstance(inner, ast.Compare) and len(inner.ops) == 1 and isinstance(inner.ops[0], ast.Lt):
        (below,) = _integers([inner.comparators[0]])
        inner = inner.left
    if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr == "strided":
        strides = _integers(inner.args)
        inner = inner.func.value
    if isinstance(inner, ast.Subscript) and _is_dtype(inner.value):
        index = inner.slice
        shape = _integers(index.elts if isinstance(index, ast.Tuple) else [index])
        sample = TensorSample(inner.value.id, shape, strides, below)  # type: ignore[attr-defined]
    elif isinstance(inner, ast.Call) and _is_dtype(inner.func) and len(inner.args) == 1 and below is None:
        values = _value(inner.args[0])
        sample = TensorSample(inner.func.id, _shape_of(values), strides, None, values)  # type: ignore[attr-defined]
    else:
        return _refuse(node, "not a value")
    if sample.strides is not None and len(sample.strides) != len(sample.shape):
        _refuse(node, "as many strides as sizes are needed")
    if _elements(sample) > _MAX_ELEMENTS:
        _refuse(node, "too large")
    if sample.below is not None and (sample.below < 1 or sample.dtype[0] not in "iu"):
        _refuse(node, "only integers have a limit, of at least 1")
    return sample


def _elements(sample: TensorSample) -> int:
    """Return how many elements a tensor takes in memory; with strides, those up to the last one that a stride reaches.

    An empty tensor counts its other sizes, because torch computes with them too.
    """
    if sample.strides is None:
        return math.prod(max(size, 1) for size in sample.shape)
    return 1 + sum(max(size - 1, 0) * stride for size, stride in zip(sample.shape, sample.strides, strict=True))


def _is_dtype(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in DTYPES


def _integers(nodes: list[ast.expr]) -> tuple[int, ...]:
    found = [node.value for node in nodes if isinstance(node, ast.Constant) and type(node.value) is int]
    if len(found) != len(nodes):
        _refuse(nodes[0], "sizes are integers")
    return tuple(found)


def _shape_of(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple):
        if not isinstance(values, (bool, int, float, complex)):
            raise SampleError(f"sample call: {values!r:.40}: not a number; write numbers in the values of a tensor")
        return ()
    inner = {_shape_of(value) for value in values}
    if len(inner) > 1:
        raise SampleError("sample call: the rows of a tensor have different lengths; write them equally long")
    return (len(values), *(inner.pop() if inner else ()))


def _written_value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written_value, value))}]"
    return str(value) if isinstance(value, (TensorSample, TorchConstant)) else repr(value)


def _refuse(where: ast.expr | str, problem: str) -> NoReturn:
    text = where if isinstance(where, str) else ast.unparse(where)
    # In one line, without lone surrogates, so that the message can be printed.
    text = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    raise SampleError(f"sample call: {text:.80}: {problem}; write it like (f32[2, 3], i64[4] < 5, dim=1)")
