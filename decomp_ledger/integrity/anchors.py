"""Anchors: facts about a ledger that are kept elsewhere, and whether the ledger agrees with them.

Anyone with write access can truncate the chain, or rewrite all of it. The chain alone cannot show that; a hash kept
elsewhere, the stamp of an exported program or a signature can.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import attrs

from decomp_ledger.errors import LedgerError, UnusableValue
from decomp_ledger.integrity.allowed_signers import Signer, signer_of
from decomp_ledger.integrity.checkpoints import Checkpoint, stored_checkpoints
from decomp_ledger.integrity.content_checks import Contents
from decomp_ledger.integrity.problems import Problem, Problems, reason_of
from decomp_ledger.integrity.ssh_signatures import fingerprint
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import displayed
from decomp_ledger.model.state_specs import MAX_NUMBER
from decomp_ledger.storage import audit_rows

__all__ = ["Anchors", "ValidSignature", "check_anchors", "parse_event_hash"]

_TOO_LONG = 10**80  # Python refuses to print an integer of over 4300 digits


def parse_event_hash(text: object) -> str:
    """Return the hash of an event, as a user gives it, in lower case.

    Raises:
        LedgerError: it is not 64 hex digits.
    """
    lower = text.strip().lower() if isinstance(text, str) else ""
    if len(lower) != 64 or not set(lower) <= set("0123456789abcdef"):
        raise LedgerError(f"{text!r:.80}: not the hash of an event; give 64 hex digits, as verify prints them")
    return lower


def _parse_hashes(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(parse_event_hash(text) for text in given)


def _parse_events(given: Sequence[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    return tuple(sorted((_parse_seq(seq), parse_event_hash(text)) for seq, text in given))


def _parse_seq(seq: object) -> int:
    if type(seq) is not int or not 1 <= seq <= MAX_NUMBER:
        shown = seq if type(seq) is not int or abs(seq) < _TOO_LONG else "an integer of over 80 digits"
        raise UnusableValue(f"{shown!r:.80}: not the seq of an event; give an integer from 1 to 2**63 - 1")
    return seq


@attrs.frozen
class Anchors:
    """Facts about a ledger that are kept elsewhere.

    Attributes:
        hashes: of events that it had, in hex.
        events: (seq, hash in hex) of events that it had.
        signers: whose signatures count; None to check only that signatures are valid.
        checkpoints: that were kept outside the ledger.
    """

    hashes: tuple[str, ...] = attrs.field(default=(), converter=_parse_hashes)
    events: tuple[tuple[int, str], ...] = attrs.field(default=(), converter=_parse_events)
    signers: Sequence[Signer] | None = None
    checkpoints: Sequence[Checkpoint] = ()


@displayed
@attrs.frozen
class ValidSignature:
    """A valid signature of an event, and with it of all events before.

    Attributes:
        seq: the event.
        hash: that event's hash, in hex.
        signer: whose it is; None if no signers were given.
        fingerprint: of the key, as `ssh-keygen -l` prints it.
        signed_at: when, UTC, by the signer's clock.
    """

    seq: int
    hash: str
    signer: str | None
    fingerprint: str
    signed_at: str

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {field.name: getattr(self, field.name) for field in attrs.fields(ValidSignature)}


def check_anchors(
    connection: sqlite3.Connection, contents: Contents, anchors: Anchors, problems: Problems
) -> list[ValidSignature]:
    """Compare a ledger with its anchors, and check the signatures in it.

    Args:
        connection: to the ledger.
        contents: what it stores once.
        anchors: facts about it that are kept elsewhere.
        problems: gets what is wrong.

    Returns:
        The valid signatures, by seq.
    """
    _check_hashes(connection, contents, anchors.hashes, problems)
    _check_events(connection, anchors.events, problems)
    inside = _read_checkpoints(connection, contents.ledger, problems)
    signatures: list[ValidSignature] = []
    for checkpoint in dict.fromkeys([*inside, *anchors.checkpoints]):
        found = _check_checkpoint(connection, contents.ledger, checkpoint, anchors.signers)
        if isinstance(found, ValidSignature):
            signatures.append(found)
        else:
            problems.add(found.seq, found.text)
    for checkpoint in anchors.checkpoints:
        if checkpoint.ledger == contents.ledger and checkpoint not in inside:
            problems.add(None, f"{_label(checkpoint)} was removed from the ledger")
    if anchors.signers is not None and not inside and not anchors.checkpoints:
        problems.add(None, "no checkpoint is stored, so none of these signers vouches for any event")
    return sorted(signatures, key=lambda one: one.seq)


def _read_checkpoints(connection: sqlite3.Connection, ledger: str, problems: Problems) -> list[Checkpoint]:
    """Return the stored checkpoints up to the first damaged one."""
    found: list[Checkpoint] = []
    previous = None
    try:
        for number, checkpoint in enumerate(stored_checkpoints(connection, ledger), 1):
            found.append(checkpoint)
            if checkpoint.previous != previous:
                problems.add(checkpoint.seq, f"checkpoint {number} does not follow the one before it")
            previous = checkpoint.digest
    except LedgerError as error:
        problems.add(None, reason_of(error))
    return found


def _check_hashes(
    connection: sqlite3.Connection, contents: Contents, hashes: Iterable[str], problems: Problems
) -> None:
    for text in hashes:
        # The head of an empty ledger is its genesis: kept elsewhere, it stays true when events follow.
        if text != contents.genesis.hex() and not audit_rows.has_event_hash(connection, text):
            problems.add(None, f"no event has the hash {text}: the tail was cut, or the history was rewritten")


def _check_events(connection: sqlite3.Connection, events: Iterable[tuple[int, str]], problems: Problems) -> None:
    agreed = 0
    for seq, text in events:
        stored = audit_rows.event_hash_at(connection, seq)
        if stored == text:
            agreed = seq
            continue
        up_to = f"the anchors agree up to #{agreed}" if agreed else "no anchor before it agrees"
        if stored is None:
            problems.add(seq, f"it had the hash {text[:12]} and is missing: the tail was cut ({up_to})")
        else:
            problems.add(seq, f"its hash was {text[:12]} and is {stored[:12]}: the history was rewritten ({up_to})")


def _label(checkpoint: Checkpoint) -> str:
    return f"the checkpoint of {checkpoint.signed_at:.40} at #{checkpoint.seq}"


def _check_checkpoint(
    connection: sqlite3.Connection, ledger: str, checkpoint: Checkpoint, signers: Sequence[Signer] | None
) -> Problem | ValidSignature:
    """Check one signature, and that the ledger has the event that it vouches for."""
    seq, public = checkpoint.seq, bytes.fromhex(checkpoint.key)
    label = _label(checkpoint)
    if not checkpoint.is_signed():
        return Problem(seq, f"{label} has a signature that was not made with its key")
    if checkpoint.ledger != ledger:
        return Problem(None, f"{label} belongs to the ledger {checkpoint.ledger:.40}, not to {ledger:.40}")
    stored = audit_rows.event_hash_at(connection, seq)
    if stored is None:
        return Problem(seq, f"it is missing, and {label} vouches for it: the tail was cut")
    if stored != checkpoint.hash:
        return Problem(seq, f"{label} vouches for the hash {checkpoint.hash[:12]}, and its hash is {stored[:12]}")
    name = None
    if signers is not None:
        signer = signer_of(signers, public, checkpoint.moment)
        if signer is None:
            return Problem(seq, f"{label} was signed by {fingerprint(public)}: not one of the signers at that time")
        name = signer.name
    return ValidSignature(seq, stored, name, fingerprint(public), checkpoint.signed_at)
