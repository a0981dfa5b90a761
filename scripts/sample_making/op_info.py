"""Find calls of ops in torch's own test inputs: what an OpInfo calls, what that calls, and what its backward calls."""

import contextlib
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

DTYPES = (torch.float32, torch.int64, torch.bool, torch.complex64, torch.bfloat16)
# Inputs of one OpInfo for one dtype; the first ones differ most.
MAX_INPUTS = {torch.float32: 24}
MAX_OTHER_INPUTS = 4
# A call of an op: positional arguments and keyword arguments.
Call = tuple[tuple[Any, ...], dict[str, Any]]
# torch's tests need this module only for its TestCase.
with contextlib.suppress(ImportError):
    pass
if "expecttest" not in sys.modules:
    import unittest

    stand_in: Any = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase
    sys.modules["expecttest"] = stand_in


class _Recorder(TorchDispatchMode):
    """Keep the arguments of every op that reaches the dispatcher's Python key."""

    def __init__(self, found: list[tuple[str, Call]]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Copy first, because the op may change them.
        self.found.append((func.name(), copied((args, kwargs or {}))))
        return func(*args, **(kwargs or {}))


class _Interpreter(torch.fx.Interpreter):
    """Run a graph that was traced before autograd, and keep the arguments of its ops."""

    def __init__(self, module: torch.fx.GraphModule, found: list[tuple[str, Call]]) -> None:
        super().__init__(module)
        self.found = found

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(target, torch._ops.OpOverload):
            self.found.append((target.name(), copied((args, kwargs))))
        return super().call_function(target, args, kwargs)


def copied(value: Any) -> Any:
    """Return arguments with copies of their tensors, in the same strides."""
    return pytree.tree_map(lambda x: x.detach().clone() if isinstance(x, torch.Tensor) else x, value)


def inputs_by_op() -> Iterator[tuple[set[str], Any, list[Any]]]:
    """Yield for each OpInfo the names of its op, its function, and sample inputs of several dtypes."""
    from torch.testing._internal.common_methods_invocations import op_db

    for info in op_db:
        names = {getattr(info, "aten_name", None) or info.name, info.name, info.name.rpartition(".")[2]}
        found = []
        for dtype in DTYPES:
            if dtype in info.dtypes:
                found += _inputs(info, dtype)
        yield names, info.op, found


def _inputs(info: Any, dtype: torch.dtype) -> list[Any]:
    gradients = dtype == torch.float32 and info.supports_autograd
    try:
        torch.manual_seed(0)
        samples = info.sample_inputs("cpu", dtype, requires_grad=gradients)
        return [sample for sample, _ in zip(samples, range(MAX_INPUTS.get(dtype, MAX_OTHER_INPUTS)), strict=False)]
    except Exception:  # a dtype that its sample function cannot make
        return []


def calls_inside(function: Any, sample: Any) -> list[tuple[str, Call]]:
    """Return the ops that a call runs: those before autograd, those below it, and those of its backward."""
    found: list[tuple[str, Call]] = []
    arguments = (sample.input, sample.args, sample.kwargs)
    leaves, spec = pytree.tree_flatten(arguments)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]

    def run(*given: Any) -> Any:
        taken = iter(given)
        first, args, kwargs = pytree.tree_unflatten(
            [next(taken) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec
        )
        return function(first, *args, **kwargs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(Exception), torch.no_grad():
            module = make_fx(run, pre_dispatch=True)(*copied(tensors))
            _Interpreter(module, found).run(*copied(tensors))
        with contextlib.suppress(Exception), _Recorder(found):
            results = [x for x in pytree.tree_leaves(run(*tensors)) if isinstance(x, torch.Tensor) and x.requires_grad]
            wanted = [x for x in tensors if x.requires_grad]
            if results and wanted:
                torch.autograd.grad([x.sum() for x in results], wanted, allow_unused=True)
    return found
