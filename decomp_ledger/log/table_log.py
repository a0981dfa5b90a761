"""A table without torch: its events, its rules at any version, and every change to it.

`pytorch/table.py` puts torch's dict on top; the command line uses this alone.
"""

from __future__ import annotations

import enum
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeAlias

from decomp_ledger.errors import (
    InvalidName,
    LedgerError,
    LedgerFileError,
    LookalikeWarning,
    ReadOnlyTable,
    SchemaError,
    UnknownVersion,
    VersionConflict,
)
from decomp_ledger.log import provenance
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.provenance import Origin
from decomp_ledger.model import op_names
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.canonical_json import check_text
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.events import (
    BASES,
    PRESERVE,
    RESET,
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
from decomp_ledger.model.handles import Handle
from decomp_ledger.model.lookalikes import lookalike
from decomp_ledger.model.materialize import Snapshot, materialize
from decomp_ledger.model.rules import Decomposition, Rule, RuleDiff, TableState, changes_between, diff, fold
from decomp_ledger.model.state_specs import is_number_like
from decomp_ledger.storage import fork_safety

__all__ = ["Decide", "Status", "TableLog", "TableOwner", "Wanted"]

Wanted: TypeAlias = "list[tuple[str, str, Decomposition | None]]"  # (op, action, decomposition), each op once
Decide: TypeAlias = "Callable[[Mapping[str, Rule]], Wanted]"
Make: TypeAlias = "Callable[..., Changing]"


class Status(enum.Enum):
    """Where the events of a table log go.

    UNWRITTEN: the ledger has no event of the table, which is a new table or a fork. Version 0.
    WRITTEN: each change becomes an event of the ledger.
    DETACHED: changes stay in memory, because a recording has stopped, or there never was a ledger.

    UNWRITTEN becomes WRITTEN with `create()`: the first change or use calls it. Both become DETACHED with `detach()`.
    A rollback takes WRITTEN back to UNWRITTEN. In any of the three, `writable` is False for a past version, which
    refuses changes.
    """

    UNWRITTEN = enum.auto()
    WRITTEN = enum.auto()
    DETACHED = enum.auto()


class TableOwner(Protocol):
    """A recording, as its tables see it."""

    @property
    def stopped(self) -> bool:
        """Whether the recording records nothing more."""

    def failed(self, error: Exception) -> None:
        """Stop, because the ledger cannot be written; raise the error instead if the user asked for that."""

    def missed(self, error: Exception) -> None:
        """Report that one table or export was not recorded; raise the error instead if the user asked for that."""

    def adopted(self, log: TableLog) -> None:
        """Take note of a new table of the recording."""


@checked
class TableLog(Handle):
    """One table's log, and its current rules.

    Made by `Ledger.table_log`, `Ledger.create_table` and recordings. A fork or a table of a recording has no event,
    and may have no name, until its first change or use.

    Args:
        ledger: where its events go; None keeps its changes in memory.
        name: its name; None takes `<prefix>/<n>` with the first event.
        prefix: the start of that name.
        state: its rules at the start.
        parent: the (table, version) that it is forked from.
        writable: False for a past version.

    Attributes:
        status: where its events go.
        ledger: the ledger; None if DETACHED.
        version: its version; 0 before the first event.
        rules: op -> rule, as of the version.
        dirty: ops whose rules changed since the mapping on top was last brought up to date.
        functions: the functions of this process that its rules name.
        is_loaded: tells whether an op is loaded; None without torch.
        reason: of tables of a recording: why.
        owner: the recording, or None.
        lock: held during each change.
    """

    instead = "open the table again by its name, with Ledger(path).table_log(name)"

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
        self.base = state.base if state is not None else "torch"
        self.rules: dict[str, Rule] = dict(state.rules) if state is not None else {}
        self.version = state.version if state is not None and parent is None else 0
        self.parent = parent
        self.ledger = ledger
        if ledger is None:
            self.status = Status.DETACHED
        else:
            self.status = Status.WRITTEN if self.version else Status.UNWRITTEN
        self.writable = writable
        self.reason: str | None = None
        self.owner: TableOwner | None = None
        self.dirty: set[str] = set()
        self.lock = threading.RLock()
        fork_safety.renew_lock_in_child(self)
        self.functions: dict[tuple[str, Decomposition], Any] = {}
        self.is_loaded: Callable[[str], bool] | None = None
        self._name = name
        self._prefix = prefix
        # The head of the ledger when `sync` last read the events of other writers.
        self._synced_to: tuple[int, bytes] | None = None

    @classmethod
    def open(cls, ledger: LedgerLog, name: str) -> TableLog:
        """Open a table of a ledger.

        Raises:
            UnknownTable: the ledger has no such table.
        """
        return cls(ledger, name, state=ledger.state(name))

    @classmethod
    def create_or_open(cls, ledger: LedgerLog, name: str, base: str) -> TableLog:
        """Open a table of a ledger; create it first if it is new.

        Raises:
            InvalidName: the name is invalid.
            LedgerError: the table exists with another base.
        """
        op_names.check_label(name, "a table")
        if ledger.database.read_only:
            return cls.open(ledger, name)
        with ledger.database.write_transaction():
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

    def renew_lock(self) -> None:
        """Replace the lock by a free one, in a forked child."""
        self.lock = threading.RLock()

    @property
    def name(self) -> str:
        """Its name; `<prefix>/?` before it has one."""
        return self._name if self._name is not None else f"{self._prefix}/?"

    def is_recorded(self) -> bool:
        """Tell whether its changes still become events; detach it if its recording has stopped."""
        if self.owner is not None and self.owner.stopped:
            self.detach()
        return self.status is not Status.DETACHED

    @property
    def state(self) -> TableState:
        """Its rules now, as an immutable value."""
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
        """Append one event with the changes that `decide` returns; no event if it returns none.

        Args:
            make: the event's class, called with the changes and `pending=`.
            decide: gets op -> rule and returns the changes. It is called under the ledger's lock, after the events
                of other processes were read, and may be called twice. If it raises, nothing is written.
            reason: why.
            expected_version: the version that the caller takes the table to have.

        Raises:
            ReadOnlyTable: this is a past version.
            VersionConflict: the table has another version.
            LedgerFileError: the ledger cannot be written.
        """
        if not self.writable:
            raise ReadOnlyTable(f"{self.name}@{self.version}: a past version cannot change; copy() it, or revert to it")
        if reason is not None:
            check_text(reason, "the reason")
        with self.lock:
            if self.is_recorded():
                # Without a change, no file is touched for a table that has no event.
                if self.status is Status.UNWRITTEN and not self._decided(decide, expected_version):
                    return None
                with self._recording_may_stop():
                    return self._append_change(make, decide, reason, expected_version)
            self._apply(self._decided(decide, expected_version), max(self.version, 1) + 1)
            return None

    def _append_change(
        self, make: Make, decide: Decide, reason: str | None, expected_version: int | None
    ) -> Event | None:
        ledger, origin = self._recorded(), self._recorded().origin()
        with self._transaction(ledger):
            self.sync()
            wanted = self._decided(decide, expected_version)
            if not wanted:
                return None
            self._create(ledger, origin)
            body = self._body(make, wanted, ledger)
            why = f"{self.reason} / {reason}" if self.reason and reason else self.reason or reason
            event = ledger.append(self.name, self.version + 1, body, reason=why, origin=origin)
        # After the commit: if an interrupt comes first, `sync` reads the event.
        self._apply(wanted, event.version)
        self._synced_to = event.seq, bytes.fromhex(event.hash)
        return event

    def _decided(self, decide: Decide, expected_version: int | None) -> Wanted:
        if expected_version is not None and expected_version != self.version:
            raise VersionConflict(
                f"{self.name}: the table is at version {self.version}, not {expected_version}; read it again"
            )
        return decide(self.rules)

    def _body(self, make: Make, wanted: Wanted, ledger: LedgerLog) -> Changing:
        """Store the decompositions of the changes, and return the event's body."""
        put, loaded = ledger.event_store.put_decomposition, self.is_loaded
        changes = tuple(Change(op, action, None if ref is None else put(ref)) for op, action, ref in wanted)
        pending = () if loaded is None else tuple(c.op for c in changes if c.action != RESET and not loaded(c.op))
        return make(changes, pending=pending)

    def _apply(self, wanted: Wanted, version: int) -> None:
        if not wanted:
            return
        for op, action, decomposition in wanted:
            if action == RESET:
                self.rules.pop(op, None)
            else:
                self.rules[op] = Rule(action, decomposition)
            self.dirty.add(op)
        self.version = version

    def materialize(self, catalog: Catalog) -> Snapshot:
        """Apply the rules to a catalog; record it once for each version and catalog.

        Args:
            catalog: what the dispatcher offers.
        """
        with self.lock:
            snapshot = materialize(self.state, catalog)
            if self.is_recorded():
                with self._recording_may_stop():
                    self._append_materialization(catalog, snapshot)
        return snapshot

    def _append_materialization(self, catalog: Catalog, snapshot: Snapshot) -> None:
        ledger, origin = self._recorded(), self._recorded().origin()
        body = Materialized(catalog.digest, snapshot.digest, snapshot.pending)
        with self._transaction(ledger):
            self._create(ledger, origin)
            if not ledger.has_materialized_as(self.name, self.version, body):
                ledger.event_store.put_catalog(catalog)
                ledger.append(self.name, self.version, body, reason=self.reason, origin=origin)

    def exported(self, body: Exported, version: int) -> Event | None:
        """Record that a version was used to lower a program.

        Args:
            body: the export's result.
            version: the version that was used; the table may have a later one.
        """
        with self.lock:
            if self.is_recorded():
                ledger, origin = self._recorded(), self._recorded().origin()
                with self._recording_may_stop(), self._transaction(ledger):
                    return ledger.append(self.name, version, body, reason=self.reason, origin=origin)
        return None

    def create(self) -> None:
        """Append the first event, `created`, unless the table has one."""
        with self.lock:
            if self.is_recorded() and self.status is Status.UNWRITTEN:
                ledger, origin = self._recorded(), self._recorded().origin()
                with self._recording_may_stop(), self._transaction(ledger):
                    self._create(ledger, origin)

    def _create(self, ledger: LedgerLog, origin: Origin) -> None:
        """Append the first event, unless the table has one, in the open transaction."""
        if self.status is not Status.UNWRITTEN:
            return
        if not self.writable:
            raise ReadOnlyTable(f"{self.name}: the table has no event yet, so it has no past; use the table itself")
        if self._name is not None:
            _check_new(ledger, self._name)
        name = self._name if self._name is not None else ledger.next_name(self._prefix)
        if self._name is not None or name.endswith("/1"):  # the others of a series look like its first
            _warn_of_lookalike(ledger, name)
        ledger.database.on_rollback(partial(self._not_created, self._name))
        ledger.append(name, 1, Created(self.base, self.parent), reason=self.reason, origin=origin)
        self._name, self.version, self.status = name, 1, Status.WRITTEN

    def _not_created(self, name: str | None) -> None:
        """Return to what was before `_create`, after a rollback."""
        self._name, self.version, self.status = name, 0, Status.UNWRITTEN

    def detach(self) -> None:
        """Keep later changes in memory only; the events so far stay in the ledger."""
        with self.lock:
            self.ledger, self.status = None, Status.DETACHED
            self.version = max(self.version, 1)

    @contextmanager
    def _transaction(self, ledger: LedgerLog) -> Iterator[None]:
        """Write in one transaction. What `sync` reads in it stays after a rollback, because others committed it."""
        with self.lock, ledger.database.write_transaction():
            yield

    @contextmanager
    def _recording_may_stop(self) -> Iterator[None]:
        """If the ledger cannot be written, let a recording go on without it: detach, and skip the rest of the block."""
        try:
            yield
        except (LedgerFileError, SchemaError) as error:
            if self.owner is None:
                raise
            self.owner.failed(error)
            self.detach()

    def sync(self) -> bool:
        """Read the events of other writers; return whether they changed the rules."""
        if self.ledger is None or self.status is not Status.WRITTEN or not self.writable:
            return False
        head = self.ledger.event_store.head()
        if head == self._synced_to:
            return False
        later = self.ledger.changes_after(self.name, self.version)
        for event in later:
            digests = {change.decomposition for change in event.changes if change.decomposition is not None}
            fold(self.rules, event.changes, self.ledger.event_store.decompositions_by_digest(digests))
            self.dirty.update(change.op for change in event.changes)
            self.version = event.version
        self._synced_to = head
        return bool(later)

    # Changes that need no function

    def preserve(
        self, ops: Iterable[str], *, reason: str | None = None, expected_version: int | None = None
    ) -> Event | None:
        """Preserve ops, so that they stay in the graph.

        Args:
            ops: their names, or one name.
            reason: why.
            expected_version: the version that the caller takes the table to have.

        Raises:
            InvalidName: a text cannot name one op.
        """
        names = _names_of(ops)
        return self.change(
            Popped, lambda rules: _to_preserve(names, rules), reason=reason, expected_version=expected_version
        )

    def reset(
        self, ops: Iterable[str], *, reason: str | None = None, expected_version: int | None = None
    ) -> Event | None:
        """Drop the rules of ops, which follow the base again; the arguments are those of `preserve`."""
        names = _names_of(ops)
        return self.change(
            Reset, lambda rules: _to_reset(names, rules), reason=reason, expected_version=expected_version
        )

    def revert(self, to: int | str, *, reason: str | None = None, expected_version: int | None = None) -> Event | None:
        """Return to the rules of a version or tag, by one event with the differences."""
        then = self.at(to)
        return self.change(
            partial(Reverted, to=then.version),
            lambda rules: changes_between(rules, then.rules),
            reason=reason,
            expected_version=expected_version,
        )

    def tag(self, name: str, version: int | str | None = None, *, reason: str | None = None) -> Event | None:
        """Give a version a name, which never moves; no event if the version has that name already.

        Args:
            name: the tag; not a number, because `TABLE@7` is a version.
            version: the version, a number or another tag; the newest if None.
            reason: why.

        Raises:
            InvalidName: the name is invalid.
            UnknownVersion: the table has no such version or tag.
            VersionConflict: the tag names another version.
        """
        op_names.check_label(name, "a tag")
        if is_number_like(name):
            raise InvalidName(f"{name!r}: a tag must not look like a number, because TABLE@3 is a version; give a word")
        ledger, origin = self._recorded(), self._recorded().origin()
        with self._transaction(ledger):
            self.sync()
            self._create(ledger, origin)
            at = self.version if version is None else ledger.version_of(self.name, version)
            found = ledger.tags(self.name).get(name)
            if found == at:
                return None
            if found is not None:
                raise VersionConflict(
                    f"{self.name}@{name}: the tag is version {found} and never moves; choose another tag"
                )
            return ledger.append(self.name, at, Tagged(name), reason=reason, origin=origin)

    # Reading

    def at(self, version: int | str) -> TableState:
        """Return the rules at a version or tag."""
        if isinstance(version, int) and not isinstance(version, bool) and version == self.version:
            return self.state
        if self.status is Status.UNWRITTEN:
            raise UnknownVersion(f"{self.name}@{version}: the table has no version yet; change or use it first")
        return self._recorded().state(self.name, version)

    def diff(self, before: int | str, after: int | str | None = None) -> list[RuleDiff]:
        """Return the ops whose rules differ between two versions; `after` is now if None."""
        return diff(self.at(before), self.state if after is None else self.at(after))

    def history(self, op: str) -> list[Event]:
        """Return every event that changed an op, oldest first, with those before a fork."""
        source = self._source()
        return [] if source is None else self._recorded().history(source[0], op_names.normalize(op), source[1])

    def blame(self) -> dict[str, Event]:
        """Return, for each op with a rule, the event that made the rule."""
        source = self._source()
        return {} if source is None else self._recorded().state_and_blame(*source)[1]

    def events(self) -> list[Event]:
        """Return its events, oldest first."""
        return list(self._recorded().events(table=self.name)) if self.version else []

    def _source(self) -> tuple[str, int] | None:
        """Return the (table, version) whose history is its own: before the first event, that of its parent."""
        return (self.name, self.version) if self.version else self.parent

    # Other logs

    def fork(self, name: str | None = None) -> TableLog:
        """Return a new log that starts with the current rules; its first change or use writes it."""
        is_written = self.status is Status.WRITTEN
        parent = (self.name, self.version) if is_written else self.parent
        forked = TableLog(self.ledger, name, prefix=self._prefix or self.name, state=self.state, parent=parent)
        if forked.status is Status.DETACHED:
            forked.version = 1
        forked.functions = dict(self.functions)
        forked.reason = self.reason
        forked.adopt(self.owner)
        return forked

    def fork_as(self, name: str) -> TableLog:
        """Return a new log of that name, written at once.

        Raises:
            InvalidName: the name is invalid.
            LedgerError: there is such a table already.
        """
        op_names.check_label(name, "a table")
        ledger, origin = self._recorded(), self._recorded().origin()
        with self._transaction(ledger):
            self._create(ledger, origin)
            _check_new(ledger, name)
            forked = self.fork(name)
            forked._create(ledger, origin)
            return forked

    def past(self, version: int | str) -> TableLog:
        """Return a log that has the rules of a version or tag, and refuses changes."""
        past = TableLog(self.ledger, self.name, state=self.at(version), writable=False)
        past.functions = self.functions
        past.adopt(self.owner)
        return past

    def adopt(self, owner: TableOwner | None) -> None:
        """Make it, and every later fork of it, a table of a recording."""
        self.owner = owner
        if owner is not None:
            owner.adopted(self)

    def _recorded(self) -> LedgerLog:
        if self.ledger is None:
            raise LedgerError(f"{self.name}: the table is no longer recorded; open it with Ledger.table()")
        return self.ledger


def _to_preserve(ops: Iterable[str], rules: Mapping[str, Rule]) -> Wanted:
    return [(op, PRESERVE, None) for op in ops if op not in rules or rules[op].action != PRESERVE]


def _to_reset(ops: Iterable[str], rules: Mapping[str, Rule]) -> Wanted:
    return [(op, RESET, None) for op in ops if op in rules]


def _check_new(ledger: LedgerLog, name: str) -> None:
    """Refuse the name of a table that the ledger has already."""
    if ledger.event_store.table_id(name) is not None:
        raise LedgerError(f"{name!r}: there is such a table already; fork under another name")


def _warn_of_lookalike(ledger: LedgerLog, name: str) -> None:
    found = lookalike(name, ledger.event_store.table_names(""))
    if found is not None:
        warnings.warn(
            f"{name!a}: the name looks like that of the table {found!a}; choose another name if it is another table",
            LookalikeWarning,
            stacklevel=provenance.stack_level(),
        )


def _names_of(ops: Iterable[str]) -> list[str]:
    """Return the stored names of ops, each once."""
    names = [ops] if isinstance(ops, str) else ops
    return list(dict.fromkeys(op_names.normalize(name) for name in names))


def _check_base(ledger: LedgerLog, name: str, base: str) -> None:
    """Refuse to open a table with another base than it was created with."""
    if base == "torch":
        return  # the default, which most callers omit
    created = ledger.created(name)
    actual = created.base if created.parent is None else "{}@{}".format(*created.parent)
    if base != "empty":
        start = ledger.resolve(base)
        base = f"{start.table}@{start.version}"
    if base != actual:
        raise LedgerError(
            f"{name!r}: the table has the base {actual!r}, not {base!r}; omit the base, or use another name"
        )
