"""How to make again, with what a torch offers now, the table that an export was made with. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from decomp_ledger import names
from decomp_ledger.canonical import Json
from decomp_ledger.catalog import ABSENT, Catalog, choose
from decomp_ledger.drift import ENTERED, HELPERS, KINDS, MOVED, NEW, SOURCE, WRAPPERS, Change, Drift, Side, drift
from decomp_ledger.events import OVERRIDE, PRESERVE
from decomp_ledger.state import TORCH_ORIGINS, Intent, Reference, TableState

__all__ = ["NOT_COMPARED", "NOT_FOUND", "Difference", "Plan", "plan"]

# Kinds of difference, besides those of `drift`.
NOT_FOUND, NOT_COMPARED = "not_found", "not_compared"


@attrs.frozen
class Difference:
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
    differences: tuple[Difference, ...]


def plan(state: TableState, then: Catalog, now: Catalog) -> Plan:
    """Say how a table is made again.

    Args:
        state: what the table said.
        then: the catalog that it met.
        now: what is offered now. If it is of another build, both should have schemas and digests.
    """
    before = Side("then", state, then)
    same_build = then.build.get("git") == now.build.get("git")
    intents = dict(state.intents)
    found: list[Difference] = []
    for op, entry in now.ops.items():
        intent = intents.get(op)
        if op in before.snapshot.ops:
            old = then.ops[op]
            if intent is None and not entry.default and entry.origin == old.origin:
                # What torch no longer does by default it can still do.
                intents[op] = Intent(OVERRIDE, Reference(str(entry.origin), build=now.build.get("git")))
        elif (
            choose(None if intent is None else intent.action, state.base, loaded=True, default=entry.default) != ABSENT
        ):
            intents[op] = Intent(PRESERVE)
            # Within a build, torch's own ops are not new: a part of it was not imported yet.
            if op not in then.ops and not (same_build and names.is_torchs(op)):
                found.append(Difference(op, NEW, "was not loaded then, and is now; it is left out of the table"))
    again = attrs.evolve(state, intents=intents)
    compared = drift(before, Side("now", again, now))
    found += _of_drift(compared)
    found += _of_overrides(compared)
    return Plan(again, tuple(sorted(found, key=lambda each: (each.op, each.kind))))


def _of_drift(compared: Drift) -> Iterator[Difference]:
    for change in compared.changes:
        if change.in_table and change.kind not in (NEW, ENTERED):
            yield Difference(change.op, change.kind, _text(change))
    old, new = (side.catalog.build.get("torch", "?") for side in (compared.before, compared.after))
    if compared.kernels:
        yield Difference(
            "",
            NOT_COMPARED,
            f"{len(compared.kernels)} ops are decomposed by C++ kernels of torch {old}; whether those of torch {new} "
            "do the same cannot be told",
        )
    unknown = sorted({*compared.no_source, *compared.unclear})
    if unknown:
        some = ", ".join(unknown[:3]) + (" ..." if len(unknown) > 3 else "")
        yield Difference(
            "",
            NOT_COMPARED,
            f"the sources of {len(unknown)} decompositions cannot be compared between torch {old} and {new}: {some}",
        )


def _text(change: Change) -> str:
    if change.kind in (SOURCE, HELPERS, WRAPPERS):  # two digests tell people nothing
        return f"{KINDS[change.kind]} ({change.function})" if change.function else KINDS[change.kind]
    return f"{KINDS[change.kind]}: {change.before or 'nothing'} -> {change.after or 'nothing'}"


def _of_overrides(compared: Drift) -> Iterator[Difference]:
    """Give the overrides by torch's own functions, of which only a build is known, if this is another one."""
    build = compared.after.catalog.build
    if build.get("git") == compared.before.catalog.build.get("git"):
        return
    for op, intent in compared.before.state.intents.items():
        entry, reference = compared.after.catalog.ops.get(op), intent.reference
        if entry is None or reference is None:
            continue
        if reference.origin in TORCH_ORIGINS and reference.origin != entry.origin:
            yield Difference(op, MOVED, f"{KINDS[MOVED]}: {reference.origin} -> {entry.origin}")
        elif reference.origin not in TORCH_ORIGINS and reference.build is not None:
            text = f"is decomposed by {reference.label()} of another torch than {build.get('torch')}"
            yield Difference(op, NOT_COMPARED, text)
