"""The functions of this process that recorded decompositions stand for."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

from decomp_ledger.model.rules import Decomposition

__all__ = ["ProcessFunctions"]


class ProcessFunctions:
    """What a ledger's tables may use in this process, besides what can be found by name.

    Args:
        trust: names of modules (and what is under them) that may be imported to find recorded decompositions.

    Attributes:
        provided: op -> functions that the caller supplied for it.
    """

    def __init__(self, trust: tuple[str, ...] = ()) -> None:
        self.trust = trust
        self.provided: dict[str, list[Any]] = {}
        # Weakly, because the tables that use these functions hold them.
        self._recorded: weakref.WeakValueDictionary[tuple[str, Decomposition], Any] = weakref.WeakValueDictionary()

    def remember(self, op: str, decomposition: Decomposition, fn: Any) -> None:
        """Remember a function that was recorded in this process, as long as a table uses it."""
        with contextlib.suppress(TypeError):  # an object that cannot be referred to weakly
            self._recorded[op, decomposition] = fn

    def recorded(self, op: str, decomposition: Decomposition) -> Any | None:
        """Return the function that was recorded as this decomposition of an op here, or None."""
        return self._recorded.get((op, decomposition))

    def candidates(self) -> dict[str, list[Any]]:
        """Return, by op, every function that was supplied or recorded here."""
        found = {op: list(fns) for op, fns in self.provided.items()}
        for (op, _), fn in self._recorded.items():
            found.setdefault(op, []).append(fn)
        return found
