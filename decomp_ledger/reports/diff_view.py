"""The page of the difference between two table states or two exports. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from decomp_ledger.analysis.drift import Drift
from decomp_ledger.analysis.export_diff import ExportDiff
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.rules import TORCH_ORIGINS, Decomposition, RuleDiff
from decomp_ledger.queries import ResolvedState, StateDiff
from decomp_ledger.reports.blocks import (
    BAD,
    GOOD,
    QUIET,
    WARN,
    Bar,
    Bars,
    Block,
    Cell,
    Code,
    Diff,
    Facts,
    Fold,
    Mark,
    Page,
    Prose,
    Quote,
    Section,
    Table,
    ops_cell,
)
from decomp_ledger.reports.drift_view import drift_sections
from decomp_ledger.reports.event_blocks import moment, outcome_mark
from decomp_ledger.reports.words import count, rule_text

if TYPE_CHECKING:
    from decomp_ledger.pytorch.graph_digest import GraphDifference

__all__ = ["diff_page", "fact_text", "rule_texts", "source_change"]

_MANY = 12  # ops of one row without a fold


def diff_page(found: StateDiff, moved: Drift | None = None) -> Page:
    """Return the page of a difference.

    Args:
        found: the difference.
        moved: what differs between their torch versions for what they use; None if that was not asked.
    """
    one, other = found.before, found.after
    exports = found.exports
    figures: dict[str, Cell] = {"rules that differ": str(len(found.rules))}
    if exports is not None and not any(exports.failed):
        figures |= {"ops with other counts": str(len(exports.after)), "other outcomes": str(len(exports.outcomes))}
    sections = [
        Section("Exports", [] if exports is None else [*_export_notes(exports, one.name, other.name)]),
        Section("Ops in the graph", [*_bars(found)]),
        Section("What happened", [] if exports is None else [*_outcomes(exports, one.name, other.name)]),
        Section("Rules", [*_rules(found)]),
        Section("First node that differs", [*_first_node(found.first_node, one.name, other.name)]),
        Section("The two states", [_states(one, other)]),
        Section("Environments", [*_environments(found)]),
        *(() if moved is None else _moved(moved)),
    ]
    status = Mark("differs", WARN) if found else Mark("nothing differs", GOOD)
    return Page("Difference", (Code(one.name), " to ", Code(other.name)), status, _lead(found), figures, sections)


def _lead(found: StateDiff) -> str:
    parts = [f"{count(len(found.rules), 'rule')} {'differs' if len(found.rules) == 1 else 'differ'}"]
    same = None if found.exports is None else found.exports.same_graph
    parts += [] if same is None else ["the graphs are the same" if same else "the graphs differ"]
    return "; ".join(parts)


def _rules(found: StateDiff) -> Iterator[Block]:
    one, other = found.before, found.after
    if not found.same_base:
        bases = {found.before.state.base: one.name, found.after.state.base: other.name}
        yield Prose(
            (
                f"The base is {one.state.base} in ",
                Code(one.name),
                f" and {other.state.base} in ",
                Code(other.name),
                ": an op without a rule follows torch's default table in ",
                Code(bases["torch"]),
                ", and stays in the graph in ",
                Code(bases["empty"]),
                ".",
            ),
            WARN,
        )
    if not found.rules:
        yield Prose("The rules are the same.")
        return
    dicts = one.state.from_dict, other.state.from_dict
    alike: dict[tuple[str, str], list[str]] = {}
    for each in found.rules:
        alike.setdefault(rule_texts(each, dicts), []).append(each.op)
    rows: list[tuple[Cell, ...]] = [(ops_cell(ops, _MANY), *map(Quote, texts)) for texts, ops in alike.items()]
    yield Table(("op", Code(one.name), Code(other.name)), rows)
    for texts, ops in alike.items():
        if len(ops) > _MANY:
            title: Cell = (f"All {count(len(ops), 'op')}: ", Quote(texts[0]), " to ", Quote(texts[1]))
            yield Fold(title, [Prose(ops_cell(ops, len(ops)))])
    changed: dict[tuple[Decomposition | None, Decomposition | None], list[RuleDiff]] = {}
    for each in found.rules:
        changed.setdefault(each.decompositions, []).append(each)
    for same in changed.values():
        text, lines = source_change(same[0])
        if text:
            marked = [
                (line[:1], line[1:]) if line[:1] in ("-", "+") else (" ", line.removeprefix(" ")) for line in lines
            ]
            yield Diff(marked, (*ops_cell([each.op for each in same]), ": ", Quote(text)))


def rule_texts(found: RuleDiff, dicts: tuple[bool, bool]) -> tuple[str, str]:
    """Return both rules in words; with digests where only these tell two decompositions apart.

    Args:
        found: the two rules.
        dicts: for each, whether it only tells what a dict had.
    """
    texts = rule_text(found.before, from_dict=dicts[0]), rule_text(found.after, from_dict=dicts[1])
    one, other = found.decompositions
    if one is None or other is None or texts[0] != texts[1]:
        return texts
    same = one.digest == other.digest
    digests = (each.helpers if same and each.origin not in TORCH_ORIGINS else each.digest for each in (one, other))
    builds = (each.build for each in (one, other))
    pairs = zip(texts, digests, builds, strict=True)
    what = "with helpers " if same else ""
    first, second = (
        f"{text}  {what if digest else ''}{(digest or build or 'none')[:12]}" for text, digest, build in pairs
    )
    return first, second


def source_change(found: RuleDiff) -> tuple[str, Sequence[str]]:
    """Return what changed in a function that both rules name, and the lines of the diff of its source.

    Returns:
        A sentence, and lines; "" if the rules do not name one function.
    """
    one, other = found.decompositions
    if one is None or other is None or one.label() != other.label() or one.origin in TORCH_ORIGINS:
        return "", ()
    if one.digest == other.digest:
        return f"{one.label()} itself is the same; a function that it calls changed", ()
    lines = found.source_diff()
    return f"{one.label()} changed" + ("" if lines else "; its source is not recorded on both sides"), lines[2:]


def _export_notes(found: ExportDiff, before: str, after: str) -> Iterator[Block]:
    if found.same_program is False:
        yield Prose("The exports lowered different programs.", WARN)
    broken = [name for name, failed in zip((before, after), found.failed, strict=True) if failed]
    if broken:
        yield Prose((*ops_cell(broken), " failed, so no results are compared."), BAD)
    if found.same_graph is True:
        yield Prose("The graphs are the same.", GOOD)
    elif found.same_graph is False:
        also = "" if found.after else ": they have the same ops, as often, with other arguments, types or order"
        yield Prose(f"The graphs differ{also}.", WARN)


def _bars(found: StateDiff) -> Iterator[Block]:
    if found.exports is not None and found.exports.after:
        bars = [Bar(op, *pair) for op, pair in found.exports.after.items()]
        bars.sort(key=lambda bar: (-abs(bar.after - bar.before), bar.op))
        yield Bars((Code(found.before.name), Code(found.after.name)), bars)


def _outcomes(found: ExportDiff, before: str, after: str) -> Iterator[Block]:
    if found.outcomes:
        rows: list[tuple[Cell, ...]] = [(Code(op), *map(outcome_mark, pair)) for op, pair in found.outcomes.items()]
        yield Table(("op", Code(before), Code(after)), rows)
    if found.fired:
        fired: list[tuple[Cell, ...]] = [(Code(op), *map(str, pair)) for op, pair in found.fired.items()]
        table = Table(("op", Code(before), Code(after)), fired, frozenset({1, 2}))
        yield Fold(f"How often decompositions fired: {count(len(fired), 'op')}", [table])


def _first_node(found: GraphDifference | None, before: str, after: str) -> Iterator[Block]:
    if found is None:
        return
    yield Prose(f"Node number {found.index} is the first that differs.")
    sides = zip((before, after), found.made_by, (found.left, found.right), strict=True)
    yield Facts(
        [
            (Code(name), (Code(line or "(the graph has ended)"), ", made of ", Code(made_by or "an op not known")))
            for name, made_by, line in sides
        ]
    )


def _states(one: ResolvedState, other: ResolvedState) -> Block:
    rows: list[tuple[Cell, Cell, Cell]] = []
    facts = [_state_facts(each) for each in (one, other)]
    for name in facts[0] | facts[1]:
        rows.append((name, facts[0].get(name, ""), facts[1].get(name, "")))
    return Table(("", Code(one.name), Code(other.name)), rows)


def _state_facts(found: ResolvedState) -> dict[str, Cell]:
    event = None if found.bundle is None else found.bundle.event
    torch = found.environment.get("torch") or (None if found.catalog is None else found.catalog.build.get("torch"))
    missing = Mark("not recorded", QUIET)
    facts: dict[str, Cell] = {
        "table": Code(f"{found.state.table}@{found.state.version}" if found.state.version else found.state.table),
        "rules": str(len(found.state.rules)),
        "torch": missing if torch is None else Quote(str(torch)),
        "snapshot": missing if found.snapshot is None else Code(found.snapshot.digest[:12]),
    }
    if event is not None:
        where = missing if event.call_site is None else Code(str(event.call_site))
        facts |= {"who": Quote(event.actor), "when (UTC)": moment(event.recorded_at), "where": where}
    return facts


def fact_text(value: Json) -> str:
    """Return a fact of an environment in words."""
    return "not recorded" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _environments(found: StateDiff) -> Iterator[Block]:
    differing: Mapping[str, tuple[Json, Json]] = found.environments
    if differing:
        rows: list[tuple[Cell, ...]] = [
            (Quote(name.replace("_", " ")), *(Quote(fact_text(value)) for value in pair))
            for name, pair in differing.items()
        ]
        yield Table(("", Code(found.before.name), Code(found.after.name)), rows)


def _moved(moved: Drift) -> Iterator[Section]:
    for section in drift_sections(moved):
        yield Section(f"Drift of torch: {section.title.lower()}", section.blocks)
