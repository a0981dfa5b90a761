"""One export with everything that determines its table: small enough for a `.pt2`, and checked when it is read.

A bundle has the export's event, the last event that changed each op, the decompositions that these name, the
environment, and the catalog as the difference from a released torch's. Each event has all the fields that its hash
covers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, cast

import attrs

from decomp_ledger import catalogs
from decomp_ledger.errors import SchemaError, StampError, UnknownCatalog
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.model.canonical_json import Json, canonical_json, digest_of
from decomp_ledger.model.catalog import Catalog, CatalogDelta
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import BASES, CallSite, Event, Exported, Passed, RootModule, decode_body, encode_body
from decomp_ledger.model.hash_chain import event_hash
from decomp_ledger.model.json_values import DAMAGE, as_integer, as_object, as_string
from decomp_ledger.model.materialize import Snapshot, materialize
from decomp_ledger.model.rules import Decomposition, Rule, TableState, fold

__all__ = ["ExportBundle", "bare_catalog", "state_of"]

_TEXTS = ("table", "kind", "recorded_at", "actor", "environment", "prev_hash", "hash")
_NUMBERS = ("seq", "version", "schema")
_EVENT = {*_TEXTS, *_NUMBERS, "reason", "body", "call_site"}
_BUNDLE = {"ledger", "event", "environment", "base", "rule_events", "decompositions", "catalog"}

# What a redacted bundle keeps of its environment.
_PUBLIC = ("torch", "torch_git", "torch_accelerator", "python", "platform")
# What its events lack.
_PRIVATE = ("actor", "reason", "call_site")
# Their actor, when they are read.
REDACTED = "(redacted)"


@displayed
@attrs.define(frozen=True, slots=False, repr=False)
class ExportBundle:
    """One export, with everything that determines its table.

    Attributes:
        ledger: the id of the ledger that recorded it.
        event: its `exported` event.
        environment: what it ran in.
        base: the base of its table, `torch` or `empty`.
        rule_events: for each op that the table ever changed, the last event that did, by seq.
        decompositions: digest -> decomposition, of those that the rules name.
        catalog: what torch offered.
        redacted: whether the actors, reasons and call sites of its events, and what tells the machine in its
            environment, were left out. The hashes of the events cover these, so only the ledger can check them.
    """

    ledger: str
    event: Event
    environment: Mapping[str, Json] = attrs.field(repr=False)
    base: str
    rule_events: tuple[Event, ...] = attrs.field(repr=False)
    decompositions: Mapping[str, Decomposition] = attrs.field(repr=False)
    catalog: Catalog = attrs.field(repr=False)
    redacted: bool = False

    @classmethod
    def from_log(cls, ledger: LedgerLog, event: Event, catalog: Catalog | None = None) -> ExportBundle:
        """Collect an export from the ledger that recorded it.

        Args:
            ledger: the ledger.
            event: the `exported` event.
            catalog: the catalog that the event names, if the caller has it already.
        """
        state = ledger.state(event.table, event.version)
        last = ledger.last_events(event.table, event.version)
        body = cast("Exported", event.body)
        decompositions = (rule.decomposition for rule in state.rules.values() if rule.decomposition is not None)
        return cls(
            ledger.id,
            event,
            ledger.environment(event.environment),
            state.base,
            _by_seq(each for _, each in last.values()),
            {decomposition.identity(): decomposition for decomposition in decompositions},
            ledger.catalog(body.catalog) if catalog is None else catalog,
        )

    def redact(self) -> ExportBundle:
        """Return it without actors, reasons, call sites, and all of the environment but Python, platform and torch."""
        environment = {name: value for name, value in self.environment.items() if name in _PUBLIC}
        events = [_redact(event, digest_of(environment)) for event in (self.event, *self.rule_events)]
        return attrs.evolve(
            self, event=events[0], rule_events=tuple(events[1:]), environment=environment, redacted=True
        )

    @property
    def body(self) -> Exported:
        """The body of its event."""
        return cast("Exported", self.event.body)

    @property
    def name(self) -> str:
        """The state spec that names it: `export:7`."""
        return f"export:{self.event.seq}"

    @cached_property
    def state(self) -> TableState:
        """The rules of its table."""
        return state_of(self.event.table, self.event.version, self.base, self.rule_events, self.decompositions)

    @cached_property
    def snapshot(self) -> Snapshot:
        """The table that was used."""
        return materialize(self.state, self.catalog)

    def blame(self) -> dict[str, Event]:
        """Return, for each op with a rule, the event that made the rule."""
        return {op: event for op, event in self.last_events().items() if op in self.state.rules}

    def last_events(self) -> dict[str, Event]:
        """Return, for each op that the table ever changed, the last event that did; a reset left it without a rule."""
        last = {change.op: event for event in self.rule_events for change in event.changes}
        return dict(sorted(last.items()))

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        decompositions: dict[str, Json] = {digest: each.to_json() for digest, each in self.decompositions.items()}
        to_json = _redacted_to_json if self.redacted else _event_to_json
        return {
            **({"redacted": True} if self.redacted else {}),
            "ledger": self.ledger,
            "event": to_json(self.event),
            "environment": dict(self.environment),
            "base": self.base,
            "rule_events": [to_json(event) for event in self.rule_events],
            "decompositions": decompositions,
            "catalog": _catalog_to_json(self.catalog),
        }

    @cached_property
    def text(self) -> str:
        """What `to_json` returns, as text; made once, because each save of a program writes it again."""
        return json.dumps(self.to_json(), ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, value: object) -> ExportBundle:
        """Read untrusted data, and check that its parts fit together.

        The hash of each event, the digests of the environment, the decompositions and the catalog, and the digest of
        the table that they give must be the ones that the export's event names. Whether the ledger has these events
        is not checked: only the ledger can show that, by their hashes.

        Raises:
            StampError: it is damaged, or its parts do not fit together.
            SchemaError: a newer version wrote it.
        """
        try:
            return cls._read(as_object(value))
        except (SchemaError, StampError):
            raise
        except DAMAGE as error:
            raise StampError(f"stamp: damaged: {type(error).__name__}: {error}"[:500]) from None

    @classmethod
    def _read(cls, value: dict[str, Any]) -> ExportBundle:
        redacted = "redacted" in value
        _check_keys(value, _BUNDLE | {"redacted"} if redacted else _BUNDLE)
        environment, base = value["environment"], as_string(value["base"])
        _check(not redacted or value["redacted"] is True, "the mark `redacted`")
        read_event = _redacted_from_json if redacted else _event_from_json
        event = read_event(value["event"])
        rule_events = tuple(map(read_event, value["rule_events"]))
        decompositions = {digest: Decomposition.from_json(each) for digest, each in value["decompositions"].items()}
        if not isinstance(event.body, Exported) or base not in BASES:
            raise StampError("stamp: damaged: it has no export")
        _check(digest_of(environment) == event.environment, "its environment")
        _check(all(each.identity() == digest for digest, each in decompositions.items()), "a decomposition")
        _check(all(one.seq < other.seq for one, other in pairwise([*rule_events, event])), "the order of its events")
        catalog = _catalog_from_json(value["catalog"])
        _check(catalog.digest == event.body.catalog, "its catalog")
        ledger = as_string(value["ledger"])
        found = cls(ledger, event, environment, base, rule_events, decompositions, catalog, redacted)
        _check(found.snapshot.digest == event.body.snapshot, "its table")
        _check(found._has_only_what_it_needs(), "a rule of its table")
        return found

    def _has_only_what_it_needs(self) -> bool:
        """Tell whether each rule event is the last one of an op, and the decompositions are those of the rules."""
        last = self.last_events()
        rules = [change for op, event in last.items() for change in event.changes if change.op == op]
        named = {change.decomposition for change in rules} - {None}
        return {event.seq for event in last.values()} == {event.seq for event in self.rule_events} and (
            named == self.decompositions.keys()
        )


def state_of(
    table: str, version: int, base: str, rule_events: Iterable[Event], decompositions: Mapping[str, Decomposition]
) -> TableState:
    """Return the rules of a table at a version.

    Args:
        table: its name.
        version: the version.
        base: the base of the table.
        rule_events: for each op that the table ever changed, the last event that did, by seq.
        decompositions: digest -> decomposition, of those that the rules name.
    """
    rules: dict[str, Rule] = {}
    known = {None, *decompositions}
    from_dict = False
    for event in rule_events:
        # The decomposition of a change that a later event replaced is not known here.
        fold(rules, (each for each in event.changes if each.decomposition in known), decompositions)
        from_dict |= (event.table, event.version) == (table, version) and isinstance(event.body, Passed)
    return TableState(table, version, base, rules, from_dict=from_dict)


def _by_seq(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return events by seq, each once."""
    once = {event.seq: event for event in events}
    return tuple(once[seq] for seq in sorted(once))


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise StampError(f"stamp: damaged: {what} does not match its export's event")


def _check_keys(value: Mapping[str, Any], keys: set[str]) -> None:
    """Refuse an object with other keys than those that it is written with."""
    if value.keys() != keys:
        raise StampError(f"stamp: damaged: expected the keys {', '.join(sorted(keys))}")


def _event_to_json(event: Event) -> dict[str, Json]:
    """Return an event as plain data, with everything that its hash covers."""
    schema, body = event.written
    site = event.call_site
    value: dict[str, Json] = {name: getattr(event, name) for name in (*_TEXTS, "seq", "version", "reason")}
    call_site = None if site is None else site.to_json()
    return {**value, "schema": schema, "body": json.loads(body), "call_site": call_site}


def _event_from_json(value: dict[str, Any]) -> Event:
    """Read an event, and check its hash."""
    _check_keys(value, _EVENT)
    fields = _read_fields(value)
    covered = {name: field for name, field in fields.items() if name not in ("prev_hash", "hash")}
    covered |= {"body": value["body"], "call_site": value["call_site"]}
    own_hash = event_hash(bytes.fromhex(fields["prev_hash"]), covered)
    _check(own_hash.hex() == fields["hash"], f"event {fields['seq']}")
    return _event_of(fields, value)


def _read_fields(value: dict[str, Any]) -> dict[str, Any]:
    """Read the fields of an event, without its body and its call site."""
    fields: dict[str, Any] = {name: as_string(value[name]) for name in _TEXTS}
    fields |= {name: as_integer(value[name]) for name in _NUMBERS}
    fields["reason"] = None if value["reason"] is None else as_string(value["reason"])
    return fields


def _event_of(fields: dict[str, Any], value: dict[str, Any]) -> Event:
    schema, body = fields.pop("schema"), canonical_json(value["body"])
    site = _call_site_from_json(value["call_site"])
    return Event(**fields, call_site=site, body=decode_body(fields["kind"], schema, body), written=(schema, body))


def _redact(event: Event, environment: str) -> Event:
    """Return an event without its actor, reason, call site and machine; its hash stays that of the whole event."""
    body, written = event.body, event.written
    if isinstance(body, Exported) and body.module is not None and body.module.file is not None:
        body = attrs.evolve(body, module=RootModule(body.module.name))  # without the path of its file
        written = (body.schema, encode_body(body))
    return attrs.evolve(
        event, actor=REDACTED, reason=None, call_site=None, environment=environment, body=body, written=written
    )


def _redacted_to_json(event: Event) -> dict[str, Json]:
    """Return a redacted event as plain data, with a digest of that instead of everything that its hash covers."""
    value = {name: field for name, field in _event_to_json(event).items() if name not in _PRIVATE}
    return {**value, "digest": digest_of(value)}


def _redacted_from_json(value: dict[str, Any]) -> Event:
    """Read a redacted event, and check its digest. Its hash can be checked only against the ledger."""
    _check_keys(value, (_EVENT - {*_PRIVATE}) | {"digest"})
    rest = {name: field for name, field in value.items() if name != "digest"}
    _check(digest_of(rest) == value["digest"], f"event {rest['seq']}")
    _check(len(bytes.fromhex(as_string(rest["hash"]))) == 32, f"event {rest['seq']}")
    whole = {**rest, "actor": REDACTED, "reason": None, "call_site": None}
    return _event_of(_read_fields(whole), whole)


def _call_site_from_json(value: Any) -> CallSite | None:
    if value is None:
        return None
    return CallSite.from_json(value)


# The exports of a stamp share a catalog of some thousand ops. Without the three caches, each of them costs 30 ms to
# write and 60 ms to read.
@lru_cache(maxsize=4)
def bare_catalog(version: str) -> Catalog:
    """Return a released torch's catalog in the form in which a live process has it.

    Raises:
        UnknownCatalog: no catalog of that version is shipped.
    """
    released = catalogs.released(version)
    return Catalog(released.build, {op: entry.bare() for op, entry in released.ops.items()})


_deltas: dict[str, tuple[str, CatalogDelta]] = {}  # digest of a catalog -> the release that it differs from, and how
_DELTAS = 4


def _catalog_to_json(catalog: Catalog) -> dict[str, Json]:
    """Return a catalog as the difference from its release's, or from the newest release's."""
    known = _deltas.get(catalog.digest)
    if known is None:
        version = catalog.build.get("torch", "").partition("+")[0]
        available = catalogs.available()
        base = version if version in available else available[-1]
        known = base, CatalogDelta.between(bare_catalog(base), catalog)
        if len(_deltas) >= _DELTAS:
            _deltas.clear()
        _deltas[catalog.digest] = known
    return {"base": known[0], **known[1].to_json()}


def _catalog_from_json(value: Any) -> Catalog:
    return _catalog_from_text(json.dumps(value, sort_keys=True))


@lru_cache(maxsize=4)
def _catalog_from_text(text: str) -> Catalog:
    value = json.loads(text)
    version = as_string(value["base"])
    try:
        base = bare_catalog(version)
    except UnknownCatalog:
        raise StampError(f"stamp: its catalog builds on torch {version!r:.40}; upgrade decomp_ledger") from None
    catalog = CatalogDelta.from_json(value).apply(base)
    if {"base": version, **CatalogDelta.between(base, catalog).to_json()} != value:
        raise StampError("stamp: damaged: its catalog is not written as the difference from its base")
    return catalog
