"""The functions of this process that recorded decompositions name."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

from decomp_ledger.model.rules import Decomposition

__all__ = ["ProcessFunctions"]


class ProcessFunctions:
    """Functions that a ledger's tables may use in this process, besides those found by module and name.

    Args:
        trust: names of modules that may be imported to find recorded decompositions, with the modules under them.

    Attributes:
        provided: op -> the functions that the caller provided for it.
    """

    def __init__(self, trust: tuple[str, ...] = ()) -> None:
        self.trust = trust
        self.provided: dict[str, list[Any]] = {}
        # By weak reference, because a table that uses a function holds it.
        self._recorded: weakref.WeakValueDictionary[tuple[str, Decomposition], Any] = weakref.WeakValueDictionary()

    def remember(self, op: str, decomposition: Decomposition, fn: Any) -> None:
        """Remember a function that was recorded in this process, as long as a table uses it."""
        with contextlib.suppress(TypeError):  # some objects have no weak references
            self._recorded[op, decomposition] = fn

    def recorded(self, op: str, decomposition: Decomposition) -> Any | None:
        """Return the function that this process recorded as a decomposition of an op, or None."""
        return self._recorded.get((op, decomposition))

    def candidates(self) -> dict[str, list[Any]]:
        """Return op -> every function that was provided or recorded for it in this process."""
        found = {op: list(fns) for op, fns in self.provided.items()}
        for (op, _), fn in self._recorded.items():
            found.setdefault(op, []).append(fn)
        return found
