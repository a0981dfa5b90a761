"""Full disks, and files that cannot be written, vanish, or belong to another user."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from strategies import new_table

from decomp_ledger.errors import LedgerError, LedgerFileError
from decomp_ledger.ledger import Ledger
from torture.common import (
    Row,
    Workspace,
    acknowledge,
    acknowledged,
    act,
    forked,
    lines_of,
    problems_text,
    try_all,
    wait_for,
)

GOAL = "one clear error; acknowledged events intact; the same table object works again once there is room"
ANN, EVE = 65533, 65534  # ids of two users without rights


def refused(work: Callable[[], object], *expected: str) -> str:
    """Call a function that must raise an error of one line with one of the expected texts; return what is wrong."""
    try:
        work()
    except LedgerError as error:
        text = str(error)
        if "\n" in text or len(text) > 1000 or not any(part in text for part in expected):
            return f"it raised an unclear error: {text[:300]!r}"
        return ""
    return "it raised no error"


def checked(path: Path, known: dict[int, str]) -> str:
    """Check a ledger against its acknowledged events; return what is wrong, or ""."""
    with Ledger(path, read_only=True) as ledger:
        return problems_text(ledger.verify(anchors=list(known.items())).problems)


def until_full(path: Path, choose: random.Random, fill: Callable[[], object], empty: Callable[[], object]) -> str:
    """Write until the disk is full, then with room again, through one table object; return what is wrong."""
    known: dict[int, str] = {}
    failed = 0
    with Ledger(path, actor="ann", durability=choose.choice(["process", "power"])) as ledger:
        ledger.database.connection.execute(f"PRAGMA wal_autocheckpoint = {choose.choice([1, 5, 1000])}")
        table = new_table(ledger)
        number = 0
        for _ in range(3):
            fill()
            for _ in range(400):
                number += 1
                try:
                    event = act(table, number, "x" * choose.choice([1, 150]))
                except LedgerFileError as error:
                    failed += 1
                    if "\n" in str(error) or not str(error).startswith(str(path)):
                        return f"an unclear error: {error}"
                    if not isinstance(error.__cause__, Exception):
                        return "an error without a cause"
                    break
                assert event is not None
                known[event.seq] = event.hash
            if table.version != ledger.state("edge").version:
                return f"the table object is at version {table.version}, the ledger at {ledger.state('edge').version}"
            empty()
            event = table.preserve([f"after::op{number}"])
            assert event is not None
            known[event.seq] = event.hash
            if problems := ledger.verify(anchors=list(known.items())).problems:
                return problems_text(problems)
    if len(known) != max(known) - 1:  # because the first event is `created`
        return f"{len(known)} events were acknowledged, and the last is #{max(known)}"
    return checked(path, known) or ("" if failed else "the disk was never full, so the fault was not injected")


def size_limit(workspace: Workspace) -> list[Row]:
    """Limit the size of files, so that the limit is reached within a write."""

    def attempt(number: int) -> str:
        choose = random.Random(f"{workspace.seed} {number}")
        path = workspace.folder / f"limit {number}.db"

        def fill() -> None:
            sizes = [file.stat().st_size for file in path.parent.glob(f"{path.name}*")]
            limit = max(sizes) + choose.randrange(1, 30_000)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        def empty() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        found = until_full(path, choose, fill, empty)
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        return found

    runs = workspace.amount(100, 6)
    return [Row("files at their size limit within a write", runs, GOAL, try_all(runs, attempt, 60))]


def full_disk(workspace: Workspace) -> list[Row]:
    """Fill a small disk during a write, a new ledger, and a backup."""
    disk = workspace.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    what = "a full disk of 2 MB"
    if mounted.returncode:
        return [Row(what, 0, GOAL, (), "NOT TRIED: cannot mount here; files with a size limit stand for it")]
    try:
        runs = workspace.amount(100, 4)
        # Not in parallel, because they share the disk.
        wrong = [f"[{number}] {found}" for number in range(runs) if (found := _on_a_full_disk(disk, workspace, number))]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return [Row(what, runs, GOAL, tuple(wrong))]


def _on_a_full_disk(disk: Path, workspace: Workspace, number: int) -> str:
    choose = random.Random(f"{workspace.seed} {number}")
    filler = disk / "filler"

    def fill(room: int | None = None) -> None:
        left = choose.randrange(0, 60_000) if room is None else room
        with filler.open("wb", buffering=0) as file:
            free = shutil.disk_usage(disk).free
            file.write(b"x" * max(0, free - left))

    def empty() -> None:
        filler.unlink(missing_ok=True)

    try:
        found = until_full(disk / "ledger.db", choose, fill, empty)
        if found:
            return found
        fill(choose.randrange(0, 50_000))
        with Ledger(disk / "ledger.db", read_only=True) as ledger:
            full = ("disk is full", "No space left", "SQLite reports disk I/O error")
            found = refused(lambda: ledger.backup(disk / "copy.db"), *full)
            found = found or refused(lambda: Ledger(disk / "new.db"), *full)
        left = {file.name for file in disk.iterdir()} - {"filler", "ledger.db", "ledger.db-wal", "ledger.db-shm"}
        return found or (f"left behind: {sorted(left)}" if left else "")
    finally:
        for file in disk.iterdir():
            file.unlink()


def vanishing(workspace: Workspace) -> list[Row]:
    """Rename, remove or replace a ledger or its folder while it is open."""
    wrong = []
    home = workspace.folder / "home"

    def rename_file(path: Path) -> Callable[[], object]:
        path.rename(path.with_suffix(".away"))
        return lambda: path.with_suffix(".away").rename(path)

    def rename_folder(path: Path) -> Callable[[], object]:
        home.rename(workspace.folder / "away")
        return lambda: (workspace.folder / "away").rename(home)

    def another(path: Path) -> Callable[[], object]:
        back = rename_file(path)
        Ledger(path.with_name("other.db"), actor="eve").close()
        path.with_name("other.db").rename(path)
        return lambda: (path.unlink(), back())

    def remove(path: Path) -> None:
        path.unlink()

    def remove_folder(path: Path) -> None:
        shutil.rmtree(home)

    ways = (rename_file, rename_folder, another, remove, remove_folder)
    for way in ways:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        path = home / "ledger.db"
        with Ledger(path, actor="ann") as ledger:
            table = new_table(ledger)
            known = {event.seq: event.hash for event in [table.preserve(["aten::mm"])] if event is not None}
            back = way(path)
            for op in ("aten::add", "aten::sub"):
                found = refused(partial(table.preserve, [op]), "was removed or replaced while it was open")
                wrong += [f"{way.__name__}: {found}"] if found else []
            if back is not None:
                back()
                event = table.preserve(["aten::back"])
                assert event is not None
                known[event.seq] = event.hash
        if back is not None:
            wrong += [f"{way.__name__}: {found}"] if (found := checked(path, known)) else []
        elif path.exists():
            wrong.append(f"{way.__name__}: a new file was made")
    goal = "one clear error, no new file, the table object works again once the ledger is back"
    return [Row("a ledger that vanishes while it is open", len(ways), goal, tuple(wrong))]


def as_user(user: int, work: Callable[[], object]) -> str:
    """Run a function in a child process of another user; return "" if it exited with 0."""

    def become() -> None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        work()

    return wait_for(forked(become))


def result_as(user: int, work: Callable[[], str]) -> str:
    """Run a function as another user; return its result, or how the process ended."""
    out, into = os.pipe()
    how = as_user(user, lambda: os.write(into, work().encode()))
    os.close(into)
    with os.fdopen(out) as result:
        return result.read() or how


def rights(workspace: Workspace) -> list[Row]:
    """Take away the rights of a user to a file and its folder."""
    goal = "works where the rights allow it, else one clear error; acknowledged events intact"
    if os.getuid() != 0:
        return [
            Row(
                "files and folders without rights to write", 0, goal, (), "NOT TRIED: only root can become another user"
            )
        ]
    wrong: list[str] = []
    denied = ("read-only here", "may not be read", "cannot be opened", "not writable here", "cannot be used")
    cases = [(file, folder) for file in (0o644, 0o444, 0o000) for folder in (0o755, 0o555, 0o000)]
    for file_mode, folder_mode in cases:
        folder = workspace.folder / f"rights {file_mode:o} {folder_mode:o}"
        folder.mkdir()
        os.chown(folder, ANN, ANN)
        path = folder / "ledger.db"

        def make(path: Path = path) -> str:
            with Ledger(path, actor="ann") as ledger:
                new_table(ledger).preserve(["aten::mm"])
                lines_of(ledger)
            return ""

        wrong += [f"made: {how}"] if (how := result_as(ANN, make)) else []
        path.chmod(file_mode)
        folder.chmod(folder_mode)
        readable = file_mode and folder_mode
        writable = file_mode == 0o644 and folder_mode == 0o755

        def read(path: Path = path) -> str:
            with Ledger(path, read_only=True) as ledger:
                return problems_text(ledger.verify().problems) + (
                    "" if ledger.state("edge").version == 2 else "it lacks a version"
                )

        def write(path: Path = path) -> str:
            with Ledger(path, actor="ann") as ledger:
                ledger.table_log("edge").preserve(["aten::add"])
            return ""

        for what, work, allowed in (("reading", read, readable), ("writing", write, writable)):
            found = result_as(ANN, work if allowed else lambda work=work: refused(work, *denied))
            wrong += [f"{what} {file_mode:o} in {folder_mode:o}: {found}"] if found else []
        folder.chmod(0o755)
        path.chmod(0o644)
        with Ledger(path, read_only=True) as ledger:
            versions = ledger.state("edge").version
            wrong += [] if ledger.verify().ok and versions == 2 + bool(writable) else [f"then {versions} versions"]
    return [Row("files and folders without rights to read or write", 2 * len(cases), goal, tuple(wrong))]


def left_by_another(workspace: Workspace) -> list[Row]:
    """Leave a WAL behind as another user whose process died."""
    goal = "a user without rights to write reads everything or gets one clear error; acknowledged events intact"
    what = "a WAL left by another user"
    if os.getuid() != 0:
        return [Row(what, 0, goal, (), "NOT TRIED: only root can become another user")]
    wrong: list[str] = []
    cases = [(mode, folder) for mode in (0o644, 0o600, 0o666) for folder in (0o777, 0o1777, 0o755)]
    for mode, folder_mode in cases:
        folder = workspace.folder / f"left {mode:o} {folder_mode:o}"
        folder.mkdir()
        os.chown(folder, ANN, ANN)
        folder.chmod(folder_mode)
        path = folder / "ledger.db"
        out, into = os.pipe()

        def die(path: Path = path, into: int = into, mode: int = mode) -> None:
            ledger = Ledger(path, actor="ann")
            table = new_table(ledger)
            for number in range(5):
                acknowledge(into, act(table, number, "left"))
            for file in path.parent.iterdir():
                file.chmod(mode)
            os._exit(0)  # leaves the WAL as it is

        wrong += [f"made: {how}"] if (how := as_user(ANN, die)) else []
        os.close(into)
        known = acknowledged(out)
        name = f"{mode:o} in {folder_mode:o}"

        def read(path: Path = path, known: dict[int, str] = known) -> str:
            try:
                return checked(path, known)
            except LedgerError as error:
                text = str(error)
                return "" if "\n" not in text and ("cannot be opened" in text or "may not be read" in text) else text

        def write(path: Path = path, known: dict[int, str] = known) -> str:
            try:
                with Ledger(path, actor="eve") as ledger:
                    ledger.table_log("edge").preserve(["eve::op"])
                    return problems_text(ledger.verify(anchors=list(known.items())).problems)
            except LedgerError as error:
                text = str(error)
                clear = ("is read-only here", "cannot be opened", "may not be read")
                return "" if "\n" not in text and any(part in text for part in clear) else text

        for act_as, work in ((EVE, read), (EVE, write), (ANN, read), (ANN, write)):
            found = result_as(act_as, work)
            wrong += [f"{name}: {'eve' if act_as == EVE else 'ann'} {work.__name__}s: {found}"] if found else []
        wrong += [f"{name}: {found}"] if (found := checked(path, known)) else []
    return [Row(what, 4 * len(cases), goal, tuple(wrong))]


FAULTS = (size_limit, full_disk, vanishing, rights, left_by_another)
