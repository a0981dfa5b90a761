"""Events, rules and counts in words, the same in every output. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from decomp_ledger.analysis.outcome import failure
from decomp_ledger.model.events import (
    Changing,
    Created,
    Event,
    Exported,
    Found,
    Lowered,
    Materialized,
    Passed,
    Reverted,
    Saved,
    Tagged,
    Traced,
    Updated,
)
from decomp_ledger.model.rules import Rule
from decomp_ledger.model.times import shown_time

__all__ = ["at_text", "count", "first_ops", "made_from_text", "model_text", "rule_text", "summary", "when"]


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 op`, `2 ops`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def rule_text(rule: Rule | None, *, from_dict: bool = False) -> str:
    """Return a rule in words.

    Args:
        rule: the rule.
        from_dict: whether it only tells what a dict had.
    """
    if rule is None:
        return "(as its base)" if from_dict else "(no rule)"
    if from_dict:
        return "missing" if rule.decomposition is None else f"entry: {rule.decomposition.label()}"
    return rule.label()


def summary(event: Event) -> str:
    """Return an event's body in a few words."""
    body = event.body
    if isinstance(body, Created):
        return f"base {body.base}" if body.parent is None else f"forked from {body.parent[0]}@{body.parent[1]}"
    if isinstance(body, Tagged):
        return body.name
    if isinstance(body, Materialized):
        pending = f", {len(body.pending)} pending" if body.pending else ""
        return f"snapshot {body.snapshot[:12]}{pending}"
    if isinstance(body, Exported):
        return _export_summary(body)
    if isinstance(body, Traced):
        return _traces_summary(body)
    if isinstance(body, Lowered):
        return f"export:{body.export} lowered by {body.by} with a table of {count(body.entries, 'op')}"
    if isinstance(body, Passed):
        return _dict_summary(body)
    if isinstance(body, Saved):
        return _saved_summary(body)
    if isinstance(body, Changing):
        return _changes_summary(body)
    return ", ".join(f"{name} {value}" for name, value in attrs.asdict(body).items())


def _export_summary(body: Exported) -> str:
    if body.error is not None:
        return f"FAILED{failure(body)} after {body.milliseconds} ms: {body.error[0]}"
    nodes = f"{sum(body.ops_before.values())} -> {count(sum(body.ops_after.values()), 'node')}"
    ops, calls = count(len(body.fired), "op"), count(sum(body.fired.values()), "call")
    return f"{nodes}; {ops} decomposed, {calls}; {body.milliseconds} ms"


def _saved_summary(body: Saved) -> str:
    where = body.path or "bytes, which the program got"
    stamp = ", stamped" if body.stamped else ""
    return f"export:{body.export} as {where} ({body.format}{stamp}, {body.size} bytes, sha256 {body.sha256[:12]})"


def _traces_summary(body: Traced) -> str:
    changed = (("with", body.added), ("with other entries for", body.replaced), ("without", body.removed))
    parts = [f"{word} {first_ops(ops)}" for word, ops in changed if ops]
    if body.base != "empty":
        parts.insert(0, f"{body.base}'s")
    table = ", ".join([f"a table of {count(body.entries, 'op')}", *parts])
    ops, calls = count(len(body.fired), "op"), count(sum(body.fired.values()), "call")
    return f"{count(body.traces, 'trace')} by {body.by}; {table}; {ops} decomposed, {calls}; {body.milliseconds} ms"


def _dict_summary(body: Passed) -> str:
    lacks = [change.op for change in body.changes if change.decomposition is None]
    has = [change.op for change in body.changes if change.decomposition is not None]
    parts = [f"a dict of {count(body.entries, 'op')}" + (f" from {body.caller}" if body.caller else "")]
    parts += [f"made from the table of {body.made}"] if body.made else []
    parts += [f"without {first_ops(lacks)}"] if lacks else []
    parts += [f"with other entries for {first_ops(has)}"] if has else []
    parts += [f"made before {first_ops(body.later)} {_were(body.later)} loaded"] if body.later else []
    return "; ".join(parts)


def _were(ops: Sequence[str]) -> str:
    return "was" if len(ops) == 1 else "were"


def _changes_summary(body: Changing) -> str:
    pending = set(body.pending)
    by_action: dict[str, list[str]] = {}
    for change in body.changes:
        name = change.op + (" (not loaded yet)" if change.op in pending else "")
        by_action.setdefault(change.action, []).append(name)
    # The kind of the event tells the action of a set or a pop; an update may mix actions.
    mixed = isinstance(body, (Updated, Reverted, Found))
    parts = [f"{action} {first_ops(ops)}" if mixed else first_ops(ops) for action, ops in by_action.items()]
    lead = f"to version {body.to}: " if isinstance(body, Reverted) else ""
    return lead + "; ".join(parts)


def first_ops(ops: Sequence[str], limit: int = 3) -> str:
    """Return the first names of ops, and how many more there are."""
    return ", ".join(ops[:limit]) + (f" and {len(ops) - limit} more" if len(ops) > limit else "")


def at_text(event: Event) -> str:
    """Return where an event was made, as the end of a line: the line, and the nearest caller in other code."""
    site = event.call_site
    if site is None:
        return ""
    return f", at {site}" + (f", called at {site.caller}" if site.caller is not None else "")


def when(recorded_at: str) -> str:
    """Return a UTC time to the second, for people."""
    return shown_time(recorded_at)


def model_text(event: Event, ledger: str) -> str:
    """Return the class of an export's root module, and the export that the program was made from.

    Args:
        event: the export.
        ledger: the id of its ledger.
    """
    body = event.body
    if not isinstance(body, Exported):
        return ""
    parts = [] if body.module is None else [body.module.label]
    if body.made_from is not None:
        parts.append(f"from {made_from_text(body.made_from, ledger)}")
    return ", ".join(parts)


def made_from_text(made_from: tuple[str, int], ledger: str) -> str:
    """Return the export that a program was made from, with its ledger if that is another one."""
    of_other = "" if made_from[0] == ledger else f" of ledger {made_from[0][:8]}"
    return f"export:{made_from[1]}{of_other}"
