"""DecompTable: torch's decomposition table, with every change to it recorded."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from decomp_ledger import catalogs
from decomp_ledger.analysis.idle import IdleRule
from decomp_ledger.errors import InvalidName, LedgerError, PendingOpWarning, UnusableValue
from decomp_ledger.log import provenance
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.table_log import TableLog, Wanted, to_preserve, to_reset
from decomp_ledger.model import op_names
from decomp_ledger.model.arguments import one_or_more
from decomp_ledger.model.display import Row, Rows, displayed, guarded
from decomp_ledger.model.events import OVERRIDE, PRESERVE, Event, Popped, Reset, Set, Updated
from decomp_ledger.model.materialize import ABSENT
from decomp_ledger.model.rules import Decomposition, Rule, RuleDiff, TableState
from decomp_ledger.pytorch import active, decompositions, environment, internals
from decomp_ledger.pytorch.dispatcher import Defaults, dispatcher, is_loaded, near_names, op_names_of, resolve, why_idle
from decomp_ledger.pytorch.idle_warnings import MAX_WARNINGS, IdleWarnings
from decomp_ledger.pytorch.mapping import NOT_KNOWN, LiveMapping
from decomp_ledger.storage import fork_safety

if TYPE_CHECKING:
    from decomp_ledger.analysis.numerics import NumericsCheck

__all__ = ["DecompTable"]

# Events of tables record which torch they were made in.
provenance.torch_facts = environment.torch_facts

_MISSING: Any = object()


@displayed
class DecompTable(LiveMapping):
    """A decomposition table: a dict of operator -> decomposition, and its history.

    It is a subclass of `torch.export.CustomDecompTable` and takes its place. `Ledger.table(name)` makes one, and starts
    the recording of exports with it. Within a recording, `DecompTable()` makes one of the recording.

    An op is given as an `OpOverload`, a higher-order operator, a name (`aten::linear`, `aten.linear.default`), or an
    `OpOverloadPacket` or the name of a family (`aten.linear`, `linear`), which mean all overloads. Keys are always
    operators.

    Reads see operators that were loaded since the last read. `materialize()`, an export and `refresh()` also see
    what a plain read cannot: C++ code that registers after its library was loaded, and kernels or registry values
    replaced in place. `Dispatcher.token` lists all of these. What other writers change in the ledger is taken in by
    these three, and by each change and tag of this table; a plain read does not open the file.

    A read raises UntrustedModule, NotImportable or DecompositionChanged if a recorded decomposition cannot be loaded
    in this process. A change that cannot be recorded raises LedgerFileError, and is not made.
    """

    def __init__(self, _log: TableLog | None = None, /) -> None:
        if _log is None:
            recording = active.current()
            if recording is None:
                raise UnusableValue("DecompTable(): no recording is entered; make the table with Ledger.table(name)")
            _log = recording.new_log()
        self._warnings = IdleWarnings(_log)
        super().__init__(_log)

    @guarded
    def __repr__(self) -> str:
        size = "cannot be read here"
        if self._defaults is not None:
            with contextlib.suppress(LedgerError):
                self._catch_up()
                size = f"{dict.__len__(self)} decompositions"
        return f"<DecompTable {self.name!r} version {self.version}: {size}, {len(self._log.rules)} changed>"

    @property
    def decomp_table(self) -> DecompTable:
        """The mapping under upstream's name: here the table itself."""
        return self

    @property
    def has_materialized(self) -> bool:
        """Always True, because the content is there from the beginning; upstream's is False until the first read."""
        return True

    @property
    def deleted_custom_ops(self) -> set[Any]:
        """Loaded custom operators that the table preserves; upstream forgets them when it materializes."""
        kept = (op for op, rule in self._log.rules.items() if rule.action == PRESERVE)
        return {live for op in kept if not op_names.is_aten(op) and (live := resolve(op)) is not None}

    # Changes

    def __setitem__(self, key: object, value: Any) -> None:
        ops = self._ops_of(key)
        self._override(Set if len(ops) == 1 else Updated, dict.fromkeys(ops, value))

    def __delitem__(self, key: object) -> None:
        self.pop(key)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Override many ops, as one event."""
        pairs = dict(*args, **kwargs)
        self._override(Updated, {op: fn for key, fn in pairs.items() for op in self._ops_of(key)})

    def __ior__(self, other: Any) -> DecompTable:  # type: ignore[override]
        self.update(other)
        return self

    def setdefault(self, key: object, default: Any = None) -> Any:
        """Return the decomposition of an op; give it `default` first if it has none."""
        found = self.get(key, _MISSING)
        if found is _MISSING:
            self[key] = found = default
        return found

    def pop(self, key: object, *default: Any) -> Any:
        """Remove an op so that it stays in the graph, and return its decomposition.

        As in upstream, a custom op that is not in the table can be popped once. Once loaded, it stays in the graph.

        Args:
            key: the op. A packet, or the name of a family, removes all its overloads.
            *default: returned instead of raising KeyError.

        Returns:
            The decomposition that the op had; for a packet or a family, a dict of those that its overloads had. For an
            op that had none, a callable that looks for one when it is called.

        Raises:
            KeyError: an aten op that is not in the table, or a custom op that was removed before.
        """
        if len(default) > 1:
            raise TypeError(f"pop expected at most 2 arguments, got {1 + len(default)}")
        try:
            ops = self._ops_of(key)
        except LedgerError:
            if default and not isinstance(key, str):
                return default[0]
            raise
        removed = self._remove(ops)
        if removed and (len(ops) > 1 or isinstance(key, internals.OpOverloadPacket)):
            return removed
        if removed:
            return removed[ops[0]]
        if default:
            return default[0]
        if op_names.is_aten(ops[0]):
            raise KeyError(key)
        raise KeyError(f"{key} doesn't exist in the table")

    def _remove(self, ops: list[str]) -> dict[str, Callable[..., Any]]:
        """Preserve those of the ops that upstream's pop would remove; return the decompositions that they had."""
        had: dict[str, tuple[Rule | None, str]] = {}
        defaults = dispatcher.current()

        def decide(rules: Mapping[str, Rule]) -> Wanted:
            had.clear()
            for op in ops:
                rule = rules.get(op)
                choice = self._choose(op, rule, defaults)
                if choice != ABSENT or (not op_names.is_aten(op) and rule != Rule(PRESERVE)):
                    had[op] = rule, choice
            return [(op, PRESERVE, None) for op in had]

        with self._shown():
            self._log.change(Popped, decide)
        self._warn_of_typos(op for op, (_, choice) in had.items() if choice == ABSENT)  # others are loaded
        self._warnings.warn_of(had, PRESERVE)
        # Last, because it may import a module, and the ledger must not be locked meanwhile.
        return {op: self._removed(op, rule, choice, defaults) for op, (rule, choice) in had.items()}

    def _removed(self, op: str, rule: Rule | None, choice: str, defaults: Defaults) -> Callable[..., Any]:
        """Return the decomposition that a removed op had; if it cannot be loaded, a callable that says why."""
        try:
            found = self._chosen(op, rule, choice, defaults) or LateDecomposition(op)
            return found.value if isinstance(found, decompositions.NotCallable) else found
        except LedgerError as error:
            return LateDecomposition(op, error)

    def popitem(self) -> tuple[Any, Any]:
        """Remove the last op and return it with its decomposition.

        Raises:
            KeyError: the table is empty.
        """
        key = next(reversed(self), None)
        if key is None:
            raise KeyError("popitem(): dictionary is empty")
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove all ops that are in the table now, as one event."""
        self._remove([op.name() for op in self])

    def preserve(self, *keys: object, reason: str | None = None, expected_version: int | None = None) -> None:
        """Remove ops from the table so that they stay in the graph, loaded or not.

        Args:
            *keys: the ops.
            reason: why.
            expected_version: the version that the table must have.

        Raises:
            VersionConflict: the table has another version.
        """
        ops = self._ops_of_all(keys)
        with self._shown():
            self._log.change(Popped, partial(to_preserve, ops), reason=reason, expected_version=expected_version)
        self._warn_of_typos(ops)
        self._warnings.warn_of(ops, PRESERVE)

    def override(
        self, key: object, fn: Callable[..., Any], *, reason: str | None = None, expected_version: int | None = None
    ) -> None:
        """Give an op a decomposition, loaded or not; `table[key] = fn` with a reason.

        Args:
            key: the op.
            fn: its decomposition.
            reason: why.
            expected_version: the version that the table must have.

        Raises:
            VersionConflict: the table has another version.
            UnusableValue: `fn` is not callable.
        """
        ops = self._ops_of(key)
        kind = Set if len(ops) == 1 else Updated
        self._override(kind, dict.fromkeys(ops, fn), reason, expected_version)

    def reset(self, *keys: object, reason: str | None = None, expected_version: int | None = None) -> None:
        """Drop the rules of ops; the ops follow the table's base again.

        Args:
            *keys: the ops.
            reason: why.
            expected_version: the version that the table must have.

        Raises:
            VersionConflict: the table has another version.
        """
        ops = self._ops_of_all(keys)
        with self._shown():
            self._log.change(Reset, partial(to_reset, ops), reason=reason, expected_version=expected_version)

    def _override(
        self,
        kind: type[Set] | type[Updated],
        pairs: Mapping[str, Any],
        reason: str | None = None,
        expected_version: int | None = None,
    ) -> None:
        defaults = dispatcher.current()
        wanted = {op: self._identify(op, fn, defaults) for op, fn in pairs.items()}

        def decide(rules: Mapping[str, Rule]) -> Wanted:
            return [
                (op, OVERRIDE, decomposition)
                for op, decomposition in wanted.items()
                if rules.get(op) != Rule(OVERRIDE, decomposition)
                and not (op not in rules and self._is_unchanged(op, pairs[op], defaults))
            ]

        if self._log.writable:
            decompositions.keep_functions(self._log, wanted, pairs)
        with self._shown():
            # A function made again from the same source changes no rule, so no event; the newest is the one to use.
            self._renewed.update(wanted)
            self._registrations = NOT_KNOWN
            self._log.change(kind, decide, reason=reason, expected_version=expected_version)
        self._warn_of_typos(list(wanted))
        self._warnings.warn_of((op for op in wanted if op in self._log.rules), OVERRIDE)

    def _identify(self, op: str, fn: Any, defaults: Defaults) -> Decomposition:
        """Return what the ledger records of a callable; refuse what would be looked for in vain, as torch does not."""
        found = decompositions.identify(op, fn, defaults)
        decompositions.check_readable(op, fn, found, defaults)
        return found

    def _ops_of(self, key: object) -> list[str]:
        """Return the names of the ops that a key means; those of the table's rules need not be loaded."""
        return op_names_of(key, self._log.rules)

    def _ops_of_all(self, keys: Iterable[object]) -> list[str]:
        return list(dict.fromkeys(op for key in keys for op in self._ops_of(key)))

    def _is_unchanged(self, op: str, fn: Any, defaults: Defaults) -> bool:
        return self._log.base == "torch" and decompositions.is_default(op, fn, defaults)

    def _warn_of_typos(self, ops: Iterable[str]) -> None:
        pending = [op for op in ops if not is_loaded(op)]
        # Few, because hundreds of pending ops are a library to come, not typos; and a search takes milliseconds.
        for op in pending[:MAX_WARNINGS]:
            if near := near_names(op):
                warnings.warn(
                    f"{op}: it is not loaded, so it is pending in {self.name!r}; did you mean {', '.join(near)}?",
                    PendingOpWarning,
                    stacklevel=provenance.stack_level(),
                )

    # Copies

    def copy(self) -> DecompTable:
        """Fork the table: the copy becomes a table of its own in the ledger at its first change or use."""
        return DecompTable(self._log.fork())

    __copy__ = copy

    def __deepcopy__(self, memo: object) -> DecompTable:
        return self.copy()

    def fork(self, name: str) -> DecompTable:
        """Fork the table under a name, and record it at once.

        Raises:
            InvalidName: the name cannot name a table.
            LedgerError: the ledger has a table of that name.
        """
        return DecompTable(self._log.fork_as(name))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise UnusableValue(
            f"{self.name}: the table cannot be pickled, because it is bound to its ledger; "
            "pickle dict(table), or open the table by its name in the other process"
        )

    # The history

    @property
    def name(self) -> str:
        """The table's name in the ledger."""
        return self._log.name

    @property
    def version(self) -> int:
        """The table's version: 1 when it is created, one more with every change, 0 before its first event."""
        return self._log.version

    @property
    def state(self) -> TableState:
        """The table's rules, as an immutable value."""
        return self._log.state

    @property
    def ledger(self) -> LedgerLog | None:
        """The ledger that it is recorded in; None if it is no longer recorded."""
        return self._log.ledger

    @property
    def pending(self) -> tuple[str, ...]:
        """Names of the ops with a rule that are not loaded now."""
        return tuple(sorted(op for op in self._log.rules if not is_loaded(op)))

    @property
    def idle(self) -> tuple[IdleRule, ...]:
        """The rules that cannot act in this process, by op, each with the reason and what to do; pending ones too."""
        found = (why_idle(op, rule.action) for op, rule in sorted(self._log.rules.items()))
        return tuple(each for each in found if each is not None)

    def at(self, version: int | str) -> DecompTable:
        """Return the table as it was at a version or tag, read-only; `run_decompositions` takes it."""
        return DecompTable(self._log.past(version))

    def revert(self, to: int | str, *, reason: str | None = None, expected_version: int | None = None) -> None:
        """Bring back the rules of a version or tag, as one new event."""
        with self._shown():
            self._log.revert(to, reason=reason, expected_version=expected_version)

    def tag(self, name: str, version: int | str | None = None, *, reason: str | None = None) -> None:
        """Name a version permanently; the present one if None."""
        with self._shown():
            self._log.tag(name, version, reason=reason)

    def history(self, key: object) -> Rows[Event]:
        """Return every event that touched an op, oldest first."""
        names = [key] if isinstance(key, str) else self._ops_of(key)
        events = {event.seq: event for name in names for event in self._log.history(name)}
        return Rows(events[seq] for seq in sorted(events))

    def blame(self) -> dict[str, Event]:
        """Return, for each op with a rule, the event that set it."""
        return self._log.blame()

    def diff(self, before: int | str, after: int | str | None = None) -> Rows[RuleDiff]:
        """Return the ops whose rules differ between two versions; `after` is now if None."""
        return self._log.diff(before, after)

    def events(self) -> Rows[Event]:
        """Return the table's events, oldest first."""
        return self._log.events()

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each rule: its op, its action, the decomposition, and the event that set it."""
        return self._log.to_dicts()

    def _shown_as(self) -> TableLog:
        """Return what a notebook shows of it."""
        return self._log

    # Numerics

    def check_numerics(
        self,
        *,
        samples: Mapping[str, Sequence[str]] | None = None,
        progress: Callable[[int, int], object] = lambda done, count: None,
    ) -> NumericsCheck:
        """Compare each override with the kernel of its op on sample calls; see :func:`decomp_ledger.check_numerics`.

        Args:
            samples: more sample calls: op -> texts such as `(f32[2, 3], dim=1)`, instead of the shipped ones of the op.
            progress: called with the number of ops done and of all.

        Raises:
            SampleError: a text is not a sample call.
        """
        with fork_safety.importing("decomp_ledger.pytorch.numerics"):
            from decomp_ledger.pytorch import numerics  # late, because each recorded export imports this file

        functions = {op: self.get(op) for op, rule in self._log.rules.items() if rule.action == OVERRIDE}
        given = {op: one_or_more(texts) for key, texts in (samples or {}).items() for op in op_names_of(key)}
        calls = {**catalogs.samples(), **given}
        return numerics.checked_overrides(f"{self.name}@{self.version}", self.state, functions, {}, calls, progress)


class LateDecomposition:
    """A callable that looks for an op's decomposition when it is called.

    Popping an op that has no decomposition yet returns one.
    """

    def __init__(self, op: str, error: LedgerError | None = None) -> None:
        self._op = op
        self._error = error

    def __repr__(self) -> str:
        return f"<decomposition of {self._op}, looked up when called>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._error is not None:
            raise self._error
        live = resolve(self._op)
        if live is None:
            raise InvalidName(f"{self._op}: it is not loaded, so it has no decomposition to call; load its library")
        return internals.cia_decomposition(live)(*args, **kwargs)
