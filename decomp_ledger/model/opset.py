"""An opset: the ops that a backend takes, as data with its source. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from decomp_ledger.errors import InvalidName, UnusableValue
from decomp_ledger.model import op_names
from decomp_ledger.model.display import displayed
from decomp_ledger.model.json_values import as_object, as_string, as_strings

__all__ = ["CORE_ATEN", "FORM", "Opset", "opset_from_json"]

CORE_ATEN = "core-aten"
FORM = '{"format": 1, "source": "my backend 1.2", "date": "2026-01-31", "ops": ["aten::add.Tensor", "aten::mm"]}'


@displayed
@attrs.frozen(repr=False)
class Opset:
    """The ops that a lowered program may have.

    Attributes:
        name: `core-aten`, or the file.
        source: where the list comes from.
        date: the day on which it was made, `2026-01-31`; "" if that is not known.
        ops: the names of the ops.
        namespaces: those that the list is about; an op of another one is not judged. None if it is about all.
    """

    name: str
    source: str
    date: str
    ops: frozenset[str]
    namespaces: frozenset[str] | None = None

    def judges(self, op: str) -> bool:
        """Return whether the list is about an op; a higher-order operator has the namespace ""."""
        return self.namespaces is None or op_names.namespace(op) in self.namespaces

    def outside(self, ops: Iterable[str]) -> tuple[str, ...]:
        """Return those of some ops that the backend does not take, by name."""
        return tuple(sorted(op for op in ops if op not in self.ops and self.judges(op)))


def opset_from_json(name: str, value: object) -> Opset:
    """Check and read an opset of any origin.

    Raises:
        UnusableValue: it has another form.
        InvalidName: a text names no op.
    """
    try:
        fields = as_object(value)
        if unknown := sorted(fields.keys() - {"format", "source", "date", "ops", "namespaces"}):
            raise UnusableValue(f"the field {unknown[0]!r:.40} is unknown")
        if fields.get("format") != 1 or isinstance(fields["format"], bool):
            raise UnusableValue(f"its format is {fields.get('format')!r:.40}, not 1")
        ops = frozenset(map(op_names.normalize, as_strings(fields.get("ops"))))
        namespaces = None if "namespaces" not in fields else frozenset(as_strings(fields["namespaces"]))
        return Opset(name, as_string(fields.get("source", "")), as_string(fields.get("date", "")), ops, namespaces)
    except InvalidName as error:
        raise InvalidName(f"{name}: {error}") from None
    except UnusableValue as error:
        raise UnusableValue(f"{name}: not an opset: {error}; write it like {FORM}") from None
