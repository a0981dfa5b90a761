"""Check a hub: each chain, what each event names, and every row that was derived from an event.

The derived rows are computed a second time here, in another language than the triggers that wrote them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

from decomp_ledger.errors import HubError, LedgerError
from decomp_ledger.hub.connection import HubConnection, HubUrl
from decomp_ledger.hub.migrations import open_hub
from decomp_ledger.hub.push import KnownLedger, first_difference, known_ledger, reading
from decomp_ledger.hub.reading import find_ledger
from decomp_ledger.integrity.checkpoints import Checkpoint
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.model.canonical_json import Json, canonical_json
from decomp_ledger.model.catalog import Catalog, whole_text
from decomp_ledger.model.display import Row, displayed, to_rows
from decomp_ledger.model.events import RESET, Created, Event, Exported, Passed, read_event
from decomp_ledger.model.hash_chain import genesis
from decomp_ledger.model.json_values import DAMAGE, as_object, parse_json
from decomp_ledger.model.op_names import is_op_name
from decomp_ledger.model.recorded_names import split_recorded
from decomp_ledger.model.rules import Decomposition
from decomp_ledger.model.times import read_time
from decomp_ledger.storage.event_store import EventRow

__all__ = ["HubProblem", "HubVerification", "anchors_in", "verify"]

Progress: TypeAlias = Callable[[int, int], object]

_STEP = 2000
_MOST_PROBLEMS = 20

_LEDGERS = "SELECT ledger FROM ledger ORDER BY id"
_CREATED_AT = "SELECT created_at, genesis FROM ledger WHERE id = :id"
_TOTAL = "SELECT coalesce(sum(seq), 0) FROM head"
_BLOBS = "SELECT digest, kind, body FROM blob ORDER BY digest, kind"
_EVENTS = "SELECT seq, text, prev_hash, hash FROM event WHERE ledger_id = :id ORDER BY seq"
_FACTS = """
SELECT f.seq, t.name, f.version, f.makes_version, f.kind, f.recorded_at, f.actor
FROM event_fact AS f JOIN decomp_table AS t ON t.id = f.table_id
WHERE f.ledger_id = :id AND t.ledger_id = :id AND f.seq BETWEEN :first AND :last ORDER BY f.seq
"""
_CHANGES = """
SELECT c.seq, op.name, c.action, c.decomposition FROM event_fact AS f
JOIN change AS c ON c.table_id = f.table_id AND c.version = f.version AND c.seq = f.seq JOIN op ON op.id = c.op_id
WHERE f.ledger_id = :id AND f.makes_version = 1 AND f.seq BETWEEN :first AND :last
"""
_CHANGES_UNTIL = """
SELECT op.name, c.action, c.decomposition, c.version, c.seq FROM change AS c JOIN op ON op.id = c.op_id
JOIN decomp_table AS t ON t.id = c.table_id
WHERE t.ledger_id = :id AND t.name = :name AND c.version <= :version ORDER BY c.version
"""
_TABLES = """
SELECT t.name, t.series, t.base, p.name, t.parent_version, t.version, t.from_dict, t.newest
FROM decomp_table AS t LEFT JOIN decomp_table AS p ON p.id = t.parent_id WHERE t.ledger_id = :id
"""
_LINEAGE = """
SELECT t.name, l.depth, a.name, l.until FROM lineage AS l JOIN decomp_table AS t ON t.id = l.table_id
JOIN decomp_table AS a ON a.id = l.ancestor_id WHERE t.ledger_id = :id
"""
_RULES = """
SELECT t.name, op.name, r.action, r.decomposition, o.name, r.version, r.seq, r.newest FROM rule AS r
JOIN decomp_table AS t ON t.id = r.table_id JOIN op ON op.id = r.op_id JOIN decomp_table AS o ON o.id = r.origin_id
WHERE t.ledger_id = :id
"""
_EXPORTS = """
SELECT x.seq, t.name, x.version, x.module, x.file, x.failed, x.recorded_at, x.environment, x.git_commit, x.graph,
    x.catalog
FROM export AS x JOIN decomp_table AS t ON t.id = x.table_id WHERE x.ledger_id = :id
"""
_PROGRAMS = """
SELECT t.name, p.module, p.file, p.git_commit, p.graph, p.seq, p.succeeded
FROM program AS p JOIN decomp_table AS t ON t.id = p.table_id WHERE t.ledger_id = :id
"""
_CHECKPOINTS = "SELECT number, body FROM checkpoint WHERE ledger_id = :id ORDER BY number"
_BLOB_READERS: dict[str, Callable[[str], object]] = {
    "environment": lambda body: as_object(_canonical(body)),
    "decomposition": lambda body: Decomposition.from_json(_canonical(body)),
    "catalog": lambda body: _catalog(body),
}
# Table -> the statement that counts its rows; the others are compared row by row.
_COUNTED = ("event", "event_fact", "change", "rule", "export", "program", "decomp_table", "lineage", "head")
_MAX = 2**63 - 1
_NUL = "\\u0000"  # in JSON

_Rule: TypeAlias = "tuple[str, str | None, str, int, int]"  # action, decomposition, table, version, seq


@displayed
@attrs.frozen
class HubProblem:
    """One thing that is wrong in a hub.

    Attributes:
        ledger: what the hub calls the ledger; None if it is of none.
        seq: the event; None if it is of none.
        text: what is wrong.
    """

    ledger: str | None
    seq: int | None
    text: str

    def __str__(self) -> str:
        event = "" if self.seq is None else f"event #{self.seq}: "
        return f"{'' if self.ledger is None else f'{self.ledger}: '}{event}{self.text}"


@displayed
@attrs.frozen
class HubVerification:
    """The result of :meth:`Hub.verify`.

    Attributes:
        hub: the address of the hub, without a password.
        ledgers: how many ledgers were read.
        events: how many events.
        problems: what is wrong, at most 20; empty if nothing is.
    """

    hub: str
    ledgers: int
    events: int
    problems: tuple[HubProblem, ...] = ()

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each problem: the ledger, the event, and what is wrong."""
        return to_rows(self.problems)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        problems: list[Json] = [dict(attrs.asdict(each)) for each in self.problems]
        return {"ok": self.ok, "hub": self.hub, "ledgers": self.ledgers, "events": self.events, "problems": problems}


def verify(url: str | HubUrl, *, ledger: str | None = None, progress: Progress | None = None) -> HubVerification:
    """Recompute every chain of a hub, and what was derived from the events.

    Args:
        url: the address of the hub.
        ledger: check only this ledger, by its name or id.
        progress: called with the number of events checked, and of all events.

    Raises:
        HubError: the hub cannot be used, or has no such ledger.
    """
    with open_hub(url) as hub, hub.transaction():
        return _Verifier(hub, progress).verify(ledger)


def anchors_in(ledger: LedgerLog, url: str | HubUrl) -> tuple[KnownLedger, tuple[tuple[int, str], ...]]:
    """Return a ledger as a hub has it, and the events of the hub that tell whether both agree.

    Args:
        ledger: the ledger.
        url: the address of the hub.

    Returns:
        The ledger in the hub; (seq, hash in hex) of its newest event and, if the ledger differs, of the first event
        that does and the one before it.

    Raises:
        HubError: the hub cannot be used, or does not have the ledger.
    """
    ledger_id, _ = ledger.event_store.identity()
    with open_hub(url) as hub, hub.transaction(), reading(ledger) as source:
        known = known_ledger(hub, ledger_id)
        if known is None:
            raise HubError(f"{hub.label}: it does not have this ledger; push it first")
        if known.seq == 0:
            return known, ()
        differs = first_difference(hub, known, source)
        wanted = {known.seq} if differs is None else {known.seq, differs, differs - 1} - {0}
        sql = "SELECT seq, hash FROM event WHERE ledger_id = :id AND seq = :seq"
        found = [hub.row(sql, id=known.id, seq=seq) for seq in sorted(wanted)]
    return known, tuple((int(row[0]), bytes(row[1]).hex()) for row in found if row is not None)


class _Verifier:
    """A pass over a hub."""

    def __init__(self, hub: HubConnection, progress: Progress | None) -> None:
        self._hub, self._progress = hub, progress
        self._problems: list[HubProblem] = []
        self._blobs: set[tuple[str, str]] = set()
        self._commits: dict[str, str] = {}  # of environments, where they have one
        self._counts = dict.fromkeys(_COUNTED, 0)
        self.events = 0
        self.total = 0

    def verify(self, ledger: str | None) -> HubVerification:
        hub = self._hub
        self._read_blobs()
        if ledger is not None:
            ids = [find_ledger(hub, ledger)[1].id]
            known = known_ledger(hub, ids[0])
            self.total = 0 if known is None else known.seq
        else:
            self.total = int(hub.row(_TOTAL)[0])
            ids = [str(row[0]) for row in hub.rows(_LEDGERS)]
        for each in ids:
            found = known_ledger(hub, each)
            if found is None:
                self.add(each, None, "it has no head")
            else:
                _LedgerCheck(hub, found, self).check()
        if ledger is None:
            self._check_counts()
        return HubVerification(hub.label, len(ids), self.events, tuple(self._problems[:_MOST_PROBLEMS]))

    def add(self, ledger: str | None, seq: int | None, text: str) -> None:
        if len(self._problems) < _MOST_PROBLEMS:
            self._problems.append(HubProblem(ledger, seq, text))

    def count(self, table: str, rows: int) -> None:
        self._counts[table] += rows

    def step(self) -> None:
        self.events += 1
        if self._progress is not None and self.events % _STEP == 0:
            self._progress(self.events, self.total)

    def has(self, kind: str, digest: object) -> bool:
        return (kind, digest) in self._blobs

    def commit(self, environment: str) -> str:
        """Return the git commit of an environment; "" if it has none, or is missing."""
        return self._commits.get(environment, "")

    def _read_blobs(self) -> None:
        for digest, kind, body in self._hub.stream(_BLOBS):
            try:
                _BLOB_READERS[kind](body)
                if hashlib.sha256(body.encode()).hexdigest() != digest:
                    raise ValueError("it does not match its digest")
            except DAMAGE as error:
                self.add(None, None, f"the {kind} {digest:.12} is damaged: {error!s:.200}")
            else:
                self._blobs.add((kind, digest))
                if kind == "environment" and (commit := _commit(body)):
                    self._commits[digest] = commit

    def _check_counts(self) -> None:
        """Find derived rows that no event of any ledger has."""
        for table, expected in self._counts.items():
            ((found,),) = self._hub.rows(f"SELECT count(*) FROM {table}")
            if found != expected:
                self.add(None, None, f"'{table}' has {found} rows, and the events give {expected}")


@attrs.define
class _Table:
    """A table as its events make it."""

    name: str
    series: str
    base: str
    parent: tuple[str, int] | None
    lineage: list[tuple[str, int]]
    version: int = 0
    from_dict: int = 0
    rules: dict[str, _Rule] = attrs.field(factory=dict)


class _LedgerCheck:
    """A pass over the events of one ledger."""

    def __init__(self, hub: HubConnection, known: KnownLedger, whole: _Verifier) -> None:
        self._hub, self._known, self._whole = hub, known, whole
        self._tables: dict[str, _Table] = {}
        self._exports: dict[int, tuple[Any, ...]] = {}
        self._facts: dict[int, tuple[Any, ...]] = {}
        self._changes: set[tuple[Any, ...]] = set()
        self._seq, self._head = 0, b""

    def add(self, seq: int | None, text: str) -> None:
        self._whole.add(self._known.name, seq, text)

    def check(self) -> None:
        hub, known, whole = self._hub, self._known, self._whole
        created_at, stored = hub.row(_CREATED_AT, id=known.id)
        self._head = genesis(known.ledger, created_at)
        if bytes(stored) != self._head:
            self.add(None, "what its first event is chained to does not match its id and date")
        for row in hub.stream(_EVENTS, id=known.id):
            self._check_event(*row)
            whole.step()
            if len(self._facts) >= _STEP:
                self._check_batch()
        self._check_batch()
        if (known.seq, known.hash) != (self._seq, self._head):
            self.add(None, f"its head is event #{known.seq}, and its last event is #{self._seq}")
        whole.count("event", self._seq)
        whole.count("head", 1)
        self._check_derived()
        self._check_checkpoints()

    def _check_event(self, seq: int, text: str, prev_hash: bytes, own_hash: bytes) -> None:
        if seq != self._seq + 1 or bytes(prev_hash) != self._head:
            self.add(seq, "it does not follow the event before it")
        if hashlib.sha256(bytes(prev_hash) + text.encode()).digest() != bytes(own_hash):
            self.add(seq, "its text does not match its hash")
        self._seq, self._head = seq, bytes(own_hash)
        try:
            event = _event(_canonical(text), seq, bytes(prev_hash), bytes(own_hash))
            if _NUL in text:
                event = _event(parse_json(_without_nul(text)), seq, bytes(prev_hash), bytes(own_hash))
            self._apply(event)
        except DAMAGE as error:
            self.add(seq, f"it is damaged: {error!s:.200}")

    def _apply(self, event: Event) -> None:
        """Do what the triggers do with an event."""
        whole, body = self._whole, event.body
        read_time(event.recorded_at)
        if not whole.has("environment", event.environment):
            self.add(event.seq, f"its environment {event.environment[:12]} is missing or damaged")
        if body.catalog is not None and not whole.has("catalog", body.catalog):
            self.add(event.seq, f"its catalog {body.catalog[:12]} is missing or damaged")
        if isinstance(body, Created):
            self._create(event, body)
        table = self._tables.get(event.table)
        newest = 0 if table is None else table.version
        expected = event.version == newest + 1 if body.makes_version else 1 <= event.version <= newest
        if table is None or not expected:
            self.add(event.seq, f"it has version {event.version} of a table that is at version {newest}")
            return
        makes = int(body.makes_version)
        self._facts[event.seq] = (
            *(event.seq, event.table, event.version, makes, event.kind, event.recorded_at, event.actor),
        )
        if makes:
            table.version, table.from_dict = event.version, int(isinstance(body, Passed))
        for change in body.changes:
            if not is_op_name(change.op):
                self.add(event.seq, f"it changes {change.op!r:.80}, which is not the name of an op")
            self._changes.add((event.seq, change.op, change.action, change.decomposition))
            if change.decomposition is not None and not whole.has("decomposition", change.decomposition):
                self.add(event.seq, f"its decomposition {change.decomposition[:12]} is missing or damaged")
            if change.action == RESET:
                table.rules.pop(change.op, None)
            else:
                table.rules[change.op] = (
                    *(change.action, change.decomposition, event.table, event.version, event.seq),
                )
        if isinstance(body, Exported):
            module = ("", "") if body.module is None else (body.module.name, body.module.file or "")
            self._exports[event.seq] = (
                *(event.seq, event.table, event.version, *module, int(body.error is not None), event.recorded_at),
                *(event.environment, whole.commit(event.environment), body.before or "", body.catalog),
            )

    def _create(self, event: Event, body: Created) -> None:
        if event.table in self._tables:
            self.add(event.seq, "it creates a table that exists")
            return
        recorded = split_recorded(event.table)
        series = event.table if recorded is None else recorded.series
        made = _Table(event.table, series, body.base, body.parent, [(event.table, _MAX)])
        if body.parent is not None:
            name, version = body.parent
            parent = self._tables.get(name)
            if parent is None or not 1 <= version <= parent.version:
                self.add(event.seq, "it forks a version that does not exist before it")
                return
            made.lineage += [(name, version), *parent.lineage[1:]]
            made.rules = self._rules_at(parent, version)
        self._tables[event.table] = made

    def _rules_at(self, table: _Table, version: int) -> dict[str, _Rule]:
        """Return the rules of an earlier version, from rows that are checked with the events that made them."""
        if version == table.version:
            return dict(table.rules)
        rules: dict[str, _Rule] = {}
        self._check_batch()
        for name, until in reversed([(table.name, version), *table.lineage[1:]]):
            rows = self._hub.rows(_CHANGES_UNTIL, id=self._known.id, name=name, version=until)
            for op, action, decomposition, since, seq in rows:
                if action == RESET:
                    rules.pop(op, None)
                else:
                    rules[op] = (action, decomposition, name, since, seq)
        return rules

    def _check_batch(self) -> None:
        """Compare the rows of the last events with them."""
        if not self._facts:
            return
        given: dict[str, object] = {"id": self._known.id, "first": min(self._facts), "last": max(self._facts)}
        self._compare("event_fact", set(self._facts.values()), self._hub.rows(_FACTS, **given))
        self._compare("change", self._changes, self._hub.rows(_CHANGES, **given))
        self._facts, self._changes = {}, set()

    def _check_derived(self) -> None:
        hub, given = self._hub, {"id": self._known.id}
        names = set(self._tables)
        runs: set[str] = set()
        for table in self._tables.values():
            # Where a table has the name of a series, the runs of the series are tables of their own.
            if table.series in names and table.series != table.name:
                runs.add(table.name)
        series = {table.name: table.name if table.name in runs else table.series for table in self._tables.values()}
        last: dict[str, str] = {}  # series -> its newest run
        for name in sorted(series, key=lambda name: (len(name), name)):
            last[series[name]] = name
        newest = {name: int(last[series[name]] == name) for name in series}
        tables = {
            (t.name, series[t.name], t.base, *(t.parent or (None, None)), t.version, t.from_dict, newest[t.name])
            for t in self._tables.values()
        }
        self._compare("decomp_table", tables, hub.rows(_TABLES, **given))
        lineage = {
            (table.name, depth, name, until)
            for table in self._tables.values()
            for depth, (name, until) in enumerate(table.lineage)
        }
        self._compare("lineage", lineage, hub.rows(_LINEAGE, **given))
        rules = {
            (table.name, op, *rule, newest[table.name])
            for table in self._tables.values()
            for op, rule in table.rules.items()
        }
        self._compare("rule", rules, hub.rows(_RULES, **given))
        self._compare("export", set(self._exports.values()), hub.rows(_EXPORTS, **given))
        programs: dict[tuple[str, ...], tuple[int, int | None]] = {}
        for seq, name, _, module, file, failed, _, _, commit, graph, _ in self._exports.values():
            key = (name, module, file, commit, graph)
            succeeded = programs.get(key, (0, None))[1] if failed else seq
            programs[key] = (seq, succeeded)
        expected = {(*key, *found) for key, found in programs.items()}
        self._compare("program", expected, hub.rows(_PROGRAMS, **given))

    def _compare(self, table: str, expected: set[tuple[Any, ...]], found: list[tuple[Any, ...]]) -> None:
        """Compare the derived rows of a table with those that the events give."""
        self._whole.count(table, len(expected))
        if len(found) != len(expected) or set(found) != expected:
            wrong = sorted(map(repr, expected ^ set(found)))
            first = wrong[0] if wrong else "a row twice"
            self.add(None, f"the rows of '{table}' do not match its events: {first:.200}")

    def _check_checkpoints(self) -> None:
        previous = None
        for place, (number, body) in enumerate(self._hub.rows(_CHECKPOINTS, id=self._known.id), 1):
            try:
                checkpoint = Checkpoint.from_json(parse_json(body))
                stored = self._hub.row(
                    "SELECT hash FROM event WHERE ledger_id = :id AND seq = :seq", id=self._known.id, seq=checkpoint.seq
                )
                if (
                    number != place
                    or checkpoint.previous != previous
                    or checkpoint.ledger != self._known.ledger
                    or stored is None
                    or bytes(stored[0]).hex() != checkpoint.hash
                    or not checkpoint.is_signed()
                ):
                    raise LedgerError("it is not a signature of an event of this ledger after the one before it")
                previous = checkpoint.digest
            except DAMAGE as error:
                self.add(None, f"checkpoint {number}: {error!s:.200}")


_FIELDS = (
    "seq",
    "table",
    "version",
    "kind",
    "schema",
    "recorded_at",
    "actor",
    "reason",
    "call_site",
    "environment",
    "body",
)


def _canonical(text: str) -> Any:
    """Return the value of a text that must be canonical JSON."""
    value: Any = parse_json(text)
    if canonical_json(value) != text:
        raise LedgerError("its text is not canonical JSON")
    return value


def _without_nul(text: str) -> str:
    """Return a JSON text as the triggers of a hub read it, because PostgreSQL has no text with NUL."""
    return text.replace(_NUL, "\\ufffd")


def _commit(environment: str) -> str:
    """Return the git commit of an environment; "" if it has none."""
    found = as_object(parse_json(_without_nul(environment))).get("git_commit")
    return found if isinstance(found, str) else ""


def _catalog(text: str) -> Catalog:
    """Return the catalog of a text that must be its whole text."""
    catalog = Catalog.from_json(parse_json(text))
    if whole_text(catalog) != text:
        raise LedgerError("it is not the text of a catalog")
    return catalog


def _event(fields: object, seq: int, prev_hash: bytes, own_hash: bytes) -> Event:
    """Return the event of the fields of a text that anyone may have written.

    Raises:
        LedgerError, ValueError, TypeError: it is not the text of an event.
    """
    value: Any = as_object(fields)
    if set(value) != set(_FIELDS):
        raise LedgerError("it has other fields than an event has")
    if value["seq"] != seq or len(value["environment"]) != 64:
        raise LedgerError("its number or its environment is not that of its text")
    site = value["call_site"]
    row = EventRow(
        **{name: value[name] for name in _FIELDS if name not in ("call_site", "environment", "body")},
        call_site=None if site is None else canonical_json(site),
        environment=bytes.fromhex(value["environment"]),
        body=canonical_json(value["body"]),
        prev_hash=prev_hash,
        hash=own_hash,
    )
    if not isinstance(row.reason, str | None):
        raise LedgerError("its reason is not text")
    return read_event(row)
