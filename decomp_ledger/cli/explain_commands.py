"""Commands that ask more of a table: explain, diff. None imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from decomp_ledger.analysis.export_diff import ExportDiff, export_diff
from decomp_ledger.cli.output import (
    FOUND,
    LedgerOption,
    columns,
    event_json,
    event_lines,
    json_option,
    note,
    pass_ledger,
    print_lines,
    printable,
    rule_json,
    rule_text,
    sole_table,
    write_json,
)
from decomp_ledger.cli.state_specs import STATE, Found, find, is_table
from decomp_ledger.ledger import Ledger
from decomp_ledger.model import op_names
from decomp_ledger.model.rules import TableState, diff

if TYPE_CHECKING:
    from decomp_ledger.analysis.explain import Explanation

__all__ = ["COMMANDS"]


@click.command("explain")
@click.argument("op")
@click.argument("state", required=False, metavar=f"[{STATE}]")
@click.option("--export", "export", metavar="N|FILE.pt2", help="By what happened in this export: as STATE export:N.")
@json_option
@pass_ledger
def explain_command(option: LedgerOption, op: str, state: str | None, export: str | None, as_json: bool) -> None:
    """Say why OP is, or is not, decomposed: by a table, in an export, or by every table that speaks of it."""
    name = op_names.normalize(op)
    if export is not None:
        if state is not None:
            raise click.UsageError("STATE and --export exclude each other")
        state = f"export:{export}" if export.isdecimal() and export.isascii() else export
    if state is not None and not is_table(state):
        answers = [_explain_found(name, find(option, state))]
    else:
        with option.read() as ledger:
            answers = [_explain(ledger, name, said) for said in _explained(ledger, name, state)]
    if as_json:
        write_json(
            [{**answer.to_json(), "events": [event_json(event) for event in answer.events]} for answer in answers]
        )
        return
    for answer in answers:
        _print_explanation(answer)


def _explain_found(op: str, found: Found) -> Explanation:
    """Explain by an export, or by a catalog alone."""
    from decomp_ledger.analysis.explain import explain, explain_export

    bundle = found.bundle
    if bundle is None:
        return explain(op, found.state, None, found.catalog, ())
    last = bundle.last_events().get(op)
    history = () if last is None else (last,)
    return explain_export(op, bundle.state, bundle.event, bundle.body, found.side().catalog, history)


def _explained(ledger: Ledger, op: str, spec: str | None) -> Iterator[TableState]:
    tables = [info.name for info in ledger.tables()]
    if spec is not None or len(tables) < 2:
        yield sole_table(ledger, spec)
        return
    speaking = [
        said for said in map(ledger.state, tables) if op in said.rules or ledger.history(said.table, op, said.version)
    ]
    if speaking:
        yield from speaking
        return
    # None speaks of it: tables with one base that met one torch all have one answer.
    told = set()
    for said in map(ledger.state, tables):
        met = ledger.last_materialization(said.table, said.version)
        key = said.base, None if met is None else met.body.catalog
        if key not in told:
            told.add(key)
            yield said


def _explain(ledger: Ledger, op: str, said: TableState) -> Explanation:
    from decomp_ledger.analysis.explain import explain

    met = ledger.last_materialization(said.table, said.version)
    catalog = None if met is None else ledger.catalog(met.body.catalog)  # type: ignore[arg-type]
    return explain(op, said, met, catalog, ledger.history(said.table, op, said.version))


def _print_explanation(answer: Explanation) -> None:
    click.secho(printable(f"{answer.op} in {answer.table}@{answer.version}: "), bold=True, nl=False)
    note(f"{answer.outcome}, since {answer.because}")
    note(f"  {answer.evidence}")
    if answer.torch is not None:
        loaded = "yes" if answer.loaded else "no"
        note(f"  default: {answer.default}")
        note(f"  loaded: {loaded}; can torch keep it in a graph: {answer.preservable}")
    if answer.counts is not None:
        note("  in the program: {before} before, {after} after, fired {fired}".format(**answer.counts))
    print_lines(line for event in answer.events for line in event_lines(event))


@click.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@json_option
@pass_ledger
def diff_command(option: LedgerOption, before: str, after: str, as_json: bool) -> int:
    """Show the ops of which two table states say different things; exit with 1 if there are any.

    Each is TABLE, TABLE@VERSION, TABLE@TAG, export:N or FILE.pt2. Of two exports, also what differs in their programs.
    """
    one, other = find(option, before), find(option, after)
    found = diff(one.state, other.state)
    bundles = one.bundle, other.bundle
    steps = None if bundles[0] is None or bundles[1] is None else export_diff(bundles[0].body, bundles[1].body)
    based = one.state.base != other.state.base
    if as_json:
        write_json(
            {
                "before": {"table": one.state.table, "version": one.state.version, "base": one.state.base},
                "after": {"table": other.state.table, "version": other.state.version, "base": other.state.base},
                "ops": {d.op: {"before": rule_json(d.before), "after": rule_json(d.after)} for d in found},
                "graph": None if steps is None else steps.to_json(),
            }
        )
        return FOUND if found or based or steps else 0
    if based:
        note(f"the base is {one.state.base} in {before} and {other.state.base} in {after}")
    if found or based:
        columns(("op", before, after), ((d.op, rule_text(d.before), rule_text(d.after)) for d in found))
    if steps is not None:
        print_steps(steps, before, after)
    return FOUND if found or based or steps else 0


def print_steps(steps: ExportDiff, before: str, after: str) -> None:
    """Print what two exports differ in, besides their tables."""
    if steps.same_program is False:
        note("they lowered different programs")
    for title, changed in (("in the graph", steps.after), ("fired", steps.fired)):
        if changed:
            columns((title, before, after), ((op, *map(str, pair)) for op, pair in changed.items()))
    if steps.same_graph is not None:
        alike = "but arguments, types or order differ" if not steps.after else ""
        note("the graphs are the same" if steps.same_graph else f"the graphs differ {alike}".rstrip())


COMMANDS = (explain_command, diff_command)
