"""What a hub holds, as the values of the model: events, table states and exports, each checked when it is read.

A hub is data from strangers. An event counts only if its text has the hash that is stored with it, what it names by
digest only if it has that digest, and the table of an export only if it has the digest that the export's event names.
So every answer is decided by the functions that decide it for a ledger, from the same values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import attrs

from decomp_ledger import catalogs
from decomp_ledger.errors import HubError, LedgerError, SchemaError
from decomp_ledger.hub.connection import HubConnection
from decomp_ledger.model.canonical_json import Json, canonical_json, check_text
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import Event, Exported, read_event
from decomp_ledger.model.json_values import DAMAGE, as_object, parse_json
from decomp_ledger.model.limits import DUMP_LINE, DUMP_VALUES
from decomp_ledger.model.rules import Decomposition, TableState
from decomp_ledger.transfer.export_bundle import ExportBundle, state_of

__all__ = ["EVENT", "HubReader", "LedgerName", "TableAt", "find_ledger"]

# The columns of `HubReader.event`.
EVENT = "ledger.ledger, ledger.name, event.seq, event.text, event.prev_hash, event.hash"
_FIELDS = {"actor", "body", "call_site", "environment", "kind", "reason", "recorded_at", "schema", "seq"} | {
    "table",
    "version",
}

# The id first, because another ledger can have it as its name.
_LEDGER = """
SELECT id, ledger, name FROM ledger WHERE ledger = :text OR name = :text ORDER BY ledger = :text DESC LIMIT 1
"""
_LAST_NAMES = "SELECT name FROM ledger ORDER BY id DESC LIMIT 6"
_LEDGERS = "SELECT ledger, name FROM ledger ORDER BY name"
_EVENTS_AT = f"""
SELECT {EVENT}
FROM event JOIN ledger ON ledger.id = event.ledger_id
WHERE event.ledger_id = :ledger AND event.seq IN :seqs
ORDER BY event.seq
"""
_TABLE = """
SELECT decomp_table.id, decomp_table.ledger_id, decomp_table.base
FROM decomp_table JOIN ledger ON ledger.id = decomp_table.ledger_id
WHERE ledger.ledger = :ledger AND decomp_table.name = :table
"""
# The last change of each op up to a version, by the table itself or else by those that it was forked from.
_LAST_CHANGES = """
SELECT DISTINCT seq
FROM (
    SELECT change.seq, row_number() OVER (
        PARTITION BY change.op_id ORDER BY lineage.depth, change.version DESC
    ) AS place
    FROM lineage
    JOIN change ON change.table_id = lineage.ancestor_id AND change.version <= lineage.until
        AND (lineage.depth > 0 OR change.version <= :version)
    WHERE lineage.table_id = :table
) AS placed
WHERE place = 1
ORDER BY seq
"""
_BLOBS = "SELECT digest, body FROM blob WHERE kind = :kind AND digest IN :digests"
_CHUNK = 500  # values in one query
# Catalogs that a reader keeps: torch's takes 5 MB. Most programs of a hub share a few.
_CATALOGS = 8


@displayed
class LedgerName(NamedTuple):
    """A ledger of a hub.

    Attributes:
        id: the ledger's own id.
        name: what people call it.
    """

    id: str
    name: str


@attrs.frozen
class TableAt:
    """What makes the state of a table at a version.

    Attributes:
        table: its name.
        version: the version.
        base: `torch` or `empty`.
        rule_events: for each op that the table ever changed, the last event that did, by seq.
        decompositions: digest -> decomposition, of those that the rules name.
    """

    table: str
    version: int
    base: str
    rule_events: tuple[Event, ...]
    decompositions: Mapping[str, Decomposition]

    def last_events(self) -> dict[str, Event]:
        """Return, for each op that the table ever changed, the last event that did."""
        last = {change.op: event for event in self.rule_events for change in event.changes}
        return dict(sorted(last.items()))

    def state(self) -> TableState:
        """Return the rules."""
        return state_of(self.table, self.version, self.base, self.rule_events, self.decompositions)


def find_ledger(hub: HubConnection, text: str) -> tuple[int, LedgerName]:
    """Return the row of the ledger that a text means, its name in the hub or its own id, and its name.

    Raises:
        HubError: the hub has no such ledger.
    """
    for row, *names in hub.rows(_LEDGER, text=_parameter("ledger", text)):
        return row, LedgerName(*names)
    names = ", ".join(f"{name!r:.210}" for (name,) in hub.rows(_LAST_NAMES)) or "none yet"
    raise HubError(f"{hub.label}: it has no ledger {text!r:.210}; it has {names}")


class HubReader:
    """Reads values from an open hub, in the transaction of its connection.

    Args:
        connection: to the hub.
    """

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection
        self._catalogs: dict[str, Catalog] = {}
        self._whole: dict[str, Catalog] = {}

    def rows(self, query: str, values: Mapping[str, object] | None = None) -> list[Any]:
        """Return the rows of a query; of a value that is a list, each item is one of `IN :name`."""
        given: dict[str, object] = {}
        for name, value in (values or {}).items():
            if isinstance(value, list):
                names = {f"{name}_{number}": _parameter(name, item) for number, item in enumerate(value)}
                query = query.replace(f"IN :{name}", f"IN ({', '.join(f':{each}' for each in names)})")
                given |= names
            else:
                given[name] = _parameter(name, value)
        return self._connection.rows(query, **given)

    @property
    def label(self) -> str:
        """The address of the hub, without a password."""
        return self._connection.label

    @property
    def dialect(self) -> str:
        """The name of the database: `postgresql` or `sqlite`."""
        return self._connection.dialect

    def ledger(self, text: str) -> tuple[int, LedgerName]:
        """Return the row of the ledger that a text means, its name in the hub or its own id, and its name.

        Raises:
            HubError: the hub has no such ledger.
        """
        return find_ledger(self._connection, text)

    def ledgers(self) -> list[LedgerName]:
        """Return all ledgers, by name."""
        return [LedgerName(*row) for row in self.rows(_LEDGERS)]

    # Events

    def event(self, row: Sequence[Any]) -> tuple[LedgerName, Event]:
        """Return the event of a row of the columns `EVENT`, if its text has its hash.

        Raises:
            HubError: it has not, or is not the text of an event.
            SchemaError: a newer decomp_ledger wrote it.
        """
        ledger_id, name, seq, text, prev_hash, own_hash = row
        ledger = LedgerName(ledger_id, name)
        try:
            fields = as_object(parse_json(text, DUMP_LINE, DUMP_VALUES))
            if fields.keys() != _FIELDS or fields["seq"] != seq:
                raise ValueError("it has other fields than an event has")
            if hashlib.sha256(bytes(prev_hash) + text.encode()).digest() != bytes(own_hash):
                raise ValueError("its text does not match its hash")
            return ledger, _event_of(cast("dict[str, Any]", fields), text, bytes(prev_hash), bytes(own_hash))
        except SchemaError as error:
            raise SchemaError(f"{_place(ledger, seq)}: {error}") from None
        except DAMAGE as error:
            raise HubError(f"{_place(ledger, seq)}: damaged: {error!s:.200}; run `decomp-ledger hub verify`") from None

    def events(self, query: str, values: Mapping[str, object]) -> Iterator[tuple[LedgerName, Event]]:
        """Give the events of a query of the columns `EVENT`."""
        return map(self.event, self.rows(query, values))

    # What events name by digest

    def blobs(self, kind: str, digests: Collection[str]) -> dict[str, str]:
        """Return texts by their digests, each checked.

        Args:
            kind: `environment`, `decomposition` or `catalog`.
            digests: in hex.

        Raises:
            HubError: one is missing or damaged.
        """
        wanted = sorted(set(digests))
        found: dict[str, str] = {}
        for start in range(0, len(wanted), _CHUNK):
            found |= self.rows(_BLOBS, {"kind": kind, "digests": wanted[start : start + _CHUNK]})
        for digest in wanted:
            text = found.get(digest)
            if text is None or hashlib.sha256(text.encode()).hexdigest() != digest:
                problem = "missing" if text is None else "damaged: it does not match its digest"
                raise HubError(f"{kind} {digest[:12]}: {problem}; run `decomp-ledger hub verify`")
        return found

    def environments(self, digests: Collection[str]) -> dict[str, dict[str, Json]]:
        """Return environments by their digests."""
        texts = self.blobs("environment", digests)
        return {digest: cast("dict[str, Json]", _parsed("environment", digest, texts[digest])) for digest in texts}

    def decompositions(self, digests: Collection[str]) -> dict[str, Decomposition]:
        """Return decompositions by the digests that events name."""
        texts = self.blobs("decomposition", digests)
        return {
            digest: Decomposition.from_json(_parsed("decomposition", digest, text)) for digest, text in texts.items()
        }

    def catalog(self, digest: str) -> Catalog:
        """Return a catalog by its digest; the last ones are kept."""

        def read() -> Catalog:
            return Catalog.from_json(_parsed("catalog", digest, self.blobs("catalog", [digest])[digest]))

        return _kept(self._catalogs, digest, read)

    def whole_catalog(self, digest: str) -> Catalog:
        """Return a catalog with the schemas and digests that its torch build implies; the last ones are kept."""
        return _kept(self._whole, digest, lambda: catalogs.completed(self.catalog(digest)))

    # Exports

    def bundle(self, ledger: LedgerName, event: Event) -> ExportBundle:
        """Return an export with everything that determines its table.

        Args:
            ledger: its ledger.
            event: its event, of the kind `exported`.

        Raises:
            HubError: something is missing, or the table is not the one that the export's event names.
        """
        body = cast("Exported", event.body)
        at = self.table_at(ledger, event.table, event.version)
        environment = self.environments([event.environment])[event.environment]
        found = ExportBundle(
            ledger.id, event, environment, at.base, at.rule_events, at.decompositions, self.catalog(body.catalog)
        )
        if found.snapshot.digest != body.snapshot:
            raise HubError(
                f"{_place(ledger, event.seq)}: damaged: its table is not the one that its hash covers; run "
                "`decomp-ledger hub verify`"
            )
        return found

    def table_at(self, ledger: LedgerName, table: str, version: int) -> TableAt:
        """Return what makes the state of a table at a version.

        Raises:
            HubError: the hub has no such table, or something is missing or damaged.
        """
        rows = self.rows(_TABLE, {"ledger": ledger.id, "table": table})
        if not rows:
            raise HubError(f"{ledger.name}: the table {table:.80} is missing; run `decomp-ledger hub verify`")
        table_id, ledger_id, base = rows[0]
        seqs = [row[0] for row in self.rows(_LAST_CHANGES, {"table": table_id, "version": version})]
        events = tuple(event for _, event in self.events_at(ledger_id, seqs))
        last = {change.op: change for event in events for change in event.changes}
        digests = {change.decomposition for change in last.values()} - {None}
        return TableAt(table, version, base, events, self.decompositions(cast("set[str]", digests)))

    def events_at(self, ledger_id: int, seqs: Sequence[int]) -> Iterator[tuple[LedgerName, Event]]:
        """Give the events of a ledger, named by its row, that have these numbers, by seq; one may be missing."""
        for start in range(0, len(seqs), _CHUNK):
            yield from self.events(_EVENTS_AT, {"ledger": ledger_id, "seqs": [*seqs[start : start + _CHUNK]]})


def _kept(kept: dict[str, Catalog], digest: str, read: Callable[[], Catalog]) -> Catalog:
    """Return a catalog of those that were used last, which are kept, or read it."""
    found = kept.pop(digest, None) or read()
    while len(kept) >= _CATALOGS:
        kept.pop(next(iter(kept)))
    kept[digest] = found
    return found


def _parameter(name: str, value: object) -> object:
    """Return a value as the hub has it: PostgreSQL has no text with NUL."""
    return check_text(value, f"the {name}").replace("\0", "\ufffd") if isinstance(value, str) else value


def _event_of(fields: dict[str, Any], text: str, prev_hash: bytes, own_hash: bytes) -> Event:
    """Return the event of a text, if that is the one canonical text of its fields.

    A key that stands in it twice would be read once.
    """
    body, site = canonical_json(fields["body"]), canonical_json(fields["call_site"])
    # The body is most of the text, so it is written once. No text in JSON holds this, because its quotes are escaped.
    rest = canonical_json({**fields, "body": None, "call_site": None})
    if text != rest.replace('"body":null,"call_site":null', f'"body":{body},"call_site":{site}', 1):
        raise ValueError("its text is not canonical JSON")
    return read_event(
        (
            *(fields[name] for name in ("seq", "table", "version", "kind", "schema", "recorded_at", "actor", "reason")),
            None if fields["call_site"] is None else site,
            bytes.fromhex(fields["environment"]),
            body,
            prev_hash,
            own_hash,
        )
    )


def _parsed(kind: str, digest: str, text: str) -> dict[str, object]:
    try:
        return as_object(parse_json(text))
    except LedgerError as error:
        raise HubError(f"{kind} {digest[:12]}: damaged: {error}; run `decomp-ledger hub verify`") from None


def _place(ledger: LedgerName, seq: int) -> str:
    return f"event #{seq} of {ledger.name}"
