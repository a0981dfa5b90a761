"""A hidden function is left out where warnings are placed, and its lines are still found."""

import importlib
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from decomp_ledger.log.hidden_frames import hidden


@hidden
def passing_on(function: Callable[[], None]) -> None:
    function()


def warning() -> None:
    warnings.warn("of the caller", UserWarning, stacklevel=2)


def test_a_warning_names_the_line_outside_of_a_hidden_function() -> None:
    with pytest.warns(UserWarning, match="of the caller") as caught:
        passing_on(warning)
    assert caught[0].filename == __file__


def test_a_line_of_a_hidden_function_is_found_by_its_file_and_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python's own loader, because that of pytest gives no source.
    (tmp_path / "passing.py").write_text(
        "from decomp_ledger.log.hidden_frames import hidden\n"
        "@hidden\n"
        "def passing_on(function):\n"
        "    function()  # the line of a traceback\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    passing = importlib.import_module("passing")
    code = passing.passing_on.__code__
    # As torch makes the lines of a stack. Python's own tracebacks ask the loader before.
    found = traceback.FrameSummary(code.co_filename, code.co_firstlineno + 2, "passing_on")
    assert found.line == "function()  # the line of a traceback"


def test_a_hidden_function_that_is_made_again_has_the_same_code() -> None:
    def make() -> Callable[[], int]:
        @hidden
        def made() -> int:
            return 1

        return made

    assert make().__code__ is make().__code__
