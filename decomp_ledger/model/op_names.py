"""Op names in the one form that is stored and printed, and the check of table and tag names.

The form of an op name is torch's own `op.name()`: `aten::linear` (the default overload), `aten::add.Tensor`, and
`cond` for a higher-order operator. Every table key, registry key and dispatcher name of torch 2.6 to 2.15 has one.
"""

from __future__ import annotations

import re
from functools import lru_cache

from decomp_ledger.errors import InvalidName
from decomp_ledger.model.arguments import shown

__all__ = [
    "LONGEST_NAME",
    "PROGRAM_FILES",
    "TORCH_NAMESPACES",
    "check_label",
    "family",
    "is_aten",
    "is_op_name",
    "is_torchs",
    "namespace",
    "normalize",
    "operator",
    "split",
]

# Namespaces that torch itself defines, some of them when a part of it is first imported. The build implies their ops.
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

PROGRAM_FILES = (".pt2", ".onnx", ".pte", ".ptd")  # how the name of a program's file ends, which is a state spec
_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
_OVERLOAD = r"[A-Za-z0-9_]+"  # not \w, which matches letters of every script
_OP = re.compile(rf"(?P<namespace>{_WORD}(?:\.{_WORD})*)::(?P<name>{_WORD})(?:\.(?P<overload>{_OVERLOAD}))?")
_DOTTED = re.compile(rf"(?P<namespace>{_WORD})\.(?P<name>{_WORD})\.(?P<overload>{_OVERLOAD})")
_FAMILY = re.compile(rf"{_WORD}\.{_WORD}")
_BARE = re.compile(_WORD)
_TORCH_OPS = re.compile(r"^(torch\.ops\.)+")
_HIGHER_ORDER = re.compile(rf"^higher_order\.({_WORD})$")
_EVENT = re.compile(r"#\d+")  # how a command names one event
_EARLIER_RUN = re.compile(r"~[0-9]+$")  # how a state spec ends that names an earlier run
LONGEST_NAME = 500  # characters of the name of an op; the name of a table or a tag is shorter
MAX_LABEL = 200


def normalize(text: str) -> str:
    """Return the stored form of an op's name.

    Args:
        text: `aten::linear`, `aten::add.Tensor`, `aten.linear.default`, `torch.ops.aten.linear.default`, or the bare
            name of a higher-order operator (`cond`, `torch.ops.higher_order.cond`).

    Returns:
        The name as `op.name()` gives it: no `.default`, no `torch.ops.`.

    Raises:
        InvalidName: the text does not name one op.
    """
    if not isinstance(text, str):
        raise InvalidName(f"{shown(text)}: it is not the name of an op; give text, such as 'aten::linear'")
    short = _shortened(text)
    if len(text) > LONGEST_NAME:
        raise InvalidName(f"{short!r}: it has {len(text)} characters; an op name has at most {LONGEST_NAME}")
    bare = _HIGHER_ORDER.sub(r"\1", _TORCH_OPS.sub("", text))
    match = _OP.fullmatch(bare) or _DOTTED.fullmatch(bare)
    if match is not None:
        overload = match["overload"]
        suffix = "" if overload in (None, "default") else f".{overload}"
        return f"{match['namespace']}::{match['name']}{suffix}"
    if _BARE.fullmatch(bare):
        return bare
    if _FAMILY.fullmatch(bare):
        ns, name = bare.split(".")
        raise InvalidName(
            f"{short!r}: it names a family of overloads; name one of them, '{ns}::{name}' for the default overload or "
            f"'{ns}::{name}.OVERLOAD'"
        )
    raise InvalidName(
        f"{short!r}: it is not the name of an op; write 'aten::linear', 'aten::add.Tensor' or 'aten.linear.default'"
    )


def family(text: str) -> tuple[str, str, bool] | None:
    """Return the family that a text may name: its namespace, its name, and whether the text can also name one op.

    Args:
        text: `aten::add`, `aten.add` or `add`, which has the namespace "". `aten.add` can name a family only.

    Returns:
        None for the name of one overload (`aten::add.Tensor`, `higher_order.cond`) and for what is not an op's name.
    """
    bare = _TORCH_OPS.sub("", text) if isinstance(text, str) and len(text) <= LONGEST_NAME else ""
    if _HIGHER_ORDER.match(bare):
        return None
    match = _OP.fullmatch(bare)
    if match is not None and match["overload"] is None:
        return match["namespace"], match["name"], True
    if _BARE.fullmatch(bare):
        return "", bare, True
    if _FAMILY.fullmatch(bare):
        space, _, name = bare.partition(".")
        return space, name, False
    return None


@lru_cache(maxsize=10_000)  # 2 us a name, at each append
def is_op_name(text: str) -> bool:
    """Return whether a text is the stored form of an op's name."""
    try:
        return normalize(text) == text
    except InvalidName:
        return False


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def split(op: str) -> tuple[str, str, str]:
    """Return namespace, name and overload of a stored name; `""` for a missing part and the default overload."""
    space, _, rest = op.rpartition("::")
    name, _, overload = rest.partition(".")
    return space, name, overload


def operator(op: str) -> str:
    """Return the line of Python that names the operator of a stored name."""
    space, name, overload = split(op)
    return f"torch.ops.{space}.{name}.{overload or 'default'}" if space else f"torch.ops.higher_order.{name}"


def namespace(op: str) -> str:
    """Return the namespace of a stored name; `""` for a higher-order operator."""
    return op.rpartition("::")[0]


def is_aten(op: str) -> bool:
    """Return whether a stored name is in torch's `aten` namespace."""
    return op.startswith("aten::")


def is_torchs(op: str) -> bool:
    """Return whether a stored name is in a namespace that torch itself defines."""
    return namespace(op) in TORCH_NAMESPACES


def check_label(text: object, what: str) -> str:
    """Return `text` if it can name a table, a tag or a recording.

    Args:
        text: the name.
        what: what it names, for the message.

    Raises:
        InvalidName: it is empty or too long, has characters that do not print, or begins or ends with a space; or no
            state spec could name it, because it has an `@` or a `:`, ends like the file of a program or with `~1`, or
            is `#5`.
    """
    if not isinstance(text, str):
        raise InvalidName(f"{what}: its name must be a str, not {type(text).__name__}")
    shown = _shortened(text)
    if not text or text != text.strip() or len(text) > MAX_LABEL:
        raise InvalidName(
            f"{shown!r}: {what} needs a name of 1 to {MAX_LABEL} characters without a space at either end"
        )
    if not text.isprintable():
        raise InvalidName(f"{shown!r}: the name of {what} must not have characters that do not print")
    if "@" in text or ":" in text:
        raise InvalidName(
            f"{shown!r}: the name of {what} must not have '@' or ':', which separate a table from a version"
        )
    if _EVENT.fullmatch(text):
        raise InvalidName(f"{shown!r}: the name of {what} must not be '#' and a number, which names an event")
    for ending in PROGRAM_FILES:
        if text.endswith(ending):
            raise InvalidName(f"{shown!r}: the name of {what} must not end with '{ending}', which names a file")
    if _EARLIER_RUN.search(text):
        raise InvalidName(f"{shown!r}: the name of {what} must not end with '~' and a number, which is an earlier run")
    return text
