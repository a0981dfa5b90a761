"""Reproduction: the rules that give an export's table again on the torch of today, and what still differs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from decomp_ledger.analysis.drift import (
    DRIFT_KINDS,
    ENTERED,
    HELPERS,
    MOVED,
    NEW,
    SOURCE,
    WRAPPERS,
    Drift,
    DriftChange,
    NamedState,
    drift,
    same_build,
)
from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import OVERRIDE, PRESERVE
from decomp_ledger.model.materialize import ABSENT, choose
from decomp_ledger.model.rules import TORCH_ORIGINS, Decomposition, Rule, TableState

__all__ = ["NOT_COMPARED", "NOT_FOUND", "TableDifference", "Plan", "plan"]

# Kinds of difference in addition to those of drift.
NOT_FOUND, NOT_COMPARED = "not_found", "not_compared"


@displayed
@attrs.frozen
class TableDifference:
    """One difference between a recorded table and its reproduction.

    Attributes:
        op: the op; "" for a difference that concerns many ops.
        kind: one of `DRIFT_KINDS`, `not_found` (its decomposition does not exist here) or `not_compared`.
        text: the difference, for people.
    """

    op: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.op}: {self.text}" if self.op else self.text

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {"op": self.op, "kind": self.kind, "text": self.text}


@attrs.frozen
class Plan:
    """How to reproduce a table.

    Attributes:
        state: the rules that give the recorded table, or the nearest one.
        differences: what still differs, by op.
    """

    state: TableState
    differences: tuple[TableDifference, ...]


def plan(state: TableState, then: Catalog, now: Catalog) -> Plan:
    """Return the rules that reproduce a table on another catalog.

    Args:
        state: the recorded rules.
        then: the catalog to which they were applied.
        now: the catalog of today. If it has another build, both catalogs need schemas and digests.
    """
    before = NamedState("then", state, then)
    same_build = then.build.get("git") == now.build.get("git")
    rules = dict(state.rules)
    found: list[TableDifference] = []
    for op, entry in now.ops.items():
        rule = rules.get(op)
        if op in before.snapshot.ops:
            old = then.ops[op]
            if rule is None and not entry.default and entry.origin == old.origin:
                # Torch still has a decomposition that left its default table.
                rules[op] = Rule(OVERRIDE, Decomposition(str(entry.origin), build=now.build.get("git")))
        elif choose(None if rule is None else rule.action, state.base, loaded=True, default=entry.default) != ABSENT:
            rules[op] = Rule(PRESERVE)
            # Within one build torch's own ops are not new: the part of torch that registers them was not imported.
            if op not in then.ops and not (same_build and op_names.is_torchs(op)):
                found.append(
                    TableDifference(
                        op, NEW, "was not loaded then and is loaded now; the reproduced table leaves it out"
                    )
                )
    again = attrs.evolve(state, rules=rules)
    compared = drift(before, NamedState("now", again, now))
    found += _drift_differences(compared)
    found += _override_differences(compared)
    return Plan(again, tuple(sorted(found, key=lambda each: (each.op, each.kind))))


def _drift_differences(compared: Drift) -> Iterator[TableDifference]:
    for change in compared.changes:
        if change.in_table and change.kind not in (NEW, ENTERED):
            yield TableDifference(change.op, change.kind, _text(change))
    old, new = (state.catalog.build.get("torch", "?") for state in (compared.before, compared.after))
    # Within one build, what a catalog does not tell of a library's decomposition is taken to be the same.
    is_same = same_build(compared.before, compared.after)
    if compared.kernels and not is_same:
        yield TableDifference(
            "",
            NOT_COMPARED,
            f"C++ kernels of torch {old} decompose {_count(len(compared.kernels), 'op')}, and a catalog does not have "
            f"their code, so it is unknown whether torch {new} does the same",
        )
    unknown = sorted({*(() if is_same else compared.no_source), *compared.unclear})
    if unknown:
        some = ", ".join(unknown[:3]) + (" ..." if len(unknown) > 3 else "")
        yield TableDifference(
            "",
            NOT_COMPARED,
            f"the sources of {_count(len(unknown), 'decomposition')} could not be compared between torch {old} and "
            f"{new}: {some}",
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _text(change: DriftChange) -> str:
    if change.kind in (SOURCE, HELPERS, WRAPPERS):  # digests mean nothing to people
        return f"{DRIFT_KINDS[change.kind]} ({change.function})" if change.function else DRIFT_KINDS[change.kind]
    return f"{DRIFT_KINDS[change.kind]}: {change.before or 'nothing'} -> {change.after or 'nothing'}"


def _override_differences(compared: Drift) -> Iterator[TableDifference]:
    """Yield the differences of overrides with torch's own decompositions, which are recorded by build."""
    build = compared.after.catalog.build
    if build.get("git") == compared.before.catalog.build.get("git"):
        return
    for op, rule in compared.before.state.rules.items():
        entry, decomposition = compared.after.catalog.ops.get(op), rule.decomposition
        if entry is None or decomposition is None:
            continue
        if decomposition.origin in TORCH_ORIGINS and decomposition.origin != entry.origin:
            yield TableDifference(op, MOVED, f"{DRIFT_KINDS[MOVED]}: {decomposition.origin} -> {entry.origin}")
