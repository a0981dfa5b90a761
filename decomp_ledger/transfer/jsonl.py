"""A ledger as JSON Lines, which any program can read, and back: with the same hashes."""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from decomp_ledger.errors import LedgerError, LedgerFileError
from decomp_ledger.integrity.checkpoints import Checkpoint, insert_checkpoint, stored
from decomp_ledger.integrity.verify import Verification
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.model.canonical_json import canonical_json
from decomp_ledger.model.catalog import Catalog, pack, unpack
from decomp_ledger.model.events import VERSION_KINDS, Changing, Tagged, decode_body
from decomp_ledger.model.hash_chain import chain_hash, genesis
from decomp_ledger.storage import sql
from decomp_ledger.storage.backup import Progress, draft_of, put, target_of
from decomp_ledger.storage.file_checks import check_no_log
from decomp_ledger.transfer.restore import check_draft

__all__ = ["FORMAT", "dump", "load"]

FORMAT = "decomp-ledger dump 1"
_STEP = 2000
_EVENT = (
    "seq", "table", "version", "kind", "schema", "recorded_at", "actor", "reason", "call_site", "environment", "body",
    "prev_hash", "hash",
)  # fmt: skip
_DAMAGE = (LedgerError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, zlib.error)


def dump(ledger: LedgerLog, progress: Progress | None = None) -> Iterator[str]:
    """Give a ledger, as it is at one moment, line by line: each a JSON object with one member that says what it is.

    `ledger` comes first; then every `environment`, `decomposition` and `catalog`, which events name by digest; then
    each `event`, as it was hashed, and each `checkpoint`; and `end` last, with the head of the chain.

    Args:
        ledger: the ledger.
        progress: told how many events were given, and how many there are.

    Raises:
        LedgerError: the ledger is damaged.
    """
    ledger_id, created_at = ledger.event_store.identity()
    with ledger.database.reading() as connection:
        began = not connection.in_transaction
        if began:
            connection.execute("BEGIN")
        try:
            yield _line("ledger", {"format": FORMAT, "id": ledger_id, "created_at": created_at})
            for table in ("environment", "decomposition"):
                for row_id, text in connection.execute(f"SELECT id, body FROM {table} ORDER BY id"):
                    yield _line(table, _parsed(text, f"{table} {row_id}"))
            yield from _catalogs(connection)
            seq, head = 0, genesis(ledger_id, created_at).hex()
            (total,) = connection.execute("SELECT count(*) FROM event").fetchone()
            for row in connection.execute(sql.EVERY_EVENT):
                seq, head = row[0], _hex(row[12])
                if progress is not None and seq % _STEP == 0:
                    progress(seq, total)
                yield _line("event", _event(row))
            count = 0
            for checkpoint in stored(connection, ledger_id):
                count += 1
                yield _line("checkpoint", checkpoint.to_json())
            yield _line("end", {"events": seq, "head": head, "checkpoints": count})
        finally:
            if began and connection.in_transaction:
                connection.execute("COMMIT")


def _line(what: str, value: Any) -> str:
    try:
        return json.dumps({what: value}, separators=(",", ":")) + "\n"  # in ASCII: one line, whatever is in it
    except TypeError:  # bytes in a column of text
        raise LedgerError(f"the {what} {value.get('seq', '')} has what is no text; run verify") from None


def _parsed(text: Any, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise LedgerError(f"{what} is damaged: {error}; run verify") from None


def _hex(value: Any) -> str:
    if not isinstance(value, bytes):
        raise LedgerError("a hash is missing or damaged; run verify")
    return value.hex()


def _event(row: tuple[Any, ...]) -> dict[str, Any]:
    value = dict(zip(_EVENT, row, strict=True))
    what = f"event {value['seq']}"
    value["call_site"] = None if value["call_site"] is None else _parsed(value["call_site"], what)
    value["body"] = _parsed(value["body"], what)
    for name in ("environment", "prev_hash", "hash"):
        value[name] = _hex(value[name])
    return value


def _catalogs(connection: sqlite3.Connection) -> Iterator[str]:
    """Give whole catalogs, and those that differ from one as how they do, as they are stored."""
    query = (
        "SELECT own.digest, base.digest, own.body FROM catalog AS own LEFT JOIN catalog AS base "
        "ON base.id = own.base_id ORDER BY own.base_id IS NOT NULL, own.id"
    )
    for digest, base, body in connection.execute(query):
        try:
            text = zlib.decompress(body)
        except (zlib.error, TypeError) as error:
            raise LedgerError(f"a catalog is damaged: {error}; run verify") from None
        value = {"digest": _hex(digest), "base": None if base is None else _hex(base), "body": _parsed(text, "catalog")}
        yield _line("catalog", value)


def load(lines: Iterable[str], path: str | os.PathLike[str], progress: Progress | None = None) -> Verification:
    """Make a ledger of what `dump` gave, verify it, and only then put it in its place.

    Args:
        lines: what it gave.
        path: the ledger; none must be there.
        progress: told how many events were verified, and how many there are.

    Raises:
        LedgerFileError: there is a file, or it cannot be written.
        LedgerError: a line is not as it was written, some are missing, or the whole does not verify.
    """
    target = target_of(path)
    if target.exists():
        raise LedgerFileError(f"{target} is there already; load into another file, or move it away")
    check_no_log(target)
    with draft_of(target) as draft:
        with LedgerLog(draft) as ledger, ledger.database.write_transaction() as connection:
            _Loader(connection).run(lines)
        verified = check_draft(draft, "what was loaded", progress)
        put(draft, target)
    return verified


class _Loader:
    """Writes rows as they were written elsewhere; whether they belong together, `verify` says afterwards."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.ids: dict[tuple[str, Any], int] = {}
        self.whole: dict[str, Catalog] = {}
        self.identity = ""
        self.seq, self.head = 0, b""
        self.checkpoints = 0
        self.ended = False

    def run(self, lines: Iterable[str]) -> None:
        readers = {
            "ledger": self.ledger,
            "environment": lambda value: self.digested("environment", value),
            "decomposition": lambda value: self.digested("decomposition", value),
            "catalog": self.catalog,
            "event": self.event,
            "checkpoint": self.checkpoint,
            "end": self.end,
        }
        number = 0
        for number, line in enumerate(lines, 1):
            try:
                ((what, value),) = json.loads(line).items()
                if (number == 1) != (what == "ledger") or self.ended or what not in readers:
                    raise ValueError(f"it says {what!r:.40} there, which does not belong there")
                readers[what](value)
            except sqlite3.IntegrityError as error:
                raise LedgerError(f"line {number} cannot be loaded: {error}") from None
            except _DAMAGE as error:
                raise LedgerError(f"line {number} cannot be loaded: {error}") from None
        if not self.ended:
            raise LedgerError(f"the dump is cut off after line {number}: its last line must say 'end'")

    def insert(self, table: str, **values: Any) -> int:
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        text = f"INSERT INTO {table} ({names}) VALUES ({marks})"
        return int(self.connection.execute(text, list(values.values())).lastrowid or 0)

    def row(self, table: str, key: Any, **values: Any) -> int:
        """Return the row of what is stored once."""
        if (table, key) not in self.ids:
            self.ids[table, key] = self.insert(table, **values)
        return self.ids[table, key]

    def ledger(self, value: Any) -> None:
        if value["format"] != FORMAT:
            raise ValueError(f"it is of the format {value['format']!r:.40}, and this version reads {FORMAT!r}")
        self.identity, created_at = value["id"], value["created_at"]
        self.head = genesis(self.identity, created_at)
        # A new ledger has an id of its own, which nobody may change: but this one is nobody's yet.
        (guard,) = self.connection.execute("SELECT sql FROM sqlite_master WHERE name = 'ledger_no_update'").fetchone()
        self.connection.execute("DROP TRIGGER ledger_no_update")
        self.connection.execute("UPDATE ledger SET id = ?, created_at = ?", (self.identity, created_at))
        self.connection.execute(guard)

    def digested(self, table: str, value: Any) -> None:
        import hashlib

        text = canonical_json(value)
        digest = hashlib.sha256(text.encode()).digest()
        self.row(table, digest.hex(), digest=digest, body=text)

    def catalog(self, value: Any) -> None:
        base = None if value["base"] is None else self.whole[value["base"]]
        body = zlib.compress(json.dumps(value["body"], ensure_ascii=False, sort_keys=True).encode(), 6)
        catalog = unpack(body, base)
        if catalog.digest != value["digest"]:
            raise ValueError("the catalog is not what its digest was made of")
        if base is None:
            self.whole[catalog.digest] = catalog
        base_id = None if base is None else self.ids["catalog", base.digest]
        digest = bytes.fromhex(catalog.digest)
        self.row("catalog", catalog.digest, digest=digest, base_id=base_id, body=pack(catalog, base))

    def event(self, value: dict[str, Any]) -> None:
        if value.keys() != set(_EVENT):
            raise ValueError("it is no event")
        text = canonical_json(value["body"])
        site = None if value["call_site"] is None else canonical_json(value["call_site"])
        prev_hash, own_hash = bytes.fromhex(value["prev_hash"]), bytes.fromhex(value["hash"])
        if value["seq"] != self.seq + 1:
            raise ValueError(f"event {self.seq + 1} is missing before event {value['seq']!r:.20}")
        if chain_hash(prev_hash, value, text, site) != own_hash:
            raise ValueError(f"event {value['seq']} is not what its hash was made of")
        table_id = self.row("decomp_table", value["table"], name=value["table"])
        environment = self.ids["environment", value["environment"]]
        who = {"actor": value["actor"], "reason": value["reason"], "call_site": site, "environment_id": environment}
        provenance = self.row("provenance", tuple(who.values()), **who)
        makes_version = 1 if value["kind"] in VERSION_KINDS else None
        own = (
            value["seq"],
            table_id,
            value["version"],
            makes_version,
            value["kind"],
            value["schema"],
            value["recorded_at"],
        )
        self.connection.execute(sql.INSERT_EVENT, (*own, provenance, text, prev_hash, own_hash))
        self.derived(table_id, value["version"], decode_body(value["kind"], value["schema"], text))
        self.seq, self.head = value["seq"], own_hash

    def derived(self, table_id: int, version: int, body: object) -> None:
        if isinstance(body, Changing):
            for change in body.changes:
                op = self.row("op", change.op, name=change.op)
                digest = change.decomposition
                decomposition = None if digest is None else self.ids["decomposition", digest]
                self.connection.execute(sql.INSERT_CHANGE, (table_id, op, version, change.action, decomposition))
        elif isinstance(body, Tagged):
            self.insert("tag", table_id=table_id, name=body.name, version=version)

    def checkpoint(self, value: Any) -> None:
        checkpoint = Checkpoint.from_json(value)
        if checkpoint.ledger != self.identity:
            raise ValueError("the checkpoint is of another ledger")
        insert_checkpoint(self.connection, checkpoint)
        self.checkpoints += 1

    def end(self, value: Any) -> None:
        found = {"events": self.seq, "head": self.head.hex(), "checkpoints": self.checkpoints}
        if value != found:
            raise ValueError(f"the dump should end with {value!r:.200}, and ends with {found!r}")
        self.ended = True


def read_lines(path: Path) -> Iterator[str]:
    """Give the lines of a file; "-" is standard input.

    Raises:
        LedgerFileError: it cannot be read, or is no text.
    """
    import sys

    try:
        if str(path) == "-":
            yield from sys.stdin
            return
        with path.open(encoding="utf-8") as file:
            yield from file
    except OSError as error:
        raise LedgerFileError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise LedgerFileError(f"{path} is no dump: {error}") from None
