"""Idle rules: the rules of a table that cannot act in an export, each with the reason and what to do. Pure."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from decomp_ledger.analysis.outcome import EARLY, is_early
from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.display import displayed
from decomp_ledger.model.rules import TableState

__all__ = ["IdleRule", "functional_name", "idle_rule", "idle_rules"]

_COMPOSITE = ("cia", "py_cia")


@displayed
@attrs.frozen(repr=False)
class IdleRule:
    """A rule that cannot act.

    Attributes:
        op: the op.
        action: `preserve` or `override`.
        because: why the rule cannot act.
        instead: what to do.
        nested: whether it acts all the same where another decomposition calls the op.
    """

    op: str
    action: str
    because: str
    instead: str
    nested: bool = False

    def __str__(self) -> str:
        where = " where a program calls the op" if self.nested else ""
        return f"{self.op}: '{self.action}' has no effect{where}, because {self.because}; {self.instead}"

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return attrs.asdict(self)


def idle_rules(state: TableState, catalog: Catalog) -> tuple[IdleRule, ...]:
    """Return the rules of a table that cannot act in one torch, by op; none of a dict, which has no rules.

    Args:
        state: the table's state.
        catalog: the whole catalog of that torch, with schemas.
    """
    if state.from_dict:
        return ()

    def is_functional(name: str) -> bool:
        return name in catalog.ops and not mutates(catalog.ops[name])

    found = (idle_rule(op, rule.action, catalog.ops.get(op), is_functional) for op, rule in sorted(state.rules.items()))
    return tuple(each for each in found if each is not None)


def idle_rule(op: str, action: str, entry: Entry | None, is_functional: Callable[[str], bool]) -> IdleRule | None:
    """Return why a rule for an op cannot act, or None if it can.

    Args:
        op: the op's name.
        action: `preserve` or `override`.
        entry: the op's entry in the catalog, with its schema; None if the op is not loaded.
        is_functional: tells whether torch has an op of a name that changes no argument.
    """
    if entry is None:
        return IdleRule(op, action, "no library that is loaded has the op", "load its library, or correct the name")
    if mutates(entry):
        functional = functional_name(op, is_functional)
        instead = "its functional form" if functional is None else functional
        because = "the op changes its argument, so torch.export replaces it by its functional form"
        return IdleRule(op, action, because, f"{action} {instead} instead")
    if entry.unpreservable and any(origin in _COMPOSITE for origin in (entry.origin, *entry.others)):
        because = f"torch decomposes the op before it asks the table ({entry.unpreservable})"
        instead = f"{action} the ops that it becomes, which are in the graph"
        return IdleRule(op, action, because, instead)
    if is_early(op, entry):
        because = f"{EARLY} runs before torch looks into the table"
        return IdleRule(op, action, because, f"{action} the ops that it becomes, which are in the graph", nested=True)
    return None


def mutates(entry: Entry) -> bool:
    """Tell whether an op changes one of its arguments; its entry must have the schema."""
    return "!" in entry.schema.partition("->")[0]


def functional_name(op: str, is_functional: Callable[[str], bool]) -> str | None:
    """Return the op that takes the place of one that changes its argument: `aten::silu` for `aten::silu_`.

    Args:
        op: the name of the op that changes its argument.
        is_functional: tells whether torch has an op of a name that changes no argument.
    """
    space, name, overload = op_names.split(op)
    plain = name.removesuffix("_")
    # `add.out` is `add.Tensor`, and `sum.IntList_out` is `sum.dim_IntList`: only equal overloads are certain.
    bare = overload.removesuffix("out").removesuffix("_") if overload.endswith("out") else overload
    for candidate in (f"{space}::{plain}" + (f".{bare}" if bare else ""), f"{space}::{plain}"):
        if candidate != op and is_functional(candidate):
            return candidate
    return None
