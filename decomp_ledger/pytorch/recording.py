"""Recordings: the tables and exports of code that does not know decomp_ledger."""

from __future__ import annotations

import datetime
import sys
import threading
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from decomp_ledger.errors import LedgerError, LedgerFileError, RecordingWarning, SchemaError, UnusableValue
from decomp_ledger.log import provenance
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.table_log import TableLog, Wanted
from decomp_ledger.model import op_names
from decomp_ledger.model.events import OVERRIDE, PRESERVE, Updated
from decomp_ledger.model.rules import TableState
from decomp_ledger.pytorch import active, patches

if TYPE_CHECKING:
    from decomp_ledger.model.materialize import Snapshot
    from decomp_ledger.pytorch.dispatcher import Defaults

__all__ = ["Recording"]

ON_ERROR = ("warn", "raise")


class Recording:
    """What :func:`record` gives: entered with `with`.

    Attributes:
        name: its tables are `<name>/1`, `<name>/2` ...
        ledger: where they are recorded. The file is made with the first event.
    """

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
            raise UnusableValue(f"on_error is 'warn' or 'raise', not {on_error!r}")
        self.ledger = ledger
        self._owns_ledger = owns_ledger
        self.name = default_name() if name is None else op_names.check_label(name, "a recording")
        self._reason = reason
        self._on_error = on_error
        self._failed = self._left = False
        self._lock = threading.RLock()
        self._streams: weakref.WeakSet[TableLog] = weakref.WeakSet()
        self._plain: dict[tuple[Any, ...], TableLog] = {}

    def __enter__(self) -> Recording:
        if active.is_entered(self):
            raise LedgerError(f"the recording {self.name!r} is entered already; make another one")
        self._left = False
        active.enter(self)
        patches.acquire(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        active.leave(self)
        patches.release(self)
        # Its tables live on, unrecorded, as long as somebody uses them.
        with self._lock:
            self._left = True
            table_ids = list(self._streams)
        for log in table_ids:
            log.detach()
        if self._owns_ledger:
            self.ledger.close()

    def new_log(self, base: str = "torch") -> TableLog:
        """Return the stream of a new table, for which nothing is written until it is changed or used."""
        log = TableLog(None if self.stopped else self.ledger, None, prefix=self.name, state=TableState("", 0, base, {}))
        log.reason = self._reason
        log.adopt(self)
        return log

    @property
    def stopped(self) -> bool:
        """Whether nothing more is recorded: it was left, or failed, and a log with holes would be worse than none."""
        return self._failed or self._left

    def adopted(self, log: TableLog) -> None:
        """Keep in mind a stream that is to be detached at the end."""
        with self._lock:
            self._streams.add(log)

    def failed(self, error: Exception) -> None:
        """Say once that the recording has stopped; the export must go on.

        Raises:
            LedgerError: the user asked for it with `on_error="raise"`.
        """
        if self._on_error == "raise":
            raise error
        with self._lock:
            first, self._failed = not self._failed, True
        if first:
            _warn(f"recording {self.name!r} has STOPPED, and the export goes on unrecorded: {error}")

    def missed(self, error: Exception) -> None:
        """Say that one table or export is not recorded, for a reason that is not the ledger's.

        Raises:
            Exception: the user asked for it with `on_error="raise"`.
        """
        if isinstance(error, (LedgerFileError, SchemaError)):
            self.failed(error)
        elif self._on_error == "raise":
            raise error
        else:
            _warn(f"recording {self.name!r}: an export was not recorded: {error!r}")

    def plain(self, table: Mapping[Any, Any]) -> tuple[TableLog, Snapshot, tuple[str, ...]] | None:
        """Record a plain dict that is about to be used, as what it differs by from torch's default table.

        Returns:
            Its stream, what it is in this torch, and the ops that a table of torch's own lacks because it was read
            before they were loaded; None if it cannot be recorded.
        """
        if self._failed:
            return None
        try:
            from decomp_ledger.pytorch.dispatcher import dispatcher

            defaults = dispatcher.full()
            stale = _stale(table, defaults)
            base, wanted = _difference(dict(table), defaults)
            with self._lock:
                key = (base, *wanted)
                log = self._plain.get(key)
                if log is None:
                    log = self._plain[key] = self.new_log(base)
            log.change(Updated, lambda rules: [] if rules else wanted)
            return log, log.materialize(defaults.catalog), stale
        except Exception as error:
            self.missed(error)
            return None


def _stale(table: Mapping[Any, Any], defaults: Defaults) -> tuple[str, ...]:
    """Return the ops that torch's own table lacks though it is not known to have lost them: it was read too early.

    One that was removed before the table was first read is among them: torch then forgets who removed it.
    Risk: `CustomDecompTable.has_materialized` and `deleted_custom_ops`.
    """
    if not getattr(table, "has_materialized", False):
        return ()  # a plain dict, or one that still takes in what is loaded
    removed = getattr(table, "deleted_custom_ops", ())
    return tuple(
        sorted(
            op
            for op, live in defaults.by_name.items()
            if not op_names.is_aten(op) and live not in removed and live not in table
        )
    )


def _difference(table: dict[Any, Any], defaults: Defaults) -> tuple[str, Wanted]:
    """Return the base and the changes that make a plain dict, by whichever base needs fewer changes."""
    from decomp_ledger.pytorch import decompositions
    from decomp_ledger.pytorch.internals import HigherOrderOperator, OpOverload

    # Keys that are no operators mean nothing to torch.
    by_name = {op.name(): fn for op, fn in table.items() if isinstance(op, (OpOverload, HigherOrderOperator))}
    given = {op: fn for op, fn in by_name.items() if not decompositions.is_default(op, fn, defaults)}
    missing = [op for op in defaults.by_name if op not in by_name]
    from_torch = len(given) + len(missing) <= len(by_name)
    overrides = given if from_torch else by_name
    wanted: Wanted = [(op, OVERRIDE, decompositions.describe(op, fn, defaults)) for op, fn in sorted(overrides.items())]
    if from_torch:
        wanted += [(op, PRESERVE, None) for op in sorted(missing)]
    return ("torch" if from_torch else "empty"), wanted


def _warn(message: str) -> None:
    warnings.warn(message, RecordingWarning, stacklevel=provenance.stack_level())


def default_name() -> str:
    """Return a name made of the script and the time: `export.py-20260131T120000`."""
    script = Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "python"
    now = datetime.datetime.now(datetime.timezone.utc)
    kept = "".join(c if c.isprintable() and c not in "@: /" else "_" for c in script)[:100]
    return f"{kept or 'python'}-{now:%Y%m%dT%H%M%S}"
