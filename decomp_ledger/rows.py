"""What is read of a ledger's rows: they may be of a file that somebody edited."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from decomp_ledger.errors import LedgerError
from decomp_ledger.events import CallSite, Event, decode_body

__all__ = ["parse", "read_call_site", "read_event"]


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
