"""Which recorded exports led to a program, kept with the program object in this process.

The history is an entry of `graph_module.meta`. Torch copies that dict to whatever it makes of a program: lowered and
transformed programs, copies, `module()` and its export. So the history follows the program, and goes with it. Programs
with equal graphs have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeAlias

from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["KEY", "History", "follow", "forget", "history", "history_of", "remember", "remember_later"]

KEY = "decomp_ledger"

Bundles: TypeAlias = tuple[ExportBundle, ...]


class History:
    """The exports in their order. A copy of a program has the same one; a pickled program has None instead.

    Args:
        later: returns the first of them. It is called once, when they are asked for, because checking what a file has
            takes longer than loading a small program.
        then: the others.
    """

    __slots__ = ("_later", "_then")

    def __init__(self, later: Callable[[], Bundles] = tuple, then: Bundles = ()) -> None:
        self._later = later if later is tuple else cache(later)
        self._then = then

    @property
    def bundles(self) -> Bundles:
        """The exports."""
        return (*self._later(), *self._then)

    def followed_by(self, bundle: ExportBundle) -> History:
        """Return the history of what an export made of the program."""
        made = History(then=(*self._then, bundle))
        made._later = self._later
        return made

    def __repr__(self) -> str:
        return "<recorded exports>"

    def __deepcopy__(self, memo: object) -> History:
        return self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # A file that a program writes shall hold nothing of a ledger without being asked, and load without us.
        return type(None), ()


def history(program: Any) -> Bundles:
    """Return the recorded exports that led to a program, in their order; none if that is not known."""
    return history_of(program).bundles


def history_of(program: Any) -> History:
    """Return the history of a program, an empty one if it is not known."""
    found = _meta(program).get(KEY)
    return found if isinstance(found, History) else History()


def remember(program: Any, found: History | Iterable[ExportBundle]) -> None:
    """Remember with a program which exports led to it, instead of those that it has."""
    _meta(program)[KEY] = found if isinstance(found, History) else History(then=tuple(found))


def remember_later(program: Any, later: Callable[[], Bundles]) -> None:
    """Remember with a program what returns the exports that led to it; it is called when they are asked for."""
    _meta(program)[KEY] = History(later)


def forget(program: Any) -> None:
    """Forget which exports led to a program."""
    _meta(program).pop(KEY, None)


def follow(old: Any, new: Any) -> None:
    """Give a program or graph module that was made from another one its history, unless it has one."""
    found = _meta(old).get(KEY)
    if isinstance(found, History):
        _meta(new).setdefault(KEY, found)


def _meta(program: Any) -> dict[Any, Any]:
    """Return the `meta` of a program's or of a graph module's graph; an unused dict if it has no graph."""
    try:
        meta = getattr(program, "graph_module", program).meta
    except Exception:  # a subclass of the program's own, or no program at all
        return {}
    return meta if isinstance(meta, dict) else {}
