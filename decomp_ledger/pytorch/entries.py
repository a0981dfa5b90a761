"""Describe one op of the dispatcher as an entry of a catalog.

This is the one definition of a catalog's entry: the live dispatcher and captures use it. It is also a part of the
standalone capture program, so it imports only the standard library, torch and the other parts.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from decomp_ledger.pytorch.fingerprint.source_digest import helpers_digest, source_digest, wrappers_digest
from decomp_ledger.pytorch.internals import (
    HigherOrderOperator,
    OpOverload,
    cia_decomposition,
    definition_of,
    has_kernel,
    is_cia,
    is_metadata_function,
    is_unsafe,
    mutates_or_aliases,
    op_of_cia_partial,
    python_cia_kernel,
    registry,
    schema_text,
)

NO_KERNEL = "it has no kernel"


def why_not_preservable(op: Any) -> str:
    """Return why torch cannot keep an op in a graph instead of decomposing it.

    The answer is that of `torch._export.utils._check_valid_to_preserve`, in a fraction of its time: torch goes through
    the arguments of the schema, and `OpOverload.is_view` did so already. A reason that a later torch adds would be
    missed; `tests/torch/test_capture.py` notices that.

    Args:
        op: An operator.

    Returns:
        "" when torch can preserve it, else one short phrase.
    """
    return why_never_preservable(op) or ("" if has_kernel(op) else NO_KERNEL)


def why_never_preservable(op: Any) -> str:
    """Return that part of :func:`why_not_preservable` which holds as long as the operator exists; else ""."""
    if not isinstance(op, OpOverload):
        return "a higher-order operator" if isinstance(op, HigherOrderOperator) else "not an operator overload"
    if mutates_or_aliases(op):
        return "its schema mutates or aliases an argument"
    if is_metadata_function(op):
        return "a metadata function of functional tensors"
    if is_unsafe(op):
        tagged = getattr(torch.Tag, "maybe_aliasing_or_mutating", None) in op.tags
        return "tagged maybe_aliasing_or_mutating" if tagged else "its schema is not what it does"
    return ""


def own_decompositions(op: Any) -> dict[str, Callable[..., Any]]:
    """Return the decompositions that torch has for an op, used or not, by origin: the registry's first."""
    found = {}
    if (registered := registry().get(op)) is not None:
        found["registry"] = registered
    if is_cia(op):
        kernel = cia_decomposition(op)
        found["cia" if op_of_cia_partial(kernel) is op else "py_cia"] = kernel
    return found


def origin_of(op: Any, decomposition: Callable[..., Any]) -> str | None:
    """Return where one of torch's own decompositions of an op comes from.

    Args:
        op: An operator.
        decomposition: A callable.

    Returns:
        `cia` (a C++ CompositeImplicitAutograd kernel), `registry` (torch's `post_autograd` registry) or `py_cia`
        (a CompositeImplicitAutograd kernel in Python); None if torch does not decompose the op with that.
    """
    if op_of_cia_partial(decomposition) is op:
        return "cia"
    if registry().get(op) is decomposition:
        return "registry"
    return "py_cia" if python_cia_kernel(op) is decomposition else None


def entry(op_name: str, op: Any, decomposition: Callable[..., Any] | None, digests: bool) -> dict[str, Any]:
    """Describe what the dispatcher offers for one op.

    Args:
        op_name: Its qualified name, without `::` for a higher-order operator.
        op: The operator.
        decomposition: What torch's default table has for it, or None.
        digests: Whether to make the digests of its source, which takes some milliseconds.

    Returns:
        Those of these fields that have a value: `origin` (also of a decomposition that torch has and does not use by
        default), `others` (the origins of more that it has), `default` (whether the op is in the default table),
        `unpreservable`, `schema`, `tags` (of `core`, `cia`, `functional`), and of a decomposition in Python `module`,
        `qualname`, `digest` (its own source), `helpers` (with what it calls) and `wrappers` (what its decorators wrap
        around it).

    Raises:
        ValueError: The decomposition is not one of torch's own for that op.
    """
    fields = brief_entry(op_name, op, decomposition)
    if "::" not in op_name:
        return fields
    origin = fields.get("origin")
    fields |= {"schema": schema_text(op), "tags": list(_tags(op))}
    if origin in ("registry", "py_cia"):
        used = own_decompositions(op)[origin]
        fields["module"], fields["qualname"] = definition_of(used)
        if digests:
            fields["digest"] = source_digest(used)
            fields["helpers"] = helpers_digest(used)
            fields["wrappers"] = wrappers_digest(used)
    return {key: value for key, value in fields.items() if value}


def brief_entry(op_name: str, op: Any, decomposition: Callable[..., Any] | None) -> dict[str, Any]:
    """Return those fields of an op's entry that the build of torch alone does not determine.

    Args:
        op_name: Its qualified name, without `::` for a higher-order operator.
        op: The operator.
        decomposition: What torch's default table has for it, or None.

    Raises:
        ValueError: The decomposition is not one of torch's own for that op.
    """
    if "::" not in op_name:
        return {"unpreservable": why_not_preservable(op)}
    known = own_decompositions(op)
    used = next(iter(known.values()), None) if decomposition is None else decomposition
    origin = None if used is None else origin_of(op, used)
    if used is not None and origin is None:
        raise ValueError(f"{op_name}: torch {torch.__version__} does not decompose it with {used!r}")
    fields = {
        "origin": origin,
        "others": sorted(known.keys() - {origin}),
        "default": decomposition is not None,
        "unpreservable": why_not_preservable(op),
    }
    return {key: value for key, value in fields.items() if value}


def _tags(op: Any) -> Iterator[str]:
    """Yield those of an op's tags that a catalog keeps, sorted."""
    if is_cia(op):
        yield "cia"
    if torch.Tag.core in op.tags:
        yield "core"
    if not mutates_or_aliases(op):
        yield "functional"


@functools.lru_cache(maxsize=1)
def build() -> dict[str, str]:
    """Return what identifies this build of torch: `torch`, `git` and `accelerator`."""
    version: Any = torch.version
    kinds = ("cuda", "hip", "xpu")
    found = [f"{kind} {getattr(version, kind)}" for kind in kinds if getattr(version, kind, None)]
    return {
        "torch": str(torch.__version__),
        "git": str(version.git_version),
        "accelerator": found[0] if found else "cpu",
    }
