"""Blocks that several pages have: who made an event, where and why; an environment; the rules of a table. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from decomp_ledger.analysis.outcome import NOT_IN_PROGRAM, Outcome
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import OVERRIDE, CallSite, Event
from decomp_ledger.model.rules import TORCH_ORIGINS, TableState
from decomp_ledger.reports.blocks import (
    BAD,
    GOOD,
    QUIET,
    WARN,
    Block,
    Cell,
    Code,
    Diff,
    Fold,
    Mark,
    Part,
    Prose,
    Quote,
    Table,
    ops_cell,
)
from decomp_ledger.reports.words import count, rule_text, summary, when

__all__ = [
    "environment_rows",
    "event_rows",
    "events_table",
    "moment",
    "outcome_mark",
    "rule_blocks",
    "site_cell",
    "source_lines",
]

_TONES = {"failed": BAD, "kept": GOOD, "kept (stale table)": WARN, "unknown": WARN, "removed": WARN, "emitted": ""}
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
_MANY = 12  # ops of one row without a fold
_SOURCE = 200  # lines of a source


def outcome_mark(word: str) -> Mark:
    """Return the word of an outcome with its tone."""
    return Mark(word, _TONES.get(word, QUIET if word == NOT_IN_PROGRAM else ""))


def moment(recorded_at: str) -> Part:
    """Return a stored time to the second; other text, which a stranger's ledger can have, as a quote."""
    text = when(recorded_at)
    return text if _TIME.fullmatch(text) else Quote(text)


def site_cell(site: CallSite | None) -> Cell:
    """Return where an event was made, with the nearest caller in other code."""
    if site is None:
        return "not recorded"
    caller: tuple[Part, ...] = () if site.caller is None else (", called at ", Code(str(site.caller)))
    return (Code(str(site)), *caller)


def event_rows(event: Event) -> list[tuple[Cell, Cell]]:
    """Return who made an event, when, where and why."""
    rows: list[tuple[Cell, Cell]] = [
        ("when", (moment(event.recorded_at), " UTC")),
        ("who", Quote(event.actor)),
        ("where", site_cell(event.call_site)),
        ("why", Quote(event.reason) if event.reason else Mark("no reason recorded", QUIET)),
    ]
    frames = () if event.call_site is None else event.call_site.frames
    if len(frames) > 1:
        rows.append(("call stack", _lines([str(frame) for frame in frames])))
    return rows


def _lines(texts: Sequence[str]) -> tuple[Part, ...]:
    """Return code in lines, innermost first."""
    parts: list[Part] = []
    for text in texts:
        parts += [", from ", Code(text)] if parts else [Code(text)]
    return tuple(parts)


def environment_rows(environment: Mapping[str, Json]) -> list[tuple[Cell, Cell]]:
    """Return the facts of an environment by name."""
    return [(Quote(name.replace("_", " ")), _fact(value)) for name, value in environment.items()]


def _fact(value: Json) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return Quote(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def rule_blocks(
    state: TableState,
    blame: Mapping[str, Event],
    outcomes: Mapping[str, Outcome] | None = None,
    idle: Mapping[str, str] | None = None,
) -> list[Block]:
    """Return the rules of a table: the rules that one event set alike in one row, with who set them, where and why.

    Args:
        state: the table.
        blame: op -> the event that set its rule.
        outcomes: for an export, op -> what happened to it.
        idle: op -> why its rule cannot act.
    """
    groups: dict[tuple[int, str, str], list[str]] = {}
    for op, rule in state.rules.items():
        seq = blame[op].seq if op in blame else 0
        groups.setdefault((seq, rule.action, _happened(op, outcomes)), []).append(op)
    rows: list[list[Cell]] = []
    folds: list[Block] = []
    for (seq, _, happened), ops in sorted(groups.items(), key=lambda item: (-_interest(item[0][2]), item[0])):
        texts = [rule_text(state.rules[op], from_dict=state.from_dict) for op in ops]
        text = texts[0] if len({*texts}) == 1 else f"{state.rules[ops[0]].action}: {len({*texts})} functions"
        row: list[Cell] = [ops_cell(ops, _MANY), Quote(text)]
        row += [] if outcomes is None else [outcome_mark(happened)]
        row += ["unknown"] * 3 if ops[0] not in blame else _set_by(blame[ops[0]])
        rows.append(row)
        if len(ops) > _MANY or len({*texts}) > 1:
            title: Cell = (f"All {count(len(ops), 'op')} of event ", Code(f"#{seq}"), ": ", Quote(happened or text))
            every: list[tuple[Cell, Cell]] = [(Code(op), Quote(each)) for op, each in zip(ops, texts, strict=True)]
            one = len({*texts}) == 1
            folds.append(Fold(title, [Prose(ops_cell(ops, len(ops))) if one else Table(("op", "rule"), every)]))
    if not rows:
        return []
    heads = ("op", "rule", *([] if outcomes is None else ["what happened"]), "set by", "where", "why")
    return [Table(heads, rows), *folds, *_idle_blocks(idle or {}), *_sources(state)]


def _happened(op: str, outcomes: Mapping[str, Outcome] | None) -> str:
    if outcomes is None:
        return ""
    return outcomes[op].word if op in outcomes else NOT_IN_PROGRAM


def _interest(word: str) -> int:
    """Return a number that puts failures first, and what is not in the program last."""
    return {"failed": 2, NOT_IN_PROGRAM: 0}.get(word, 1)


def _set_by(event: Event) -> list[Cell]:
    why: Cell = Quote(event.reason) if event.reason else Mark("no reason", QUIET)
    at = moment(event.recorded_at)
    set_by = (Code(f"#{event.seq}"), f" {event.kind} ", at, " by ", Quote(event.actor))
    return [set_by, site_cell(event.call_site), why]


def _idle_blocks(idle: Mapping[str, str]) -> list[Block]:
    if not idle:
        return []
    rows: list[tuple[Cell, Cell]] = [(Code(op), Quote(why)) for op, why in idle.items()]
    return [Fold((Mark("Rules that cannot act", WARN), f": {len(idle)}"), [Table(("op", "why"), rows)], opened=True)]


def _sources(state: TableState) -> list[Block]:
    """Return the recorded sources of the functions that override ops, each once."""
    found: dict[tuple[str, str], list[str]] = {}
    for op, rule in state.rules.items():
        each = rule.decomposition
        if rule.action == OVERRIDE and each is not None and each.source and each.origin not in TORCH_ORIGINS:
            found.setdefault((each.label(), each.source), []).append(op)
    blocks: list[Block] = []
    for (label, source), ops in found.items():
        blocks.append(Fold(("Source of ", Code(label), " for ", *ops_cell(ops)), [Diff(source_lines(source))]))
    return blocks


def source_lines(source: str) -> list[tuple[str, str]]:
    """Return the first lines of a source."""
    lines = source.splitlines()
    more = [(" ", f"... and {len(lines) - _SOURCE} more lines")] if len(lines) > _SOURCE else []
    return [*((" ", line) for line in lines[:_SOURCE]), *more]


def events_table(events: Sequence[Event]) -> Table:
    """Return events as a table, in their order."""
    rows: list[tuple[Cell, ...]] = [
        (
            Code(f"#{event.seq}"),
            moment(event.recorded_at),
            Code(f"{event.table}@{event.version}"),
            (Mark(event.kind), " ", Quote(summary(event))),
            Quote(event.actor),
            site_cell(event.call_site),
            Quote(event.reason or ""),
        )
        for event in events
    ]
    return Table(("event", "when (UTC)", "table", "what", "who", "where", "why"), rows)
