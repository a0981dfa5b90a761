"""Identify callables as recorded decompositions, and load recorded decompositions as callables.

A ledger may come from a stranger. Nothing that it names is imported or run, except torch's own decompositions, plain
functions of modules that are imported already, and modules that the caller trusts. A function is found by looking into
the dicts of modules and classes, because `getattr` may run code of theirs, and its source must be the recorded one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import types
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from decomp_ledger.errors import DecompositionChanged, NotImportable, UntrustedModule, UnusableValue
from decomp_ledger.log import provenance
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.arguments import shown
from decomp_ledger.model.materialize import own_origin
from decomp_ledger.model.rules import TORCH_ORIGINS, Decomposition, Rule
from decomp_ledger.model.safe_text import class_name, safe_repr
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.dispatcher import Defaults, resolve
from decomp_ledger.pytorch.entries import build, origin_of, own_decompositions
from decomp_ledger.pytorch.fingerprint.functions import attributes_of, top_package
from decomp_ledger.pytorch.fingerprint.source_digest import helpers_digest, source_digest, source_text
from decomp_ledger.pytorch.internals import OpOverload

__all__ = [
    "OPS",
    "NotCallable",
    "as_recorded",
    "by_source",
    "check_readable",
    "helpers_of",
    "identify",
    "identify_any",
    "import_first",
    "is_default",
    "keep_functions",
    "load_function",
    "same",
]

# Each function is identified once, because its source does not change while it lives.
_identified: weakref.WeakKeyDictionary[Any, Decomposition] = weakref.WeakKeyDictionary()
# The module of a decomposition that is an operator; its qualname is the operator's name.
OPS = "torch.ops"
# What the digest of a value that is not callable begins with; the class follows.
_VALUE = "value:"
# Its functions read and write ledgers; a stranger's ledger could name them.
_PACKAGE = top_package(__name__)


class NotCallable:
    """A value of a table that cannot decompose anything, such as None: torch stores it, and fails if it traces the op.

    A table that records code as it is keeps such a value, so that the code does the same; `value` is the value.
    """

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NotCallable) and other.value is self.value

    __hash__ = None  # type: ignore[assignment]


def as_recorded(fn: Any) -> Any:
    """Return a value of unmodified code as tables keep it: a callable as it is, another value as a NotCallable."""
    return fn if callable(fn) else NotCallable(fn)


def is_default(op: str, fn: Any, defaults: Defaults) -> bool:
    """Tell whether a callable is what torch's default table has for an op now."""
    default = defaults.get(op)
    return default is not None and same(fn, default)


def same(one: Any, other: Any) -> bool:
    """Tell whether two callables are one decomposition, because torch makes a new partial for a CIA op each time."""
    if one is other:
        return True
    op = internals.op_of_cia_partial(one)
    return op is not None and op is internals.op_of_cia_partial(other)


def identify(op: str, fn: Any, defaults: Defaults) -> Decomposition:
    """Return what a ledger records of a callable that replaces an op.

    Torch's own decompositions of the op are identified by build, op and origin, which costs nothing; others by module,
    name and source, which is read once for each function.

    Args:
        op: the op's name.
        fn: the callable.
        defaults: torch's default table now.

    Raises:
        UnusableValue: it is not callable.
    """
    if isinstance(fn, NotCallable):
        kind = class_name(fn.value)
        return Decomposition("opaque", None, f"a value that is not callable, of {kind}", f"{_VALUE}{kind}")
    if not callable(fn):
        raise UnusableValue(f"{op}: its decomposition must be callable, not {class_name(fn)} {shown(fn)}")
    origin = _torch_origin(op, fn)
    if origin is not None:
        return Decomposition(origin, build=build()["git"])
    if isinstance(fn, OpOverload):
        return Decomposition("import", OPS, fn.name())
    if not isinstance(fn, types.FunctionType):
        return by_source(fn)
    if fn not in _identified:
        _identified[fn] = by_source(fn)
    return _identified[fn]


def check_readable(op: str, fn: Any, wanted: Decomposition, defaults: Defaults) -> None:
    """Refuse a decomposition that a later process would look for in vain, before anything is written.

    Args:
        op: the op's name.
        fn: the callable.
        wanted: what `identify` returned for it.
        defaults: torch's default table now.

    Raises:
        UnusableValue: torch has something else, or nothing, where the ledger would look.
    """
    if wanted.origin not in TORCH_ORIGINS and wanted.module != OPS:
        return  # by its module and name, or else by `provide`
    try:
        found = load_function(op, wanted, defaults, (), ())
    except NotImportable as error:
        raise UnusableValue(
            f"{op}: {wanted.label()} cannot be recorded, because it would not be found: {error}"
        ) from error
    if not same(found, fn):
        raise UnusableValue(
            f"{op}: {fn!r:.80} cannot be recorded, because torch has another decomposition under its name; "
            "give a function of your own that calls it"
        )


def identify_any(op: str, fn: Any, defaults: Defaults) -> Decomposition:
    """Return what a ledger records of a value of unmodified code, also where a later process would not find it."""
    found = identify(op, fn, defaults)
    try:
        check_readable(op, fn, found, defaults)
    except UnusableValue:
        return by_source(fn)
    return found


def keep_functions(log: TableLog, wanted: Mapping[str, Decomposition], functions: Mapping[str, Any]) -> None:
    """Keep the functions of this process that overrides of a table are to use.

    Not operators, which are dead when their library is destroyed, nor torch's own, which are found again by name.

    Args:
        log: the table.
        wanted: op -> decomposition, of the overrides.
        functions: op -> the function that it stands for.
    """
    for op, decomposition in wanted.items():
        fn = functions[op]
        if decomposition.origin not in TORCH_ORIGINS and not isinstance(fn, OpOverload):
            log.functions.keep(op, decomposition, fn, log.rules)
            if log.ledger is not None:
                log.ledger.functions.remember(op, decomposition, fn)


def _torch_origin(op: str, fn: Any) -> str | None:
    """Return the origin of a callable that torch decomposes the op with, or None."""
    kernel_op = internals.op_of_cia_partial(fn)
    if kernel_op is not None:
        return "cia" if kernel_op.name() == op else None
    live = resolve(op)
    return None if live is None or not _is_torchs(fn) else origin_of(live, fn)


def _is_torchs(fn: Any) -> bool:
    return str(_attribute(fn, "__module__")).partition(".")[0] == "torch"


def by_source(fn: Any) -> Decomposition:
    """Identify a callable by its module, its name and its source."""
    module, qualname = _attribute(fn, "__module__"), _attribute(fn, "__qualname__")
    # Another process cannot import what a script defines.
    importable = module is not None and qualname is not None and module != "__main__"
    if importable and _look_up(str(module), str(qualname)) is fn:
        # Torch's build implies its sources; a minimal capture leaves out what is private and not needed.
        source = None if provenance.is_minimal() or _is_torchs(fn) else source_text(fn)
        return Decomposition("import", module, qualname, _digest(fn), source=source, helpers=helpers_of(fn))
    named = fn.func if isinstance(fn, functools.partial) else fn
    return Decomposition(
        "opaque",
        module if isinstance(module, str) and not isinstance(fn, functools.partial) else None,
        _attribute(named, "__qualname__") or type(named).__qualname__,
        _digest(fn),
        # Once in memory, because each closure of one function has the same.
        source=None if (text := source_text(named)) is None else sys.intern(text),
        helpers=helpers_of(fn),
    )


def helpers_of(fn: Any) -> str | None:
    """Return a digest of a function and of the functions of its package that it calls; None if it calls none."""
    with_helpers = helpers_digest(fn)
    return None if with_helpers == helpers_digest(fn, depth=0) else with_helpers


def _attribute(fn: Any, name: str) -> Any:
    """Return an attribute, or None, even if the object raises when it is asked."""
    try:
        return getattr(fn, name, None)
    except Exception:
        return None


def _digest(fn: Any) -> str:
    digest = source_digest(fn)
    # A builtin has no Python source, and it does not change within a build.
    return digest if digest is not None else f"builtin:{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def _look_up(module: str, qualname: str) -> types.FunctionType | None:
    """Return the plain function that an imported module itself defines under a dotted name; run and import nothing.

    What the module imported does not count, because a stranger's ledger could reach `os` through any module that uses
    it.
    """
    if top_package(module) == _PACKAGE:
        return None
    found: Any = sys.modules.get(module)
    *classes, name = qualname.split(".")
    for part in classes:
        found = attributes_of(found).get(part)
        # The type of its type, because `isinstance` may ask the object for its class.
        if not issubclass(type(found), type) or attributes_of(found).get("__module__") != module:
            return None
    found = attributes_of(found).get(name)
    return found if type(found) is types.FunctionType and found.__module__ == module else None


def load_function(
    op: str, wanted: Decomposition, defaults: Defaults, provided: Sequence[Any], trust: Sequence[str]
) -> Any:
    """Return the callable that a recorded decomposition stands for.

    Args:
        op: the op that it replaces.
        wanted: the decomposition, which may come from a stranger's file.
        defaults: torch's default table now.
        provided: functions that the caller supplied for the op.
        trust: modules that may be imported, with their submodules.

    Raises:
        UntrustedModule: its module is neither imported nor trusted.
        NotImportable: it cannot be found, or it has no importable name and was not provided.
        DecompositionChanged: the function that is found has another source than was recorded.
    """
    if wanted.origin in TORCH_ORIGINS:
        try:
            return _torchs_own(op, wanted, defaults)
        except (RuntimeError, ValueError) as error:  # of torch: the library of the op was destroyed meanwhile, perhaps
            raise NotImportable(
                f"{op}: its decomposition is torch's own, which cannot be read: {error}; reset the op"
            ) from error
    if wanted.module == OPS:
        live = resolve(str(wanted.qualname))
        if live is None:
            raise NotImportable(f"{op}: its decomposition is the op {wanted.qualname}, which is not loaded; load it")
        return live
    if str(wanted.digest).startswith(_VALUE):
        raise NotImportable(f"{op}: its entry was {wanted.label()}, which decomposes nothing; override or reset {op}")
    for fn in provided:
        if _digest(fn) == wanted.digest:
            return fn
    if wanted.origin == "import":
        return _imported(op, wanted, trust)
    if provided:
        raise _changed(op, wanted, provided[-1])
    raise NotImportable(
        f"{op}: its decomposition is {wanted.label()}, a function without an importable name (a lambda, closure, "
        f"partial, class, builtin, or one of a script); supply it with ledger.provide({op!r}, fn) or "
        f"dl.reproduce(..., provide={{{op!r}: fn}}), or define it in a module and trust that"
    )


def _torchs_own(op: str, wanted: Decomposition, defaults: Defaults) -> Any:
    live = resolve(op)
    if live is not None:
        entry = defaults.entry(op, live)
        origin = own_origin(wanted, entry, build()["git"])
        default = defaults.get(op)
        fn = default if entry.default and origin == entry.origin else own_decompositions(live).get(str(origin))
        if fn is not None:
            return fn
    raise NotImportable(
        f"{op}: its decomposition is torch's own ({wanted.origin}), and torch {torch.__version__} has none for it; "
        f"reset or preserve {op}"
    )


def _imported(op: str, wanted: Decomposition, trust: Sequence[str]) -> Any:
    module, qualname = str(wanted.module), str(wanted.qualname)
    _check_trust(op, module, qualname, trust)
    if module not in sys.modules:  # because to import a module again asks it for attributes
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the module does when it is imported
            why = safe_repr(error, 200)
            raise NotImportable(
                f"{op}: its decomposition is {module}.{qualname}, and {module!r} cannot be imported: {why}"
            ) from error
    fn = _look_up(module, qualname)
    if fn is None:
        raise NotImportable(
            f"{op}: its decomposition is {module}.{qualname}, and {module!r} does not define a plain function of that "
            f"name now; supply the function with ledger.provide({op!r}, fn)"
        )
    if wanted.digest is None:
        raise NotImportable(
            f"{op}: its decomposition is {module}.{qualname}, recorded without a digest of its source; set it again "
            f"(table[{op!r}] = ...), preserve or reset {op}"
        )
    if _digest(fn) != wanted.digest:
        raise _changed(op, wanted, fn)
    return fn


def import_first(rules: Iterable[Rule | None], trust: Sequence[str]) -> None:
    """Import the trusted modules of overrides, before a lock is taken; `load_function` raises what goes wrong.

    Args:
        rules: the rules.
        trust: modules that may be imported, with their submodules.
    """
    for rule in rules if trust else ():
        module = None if rule is None or rule.decomposition is None else rule.decomposition.module
        if module is not None and module not in sys.modules and _is_trusted(module, trust):
            with contextlib.suppress(Exception):
                importlib.import_module(module)


def _is_trusted(module: str, trust: Sequence[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in trust)


def _check_trust(op: str, module: str, qualname: str, trust: Sequence[str]) -> None:
    """Refuse a module that is neither imported nor trusted.

    Torch outside its decompositions, and the standard library, must be trusted even when they are imported, because
    they have functions that a stranger's ledger could name to do harm.
    """
    root = top_package(module)
    if root == _PACKAGE:
        raise UntrustedModule(
            f"{op}: its decomposition is {module}.{qualname}, and this package has none; preserve or reset {op}"
        )
    trusted = _is_trusted(module, trust)
    decomposes = root != "torch" or f"{module}.".startswith(internals.DECOMPOSITION_MODULES)
    harmless = root not in sys.stdlib_module_names and decomposes
    if trusted or (harmless and module in sys.modules):
        return
    why = "is not imported here" if harmless else "does not hold decompositions"
    first = "import it first, or trust it" if harmless else "if that is meant, trust it"
    raise UntrustedModule(
        f"{op}: its decomposition is {module}.{qualname}, and the module {module!r} {why}; {first}: "
        f"Ledger(..., trust=[{module!r}]), --trust {module}"
    )


def _changed(op: str, wanted: Decomposition, found: Any) -> DecompositionChanged:
    return DecompositionChanged(
        f"{op}: its decomposition {wanted.label()} is not what was recorded: its source has the digest "
        f"{_digest(found)[:12]} now, recorded was {str(wanted.digest)[:12]}; set it again to record the new one "
        f"(table[{op!r}] = ...), preserve or reset {op}, or bring the old source back"
    )
