"""What is known of a ledger from elsewhere, and whether the ledger agrees.

Whoever can write the file can cut its tail, or write its whole chain anew: the chain alone cannot show that. A hash
that was kept, the stamp of an exported program and a signature can.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

import attrs

from decomp_ledger.errors import LedgerError
from decomp_ledger.integrity.checkpoints import Checkpoint, stored
from decomp_ledger.integrity.ssh_signatures import Signer, fingerprint, signer_of
from decomp_ledger.model.canonical_json import Json

__all__ = ["Anchors", "Signed", "disagreements", "given_hash"]

Fault = tuple["int | None", str]


def given_hash(text: object) -> str:
    """Return a hash that somebody gave, in lower case.

    Raises:
        LedgerError: it is none.
    """
    lower = text.strip().lower() if isinstance(text, str) else ""
    if len(lower) != 64 or not set(lower) <= set("0123456789abcdef"):
        raise LedgerError(f"{text!r:.80} is no hash of an event: 64 hex digits, as verify and log --json print them")
    return lower


def _given_hashes(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(given_hash(text) for text in given)


def _given_anchors(given: Sequence[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    return tuple(sorted((int(seq), given_hash(text)) for seq, text in given))


@attrs.frozen
class Anchors:
    """What is known from elsewhere.

    Attributes:
        hashes: of events that were once there, in hex.
        events: (seq, hash in hex) of such events.
        signers: whose signatures count; None to ask only that signatures hold.
        checkpoints: that were kept outside the ledger.
    """

    hashes: tuple[str, ...] = attrs.field(default=(), converter=_given_hashes)
    events: tuple[tuple[int, str], ...] = attrs.field(default=(), converter=_given_anchors)
    signers: Sequence[Signer] | None = None
    checkpoints: Sequence[Checkpoint] = ()


@attrs.frozen
class Signed:
    """A signature that holds.

    Attributes:
        seq: the event that it vouches for, and with it all before.
        hash: that event's hash, in hex.
        signer: whose it is; None if no signers were given.
        fingerprint: of the key, as `ssh-keygen -l` says it.
        signed_at: when, UTC, as the signer's clock had it.
    """

    seq: int
    hash: str
    signer: str | None
    fingerprint: str
    signed_at: str

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {field.name: getattr(self, field.name) for field in attrs.fields(Signed)}


def disagreements(connection: sqlite3.Connection, ledger: str, anchors: Anchors) -> tuple[list[Fault], list[Signed]]:
    """Compare a ledger with what is known of it.

    Args:
        connection: to the ledger.
        ledger: its id.
        anchors: what is known.

    Returns:
        What is wrong, each with the first event it concerns; and the signatures that hold.
    """
    faults = [*_hashes(connection, anchors.hashes), *_anchors(connection, anchors.events)]
    inside: list[Checkpoint] = []
    try:
        inside += stored(connection, ledger)
    except LedgerError as error:
        faults.append((None, str(error)))
    before = None
    for number, checkpoint in enumerate(inside, 1):
        if checkpoint.previous != before:
            faults.append((checkpoint.seq, f"checkpoint {number} does not follow the one before it"))
        before = checkpoint.digest
    signed: list[Signed] = []
    for checkpoint in dict.fromkeys([*inside, *anchors.checkpoints]):
        found = _fault(connection, ledger, checkpoint, anchors.signers)
        if isinstance(found, Signed):
            signed.append(found)
        else:
            faults.append(found)
    for checkpoint in anchors.checkpoints:
        if checkpoint.ledger == ledger and checkpoint not in inside:
            faults.append((None, f"{_named(checkpoint)} was made and is not stored any more"))
    if anchors.signers is not None and not inside and not anchors.checkpoints:
        faults.append((None, "no checkpoint is stored: none of these signers vouches for any event"))
    return faults, sorted(signed, key=lambda one: one.seq)


def _hash_at(connection: sqlite3.Connection, seq: int) -> str | None:
    row = connection.execute("SELECT hash FROM event WHERE seq = ?", [seq]).fetchone()
    return row[0].hex() if row is not None and isinstance(row[0], bytes) else None


def _hashes(connection: sqlite3.Connection, hashes: Iterable[str]) -> Iterator[Fault]:
    for text in hashes:
        if connection.execute("SELECT 1 FROM event WHERE hash = ?", [bytes.fromhex(text)]).fetchone() is None:
            yield None, f"no event has the hash {text}: the tail was cut, or history was written anew"


def _anchors(connection: sqlite3.Connection, anchors: Iterable[tuple[int, str]]) -> Iterator[Fault]:
    held = 0
    for seq, text in anchors:
        stands = _hash_at(connection, seq)
        if stands == text:
            held = seq
            continue
        up_to = f"as known up to #{held}" if held else "nothing before it is known"
        if stands is None:
            yield seq, f"it is missing, and was there with the hash {text[:12]}: the tail was cut ({up_to})"
        else:
            yield seq, f"its hash was {text[:12]} and is {stands[:12]}: history was written anew ({up_to})"


def _named(checkpoint: Checkpoint) -> str:
    return f"the checkpoint of {checkpoint.signed_at:.40} at #{checkpoint.seq}"


def _fault(
    connection: sqlite3.Connection, ledger: str, checkpoint: Checkpoint, signers: Sequence[Signer] | None
) -> Fault | Signed:
    """Return what a checkpoint is worth."""
    seq, public = checkpoint.seq, bytes.fromhex(checkpoint.key)
    whose = _named(checkpoint)
    if not checkpoint.is_signed():
        return seq, f"{whose} has a signature that was not made with its key"
    if checkpoint.ledger != ledger:
        return None, f"{whose} is of the ledger {checkpoint.ledger:.40}, and this is {ledger:.40}"
    stands = _hash_at(connection, seq)
    if stands is None:
        return seq, f"it is missing, and {whose} vouches for it: the tail was cut"
    if stands != checkpoint.hash:
        return seq, f"{whose} vouches for the hash {checkpoint.hash[:12]}, and it is {stands[:12]}"
    name = None
    if signers is not None:
        signer = signer_of(signers, public, checkpoint.moment)
        if signer is None:
            return seq, f"{whose} was signed by {fingerprint(public)}, which is none of the signers, or not then"
        name = signer.name
    return Signed(seq, stands, name, fingerprint(public), checkpoint.signed_at)
