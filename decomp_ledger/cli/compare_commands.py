"""Commands that compare two states or two torch versions: diff, drift, upgrade. None imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from decomp_ledger.analysis.drift import Drift
from decomp_ledger.analysis.export_diff import ExportDiff
from decomp_ledger.analysis.upgrade import Finding, RuleEffect, Upgrade
from decomp_ledger.cli import drift_output
from decomp_ledger.cli.output import (
    FOUND,
    LedgerOption,
    columns,
    count,
    json_option,
    markdown_option,
    note,
    pass_ledger,
    print_page,
    rule_diff_json,
    rule_json,
    snapshot_json,
    write_json,
)
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.rules import TORCH_ORIGINS, Decomposition, RuleDiff
from decomp_ledger.model.state_specs import STATE
from decomp_ledger.queries import ResolvedState, StateDiff, UpgradeReport
from decomp_ledger.reports.diff_view import diff_page, fact_text, rule_texts, source_change
from decomp_ledger.reports.drift_view import check_page, drift_page, upgrade_page
from decomp_ledger.reports.drift_words import only_used_text

if TYPE_CHECKING:
    from decomp_ledger.pytorch.graph_digest import GraphDifference

__all__ = ["COMMANDS"]

_STATES = "A and B are each TABLE, TABLE@VERSION, TABLE@TAG, torch:VERSION, export:N, FILE.pt2 or catalog:FILE."


@click.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", required=False, metavar="[B]")
@click.option("--graphs", is_flag=True,
              help="For .pt2 files: show the first node that differs. torch.export.load unpickles them.")  # fmt: skip
@markdown_option
@json_option
@pass_ledger
def diff_command(
    option: LedgerOption, before: str, after: str | None, graphs: bool, markdown: bool, as_json: bool
) -> int:
    """Show the ops whose rules differ between two table states, with the sources; exit with 1 if anything differs.

    A and B are each TABLE, TABLE@VERSION, TABLE@TAG, export:N or FILE.pt2. Without B, the newest state of the table is
    meant: `diff TABLE~1` shows what changed since the last run. For two exports, also compare their programs and their
    graphs. What differs between the environments, such as the git commit, comes last.
    """
    with option.ask() as ledger:
        found = ledger.diff(before, after, graphs=graphs)
    if as_json:
        write_json(_diff_json(found))
    elif markdown:
        print_page(diff_page(found))
    else:
        _print_diff(found, before, found.after.name if after is None else after)
    return FOUND if found else 0


def _print_diff(found: StateDiff, before: str, after: str) -> None:
    if not found.same_base:
        bases = {found.before.state.base: before, found.after.state.base: after}
        note(
            f"the base is {found.before.state.base} in {before} and {found.after.state.base} in {after}: an op without "
            f"a rule follows torch's default table in {bases['torch']}, and stays in the graph in {bases['empty']}"
        )
    if not found:
        note(_nothing_changed(found))
    if found.rules:
        dicts = found.before.state.from_dict, found.after.state.from_dict
        columns(("op", before, after), ((d.op, *rule_texts(d, dicts)) for d in found.rules))
    changed: dict[tuple[Decomposition | None, Decomposition | None], list[RuleDiff]] = {}
    for each in found.rules:
        changed.setdefault(each.decompositions, []).append(each)
    for same in changed.values():
        _print_changed_body(same)
    if found.exports is not None:
        _print_exports(found.exports, before, after)
        _print_first_node(found, before, after)
    for name, (old, new) in found.environments.items():
        note(f"{name}: {fact_text(old)} -> {fact_text(new)}")


def _nothing_changed(found: StateDiff) -> str:
    """Return what is the same in two states that do not differ, and what is not known of them."""
    state = found.after.state
    rules = count(len(state.rules), "entry" if state.from_dict else "rule").replace("entrys", "entries")
    made = {rule.decomposition for rule in state.rules.values() if rule.decomposition is not None}
    own = [each for each in made if each.origin not in TORCH_ORIGINS]
    unknown = sum(each.digest is None for each in own)
    parts = [f"nothing changed: base {state.base}, {rules}"]
    parts += [f"the sources of {count(len(own) - unknown, 'function')}"] if len(own) > unknown else []
    parts += [f"{count(unknown, 'function')} without a recorded source"] if unknown else []
    if not (found.before.environment and found.after.environment):
        return ", ".join(parts)
    return ", ".join(parts) + ("; other environments:" if found.environments else "; the same environment")


def _print_changed_body(rules: Sequence[RuleDiff]) -> None:
    """Print what changed in a function that both rules name, once for all ops that it decomposes."""
    text, lines = source_change(rules[0])
    if text:
        note(f"{', '.join(each.op for each in rules)}: {text}")
    for line in lines:
        note(f"  {line}")


def _print_first_node(found: StateDiff, before: str, after: str) -> None:
    first, graphs = found.first_node, found.exports
    if first is not None:
        note(f"the first node that differs is number {first.index}:")
        for name, made_by, line in zip((before, after), first.made_by, (first.left, first.right), strict=True):
            note(f"  {name}, made of {made_by or 'an op not known'}: {line or '(the graph has ended)'}")
    elif graphs is not None and graphs.same_graph is False:
        note("compare the stamped .pt2 files with --graphs to see the first node that differs")


def _print_exports(found: ExportDiff, before: str, after: str) -> None:
    if found.same_program is False:
        note("the exports lowered different programs")
    broken = [name for name, failed in zip((before, after), found.failed, strict=True) if failed]
    if broken:
        note(f"{' and '.join(broken)} failed, so no results are compared")
    _print_pairs("in the graph", found.after, before, after)
    _print_pairs("fired", found.fired, before, after)
    _print_pairs("outcome", found.outcomes, before, after)
    if found.same_graph is True:
        note("the graphs are the same")
    elif found.same_graph is False:
        note(
            "the graphs differ"
            if found.after
            else "the graphs differ: they have the same ops, as often, with other arguments, types or order"
        )


def _print_pairs(title: str, changed: Mapping[str, tuple[object, object]], before: str, after: str) -> None:
    if changed:
        columns((title, before, after), ((op, *map(str, pair)) for op, pair in changed.items()))


def _diff_json(found: StateDiff) -> dict[str, Json]:
    return {
        "before": _state_json(found.before),
        "after": _state_json(found.after),
        "rules": {d.op: rule_diff_json(d) for d in found.rules},
        "exports": None if found.exports is None else found.exports.to_json(),
        "first_difference": None if found.first_node is None else _node_json(found.first_node),
        "environments": {name: {"before": old, "after": new} for name, (old, new) in found.environments.items()},
    }


def _node_json(found: GraphDifference) -> dict[str, Json]:
    return {"index": found.index, "before": found.left, "after": found.right, "made_by": list(found.made_by)}


def _state_json(found: ResolvedState) -> dict[str, Json]:
    return {"table": found.state.table, "version": found.state.version, "base": found.state.base}


@click.command("drift", epilog=_STATES)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--all", "everything", is_flag=True, help="Name every op, also where a count is enough.")
@click.option("--only-used", "program", metavar="export:N|FILE.pt2",
              help="Only ops that this program has, before or after its export, or that fired in it.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Show whole graphs, not only the nodes that differ.")
@markdown_option
@json_option
@pass_ledger
def drift_command(
    option: LedgerOption,
    before: str,
    after: str,
    everything: bool,
    program: str | None,
    verbose: bool,
    markdown: bool,
    as_json: bool,
) -> int:
    """Show what differs between two tables or torch versions; exit with 1 if anything does.

    First comes what behaves differently: the first sample call whose graph differs, with the nodes that differ, before
    and after. Then what enters and leaves the table, and at last what changed only as text.
    """
    with option.ask() as ledger:
        used = None if program is None else ledger.used_ops(program)
        whole = ledger.drift(before, after)
    found = whole if used is None else whole.only(used)
    if as_json:
        write_json({**found.to_json(), "only_used": _only_used_json(program, used, whole)})
        return FOUND if found.changes else 0
    lead = "" if program is None else only_used_text(program, len(used or ()), whole, found)
    if markdown:
        print_page(drift_page(found, lead, everything=everything, whole=verbose))
    else:
        drift_output.print_drift(found, lead, everything=everything, whole=verbose)
    return FOUND if found.changes else 0


def _only_used_json(program: str | None, used: frozenset[str] | None, whole: Drift) -> dict[str, Json] | None:
    if program is None:
        return None
    return {"program": program, "ops": list[Json](sorted(used or ())), "of_changes": len(whole.changes)}


@click.command("upgrade")
@click.argument("state", metavar=STATE)
@click.option("--torch", "version", metavar="VERSION", help="A torch version whose catalog is shipped.")
@click.option("--python", "interpreter", metavar="INTERPRETER",
              help="A Python whose torch to capture. The command runs it.")  # fmt: skip
@click.option("--check", is_flag=True,
              help="Exit with 1 if the upgrade changes an op that the table's recorded exports use.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Name every op, also where a count is enough.")
@click.option("-v", "--verbose", is_flag=True, help="Show whole graphs, not only the nodes that differ.")
@markdown_option
@json_option
@pass_ledger
def upgrade_command(
    option: LedgerOption,
    state: str,
    version: str | None,
    interpreter: str | None,
    check: bool,
    everything: bool,
    verbose: bool,
    markdown: bool,
    as_json: bool,
) -> int:
    """Show a table as it would be on another torch, and what the upgrade does to each rule.

    With --check, judge by behaviour: exit with 1 if an op that the exports use enters or leaves the table, or behaves
    differently on a sample call. A change of text alone is only a note.
    """
    if check and everything:
        raise click.UsageError("--check and --all exclude each other, because --check names every op; give one of them")
    with option.ask() as ledger:
        if check:
            report = ledger.check_upgrade(state, torch=version, python=interpreter)
            return _report_check(report, as_json, markdown, whole=verbose)
        found = ledger.upgrade(state, torch=version, python=interpreter)
    if as_json:
        write_json(_upgrade_json(found, everything=everything))
    elif markdown:
        print_page(upgrade_page(found, everything=everything, whole=verbose))
    else:
        drift_output.print_upgrade(found, everything=everything, whole=verbose)
    return 0


def _report_check(report: UpgradeReport, as_json: bool, markdown: bool, *, whole: bool) -> int:
    if as_json:
        write_json(_check_json(report))
    elif markdown:
        print_page(check_page(report, whole=whole))
    else:
        drift_output.print_upgrade_check(report.upgrade, report.check, report.exports, whole=whole)
    return 0 if report.passed else FOUND


def _check_json(report: UpgradeReport) -> dict[str, Json]:
    after, check = report.upgrade.after, report.check
    return {
        "table": after.state.table,
        "version": after.state.version,
        "from": dict(check.drift.before.catalog.build),
        "to": dict(after.catalog.build),
        "exports": report.exports,
        "used": list[Json](sorted(check.used)),
        "passed": report.passed,
        "findings": [_finding_json(each) for each in check.findings],
        "notes": [_finding_json(each) for each in check.notes],
        "verdicts": {each.op: each.verdict for each in check.drift.behaviours},
        "kernels": list(check.kernels),
        "foreign": list(check.foreign),
    }


def _finding_json(found: Finding) -> dict[str, Json]:
    return {
        "op": found.op,
        "kind": found.kind,
        "detail": found.detail,
        "before": None if found.change is None else found.change.before,
        "after": None if found.change is None else found.change.after,
        "function": "" if found.change is None else found.change.function,
        "behaviour": None if found.behaviour is None else found.behaviour.to_json(),
    }


def _upgrade_json(found: Upgrade, *, everything: bool) -> dict[str, Json]:
    moved = None if found.drift is None else found.drift.to_json()
    return {
        "table": found.after.state.table,
        "version": found.after.state.version,
        "from": None if found.drift is None else dict(found.drift.before.catalog.build),
        "to": dict(found.after.catalog.build),
        "snapshot": snapshot_json(found.snapshot, everything=everything),
        "rules": [_effect_json(effect) for effect in found.effects],
        "now_kept": [change.op for change in found.now_kept()],
        "now_decomposed": [change.op for change in found.now_decomposed()],
        "gone": [{"op": change.op, "successors": _successors_json(ops)} for change, ops in found.gone()],
        "foreign": list(found.foreign),
        "counts": None if moved is None else moved["counts"],
        "not_compared": None if moved is None else moved["not_compared"],
        "behaviours": []
        if found.drift is None
        else [each.to_json() for each in found.drift.behaviours if each.differs],
        **({"changes": [] if moved is None else moved["changes"]} if everything else {}),
    }


def _effect_json(effect: RuleEffect) -> dict[str, Json]:
    return {
        "op": effect.op,
        **(rule_json(effect.rule) or {}),
        "effect": effect.effect,
        "detail": effect.detail,
        "successors": _successors_json(effect.successors),
    }


def _successors_json(successors: tuple[tuple[str, str], ...]) -> list[Json]:
    return [{"op": op, "why": why} for op, why in successors]


COMMANDS = (diff_command, drift_command, upgrade_command)
