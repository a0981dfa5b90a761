"""A table without torch: its events, its state at any version, and every change to it.

:class:`decomp_ledger.pytorch.table.DecompTable` puts torch's dict on top; the command line uses this alone.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

from decomp_ledger.errors import (
    InvalidName,
    LedgerError,
    LedgerFileError,
    ReadOnlyTable,
    SchemaError,
    UnknownVersion,
    VersionConflict,
)
from decomp_ledger.log.ledger_log import LedgerLog, Origin
from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import check_text
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.events import (
    BASES,
    PRESERVE,
    RESET,
    Body,
    Change,
    Changing,
    Created,
    Event,
    Exported,
    Materialized,
    Popped,
    Reset,
    Reverted,
    Tagged,
)
from decomp_ledger.model.materialize import Snapshot, materialize
from decomp_ledger.model.rules import Decomposition, Rule, RuleDiff, TableState, changes_between, diff, fold
from decomp_ledger.model.state_specs import is_number_like, unknown_version
from decomp_ledger.storage import fork_safety

__all__ = ["Decide", "TableLog", "TableOwner", "Wanted"]

Wanted: TypeAlias = "list[tuple[str, str, Decomposition | None]]"
Decide: TypeAlias = "Callable[[Mapping[str, Rule]], Wanted]"
Make: TypeAlias = "Callable[..., Changing]"
T = TypeVar("T")


class TableOwner(Protocol):
    """A recording, as the tables that it owns see it."""

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to be recorded."""

    def failed(self, error: Exception) -> None:
        """Take note that the ledger cannot be written; raise to let the caller know."""

    def missed(self, error: Exception) -> None:
        """Take note that one table or export could not be recorded; raise to let the caller know."""

    def adopted(self, log: TableLog) -> None:
        """Take note of a table that belongs to it."""


class TableLog:
    """A named stream of events, and what it says now.

    Made by :meth:`Ledger.stream` and :meth:`Ledger.table`. One that was forked or recorded has no name and no event
    until it is first changed or used.

    Args:
        ledger: where its events go; None for one that is not recorded.
        name: its name, or None while it has none.
        prefix: what its name will begin with (`<prefix>/<n>`), for one that has none yet.
        state: what it says to begin with.
        parent: `(table, version)` it is forked from.
        writable: False for a past state.
    """

    def __init__(
        self,
        ledger: LedgerLog | None,
        name: str | None,
        *,
        prefix: str = "",
        state: TableState | None = None,
        parent: tuple[str, int] | None = None,
        writable: bool = True,
    ) -> None:
        self.ledger = ledger
        self.base = state.base if state is not None else "torch"
        self.rules: dict[str, Rule] = dict(state.rules) if state is not None else {}
        self.version = state.version if state is not None and parent is None else 0
        self.parent = parent
        self.writable = writable
        # For tables of a recording: why, and who is told of forks and of a ledger that cannot be written.
        self.reason: str | None = None
        self.owner: TableOwner | None = None
        # Ops of which something else is said since the view on top last looked.
        self.dirty: set[str] = set()
        self.lock = threading.RLock()
        fork_safety.renew_lock_in_child(self)
        # Functions of this process that its references name, by op.
        self.functions: dict[tuple[str, Decomposition], Any] = {}
        # Whether an op is loaded, where a dispatcher can be asked.
        self.is_loaded: Callable[[str], bool] | None = None
        self._name = name
        self._prefix = prefix
        # The last event of the ledger, when it was last known what others changed.
        self._seen: tuple[int, bytes] | None = None

    @classmethod
    def open(cls, ledger: LedgerLog, name: str) -> TableLog:
        """Open a table of a ledger.

        Raises:
            UnknownTable: the ledger has no table of that name.
        """
        return cls(ledger, name, state=ledger.state(name))

    @classmethod
    def create_or_open(cls, ledger: LedgerLog, name: str, base: str) -> TableLog:
        """Open a table of a ledger; create it first if it is new.

        Raises:
            InvalidName: it cannot name a table.
            LedgerError: it exists with another base.
        """
        op_names.check_label(name, "a table")
        if ledger.database.read_only:
            return cls.open(ledger, name)

        def write(connection: sqlite3.Connection) -> TableLog:
            if ledger.event_store.table_id(name) is not None:
                _check_base(ledger, name, base)
                return cls.open(ledger, name)
            if base in BASES:
                log = cls(ledger, name, state=TableState(name, 0, base, {}))
            else:
                start = ledger.resolve(base)
                log = cls(ledger, name, state=start, parent=(start.table, start.version))
            log.create()
            return log

        return ledger.database.write(write)

    def renew_lock(self) -> None:
        """Get a lock that no thread holds, in a forked child."""
        self.lock = threading.RLock()

    @property
    def name(self) -> str:
        """Its name; of one that has no event yet, what its name will begin with and `/?`."""
        return self._name if self._name is not None else f"{self._prefix}/?"

    def is_recorded(self) -> bool:
        """Whether its changes still become events."""
        return self.ledger is not None

    @property
    def state(self) -> TableState:
        """What it says now, as an immutable value."""
        return TableState(self.name, self.version, self.base, dict(self.rules))

    # Changing

    def change(
        self,
        make: Make,
        decide: Decide,
        *,
        reason: str | None = None,
        expected_version: int | None = None,
    ) -> Event | None:
        """Append one event with what `decide` wants, or nothing if it wants nothing.

        Args:
            make: the event's class, called with the changes and `pending=`.
            decide: gets op -> intent as they are when the event is written (another process may have written
                meanwhile), and returns the (op, action, decomposition) that are to change. It may raise: then
                nothing is written.
            reason: why.
            expected_version: the version the caller believes the table to have.

        Raises:
            ReadOnlyTable: this is a past state.
            VersionConflict: the table has another version.
            LedgerFileError: the ledger cannot be written.
        """
        if not self.writable:
            raise ReadOnlyTable(f"{self.name}@{self.version} is a past state; copy() it, or revert the table to it")
        if reason is not None:
            check_text(reason, "the reason")
        with self.lock:
            if not self.is_recorded() or self.version == 0:
                return self._change_alone(make, decide, reason, expected_version)
            wanted: Wanted = []

            def write(ledger: LedgerLog, origin: Origin) -> Event | None:
                nonlocal wanted
                self.sync()
                self._expect(expected_version)
                wanted = decide(self.rules)
                return self._append(ledger, origin, make, wanted, reason) if wanted else None

            event = self._attempt(write)
            if event is not None:
                self._apply(wanted, event.version)
            elif not self.is_recorded():  # the recording has just stopped
                return self._change_alone(make, decide, reason, expected_version)
            return event

    def _change_alone(
        self, make: Make, decide: Decide, reason: str | None, expected_version: int | None
    ) -> Event | None:
        """Change a table that nobody else can know yet: a file is touched only for an event."""
        self._expect(expected_version)
        wanted = decide(self.rules)
        if not wanted:
            return None
        event = self._attempt(lambda ledger, origin: self._append(ledger, origin, make, wanted, reason))
        self._apply(wanted, event.version if event is not None else max(self.version, 1) + 1)
        return event

    def materialize(self, catalog: Catalog) -> Snapshot:
        """Record that the table met a dispatcher, once for each version and catalog.

        Args:
            catalog: what the dispatcher offers.

        Returns:
            The table as it is there.
        """
        with self.lock:
            snapshot = materialize(self.state, catalog)
            body = Materialized(catalog.digest, snapshot.digest, snapshot.pending)

            def write(ledger: LedgerLog, origin: Origin) -> Event | None:
                if self.version and ledger.has_materialized_as(self.name, self.version, body):
                    return None
                ledger.event_store.put_catalog(catalog)
                return self._write(ledger, origin, body, None)

            self._attempt(write)
        return snapshot

    def exported(self, body: Exported, version: int) -> Event | None:
        """Record that a version was used to lower a program.

        Args:
            body: what came of it.
            version: the version that was used; the table may have changed since.
        """

        def write(ledger: LedgerLog, origin: Origin) -> Event:
            return ledger.append(self.name, version, body, reason=self.reason, origin=origin)

        with self.lock:
            return self._attempt(write)

    def create(self) -> None:
        """Write its first event, unless it has one."""
        with self.lock:
            if self.version == 0:
                self._attempt(self._create)

    def _attempt(self, write: Callable[[LedgerLog, Origin], Event | None]) -> Event | None:
        """Write within a transaction; on failure, let a recording decide whether to go on unrecorded."""
        if self.owner is not None and self.owner.stopped:
            self.detach()
        if self.ledger is None:
            return None
        try:
            return self._within(self.ledger, write)
        except (LedgerFileError, SchemaError) as error:
            if self.owner is None:
                raise
            self.owner.failed(error)
            self.detach()
            return None

    def _within(self, ledger: LedgerLog, write: Callable[[LedgerLog, Origin], T]) -> T:
        """Write within a transaction, and be what it was before if that fails."""
        with self.lock:
            before = self.version, self._name, self._seen
            try:
                origin = ledger.origin()  # before it is locked: the first time, it asks git
                return ledger.database.write(lambda _: write(ledger, origin))
            except BaseException:
                self.version, self._name, self._seen = before
                raise

    def detach(self) -> None:
        """Go on in memory: what was recorded stays, and nothing more is."""
        with self.lock:
            self.ledger = None
            self.version = max(self.version, 1)

    def _create(self, ledger: LedgerLog, origin: Origin) -> Event:
        if self._name is None:
            self._name = ledger.next_name(self._prefix)
        event = ledger.append(self._name, 1, Created(self.base, self.parent), reason=self.reason, origin=origin)
        self.version = 1
        return event

    def _write(self, ledger: LedgerLog, origin: Origin, body: Body, reason: str | None) -> Event:
        if self.version == 0:
            self._create(ledger, origin)
        version = self.version + 1 if body.makes_version else self.version
        why = f"{self.reason} / {reason}" if self.reason and reason else self.reason or reason
        return ledger.append(self.name, version, body, reason=why, origin=origin)

    def _append(self, ledger: LedgerLog, origin: Origin, make: Make, wanted: Wanted, reason: str | None) -> Event:
        put, loaded = ledger.event_store.put_decomposition, self.is_loaded
        changes = tuple([Change(op, action, None if ref is None else put(ref)) for op, action, ref in wanted])
        pending = () if loaded is None else tuple(c.op for c in changes if c.action != RESET and not loaded(c.op))
        event = self._write(ledger, origin, make(changes, pending=pending), reason)
        self._seen = event.seq, bytes.fromhex(event.hash)
        return event

    def _apply(self, wanted: Wanted, version: int) -> None:
        for op, action, decomposition in wanted:
            if action == RESET:
                self.rules.pop(op, None)
            else:
                self.rules[op] = Rule(action, decomposition)
            self.dirty.add(op)
        self.version = version

    def _expect(self, version: int | None) -> None:
        if version is not None and version != self.version:
            raise VersionConflict(f"{self.name} is at version {self.version}, not {version}; read it again and decide")

    def sync(self) -> bool:
        """Take in what other processes have changed since; return whether anything was."""
        if self.ledger is None or self.version == 0 or not self.writable:
            return False
        head = self.ledger.event_store.head()
        if head == self._seen:
            return False
        later = self.ledger.changes_after(self.name, self.version)
        for event in later:
            decompositions = self.ledger.event_store.decompositions_by_digest(
                {change.decomposition for change in event.changes if change.decomposition is not None}
            )
            fold(self.rules, event.changes, decompositions)
            self.dirty.update(change.op for change in event.changes)
            self.version = event.version
        self._seen = head
        return bool(later)

    # The verbs that need no callable

    def preserve(
        self, ops: Iterable[str], *, reason: str | None = None, expected_version: int | None = None
    ) -> Event | None:
        """Say of each op that it stays in the graph."""
        wanted_ops = list(dict.fromkeys(ops))

        def decide(rules: Mapping[str, Rule]) -> Wanted:
            return [(op, PRESERVE, None) for op in wanted_ops if op not in rules or rules[op].action != PRESERVE]

        return self.change(Popped, decide, reason=reason, expected_version=expected_version)

    def reset(
        self, ops: Iterable[str], *, reason: str | None = None, expected_version: int | None = None
    ) -> Event | None:
        """Say nothing of the ops any more: they are as the table's base has them."""
        wanted_ops = list(dict.fromkeys(ops))

        def decide(rules: Mapping[str, Rule]) -> Wanted:
            return [(op, RESET, None) for op in wanted_ops if op in rules]

        return self.change(Reset, decide, reason=reason, expected_version=expected_version)

    def revert(self, to: int | str, *, reason: str | None = None, expected_version: int | None = None) -> Event | None:
        """Bring back the state of a version or tag, by appending what differs."""
        then = self.at(to)

        def make(changes: tuple[Change, ...], *, pending: tuple[str, ...]) -> Changing:
            return Reverted(changes, pending=pending, to=then.version)

        def decide(rules: Mapping[str, Rule]) -> Wanted:
            return changes_between(rules, then.rules)

        return self.change(make, decide, reason=reason, expected_version=expected_version)

    def tag(self, name: str, version: int | None = None, *, reason: str | None = None) -> Event | None:
        """Name a version, for ever; naming it so again is no event.

        Args:
            name: the tag; not a number, so that `TABLE@7` stays a version.
            version: the version; the present one if None.
            reason: why.

        Raises:
            InvalidName: it cannot name a tag.
            VersionConflict: the tag names another version.
        """
        op_names.check_label(name, "a tag")
        if is_number_like(name):
            raise InvalidName(
                f"{name!r}: a tag must not look like a number; add a letter, because TABLE@3 is a version"
            )

        def write(ledger: LedgerLog, origin: Origin) -> Event | None:
            self.create()
            self.sync()
            at = self.version if version is None else self._check_version(version)
            found = ledger.tags(self.name).get(name)
            if found == at:
                return None
            if found is not None:
                raise VersionConflict(f"the tag {name!r} of {self.name} is version {found} and never moves")
            return ledger.append(self.name, at, Tagged(name), reason=reason, origin=origin)

        return self._within(self._recorded(), write)

    # Reading

    def at(self, version: int | str) -> TableState:
        """Return what the table said at a version or tag."""
        if version == self.version:
            return self.state
        if self.version == 0:
            raise UnknownVersion(f"{self.name} has no version yet: nothing was written for it")
        return self._recorded().state(self.name, version)

    def diff(self, before: int | str, after: int | str | None = None) -> list[RuleDiff]:
        """Return the ops of which two versions say different things; `after` is now if None."""
        return diff(self.at(before), self.state if after is None else self.at(after))

    def history(self, op: str) -> list[Event]:
        """Return every event that touched an op, oldest first, those of the table it was forked from included."""
        source = self._source()
        return [] if source is None else self._recorded().history(source[0], op_names.normalize(op), source[1])

    def blame(self) -> dict[str, Event]:
        """Return, for each op of which something is said, the event that said it."""
        source = self._source()
        return {} if source is None else self._recorded().state_and_blame(*source)[1]

    def events(self) -> list[Event]:
        """Return its events, oldest first."""
        return list(self._recorded().events(table=self.name)) if self.version else []

    def fork(self, name: str | None = None) -> TableLog:
        """Return a new stream that starts from this one's present state."""
        parent = (self.name, self.version) if self.ledger is not None and self.version else self.parent
        forked = TableLog(self.ledger, name, prefix=self._prefix or self.name, state=self.state, parent=parent)
        forked.version = 0 if self.ledger is not None else 1
        forked.functions = dict(self.functions)
        forked.reason = self.reason
        forked.adopt(self.owner)
        return forked

    def adopt(self, owner: TableOwner | None) -> None:
        """Make it, and all that is forked from it, a stream of a recording."""
        self.owner = owner
        if owner is not None:
            owner.adopted(self)

    def fork_as(self, name: str) -> TableLog:
        """Return a new stream of that name, written at once.

        Raises:
            LedgerError: there is such a table already.
        """
        op_names.check_label(name, "a table")

        def write(ledger: LedgerLog, origin: Origin) -> TableLog:
            self.create()
            if ledger.event_store.table_id(name) is not None:
                raise LedgerError(f"there is a table {name!r} already; fork under another name")
            forked = self.fork(name)
            forked.create()
            return forked

        return self._within(self._recorded(), write)

    def past(self, version: int | str) -> TableLog:
        """Return the stream as it was at a version or tag, which refuses to change."""
        state = self.at(version)
        past = TableLog(self.ledger, self.name, state=state, writable=False)
        past.functions = self.functions
        past.adopt(self.owner)
        return past

    def _source(self) -> tuple[str, int] | None:
        """Where its history is: its own events, or of a fork that has none yet, those it was forked from."""
        return (self.name, self.version) if self.version else self.parent

    def _recorded(self) -> LedgerLog:
        if self.ledger is None:
            raise LedgerError(f"{self.name} is no longer recorded; open the table with Ledger.table()")
        return self.ledger

    def _check_version(self, version: int) -> int:
        if not isinstance(version, int) or not 1 <= version <= self.version:
            raise unknown_version(self.name, version, self.version)
        return version


def _check_base(ledger: LedgerLog, name: str, base: str) -> None:
    """Refuse to resume a table that was created with another base than the caller gives."""
    if base == "torch":
        return  # the default, which callers do not give
    created = ledger.created(name)
    had = created.base if created.parent is None else "{}@{}".format(*created.parent)
    if base != "empty":
        start = ledger.resolve(base)
        base = f"{start.table}@{start.version}"
    if base != had:
        raise LedgerError(f"the table {name!r} exists with the base {had!r}, not {base!r}")
