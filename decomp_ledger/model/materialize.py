"""`materialize`, the one place that decides what is in a table, and the snapshot that it returns. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import attrs

from decomp_ledger.model.catalog import Catalog, Entry, digest_of_entries
from decomp_ledger.model.events import OVERRIDE, PRESERVE
from decomp_ledger.model.rules import TORCH_ORIGINS, Decomposition, TableState

__all__ = ["ABSENT", "DEFAULT", "Snapshot", "choose", "materialize", "own_origin"]

ABSENT, DEFAULT = "absent", "default"


@attrs.define(frozen=True, slots=False)
class Snapshot:
    """A table as it was, or would be, in a torch.

    Attributes:
        catalog: what the dispatcher has.
        ops: op name -> identity of its decomposition.
        preserved: ops that its base has and the table leaves out.
        overridden: ops with a decomposition that the table gives.
        pending: ops the table speaks of and the catalog does not have.
        lost: ops to be decomposed with torch's own, of which this torch has none: it refuses to make the table.
    """

    catalog: Catalog = attrs.field(repr=False, eq=lambda catalog: dict(catalog.build))
    ops: Mapping[str, str] = attrs.field(repr=lambda ops: f"<{len(ops)} ops>")
    preserved: tuple[str, ...]
    overridden: tuple[str, ...]
    pending: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def build(self) -> Mapping[str, str]:
        """The catalog's build."""
        return self.catalog.build

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the build and `ops`; made when it is asked for, as it takes longer than all the rest."""
        return digest_of_entries({"build": dict(self.build), "ops": dict(self.ops)})


def choose(action: str | None, base: str, *, loaded: bool, default: bool) -> str:
    """Decide what a table has for one op. Live tables and replays both ask here, and nowhere else.

    Args:
        action: the last thing said of the op: `preserve`, `override`, or None.
        base: `torch` or `empty`.
        loaded: whether the dispatcher has the op.
        default: whether torch's default table has it.

    Returns:
        `absent`, `default` (torch's decomposition) or `override` (the table's).
    """
    if not loaded or action == PRESERVE:
        return ABSENT
    if action == OVERRIDE:
        return OVERRIDE
    return DEFAULT if default and base == "torch" else ABSENT


def own_origin(decomposition: Decomposition, entry: Entry, git: str | None) -> str | None:
    """Decide which of torch's own decompositions an op has that is overridden with one of them.

    The one that was recorded, wherever torch has it: the build in which it was recorded does. A torch that has moved
    it, from C++ to Python say, gives the one it has now; live tables and replays both ask here.

    Args:
        decomposition: what is recorded, of an origin of torch's own.
        entry: what the dispatcher offers for the op.
        git: the git version of its torch.

    Returns:
        An origin, or None if this torch has no decomposition of that op.
    """
    recorded = decomposition.origin
    kept = recorded in (entry.origin, *entry.others) or (git is not None and decomposition.build == git)
    return recorded if kept else entry.origin


def materialize(state: TableState, catalog: Catalog) -> Snapshot:
    """Replay a table's state against what a dispatcher offers.

    Args:
        state: what the table says.
        catalog: what the dispatcher has: the live one, one that was met earlier, or another torch's.
    """
    base = catalog.defaults if state.base == "torch" else {}
    ops = dict(base)
    said = state.rules.keys()
    overridden: list[str] = []
    lost: set[str] = set()
    for op, rule in state.rules.items():
        entry = catalog.ops.get(op)
        choice = choose(rule.action, state.base, loaded=entry is not None, default=entry is not None and entry.default)
        if choice == OVERRIDE:
            assert entry is not None and rule.decomposition is not None  # an override of a loaded op
            ref = rule.decomposition
            own = own_origin(ref, entry, catalog.build.get("git")) if ref.origin in TORCH_ORIGINS else None
            if own is None and ref.origin in TORCH_ORIGINS:
                ops.pop(op, None)
                lost.add(op)
            else:
                ops[op] = own or f"override:{ref.identity()}"
                overridden.append(op)
        else:
            ops.pop(op, None)
    return Snapshot(
        catalog=catalog,
        ops=dict(sorted(ops.items())),  # nearly sorted already, as the defaults are
        preserved=tuple(sorted(op for op in said & base.keys() if op not in ops and op not in lost)),
        overridden=tuple(sorted(overridden)),
        pending=tuple(sorted(op for op in said if op not in catalog.ops)),
        lost=tuple(sorted(lost)),
    )
