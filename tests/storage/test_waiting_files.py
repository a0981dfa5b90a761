"""Pipes where a file is expected: each is one error at once, because opening a pipe waits permanently."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from decomp_ledger import Ledger
from decomp_ledger.hub.migrations import init
from decomp_ledger.storage.file_checks import LOG_FILES

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
READ = "import decomp_ledger as dl; dl.read_stamp({!r})"
OPEN = "import decomp_ledger as dl; dl.Ledger({!r}, read_only={}).tables()"
ASK = "import decomp_ledger as dl; dl.Hub({!r}).ledgers()"
# What is read -> the pipe, and the code that reads.
CASES = {
    **{f"a stamp: {name}": (name, READ.format(name)) for name in ("m.pt2", "m.onnx", "m.pte", "m.ptd")},
    **{f"a sidecar of {name}": (f"{name}.decomp.json", READ.format(name)) for name in ("s.pte", "s.ptd")},
    **{
        f"{ending} of a ledger, read_only={way}": (f"l.db{ending}", OPEN.format("l.db", way))
        for ending in LOG_FILES
        for way in (True, False)
    },
    **{f"{ending} of a hub": (f"hub.db{ending}", ASK.format("hub.db")) for ending in LOG_FILES},
    "a ledger": ("pipe.db", OPEN.format("pipe.db", True)),
    "a hub": ("pipe.db", ASK.format("pipe.db")),
}


@pytest.mark.parametrize("name", CASES)
def test_a_pipe_is_one_error_and_is_not_waited_for(tmp_path: Path, name: str) -> None:
    pipe, code = CASES[name]
    with Ledger(tmp_path / "l.db", actor="ann") as ledger:
        ledger.create_table("edge")
    init(str(tmp_path / "hub.db"))
    for file in ("s.pte", "s.ptd"):
        (tmp_path / file).write_bytes(b"ET12")
    (tmp_path / pipe).unlink(missing_ok=True)
    os.mkfifo(tmp_path / pipe)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("decomp_ledger.errors."), done.stderr
    assert "not a file; name" in last or "it is not a regular file" in last or "the file does not exist" in last
