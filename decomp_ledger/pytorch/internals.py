"""Every private part of torch that the live dispatcher and table rely on, one small function each.

Each docstring names what is private and what would break. All were checked in torch 2.6 to 2.15.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

from decomp_ledger.errors import UnsupportedTorch

__all__ = [
    "HigherOrderOperator",
    "OpOverload",
    "OpOverloadPacket",
    "cia_decomposition",
    "cia_kernel",
    "cia_registrations",
    "core_registry",
    "dispatcher_names",
    "forget_aten_cia_ops",
    "has_cia_kernel",
    "has_schema",
    "higher_order_operators",
    "import_parts",
    "libraries_loaded",
    "name_of",
    "namespaces",
    "preserved_by_default",
    "python_definitions",
    "registry",
    "registry_first",
    "remembered_aten_cia_ops",
    "table_class",
    "tracing_mode",
]

CIA = torch._C.DispatchKey.CompositeImplicitAutograd


def cia_registrations() -> list[str]:
    """Return the names of ops with a C++ CompositeImplicitAutograd kernel, in a stable order.

    Risk: `torch._C._dispatch_get_registrations_for_dispatch_key`. Without it no CIA op could be listed.
    """
    return torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")  # type: ignore[no-any-return]


def dispatcher_names() -> list[str]:
    """Return the names of all ops that the dispatcher knows (about 3,600; 1 ms).

    Risk: `torch._C._dispatch_get_all_op_names`. Used for catalogs and for near names, not for tables.
    """
    return torch._C._dispatch_get_all_op_names()  # type: ignore[no-any-return]


def has_schema(name: str, overload: str) -> bool:
    """Tell whether `ns::name` has that overload now, without making torch remember the question.

    Risk: `torch._C._dispatch_find_schema_or_throw`. `getattr(torch.ops, ...)` would create the namespace for ever.
    """
    try:
        torch._C._dispatch_find_schema_or_throw(name, overload)
    except RuntimeError:
        return False
    return True


def higher_order_operators() -> dict[str, HigherOrderOperator]:
    """Return the registered higher-order operators by name.

    Risk: `torch._ops._higher_order_ops`.
    """
    return torch._ops._higher_order_ops  # type: ignore[no-any-return]


# Parts of torch that define ops when they are first imported, what takes the least time first (50 ms, 3 s, 0.4 s).
_PARTS = ("torch.distributed._functional_collectives", "torch._dynamo", "torch._inductor.decomposition")


def import_parts(missing: Callable[[], bool]) -> None:
    """Import parts of torch that define ops of its own, as long as some are missing.

    Risk: the names of the modules. Without one, its ops are said to be gone where an export had imported it.

    Args:
        missing: tells whether any op is still missing.
    """
    for part in _PARTS:
        if not missing():
            return
        with contextlib.suppress(Exception):  # a torch built without it
            importlib.import_module(part)


def registry() -> dict[Any, Callable[..., Any]]:
    """Return torch's own registry of Python decompositions (`post_autograd`), the live dict.

    Risk: `torch._decomp.global_decomposition_table`.
    """
    from torch._decomp import global_decomposition_table

    return global_decomposition_table["post_autograd"]  # type: ignore[no-any-return]


def core_registry() -> dict[Any, Callable[..., Any]]:
    """Return the part of the registry that is in torch's default table (0.4 ms).

    Risk: `torch._decomp._core_aten_decompositions_post_autograd`, where the list of core ops is written down.
    """
    from torch._decomp import _core_aten_decompositions_post_autograd

    return _core_aten_decompositions_post_autograd()  # type: ignore[no-any-return]


def preserved_by_default() -> frozenset[Any]:
    """Return the CIA ops of aten that torch's default table leaves out on purpose.

    Risk: `torch.export.decomp_utils.PRESERVED_ATEN_CIA_OPS`; absent in some versions, which leave none out.
    """
    from torch.export import decomp_utils

    return frozenset(getattr(decomp_utils, "PRESERVED_ATEN_CIA_OPS", ()))


@cache
def registry_first() -> bool:
    """Tell whether torch's default table takes the registry's entry for an aten op that has a CIA kernel too.

    Risk: `CustomDecompTable.__init__` is where that is decided: torch up to 2.9 takes the kernel, later ones the
    registry's entry. Read from its source; where that is missing, as newer versions do.
    """
    try:
        return "op not in self.decomp_table" in inspect.getsource(table_class().__init__)
    except OSError:
        return True


def cia_kernel(op: Any) -> Any:
    """Return the Python CompositeImplicitAutograd kernel of an op, or None.

    Risk: `OperatorBase.py_kernels`. An alias to another dispatch key is no kernel.
    """
    kernel = op.py_kernels.get(CIA)
    return None if isinstance(kernel, torch._C.DispatchKey) else kernel


def has_cia_kernel(op: Any) -> bool:
    """Tell whether an op has a C++ CompositeImplicitAutograd kernel.

    Risk: `torch._C._dispatch_has_kernel_for_dispatch_key`.
    """
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), CIA))


def cia_decomposition(op: Any) -> Callable[..., Any]:
    """Return what torch's default table would hold for a CIA op.

    Risk: `torch._export.utils._get_decomp_for_cia`. For a C++ kernel it makes a new `functools.partial` each time.
    """
    from torch._export.utils import _get_decomp_for_cia

    return _get_decomp_for_cia(op)  # type: ignore[no-any-return]


def remembered_aten_cia_ops() -> set[Any] | None:
    """Return the CIA ops of aten that torch remembers, or None if it was not asked yet.

    Risk: `torch._export.utils._collect_all_valid_cia_ops_for_aten_namespace` and its `lru_cache`.
    """
    from torch._export.utils import _collect_all_valid_cia_ops_for_aten_namespace as collect

    return collect() if collect.cache_info().currsize else None


def forget_aten_cia_ops() -> None:
    """Make torch look at aten again: it remembers its CIA ops for ever, late and destroyed ones alike.

    Risk: as in :func:`remembered_aten_cia_ops`. Without this `run_decompositions` raises AssertionError for an op
    that came late to aten, and crashes the process for one that went.
    """
    from torch._export.utils import _collect_all_valid_cia_ops_for_aten_namespace as collect

    collect.cache_clear()


def name_of(op: Any) -> str | None:
    """Return the name of an operator; None for what is none."""
    return op.name() if isinstance(op, (OpOverload, HigherOrderOperator)) else None


def tracing_mode() -> Any:
    """Return the mode in which torch traces into a graph now, or None.

    Risk: `torch.fx.experimental.proxy_tensor.get_proxy_mode`. Without it nothing would be counted as fired.
    """
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode()


def namespaces() -> Iterator[Any]:
    """Give the namespaces of ops that torch has made so far.

    Risk: `torch.ops._dir` and `torch._ops._OpNamespace`.
    """
    for name in torch.ops._dir:
        space = vars(torch.ops).get(name)
        if isinstance(space, torch._ops._OpNamespace):
            yield space


def python_definitions() -> tuple[set[str], set[str]]:
    """Return the names defined (`ns::name`) and implemented (`ns/name/key`) through Python libraries, live sets.

    Risk: `torch.library._defs` and `_impls`.
    """
    return torch.library._defs, torch.library._impls


class _LoadedObject(ctypes.Structure):
    # struct dl_phdr_info of <link.h>
    _fields_ = (
        ("addr", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("phdr", ctypes.c_void_p),
        ("phnum", ctypes.c_uint16),
        ("adds", ctypes.c_ulonglong),
        ("subs", ctypes.c_ulonglong),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_LoadedObject), ctypes.c_size_t, ctypes.c_void_p)
_adds = 0


def _read_adds(info: Any, size: int, data: object) -> int:
    global _adds
    _adds = info.contents.adds
    return 1  # the counter is the same in every object: the first is enough


_callback = _CALLBACK(_read_adds)
_dl_iterate_phdr = getattr(ctypes.CDLL(None), "dl_iterate_phdr", None) if sys.platform == "linux" else None


def libraries_loaded() -> int:
    """Return a number that grows when a shared library is loaded in any way (0.6 us).

    Risk: glibc's `dl_iterate_phdr`; elsewhere only `torch.ops.load_library` is counted.
    """
    if _dl_iterate_phdr is None:
        return len(torch.ops.loaded_libraries)
    _dl_iterate_phdr(_callback, None)
    return _adds


def table_class() -> type[Any]:
    """Return `torch.export.decomp_utils.CustomDecompTable`, which every table here is a subclass of.

    Raises:
        UnsupportedTorch: this torch has none.
    """
    try:
        from torch.export.decomp_utils import CustomDecompTable
    except ImportError:
        raise UnsupportedTorch(
            f"torch {torch.__version__} has no CustomDecompTable; decomp_ledger needs torch 2.6 or newer"
        ) from None
    return CustomDecompTable  # type: ignore[no-any-return]
