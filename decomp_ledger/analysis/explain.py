"""Why an op is, or is not, decomposed by a table. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import attrs

from decomp_ledger.analysis.drift import FUNCTIONALIZED, fate
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import OVERRIDE, PRESERVE, Event, Exported
from decomp_ledger.model.materialize import ABSENT, DEFAULT, choose
from decomp_ledger.model.rules import Rule, TableState

__all__ = ["Explanation", "explain", "explain_export"]

_ORIGINS = {
    "cia": "its C++ CompositeImplicitAutograd kernel",
    "py_cia": "its Python CompositeImplicitAutograd kernel",
    "registry": "a Python function in torch's registry",
}


@attrs.frozen
class Explanation:
    """An answer to "why is this op (not) decomposed here?".

    Attributes:
        op: the op.
        table: the table.
        version: the version asked about.
        outcome: `kept`, `decomposed`, or `pending` (not loaded: nothing can happen to it); in an export also `never
            there`, or `gone` (it was in the program, and neither was it decomposed nor is it in what came out).
        because: why, in one sentence.
        default: what torch's default table has for it, and where that comes from.
        preservable: whether torch can keep it in a graph, and if not, why.
        torch: the torch that it is judged by, or None: then nothing is known of torch's side.
        met: the event by which that torch is known: `edge@3 (#7)`, this table's if it met one.
        loaded: whether it was loaded there; None if that is not known.
        events: those that touched it, oldest first.
        counts: in an export, how often it was in the program `before`, is in it `after`, and how often its
            decomposition `fired`.
    """

    op: str
    table: str
    version: int
    outcome: str
    because: str
    default: str
    preservable: str
    torch: str | None
    met: str | None
    loaded: bool | None
    events: tuple[Event, ...]
    counts: Mapping[str, int] | None = None

    def to_json(self) -> dict[str, Json]:
        """Return all but the events as plain data."""
        return {key: value for key, value in attrs.asdict(self, recurse=False).items() if key != "events"}


def explain(
    op: str, state: TableState, met: Event | None, catalog: Catalog | None, history: Sequence[Event]
) -> Explanation:
    """Answer from what the ledger holds.

    Args:
        op: the op's name.
        state: the table's state.
        met: the `materialized` event by which a torch is known, or None.
        catalog: the catalog that it names, or None.
        history: the events that touched the op up to that state, oldest first.
    """
    entry = None if catalog is None else catalog.ops.get(op)
    rule = state.rules.get(op)
    said = f" by event #{history[-1].seq}" if history else ""
    if catalog is None:
        outcome, because = _without_torch(state, rule, said)
    elif entry is None:
        kept = "" if rule is None else f"; the table's '{rule.action}', said{said}, waits for it"
        near = "" if rule is not None or history else _near(op, catalog)
        outcome, because = "pending", f"it was not loaded in the torch that is known{kept}{near}"
    else:
        outcome, because = _with_torch(state, rule, entry, said)
    return Explanation(
        op,
        state.table,
        state.version,
        outcome,
        because,
        "unknown: the table has met no torch" if catalog is None else _default(entry),
        "unknown" if entry is None else f"no: {entry.unpreservable}" if entry.unpreservable else "yes",
        None if catalog is None else catalog.build.get("torch", "?"),
        None if met is None else f"{met.table}@{met.version} (#{met.seq})",
        None if catalog is None else entry is not None,
        tuple(history),
    )


def explain_export(
    op: str, state: TableState, export: Event, body: Exported, catalog: Catalog, history: Sequence[Event]
) -> Explanation:
    """Answer of one export, by what happened in it.

    Args:
        op: the op's name.
        state: the state of the table that was used.
        export: the `exported` event.
        body: what came of it.
        catalog: the catalog that it met, with schemas.
        history: the events that touched the op up to that state, oldest first.
    """
    answer = explain(op, state, export, catalog, history)
    counts = {
        "before": body.ops_before.get(op, 0),
        "after": body.ops_after.get(op, 0),
        "fired": body.fired.get(op, 0),
    }
    entry = catalog.ops.get(op)
    mutates = entry is not None and fate(entry, in_table=False) == FUNCTIONALIZED
    outcome, because = _in_export(answer, body, mutates=mutates, **counts)
    return attrs.evolve(answer, outcome=outcome, because=because, counts=counts)


def _in_export(
    answer: Explanation, body: Exported, *, mutates: bool, before: int, after: int, fired: int
) -> tuple[str, str]:
    if fired:
        nested = "" if before else ", within the decompositions of other ops"
        left = f"; {after} of it are in what came out all the same" if after else ""
        return "decomposed", f"{answer.because}; that fired {_times(fired)}{nested}{left}"
    if body.error is not None and before:
        return answer.outcome, f"{answer.because}; the export failed before anything came out"
    if after:
        if answer.op in body.stale:
            return "kept", (
                "its table was torch's own, and had been read before the op was loaded: torch then keeps it for ever "
                "(or it was removed before that read, which such a table forgets)"
            )
        if answer.outcome == "kept":
            return "kept", answer.because
        return "kept", f"it was not traced as one to decompose, although {answer.because}"
    if not before:
        said = f"; had it been: {answer.outcome}, since {answer.because}"
        return "never there", f"it was never in this program, nor in what came of it{said}"
    if answer.outcome == "decomposed":
        return "decomposed", answer.because
    if mutates:
        return "gone", "it changes its argument: torch put its functional form in its place"
    return "gone", "none decomposed it, and it is not in what came out: nothing used it, or torch wrote it otherwise"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _near(op: str, catalog: Catalog) -> str:
    """Return a hint for a name that nothing has: a typo, or a bare word that was meant for an op of aten."""
    close = [f"aten::{op}"] if f"aten::{op}" in catalog.ops else difflib.get_close_matches(op, catalog.ops, 3, 0.8)
    return f"; did you mean {', '.join(close)}?" if close else ""


def _without_torch(state: TableState, rule: Rule | None, said: str) -> tuple[str, str]:
    if rule is None:
        if state.base == "empty":
            return "kept", "the table's base is empty, and it says nothing of this op"
        return "pending", "the table says nothing of it, so it is as torch's default has it"
    if rule.action == PRESERVE:
        return "kept", f"it was preserved{said}"
    assert rule.decomposition is not None  # an override has one
    return "decomposed", f"it was given {rule.decomposition.label()}{said}"


def _with_torch(state: TableState, rule: Rule | None, entry: Entry, said: str) -> tuple[str, str]:
    choice = choose(None if rule is None else rule.action, state.base, loaded=True, default=entry.default)
    if choice == OVERRIDE:
        assert rule is not None and rule.decomposition is not None  # choose() says so
        return "decomposed", f"it was given {rule.decomposition.label()}{said}"
    if choice == DEFAULT:
        return "decomposed", f"torch's default has it: {_ORIGINS.get(str(entry.origin), entry.origin)}"
    assert choice == ABSENT
    if entry.origin in ("cia", "py_cia") and entry.unpreservable:
        return "decomposed", f"torch cannot keep it ({entry.unpreservable}), whatever a table says"
    if rule is not None:
        return "kept", f"it was preserved{said}"
    if entry.origin is None:
        return "kept", "nothing decomposes it"
    if state.base == "empty":
        return "kept", "the table's base is empty, and it says nothing of this op"
    return "kept", "torch's default table leaves it out"


def _default(entry: Entry | None) -> str:
    if entry is None:
        return "none: it was not loaded"
    if entry.origin is None:
        return "none: nothing decomposes it"
    where = _ORIGINS.get(entry.origin, entry.origin)
    if entry.module:
        where += f" ({entry.module}.{entry.qualname})"
    if entry.default:
        return where
    if entry.unpreservable and entry.origin in ("cia", "py_cia"):
        return f"not in the table, and decomposed always, by {where}"
    return f"left out of torch's default table, though there is {where}"
