"""Callables to references and back: what a decomposition is called, what it is, and whether it may be used.

Nothing that a ledger names is imported or run, except torch's own decompositions, modules that are imported
already, and modules that the caller trusts.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
import weakref
from collections.abc import Sequence
from typing import Any

import torch

from decomp_ledger.errors import DecompositionChanged, NotImportable, UntrustedModule, UnusableValue
from decomp_ledger.model.materialize import own_origin
from decomp_ledger.model.rules import TORCH_ORIGINS, Decomposition
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.capture import build, own_decomposition
from decomp_ledger.pytorch.dispatcher import Defaults, describe_op, resolve
from decomp_ledger.pytorch.fingerprint.source_digest import helpers_digest, source_digest, source_text
from decomp_ledger.pytorch.internals import OpOverload

__all__ = ["OPS", "load_function", "helpers_of", "is_default", "describe"]

# A function is described once: its source does not change while it lives.
_described: weakref.WeakKeyDictionary[Any, Decomposition] = weakref.WeakKeyDictionary()
# The module of a reference to an operator: `torch.ops`, and its name.
OPS = "torch.ops"

# Where torch keeps functions that are made to be decompositions. The rest of torch, and the standard library,
# have functions that a stranger's ledger could name to do harm.
_TORCH_DECOMPOSITIONS = ("torch._decomp", "torch._refs", "torch._prims", "torch._inductor.decomposition")


def is_default(op: str, fn: Any, defaults: Defaults) -> bool:
    """Tell whether a callable is what torch's default table has for an op now."""
    default = defaults.get(op)
    return default is not None and same(fn, default)


def same(one: Any, other: Any) -> bool:
    """Tell whether two callables are one decomposition: torch makes a new partial for a CIA op at each asking."""
    if one is other:
        return True
    kernel = _kernel_of(one)
    return kernel is not None and kernel is _kernel_of(other)


def _kernel_of(fn: Any) -> Any | None:
    """Return the op whose C++ kernel a callable runs, if it is one of torch's CIA partials.

    Risk: the shape of what `torch._export.utils._get_decomp_for_cia` returns.
    """
    is_one = type(fn) is functools.partial and not fn.args and fn.keywords.keys() == {"kernel"}
    return fn.keywords["kernel"] if is_one and fn.func.__module__ == "torch._export.utils" else None


def describe(op: str, fn: Any, defaults: Defaults) -> Decomposition:
    """Describe what an op is to be replaced by.

    Torch's own decompositions are told by build, op and origin, which costs nothing; the user's by module, name and
    source, which is read once for each function.

    Args:
        op: the op's name.
        fn: the callable.
        defaults: torch's default table now.

    Raises:
        UnusableValue: it is not callable.
    """
    if not callable(fn):
        raise UnusableValue(f"the decomposition of {op} must be callable, not {type(fn).__name__} {fn!r:.80}")
    origin = _torch_origin(op, fn, defaults)
    if origin is not None:
        return Decomposition(origin, build=build()["git"])
    if isinstance(fn, OpOverload):
        return Decomposition("import", OPS, fn.name())
    if not isinstance(fn, types.FunctionType):
        return _describe(fn)
    if fn not in _described:
        _described[fn] = _describe(fn)
    return _described[fn]


def _torch_origin(op: str, fn: Any, defaults: Defaults) -> str | None:
    kernel = _kernel_of(fn)
    if kernel is not None:
        return "cia" if kernel.name() == op else None
    live = resolve(op)
    if live is None or not _is_torchs(fn):
        return None
    if internals.registry().get(live) is fn:
        return "registry"
    return "py_cia" if internals.cia_kernel(live) is fn else None


def _is_torchs(fn: Any) -> bool:
    return str(_attribute(fn, "__module__")).partition(".")[0] == "torch"


def _describe(fn: Any) -> Decomposition:
    module, qualname = _attribute(fn, "__module__"), _attribute(fn, "__qualname__")
    # What a script defines is found again in no other process.
    importable = module is not None and qualname is not None and module != "__main__"
    if importable and _look_up(str(module), str(qualname)) is fn:
        if _is_torchs(fn):
            return Decomposition("import", module, qualname, build=build()["git"])
        return Decomposition("import", module, qualname, _digest(fn), helpers=helpers_of(fn))
    named = fn.func if isinstance(fn, functools.partial) else fn
    return Decomposition(
        "opaque",
        module if isinstance(module, str) and not isinstance(fn, functools.partial) else None,
        _attribute(named, "__qualname__") or type(named).__qualname__,
        _digest(fn),
        source=source_text(named),
        helpers=helpers_of(fn),
    )


def helpers_of(fn: Any) -> str | None:
    """Return the digest of a function with those of its package that it calls; None if it calls none."""
    with_helpers = helpers_digest(fn)
    return None if with_helpers == helpers_digest(fn, depth=0) else with_helpers


def _attribute(fn: Any, name: str) -> Any:
    """Return an attribute, or None: whatever a callable object does when it is asked."""
    try:
        return getattr(fn, name, None)
    except Exception:
        return None


def _digest(fn: Any) -> str:
    digest = source_digest(fn)
    # What has no Python source is known by its name alone: a builtin does not change within a build.
    return digest if digest is not None else f"builtin:{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def _look_up(module: str, qualname: str) -> Any | None:
    """Return what an imported module itself defines under a dotted name, without importing anything.

    What it imported is not its own: else any module that uses `os` would lend it to a stranger's ledger.
    """
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        if not isinstance(found, (types.ModuleType, type)):
            return None
        # Not getattr: a module's __getattr__ would run code.
        found = vars(found).get(part)
        if isinstance(found, (staticmethod, classmethod)) or getattr(found, "__module__", None) != module:
            return None
    return found


def load_function(
    op: str, wanted: Decomposition, defaults: Defaults, provided: Sequence[Any], trust: Sequence[str]
) -> Any:
    """Return the callable that a reference names.

    Args:
        op: the op it is for.
        wanted: the reference, which may come from a stranger's file.
        defaults: torch's default table now.
        provided: functions that the caller supplied for the op.
        trust: modules that may be imported, with what is under them.

    Raises:
        UntrustedModule: its module is not imported, nor trusted.
        NotImportable: it cannot be found, or was never importable and has not been provided.
        DecompositionChanged: what is found has another source than was recorded.
    """
    if wanted.origin in TORCH_ORIGINS:
        return _torchs_own(op, wanted, defaults)
    if wanted.module == OPS:
        live = resolve(str(wanted.qualname))
        if live is None:
            raise NotImportable(f"the decomposition of {op} is the op {wanted.qualname}, which is not loaded; load it")
        return live
    for fn in provided:
        if _digest(fn) == wanted.digest:
            return fn
    if wanted.origin == "import":
        return _imported(op, wanted, trust)
    if provided:
        raise _changed(op, wanted, provided[-1])
    raise NotImportable(
        f"the decomposition of {op} is {wanted.label()}, a function with no importable name (a lambda, closure, "
        f"partial, or one of a script); supply the same one with ledger.provide({op!r}, fn)"
    )


def _torchs_own(op: str, wanted: Decomposition, defaults: Defaults) -> Any:
    live = resolve(op)
    if live is not None:
        entry = describe_op(op, live, defaults)
        origin = own_origin(wanted, entry, build()["git"])
        default = defaults.get(op)
        fn = default if entry.default and origin == entry.origin else own_decomposition(live, str(origin))
        if fn is not None:
            return fn
    raise NotImportable(
        f"the decomposition of {op} is torch's own ({wanted.origin}), and torch {torch.__version__} has none for it; "
        f"restore or preserve {op}"
    )


def _imported(op: str, wanted: Decomposition, trust: Sequence[str]) -> Any:
    module, qualname = str(wanted.module), str(wanted.qualname)
    root = module.partition(".")[0]
    trusted = any(module == name or module.startswith(name + ".") for name in trust)
    harmless = root not in sys.stdlib_module_names and (root != "torch" or module.startswith(_TORCH_DECOMPOSITIONS))
    if not trusted and not (harmless and module in sys.modules):
        why = "is not imported here" if harmless else "is not one that keeps decompositions"
        first = "import it first, or trust it" if harmless else "if you know it is meant, trust it"
        raise UntrustedModule(
            f"the decomposition of {op} is {module}.{qualname}, and the module {module!r} {why}; {first}: "
            f"Ledger(..., trust=[{module!r}]), --trust {module}"
        )
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever the module does when it is imported
        raise NotImportable(
            f"the decomposition of {op} is {module}.{qualname}, and {module!r} cannot be imported: {error!r:.200}"
        ) from error
    fn = _look_up(module, qualname)
    if fn is None or not callable(fn):
        raise NotImportable(f"the decomposition of {op} is {module}.{qualname}, which {module!r} does not have now")
    # Torch's own are known by their build, others by their source.
    if not (wanted.build is not None and _is_torchs(fn)) and _digest(fn) != wanted.digest:
        raise _changed(op, wanted, fn)
    return fn


def _changed(op: str, wanted: Decomposition, found: Any) -> DecompositionChanged:
    return DecompositionChanged(
        f"the decomposition of {op}, {wanted.label()}, is not what was recorded: its source now has the digest "
        f"{_digest(found)[:12]}, recorded was {str(wanted.digest)[:12]}; set it again to record the new one "
        f"(table[{op!r}] = ...), preserve or restore {op}, or bring the old source back"
    )
