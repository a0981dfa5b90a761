"""An export, with all that tells its table: small enough to travel in a `.pt2`, and checked when it is read.

A bundle has the export's event and the last events that spoke of each op, each as it was hashed, the decompositions
that these name, the environment, and the catalog, as what it differs in from the one of a released torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import attrs

from decomp_ledger import catalogs
from decomp_ledger.errors import LedgerError, SchemaError, StampError, UnknownCatalog
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.model.canonical_json import Json, canonical_json, digest_of
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import BASES, CallSite, Event, Exported, decode_body
from decomp_ledger.model.hash_chain import chain_hash
from decomp_ledger.model.materialize import Snapshot, materialize
from decomp_ledger.model.rules import Decomposition, Rule, TableState, fold

__all__ = ["ExportBundle"]

_TEXTS = ("table", "kind", "recorded_at", "actor", "environment", "prev_hash", "hash")
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


@attrs.define(frozen=True, slots=False)
class ExportBundle:
    """One export.

    Attributes:
        ledger: the id of the ledger that recorded it.
        event: its `exported` event.
        environment: what it ran in.
        base: the base of its table, `torch` or `empty`.
        said: the events that spoke last of each op that the table ever spoke of, by seq.
        decompositions: digest -> decomposition, of those that these events name.
        catalog: what torch offered.
    """

    ledger: str
    event: Event
    environment: Mapping[str, Json]
    base: str
    said: tuple[Event, ...]
    decompositions: Mapping[str, Decomposition]
    catalog: Catalog

    @classmethod
    def of(
        cls,
        ledger: str,
        event: Event,
        environment: Mapping[str, Json],
        state: TableState,
        last_events: Iterable[Event],
        catalog: Catalog,
    ) -> ExportBundle:
        """Put together what a ledger, or the process that exported, knows of an export.

        Args:
            ledger: the ledger's id.
            event: the `exported` event.
            environment: what it ran in.
            state: its table's state.
            last_events: the events that spoke last of each op, in any order, repeated or not.
            catalog: the catalog that it met.
        """
        said = tuple(sorted({each.seq: each for each in last_events}.values(), key=lambda each: each.seq))
        decompositions = (rule.decomposition for rule in state.rules.values() if rule.decomposition is not None)
        found = {decomposition.identity(): decomposition for decomposition in decompositions}
        return cls(ledger, event, environment, state.base, said, found, catalog)

    @classmethod
    def from_log(cls, ledger: LedgerLog, event: Event, catalog: Catalog | None = None) -> ExportBundle:
        """Put together what a ledger knows of an export.

        Args:
            ledger: the ledger.
            event: the `exported` event.
            catalog: the catalog that it names, if the caller has it.
        """
        rules = ledger.last_events(event.table, event.version)
        state = ledger.state(event.table, event.version)
        body = cast("Exported", event.body)
        found = ledger.catalog(body.catalog) if catalog is None else catalog
        return cls.of(
            ledger.id, event, ledger.environment(event.environment), state, (each for _, each in rules.values()), found
        )

    @property
    def body(self) -> Exported:
        """What came of the export."""
        return cast("Exported", self.event.body)

    @property
    def name(self) -> str:
        """What people call it: `export:7`."""
        return f"export:{self.event.seq}"

    @cached_property
    def state(self) -> TableState:
        """The state of its table."""
        rules: dict[str, Rule] = {}
        for event in self.said:
            # Of a decomposition that a later event took back, nothing but its digest is kept.
            fold(rules, (c for c in event.changes if c.decomposition in {None, *self.decompositions}),
                 self.decompositions)  # fmt: skip
        return TableState(self.event.table, self.event.version, self.base, rules)

    @cached_property
    def snapshot(self) -> Snapshot:
        """The table that was used."""
        return materialize(self.state, self.catalog)

    def blame(self) -> dict[str, Event]:
        """Return, for each op of which its table says something, the event that said it."""
        return {op: event for op, event in self.last_events().items() if op in self.state.rules}

    def last_events(self) -> dict[str, Event]:
        """Return, for each op of which its table ever said something, the event that spoke last of it."""
        spoke = {change.op: event for event in self.said for change in event.changes}
        return {op: spoke[op] for op in sorted(spoke)}

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "ledger": self.ledger,
            "event": _written(self.event),
            "environment": dict(self.environment),
            "base": self.base,
            "said": [_written(event) for event in self.said],
            "decompositions": {
                digest: decomposition.to_json() for digest, decomposition in self.decompositions.items()
            },
            "catalog": _packed(self.catalog),
        }

    @classmethod
    def from_json(cls, value: object) -> ExportBundle:
        """Read one from a file of anybody's.

        It is checked against itself: every event's hash, the digests of environment, decompositions and catalog, and
        that the table it tells is the one of which the export's event has the digest. That it is also what a ledger
        says is known from that ledger alone, by the hashes.

        Raises:
            StampError: it is none, or does not hold together.
            SchemaError: a newer version wrote it.
        """
        try:
            return cls._read(value)
        except (SchemaError, StampError):
            raise
        except (LedgerError, *_DAMAGED) as error:
            raise StampError(f"a stamp is damaged: {type(error).__name__}: {error}"[:500]) from None

    @classmethod
    def _read(cls, value: Any) -> ExportBundle:
        environment, base = value["environment"], _text(value["base"])
        event = _read_event(value["event"])
        decompositions = {digest: Decomposition.from_json(each) for digest, each in value["decompositions"].items()}
        said = tuple(_read_event(each) for each in value["said"])
        if not isinstance(event.body, Exported) or base not in BASES:
            raise StampError("a stamp is damaged: it tells of no export")
        _check(digest_of(environment) == event.environment, "its environment")
        _check(
            all(decomposition.identity() == digest for digest, decomposition in decompositions.items()),
            "a decomposition",
        )
        _check(all(one.seq < other.seq for one, other in pairwise([*said, event])), "the order")
        catalog = _unpacked(value["catalog"])
        _check(catalog.digest == event.body.catalog, "its catalog")
        found = cls(_text(value["ledger"]), event, environment, base, said, decompositions, catalog)
        _check(found.snapshot.digest == event.body.snapshot, "its table")
        return found


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise StampError(f"a stamp is damaged: {what} is not what its export's event says")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, found {type(value).__name__}")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected an integer, found {type(value).__name__}")
    return value


def _written(event: Event) -> dict[str, Json]:
    """Return an event as plain data from which its hash can be made again."""
    schema, body = event.written
    value: dict[str, Json] = {name: getattr(event, name) for name in (*_TEXTS, "seq", "version", "reason")}
    site = event.call_site
    return {
        **value,
        "schema": schema,
        "body": json.loads(body),
        "call_site": None if site is None else attrs.asdict(site),
    }


def _read_event(value: Any) -> Event:
    fields: dict[str, Any] = {name: _text(value[name]) for name in _TEXTS}
    for name in ("seq", "version", "schema"):
        fields[name] = _number(value[name])
    fields["reason"] = reason = value["reason"]
    site = value["call_site"]
    if reason is not None:
        _text(reason)
    body = canonical_json(value["body"])
    own = chain_hash(bytes.fromhex(fields["prev_hash"]), fields, body, None if site is None else canonical_json(site))
    _check(own.hex() == fields["hash"], f"event {fields['seq']}")
    schema = fields.pop("schema")
    fields["call_site"] = (
        None if site is None else CallSite(_text(site["file"]), _number(site["line"]), _text(site["function"]))
    )
    return Event(**fields, body=decode_body(fields["kind"], schema, body), written=(schema, body))


def _released(version: str) -> Catalog:
    """Return a released torch's catalog as a process of that torch would tell it."""
    known = catalogs.released(version)
    return Catalog(known.build, {op: entry.bare() for op, entry in known.ops.items()})


def _packed(catalog: Catalog) -> dict[str, Json]:
    version = catalog.build.get("torch", "").partition("+")[0]
    every = catalogs.available()
    near = version if version in every else every[-1]
    base = _released(near)
    changed: dict[str, Json] = {
        op: entry.to_json() for op, entry in sorted(catalog.ops.items()) if base.ops.get(op) != entry
    }
    gone = list[Json](sorted(base.ops.keys() - catalog.ops.keys()))
    return {"near": near, "build": dict(catalog.build), "changed": changed, "gone": gone}


def _unpacked(value: Any) -> Catalog:
    try:
        base = _released(_text(value["near"]))
    except UnknownCatalog:
        raise StampError(f"a stamp builds on the catalog of torch {value['near']!r:.40}; upgrade to read it") from None
    gone = set(value["gone"])
    ops = {op: entry for op, entry in base.ops.items() if op not in gone}
    ops.update((op, Entry.from_json(entry)) for op, entry in value["changed"].items())
    return Catalog({_text(key): _text(item) for key, item in value["build"].items()}, ops)
