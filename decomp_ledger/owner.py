"""What a stream asks of the recording that it belongs to, and of a lock that a fork must not break."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from decomp_ledger.stream import Stream

__all__ = ["Owner", "renew_after_fork"]


class Owner(Protocol):
    """A recording, as its streams see it."""

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to be recorded."""

    def failed(self, error: Exception) -> None:
        """Be told that the ledger cannot be written; raise to let the caller know."""

    def missed(self, error: Exception) -> None:
        """Be told that one table or export could not be recorded; raise to let the caller know."""

    def adopted(self, stream: Stream) -> None:
        """Be told of a stream that belongs to it."""


# A child that was forked while another thread held a lock would wait for ever.
_alive: weakref.WeakSet[Stream] = weakref.WeakSet()


def renew_after_fork(stream: Stream) -> None:
    """Give a stream a lock that nobody holds in every child that is forked from now on."""
    _alive.add(stream)


def _renew() -> None:
    for stream in list(_alive):
        stream.lock = threading.RLock()


os.register_at_fork(after_in_child=_renew)
