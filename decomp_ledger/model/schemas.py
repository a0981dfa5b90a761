"""The text of an op's schema: `aten::f(Tensor x, int[2] y=[1, 2]) -> Tensor`. Pure."""

from __future__ import annotations

import re

__all__ = ["schema_arguments"]

# A comma between two arguments, not one inside `int[2]` or `(a, b)`.
_BETWEEN_ARGUMENTS = re.compile(r", (?![^\[(]*[\])])")


def schema_arguments(schema: str) -> list[str]:
    """Return the texts of a schema's arguments; `*` stands before those that only have a name."""
    return _BETWEEN_ARGUMENTS.split(schema.partition("(")[2].rpartition(") ->")[0])
