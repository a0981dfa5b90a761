"""The command `browse`: it tells its address, serves, and ends with Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from report_ledgers import sample_ledger

pytest.importorskip("datasette", reason="needs Datasette: pip install -e .[dev]")


@pytest.mark.parametrize("names_it", [True, False], ids=["named", "found"])
def test_it_serves_the_ledger_until_it_is_interrupted(tmp_path: Path, names_it: bool) -> None:
    path = tmp_path / ("other.db" if names_it else "decomp_ledger.db")
    sample_ledger(path)
    command = [sys.executable, "-m", "decomp_ledger", "browse", *([path.name] if names_it else [])]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address, _, rest = process.stdout.readline().partition(" ")
        try:
            assert rest == " (Ctrl-C ends it)\n"
            with urlopen(address, timeout=60) as page:
                assert path.name in page.read().decode()
        finally:
            process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["none.db"], "none.db: the ledger does not exist"),
        (["text.db"], "text.db: it is not a ledger: not an SQLite file"),
        (["--port", "99999"], "port: 99999 is not possible; give 1 to 65535"),
        (["--port", "x"], "Invalid value for '--port': x: not a number"),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path: Path, arguments: list[str], error: str) -> None:
    sample_ledger(tmp_path / "decomp_ledger.db")
    (tmp_path / "text.db").write_text("x" * 200)
    command = [sys.executable, "-m", "decomp_ledger", "browse", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert error in done.stderr
