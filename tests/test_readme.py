"""The examples and the reference in README.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run_in_a_new_process(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) >= 3
    (tmp_path / "tour.py").write_text("\n".join(examples), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:__main__", "tour.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "DECOMP_LEDGER_ACTOR": "Ada"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = [line.split() for line in done.stdout.splitlines()]
    assert [words[:4] for words in printed] == [["2", "edge", "popped", "Ada"], ["8", "edge", "reverted", "Ada"]]


def test_the_reference_of_the_command_line_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts/docs"), "--check"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_every_public_name_has_a_docstring() -> None:
    import decomp_ledger

    for name in decomp_ledger.__all__:
        assert getattr(decomp_ledger, name).__doc__, name
    assert {*decomp_ledger.__all__, "__version__"} == set(dir(decomp_ledger))
