"""Totals over the exports of a ledger: rules that never did anything, ops that are lost again, unused results. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import PRESERVE, Event, Exported
from decomp_ledger.model.rules import TableState

__all__ = ["ExportTotals", "LostOp", "UnusedRule", "export_totals"]


@displayed
@attrs.frozen
class UnusedRule:
    """A rule that did nothing in any successful export of its table.

    Attributes:
        table: the table.
        op: the op.
        action: `preserve` (no result has the op) or `override` (it never fired).
        exports: how many successful exports had the rule.
    """

    table: str
    op: str
    action: str
    exports: int

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return attrs.asdict(self)


@displayed
@attrs.frozen
class LostOp:
    """An op that one export kept by a rule, and a later export of its result did not.

    Attributes:
        op: the op.
        kept_by: the seq of the export whose table preserves it and whose result has it.
        lost_by: the seq of the export that lowered that result, and whose own result does not have it.
    """

    op: str
    kept_by: int
    lost_by: int

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return attrs.asdict(self)


@displayed
@attrs.frozen
class ExportTotals:
    """What all exports of a ledger, or of one table, show together.

    Attributes:
        exports: the number of exports.
        failed: the number of those that failed.
        unused_rules: the rules that did nothing in any export, by table and op. A dict has no rules.
        lost: the ops that one export kept and the next one lost.
        unused_results: the seqs of the exports whose result no later export lowered. The last export of a program is
            one of them, because a save is not an export.
    """

    exports: int
    failed: int
    unused_rules: tuple[UnusedRule, ...]
    lost: tuple[LostOp, ...]
    unused_results: tuple[int, ...]

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "exports": self.exports,
            "failed": self.failed,
            "unused_rules": [each.to_json() for each in self.unused_rules],
            "lost": [each.to_json() for each in self.lost],
            "unused_results": list[Json](self.unused_results),
        }


def export_totals(events: Sequence[Event], state_of: Callable[[str, int], TableState]) -> ExportTotals:
    """Return what exports show together.

    Args:
        events: the `exported` events, oldest first.
        state_of: returns the state of a table at a version.
    """
    bodies = [(event, event.body) for event in events if isinstance(event.body, Exported)]
    done = [(event, body, state_of(event.table, event.version)) for event, body in bodies if body.error is None]
    return ExportTotals(
        len(bodies),
        len(bodies) - len(done),
        _unused_rules(done),
        tuple(_lost(done)),
        _unused_results(done, bodies),
    )


def _unused_rules(done: Sequence[tuple[Event, Exported, TableState]]) -> tuple[UnusedRule, ...]:
    seen: dict[tuple[str, str, str], int] = {}
    used: set[tuple[str, str, str]] = set()
    for event, body, state in done:
        for op, rule in () if state.from_dict else state.rules.items():
            key = event.table, op, rule.action
            seen[key] = seen.get(key, 0) + 1
            if op in (body.ops_after if rule.action == PRESERVE else body.fired):
                used.add(key)
    return tuple(UnusedRule(*key, seen[key]) for key in sorted(seen) if key not in used)


def _lost(done: Sequence[tuple[Event, Exported, TableState]]) -> list[LostOp]:
    lowering: dict[str | None, list[tuple[Event, Exported]]] = {}
    for event, body, _ in done:
        lowering.setdefault(body.before, []).append((event, body))
    return [
        LostOp(op, event.seq, later.seq)
        for event, body, state in done
        if body.after is not None
        for later, after in lowering.get(body.after, ())
        if later.seq > event.seq
        for op, rule in sorted(state.rules.items())
        if rule.action == PRESERVE and op in body.ops_after and op not in after.ops_after
    ]


def _unused_results(
    done: Sequence[tuple[Event, Exported, TableState]], bodies: Sequence[tuple[Event, Exported]]
) -> tuple[int, ...]:
    """Return the exports whose result no later export lowered; a result whose digest is not known counts as used."""
    last = {body.before: event.seq for event, body in bodies}
    return tuple(e.seq for e, body, _ in done if body.after is not None and last.get(body.after, 0) <= e.seq)
