"""Backups while others write, restores and loads that are interrupted or given what is damaged."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import time
from pathlib import Path

from strategies import new_table

from decomp_ledger.errors import LedgerError
from decomp_ledger.ledger import Ledger
from decomp_ledger.transfer.jsonl import load
from decomp_ledger.transfer.restore import restore
from torture.common import (
    Row,
    Workspace,
    acknowledge,
    act,
    everything,
    forked,
    lines_of,
    problems_text,
    try_all,
    wait_for,
)


def writers(path: Path, count: int) -> tuple[list[int], int]:
    """Start processes that write until they are killed; return them, and the pipe in which they acknowledge events."""
    out, into = os.pipe()

    def write(number: int) -> None:
        with Ledger(path, actor=f"writer {number}") as ledger:
            table = new_table(ledger, f"table {number}")
            for step in range(1_000_000):
                acknowledge(into, act(table, step, f"w{number}"))

    children = [forked(lambda number=number: write(number)) for number in range(count)]
    os.close(into)
    return children, out


def read_available(out: int) -> str:
    """Return the text that is in a pipe now."""
    text = b""
    while select.select([out], [], [], 0)[0]:
        text += os.read(out, 1 << 16)
    return text.decode()


def while_written(workspace: Workspace) -> list[Row]:
    """Take backups of a ledger while others write to it, and kill every third backup."""
    path, wrong, runs = workspace.folder / "ledger.db", list[str](), workspace.amount(60, 6)
    everything(path)
    children, out = writers(path, 3)
    copies: list[tuple[Path, dict[int, str]]] = []
    lines, choose = "", random.Random(workspace.seed)
    for number in range(runs):
        lines += read_available(out)
        whole = lines[: lines.rfind("\n") + 1]
        known = {int(seq): own for seq, own in map(str.split, whole.splitlines())}
        copy = workspace.folder / f"copy {number}.db"

        def take(copy: Path = copy) -> None:
            with Ledger(path, read_only=True) as ledger:
                ledger.backup(copy)

        child = forked(take)
        if number % 3 == 2:
            time.sleep(choose.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            wait_for(child)
            if not copy.exists():
                continue  # no file is as good as a whole one
        elif how := wait_for(child):
            wrong.append(f"backup {number}: {how}")
            continue
        copies.append((copy, known))
    for writer in children:
        os.kill(writer, signal.SIGKILL)
        wrong += [f"a writer ended by itself: {how}"] if (how := wait_for(writer)) != "SIGKILL" else []
    os.close(out)
    with Ledger(path) as ledger:
        wrong += [problems_text(found)] if (found := ledger.verify().problems) else []
        hashes = {event.seq: event.hash for event in ledger.events()}
    for copy, known in copies:
        with Ledger(copy, read_only=True) as ledger:
            wrong += (
                [f"{copy.name}: {problems_text(found)}"]
                if (found := ledger.verify(anchors=list(known.items())).problems)
                else []
            )
            wrong += (
                [] if all(hashes[event.seq] == event.hash for event in ledger.events()) else [f"{copy.name} differs"]
            )
    goal = "whole or not there; all that was acknowledged before it began; a beginning of the ledger"
    note = f"{len(copies)} taken, {len(hashes)} events written meanwhile"
    return [Row("backups while 3 processes write, every third killed", runs, goal, tuple(wrong), note)]


def restoring(workspace: Workspace) -> list[Row]:
    """Restore backups, some of them damaged, and kill half of the restores."""
    good, other = workspace.folder / "good.db", workspace.folder / "other.db"
    everything(good, 2)
    everything(other, 1)
    with Ledger(good, read_only=True) as one, Ledger(other, read_only=True) as two:
        new, old = lines_of(one), lines_of(two)
    data = good.read_bytes()

    def attempt(number: int) -> str:
        choose = random.Random(f"{workspace.seed} {number}")
        folder = workspace.folder / f"restore {number}"
        folder.mkdir()
        path, backup = folder / "ledger.db", folder / "backup.db"
        shutil.copy(other, path)
        damaged = bytearray(data)
        for _ in range(choose.choice([0, 0, 1, 20])):
            damaged[choose.randrange(len(damaged))] ^= 1 << choose.randrange(8)
        backup.write_bytes(damaged)

        def put_back() -> None:
            try:
                restore(backup, path, force=True)
            except LedgerError as error:
                assert "\n" not in str(error)

        child = forked(put_back)
        if number % 2:
            time.sleep(choose.uniform(0, 0.12))
            os.kill(child, signal.SIGKILL)
        how = wait_for(child)
        if how not in ("", "SIGKILL"):
            return how
        # Killed between two renames, it leaves the old ledger under the name that `restore` would have returned.
        there = path if path.exists() else next(folder.glob("ledger.db.replaced-*[0-9]"))
        with Ledger(there) as ledger:
            found = (
                "" if ledger.verify().ok and lines_of(ledger) in (new, old) else "neither the old ledger nor the new"
            )
        shutil.rmtree(folder)
        return found

    runs = workspace.amount(200, 8)
    goal = "the old ledger or the backup, whole; never one that does not verify"
    return [Row("restores, of damaged backups too, half of them killed", runs, goal, try_all(runs, attempt, 60))]


def round_trips(workspace: Workspace) -> list[Row]:
    """Dump and load ledgers, and dumps that were changed."""
    path = workspace.folder / "ledger.db"
    everything(path)
    with Ledger(path, read_only=True) as ledger:
        lines = lines_of(ledger)

    def attempt(number: int) -> str:
        choose = random.Random(f"{workspace.seed} {number}")
        changed = list(lines)
        at, other = choose.randrange(len(changed)), choose.randrange(len(changed))
        how = number % 6
        if how == 1:
            line = changed[at]
            where = choose.randrange(len(line))
            changed[at] = line[:where] + choose.choice('0123456789abcdef"{}[],: \\') + line[where + 1 :]
        elif how == 2:
            del changed[at]
        elif how == 3:
            changed[at], changed[other] = changed[other], changed[at]
        elif how == 4:
            changed.insert(at, changed[other])
        elif how == 5:
            changed = changed[:at]
        loaded = workspace.folder / f"loaded {number}.db"
        try:
            load(changed, loaded)
        except LedgerError as error:
            if how == 0:
                return f"refused as it is: {error}"
            if loaded.exists() or "\n" in str(error):
                return f"refused, and left behind or unclear: {error!r:.300}"
            return ""
        with Ledger(loaded) as ledger:
            again = lines_of(ledger)
            new_table(ledger, "after").preserve(["aten::after"])
            found = "" if ledger.verify().ok else "it does not verify when it is written on"
        loaded.unlink()
        # A dump with environments in another order, or with an edit that changes nothing, may load as the same ledger.
        return found if sorted(again) == sorted(lines) else "it was loaded, and is another"

    runs = workspace.amount(600, 24)
    goal = "loaded the same, hashes included; a changed dump is refused, or the same"
    return [Row("dumps loaded again, five of six of them changed", runs, goal, try_all(runs, attempt, 30))]


FAULTS = (while_written, restoring, round_trips)
