"""Record the tables of torch's own class that a program makes within a recording.

They stay torch's own, so that a recording never changes what a program does: each patched method calls torch's, and
then records what became of the content. So whatever torch ignores, forgets or refuses, it does so here too. What is
changed past these methods is found at the next use, and recorded as one event of the kind `found`.
"""

from __future__ import annotations

import contextlib
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from decomp_ledger.errors import IdleRuleWarning, InvalidName
from decomp_ledger.log import provenance
from decomp_ledger.log.hidden_frames import hidden
from decomp_ledger.log.passing import Passing
from decomp_ledger.log.table_log import TableLog, Wanted
from decomp_ledger.model import op_names
from decomp_ledger.model.events import OVERRIDE, PRESERVE, RESET, Changing, Found, Popped, Set, Updated
from decomp_ledger.model.materialize import ABSENT, Snapshot, choose
from decomp_ledger.model.rules import Decomposition, Rule
from decomp_ledger.model.safe_text import class_name, safe_repr
from decomp_ledger.pytorch import active, decompositions, internals
from decomp_ledger.pytorch.dispatcher import Defaults, dict_origin, dispatcher, is_loaded, remember_made, resolve
from decomp_ledger.pytorch.idle_warnings import IdleWarnings

__all__ = ["METHODS", "Use", "ignored", "log_of", "use"]

_MISSING: Any = object()
_MAX_IGNORED = 20  # odd keys and values that an export lists
_MAX_TEXT = 80


class _Kept:
    """What is known of one table.

    Attributes:
        table: a weak reference to it.
        log: its log.
        warnings: those of its idle rules.
        checked: its version, torch's defaults and its content when they were last compared.
        late: the ops that it lacks because they were loaded after it was read.
        line: the line that made it.
    """

    __slots__ = ("checked", "late", "line", "log", "table", "warnings")

    def __init__(self, table: Any, log: TableLog) -> None:
        self.table = weakref.ref(table, partial(_forget, id(table)))
        self.log = log
        self.warnings = IdleWarnings(log)
        self.checked: tuple[int, Defaults, dict[Any, Any]] | None = None
        self.late: frozenset[str] = frozenset()
        self.line = provenance.outer_line()
        log.is_loaded = is_loaded


# By identity, because a dict has no hash.
_known: dict[int, _Kept] = {}


def _forget(number: int, table: object) -> None:
    kept = _known.get(number)
    if kept is not None and kept.table is table:
        del _known[number]


def _keep(table: Any, log: TableLog) -> _Kept:
    kept = _known[id(table)] = _Kept(table, log)
    return kept


def _first_seen(recording: active.ActiveRecording, table: Any) -> _Kept:
    """Keep a table that was made before it could be recorded, and which ops it could have by now."""
    if internals.was_read_upstream(table):
        remember_made(_content(table).values())
    return _keep(table, recording.new_log())


def _kept(table: Any) -> _Kept | None:
    """Return what is known of a table of a recording that still records."""
    kept = _known.get(id(table))
    return kept if kept is not None and kept.table() is table and kept.log.is_recorded() else None


def log_of(table: object) -> TableLog | None:
    """Return the log of a table of torch's own; None if it is not recorded."""
    kept = _kept(table)
    return None if kept is None else kept.log


# The methods of torch's class


@hidden
def _init(recording: active.ActiveRecording, original: Any, table: Any, args: Any, kwargs: Any) -> None:
    original(table, *args, **kwargs)
    _keep(table, recording.new_log())


@hidden
def _set_item(recording: active.ActiveRecording, original: Any, table: Any, args: Any, kwargs: Any) -> Any:
    key = args[0] if args else None
    before = _entry(table, key)
    result = original(table, *args, **kwargs)
    after = _entry(table, key)
    if after is not before:
        _record(recording, table, Set, {key: after})
    return result


@hidden
def _update(recording: active.ActiveRecording, original: Any, table: Any, args: Any, kwargs: Any) -> Any:
    before = dict(_content(table))

    def record() -> None:
        new = {key: fn for key, fn in _content(table).items() if before.get(key, _MISSING) is not fn}
        _record(recording, table, Updated, new)

    return _call(record, original, table, args, kwargs)


@hidden
def _pop(recording: active.ActiveRecording, original: Any, table: Any, args: Any, kwargs: Any) -> Any:
    key = args[0] if args else None
    before = _entry(table, key) is not _MISSING, _is_deleted(table, key)

    def record() -> None:
        if (_entry(table, key) is not _MISSING, _is_deleted(table, key)) != before:
            _record(recording, table, Popped, {key: _MISSING})

    return _call(record, original, table, args, kwargs)


@hidden
def _call(record: Callable[[], None], original: Any, table: Any, args: Any, kwargs: Any) -> Any:
    """Call torch's method, then record what it did; also if it fails, because it keeps what came before an odd item."""
    try:
        result = original(table, *args, **kwargs)
    except BaseException as error:
        with Passing(error, "a change of a table that failed could not be recorded"):
            record()
        raise
    record()
    return result


@hidden
def _copy(recording: active.ActiveRecording, original: Any, table: Any, args: Any, kwargs: Any) -> Any:
    result = original(table, *args, **kwargs)
    kept = _kept(table)
    if _kept(result) is not None and kept is not None:
        _keep(result, kept.log.fork()).late = kept.late
    elif _kept(result) is not None:
        _first_seen(recording, result)
    return result


@hidden
def _materialize(recording: active.ActiveRecording, original: Any, table: Any, args: Any, kwargs: Any) -> Any:
    result = original(table, *args, **kwargs)
    if isinstance(result, dict):
        kept = _kept(table)
        remember_made(result.values(), None if kept is None else kept.line)
        # The caller of the patched method: torch materializes a table when it is first read, and that does not count.
        if sys._getframe(2).f_code.co_name != "_materialize_if_needed" and _kept(table) is not None:
            use(table, result, recording)
    return result


METHODS: Mapping[str, Callable[..., Any]] = {
    "__init__": _init,
    "__setitem__": _set_item,
    "update": _update,
    "pop": _pop,
    "copy": _copy,
    "materialize": _materialize,
}


def _content(table: Any) -> dict[Any, Any]:
    found = vars(table).get("decomp_table")
    return found if isinstance(found, dict) else {}


def _entry(table: Any, key: object) -> Any:
    try:
        return _content(table).get(key, _MISSING)
    except Exception:  # a key without a hash
        return _MISSING


def _is_deleted(table: Any, key: object) -> bool:
    try:
        return key in internals.ops_popped_upstream(table)
    except Exception:
        return False


# Recording a change


def _record(recording: active.ActiveRecording, table: Any, kind: type[Changing], entries: Mapping[Any, Any]) -> None:
    """Record which entries of a table are others now, or with `Popped`, which were removed."""
    try:
        named = {name: fn for key, fn in entries.items() if (name := _op_of(key)) is not None}
        if not named:
            return
        kept = _kept(table) or _first_seen(recording, table)
        # Not for a removal, because a library that removes ops while it is imported would build the table each time.
        defaults = None if kind is Popped else dispatcher.current()
        wanted = {op: None if defaults is None else _identify(op, fn, defaults) for op, fn in named.items()}

        def decide(rules: Mapping[str, Rule]) -> Wanted:
            found = ((op, _changed(op, rules.get(op), named[op], wanted[op], defaults)) for op in wanted)
            return [(op, *change) for op, change in found if change is not None]

        _change(kept, kind, decide, named, wanted)
        # Not even where the program makes errors of warnings, because torch's table would have raised none.
        with contextlib.suppress(IdleRuleWarning):
            kept.warnings.warn_of(wanted, PRESERVE if kind is Popped else OVERRIDE)
    except Exception as error:
        recording.missed(error)


def _op_of(key: object) -> str | None:
    """Return the name of an operator that the ledger can hold; None for another key, which torch ignores."""
    name = internals.operator_name(key)
    try:
        return name if name is not None and op_names.normalize(name) == name else None
    except InvalidName:
        return None


def _identify(op: str, fn: Any, defaults: Defaults) -> Decomposition:
    return decompositions.identify_any(op, decompositions.as_recorded(fn), defaults)


def _changed(
    op: str, rule: Rule | None, fn: Any, decomposition: Decomposition | None, defaults: Defaults | None
) -> tuple[str, Decomposition | None] | None:
    """Return the action by which a rule follows a change of an entry; None if it stands.

    Without `decomposition` and `defaults`, the entry was removed.
    """
    if decomposition is None or defaults is None:
        return None if rule == Rule(PRESERVE) else (PRESERVE, None)
    if rule == Rule(OVERRIDE, decomposition) or (rule is None and decompositions.is_default(op, fn, defaults)):
        return None
    return OVERRIDE, decomposition


def _change(
    kept: _Kept,
    make: Callable[..., Changing],
    decide: Callable[[Mapping[str, Rule]], Wanted],
    functions: Mapping[str, Any],
    wanted: Mapping[str, Decomposition | None],
) -> None:
    """Append an event, and keep the functions of this process that it names."""
    new = {op: decomposition for op, decomposition in wanted.items() if decomposition is not None}
    decompositions.keep_functions(kept.log, new, functions)
    kept.log.change(make, decide)


# Use


class Use(NamedTuple):
    """What the record of an export needs to know of its table.

    Attributes:
        log: the table's log.
        version: of the table.
        snapshot: of that version in this torch.
        stale: the ops that it lacks only because they were loaded after it was read.
    """

    log: TableLog
    version: int
    snapshot: Snapshot
    stale: tuple[str, ...]


def use(table: Any, content: Mapping[Any, Any], recording: active.ActiveRecording) -> Use | None:
    """Record that a table is used, with what its log does not know of its content; None if it cannot be recorded.

    Args:
        table: a table whose `log_of` is not None.
        content: what it has.
        recording: whatever cannot be recorded is reported to it.
    """
    try:
        kept = _kept(table)
        if kept is None:
            return None
        defaults = dispatcher.full()
        later = _take_in(kept, dict(content), defaults)
        snapshot = kept.log.materialize(defaults.catalog)
        return Use(kept.log, kept.log.version, snapshot, later)
    except Exception as error:
        recording.missed(error)
        return None


def _take_in(kept: _Kept, content: dict[Any, Any], defaults: Defaults) -> tuple[str, ...]:
    """Record how the content differs from the rules; return the ops that came too late for the table."""
    if kept.checked is None or kept.checked[:2] != (kept.log.version, defaults) or not _is(kept.checked[2], content):
        entries = {op: fn for key, fn in content.items() if (op := _live_op_of(key, defaults)) is not None}
        rules = kept.log.rules
        every = dict.fromkeys([*defaults.by_name, *entries, *sorted(rules)])
        found = [each for op in every if (each := _difference(op, rules, entries, defaults)) is not None]
        lacking = [op for op, action, _ in found if action == PRESERVE and op not in rules]
        new = _loaded_later(lacking, content) if lacking else set()
        kept.late = frozenset(op for op in kept.late | new if op not in entries)
        if found:
            functions = {op: entries.get(op) for op, _, _ in found}
            wanted = {op: decomposition for op, _, decomposition in found}
            _change(kept, partial(Found, later=tuple(sorted(new))), lambda rules: found, functions, wanted)
        kept.checked = kept.log.version, defaults, content
    return tuple(sorted(kept.late))


def _is(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Tell whether two contents have the same objects; `==` would run code of the program's."""
    return len(one) == len(other) and all(other.get(key, _MISSING) is fn for key, fn in one.items())


def _loaded_later(ops: Iterable[str], content: Mapping[Any, Any]) -> set[str]:
    """Return those of the ops that a table lacks because they were loaded after it was read, as far as that is known.

    The others were removed from it before it was recorded, or past the methods.
    """
    origin = dict_origin(content.values())
    return set() if origin is None else {op for op in ops if op not in origin.names}


def _live_op_of(key: object, defaults: Defaults) -> str | None:
    """Return the name of a key that is the operator of that name now."""
    name = internals.operator_name(key)
    if name is not None and defaults.by_name.get(name) is key and op_names.is_torchs(name):
        return name  # the ledger can hold it; to check that takes 3 us, and a table has a thousand
    op = _op_of(key)
    if op is None or (defaults.by_name.get(op) or resolve(op)) is not key:
        return None
    return op


def _difference(
    op: str, rules: Mapping[str, Rule], entries: Mapping[str, Any], defaults: Defaults
) -> tuple[str, str, Decomposition | None] | None:
    """Return the change that turns the rule of an op into one that gives its entry; None if it does."""
    rule, default = rules.get(op), op in defaults.by_name
    if op not in entries:
        loaded = default or is_loaded(op)
        expected = choose(None if rule is None else rule.action, "torch", loaded=loaded, default=default)
        return None if expected == ABSENT else (op, PRESERVE, None)
    fn = entries[op]
    is_default = decompositions.is_default(op, fn, defaults)
    if rule is None and is_default:
        return None
    decomposition = _identify(op, fn, defaults)
    if rule == Rule(OVERRIDE, decomposition):
        return None
    return (op, RESET, None) if is_default else (op, OVERRIDE, decomposition)


# What torch ignores


def ignored(content: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return the keys of a table that are not operators, and the values that are not callable, as text."""
    return tuple(_ignored(content))[:_MAX_IGNORED]


def _ignored(content: Mapping[Any, Any]) -> Iterable[str]:
    for key, fn in content.items():
        name = internals.operator_name(key)
        if name is None:
            yield f"the key {_text(key)}"
        elif not callable(fn):
            yield f"the value {_text(fn)} of {name}"


def _text(value: Any) -> str:
    """Name a value without running code of its class."""
    if value is None or type(value) in (str, int, float, bool):
        return safe_repr(value, _MAX_TEXT)
    if type(value) is internals.OpOverloadPacket:
        return f"{internals.packet_name(value)} (a packet)"
    if type(value) in (types.FunctionType, types.BuiltinFunctionType):
        return f"{value.__qualname__} (a function)"[:_MAX_TEXT]
    return f"an object of {class_name(value)}"
