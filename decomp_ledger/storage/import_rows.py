"""Writes for `load`: rows that another ledger had, with the same id, hashes and dates."""

from __future__ import annotations

import sqlite3
from typing import Any

from decomp_ledger.model.events import VERSION_KINDS, Body, Changing, Tagged
from decomp_ledger.storage import sql

__all__ = ["ImportedRows"]


class ImportedRows:
    """The rows of a new ledger, within a write transaction. Whether they fit together, `verify` checks afterwards.

    Args:
        connection: to the new ledger.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: dict[tuple[str, Any], int] = {}

    def set_identity(self, ledger: str, created_at: str) -> None:
        """Give the new ledger the id and the date of the one it was dumped from."""
        # A trigger refuses that, because the id of a ledger in use never changes.
        query = "SELECT sql FROM sqlite_master WHERE name = 'ledger_no_update'"
        (trigger,) = self._connection.execute(query).fetchone()
        self._connection.execute("DROP TRIGGER ledger_no_update")
        self._connection.execute("UPDATE ledger SET id = ?, created_at = ?", (ledger, created_at))
        self._connection.execute(trigger)

    def add_digested(self, table: str, digest: bytes, body: str) -> None:
        """Insert an environment or a decomposition."""
        self._row(table, digest.hex(), digest=digest, body=body)

    def add_catalog(self, digest: bytes, base: str | None, body: bytes) -> None:
        """Insert a catalog.

        Args:
            digest: of the whole catalog.
            base: digest in hex of the catalog that it differs from; None if it is whole.
            body: the packed catalog.
        """
        base_id = None if base is None else self._rows["catalog", base]
        self._row("catalog", digest.hex(), digest=digest, base_id=base_id, body=body)

    def add_event(self, event: dict[str, Any], body: Body, texts: tuple[str, str | None]) -> None:
        """Insert an event, with its provenance, its changes and its tag.

        Args:
            event: its fields by name, digests and hashes in hex.
            body: its body.
            texts: the canonical JSON of its body, and of its call site or None.
        """
        text, call_site = texts
        table_id = self._row("decomp_table", event["table"], name=event["table"])
        environment_id = self._rows["environment", event["environment"]]
        provenance = {
            "actor": event["actor"],
            "reason": event["reason"],
            "call_site": call_site,
            "environment_id": environment_id,
        }
        provenance_id = self._row("provenance", tuple(provenance.values()), **provenance)
        version, kind = event["version"], event["kind"]
        makes_version = 1 if kind in VERSION_KINDS else None
        hashes = bytes.fromhex(event["prev_hash"]), bytes.fromhex(event["hash"])
        values = (event["seq"], table_id, version, makes_version, kind, event["schema"], event["recorded_at"])
        self._connection.execute(sql.INSERT_EVENT, (*values, provenance_id, text, *hashes))
        self._add_derived(table_id, version, body)

    def _add_derived(self, table_id: int, version: int, body: Body) -> None:
        if isinstance(body, Changing):
            for change in body.changes:
                op = self._row("op", change.op, name=change.op)
                digest = change.decomposition
                decomposition = None if digest is None else self._rows["decomposition", digest]
                self._connection.execute(sql.INSERT_CHANGE, (table_id, op, version, change.action, decomposition))
        elif isinstance(body, Tagged):
            self._insert("tag", table_id=table_id, name=body.name, version=version)

    def _row(self, table: str, key: Any, **values: Any) -> int:
        """Return the row of what is stored once; insert it the first time."""
        if (table, key) not in self._rows:
            self._rows[table, key] = self._insert(table, **values)
        return self._rows[table, key]

    def _insert(self, table: str, **values: Any) -> int:
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        text = f"INSERT INTO {table} ({names}) VALUES ({marks})"
        return int(self._connection.execute(text, list(values.values())).lastrowid or 0)
