"""A function whose frame has room keeps Python from mapping memory for the calls within it."""

import resource
import sys
from collections.abc import Callable

import pytest

from decomp_ledger.log.frame_room import with_room

CALLS = 300


def leaf() -> None:
    pass


leaf.__code__ = leaf.__code__.replace(co_stacksize=200)  # a large frame, so that many depths leave too little room


def faults(depth: int) -> int:
    """Return the page faults of many calls at a depth; each maps and frees memory if a chunk of frames ends there."""
    if depth:
        return faults(depth - 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(CALLS):
        leaf()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def most() -> int:
    """Return the most page faults of any of many depths."""
    return max(faults(depth) for depth in range(400))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 keeps no frames in chunks")
def test_calls_within_a_frame_with_room_map_no_memory() -> None:
    roomy: Callable[[], int] = with_room(lambda: most())  # a code of its own
    assert most() > CALLS / 2
    assert roomy() < CALLS / 2


def test_a_function_with_room_works_as_before() -> None:
    @with_room
    def add(one: int, *others: int, last: int = 0) -> int:
        return one + sum(others) + last

    assert add(1, 2, 3, last=4) == 10
    assert with_room(len)("abc") == 3
