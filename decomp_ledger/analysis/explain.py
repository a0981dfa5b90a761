"""Explain: why a table decomposes or keeps an op, by its rules or by what happened in an export. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from decomp_ledger.analysis.drift import FUNCTIONALIZED, treatment
from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import OVERRIDE, Event, Exported
from decomp_ledger.model.materialize import DEFAULT, choose
from decomp_ledger.model.op_lookup import did_you_mean
from decomp_ledger.model.rules import Rule, TableState

__all__ = ["Explanation", "explain", "explain_export"]

_ORIGINS = {
    "cia": "its C++ CompositeImplicitAutograd kernel",
    "py_cia": "its Python CompositeImplicitAutograd kernel",
    "registry": "a Python function in torch's registry",
}


@attrs.frozen
class Explanation:
    """Why a table decomposes or keeps an op.

    Attributes:
        op: the op.
        table: the table.
        version: the version.
        outcome: `kept`, `decomposed` or `pending` (the op is not loaded). For an export also `not in the program`, or
            `gone`: the program had the op, nothing decomposed it, and the result does not have it.
        because: the reason, one sentence.
        default: what torch's default table has for the op, and its origin; "unknown" without a catalog.
        preservable: `yes`, `no: ` with the reason, or `unknown`: whether torch can keep the op in a graph.
        torch: version of the torch whose catalog was used; None if the table was never materialized.
        materialization: the event that recorded that catalog, such as `edge@3 (#7)`; None if no event did.
        loaded: whether that torch had the op loaded; None without a catalog.
        events: the events that changed the op's rule, oldest first.
        counts: for an export, how often the op is in the program `before` and `after`, and how often its
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
    materialization: str | None
    loaded: bool | None
    events: tuple[Event, ...]
    counts: Mapping[str, int] | None = None

    @property
    def evidence(self) -> str:
        """The torch on which the answer rests; without one, what to do to get it."""
        if self.torch is None:
            return (
                f"{self.table} was never materialized, so torch's side is unknown; export with it, or call "
                "materialize() on it"
            )
        by = f", as materialized by {self.materialization}" if self.materialization else ""
        return f"torch {self.torch}{by}"

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data, without the events."""
        fields = {key: value for key, value in attrs.asdict(self, recurse=False).items() if key != "events"}
        return {**fields, "evidence": self.evidence}


def explain(
    op: str, state: TableState, materialization: Event | None, catalog: Catalog | None, history: Sequence[Event]
) -> Explanation:
    """Explain an op by a table's rules and a catalog.

    Args:
        op: the op's name.
        state: the table's state.
        materialization: the event that names the catalog, or None.
        catalog: the catalog; None if the table was never materialized.
        history: the events that changed the op's rule up to that state, oldest first.
    """
    entry = None if catalog is None else catalog.ops.get(op)
    rule = state.rules.get(op)
    by = f" by event #{history[-1].seq}" if history else ""
    if catalog is None:
        outcome, because = _without_catalog(state, rule, by)
    elif entry is None:
        waiting = "" if rule is None else f"; the rule '{rule.action}', set{by}, waits for it"
        near = "" if rule is not None or history else did_you_mean(op, catalog.ops)
        outcome, because = "pending", f"the op was not loaded in this torch{waiting}{near}"
    else:
        outcome, because = _with_catalog(op, state, rule, entry, by)
    return Explanation(
        op=op,
        table=state.table,
        version=state.version,
        outcome=outcome,
        because=because,
        default="unknown" if catalog is None else _default(op, entry),
        preservable="unknown" if entry is None else f"no: {entry.unpreservable}" if entry.unpreservable else "yes",
        torch=None if catalog is None else catalog.build.get("torch", "?"),
        materialization=None if materialization is None else _name(materialization),
        loaded=None if catalog is None else entry is not None,
        events=tuple(history),
    )


def explain_export(
    op: str, state: TableState, export: Event, body: Exported, catalog: Catalog, history: Sequence[Event]
) -> Explanation:
    """Explain an op by what happened in an export.

    Args:
        op: the op's name.
        state: the state of the table that was used.
        export: the `exported` event.
        body: its body.
        catalog: the catalog that it names, with schemas.
        history: the events that changed the op's rule up to that state, oldest first.
    """
    answer = explain(op, state, export, catalog, history)
    counts = {
        "before": body.ops_before.get(op, 0),
        "after": body.ops_after.get(op, 0),
        "fired": body.fired.get(op, 0),
    }
    entry = catalog.ops.get(op)
    mutates = entry is not None and treatment(entry, in_table=False) == FUNCTIONALIZED
    outcome, because = _in_export(answer, body, mutates=mutates, **counts)
    return attrs.evolve(answer, outcome=outcome, because=because, counts=counts)


def _in_export(
    answer: Explanation, body: Exported, *, mutates: bool, before: int, after: int, fired: int
) -> tuple[str, str]:
    if fired:
        nested = "" if before else ", within the decompositions of other ops"
        left = f"; the result still has {after} of it" if after else ""
        return "decomposed", f"{answer.because}; that fired {_times(fired)}{nested}{left}"
    if body.error is not None and before:
        return answer.outcome, f"{answer.because}; the export failed and has no result"
    if after:
        return "kept", _why_kept(answer, body)
    if not before:
        lacks = "neither the program nor its result has the op"
        if body.error is not None:
            lacks = "the program does not have the op, and its export failed"
        return "not in the program", f"{lacks}; otherwise it would be {answer.outcome}, because {answer.because}"
    if answer.outcome == "decomposed":
        return "decomposed", answer.because
    if mutates:
        return "gone", "the op changes its argument, so torch replaced it by its functional form"
    return "gone", "nothing decomposed it, and the result does not have it: it was unused, or torch rewrote it"


def _why_kept(answer: Explanation, body: Exported) -> str:
    if answer.op in body.stale:
        return (
            "the table was torch's own and was read before the op was loaded, and torch then never decomposes it "
            "(or the op was removed before that read, which such a table does not record)"
        )
    if answer.outcome == "kept":
        return answer.because
    return f"torch did not trace it as an op to decompose, although {answer.because}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _name(event: Event) -> str:
    return f"{event.table}@{event.version} (#{event.seq})"


def _by_rule(rule: Rule, by: str) -> tuple[str, str]:
    if rule.decomposition is None:
        return "kept", f"it was preserved{by}"
    return "decomposed", f"it was overridden with {rule.decomposition.label()}{by}"


_EMPTY_BASE = "the table's base is empty, and the op has no rule"


def _without_catalog(state: TableState, rule: Rule | None, by: str) -> tuple[str, str]:
    if rule is not None:
        return _by_rule(rule, by)
    if state.base == "empty":
        return "kept", _EMPTY_BASE
    return "pending", "the op has no rule, so it follows torch's default, which is unknown"


def _with_catalog(op: str, state: TableState, rule: Rule | None, entry: Entry, by: str) -> tuple[str, str]:
    choice = choose(None if rule is None else rule.action, state.base, loaded=True, default=entry.default)
    if rule is not None and choice == OVERRIDE:
        return _by_rule(rule, by)
    if choice == DEFAULT:
        return "decomposed", f"torch's default has it: {_origin_text(op, entry)}"
    if entry.origin in ("cia", "py_cia") and entry.unpreservable:
        return "decomposed", f"torch cannot keep it ({entry.unpreservable}), whatever the table has"
    if rule is not None:
        return _by_rule(rule, by)
    if entry.origin is None:
        return "kept", "nothing decomposes it"
    return "kept", _EMPTY_BASE if state.base == "empty" else "torch's default table leaves it out"


def _origin_text(op: str, entry: Entry) -> str:
    """Return what decomposes an op; of a kernel that a library registered, where it did."""
    if entry.origin == "cia" and (entry.registered or not op_names.is_torchs(op)):
        file = entry.registered.rpartition(":")[0]
        in_python = file.endswith(".py") or file.startswith("<")
        kind = " Python" if in_python else " C++" if file else ""
        where = f", registered by the library at {entry.registered}" if file else ""
        return f"its{kind} CompositeImplicitAutograd kernel{where}"
    return _ORIGINS.get(str(entry.origin), str(entry.origin))


def _default(op: str, entry: Entry | None) -> str:
    if entry is None:
        return "none, because the op was not loaded"
    if entry.origin is None:
        return "none, because nothing decomposes the op"
    where = _origin_text(op, entry)
    if entry.module:
        where += f" ({entry.module}.{entry.qualname})"
    if entry.default:
        return where
    if entry.unpreservable and entry.origin in ("cia", "py_cia"):
        return f"not in the table, but torch always decomposes the op by {where}"
    return f"left out of torch's default table, although torch has {where}"
