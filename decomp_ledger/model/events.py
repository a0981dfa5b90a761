"""What an event says, and how it is written.

Bodies are frozen classes, one a kind; :class:`Event` is the envelope. The codec is the pair :func:`encode_body`,
:func:`decode_body`. Nothing here knows of SQLite or torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

import attrs

from decomp_ledger.errors import LedgerError, SchemaError
from decomp_ledger.model.canonical_json import Json, canonical_json

__all__ = [
    "ACTIONS",
    "BASES",
    "OVERRIDE",
    "PRESERVE",
    "RESET",
    "Body",
    "CallSite",
    "Change",
    "Changing",
    "Created",
    "Event",
    "Exported",
    "Materialized",
    "Popped",
    "Reset",
    "Reverted",
    "Set",
    "Tagged",
    "Updated",
    "decode_body",
    "encode_body",
    "parse",
    "read_call_site",
    "read_event",
]

PRESERVE, OVERRIDE, RESET = "preserve", "override", "reset"
ACTIONS = (PRESERVE, OVERRIDE, RESET)
BASES = ("torch", "empty")


@attrs.frozen
class Change:
    """What an event says of one op.

    Attributes:
        op: the op's name (`aten::add.Tensor`).
        action: `preserve`, `override` or `reset`.
        decomposition: for `override`, the digest of the stored decomposition; else None.
    """

    op: str
    action: str
    decomposition: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.action not in ACTIONS or (self.decomposition is not None) != (self.action == OVERRIDE):
            raise LedgerError(f"a change of {self.op} cannot be {self.action!r} with {self.decomposition!r}")


@attrs.frozen
class CallSite:
    """Where in the user's code a change was made.

    Attributes:
        file: path, relative to the working tree or to `site-packages` where it is in one.
        line: line number, from 1.
        function: name of the function, `<module>` at the top.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


@attrs.frozen
class Created:
    """A table began.

    Attributes:
        base: what it says of an op nobody mentioned: as `torch` has it by default, or `empty`.
        parent: `(table, version)` it was forked from, or None.
    """

    kind: ClassVar[str] = "created"
    makes_version: ClassVar[bool] = True
    schema: ClassVar[int] = 1
    base: str = "torch"
    parent: tuple[str, int] | None = None


@attrs.frozen
class Changing:
    """The base of the events that change ops.

    Attributes:
        changes: what is now said of each op it touched, each op once.
        pending: those of the ops that were not loaded then, where that is known.
    """

    kind: ClassVar[str]
    makes_version: ClassVar[bool] = True
    schema: ClassVar[int] = 1
    changes: tuple[Change, ...]
    pending: tuple[str, ...] = attrs.field(default=(), kw_only=True)


# Those without fields of their own are frozen and compared as their base is; to be made by attrs would only take time.
class Set(Changing):
    """One op was given a decomposition."""

    __slots__ = ()
    kind: ClassVar[str] = "set"


class Popped(Changing):
    """Ops were removed, so that they stay in the graph."""

    __slots__ = ()
    kind: ClassVar[str] = "popped"


class Updated(Changing):
    """Many ops were changed at once: given decompositions, or made to be as a plain dict has them."""

    __slots__ = ()
    kind: ClassVar[str] = "updated"


class Reset(Changing):
    """Ops went back to what the table's base says of them."""

    __slots__ = ()
    kind: ClassVar[str] = "reset"


@attrs.frozen
class Reverted(Changing):
    """The table went back to an earlier state, by appending.

    Attributes:
        to: the version whose state it now has again.
    """

    kind: ClassVar[str] = "reverted"
    to: int = attrs.field(kw_only=True)


@attrs.frozen
class Tagged:
    """A version got a name.

    Attributes:
        name: the tag.
    """

    kind: ClassVar[str] = "tagged"
    makes_version: ClassVar[bool] = False
    schema: ClassVar[int] = 1
    name: str


@attrs.frozen
class Materialized:
    """The table met a dispatcher.

    Attributes:
        catalog: digest of the catalog it met.
        snapshot: digest of the table that came out.
        pending: names of the ops it speaks of and the dispatcher did not have.
    """

    kind: ClassVar[str] = "materialized"
    makes_version: ClassVar[bool] = False
    schema: ClassVar[int] = 1
    catalog: str
    snapshot: str
    pending: tuple[str, ...] = ()


@attrs.frozen
class Exported:
    """A program was lowered with the table.

    Attributes:
        catalog: digest of the catalog it met.
        snapshot: digest of the table that was used.
        before: digest of the program's graph before, or None if it could not be made.
        after: the same afterwards; None too if the export failed.
        ops_before: op name -> how often it is in the graph before.
        ops_after: the same afterwards; empty if the export failed.
        fired: op name -> how often its decomposition was traced, nested ones included.
        milliseconds: how long it took.
        error: type and message of the exception it failed with, or None.
        stale: of a table that was torch's own, the loaded ops that it did not have though nobody is known to have
            removed them: it was read before they were loaded, and torch then keeps them for ever.
    """

    kind: ClassVar[str] = "exported"
    makes_version: ClassVar[bool] = False
    schema: ClassVar[int] = 2
    catalog: str
    snapshot: str
    before: str | None
    after: str | None
    ops_before: Mapping[str, int]
    ops_after: Mapping[str, int]
    fired: Mapping[str, int]
    milliseconds: int
    error: tuple[str, str] | None = None
    stale: tuple[str, ...] = ()


Body: TypeAlias = "Created | Changing | Tagged | Materialized | Exported"

_KINDS: dict[str, type[Any]] = {
    cls.kind: cls for cls in (Created, Set, Popped, Updated, Reset, Reverted, Tagged, Materialized, Exported)
}
EVENT_KINDS = tuple(_KINDS)
VERSION_KINDS = frozenset(kind for kind, cls in _KINDS.items() if cls.makes_version)

# (kind, schema) -> function from that schema's JSON body to the next schema's.
UPCASTS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {
    ("exported", 1): lambda value: {**value, "stale": []},
}


@attrs.frozen
class Event:
    """One immutable entry of the log.

    Attributes:
        seq: 1, 2, 3 ... across the ledger.
        table: name of the table it belongs to.
        version: the table's version after it.
        kind: `created`, `set`, `popped`, `updated`, `reset`, `reverted`, `tagged`, `materialized`, `exported`.
        recorded_at: UTC, ISO 8601 with microseconds and `Z`.
        actor: who did it.
        reason: why, or None.
        call_site: where in the user's code, or None.
        environment: digest of the stored environment.
        body: what it says, of the class of its kind.
        prev_hash: the hash of the event before it, in hex; for the first, what `genesis` makes of the ledger's id.
        hash: its own, in hex.
        written: the schema number and the body's JSON, as they were hashed.
    """

    seq: int
    table: str
    version: int
    kind: str
    recorded_at: str
    actor: str
    reason: str | None
    call_site: CallSite | None
    environment: str
    body: Body
    prev_hash: str
    hash: str
    written: tuple[int, str] = attrs.field(default=(0, ""), eq=False, repr=False)

    @property
    def changes(self) -> tuple[Change, ...]:
        """What it says of each op it touched; empty for kinds that change none."""
        return self.body.changes if isinstance(self.body, Changing) else ()


def encode_body(body: Body) -> str:
    """Write a body as canonical JSON."""
    if isinstance(body, Changing):
        # Put together by hand, since the same changes are made again and again.
        changes = [_change_text(change.op, change.action, change.decomposition) for change in body.changes]
        parts = [f'"changes":[{",".join(changes)}]']
        if body.pending:
            parts.append(f'"pending":{canonical_json(list(body.pending))}')
        if isinstance(body, Reverted):
            parts.append(f'"to":{canonical_json(body.to)}')
        return f"{{{','.join(parts)}}}"
    if isinstance(body, Created):
        value: dict[str, Json] = {"base": body.base}
        if body.parent is not None:
            value["parent"] = list(body.parent)
    else:
        value = attrs.asdict(body)
    return canonical_json(value)


@lru_cache(maxsize=4096)
def _change_text(op: str, action: str, decomposition: str | None) -> str:
    return canonical_json([op, action] if decomposition is None else [op, action, decomposition])


def decode_body(kind: str, schema: int, text: str) -> Body:
    """Read a body, brought up to the newest schema of its kind.

    Args:
        kind: the event's kind.
        schema: the schema number it was written with.
        text: its JSON.

    Raises:
        SchemaError: this version does not know the kind or the schema.
        LedgerError: the text is not a body of that kind.
    """
    # The same few ops are changed again and again, by one table or another; bodies of many are read as they come.
    short = isinstance(text, str) and len(text) <= _SHORT and kind in _REPEATED
    return _decode_short(kind, schema, text) if short else _decode(kind, schema, text)


def _decode(kind: str, schema: int, text: str) -> Body:
    cls = _KINDS.get(kind)
    if cls is None or schema > cls.schema:
        raise SchemaError(
            f"an event of kind {kind!r}, schema {schema}, was written by a newer decomp_ledger; upgrade to read it"
        )
    try:
        value = json.loads(text)
        while schema < cls.schema:
            value = UPCASTS[kind, schema](value)
            schema += 1
        return _build(cls, value)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, LedgerError) as error:
        raise LedgerError(f"an event of kind {kind!r} has a body that is none: {error}") from None


_REPEATED = VERSION_KINDS - {Created.kind}
_SHORT = 300  # characters of a body's text
_decode_short = lru_cache(maxsize=4096)(_decode)


def _build(cls: type[Any], value: dict[str, Any]) -> Body:
    """Make a body of checked parts: the text may come from a file that somebody edited."""
    if issubclass(cls, Changing):
        changes = tuple(Change(*_strings(change)) for change in value["changes"])
        extra = {"to": _integer(value["to"])} if cls is Reverted else {}
        return cls(changes, pending=tuple(_strings(value.get("pending", []))), **extra)
    if cls is Created:
        parent = value.get("parent")
        if value["base"] not in BASES:
            raise ValueError(f"unknown base {value['base']!r}")
        return Created(value["base"], None if parent is None else (_string(parent[0]), _integer(parent[1])))
    if cls is Tagged:
        return Tagged(_string(value["name"]))
    if cls is Materialized:
        return Materialized(_string(value["catalog"]), _string(value["snapshot"]), tuple(_strings(value["pending"])))
    error = value["error"]
    return Exported(
        catalog=_string(value["catalog"]),
        snapshot=_string(value["snapshot"]),
        before=None if value["before"] is None else _string(value["before"]),
        after=None if value["after"] is None else _string(value["after"]),
        ops_before=_counts(value["ops_before"]),
        ops_after=_counts(value["ops_after"]),
        fired=_counts(value["fired"]),
        milliseconds=_integer(value["milliseconds"]),
        error=None if error is None else (_string(error[0]), _string(error[1])),
        stale=tuple(_strings(value["stale"])),
    )


def _counts(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, found {type(value).__name__}")
    return {_string(op): _integer(count) for op, count in value.items()}


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, found {type(value).__name__}")
    return value


def _strings(values: list[object]) -> list[str]:
    if not isinstance(values, list):
        raise TypeError(f"expected an array, found {type(values).__name__}")
    return [_string(value) for value in values]


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected an integer, found {type(value).__name__}")
    return value


def read_event(row: Sequence[Any]) -> Event:
    """Make an event of a row of `sql.EVENT`.

    Raises:
        SchemaError: a newer version wrote it.
        LedgerError: the row is damaged.
    """
    seq, table, version, kind, schema, at, actor, reason, site, environment, body, prev_hash, own_hash = row
    numbers = type(seq) is type(version) is type(schema) is int
    if not numbers or not type(table) is type(kind) is type(at) is type(actor) is str:
        raise LedgerError(f"event {seq!r:.40} is damaged: a value is of another type than was written; run verify")
    try:
        place = None if site is None else read_call_site(site)
        return Event(
            seq,
            table,
            version,
            kind,
            at,
            actor,
            reason,
            place,
            environment.hex(),
            decode_body(kind, schema, body),
            prev_hash.hex(),
            own_hash.hex(),
            (schema, body),
        )
    except (TypeError, AttributeError) as error:
        raise LedgerError(f"event {seq} is damaged: {error}; run verify") from None


@lru_cache(maxsize=1024)
def read_call_site(text: str) -> CallSite:
    """Read a call site as it is stored.

    Raises:
        LedgerError: the text is none.
    """
    value = parse(text, "a call site")
    if not isinstance(value, dict) or value.keys() != {"file", "function", "line"}:
        raise LedgerError("a call site in the ledger is damaged; run verify")
    return CallSite(str(value["file"]), int(value["line"]), str(value["function"]))


def parse(text: str, what: str) -> Any:
    """Read stored JSON.

    Raises:
        LedgerError: the text is none, or no text.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise LedgerError(f"{what} in the ledger is damaged: {error}; run verify") from None
