"""The live dispatcher: torch's default table as it is now, names to operators, and has anything changed.

Upstream asks C++ for all CIA kernels once for each namespace (16 ms). Here it is asked once, and only when
something changed. Two questions tell: :meth:`Dispatcher.full` misses no kind of change that we know of (2.5 ms, with
the 2,800 operators that torch makes for its own default table); :meth:`Dispatcher.quick` is for plain reads (a few
microseconds). It misses C++ registration after a library was loaded, raw `torch._C._dispatch_library`, Python kernels
or registry values replaced in place, and a library that goes as another of its size comes. Counting calls of
`Library.define` and the like would see the last, at the price of patching them for everybody.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import torch

from decomp_ledger.errors import UnusableValue
from decomp_ledger.model import op_names
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.capture import build, entry, why_not_preservable
from decomp_ledger.pytorch.internals import HigherOrderOperator, OpOverload, OpOverloadPacket
from decomp_ledger.storage import fork_safety

__all__ = ["Defaults", "Dispatcher", "dispatcher", "is_loaded", "near_names", "op_names_of", "resolve"]


def op_names_of(key: object) -> list[str]:
    """Return the names of the ops that a key means.

    Args:
        key: a name (`aten::linear`, `aten.linear.default`), an `OpOverload`, a higher-order operator, or an
            `OpOverloadPacket` or its name (`aten.linear`), which mean all their overloads.

    Raises:
        UnusableValue: it is none of these.
        InvalidName: it is a str that names no op.
    """
    if isinstance(key, str):
        packet = _packet_named(key)
        return [op_names.normalize(key)] if packet is None else op_names_of(packet)
    if isinstance(key, OpOverloadPacket):
        base = key._qualified_op_name
        # A packet of torch's also has overloads of TorchScript, which no dispatcher knows; one of a library that is
        # gone has only such.
        every = key.overloads()
        real = [overload for overload in every if internals.has_schema(base, "" if overload == "default" else overload)]
        return [op_names.normalize(f"{base}.{overload}") for overload in real or every]
    if isinstance(key, (OpOverload, HigherOrderOperator)):
        return [key.name()]
    raise UnusableValue(
        f"{type(key).__name__} {key!r:.80} is not an op; give an OpOverload (torch.ops.aten.linear.default), "
        "a higher-order operator, or a name ('aten::linear')"
    )


def _packet_named(text: str) -> OpOverloadPacket | None:
    """Return the packet that `aten.linear` names, if it is loaded: dots without an overload are a family."""
    space, dot, name = text.removeprefix("torch.ops.").partition(".")
    if not dot or "." in name or "::" in text or space == "higher_order":
        return None
    packet = getattr(vars(torch.ops).get(space), name, None)
    return packet if isinstance(packet, OpOverloadPacket) else None


def resolve(op: str) -> Any | None:
    """Return the live operator of a name, or None if it is not loaded now (1 us).

    Never remember what it returns: calling an operator whose library is gone crashes the process.
    """
    space, name, overload = op_names.split(op)
    if not space:
        return internals.higher_order_operators().get(op)
    if not internals.has_schema(f"{space}::{name}", overload):
        return None
    try:
        return getattr(getattr(getattr(torch.ops, space), name), overload or "default")
    except AttributeError:
        return None


def is_loaded(op: str) -> bool:
    """Tell whether the dispatcher has an op of that name now."""
    return resolve(op) is not None


def near_names(op: str) -> list[str]:
    """Return up to three loaded names that are close to one that is not."""
    every = internals.dispatcher_names()
    # A namespace that nothing has is a library to come, unless it looks like one that is there.
    spaces = difflib.get_close_matches(op_names.namespace(op), {op_names.namespace(name) for name in every}, 1, 0.8)
    known = [name for name in every if op_names.namespace(name) in spaces]
    return difflib.get_close_matches(op, known, 3, 0.8)


class Defaults:
    """Torch's default table at one moment. Immutable: a change of the dispatcher makes a new one.

    Attributes:
        table: live operator -> decomposition.
        by_name: op name -> live operator, of the same.
        order: op names, sorted.
    """

    def __init__(self, table: dict[Any, Callable[..., Any]]) -> None:
        self.table = table
        self.by_name = {op.name(): op for op in table}

    def get(self, op: str) -> Callable[..., Any] | None:
        """Return the default decomposition of an op, or None."""
        found = self.by_name.get(op)
        return None if found is None else self.table[found]

    @cached_property
    def catalog(self) -> Catalog:
        """It as plain data, with every other op that is loaded (0.1 s at first, 20 ms after a change)."""
        entries = {name: Entry(unpreservable="a higher-order operator") for name in internals.higher_order_operators()}
        for name in internals.dispatcher_names():
            op = self.by_name.get(name) or resolve(name)
            try:
                entries[name] = _PLAIN if op is None else _described(name, op, self.table.get(op))
            except RuntimeError:  # its library went while it was looked at
                entries[name] = _PLAIN
        return Catalog(build(), entries)


_PLAIN = Entry()
# What tells of one of torch's own ops that the build does not tell: see Entry.bare().
_OF_A_PROCESS = ("origin", "default", "unpreservable", "others")
# What is known of torch's own ops: name -> (operator, its default, what else may decompose it, entry). There are
# thousands, and they do not change.
_known: dict[str, tuple[Any, Any, Any, Entry]] = {}


def _described(name: str, op: Any, default: Any) -> Entry:
    """Return the entry of an op; of torch's own, what the build does not tell by itself."""
    others = internals.registry().get(op), internals.cia_kernel(op)
    known = _known.get(name)
    if known is not None and known[0] is op and known[1] is default and known[2] == others:
        return known[3]
    foreign = not op_names.is_torchs(name)
    module = getattr(default or others[0] or others[1], "__module__", "torch")
    own = foreign or str(module).partition(".")[0] not in ("torch", "functools")
    fields = entry(name, op, default, digests=own)
    if not own:
        fields = {key: value for key, value in fields.items() if key in _OF_A_PROCESS}
        if "origin" not in fields:
            fields.clear()
    found = Entry.from_json(fields)
    if not foreign:
        _known[name] = op, default, others, found
    return found


def describe_op(name: str, op: Any, defaults: Defaults) -> Entry:
    """Return what the dispatcher offers for one loaded op, as its catalog has it."""
    return _described(name, op, defaults.get(name))


class Dispatcher:
    """Torch's default table, kept up to date."""

    def __init__(self) -> None:
        # How often everything was looked at: ops outside the default table may have come or gone since.
        self.looks = 0
        self._lock = threading.RLock()
        self._defaults: Defaults | None = None
        self._signature: tuple[Any, ...] = ()
        self._quick: tuple[Any, ...] = ()
        self._watched: list[tuple[dict[str, Any], str, Any]] = []
        self._walk = _Walk()
        self._core: dict[Any, Callable[..., Any]] = {}
        self._preservable: dict[Any, bool] = {}

    def full(self) -> Defaults:
        """Return torch's default table as a brand-new upstream one would be, after looking at everything."""
        with self._lock:
            signature = self._look()
            if self._defaults is None or signature != self._signature:
                self._defaults = Defaults(self._rebuild(signature))
                # Resolving ops may have made new packets: what is compared next time is what is there now.
                self._signature = self._look()
            self._quick = self._glance()
            self._watched = _python_packets()
            self.looks += 1
            return self._defaults

    def quick(self) -> Defaults:
        """Return the same, after looking at what changes when libraries come and go."""
        defaults = self._defaults
        if defaults is None or self._quick != self._glance():
            return self.full()
        if all(space.get(name) is packet for space, name, packet in self._watched):
            return defaults
        return self.full()

    def renew_lock(self) -> None:
        """Have a lock that nobody holds, in a forked child."""
        self._lock = threading.RLock()

    def _glance(self) -> tuple[Any, ...]:
        defined, implemented = internals.python_definitions()
        registry = internals.registry()
        # A dict puts what is new last: its length and its last key tell of all but values replaced in place.
        newest = next(reversed(registry), None)
        return len(defined), len(implemented), len(registry), newest, internals.libraries_loaded()

    def _look(self) -> tuple[Any, ...]:
        kernels = self._walk.python_kernels()
        return internals.cia_registrations(), dict(internals.registry()), self._walk.packets, kernels

    def _rebuild(self, signature: tuple[Any, ...]) -> dict[Any, Callable[..., Any]]:
        registrations, registry, _, kernels = signature
        if not self._signature or registry != self._signature[1]:
            self._core = internals.core_registry()
        table = dict(self._core)
        kept = internals.preserved_by_default()
        candidates = dict.fromkeys(op for op in map(resolve, registrations) if op is not None)
        candidates.update(dict.fromkeys(op for op, _, _ in kernels))
        preservable: dict[Any, bool] = {}
        for op in candidates:
            known = self._preservable.get(op)
            preservable[op] = known if known is not None else not why_not_preservable(op)
        # A kernel may come later to an op that has only a Python one, so only those with a C++ one are remembered.
        self._preservable = {op: good for op, good in preservable.items() if internals.has_cia_kernel(op)}
        valid = [op for op, good in preservable.items() if good]
        registry_first = internals.registry_first()
        for op in valid:
            wins = not registry_first and op_names.is_aten(op.name())
            if (wins or op not in table) and op not in kept:
                table[op] = internals.cia_decomposition(op)
        remembered = internals.remembered_aten_cia_ops()
        if remembered is not None and remembered != {op for op in valid if op_names.is_aten(op.name())}:
            internals.forget_aten_cia_ops()
        return table


@cache
def _watched_place(qualified: str) -> tuple[str, str] | None:
    """Return the namespace and the name of an op defined in Python; None of torch's own, which stay."""
    space, name, _ = op_names.split(qualified.replace("/", "::"))
    return None if space in op_names.TORCH_NAMESPACES and space != "aten" else (space, name)


def _python_packets() -> list[tuple[dict[str, Any], str, Any]]:
    """Return where the packets of ops defined in Python hang: a library destroyed and made again changes them."""
    found = []
    for space, name in filter(None, map(_watched_place, internals.python_definitions()[0])):
        members = vars(vars(torch.ops).get(space, torch))
        if members is not vars(torch):
            found.append((members, name, members.get(name)))
    return found


class _Walk:
    """All operators that torch has made so far, walked again only where namespaces or packets changed.

    Risk: `_OpNamespace._dir`, `OpOverloadPacket._dir`, `OperatorBase.py_kernels`, `torch._C._dispatch_has_kernel`.
    """

    def __init__(self) -> None:
        self.packets: list[Any] = []
        self._sizes = 0
        self._overloads: list[list[str]] = []
        self._operators: list[Any] = []
        self._kernels: list[dict[Any, Any]] = []
        self._copies: list[dict[Any, Any]] = []
        self._found: list[tuple[Any, Any]] = []

    def python_kernels(self) -> list[tuple[Any, Any, bool]]:
        """Return (operator, CIA kernel, has it any C++ kernel) of each with one in Python."""
        packets: list[Any] = []
        for space in internals.namespaces():
            packets.extend(map(vars(space).__getitem__, space._dir))
        if packets != self.packets or sum(map(len, self._overloads)) != self._sizes:
            self.packets = packets
            families = [packet for packet in packets if isinstance(packet, OpOverloadPacket)]
            self._overloads = [packet._dir for packet in families]
            self._sizes = sum(map(len, self._overloads))
            self._operators = [vars(packet)[name] for packet in families for name in packet._dir]
            self._kernels = [op.py_kernels for op in self._operators]
            self._copies = []
        # To compare dicts asks no key for its hash, which takes a dispatch key longer than all the rest.
        if self._kernels != self._copies:
            none: dict[Any, Any] = {}  # one for the half of them that are empty: less memory to go through
            self._copies = [dict(kernels) if kernels else none for kernels in self._kernels]
            cia = internals.CIA
            pairs = zip(self._operators, self._copies, strict=True)
            self._found = [(op, kernels[cia]) for op, kernels in pairs if cia in kernels]
        return [(op, kernel, bool(torch._C._dispatch_has_kernel(op.name()))) for op, kernel in self._found]


dispatcher = Dispatcher()

fork_safety.renew_lock_in_child(dispatcher)
