"""Capture what a torch offers: every op of its dispatcher, and the default decomposition of each.

This is the one definition of a catalog's entry: the live dispatcher asks here too. It is also the
last part of the standalone capture program, which any interpreter runs from its standard input, so
it imports nothing but the standard library, torch and `source`.
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

if __name__ == "__main__":  # the standalone program: whatever torch prints must not mix with its answer
    _answer = os.dup(1)
    os.dup2(2, 1)

import torch
import torch._decomp
from torch._subclasses.functional_tensor import FunctionalTensor

from decomp_ledger.pytorch.fingerprint.source_digest import helpers_digest, source_digest, wrappers_digest

FORMAT = 1
_CIA = torch._C.DispatchKey.CompositeImplicitAutograd


def why_not_preservable(op: Any) -> str:
    """Tell why torch cannot keep an op in a graph instead of decomposing it.

    It answers as `torch._export.utils._check_valid_to_preserve` does, in a fraction of its time:
    that goes through the arguments of the schema, which `OpOverload.is_view` did when it was made.
    Risk: `torch._decomp._should_decompose_because_unsafe_op`, `FunctionalTensor.metadata_fns`,
    `OpOverload.is_view` and `torch._C._dispatch_has_kernel`; a reason that torch adds to its own
    function would be missed, which `tests/test_capture.py` notices.

    Args:
        op: An operator.

    Returns:
        "" when torch can preserve it, else one short phrase.
    """
    if not isinstance(op, torch._ops.OpOverload):
        is_higher = isinstance(op, torch._ops.HigherOrderOperator)
        return "a higher-order operator" if is_higher else "not an operator overload"
    if op.is_view or op._schema.is_mutable:
        return "its schema mutates or aliases an argument"
    if op in FunctionalTensor.metadata_fns:
        return "a metadata function of functional tensors"
    if torch._decomp._should_decompose_because_unsafe_op(op):
        tagged = torch.Tag.maybe_aliasing_or_mutating in op.tags
        return "tagged maybe_aliasing_or_mutating" if tagged else "its schema is not what it does"
    return "" if torch._C._dispatch_has_kernel(op.name()) else "it has no kernel"


def default_table() -> dict[Any, Callable[..., Any]]:
    """Return torch's default decompositions, as a table made in a new process has them (20-70 ms).

    Risk: `_collect_all_valid_cia_ops_for_aten_namespace` remembers its first answer for ever; it is
    made to forget it. `CustomDecompTable` is taken from where it is defined, not from where it may
    have been replaced.
    """
    from torch._export.utils import _collect_all_valid_cia_ops_for_aten_namespace
    from torch.export.decomp_utils import CustomDecompTable

    _collect_all_valid_cia_ops_for_aten_namespace.cache_clear()
    return dict(CustomDecompTable().materialize())


def origin_of(op: Any, decomposition: Callable[..., Any]) -> str:
    """Tell where one of torch's own decompositions comes from.

    Risk: `functools.partial` with a `kernel` keyword is how `_get_decomp_for_cia` wraps a C++
    kernel; the registry is `torch._decomp.global_decomposition_table`.

    Args:
        op: An operator.
        decomposition: What torch decomposes it with.

    Returns:
        `cia` (a C++ CompositeImplicitAutograd kernel), `registry` (torch's `post_autograd`
        registry) or `py_cia` (a CompositeImplicitAutograd kernel in Python).

    Raises:
        ValueError: It is none of torch's own for that op.
    """
    if isinstance(decomposition, functools.partial) and decomposition.keywords.get("kernel") is op:
        return "cia"
    if _registry().get(op) is decomposition:
        return "registry"
    if op.py_kernels.get(_CIA) is decomposition:
        return "py_cia"
    raise ValueError(f"{op.name()} is not decomposed by {decomposition!r} in torch {torch.__version__}")


def entry(op_name: str, op: Any, decomposition: Callable[..., Any] | None, digests: bool) -> dict[str, Any]:
    """Describe what the dispatcher offers for one op.

    Args:
        op_name: Its qualified name, without `::` for a higher-order operator.
        op: The operator.
        decomposition: What torch's default table has for it, or None.
        digests: Whether to make the digests of its source, which takes some milliseconds.

    Returns:
        Those of these that have a value: `origin` (also of a decomposition that torch has and does
        not use by default), `others` (the origins of more that it has), `default` (is it in the
        default table), `unpreservable`, `schema`, `tags` (of `core`, `cia`, `functional`), and of a
        decomposition in Python `module`,
        `qualname`, `digest` (its own source), `helpers` (with what it calls) and `wrappers` (what
        its decorators wrap around it).
    """
    if "::" not in op_name:
        return {"unpreservable": why_not_preservable(op)}
    known = _decompositions(op)
    used = next(iter(known.values()), None) if decomposition is None else decomposition
    origin = None if used is None else origin_of(op, used)
    fields: dict[str, Any] = {
        "origin": origin,
        "others": sorted(known.keys() - {origin}),
        "default": decomposition is not None,
        "unpreservable": why_not_preservable(op),
        "schema": str(op._schema),
        "tags": list(_tags(op)),
    }
    if origin in ("registry", "py_cia"):
        fields["module"], fields["qualname"] = _place(used)
        if digests:
            fields["digest"] = source_digest(used)
            fields["helpers"] = helpers_digest(used)
            fields["wrappers"] = wrappers_digest(used)
    return {key: value for key, value in fields.items() if value}


@functools.lru_cache(maxsize=1)
def build() -> dict[str, str]:
    """Return what tells this torch from another one: `torch`, `git` and `accelerator`."""
    version: Any = torch.version
    kinds = ("cuda", "hip", "xpu")
    found = [f"{kind} {getattr(version, kind)}" for kind in kinds if getattr(version, kind, None)]
    return {
        "torch": str(torch.__version__),
        "git": str(version.git_version),
        "accelerator": found[0] if found else "cpu",
    }


def capture() -> dict[str, Any]:
    """Return the catalog of this process as plain data, with digests (some seconds).

    Risk: `torch._C._dispatch_get_all_op_names` lists the ops, `torch._ops._higher_order_ops` the
    higher-order ones.
    """
    defaults = default_table()
    operators = {name: _operator(name) for name in torch._C._dispatch_get_all_op_names()}
    operators.update(torch._ops._higher_order_ops)
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return {
        "format": FORMAT,
        "build": {**build(), "python": python},
        "ops": {n: entry(n, op, defaults.get(op), True) for n, op in sorted(operators.items())},
    }


def _operator(name: str) -> Any:
    """Return the operator of a dispatcher's name."""
    space, _, rest = name.partition("::")
    family, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, space), family), overload or "default")


def _registry() -> dict[Any, Callable[..., Any]]:
    """Return torch's registry of Python decompositions.

    Risk: `torch._decomp.global_decomposition_table`.
    """
    return torch._decomp.global_decomposition_table["post_autograd"]  # type: ignore[no-any-return]


def _decompositions(op: Any) -> dict[str, Callable[..., Any]]:
    """Return the decompositions that torch has for an op, used or not, by origin: the registry's first.

    Risk: `torch._export.utils._get_decomp_for_cia`, which prefers a Python kernel to a C++ one.
    """
    from torch._export.utils import _get_decomp_for_cia

    found = {}
    if (registered := _registry().get(op)) is not None:
        found["registry"] = registered
    if _is_cia(op):
        kernel = _get_decomp_for_cia(op)
        found["cia" if isinstance(kernel, functools.partial) else "py_cia"] = kernel
    return found


def own_decomposition(op: Any, origin: str) -> Callable[..., Any] | None:
    """Return the decomposition of an origin that torch has for an op, or None."""
    return _decompositions(op).get(origin)


def _is_cia(op: Any) -> bool:
    """Tell whether an op has a CompositeImplicitAutograd kernel.

    Risk: `torch._C._dispatch_has_kernel_for_dispatch_key` and `OperatorBase.py_kernels`.
    """
    if isinstance(op.py_kernels.get(_CIA, _CIA), torch._C.DispatchKey):
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), _CIA))
    return True


def _tags(op: Any) -> Iterator[str]:
    """Yield the tags of an op that matter here, sorted."""
    if _is_cia(op):
        yield "cia"
    if torch.Tag.core in op.tags:
        yield "core"
    if not (op.is_view or op._schema.is_mutable):
        yield "functional"


def _place(fn: Any) -> tuple[str, str]:
    """Return module and qualified name of a decomposition.

    A wrapper of an `OpOverloadPacket` bears the packet's, in which pybind11 writes how torch was
    compiled; its own module and name are told instead.
    """
    if fn.__module__.startswith("torch._ops"):
        return fn.__globals__["__name__"], fn.__name__
    return fn.__module__, fn.__qualname__


if __name__ == "__main__":
    with os.fdopen(_answer, "w", encoding="utf-8") as answer:
        json.dump(capture(), answer)
