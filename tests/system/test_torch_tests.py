"""scripts/torch-tests: outcomes plain and recorded, on files of tests that stand for torch's."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "torch-tests"

ALIKE = """
import os, unittest
import pytest

class TestSome(unittest.TestCase):
    def test_good(self): pass

    def test_bad(self): assert False, id(self)

    def test_crash(self): os._exit(3)

    @unittest.skip("")
    def test_left_out(self): pass

    @unittest.expectedFailure
    def test_known(self): assert False

    def test_one_part_is_bad(self):
        for each in range(3):
            with self.subTest(each=each):
                assert each != 1
"""

# A recording imports the package; nothing else of it is seen from here.
DIFFERENT = """
import sys

def test_good(): pass

def test_bad(): assert "decomp_ledger" not in sys.modules

def test_left_out():
    import pytest
    if "decomp_ledger" in sys.modules: pytest.skip()

def test_other_message(): assert 0, "decomp_ledger" in sys.modules

def test_other_warning():
    import warnings
    warnings.warn("as ever")
    if "decomp_ledger" in sys.modules: warnings.warn("too much")
"""


def run(source: Path, *arguments: str) -> tuple[int, list[str]]:
    (source / "test").mkdir(exist_ok=True)
    (source / "test" / "test_alike.py").write_text(ALIKE, encoding="utf-8")
    (source / "test" / "test_different.py").write_text(DIFFERENT, encoding="utf-8")
    command = [sys.executable, str(SCRIPT), str(source), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, [*map(str.strip, done.stdout.splitlines())] or done.stderr.splitlines()[-1:]


def test_outcomes_that_are_alike(tmp_path: Path) -> None:
    assert run(tmp_path, "test/test_alike.py") == (
        0,
        [
            "test_alike.py: 6 tests, 2 failed, 1 crashed, 1 passed, 1 expected failure, 1 skipped",
            "run: 6 alike, 0 differ; 0 fail or warn with another message",
            "run: 6 of 6 alike in 1 file, 1 pass; 0 fail or warn with another message",
            "0 tests differ",
        ],
    )


def test_outcomes_that_differ_are_named(tmp_path: Path) -> None:
    status, lines = run(tmp_path, "test/test_different.py", "--how", "run", "--how", "plugin")
    assert status == 1
    assert lines[0] == "test_different.py: 5 tests, 4 passed, 1 failed"
    for way in ("run", "plugin"):
        assert f"{way}: 3 alike, 2 differ; 2 fail or warn with another message" in lines
        assert f"only {way}: 'UserWarning, in test_different.py: too much'" in lines
        assert any(line.startswith(f"differs: test_different.py::test_bad, {way}: passed, failed;") for line in lines)
    assert lines[-1] == "4 tests differ"


def test_the_status_is_2_if_no_test_ran(tmp_path: Path) -> None:
    assert run(tmp_path, "test/test_none.py")[0] == 2
    (tmp_path / "test" / "test_unread.py").write_text(
        "import missing_module\n\ndef test_some(): pass\n", encoding="utf-8"
    )
    status, lines = run(tmp_path, "test/test_unread.py")
    assert (status, lines[1]) == (2, "E   ModuleNotFoundError: No module named 'missing_module'")
    for expression in ("(", "none"):
        status, lines = run(tmp_path, "test/test_alike.py", "-k", expression)
        assert (status, lines[-1]) == (2, "0 tests differ")


def test_parts_are_all_of_the_tests(tmp_path: Path) -> None:
    parts = [f"--part={part}/4" for part in (1, 2, 3, 4)]
    keep = f"--keep={tmp_path / 'kept'}"
    status, lines = run(tmp_path, "test/test_alike.py", keep, *parts[:2])
    assert status == 0
    assert [line for line in lines if line.startswith("test_alike")] == [
        "test_alike.py 1/4: 2 tests, 1 failed, 1 skipped",
        "test_alike.py 2/4: 2 tests, 1 crashed, 1 failed",
    ]
    status, lines = run(tmp_path, "test/test_alike.py", keep, *parts)
    assert (status, lines[-2]) == (
        0,
        "run: 6 of 6 alike in 1 file, 1 pass; 0 fail or warn with another message",
    )


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "-1/2", "1/", ""])
def test_a_wrong_part_is_refused(tmp_path: Path, part: str) -> None:
    assert run(tmp_path, "test/test_alike.py", f"--part={part}")[0] == 2
