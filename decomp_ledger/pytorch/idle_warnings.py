"""Warn of rules that cannot act, once for each table."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from decomp_ledger.errors import IdleRuleWarning
from decomp_ledger.log import provenance
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.pytorch.dispatcher import is_loaded, why_idle

__all__ = ["MAX_WARNINGS", "IdleWarnings"]

MAX_WARNINGS = 10


class IdleWarnings:
    """The warnings of one table.

    Args:
        log: the table's log.
    """

    def __init__(self, log: TableLog) -> None:
        self._log = log
        self._warned: set[tuple[str, str]] = set()

    def warn_of(self, ops: Iterable[str], action: str) -> None:
        """Warn once of each rule that cannot act; a pending one may act later.

        A rule that another op of the family has too, and that can act, was meant for the whole family: `aten.silu`
        has `silu.out`, for example.
        """
        if len(self._warned) >= MAX_WARNINGS:
            return
        new = [op for op in ops if (op, action) not in self._warned and is_loaded(op)]
        found = [each for op in new if (each := why_idle(op, action)) is not None]
        if not found:
            return
        families = {_family(each.op) for each in found}
        ruled = [op for op, rule in self._log.rules.items() if rule.action == action and _family(op) in families]
        acting = {_family(op) for op in ruled if why_idle(op, action) is None}
        idle = [each for each in found if _family(each.op) not in acting]
        self._warned.update((each.op, action) for each in idle)
        if idle:
            more = f" (and {len(idle) - 1} more, which table.idle lists)" if len(idle) > 1 else ""
            warnings.warn(f"{idle[0]}{more}", IdleRuleWarning, stacklevel=provenance.stack_level())


def _family(op: str) -> str:
    """Return the name that the overloads of an op and of its in-place form share."""
    return op.partition(".")[0].removesuffix("_")
