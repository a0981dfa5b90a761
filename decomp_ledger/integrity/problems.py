"""What a check finds wrong with a ledger."""

from __future__ import annotations

import attrs

from decomp_ledger.model.display import displayed

__all__ = ["MAX_PROBLEMS", "Problem", "Problems", "reason_of"]

MAX_PROBLEMS = 20  # in a result; of more, only a count would be read
_MAX_NOTED = 100 * MAX_PROBLEMS  # in memory, because they are sorted by seq before the first 20 are taken


@displayed
@attrs.frozen
class Problem:
    """Something in a ledger that differs from what was written.

    Attributes:
        seq: the first event that it concerns, or None if it concerns no single one.
        text: what is wrong.
    """

    seq: int | None
    text: str

    def __str__(self) -> str:
        return self.text if self.seq is None else f"event #{self.seq}: {self.text}"


class Problems:
    """The problems found so far."""

    def __init__(self) -> None:
        self._noted: list[Problem] = []

    def add(self, seq: object, text: str) -> None:
        """Note a problem.

        Args:
            seq: the event; a damaged number, which may be of any type, counts as None.
            text: what is wrong.
        """
        if len(self._noted) < _MAX_NOTED:
            self._noted.append(Problem(seq if isinstance(seq, int) else None, text))

    def first(self) -> tuple[Problem, ...]:
        """Return the first problems by seq, those of no single event last."""
        ordered = sorted(self._noted, key=lambda problem: (problem.seq is None, problem.seq or 0))
        return tuple(ordered[:MAX_PROBLEMS])


def reason_of(error: BaseException) -> str:
    """Return what an error says is wrong, without its advice, which is to run verify."""
    return str(error).partition("; ")[0] or type(error).__name__
