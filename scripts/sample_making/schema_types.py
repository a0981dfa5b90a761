"""Tell whether the values of a sample call have the types that a schema gives. Needs no torch.

Torch itself takes False for an int, and 1 for a dtype. A sample with these shows what no program calls.
"""

import re
from typing import Any

from decomp_ledger.model.samples import SampleCall, TensorSample, TorchConstant
from decomp_ledger.model.schemas import schema_arguments

_TYPES: dict[str, tuple[type, ...]] = {
    **{"Tensor": (TensorSample,), "int": (int,), "SymInt": (int,), "float": (int, float), "bool": (bool,)},
    **{"Scalar": (bool, int, float, complex), "str": (str,), "Device": (str,), "Dimname": (str,)},
    **dict.fromkeys(("ScalarType", "Layout", "MemoryFormat"), (TorchConstant,)),
}
# What a schema tells of aliases: the `(a!)` of `Tensor(a!)[]`.
_ALIASES = re.compile(r"\([^)]*\)")
# A list, with its usual length. A single value may stand for a list with such a length.
_LIST = re.compile(r"(.*)\[(\d*)\]")


def misfits(call: SampleCall, schema: str) -> list[str]:
    """Return what of a call the schema does not take, as text such as `dim=False is not int[1]?`."""
    texts = list(filter(None, schema_arguments(schema)))
    positional = texts[: texts.index("*")] if "*" in texts else texts
    kinds = dict(_name_and_kind(text) for text in texts if text != "*")
    given = [*zip(kinds, call.args, strict=False), *call.kwargs.items()]
    found = [f"{name} is not an argument" for name in call.kwargs if name not in kinds]
    if len(call.args) > len(positional):
        found.append(f"{len(call.args)} positional arguments are more than {len(positional)}")
    return found + [
        f"{name}={value} is not {kinds[name]}" for name, value in given if name in kinds and not _is(value, kinds[name])
    ]


def _name_and_kind(text: str) -> tuple[str, str]:
    kind, _, name = text.partition("=")[0].rpartition(" ")
    return name, _ALIASES.sub("", kind)


def _is(value: Any, kind: str) -> bool:
    if kind.endswith("?"):
        return value is None or _is(value, kind[:-1])
    if found := _LIST.fullmatch(kind):
        item, length = found.groups()
        return all(_is(each, item) for each in value) if isinstance(value, tuple) else bool(length) and _is(value, item)
    # Of a kind that no sample can have, such as an object of TorchScript, nothing is known.
    return type(value) in _TYPES.get(kind, (type(value),))
