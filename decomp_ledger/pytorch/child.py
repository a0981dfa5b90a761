"""Record one Python child of a recorded program."""

from __future__ import annotations

import atexit
from typing import Any

from decomp_ledger.log import provenance
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.pytorch.recording import Recording

__all__ = ["record_child"]


def record_child(plan: dict[str, Any]) -> None:
    """Record this process from now on, into the ledger of the process that started it.

    A recording that the program itself enters stays the inner one, even if it entered it before.

    Args:
        plan: what `Children` put into the environment.
    """
    provenance.first_process = plan["pid"]
    ledger = LedgerLog(
        plan["ledger"], actor=plan["actor"], reason=plan["ledger_reason"], trust=plan["trust"], lazy=True
    )
    recording = Recording(
        ledger,
        name=plan["name"],
        reason=plan["reason"],
        on_error=plan["on_error"],
        notes=plan["notes"],
        sidecars=plan["sidecars"],
        owns_ledger=True,
        all_tracing=plan.get("all_tracing", False),
    )
    recording.enter(outermost=True)
    atexit.register(recording.__exit__, None, None, None)
