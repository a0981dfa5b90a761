"""Signed checkpoints: who vouched for which head of a ledger's chain, in the ledger or in a file of its own."""

from __future__ import annotations

import datetime
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

import attrs

from decomp_ledger.errors import SigningError, UnusableValue
from decomp_ledger.integrity import ssh_signatures
from decomp_ledger.integrity.ssh_signatures import SigningKey
from decomp_ledger.model.canonical_json import Json, canonical_json
from decomp_ledger.model.display import displayed
from decomp_ledger.model.json_values import as_object, as_string, parse_json
from decomp_ledger.model.limits import FILE_BYTES
from decomp_ledger.model.times import read_time
from decomp_ledger.storage.bounded_read import read_bounded
from decomp_ledger.storage.checkpoint_rows import CheckpointRow, checkpoint_rows, insert_checkpoint_row
from decomp_ledger.storage.event_store import EventStore, utc_now

__all__ = ["Checkpoint", "insert_checkpoint", "read_file", "sign_head", "stored_checkpoints"]

# Field -> types, of the JSON object that is signed.
_TEXT_FIELDS: dict[str, tuple[type, ...]] = {
    "hash": (str,),
    "ledger": (str,),
    "previous": (str, type(None)),
    "seq": (int,),
    "signed_at": (str,),
}


def _abbreviated(digest: str | None) -> str:
    return repr(digest if digest is None else digest[:12])


@displayed
@attrs.frozen
class Checkpoint:
    """A signature of (ledger, event, hash): the signer vouches for the chain up to that event.

    Attributes:
        ledger: the ledger's id.
        seq: the event that was the last one.
        hash: that event's hash, in hex.
        signed_at: when, UTC, by the signer's clock.
        previous: SHA-256 of the checkpoint before it in the ledger, in hex; None for the first. Because of it only the
            last checkpoint can be removed unnoticed.
        key: the public key, in hex.
        signature: the signature, in hex.
    """

    ledger: str
    seq: int
    hash: str = attrs.field(repr=_abbreviated)
    signed_at: str
    previous: str | None = attrs.field(repr=_abbreviated)
    key: str = attrs.field(repr=_abbreviated)
    signature: str = attrs.field(repr=_abbreviated)

    @property
    def text(self) -> str:
        """The text that is signed."""
        return canonical_json({name: getattr(self, name) for name in _TEXT_FIELDS})

    @property
    def digest(self) -> str:
        """The `previous` of the next checkpoint, in hex."""
        return hashlib.sha256(f"{self.text}{self.key}{self.signature}".encode()).hexdigest()

    @property
    def moment(self) -> datetime.datetime:
        """When it was signed.

        Raises:
            ValueError: `signed_at` is not a time.
        """
        return read_time(self.signed_at)

    def is_signed(self) -> bool:
        """Tell whether its signature was made with its key."""
        return ssh_signatures.is_signed(bytes.fromhex(self.key), bytes.fromhex(self.signature), self.text.encode())

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data, with the text and the signature in the form that `ssh-keygen -Y verify` takes."""
        public = bytes.fromhex(self.key)
        return {
            "key": ssh_signatures.public_line(public),
            "signature": ssh_signatures.armored(public, bytes.fromhex(self.signature)),
            "text": self.text,
        }

    @classmethod
    def from_json(cls, value: object) -> Checkpoint:
        """Read a checkpoint from untrusted data.

        Raises:
            SigningError: it is damaged, or not a checkpoint.
        """
        try:
            return cls._read(value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # SigningError too
            raise SigningError(f"not a checkpoint: {error}") from None

    @classmethod
    def _read(cls, value: object) -> Checkpoint:
        if not isinstance(value, dict):
            raise ValueError("expected an object")
        public, signature = ssh_signatures.dearmored(value["signature"])
        fields: dict[str, Any] = as_object(parse_json(as_string(value["text"])))
        if fields.keys() != _TEXT_FIELDS.keys():
            raise ValueError(f"its text has other fields than {', '.join(_TEXT_FIELDS)}")
        for name, types in _TEXT_FIELDS.items():
            if type(fields[name]) not in types:
                raise ValueError(f"{name!r} is a {type(fields[name]).__name__}")
        found = cls(**fields, key=public.hex(), signature=signature.hex())
        if found.text != value["text"] or value["key"] != ssh_signatures.public_line(public):
            raise ValueError("its text or key is not in canonical form")
        found.moment  # noqa: B018  # raises if `signed_at` is not a time
        return found


def read_file(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint that was kept in a file of its own.

    Raises:
        SigningError: the file cannot be read, or is not a checkpoint.
    """
    try:
        return Checkpoint.from_json(parse_json(read_bounded(path, FILE_BYTES)))
    except OSError as error:
        raise SigningError(f"{path}: cannot be read: {error.strerror}; name another file") from None
    except (ValueError, UnusableValue) as error:  # SigningError too
        raise SigningError(f"{path}: {error}; name a file that `decomp-ledger checkpoint` wrote") from None


def stored_checkpoints(connection: sqlite3.Connection, ledger: str) -> Iterator[Checkpoint]:
    """Give the checkpoints of a ledger in the order of signing.

    Args:
        connection: to the ledger.
        ledger: its id.

    Raises:
        SigningError: a row is damaged.
    """
    for number, row in enumerate(checkpoint_rows(connection), 1):
        try:
            if row.row_id != number:
                raise ValueError(f"checkpoint {number} is missing")
            previous = None if row.previous is None else row.previous.hex()
            found = Checkpoint(
                ledger, row.seq, row.hash.hex(), row.signed_at, previous, row.key.hex(), row.signature.hex()
            )
            found.text, found.moment  # noqa: B018  # raise if a value is damaged
        except (ValueError, TypeError, AttributeError) as error:
            raise SigningError(f"checkpoint {row.row_id} is damaged: {error}") from None
        yield found


def sign_head(event_store: EventStore, key: SigningKey) -> Checkpoint:
    """Sign the last event of a ledger, and store the signature.

    Args:
        event_store: the ledger.
        key: the signer's.

    Raises:
        SigningError: the ledger has no event.
    """
    with event_store.database.write_transaction() as connection:
        seq, head = event_store.head()
        if seq == 0:
            raise SigningError(f"{event_store.database.path}: the ledger has no event to sign; record something first")
        ledger, _ = event_store.identity()
        previous = None
        for checkpoint in stored_checkpoints(connection, ledger):
            previous = checkpoint.digest
        unsigned = Checkpoint(ledger, seq, head.hex(), utc_now(), previous, key.public.hex(), "")
        signed = attrs.evolve(unsigned, signature=key.sign(unsigned.text.encode()).hex())
        insert_checkpoint(connection, signed)
    return signed


def insert_checkpoint(connection: sqlite3.Connection, checkpoint: Checkpoint) -> None:
    """Store a checkpoint after the stored ones, within a write transaction."""
    previous = None if checkpoint.previous is None else bytes.fromhex(checkpoint.previous)
    digests = (bytes.fromhex(text) for text in (checkpoint.hash, checkpoint.key, checkpoint.signature))
    own_hash, key, signature = digests
    row = CheckpointRow(None, checkpoint.seq, own_hash, checkpoint.signed_at, previous, key, signature)
    insert_checkpoint_row(connection, row)
