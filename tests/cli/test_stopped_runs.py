"""`decomp-ledger run` when the ledger becomes unusable meanwhile: the program goes on, and the last line says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from decomp_ledger import Ledger

PROGRAM = """
import os, shutil, sys, warnings
import torch

warnings.filterwarnings("ignore")  # as many programs do: the RecordingWarning is not seen

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.silu(x)

def lower():
    table = torch.export.default_decompositions()
    table.pop(torch.ops.aten.linear.default)
    torch.export.export(Model(), (torch.ones(2),)).run_decompositions(table)

for _ in range({before}):
    lower()
{change}
lower()
print("done")
"""
CHANGES = {
    "nothing": "",
    "it is renamed": "os.rename('l.db', 'gone.db')",
    "it is removed with its log": "[os.remove(name) for name in os.listdir('.') if name.startswith('l.db')]",
    "another takes its place": "os.replace('other.db', 'l.db')",
    "another is written over it": "open('l.db', 'r+b').write(open('other.db', 'rb').read())",
    "its log is removed": "os.remove('l.db-wal')",
    "it is truncated": "os.truncate('l.db', 5000)",
}


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_the_end_says_that_the_recording_stopped_and_why(tmp_path: Path, change: str, before: int) -> None:
    with Ledger(tmp_path / "other.db", actor="eve") as other:
        other.create_table("theirs")
    (tmp_path / "main.py").write_text(PROGRAM.format(before=before, change=CHANGES[change]))
    done = subprocess.run(
        [sys.executable, "-m", "decomp_ledger", "--ledger", "l.db", "run", "main.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("decomp-ledger: ")]
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    if change == "nothing":
        assert lines == [f"decomp-ledger: {before + 1} exports, {before + 1} tables -> l.db; see: "
                         "decomp-ledger --ledger l.db exports"]  # fmt: skip
        return
    assert "l.db" in lines[-1] and ("open" in lines[-1] or "damaged" in lines[-1]), lines
    assert lines[-1].startswith(
        (
            "decomp-ledger: nothing was recorded: the recording stopped: ",
            "decomp-ledger: not recorded: what came after this error: ",
            f"decomp-ledger: {tmp_path}",
        )
    )
    assert not any("nothing was exported" in line for line in lines)
