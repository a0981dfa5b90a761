"""Explain: why a table decomposes or keeps an op, by its rules or by what happened in an export. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from decomp_ledger.analysis.outcome import (
    NOT_IN_PROGRAM,
    Outcome,
    decide,
    expect,
    facts,
    origin_text,
    preservable,
    stand_in,
)
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.display import Row, columns_of, displayed, guarded
from decomp_ledger.model.events import Emission, Event, Exported
from decomp_ledger.model.rules import TableState

__all__ = ["Explanation", "explain", "explain_export"]


@displayed
@attrs.frozen
class Explanation:
    """Why a table decomposes or keeps an op.

    Attributes:
        op: the op.
        table: the table.
        version: the version.
        outcome: one of the words of :class:`decomp_ledger.Outcome`: for a table what it would do with the op, for an
            export what happened to the op.
        because: the reason, one sentence.
        default: what torch's default table has for the op, and its origin; "unknown" without a catalog.
        preservable: `yes`, `no: ` with the reason, or `unknown`: whether torch can keep the op in a graph.
        torch: version of the torch whose catalog was used; None if the table was never materialized.
        materialization: the event that recorded that catalog, such as `edge@3 (#7)`; None if no event did.
        loaded: whether that torch had the op loaded; None without a catalog.
        events: the events that changed the op's rule, oldest first.
        counts: for an export, how often the op is in the program `before` and `after`, and how often its
            decomposition `fired`.
        declined: for an export, how often its decomposition returned NotImplemented; None if that is not known.
        emitted_by: for an export, what made the nodes of the op in the result; None if that is not known.
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
    declined: int | None = None
    emitted_by: tuple[Emission, ...] | None = None

    @guarded
    def __repr__(self) -> str:
        return f"<Explanation of {self.op} in {self.table}@{self.version}: {self.outcome}, because {self.because}>"

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

    def _row(self) -> Row:
        row = columns_of(self, without=("events", "counts", "emitted_by"))
        row |= {name: None if self.counts is None else self.counts.get(name) for name in ("before", "after", "fired")}
        return {**row, "events": ", ".join(f"#{event.seq}" for event in self.events)}

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data, without the events."""
        fields = {key: value for key, value in attrs.asdict(self).items() if key != "events"}
        return {**fields, "evidence": self.evidence}


def explain(
    op: str, state: TableState, materialization: Event | None, catalog: Catalog | None, history: Sequence[Event]
) -> Explanation:
    """Explain an op by a table's rules and a catalog.

    Args:
        op: the op's name.
        state: the table's state.
        materialization: the event that names the catalog, or None.
        catalog: the catalog, with schemas; None if the table was never materialized.
        history: the events that changed the op's rule up to that state, oldest first.
    """
    entry = None if catalog is None else catalog.ops.get(op)
    expected = expect(op, state, catalog, last=history[-1] if history else None)
    return Explanation(
        op=op,
        table=state.table,
        version=state.version,
        outcome=expected.word,
        because=expected.because,
        default="unknown" if catalog is None else _default(op, entry),
        preservable=preservable(op, entry),
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
    entry = catalog.ops.get(op)
    found = facts(op, body, entry, last=history[-1] if history else None)
    outcome = decide(found, Outcome(answer.outcome, answer.because))
    hidden = stand_in(op, body)
    if hidden is not None and outcome.word == NOT_IN_PROGRAM:
        found = facts(hidden, body, catalog.ops.get(hidden))
        other = decide(found, expect(hidden, state, catalog))
        outcome = attrs.evolve(other, because=f"ExecuTorch hid it as {hidden} from this export: {other.because}")
    return attrs.evolve(
        answer,
        outcome=outcome.word,
        because=outcome.because,
        preservable=preservable(op, entry, found),
        counts={"before": found.before, "after": found.after, "fired": found.fired},
        declined=found.declined,
        emitted_by=None if found.made_by is None else found.made_by,
    )


def _name(event: Event) -> str:
    return f"{event.table}@{event.version} (#{event.seq})"


def _default(op: str, entry: Entry | None) -> str:
    if entry is None:
        return "none, because the op was not loaded"
    if entry.origin is None:
        return "none, because nothing decomposes the op"
    where = origin_text(op, entry)
    if entry.module:
        where += f" ({entry.module}.{entry.qualname})"
    if entry.default:
        return where
    if entry.unpreservable and entry.origin in ("cia", "py_cia"):
        return f"not in the table, but torch always decomposes the op by {where}"
    return f"left out of torch's default table, although torch has {where}"
