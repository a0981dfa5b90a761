"""The pages of one export, of a table, and of one event. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from decomp_ledger.analysis.export_results import ExportResult
from decomp_ledger.analysis.outcome import failure, without_effect
from decomp_ledger.analysis.totals import ExportTotals
from decomp_ledger.analysis.upgrade import Upgrade
from decomp_ledger.model.events import Emission, Event, Exported
from decomp_ledger.queries import RecordedEvent, ResolvedState, UpgradeReport
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
    Flow,
    Fold,
    Listing,
    Mark,
    Page,
    Part,
    Prose,
    Quote,
    Section,
    Table,
    ops_cell,
)
from decomp_ledger.reports.drift_view import newer_section
from decomp_ledger.reports.event_blocks import (
    environment_rows,
    event_rows,
    events_table,
    moment,
    outcome_mark,
    rule_blocks,
    site_cell,
    source_lines,
)
from decomp_ledger.reports.words import count, made_from_text, model_text, summary
from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["Newer", "decompositions", "event_page", "export_page", "exports_table", "table_page", "totals_blocks"]

# What each newer torch changes: version -> the check, the upgrade, or why there is neither.
Newer = Mapping[str, "UpgradeReport | Upgrade | str"]

_UNCHANGED, _TORCH, _UNKNOWN = "the program, unchanged", "torch itself", "unknown"


def export_page(found: ResolvedState, bundle: ExportBundle, ledger: str | None, newer: Newer | None) -> Page:
    """Return the page of an export.

    Args:
        found: the state that the export's spec names.
        bundle: the export.
        ledger: the path of its ledger; None for a stamp.
        newer: what each newer torch changes; None leaves that out.
    """
    body = bundle.body
    status = Mark("failed", BAD) if body.error else Mark("succeeded", GOOD)
    sections = [
        Section("Failure", [*_failure(found, body)]),
        Section("To look at", [*_warnings(found, bundle)]),
        Section("What it was", [*_facts(found, bundle)]),
        Section("Rules", rule_blocks(found.state, bundle.blame(), found.outcomes, _idle(found))),
        Section("Ops before and after", [*_bars(body)]),
        Section("What made the nodes", [*_flow(body)]),
        Section("What happened to each op", [*_outcomes(found, body)]),
        *([] if newer is None else [newer_section(newer)]),
        Section("How to make it again", [*_reproduce(found, bundle, ledger)]),
    ]
    return Page("Export", Code(found.name), status, Quote(summary(bundle.event)), _figures(found, body), sections)


def _figures(found: ResolvedState, body: Exported) -> dict[str, Cell]:
    before, after = sum(body.ops_before.values()), sum(body.ops_after.values())
    lowered = {"nodes": f"{before} → {after}", "kinds of op": f"{len(body.ops_before)} → {len(body.ops_after)}"}
    return {
        **({"nodes before": str(before)} if body.error else lowered),
        "decompositions that ran": str(len(body.fired)),
        "entries of the dict" if found.state.from_dict else "rules": str(len(found.state.rules)),
        "torch": Quote(str(found.environment.get("torch") or _torch_of(found))),
        "milliseconds": str(body.milliseconds),
    }


def _torch_of(found: ResolvedState) -> str:
    """Return the torch whose catalog was used."""
    return "unknown" if found.catalog is None else found.catalog.build.get("torch", "unknown")


def _failure(found: ResolvedState, body: Exported) -> Iterator[Block]:
    if body.error is None:
        return
    kind, message = body.error
    yield Prose((Code(kind), Quote(failure(body))), BAD)
    yield Diff([(" ", line) for line in message.splitlines()[:60]])
    for number, op in enumerate(body.raised or ()):
        outcome = found.outcomes.get(op)
        if number == 0:
            yield Prose("The decompositions in which it was raised, outermost first:")
        if outcome is not None:
            yield Facts([(f"{number + 1}", (Code(op), ": ", outcome_mark(outcome.word), ", ", Quote(outcome.because)))])


def _warnings(found: ResolvedState, bundle: ExportBundle) -> Iterator[Block]:
    body, stamp = bundle.body, found.stamp
    if stamp is not None and stamp.edited:
        always = found.name.endswith((".pte", ".ptd"))
        edited = "The program was changed between its export and its saving"
        yield Prose(f"{edited}, as that of each such file is.") if always else Prose(f"{edited}.", BAD)
    if stamp is not None and stamp.gaps:
        yield Prose("What happened to the program between its exports is not known.", WARN)
    if bundle.redacted:
        yield Prose("Redacted: it has no reasons, actors and call sites.", WARN)
    if body.stale:
        made = "The dict was made" if bundle.state.from_dict else "The table was torch's own and was read"
        yield Prose((f"{made} too early, so it lacks ", *ops_cell(body.stale), "."), WARN)
    if body.ignored:
        yield Prose(("Torch ignored ", *ops_cell(body.ignored), ", which the table has."), WARN)
    idle = without_effect(body, bundle.state)
    if idle:
        yield Prose(("Rules without effect here: ", *ops_cell(idle), "."), WARN)
    unknown = [op for op, outcome in found.outcomes.items() if outcome.word == "unknown"]
    if unknown:
        yield Prose(("What happened to these ops is not known: ", *ops_cell(unknown), "."), WARN)


def _idle(found: ResolvedState) -> dict[str, str]:
    pending = () if found.snapshot is None else found.snapshot.pending
    return {each.op: str(each) for each in found.idle if each.op in found.state.rules and each.op not in pending}


def _facts(found: ResolvedState, bundle: ExportBundle) -> Iterator[Block]:
    event, body = bundle.event, bundle.body
    base = "the content of a dict" if found.state.from_dict else f"base {found.state.base}"
    rows: list[tuple[Cell, Cell]] = [("table", (Code(f"{event.table}@{event.version}"), f", {base}"))]
    if found.stamp is not None:
        rows.append(("exports in the stamp", Code(", ".join(each.name for each in found.stamp.bundles))))
    rows += _source_rows(bundle)
    rows += event_rows(event)
    rows += _result_rows(found)
    yield Facts(rows)
    digests: list[tuple[Cell, Cell]] = [
        (name, Code(value) if value else Mark("not known", QUIET))
        for name, value in (
            ("ledger", bundle.ledger),
            ("hash of the event", event.hash),
            ("graph before", body.before),
            ("graph after", body.after),
            ("snapshot", body.snapshot),
            ("catalog", body.catalog),
        )
    ]
    yield Fold("Environment", [Facts(environment_rows(found.environment))], opened=True)
    yield Fold("Digests", [Facts(digests)])


def _source_rows(bundle: ExportBundle) -> Iterator[tuple[Cell, Cell]]:
    """Give what the program was exported from."""
    module, made_from = bundle.body.module, bundle.body.made_from
    if module is not None:
        at: tuple[Part, ...] = () if module.file is None else (", defined at ", Code(f"{module.file}:{module.line}"))
        yield "model", (Code(module.name), *at)
    if made_from is not None:
        yield "made from", ("the result of ", Code(made_from_text(made_from, bundle.ledger)))


def _result_rows(found: ResolvedState) -> Iterator[tuple[Cell, Cell]]:
    """Give what became of the result."""
    result = found.result
    if found.artefact is not None:
        yield "file", (Quote(summary(found.artefact)), ", event ", Code(f"#{found.artefact.seq}"), ", by its content")
    if result is None:
        return
    if result.same_graph_as is not None:
        yield "same graph as", (Code(f"export:{result.same_graph_as}"), "; values of weights are not compared")
    for event in result.saved:
        at = moment(event.recorded_at)
        yield "saved", (Quote(summary(event).partition(" ")[2]), " at ", at, " UTC, event ", Code(f"#{event.seq}"))


def _bars(body: Exported) -> Iterator[Block]:
    if body.error is not None:
        yield Prose("The export failed, so it gave no graph.")
        counts = sorted(body.ops_before.items(), key=lambda item: (-item[1], item[0]))
        rows: list[tuple[Cell, Cell]] = [(Code(op), str(number)) for op, number in counts]
        if rows:
            yield Table(("op", "nodes before"), rows, frozenset({1}))
        return
    ops = {*body.ops_before, *body.ops_after}
    bars = [Bar(op, body.ops_before.get(op, 0), body.ops_after.get(op, 0)) for op in ops]
    bars.sort(key=lambda bar: (-max(bar.before, bar.after), bar.op))
    if bars:
        yield Bars(("before", "after"), bars)


def _flow(body: Exported) -> Iterator[Block]:
    rows = body.emitted
    if rows is None:
        if body.error is None:
            yield Prose("What made each node is not known, because an older version recorded the export.")
        return
    sums: dict[tuple[str, str], int] = {}
    for row in rows:
        key = _source(row), row.op
        sums[key] = sums.get(key, 0) + row.count
    links = [(source, op, number) for (source, op), number in sums.items() if source != _UNCHANGED]
    links.sort(key=lambda link: (-sum(n for s, _, n in links if s == link[0]), link[0], -link[2], link[1]))
    kept = sum(number for (source, _), number in sums.items() if source == _UNCHANGED)
    total = sum(sums.values())
    yield Prose(f"{kept} of {count(total, 'node')} are the program's own, unchanged; {total - kept} were made.")
    if links:
        yield Flow("Which decomposition made which nodes", ("made by", "op"), links)
        chains: list[tuple[Cell, Cell, Cell]] = [
            (Code(" > ".join(row.chain)), Code(row.op), str(row.count))
            for row in sorted(rows, key=lambda row: (row.chain or (), -row.count, row.op))
            if row.chain and len(row.chain) > 1
        ]
        if chains:
            nested = Table(("decompositions, outermost first", "op", "nodes"), chains, frozenset({2}))
            yield Fold("Decompositions that ran within others", [nested])


def _source(row: Emission) -> str:
    """Return what made nodes: the outermost decomposition, the program, or torch itself."""
    if row.chain is None:
        return _UNKNOWN
    if row.chain:
        return row.chain[0]
    if row.source == row.op:
        return _UNCHANGED
    return _TORCH if row.source is None else f"{row.source} (torch itself)"


def _outcomes(found: ResolvedState, body: Exported) -> Iterator[Block]:
    outside = {*found.outside_core}
    rows: list[tuple[Cell, ...]] = []
    for op, outcome in found.outcomes.items():
        counts = (str(each.get(op, "")) for each in (body.ops_before, body.ops_after, body.fired))
        name: Cell = (Code(op), " *") if op in outside else Code(op)
        rows.append((name, *counts, outcome_mark(outcome.word), Quote(outcome.because)))
    if rows:
        yield Table(("op", "before", "after", "fired", "outcome", "because"), rows, frozenset({1, 2, 3}))
    if outside:
        verb = "is" if len(outside) == 1 else "are"
        number = f"* {len(outside)} of {count(len(body.ops_after), 'op')} of the result {verb} not Core ATen; "
        yield Prose((number, Code("decomp-ledger check opset"), " says what removes them."))


def _reproduce(found: ResolvedState, bundle: ExportBundle, ledger: str | None) -> Iterator[Block]:
    name = found.name if ledger is None else bundle.name
    option = "" if ledger is None else f" --ledger {_quoted(ledger)}"
    commit = found.environment.get("git_commit")
    if isinstance(commit, str) and commit.isalnum():
        dirty = " The files of that tree had other changes." if found.environment.get("git_dirty") is True else ""
        yield Prose(f"It ran at a git commit; go back to it first.{dirty}")
        yield Diff([(" ", f"git checkout {commit}")])
    if torch := found.environment.get("torch"):
        yield Prose(("It ran with torch ", Quote(str(torch)), ". Make the table, then the graph of a saved program:"))
    yield Diff(
        [
            (" ", f"decomp-ledger{option} reproduce {_quoted(name)}"),
            (" ", f"decomp-ledger{option} reproduce {_quoted(name)} --program before.pt2"),
            *([] if ledger is None else [(" ", f"decomp-ledger{option} verify --expect {bundle.event.hash}")]),
        ]
    )


def _quoted(text: str) -> str:
    """Return a text as one word of a shell."""
    return shlex.quote(text)


# A table


def table_page(
    found: ResolvedState,
    blame: Mapping[str, Event],
    events: Sequence[Event],
    exports: Sequence[ExportResult],
    totals: ExportTotals | None,
    ledger: str,
    newer: Newer | None,
) -> Page:
    """Return the page of a table at a version.

    Args:
        found: the state.
        blame: op -> the event that set its rule.
        events: the events of the table, oldest first.
        exports: its exports.
        totals: what its exports show together; None if that is not asked.
        ledger: the id of the ledger; "" without one.
        newer: what each newer torch changes; None leaves that out.
    """
    state, snapshot = found.state, found.snapshot
    figures: dict[str, Cell] = {"rules": str(len(state.rules)), "version": str(state.version)}
    if snapshot is not None:
        figures |= {
            "decompositions": str(len(snapshot.ops)),
            "pending": str(len(snapshot.pending)),
            "torch": Quote(str(snapshot.build.get("torch"))),
        }
    if events:
        figures["exports"] = str(len(exports))
    base = "the content of a dict" if state.from_dict else f"base {state.base}"
    sections = [
        Section("To look at", [] if totals is None else totals_blocks(totals)),
        Section("Rules", rule_blocks(state, blame, None, _idle(found)) or [Prose("The table has no rule.")]),
        Section("Snapshot", _snapshot(found)),
        *([] if newer is None else [newer_section(newer)]),
        Section("Exports", [exports_table(exports, {}, ledger)] if exports else []),
        Section("History", [events_table(events)] if events else []),
        Section("Environment", [Facts(environment_rows(found.environment))] if found.environment else []),
    ]
    return Page("Table", Code(found.name), None, Quote(_table_lead(found, base)), figures, sections)


def _table_lead(found: ResolvedState, base: str) -> str:
    snapshot = found.snapshot
    if snapshot is None:
        return f"{base}; it was never materialized, so its decompositions are not known"
    words = ("missing", "other entries") if found.state.from_dict else ("preserved", "overridden")
    return f"{base}; {len(snapshot.preserved)} {words[0]}, {len(snapshot.overridden)} {words[1]}"


def _snapshot(found: ResolvedState) -> list[Block]:
    snapshot, event = found.snapshot, found.materialization
    if snapshot is None:
        return []
    rows: list[tuple[Cell, Cell]] = [("digest", Code(snapshot.digest))]
    if event is not None:
        rows.append(("materialized by", (Code(f"{event.table}@{event.version}"), ", event ", Code(f"#{event.seq}"))))
    rows += [(name, ops_cell(ops, 40)) for name, ops in (("pending", snapshot.pending),) if ops]
    rows += [(("build: ", Quote(name)), Quote(str(value))) for name, value in snapshot.build.items()]
    return [Facts(rows)]


def decompositions(found: ResolvedState) -> list[Section]:
    """Return the section that lists what a table decomposes, and by what."""
    snapshot = found.snapshot
    if snapshot is None:
        return [Section("Decompositions", [Prose("No torch is recorded, so its decompositions are unknown.")])]
    rows: list[tuple[Cell, Cell]] = [(Code(op), Quote(str(each))) for op, each in snapshot.ops.items()]
    return [Section("Decompositions", [Table(("op", "decomposition"), rows)] if rows else [])]


def exports_table(exports: Sequence[ExportResult], torches: Mapping[str, str], ledger: str) -> Table:
    """Return exports as a table, in their order.

    Args:
        exports: the exports, with what became of their results.
        torches: the digest of an environment -> its torch version; without it, no torch is shown.
        ledger: the id of their ledger.
    """
    rows: list[list[Cell]] = []
    for each in exports:
        event, body = each.event, each.event.body
        failed = isinstance(body, Exported) and body.error is not None
        row: list[Cell] = [Code(f"export:{event.seq}"), Quote(model_text(event, ledger))]
        row += [Code(f"{event.table}@{event.version}"), moment(event.recorded_at)]
        row += [Quote(torches.get(event.environment, ""))] if torches else []
        row.append(Mark("failed", BAD) if failed else Mark("succeeded", GOOD))
        same: tuple[Part, ...] = ()
        if each.same_graph_as is not None:
            same = ("; same graph as ", Code(f"export:{each.same_graph_as}"))
        row += [(Quote(summary(event)), *same), Quote(", ".join(each.files)), site_cell(event.call_site)]
        rows.append(row)
    heads = ("export", "model", "table", "when (UTC)", *(["torch"] if torches else []))
    return Table((*heads, "status", "result", "saved as", "where"), rows)


def totals_blocks(found: ExportTotals) -> list[Block]:
    """Return what exports show together: what needs a look."""
    blocks: list[Block] = []
    if found.failed:
        blocks.append(Prose(f"{found.failed} of {count(found.exports, 'export')} failed.", BAD))
    if found.unused_rules:
        rules = [f"{each.action} {each.op} ({each.table})" for each in found.unused_rules]
        blocks.append(Prose(("Rules that did nothing in any export: ", *ops_cell(rules, 8), "."), WARN))
    if found.lost:
        items: list[Cell] = [
            (Code(f"export:{each.kept_by}"), " kept ", Code(each.op), ", and ", Code(f"export:{each.lost_by}"),
             ", which lowered its result, lost it")
            for each in found.lost
        ]  # fmt: skip
        blocks += [Prose("Ops that one export kept and the next one lost:", WARN), Listing(items)]
    if len(found.unused_results) > 1:
        names = [f"export:{seq}" for seq in found.unused_results]
        blocks.append(Prose(("Results that no later export lowered: ", *ops_cell(names, 8), ".")))
    return blocks


# One event


def event_page(found: RecordedEvent) -> Page:
    """Return the page of one event."""
    event = found.event
    rows: list[tuple[Cell, Cell]] = []
    sources: list[Block] = []
    for change in event.changes:
        each = found.decompositions.get(change.decomposition or "")
        text = change.action if each is None else f"{change.action}: {each.label()}"
        rows.append((Code(change.op), Quote(text)))
        if each is not None and each.source:
            sources.append(Fold(("Source for ", Code(change.op)), [Diff(source_lines(each.source))]))
    hashes: list[tuple[Cell, Cell]] = [("hash", Code(event.hash)), ("hash before", Code(event.prev_hash))]
    sections = [
        Section("What it was", [Facts([("table", Code(f"{event.table}@{event.version}")), *event_rows(event)])]),
        Section("Changes", [Table(("op", "rule"), rows), *sources] if rows else []),
        Section("Environment", [Facts([*environment_rows(found.environment), *hashes])]),
    ]
    return Page(f"Event {event.kind}", Code(f"#{event.seq}"), None, Quote(summary(event)), {}, sections)
