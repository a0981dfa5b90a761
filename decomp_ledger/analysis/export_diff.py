"""The difference between the results of two exports. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import Exported

__all__ = ["ExportDiff", "export_diff"]


@attrs.frozen
class ExportDiff:
    """The difference between two exports, apart from their tables. True if anything differs.

    Attributes:
        same_program: whether both lowered one program; None if a digest is missing.
        after: op -> its number of nodes in the first result and in the second, where they differ.
        fired: op -> how often its decomposition fired, likewise.
        same_graph: whether both gave one graph; None if a digest is missing.
    """

    same_program: bool | None
    after: dict[str, tuple[int, int]]
    fired: dict[str, tuple[int, int]]
    same_graph: bool | None

    def __bool__(self) -> bool:
        return bool(self.after or self.fired) or self.same_program is False or self.same_graph is False

    def to_json(self) -> dict[str, Json]:
        """Return the difference as plain data."""
        return {
            "same_program": self.same_program,
            "same_graph": self.same_graph,
            "after": {op: list(counts) for op, counts in self.after.items()},
            "fired": {op: list(counts) for op, counts in self.fired.items()},
        }


def export_diff(before: Exported, after: Exported) -> ExportDiff:
    """Compare the results of two exports."""
    return ExportDiff(
        _same(before.before, after.before),
        _differing(before.ops_after, after.ops_after),
        _differing(before.fired, after.fired),
        _same(before.after, after.after),
    )


def _same(one: str | None, other: str | None) -> bool | None:
    return None if one is None or other is None else one == other


def _differing(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    counts = {op: (one.get(op, 0), other.get(op, 0)) for op in sorted(one.keys() | other.keys())}
    return {op: pair for op, pair in counts.items() if pair[0] != pair[1]}
