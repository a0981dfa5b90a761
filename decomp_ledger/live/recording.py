"""Recordings: the tables and exports of code that never heard of us.

Innermost counts: a table made in a `with record(...)` belongs to the innermost recording that its own thread (or task)
has entered; in a thread that has entered none, to the one that was entered last in the process.
"""

from __future__ import annotations

import datetime
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from decomp_ledger import names, provenance
from decomp_ledger.errors import LedgerError, LedgerFileError, RecordingWarning, SchemaError, UnusableValue
from decomp_ledger.events import OVERRIDE, PRESERVE, Updated
from decomp_ledger.ledger import Ledger
from decomp_ledger.live import hooks
from decomp_ledger.state import TableState
from decomp_ledger.stream import Stream, Wanted

if TYPE_CHECKING:
    from decomp_ledger.catalog import Snapshot
    from decomp_ledger.live.dispatcher import Defaults

__all__ = ["Recording", "current", "record"]

ON_ERROR = ("warn", "raise")

_active: list[Recording] = []
_entered: ContextVar[tuple[Recording, ...]] = ContextVar("entered", default=())


def current() -> Recording | None:
    """Return the recording that a table made here and now belongs to."""
    for recording in reversed(_entered.get()):
        if recording in _active:
            return recording
    return _active[-1] if _active else None


class Recording:
    """What :func:`record` gives: entered with `with`.

    Attributes:
        name: its tables are `<name>/1`, `<name>/2` ...
        ledger: where they are recorded. The file is made with the first event.
    """

    def __init__(
        self,
        ledger: str | os.PathLike[str] | Ledger = "decomp_ledger.db",
        *,
        name: str | None = None,
        reason: str | None = None,
        actor: str | None = None,
        trust: Sequence[str] = (),
        on_error: str = "warn",
    ) -> None:
        if on_error not in ON_ERROR:
            raise UnusableValue(f"on_error is 'warn' or 'raise', not {on_error!r}")
        self._owns_ledger = not isinstance(ledger, Ledger)
        if isinstance(ledger, Ledger):
            if actor is not None or trust:
                raise UnusableValue("actor and trust belong to the ledger; give them to Ledger(...)")
            self.ledger = ledger
        else:
            self.ledger = Ledger(ledger, actor=actor, trust=trust, lazy=True)
        self.name = default_name() if name is None else names.check_label(name, "a recording")
        self._reason = reason
        self._on_error = on_error
        self._failed = self._left = False
        self._lock = threading.RLock()
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._plain: dict[tuple[Any, ...], Stream] = {}

    def __enter__(self) -> Recording:
        if self in _active:
            raise LedgerError(f"the recording {self.name!r} is entered already; make another one")
        self._left = False
        _active.append(self)
        _entered.set((*_entered.get(), self))
        hooks.hold(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _active.remove(self)
        _entered.set(tuple(recording for recording in _entered.get() if recording is not self))
        hooks.release(self)
        # Its tables live on, unrecorded, as long as somebody uses them.
        with self._lock:
            self._left = True
            streams = list(self._streams)
        for stream in streams:
            stream.detach()
        if self._owns_ledger:
            self.ledger.close()

    def stream(self, base: str = "torch") -> Stream:
        """Return the stream of a new table, for which nothing is written until it is changed or used."""
        stream = Stream(
            None if self.stopped else self.ledger, None, prefix=self.name, state=TableState("", 0, base, {})
        )
        stream.reason = self._reason
        stream.adopt(self)
        return stream

    @property
    def stopped(self) -> bool:
        """Whether nothing more is recorded: it was left, or failed, and a log with holes would be worse than none."""
        return self._failed or self._left

    def adopted(self, stream: Stream) -> None:
        """Keep in mind a stream that is to be detached at the end."""
        with self._lock:
            self._streams.add(stream)

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

    def plain(self, table: Mapping[Any, Any]) -> tuple[Stream, Snapshot, tuple[str, ...]] | None:
        """Record a plain dict that is about to be used, as what it differs by from torch's default table.

        Returns:
            Its stream, what it is in this torch, and the ops that a table of torch's own lacks because it was read
            before they were loaded; None if it cannot be recorded.
        """
        if self._failed:
            return None
        try:
            from decomp_ledger.live.dispatcher import dispatcher

            defaults = dispatcher.full()
            stale = _stale(table, defaults)
            base, wanted = _difference(dict(table), defaults)
            with self._lock:
                key = (base, *wanted)
                stream = self._plain.get(key)
                if stream is None:
                    stream = self._plain[key] = self.stream(base)
            stream.change(Updated, lambda intents: [] if intents else wanted)
            return stream, stream.met(defaults.catalog), stale
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
            if not names.is_aten(op) and live not in removed and live not in table
        )
    )


def _difference(table: dict[Any, Any], defaults: Defaults) -> tuple[str, Wanted]:
    """Return the base and the changes that make a plain dict, by whichever base needs fewer changes."""
    from decomp_ledger.live import decompositions
    from decomp_ledger.live.privates import HigherOrderOperator, OpOverload

    # Keys that are no operators mean nothing to torch.
    by_name = {op.name(): fn for op, fn in table.items() if isinstance(op, (OpOverload, HigherOrderOperator))}
    given = {op: fn for op, fn in by_name.items() if not decompositions.is_default(op, fn, defaults)}
    missing = [op for op in defaults.by_name if op not in by_name]
    from_torch = len(given) + len(missing) <= len(by_name)
    overrides = given if from_torch else by_name
    wanted: Wanted = [
        (op, OVERRIDE, decompositions.reference(op, fn, defaults)) for op, fn in sorted(overrides.items())
    ]
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


def record(
    ledger: str | os.PathLike[str] | Ledger = "decomp_ledger.db",
    *,
    name: str | None = None,
    reason: str | None = None,
    actor: str | None = None,
    trust: Sequence[str] = (),
    on_error: str = "warn",
) -> Recording:
    """Record every decomposition table that is made and every export that is run inside a `with` block.

    Args:
        ledger: a file, made with the first event, or an open Ledger.
        name: what its tables' names begin with; by default the script and the time.
        reason: why, for every event.
        actor: who, for every event; only with a file.
        trust: modules that may be imported to find decompositions; only with a file.
        on_error: what to do when the ledger cannot be written: "warn" once and go on unrecorded, or "raise".
    """
    return Recording(ledger, name=name, reason=reason, actor=actor, trust=trust, on_error=on_error)
