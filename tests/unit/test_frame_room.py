"""A function whose frame has room keeps Python from mapping memory for the calls within it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import page_faults
import pytest
from page_faults import CALLS, most_faults

from decomp_ledger.log.frame_room import with_room

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 keeps no frames in chunks")


def test_calls_within_a_frame_with_room_map_no_memory() -> None:
    roomy: Callable[[], int] = with_room(lambda: most_faults())  # a code of its own
    assert most_faults() > CALLS / 2
    assert roomy() < CALLS / 2


def test_a_recorded_program_has_room(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(page_faults.__file__).parent)!r})\n"
        "from page_faults import most_faults\nprint(most_faults())\n"
    )
    found = [
        int(subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, check=True).stdout)
        for arguments in (["script.py"], ["-m", "decomp_ledger", "run", "--quiet", "script.py"])
    ]
    assert found[0] > CALLS / 2 > found[1]


def test_a_function_with_room_works_as_before() -> None:
    @with_room
    def add(one: int, *others: int, last: int = 0) -> int:
        return one + sum(others) + last

    assert add(1, 2, 3, last=4) == 10
    assert with_room(len)("abc") == 3
