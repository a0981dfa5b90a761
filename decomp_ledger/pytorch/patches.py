"""Where torch is hooked: three places, patched while somebody needs them and put back exactly.

`CustomDecompTable.__new__` sees every table that is made, under whichever of its three names and also where it was
imported by name earlier. `ExportedProgram.run_decompositions` sees every export;
`torch.export.save` and `load` stamp programs, and keep their stamps. A module that is not imported yet is
patched when the program imports it: nothing here imports torch, so that what a script sets before still counts.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from decomp_ledger.pytorch import active

__all__ = ["acquire", "release"]

_lock = threading.RLock()
_holders: set[object] = set()
_restore: dict[str, Callable[[], None]] = {}


def acquire(holder: object) -> None:
    """Hook torch for a holder, if it is not hooked yet."""
    with _lock:
        _holders.add(holder)
        for name in _PATCHES:
            module = sys.modules.get(name)
            if module is not None:
                _patch(name, module)
        if len(_restore) < len(_PATCHES) and _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)


def release(holder: object) -> None:
    """Let a holder go; with the last one, torch is as it was before."""
    with _lock:
        _holders.discard(holder)
        if _holders:
            return
        for restore in _restore.values():
            restore()
        _restore.clear()
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)


def _patch(name: str, module: ModuleType) -> None:
    if name in _restore:
        return
    restore = _PATCHES[name](module)
    if restore is not None:
        _restore[name] = restore
    if len(_restore) == len(_PATCHES) and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def _patch_table_class(module: ModuleType) -> Callable[[], None] | None:
    """Make tables of a recording where upstream's are asked for.

    Risk: `torch.export.decomp_utils.CustomDecompTable` has no `__new__` of its own.
    """
    upstream = getattr(module, "CustomDecompTable", None)
    if upstream is None:
        return None

    def __new__(cls: type[Any], *args: object, **kwargs: object) -> Any:
        current = active.current() if cls is upstream else None
        if current is None:
            return dict.__new__(cls)
        from decomp_ledger.pytorch.table import DecompTable

        made = dict.__new__(DecompTable)
        # For its __init__, which Python calls next: by then another thread may have left the recording.
        vars(made)["made_in"] = current
        return made

    upstream.__new__ = __new__
    return lambda: delattr(upstream, "__new__")


def _patch_exported_program(module: ModuleType) -> Callable[[], None] | None:
    """See every export.

    Risk: `ExportedProgram.run_decompositions(decomp_table=None, ...)` takes the table first, or by that name.
    """
    cls = getattr(module, "ExportedProgram", None)
    if cls is None:
        return None
    original = cls.run_decompositions

    @functools.wraps(original)
    def run_decompositions(self: Any, decomp_table: Any = None, *args: Any, **kwargs: Any) -> Any:
        from decomp_ledger.pytorch import exports

        return exports.run(self, decomp_table, lambda table: original(self, table, *args, **kwargs))

    cls.run_decompositions = run_decompositions

    def restore() -> None:
        # Only if it is still ours: another tool may have patched it since, and goes on working through ours.
        if vars(cls).get("run_decompositions") is run_decompositions:
            cls.run_decompositions = original

    return restore


def _patch_export(module: ModuleType) -> Callable[[], None] | None:
    """Stamp what is saved within a recording, and keep in mind the stamp of what is loaded.

    What a program took from `torch.export` by name before, it calls unhooked: `decomp_ledger.save` is for that.
    """
    originals = {name: getattr(module, name, None) for name in ("save", "load")}
    if None in originals.values():
        return None
    original_save: Any = originals["save"]
    original_load: Any = originals["load"]

    @functools.wraps(original_save)
    def save(ep: Any, f: Any, **kwargs: Any) -> None:
        from decomp_ledger.pytorch import pt2

        if active.current() is None:
            original_save(ep, f, **kwargs)
        else:
            pt2.save_stamped(original_save, ep, f, kwargs)

    @functools.wraps(original_load)
    def load(f: Any, **kwargs: Any) -> Any:
        from decomp_ledger.pytorch import pt2

        if active.current() is None:
            return original_load(f, **kwargs)
        return pt2.load_stamped(original_load, f, kwargs)

    hooked = {"save": save, "load": load}
    vars(module).update(hooked)

    def restore() -> None:
        for name, function in hooked.items():
            if vars(module).get(name) is function:
                setattr(module, name, originals[name])

    return restore


_PATCHES: dict[str, Callable[[ModuleType], Callable[[], None] | None]] = {
    "torch.export.decomp_utils": _patch_table_class,
    "torch.export.exported_program": _patch_exported_program,
    "torch.export": _patch_export,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Patch the modules that are to be hooked, right after they were imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _PATCHES:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: importlib.machinery.ModuleSpec | None = (
                find(name, path, target) if find is not None and finder is not self else None
            )
            if spec is not None:
                if spec.loader is not None:
                    self._patch_after(name, spec.loader)
                return spec
        return None

    @staticmethod
    def _patch_after(name: str, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # the loader is again what it was
            execute(module)
            with _lock:
                if _holders:
                    _patch(name, module)

        loader.exec_module = exec_module


_finder = _Finder()
