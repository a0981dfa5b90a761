"""Make calls of an op from its schema, and from the calls of ops with nearly the same schema."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from schema_types import misfits

from decomp_ledger.model.samples import DTYPES, SampleCall, TensorSample, TorchConstant, parse_call
from decomp_ledger.pytorch.sample_values import build_arguments, build_tensors
from decomp_ledger.pytorch.schema_samples import kind_of, with_dtype

_NAMES = {getattr(torch, name): short for short, name in DTYPES.items()}
_MAX_ELEMENTS = 1024


def sample_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> SampleCall | None:
    """Return real arguments as a sample call; None if the language has no words for one of them."""
    try:
        return SampleCall(tuple(map(_written, args)), {name: _written(value) for name, value in kwargs.items()})
    except TypeError:
        return None


def _written(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, (list, tuple)):
        return tuple(map(_written, value))
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return TorchConstant(str(value).removeprefix("torch."))
    if value is None or type(value) in (bool, int, float, complex, str):
        return value
    raise TypeError(f"no sample of {type(value).__name__}")


def _tensor(value: torch.Tensor) -> TensorSample:
    plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided
    if not plain or value.dtype not in _NAMES or value.is_conj() or value.is_neg() or value.numel() > _MAX_ELEMENTS:
        raise TypeError("no sample of such a tensor")
    strides = None if value.is_contiguous() else tuple(value.stride())
    shape, dtype = tuple(value.shape), _NAMES[value.dtype]
    if dtype[0] not in "iu" or not value.numel():
        return TensorSample(dtype, shape, strides)
    least, most = int(value.min()), int(value.max())
    if value.numel() <= 6 and strides is None and max(-least, most) < 1000:
        return TensorSample(dtype, shape, None, None, _tuples(value.tolist()))
    return TensorSample(dtype, shape, strides, most + 1 if least >= 0 and most < 1000 else None)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def fits(op: Any | None, call: SampleCall) -> bool:
    """Tell whether the schema of an op takes a call. Torch also runs some others: it takes False for an int."""
    return op is not None and not misfits(call, str(op._schema))


def works(op: Any, call: SampleCall) -> bool:
    """Tell whether an op takes a call: its schema does, and its kernel runs."""
    if not fits(op, call):
        return False
    try:
        run(op, call)
    except Exception:
        return False
    return True


def run(op: Any, call: SampleCall) -> Any:
    """Run an op on a sample call."""
    with torch.no_grad():
        args, kwargs = build_arguments(call, build_tensors(call))
        return op(*args, **kwargs)


def with_outputs(op: Any, functional: Any, call: SampleCall) -> SampleCall | None:
    """Return the call of an overload with outputs, made from a call of its functional form; None if it has none."""
    results = run(functional, call)
    flat = [*results] if isinstance(results, (list, tuple)) else [results]
    names = [argument.name for argument in op._schema.arguments if argument.is_out]
    if len(names) != len(flat):
        return None
    outputs = {name: _written(result.contiguous()) for name, result in zip(names, flat, strict=True)}
    plain = {name: _without_values(value) for name, value in outputs.items()}
    return SampleCall(call.args, {**call.kwargs, **plain})


def _without_values(value: Any) -> Any:
    return TensorSample(value.dtype, value.shape) if isinstance(value, TensorSample) else value


def varied(op: Any, call: SampleCall) -> Iterator[SampleCall]:
    """Yield calls that differ from one in one respect: dtype, 0-dim, empty, memory layout, one argument, a mode."""
    yield from (with_dtype(call, dtype) for dtype in ("bf16", "f64", "c64", "i64", "b8"))
    yield from (_mapped(call, changed) for changed in (_scalar, _empty, _channels_last, _transposed, _wider))
    arguments = [argument for argument in op._schema.arguments if not argument.is_out]
    for position, argument in enumerate(arguments):
        for value in _other_values(argument):
            if argument.kwarg_only:
                yield SampleCall(call.args, {**call.kwargs, argument.name: value})
            elif position < len(call.args):
                yield SampleCall((*call.args[:position], value, *call.args[position + 1 :]), call.kwargs)
            else:
                yield SampleCall(call.args, {**call.kwargs, argument.name: value})


def _other_values(argument: Any) -> tuple[Any, ...]:
    kind = kind_of(argument)
    if argument.name == "reduction":
        return (0, 1, 2) if kind == "int" else ("none", "mean", "sum")
    if argument.name in ("padding_mode", "interpolation_mode"):
        return (0, 1, 2)
    if argument.name == "approximate":
        return ("none", "tanh")
    if argument.name == "rounding_mode":
        return ("floor", "trunc", None)
    if argument.name == "interpolation":
        return ("linear", "lower", "nearest", "midpoint")
    if argument.name == "indexing":
        return ("ij", "xy")
    choices: dict[str, tuple[Any, ...]] = {
        **{"bool": (True, False), "Optional[bool]": (True, None), "Optional[Tensor]": (None,)},
        **{"Optional[int]": (None, 1, 0), "Optional[float]": (None, 0.5), "Optional[List[int]]": (None, (0,), (0, 1))},
        "Optional[ScalarType]": (TorchConstant("float64"), None),
        "Optional[Layout]": (TorchConstant("sparse_coo"), TorchConstant("strided")),
        "ScalarType": (TorchConstant("float64"),),
        "Optional[MemoryFormat]": (TorchConstant("channels_last"), TorchConstant("contiguous_format"), None),
        "number": (2, 0.5),
        "Optional[number]": (None, 2),
    }
    if argument.name in ("dim", "axis") and kind == "int":
        return (0, -1)
    return choices.get(kind, ())


def _mapped(call: SampleCall, change: Any) -> SampleCall:
    first = [True]

    def replaced(value: Any) -> Any:
        if isinstance(value, TensorSample):
            result = change(value, first[0])
            first[0] = False
            return result
        return tuple(map(replaced, value)) if isinstance(value, tuple) else value

    args = tuple(map(replaced, call.args))
    return SampleCall(args, {name: replaced(value) for name, value in call.kwargs.items()})


def _scalar(value: TensorSample, first: bool) -> TensorSample:
    if value.dtype[0] in "iu":
        return TensorSample(value.dtype, (), None, value.below or 1)
    return TensorSample(value.dtype, ())


def _empty(value: TensorSample, first: bool) -> TensorSample:
    if not value.shape or value.values is not None:
        return value
    return TensorSample(value.dtype, (0, *value.shape[1:]), None, value.below)


def _channels_last(value: TensorSample, first: bool) -> TensorSample:
    if len(value.shape) not in (4, 5) or value.values is not None or 0 in value.shape:
        return value
    order = (0, *range(2, len(value.shape)), 1)
    strides = dict.fromkeys(order, 1)
    for position, dim in enumerate(order):
        for later in order[position + 1 :]:
            strides[dim] *= value.shape[later]
    return TensorSample(value.dtype, value.shape, tuple(strides[dim] for dim in range(len(order))), value.below)


def _transposed(value: TensorSample, first: bool) -> TensorSample:
    if len(value.shape) != 2 or value.values is not None or 0 in value.shape:
        return value
    return TensorSample(value.dtype, value.shape, (1, value.shape[0]), value.below)


def _wider(value: TensorSample, first: bool) -> TensorSample:
    """Give the first tensor one more dim of one element, so that others are broadcast."""
    if not first or value.values is not None:
        return value
    return TensorSample(value.dtype, (1, *value.shape), None, value.below)


def canonical(call: SampleCall) -> str | None:
    """Return the text of a call, if it can be read again."""
    text = str(call)
    try:
        return text if str(parse_call(text)) == text else None
    except ValueError:
        return None
