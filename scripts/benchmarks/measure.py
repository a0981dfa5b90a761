"""Results, and two sides timed in turns so that other load on the machine falls on both."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Result:
    """One row of the report.

    Attributes:
        what: the thing measured.
        goal: the limit, in words.
        measured: the figures, in words.
        reached: whether the goal is reached; None if it could not be measured.
    """

    what: str
    goal: str
    measured: str
    reached: bool | None


@dataclass(frozen=True)
class Settings:
    """The options of the command line.

    Attributes:
        quick: fewer rounds, and a ledger of a tenth of the size.
    """

    quick: bool = False

    @property
    def sizes(self) -> tuple[int, int]:
        """The two sizes, in events, at which the big ledger is verified."""
        return (10_000, 100_000) if self.quick else (100_000, 1_000_000)

    def rounds(self, full: int) -> int:
        """Return how often to repeat a measurement."""
        return max(5, full // 5) if self.quick else full


class Sides(NamedTuple):
    """The medians of two sides that were timed in turns.

    Attributes:
        ours: processor seconds of our side.
        theirs: processor seconds of torch's side.
        ratio: the first to the second, of the same round: a machine that slows down slows both sides of a round.
    """

    ours: float
    theirs: float
    ratio: float


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> Sides:
    """Time two sides in turns, after one unmeasured round."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        # Each side comes first every other round.
        for side in (0, 1) if number % 2 else (1, 0):
            call = (ours, theirs)[side]
            gc.collect()  # else one side pays for the other: a collection takes half of an export's time
            start = time.process_time()
            call()
            taken = time.process_time() - start
            if number:
                times[side].append(taken)
    ratios = [one / other for one, other in zip(*times, strict=True)]
    return Sides(statistics.median(times[0]), statistics.median(times[1]), statistics.median(ratios))


def wall_median(call: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of a call by the clock on the wall, after one unmeasured call."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def at_least_as_fast(what: str, factor: float, sides: Sides) -> Result:
    """Return a row whose goal is that ours is `factor` times as fast as torch's."""
    ratio = 1 / sides.ratio
    return Result(what, f">= {factor:g}x as fast as torch's", f"{ratio:.2f}x ({both(sides)})", ratio >= factor)


def at_most_as_long(what: str, factor: float, sides: Sides) -> Result:
    """Return a row whose goal is that ours takes at most `factor` times torch's time."""
    measured = f"{sides.ratio:.3f}x ({both(sides)})"
    return Result(what, f"<= {factor:g}x torch's time", measured, sides.ratio <= factor)


def within(what: str, limit: float, taken: float) -> Result:
    """Return a row whose goal is a limit in seconds."""
    return Result(what, f"<= {seconds(limit)}", seconds(taken), taken <= limit)


def both(sides: Sides) -> str:
    return f"{seconds(sides.ours)} and {seconds(sides.theirs)}"


def seconds(value: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.0f} ns"
