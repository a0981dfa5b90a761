"""The hash chain: each event is hashed with the hash of the event before it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from decomp_ledger.model.canonical_json import Json, canonical_json, check_text

__all__ = ["event_hash", "genesis"]


def genesis(ledger: str, created_at: str) -> bytes:
    """Return the hash that the first event of a ledger follows, so that the chain covers the ledger's identity.

    Args:
        ledger: the ledger's id.
        created_at: when it was made, as it is stored.

    Raises:
        UnusableValue: a value is not text.
    """
    check_text(ledger, "the ledger's id")
    check_text(created_at, "the ledger's date")
    return hashlib.sha256(canonical_json({"created_at": created_at, "ledger": ledger}).encode()).digest()


def event_hash(prev_hash: bytes, fields: Mapping[str, Json]) -> bytes:
    """Return an event's hash: SHA-256 over the previous hash and the canonical JSON of all its other fields.

    Args:
        prev_hash: hash of the event before it, 32 bytes.
        fields: `actor`, `body`, `call_site`, `environment`, `kind`, `reason`, `recorded_at`, `schema`, `seq`,
            `table`, `version`, as JSON values.

    Raises:
        UnusableValue: canonical JSON cannot hold a value.
    """
    return hashlib.sha256(prev_hash + canonical_json(dict(fields)).encode()).digest()
