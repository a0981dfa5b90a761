"""Patch torch in a few places while a recording or a named table needs it.

The end of the last recording puts torch back as it was. After `Ledger.table` the patches stay until the process ends,
because a named table may be used at any time; without a recording, they pass all other tables and exports through.

The methods of `CustomDecompTable` see every table that is made or changed, under each of its three names, and where it
was imported by name earlier. `ExportedProgram.run_decompositions` sees every export. `torch.export.save` and `load`
write and read stamps. `ExportedProgram._update` and `PassBase.__call__` keep the history of a program where torch
itself drops it. What writes an ONNX file, an ExecuTorch file or a package of AOTInductor notes it. `os._exit` lets a
recording write what it would write at its end.

Nothing here imports torch, so that what a script sets before it imports torch still counts. A module that is not
imported yet is patched when the program imports it. For the same reason the patches import our own modules late.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.log.hidden_frames import hidden
from decomp_ledger.pytorch import active, program_history
from decomp_ledger.storage import fork_safety
from decomp_ledger.storage.block_lock import BlockLock

__all__ = ["install", "lacking", "uninstall"]


_lock = BlockLock()  # of the state below
_users: set[object] = set()
_undo: dict[str, Callable[[], None]] = {}  # module name -> what takes its patch out


def install(user: object) -> None:
    """Patch torch for a user of the patches, if it is not patched yet.

    Args:
        user: any hashable value; the patches stay until each user has uninstalled them.
    """
    with _lock:
        _users.add(user)
        if len(_undo) < len(_PATCHES) and _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
        half_imported = [name for name in _PATCHES if _is_half_imported(name)]
    # Wait for the threads that import these now. Not under our lock, because such a thread may need it.
    for name in half_imported:
        with contextlib.suppress(Exception):  # the program's own import raises it
            importlib.import_module(name)
    with _lock:
        for name in _PATCHES:
            module = sys.modules.get(name)
            if module is not None and _users:
                _patch(name, module)


def uninstall(user: object) -> None:
    """End the use of the patches; the end of the last user puts torch back as it was."""
    with _lock:
        _users.discard(user)
        if _users:
            return
        for undo in _undo.values():
            undo()
        _undo.clear()
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)


def _is_half_imported(name: str) -> bool:
    return name in sys.modules and not fork_safety.is_imported(name)


# An attribute of each patched function: what takes the patch out. So a patch is known after an interrupt, too.
_UNDO = "_decomp_ledger_undo"
_OWNER = "_decomp_ledger_owner"  # of an undo: the module that it is for


def _undo_of(function: Any) -> Callable[[], None] | None:
    return getattr(function, "__dict__", {}).get(_UNDO)


def _known_patch(owner: Any, *names: str) -> Callable[[], None] | None:
    """Return what takes out a patch that is there already; take out one that an interrupt left in part."""
    found = [_undo_of(vars(owner).get(name)) for name in names if name in vars(owner)]
    if found and all(undo is found[0] for undo in found):
        return found[0]
    for undo in found:
        if undo is not None:
            undo()
    return None


def _patch(name: str, module: ModuleType) -> None:
    if name in _undo:
        return
    undo = _PATCHES[name](module)
    if undo is not None:
        _undo[name] = undo
    if len(_undo) == len(_PATCHES) and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def _part(name: str) -> Any | None:
    """Import a module of this folder for a patched function; None if this process can never import it.

    Then the recording stops, and the function does what torch's own does.
    """
    full = f"decomp_ledger.pytorch.{name}"
    try:
        with fork_safety.importing(full):
            return importlib.import_module(full)
    except LedgerFileError as error:
        if (recording := active.current()) is not None:
            recording.failed(error)
        return None


def lacking() -> list[str]:
    """Return what the imported modules lack of what the patches need, each with what is not recorded without it."""
    needed = ((name, path, what) for name, paths in _NEEDED.items() for path, what in paths.items())
    return [
        f"{name}.{path} ({what})"
        for name, path, what in needed
        if fork_safety.is_imported(name) and _lacks(sys.modules[name], path)
    ]


def _lacks(module: ModuleType, path: str) -> bool:
    *owner, name = path.split(".")
    cls = vars(module).get(owner[0]) if owner else None
    # Not by getattr, because each class has a `__call__` and an `__init__`.
    places = [module] if not owner else [each for each in getattr(cls, "__mro__", ()) if each is not object]
    return not any(name in vars(each) for each in places)


def _patch_table_class(module: ModuleType) -> Callable[[], None] | None:
    """Record what a program does with tables of torch's own class, which stay of that class.

    Risk: the names of the methods of `torch.export.decomp_utils.CustomDecompTable`.
    """
    upstream = getattr(module, "CustomDecompTable", None)
    if upstream is None:
        return None
    names = [name for name in _TABLE_METHODS if name in vars(upstream)]
    methods = {name: _recorded_method(upstream, name) for name in names}
    return _known_patch(upstream, *names) or _replace(upstream, methods)


# What changes, copies or uses a table.
_TABLE_METHODS = ("__init__", "__setitem__", "update", "pop", "copy", "materialize")


def _recorded_method(upstream: type[Any], name: str) -> Any:
    original = vars(upstream)[name]

    # Any arguments, because torch's own method is to complain of wrong ones.
    @functools.wraps(original)
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        current = active.current() if type(self) is upstream else None
        if current is None or current.stopped or (upstream_tables := _part("upstream_tables")) is None:
            return original(self, *args, **kwargs)
        return upstream_tables.METHODS[name](current, original, self, args, kwargs)

    return method


def _patch_exported_program(module: ModuleType) -> Callable[[], None] | None:
    """Record every export.

    Risk: the first parameter of `ExportedProgram.run_decompositions` is `decomp_table`.
    """
    cls = getattr(module, "ExportedProgram", None)
    if cls is None:
        return None
    lowering = _patch_lowering(module)
    if (known := _known_patch(cls, "run_decompositions", "_update")) is not None:
        return _both(known, lowering)
    original = getattr(cls, "run_decompositions", None)
    if original is None:
        return lowering

    @functools.wraps(original)
    def run_decompositions(self: Any, decomp_table: Any = None, *args: Any, **kwargs: Any) -> Any:
        if (exports := _part("exports")) is None:
            return original(self, decomp_table, *args, **kwargs)
        return exports.run(original, self, decomp_table, *args, **kwargs)

    methods = {"run_decompositions": run_decompositions, **_following(cls, "_update", _itself)}
    return _both(_replace(cls, methods), lowering)


def _both(undo: Callable[[], None], other: Callable[[], None] | None) -> Callable[[], None]:
    def undo_both() -> None:
        undo()
        if other is not None:
            other()

    return undo_both


_LOWERING = "_decompose_exported_program"


def _patch_lowering(module: ModuleType) -> Callable[[], None] | None:
    """Record the exports that do not pass `run_decompositions`.

    Risk: the private function `torch.export.exported_program._decompose_exported_program`, which `run_decompositions`
    calls, and its keywords; `torch.export.experimental` imports it by name.
    """
    if (known := _known_patch(module, _LOWERING)) is not None and vars(known)[_OWNER] is module:
        return known
    original = vars(module).get(_LOWERING)
    if original is None:
        return None
    if _undo_of(original) is not None:  # the module imported our function of the other one
        original = original.__wrapped__
        setattr(module, _LOWERING, original)

    @functools.wraps(original)
    def lower(ep: Any, *args: Any, **kwargs: Any) -> Any:
        if (exports := _part("exports")) is None:
            return original(ep, *args, **kwargs)
        return exports.lower(original, ep, *args, **kwargs)

    undo = _replace(module, {_LOWERING: lower})
    vars(undo)[_OWNER] = module
    return undo


def _patch_pass_base(module: ModuleType) -> Callable[[], None] | None:
    """Let the graph module that a pass makes keep the history of its program; torch gives it an empty `meta`.

    Risk: `torch.fx.passes.infra.pass_base.PassBase.__call__` takes a graph module, and returns a `PassResult` or None.
    """
    cls = getattr(module, "PassBase", None)
    if cls is None:
        return None
    return _known_patch(cls, "__call__") or _replace(cls, _following(cls, "__call__", _graph_module))


def _patch_tracer(module: ModuleType) -> Callable[[], None] | None:
    """See every trace of `make_fx`, which AOTAutograd, torch.compile, AOTInductor and exports call.

    Risk: `torch.fx.experimental.proxy_tensor._MakefxTracer._trace_inner`, and `decompose`, which gives a part of a
    trace another table.
    """
    cls = getattr(module, "_MakefxTracer", None)
    original = None if cls is None else vars(cls).get("_trace_inner")
    if original is None:
        return None
    tracer = _known_patch(cls, "_trace_inner") or _replace(cls, {"_trace_inner": _recorded_trace(original)})
    return _both(tracer, _known_patch(module, "decompose") or _replace(module, _followed_decompose(module)))


def _recorded_trace(original: Any) -> Any:
    @functools.wraps(original)
    def trace_inner(self: Any, *args: Any, **kwargs: Any) -> Any:
        recording = active.current()
        if recording is None or recording.stopped or (tracing := _part("tracing")) is None:
            return original(self, *args, **kwargs)
        return tracing.trace(recording, original, self, args, kwargs)

    return trace_inner


def _followed_decompose(module: ModuleType) -> dict[str, Any]:
    original = vars(module).get("decompose")
    if original is None:
        return {}

    @functools.wraps(original)
    def decompose(decomposition_table: Any) -> Any:
        recording = active.current()
        if recording is None or recording.stopped or not recording.all_tracing:
            return original(decomposition_table)
        if (tracing := _part("tracing")) is None:
            return original(decomposition_table)
        return original(tracing.followed(recording, decomposition_table))

    return {"decompose": decompose}


def _itself(program: Any, *args: Any, **kwargs: Any) -> Any:
    return program


def _graph_module(of_pass: Any, graph_module: Any, *args: Any, **kwargs: Any) -> Any:
    return graph_module


def _following(cls: type[Any], name: str, source: Callable[..., Any]) -> dict[str, Any]:
    """Return a method whose result keeps the history of what it is made from.

    Risk: `ExportedProgram._update` is private; without it, none is returned.

    Args:
        cls: the class that has the method.
        name: its name.
        source: returns what the result is made from, called as the method is.
    """
    original = vars(cls).get(name)
    if original is None:
        return {}

    @functools.wraps(original)
    def following(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        program_history.follow(source(self, *args, **kwargs), result)
        return result

    return {name: following}


def _replace(owner: Any, functions: dict[str, Any]) -> Callable[[], None]:
    """Replace functions of a class or a module; return what puts its own back."""
    # From `vars` where it is there, because an attribute of the class gives the value of some descriptors.
    originals = {name: vars(owner).get(name, getattr(owner, name)) for name in functions}

    def undo() -> None:
        for name, function in functions.items():
            # Only if it is still ours, because another tool may have patched it since and calls ours.
            if vars(owner).get(name) is function:
                setattr(owner, name, originals[name])

    for name, function in functions.items():
        hidden(getattr(function, "fget", function))
        vars(function)[_UNDO] = undo
        setattr(owner, name, function)
    return undo


def _patch_export(module: ModuleType) -> Callable[[], None] | None:
    """Stamp each program that is saved within a recording, and remember the stamp of each that is loaded.

    A program that imported `save` by name before calls torch's own; `decomp_ledger.save` is for that.
    """
    if (known := _known_patch(module, "save", "load")) is not None:
        return known
    originals = {name: getattr(module, name, None) for name in ("save", "load")}
    if None in originals.values():
        return None
    original_save: Any = originals["save"]
    original_load: Any = originals["load"]

    @functools.wraps(original_save)
    def save(ep: Any, f: Any, **kwargs: Any) -> None:
        if active.current() is None or (pt2 := _part("pt2")) is None:
            original_save(ep, f, **kwargs)
        else:
            pt2.save_stamped(original_save, ep, f, kwargs)

    @functools.wraps(original_load)
    def load(f: Any, **kwargs: Any) -> Any:
        if active.current() is None or (pt2 := _part("pt2")) is None:
            return original_load(f, **kwargs)
        return pt2.load_stamped(original_load, f, kwargs)

    return _replace(module, {"save": save, "load": load})


def _patch_onnx(module: ModuleType) -> Callable[[], None] | None:
    """Stamp each ONNX program that is saved within a recording. `torch.onnx.export(dynamo=True)` saves so, too.

    Risk: `ONNXProgram` in `torch.onnx._internal.exporter._onnx_program`, its `save`, `model.metadata_props` and
    `exported_program`.
    """
    cls = getattr(module, "ONNXProgram", None)
    if cls is None or not hasattr(cls, "save"):
        return None
    if (known := _known_patch(cls, "save")) is not None:
        return known
    original = cls.save

    @functools.wraps(original)
    def save(self: Any, destination: Any, *args: Any, **kwargs: Any) -> None:
        if (artefacts := _artefacts()) is None:
            original(self, destination, *args, **kwargs)
        else:
            artefacts.save_onnx(original, self, destination, args, kwargs)

    return _replace(cls, {"save": save})


def _patch_inductor(module: ModuleType) -> Callable[[], None] | None:
    """Stamp each package that AOTInductor makes of a program within a recording."""
    original = getattr(module, "aoti_compile_and_package", None)
    if original is None:
        return None
    if (known := _known_patch(module, "aoti_compile_and_package")) is not None:
        return known

    @functools.wraps(original)
    def aoti_compile_and_package(exported_program: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(exported_program, *args, **kwargs)
        if (artefacts := _artefacts()) is not None:
            artefacts.stamp_package(exported_program, result)
        return result

    return _replace(module, {"aoti_compile_and_package": aoti_compile_and_package})


class _Property(property):
    """A property that can have attributes, as a patched function has."""


def _patch_executorch(module: ModuleType) -> Callable[[], None] | None:
    """Note each file that ExecuTorch saves within a recording; `ExecutorchProgramManager.save` calls `write_to_file`.

    Risk: `ExecutorchProgramManager` in `executorch.exir.program._program`, its methods `write_to_file`,
    `write_tensor_data_to_file` and `exported_program`, its properties `buffer` and `methods`, and `_tensor_data`.
    """
    cls = getattr(module, "ExecutorchProgramManager", None)
    names = ("write_to_file", "write_tensor_data_to_file", "buffer")
    if cls is None or not all(name in vars(cls) for name in names):
        return None
    if (known := _known_patch(cls, *names)) is not None:
        return known
    write, write_data, get = cls.write_to_file, cls.write_tensor_data_to_file, vars(cls)["buffer"].fget

    @functools.wraps(write)
    def write_to_file(self: Any, open_file: Any) -> None:
        write(self, open_file)
        if (artefacts := _artefacts()) is not None:
            artefacts.note_executorch(self, open_file, functools.partial(write, self))

    @functools.wraps(write_data)
    def write_tensor_data_to_file(self: Any, outdir: Any) -> None:
        write_data(self, outdir)
        if (artefacts := _artefacts()) is not None:
            files = [name if name.endswith(".ptd") else f"{name}.ptd" for name in self._tensor_data]
            artefacts.note_tensor_data(self, [os.path.join(outdir, name) for name in files])  # noqa: PTH118

    @functools.wraps(get)
    def buffer(self: Any) -> Any:
        data = get(self)
        if (artefacts := _artefacts()) is not None:
            artefacts.note_buffer(self, data)
        return data

    functions = {"write_to_file": write_to_file, "write_tensor_data_to_file": write_tensor_data_to_file}
    return _replace(cls, {**functions, "buffer": _Property(buffer)})


def _artefacts() -> Any | None:
    """Return the module that notes saved files; None outside of a recording, or as `_part` does."""
    return None if active.current() is None else _part("artefacts")


def _patch_exit(module: ModuleType) -> Callable[[], None] | None:
    """Let recordings write what they sum up before `os._exit`, which runs no exit handler; forked workers end by it."""
    if (known := _known_patch(module, "_exit")) is not None:
        return known
    original = module._exit

    @functools.wraps(original)
    def _exit(*args: Any, **kwargs: Any) -> Any:
        try:
            for recording in active.entered():
                recording.write_rest()
        finally:
            original(*args, **kwargs)

    return _replace(module, {"_exit": _exit})


_PATCHES: dict[str, Callable[[ModuleType], Callable[[], None] | None]] = {
    "os": _patch_exit,
    "torch.export.decomp_utils": _patch_table_class,
    "torch.export.exported_program": _patch_exported_program,
    "torch.export.experimental": _patch_lowering,
    "torch.export": _patch_export,
    "torch.fx.experimental.proxy_tensor": _patch_tracer,
    "torch.fx.passes.infra.pass_base": _patch_pass_base,
    "torch.onnx._internal.exporter._onnx_program": _patch_onnx,
    "torch._inductor": _patch_inductor,
    "executorch.exir.program._program": _patch_executorch,
}


# What the patches rely on, and what is not recorded where a version lacks it.
_NEEDED: dict[str, dict[str, str]] = {
    "torch.export.decomp_utils": {f"CustomDecompTable.{name}": "changes of tables" for name in _TABLE_METHODS},
    "torch.export.exported_program": {
        "ExportedProgram.run_decompositions": "exports",
        "ExportedProgram._update": "the history of a program that torch changes",
        _LOWERING: "exports that do not pass run_decompositions()",
    },
    "torch.export": {"save": "saved .pt2 files", "load": "the stamp of a loaded .pt2 file"},
    "torch.fx.experimental.proxy_tensor": {
        "_MakefxTracer._trace_inner": "what torch traces outside of exports",
        "decompose": "the other table of a part of a trace",
    },
    "torch.fx.passes.infra.pass_base": {"PassBase.__call__": "the history of what a pass makes"},
    "torch.onnx._internal.exporter._onnx_program": {"ONNXProgram.save": "saved .onnx files"},
    "torch._inductor": {"aoti_compile_and_package": "packages of AOTInductor"},
    "executorch.exir.program._program": {
        "ExecutorchProgramManager.write_to_file": "saved .pte files",
        "ExecutorchProgramManager.write_tensor_data_to_file": "saved .ptd files",
        "ExecutorchProgramManager.buffer": "a .pte that is taken as bytes",
    },
}


class _Finder(importlib.abc.MetaPathFinder):
    """Patch the modules of `_PATCHES` right after the program imports them."""

    def __init__(self) -> None:
        self._here = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        # Another tool's finder may call all finders as this one does, so each thread comes here once a search.
        if name not in _PATCHES or getattr(self._here, "searching", False):
            return None
        self._here.searching = True
        try:
            spec = self._spec_of_others(name, path, target)
        finally:
            self._here.searching = False
        if spec is not None and spec.loader is not None:
            self._patch_after(name, spec.loader)
        return spec

    def _spec_of_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> importlib.machinery.ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if find is not None and finder is not self:
                spec: importlib.machinery.ModuleSpec | None = find(name, path, target)
                if spec is not None:
                    return spec
        return None

    @staticmethod
    def _patch_after(name: str, loader: Any) -> None:
        execute = loader.exec_module

        @hidden
        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # puts the loader's own back
            execute(module)
            with _lock:
                if _users:
                    _patch(name, module)

        loader.exec_module = exec_module


_finder = _Finder()
