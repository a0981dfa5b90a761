"""Export diff: what differs between the programs of two exports, apart from their tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from decomp_ledger.analysis.outcome import NOT_IN_PROGRAM, Outcome
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import Exported

__all__ = ["ExportDiff", "export_diff"]


@displayed
@attrs.frozen
class ExportDiff:
    """The differences between two exports, apart from their tables. It is true if anything differs.

    Attributes:
        same_program: whether both exported the same program; None if unknown.
        failed: whether the first export failed, and whether the second did. Without two results, no op is compared.
        after: op -> its number of nodes in each result, for ops where the numbers differ.
        fired: op -> how often its decomposition fired in each export, for ops where the numbers differ.
        outcomes: op -> what happened to it in each export, for ops to which different things happened.
        same_graph: whether both results are the same graph; None if unknown.
    """

    same_program: bool | None
    failed: tuple[bool, bool]
    after: Mapping[str, tuple[int, int]]
    fired: Mapping[str, tuple[int, int]]
    outcomes: Mapping[str, tuple[str, str]]
    same_graph: bool | None

    def __bool__(self) -> bool:
        differs = (
            bool(self.after or self.fired or self.outcomes) or self.same_program is False or self.same_graph is False
        )
        return differs or self.failed[0] != self.failed[1]

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "same_program": self.same_program,
            "failed": list(self.failed),
            "same_graph": self.same_graph,
            "after": {op: list(counts) for op, counts in self.after.items()},
            "fired": {op: list(counts) for op, counts in self.fired.items()},
            "outcomes": {op: list(words) for op, words in self.outcomes.items()},
        }


def export_diff(
    before: Exported, after: Exported, outcomes: tuple[Mapping[str, Outcome], Mapping[str, Outcome]] = ({}, {})
) -> ExportDiff:
    """Compare what two exports recorded of their programs.

    Args:
        before: the first export.
        after: the second export.
        outcomes: for each of them, what happened to each of its ops.
    """
    failed = before.error is not None, after.error is not None
    one, other = ({op: outcome.word for op, outcome in each.items()} for each in outcomes)
    return ExportDiff(
        same_program=_same(before.before, after.before),
        failed=failed,
        after={} if any(failed) else _different_counts(before.ops_after, after.ops_after),
        fired={} if any(failed) else _different_counts(before.fired, after.fired),
        outcomes={} if any(failed) else _different(one, other),
        same_graph=_same(before.after, after.after),
    )


def _same(one: str | None, other: str | None) -> bool | None:
    return None if one is None or other is None else one == other


def _different(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    words = {op: (one.get(op, NOT_IN_PROGRAM), other.get(op, NOT_IN_PROGRAM)) for op in sorted(one.keys() | other)}
    return {op: pair for op, pair in words.items() if pair[0] != pair[1]}


def _different_counts(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    counts = {op: (one.get(op, 0), other.get(op, 0)) for op in sorted(one.keys() | other.keys())}
    return {op: pair for op, pair in counts.items() if pair[0] != pair[1]}
