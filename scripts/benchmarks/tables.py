"""Tables as torch uses them, beside torch's own `CustomDecompTable`.

What the time of making a table goes to: two fifths to ten changes (each a transaction of its own, see `writing.py`), a
third to looking at all of the dispatcher (nearly half of that to the list of registrations, a fifth to thousands of
`py_kernels`), a fifth to the snapshot, its digest and the event that says so, the rest to opening the table.

Of a read of one op, most goes to `OpOverload.__hash__`, which is written in Python and which both sides call once;
ours compares three sizes where upstream calls two more functions. Iteration begins with a quick look at the dispatcher
(5 us, 3 of them to ask the dynamic linker for new libraries), upstream's with none: it never sees what was loaded
since. `dict(t)` asks each key's hash twice and `__getitem__` once, on both sides, as C does with every subclass of dict
that has its own `__iter__`. With dict's own `__getitem__`, tried, it would be 1.7x as fast, and `t[k]` 2x: but `t[k]`
would then find what is gone or has another decomposition by now, until something else looks. `materialize()` gives the
same dict from a plain copy.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from measure import Result, Settings, faster, in_turns, profile

POPPED = 10


def making(settings: Settings, folder: Path) -> Iterator[Result]:
    """Make a table, pop ten ops, materialize it; ours with thirteen events committed on disk."""
    from torch.export import CustomDecompTable

    import decomp_ledger as dl

    ledger = dl.Ledger(folder / "making.db")
    ops = list(CustomDecompTable().materialize())[5::90][:POPPED]
    numbers = itertools.count()

    def make(table: dict) -> None:
        for op in ops:
            table.pop(op)
        assert len(table.materialize()) > 900

    def ours() -> None:
        make(ledger.table(f"t{next(numbers)}"))

    sides = in_turns(ours, lambda: make(CustomDecompTable()), settings.rounds(60), time.process_time)
    profile(settings, "make a table", ours)
    yield faster("make a table, pop 10 ops, materialize, all committed", "upstream's, unrecorded", 10, sides)

    mine, upstream = ledger.table("again"), CustomDecompTable()
    make(mine)
    make(upstream)
    sides = in_turns(mine.materialize, upstream.materialize, settings.rounds(100), time.process_time)
    profile(settings, "materialize again", mine.materialize)
    yield faster("materialize() again, with the full change check", "upstream's", 15, sides)
    ledger.close()


def reading(settings: Settings, folder: Path) -> Iterator[Result]:
    """Read a table of about 940 ops; ours sees what was loaded since, upstream's does not."""
    from torch.export import CustomDecompTable

    import decomp_ledger as dl

    ledger = dl.Ledger(folder / "reading.db")
    mine, upstream = ledger.table("read"), CustomDecompTable()
    keys = list(upstream.materialize())
    assert set(keys) == set(mine)

    def subscript(table: dict) -> None:
        for key in keys:
            table[key]

    def contained(table: dict) -> None:
        for key in keys:
            key in table  # noqa: B015

    def get(table: dict) -> None:
        for key in keys:
            table.get(key)

    def get_by_hand(table: dict) -> None:
        for key in keys:
            table[key] if key in table else None  # noqa: SIM401

    def iterated(table: dict) -> None:
        for _ in table:
            pass

    cases: tuple[tuple[str, str, Callable, Callable, float], ...] = (
        ("t[k]", "upstream's", subscript, subscript, 1),
        ("k in t", "upstream's", contained, contained, 1),
        # Upstream's get() looks into an empty dict: it is fast, and gives None for every op.
        ("t.get(k)", "upstream's t[k] if k in t (its get is always None)", get, get_by_hand, 1),
        ("for k in t, the whole table", "upstream's", iterated, iterated, 1),
        ("dict(t)", "upstream's", dict, dict, 1.5),
    )
    for what, against, ours, theirs, goal in cases:
        times = 5 if ours is not iterated else 50

        def run(read: Callable, table: dict, times: int = times) -> Callable[[], None]:
            def repeat() -> None:
                for _ in range(times):
                    read(table)

            return repeat

        sides = in_turns(run(ours, mine), run(theirs, upstream), settings.rounds(200), time.process_time)
        per = times * (len(keys) if ours in (subscript, contained, get) else 1)
        yield faster(what, against, goal, sides, per)
    ledger.close()
