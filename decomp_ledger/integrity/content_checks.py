"""Checks of what a ledger stores once and its events refer to: names, environments, decompositions, catalogs."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import attrs

from decomp_ledger.integrity.problems import Problems, reason_of
from decomp_ledger.model.canonical_json import canonical_json
from decomp_ledger.model.catalog import Catalog, unpack
from decomp_ledger.model.hash_chain import genesis
from decomp_ledger.model.json_values import DAMAGE, as_object, parse_json
from decomp_ledger.model.rules import Decomposition
from decomp_ledger.model.times import read_time
from decomp_ledger.storage import audit_rows
from decomp_ledger.storage.event_store import BASES_TRIED

__all__ = ["Contents", "References", "check_contents", "check_unused", "parse_canonical"]

_SETTINGS = "UTF-8", 0  # of every ledger; in UTF-16, names would sort in another order


@attrs.frozen
class Contents:
    """What is stored once, as far as it is undamaged.

    Attributes:
        ledger: the ledger's id; empty if it cannot be read.
        genesis: what the first event is chained to; empty if it cannot be computed.
        tables: name of a table -> its row.
        ops: name of an op -> its row.
        decompositions: digest in hex -> row.
        catalogs: digest in hex -> row.
        bases: digest of a catalog stored as a difference -> digest of the catalog that it differs from.
    """

    ledger: str
    genesis: bytes
    tables: dict[str, int]
    ops: dict[str, int]
    decompositions: dict[str, int]
    catalogs: dict[str, int]
    bases: dict[str, str]


def check_contents(connection: sqlite3.Connection, problems: Problems) -> Contents:
    """Check the file's pages, the ledger's identity, and everything that is stored once.

    The schema was checked when the file was opened.

    Args:
        connection: to the ledger.
        problems: gets what is wrong.

    Returns:
        What was undamaged.
    """
    _check_pages(connection, problems)
    ledger, first = _check_identity(connection, problems)
    tables = _check_names(connection, "decomp_table", problems)
    ops = _check_names(connection, "op", problems)
    decompositions = _check_digests(connection, "decomposition", Decomposition.from_json, problems)
    _check_digests(connection, "environment", as_object, problems)
    catalogs, bases = _check_catalogs(connection, problems)
    return Contents(ledger, first, tables, ops, decompositions, catalogs, bases)


def parse_canonical(text: str) -> Any:
    """Parse stored canonical JSON.

    Raises:
        ValueError: it is not the canonical text of its value.
        LedgerError: it is not JSON, is over a limit, or has a value that canonical JSON cannot hold.
    """
    value = parse_json(text)
    if canonical_json(value) != text:
        raise ValueError("it is not canonical JSON")
    return value


def _check_pages(connection: sqlite3.Connection, problems: Problems) -> None:
    damage = audit_rows.page_damage(connection)
    if damage is not None:
        problems.add(None, f"the file is damaged: {damage}")
    settings = audit_rows.file_settings(connection)
    if settings != _SETTINGS:
        problems.add(None, f"the file has the encoding and user_version {settings}, not {_SETTINGS}")
    broken = audit_rows.broken_reference(connection)
    if broken is not None:
        problems.add(None, f"a row of {broken[0]!r} refers to a missing row of {broken[1]!r}")


def _check_identity(connection: sqlite3.Connection, problems: Problems) -> tuple[str, bytes]:
    """Return the ledger's id and its genesis."""
    rows = audit_rows.identity_rows(connection)
    try:
        ((ledger, created_at),) = rows
        read_time(created_at, digits=3)
        return str(ledger), genesis(ledger, created_at)
    except DAMAGE:
        problems.add(None, f"the table 'ledger' has {len(rows)} rows or a damaged one, instead of one id and date")
        return "", b""


def _check_names(connection: sqlite3.Connection, table: str, problems: Problems) -> dict[str, int]:
    rows = audit_rows.named_rows(connection, table)
    found = {name: row_id for name, row_id in rows if isinstance(name, str)}
    if len(found) != len(rows):
        problems.add(None, f"{table!r} has two rows of one name, or a row without a name")
    return found


def _check_digests(
    connection: sqlite3.Connection, table: str, read: Callable[[Any], object], problems: Problems
) -> dict[str, int]:
    """Check the rows of `environment` or `decomposition`; return digest in hex -> row."""
    found: dict[str, int] = {}
    for row_id, digest, text in audit_rows.digested_rows(connection, table):
        try:
            if hashlib.sha256(text.encode()).digest() != digest:
                raise ValueError("its content does not match its digest")
            read(parse_canonical(text))
            found[digest.hex()] = row_id
        except DAMAGE as error:
            seq = audit_rows.first_event_in(connection, row_id) if table == "environment" else None
            problems.add(seq, f"{table} {row_id}: {reason_of(error)}")
    return found


def _check_catalogs(connection: sqlite3.Connection, problems: Problems) -> tuple[dict[str, int], dict[str, str]]:
    """Unpack every catalog, and keep two; return digest -> row, and digest -> digest of its base."""
    catalogs: dict[str, int] = {}
    bases: dict[str, str] = {}
    stored: dict[int, _StoredCatalog] = {}
    whole: tuple[int, Catalog] | None = None  # the last one, because those that differ from it follow it
    for row in audit_rows.catalog_rows(connection):
        try:
            base = whole[1] if whole is not None and whole[0] == row.base_id else None
            if base is None and row.base_id is not None:
                raise ValueError("the catalog that it differs from is missing or damaged")
            catalog = unpack(row.body, base, canonical=True)
            if base is None:
                whole = row.row_id, catalog
            if bytes.fromhex(catalog.digest) != row.digest:
                raise ValueError("its content does not match its digest")
            catalogs[catalog.digest] = row.row_id
            stored[row.row_id] = _StoredCatalog(row.base_id, catalog.build)
            if base is not None:
                bases[catalog.digest] = base.digest
        except DAMAGE as error:
            problems.add(None, f"catalog {row.row_id}: {reason_of(error)}")
    _check_bases(stored, problems)
    return catalogs, bases


class _StoredCatalog(NamedTuple):
    """The row of a catalog's base, or None, and the catalog's build."""

    base_id: int | None
    build: Mapping[str, str]


def _check_bases(stored: Mapping[int, _StoredCatalog], problems: Problems) -> None:
    """Check that each catalog has the base that `EventStore.put_catalog` chooses, so that a dump has one form."""
    recent: deque[tuple[int, Mapping[str, str]]] = deque(maxlen=BASES_TRIED)
    for row_id, catalog in sorted(stored.items()):
        expected = next((base_id for base_id, build in reversed(recent) if build == catalog.build), None)
        if catalog.base_id != expected:
            problems.add(None, f"catalog {row_id}: it differs from the catalog {catalog.base_id}, not from {expected}")
        if catalog.base_id is None:
            recent.append((row_id, catalog.build))


@attrs.frozen
class References:
    """What the events of a ledger refer to, by name or by digest in hex."""

    tables: set[str] = attrs.field(factory=set)
    ops: set[str] = attrs.field(factory=set)
    decompositions: set[str] = attrs.field(factory=set)
    catalogs: set[str] = attrs.field(factory=set)


def check_unused(connection: sqlite3.Connection, contents: Contents, used: References, problems: Problems) -> None:
    """Find rows that no event refers to: each row is written in the transaction of an event that does.

    Args:
        connection: to the ledger.
        contents: what is stored once.
        used: what its events refer to.
        problems: gets what is wrong.
    """
    bases = {contents.bases[digest] for digest in used.catalogs if digest in contents.bases}
    unused = {
        "decomp_table": contents.tables.keys() - used.tables,
        "op": contents.ops.keys() - used.ops,
        "decomposition": contents.decompositions.keys() - used.decompositions,
        "catalog": contents.catalogs.keys() - used.catalogs - bases,
        "provenance": set(map(str, audit_rows.provenance_without_event(connection))),
        "environment": set(map(str, audit_rows.environment_without_provenance(connection))),
    }
    for table, names in unused.items():
        if names:
            some = ", ".join(repr(name[:80]) for name in sorted(names)[:3])
            problems.add(None, f"{table!r} has {len(names)} rows that no event refers to: {some}")
