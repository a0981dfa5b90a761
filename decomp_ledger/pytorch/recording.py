"""Record the tables and exports of code that does not know decomp_ledger."""

from __future__ import annotations

import logging
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from decomp_ledger.errors import (
    LedgerError,
    LedgerFileError,
    RecordingWarning,
    SchemaError,
    StampWarning,
    UnusableValue,
)
from decomp_ledger.log import provenance
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.passing import Passing
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import displayed, guarded
from decomp_ledger.model.events import Lowered, Passed, Saved
from decomp_ledger.model.handles import Handle
from decomp_ledger.model.recorded_names import recorded_name, series_name
from decomp_ledger.model.rules import TableState
from decomp_ledger.model.safe_text import safe_repr
from decomp_ledger.pytorch import active, patches
from decomp_ledger.pytorch.recording_name import default_name
from decomp_ledger.pytorch.run_number import RunNumber
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.block_lock import BlockLock
from decomp_ledger.storage.event_store import RunTotals

if TYPE_CHECKING:
    from decomp_ledger.model.materialize import Snapshot
    from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["ChildrenNotes", "FollowsChildren", "Recording", "RecordingSummary"]

_LOG = logging.getLogger("decomp_ledger")
ON_ERROR = ("warn", "raise")
_NAMED = 3  # exports that a warning names


@attrs.frozen
class ChildrenNotes:
    """What the children of a recorded program noted.

    Attributes:
        imported_torch: whether one of them imported torch.
        missed: the children that could not be followed, each with the reason, in the order of their start.
    """

    imported_torch: bool = False
    missed: tuple[str, ...] = ()


class FollowsChildren(Protocol):
    """What lets the child processes record too: `Children` of pytorch/children.py."""

    def begin(self, plan: dict[str, Json]) -> None:
        """Follow the children that start from now on."""

    def end(self) -> None:
        """Follow no more."""

    def notes(self) -> ChildrenNotes:
        """Return what they noted so far."""

    @property
    def notes_file(self) -> str:
        """The file of the notes; "" before `begin`."""


@displayed
@attrs.frozen(repr=False)
class RecordingSummary:
    """How much a recording holds.

    Attributes:
        exports: exports that were run.
        failed: those of them that failed.
        tables: tables that were changed or used.
        processes: processes that recorded something.
        imported_torch: whether the program or a child that was followed imported torch.
        missed: children that could not be followed: the command of each, and why.
        stopped: the error of the ledger after which this process recorded no more; "" if it recorded to the end.
    """

    exports: int
    failed: int
    tables: int
    processes: int
    imported_torch: bool
    missed: tuple[str, ...]
    stopped: str = ""

    def why_nothing(self) -> str:
        """Return why nothing was recorded, as far as that is known; "" if something was."""
        if self.tables:
            return ""
        why = "no table was made and nothing was exported" if self.imported_torch else "torch was not imported"
        why = f"the recording stopped: {self.stopped}" if self.stopped else why
        if not self.missed:
            return why
        children = "one child" if len(self.missed) == 1 else f"{len(self.missed)} children"
        return f"{why} in what was followed, and {children} could not be followed"

    def __str__(self) -> str:
        """Return one line, as `run` prints it."""
        parts = [
            _count(self.exports, "export") + (f" ({self.failed} failed)" if self.failed else ""),
            _count(self.tables, "table"),
            *([_count(self.processes, "process", "es")] if self.processes > 1 else []),
        ]
        return ", ".join(parts)


def _count(number: int, name: str, plural: str = "s") -> str:
    return f"{number} {name}{'' if number == 1 else plural}"


@displayed
class Recording(Handle):
    """A recording that `with` enters; :func:`decomp_ledger.record` returns one.

    Args:
        ledger: the ledger that its events go to.
        name: what the names of its tables begin with; by default that of the script, module or notebook.
        reason: why, for every event.
        on_error: what to do when the ledger cannot be written: "warn" once and go on unrecorded, or "raise".
        children: lets the Python processes record too that start within it; None if they are not to.
        notes: in a child, the file of the notes of the process that started the recording.
        sidecars: write a stamp next to each file that cannot hold one.
        owns_ledger: close the ledger when the recording is left.
        all_tracing: record what torch traces outside of exports, too.

    Attributes:
        name: a table of it is `<name>/<maker>/<run>`: the function that made it, and the number of the run.
        ledger: the ledger that its events go to; the first event makes the file.
        exports: those that succeeded while it was entered, oldest first.
        saved: the hashes of the events of the exports that led to a program that was saved.
        unstamped: the programs that were saved without a stamp; it warns of them at its end.
        at_end: what is called before it ends or is summed up.
    """

    instead = "make another one, with record(...)"

    @guarded
    def __repr__(self) -> str:
        return f"<Recording {self.name} in {self.ledger.path}: {len(self.exports)} exports succeeded>"

    def __init__(
        self,
        ledger: LedgerLog,
        *,
        name: str | None = None,
        reason: str | None = None,
        on_error: str = "warn",
        children: FollowsChildren | None = None,
        notes: str = "",
        sidecars: bool = False,
        owns_ledger: bool = False,
        all_tracing: bool = False,
    ) -> None:
        if children is not None and ledger.database.in_memory:
            raise UnusableValue("children=True: other processes cannot write to a ledger in memory; give a file")
        if on_error not in ON_ERROR:
            raise UnusableValue(f"on_error={on_error!r}: unknown value; give 'warn' or 'raise'")
        self.ledger = ledger
        self._owns_ledger = owns_ledger
        self.sidecars = sidecars
        self.name = default_name() if name is None else op_names.check_label(name, "a recording")
        self._reason = reason
        self._on_error = on_error
        self._failed = self._left = False
        self._stopped_by = ""
        self.exports: list[active.ExportDone] = []
        self.saved: set[str] = set()
        self.unstamped: list[active.Unstamped] = []
        self._lock = BlockLock()
        self._logs: weakref.WeakSet[TableLog] = weakref.WeakSet()
        self._logs_of_dicts: dict[tuple[Any, ...], TableLog] = {}
        self._children = children
        self.all_tracing = all_tracing
        self.at_end: list[Callable[[], None]] = []
        self._notes = notes
        self._run = RunNumber(self.name, notes)
        self._tried: dict[str, int] = {}  # series -> the number of its last table in the run

    def __enter__(self) -> Recording:
        return self.enter()

    def enter(self, *, outermost: bool = False) -> Recording:
        """Begin to record; `with` calls this.

        Args:
            outermost: let the recordings that are entered already stay inside this one.
        """
        if active.is_entered(self):
            raise LedgerError(f"recording {self.name!r}: it is entered already; make another one")
        if self._left and self._owns_ledger:
            raise LedgerError(f"recording {self.name!r}: its ledger is closed; make another one with record()")
        self._left = False
        active.enter(self, outermost=outermost)
        patches.install(self)
        if self._children is not None:
            self._children.begin(self._plan())
        notes = self._notes if self._children is None else self._children.notes_file
        self._run, self._tried, self._logs_of_dicts = RunNumber(self.name, notes), {}, {}
        _LOG.info("recording %s: it began, into %s", self.name, self.ledger.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not active.is_entered(self):
            return  # it was left before
        with Passing(error, f"recording {self.name!r}: it could not be left as it should"):
            self._leave()

    def _leave(self) -> None:
        if self._children is not None:
            self._children.end()
        active.leave(self)
        patches.uninstall(self)
        _LOG.info("recording %s: it ended; run %s", self.name, self.run or "without a table")
        try:
            self.write_rest()
            self.at_end.clear()
            if lacking := patches.lacking():
                _warn(
                    f"recording {self.name!r}: it missed what needs {', '.join(lacking)}, because this version has "
                    "none of that; use a torch that docs/versions.md names, or a newer decomp_ledger"
                )
            self._warn_of_unstamped()
        finally:
            self._detach_tables()

    def write_rest(self) -> None:
        """Append the events that sum up what is not recorded one by one."""
        for write in self.at_end:
            try:
                write()
            except Exception as error:
                self.missed(error)

    def _warn_of_unstamped(self) -> None:
        """Warn of each program that was saved instead of what an export gave."""
        unstamped, self.unstamped = self.unstamped, []
        for each in unstamped:
            names = [done.name for done in each.exports if done.hash not in self.saved]
            if names:
                more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
                what = "lowered it" if each.lowered else "ran"
                warnings.warn(
                    f"{each.file}: the program was saved without a stamp: no recorded export is known to have led to "
                    f"it; {', '.join(names[:_NAMED])}{more} {what}, and the result was not saved; save what "
                    "run_decompositions() returned",
                    StampWarning,
                    stacklevel=provenance.stack_level(),
                )

    def _detach_tables(self) -> None:
        # Its tables stay usable, unrecorded.
        with self._lock:
            self._left = True
            logs = list(self._logs)
            self._logs_of_dicts.clear()
        for log in logs:
            log.detach()
        if self._owns_ledger:
            self.ledger.close()

    def _plan(self) -> dict[str, Json]:
        """Return how a child is recorded, for `record_child`."""
        return {
            "ledger": self.ledger.database.path,
            "name": self.name,
            "actor": self.ledger.actor,
            "ledger_reason": self.ledger.reason,
            "reason": self._reason,
            "trust": [*self.ledger.functions.trust],
            "on_error": self._on_error,
            "all_tracing": self.all_tracing,
            "sidecars": self.sidecars,
        }

    def summary(self, *, after: int = 0) -> RecordingSummary:
        """Return how much was recorded, by this process and by its children.

        It reads the ledger, so call it before the recording is left.

        Args:
            after: count the events after this seq; give the last one before the recording, if its name was used before.

        Raises:
            LedgerFileError: the ledger cannot be read.
        """
        self.write_rest()
        notes = ChildrenNotes() if self._children is None else self._children.notes()
        run, found = self.run, RunTotals()
        if run is not None and self.ledger.database.exists:
            found = self.ledger.event_store.run_totals(self.name, run, gt=after)
        return RecordingSummary(
            exports=found.exports,
            failed=found.failed,
            tables=found.tables,
            processes=found.processes,
            imported_torch="torch" in sys.modules or notes.imported_torch,
            missed=notes.missed,
            stopped=self._stopped_by,
        )

    @property
    def run(self) -> int | None:
        """The number of the run, which is part of the names of its tables; None before its first event."""
        return self._run.known()

    def series(self) -> str:
        """Return the name of the series of a table that is made now: the recording and the function that makes it."""
        return series_name(self.name, provenance.maker())

    def new_name(self, series: str) -> str:
        """Return the name of a new table of a series, in the write transaction that appends its first event."""
        run, number = self._run.take(self.ledger), self._tried.get(series, 1)
        while self.ledger.event_store.table_id(name := recorded_name(series, run, number)) is not None:
            number += 1
        self._tried[series] = number
        return name

    def new_log(self, base: str = "torch") -> TableLog:
        """Return the log of a new table; nothing is written until the table is changed or used."""
        ledger = None if self.stopped else self.ledger
        log = TableLog(ledger, None, prefix=self.series(), state=TableState("", 0, base, {}))
        log.reason = self._reason
        log.adopt(self)
        return log

    @property
    def stopped(self) -> bool:
        """Whether nothing more is recorded, because it was left or failed: a log with gaps would be worse than none."""
        return self._failed or self._left

    def adopted(self, log: TableLog) -> None:
        """Remember a log that is to be detached at the end."""
        with self._lock:
            self._logs.add(log)

    def failed(self, error: Exception) -> None:
        """Stop recording after an error of the ledger, and warn once; the export goes on.

        Raises:
            LedgerError: the error, with `on_error="raise"`.
        """
        if self._on_error == "raise":
            raise error
        with self._lock:
            first, self._failed = not self._failed, True
        if first:
            self._stopped_by = str(error)
            _warn(f"recording {self.name!r}: it has STOPPED, and the export goes on unrecorded: {error}")

    def missed(self, error: Exception) -> None:
        """Warn that one table or export is not recorded; an error of the ledger stops the recording.

        Raises:
            Exception: the error, with `on_error="raise"`.
        """
        # Not isinstance, because the error may be the program's own, whose `__class__` may do anything.
        if issubclass(type(error), (LedgerFileError, SchemaError)):
            self.failed(error)
        elif self._on_error == "raise":
            raise error
        else:
            _warn(f"recording {self.name!r}: an export was not recorded: {safe_repr(error, 300)}")

    def record_saved(self, export: ExportBundle, body: Saved) -> None:
        """Append the event that the result of an export was saved, if this recording's ledger has the export.

        Raises:
            LedgerError: it cannot be written.
        """
        if self.stopped or not self.ledger.database.exists or self.ledger.id != export.ledger:
            return
        try:
            self.ledger.append(export.event.table, export.event.version, body, reason=self._reason)
        except (LedgerFileError, SchemaError) as error:
            self.failed(error)

    def note_lowered(self, bundle: ExportBundle, body: Lowered) -> None:
        """Record that the result of an export is lowered again, unless the export is of another ledger."""
        if not self.stopped and self.ledger.database.exists and self.ledger.id == bundle.ledger:
            self.ledger.append(bundle.event.table, bundle.event.version, body, reason=self._reason)

    def record_plain_dict(
        self, table: Mapping[Any, Any], caller: str | None = None
    ) -> tuple[TableLog, Snapshot, tuple[str, ...]] | None:
        """Record a dict that an export is about to use: its content, as the difference from torch's default table.

        Args:
            table: the dict.
            caller: what passes it; by default the line of torch that does.

        Returns:
            Its log, its snapshot in this torch, and the ops that it lacks because it was made, or for a table of
            torch's own read, before they were loaded; None if it cannot be recorded.
        """
        if self._failed:
            return None
        try:
            with fork_safety.importing("decomp_ledger.pytorch.plain_dict"):
                from decomp_ledger.pytorch import dispatcher, plain_dict  # they import torch, which is loaded by now

            defaults = dispatcher.dispatcher.full()
            stale = plain_dict.stale_ops(table, defaults)
            found = plain_dict.content(dict(table), defaults)
            caller = provenance.torch_caller() if caller is None else caller
            key = (self.series(), found.base, found.later, caller, found.made, *found.changes)
            log = self._logs_of_dicts.setdefault(key, self.new_log(found.base))
            passed = partial(Passed, entries=found.entries, later=found.later, caller=caller, made=found.made)
            log.change(passed, lambda rules: [] if rules else found.changes)
            return log, log.materialize(defaults.catalog), tuple(sorted({*stale, *found.later}))
        except Exception as error:
            self.missed(error)
            return None


def _warn(message: str) -> None:
    warnings.warn(message, RecordingWarning, stacklevel=provenance.stack_level())
