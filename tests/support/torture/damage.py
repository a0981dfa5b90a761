"""Damaged files: each is refused or read, and a ledger that verifies is the one that was written."""

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
from torture.common import Row, Workspace, act, everything, lines_of, read_all, try_all

PAGE = 4096
HEADER = (16, 18, 20, 24, 28, 32, 36, 40, 44, 52, 56, 60, 64, 68, 92, 96)  # offsets of fields in SQLite's file header


@attrs.frozen
class Whole:
    """A ledger before it was damaged.

    Attributes:
        file: its bytes.
        log: the bytes of its write-ahead log; empty if it was closed.
        states: its contents after each event in the log, the newest last, because SQLite reads a log without its
            end as a shorter one.
    """

    file: bytes
    log: bytes
    states: tuple[tuple[str, ...], ...]


def closed(path: Path, rounds: int) -> Whole:
    """Make a ledger that is closed, so that all of it is in one file."""
    everything(path, rounds)
    with Ledger(path, read_only=True) as ledger:
        states = (tuple(lines_of(ledger)),)
    return Whole(path.read_bytes(), b"", states)


def in_use(path: Path) -> Whole:
    """Make a ledger whose last events are still in the log, as after the death of a writer."""
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
    """Damage bytes in one of twelve ways; `other` is a ledger to copy pages from."""
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
    elif how == 8:  # the header of the file or of a page: counts and pointers
        start = choose.choice([*HEADER, page, page + 3, page + 5])
        found[start : start + 2] = choose.choice([b"\0\0", b"\0\1", b"\xff\xff", choose.randbytes(2)])
    elif how == 9:  # one page over another
        source = choose.randrange(0, max(1, len(found) - PAGE), PAGE)
        found[page : page + PAGE] = found[source : source + PAGE]
    elif how == 10:  # a page of another ledger
        source = choose.randrange(0, len(other), PAGE)
        found[page : page + PAGE] = other[source : source + PAGE]
    else:
        found += choose.randbytes(choose.choice([1, 100, PAGE]))
    return bytes(found)


def damaged(whole: Whole, others: list[Whole], choose: random.Random) -> tuple[bytes, bytes]:
    """Damage the file or the log of a ledger."""
    other = choose.choice(others).file
    if whole.log and choose.random() < 0.7:
        log = b"" if choose.random() < 0.05 else mutated(whole.log, other, choose)
        return whole.file, log
    return mutated(whole.file, other, choose), whole.log


def outcome(path: Path, whole: Whole, writing: bool) -> str:
    """Use a damaged ledger in every way; return "=" and the outcome, or what is wrong."""
    try:
        with Ledger(path, actor="eve", read_only=not writing) as ledger:
            result = ledger.verify()
            if result.ok:
                if (lines := tuple(lines_of(ledger))) not in whole.states:
                    return f"it verifies, but differs from what was written: {difference(lines, whole.states[-1])}"
                read_all(ledger)  # a ledger that verifies can be read
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


def damaged_files(workspace: Workspace) -> list[Row]:
    """Damage ledgers; open, verify and read each in a process that may crash."""
    wholes = [
        closed(workspace.folder / "a.db", 3),
        closed(workspace.folder / "b.db", 1),
        in_use(workspace.folder / "c.db"),
    ]
    runs = workspace.amount(5000, 150)
    counts = workspace.folder / "counts"
    counts.mkdir()

    def attempt(number: int) -> str:
        choose = random.Random(f"{workspace.seed} {number}")
        whole = wholes[number % 3]
        path = workspace.folder / f"damaged {number}.db"
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
    goal = "opens, or one LedgerError; no traceback, hang over 5 s or crash; verifies only if it is what was written"
    return [Row("damaged files, a third with a WAL", runs, goal, wrong, note)]


def truncated_everywhere(workspace: Workspace) -> list[Row]:
    """Truncate a ledger, and a log, at offsets spread over the whole file."""
    rows = []
    whole = closed(workspace.folder / "a.db", 1)
    logged = in_use(workspace.folder / "c.db")
    runs = workspace.amount(500, 20)
    goal = "one LedgerError, or what was written (with a WAL: up to some event)"
    for what, source in (("the file", whole), ("the WAL", logged)):
        length = len(source.log or source.file)

        def attempt(number: int, source: Whole = source, length: int = length) -> str:
            path = workspace.folder / f"cut {number}.db"
            at = length * number // runs
            path.write_bytes(source.file if source.log else source.file[:at])
            if source.log:
                Path(f"{path}-wal").write_bytes(source.log[:at])
            found = outcome(path, source, number % 2 == 0)
            return "" if found.startswith("=") else f"at {at}: {found}"

        rows.append(Row(f"{what} truncated", runs, goal, try_all(runs, attempt)))
    return rows


def mismatched(workspace: Workspace) -> list[Row]:
    """Combine a ledger with the log of another ledger, or with none."""
    wrong = []
    whole, logged = closed(workspace.folder / "a.db", 1), in_use(workspace.folder / "c.db")
    path = workspace.folder / "mixed.db"
    for name, file, log, states in (
        ("the WAL of another ledger", whole.file, logged.log, whole.states + logged.states),
        ("no WAL", logged.file, b"", logged.states),
        ("an empty file with a WAL", b"", logged.log, ()),
    ):
        path.write_bytes(file)
        Path(f"{path}-wal").write_bytes(log)
        found = outcome(path, Whole(file, log, states), False)
        wrong += [] if found.startswith("=") else [f"{name}: {found}"]
        for end in ("", "-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
    return [Row("a ledger with the WAL of another", 3, "one LedgerError, or what was written", tuple(wrong))]


FAULTS = (damaged_files, truncated_everywhere, mismatched)
