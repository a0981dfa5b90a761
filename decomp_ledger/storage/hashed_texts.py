"""The events of a ledger as the texts that were hashed, for a hub.

The stored columns are canonical JSON already, so that the text of an event is put together of them: 4 us, where parsing
and encoding them again takes 40. The hash tells whether the result is the text.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from json.encoder import encode_basestring
from typing import NamedTuple

from decomp_ledger.errors import LedgerError
from decomp_ledger.model.canonical_json import canonical_json
from decomp_ledger.model.events import parse
from decomp_ledger.storage.audit_rows import event_rows
from decomp_ledger.storage.bounded_rows import rows_in_order

__all__ = ["HashedText", "hashed_texts", "stored_text"]

_EVENTS = """
SELECT seq, table_id, version, kind, schema, recorded_at, provenance_id, body, prev_hash, hash
FROM event WHERE seq > ? ORDER BY seq
"""
_OWN = slice(7, 10)  # the columns that no other event shares
_TABLE = "SELECT name FROM decomp_table WHERE id = ?"
_PROVENANCE = """
SELECT actor, reason, call_site, environment.digest FROM provenance
JOIN environment ON environment.id = environment_id WHERE provenance.id = ?
"""
_TEXTS = {
    "environment": "SELECT body FROM environment WHERE digest = ?",
    "decomposition": "SELECT body FROM decomposition WHERE digest = ?",
}
# In canonical JSON no text holds these, because its quotes are escaped.
_CATALOG = re.compile(r'"catalog":"([0-9a-f]{64})"')
_DECOMPOSITION = re.compile(r'"override","([0-9a-f]{64})"')
_WITH_CATALOG = ("materialized", "exported", "traced")
_MOST = 10_000  # provenances that are kept
_DAMAGE = (TypeError, ValueError, AttributeError, IndexError)


class HashedText(NamedTuple):
    """One event.

    Attributes:
        seq: its number.
        text: the canonical JSON that was hashed with the previous hash.
        prev_hash: hash of the event before it.
        hash: its own hash.
        names: (kind, digest in hex) of each environment, decomposition and catalog that it may name.
    """

    seq: int
    text: str
    prev_hash: bytes
    hash: bytes
    names: tuple[tuple[str, str], ...]


class _Parts(NamedTuple):
    """What the events of one provenance share, as JSON: the text before the body, before the kind and after it."""

    actor: str
    site: str
    reason: str
    environment: tuple[str, str]


def hashed_texts(connection: sqlite3.Connection, last: int, last_hash: bytes) -> Iterator[HashedText]:
    """Give the events after one, each checked against its hash and the event before it.

    Args:
        connection: to the ledger, as it is at one moment.
        last: the seq of the event before them; 0 for all events.
        last_hash: its hash; the ledger's genesis for 0.

    Raises:
        LedgerError: an event is damaged, or does not follow the one before it.
    """
    tables: dict[object, str] = {}
    provenances: dict[object, _Parts] = {}
    for row in rows_in_order(connection, _EVENTS, [last], name="event", own=_OWN):
        seq, table_id, version, kind, schema, at, provenance_id, body, prev_hash, own_hash = row
        if seq != last + 1 or prev_hash != last_hash:
            raise _damaged(last + 1, "it is missing, or does not follow the event before it")
        try:
            table = tables.get(table_id) or _named(connection, tables, table_id)
            parts = provenances.get(provenance_id) or _parts(connection, provenances, provenance_id)
            text = (
                f"{parts.actor}{body}{parts.site}{encode_basestring(kind)}{parts.reason}{encode_basestring(at)}"
                f',"schema":{schema},"seq":{seq},"table":{table},"version":{version}}}'
            )
            if hashlib.sha256(prev_hash + text.encode()).digest() != own_hash:
                text = _encoded_again(connection, seq, prev_hash, own_hash)
            found = (_CATALOG if kind in _WITH_CATALOG else _DECOMPOSITION).findall(body)
        except _DAMAGE:
            raise _damaged(seq, "a column has a value of the wrong type") from None
        names = (parts.environment,)
        if found:
            what = "catalog" if kind in _WITH_CATALOG else "decomposition"
            names += tuple((what, digest) for digest in found)
        yield HashedText(seq, text, prev_hash, own_hash, names)
        last, last_hash = seq, own_hash


def stored_text(connection: sqlite3.Connection, kind: str, digest: str) -> str | None:
    """Return the body of an environment or a decomposition; None if the ledger does not have it undamaged."""
    row = connection.execute(_TEXTS[kind], [bytes.fromhex(digest)]).fetchone()
    text = row[0] if row else None
    if not isinstance(text, str) or hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest() != digest:
        return None
    return text


def _named(connection: sqlite3.Connection, tables: dict[object, str], table_id: object) -> str:
    (name,) = connection.execute(_TABLE, [table_id]).fetchone()
    found = tables[table_id] = encode_basestring(name)
    return found


def _parts(connection: sqlite3.Connection, provenances: dict[object, _Parts], row_id: object) -> _Parts:
    actor, reason, call_site, environment = connection.execute(_PROVENANCE, [row_id]).fetchone()
    if len(provenances) >= _MOST:
        provenances.clear()
    found = provenances[row_id] = _Parts(
        f'{{"actor":{encode_basestring(actor)},"body":',
        f',"call_site":{"null" if call_site is None else call_site},"environment":"{environment.hex()}","kind":',
        f',"reason":{"null" if reason is None else encode_basestring(reason)},"recorded_at":',
        ("environment", environment.hex()),
    )
    return found


def _encoded_again(connection: sqlite3.Connection, seq: int, prev_hash: bytes, own_hash: bytes) -> str:
    """Return the text of an event whose stored columns are not in canonical form."""
    row = next(iter(event_rows(connection, gte=seq))).event
    text = canonical_json(row.hashed_fields(parse))
    if hashlib.sha256(prev_hash + text.encode()).digest() != own_hash:
        raise _damaged(seq, "its content does not match its hash")
    return text


def _damaged(seq: int, problem: str) -> LedgerError:
    return LedgerError(f"event {seq}: {problem}; run verify")
