"""Which page a notebook shows for a result, and how much of it. `model/display.py` calls `html_of`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import attrs

from decomp_ledger.analysis.advice import Advice, Why
from decomp_ledger.analysis.behaviour import VERDICTS, Behaviour
from decomp_ledger.analysis.drift import Drift
from decomp_ledger.analysis.explain import Explanation
from decomp_ledger.analysis.export_results import ExportResult
from decomp_ledger.analysis.gate import GateResult
from decomp_ledger.analysis.numerics import NumericsCheck, ProgramCheck
from decomp_ledger.analysis.opset_check import OpsetCheck
from decomp_ledger.analysis.totals import ExportTotals
from decomp_ledger.analysis.upgrade import Upgrade, UpgradeCheck
from decomp_ledger.errors import LedgerError
from decomp_ledger.integrity.verify import Verification
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.display import Row, Rows, Scalar, bounded, fields_of, to_rows
from decomp_ledger.model.events import Event, Exported
from decomp_ledger.model.rules import Decomposition, Rule, RuleDiff, TableState
from decomp_ledger.queries import RecordedEvent, ResolvedState, StateDiff, UpgradeReport
from decomp_ledger.reports.blocks import (
    BAD,
    GOOD,
    QUIET,
    Bar,
    Bars,
    Block,
    Cell,
    Code,
    Diff,
    Facts,
    Flow,
    Fold,
    Listing,
    Mark,
    Page,
    Prose,
    Quote,
    Section,
    Table,
    Timeline,
    ops_cell,
)
from decomp_ledger.reports.check_view import numerics_page, opset_page, program_page
from decomp_ledger.reports.diff_view import diff_page
from decomp_ledger.reports.drift_view import check_blocks, check_page, drift_page, upgrade_page
from decomp_ledger.reports.drift_words import diff_lines, rows_that_differ
from decomp_ledger.reports.event_blocks import event_rows, events_table, moment, outcome_mark, rule_blocks, source_lines
from decomp_ledger.reports.export_view import event_page, export_page, totals_blocks
from decomp_ledger.reports.gate_view import gate_page
from decomp_ledger.reports.html import to_fragment
from decomp_ledger.reports.words import count, summary
from decomp_ledger.transfer.export_bundle import ExportBundle
from decomp_ledger.transfer.stamp import Stamp

__all__ = ["html_of", "page_of_result"]

_ROWS = 20  # of one table, list or diff
_SECTIONS = 12
_TEXT = 300  # characters of one text
_PARTS = 40  # of one cell
_DEPTH = 3  # of folds in folds
_TIME = "_at"  # the end of the name of a column with a time
_SCALARS = (str, int, float, bool, type(None))


def html_of(value: object) -> str:
    """Return a result as HTML, for a notebook; of a ledger that cannot be read, why."""
    try:
        page = page_of_result(value)
    except LedgerError as error:
        page = Page(_kind(value), "", Mark("cannot be read", BAD), Quote(str(error)))
    return to_fragment(_brief(page))


@singledispatch
def page_of_result(value: Any) -> Page:
    """Return the page of a result; of a class that has no page of its own, its fields."""
    stands_for = getattr(value, "_shown_as", None)
    if stands_for is not None:
        return page_of_result(stands_for())
    facts: list[tuple[Cell, Cell]] = []
    tables: list[Section] = []
    for name, shown in fields_of(value):
        given = getattr(value, name)
        rows = _rows_in(given)
        if rows:
            tables.append(Section(_words(name), [_table_of(rows)]))
        elif given not in (None, "", (), [], {}, frozenset()):
            facts.append((_head(name), Quote(shown()) if shown is not None else _fact(name, given)))
    lead = "" if facts or tables else Quote(repr(value))
    return Page(_kind(value), "", None, lead, sections=(Section("", [Facts(facts)] if facts else []), *tables))


def _kind(value: object) -> str:
    """Return the name of a class in words: `Rule effect`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(value).__name__).capitalize()


def _words(name: str) -> str:
    return name.replace("_", " ")


def _head(name: str) -> str:
    return f"{_words(name)} (UTC)" if name.endswith(_TIME) else _words(name)


def _rows_in(value: object) -> list[Row]:
    """Return the rows of a collection of results; none of any other value."""
    if not isinstance(value, (list, tuple)) or hasattr(value, "_fields"):
        return []
    first = value[:_ROWS]
    return to_rows(value) if value and all(attrs.has(type(each)) or hasattr(each, "_fields") for each in first) else []


def _fact(name: str, value: Any) -> Cell:
    if name.endswith(_TIME) and isinstance(value, str):
        return moment(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        items = (
            value.items() if all(isinstance(each, _SCALARS) for each in value.values()) else [(k, "") for k in value]
        )
        return _names([f"{key}: {each}" if each != "" else str(key) for key, each in items])
    if isinstance(value, (set, frozenset)):
        return _names(sorted(map(str, value)))
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return _names([str(each) for each in value])
    return Quote(value if isinstance(value, str) else str(getattr(value, "name", value)))


def _names(texts: Sequence[str]) -> Cell:
    return ops_cell(texts, 8)


def _table_of(rows: Sequence[Row]) -> Table:
    """Return rows as a table, without the columns that are empty in each."""
    empty = (None, "")
    names = [name for name in dict.fromkeys(name for row in rows for name in row)
             if any(row.get(name) not in empty for row in rows[:_ROWS])]  # fmt: skip
    numbers = {
        at for at, name in enumerate(names)
        if all(isinstance(row.get(name), (int, float, type(None))) for row in rows[:_ROWS])
    }  # fmt: skip
    cells = [[_scalar(name, row.get(name)) for name in names] for row in rows]
    return Table([_head(name) for name in names], cells, frozenset(numbers))


def _scalar(name: str, value: Scalar) -> Cell:
    if name.endswith(_TIME) and isinstance(value, str):
        return moment(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else Quote(str(value))


# How much of a page a notebook shows


def _brief(page: Page) -> Page:
    """Return the start of each part of a page, without charts."""
    figures = {name: _brief_cell(text) for name, text in list(page.figures.items())[:_SECTIONS]}
    sections = [Section(one.title, _brief_blocks(one.blocks, 0)) for one in page.shown]
    sections = [one for one in sections if one.blocks]
    more = sections[_SECTIONS:]
    left_out = [Section("", [Prose(f"and {count(len(more), 'part')} more")])] if more else []
    return attrs.evolve(
        page,
        name=_brief_cell(page.name),
        status=None if page.status is None else Mark(bounded(page.status.text, _TEXT), page.status.tone),
        lead=_brief_cell(page.lead),
        figures=figures,
        sections=[*sections[:_SECTIONS], *left_out],
    )


def _brief_blocks(blocks: Sequence[Block], depth: int) -> list[Block]:
    shown = [_brief_block(block, depth) for block in blocks[:_ROWS] if not isinstance(block, (Flow, Timeline))]
    more = len(blocks) - _ROWS
    return [*shown, Prose(f"and {more} more")] if more > 0 else shown


def _brief_block(block: Block, depth: int) -> Block:
    if isinstance(block, Prose):
        return Prose(_brief_cell(block.text), block.tone)
    if isinstance(block, Facts):
        facts = [(_brief_cell(name), _brief_cell(each)) for name, each in block.rows[: 2 * _ROWS]]
        return Facts([*facts, *_more(len(block.rows) - 2 * _ROWS, lambda text: ("", text))])
    if isinstance(block, Table):
        rows = [[_brief_cell(each) for each in row] for row in block.rows[:_ROWS]]
        rest = [""] * (len(block.heads) - 1)
        more = _more(len(block.rows) - _ROWS, lambda text: [text, *rest])
        # The text that tells how many more there are is not a number.
        numbers = block.numbers - {0} if more else block.numbers
        return Table(block.heads, [*rows, *more], numbers, block.caption)
    if isinstance(block, Listing):
        items = [_brief_cell(each) for each in block.items[:_ROWS]]
        return Listing([*items, *_more(len(block.items) - _ROWS, lambda text: text)])
    if isinstance(block, Diff):
        lines = [(mark, bounded(line, _TEXT)) for mark, line in block.lines[: 2 * _ROWS]]
        more = _more(len(block.lines) - 2 * _ROWS, lambda text: (" ", f"... {text}"))
        return Diff([*lines, *more], _brief_cell(block.title))
    if isinstance(block, Fold):
        blocks = _brief_blocks(block.blocks, depth + 1) if depth < _DEPTH else [Prose("See the report.")]
        return Fold(_brief_cell(block.title), blocks, block.opened)
    if isinstance(block, Bars):
        return attrs.evolve(block, bars=[attrs.evolve(bar, op=bounded(bar.op, _TEXT)) for bar in block.bars[:_ROWS]])
    return block


def _more(number: int, make: Any) -> list[Any]:
    return [make(f"and {number} more")] if number > 0 else []


def _brief_cell(cell: Cell) -> Cell:
    parts = cell if isinstance(cell, tuple) else (cell,)
    shown = tuple(
        each[:_TEXT] if isinstance(each, str) else attrs.evolve(each, text=bounded(each.text, _TEXT))
        for each in parts[:_PARTS]
    )
    more = (f" and {len(parts) - _PARTS} more",) if len(parts) > _PARTS else ()
    return (*shown, *more) if isinstance(cell, tuple) else shown[0]


# Ledgers and tables


@page_of_result.register(LedgerLog)
def _(value: LedgerLog) -> Page:
    series = value.table_series()
    number, head = value.event_store.head()
    exports = list(value.events(kind=Exported.kind, desc=True, limit=5))[::-1]
    facts = Facts([("file", Quote(value.path)), ("id", Code(value.id)), ("hash of the last event", Code(head.hex()))])
    sections = [
        Section("Tables", [_table_of(to_rows(series))] if series else []),
        Section("Last exports", [events_table(exports)] if exports else []),
        Section("File", [facts]),
    ]
    lead = f"{count(number, 'event')}, {count(len(series), 'table')}"
    return Page("Ledger", Quote(Path(value.path).name), None, lead, sections=sections)


@page_of_result.register(TableLog)
def _(value: TableLog) -> Page:
    state = value.state
    try:
        blame: Mapping[str, Event] = value.blame()
        note: list[Block] = []
    except LedgerError as error:  # its rules are in memory all the same
        blame, note = {}, [Prose(("Who set the rules is not known: ", Quote(str(error))), BAD)]
    rules = rule_blocks(state, blame) or [Prose("The table has no rule.")]
    return _table_page(state, [*note, *rules])


@page_of_result.register(TableState)
def _(value: TableState) -> Page:
    return _table_page(value, [_table_of(value.to_dicts())] if value.rules else [Prose("It has no rule.")])


def _table_page(state: TableState, rules: Sequence[Block]) -> Page:
    base = "the content of a dict" if state.from_dict else f"base {state.base}"
    name = Code(f"{state.table}@{state.version}")
    return Page("Table", name, None, Quote(base), {"rules": str(len(state.rules))}, [Section("", rules)])


@page_of_result.register(ResolvedState)
def _(value: ResolvedState) -> Page:
    if value.bundle is not None:
        return export_page(value, value.bundle, None, None)
    snapshot = value.snapshot
    figures: dict[str, Cell] = {"rules": str(len(value.state.rules))}
    if snapshot is not None:
        figures |= {"decompositions": str(len(snapshot.ops)), "pending": str(len(snapshot.pending))}
        figures["torch"] = Quote(str(snapshot.build.get("torch")))
    idle = [(Code(each.op), Quote(str(each))) for each in value.idle]
    sections = [
        Section("", [_table_of(value.to_dicts())] if value.state.rules else []),
        Section("Rules that cannot act", [Table(("op", "why"), idle)] if idle else []),
    ]
    return Page("Table", Code(value.name), None, Quote(f"base {value.state.base}"), figures, sections)


# Events


@page_of_result.register(Event)
def _(value: Event) -> Page:
    body = value.body
    changes = [(Code(each.op), each.action) for each in value.changes]
    sections = [
        Section("", [Facts([("table", Code(f"{value.table}@{value.version}")), *event_rows(value)])]),
        Section("Changes", [Table(("op", "rule"), changes)] if changes else []),
        Section("Ops in the graph", [*_bars(body)] if isinstance(body, Exported) else []),
    ]
    return Page(value.kind.capitalize(), Code(f"#{value.seq}"), _verdict(value), Quote(summary(value)), {}, sections)


def _verdict(event: Event) -> Mark | None:
    if not isinstance(event.body, Exported):
        return None
    failed = event.body.error is not None
    return Mark("failed", BAD) if failed else Mark("succeeded", GOOD)


def _bars(body: Exported) -> Iterable[Block]:
    ops = sorted({*body.ops_before, *body.ops_after})
    bars = [Bar(op, body.ops_before.get(op, 0), body.ops_after.get(op, 0)) for op in ops]
    bars.sort(key=lambda bar: (-max(bar.before, bar.after), bar.op))
    if bars:
        yield Bars(("before", "after"), bars)
    if len(bars) > _ROWS:
        yield Prose(f"and {count(len(bars) - _ROWS, 'op')} more")


@page_of_result.register(RecordedEvent)
def _(value: RecordedEvent) -> Page:
    return event_page(value)


@page_of_result.register(ExportResult)
def _(value: ExportResult) -> Page:
    page = page_of_result(value.event)
    same = "" if value.same_graph_as is None else Code(f"export:{value.same_graph_as}")
    facts: list[tuple[Cell, Cell]] = [("same graph as", same)] if same else []
    facts += [("saved as", _names(value.files))] if value.files else []
    return attrs.evolve(page, sections=[Section("", [Facts(facts)] if facts else []), *page.sections])


@page_of_result.register(ExportBundle)
def _(value: ExportBundle) -> Page:
    return page_of_result(value.event)


@page_of_result.register(Stamp)
def _(value: Stamp) -> Page:
    sections = [Section("", [events_table([each.event for each in value.bundles])])]
    return Page("Stamp", "", None, count(len(value.bundles), "export"), sections=sections)


@page_of_result.register(ExportTotals)
def _(value: ExportTotals) -> Page:
    status = Mark(f"{value.failed} failed", BAD) if value.failed else None
    return Page("Exports", "", status, count(value.exports, "export"), sections=(Section("", totals_blocks(value)),))


# Rules


@page_of_result.register(Rule)
def _(value: Rule) -> Page:
    given = value.decomposition
    if given is None:
        return Page("Rule", Mark(value.action), None, "the op stays in the graph")
    page = page_of_result(given)
    return attrs.evolve(page, kind="Rule", name=(f"{value.action}: ", Code(given.label())))


@page_of_result.register(Decomposition)
def _(value: Decomposition) -> Page:
    rows: list[tuple[Cell, Cell]] = [
        (_words(name), Code(each))
        for name, each in value.to_json().items()
        if name != "source" and isinstance(each, str)
    ]
    source = [Diff(source_lines(value.source))] if value.source else []
    sections = [Section("", [Facts(rows)]), Section("Source", source)]
    return Page("Decomposition", Code(value.label()), None, "", sections=sections)


@page_of_result.register(RuleDiff)
def _(value: RuleDiff) -> Page:
    rows: list[tuple[Cell, Cell]] = [
        (name, Mark("no rule", QUIET) if rule is None else Quote(rule.label()))
        for name, rule in (("before", value.before), ("after", value.after))
    ]
    lines = [(line[:1], line[1:]) for line in value.source_diff()[2:]]
    sections = [Section("", [Facts(rows)]), Section("Source", [Diff(lines)] if lines else [])]
    return Page("Difference", Code(value.op), None, "", sections=sections)


# Answers


@page_of_result.register(Explanation)
def _(value: Explanation) -> Page:
    rows: list[tuple[Cell, Cell]] = [
        ("torch", Quote(value.evidence)),
        ("by default", Quote(value.default)),
        ("can stay in a graph", Quote(value.preservable)),
    ]
    if value.counts is not None:
        rows.append(("nodes", f"{value.counts.get('before', 0)} before, {value.counts.get('after', 0)} after"))
        rows.append(("decomposed", count(value.counts.get("fired", 0), "time")))
    name: Cell = (Code(value.op), " in ", Code(f"{value.table}@{value.version}"))
    events = [events_table(value.events)] if value.events else []
    sections = [Section("", [Facts(rows)]), Section("Events that changed its rule", events)]
    return Page("Op", name, outcome_mark(value.outcome), Quote(value.because), sections=sections)


@page_of_result.register(Why)
def _(value: Why) -> Page:
    page = page_of_result(value.answer)
    rows = [("to keep it", _advice(value.keep)), ("to decompose it", _advice(value.decompose))]
    return attrs.evolve(page, sections=[Section("", [Facts(rows)]), *page.sections])


def _advice(advice: Advice) -> Cell:
    return (Code(advice.line), " ", Quote(advice.reason)) if advice.line else Quote(advice.reason)


@page_of_result.register(Behaviour)
def _(value: Behaviour) -> Page:
    shown = value.differences[:3]
    diffs: list[Block] = [Diff(list(diff_lines(rows_that_differ(each, _ROWS))), Code(each.call)) for each in shown]
    status = Mark(VERDICTS.get(value.verdict, value.verdict), BAD if value.differs else "")
    lead = f"{len(value.differences)} of {count(value.samples, 'sample')} differ; {value.reason}".rstrip("; ")
    return Page("Behaviour", Code(value.op), status, Quote(lead), sections=(Section("", diffs),))


@page_of_result.register(Verification)
def _(value: Verification) -> Page:
    status = Mark(count(len(value.problems), "problem"), BAD) if value.problems else Mark("nothing is wrong", GOOD)
    sections = [
        Section("Problems", [_table_of(value.to_dicts())] if value.problems else []),
        Section("Signatures", [_table_of(to_rows(value.signatures))] if value.signatures else []),
        Section("", [Facts([("hash of the last event", Code(value.head))])]),
    ]
    return Page("Verification", "", status, f"{count(value.events, 'event')} read", sections=sections)


@page_of_result.register(StateDiff)
def _(value: StateDiff) -> Page:
    return diff_page(value)


@page_of_result.register(Drift)
def _(value: Drift) -> Page:
    return drift_page(value)


@page_of_result.register(Upgrade)
def _(value: Upgrade) -> Page:
    return upgrade_page(value)


@page_of_result.register(UpgradeReport)
def _(value: UpgradeReport) -> Page:
    return check_page(value)


@page_of_result.register(UpgradeCheck)
def _(value: UpgradeCheck) -> Page:
    found = len(value.findings)
    status = Mark(count(found, "finding"), BAD) if found else Mark("nothing changed", GOOD)
    return Page("Upgrade check", "", status, "", sections=(Section("", check_blocks(value, 4)),))


@page_of_result.register(NumericsCheck)
def _(value: NumericsCheck) -> Page:
    return numerics_page(value)


@page_of_result.register(ProgramCheck)
def _(value: ProgramCheck) -> Page:
    return program_page(value)


@page_of_result.register(OpsetCheck)
def _(value: OpsetCheck) -> Page:
    return opset_page(value)


@page_of_result.register(Page)
def _(value: Page) -> Page:
    return value


@page_of_result.register(GateResult)
def _(value: GateResult) -> Page:
    return gate_page(value)


# Lists


@page_of_result.register(Rows)
def _(value: Rows) -> Page:  # type: ignore[type-arg]  # singledispatch takes the class
    if len(value) == 1:
        return page_of_result(value[0])
    first = value[:_ROWS]
    kind, noun = "Results", "row"
    blocks: list[Block] = []
    events = [getattr(each, "event", each) for each in first]
    if first and all(isinstance(each, Event) for each in events):
        kind, noun = "Events", "event"
        blocks = [_of_ledgers(events_table(events), [getattr(each, "ledger", None) for each in first])]
    elif first and all(isinstance(each, (Explanation, Why)) for each in first):
        blocks = [_answers(first)]
    elif first:
        blocks = [_table_of(to_rows(first))]
    blocks += [Prose(text) for text in _more(len(value) - len(first), str)]
    return Page(kind, "", None, count(len(value), noun), sections=(Section("", blocks),))


def _of_ledgers(table: Table, ledgers: Sequence[Any]) -> Table:
    """Return a table with the names of ledgers as its first column; as it is, if the rows have none."""
    if None in ledgers:
        return table
    rows = [[Code(str(getattr(each, "name", each))), *row] for each, row in zip(ledgers, table.rows, strict=True)]
    return attrs.evolve(table, heads=["ledger", *table.heads], rows=rows)


def _answers(items: Sequence[Explanation | Why]) -> Table:
    answers = [each.answer if isinstance(each, Why) else each for each in items]
    rows: list[tuple[Cell, ...]] = [
        (Code(each.op), Code(f"{each.table}@{each.version}"), outcome_mark(each.outcome), Quote(each.because))
        for each in answers
    ]
    return Table(("op", "table", "outcome", "because"), rows)
