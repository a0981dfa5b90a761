"""Commands about exports: exports, reproduce; and the lines that `show` prints of an export."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from decomp_ledger.analysis.export_results import ExportResult
from decomp_ledger.analysis.outcome import facts, without_effect
from decomp_ledger.analysis.totals import ExportTotals
from decomp_ledger.cli.hub_answers import LIMIT, hub_options, needs_hub, open_hub, print_exports, without_hub
from decomp_ledger.cli.output import (
    FOUND,
    STAR,
    LedgerOption,
    at_text,
    columns,
    count,
    event_json,
    folded,
    json_option,
    markdown_option,
    note,
    pass_ledger,
    print_lines,
    print_page,
    progress,
    prose,
    summary,
    when,
    write_json,
)
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import Event, Exported
from decomp_ledger.model.state_specs import STATE
from decomp_ledger.queries import Reproduction, ResolvedState
from decomp_ledger.reports.ledger_view import exports_page
from decomp_ledger.reports.pages import torches_of
from decomp_ledger.reports.words import made_from_text, model_text
from decomp_ledger.transfer.export_bundle import ExportBundle
from decomp_ledger.transfer.stamp import Stamp

if TYPE_CHECKING:
    from decomp_ledger.pytorch.reproduced_table import Rerun

__all__ = ["COMMANDS", "export_json", "print_export", "print_stamp", "print_totals", "stamp_json"]

_NAMED = 8  # ops that a line names
_MAKERS = 2  # makers that a row names


@click.command()
@click.option("--totals", is_flag=True, help="Show only what all exports show together.")
@hub_options("of", "program", "failed", "limit")
@markdown_option
@json_option
@pass_ledger
def exports(
    option: LedgerOption,
    totals: bool,
    hub: str | None,
    of: str | None,
    program: str | None,
    failed: bool,
    limit: int | None,
    markdown: bool,
    as_json: bool,
) -> int:
    """List the exports: the model, the table, the torch, the result and its files; then what they show together.

    That is: rules that did nothing in any export, ops that one export kept and the next one lost, and results that no
    later export lowered. What torch traced outside of exports comes after them, with its kind.

    With --hub, list the exports of all ledgers of a hub, newest first; exit with 1 if none matches.
    """
    if hub is not None:
        without_hub(**{"--totals": totals})
        opened = open_hub(hub)
        of_hub = opened.exports(ledger=of, program=program, failed=failed, limit=limit or LIMIT)
        return print_exports(of_hub, opened, as_json=as_json, markdown=markdown)
    needs_hub(of=of, program=program, failed=failed, limit=limit)
    with option.read() as ledger:
        if totals:
            together = ledger.export_totals()
            if as_json:
                write_json(together.to_json())
            elif markdown:
                print_page(exports_page(ledger.path, ledger.id, [], together, {}))
            else:
                print_totals(together, counts=True)
            return 0
        found = ledger.export_results()
        if as_json:
            results: list[Json] = [{**event_json(each.event), **each.to_json()} for each in found]
            write_json([*results, *map(event_json, ledger.tracings())])
            return 0
        if markdown:
            together, torches = ledger.export_totals(), torches_of(found, ledger)
            print_page(exports_page(ledger.path, ledger.id, found, together, torches, list(ledger.tracings())))
            return 0
        rows = (
            (
                f"export:{event.seq}",
                model_text(event, ledger.id),
                f"{event.table}@{event.version}",
                when(event.recorded_at),
                str(ledger.environment(event.environment).get("torch", "")),
                summary(event) + _same_graph(each),
                ", ".join(each.files),
                "" if event.call_site is None else str(event.call_site),
            )
            for each in found
            for event in (each.event,)
        )
        columns(
            ("export", "model", "table", "when (UTC)", "torch", "result", "saved as", "where"), rows, names_break=False
        )
        print_totals(ledger.export_totals())
        _print_tracings(list(ledger.tracings()))
    return 0


def _print_tracings(found: list[Event]) -> None:
    """Print what was traced outside of exports, if anything was."""
    rows = (
        (
            f"#{event.seq}",
            event.kind,
            f"{event.table}@{event.version}",
            when(event.recorded_at),
            summary(event),
            "" if event.call_site is None else str(event.call_site),
        )
        for event in found
    )
    if found:
        note("")
        columns(("event", "kind", "table", "when (UTC)", "what", "where"), rows, names_break=False)


def _same_graph(found: ExportResult) -> str:
    return "" if found.same_graph_as is None else f"; same graph as export:{found.same_graph_as}"


def print_totals(found: ExportTotals, *, counts: bool = False) -> None:
    """Print what exports show together.

    Args:
        found: the totals.
        counts: print how many exports there are, too.
    """
    if counts:
        note(f"{found.exports} export{'' if found.exports == 1 else 's'}, {found.failed} failed")
    if found.unused_rules:
        rules = [f"{each.action} {each.op} ({each.table})" for each in found.unused_rules]
        prose(f"rules that did nothing in any export: {_some(rules)}")
    for each in found.lost:
        prose(f"export:{each.kept_by} kept {each.op}, and export:{each.lost_by}, which lowered its result, lost it")
    if len(found.unused_results) > 1:
        results = [f"export:{seq}" for seq in found.unused_results]
        prose(f"results that no later export lowered: {_some(results)}")


def print_stamp(name: str, stamp: Stamp) -> None:
    """Print which exports made the program in a file."""
    *earlier, last = (f"{bundle.name} of ledger {bundle.ledger[:8]}" for bundle in stamp.bundles)
    before = f", after {', '.join(earlier)}" if earlier else ""
    prose(f"{name} was made by {last}{before}")
    for number in stamp.gaps:
        names = [bundle.name for bundle in stamp.bundles[max(number - 1, 0) : number + 1]]
        moment = f"before {names[0]}" if number == 0 else f"between {' and '.join(names)}"
        note(f"  what happened to the program {moment} is not known")
    if stamp.edited and name.endswith((".pte", ".ptd")):
        note("  the program was changed between its export and its saving, as that of each such file is")
    elif stamp.edited:
        note("  THE PROGRAM WAS CHANGED between its export and its saving")
    if stamp.redacted:
        note("  redacted: it has no reasons, actors and call sites; `verify --against` checks the rest with the ledger")


def stamp_json(stamp: Stamp) -> dict[str, Json]:
    """Return a stamp as plain data, without the tables."""
    exported: list[Json] = [
        {"ledger": bundle.ledger, "seq": bundle.event.seq, "hash": bundle.event.hash, "redacted": bundle.redacted}
        for bundle in stamp.bundles
    ]
    return {"graph": stamp.graph, "edited": stamp.edited, "gaps": list[Json](stamp.gaps), "exports": exported}


def print_export(found: ResolvedState, bundle: ExportBundle) -> None:
    """Print one export: what happened to each op, what made it, and the rules that had no effect."""
    event, body = bundle.event, bundle.body
    note(f"{bundle.name}  {event.table}@{event.version}  {summary(event)}")
    if body.error is not None:
        print_lines(folded(f"{body.error[0]}: {body.error[1]}", "  "))
    prose(f"  by {event.actor}{at_text(event)}, {when(event.recorded_at)} UTC")
    _print_source(found, bundle)
    counts = (body.ops_before, body.ops_after, body.fired)
    outside = found.outside_core
    rows = (
        (
            op + (STAR if op in outside else ""),
            *(str(each.get(op, "")) for each in counts),
            outcome.word,
            _made_by(body, op),
        )
        for op, outcome in found.outcomes.items()
    )
    columns(("op", "before", "after", "fired", "outcome", "made by"), rows)
    if outside:
        number = f"{len(outside)} of {count(len(body.ops_after), 'op')} of the result"
        verb = "is" if len(outside) == 1 else "are"
        note(f"* {number} {verb} not Core ATen; `decomp-ledger check opset {bundle.name}` says what removes them")
    if body.stale:
        made = "the dict was made" if bundle.state.from_dict else "the table was torch's own and was read"
        prose(f"{made} too early, so it lacks {_some(body.stale)}")
    if body.ignored:
        note(f"torch ignored {_some(body.ignored)}")
    idle = without_effect(body, bundle.state)
    if idle:
        prose(f"rules without effect here: {_some(idle)}")


def _print_source(found: ResolvedState, bundle: ExportBundle) -> None:
    """Print what a program was exported from, and what became of the result."""
    body, result = bundle.body, found.result
    if body.module is not None:
        at = "" if body.module.file is None else f", defined at {body.module.file}:{body.module.line}"
        note(f"  of {body.module.name}{at}")
    if body.made_from is not None:
        note(f"  made from the result of {made_from_text(body.made_from, bundle.ledger)}")
    if result is not None and result.same_graph_as is not None:
        note(f"  the same graph as export:{result.same_graph_as}; values of weights are not compared")
    for event in () if result is None else result.saved:
        note(f"  saved {summary(event).partition(' ')[2]} at {when(event.recorded_at)} UTC (#{event.seq})")


def _made_by(body: Exported, op: str) -> str:
    """Return the ops that the nodes of an op were made of, other than the program's own nodes, in a few words."""
    made = facts(op, body).emitted
    names = {row.chain[-1] if row.chain else "unknown" if row.chain is None else row.source or "torch" for row in made}
    return ", ".join(sorted(names)[:_MAKERS]) + (" ..." if len(names) > _MAKERS else "")


def export_json(found: ResolvedState, bundle: ExportBundle) -> dict[str, Json]:
    """Return one export as plain data."""
    return {
        **event_json(bundle.event),
        **({} if found.result is None else found.result.to_json()),
        "ledger": bundle.ledger,
        "idle": list[Json](without_effect(bundle.body, bundle.state)),
        "outside_core": list[Json](found.outside_core),
        "outcomes": {op: outcome.to_json() for op, outcome in found.outcomes.items()},
    }


def _some(ops: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(ops) - _NAMED} more" if len(ops) > _NAMED else ""
    return ", ".join(ops[:_NAMED]) + more


@click.command()
@click.argument("export", metavar="export:N|FILE.pt2")
@click.option("--program", type=click.Path(exists=True, dir_okay=False), metavar="FILE.pt2",
              help="The program before its export: run the export again. torch.export.load unpickles it.")  # fmt: skip
@click.option("--trust", multiple=True, metavar="MODULE",
              help="A module to import: one that has decompositions, or defines ops.")  # fmt: skip
@click.option("--nearest", is_flag=True,
              help="With --program: run it also with a table that is not exactly the recorded one.")  # fmt: skip
@json_option
@pass_ledger
def reproduce(
    option: LedgerOption, export: str, program: str | None, trust: tuple[str, ...], nearest: bool, as_json: bool
) -> int:
    """Make the exact table of an export again, here; exit with 1 and name each difference if that is not possible.

    Of FILE.pt2 only the stamp is read. With --program, run the export again and compare the digest of its graph with
    the recorded one; if they differ, show the first node that differs.
    """
    with option.ask() as ledger, progress("reproduce"):
        found = ledger.reproduce_export(export, program=program, trust=(*option.trust, *trust), nearest=nearest)
    if as_json:
        write_json(_reproduction_json(found))
    else:
        _print_reproduction(found)
        if program is not None and found.rerun is None:
            note("the export was not run again, because the table differs; --nearest runs it with the nearest table")
    return 0 if found.exact else FOUND


_COMMIT = re.compile(r"[0-9a-f]{40,64}")


def _commit_text(found: Reproduction) -> str:
    """Return the git commit to go back to; "" if it is not recorded, or not a digest."""
    commit = found.git_commit
    if commit is None or _COMMIT.fullmatch(commit) is None:
        return ""
    changed = ", whose files were changed" if found.git_dirty is True else ""
    if isinstance(found.git_dirty, str):
        changed = f" (whether its files were changed is {found.git_dirty})"
    return f"it was exported at the git commit {commit}{changed}; go back with `git checkout {commit[:12]}`"


def _print_reproduction(found: Reproduction) -> None:
    name, table, differences = found.bundle.name, found.table, found.table.differences
    if differences:
        things = "one difference" if len(differences) == 1 else f"{len(differences)} differences"
        note(f"{name} cannot be made again exactly in torch {table.torch}: {things}")
        for each in differences:
            note(f"  {each}")
    else:
        digest, size = found.bundle.snapshot.digest[:12], count(len(table), "decomposition")
        note(f"{name} is made again exactly: {size}, snapshot {digest}, torch {table.torch}")
    if commit := _commit_text(found):
        note(commit)
    if found.rerun is None:
        return
    if found.rerun.same:
        note(f"the second run gives the same graph: {found.rerun.digest[:12]}")
        return
    recorded = str(found.bundle.body.after)[:12]
    note(f"the second run gives another graph: {found.rerun.digest[:12]}, recorded is {recorded}")
    for line in _graph_lines(found, found.rerun):
        note(f"  {line}")


def _graph_lines(found: Reproduction, again: Rerun) -> Iterator[str]:
    first = found.difference
    if first is not None:
        then, now = first.made_by
        yield f"the first node that differs is number {first.index}:"
        yield f"  then, made of {then or 'an op not known'}: {first.left or '(the graph has ended)'}"
        yield f"  now, made of {now or 'an op not known'}: {first.right or '(the graph has ended)'}"
        return
    before, after = found.bundle.body.ops_after, again.ops
    steps = [
        f"{op} {before.get(op, 0)} -> {after.get(op, 0)}"
        for op in sorted(before.keys() | after.keys())
        if before.get(op, 0) != after.get(op, 0)
    ]
    yield f"ops, then -> now: {', '.join(steps)}" if steps else "the op counts are equal: arguments or types differ"
    yield "give the stamped .pt2 instead of the export's number to see the first node that differs"


def _reproduction_json(found: Reproduction) -> dict[str, Json]:
    return {
        "export": found.bundle.event.seq,
        "ledger": found.bundle.ledger,
        "torch": found.table.torch,
        "exact": not found.table.differences,
        "git_commit": found.git_commit,
        "git_dirty": found.git_dirty,
        "decompositions": len(found.table),
        "snapshot": found.bundle.snapshot.digest,
        "differences": [each.to_json() for each in found.table.differences],
        "rerun": _rerun_json(found),
    }


def _rerun_json(found: Reproduction) -> dict[str, Json] | None:
    again, first = found.rerun, found.difference
    if again is None:
        return None
    difference: dict[str, Json] | None = None
    if first is not None:
        difference = {"index": first.index, "then": first.left, "now": first.right, "made_by": list(first.made_by)}
    recorded = found.bundle.body.after
    return {"same": again.same, "graph": again.digest, "recorded": recorded, "first_difference": difference}


@click.command("would-change")
@click.argument("program", metavar="FILE.pt2", type=click.Path(exists=True, dir_okay=False))
@click.argument("state", required=False, metavar=f"[{STATE}]")
@json_option
@pass_ledger
def would_change(option: LedgerOption, program: str, state: str | None, as_json: bool) -> int:
    """Tell whether lowering FILE.pt2 with a table would change it; exit with 1 if it would.

    Nothing is lowered or recorded. Without a table, torch's default table is meant. torch.export.load unpickles the
    file.
    """
    with option.read() as ledger:
        found = ledger.would_change(program, state)
    if as_json:
        write_json(found.to_json())
        return FOUND if found else 0
    verdict = "the lowering would change the program" if found else "the lowering would change nothing"
    prose(f"{verdict}: {found.because}")
    if found.earlier:
        done = ", ".join(f"export:{event.seq}" for event in found.earlier)
        result = "its results differ" if found.result is None else f"result {found.result[:12]}"
        note(f"done before by {done}; {result}")
    else:
        note("not done before: no export of the ledger lowered this graph with this table")
    note(f"program {found.program[:12]}, snapshot {found.snapshot[:12]}")
    if found.ops:
        columns(("op", "what becomes of it"), found.ops.items())
    return FOUND if found else 0


COMMANDS = (exports, reproduce, would_change)
