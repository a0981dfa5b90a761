"""One ledger of a hub, which the queries read as they read a ledger, so that both have the same answers."""

from __future__ import annotations

import datetime
from typing import Any

from decomp_ledger.errors import HubError, UnusableValue
from decomp_ledger.hub.reading import EVENT, HubReader, TableAt
from decomp_ledger.log.ledger_log import LedgerLog, stored_moment
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.display import LazyRows, Rows
from decomp_ledger.model.events import Event, Exported, makes_version
from decomp_ledger.model.rules import Rule, TableState
from decomp_ledger.model.state_specs import unknown_version
from decomp_ledger.storage.event_store import TableInfo
from decomp_ledger.storage.history import Since

__all__ = ["LedgerInHub"]

_TABLES = """
SELECT decomp_table.name, decomp_table.version, event_fact.recorded_at
FROM decomp_table
JOIN event_fact ON event_fact.table_id = decomp_table.id AND event_fact.makes_version = 1 AND event_fact.version = 1
WHERE decomp_table.ledger_id = :ledger
ORDER BY event_fact.seq
"""
_HEAD = "SELECT seq, hash FROM head WHERE ledger_id = :ledger"
_VERSION = "SELECT version FROM decomp_table WHERE ledger_id = :ledger AND name = :table"
_EVENTS = f"""
SELECT {EVENT}
FROM event_fact
JOIN event ON event.ledger_id = event_fact.ledger_id AND event.seq = event_fact.seq
JOIN ledger ON ledger.id = event_fact.ledger_id
WHERE event_fact.ledger_id = :ledger
"""
_OF_TABLE = "event_fact.table_id = (SELECT id FROM decomp_table WHERE ledger_id = :ledger AND name = :table)"
_CONDITIONS = {
    "table": _OF_TABLE,
    "kind": "event_fact.kind = :kind",
    "since": "event_fact.recorded_at >= :since",
    "until": "event_fact.recorded_at <= :until",
    "gt": "event_fact.seq > :gt",
    "lte": "event_fact.seq <= :lte",
}
_OF_NEWEST_RUNS = """
event_fact.kind = :kind AND event_fact.makes_version = 0
AND event_fact.table_id IN (SELECT id FROM decomp_table WHERE ledger_id = :ledger AND newest = 1)
"""


class LedgerInHub(LedgerLog):
    """The log of one ledger of a hub, to be read: what the queries about tables and exports read of a ledger.

    Args:
        reader: of the hub.
        ledger: the ledger's name in the hub, or its own id.

    Raises:
        HubError: the hub has no such ledger.
    """

    def __init__(self, reader: HubReader, ledger: str) -> None:
        self._reader = reader
        self._row, self.name = reader.ledger(ledger)
        self._id = self.name.id

    @property
    def path(self) -> str:
        """What people call the ledger."""
        return self.name.name

    def close(self) -> None:
        """Do nothing: the caller that opened the hub closes it."""

    def head(self) -> tuple[int, str]:
        """Return how many events the hub has of the ledger, and the hash of the newest in hex."""
        ((seq, own_hash),) = self._reader.rows(_HEAD, {"ledger": self._row})
        return int(seq), bytes(own_hash).hex()

    def tables(self) -> Rows[TableInfo]:
        """Return all tables, in the order of their first events. Only the first time of each is known."""
        rows = self._reader.rows(_TABLES, {"ledger": self._row})
        return Rows(TableInfo(name, version, 0, at, at) for name, version, at in rows)

    def version_of(self, table: str, version: int | str | None = None) -> int:
        """Return the number of a version; only numbers name one here.

        Raises:
            HubError: the ledger has no such table.
            UnknownVersion: the table has no such version.
        """
        rows = self._reader.rows(_VERSION, {"ledger": self._row, "table": table})
        if not rows:
            raise HubError(f"{self.path}: the ledger has no table {table:.80} in the hub")
        newest = int(rows[0][0])
        if version is None:
            return newest
        if not isinstance(version, int) or not 1 <= version <= newest:
            raise unknown_version(table, version, newest)
        return version

    def state(self, table: str, version: int | str | None = None) -> TableState:
        """Return a table's rules at a version; the newest if None."""
        return self._at(table, version).state()

    def state_and_since(self, table: str, version: int) -> tuple[TableState, dict[str, Since]]:
        """Return a table's rules at a version, and for each op with a rule since when and why."""
        at = self._at(table, version)
        state, last = at.state(), at.last_events()
        return state, {op: Since(last[op].version, last[op].seq, last[op].reason) for op in state.rules}

    def state_and_blame(self, table: str, version: int) -> tuple[TableState, dict[str, Event]]:
        """Return a table's rules at a version, and for each op with a rule the event that made it."""
        at = self._at(table, version)
        state, last = at.state(), at.last_events()
        return state, {op: last[op] for op in state.rules}

    def last_events(self, table: str, version: int | str | None = None) -> dict[str, tuple[Rule | None, Event]]:
        """Return, for each op that a table ever changed, its rule (None after a reset) and the event that made it."""
        at = self._at(table, version)
        rules = at.state().rules
        return {op: (rules.get(op), event) for op, event in at.last_events().items()}

    def event_of(self, table: str, version: int) -> Event:
        """Return the event that made a version of a table."""
        values = {"ledger": self._row, "table": table, "version": version}
        query = f"{_EVENTS} AND {_OF_TABLE} AND event_fact.version = :version AND event_fact.makes_version = 1"
        for _, event in self._reader.events(query, values):
            return event
        raise HubError(f"{self.path}: version {version} of {table:.80} has no event; run `decomp-ledger hub verify`")

    def events(self, *, limit: int | None = None, desc: bool = False, **given: Any) -> LazyRows[Event]:
        """Give the events that match every given condition, by seq.

        Args:
            limit: at most so many events.
            desc: newest first.
            given: conditions of `LedgerLog.events`: table, kind, since, until, gt, lte. `Hub.events` has the others.
        """
        values = {name: value for name, value in given.items() if value is not None}
        if unknown := values.keys() - _CONDITIONS.keys():
            raise UnusableValue(f"events of a ledger in a hub: {min(unknown)} is a condition of Hub.events; ask that")
        values |= {name: stored_moment(values[name]) for name in ("since", "until") if name in values}
        conditions = "".join(f" AND {_CONDITIONS[name]}" for name in values)
        if "kind" in values and makes_version(values["kind"]) is False:
            conditions += " AND event_fact.makes_version = 0"  # as the index has it
        order = f"ORDER BY event_fact.seq {'DESC' if desc else 'ASC'}"
        most = "" if limit is None else f"LIMIT {max(limit, 0):d}"
        found = self._reader.events(f"{_EVENTS}{conditions} {order} {most}", {"ledger": self._row, **values})
        return LazyRows(event for _, event in found)

    def newest_exports(self, since: str | datetime.datetime | None = None) -> list[Event]:
        """Return the exports, oldest first; of each series of recorded tables, those of the newest run.

        Args:
            since: only those that were recorded then or later, as of `events`.
        """
        moment = stored_moment(since)
        recent = "" if moment is None else " AND event_fact.recorded_at >= :since"
        values = {"ledger": self._row, "kind": Exported.kind} | ({} if moment is None else {"since": moment})
        query = f"{_EVENTS} AND {_OF_NEWEST_RUNS}{recent} ORDER BY event_fact.seq"
        return [event for _, event in self._reader.events(query, values)]

    def catalog(self, digest: str) -> Catalog:
        """Return a catalog by its digest."""
        return self._reader.catalog(digest)

    def environment(self, digest: str) -> dict[str, Json]:
        """Return an environment by its digest."""
        return self._reader.environments([digest])[digest]

    def _at(self, table: str, version: int | str | None) -> TableAt:
        return self._reader.table_at(self.name, table, self.version_of(table, version))
