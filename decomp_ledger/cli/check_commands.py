"""Commands that check a table or an export: check numerics, check opset."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from decomp_ledger.analysis.numerics import (
    DIFFERS,
    NO_FUNCTION,
    NOT_LOADED,
    NOT_SAMPLED,
    OWN_KERNEL,
    SAME,
    SAME_SHAPES,
    UNKNOWN,
    VALUES,
    NumericsCheck,
    OpNumerics,
    ProgramCheck,
    SampleRun,
    number_text,
)
from decomp_ledger.analysis.opset_check import OpsetCheck, OutsideOp
from decomp_ledger.cli.output import (
    FOUND,
    WRONG_USE,
    LedgerOption,
    count,
    json_option,
    markdown_option,
    note,
    pass_ledger,
    print_page,
    progress,
    prose,
    write_json,
)
from decomp_ledger.reports.check_view import numerics_page, opset_page, program_page

__all__ = ["COMMANDS"]

_NAMED = 8  # ops that a line names
_MAKERS = 3  # makers of an op that are shown
_TITLES = {
    SAME: "same on all sample calls",
    SAME_SHAPES: "random, so that only dtypes and shapes are compared, and these are the same",
    UNKNOWN: "unknown, because no sample call could be compared: the kernel has no code for it on this device, or the "
    "op stays",
    OWN_KERNEL: "nothing to compare, because the decomposition is the op's own C++ kernel",
    NOT_SAMPLED: "not sampled; give sample calls with --samples",
    NOT_LOADED: "not run, because the op is not loaded; import its library with --trust MODULE",
}


@click.group()
def check() -> None:
    """Check a table or an export, and exit with 1 if something is found."""


@check.command()
@click.argument("state", required=False, metavar="[TABLE|TABLE@VERSION|TABLE@TAG|export:N|FILE.pt2]")
@click.option("--defaults", is_flag=True, help="Check torch's own default decompositions instead of a table.")
@click.option("--program", type=click.Path(exists=True, dir_okay=False), metavar="FILE.pt2",
              help="Run this program before and after lowering. torch.export.load unpickles it.")  # fmt: skip
@click.option("--inputs", metavar="CALL",
              help="With --program: its inputs, such as '(f32[2, 3], 1)'; by default its example inputs.")  # fmt: skip
@click.option("--samples", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              help="More sample calls, in the form of `samples.json`.")  # fmt: skip
@click.option("--trust", multiple=True, metavar="MODULE",
              help="A module to import: one that has decompositions, or defines ops.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Name every op, also where a count is enough.")
@markdown_option
@json_option
@pass_ledger
def numerics(
    option: LedgerOption,
    state: str | None,
    defaults: bool,
    program: str | None,
    inputs: str | None,
    samples: str | None,
    trust: tuple[str, ...],
    everything: bool,
    markdown: bool,
    as_json: bool,
) -> int:
    """Compare each override with the kernel of its op on sample calls; exit with 1 if one differs.

    Values are compared with the tolerances of torch's own tests; dtypes, shapes, strides and shared memory exactly.
    This runs the overrides, under the same rules of trust as `reproduce`; exit with 2 if the function of one cannot be
    loaded.

    With --program, run a program before and after it is lowered, and name the first decomposition that makes its
    results differ.
    """
    if inputs is not None and program is None:
        raise click.UsageError("--inputs are of a program; give --program too")
    if samples is not None and program is not None:
        raise click.UsageError("--samples and --program exclude each other; give one of them")
    # Warnings of kernels tell nothing of a difference. Torch reads this when it is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    trust = (*option.trust, *trust)
    with option.ask() as ledger, progress("check") as report:
        if program is not None:
            ran = ledger.check_program(program, state, defaults=defaults, inputs=inputs, trust=trust)
            return _report_program(ran, as_json, markdown)
        found = ledger.check_numerics(state, defaults=defaults, samples=samples, trust=trust, progress=report)
    if as_json:
        write_json(found.to_json())
    elif markdown:
        print_page(numerics_page(found))
    else:
        _print_check(found, everything=everything)
    if not found.passed:
        return FOUND
    return WRONG_USE if found.failed else 0


def _print_check(found: NumericsCheck, *, everything: bool) -> None:
    what = "override" if found.name != "torch's defaults" else "decomposition"
    note(f"{found.name}: {count(len(found.ops), what)}, run in torch {found.torch}")
    for each in found.of(DIFFERS):
        for line in _difference_lines(each, everything=everything):
            note(line)
    for verdict, title in _TITLES.items():
        _print_ops(title, found.of(verdict), everything=everything or verdict == SAME_SHAPES)
    for each in found.of(NO_FUNCTION):
        note(f"{each.op}: not run: {each.reason}")


def _print_ops(title: str, ops: tuple[OpNumerics, ...], *, everything: bool) -> None:
    if not ops:
        return
    names = [_with_error(each) for each in (ops if everything else ops[:_NAMED])]
    more = f" and {len(ops) - len(names)} more" if len(ops) > len(names) else ""
    note(f"{title}: {len(ops)} ({', '.join(names)}{more})")


def _with_error(found: OpNumerics) -> str:
    return found.op if not found.error else f"{found.op} within {number_text(found.error)}"


def _difference_lines(found: OpNumerics, *, everything: bool) -> Iterator[str]:
    kinds = ", ".join(found.kinds)
    if VALUES in found.kinds and found.error is not None:
        kinds = kinds.replace(VALUES, f"{VALUES} by up to {number_text(found.error)}")
    runs = count(len(found.runs), "run")
    yield f"{found.op}: {found.decomposition} differs on {len(found.differing)} of {runs}: {kinds}"
    for run in found.differing if everything else found.differing[:1]:
        yield from _run_lines(run)


def _run_lines(run: SampleRun) -> Iterator[str]:
    yield f"  {run.call}, {run.values} values"
    for each in run.differences:
        yield f"    {each}"


def _report_program(found: ProgramCheck, as_json: bool, markdown: bool) -> int:
    if as_json:
        write_json(found.to_json())
    elif markdown:
        print_page(program_page(found))
    else:
        for line in _program_lines(found):
            note(line)
    return 0 if found.passed else FOUND


def _program_lines(found: ProgramCheck) -> Iterator[str]:
    fired = f"{count(len(found.fired), 'op')} decomposed"
    if found.random:
        yield f"{found.program}: its results are random, so only dtypes and shapes are compared"
    if found.passed:
        within = "" if not found.error else f" within {number_text(found.error)}"
        yield f"{found.program}: the same results before and after {found.name}{within}; {fired}"
        return
    yield f"{found.program}: the results differ after {found.name}; {fired}"
    for each in found.differences:
        yield f"  {each}"
    if found.culprit is None:
        yield f"no decomposition is known to be the cause: {found.reason}"
    elif found.raised:
        yield f"the decomposition of {found.culprit} raised it"
    else:
        yield f"the first decomposition that makes them differ: {found.culprit}"


@check.command()
@click.argument("state", metavar="export:N|FILE.pt2|TABLE")
@click.option("--opset", default="core-aten", show_default=True, metavar="NAME|FILE",
              help="The ops that the result may have: a shipped opset, or a JSON file.")  # fmt: skip
@markdown_option
@json_option
@pass_ledger
def opset(option: LedgerOption, state: str, opset: str, markdown: bool, as_json: bool) -> int:
    """Name the ops of a lowered program that a backend does not take; exit with 1 if there is one.

    For each, say what made it, and what to write so that the lowering removes it. TABLE means its newest export.
    """
    with option.ask() as ledger:
        found = ledger.check_opset(state, opset)
    if as_json:
        write_json(found.to_json())
    elif markdown:
        print_page(opset_page(found))
    else:
        _print_opset(found)
    return 0 if found.passed else FOUND


def _print_opset(found: OpsetCheck) -> None:
    listed = ", ".join(filter(None, (found.opset.source, found.opset.date)))
    source = f" ({listed})" if listed else ""
    number = len(found.outside)
    verb = "is" if number == 1 else "are"
    outside = f"{number} of {count(found.ops, 'op')} {verb} not in {found.opset.name}{source}"
    judged = "each op that it is about" if found.not_judged else "each op"
    note(f"{found.name}: {outside if found.outside else f'{judged} is in {found.opset.name}{source}'}")
    for each in found.outside:
        for line in _outside_lines(each):
            prose(line)
    if found.not_judged:
        prose(f"not judged, because {found.opset.name} is not about them: {', '.join(found.not_judged)}")


def _outside_lines(found: OutsideOp) -> Iterator[str]:
    yield f"{found.op}: {count(found.count, 'node')}; {found.why.answer.outcome}, since {found.why.answer.because}"
    made_by = found.made_by
    if made_by is None:
        yield "  what made it is not known, because an older version recorded the export"
    else:
        yield from (f"  {maker}" for maker in made_by[:_MAKERS])
        if len(made_by) > _MAKERS:
            yield f"  and {len(made_by) - _MAKERS} more, with --json"
    yield f"  to remove it: {found.why.decompose}"
    if found.decomposers:
        yield f"  or change what makes it: the table's entry for {', '.join(found.decomposers)}"


COMMANDS = (check,)
