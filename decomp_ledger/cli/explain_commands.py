"""The command that answers why an op is, or is not, decomposed: explain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from decomp_ledger import queries
from decomp_ledger.analysis.explain import Explanation
from decomp_ledger.analysis.op_releases import OpReleases
from decomp_ledger.analysis.outcome import makers
from decomp_ledger.cli.hub_answers import hub_options, needs_hub, open_hub, print_explanations, without_hub
from decomp_ledger.cli.output import (
    LedgerOption,
    columns,
    count,
    event_json,
    event_lines,
    hanging,
    json_option,
    note,
    pass_ledger,
    print_lines,
    printable,
    prose,
    write_json,
)
from decomp_ledger.model.state_specs import STATE, parse_export_spec

__all__ = ["COMMANDS", "explanation_lines"]


@click.command("explain")
@click.argument("op")
@click.argument("state", required=False, metavar=f"[{STATE}]")
@click.option("--export", "export", metavar="N|FILE.pt2", help="Explain this export; the same as STATE export:N.")
@click.option("--all-torch", is_flag=True, help="Show what each torch release does with OP by default.")
@hub_options("of", "program")
@json_option
@pass_ledger
def explain_command(
    option: LedgerOption,
    op: str,
    state: str | None,
    export: str | None,
    all_torch: bool,
    hub: str | None,
    of: str | None,
    program: str | None,
    as_json: bool,
) -> int:
    """Explain why OP is, or is not, decomposed: by a table, in an export, or by every table with a rule for it.

    OP is a name such as aten::linear or aten.add.Tensor. A family such as aten.add, add or linear means its overloads.
    Exit with 1 if no such op is known.

    With --hub, tell what happened to OP in the newest export of each program of a hub, by answer.
    """
    if hub is not None:
        without_hub(STATE=state, **{"--export": export, "--all-torch": all_torch})
        opened = open_hub(hub)
        return print_explanations(opened.explain(op, ledger=of, program=program), opened, op, as_json=as_json)
    needs_hub(of=of, program=program)
    if all_torch and (export is not None or state is not None):
        raise click.UsageError("--all-torch is about torch itself; give no STATE and no --export with it")
    if all_torch:
        _print_releases(queries.explain_releases(op), as_json=as_json)
        return 0
    if export is not None and state is not None:
        raise click.UsageError("STATE and --export exclude each other; give one of them")
    with option.ask() as ledger:
        answers = ledger.explain(op, state if export is None else parse_export_spec(export))
    if as_json:
        write_json(
            [{**answer.to_json(), "events": [event_json(event) for event in answer.events]} for answer in answers]
        )
        return 0
    for answer in answers:
        print_lines(explanation_lines(answer))
    return 0


def _print_releases(answers: Sequence[OpReleases], *, as_json: bool) -> None:
    if as_json:
        write_json([found.to_json() for found in answers])
        return
    for found in answers:
        _print_op_releases(found)


def _print_op_releases(found: OpReleases) -> None:
    prose(f"{found.op}: {'; '.join(found.steps)}")
    schemas = [each.schema for each in found.releases if each.schema]
    rows = (
        (
            each.torch,
            each.treatment or "not in torch",
            each.origin or "",
            each.function,
            each.behaviour,
            "" if not each.schema or each.schema == schemas[-1] else each.schema,
        )
        for each in found.releases
    )
    columns(("torch", "by default", "origin", "function", "behaviour, to the one before", "other schema"), rows)


@click.command("why")
@click.argument("op")
@click.argument("state", required=False, metavar=f"[{STATE}]")
@json_option
@pass_ledger
def why_command(option: LedgerOption, op: str, state: str | None, as_json: bool) -> None:
    """Explain OP, and give the line of Python that keeps it in the graph, and the one that decomposes it."""
    with option.ask() as ledger:
        answers = ledger.why(op, state)
    if as_json:
        write_json([{**each.to_json(), "events": list(map(event_json, each.answer.events))} for each in answers])
        return
    for each in answers:
        print_lines(explanation_lines(each.answer))
        note(f"  to keep it: {each.keep}")
        note(f"  to decompose it: {each.decompose}")


def explanation_lines(answer: Explanation) -> Iterator[str]:
    """Give the escaped lines that show an explanation, with the events that changed the op's rule."""
    head = printable(f"{answer.op} in {answer.table}@{answer.version}: ")
    first, *rest = hanging(f"{answer.op} in {answer.table}@{answer.version}: {answer.outcome}, since {answer.because}")
    # A name of hundreds of characters is folded too.
    yield click.style(head, bold=True) + first[len(head) :] if first.startswith(head) else first
    yield from rest
    yield from hanging(f"  {answer.evidence}")
    if answer.torch is not None:
        loaded = "yes" if answer.loaded else "no"
        yield from hanging(f"  default: {answer.default}")
        yield from hanging(f"  loaded: {loaded}; can torch keep it in a graph: {answer.preservable}")
    if answer.counts is not None:
        asked = f", returned NotImplemented {count(answer.declined, 'time')}" if answer.declined else ""
        yield printable(
            "  in the program: {before} before, {after} after, fired {fired}".format(**answer.counts) + asked
        )
    for line in makers(answer.emitted_by or ()):
        yield from hanging(f"  {line}")
    for event in answer.events:
        yield from event_lines(event)


COMMANDS = (explain_command, why_command)
