"""Record the tables and exports of code that does not know decomp_ledger."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

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
from decomp_ledger.model.events import Passed
from decomp_ledger.model.handles import Handle
from decomp_ledger.model.rules import TableState
from decomp_ledger.model.safe_text import safe_repr
from decomp_ledger.pytorch import active, patches
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.block_lock import BlockLock
from decomp_ledger.storage.event_store import utc_now

if TYPE_CHECKING:
    from decomp_ledger.model.materialize import Snapshot

__all__ = ["Recording"]

ON_ERROR = ("warn", "raise")
_NAMED = 3  # exports that a warning names


class Recording(Handle):
    """A recording that `with` enters; :func:`decomp_ledger.record` returns one.

    Args:
        ledger: the ledger that its events go to.
        name: what the names of its tables begin with; by default the script and the time.
        reason: why, for every event.
        on_error: what to do when the ledger cannot be written: "warn" once and go on unrecorded, or "raise".
        owns_ledger: close the ledger when the recording is left.

    Attributes:
        name: its tables are `<name>/1`, `<name>/2` ...
        ledger: the ledger that its events go to; the first event makes the file.
        exports: those that succeeded while it was entered, oldest first.
        saved: the hashes of the events of the exports that led to a program that was saved.
        unstamped: the programs that were saved without a stamp; it warns of them at its end.
    """

    instead = "make another one, with record(...)"

    def __init__(
        self,
        ledger: LedgerLog,
        *,
        name: str | None = None,
        reason: str | None = None,
        on_error: str = "warn",
        owns_ledger: bool = False,
    ) -> None:
        if on_error not in ON_ERROR:
            raise UnusableValue(f"on_error={on_error!r}: unknown value; give 'warn' or 'raise'")
        self.ledger = ledger
        self._owns_ledger = owns_ledger
        self.name = default_name() if name is None else op_names.check_label(name, "a recording")
        self._reason = reason
        self._on_error = on_error
        self._failed = self._left = False
        self.exports: list[active.ExportDone] = []
        self.saved: set[str] = set()
        self.unstamped: list[active.Unstamped] = []
        self._lock = BlockLock()
        self._logs: weakref.WeakSet[TableLog] = weakref.WeakSet()
        self._logs_of_dicts: dict[tuple[Any, ...], TableLog] = {}

    def __enter__(self) -> Recording:
        if active.is_entered(self):
            raise LedgerError(f"recording {self.name!r}: it is entered already; make another one")
        if self._left and self._owns_ledger:
            raise LedgerError(f"recording {self.name!r}: its ledger is closed; make another one with record()")
        self._left = False
        active.enter(self)
        patches.install(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not active.is_entered(self):
            return  # it was left before
        with Passing(error, f"recording {self.name!r}: it could not be left as it should"):
            self._leave()

    def _leave(self) -> None:
        active.leave(self)
        patches.uninstall(self)
        try:
            self._warn_of_unstamped()
        finally:
            self._detach_tables()

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
        for log in logs:
            log.detach()
        if self._owns_ledger:
            self.ledger.close()

    def new_log(self, base: str = "torch") -> TableLog:
        """Return the log of a new table; nothing is written until the table is changed or used."""
        if not self.stopped:
            self.ledger.database.prepare()
        log = TableLog(None if self.stopped else self.ledger, None, prefix=self.name, state=TableState("", 0, base, {}))
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

    def record_plain_dict(self, table: Mapping[Any, Any]) -> tuple[TableLog, Snapshot, tuple[str, ...]] | None:
        """Record a dict that an export is about to use: its content, as the difference from torch's default table.

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
            caller = provenance.torch_caller()
            key = (found.base, found.later, caller, *found.changes)
            log = self._logs_of_dicts.setdefault(key, self.new_log(found.base))
            passed = partial(Passed, entries=found.entries, later=found.later, caller=caller)
            log.change(passed, lambda rules: [] if rules else found.changes)
            return log, log.materialize(defaults.catalog), tuple(sorted({*stale, *found.later}))
        except Exception as error:
            self.missed(error)
            return None


def _warn(message: str) -> None:
    warnings.warn(message, RecordingWarning, stacklevel=provenance.stack_level())


def default_name() -> str:
    """Return a name from the script and the time: `export.py-20260131T120000`."""
    script = Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "python"
    now = utc_now()[:19].replace("-", "").replace(":", "")
    kept = "".join(c if c.isprintable() and c not in "@: /" else "_" for c in script)[:100]
    return f"{kept or 'python'}-{now}"
