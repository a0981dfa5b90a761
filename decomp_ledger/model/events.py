"""Events: an envelope, a body for each kind, and the codec of bodies. No SQLite, no torch.

To add a kind, write one class derived from `Body` and add it to `EVENT_KINDS`. The annotations of its fields define
its JSON form; the properties of `Body` tell storage and verify what the kind changes, tags or materializes.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import attrs

from decomp_ledger.errors import LedgerError, SchemaError, UnusableValue
from decomp_ledger.model.canonical_json import Json, canonical_json
from decomp_ledger.model.display import Row, columns_of, displayed, guarded
from decomp_ledger.model.json_values import DAMAGE, as_integer, as_object, as_string, parse_json
from decomp_ledger.model.op_names import LONGEST_NAME

__all__ = [
    "ACTIONS",
    "ALWAYS",
    "BASES",
    "EVENT_KINDS",
    "MAX_FRAMES",
    "MUTATES",
    "OVERRIDE",
    "PRESERVE",
    "RESET",
    "UPCASTS",
    "VIEWS",
    "Body",
    "CallSite",
    "Change",
    "Changing",
    "Created",
    "Emission",
    "Event",
    "Exported",
    "Found",
    "Frame",
    "Lowered",
    "Materialized",
    "Passed",
    "Popped",
    "Reset",
    "Reverted",
    "RootModule",
    "Saved",
    "Set",
    "Tagged",
    "Traced",
    "Updated",
    "body_to_json",
    "decode_body",
    "encode_body",
    "makes_version",
    "parse",
    "read_call_site",
    "read_event",
]

PRESERVE, OVERRIDE, RESET = "preserve", "override", "reset"
ACTIONS = (PRESERVE, OVERRIDE, RESET)
BASES = ("torch", "empty")


@displayed
@attrs.frozen(repr=False)
class Change:
    """A change to the rule of one op.

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
            raise LedgerError(
                f"change of {self.op}: {self.action!r} with decomposition {self.decomposition!r} is not possible; "
                "only `override` has a decomposition, and it must have one"
            )

    def to_json(self) -> Json:
        """Return `[op, action]`, or `[op, action, decomposition]` for an override."""
        return [self.op, self.action] if self.decomposition is None else [self.op, self.action, self.decomposition]

    @classmethod
    def from_json(cls, value: object) -> Change:
        """Check and read what `to_json` returned.

        Raises:
            LedgerError: it is not a change.
        """
        if not isinstance(value, list) or len(value) not in (2, 3):
            raise UnusableValue("expected a change of 2 or 3 strings")
        op, *rest = map(as_string, value)
        if len(op) > LONGEST_NAME:
            raise UnusableValue(f"the name of an op has {len(op)} characters; it has at most {LONGEST_NAME}")
        return cls(op, *rest)


@displayed
@attrs.frozen(repr=False)
class Emission:
    """Nodes of one op in a lowered graph that were made in the same way.

    Attributes:
        op: the op.
        count: the number of nodes.
        chain: the decompositions that ran when the nodes were made, outermost first, at most 12 of them; empty if none
            ran, because torch left an op of the program as it is, or replaced it by itself. None if it is not known.
        source: the op of the program that torch ran when the nodes were made; None if it is not known.
    """

    op: str
    count: int
    chain: tuple[str, ...] | None = ()
    source: str | None = None

    def to_json(self) -> Json:
        """Return `[op, count, chain, source]`."""
        return [self.op, self.count, None if self.chain is None else list(self.chain), self.source]

    @classmethod
    def from_json(cls, value: object) -> Emission:
        """Check and read what `to_json` returned.

        Raises:
            LedgerError: it is not an emission.
        """
        if not isinstance(value, list) or len(value) != 4:
            raise UnusableValue("expected [op, count, chain, source]")
        op, count, chain, source = value
        return cls(
            as_string(op),
            as_integer(count),
            _read_optional(partial(_read_array, as_string), chain),
            _read_optional(as_string, source),
        )


@displayed
@attrs.frozen(repr=False)
class RootModule:
    """The class of the module that a program was exported from.

    Attributes:
        name: the full name of the class, as torch keeps it with the program: `__main__.Model`.
        file: the file that defines it, as call sites have it; None if the program's lines are in no such file.
        line: its line there; None likewise.
    """

    name: str
    file: str | None = None
    line: int | None = None

    @property
    def label(self) -> str:
        """Its name without the module that it is in."""
        return self.name.replace(".<locals>.", ".").rpartition(".")[2]

    def to_json(self) -> Json:
        """Return `[name, file, line]`."""
        return [self.name, self.file, self.line]

    @classmethod
    def from_json(cls, value: object) -> RootModule:
        """Check and read what `to_json` returned.

        Raises:
            LedgerError: it is not a root module.
        """
        if not isinstance(value, list) or len(value) != 3:
            raise UnusableValue("expected [name, file, line]")
        name, file, line = value
        return cls(as_string(name), _read_optional(as_string, file), _read_optional(as_integer, line))


@displayed
@attrs.frozen(repr=False)
class Frame:
    """One line of a call stack.

    Attributes:
        file: path, relative to the working tree or to `site-packages` if it is inside one of them.
        line: line number, from 1.
        function: name of the function; `<module>` at the top level.
        distribution: name and version of the library that the file is of: `executorch 1.5.1`; "" if it is not of one,
            or if that is not known.
    """

    file: str
    line: int
    function: str
    distribution: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"

    @property
    def with_distribution(self) -> str:
        """The line, and what it is of."""
        return f"{self} ({self.distribution})" if self.distribution else str(self)

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data, without an empty distribution."""
        return {name: value for name, value in attrs.asdict(self).items() if name != "distribution" or value}


@displayed
@attrs.frozen(cache_hash=True, repr=False)
class CallSite:
    """Where a change was made: the innermost line outside torch, and the lines around it, six in all.

    An event that an older version wrote has the one line only.

    Attributes:
        file: path, relative to the working tree or to `site-packages` if it is inside one of them; for a change that a
            command made, the command line.
        line: line number, from 1; 0 for a command line.
        function: name of the function; `<module>` at the top level; "" for a command line.
        inner: the innermost lines of torch that the line led to, innermost first; up to three.
        callers: the lines that led to it, innermost first. If a library made the change, the last of them is the
            innermost line that is not in a library, where there is one.
        distribution: that of the line; see `Frame`.
    """

    file: str
    line: int
    function: str
    inner: tuple[Frame, ...] = ()
    callers: tuple[Frame, ...] = ()
    distribution: str = ""

    def __str__(self) -> str:
        return str(self.frame) if self.line else f"`{self.file}`"

    @property
    def frame(self) -> Frame:
        """The line itself."""
        return Frame(self.file, self.line, self.function, self.distribution)

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The lines, innermost first."""
        return (*self.inner, self.frame, *self.callers)

    @property
    def caller(self) -> Frame | None:
        """The nearest caller in another package or, outside packages, in another file, or None."""
        here = self.file.partition("/")[0]
        return next((frame for frame in self.callers if frame.file.partition("/")[0] != here), None)

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data, without empty lists."""
        lists: dict[str, Json] = {
            name: [frame.to_json() for frame in frames]
            for name, frames in (("inner", self.inner), ("callers", self.callers))
            if frames
        }
        return {**self.frame.to_json(), **lists}

    @classmethod
    def from_json(cls, value: object) -> CallSite:
        """Check and read what `to_json` returned.

        Raises:
            LedgerError: it is not a call site.
        """
        rest = dict(as_object(value))
        inner, callers = (tuple(map(_read_frame, _as_list(rest.pop(name, [])))) for name in _FRAME_LISTS)
        frame = _read_frame(rest)
        found = cls(frame.file, frame.line, frame.function, inner, callers, frame.distribution)
        if len(found.frames) > MAX_FRAMES or found.to_json() != value:
            raise UnusableValue("a call site has lines that it cannot have")
        return found


MAX_FRAMES = 6
_FRAME_LISTS = ("inner", "callers")


def _as_list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise UnusableValue(f"expected an array, found {type(value).__name__}")
    return value


def _read_frame(value: object) -> Frame:
    frame = as_object(value)
    if frame.keys() - {"distribution"} != {"file", "line", "function"}:
        raise UnusableValue("expected a file, a line and a function")
    distribution = as_string(frame.get("distribution", ""))
    return Frame(as_string(frame["file"]), as_integer(frame["line"]), as_string(frame["function"]), distribution)


@displayed
@attrs.frozen(repr=False)
class Body:
    """What events of one kind record; the base class of all kinds.

    A kind overrides a property below with a field or a property of the same name where it applies.

    Class attributes:
        kind: the name of the kind.
        makes_version: whether an event of this kind makes a new version of its table.
        schema: the number of the JSON form. A new number needs an entry in `UPCASTS` for the one before it.
    """

    kind: ClassVar[str]
    makes_version: ClassVar[bool] = False
    schema: ClassVar[int] = 2

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes to rules, each op once."""
        return ()

    @property
    def tag(self) -> str | None:
        """The name that the event gives to its version."""
        return None

    @property
    def catalog(self) -> str | None:
        """Digest of the catalog to which the rules were applied."""
        return None

    @property
    def snapshot(self) -> str | None:
        """Digest of the snapshot that resulted."""
        return None

    def _note(self) -> str:
        """Return what it did, in a few words."""
        ops = [change.op for change in self.changes]
        return ", ".join(ops[:3]) + (f" and {len(ops) - 3} more" if len(ops) > 3 else "")

    def _row(self) -> Row:
        """Return its facts as columns, without those that every event has."""
        return columns_of(self, without=("changes",))


@displayed
@attrs.frozen(repr=False)
class Created(Body):
    """A table was created.

    Attributes:
        base: what ops without a rule follow: `torch` (torch's default table) or `empty`.
        parent: `(table, version)` from which it was forked, or None.
    """

    kind: ClassVar[str] = "created"
    makes_version: ClassVar[bool] = True
    base: str = attrs.field(validator=attrs.validators.in_(BASES))
    parent: tuple[str, int] | None = None


@displayed
@attrs.frozen(repr=False)
class Changing(Body):
    """The base class of the kinds that change rules.

    Attributes:
        changes: the changes to rules, each op once.
        pending: those of these ops that were not loaded, where the writer knew it.
    """

    makes_version: ClassVar[bool] = True
    changes: tuple[Change, ...]
    pending: tuple[str, ...] = attrs.field(default=(), kw_only=True)


# Four plain subclasses without fields of their own: attrs would add time to each recording, and nothing else.


@displayed
class Set(Changing):
    """One op was overridden."""

    __slots__ = ()
    kind: ClassVar[str] = "set"


@displayed
class Popped(Changing):
    """Ops were removed from the table, so that exports preserve them."""

    __slots__ = ()
    kind: ClassVar[str] = "popped"


@displayed
class Updated(Changing):
    """Several ops were changed by one call."""

    __slots__ = ()
    kind: ClassVar[str] = "updated"


@displayed
class Reset(Changing):
    """The rules of ops were dropped; these ops follow the base again."""

    __slots__ = ()
    kind: ClassVar[str] = "reset"


@displayed
@attrs.frozen(repr=False)
class Reverted(Changing):
    """The table got the rules of an earlier version again.

    Attributes:
        to: the earlier version.
    """

    kind: ClassVar[str] = "reverted"
    to: int = attrs.field(kw_only=True)


@displayed
@attrs.frozen(repr=False)
class Passed(Changing):
    """An export was given a dict, or a table of torch's own that was not recorded.

    A dict has no rules, only a content. The changes here tell what that content was: `override` is an entry that the
    base does not have, and `preserve` an op of the base that the dict lacked.

    Attributes:
        entries: how many ops it had.
        later: those that it lacked because torch's default table got them after the dict was made.
        caller: the line of torch that passed it, such as one of `torch.onnx`; "" if the program itself did.
        made: the line that made the table of torch's own that it was made from; "" if that is not known.
    """

    kind: ClassVar[str] = "passed"
    entries: int = attrs.field(kw_only=True)
    later: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    caller: str = attrs.field(default="", kw_only=True)
    made: str = attrs.field(default="", kw_only=True)


@displayed
@attrs.frozen(repr=False)
class Found(Changing):
    """A table of torch's own was found to differ from its recorded changes when it was used.

    Torch brings back custom ops that were removed, and takes in no ops that are loaded after the first read. A program
    can also write into the dict in which torch keeps the content, or have changed the table before it was recorded.

    Attributes:
        later: those of these ops that the table lacks because they were loaded after it was read.
    """

    kind: ClassVar[str] = "found"
    later: tuple[str, ...] = attrs.field(default=(), kw_only=True)


@displayed
@attrs.frozen(repr=False)
class Tagged(Body):
    """A version got a name.

    Attributes:
        name: the tag.
    """

    kind: ClassVar[str] = "tagged"
    name: str

    @property
    def tag(self) -> str:
        """The name that the event gives to its version."""
        return self.name


@displayed
@attrs.frozen(repr=False)
class Materialized(Body):
    """The rules were applied to a catalog.

    Attributes:
        catalog: digest of the catalog.
        snapshot: digest of the snapshot that resulted.
        pending: ops that have a rule and are not in the catalog.
    """

    kind: ClassVar[str] = "materialized"
    catalog: str
    snapshot: str
    pending: tuple[str, ...] = ()


@displayed
@attrs.frozen(repr=False)
class Exported(Body):
    """A program was exported with the table.

    An event of schema 1 has no `declined`, `emitted`, `raised` and `kinds`, and its `fired` counts every call. One of
    schema 2 has no `module` and `made_from`.

    Attributes:
        catalog: digest of the catalog to which the rules were applied.
        snapshot: digest of the snapshot that was used.
        before: digest of the program's graph before, or None if it could not be computed.
        after: digest of the graph afterwards; None too if the export failed.
        ops_before: op name -> number of its nodes in the graph before.
        ops_after: op name -> number of its nodes afterwards; empty if the export failed.
        fired: op name -> how often its decomposition was traced and gave a result, nested calls included.
        milliseconds: duration of the export.
        error: type and message of the exception with which it failed, or None.
        stale: for a table that was torch's own, the loaded ops that it lacks without a recorded removal. It was read
            before these ops were loaded, and torch then never decomposes them. For a dict, likewise those that it lacks
            because it was made before.
        declined: op name -> how often its decomposition returned NotImplemented, which leaves the op in the graph.
            None in an event of schema 1.
        emitted: what made each node of the lowered graph; None if it is not known.
        raised: the decompositions in which the exception was raised, outermost first; empty if it was raised outside
            of them. None if it is not known, or if the export did not fail.
        kinds: op name -> `mutates` (it changes an argument), `views` (its results are views of its arguments) or
            `always` (torch decomposes it whatever the table has), for ops of the program that are of one of these
            kinds. None in an event of schema 1.
        early: op name -> a kernel that torch runs before it looks into the table, for ops of the program that are not
            in the result although no decomposition of the table replaced them. None in an event of schema 1.
        module: the class of the module that the program was exported from; None if it is not known.
        made_from: the id of the ledger and the seq of the last export that is known to have led to the program; None
            if none is.
        ignored: what the table has and torch ignores unless it traces the op: keys that are not operators, and
            values that are not callable, as text.
    """

    kind: ClassVar[str] = "exported"
    schema: ClassVar[int] = 3
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
    declined: Mapping[str, int] | None = None
    emitted: tuple[Emission, ...] | None = None
    raised: tuple[str, ...] | None = None
    kinds: Mapping[str, str] | None = None
    early: Mapping[str, str] | None = None
    module: RootModule | None = None
    made_from: tuple[str, int] | None = None
    ignored: tuple[str, ...] = ()

    def _note(self) -> str:
        if self.error is not None:
            return f"with {self.error[0]}"
        return f"{sum(self.ops_before.values())} -> {sum(self.ops_after.values())} nodes"

    def _row(self) -> Row:
        failed = self.error is not None
        return {
            "failed": failed,
            "error": None if self.error is None else f"{self.error[0]}: {self.error[1]}",
            "raised_in": ", ".join(self.raised or ()),
            "model": None if self.module is None else self.module.label,
            "nodes_before": sum(self.ops_before.values()),
            "nodes_after": None if failed else sum(self.ops_after.values()),
            "ops_after": None if failed else ", ".join(self.ops_after),
            "fired": ", ".join(self.fired),
            "calls": sum(self.fired.values()),
            "milliseconds": self.milliseconds,
            "made_from": None if self.made_from is None else self.made_from[1],
            "graph_before": self.before,
            "graph_after": self.after,
            "catalog": self.catalog,
            "snapshot": self.snapshot,
        }


@displayed
@attrs.frozen(repr=False)
class Traced(Body):
    """Torch traced programs with the table outside of exports: all traces of one caller within a recording.

    Attributes:
        catalog: digest of the catalog to which the rules were applied.
        snapshot: digest of the snapshot that was used.
        by: what traced: `make_fx`, `AOTAutograd`, `torch.compile`, `AOTInductor` or `torch.export`.
        entries: how many ops the table had.
        base: the table of torch that is nearest to it: `torch.export` (the default of exports), `inductor`, `registry`
            or `empty`.
        added: the ops that it has and the base has not.
        replaced: those for which it has another decomposition.
        removed: the ops that it lacks.
        traces: the number of traces.
        milliseconds: their duration.
        fired: op name -> how often its decomposition was traced and gave a result, nested calls included.
        declined: op name -> how often its decomposition returned NotImplemented, which leaves the op in the graph.
    """

    kind: ClassVar[str] = "traced"
    catalog: str
    snapshot: str
    by: str
    entries: int
    base: str
    added: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    traces: int = 0
    milliseconds: int = 0
    fired: Mapping[str, int] = attrs.field(factory=dict)
    declined: Mapping[str, int] = attrs.field(factory=dict)

    def with_traces(
        self, traces: int, milliseconds: int, fired: Mapping[str, int], declined: Mapping[str, int]
    ) -> Traced:
        """Return the event with its traces."""
        return attrs.evolve(self, traces=traces, milliseconds=milliseconds, fired=fired, declined=declined)


@displayed
@attrs.frozen(repr=False)
class Lowered(Body):
    """The result of an export with the table was lowered again by another part of torch.

    Attributes:
        by: what lowers it: `torch.compile`, `AOTInductor`, `AOTAutograd` or `make_fx`.
        entries: how many ops the table has that it is lowered with.
        program: digest of the program's graph, as the export gave it; None if it could not be computed.
        export: the export's number.
    """

    kind: ClassVar[str] = "lowered"
    by: str
    entries: int
    program: str | None
    export: int


@displayed
@attrs.frozen(repr=False)
class Saved(Body):
    """The result of an export was saved into a file.

    Attributes:
        export: the seq of the export.
        path: the file, as call sites have paths; "" if the program wrote it by itself.
        format: `pt2`, `onnx`, `pte`, `ptd` or `aoti`.
        size: of the file, in bytes.
        sha256: digest of the whole file, in hex.
        stamped: whether the file has a stamp inside.
    """

    kind: ClassVar[str] = "saved"
    export: int
    path: str
    format: str
    size: int
    sha256: str
    stamped: bool = False


MUTATES, VIEWS, ALWAYS = "mutates", "views", "always"

EVENT_KINDS: dict[str, type[Body]] = {
    cls.kind: cls
    for cls in (
        *(Created, Set, Popped, Updated, Reset, Reverted, Passed, Found),
        *(Tagged, Materialized, Exported, Saved, Traced, Lowered),
    )
}

# (kind, schema) -> the function that turns a JSON body of that schema into one of the next schema.
UPCASTS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {
    # Events of schema 2 may have several lines as their call site, and an export has more facts: the defaults say that
    # these are not known.
    **{(kind, 1): dict for kind in EVENT_KINDS},
    (Exported.kind, 2): dict,
}


@displayed
@attrs.frozen(repr=False)
class Event:
    """One immutable record of the ledger.

    Attributes:
        seq: 1, 2, 3 ... in the ledger.
        table: name of the table.
        version: the table's version after the event.
        kind: one of `EVENT_KINDS`.
        recorded_at: UTC, ISO 8601 with microseconds and `Z`.
        actor: who made the change.
        reason: why, or None.
        call_site: where the change was made, or None.
        environment: digest of the stored environment.
        body: what the event records; its class is that of the kind.
        prev_hash: hash of the event before it, in hex; for the first event, the ledger's `genesis` hash.
        hash: its own hash, in hex.
        written: the schema number and the body's JSON text that were hashed.
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

    @guarded
    def __repr__(self) -> str:
        note = self.body._note()
        what = f"{self.kind} {note}" if note else self.kind
        why = f", because {self.reason[:120]!r}" if self.reason else ""
        at = self.recorded_at[:19].replace("T", " ")
        return f"<Event #{self.seq} {self.table}@{self.version}: {what} at {at} by {self.actor}{why}>"

    def _row(self) -> Row:
        changes = self.changes
        return {
            "seq": self.seq,
            "recorded_at": self.recorded_at,
            "table": self.table,
            "version": self.version,
            "kind": self.kind,
            "ops": ", ".join(change.op for change in changes),
            "actor": self.actor,
            "reason": self.reason,
            "call_site": None if self.call_site is None else str(self.call_site),
            **self.body._row(),
            "environment": self.environment,
        }

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes to rules, each op once; empty for kinds that change none."""
        return self.body.changes


# The codec


def body_to_json(body: Body) -> dict[str, Json]:
    """Return a body as plain data: its fields by name, without those that have their default value."""
    fields = attrs.fields(type(body))
    values = ((field, getattr(body, field.name)) for field in fields)
    return {field.name: _to_json(value) for field, value in values if value != field.default}


def makes_version(kind: str) -> bool | None:
    """Tell whether events of a kind make a version of their table; None for an unknown kind."""
    body = EVENT_KINDS.get(kind)
    return None if body is None else body.makes_version


def encode_body(body: Body) -> str:
    """Return a body as canonical JSON, the text that is stored and hashed."""
    return canonical_json(body_to_json(body))


def decode_body(kind: str, schema: int, text: str) -> Body:
    """Return the body that a stored text holds, converted to the newest schema of its kind.

    Args:
        kind: the event's kind.
        schema: the schema number with which it was written.
        text: its JSON.

    Raises:
        SchemaError: the kind or the schema is newer than this version of decomp_ledger.
        LedgerError: the text is not a body of that kind.
    """
    cls: Any = EVENT_KINDS.get(kind)
    if cls is None or schema > cls.schema:
        raise SchemaError(
            f"event of kind {kind!r}, schema {schema}: a newer decomp_ledger wrote it; upgrade to read it"
        )
    try:
        value = as_object(parse_json(as_string(text)))
        while schema < cls.schema:
            value = UPCASTS[kind, schema](value)
            schema += 1
        readers = _readers(cls)
        body: Body = cls(**{name: readers[name](item) for name, item in value.items()})
    except DAMAGE as error:
        raise LedgerError(f"event of kind {kind!r}: its body is damaged: {error!r:.200}; run verify") from None
    return body


def _to_json(value: Any) -> Json:
    if isinstance(value, (Change, Emission, RootModule)):
        return value.to_json()
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


# Evaluating the annotations of a class takes 70 us; reading a body takes 3 us. verify reads every body.
@cache
def _readers(cls: type[Any]) -> Mapping[str, Callable[[object], Any]]:
    """Return, for each field of a body class, the function that checks and reads its JSON value."""
    hints = get_type_hints(cls)
    return {field.name: _reader(hints[field.name]) for field in attrs.fields(cls)}


def _reader(annotation: Any) -> Callable[[object], Any]:
    """Return the function that reads a JSON value as the annotated type.

    Raises:
        NotImplementedError: no event stores such a type.
    """
    simple: dict[Any, Callable[[object], Any]] = {
        **{str: as_string, int: as_integer, bool: _as_boolean},
        **{Change: Change.from_json, Emission: Emission.from_json, RootModule: RootModule.from_json},
    }
    if annotation in simple:
        return simple[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType) and len(inner) == 2 and inner[1] is type(None):
        return partial(_read_optional, _reader(inner[0]))
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return partial(_read_array, _reader(inner[0]))
    if origin is tuple:
        return partial(_read_fixed, [_reader(item) for item in inner])
    if origin is not None and issubclass(origin, Mapping) and inner[0] is str:
        return partial(_read_object, _reader(inner[1]))
    raise NotImplementedError(f"{annotation}: no reader for this type of field; add one to _reader")


def _as_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise UnusableValue(f"expected true or false, found {type(value).__name__}")
    return value


def _read_optional(read: Callable[[object], Any], value: object) -> Any:
    return None if value is None else read(value)


def _read_array(read: Callable[[object], Any], value: object) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise UnusableValue(f"expected an array, found {type(value).__name__}")
    return tuple(map(read, value))


def _read_fixed(readers: Sequence[Callable[[object], Any]], value: object) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) != len(readers):
        raise UnusableValue(f"expected an array of {len(readers)}")
    return tuple(read(item) for read, item in zip(readers, value, strict=True))


def _read_object(read: Callable[[object], Any], value: object) -> dict[str, Any]:
    return {key: read(item) for key, item in as_object(value).items()}


# Rows


def read_event(row: Sequence[Any]) -> Event:
    """Return the event of a row, whose values are those of `storage.event_store.EventRow`.

    Raises:
        SchemaError: a newer decomp_ledger wrote it.
        LedgerError: the row is damaged.
    """
    seq, table, version, kind, schema, at, actor, reason, site, environment, body, prev_hash, own_hash = row
    numbers = type(seq) is type(version) is type(schema) is int
    if not numbers or not type(table) is type(kind) is type(at) is type(actor) is str:
        raise LedgerError(f"event {seq!r:.40}: a column has a value of the wrong type; run verify")
    if len(table) > LONGEST_NAME:
        raise LedgerError(f"event {seq}: the name of its table has {len(table)} characters; run verify")
    try:
        return Event(
            seq=seq,
            table=table,
            version=version,
            kind=kind,
            recorded_at=at,
            actor=actor,
            reason=reason,
            call_site=None if site is None else read_call_site(site),
            environment=environment.hex(),
            body=decode_body(kind, schema, body),
            prev_hash=prev_hash.hex(),
            hash=own_hash.hex(),
            written=(schema, body),
        )
    except (TypeError, AttributeError) as error:
        raise LedgerError(f"event {seq}: it is damaged: {error}; run verify") from None


# Reading six lines takes 20 us. Many events have the same ones, and each append reads its event back.
@lru_cache(maxsize=1024)
def read_call_site(text: str) -> CallSite:
    """Return the call site that a stored text holds.

    Raises:
        LedgerError: the text is not a call site.
    """
    try:
        return CallSite.from_json(parse(text, "a call site"))
    except DAMAGE as error:
        raise LedgerError(f"call site: it is damaged: {error!r:.200}; run verify") from None


def parse(text: str, what: str) -> Any:
    """Return the value of stored JSON.

    Args:
        text: the JSON.
        what: what it holds, for the message.

    Raises:
        LedgerError: the text is not JSON.
    """
    try:
        return parse_json(text)
    except UnusableValue as error:
        raise LedgerError(f"{what} in the ledger: its JSON is damaged: {error}; run verify") from None
