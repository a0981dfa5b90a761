"""Exports: each `run_decompositions` with one of our tables, or within a recording, is an event.

What fired is counted by wrapping every decomposition, and counting only calls made while torch traces into a graph:
CIA kernels are also called for other reasons. The graph, its names and its stack traces are those of an unrecorded run.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from decomp_ledger.errors import LedgerError, RecordingWarning
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.events import Event, Exported
from decomp_ledger.model.materialize import Snapshot
from decomp_ledger.pytorch import active, graph_digest, internals, pt2
from decomp_ledger.pytorch.dispatcher import dispatcher
from decomp_ledger.pytorch.table import DecompTable
from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["run"]

_MAX_MESSAGE = 2000


def run(program: Any, table: Any, proceed: Callable[[Any], Any]) -> Any:
    """Lower a program, and record it if the table is recorded.

    Args:
        program: the ExportedProgram.
        table: what the caller gave to `run_decompositions`: None, a table, a dict, or what makes one.
        proceed: torch's own `run_decompositions`, called with the table to use.

    Returns:
        What torch returns.

    Raises:
        Whatever torch raises.
    """
    recording = active.current()
    if table is None and recording is not None:
        table = DecompTable(recording.new_log())  # what torch would make
    plain: Mapping[Any, Any]
    stale: tuple[str, ...] = ()
    if isinstance(table, DecompTable) and (table.ledger is not None or recording is None):
        plain, version, snapshot = table._use()
        log = table._log
    elif recording is None or table is None:
        return proceed(table)
    else:
        plain = table if isinstance(table, Mapping) else dict(table)
        found = recording.plain(plain)
        if found is None:
            return proceed(plain)
        log, snapshot, stale = found
        version = log.version
    if log.ledger is None or snapshot is None:
        return proceed(plain)
    return _Export(log, version, snapshot, stale).run(program, plain, proceed)


class _Export:
    """One export under way."""

    def __init__(self, log: TableLog, version: int, snapshot: Snapshot, stale: tuple[str, ...]) -> None:
        self.log = log
        self.version = version
        self.snapshot = snapshot
        self.stale = stale
        self.fired: dict[str, int] = {}

    def run(self, program: Any, table: Mapping[Any, Any], proceed: Callable[[Any], Any]) -> Any:
        before = _describe(program)
        started = time.perf_counter()
        try:
            result = proceed({op: self.counting(op, fn) for op, fn in table.items()})
        except BaseException as error:
            self.record(self.body(before, None, started, error))
            raise
        body = self.body(before, result, started, None)
        self.record(body, program, result)
        return result

    def counting(self, op: Any, fn: Any) -> Any:
        """Return the decomposition, wrapped so that it counts how often it is traced."""
        name = internals.name_of(op)
        if name is None or not callable(fn):
            return fn
        fired, tracing = self.fired, internals.tracing_mode

        def counted(*args: Any, **kwargs: Any) -> Any:
            if tracing() is not None:
                fired[name] = fired.get(name, 0) + 1
            return fn(*args, **kwargs)

        return counted

    def body(
        self, before: tuple[str | None, dict[str, int]], result: Any, started: float, error: BaseException | None
    ) -> Exported:
        """Return what came of it."""
        milliseconds = round((time.perf_counter() - started) * 1000)
        after: tuple[str | None, dict[str, int]] = (None, {}) if error is not None else _describe(result)
        return Exported(
            catalog=self.snapshot.catalog.digest,
            snapshot=self.snapshot.digest,
            before=before[0],
            after=after[0],
            ops_before=before[1],
            ops_after=after[1],
            fired=dict(sorted(self.fired.items())),
            milliseconds=milliseconds,
            error=None if error is None else (type(error).__name__, _storable(str(error))),
            stale=self.stale,
        )

    def record(self, body: Exported, program: Any = None, result: Any = None) -> None:
        """Append the event; keep in mind what led to the program that came out."""
        try:
            event = self.log.exported(body, self.version)
        except LedgerError as failure:
            # The export is done, or has failed by itself: neither is to be lost for the sake of its record.
            message = f"an export with {self.log.name}@{self.version} could not be recorded: {failure}"
            warnings.warn(message, RecordingWarning, stacklevel=2)
            return
        ledger = self.log.ledger
        if result is None or event is None or ledger is None:
            return
        try:
            earlier = pt2.history(program, body.before)
            pt2.remember(result, (*earlier, self.bundle(event, body, ledger)), body.after)
        except Exception as failure:  # likewise, whatever it is
            message = f"the program of export:{event.seq} will have no stamp when it is saved: {failure!r}"
            warnings.warn(message, RecordingWarning, stacklevel=2)

    def bundle(self, event: Event, body: Exported, ledger: LedgerLog) -> ExportBundle:
        """Return what a stamp holds of it. Made now: the ledger may be closed when the program is saved."""
        catalog = dispatcher.quick().catalog
        if catalog.digest != body.catalog:  # a library came while torch traced
            catalog = ledger.catalog(body.catalog)
        return ExportBundle.from_log(ledger, event, catalog)


def _describe(program: Any) -> tuple[str | None, dict[str, int]]:
    """Return a program's graph digest and what ops it has; (None, {}) for one that cannot be read."""
    try:
        return graph_digest.graph_digest(program), graph_digest.op_histogram(program)
    except Exception:
        return None, {}


def _storable(text: str) -> str:
    return text[:_MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()
