"""An opset: the ops that a backend takes, as data with its source. Pure."""

from __future__ import annotations

import attrs

from decomp_ledger.errors import InvalidName, UnusableValue
from decomp_ledger.model import op_names
from decomp_ledger.model.json_values import as_object, as_string, as_strings

__all__ = ["FORM", "Opset", "opset_from_json"]

FORM = '{"format": 1, "source": "my backend 1.2", "date": "2026-01-31", "ops": ["aten::add.Tensor", "aten::mm"]}'


@attrs.frozen
class Opset:
    """The ops that a lowered program may have.

    Attributes:
        name: `core-aten`, or the file.
        source: where the list comes from.
        date: the day on which it was made, `2026-01-31`; "" if that is not known.
        ops: the names of the ops.
    """

    name: str
    source: str
    date: str
    ops: frozenset[str]


def opset_from_json(name: str, value: object) -> Opset:
    """Check and read an opset of any origin.

    Raises:
        UnusableValue: it has another form.
        InvalidName: a text names no op.
    """
    try:
        fields = as_object(value)
        if unknown := sorted(fields.keys() - {"format", "source", "date", "ops"}):
            raise UnusableValue(f"the field {unknown[0]!r:.40} is unknown")
        if fields.get("format") != 1 or isinstance(fields["format"], bool):
            raise UnusableValue(f"its format is {fields.get('format')!r:.40}, not 1")
        ops = frozenset(map(op_names.normalize, as_strings(fields.get("ops"))))
        return Opset(name, as_string(fields.get("source", "")), as_string(fields.get("date", "")), ops)
    except InvalidName as error:
        raise InvalidName(f"{name}: {error}") from None
    except UnusableValue as error:
        raise UnusableValue(f"{name}: not an opset: {error}; write it like {FORM}") from None
