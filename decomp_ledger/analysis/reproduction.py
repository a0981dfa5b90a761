"""How to make again, with what a torch offers now, the table that an export was made with. Pure."""

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
)
from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.events import OVERRIDE, PRESERVE
from decomp_ledger.model.materialize import ABSENT, choose
from decomp_ledger.model.rules import TORCH_ORIGINS, Decomposition, Rule, TableState

__all__ = ["NOT_COMPARED", "NOT_FOUND", "TableDifference", "Plan", "plan"]

# Kinds of difference, besides those of `drift`.
NOT_FOUND, NOT_COMPARED = "not_found", "not_compared"


@attrs.frozen
class TableDifference:
    """One way in which a table that is made again is not the one it was.

    Attributes:
        op: the op, or "" for what concerns many.
        kind: one of drift's kinds, `not_found` (its decomposition cannot be had) or `not_compared`.
        text: what differs, for people.
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
    """What makes a table again.

    Attributes:
        state: what to say of each op, so that the table is the one it was, or the nearest to it.
        differences: what differs all the same, by op.
    """

    state: TableState
    differences: tuple[TableDifference, ...]


def plan(state: TableState, then: Catalog, now: Catalog) -> Plan:
    """Say how a table is made again.

    Args:
        state: what the table said.
        then: the catalog that it met.
        now: what is offered now. If it is of another build, both should have schemas and digests.
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
                # What torch no longer does by default it can still do.
                rules[op] = Rule(OVERRIDE, Decomposition(str(entry.origin), build=now.build.get("git")))
        elif choose(None if rule is None else rule.action, state.base, loaded=True, default=entry.default) != ABSENT:
            rules[op] = Rule(PRESERVE)
            # Within a build, torch's own ops are not new: a part of it was not imported yet.
            if op not in then.ops and not (same_build and op_names.is_torchs(op)):
                found.append(TableDifference(op, NEW, "was not loaded then, and is now; it is left out of the table"))
    again = attrs.evolve(state, rules=rules)
    compared = drift(before, NamedState("now", again, now))
    found += _of_drift(compared)
    found += _of_overrides(compared)
    return Plan(again, tuple(sorted(found, key=lambda each: (each.op, each.kind))))


def _of_drift(compared: Drift) -> Iterator[TableDifference]:
    for change in compared.changes:
        if change.in_table and change.kind not in (NEW, ENTERED):
            yield TableDifference(change.op, change.kind, _text(change))
    old, new = (side.catalog.build.get("torch", "?") for side in (compared.before, compared.after))
    if compared.kernels:
        yield TableDifference(
            "",
            NOT_COMPARED,
            f"{len(compared.kernels)} ops are decomposed by C++ kernels of torch {old}; whether those of torch {new} "
            "do the same cannot be told",
        )
    unknown = sorted({*compared.no_source, *compared.unclear})
    if unknown:
        some = ", ".join(unknown[:3]) + (" ..." if len(unknown) > 3 else "")
        yield TableDifference(
            "",
            NOT_COMPARED,
            f"the sources of {len(unknown)} decompositions cannot be compared between torch {old} and {new}: {some}",
        )


def _text(change: DriftChange) -> str:
    if change.kind in (SOURCE, HELPERS, WRAPPERS):  # two digests tell people nothing
        return f"{DRIFT_KINDS[change.kind]} ({change.function})" if change.function else DRIFT_KINDS[change.kind]
    return f"{DRIFT_KINDS[change.kind]}: {change.before or 'nothing'} -> {change.after or 'nothing'}"


def _of_overrides(compared: Drift) -> Iterator[TableDifference]:
    """Give the overrides by torch's own functions, of which only a build is known, if this is another one."""
    build = compared.after.catalog.build
    if build.get("git") == compared.before.catalog.build.get("git"):
        return
    for op, rule in compared.before.state.rules.items():
        entry, decomposition = compared.after.catalog.ops.get(op), rule.decomposition
        if entry is None or decomposition is None:
            continue
        if decomposition.origin in TORCH_ORIGINS and decomposition.origin != entry.origin:
            yield TableDifference(op, MOVED, f"{DRIFT_KINDS[MOVED]}: {decomposition.origin} -> {entry.origin}")
        elif decomposition.origin not in TORCH_ORIGINS and decomposition.build is not None:
            text = f"is decomposed by {decomposition.label()} of another torch than {build.get('torch')}"
            yield TableDifference(op, NOT_COMPARED, text)
