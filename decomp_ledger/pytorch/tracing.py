"""Record what torch traces outside of exports: make_fx, AOTAutograd, torch.compile, AOTInductor.

Each of them makes a tracer, which has a table of its own. Within a recording of all tracing, the functions of that
table are followed while it traces. All traces of one caller with one table are one event, which is written when the
recording ends, because a single compilation traces many times.

Within any recording, a program that was exported and is lowered again by one of them is noted once.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from decomp_ledger.log import provenance
from decomp_ledger.log.hidden_frames import hidden
from decomp_ledger.log.provenance import Origin
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.events import Frame, Lowered, Traced
from decomp_ledger.model.materialize import Snapshot
from decomp_ledger.pytorch import active, decompositions, exports, internals
from decomp_ledger.pytorch.dispatcher import dispatcher
from decomp_ledger.pytorch.program_history import history

__all__ = ["followed", "trace"]

_FOLLOWED = "decomp_ledger_follows"  # an attribute of each function that is followed
_EMPTY = "empty"
_MAX_TABLES = 64  # that are kept, each with its functions


class _Traces:
    """The traces of one caller with one table.

    Args:
        log: of the table.
        origin: who traced first, where and in what environment.
        body: the event so far, with no trace in it.
    """

    def __init__(self, log: TableLog, origin: Origin, body: Traced) -> None:
        self.log = log
        self.version = log.version
        self.origin = origin
        self.body = body
        self.count = 0
        self.seconds = 0.0
        self.fired: Counter[str] = Counter()
        self.declined: Counter[str] = Counter()

    def follow(self, op: Any, fn: Any) -> Any:
        """Return a function of the table that counts its calls; another value as it is."""
        name = internals.operator_name(op)
        if name is None or not callable(fn):
            return fn

        following = partial(_Traces._run, self, name, fn)
        vars(following)[_FOLLOWED] = True
        return following

    @hidden
    def _run(self, name: str, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run a decomposition, and count it."""
        result = fn(*args, **kwargs)
        if internals.is_tracing():
            (self.declined if result is NotImplemented else self.fired)[name] += 1
        return result

    def write(self) -> None:
        """Append the event, if there is anything new."""
        if not self.count and not self.fired:
            return
        count, fired, declined = self.count, self.fired, self.declined
        milliseconds = round(self.seconds * 1000)
        self.count, self.seconds, self.fired, self.declined = 0, 0.0, Counter(), Counter()
        body = self.body.with_traces(count, milliseconds, dict(sorted(fired.items())), dict(sorted(declined.items())))
        self.log.used(body, self.version, self.origin)


class _Seen:
    """What was traced within one recording.

    Args:
        recording: the recording.
    """

    def __init__(self, recording: active.ActiveRecording) -> None:
        # By the identity of what a table has, with the table, so that the identities stay.
        self.by_content: dict[Any, tuple[Any, dict[Any, Any]]] = {}
        self.by_caller: dict[tuple[str, str, Frame | None], _Traces] = {}
        self.lowered: set[tuple[str, str]] = set()
        self.process = os.getpid()
        recording.at_end.append(self.write)

    def write(self) -> None:
        """Append the events; those of the process that forked this one are its own to append."""
        for traces in list(self.by_caller.values()) if self.process == os.getpid() else ():
            traces.write()


def _of(recording: active.ActiveRecording) -> _Seen:
    """Return what this process traced since the recording was entered."""
    found = (getattr(write, "__self__", None) for write in recording.at_end)
    own = (each for each in found if isinstance(each, _Seen) and each.process == os.getpid())
    return next(own, None) or _Seen(recording)


@hidden
def trace(recording: active.ActiveRecording, original: Any, tracer: Any, args: Any, kwargs: Any) -> Any:
    """Run a trace, and record it if it is to be.

    Args:
        recording: the recording that is entered.
        original: torch's own `_MakefxTracer._trace_inner`.
        tracer: the tracer.
        args: its other arguments.
        kwargs: likewise.
    """
    table = internals.table_of_tracer(tracer)
    if table is None and recording.all_tracing and not exports.is_under_way():
        recording.missed(exports.unseen("the table of a trace"))
    if exports.is_under_way() or table is None or _is_followed(table):
        return original(tracer, *args, **kwargs)
    by, module = internals.what_traces()
    _note_lowered(recording, by, module, table)
    found = _begin(recording, table, by) if recording.all_tracing else None
    if found is None:
        return original(tracer, *args, **kwargs)
    traces, functions = found
    before = dict(table)
    # In place, because the modes of the tracer have the dict already; it is the tracer's own.
    table.update(functions)
    started = time.perf_counter()
    try:
        return original(tracer, *args, **kwargs)
    finally:
        table.update(before)
        traces.count += 1
        traces.seconds += time.perf_counter() - started


def followed(recording: active.ActiveRecording, table: Any) -> Any:
    """Return a table whose functions are followed, for a part of a trace that has one of its own; else the table."""
    if not recording.all_tracing or exports.is_under_way() or not isinstance(table, dict) or _is_followed(table):
        return table
    found = _begin(recording, table, internals.what_traces()[0])
    return table if found is None else {**table, **found[1]}


def _is_followed(table: Mapping[Any, Any]) -> bool:
    """Tell whether a table is the copy of one that is followed: a subgraph's."""
    return any(getattr(fn, "__dict__", {}).get(_FOLLOWED, False) for fn in [*table.values()][:3])


def _begin(recording: active.ActiveRecording, table: dict[Any, Any], by: str) -> tuple[_Traces, dict[Any, Any]] | None:
    """Return what counts the traces of a table by its caller, and the functions to trace with."""
    try:
        seen, found = _of(recording), provenance.call_site()
        site = None if found is None else found.frame
        key = by, site, frozenset(zip(map(id, table), map(id, table.values()), strict=True))
        if key not in seen.by_content:
            traces = _traces(recording, seen, internals.given_decompositions(table), by, site)
            functions = {} if traces is None else {op: traces.follow(op, fn) for op, fn in table.items()}
            seen.by_content[key] = (traces, dict(table)), functions
            if len(seen.by_content) > _MAX_TABLES:
                del seen.by_content[next(iter(seen.by_content))]
        (traces, _), functions = seen.by_content[key]
        return None if traces is None else (traces, functions)
    except Exception as error:
        recording.missed(error)
        return None


def _traces(
    recording: active.ActiveRecording, seen: _Seen, table: dict[Any, Any], by: str, site: Frame | None
) -> _Traces | None:
    recorded = recording.record_plain_dict(table, by)
    ledger = None if recorded is None else recorded[0].ledger
    if recorded is None or ledger is None:
        return None
    log, snapshot, _ = recorded
    key = log.name, by, site
    if key not in seen.by_caller:
        body = _body(table, snapshot, by)
        seen.by_caller[key] = _Traces(log, ledger.origin(), body)
    return seen.by_caller[key]


def _body(table: dict[Any, Any], snapshot: Snapshot, by: str) -> Traced:
    """Return the event of a table, with its difference from the nearest table that torch has."""
    bases = {"torch.export": dispatcher.current().table, **internals.other_tables(), _EMPTY: {}}
    found = {name: _difference(internals.given_decompositions(base), table) for name, base in bases.items()}
    name = min(found, key=lambda each: sum(map(len, found[each])))
    added, replaced, removed = found[name]
    return Traced(
        catalog=snapshot.catalog.digest,
        snapshot=snapshot.digest,
        by=by,
        entries=len(table),
        base=name,
        added=added,
        replaced=replaced,
        removed=removed,
    )


def _difference(base: Mapping[Any, Any], table: Mapping[Any, Any]) -> tuple[tuple[str, ...], ...]:
    """Return the ops by which a table differs from a base: added, replaced, removed."""
    one, other = _by_name(base), _by_name(table)
    same = decompositions.same
    return (
        tuple(sorted(other.keys() - one.keys())),
        tuple(sorted(op for op in one.keys() & other.keys() if not same(one[op], other[op]))),
        tuple(sorted(one.keys() - other.keys())),
    )


def _by_name(table: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: fn for op, fn in table.items() if (name := internals.operator_name(op)) is not None}


def _note_lowered(recording: active.ActiveRecording, by: str, module: Any, table: dict[Any, Any]) -> None:
    """Note once that another part of torch lowers the result of an export."""
    bundles = () if module is None else history(module)
    if not bundles:
        return
    try:
        last, seen = bundles[-1], _of(recording)
        if (last.event.hash, by) in seen.lowered:
            return
        seen.lowered.add((last.event.hash, by))
        entries = len(internals.given_decompositions(table))
        recording.note_lowered(last, Lowered(by=by, entries=entries, program=last.body.after, export=last.event.seq))
    except Exception as error:
        recording.missed(error)
