"""Follow the live dispatcher: torch's default table as it is now, and names to operators.

Torch's own table asks C++ for all CIA kernels once for each namespace (12-20 ms). Here they are listed once, and only
when something changed. Two questions tell whether something did:

- :meth:`Dispatcher.full` looks at everything (1.4 ms with the 3,200 operators that torch has after an export).
  No kind of change that we know of escapes it. `materialize()`, exports and `refresh()` ask it.
- :meth:`Dispatcher.token` changes when a library comes or goes (1.5 us). Plain reads compare it.
"""

from __future__ import annotations

import copy
import difflib
import types
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch

from decomp_ledger.analysis.idle import IdleRule, idle_rule
from decomp_ledger.analysis.outcome import EARLY_KERNELS
from decomp_ledger.errors import InvalidName, UnusableValue
from decomp_ledger.log import provenance
from decomp_ledger.model import op_names
from decomp_ledger.model.arguments import shown
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.op_lookup import Lists, ops_named, suggestions
from decomp_ledger.model.safe_text import class_name
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.entries import (
    NO_KERNEL,
    brief_entry,
    build,
    entry,
    why_never_preservable,
    why_not_preservable,
)
from decomp_ledger.pytorch.internals import HigherOrderOperator, OpOverload, OpOverloadPacket
from decomp_ledger.storage.block_lock import BlockLock

__all__ = [
    "DictOrigin",
    "dict_origin",
    "Defaults",
    "Dispatcher",
    "dispatcher",
    "is_loaded",
    "near_names",
    "op_names_of",
    "refresh_torch",
    "remember_made",
    "resolve",
    "why_idle",
]


def op_names_of(key: object, ruled: Collection[str] = ()) -> list[str]:
    """Return the names of the ops that a key means.

    Args:
        key: a name, as :func:`decomp_ledger.model.op_lookup.ops_named` reads it; an `OpOverload`; a higher-order
            operator; or an `OpOverloadPacket`, which means all its overloads.
        ruled: ops that a name can mean although they are not loaded now.

    Raises:
        UnusableValue: the key is of another kind.
        InvalidName: the key is a str that cannot name an op, or the op has a name that cannot be recorded.
    """
    if isinstance(key, str):
        return ops_named(key, Lists(_loaded, ruled), _loaded)
    if isinstance(key, OpOverloadPacket):
        family = internals.packet_name(key)
        # Torch's packets also list overloads of TorchScript, which the dispatcher does not know. A packet whose
        # library is destroyed lists only such.
        every = key.overloads()
        real = [each for each in every if internals.has_schema(family, "" if each == "default" else each)]
        return [op_names.normalize(f"{family}.{overload}") for overload in real or every]
    if isinstance(key, (OpOverload, HigherOrderOperator)):
        name = key.name()
        # A library may register any text as the name of a higher-order operator; then the name leads to another op.
        if op_names.normalize(name) != name or ("::" in name) != isinstance(key, OpOverload):
            raise InvalidName(
                f"{name!r:.80}: the name of this op cannot be recorded; register the op under another name"
            )
        return [name]
    raise UnusableValue(
        f"{class_name(key)} {shown(key)}: it is not an op; give an OpOverload (torch.ops.aten.linear.default), "
        "a higher-order operator, or a name ('aten::linear')"
    )


class _LoadedOps(Collection[str]):
    """The names of the ops that the dispatcher has now."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and is_loaded(name)

    def __iter__(self) -> Iterator[str]:
        yield from internals.dispatcher_names()
        yield from internals.higher_order_operators()

    def __len__(self) -> int:
        return sum(1 for _ in self)


_loaded = _LoadedOps()


def resolve(op: str) -> Any | None:
    """Return the live operator of a name, or None if it is not loaded now (1 us).

    Never remember the result: calling an operator whose library is destroyed crashes the process.
    """
    space, name, overload = op_names.split(op)
    if not space:
        return internals.higher_order_operators().get(op)
    return internals.find_operator(f"{space}::{name}", overload)


def is_loaded(op: str) -> bool:
    """Tell whether the dispatcher has an op of that name now."""
    return resolve(op) is not None


def near_names(op: str) -> list[str]:
    """Return up to three loaded names that may be meant by one that is not loaded."""
    # Another namespace is that of a library to come, even if it has an op that aten has, too.
    spaces = {op_names.namespace(name) for name in _loaded}
    space = op_names.namespace(op)
    if space in spaces:
        return suggestions(op, _loaded)
    near = difflib.get_close_matches(space, spaces, 1, 0.8)
    return suggestions(op, [name for name in _loaded if op_names.namespace(name) in near])


class _Seen(NamedTuple):
    """What a full look at the dispatcher sees: all that decides torch's default table.

    Attributes:
        registrations: the names of the ops with a C++ CompositeImplicitAutograd kernel.
        registry: torch's registry: operator -> decomposition.
        operators: those that torch has made so far.
        kernels: the CompositeImplicitAutograd kernels in Python: operator, kernel, whether it has a kernel in C++ too.
        by_libraries: the names of the ops whose CompositeImplicitAutograd kernel a library in Python registered.
    """

    registrations: list[str]
    registry: dict[Any, Callable[..., Any]]
    operators: list[Any]
    kernels: list[tuple[Any, Any, bool]]
    by_libraries: set[str]


class Defaults:
    """Torch's default table at one moment. Immutable: a change of the dispatcher makes a new one.

    Args:
        seen: what it was made from.

    Attributes:
        table: live operator -> decomposition.
        by_name: op name -> live operator, for the same ops.
        aten_cia: the operators of aten that torch could decompose by a kernel.
    """

    def __init__(self, table: dict[Any, Callable[..., Any]], aten_cia: frozenset[Any], seen: _Seen) -> None:
        self._seen = seen
        self._earlier: Catalog | None = None
        self.table = table
        self.aten_cia = aten_cia
        self.by_name = {op.name(): op for op in table}
        self._functions = {op.name(): fn for op, fn in table.items()}
        origin = DictOrigin(frozenset(self.by_name), None)
        # Each default table has its own callables for C++ kernels, so they tell from which one a dict was made.
        _made_with.update((fn, origin) for fn in table.values() if internals.op_of_cia_partial(fn) is not None)

    def renewed(self, seen: _Seen) -> Defaults:
        """Return the same table with a catalog that is made again, because ops outside of the table came or went."""
        made = copy.copy(self)
        made._seen = seen
        made._earlier = vars(made).pop("catalog", self._earlier)
        return made

    def get(self, op: str) -> Callable[..., Any] | None:
        """Return the default decomposition of an op, or None."""
        return self._functions.get(op)

    def entry(self, op: str, live: Any) -> Entry:
        """Return the catalog's entry of a loaded op.

        Args:
            op: its name.
            live: its operator.
        """
        return _entry(op, live, self.table.get(live))

    @cached_property
    def catalog(self) -> Catalog:
        """The defaults as plain data, with every other op that is loaded (20 ms at first, 8 ms after a change)."""
        entries = {name: Entry(unpreservable="a higher-order operator") for name in internals.higher_order_operators()}
        names = internals.dispatcher_names()
        # The build implies most of them. To make the operator of each would take 0.1 s.
        entries.update(dict.fromkeys(names, _BARE))
        facts = _Facts.of(self._seen)
        foreign = {name for name in names if not op_names.is_torchs(name)}
        wanted = {*foreign, *facts.decomposed, *self.by_name}
        earlier = {} if self._earlier is None else self._earlier.ops
        for name in names:
            if name not in wanted:
                continue
            if name not in foreign and (known := earlier.get(name)) is not None and _stays(known):
                entries[name] = known
                continue
            live = self.by_name.get(name) or resolve(name)
            if live is None:
                continue
            try:
                plain = None if name in foreign else _plain_entry(name, live, self._functions.get(name), facts)
                entries[name] = self.entry(name, live) if plain is None else plain
            except RuntimeError:  # its library was destroyed meanwhile
                pass
        # The same object, because its digest takes 5 ms.
        return self._earlier if self._earlier is not None and earlier == entries else Catalog(build(), entries)


def _stays(entry: Entry) -> bool:
    """Tell whether the entry of one of torch's own ops holds as long as torch's default table is the same.

    An op may get or lose its last kernel, but not one that is decomposed by a kernel.
    """
    if entry.registered or entry.module:
        return False
    return entry.origin != "registry" or entry.unpreservable not in ("", NO_KERNEL)


class _Facts(NamedTuple):
    """What a catalog needs to know of the operators, listed once because torch hashes an operator in Python.

    Attributes:
        decomposed: the names of the ops that torch has any decomposition of.
        kernels: the names of the ops with a C++ CompositeImplicitAutograd kernel.
        in_python: the ids of the operators with such a kernel in Python.
        registered: torch's registry, by the id of the operator.
        by_libraries: as seen.
    """

    decomposed: set[str]
    kernels: frozenset[str]
    in_python: set[int]
    registered: dict[int, Callable[..., Any]]
    by_libraries: set[str]

    @classmethod
    def of(cls, seen: _Seen) -> _Facts:
        kernels = frozenset(seen.registrations)
        return cls(
            {*kernels, *(op.name() for op, _, _ in seen.kernels), *(op.name() for op in seen.registry)},
            kernels,
            {id(op) for op, _, _ in seen.kernels},
            {id(op): fn for op, fn in seen.registry.items()},
            seen.by_libraries,
        )


def _plain_entry(name: str, op: Any, default: Any, facts: _Facts) -> Entry | None:
    """Return what `_entry` does for an op of torch's that has one decomposition, of torch's own; else None.

    These are 1,700 of the 1,800 ops that torch decomposes, and each takes a tenth of the time.
    """
    registered, has_kernel = facts.registered.get(id(op)), name in facts.kernels
    if (registered is None) is not has_kernel or id(op) in facts.in_python:
        return None
    if registered is None:
        if name in facts.by_libraries:
            return None
        if default is None:
            return _shared_entry("cia", False, _why_never_preservable(op))
        # The table has no kernel of an op that torch cannot preserve.
        return _shared_entry("cia", True, "") if internals.op_of_cia_partial(default) is op else None
    is_own = type(registered) is types.FunctionType and _is_of_torch(registered)
    is_plain = is_own and (default is None or default is registered)
    if not is_plain:
        return None
    why = _why_never_preservable(op) or ("" if internals.has_kernel(op) else NO_KERNEL)
    return _shared_entry("registry", default is not None, why)


# Why torch can never preserve an operator of its own, by the id of the operator, which this keeps. To find it for all
# of them takes 1.6 ms, and each catalog and each table asks.
_never: dict[int, tuple[Any, str]] = {}


def _why_never_preservable(op: Any) -> str:
    """Return what `why_never_preservable` does; that is all for an op with a kernel that decomposes it."""
    known = _never.get(id(op))
    if known is None:
        known = op, why_never_preservable(op)
        if op_names.is_torchs(op.name()):
            _never[id(op)] = known
    return known[1]


def _is_of_torch(fn: Any) -> bool:
    return str(getattr(fn, "__module__", "torch")).partition(".")[0] in ("torch", "functools")


def _is_functional(op: str) -> bool:
    live = resolve(op)
    return live is not None and not internals.mutates(live)


def why_idle(op: str, action: str) -> IdleRule | None:
    """Return why a rule for an op cannot act in this process, or None if it can.

    Args:
        op: the op's name.
        action: `preserve` or `override`.
    """
    live = resolve(op)
    if live is None:
        return idle_rule(op, action, None, _is_functional)
    if op not in EARLY_KERNELS and not why_not_preservable(live):  # 2 us; an entry takes 50
        return None
    default = dispatcher.current().table.get(live)
    return idle_rule(op, action, Entry.from_json(entry(op, live, default, digests=False)), _is_functional)


class DictOrigin(NamedTuple):
    """What the values of a dict tell of how it was made.

    Attributes:
        names: the ops that torch's default table had.
        line: the line that made the table of torch's own that the dict was made from; None if that is not known.
    """

    names: frozenset[str]
    line: tuple[str, int, str] | None


_made_with: weakref.WeakKeyDictionary[Any, DictOrigin] = weakref.WeakKeyDictionary()


def dict_origin(decompositions: Iterable[Any]) -> DictOrigin | None:
    """Return how a dict was made from torch's default tables; None if that is not known.

    If it was made from more than one, the names are their union, and the line is known only if it is the same.

    Args:
        decompositions: the values of the dict.
    """
    partials = (fn for fn in decompositions if internals.op_of_cia_partial(fn) is not None)
    found = {origin for fn in partials if (origin := _made_with.get(fn)) is not None}
    if not found:
        return None
    lines = {origin.line for origin in found}
    return DictOrigin(frozenset().union(*(origin.names for origin in found)), lines.pop() if len(lines) == 1 else None)


def remember_made(decompositions: Iterable[Any], line: tuple[str, int, str] | None = None) -> None:
    """Remember which ops torch's default table has now, for a table of torch's own that was just made or read.

    Args:
        decompositions: its values; those of kernels that are known already were made with an earlier one.
        line: the line that made the table.
    """
    origin = DictOrigin(frozenset(dispatcher.current().by_name), line)
    for fn in decompositions:
        if internals.op_of_cia_partial(fn) is not None:
            _made_with.setdefault(fn, origin)


_BARE = Entry()
# Entries of torch's own ops: name -> (operator, its default, what else may decompose it, entry). Without this, each
# library that is loaded would cost the next export 80 ms more for some 3,600 entries.
_own_entries: dict[str, tuple[Any, Any, Any, Entry]] = {}


def _entry(name: str, op: Any, default: Any) -> Entry:
    """Return the entry of an op; for torch's own ops, only the fields that the build does not determine."""
    others = internals.registry().get(op), internals.python_cia_kernel(op)
    cached, by_library = _own_entries.get(name), internals.is_implemented_in_python(name)
    if cached is not None and cached[0] is op and cached[1] is default and cached[2] == others and not by_library:
        return cached[3]
    foreign = not op_names.is_torchs(name)
    has_foreign_code = foreign or not _is_of_torch(default or others[0] or others[1])
    if has_foreign_code:
        fields = entry(name, op, default, digests=True)
    else:  # see Entry.bare()
        fields = brief_entry(name, op, default)
        if "origin" not in fields:
            fields.clear()
    registered = ""
    if fields.get("origin") == "cia" and (foreign or by_library):
        at = internals.cia_registration(op)
        unknown = "" if foreign else "unknown"  # "" would say that the kernel is torch's own
        registered = unknown if at is None else f"{provenance.shortened(at[0])}:{at[1]}"
    if foreign or has_foreign_code or registered:
        found = Entry.from_json({**fields, **({"registered": registered} if registered else {})})
    else:
        others_of = tuple(fields.get("others", ()))
        found = _shared_entry(
            fields.get("origin"), fields.get("default", False), fields.get("unpreservable", ""), others_of
        )
    if not foreign and not registered:
        _own_entries[name] = op, default, others, found
    return found


@cache
def _shared_entry(origin: str | None, default: bool, unpreservable: str, others: tuple[str, ...] = ()) -> Entry:
    """Return the entry that many of torch's own ops have (there are about twenty, and to make one takes 5 us)."""
    return Entry(origin, default, unpreservable, others=others)


class _Look(NamedTuple):
    """What a full look found. It is replaced as a whole, so that an interrupt cannot leave half of one.

    Attributes:
        defaults: torch's default table.
        seen: all that decides it.
        token: the token after the look.
        custom: where the packets of custom ops are.
    """

    defaults: Defaults
    seen: _Seen
    token: tuple[Any, ...]
    custom: list[tuple[dict[str, Any], str]]


class Dispatcher:
    """Torch's default table, kept up to date.

    Attributes:
        full_looks: how many full looks were made. With each, ops outside the default table may have come or gone.
    """

    def __init__(self) -> None:
        self.full_looks = 0
        self._lock = BlockLock()
        self._look: _Look | None = None
        # The packets, their numbers of overloads, and their operators.
        self._listed: tuple[list[Any], list[int], list[Any]] = [], [], []

    def full(self) -> Defaults:
        """Return torch's default table as a new process would build it, after a look at everything."""
        with self._lock:
            seen, look = self._everything(), self._look
            is_same = look is not None and seen == look.seen
            if look is not None and is_same and _token(look.custom) == look.token:
                defaults = look.defaults
            elif look is not None and (is_same or _has_only_other_operators(look.seen, seen)):
                # Torch makes operators whenever a library names some, and to build the table takes 6 ms.
                defaults = look.defaults.renewed(seen)
            else:
                made = _default_table(seen)
                # To resolve ops may have made new operators, so the next look compares with what is there now.
                if self._operators() is not seen.operators:
                    seen = self._everything()
                defaults = Defaults(*made, seen)
            custom = _custom_packets()
            # Before the look, because a reader that saw this look must notice the next one.
            self.full_looks += 1
            self._look = _Look(defaults, seen, _token(custom), custom)
            return defaults

    def current(self) -> Defaults:
        """Return torch's default table; look at everything first if the token has changed."""
        look = self._look
        return self.full() if look is None or _token(look.custom) != look.token else look.defaults

    def token(self) -> tuple[Any, ...]:
        """Return a value that changes when libraries come and go (1.5 us, and 0.1 us for each op defined in Python).

        It consists of the counts of Python registrations, the count of loaded shared libraries, and the identity of
        each custom packet, which changes when a library is destroyed and registered again.

        It cannot see: C++ code that registers after its library was loaded or that unregisters, raw
        `torch._C._dispatch_library`, kernels in Python (`py_impl`, `py_kernels`), registry values replaced in place,
        a registry value deleted as another is added, and a library swapped for another of the same size.
        """
        return _token([] if self._look is None else self._look.custom)

    def _everything(self) -> _Seen:
        """Look at all that decides torch's default table."""
        operators = self._operators()
        kernels = [(op, kernel, internals.has_kernel(op)) for op, kernel in internals.python_cia_kernels(operators)]
        return _Seen(
            internals.cia_registrations(),
            dict(internals.registry()),
            operators,
            kernels,
            internals.implemented_in_python(),
        )

    def _operators(self) -> list[Any]:
        """Return the operators that torch has made; the same list as long as they are the same."""
        packets = internals.packets()
        counts = internals.overload_counts(packets)
        # Listed again only when there are others: 0.5 ms of the 1.5 that materialize() takes, whose goal is a tenth of
        # upstream's time.
        if (packets, counts) != self._listed[:2]:
            self._listed = packets, counts, internals.overloads(packets)
        return self._listed[2]


def _token(custom: list[tuple[dict[str, Any], str]]) -> tuple[Any, ...]:
    packets = [members.get(name) for members, name in custom]
    return internals.registrations(), internals.libraries_loaded(), packets


def _has_only_other_operators(before: _Seen, now: _Seen) -> bool:
    """Tell whether two full looks differ at most by new operators that torch's default table cannot have."""
    if before._replace(operators=[]) != now._replace(operators=[]):
        return False
    if before.operators == now.operators:
        return True
    old, new = ({id(op): op for op in seen.operators} for seen in (before, now))
    registered = set(now.registrations)
    return old.keys() <= new.keys() and all(new[each].name() not in registered for each in new.keys() - old.keys())


def _default_table(seen: _Seen) -> tuple[dict[Any, Callable[..., Any]], frozenset[Any]]:
    """Build torch's default table from what a full look saw; return it with the operators of aten among the kernels."""
    table = dict(internals.core_registry())
    candidates = dict.fromkeys(op for op in map(resolve, seen.registrations) if op is not None)
    candidates.update(dict.fromkeys(op for op, _, _ in seen.kernels))
    # An operator whose kernel in Python is all that it has cannot be preserved.
    bare = {id(op) for op, _, has_kernel in seen.kernels if not has_kernel}
    valid = [op for op in candidates if not _why_never_preservable(op) and id(op) not in bare]
    left_out, registry_first = internals.preserved_by_default(), internals.registry_first()
    for op in valid:
        kernel_first = not registry_first and op_names.is_aten(op.name())
        if (kernel_first or op not in table) and op not in left_out:
            table[op] = internals.cia_decomposition(op)
    return table, frozenset(op for op in valid if op_names.is_aten(op.name()))


def refresh_torch(defaults: Defaults) -> None:
    """Make torch forget a list of its own that is stale, because it refuses a table that is not.

    Args:
        defaults: torch's default table now.
    """
    remembered = internals.remembered_aten_cia_ops()
    if remembered is not None and remembered != defaults.aten_cia:
        internals.forget_aten_cia_ops()


def _custom_packets() -> list[tuple[dict[str, Any], str]]:
    """Return where the packets of custom ops defined in Python are kept: the dict of a namespace, and a name in it."""
    found = []
    for qualified in internals.defined_in_python():
        space, _, name = qualified.replace("/", "::").partition("::")
        # Torch's own stay, except additions to aten.
        if space == "aten" or space not in op_names.TORCH_NAMESPACES:
            namespace = vars(torch.ops).get(space)
            if namespace is not None:
                found.append((vars(namespace), name.partition(".")[0]))
    return found


dispatcher = Dispatcher()
