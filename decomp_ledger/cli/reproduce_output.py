"""What the reproduce command does: the one command, besides run, that imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from decomp_ledger.cli.output import FOUND, note, progress, write_json
from decomp_ledger.cli.state_specs import Found
from decomp_ledger.model.canonical_json import Json

if TYPE_CHECKING:
    from decomp_ledger.pytorch.graph_digest import GraphDifference
    from decomp_ledger.pytorch.reproduced_table import ReproducedTable, Rerun
    from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["report"]


def report(found: Found, *, program: str | None, trust: Sequence[str], nearest: bool, as_json: bool) -> int:
    """Make a table again, run its export again if asked, and say what differs; return the exit status."""
    from decomp_ledger.pytorch.graph_digest import first_difference
    from decomp_ledger.pytorch.reproduced_table import import_trusted, load_program, reproduce, rerun

    bundle = found.bundle
    assert bundle is not None  # asked by the caller
    import_trusted(trust)
    with progress("making the table again"):
        table = reproduce(bundle, trust=trust, strict=False)
    again: Rerun | None = None
    difference: GraphDifference | None = None
    if program is not None and (nearest or not table.differences):
        with progress("running the export again"):
            again = rerun(table, load_program(program))
            if not again.same and found.stamp is not None:
                difference = first_difference(load_program(found.name), again.program)
    if as_json:
        write_json(_json(bundle, table, again, difference))
    else:
        _print(bundle, table, again, difference)
        if program is not None and again is None:
            note("the export was not run again; --nearest runs it with the nearest table")
    return FOUND if table.differences or (again is not None and not again.same) else 0


def _print(
    bundle: ExportBundle, table: ReproducedTable, again: Rerun | None, difference: GraphDifference | None
) -> None:
    count = f"{len(table)} decompositions"
    torch = table.torch
    if not table.differences:
        note(f"{bundle.name} is made again exactly: {count}, snapshot {bundle.snapshot.digest[:12]}, torch {torch}")
    else:
        things = "one thing differs" if len(table.differences) == 1 else f"{len(table.differences)} things differ"
        note(f"{bundle.name} cannot be made again exactly in torch {torch}: {things}")
        for each in table.differences:
            note(f"  {each}")
    if again is None:
        return
    if again.same:
        note(f"run again, the export gives the same graph: {again.digest[:12]}")
        return
    note(f"run again, the export gives another graph: {again.digest[:12]}, recorded is {str(bundle.body.after)[:12]}")
    for line in _graph_lines(bundle, again, difference):
        note(f"  {line}")


def _graph_lines(bundle: ExportBundle, again: Rerun, difference: GraphDifference | None) -> Iterator[str]:
    if difference is not None:
        then, now = difference.made_by
        yield f"the first node that differs is number {difference.index}:"
        yield f"  then, made of {then or 'an op not known'}: {difference.left or '(the graph has ended)'}"
        yield f"  now, made of {now or 'an op not known'}: {difference.right or '(the graph has ended)'}"
        return
    from decomp_ledger.pytorch.graph_digest import op_histogram

    histogram = op_histogram(again.program)
    steps = [
        f"{op} {bundle.body.ops_after.get(op, 0)} -> {histogram.get(op, 0)}"
        for op in sorted(histogram.keys() | bundle.body.ops_after.keys())
        if histogram.get(op, 0) != bundle.body.ops_after.get(op, 0)
    ]
    yield (f"ops, then -> now: {', '.join(steps)}" if steps else "the same ops as often: arguments or types differ")
    yield "with the stamped .pt2 in the place of the export's number, the first node that differs is shown"


def _json(
    bundle: ExportBundle, table: ReproducedTable, again: Rerun | None, difference: GraphDifference | None
) -> dict[str, Json]:
    rerun: dict[str, Json] | None = None
    if again is not None:
        first: dict[str, Json] | None = None
        if difference is not None:
            first = {"index": difference.index, "then": difference.left, "now": difference.right,
                     "made_by": list(difference.made_by)}  # fmt: skip
        rerun = {"same": again.same, "graph": again.digest, "recorded": bundle.body.after, "first_difference": first}
    return {
        "export": bundle.event.seq,
        "ledger": bundle.ledger,
        "torch": table.torch,
        "exact": not table.differences,
        "decompositions": len(table),
        "snapshot": bundle.snapshot.digest,
        "differences": [each.to_json() for each in table.differences],
        "rerun": rerun,
    }
