"""Commands that last show their progress on a terminal, with counts."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from strategies import new_table

import decomp_ledger as dl

ROOT = Path(__file__).parents[2]
EVENTS = 2_050  # more than one step
BARS = {
    "verify": {"verify": EVENTS},
    "dump -o new.jsonl": {"dump": EVENTS},
    "--ledger loaded.db load l.jsonl": {"read the dump (bytes)": None, "verify the new ledger": EVENTS},
    "backup copy.db": {"backup": None},
    "--ledger restored.db restore l.db": {"verify the backup": EVENTS},
    "push sqlite:///empty.db": {"push": EVENTS},
    "clone big sqlite:///hub.db cloned.db": {"receive": EVENTS, "verify the clone": EVENTS},
    "catalog capture -o new.json": {"trace": None},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger of 2,050 events, its dump, a hub that has it, and an empty one."""
    made = tmp_path_factory.mktemp("progress")
    with dl.Ledger(made / "l.db", actor="Ada") as ledger:
        table = new_table(ledger)
        for number in range(EVENTS - 1):
            (table.preserve if number % 2 == 0 else table.reset)(["aten::mm"])
        ledger.dump(made / "l.jsonl")
        for name in ("empty.db", "hub.db"):
            dl.Hub(f"sqlite:///{made / name}").init()
        ledger.push(f"sqlite:///{made / 'hub.db'}", name="big")
    return made


def on_a_terminal(folder: Path, arguments: str) -> str:
    """Run a command with a terminal as its standard error; return what the terminal got."""
    ours, theirs = pty.openpty()
    got: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 65_536):
                got.append(data)
        except OSError:  # how Linux ends a terminal that nothing writes to
            pass

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120", "DECOMP_LEDGER": "l.db"}
    command = [sys.executable, "-m", "decomp_ledger", *arguments.split()]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=theirs, check=False, timeout=600
    )
    os.close(theirs)
    reader.join()
    os.close(ours)
    shown = b"".join(got).decode()
    assert done.returncode == 0, shown
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)


@pytest.mark.parametrize("arguments", BARS)
def test_a_command_that_lasts_shows_counts_on_a_terminal(folder: Path, arguments: str) -> None:
    shown = on_a_terminal(folder, arguments)
    for label, total in BARS[arguments].items():
        counts = {(int(done), int(of)) for done, of in re.findall(rf"{re.escape(label)} .*? (\d+)/(\d+) ", shown)}
        assert counts, (label, shown)
        assert {of for _, of in counts} == {total or max(of for _, of in counts)}
        assert max(done for done, _ in counts) > 0


def test_reading_a_dump_reports_bytes_before_the_events_are_verified(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    dl.load_dump(
        folder / "l.jsonl", tmp_path / "n.db",
        progress=lambda done, total: calls.append(("verify", done, total)),
        reading=lambda done, total: calls.append(("read", done, total)),
    )  # fmt: skip
    size = (folder / "l.jsonl").stat().st_size
    assert [name for name, *_ in calls] == sorted(name for name, *_ in calls)  # read comes first
    reads = [(done, total) for name, done, total in calls if name == "read"]
    assert len(reads) == 2 and reads[-1] == (size, size) and 0 < reads[0][0] < size
    assert [(done, total) for name, done, total in calls if name == "verify"] == [(0, EVENTS), (2000, EVENTS)]
