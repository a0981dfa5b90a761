"""The pages of checks: whether overrides compute what ops compute, and whether a backend takes a graph. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from decomp_ledger.analysis.numerics import (
    DIFFERS,
    NO_FUNCTION,
    NOT_LOADED,
    NOT_SAMPLED,
    OWN_KERNEL,
    SAME,
    SAME_SHAPES,
    UNKNOWN,
    NumericsCheck,
    OpNumerics,
    ProgramCheck,
    number_text,
)
from decomp_ledger.analysis.opset_check import OpsetCheck, OutsideOp
from decomp_ledger.reports.blocks import (
    BAD,
    GOOD,
    WARN,
    Block,
    Cell,
    Code,
    Fold,
    Listing,
    Mark,
    Page,
    Prose,
    Quote,
    Section,
    Table,
)
from decomp_ledger.reports.words import count

__all__ = ["numerics_page", "opset_page", "program_page"]

_RUNS = 5  # runs of an op that a page shows
_MAKERS = 3
_VERDICTS = {
    DIFFERS: "differs",
    NO_FUNCTION: "not run: its function could not be loaded",
    UNKNOWN: "unknown: no sample call could be compared",
    NOT_SAMPLED: "not sampled",
    NOT_LOADED: "not run: the op is not loaded",
    SAME_SHAPES: "the same shapes (random)",
    OWN_KERNEL: "its own kernel",
    SAME: "same",
}


def numerics_page(found: NumericsCheck) -> Page:
    """Return the page of a check of overrides against the kernels of their ops."""
    differing = found.of(DIFFERS)
    status = (
        Mark(f"{count(len(differing), 'op')} {'differs' if len(differing) == 1 else 'differ'}", BAD)
        if differing
        else _passed(found)
    )
    rows: list[tuple[Cell, Cell, Cell]] = []
    for verdict, title in _VERDICTS.items():
        ops = found.of(verdict)
        if ops:
            rows.append((title, str(len(ops)), Quote(_names(ops))))
    table = Table(("verdict", "ops", "which"), rows, frozenset({1}))
    return Page(
        "Numerics",
        Quote(found.name),
        status,
        f"{count(len(found.ops), 'op')} run in torch {found.torch}",
        sections=(
            Section("Verdicts", [table] if rows else []),
            Section("What differs", [_difference(each) for each in differing]),
            Section(
                "What was not run",
                [Listing([(Code(each.op), ": ", Quote(each.reason)) for each in failed])]
                if (failed := found.of(NO_FUNCTION))
                else [],
            ),
        ),
    )


def _passed(found: NumericsCheck) -> Mark:
    return Mark("not all could be run", WARN) if found.failed else Mark("no op differs", GOOD)


def _names(ops: Sequence[OpNumerics], limit: int = 8) -> str:
    names = [each.op if not each.error else f"{each.op} within {number_text(each.error)}" for each in ops[:limit]]
    return ", ".join(names) + (f" and {len(ops) - limit} more" if len(ops) > limit else "")


def _difference(found: OpNumerics) -> Block:
    title: Cell = (
        Code(found.op),
        ": ",
        Quote(str(found.decomposition)),
        f" differs on {len(found.differing)} of {count(len(found.runs), 'run')}: {', '.join(found.kinds)}",
    )
    rows: list[tuple[Cell, Cell, Cell]] = [
        (Code(run.call), run.values, Quote("; ".join(map(str, run.differences)))) for run in found.differing[:_RUNS]
    ]
    return Fold(title, [Table(("call", "values", "difference"), rows)], opened=True)


def program_page(found: ProgramCheck) -> Page:
    """Return the page of a check of a program before and after it is lowered."""
    within = "" if not found.error else f" within {number_text(found.error)}"
    status = Mark(f"the same results{within}", GOOD) if found.passed else Mark("the results differ", BAD)
    blocks: list[Block] = []
    if found.random:
        blocks.append(Prose("Its results are random, so only dtypes and shapes are compared.", WARN))
    if found.differences:
        blocks.append(Listing([Quote(str(each)) for each in found.differences]))
    if not found.passed and found.culprit is None:
        blocks.append(Prose(("No decomposition is known to be the cause: ", Quote(str(found.reason)))))
    elif found.culprit is not None:
        what = "The decomposition that raised it: " if found.raised else "The first that makes them differ: "
        blocks.append(Prose((what, Code(found.culprit)), BAD))
    lead: Cell = ("lowered with ", Quote(found.name), f"; {count(len(found.fired), 'op')} decomposed")
    return Page("Program check", Quote(found.program), status, lead, sections=(Section("What differs", blocks),))


def opset_page(found: OpsetCheck) -> Page:
    """Return the page of a check of a lowered program against the ops that a backend takes."""
    outside = len(found.outside)
    status = Mark(f"{count(outside, 'op')} outside", BAD) if outside else Mark("each op is in the opset", GOOD)
    listed = ", ".join(filter(None, (found.opset.source, found.opset.date)))
    name = f"{found.opset.name} ({listed})" if listed else found.opset.name
    lead: Cell = (count(found.ops, "op"), ", compared with ", Quote(name))
    rows: list[tuple[Cell, ...]] = [
        (Code(each.op), str(each.count), Quote(f"{each.why.answer.outcome}, since {each.why.answer.because}"),
         Quote(_makers(each)), Code(str(each.why.decompose)))
        for each in found.outside
    ]  # fmt: skip
    table = Table(("op", "nodes", "why it is there", "made by", "to remove it"), rows, frozenset({1}))
    return Page("Opset check", Quote(found.name), status, lead, sections=(Section("", [table] if rows else []),))


def _makers(found: OutsideOp) -> str:
    if found.made_by is None:
        return "not known, because an older version recorded the export"
    more = f" and {len(found.made_by) - _MAKERS} more" if len(found.made_by) > _MAKERS else ""
    return "; ".join(found.made_by[:_MAKERS]) + more
