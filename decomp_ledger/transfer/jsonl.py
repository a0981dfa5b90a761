"""A ledger as JSON Lines, which any program can read; and a ledger made from them, with the same hashes."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from decomp_ledger.errors import LedgerError, LedgerFileError, UnusableValue
from decomp_ledger.integrity.checkpoints import Checkpoint, insert_checkpoint, stored_checkpoints
from decomp_ledger.integrity.verify import Verification
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.model.canonical_json import canonical_json
from decomp_ledger.model.catalog import Catalog, CatalogDelta, inflate, pack
from decomp_ledger.model.events import decode_body
from decomp_ledger.model.hash_chain import event_hash, genesis
from decomp_ledger.model.json_values import DAMAGE, as_object, parse_json
from decomp_ledger.model.limits import DUMP_LINE, DUMP_VALUES
from decomp_ledger.storage import audit_rows
from decomp_ledger.storage.audit_rows import CatalogRow
from decomp_ledger.storage.backup import Progress
from decomp_ledger.storage.event_store import EventRow, EventStore
from decomp_ledger.storage.file_checks import check_no_log
from decomp_ledger.storage.import_rows import insert_catalog, set_identity
from decomp_ledger.storage.new_file import draft_of, put, target_of
from decomp_ledger.transfer.restore import verify_draft

__all__ = ["FORMAT", "append", "dump", "dump_to_file", "load"]

FORMAT = "decomp-ledger dump 1"
_STEP = 2000  # events between two reports of progress
_DAMAGE = (*DAMAGE, sqlite3.IntegrityError, sqlite3.DataError)


def dump(ledger: LedgerLog, progress: Progress | None = None) -> Iterator[str]:
    """Give a ledger, as it is at one moment, line by line: each a JSON object whose one member names its kind.

    `ledger` comes first; then every `environment`, `decomposition` and `catalog`, which events name by digest; then
    each `event`, as it was hashed, and each `checkpoint`; and `end` last, with the head of the chain.

    The moment is that of the first line. Between two lines, the ledger may be written to, also by the same thread.

    Args:
        ledger: the ledger.
        progress: called with the number of events given, and of all events.

    Raises:
        LedgerError: the ledger is damaged.
    """
    identity = ledger.event_store.identity()
    database = ledger.database
    if database.in_memory:
        with database.read_transaction() as connection:
            lines = list(_lines(connection, identity, progress))
        yield from lines
    else:
        with database.long_read() as connection:
            process = os.getpid()
            for line in _lines(connection, identity, progress):
                if os.getpid() != process:
                    raise LedgerFileError(
                        f"{database.path}: this process was forked while the dump was read; begin another dump here"
                    )
                yield line


def _lines(connection: sqlite3.Connection, identity: tuple[str, str], progress: Progress | None) -> Iterator[str]:
    ledger_id, created_at = identity
    yield _line("ledger", {"format": FORMAT, "id": ledger_id, "created_at": created_at})
    for table in ("environment", "decomposition"):
        for row_id, _, text in audit_rows.digested_rows(connection, table):
            yield _line(table, _parsed(text, f"{table} {row_id}"))
    for catalog in audit_rows.catalog_rows_in_order(connection):
        yield _line("catalog", _catalog_value(catalog))
    seq, head = 0, genesis(ledger_id, created_at).hex()
    total = audit_rows.count_events(connection)
    for row, *_ in audit_rows.event_rows(connection):
        seq, head = row.seq, _hex(row.hash)
        if progress is not None and seq % _STEP == 0:
            progress(seq, total)
        yield _line("event", _event_value(row))
    count = 0
    for checkpoint in stored_checkpoints(connection, ledger_id):
        count += 1
        yield _line("checkpoint", checkpoint.to_json())
    yield _line("end", {"events": seq, "head": head, "checkpoints": count})


def dump_to_file(ledger: LedgerLog, path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """Write a ledger as JSON Lines to a new file.

    Args:
        ledger: the ledger.
        path: the file.
        progress: called with the number of events written, and of all events.

    Returns:
        The file's absolute path.

    Raises:
        LedgerFileError: the file exists, or cannot be written; nothing is left of it then.
        LedgerError: the ledger is damaged.
    """
    target = target_of(path)
    if target.exists():
        raise LedgerFileError(f"{target}: the file exists already; dump to another file, or move it away")
    with draft_of(target) as draft:
        with draft.open("w", encoding="ascii") as file:
            file.writelines(dump(ledger, progress))
        put(draft, target)
    return target


def _line(kind: str, value: Any) -> str:
    try:
        return json.dumps({kind: value}, separators=(",", ":")) + "\n"  # ASCII, so that it is one line in any case
    except TypeError:  # bytes in a column of text
        raise LedgerError(f"{kind} {value.get('seq', '')}: a value is not text; run verify") from None


def _parsed(text: Any, name: str) -> Any:
    try:
        return parse_json(text)
    except UnusableValue as error:
        raise LedgerError(f"{name}: damaged: {error}; run verify") from None


def _hex(value: Any) -> str:
    if not isinstance(value, bytes):
        raise LedgerError("a hash: missing or damaged; run verify")
    return value.hex()


def _event_value(row: EventRow) -> dict[str, Any]:
    name = f"event {row.seq}"
    value = row._asdict()
    value["call_site"] = None if row.call_site is None else _parsed(row.call_site, name)
    value["body"] = _parsed(row.body, name)
    for field in ("environment", "prev_hash", "hash"):
        value[field] = _hex(value[field])
    return value


def _catalog_value(row: CatalogRow) -> dict[str, Any]:
    """Return a catalog as it is stored: whole, or the difference from its base."""
    base = None if row.base is None else _hex(row.base)
    return {"digest": _hex(row.digest), "base": base, "body": _parsed(inflate(row.body), f"catalog {row.row_id}")}


def load(
    source: str | os.PathLike[str] | Iterable[str],
    path: str | os.PathLike[str],
    progress: Progress | None = None,
    reading: Progress | None = None,
) -> Verification:
    """Make a ledger from a dump, verify it, and only then put it in its place.

    Args:
        source: the file that `dump` was written to, "-" for standard input, or its lines.
        path: the new ledger.
        progress: called with the number of events verified, and of all events.
        reading: called with the number of bytes read, and of all bytes; not for standard input and lines, because
            nothing tells how many will come.

    Raises:
        LedgerFileError: the ledger exists or cannot be written, or the dump cannot be read.
        LedgerError: a line was changed, lines are missing, or the whole does not verify.
    """
    target = target_of(path)
    if target.exists():
        raise LedgerFileError(f"{target}: the file exists already; name another file, or move it away")
    check_no_log(target)
    lines = _read_lines(source, reading) if isinstance(source, (str, os.PathLike)) else source
    with draft_of(target) as draft:
        with LedgerLog(draft) as ledger, ledger.database.write_transaction() as connection:
            _Loader(ledger.event_store, connection).load(lines)
        verified = verify_draft(draft, "the dump", progress)
        put(draft, target)
    return verified


def append(ledger: LedgerLog, lines: Iterable[str], checkpoints: int) -> None:
    """Append what a longer copy of a ledger has, within a write transaction of the ledger.

    Args:
        ledger: the ledger.
        lines: those of a dump of the longer copy, without what the ledger has and without the first line.
        checkpoints: how many the ledger has.

    Raises:
        LedgerError: a line is damaged, or lines are missing.
    """
    loader = _Loader(ledger.event_store, ledger.database.transaction)
    loader.go_on(ledger.event_store.identity()[0], ledger.event_store.head(), checkpoints)
    loader.load(lines)


class _Loader:
    """The state of one load, from the first line to the last."""

    def __init__(self, event_store: EventStore, connection: sqlite3.Connection) -> None:
        self._event_store, self._connection = event_store, connection
        self._whole: Catalog | None = None  # the last one, because those that differ from it follow it
        self._ledger = ""
        self._seq, self._head = 0, b""
        self._checkpoints = 0
        self._ended = False
        self._starts = True

    def go_on(self, ledger: str, head: tuple[int, bytes], checkpoints: int) -> None:
        """Take the lines after those that made the ledger."""
        self._ledger, (self._seq, self._head), self._checkpoints = ledger, head, checkpoints
        self._starts = False

    def load(self, lines: Iterable[str]) -> None:
        number = 0
        for number, line in enumerate(lines, 1):
            try:
                ((kind, value),) = as_object(parse_json(line, DUMP_LINE, DUMP_VALUES)).items()
                if (self._starts and number == 1) != (kind == "ledger") or self._ended or kind not in _READERS:
                    raise ValueError(f"a line of kind {kind!r:.40} does not belong there")
                _READERS[kind](self, value)
            except _DAMAGE as error:
                raise LedgerError(f"line {number}: cannot be loaded: {error}") from None
        if not self._ended:
            raise LedgerError(f"the dump: ends after line {number} without an 'end' line; dump the ledger again")

    def _read_ledger(self, value: Any) -> None:
        if value["format"] != FORMAT:
            raise ValueError(f"its format is {value['format']!r:.40}; this version reads {FORMAT!r}")
        self._ledger, created_at = value["id"], value["created_at"]
        self._head = genesis(self._ledger, created_at)
        set_identity(self._connection, self._ledger, created_at)

    def _read_environment(self, value: Any) -> None:
        self._event_store.put_text("environment", canonical_json(value))

    def _read_decomposition(self, value: Any) -> None:
        self._event_store.put_text("decomposition", canonical_json(value))

    def _read_catalog(self, value: Any) -> None:
        if "base" not in value:  # of a hub, which has every catalog whole
            catalog = Catalog.from_json(value["body"])
            if catalog.digest != value["digest"]:
                raise ValueError("the catalog does not match its digest")
            self._event_store.put_catalog(catalog)
            return
        base = None if value["base"] is None else self._base(value["base"])
        body = value["body"]
        catalog = Catalog.from_json(body) if base is None else CatalogDelta.from_json(body).apply(base)
        if catalog.digest != value["digest"]:
            raise ValueError("the catalog does not match its digest")
        if base is None:
            self._whole = catalog
        # Not by `put_catalog`, which may find another base now that every whole catalog is stored.
        insert_catalog(self._connection, catalog.digest, value["base"], pack(catalog, base))

    def _base(self, digest: str) -> Catalog:
        if self._whole is None or self._whole.digest != digest:
            self._whole = self._event_store.catalog(digest)
        return self._whole

    def _read_event(self, value: dict[str, Any]) -> None:
        if value.keys() != set(EventRow._fields):
            raise ValueError("the event has other fields than an event has")
        if value["seq"] != self._seq + 1:
            raise ValueError(f"event {self._seq + 1} is missing before event {value['seq']!r:.20}")
        fields = {name: field for name, field in value.items() if name not in ("prev_hash", "hash")}
        prev_hash, own_hash = bytes.fromhex(value["prev_hash"]), bytes.fromhex(value["hash"])
        if event_hash(prev_hash, fields) != own_hash:
            raise ValueError(f"event {value['seq']} does not match its hash")
        if prev_hash != self._head:
            raise ValueError(f"event {value['seq']} does not follow the event before it")
        text = canonical_json(value["body"])
        site = None if value["call_site"] is None else canonical_json(value["call_site"])
        stored = {**fields, "body": text, "call_site": site, "environment": bytes.fromhex(value["environment"])}
        row = EventRow(**stored, prev_hash=prev_hash, hash=own_hash)
        self._event_store.insert_event(row, decode_body(row.kind, row.schema, text))
        self._seq, self._head = value["seq"], own_hash

    def _read_checkpoint(self, value: Any) -> None:
        checkpoint = Checkpoint.from_json(value)
        if checkpoint.ledger != self._ledger:
            raise ValueError("the checkpoint belongs to another ledger")
        insert_checkpoint(self._connection, checkpoint)
        self._checkpoints += 1

    def _read_end(self, value: Any) -> None:
        found = {"events": self._seq, "head": self._head.hex(), "checkpoints": self._checkpoints}
        if value != found:
            raise ValueError(f"the dump should end with {value!r:.200}, and ends with {found!r}")
        self._ended = True


_READERS = {
    "ledger": _Loader._read_ledger,
    "environment": _Loader._read_environment,
    "decomposition": _Loader._read_decomposition,
    "catalog": _Loader._read_catalog,
    "event": _Loader._read_event,
    "checkpoint": _Loader._read_checkpoint,
    "end": _Loader._read_end,
}


def _read_lines(path: str | os.PathLike[str], progress: Progress | None) -> Iterator[str]:
    """Give the lines of a file; "-" is standard input."""
    try:
        if os.fspath(path) == "-":
            if sys.stdin is None:  # the process started without it
                raise LedgerFileError("-: standard input is closed; give the file of a dump")
            yield from _bounded_lines(sys.stdin)
            return
        with Path(path).open(encoding="utf-8") as file:
            size, done = os.fstat(file.fileno()).st_size, 0
            for number, line in enumerate(_bounded_lines(file), 1):
                yield line
                done += len(line)  # its bytes, because a dump is ASCII
                if progress is not None and number % _STEP == 0:
                    progress(min(done, size), size)
            if progress is not None:
                progress(size, size)
    except LedgerFileError:  # which is an OSError too
        raise
    except OSError as error:
        raise LedgerFileError(f"{path}: cannot be read: {error.strerror}; name another file") from None
    except ValueError as error:
        raise LedgerFileError(f"{path}: not a dump: {error}; name what `decomp-ledger dump` wrote") from None


def _bounded_lines(file: TextIO) -> Iterator[str]:
    """Give the lines of a file; one that is too long in parts, each over the limit, so that none is read whole."""
    return iter(partial(file.readline, DUMP_LINE + 1), "")
