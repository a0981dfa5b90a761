"""Record each `run_decompositions` with a recorded table, or within a recording, as an event.

To see what each decomposition does, it is wrapped; `emissions.py` has the wrapper. Only calls while torch traces into a
graph count, because torch calls CIA kernels for other reasons too. The graph, its names and its stack traces are those
of an unrecorded run.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import attrs
import torch

from decomp_ledger.errors import LedgerError, RecordingWarning, UnsupportedTorch
from decomp_ledger.log.frame_room import with_room
from decomp_ledger.log.hidden_frames import hidden
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.passing import Passing
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.events import Event, Exported, RootModule
from decomp_ledger.model.materialize import Snapshot
from decomp_ledger.model.safe_text import describe, safe_repr
from decomp_ledger.pytorch import active, graph_digest, internals, upstream_tables
from decomp_ledger.pytorch.emissions import Followed, kinds, unmark
from decomp_ledger.pytorch.program_history import History, forget, history_of, remember
from decomp_ledger.pytorch.root_module import root_module
from decomp_ledger.pytorch.table import DecompTable
from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["is_under_way", "lower", "run", "unseen"]

# Whether this thread lowers a program that is recorded already, or that cannot be.
_under_way: ContextVar[bool] = ContextVar("export_under_way", default=False)


def is_under_way() -> bool:
    """Tell whether this thread is in the lowering of an export, which traces and lowers within."""
    return _under_way.get()


def unseen(what: str) -> UnsupportedTorch:
    """Return the error that a torch hides something from a recording."""
    return UnsupportedTorch(f"torch {torch.__version__}: {what} cannot be seen; use a newer decomp_ledger")


@hidden
def run(original: Callable[..., Any], program: Any, table: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Lower a program, and record it if the table is recorded.

    Args:
        original: torch's own `run_decompositions`.
        program: the ExportedProgram.
        table: the caller's argument of `run_decompositions`: None, a table, or whatever `dict()` takes.
        *args: the caller's other arguments.
        **kwargs: likewise.

    Returns:
        The result of `original`, whose errors pass through.
    """
    recording = active.current()
    if table is None and recording is not None:
        table = internals.default_table()
    if table is None or (recording is None and not isinstance(table, DecompTable)):
        return original(program, table, *args, **kwargs)
    export, plain = _begin(table, None, recording)
    return _run(export, original, program, plain, *args, **kwargs)


@hidden
def lower(original: Callable[..., Any], program: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Lower a program, and record it unless :func:`run` does: what every export passes.

    Not every export passes `run_decompositions`: `torch.export.experimental` does not. And a program that takes the
    method before it makes the first table, as in `program.run_decompositions(ledger.table("edge"))`, calls torch's own.

    Args:
        original: torch's own `_decompose_exported_program`.
        program: the ExportedProgram.
        *args: the caller's other arguments.
        **kwargs: likewise.
    """
    recording = active.current()
    kernels, functions = (kwargs.get(name) for name in internals.TABLES_OF_LOWERING)
    if is_under_way():
        return original(program, *args, **kwargs)
    if not isinstance(kernels, dict) or not isinstance(functions, dict):
        if recording is not None:
            recording.missed(unseen("the table of an export that does not pass run_decompositions()"))
        return original(program, *args, **kwargs)
    caller = sys._getframe(2)  # of the patched function
    passed = caller.f_locals.get("decomp_table") if caller.f_code.co_name == "run_decompositions" else functions
    if passed is None and recording is not None:
        passed = internals.default_table()
    if passed is None or (recording is None and not isinstance(passed, DecompTable)):
        return original(program, *args, **kwargs)
    content = {op: fn for op, fn in {**kernels, **functions}.items() if not internals.is_preserving(fn)}
    export, table = _begin(passed, content, recording)

    @hidden
    def call(program: Any, table: Mapping[Any, Any], /, *args: Any, **kwargs: Any) -> Any:
        parts = zip(internals.TABLES_OF_LOWERING, (kernels, functions), strict=True)
        given = {name: {op: table.get(op, fn) for op, fn in part.items()} for name, part in parts}
        return original(program, *args, **{**kwargs, **given})

    return _run(export, call, program, table, *args, **kwargs)


def _begin(
    table: Any, content: dict[Any, Any] | None, recording: active.ActiveRecording | None
) -> tuple[_Export | None, dict[Any, Any]]:
    """Return an export that is to be run, or None if it cannot be recorded; and what its table has.

    Args:
        table: what the program passed.
        content: what torch took from it, or None.
        recording: the recording that the export belongs to.
    """
    if isinstance(table, DecompTable) and (table.ledger is not None or recording is None):
        plain, version, snapshot = table.materialize_for_export()
        export = None if snapshot is None else _Export(table._log, version, snapshot, ())
    else:
        plain = dict(table) if content is None else content  # as torch does
        export = None if recording is None else _export_with(table, plain, recording)
    return None if export is None or export.log.ledger is None else export, plain if content is None else content


@with_room
@hidden
def _run(
    export: _Export | None, original: Callable[..., Any], program: Any, table: Any, /, *args: Any, **kwargs: Any
) -> Any:
    token = _under_way.set(True)
    try:
        if export is None:
            return original(program, table, *args, **kwargs)
        return export.run(original, program, table, *args, **kwargs)
    finally:
        _under_way.reset(token)


def _export_with(table: Any, content: dict[Any, Any], recording: active.ActiveRecording) -> _Export | None:
    """Return an export with a table of torch's own or a dict; None if it cannot be recorded.

    Args:
        table: what the program passed.
        content: what it has.
        recording: the recording that the export belongs to.
    """
    if upstream_tables.log_of(table) is not None:
        used = upstream_tables.use(table, content, recording)
        return None if used is None else _Export(*used)
    found = recording.record_plain_dict(table if isinstance(table, Mapping) else content)
    return None if found is None else _Export(found[0], found[0].version, *found[1:])


class _Export:
    """One export under way.

    Args:
        log: the table that it is made with.
        version: of the table.
        snapshot: of that version in this torch.
        stale: the ops that a dict, or a table of torch's own, lacks because it was made, or read, before they were
            loaded.
    """

    def __init__(self, log: TableLog, version: int, snapshot: Snapshot, stale: tuple[str, ...]) -> None:
        self.log = log
        self.version = version
        self.snapshot = snapshot
        self.stale = stale
        self.followed = Followed()
        self.source = _Source()
        self.ignored: tuple[str, ...] = ()

    @hidden
    def run(
        self, original: Callable[..., Any], program: Any, table: Mapping[Any, Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        before, earlier = _Graph.of(program), history_of(program)
        self.source = _Source.of(program, earlier)
        started = time.perf_counter()
        try:
            self.ignored = upstream_tables.ignored(table)
            followed = {op: self.followed.wrap(op, fn) for op, fn in table.items()}
            result = original(program, followed, *args, **kwargs)
        except BaseException as error:
            with Passing(error, f"{self.name}: a failed export with it could not be recorded"):
                self.record(self.body(before, _Graph(), started, error))
            raise
        body = self.body(before, _Graph.of(result), started, None)
        unmark(result)
        event = self.record(body)
        if event is not None:
            self.remember(event, earlier, result)
        return result

    @property
    def name(self) -> str:
        """The table's version, as errors name it."""
        return f"{self.log.name}@{self.version}"

    def body(self, before: _Graph, after: _Graph, started: float, error: BaseException | None) -> Exported:
        """Return the event's body, of the graphs before and after or of the error."""
        milliseconds = round((time.perf_counter() - started) * 1000)
        followed = self.followed
        return Exported(
            catalog=self.snapshot.catalog.digest,
            snapshot=self.snapshot.digest,
            before=before.digest,
            after=after.digest,
            ops_before=before.counts,
            ops_after=after.counts,
            fired=dict(sorted(followed.fired.items())),
            milliseconds=milliseconds,
            error=None if error is None else describe(error),
            stale=self.stale,
            declined=dict(sorted(followed.declined.items())),
            emitted=followed.emissions(before.nodes, after.nodes) if after.digest else None,
            raised=None if error is None else followed.raised_in(error),
            kinds=kinds(before.nodes),
            early=followed.early_kernels(before.nodes, after.nodes) if after.digest else {},
            module=self.source.module,
            made_from=self.source.made_from,
            ignored=self.ignored,
        )

    def record(self, body: Exported) -> Event | None:
        """Append the event; return None if it is not recorded."""
        try:
            return self.log.exported(body, self.version)
        except LedgerError as failure:
            # A failed record must cost neither the finished export nor the error of a failed one.
            message = f"{self.name}: an export with it could not be recorded: {failure}"
            warnings.warn(message, RecordingWarning, stacklevel=2)
            return None

    def remember(self, event: Event, earlier: History, result: Any) -> None:
        """Remember for the new program which exports led to it."""
        ledger = self.log.ledger
        if ledger is None:
            return
        try:
            bundle = self.bundle(event, ledger)
            remember(result, earlier.followed_by(bundle))
            if (recording := active.current()) is not None:
                name = f"{bundle.name} ({event.table}@{event.version})"
                done = active.ExportDone(name, bundle.body.before, bundle.body.after, event.hash)
                recording.exports.append(done)
        except Exception as failure:  # likewise
            forget(result)  # torch copied the history of the program before
            message = f"export:{event.seq}: its program will have no stamp when it is saved: {safe_repr(failure, 300)}"
            warnings.warn(message, RecordingWarning, stacklevel=2)

    def bundle(self, event: Event, ledger: LedgerLog) -> ExportBundle:
        """Return what a stamp holds of the export; made now, because the ledger may be closed before the save."""
        return ExportBundle.from_log(ledger, event, self.snapshot.catalog)


@attrs.frozen
class _Source:
    """What a program that is about to be lowered was made from; see `Exported`."""

    module: RootModule | None = None
    made_from: tuple[str, int] | None = None

    @classmethod
    def of(cls, program: Any, earlier: History) -> _Source:
        """Read a program."""
        last = earlier.bundles[-1:]
        made_from = (last[0].ledger, last[0].event.seq) if last else None
        try:
            return cls(root_module(program), made_from)
        except Exception:  # as in `_Graph`
            return cls(None, made_from)


@attrs.frozen
class _Graph:
    """What an event needs of a program's graph; nothing of a program that cannot be read.

    Attributes:
        digest: its graph digest.
        nodes: its operator nodes, each with the name of its op.
    """

    digest: str | None = None
    nodes: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, program: Any) -> _Graph:
        """Read a program."""
        try:
            return cls(graph_digest.graph_digest(program), tuple(graph_digest.operator_nodes(program)))
        except Exception:
            return cls()

    @property
    def counts(self) -> dict[str, int]:
        """Op name -> number of its nodes."""
        return dict(sorted(Counter(op for op, _ in self.nodes).items()))
