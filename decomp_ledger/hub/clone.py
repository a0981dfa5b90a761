"""Make a ledger of what a hub has, and bring such a clone up to date."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import attrs

from decomp_ledger.errors import HubDiverged, HubError, LedgerError, LedgerFileError
from decomp_ledger.hub.connection import HubConnection
from decomp_ledger.hub.migrations import open_hub
from decomp_ledger.hub.naming import hub_url
from decomp_ledger.hub.push import KnownLedger, known_ledger
from decomp_ledger.hub.reading import find_ledger
from decomp_ledger.integrity.checkpoints import stored_checkpoints
from decomp_ledger.integrity.verify import Verification, verify
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.settings import project_settings
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import displayed
from decomp_ledger.model.json_values import DAMAGE, as_object, parse_json
from decomp_ledger.storage import audit_rows
from decomp_ledger.transfer import jsonl

__all__ = ["Fetched", "clone", "fetch"]

Progress: TypeAlias = Callable[[int, int], object]
_Result = TypeVar("_Result")

_STEP = 2000  # events between two reports of progress
_CREATED_AT = "SELECT created_at FROM ledger WHERE id = :id"
_EVENTS = """
SELECT seq, text, prev_hash, hash FROM event WHERE ledger_id = :id AND seq > :after AND seq <= :last ORDER BY seq
"""
_HASH = "SELECT hash FROM event WHERE ledger_id = :id AND seq = :seq"
_BLOB = "SELECT body FROM blob WHERE digest = :digest AND kind = :kind"
_CHECKPOINTS = "SELECT number, body FROM checkpoint WHERE ledger_id = :id AND number > :after ORDER BY number"
_WITH_CATALOG = ("materialized", "exported", "traced")


@displayed
@attrs.frozen
class Fetched:
    """What a fetch did.

    Attributes:
        hub: the address of the hub, without a password.
        name: what the hub calls the ledger.
        received: how many events were appended.
        events: how many the ledger has now.
        head: the hash of the newest, in hex.
    """

    hub: str
    name: str
    received: int
    events: int
    head: str

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return dict(attrs.asdict(self))


@checked
def clone(
    ledger: str,
    url: str | None,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], object] | None = None,
    reading: Callable[[int, int], object] | None = None,
) -> Verification:
    """Make a new ledger file of a ledger of a hub, once it verifies: the same events with the same hashes.

    Args:
        ledger: what the hub calls it, or its id.
        url: the address of the hub; None is what `DECOMP_LEDGER_HUB` or the project says.
        path: the new file.
        progress: called with the number of events verified, and the number of all events.
        reading: called before that, with the number of events received, and of all events.

    Raises:
        HubError: the hub cannot be used, has no such ledger, or what it has of it is not a ledger.
        LedgerFileError: the file exists, or cannot be made.
    """
    with open_hub(hub_url(url, None if url else project_settings().hub)) as hub, hub.transaction():
        _, name = find_ledger(hub, ledger)
        known = known_ledger(hub, name.id)
        if known is None:
            raise HubError(f"{hub.label}: {name.name!r} has no head; run `decomp-ledger hub verify`")
        (created_at,) = hub.row(_CREATED_AT, id=known.id)
        first = {"format": jsonl.FORMAT, "id": known.ledger, "created_at": created_at}
        lines = _Lines(hub, known)
        given = _reported(lines, lines.give(first, after=0, checkpoints=0), known.seq, reading)
        return _as_hub_errors(hub, known, lambda: jsonl.load(given, path, progress))


def _reported(lines: _Lines, given: Iterator[str], total: int, progress: Progress | None) -> Iterator[str]:
    """Give lines, and report how many events and checkpoints were given."""
    reported = 0
    for line in given:
        yield line
        if progress is not None and lines.given >= reported + _STEP:
            reported = lines.given
            progress(min(reported, total), total)
    if progress is not None:
        progress(total, total)


def fetch(ledger: LedgerLog, url: str, *, progress: Progress | None = None) -> Fetched:
    """Append to a clone the events that the hub has more, once the whole verifies.

    Args:
        ledger: the clone, or the original.
        url: the address of the hub.
        progress: called with the number of events verified, and the number of all events.

    Raises:
        HubDiverged: the ledger has events of its own, or differs from the hub.
        HubError: the hub cannot be used, does not have the ledger, or what it has is not a ledger.
    """
    ledger_id, _ = ledger.event_store.identity()
    with open_hub(url) as hub, hub.transaction():
        known = known_ledger(hub, ledger_id)
        if known is None:
            raise HubError(f"{hub.label}: it does not have this ledger; push it first")
        before, _ = ledger.event_store.head()
        _as_hub_errors(hub, known, lambda: _append(hub, known, ledger, progress))
        seq, head = ledger.event_store.head()
    return Fetched(hub.label, known.name, seq - before, seq, head.hex())


def _append(hub: HubConnection, known: KnownLedger, ledger: LedgerLog, progress: Progress | None) -> None:
    with ledger.database.write_transaction() as connection:
        seq, own_hash = ledger.event_store.head()
        _check_agreement(hub, known, ledger, seq, own_hash)
        checkpoints = sum(1 for _ in stored_checkpoints(connection, known.ledger))
        lines = _Lines(hub, known)
        jsonl.append(ledger, lines.give(None, after=seq, checkpoints=checkpoints), checkpoints)
        if lines.given == 0:
            return
        found = verify(ledger.event_store, ledger.state, progress=progress)
        if not found.ok:
            raise LedgerError(f"it does not verify, so nothing was appended: {found.problems[0]}")


def _check_agreement(hub: HubConnection, known: KnownLedger, ledger: LedgerLog, seq: int, own_hash: bytes) -> None:
    """Refuse a ledger that has other events than the hub, or more."""
    shared = min(seq, known.seq)
    if _hash_at(hub, known, shared) == _own_hash_at(ledger, shared, own_hash if shared == seq else None):
        if seq > known.seq:
            raise HubDiverged(
                f"{hub.label}: it has {known.seq} events of {known.name!r}, and this ledger {seq}; push them",
                shared + 1,
            )
        return
    agreed, differs = 0, shared
    while differs - agreed > 1:
        middle = (agreed + differs) // 2
        alike = _hash_at(hub, known, middle) == _own_hash_at(ledger, middle, None)
        agreed, differs = (middle, differs) if alike else (agreed, middle)
    raise HubDiverged(
        f"{hub.label}: {known.name!r} differs from this ledger from event #{differs} on, so nothing was appended; two "
        "copies of the ledger were written to, or one was changed: clone it again to see what the hub has",
        differs,
    )


def _hash_at(hub: HubConnection, known: KnownLedger, seq: int) -> str | None:
    row = hub.row(_HASH, id=known.id, seq=seq) if seq else None
    return None if row is None else bytes(row[0]).hex()


def _own_hash_at(ledger: LedgerLog, seq: int, head: bytes | None) -> str | None:
    if seq == 0:
        return None
    if head is not None:
        return head.hex()
    with ledger.database.reading() as connection:
        return audit_rows.event_hash_at(connection, seq)


def _as_hub_errors(hub: HubConnection, known: KnownLedger, do: Callable[[], _Result]) -> _Result:
    """Return what a function returns; name the hub in an error about what it sent."""
    try:
        return do()
    except (HubError, LedgerFileError):
        raise
    except LedgerError as error:
        raise HubError(
            f"{hub.label}: what it has of {known.name!r} is not a ledger: {error}; run `decomp-ledger hub verify`"
        ) from None


class _Lines:
    """The lines of a dump, made of what a hub has.

    What events name comes just before the first event that names it, so that rows get the numbers of the original.

    Attributes:
        given: how many events and checkpoints were given.
    """

    def __init__(self, hub: HubConnection, known: KnownLedger) -> None:
        self._hub, self._known = hub, known
        self._named: set[tuple[str, str]] = set()
        self.given = 0

    def give(self, first: dict[str, str] | None, *, after: int, checkpoints: int) -> Iterator[str]:
        hub, known = self._hub, self._known
        signed = hub.rows(_CHECKPOINTS, id=known.id, after=checkpoints)
        # After the checkpoints, so that each of them is of an event up to here.
        head = known_ledger(hub, known.ledger) or known
        if first is not None:
            yield json.dumps({"ledger": first})
        for seq, text, prev_hash, own_hash in hub.stream(_EVENTS, id=known.id, after=after, last=head.seq):
            yield from self._named_by(seq, text)
            self.given += 1
            # The loader checks that this is an event, and its hash.
            yield f'{{"event":{text[:-1]},"prev_hash":"{bytes(prev_hash).hex()}","hash":"{bytes(own_hash).hex()}"}}}}'
        for _, body in signed:
            self.given += 1
            yield f'{{"checkpoint":{body}}}'
        end = {"events": head.seq, "head": head.hash.hex(), "checkpoints": checkpoints + len(signed)}
        yield json.dumps({"end": end})

    def _named_by(self, seq: int, text: str) -> Iterator[str]:
        try:
            value: Any = as_object(parse_json(text))
            names = [("environment", value["environment"])]
            if value["kind"] in _WITH_CATALOG:
                names.append(("catalog", value["body"]["catalog"]))
            else:
                changes = value["body"].get("changes", ())
                names += [("decomposition", change[2]) for change in changes if len(change) == 3]
            new = [name for name in dict.fromkeys(names) if name not in self._named]
        except DAMAGE as error:
            raise LedgerError(f"event {seq}: it is damaged: {error!r:.200}") from None
        for kind, digest in new:
            row = self._hub.row(_BLOB, digest=digest, kind=kind)
            if row is None or hashlib.sha256(row[0].encode()).hexdigest() != digest:
                raise LedgerError(f"event {seq}: its {kind} {digest!r:.20} is missing or damaged")
            self._named.add((kind, digest))
            yield (
                f'{{"catalog":{{"digest":"{digest}","body":{row[0]}}}}}'
                if kind == "catalog"
                else (f'{{"{kind}":{row[0]}}}')
            )
