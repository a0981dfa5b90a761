"""Wrap every private part of torch that this package uses, one small function each.

Each docstring names what is private, and what would break without it. All were checked in torch 2.6 to 2.15.

This file is also a part of the standalone capture program, so it imports only the standard library and torch.
"""

import contextlib
import ctypes
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch._decomp
import torch.utils._pytree
from torch._export import utils as export_utils
from torch._ops import HigherOrderOperator as HigherOrderOperator
from torch._ops import OperatorBase as OperatorBase
from torch._ops import OpOverload as OpOverload
from torch._ops import OpOverloadPacket as OpOverloadPacket
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.export import exported_program
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

try:
    from torch.export import decomp_utils
except ImportError:  # torch before 2.6
    decomp_utils = None

# Torch 2.5 has no table class, and other names for some functions. Only the capture program supports it.
_OLD = decomp_utils is None
_CIA_MODULES = ("torch._export.utils", "torch.export.exported_program")
_CIA = torch._C.DispatchKey.CompositeImplicitAutograd
# Where torch keeps functions that are made to be decompositions.
DECOMPOSITION_MODULES = ("torch._decomp.", "torch._refs.", "torch._prims.", "torch._inductor.decomposition.")


# Operators. Their classes `OpOverload`, `OpOverloadPacket` and `HigherOrderOperator` have no public name, so a later
# torch may move them.


def operator_name(value: Any) -> str | None:
    """Return the name of an operator (`aten::add.Tensor`, `cond`), or None for any other value.

    Risk: the classes of `torch._ops`.
    """
    return str(value.name()) if isinstance(value, (OpOverload, HigherOrderOperator)) else None


def packet_name(packet: Any) -> str:
    """Return the qualified name of a packet (`aten::linear`).

    Risk: `OpOverloadPacket._qualified_op_name`. Without it a packet could not be used as a key.
    """
    return str(packet._qualified_op_name)


def schema_text(op: Any) -> str:
    """Return the schema of an operator as text.

    Risk: `OpOverload._schema`. A catalog's entries have it.
    """
    return str(op._schema)


def schema_arguments(op: Any) -> Any:
    """Return the arguments of an operator's schema.

    Risk: `OpOverload._schema`. Without it a graph digest could not bind arguments by name.
    """
    return op._schema.arguments


def schema_returns(op: Any) -> Any:
    """Return the results of an operator's schema.

    Risk: `OpOverload._schema`. Without it a trace could not tell views from new tensors.
    """
    return op._schema.returns


def alias_sets(argument: Any) -> tuple[frozenset[str], bool]:
    """Return the names of an argument's or result's alias sets, and whether the op writes to it.

    `*` is the name of the set of any results, which a list of views has.
    Risk: `alias_info` of a schema's argument. Without it a trace could not order what happens in place.
    """
    info = argument.alias_info
    return (frozenset(), False) if info is None else (frozenset((*info.before_set, *info.after_set)), info.is_write)


def mutates_or_aliases(op: Any) -> bool:
    """Tell whether an operator's schema mutates or aliases an argument.

    Risk: `OpOverload._schema.is_mutable` and `OpOverload.is_view`.
    """
    return bool(op.is_view or op._schema.is_mutable)


def mutates(op: Any) -> bool:
    """Tell whether an operator's schema mutates an argument.

    Risk: `OpOverload._schema.is_mutable`. A higher-order operator has no schema.
    """
    schema = getattr(op, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def is_view_op(op: Any) -> bool:
    """Tell whether a value is an operator whose results are views of its arguments.

    Risk: `OpOverload.is_view`.
    """
    return isinstance(op, OpOverload) and bool(op.is_view)


def is_metadata_function(op: Any) -> bool:
    """Tell whether functional tensors answer an operator from their metadata.

    Risk: `FunctionalTensor.metadata_fns`. Torch cannot preserve these.
    """
    return op in FunctionalTensor.metadata_fns


def is_unsafe(op: Any) -> bool:
    """Tell whether torch always decomposes an operator, because its schema may be wrong.

    Risk: `torch._decomp._should_decompose_because_unsafe_op`.
    """
    if _OLD:
        return op in FunctionalTensor.maybe_aliasing_or_mutating_ops
    return bool(torch._decomp._should_decompose_because_unsafe_op(op))


def tree_leaves(value: Any) -> list[Any]:
    """Return what is inside of dicts, lists and other containers that torch knows.

    Risk: `torch.utils._pytree`. Results of programs may be any container that is registered there.
    """
    return torch.utils._pytree.tree_leaves(value)  # type: ignore[no-any-return]


# Kernels


def has_kernel(op: Any) -> bool:
    """Tell whether an operator has any kernel in the dispatcher.

    Risk: `torch._C._dispatch_has_kernel`.
    """
    return bool(torch._C._dispatch_has_kernel(op.name()))


def python_cia_kernel(op: Any) -> Any:
    """Return the CompositeImplicitAutograd kernel in Python of an operator, or None.

    Risk: `OperatorBase.py_kernels`. Its value may be another dispatch key, which is an alias and not a kernel.
    """
    # Almost all of these dicts are empty, and torch hashes a dispatch key in Python.
    kernel = op.py_kernels.get(_CIA) if op.py_kernels else None
    return None if isinstance(kernel, torch._C.DispatchKey) else kernel


def is_cia(op: Any) -> bool:
    """Tell whether an operator has a CompositeImplicitAutograd kernel, in Python or in C++.

    Risk: `torch._C._dispatch_has_kernel_for_dispatch_key` and `OperatorBase.py_kernels`.
    """
    if python_cia_kernel(op) is not None:
        return True
    # The C++ dispatcher does not know higher-order operators.
    return isinstance(op, OpOverload) and bool(torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), _CIA))


def cia_registration(op: Any) -> tuple[str, int] | None:
    """Return the file and the line of the library that registered an operator's CompositeImplicitAutograd kernel.

    That is where a `torch.library.Library` was made, or the block `TORCH_LIBRARY_IMPL` in C++; None if torch does not
    know it, as torch 2.6 of a library in Python.
    Risk: the text of `torch._C._dispatch_dump`. Without it an answer names no line.
    """
    try:
        text = torch._C._dispatch_dump(op.name())
    except RuntimeError:  # its library was destroyed meanwhile
        return None
    found = re.search(r"^CompositeImplicitAutograd\b.*?: registered at (.+?):(\d+) ::", text, re.MULTILINE)
    return None if found is None or found[1] == _NO_FILE else (found[1], int(found[2]))


def registered_at(name: str) -> list[tuple[str, str, int]]:
    """Return where an op and its kernels were registered: the dispatch key, the file and the line (60 us).

    The key of the op itself is "". It is the line of a `torch.library.Library`, or of a block `TORCH_LIBRARY` in C++;
    "unknown" and 0 if torch does not know it.
    Risk: the text of `torch._C._dispatch_dump`. Without it, what C++ registers could not be seen.
    """
    try:
        text = torch._C._dispatch_dump(name)
    except RuntimeError:  # its library was destroyed meanwhile
        return []
    found = re.findall(r"^(\w+)(?:\[\w+\])?: registered at (.+?):(\d+)(?: ::|$)", text, re.MULTILINE)
    known = ((key, *(("unknown", 0) if file == _NO_FILE else (file, int(line)))) for key, file, line in found)
    return [("" if key == "debug" else key, file, line) for key, file, line in known]


_NO_FILE = "/dev/null"  # what torch 2.6 writes instead of the file of a library in Python


def decomposition_registrar() -> tuple[Any, str]:
    """Return the module and the name of the function that puts a decomposition of an op into a registry of torch.

    Risk: `torch._decomp._add_op_to_registry(registry, op, fn)`, which every `register_decomposition` calls.
    """
    return torch._decomp, "_add_op_to_registry"


def registry_name(registry: Any) -> str:
    """Return the name of one of torch's registries of decompositions (`post_autograd`); "" for any other dict.

    Risk: `torch._decomp.global_decomposition_table`.
    """
    found = (name for name, own in torch._decomp.global_decomposition_table.items() if own is registry)
    return next(found, "")


def fake_kernel_holder() -> Any | None:
    """Return the class whose `register` stores each fake kernel; an object of it has the op's name as `qualname`.

    Risk: `torch._library.fake_impl.FakeImplHolder`. Without it fake kernels are not seen.
    """
    return getattr(sys.modules.get("torch._library.fake_impl"), "FakeImplHolder", None)


def names_of_library(library: Any) -> list[tuple[str, str]]:
    """Return what a `torch.library.Library` has defined and implemented: op names, each with a dispatch key or "".

    Risk: `Library._op_defs`, whose items are `ns::name`, and `_op_impls`, whose items are `ns/name.overload/key`.
    """
    kernels = (item.split("/") for item in sorted(library._op_impls))
    defined = [(str(name), "") for name in sorted(library._op_defs)]
    return defined + [(f"{parts[0]}::{parts[1]}", parts[2]) for parts in kernels if len(parts) == 3]


def is_implemented_in_python(op_name: str) -> bool:
    """Tell whether Python code registered a CompositeImplicitAutograd kernel through `torch.library`.

    Risk: `torch.library._impls`, whose items are `ns/name.overload/key`.
    """
    return f"{op_name.replace('::', '/')}{_IN_PYTHON}" in _python_implementations


def implemented_in_python() -> set[str]:
    """Return the names of the ops that :func:`is_implemented_in_python` says yes to (0.1 ms).

    Risk: as there.
    """
    found = (item.removesuffix(_IN_PYTHON) for item in _python_implementations if item.endswith(_IN_PYTHON))
    return {item.replace("/", "::", 1) for item in found}


_IN_PYTHON = "/CompositeImplicitAutograd"


def cia_decomposition(op: Any) -> Callable[..., Any]:
    """Return what torch's default table would hold for a CIA op; a kernel in Python wins over one in C++.

    Risk: `torch._export.utils._get_decomp_for_cia`. For a C++ kernel it makes a new `functools.partial` each time.
    """
    if _OLD:
        kernel = python_cia_kernel(op)
        return functools.partial(exported_program._register_cia_to_meta, kernel=op) if kernel is None else kernel
    return export_utils._get_decomp_for_cia(op)  # type: ignore[no-any-return]


def op_of_cia_partial(fn: Any) -> Any | None:
    """Return the operator whose C++ kernel a callable runs, if `cia_decomposition` made the callable; else None.

    Risk: the shape of these partials: a function of `torch._export.utils` with the keyword `kernel` alone.
    """
    is_one = type(fn) is functools.partial and not fn.args and fn.keywords.keys() == {"kernel"}
    return fn.keywords["kernel"] if is_one and fn.func.__module__ in _CIA_MODULES else None


def definition_of(fn: Any) -> tuple[str, str]:
    """Return the module and the qualified name of one of torch's decompositions.

    Risk: a wrapper of an `OpOverloadPacket` has the packet's names (module `torch._ops...`), in which pybind11 writes
    how torch was compiled. Such a wrapper gives the names of its own code instead.
    """
    if fn.__module__.startswith("torch._ops"):
        return fn.__globals__["__name__"], fn.__name__
    return fn.__module__, fn.__qualname__


# The dispatcher


def has_schema(name: str, overload: str) -> bool:
    """Tell whether the dispatcher knows that overload of `ns::name` now.

    Risk: `torch._C._dispatch_find_schema_or_throw`. `getattr(torch.ops, ...)` would create the namespace permanently,
    and each namespace slows torch's own table.
    """
    try:
        torch._C._dispatch_find_schema_or_throw(name, overload)
    except RuntimeError:
        return False
    return True


def find_operator(name: str, overload: str) -> Any | None:
    """Return the live overload of `ns::name`, or None if it is not loaded now (1 us).

    Never remember the result: calling an operator whose library is destroyed crashes the process.
    Risk: as :func:`has_schema`.
    """
    if not has_schema(name, overload):
        return None
    space, _, family = name.partition("::")
    try:
        return getattr(getattr(getattr(torch.ops, space), family), overload or "default")
    except AttributeError:
        return None


def dispatcher_names() -> list[str]:
    """Return the names of all ops that the dispatcher knows (about 3,600; 1 ms).

    Risk: `torch._C._dispatch_get_all_op_names`. Catalogs and suggestions of names need it; tables do not.
    """
    return torch._C._dispatch_get_all_op_names()  # type: ignore[no-any-return]


def higher_order_operators() -> dict[str, Any]:
    """Return the registered higher-order operators by name.

    Risk: `torch._ops._higher_order_ops`. The C++ dispatcher does not list them.
    """
    return torch._ops._higher_order_ops  # type: ignore[no-any-return]


def cia_registrations() -> list[str]:
    """Return the names of ops with a C++ CompositeImplicitAutograd kernel, in a stable order (0.1 ms).

    Risk: `torch._C._dispatch_get_registrations_for_dispatch_key`. Without it no CIA op could be listed.
    """
    return torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")  # type: ignore[no-any-return]


def packets() -> list[Any]:
    """Return all packets that torch has made so far (0.1 ms).

    Risk: `torch.ops._dir` and `torch._ops._OpNamespace._dir`. Without them a kernel in Python, and an op that was
    destroyed and registered again, could not be seen.
    """
    found: list[Any] = []
    for name in torch.ops._dir:
        space = vars(torch.ops).get(name)
        if isinstance(space, torch._ops._OpNamespace):
            found.extend(map(vars(space).__getitem__, space._dir))
    return [packet for packet in found if isinstance(packet, OpOverloadPacket)]


def overload_counts(packets: list[Any]) -> list[int]:
    """Return how many overloads torch has made of each packet so far (0.1 ms).

    Risk: `OpOverloadPacket._dir`.
    """
    return [len(packet._dir) for packet in packets]


def overloads(packets: list[Any]) -> list[Any]:
    """Return the overloads that torch has made of packets so far (2,800 after an export; 0.5 ms).

    Risk: `OpOverloadPacket._dir`.
    """
    found: list[Any] = []
    for packet in packets:
        found.extend(map(vars(packet).__getitem__, packet._dir))
    return found


def python_cia_kernels(ops: list[Any]) -> list[tuple[Any, Any]]:
    """Return (operator, kernel) for each CompositeImplicitAutograd kernel in Python; aliases are included (0.3 ms).

    Risk: `OperatorBase.py_kernels`.
    """
    # Half of the dicts are empty, and torch hashes a dispatch key in Python.
    return [(op, op.py_kernels[_CIA]) for op in ops if op.py_kernels and _CIA in op.py_kernels]


# What changes when libraries come and go


def registrations() -> tuple[int, int, int]:
    """Count what Python code has defined, implemented and given decompositions (0.1 us).

    Risk: the sets `torch.library._defs` and `_impls`, and the registry. Replacing a value in place changes no count.
    """
    return len(_python_definitions), len(_python_implementations), len(_registry)


def defined_in_python() -> set[str]:
    """Return the names (`ns::name`) that were defined through `torch.library`, the live set.

    Risk: `torch.library._defs`. Names stay in it when their library is destroyed.
    """
    return _python_definitions


_python_definitions: set[str] = torch.library._defs
_python_implementations: set[str] = torch.library._impls
_registry: dict[Any, Callable[..., Any]] = torch._decomp.global_decomposition_table["post_autograd"]


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
    return 1  # every object has the same counter, so the first ends the iteration


_callback = _CALLBACK(_read_adds)
_dl_iterate_phdr = getattr(ctypes.CDLL(None), "dl_iterate_phdr", None) if sys.platform == "linux" else None


def libraries_loaded() -> int:
    """Return a number that grows when the process loads a shared library in any way (0.6 us).

    Risk: glibc's `dl_iterate_phdr`. On other systems only `torch.ops.load_library` is counted.
    """
    if _dl_iterate_phdr is None:
        return len(torch.ops.loaded_libraries)
    _dl_iterate_phdr(_callback, None)
    return _adds


# Parts of torch that define ops when they are first imported, the fastest first (50 ms, 3 s, 0.4 s).
_PARTS = ("torch.distributed._functional_collectives", "torch._dynamo", "torch._inductor.decomposition")


def import_parts(missing: Callable[[], bool]) -> None:
    """Import parts of torch that define ops of its own, as long as some are missing.

    Risk: the names of the modules. Without one, its ops would be reported as gone where an export had imported it.

    Args:
        missing: Tells whether any op is still missing.
    """
    for part in _PARTS:
        if not missing():
            return
        with contextlib.suppress(Exception):  # a torch built without it
            importlib.import_module(part)


# Torch's default table


def table_class() -> Any | None:
    """Return `CustomDecompTable` from where it is defined; None if this torch lacks it.

    Risk: `torch.export.decomp_utils`. Every table here is a subclass of it.
    """
    return getattr(decomp_utils, "CustomDecompTable", None)


# The parameters of `_decompose_exported_program` that have the table: its kernels, and its other functions.
TABLES_OF_LOWERING = ("cia_to_decomp", "python_decomp_table")


def is_preserving(fn: Any) -> bool:
    """Tell whether a callable is what torch puts where a table lacks an op, so that the op stays.

    Risk: the name `_special_op_to_preserve_cia`.
    """
    return getattr(fn, "__name__", "") == "_special_op_to_preserve_cia"


def default_table() -> Any:
    """Return what torch makes when an export is given no table; within a recording, a recorded one.

    Risk: as :func:`table_class`.
    """
    return decomp_utils.CustomDecompTable()


def upstream_table() -> dict[Any, Callable[..., Any]]:
    """Return torch's default decompositions, as a table made in a new process has them (20-70 ms).

    Risk: as :func:`table_class` and :func:`forget_aten_cia_ops`.
    """
    if _OLD:
        return _table_of_torch_2_5()
    forget_aten_cia_ops()
    return dict(decomp_utils.CustomDecompTable().materialize())


def _table_of_torch_2_5() -> dict[Any, Callable[..., Any]]:
    """Return the default table that torch 2.5 would have: it decomposes CIA ops without a table, whatever theirs says.

    Risk: `torch._decomp.core_aten_decompositions`.
    """
    table: dict[Any, Callable[..., Any]] = dict(torch._decomp.core_aten_decompositions())
    for name in dispatcher_names():
        qualified, _, overload = name.partition(".")
        op = find_operator(qualified, overload)
        if op is None or not is_cia(op) or not has_kernel(op):
            continue
        if not (mutates_or_aliases(op) or is_metadata_function(op) or is_unsafe(op)):
            table[op] = cia_decomposition(op)
    return table


def registry() -> dict[Any, Callable[..., Any]]:
    """Return torch's own registry of Python decompositions (`post_autograd`), the live dict.

    Risk: `torch._decomp.global_decomposition_table`.
    """
    return _registry


def core_registry() -> dict[Any, Callable[..., Any]]:
    """Return the part of the registry that is in torch's default table (0.4 ms).

    Risk: `torch._decomp._core_aten_decompositions_post_autograd`, which holds the list of core ops.
    """
    return torch._decomp._core_aten_decompositions_post_autograd()  # type: ignore[no-any-return]


def preserved_by_default() -> frozenset[Any]:
    """Return the CIA ops of aten that torch's default table leaves out on purpose.

    Risk: `torch.export.decomp_utils.PRESERVED_ATEN_CIA_OPS`; versions without it leave none out.
    """
    return frozenset(getattr(decomp_utils, "PRESERVED_ATEN_CIA_OPS", ()))


@functools.cache
def registry_first() -> bool:
    """Tell whether torch's default table prefers the registry to a CIA kernel for an aten op that has both.

    Risk: the text of `CustomDecompTable.__init__`: torch up to 2.9 takes the kernel, later ones the registry's entry.
    Without the text, this assumes a newer torch.
    """
    try:
        return "op not in self.decomp_table" in inspect.getsource(decomp_utils.CustomDecompTable.__init__)
    except OSError:
        return True


def remembered_aten_cia_ops() -> set[Any] | None:
    """Return the CIA ops of aten that torch has cached, or None if it has cached none yet.

    Risk: `torch._export.utils._collect_all_valid_cia_ops_for_aten_namespace` and its `lru_cache`.
    """
    collect = export_utils._collect_all_valid_cia_ops_for_aten_namespace
    return collect() if collect.cache_info().currsize else None


def forget_aten_cia_ops() -> None:
    """Make torch list the CIA ops of aten again: it caches the first list permanently.

    Without this, `run_decompositions` raises AssertionError for an op that was added late to aten, and crashes the
    process for one that was removed.
    Risk: as in :func:`remembered_aten_cia_ops`.
    """
    export_utils._collect_all_valid_cia_ops_for_aten_namespace.cache_clear()


def was_read_upstream(table: Any) -> bool:
    """Tell whether a table is torch's own and was read; after that it takes in no ops that are loaded.

    Risk: `CustomDecompTable.has_materialized`.
    """
    return bool(getattr(table, "has_materialized", False))


def ops_popped_upstream(table: Any) -> Any:
    """Return the custom operators that were popped from a table of torch's own before its first read.

    Risk: `CustomDecompTable.deleted_custom_ops`, which torch empties at the first read.
    """
    return getattr(table, "deleted_custom_ops", ())


# Tracing and graphs


def is_tracing() -> bool:
    """Tell whether torch traces into a graph now.

    Risk: `torch.fx.experimental.proxy_tensor.get_proxy_mode`. Without it no decomposition would be counted as fired.
    """
    return get_proxy_mode() is not None


def graph_under_trace() -> tuple[Any, Any] | None:
    """Return the graph that torch traces into now, and the module that holds its subgraphs; None outside of a trace.

    Risk: `ProxyTorchDispatchMode.tracer`, with its `graph` and `root`. Without it no node's maker would be known.
    """
    mode: Any = get_proxy_mode()
    tracer = getattr(mode, "tracer", None)
    graph = getattr(tracer, "graph", None)
    return None if graph is None else (graph, getattr(tracer, "root", None))


def table_of_tracer(tracer: Any) -> dict[Any, Any] | None:
    """Return the table of a tracer of `make_fx`, its own dict; None if it cannot be seen.

    Risk: `_MakefxTracer.decomposition_table`, a copy of what the caller gave.
    """
    found = getattr(tracer, "decomposition_table", None)
    return found if isinstance(found, dict) else None


def given_decompositions(table: dict[Any, Any]) -> dict[Any, Any]:
    """Return what the caller of `make_fx` gave: a tracer's table without the entries that torch adds.

    Risk: that these are `sym_numel` for each caller, and from torch 2.14 on `detach` for one who gave no table.
    """
    op, fn = torch.ops.aten.sym_numel.default, getattr(torch._decomp.decompositions, "sym_numel", None)
    given = {key: value for key, value in table.items() if key is not op or value is not fn}
    added = _added_without_table()
    # By identity, because `==` would run code of what the program gave.
    is_added = given.keys() == added.keys() and all(given[key] is fn for key, fn in added.items())
    return {} if is_added else given


@functools.cache
def _added_without_table() -> dict[Any, Any]:
    """Return what else torch puts into the table of a caller of `make_fx` who gave none.

    Risk: the text of `_MakefxTracer.__init__`, and the name `nop_decomposition`. Without the text, this assumes that
    torch adds nothing.
    """
    try:
        text = inspect.getsource(proxy_tensor._MakefxTracer.__init__)
    except (AttributeError, OSError):
        return {}
    fn = getattr(torch._decomp.decompositions, "nop_decomposition", None)
    return {torch.ops.aten.detach.default: fn} if "nop_decomposition" in text else {}


def other_tables() -> dict[str, dict[Any, Any]]:
    """Return tables of torch other than the default of exports, by name; Inductor's only if it is imported.

    Risk: `torch._inductor.decomposition.decompositions`.
    """
    found = {"registry": _registry}
    inductor = getattr(sys.modules.get("torch._inductor.decomposition"), "decompositions", None)
    return {"inductor": inductor, **found} if isinstance(inductor, dict) else found


def what_traces() -> tuple[str, Any]:
    """Return which part of torch runs the present trace, and the module that it compiles, if that can be seen.

    Risk: the files of torch, and the names of functions and variables in them. Without these, a trace would be called
    one of `make_fx`.
    """
    by = "make_fx"
    frame: Any = sys._getframe(1)
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if function == "compile_fx_aot" and file.endswith("_inductor/compile_fx.py"):
            return "AOTInductor", frame.f_locals.get("model_")
        if file.endswith("_dynamo/convert_frame.py"):
            by = "torch.compile"
        elif function == "_wrapped_call_impl" and file.endswith("torch/nn/modules/module.py"):
            # Up to torch 2.7, what `torch.compile` gave is called as any module.
            children = vars(frame.f_locals["self"]).get("_modules", {})
            if by == "torch.compile" and "_orig_mod" in children:
                return by, children["_orig_mod"]
        elif function == "__call__" and file.endswith("_dynamo/eval_frame.py"):
            return "torch.compile", getattr(frame.f_locals.get("self"), "_orig_mod", None)
        elif file.endswith("torch/export/_trace.py") and by != "torch.compile":
            by = "torch.export"
        elif "/_functorch/" in file and by == "make_fx":
            by = "AOTAutograd"
        frame = frame.f_back
    return by, None


def interpreted_target(node: Any) -> str:
    """Return the target of the node that torch ran when it made this one, as text; "" if unknown.

    It reads `aten.linear.default`. Torch writes the node of the program that it runs into each node that it makes then.
    Risk: `Node.meta["from_node"]`, whose last item tells the node of the last run.
    """
    sources = node.meta.get("from_node") or []
    return str(getattr(sources[-1], "target", "")) if sources else ""


def kernel_before_table(op: Any) -> str:
    """Return which kernel of an operator runs before torch looks into a decomposition table, as words; "" for none.

    Torch asks the table below Autograd and functionalization. A kernel there that computes by other ops hides its op.
    Kernels that C++ registers for Autograd are not named for ops of torch's own, because almost all ops have one.
    Risk: `OperatorBase.py_kernels`, and `torch._C._dispatch_has_kernel_for_dispatch_key`.
    """
    for key, kernel in getattr(op, "py_kernels", {}).items():
        if str(key).partition(".")[2].startswith(_EARLY) and callable(kernel):
            where = f"{getattr(kernel, '__module__', '?')}.{getattr(kernel, '__qualname__', '?')}"
            return f"its Python kernel for {str(key).partition('.')[2]} ({where})"
    if not isinstance(op, OpOverload) or op.namespace in ("aten", "prims", "prim"):
        return ""
    found = [key for key in _EARLY_KEYS if torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key)]
    return f"its library's kernel for {found[0]}" if found else ""


_EARLY = ("Autograd", "Functionalize", "PreDispatch", "Python", "FuncTorch", "ADInplaceOrView")
_EARLY_KEYS = ("PreDispatch", "Autograd", "AutogradCPU", "AutogradCUDA", "ADInplaceOrView", "Functionalize")


def symbolic_expression(value: Any) -> Any:
    """Return the sympy expression of a symbolic number.

    Risk: `SymInt.node.expr`, which is undocumented. A graph digest renames symbols in it.
    """
    return value.node.expr


def source_operator(node: Any) -> tuple[str, Any]:
    """Return where torch says a node comes from: the name of the first node's target, and the operator decomposed last.

    Risk: `Node.meta["from_node"]`, a chain back to the node's first form, whose ends name the operator as text
    (`aten.linear.default`); and `Node.meta["original_aten"]`.
    """
    source = next(iter((node.meta.get("from_node") or [])[-1:]), None)
    while source is not None and getattr(source, "from_node", None):
        source = source.from_node[-1]
    return str(getattr(source, "target", "")), node.meta.get("original_aten")
