"""A lock that is held by blocks of code, and that comes free when they have ended, however they ended.

An exception of a signal handler can arrive between any two steps, also after a lock was taken and before `with` began
its block, or before it called `__exit__`. A lock of Python's own would then be held until the process ends. This one
knows the frame of each block that holds it. A hold whose frames no longer run on their thread is void, and the next
thread that wants the lock takes it.

So a block must not outlive its frame: `with lock:` is right, a generator that yields within such a block is not.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from types import FrameType, TracebackType
from typing import Any

__all__ = ["BlockLock", "renew_all"]

_PAUSE = 0.0005  # seconds between two attempts to get the lock
_LOOKS_AFTER = 0.02  # seconds between two looks whether the holder's blocks still run, which cost 10 us


class _Hold:
    """One thread's hold of a lock.

    Attributes:
        thread: the thread.
        blocks: the frames of its blocks, the outermost first.
    """

    __slots__ = ("blocks", "thread")

    def __init__(self, thread: int, frame: FrameType) -> None:
        self.thread = thread
        self.blocks = [frame]


class BlockLock:
    """A reentrant lock for `with`. Every lock of the package is one, and each is free in a forked child.

    A cell is a dict: `hold` is who has the lock, `next` the cell after the release. No signal and no other thread can
    divide `dict.setdefault`, so each cell has one holder, and a release may be repeated.
    """

    def __init__(self) -> None:
        self._cell: dict[str, Any] = {}
        _locks.add(self)

    def __enter__(self) -> BlockLock:
        self.enter(sys._getframe(1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(sys._getframe(1))

    def enter(self, frame: FrameType, timeout: float | None = None) -> int:
        """Take the lock for a block.

        Args:
            frame: the frame of the block.
            timeout: seconds to wait for other threads; None waits until it is free.

        Returns:
            How many blocks of this thread hold the lock now; 0 if it did not come free in time.
        """
        me = threading.get_ident()
        deadline = None if timeout is None else time.monotonic() + timeout
        look_at, seen = 0.0, None
        while True:
            cell = self._newest()
            hold = cell.get("hold")
            if hold is None:
                mine = _Hold(me, frame)
                hold = cell.setdefault("hold", mine)
                if hold is mine:
                    return 1
            if hold.thread == me:
                depth = _running(hold.blocks, frame) + 1
                if depth == 1:
                    self._pass_on(cell)
                    continue
                hold.blocks[depth - 1 :] = [frame]
                return depth
            now = time.monotonic()
            if now >= look_at:
                runs = _running(hold.blocks, sys._current_frames().get(hold.thread)) > 0
                # Void at two looks, because a block may begin or end during one.
                if not runs and seen is hold:
                    self._pass_on(cell)
                    continue
                look_at, seen = now + _LOOKS_AFTER, None if runs else hold
            if deadline is not None and now >= deadline:
                return 0
            time.sleep(_PAUSE)

    def leave(self, frame: FrameType) -> None:
        """End the innermost block of a frame, with those within it; do nothing if it has none."""
        cell = self._newest()
        hold = cell.get("hold")
        if hold is None or hold.thread != threading.get_ident():
            return
        blocks = hold.blocks
        for index in range(len(blocks) - 1, -1, -1):
            if blocks[index] is frame:
                if index == 0:
                    self._pass_on(cell)
                del blocks[index:]
                return

    def depth(self) -> int:
        """Return how many blocks of this thread hold the lock, without those that have ended."""
        hold = self._newest().get("hold")
        if hold is None or hold.thread != threading.get_ident():
            return 0
        return _running(hold.blocks, sys._getframe(1))

    def is_held(self) -> bool:
        """Tell whether another thread holds the lock, or a block of this one that still runs."""
        hold = self._newest().get("hold")
        if hold is None:
            return False
        return hold.thread != threading.get_ident() or _running(hold.blocks, sys._getframe(1)) > 0

    def renew(self) -> None:
        """Free the lock, in a forked child."""
        self._cell = {}

    def _newest(self) -> dict[str, Any]:
        cell = self._cell
        if "next" in cell:
            while "next" in cell:
                cell = cell["next"]
            self._cell = cell
        return cell

    def _pass_on(self, cell: dict[str, Any]) -> None:
        """Release the lock that a cell stands for."""
        cell.setdefault("next", {})


_locks: weakref.WeakSet[BlockLock] = weakref.WeakSet()


def renew_all() -> None:
    """Free every lock of the package, in a forked child, where the threads that held them do not exist."""
    for lock in list(_locks):
        lock.renew()


def _running(blocks: list[FrameType], frame: FrameType | None) -> int:
    """Return how many blocks have not ended: up to the last whose frame is this one or a caller."""
    while frame is not None:
        if frame in blocks:
            return len(blocks) - blocks[::-1].index(frame)
        frame = frame.f_back
    return 0
