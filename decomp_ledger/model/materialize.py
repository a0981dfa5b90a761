"""Materialize: the one function that decides what a table has, and the snapshot that it returns. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import attrs

from decomp_ledger.model.arguments import checked
from decomp_ledger.model.catalog import Catalog, Entry, digest_of_entries
from decomp_ledger.model.display import Row, displayed
from decomp_ledger.model.events import OVERRIDE, PRESERVE
from decomp_ledger.model.rules import TORCH_ORIGINS, Decomposition, TableState

__all__ = ["ABSENT", "DEFAULT", "Snapshot", "choose", "materialize", "own_origin"]

ABSENT, DEFAULT = "absent", "default"


@displayed
@attrs.define(frozen=True, slots=False, repr=False)
class Snapshot:
    """The rules of a table applied to a catalog.

    Attributes:
        catalog: the catalog.
        ops: op name -> identity of its decomposition, for every op that the table has.
        preserved: ops that the base has and the table leaves out.
        overridden: ops that the table has because of a rule.
        pending: ops that have a rule and are not in the catalog.
        lost: ops overridden with one of torch's own decompositions, for which this torch has none. A live table
            refuses to materialize then.
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

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each op that the table has: the op, and the identity of its decomposition."""
        return [{"op": op, "decomposition": identity} for op, identity in self.ops.items()]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the build and `ops`."""
        return digest_of_entries({"build": dict(self.build), "ops": dict(self.ops)})


def choose(action: str | None, base: str, *, loaded: bool, default: bool) -> str:
    """Decide what a table has for one op. Live tables and `materialize` both call this.

    Args:
        action: the action of the op's rule, `preserve` or `override`; None without a rule.
        base: `torch` or `empty`.
        loaded: whether the op is loaded.
        default: whether torch's default table has the op.

    Returns:
        `absent`, `default` (torch's decomposition) or `override` (the decomposition of the rule).
    """
    if not loaded or action == PRESERVE:
        return ABSENT
    if action == OVERRIDE:
        return OVERRIDE
    return DEFAULT if default and base == "torch" else ABSENT


def own_origin(decomposition: Decomposition, entry: Entry, git: str | None) -> str | None:
    """Decide which of torch's own decompositions an op gets that is overridden with one of them.

    That is the recorded one if this torch has it, as the recorded build always does. If torch moved it, for example
    from C++ to Python, it is the one that torch has now. Live tables and `materialize` both call this.

    Args:
        decomposition: the recorded decomposition, of one of torch's own origins.
        entry: the op's entry in the catalog.
        git: the git version of the catalog's torch.

    Returns:
        An origin, or None if this torch has no decomposition of the op.
    """
    recorded = decomposition.origin
    kept = recorded in (entry.origin, *entry.others) or (git is not None and decomposition.build == git)
    return recorded if kept else entry.origin


@checked
def materialize(state: TableState, catalog: Catalog) -> Snapshot:
    """Apply the rules of a table to a catalog.

    Args:
        state: the table's state.
        catalog: the live catalog, a stored one, or that of another torch.
    """
    base = catalog.defaults if state.base == "torch" else {}
    ops = dict(base)
    overridden: list[str] = []
    lost: set[str] = set()
    for op, rule in state.rules.items():
        ops.pop(op, None)
        entry = catalog.ops.get(op)
        choice = choose(rule.action, state.base, loaded=entry is not None, default=entry is not None and entry.default)
        if choice != OVERRIDE or entry is None or rule.decomposition is None:
            continue
        identity = _identity_of_override(rule.decomposition, entry, catalog)
        if identity is None:
            lost.add(op)
        else:
            ops[op] = identity
            overridden.append(op)
    ruled = state.rules.keys()
    return Snapshot(
        catalog=catalog,
        ops=dict(sorted(ops.items())),
        preserved=tuple(sorted(op for op in ruled & base.keys() if op not in ops and op not in lost)),
        overridden=tuple(sorted(overridden)),
        pending=tuple(sorted(op for op in ruled if op not in catalog.ops)),
        lost=tuple(sorted(lost)),
    )


def _identity_of_override(decomposition: Decomposition, entry: Entry, catalog: Catalog) -> str | None:
    if decomposition.origin in TORCH_ORIGINS:
        return own_origin(decomposition, entry, catalog.build.get("git"))
    return f"override:{decomposition.identity()}"
