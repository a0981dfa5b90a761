"""`scripts/check-words` names banned words, in prose and in identifiers, and exits with 1 if it finds one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check-words"
BANNED = "to" + "ld"  # in two parts, so that this file passes its own check


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (f"We {BANNED} you.", True),
        (f"was_{BANNED} = 1", True),
        (f"was{BANNED.title()} = 1", True),
        (f"unfol{BANNED}", False),
        ("It is not a stream of bytes, and it is no longer here.", False),
        ("It is" + " no table.", True),
    ],
)
def test_banned_words_are_found(tmp_path: Path, line: str, found: bool) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "text.md").write_text(f"A title\n\n{line}\n", encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "text.md"], cwd=tmp_path, check=True)
    command = [sys.executable, str(tmp_path / "scripts" / "check-words")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.startswith("text.md:3: ")) == (int(found), found)
    assert subprocess.run([*command, "other/"], capture_output=True, check=False).returncode == 0
