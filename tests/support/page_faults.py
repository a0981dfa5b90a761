"""Count the page faults of calls at many depths of the stack: many, where a chunk of Python's frames ends."""

import resource

CALLS = 300


def leaf() -> None:
    """Do nothing."""


leaf.__code__ = leaf.__code__.replace(co_stacksize=200)  # a large frame, so that many depths leave too little room


def faults(depth: int) -> int:
    """Return the page faults of many calls at a depth; each maps and frees memory if a chunk of frames ends there."""
    if depth:
        return faults(depth - 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(CALLS):
        leaf()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def most_faults() -> int:
    """Return the most page faults of any of many depths: `CALLS` and more, unless the caller has room for frames."""
    return max(faults(depth) for depth in range(400))
