"""Keep forked processes away from each other's SQLite locks; this module registers the only fork hooks.

Two facts about POSIX explain it:

- Closing any descriptor of a file drops every lock that the process holds on it. Another process would then take the
  write-ahead log for an orphan and delete it, with every later event. So only SQLite opens a file that is open here.
- A forked child inherits SQLite's record of the locks, but not the locks. A connection in the child would trust that
  record. So each idle connection to a file is closed before a fork; parent and child then open their own. A connection
  in use stays open, and the child refuses its file. A ledger in memory stays with the parent.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, TypeAlias

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage.block_lock import BlockLock, renew_all

__all__ = [
    "FileIdentity",
    "OpenFile",
    "file_identity",
    "importing",
    "in_use",
    "is_imported",
    "is_open",
    "opening_lock",
    "register_open_file",
]

FileIdentity: TypeAlias = "tuple[int, int]"  # device and inode: the same for every name of a file

_FORK_TIMEOUT = 2.0  # seconds that a fork waits for threads that use a ledger
_IMPORT_TIMEOUT = 10.0  # seconds that a fork waits for threads that import a part of this package


class OpenFile(Protocol):
    """An object that has a ledger file open.

    Attributes:
        identity: the file; None before the object opens it and after it closes it.
    """

    identity: FileIdentity | None

    def before_fork(self, forking: FrameType, seconds: float) -> bool:
        """Lock out other threads, then close the connection unless it is in use.

        Args:
            forking: the frame that forks, which holds the lock meanwhile.
            seconds: how long to wait for other threads.

        Returns:
            Whether other threads are locked out.
        """

    def after_fork_in_parent(self, forking: FrameType) -> None:
        """Let other threads in again; nothing happens if they were not locked out."""

    def after_fork_in_child(self) -> bool:
        """Drop the parent's threads and connection.

        Returns:
            Whether the parent had closed its connection.
        """


_open_files: tuple[weakref.ref[OpenFile], ...] = ()  # replaced, never changed, so that threads read it without a lock
_used_by_parent: set[FileIdentity] = set()  # files that the parent was using when it forked this process
_opening, _registering = BlockLock(), BlockLock()
_fork = threading.local()
# The imports under way -> their threads. By weak reference, so that one that was interrupted is not waited for.
_imports: weakref.WeakKeyDictionary[importing, int] = weakref.WeakKeyDictionary()
_cut_off: list[str] = []  # what other threads of the parent were importing when it forked this process


def file_identity(path: str | os.PathLike[str]) -> FileIdentity:
    """Return the device and inode of a file."""
    found = os.stat(path)  # noqa: PTH116  # 3 us less than Path.stat, once an event
    return found.st_dev, found.st_ino


def is_open(path: Path) -> bool:
    """Tell whether this process has a file open.

    Raises:
        LedgerFileError: the parent was using the file when it forked this process.
    """
    if not path.exists():
        return False
    identity = file_identity(path)
    if identity in _used_by_parent:
        raise LedgerFileError(
            f"{path}: it was in use when this process was forked; fork when no thread is using a ledger, or start "
            "processes by 'spawn'"
        )
    return identity in {file.identity for file in _registered()}


def _registered() -> list[OpenFile]:
    return [file for reference in _open_files if (file := reference()) is not None]


def opening_lock() -> BlockLock:
    """Return the lock that keeps other threads from opening a ledger, and from forking, during a `with` block."""
    return _opening


def register_open_file(file: OpenFile) -> None:
    """Remember an object that opens a file; call it under `opening_lock()`."""
    global _open_files
    with _registering:
        _open_files = (*(weakref.ref(each) for each in _registered() if each is not file), weakref.ref(file))


class in_use:
    """Make children that are forked during the block refuse a file, because a connection to it stays open.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.identity: FileIdentity | None = None
        self._path = path

    def __enter__(self) -> in_use:
        with _opening:
            self.identity = file_identity(self._path)
            register_open_file(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.identity = None

    def before_fork(self, forking: FrameType, seconds: float) -> bool:
        """Lock out no thread."""
        return False

    def after_fork_in_parent(self, forking: FrameType) -> None:
        """Do nothing."""

    def after_fork_in_child(self) -> bool:
        """Return that the connection stayed open."""
        return False


class importing:
    """Let forks of other threads wait for an import in the block. No lock of this package may be held meanwhile.

    A child inherits Python's lock of a module that another thread imports, and would wait for that thread permanently.

    Args:
        name: the module.

    Raises:
        LedgerFileError: the parent did not wait long enough, so that this child can never import it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        if self.name in _cut_off:
            raise LedgerFileError(
                f"{self.name}: another thread was importing it when this process was forked; fork when no thread is "
                "using a ledger, or start processes by 'spawn'"
            )
        if not is_imported(self.name):
            _imports[self] = threading.get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _imports.pop(self, None)


def is_imported(name: str) -> bool:
    """Tell whether a module is imported wholly. Risk: `_initializing`, which importlib's own check reads too."""
    module = sys.modules.get(name)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


def _imports_of_others() -> list[str]:
    me = threading.get_ident()
    return [each.name for each, thread in list(_imports.items()) if thread != me]


# Python drops what a hook raises, and forks all the same. So each hook does its work again after an interrupt.


def _before_fork() -> None:
    forking = sys._getframe(1)
    try:
        _close_for(forking)
    except BaseException:
        _let_in(forking)
        _close_for(forking)
        raise


def _after_fork_in_parent() -> None:
    forking = sys._getframe(1)
    try:
        _let_in(forking)
    except BaseException:
        _let_in(forking)
        raise


def _after_fork_in_child() -> None:
    try:
        _leave_to_parent()
    except BaseException:
        _leave_to_parent()
        raise
    finally:
        _fork.locked = []


def _close_for(forking: FrameType) -> None:
    _fork.locked, _fork.imports = [], []
    end = time.monotonic() + _IMPORT_TIMEOUT
    while _imports_of_others() and time.monotonic() < end:
        time.sleep(0.001)
    _fork.imports = _imports_of_others()
    end = time.monotonic() + _FORK_TIMEOUT
    _opening.enter(forking, _FORK_TIMEOUT)
    for file in _registered():
        if file.before_fork(forking, max(0.0, end - time.monotonic())):
            _fork.locked.append(file)


def _let_in(forking: FrameType) -> None:
    for file in _registered():
        file.after_fork_in_parent(forking)
    _fork.locked = []
    _opening.leave(forking)


def _leave_to_parent() -> None:
    renew_all()
    _cut_off.extend(getattr(_fork, "imports", ()))  # missing after an interrupt of the hook before the fork
    locked = getattr(_fork, "locked", ())
    for file in _registered():
        was_closed = file.after_fork_in_child()
        # A file that could not be locked was in use, or was being opened: then the child sees no connection of it.
        was_locked = any(file is each for each in locked)
        if not (was_closed and was_locked) and file.identity is not None:
            _used_by_parent.add(file.identity)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
