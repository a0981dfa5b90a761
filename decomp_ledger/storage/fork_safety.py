"""The ledger files that this process has open: what SQLite cannot know of POSIX locks and of forks.

- To close a descriptor of a file drops all locks that the process has on it, whoever took them. Another process would
  then take the write-ahead log for left over and remove it, with all that is written to it later. So a file that is
  open is opened by nothing but SQLite.
- A forked child has SQLite's memory of which locks its parent holds, and not the locks. A connection that it opens
  would believe to have them. So before a fork all connections are closed, and parent and child open their own.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

from decomp_ledger.errors import LedgerFileError

__all__ = ["Holder", "LockOwner", "Place", "hold", "is_open", "opening", "place_of", "renew_lock_in_child", "using"]

Place: TypeAlias = "tuple[int, int]"

_PATIENCE = 2.0  # seconds that a fork waits for threads that use a ledger


class Holder(Protocol):
    """Who has a file open.

    Attributes:
        place: which file; None before it is opened, and once it is closed.
    """

    place: Place | None

    def let_go(self, seconds: float) -> bool:
        """Keep other threads out until `go_on`, and close the connection, if nobody is using it.

        Args:
            seconds: how long to wait for other threads.

        Returns:
            Whether other threads are kept out.
        """

    def go_on(self) -> None:
        """Let other threads in again."""

    def begin_anew(self) -> bool:
        """Forget all threads and any connection of the parent.

        Returns:
            Whether there was no such connection any more.
        """


class LockOwner(Protocol):
    """An object with a lock, which another thread may hold at the moment of a fork."""

    def renew_lock(self) -> None:
        """Get a lock that no thread holds."""


_lock_owners: weakref.WeakSet[LockOwner] = weakref.WeakSet()


def renew_lock_in_child(owner: LockOwner) -> None:
    """Call an object's `renew_lock` in every child that is forked from now on."""
    _lock_owners.add(owner)


_holders: tuple[weakref.ref[Holder], ...] = ()  # replaced, never changed: threads read it as they like
_crossed: set[Place] = set()  # files that the parent was using when it forked this process
_opening, _holding = threading.Lock(), threading.Lock()
_fork = threading.local()


def place_of(path: str | os.PathLike[str]) -> Place:
    """Return what tells a file from every other, whatever its name."""
    found = os.stat(path)  # noqa: PTH116  # on the path of every event
    return found.st_dev, found.st_ino


def is_open(path: Path) -> bool:
    """Tell whether this process has a file open.

    Raises:
        LedgerFileError: its parent was using it when it forked this process.
    """
    if not path.exists():
        return False
    place = place_of(path)
    if place in _crossed:
        raise LedgerFileError(
            f"{path} was in use when this process was forked, and cannot be used here: fork when no thread is using a "
            "ledger, or start processes by 'spawn'"
        )
    return place in {holder.place for holder in _living()}


def _living() -> list[Holder]:
    return [holder for reference in _holders if (holder := reference()) is not None]


@contextmanager
def opening() -> Iterator[None]:
    """Let no other thread open a ledger, nor fork, meanwhile."""
    with _opening:
        yield


def hold(holder: Holder) -> None:
    """Remember who has a file open; of a file, within :func:`opening`."""
    global _holders
    with _holding:
        _holders = (*(weakref.ref(each) for each in _living() if each is not holder), weakref.ref(holder))


class _Busy:
    """A connection that is used from its opening to its closing."""

    def __init__(self, place: Place) -> None:
        self.place: Place | None = place

    def let_go(self, seconds: float) -> bool:
        return False

    def go_on(self) -> None:
        pass

    def begin_anew(self) -> bool:
        return False


@contextmanager
def using(path: Path) -> Iterator[None]:
    """Have children know that a file is in use by something other than a store, if they are forked meanwhile."""
    busy = _Busy(place_of(path))
    with opening():
        hold(busy)
    try:
        yield
    finally:
        busy.place = None


def _before_fork() -> None:
    end = time.monotonic() + _PATIENCE
    _fork.alone = _opening.acquire(timeout=_PATIENCE)
    _fork.kept_out = [holder for holder in _living() if holder.let_go(max(0.0, end - time.monotonic()))]


def _in_parent() -> None:
    for holder in _fork.kept_out:
        holder.go_on()
    _fork.kept_out = []
    if _fork.alone:
        _opening.release()


def _in_child() -> None:
    global _opening, _holding
    _opening, _holding = threading.Lock(), threading.Lock()
    for holder in _living():
        if not holder.begin_anew() and holder.place is not None:
            _crossed.add(holder.place)
    for owner in list(_lock_owners):
        owner.renew_lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
