"""A sample of the exceptions at traced points that `scripts/torture interrupts` raises by the thousand."""

from pathlib import Path

import pytest
from interrupting import OPERATIONS, attempts, signalled


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_exception_at_any_point_leaves_what_the_ledger_has(name: str, tmp_path: Path) -> None:
    points, runs, wrong = attempts(name, 1, 6, tmp_path)
    assert points > runs == 6
    assert wrong == []


@pytest.mark.filterwarnings("ignore")
def test_a_signal_at_any_time_leaves_what_the_ledger_has(tmp_path: Path) -> None:
    assert signalled("update", 1, 25, tmp_path)[1:] == (25, [])
