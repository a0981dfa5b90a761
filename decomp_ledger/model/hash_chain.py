"""The hash chain: each event is hashed with the hash of the one before it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any, TypeAlias

from decomp_ledger.model.canonical_json import Json, canonical_json

__all__ = ["GENESIS", "HashedText", "chain_hash", "event_hash", "genesis", "hash_of", "hashed_text"]

GENESIS = bytes(32)  # what a chain began with before `genesis`

# The four pieces between which a body, a time, a seq and a version are put.
HashedText: TypeAlias = "tuple[str, str, str, str]"

# What json itself writes a string with, where its text is not to be ASCII.
_quote = encode_basestring


def genesis(ledger: str, created_at: str) -> bytes:
    """Return what the first event of a ledger is chained to, so that the chain covers which ledger it is.

    Args:
        ledger: the ledger's id.
        created_at: when it was made, as it is stored.
    """
    return hashlib.sha256(canonical_json({"created_at": created_at, "ledger": ledger}).encode()).digest()


def chain_hash(prev_hash: bytes, fields: Mapping[str, Any], body: str, call_site: str | None) -> bytes:
    """Return an event's hash: SHA-256 over the previous hash and the canonical JSON of all the rest.

    Args:
        prev_hash: 32 bytes.
        fields: `actor`, `environment`, `kind`, `reason`, `recorded_at`, `schema`, `seq`, `table`, `version`.
        body: the body's canonical JSON, as it is stored.
        call_site: the call site's canonical JSON, as it is stored.
    """
    text = hashed_text(fields, call_site)
    return hash_of(prev_hash, text, body, fields["recorded_at"], fields["seq"], fields["version"])


def event_hash(prev_hash: bytes, fields: Mapping[str, Json]) -> bytes:
    """Return an event's hash: SHA-256 over the previous hash and the canonical JSON of all its other fields.

    Args:
        prev_hash: hash of the event before it, 32 bytes.
        fields: `actor`, `body`, `call_site`, `environment`, `kind`, `reason`, `recorded_at`, `schema`, `seq`,
            `table`, `version`, as JSON values.

    Raises:
        UnusableValue: a field is not canonical JSON.
    """
    return hashlib.sha256(prev_hash + canonical_json(dict(fields)).encode()).digest()


def hashed_text(fields: Mapping[str, Any], call_site: str | None) -> HashedText:
    """Return the text that is hashed of an event, but for what no other event has in common with it.

    Args:
        fields: `actor`, `environment`, `kind`, `reason`, `schema`, `table`.
        call_site: the call site's canonical JSON, as it is stored.
    """
    reason = fields["reason"]
    return (
        f'{{"actor":{_quote(fields["actor"])},"body":',
        f',"call_site":{"null" if call_site is None else call_site},"environment":{_quote(fields["environment"])},'
        f'"kind":{_quote(fields["kind"])},"reason":{"null" if reason is None else _quote(reason)},"recorded_at":',
        f',"schema":{fields["schema"]},"seq":',
        f',"table":{_quote(fields["table"])},"version":',
    )


def hash_of(prev_hash: bytes, text: HashedText, body: str, recorded_at: str, seq: int, version: int) -> bytes:
    """Return an event's hash, as `chain_hash` does, of a text that many events have in common.

    Args:
        prev_hash: 32 bytes.
        text: what `hashed_text` made.
        body: the body's canonical JSON, as it is stored.
        recorded_at: when.
        seq: the event's number.
        version: of its table.
    """
    # Put together by hand in the order of the keys, so that what is stored is hashed as it stands.
    one, two, three, four = text
    whole = f"{one}{body}{two}{_quote(recorded_at)}{three}{seq}{four}{version}}}"
    return hashlib.sha256(prev_hash + whole.encode()).digest()
