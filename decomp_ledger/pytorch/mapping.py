"""The dict that a table is to torch: its content, and every way to read it.

The content lives in the dict storage of the object itself, so that C code reads it too. Only
:func:`decomp_ledger.model.materialize.choose` decides what the table holds for an op. Operators are resolved again
whenever the dispatcher changed, because an operator whose library is destroyed crashes the process when called.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from decomp_ledger.errors import InvalidName, LedgerError, LedgerFileError, SchemaError, UnsupportedTorch, UnusableValue
from decomp_ledger.log.process_functions import ProcessFunctions
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.materialize import ABSENT, DEFAULT, Snapshot, choose
from decomp_ledger.model.rules import Decomposition, Rule
from decomp_ledger.pytorch import decompositions, internals
from decomp_ledger.pytorch.dispatcher import Defaults, dispatcher, is_loaded, op_names_of, refresh_torch, resolve
from decomp_ledger.pytorch.internals import registrations

if TYPE_CHECKING:
    CustomDecompTable = dict[Any, Callable[..., Any]]
else:
    CustomDecompTable = internals.table_class()
    if CustomDecompTable is None:
        raise UnsupportedTorch(
            f"torch {torch.__version__}: it has no CustomDecompTable; install torch 2.6 or newer for decomp_ledger"
        )

__all__ = ["NOT_KNOWN", "LiveMapping"]

_MISSING: Any = object()
# Registrations that torch never has: then each read brings the storage up to date first.
NOT_KNOWN = (-1, -1, -1)


class LiveMapping(CustomDecompTable):
    """A dict of operator -> decomposition that follows the table's log and the live dispatcher.

    A read of all ops compares the dispatcher's token first. A read of one op compares only the counts of Python
    registrations if it finds the op, and the token if it does not. So an operator whose library was destroyed and
    registered again is found until the next read of all ops.

    Args:
        log: the table. It serves one mapping only, because it keeps which changes that mapping lacks.

    Raises:
        UnusableValue: the log has a mapping.
    """

    # A slot, because every read of one op compares it (0.02 us less of 0.2).
    __slots__ = ("_registrations",)

    def __init__(self, log: TableLog) -> None:
        # Not upstream's __init__, which would make a second table inside.
        dict.__init__(self)
        if log.is_loaded is not None:
            raise UnusableValue(f"{log.name}: its log serves a DecompTable already; call Ledger.table() again")
        self._log = log
        log.is_loaded = is_loaded
        log.before_change = partial(_forget_storage, weakref.ref(self))
        # What the storage was built from: no defaults if it could not be built, no rules while it changes.
        self._defaults: Defaults | None = None
        self._rules: Mapping[str, Rule] | None = None
        self._full_looks = 0
        self._registrations = NOT_KNOWN
        self._renewed: set[str] = set()  # ops whose override may be another function, by the same rule
        # Ops whose entry may change although the defaults do not: live operators (None if not loaded) of the ops with a
        # rule and no default, and ops that are replaced by an operator.
        self._without_default: dict[str, Any] = {}
        self._replaced_by_operator: set[str] = set()
        self._last_materialization: tuple[int, Defaults, Snapshot | None] | None = None
        # Without a recorded decomposition the history can be read all the same; a read of the mapping says what is
        # wrong.
        with contextlib.suppress(LedgerError):
            self._follow(dispatcher.current())

    # The storage

    def _catch_up(self) -> None:
        """Bring the storage up to date before a read of all ops."""
        defaults = dispatcher.current()
        if (
            self._registrations is NOT_KNOWN
            or defaults is not self._defaults
            or dispatcher.full_looks != self._full_looks
            or self._log.rules is not self._rules
        ):
            self._follow(defaults)

    def _follow(self, defaults: Defaults) -> None:
        """Bring the storage up to date with the rules and these defaults; on an error, empty it."""
        self._import_first()
        with self._log.lock:
            try:
                self._update_storage(defaults)
            except LedgerError:
                self._registrations = NOT_KNOWN
                self._defaults = None
                dict.clear(self)
                raise

    def _import_first(self) -> None:
        """Import the modules that the rules need, because no lock may be held meanwhile."""
        ledger, rules, before = self._log.ledger, self._log.rules, self._rules
        if ledger is not None and ledger.functions.trust and rules is not before:
            ops = rules if before is None else self._log.changed_since(before)
            decompositions.import_first(map(rules.get, ops), ledger.functions.trust)

    def _update_storage(self, defaults: Defaults) -> None:
        """Bring the storage up to date; whatever an interrupt leaves of it is built again at the next read."""
        now, looks, before = registrations(), dispatcher.full_looks, self._rules
        if defaults is not self._defaults or before is None:
            self._registrations, self._rules = NOT_KNOWN, None
            self._rebuild_storage(defaults)
        elif ops := self._outdated(before, looks):
            self._registrations, self._rules = NOT_KNOWN, None
            for op in ops:
                self._update_op(op, defaults, self)
        self._defaults = defaults
        self._full_looks = looks
        self._renewed.clear()
        # Last, because they tell that the rest is known. The rules are those that the storage was built from, because
        # the lock of the log is held.
        self._rules = self._log.rules
        self._registrations = now

    def _outdated(self, rules: Mapping[str, Rule], looks: int) -> set[str]:
        """Return the ops whose entry may differ from the storage.

        Args:
            rules: those that the storage was built from.
            looks: the number of full looks at the dispatcher.
        """
        found = {op for op in self._renewed if op in self._log.rules}
        found.update(self._log.changed_since(rules))
        if self._full_looks != looks:
            found.update(op for op, live in self._without_default.items() if resolve(op) is not live)
            found.update(op for op in self._replaced_by_operator if op in self._log.rules)
        return found

    def _rebuild_storage(self, defaults: Defaults) -> None:
        refresh_torch(defaults)
        content = dict(defaults.table) if self._log.base == "torch" else {}
        self._without_default.clear()
        self._replaced_by_operator.clear()
        for op in self._log.rules:
            self._update_op(op, defaults, content)
        # In this order, so that another thread never sees less than there is.
        dict.update(self, content)
        if dict.__len__(self) != len(content):
            for key in [key for key in dict.keys(self) if key not in content]:
                dict.pop(self, key, None)

    def _update_op(self, op: str, defaults: Defaults, content: dict[Any, Any]) -> None:
        """Set or drop the entry of one op."""
        live = defaults.by_name.get(op) or resolve(op)
        before = self._without_default.pop(op, None)
        if op in self._log.rules and op not in defaults.by_name:
            self._without_default[op] = live
        fn = None if live is None else self._decomposition(op, defaults)
        if before is not live:
            dict.pop(content, before, None)
        if fn is None:
            dict.pop(content, live, None)
        else:
            dict.__setitem__(content, live, fn.value if isinstance(fn, decompositions.NotCallable) else fn)

    def _shown(self) -> _Shown:
        """Put a block's changes into the storage at once, for reads of one op and for C code that reads it directly.

        Also if the block raises, because a refused change has read the events of other writers all the same.
        """
        return _Shown(self)

    # What the table holds for one op

    def _decomposition(self, op: str, defaults: Defaults) -> Callable[..., Any] | None:
        """Return what the table holds for an op now, or None."""
        rule = self._log.rules.get(op)
        return self._chosen(op, rule, self._choose(op, rule, defaults), defaults)

    def _choose(self, op: str, rule: Rule | None, defaults: Defaults) -> str:
        """Return what the table holds for an op with that rule: `absent`, `default` or `override`."""
        default = op in defaults.by_name
        action = None if rule is None else rule.action
        return choose(action, self._log.base, loaded=default or is_loaded(op), default=default)

    def _chosen(self, op: str, rule: Rule | None, choice: str, defaults: Defaults) -> Callable[..., Any] | None:
        """Return the decomposition that a choice stands for."""
        if choice == ABSENT:
            return None
        if choice == DEFAULT:
            return defaults.get(op)
        if rule is None or rule.decomposition is None:
            raise LedgerError(f"{op}: the override in {self._log.name!r} has no decomposition; reset the op")
        return self._override_function(op, rule.decomposition, defaults)

    def _override_function(self, op: str, decomposition: Decomposition, defaults: Defaults) -> Callable[..., Any]:
        """Return the function of an override: this table's own of this process, another table's, or one by name."""
        if decomposition.module == decompositions.OPS:
            self._replaced_by_operator.add(op)
        functions = ProcessFunctions() if self._log.ledger is None else self._log.ledger.functions
        fn = self._log.functions.get(op, decomposition) or functions.recorded(op, decomposition)
        if fn is None:
            provided = functions.provided.get(op, [])
            fn = decompositions.load_function(op, decomposition, defaults, provided, functions.trust)
        return fn  # type: ignore[no-any-return]

    # Reads of one op

    def __getitem__(self, key: object) -> Any:
        if registrations() != self._registrations:
            self._catch_up()
        return dict.__getitem__(self, key)  # dict calls __missing__

    def __missing__(self, key: object) -> Any:
        found = self._look_again(key)
        if found is _MISSING:
            raise KeyError(key)
        return found

    def __contains__(self, key: object) -> bool:
        if registrations() != self._registrations:
            self._catch_up()
        return dict.__contains__(self, key) or self._look_again(key) is not _MISSING

    def get(self, key: object, default: Any = None) -> Any:
        """Return the decomposition of an op, or `default`."""
        if registrations() != self._registrations:
            self._catch_up()
        found = dict.get(self, key, _MISSING)
        if found is _MISSING:
            found = self._look_again(key)
        return default if found is _MISSING else found

    def _look_again(self, key: object) -> Any:
        """Return the value of a key that the storage lacked: a name, or an op that was loaded since.

        The name of a family finds the overload that the table has, if it has just one.
        """
        self._catch_up()
        if not isinstance(key, str):
            return dict.get(self, key, _MISSING)
        try:
            ops = map(resolve, op_names_of(key))
        except InvalidName:
            return _MISSING
        found = [fn for op in ops if (fn := dict.get(self, op, _MISSING)) is not _MISSING]
        return found[0] if len(found) == 1 else _MISSING

    # Reads of all ops

    def keys(self) -> Any:
        """Return a live view of the operators."""
        self._catch_up()
        return dict.keys(self)

    def values(self) -> Any:
        """Return a live view of the decompositions."""
        self._catch_up()
        return dict.values(self)

    def items(self) -> Any:
        """Return a live view of (operator, decomposition)."""
        self._catch_up()
        return dict.items(self)

    def __iter__(self) -> Iterator[Any]:
        self._catch_up()
        return dict.__iter__(self)

    def __reversed__(self) -> Iterator[Any]:
        self._catch_up()
        return dict.__reversed__(self)

    def __len__(self) -> int:
        self._catch_up()
        return dict.__len__(self)

    def __eq__(self, other: object) -> bool:
        self._catch_up()
        if isinstance(other, LiveMapping):
            other._catch_up()
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __or__(self, other: Any) -> Any:
        return dict(self) | dict(other) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return dict(other) | dict(self) if isinstance(other, dict) else NotImplemented

    # Use

    def materialize(self) -> dict[Any, Callable[..., Any]]:
        """Return the table as a plain dict after a full look at the dispatcher, and record the materialization."""
        return self.materialize_for_export()[0]

    def materialize_for_export(self) -> tuple[dict[Any, Callable[..., Any]], int, Snapshot | None]:
        """Materialize the table, and return what the record of an export needs.

        Returns:
            The table as a plain dict, its version, and its snapshot in this torch; None if that is not recorded.
        """
        self._sync()
        self._import_first()
        with self._log.lock:
            self.refresh()
            defaults = self._defaults
            if defaults is None:
                raise LedgerError(f"{self._log.name}: the table cannot be read here; call refresh() to see why")
            if self._last_materialization is None or self._last_materialization[:2] != (self._log.version, defaults):
                snapshot = self._record_materialization(defaults)
                self._last_materialization = self._log.version, defaults, snapshot
            # Not dict(self), which would call __getitem__ for each op.
            return dict(dict.items(self)), self._last_materialization[0], self._last_materialization[2]

    def _record_materialization(self, defaults: Defaults) -> Snapshot | None:
        try:
            return self._log.materialize(defaults.catalog)
        except Exception as error:
            # Whatever goes wrong while recording must not stop an export of code that does not know of us.
            if self._log.owner is None:
                raise
            self._log.owner.missed(error)
            return None

    def refresh(self) -> bool:
        """Take in what other processes changed in the ledger, and look at all of the dispatcher.

        Returns:
            Whether anything had changed.
        """
        with self._log.lock:
            before = self._defaults
            synced = self._sync()
            self._follow(dispatcher.full())
            return synced or before is not self._defaults

    def _sync(self) -> bool:
        """Read the events of other writers; if a recording's ledger cannot be read, go on without it."""
        log = self._log
        try:
            return log.is_recorded() and log.sync()
        except (LedgerFileError, SchemaError) as error:
            if log.owner is None:
                raise
            log.owner.failed(error)
            log.detach()
            return False


def _forget_storage(reference: weakref.ref[LiveMapping]) -> None:
    """Let the next read bring the storage up to date, whatever comes between a change and the end of its block."""
    mapping = reference()
    if mapping is not None:
        mapping._registrations = NOT_KNOWN


class _Shown:
    """The block of `LiveMapping._shown`."""

    __slots__ = ("_mapping",)

    def __init__(self, mapping: LiveMapping) -> None:
        self._mapping = mapping

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        defaults = self._mapping._defaults
        if defaults is not None:
            # The change was made; if its decomposition cannot be loaded here, the next read raises the error.
            with contextlib.suppress(LedgerError):
                self._mapping._follow(defaults)
