"""Signed checkpoints: who vouched for which head of a ledger's chain, inside the ledger and in files of their own."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from decomp_ledger.errors import SigningError
from decomp_ledger.integrity import ssh_signatures
from decomp_ledger.integrity.ssh_signatures import SigningKey
from decomp_ledger.model.canonical_json import Json, canonical_json
from decomp_ledger.storage import sql
from decomp_ledger.storage.event_store import EventStore, utc_now

__all__ = ["Checkpoint", "append_checkpoint", "insert_checkpoint", "read_file", "sign_head", "stored"]

_MAX_FILE = 1 << 20


@attrs.frozen
class Checkpoint:
    """One signature of (ledger, event, hash): that the chain up to there is as the signer knows it.

    Attributes:
        ledger: the ledger's id.
        seq: the event that was the last.
        hash: its hash, in hex.
        signed_at: when, UTC, as the signer's clock had it.
        previous: SHA-256 of the checkpoint before it in the ledger, in hex, so that none but the last can be removed
            unnoticed; None for the first.
        key: the public key, in hex.
        signature: the signature, in hex.
    """

    ledger: str
    seq: int
    hash: str
    signed_at: str
    previous: str | None
    key: str
    signature: str

    @property
    def text(self) -> str:
        """The text that is signed."""
        return canonical_json(
            {
                "hash": self.hash,
                "ledger": self.ledger,
                "previous": self.previous,
                "seq": self.seq,
                "signed_at": self.signed_at,
            }
        )

    @property
    def digest(self) -> str:
        """What the next checkpoint names it by, in hex."""
        return hashlib.sha256(f"{self.text}{self.key}{self.signature}".encode()).hexdigest()

    @property
    def moment(self) -> datetime.datetime:
        """When it was signed; raises ValueError if that is no moment."""
        return datetime.datetime.fromisoformat(self.signed_at.removesuffix("Z")).replace(tzinfo=datetime.timezone.utc)

    def is_signed(self) -> bool:
        """Tell whether its signature was made with its key."""
        return ssh_signatures.is_signed(bytes.fromhex(self.key), bytes.fromhex(self.signature), self.text.encode())

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data, with the text and the signature as `ssh-keygen -Y verify` takes them."""
        public = bytes.fromhex(self.key)
        return {
            "key": ssh_signatures.public_line(public),
            "signature": ssh_signatures.armored(public, bytes.fromhex(self.signature)),
            "text": self.text,
        }

    @classmethod
    def from_json(cls, value: object) -> Checkpoint:
        """Read one that may come from anywhere.

        Raises:
            SigningError: it is none.
        """
        try:
            if not isinstance(value, dict):
                raise ValueError("it is no object")
            public, signature = ssh_signatures.dearmored(value["signature"])
            said: Mapping[str, object] = json.loads(value["text"])
            if set(said) != {"hash", "ledger", "previous", "seq", "signed_at"}:
                raise ValueError("its text says other things than a checkpoint does")
            for name, kind in (("hash", str), ("ledger", str), ("seq", int), ("signed_at", str)):
                if type(said[name]) is not kind:
                    raise ValueError(f"{name!r} is no {kind.__name__}")
            if not isinstance(said["previous"], (str, type(None))):
                raise ValueError("'previous' is no str")
            found = cls(**said, key=public.hex(), signature=signature.hex())  # type: ignore[arg-type]
            if found.text != value["text"] or value["key"] != ssh_signatures.public_line(public):
                raise ValueError("its text or key is not written as a checkpoint writes it")
            found.moment  # noqa: B018  # which is text until it is read
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SigningError(f"it is no checkpoint: {error}") from None
        return found


def read_file(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint that was kept in a file of its own.

    Raises:
        SigningError: the file cannot be read, or is none.
    """
    try:
        with Path(path).open("rb") as file:
            return Checkpoint.from_json(json.loads(file.read(_MAX_FILE)))
    except OSError as error:
        raise SigningError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # SigningError too
        raise SigningError(f"{path}: {error}") from None


def stored(connection: sqlite3.Connection, ledger: str) -> Iterator[Checkpoint]:
    """Give the checkpoints of a ledger, in the order in which they were made.

    Raises:
        SigningError: a row is damaged.
    """
    query = "SELECT id, seq, hash, signed_at, previous, key, signature FROM checkpoint ORDER BY id"
    for number, (row_id, seq, event_hash, at, previous, key, signature) in enumerate(connection.execute(query), 1):
        try:
            if row_id != number:
                raise ValueError(f"checkpoint {number} is missing")
            before = None if previous is None else previous.hex()
            found = Checkpoint(ledger, seq, event_hash.hex(), at, before, key.hex(), signature.hex())
            found.text, found.moment  # noqa: B018  # made of what may be damaged
        except (ValueError, TypeError, AttributeError) as error:
            raise SigningError(f"checkpoint {row_id} is damaged: {error}") from None
        yield found


def sign_head(event_store: EventStore, key: SigningKey) -> Checkpoint:
    """Sign the last event of a ledger, and store the signature.

    Args:
        event_store: the ledger.
        key: whose signature.

    Raises:
        SigningError: there is no event yet.
    """

    def write(connection: sqlite3.Connection) -> Checkpoint:
        head = connection.execute(sql.HEAD).fetchone()
        if head is None:
            raise SigningError(f"{event_store.database.path} has no event yet; there is nothing to sign")
        ledger = event_store.identity()[0]
        last = None
        for last in stored(connection, ledger):  # noqa: B007  # the last is wanted
            pass
        unsigned = Checkpoint(
            ledger, head[0], head[1].hex(), utc_now(), None if last is None else last.digest, key.public.hex(), ""
        )
        signed = attrs.evolve(unsigned, signature=key.sign(unsigned.text.encode()).hex())
        insert_checkpoint(connection, signed)
        return signed

    with event_store.database.write_transaction() as connection:
        return write(connection)


def append_checkpoint(event_store: EventStore, checkpoint: Checkpoint) -> None:
    """Store a checkpoint that was signed elsewhere."""
    with event_store.database.write_transaction() as connection:
        insert_checkpoint(connection, checkpoint)


def insert_checkpoint(connection: sqlite3.Connection, checkpoint: Checkpoint) -> None:
    """Store a checkpoint behind those that are stored, in the transaction that is under way."""
    previous = None if checkpoint.previous is None else bytes.fromhex(checkpoint.previous)
    connection.execute(
        "INSERT INTO checkpoint (seq, hash, signed_at, previous, key, signature) VALUES (?, ?, ?, ?, ?, ?)",
        (
            checkpoint.seq,
            bytes.fromhex(checkpoint.hash),
            checkpoint.signed_at,
            previous,
            bytes.fromhex(checkpoint.key),
            bytes.fromhex(checkpoint.signature),
        ),
    )
