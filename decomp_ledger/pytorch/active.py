"""Keep the stack of recordings that are entered.

A table or an export belongs to the innermost recording that its own thread (or task) has entered. In a thread that
has entered none, it belongs to the recording that was entered last in the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from decomp_ledger.log.table_log import TableLog, TableOwner
from decomp_ledger.model.events import Lowered, Saved
from decomp_ledger.model.materialize import Snapshot
from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["ActiveRecording", "ExportDone", "current", "enter", "entered", "is_entered", "leave"]


class ExportDone(NamedTuple):
    """An export that a recording saw.

    Attributes:
        name: its name and its table, for people: `export:7 (nightly/1@3)`.
        before: digest of the graph that it lowered, or None.
        after: digest of its result, or None.
        hash: that of its event.
    """

    name: str
    before: str | None
    after: str | None
    hash: str


class Unstamped(NamedTuple):
    """A program that was saved without a stamp.

    Attributes:
        file: its name.
        exports: those whose result was not saved either, and that lowered it, or else all of them.
        lowered: whether they lowered it.
    """

    file: str
    exports: tuple[ExportDone, ...]
    lowered: bool


class ActiveRecording(TableOwner, Protocol):
    """The part of a recording that tables and exports inside it use."""

    @property
    def exports(self) -> list[ExportDone]:
        """The exports that succeeded while it was entered, oldest first."""

    @property
    def saved(self) -> set[str]:
        """The hashes of the events of the exports that led to a program that was saved."""

    @property
    def sidecars(self) -> bool:
        """Whether files that cannot hold a stamp get one next to them."""

    @property
    def unstamped(self) -> list[Unstamped]:
        """The programs that were saved without a stamp; at its end, the recording warns of them."""

    @property
    def all_tracing(self) -> bool:
        """Whether traces outside of exports are recorded."""

    @property
    def at_end(self) -> list[Callable[[], None]]:
        """What is to be called before the recording ends or is summed up."""

    def write_rest(self) -> None:
        """Append the events that sum up what is not recorded one by one."""

    def new_log(self, base: str = "torch") -> TableLog:
        """Return the log of a new table."""

    def record_saved(self, export: ExportBundle, body: Saved) -> None:
        """Append the event that the result of an export was saved, if this recording's ledger has the export."""

    def record_plain_dict(
        self, table: Mapping[Any, Any], caller: str | None = None
    ) -> tuple[TableLog, Snapshot, tuple[str, ...]] | None:
        """Record a plain dict that is about to be used; return None if it cannot be recorded."""

    def note_lowered(self, bundle: ExportBundle, body: Lowered) -> None:
        """Record that the result of an export is lowered again."""


_entered: list[ActiveRecording] = []  # in the process, the last one last
_entered_here: ContextVar[tuple[ActiveRecording, ...]] = ContextVar("entered_here", default=())


def current() -> ActiveRecording | None:
    """Return the recording that a table made now in this thread belongs to, or None."""
    for recording in reversed(_entered_here.get()):
        if recording in _entered:
            return recording
    return _entered[-1] if _entered else None


def entered() -> tuple[ActiveRecording, ...]:
    """Return all recordings that are entered in this process, the last one last."""
    return tuple(_entered)


def is_entered(recording: ActiveRecording) -> bool:
    """Tell whether a recording is entered."""
    return recording in _entered


def enter(recording: ActiveRecording, *, outermost: bool = False) -> None:
    """Make a recording the innermost one, or the outermost."""
    here = _entered_here.get()
    _entered.insert(0 if outermost else len(_entered), recording)
    _entered_here.set((recording, *here) if outermost else (*here, recording))


def leave(recording: ActiveRecording) -> None:
    """Take a recording off the stack."""
    _entered.remove(recording)
    _entered_here.set(tuple(each for each in _entered_here.get() if each is not recording))
