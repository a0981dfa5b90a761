"""Advice: the line of Python that keeps an op in the graph, or decomposes it, or why neither can be had. Pure."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from decomp_ledger.analysis.explain import Explanation
from decomp_ledger.analysis.idle import idle_rule, mutates
from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Entry
from decomp_ledger.model.display import Row, displayed, guarded, row_of
from decomp_ledger.model.events import OVERRIDE, PRESERVE
from decomp_ledger.model.materialize import DEFAULT, choose
from decomp_ledger.model.rules import TableState

__all__ = ["Advice", "Why", "advise"]


@displayed
@attrs.frozen
class Advice:
    """How to get what an op should become.

    Attributes:
        line: the line of Python to write, where `table` is the table; "" if nothing is to be written.
        reason: why that line, or why none.
    """

    line: str
    reason: str

    def __str__(self) -> str:
        return f"{self.line}  # {self.reason}" if self.line else self.reason

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return attrs.asdict(self)


@displayed
@attrs.frozen
class Why:
    """Why a table decomposes or keeps an op, and what to write to get the other.

    Attributes:
        answer: the explanation.
        keep: how to keep the op in the graph.
        decompose: how to decompose it.
    """

    answer: Explanation
    keep: Advice
    decompose: Advice

    @guarded
    def __repr__(self) -> str:
        answer = f"{self.answer.op} in {self.answer.table}@{self.answer.version}: {self.answer.outcome}"
        return (
            f"<Why {answer}, because {self.answer.because}; to keep it: {self.keep}; to decompose it: {self.decompose}>"
        )

    def _row(self) -> Row:
        return {**row_of(self.answer), "keep": str(self.keep), "decompose": str(self.decompose)}

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data, without the events."""
        return {**self.answer.to_json(), "keep": self.keep.to_json(), "decompose": self.decompose.to_json()}


def advise(
    answer: Explanation, state: TableState, entry: Entry | None, is_functional: Callable[[str], bool], *, known: bool
) -> Why:
    """Add to an explanation what to write to keep the op, and what to write to decompose it.

    Args:
        answer: the explanation.
        state: the table's state.
        entry: the op's entry in the whole catalog; None if the op is not loaded.
        is_functional: tells whether torch has an op of a name that changes no argument.
        known: whether there is a catalog.
    """
    rule = state.rules.get(answer.op)
    loaded = entry is not None or not known  # without a catalog, both lines are worth trying
    default = entry is not None and entry.default
    choice = choose(None if rule is None else rule.action, state.base, loaded=loaded, default=default)
    by = next((f"the change at {event.call_site}" for event in answer.events[-1:] if event.call_site), "the change")
    has = choice != "absent"
    return Why(
        answer,
        _keep(answer.op, entry, is_functional, has=has, known=known),
        _decompose(_Given(answer.op, state, entry, by), is_functional, has=has, known=known),
    )


@attrs.frozen
class _Given:
    op: str
    state: TableState
    entry: Entry | None
    by: str  # what made the rule, for people


def _keep(op: str, entry: Entry | None, is_functional: Callable[[str], bool], *, has: bool, known: bool) -> Advice:
    if entry is None:
        return Advice(f"table.preserve({op!r})", _NOT_LOADED if known else _NO_CATALOG)
    idle = idle_rule(op, PRESERVE, entry, is_functional)
    if idle is not None:
        return Advice("", f"not possible, because {idle.because}; {idle.instead}")
    if not has:
        return Advice("", "nothing to write: the table does not have the op, so nothing decomposes it")
    return Advice(f"table.pop({op_names.operator(op)})", "without an entry, the op stays in the graph")


_NOT_LOADED = "the op is not loaded; the rule waits for its library"
_NO_CATALOG = "the table was never materialized, so it is unknown whether torch can do this"


def _decompose(given: _Given, is_functional: Callable[[str], bool], *, has: bool, known: bool) -> Advice:
    op, state, entry = given.op, given.state, given.entry
    if entry is None:
        return Advice(f"table[{op!r}] = your_function", _NOT_LOADED if known else _NO_CATALOG)
    idle = idle_rule(op, OVERRIDE, entry, is_functional)
    if idle is not None:
        what = "not possible, because" if mutates(entry) else "nothing to write:"
        return Advice("", f"{what} {idle.because}; {idle.instead}")
    if has:
        return Advice("", "nothing to write: the table has a decomposition of the op")
    without = choose(None, state.base, loaded=True, default=entry.default)
    if op in state.rules and without == DEFAULT:
        if state.from_dict:
            line = f"table[{op_names.operator(op)}] = torch.export.default_decompositions()[{op_names.operator(op)}]"
            return Advice(line, "the dict lacks torch's default")
        return Advice(f"table.reset({op!r})", f"or drop {given.by}; then torch's default decomposes the op")
    if entry.default:
        line = f"table[{op_names.operator(op)}] = torch.export.default_decompositions()[{op_names.operator(op)}]"
        return Advice(line, "torch's default table has it")
    if entry.origin == "registry":
        line = f"table.update(torch._decomp.get_decompositions([{op_names.operator(op)}]))"
        return Advice(line, "torch has it in its registry, and leaves it out of its default table")
    return Advice(f"table[{op_names.operator(op)}] = your_function", "torch's default table has nothing for the op")
