"""Which recorded exports led to a program, kept with the program object in this process.

The history is an entry of `graph_module.meta`. Torch copies that dict to whatever it makes of a program: lowered and
transformed programs, copies, `module()` and its export. So the history follows the program, and goes with it. Programs
with equal graphs have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["KEY", "follow", "forget", "history", "remember"]

KEY = "decomp_ledger"


class _History:
    """The exports in their order. A copy of a program has the same one; a pickled program has None instead."""

    __slots__ = ("bundles",)

    def __init__(self, bundles: tuple[ExportBundle, ...]) -> None:
        self.bundles = bundles

    def __repr__(self) -> str:
        return f"<recorded exports: {len(self.bundles)}>"

    def __deepcopy__(self, memo: object) -> _History:
        return self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # A file that a program writes shall hold nothing of a ledger without being asked, and load without us.
        return type(None), ()


def history(program: Any) -> tuple[ExportBundle, ...]:
    """Return the recorded exports that led to a program, in their order; none if that is not known."""
    found = _meta(program).get(KEY)
    return found.bundles if isinstance(found, _History) else ()


def remember(program: Any, bundles: Iterable[ExportBundle]) -> None:
    """Remember with a program which exports led to it, instead of those that it has."""
    _meta(program)[KEY] = _History(tuple(bundles))


def forget(program: Any) -> None:
    """Forget which exports led to a program."""
    _meta(program).pop(KEY, None)


def follow(old: Any, new: Any) -> None:
    """Give a program or graph module that was made from another one its history, unless it has one."""
    found = _meta(old).get(KEY)
    if isinstance(found, _History):
        _meta(new).setdefault(KEY, found)


def _meta(program: Any) -> dict[Any, Any]:
    """Return the `meta` of a program's or of a graph module's graph; an unused dict if it has no graph."""
    try:
        meta = getattr(program, "graph_module", program).meta
    except Exception:  # a subclass of the program's own, or no program at all
        return {}
    return meta if isinstance(meta, dict) else {}
