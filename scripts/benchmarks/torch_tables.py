"""A table as torch uses it, next to torch's own `CustomDecompTable`."""

from collections.abc import Iterator
from pathlib import Path

from measure import Result, Settings, at_least_as_fast, at_most_as_long, in_turns

POPPED = 10


def materialize(settings: Settings, folder: Path) -> Iterator[Result]:
    """Measure `materialize()` of a table with rules; ours looks at the whole dispatcher each time."""
    from torch.export import CustomDecompTable

    from decomp_ledger import Ledger

    with Ledger(folder / "materialize.db", actor="bench") as ledger:
        ours, theirs = ledger.table("edge"), CustomDecompTable()
        for op in list(theirs.materialize())[5::90][:POPPED]:
            ours.pop(op)
            theirs.pop(op)
        if ours.materialize().keys() != theirs.materialize().keys():
            raise RuntimeError("the two tables differ: their times cannot be compared")
        sides = in_turns(ours.materialize, theirs.materialize, settings.rounds(60))
    yield at_least_as_fast("`materialize()`", 10, sides)


def subscript(settings: Settings, folder: Path) -> Iterator[Result]:
    """Measure `table[op]`; ours finds decompositions that were registered since the last read."""
    from torch.export import CustomDecompTable

    from decomp_ledger import Ledger

    with Ledger(folder / "subscript.db", actor="bench") as ledger:
        ours, theirs = ledger.table("edge"), CustomDecompTable()
        ops = [*theirs.materialize()] * 5

        def read(table: dict) -> None:
            for op in ops:
                table[op]

        sides = in_turns(lambda: read(ours), lambda: read(theirs), settings.rounds(60))
    one_op = sides._replace(ours=sides.ours / len(ops), theirs=sides.theirs / len(ops))
    yield at_most_as_long("`table[op]`", 2, one_op)
