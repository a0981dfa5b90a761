"""The functions of this process that recorded decompositions name."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from typing import Any

from decomp_ledger.model.rules import Decomposition, Rule

__all__ = ["KeptFunctions", "ProcessFunctions"]

# Functions of earlier versions that a table keeps, so that `revert` and `at` find them. A function may hold weights.
_EARLIER = 32


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


class KeptFunctions:
    """The functions of one table's overrides: those that its rules name, and a few of earlier versions.

    A function that is not kept is found again if it can be imported, if something else holds it, or if
    `Ledger.provide` supplies it. Its source is in the ledger in any case.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Decomposition], Any] = {}  # those that were given last come last

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, op: str, decomposition: Decomposition) -> Any | None:
        """Return the function that an override of an op names, or None."""
        return self._kept.get((op, decomposition))

    def keep(self, op: str, decomposition: Decomposition, fn: Any, rules: Mapping[str, Rule]) -> None:
        """Keep a function; drop the oldest of those that no rule names, if they are too many.

        Args:
            op: the op.
            decomposition: what the override names.
            fn: the function.
            rules: the table's rules.
        """
        key = op, decomposition
        self._kept.pop(key, None)
        self._kept[key] = fn
        # Seldom, because it takes a look at each.
        if len(self._kept) > len(rules) + 2 * _EARLIER:
            named = {key: fn for key, fn in self._kept.items() if _names(rules, *key)}
            others = [key for key in self._kept if key not in named][-_EARLIER:]
            self._kept = {key: fn for key, fn in self._kept.items() if key in named or key in others}

    def of(self, rules: Mapping[str, Rule]) -> KeptFunctions:
        """Return the functions that the rules of another version or table name."""
        found = KeptFunctions()
        found._kept = {key: fn for key, fn in self._kept.items() if _names(rules, *key)}
        return found


def _names(rules: Mapping[str, Rule], op: str, decomposition: Decomposition) -> bool:
    rule = rules.get(op)
    return rule is not None and rule.decomposition == decomposition
