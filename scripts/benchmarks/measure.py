"""Two sides, timed in turns, so that what else the machine does falls on both; and what came of it."""

import cProfile
import io
import pstats
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

SIZES = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        what: what was measured.
        against: with what it was compared; "-" for a figure that stands alone.
        goal: in words.
        result: in words: the ratio, then both sides.
        good: whether the goal is met; None for a line that has none, or could not be measured.
    """

    what: str
    against: str
    goal: str
    result: str
    good: bool | None


@dataclass
class Settings:
    """What was asked for on the command line, and what the rows found about growth.

    Attributes:
        quick: few rounds, small ledgers: to see that the rows run, not how fast.
        largest: how many events the largest ledger has.
        profiled: whether to print, for each row, what our side's time goes to.
        growth: what grows -> size of the ledger -> figure, in words.
        notes: profiles, in the order they were made.
    """

    quick: bool = False
    profiled: bool = False
    largest: int = SIZES[-1]
    growth: dict[str, dict[int, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> tuple[int, ...]:
        largest = min(self.largest, SIZES[1]) if self.quick else self.largest
        return tuple(size for size in SIZES if size <= largest)

    def rounds(self, full: int) -> int:
        return max(3, full // 10) if self.quick else full

    def grew(self, what: str, size: int, figure: str) -> None:
        self.growth.setdefault(what, {})[size] = figure


def in_turns(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Return the median seconds of both sides, timed in turns after one round that is thrown away."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        # Whoever goes second finds the other's garbage: they take turns in that too.
        for side in (0, 1) if number % 2 else (1, 0):
            call = (ours, theirs)[side]
            start = clock()
            call()
            taken = clock() - start
            if number:
                times[side].append(taken)
    return statistics.median(times[0]), statistics.median(times[1])


def faster(what: str, against: str, goal: float, sides: tuple[float, float], per: int = 1) -> Result:
    """Say how many times faster ours is; `goal` is the least."""
    ratio = sides[1] / sides[0]
    words = "no slower" if goal == 1 else f"at least {goal:g}x as fast"
    return Result(what, against, words, f"{ratio:.2f}x ({both(sides, per)})", ratio >= goal)


def longer(what: str, against: str, goal: float, sides: tuple[float, float], per: int = 1) -> Result:
    """Say how many times as long ours takes; `goal` is the most."""
    ratio = sides[0] / sides[1]
    return Result(what, against, f"at most {goal:g}x its time", f"{ratio:.2f}x ({both(sides, per)})", ratio <= goal)


def both(sides: tuple[float, float], per: int = 1) -> str:
    return f"{seconds(sides[0] / per)}; {seconds(sides[1] / per)}"


def seconds(value: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.0f} ns"


def profile(settings: Settings, what: str, call: Callable[[], object], times: int = 20) -> None:
    """Note what a call's time goes to, if it was asked for."""
    if not settings.profiled:
        return
    profiler = cProfile.Profile(time.process_time)  # so that others on the machine do not show
    profiler.enable()
    for _ in range(times):
        call()
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, log=text).strip_dirs().sort_stats("tottime").print_stats(12)
    lines = [line for line in text.getvalue().splitlines() if line.strip()]
    settings.notes.append("\n".join([f"## {what}, {times} times", *lines[1:]]))
