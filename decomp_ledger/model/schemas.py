"""The text of an op's schema: `aten::f(Tensor x, int[2] y=[1, 2]) -> Tensor`. Pure."""

from __future__ import annotations

import re

__all__ = ["schema_arguments"]

_MARK = re.compile(r", |[\[(]|[\])]")


def schema_arguments(schema: str) -> list[str]:
    """Return the texts of a schema's arguments; `*` stands before those that only have a name."""
    text = schema.partition("(")[2].rpartition(") ->")[0]
    found, start, depth = [], 0, 0
    for mark in _MARK.finditer(text):
        if mark[0] != ", ":
            depth += 1 if mark[0] in "[(" else -1
        elif depth == 0:  # not one inside `int[2] x=[1, 2]`
            found.append(text[start : mark.start()])
            start = mark.end()
    return [*found, text[start:]]
