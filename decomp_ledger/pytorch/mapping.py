"""The dict that a table is to torch: what is in it, and every way to read it.

The mapping lives in the dict storage of the object itself, so that C code reads it too. What is in it is decided by
:func:`decomp_ledger.model.materialize.choose` alone, for each op by name. Operators are resolved again whenever the
dispatcher changed, and never remembered across that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from decomp_ledger.errors import InvalidName, LedgerError
from decomp_ledger.log.process_functions import ProcessFunctions
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model import op_names
from decomp_ledger.model.materialize import ABSENT, DEFAULT, Snapshot, choose
from decomp_ledger.model.rules import Decomposition, Rule
from decomp_ledger.pytorch import decompositions, internals
from decomp_ledger.pytorch.dispatcher import Defaults, dispatcher, is_loaded, resolve

if TYPE_CHECKING:
    CustomDecompTable = dict[Any, Callable[..., Any]]
else:
    CustomDecompTable = internals.table_class()

__all__ = ["View"]

_MISSING: Any = object()
_contains, _getitem, _get, _set, _drop = dict.__contains__, dict.__getitem__, dict.get, dict.__setitem__, dict.pop
_DEFS, _IMPLS = internals.python_definitions()
_REGISTRY = internals.registry()


class View(CustomDecompTable):
    """A dict of operator -> decomposition, kept as the table's stream and the live dispatcher say.

    Args:
        log: the table.
    """

    # Asked before every read of one op, and a slot is found soonest.
    __slots__ = ("_decomps", "_defs", "_impls")

    def __init__(self, log: TableLog) -> None:
        # Not upstream's __init__, which would make a second table inside.
        dict.__init__(self)
        # The same as the storage: to copy a plain dict asks no key for its hash, which torch computes in Python.
        self._plain: dict[Any, Callable[..., Any]] = {}
        self._log = log
        log.is_loaded = is_loaded
        self._defaults: Defaults | None = None
        # Operators, if they are loaded, of the ops it speaks of that torch's default table has not: whether these come
        # and go does not show in the defaults.
        self._loose: dict[str, Any] = {}
        # Ops that are replaced by an operator: it may come and go too.
        self._by_operator: set[str] = set()
        self._looks = 0
        self._defs = self._impls = self._decomps = 0
        self._met: tuple[int, Defaults, Snapshot | None] | None = None
        # If a recorded decomposition cannot be had here, its history can be read all the same, and a read of the
        # mapping says what is wrong.
        with contextlib.suppress(LedgerError):
            self._look(dispatcher.quick())

    # The view

    def _read(self) -> None:
        """Bring the dict storage up to date, for a read of all of it."""
        defaults = dispatcher.quick()
        if defaults is not self._defaults or self._looks != dispatcher.looks or self._log.dirty:
            self._look(defaults)

    def _look(self, defaults: Defaults) -> None:
        with self._log.lock:
            try:
                self._update(defaults)
            except LedgerError:
                self._forget()
                raise

    def _update(self, defaults: Defaults) -> None:
        if defaults is not self._defaults:
            view = dict(defaults.table) if self._log.base == "torch" else {}
            self._loose.clear()
            self._by_operator.clear()
            for op in self._log.rules:
                self._place(op, defaults, view)
            self._plain = view
            # In this order, so that another thread never sees less than there is.
            dict.update(self, view)
            if dict.__len__(self) != len(view):
                for key in [key for key in dict.keys(self) if key not in view]:
                    _drop(self, key, None)
        else:
            if self._looks != dispatcher.looks:
                self._log.dirty.update(op for op, live in self._loose.items() if resolve(op) is not live)
                self._log.dirty.update(op for op in self._by_operator if op in self._log.rules)
            for op in tuple(self._log.dirty):
                self._place(op, defaults, self, self._plain)
        self._defaults = defaults
        self._looks = dispatcher.looks
        self._defs, self._impls, self._decomps = len(_DEFS), len(_IMPLS), len(_REGISTRY)
        self._log.dirty.clear()

    def _written(self) -> None:
        """Show a change in the storage at once, for those who look at it without asking us."""
        if self._defaults is not None:
            # The change was made; if what it needs cannot be had here, the next read will say so.
            with contextlib.suppress(LedgerError):
                self._look(self._defaults)

    def _forget(self) -> None:
        """Hold nothing rather than something that is not so."""
        self._defaults = None
        dict.clear(self)
        self._plain = {}

    def _place(self, op: str, defaults: Defaults, *views: dict[Any, Any]) -> None:
        live = defaults.by_name.get(op) or resolve(op)
        before = self._loose.pop(op, None)
        if op in self._log.rules and op not in defaults.by_name:
            self._loose[op] = live
        fn = None if live is None else self._decomposition(op, defaults)
        for view in views:
            if before is not live:
                _drop(view, before, None)
            if fn is None:
                _drop(view, live, None)
            else:
                _set(view, live, fn)

    def _decomposition(self, op: str, defaults: Defaults) -> Callable[..., Any] | None:
        """Return what the table has for an op now, or None."""
        rule = self._log.rules.get(op)
        return self._found(op, rule, self._choice(op, rule, defaults), defaults)

    def _choice(self, op: str, rule: Rule | None, defaults: Defaults) -> str:
        """Return what the table has for an op of which that is said: `absent`, `default` or `override`."""
        default = op in defaults.by_name
        action = None if rule is None else rule.action
        return choose(action, self._log.base, loaded=default or is_loaded(op), default=default)

    def _found(self, op: str, rule: Rule | None, choice: str, defaults: Defaults) -> Callable[..., Any] | None:
        """Return the decomposition that a choice stands for."""
        if choice == ABSENT:
            return None
        if choice == DEFAULT:
            return defaults.get(op)
        assert rule is not None and rule.decomposition is not None  # choose() says so
        return self._function(op, rule.decomposition, defaults)

    def _function(self, op: str, decomposition: Decomposition, defaults: Defaults) -> Callable[..., Any]:
        """Return the function of an override: the table's own of this process, another table's, or found by name."""
        if decomposition.module == decompositions.OPS:
            self._by_operator.add(op)
        functions = ProcessFunctions() if self._log.ledger is None else self._log.ledger.functions
        fn = self._log.functions.get((op, decomposition)) or functions.recorded(op, decomposition)
        if fn is None:
            provided = functions.provided.get(op, [])
            fn = decompositions.load_function(op, decomposition, defaults, provided, functions.trust)
        return fn  # type: ignore[no-any-return]

    def _miss(self, key: object) -> Any:
        """Look again for a key that the storage does not have: by name, or loaded since."""
        if isinstance(key, str):
            try:
                key = resolve(op_names.normalize(key))
            except InvalidName:
                return _MISSING
        self._read()
        return _get(self, key, _MISSING)

    # Reads. Of one op: the storage answers, after a look at the sizes of what torch knows (0.1 us), and what it does
    # not have is looked for again; a key whose library was destroyed and registered again is found until the next
    # read of all ops. Of all ops: after a quick look at everything.

    def __getitem__(self, key: object) -> Any:
        if len(_DEFS) != self._defs or len(_IMPLS) != self._impls or len(_REGISTRY) != self._decomps:
            self._read()
        return _getitem(self, key)

    def __missing__(self, key: object) -> Any:
        found = self._miss(key)
        if found is _MISSING:
            raise KeyError(key)
        return found

    def __contains__(self, key: object) -> bool:
        if len(_DEFS) != self._defs or len(_IMPLS) != self._impls or len(_REGISTRY) != self._decomps:
            self._read()
        return _contains(self, key) or self._miss(key) is not _MISSING

    def get(self, key: object, default: Any = None) -> Any:
        """Return the decomposition of an op, or `default`."""
        if len(_DEFS) != self._defs or len(_IMPLS) != self._impls or len(_REGISTRY) != self._decomps:
            self._read()
        found = _get(self, key, _MISSING)
        if found is _MISSING:
            found = self._miss(key)
        return default if found is _MISSING else found

    def keys(self) -> Any:
        """Return a live view of the operators."""
        self._read()
        return dict.keys(self)

    def values(self) -> Any:
        """Return a live view of the decompositions."""
        self._read()
        return dict.values(self)

    def items(self) -> Any:
        """Return a live view of (operator, decomposition)."""
        self._read()
        return dict.items(self)

    def __iter__(self) -> Iterator[Any]:
        self._read()
        return dict.__iter__(self)

    def __reversed__(self) -> Iterator[Any]:
        self._read()
        return dict.__reversed__(self)

    def __len__(self) -> int:
        self._read()
        return dict.__len__(self)

    def __eq__(self, other: object) -> bool:
        self._read()
        if isinstance(other, View):
            other._read()
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __or__(self, other: Any) -> Any:
        return dict(self) | dict(other) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return dict(other) | dict(self) if isinstance(other, dict) else NotImplemented

    def materialize(self) -> dict[Any, Callable[..., Any]]:
        """Return the table as a plain dict, after a thorough look at the dispatcher, and record that it met it."""
        return self._use()[0]

    def _use(self) -> tuple[dict[Any, Callable[..., Any]], int, Snapshot | None]:
        """Return the table as a plain dict, its version, and what it is in this torch, where that was recorded."""
        with self._log.lock:
            self.refresh()
            defaults = self._defaults
            assert defaults is not None  # refresh() raised otherwise
            if self._met is None or self._met[:2] != (self._log.version, defaults):
                snapshot = self._record_met(defaults)
                self._met = self._log.version, defaults, snapshot
            return dict(self._plain), self._met[0], self._met[2]

    def _record_met(self, defaults: Defaults) -> Snapshot | None:
        try:
            return self._log.materialize(defaults.catalog)
        except Exception as error:
            # Whatever goes wrong in recording code that does not know of us must not stop its export.
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
            synced = self._log.sync()
            self._look(dispatcher.full())
            return synced or before is not self._defaults
