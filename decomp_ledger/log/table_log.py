"""A table without torch: its events, its rules at any version, and every change to it.

`pytorch/table.py` puts torch's dict on top; the command line uses this alone.
"""

from __future__ import annotations

import contextlib
import enum
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

from decomp_ledger import catalogs
from decomp_ledger.analysis.refusal import BrokenPolicy, refused, refused_tag
from decomp_ledger.errors import (
    InvalidName,
    LedgerError,
    LedgerFileError,
    LookalikeWarning,
    PolicyError,
    PolicyWarning,
    ReadOnlyTable,
    SchemaError,
    UnknownOp,
    UnknownVersion,
    VersionConflict,
)
from decomp_ledger.log import provenance
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.process_functions import KeptFunctions
from decomp_ledger.log.provenance import Origin
from decomp_ledger.model import op_names
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.canonical_json import check_text
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.display import Row, Rows, displayed, guarded
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
    Traced,
)
from decomp_ledger.model.handles import Handle
from decomp_ledger.model.lookalikes import lookalike
from decomp_ledger.model.materialize import Snapshot, materialize
from decomp_ledger.model.op_lookup import Lists, ops_named
from decomp_ledger.model.policy import Policy
from decomp_ledger.model.rules import Decomposition, Rule, RuleDiff, TableState, changes_between, diff, fold
from decomp_ledger.model.state_specs import LATEST, is_number_like, parse_runs_back
from decomp_ledger.storage.block_lock import BlockLock
from decomp_ledger.storage.database import Transaction

__all__ = ["Decide", "Status", "TableLog", "TableOwner", "Wanted", "to_preserve", "to_reset"]

Wanted: TypeAlias = "list[tuple[str, str, Decomposition | None]]"  # (op, action, decomposition), each op once
Decide: TypeAlias = "Callable[[Mapping[str, Rule]], Wanted]"
Make: TypeAlias = "Callable[..., Changing]"

# What a row of a rule has of the event that set it.
_BLAMED = ("version", "seq", "kind", "recorded_at", "actor", "reason")


class Status(enum.Enum):
    """Where the events of a table log go.

    UNWRITTEN: the ledger has no event of the table, which is a new table or a fork. Version 0.
    WRITTEN: each change becomes an event of the ledger.
    DETACHED: changes stay in memory, because a recording has stopped, or there never was a ledger.

    UNWRITTEN becomes WRITTEN with `create()`: the first change or use calls it. Both become DETACHED with `detach()`.
    In any of the three, `writable` is False for a past version, which refuses changes.
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

    def series(self) -> str:
        """Return the name of the series of a table that is made now: the recording and the function that makes it."""

    def new_name(self, series: str) -> str:
        """Return the name of a new table of a series, in the write transaction that appends its first event."""


class Now(NamedTuple):
    """What a log knows of its table. It is replaced as a whole, so no interrupt can leave half of a change.

    Attributes:
        ledger: where its events go; None if DETACHED.
        name: the table's name, or None.
        version: its version; 0 before the first event.
        rules: op -> rule, as of the version. Never changed.
        earlier: the rules that it was made from.
        changed: the ops by which `rules` differ from `earlier`.
        synced_to: the head of the ledger when the events of other writers were last read.
    """

    ledger: LedgerLog | None
    name: str | None
    version: int
    rules: Mapping[str, Rule]
    earlier: Mapping[str, Rule]
    changed: frozenset[str] = frozenset()
    synced_to: tuple[int, bytes] | None = None


@displayed
@checked
class TableLog(Handle):
    """One table's log, and its current rules.

    Made by `Ledger.table_log`, `Ledger.create_table` and recordings. A fork or a table of a recording has no event,
    and may have no name, until its first change or use.

    Args:
        ledger: where its events go; None keeps its changes in memory.
        name: its name; None takes `<prefix>/<n>` with the first event: a free number, or that of the recording's run.
        prefix: the start of that name.
        state: its rules at the start.
        parent: the (table, version) that it is forked from.
        writable: False for a past version.

    Attributes:
        functions: the functions of this process that its rules name.
        is_loaded: tells whether an op is loaded; None without torch.
        before_change: called before its version or rules become others; None without torch.
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
        rules = dict(state.rules) if state is not None else {}
        version = state.version if state is not None and parent is None else 0
        self._known = Now(ledger, name, version, rules, rules)
        # What becomes known if the transaction is committed.
        self._pending: tuple[Transaction, Now] | None = None
        self.parent = parent
        self.writable = writable
        self.reason: str | None = None
        self.owner: TableOwner | None = None
        self.lock = BlockLock()
        self.functions = KeptFunctions()
        self.is_loaded: Callable[[str], bool] | None = None
        self.before_change: Callable[[], object] | None = None
        self._prefix = prefix

    @guarded
    def __repr__(self) -> str:
        known = self._known  # what memory has, so that a repr reads no file
        past = "" if self.writable else ", read-only"
        rules = f"{len(known.rules)} rule{'' if len(known.rules) == 1 else 's'}"
        return f"<TableLog {known.name or self._prefix} version {known.version}: base {self.base}, {rules}{past}>"

    @classmethod
    def open(cls, ledger: LedgerLog, name: str) -> TableLog:
        """Open a table of a ledger.

        Raises:
            UnknownTable: the ledger has no such table.
        """
        state = ledger.state(name)
        return cls(ledger, state.table, state=state)

    @classmethod
    def create_or_open(cls, ledger: LedgerLog, name: str, base: str) -> TableLog:
        """Open a table of a ledger; create it first if it is new.

        Raises:
            InvalidName: the name is invalid.
            LedgerError: the table exists with another base.
        """
        op_names.check_label(parse_runs_back(name)[0], "a table")
        if ledger.database.read_only:
            return cls.open(ledger, name)
        with ledger.database.write_transaction():
            known = ledger.find_table(name)
            if known is not None:
                _check_base(ledger, known, base)
                return cls.open(ledger, known)
            op_names.check_label(name, "a table")
            if base in BASES:
                log = cls(ledger, name, state=TableState(name, 0, base, {}))
            else:
                start = ledger.resolve(base)
                log = cls(ledger, name, state=start, parent=(start.table, start.version))
            log.create()
            return log

    # What it knows. It becomes visible after the commit, by one assignment. If an interrupt comes in between, the next
    # read asks the ledger whether the event is there.

    @property
    def now(self) -> Now:
        """What is known of the table: within a transaction, as it is in that; else as it is in the ledger."""
        return self._known if self._pending is None else self._settled()

    def _settled(self) -> Now:
        """Find out whether the transaction of the last event is open, was committed, or was not."""
        with self.lock:
            if self._pending is None:
                return self._known
            transaction, then = self._pending
            if then.ledger is not None:
                if then.ledger.database.open_transaction is transaction:
                    return then
                if then.ledger.event_store.is_committed(transaction):
                    self._known = then
            self._pending = None
            return self._known

    def _set(self, then: Now) -> None:
        """Make something known: now, or once the transaction is committed that appended an event."""
        if self.before_change is not None:
            self.before_change()
        ledger = self._known.ledger
        transaction = None if ledger is None else ledger.database.open_transaction
        if transaction is None or transaction.last_event is None:
            self._known = then
        else:
            self._pending = transaction, then

    @property
    def ledger(self) -> LedgerLog | None:
        """The ledger; None if DETACHED."""
        return self._known.ledger

    @property
    def status(self) -> Status:
        """Where its events go."""
        now = self.now
        if now.ledger is None:
            return Status.DETACHED
        return Status.WRITTEN if now.version else Status.UNWRITTEN

    @property
    def version(self) -> int:
        """Its version; 0 before the first event."""
        return self.now.version

    @property
    def rules(self) -> Mapping[str, Rule]:
        """Its rules, op -> rule, as of the version."""
        return self.now.rules

    def changed_since(self, rules: Mapping[str, Rule]) -> Iterable[str]:
        """Return the ops whose rules are others now.

        Args:
            rules: what `rules` was at some time.
        """
        now = self.now
        if now.rules is rules:
            return ()
        if now.earlier is rules:
            return now.changed
        return {op for op in now.rules.keys() | rules.keys() if now.rules.get(op) != rules.get(op)}

    def replace_rules(self, rules: Mapping[str, Rule]) -> None:
        """Give an unrecorded table other rules."""
        self._set(self.now._replace(rules=dict(rules)))

    @property
    def name(self) -> str:
        """Its name; `<prefix>/?` before it has one."""
        name = self.now.name
        return name if name is not None else f"{self._prefix}/?"

    def is_recorded(self) -> bool:
        """Tell whether its changes still become events; detach it if its recording has stopped."""
        if self.owner is not None and self.owner.stopped:
            self.detach()
        return self.status is not Status.DETACHED

    @property
    def state(self) -> TableState:
        """Its rules now, as an immutable value."""
        now = self.now
        return TableState(self.name, now.version, self.base, dict(now.rules))

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
            PolicyError: the change breaks a policy that the project enforces.
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
            self._set(_changed(self.now, self._decided(decide, expected_version), max(self.version, 1) + 1))
            return None

    def _append_change(
        self, make: Make, decide: Decide, reason: str | None, expected_version: int | None
    ) -> Event | None:
        ledger, origin = self._recorded(), self._recorded().origin()
        policy = self._enforced(ledger)
        why = f"{self.reason} / {reason}" if self.reason and reason else self.reason or reason
        with ledger.database.write_transaction():
            self.sync()
            wanted = self._decided(decide, expected_version)
            if not wanted:
                return None
            if policy is not None:
                given = ledger.joined_reasons(why)
                changes = ((op, action) for op, action, _ in wanted)
                self._refuse(refused(policy, self.rules, self.base, changes, actor=origin[0], reason=given))
            self._create(ledger, origin)
            body = self._body(make, wanted, ledger)
            event = ledger.append(self.name, self.version + 1, body, reason=why, origin=origin)
            then = _changed(self.now, wanted, event.version)
            self._set(then._replace(synced_to=(event.seq, bytes.fromhex(event.hash))))
        return event

    def _decided(self, decide: Decide, expected_version: int | None) -> Wanted:
        if expected_version is not None and expected_version != self.version:
            raise VersionConflict(
                f"{self.name}: the table is at version {self.version}, not {expected_version}; read it again"
            )
        return decide(self.rules)

    def _enforced(self, ledger: LedgerLog) -> Policy | None:
        """Return the policy that changes must hold to; None if the project enforces none."""
        try:
            policy = ledger.policy
        except LedgerError:
            if self.owner is None:
                raise
            return None  # a recorded program goes on; `gate` reports the settings
        return policy if policy.enforce else None

    def _refuse(self, broken: Sequence[BrokenPolicy]) -> None:
        """Refuse a change that breaks policies; only warn if a recorded program makes it."""
        if not broken:
            return
        more = f" ({len(broken) - 1} more)" if len(broken) > 1 else ""
        which = f"the policy {broken[0].policy!r} of the project"
        if self.owner is None:
            raise PolicyError(f"{self.name}: {which} refuses the change: {broken[0]}{more}", tuple(broken))
        message = f"{self.name}: the change is recorded, and breaks {which}: {broken[0]}{more}"
        # Not even where the program makes errors of warnings, because without the recording there were none.
        with contextlib.suppress(PolicyWarning):
            warnings.warn(message, PolicyWarning, stacklevel=provenance.stack_level())

    def _body(self, make: Make, wanted: Wanted, ledger: LedgerLog) -> Changing:
        """Store the decompositions of the changes, and return the event's body."""
        put, loaded = ledger.event_store.put_decomposition, self.is_loaded
        changes = tuple(Change(op, action, None if ref is None else put(ref)) for op, action, ref in wanted)
        pending = () if loaded is None else tuple(c.op for c in changes if c.action != RESET and not loaded(c.op))
        return make(changes, pending=pending)

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
        with ledger.database.write_transaction():
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
                with self._recording_may_stop(), ledger.database.write_transaction():
                    return ledger.append(self.name, version, body, reason=self.reason, origin=origin)
        return None

    def used(self, body: Traced, version: int, origin: Origin) -> None:
        """Record that a version was used to trace.

        Args:
            body: what was traced.
            version: the version that was used.
            origin: who traced, where and in what environment.
        """
        with self.lock:
            if self.is_recorded():
                ledger = self._recorded()
                with self._recording_may_stop(), ledger.database.write_transaction():
                    ledger.append(self.name, version, body, reason=self.reason, origin=origin)

    def create(self) -> None:
        """Append the first event, `created`, unless the table has one."""
        with self.lock:
            if self.is_recorded() and self.status is Status.UNWRITTEN:
                ledger, origin = self._recorded(), self._recorded().origin()
                with self._recording_may_stop(), ledger.database.write_transaction():
                    self._create(ledger, origin)

    def _create(self, ledger: LedgerLog, origin: Origin) -> None:
        """Append the first event, unless the table has one, in the open transaction."""
        if self.status is not Status.UNWRITTEN:
            return
        if not self.writable:
            raise ReadOnlyTable(f"{self.name}: the table has no event yet, so it has no past; use the table itself")
        now = self.now
        if now.name is not None:
            _check_new(ledger, now.name)
        name = now.name
        if name is None:
            name = ledger.next_name(self._prefix) if self.owner is None else self.owner.new_name(self._prefix)
        if now.name is not None or name.endswith("/1"):  # the others of a series look like its first
            _warn_of_lookalike(ledger, name)
        ledger.append(name, 1, Created(self.base, self.parent), reason=self.reason, origin=origin)
        self._set(now._replace(name=name, version=1))

    def detach(self) -> None:
        """Keep later changes in memory only; the events so far stay in the ledger."""
        with self.lock:
            now = self.now
            self._known = now._replace(ledger=None, version=max(now.version, 1))

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
        now = self.now
        if now.ledger is None or not now.version or not self.writable:
            return False
        store = now.ledger.event_store
        head = store.head()
        if head == now.synced_to:
            return False
        version, rules = now.version, dict(now.rules)
        changed: set[str] = set()
        for event in now.ledger.changes_after(self.name, version):
            digests = {change.decomposition for change in event.changes if change.decomposition is not None}
            fold(rules, event.changes, store.decompositions_by_digest(digests))
            changed.update(change.op for change in event.changes)
            version = event.version
        later = Now(now.ledger, now.name, version, rules, now.rules, frozenset(changed), head)
        self._set(later if version != now.version else now._replace(synced_to=head))
        return version != now.version

    # Changes that need no function

    def preserve(
        self, ops: Iterable[str], *, reason: str | None = None, expected_version: int | None = None
    ) -> Event | None:
        """Preserve ops, so that they stay in the graph.

        Args:
            ops: their names, or one name. Without torch, the newest shipped catalog and the ledger's last
                materialization tell which overloads a family (`aten.linear`, `linear`) has; a name with `::` is taken
                as it is.
            reason: why.
            expected_version: the version that the caller takes the table to have.

        Raises:
            InvalidName: a text cannot name one op.
            UnknownOp: a name without `::` is that of no known op.
        """
        names = _names_of(ops, self.rules, self.ledger)
        return self.change(
            Popped, lambda rules: to_preserve(names, rules), reason=reason, expected_version=expected_version
        )

    def reset(
        self, ops: Iterable[str], *, reason: str | None = None, expected_version: int | None = None
    ) -> Event | None:
        """Drop the rules of ops, which follow the base again; the arguments are those of `preserve`."""
        names = _names_of(ops, self.rules, self.ledger)
        return self.change(
            Reset, lambda rules: to_reset(names, rules), reason=reason, expected_version=expected_version
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
            PolicyError: the tag breaks a policy that the project enforces.
        """
        op_names.check_label(name, "a tag")
        if is_number_like(name):
            raise InvalidName(f"{name!r}: a tag must not look like a number, because TABLE@3 is a version; give a word")
        if name == LATEST:
            raise InvalidName(f"{name!r}: it always names the newest version, so it cannot be a tag; give another word")
        ledger, origin = self._recorded(), self._recorded().origin()
        policy = self._enforced(ledger)
        with self.lock, ledger.database.write_transaction():
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
            if policy is not None:
                self._refuse(refused_tag(policy, actor=origin[0], dirty=origin[2].get("git_dirty")))
            return ledger.append(self.name, at, Tagged(name), reason=reason, origin=origin)

    # Reading

    def at(self, version: int | str) -> TableState:
        """Return the rules at a version or tag."""
        if isinstance(version, int) and not isinstance(version, bool) and version == self.version:
            return self.state
        if self.status is Status.UNWRITTEN:
            raise UnknownVersion(f"{self.name}@{version}: the table has no version yet; change or use it first")
        return self._recorded().state(self.name, version)

    def diff(self, before: int | str, after: int | str | None = None) -> Rows[RuleDiff]:
        """Return the ops whose rules differ between two versions; `after` is now if None."""
        return Rows(diff(self.at(before), self.state if after is None else self.at(after)))

    def history(self, op: str) -> Rows[Event]:
        """Return every event that changed an op, oldest first, with those before a fork.

        Args:
            op: its name; the name of a family means all its overloads.
        """
        source = self._source()
        if source is None:
            return Rows()
        ledger = self._recorded()
        names = ops_named(op, Lists(self.rules, ledger.changed_ops))
        events = {event.seq: event for name in names for event in ledger.history(source[0], name, source[1])}
        return Rows(events[seq] for seq in sorted(events))

    def blame(self) -> dict[str, Event]:
        """Return, for each op with a rule, the event that made the rule."""
        source = self._source()
        return {} if source is None else self._recorded().state_and_blame(*source)[1]

    def events(self) -> Rows[Event]:
        """Return its events, oldest first."""
        return Rows(self._recorded().events(table=self.name) if self.version else ())

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each rule: its op, its action, the decomposition, and the event that set it."""
        blame = self.blame()
        rows = self.state.to_dicts()
        for row in rows:
            event = blame.get(str(row["op"]))
            row |= {name: getattr(event, name, None) for name in _BLAMED}
            row["call_site"] = None if event is None or event.call_site is None else str(event.call_site)
        return rows

    def _source(self) -> tuple[str, int] | None:
        """Return the (table, version) whose history is its own: before the first event, that of its parent."""
        return (self.name, self.version) if self.version else self.parent

    # Other logs

    def fork(self, name: str | None = None) -> TableLog:
        """Return a new log that starts with the current rules; its first change or use writes it."""
        is_written = self.status is Status.WRITTEN
        parent = (self.name, self.version) if is_written else self.parent
        prefix = (self._prefix or self.name) if self.owner is None else self.owner.series()
        forked = TableLog(self.ledger, name, prefix=prefix, state=self.state, parent=parent)
        if forked.ledger is None:
            forked.detach()
        forked.functions = self.functions.of(self.rules)
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
        with self.lock, ledger.database.write_transaction():
            self._create(ledger, origin)
            _check_new(ledger, name)
            forked = self.fork(name)
            forked._create(ledger, origin)
            return forked

    def past(self, version: int | str) -> TableLog:
        """Return a log that has the rules of a version or tag, and refuses changes."""
        past = TableLog(self.ledger, self.name, state=self.at(version), writable=False)
        past.functions = self.functions.of(past.rules)
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


def _changed(now: Now, wanted: Wanted, version: int) -> Now:
    """Return what is known after changes; the same if there are none."""
    if not wanted:
        return now
    rules = dict(now.rules)
    for op, action, decomposition in wanted:
        if action == RESET:
            rules.pop(op, None)
        else:
            rules[op] = Rule(action, decomposition)
    return now._replace(version=version, rules=rules, earlier=now.rules, changed=frozenset(op for op, _, _ in wanted))


def to_preserve(ops: Iterable[str], rules: Mapping[str, Rule]) -> Wanted:
    """Return the changes that preserve ops, each given once by its stored name."""
    return [(op, PRESERVE, None) for op in ops if op not in rules or rules[op].action != PRESERVE]


def to_reset(ops: Iterable[str], rules: Mapping[str, Rule]) -> Wanted:
    """Return the changes that drop the rules of ops, each given once by its stored name."""
    return [(op, RESET, None) for op in ops if op in rules]


def _check_new(ledger: LedgerLog, name: str) -> None:
    """Refuse the name of a table that the ledger has already."""
    if ledger.event_store.table_id(name) is not None:
        raise LedgerError(f"{name!r}: there is such a table already; fork under another name")
    if ledger.runs(name):
        raise LedgerError(f"{name!r}: it names the runs of a recorded table; fork under another name")


def _warn_of_lookalike(ledger: LedgerLog, name: str) -> None:
    found = lookalike(name, ledger.event_store.table_names(""))
    if found is not None:
        warnings.warn(
            f"{name!a}: the name looks like that of the table {found!a}; choose another name if it is another table",
            LookalikeWarning,
            stacklevel=provenance.stack_level(),
        )


def _names_of(ops: Iterable[str], rules: Mapping[str, Rule], ledger: LedgerLog | None) -> list[str]:
    """Return the stored names of ops, each once."""
    found: dict[str, None] = {}
    for text in [ops] if isinstance(ops, str) else ops:
        if isinstance(text, str) and "::" not in text:
            found.update(dict.fromkeys(_ops_named(text, rules, ledger)))
        else:
            found[op_names.normalize(text)] = None
    return list(found)


def _ops_named(text: str, rules: Mapping[str, Rule], ledger: LedgerLog | None) -> list[str]:
    """Return the ops that a name without `::` means: of torch, of the rules, else of the last recorded torch."""
    newest = catalogs.released(catalogs.available()[-1]).ops
    with contextlib.suppress(UnknownOp):
        found = ops_named(text, Lists(newest, rules))
        if any(op in newest for op in found):  # of another op, the rules may name only some overloads
            return found
    try:
        return ops_named(text, Lists(newest, rules, () if ledger is None else _last_ops(ledger)))
    except UnknownOp as error:
        raise UnknownOp(
            f"{error}; without torch, ops of libraries are known only from rules and from the last materialization"
        ) from None


def _last_ops(ledger: LedgerLog) -> Collection[str]:
    """Return the ops of the ledger's newest materialization; none if it has none."""
    event = next(ledger.events(kind=Materialized.kind, desc=True, limit=1), None)
    return ledger.catalog(event.body.catalog).ops if event and isinstance(event.body, Materialized) else ()


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
