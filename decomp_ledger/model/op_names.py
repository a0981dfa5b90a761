"""Names of ops, in the one form that is stored and printed.

The form is torch's own `op.name()`: `aten::linear` (the default overload), `aten::add.Tensor`, and `cond` for a
higher-order operator. It round-trips for every table key, registry key and dispatcher name of torch 2.6 to 2.15.
"""

from __future__ import annotations

import re

from decomp_ledger.errors import InvalidName

__all__ = ["TORCH_NAMESPACES", "check_label", "is_aten", "is_torchs", "namespace", "normalize", "split"]

# Namespaces that torch itself defines, some when a part of it is first imported: what they offer is known by torch's
# build.
# fmt: off
TORCH_NAMESPACES = frozenset((
    "aten", "prim", "prims", "prepacked", "profiler", "inductor", "inductor_prims", "quantized", "_quantized",
    "quantization", "quantized_decomposed", "static_runtime", "symm_mem", "c10d", "c10d_functional",
    "_c10d_functional", "_c10d_functional_autograd", "onednn", "mkldnn", "mkldnn_prepacked", "mkl", "sparse",
    "rngprims", "debugprims", "debug_mode_ops", "export", "_native", "_test", "_inductor_test", "_dtensor", "xnnpack",
    "metal", "table_ids", "flex_lib", "fsdp", "onnx", "onnx_symbolic", "torch_attn", "device_mesh", "semi_structured",
    "cplib", "pippy", "triton",
))
# fmt: on

_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
# As text: to compile them takes milliseconds, which not every process needs to spend; `re` keeps what it compiled.
_OP = rf"(?P<namespace>{_WORD}(?:\.{_WORD})*)::(?P<name>{_WORD})(?:\.(?P<overload>\w+))?"
_DOTTED = rf"(?P<namespace>{_WORD})\.(?P<name>{_WORD})\.(?P<overload>\w+)"
_MAX_NAME = 500
_MAX_LABEL = 200


def normalize(text: str) -> str:
    """Return the stored form of an op's name.

    Args:
        text: `aten::linear`, `aten::add.Tensor`, `aten.linear.default`, `torch.ops.aten.linear.default`, or the bare
            name of a higher-order operator (`cond`, `torch.ops.higher_order.cond`).

    Returns:
        The name as `op.name()` gives it: no `.default`, no `torch.ops.`.

    Raises:
        InvalidName: it is no name of one op.
    """
    shown = text if len(text) <= 80 else text[:77] + "..."
    if len(text) > _MAX_NAME:
        raise InvalidName(f"{shown!r} is {len(text)} characters long; an op's name has at most {_MAX_NAME}")
    bare = re.sub(rf"^higher_order\.({_WORD})$", r"\1", re.sub(r"^(torch\.ops\.)+", "", text))
    match = re.fullmatch(_OP, bare) or re.fullmatch(_DOTTED, bare)
    if match is not None:
        overload = match["overload"]
        suffix = "" if overload in (None, "default") else f".{overload}"
        return f"{match['namespace']}::{match['name']}{suffix}"
    if re.fullmatch(_WORD, bare):
        return bare
    if re.fullmatch(rf"{_WORD}\.{_WORD}", bare):
        ns, name = bare.split(".")
        raise InvalidName(
            f"{shown!r} names a family of overloads; name one of them: '{ns}::{name}' is the default overload, "
            f"'{ns}::{name}.OVERLOAD' another"
        )
    raise InvalidName(
        f"{shown!r} is not the name of an op; write 'aten::linear', 'aten::add.Tensor' or 'aten.linear.default'"
    )


def split(op: str) -> tuple[str, str, str]:
    """Split a stored name into namespace, name and overload (`""` for the default one and the missing parts)."""
    space, _, rest = op.rpartition("::")
    name, _, overload = rest.partition(".")
    return space, name, overload


def namespace(op: str) -> str:
    """Return the namespace of a stored name; `""` for a higher-order operator."""
    return op.rpartition("::")[0]


def is_aten(op: str) -> bool:
    """Tell whether a stored name is in torch's `aten` namespace."""
    return op.startswith("aten::")


def is_torchs(op: str) -> bool:
    """Tell whether a stored name is in a namespace that torch itself defines."""
    return namespace(op) in TORCH_NAMESPACES


def check_label(text: object, what: str) -> str:
    """Return `text` if it can name a table, a tag or a recording.

    Args:
        text: the name.
        what: what it names, for the message.

    Raises:
        InvalidName: it is empty, too long, has control characters, or begins or ends with a space; or it has an `@`
            or a `:`, which separate a table from a version where a state is named.
    """
    if not isinstance(text, str):
        raise InvalidName(f"{what} is named by a str, not by {type(text).__name__}")
    shown = text if len(text) <= 80 else text[:77] + "..."
    if not text or text != text.strip() or len(text) > _MAX_LABEL:
        raise InvalidName(f"{shown!r} cannot name {what}: 1 to {_MAX_LABEL} characters, no space at either end")
    if not text.isprintable():
        raise InvalidName(f"{shown!r} cannot name {what}: it has characters that do not print")
    if "@" in text or ":" in text:
        raise InvalidName(f"{shown!r} cannot name {what}: '@' and ':' separate a table from its version")
    return text
