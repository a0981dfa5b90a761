"""Files that were mutated or truncated: each is refused, or read; and what verifies is what was written."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from pathlib import Path

import attrs
from strategies import new_table

from decomp_ledger.errors import LedgerError
from decomp_ledger.ledger import Ledger
from torture.common import Place, Row, act, everything, lines_of, read_all, try_all

PAGE = 4096
HEADER = (16, 18, 20, 24, 28, 32, 36, 40, 44, 52, 56, 60, 64, 68, 92, 96)  # where fields of a file's header are


@attrs.frozen
class Whole:
    """A ledger before it was damaged.

    Attributes:
        file: its bytes.
        log: those of its write-ahead log; empty if it was closed.
        states: all that it said, last; before that, what it said before each of the events that are in the log: a log
            of which the end is lost is, to SQLite, one that was written less far.
    """

    file: bytes
    log: bytes
    states: tuple[tuple[str, ...], ...]


def closed(path: Path, rounds: int) -> Whole:
    """Make a ledger that nobody has open: all of it is in one file."""
    everything(path, rounds)
    with Ledger(path, read_only=True) as ledger:
        states = (tuple(lines_of(ledger)),)
    return Whole(path.read_bytes(), b"", states)


def in_use(path: Path) -> Whole:
    """Make a ledger of which the last events are still in the log, as a writer that was killed leaves it."""
    everything(path, 1)
    kept = path.with_name("kept.db")
    with Ledger(path, actor="ann") as ledger:
        states = [tuple(lines_of(ledger))]
        table = new_table(ledger, "logged")
        states.append(tuple(lines_of(ledger)))
        for number in range(6):
            act(table, number, "logged")
            states.append(tuple(lines_of(ledger)))
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", f"{kept}{end}")
    with Ledger(path, read_only=True) as ledger:
        assert tuple(lines_of(ledger)) == states[-1]
    return Whole(kept.read_bytes(), Path(f"{kept}-wal").read_bytes(), tuple(states))


def mutated(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """Damage bytes in one of many ways; `other` is a source of pages that were once in such a file."""
    found = bytearray(data)
    at = choose.randrange(len(found))
    page = at // PAGE * PAGE
    length = min(choose.choice([1, 2, 8, 64, 512, PAGE]), len(found) - at)
    how = choose.randrange(12)
    if how <= 2:
        for _ in range(choose.choice([1, 1, 2, 10, 100])):
            found[choose.randrange(len(found))] ^= 1 << choose.randrange(8)
    elif how == 3:
        found[at : at + length] = choose.randbytes(length)
    elif how == 4:
        found[at : at + length] = choose.choice([b"\0", b"\xff"]) * length
    elif how == 5:
        del found[at:]
    elif how == 6:
        del found[at : at + length]
    elif how == 7:
        found[at:at] = choose.randbytes(length)
    elif how == 8:  # a header: of the file, or of a page, with its counts and pointers
        start = choose.choice([*HEADER, page, page + 3, page + 5])
        found[start : start + 2] = choose.choice([b"\0\0", b"\0\1", b"\xff\xff", choose.randbytes(2)])
    elif how == 9:  # one page over another
        source = choose.randrange(0, max(1, len(found) - PAGE), PAGE)
        found[page : page + PAGE] = found[source : source + PAGE]
    elif how == 10:  # a page of another ledger, or of this one at another time
        source = choose.randrange(0, len(other), PAGE)
        found[page : page + PAGE] = other[source : source + PAGE]
    else:
        found += choose.randbytes(choose.choice([1, 100, PAGE]))
    return bytes(found)


def damaged(whole: Whole, others: list[Whole], choose: random.Random) -> tuple[bytes, bytes]:
    """Damage a ledger: its file or its log."""
    other = choose.choice(others).file
    if whole.log and choose.random() < 0.7:
        log = b"" if choose.random() < 0.05 else mutated(whole.log, other, choose)
        return whole.file, log
    return mutated(whole.file, other, choose), whole.log


def outcome(path: Path, whole: Whole, writing: bool) -> str:
    """Use a damaged ledger in every way; say what is wrong, which begins with "=" if nothing is."""
    try:
        with Ledger(path, actor="eve", read_only=not writing) as ledger:
            result = ledger.verify()
            if result.ok:
                if (lines := tuple(lines_of(ledger))) not in whole.states:
                    return f"it verifies, and is not what was written: {difference(lines, whole.states[-1])}"
                read_all(ledger)  # nothing may be refused now
                return "=whole"
            with contextlib.suppress(LedgerError):
                read_all(ledger)
            with contextlib.suppress(LedgerError):
                lines_of(ledger)
            if writing:
                with contextlib.suppress(LedgerError):
                    new_table(ledger, "after").preserve(["aten::after"])
            return "=noticed"
    except LedgerError as error:
        text = str(error)
        if not text or "\n" in text or len(text) > 1000 or "Traceback" in text:
            return f"a message of {len(text)} characters: {text[:200]!r}"
        return "=refused"


def difference(lines: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """Return the first line that differs."""
    for line, other in zip(lines, wanted, strict=False):
        if line != other:
            return f"{line[:200]!r} for {other[:200]!r}"
    return f"{len(lines)} lines for {len(wanted)}"


def damaged_files(place: Place) -> list[Row]:
    """Mutate and truncate ledgers; open, verify and read each, in processes that may crash."""
    wholes = [closed(place.folder / "a.db", 3), closed(place.folder / "b.db", 1), in_use(place.folder / "c.db")]
    runs = place.amount(5000, 150)
    counts = place.folder / "counts"
    counts.mkdir()

    def attempt(number: int) -> str:
        choose = random.Random(f"{place.seed} {number}")
        whole = wholes[number % 3]
        path = place.folder / f"damaged {number}.db"
        file, log = damaged(whole, wholes, choose)
        path.write_bytes(file)
        if whole.log:
            Path(f"{path}-wal").write_bytes(log)
        found = outcome(path, whole, choose.random() < 0.4)
        for end in ("", "-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
        if not found.startswith("="):
            return found
        with (counts / f"{found[1:]} {os.getpid()}").open("a") as file_of_count:
            file_of_count.write("x")
        return ""

    wrong = try_all(runs, attempt)
    kinds = {"refused": 0, "noticed": 0, "whole": 0}
    for count in counts.iterdir():
        kinds[count.name.split()[0]] += count.stat().st_size
    note = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    goal = "one LedgerError, or it opens: no traceback, no hang over 5 s, no crash; what verifies is what was written"
    return [Row("files mutated or truncated, a third with a log", runs, goal, wrong, note)]


def cut_at_each_place(place: Place) -> list[Row]:
    """Truncate a ledger, and a log, at places spread over all of it."""
    rows = []
    whole = closed(place.folder / "a.db", 1)
    logged = in_use(place.folder / "c.db")
    runs = place.amount(500, 20)
    goal = "one LedgerError, or what was written (of a log: up to some event)"
    for what, source in (("the file", whole), ("the log", logged)):
        length = len(source.log or source.file)

        def attempt(number: int, source: Whole = source, length: int = length) -> str:
            path = place.folder / f"cut {number}.db"
            at = length * number // runs
            path.write_bytes(source.file if source.log else source.file[:at])
            if source.log:
                Path(f"{path}-wal").write_bytes(source.log[:at])
            found = outcome(path, source, number % 2 == 0)
            return "" if found.startswith("=") else f"at {at}: {found}"

        rows.append(Row(f"{what} truncated", runs, goal, try_all(runs, attempt)))
    return rows


def alone(place: Place) -> list[Row]:
    """Bring together what does not belong together: a ledger and the log of another, or of its past."""
    wrong = []
    whole, logged = closed(place.folder / "a.db", 1), in_use(place.folder / "c.db")
    path = place.folder / "mixed.db"
    for name, file, log, states in (
        ("another's log", whole.file, logged.log, whole.states + logged.states),
        ("no log", logged.file, b"", logged.states),
        ("an empty file with a log", b"", logged.log, ()),
    ):
        path.write_bytes(file)
        Path(f"{path}-wal").write_bytes(log)
        found = outcome(path, Whole(file, log, states), False)
        wrong += [] if found.startswith("=") else [f"{name}: {found}"]
        for end in ("", "-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
    return [Row("a ledger with a log that is not its own", 3, "one LedgerError, or what was written", tuple(wrong))]


FAULTS = (damaged_files, cut_at_each_place, alone)
