"""Push the ledger of a recorded program when that has ended."""

from __future__ import annotations

from decomp_ledger.cli.hub_commands import pushed_line
from decomp_ledger.hub.connection import check_address
from decomp_ledger.ledger import Ledger

__all__ = ["check_address", "push_file"]


def push_file(path: str, hub: str) -> str:
    """Push a ledger to a hub; return what that did, in words.

    Raises:
        LedgerError: the hub cannot be reached, or refuses it.
    """
    with Ledger(path, read_only=True) as ledger:
        return pushed_line(ledger.push(hub))
