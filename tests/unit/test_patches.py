"""The patches of torch, on modules that stand for torch's."""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from decomp_ledger import LedgerError, RecordingWarning, record
from decomp_ledger.pytorch import active, patches
from decomp_ledger.storage import fork_safety


def mark(module: ModuleType) -> Callable[[], None] | None:
    """Be a patch that a module shows."""
    if not hasattr(module, "READY"):
        return None
    vars(module)["patched"] = True
    return lambda: vars(module).pop("patched")


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The name of a module to patch, which is not imported yet."""
    monkeypatch.setattr(patches, "_PATCHES", {"patched_module": mark})
    monkeypatch.setattr(patches, "_users", set())
    monkeypatch.setattr(patches, "_undo", {})
    monkeypatch.setattr(sys, "meta_path", [each for each in sys.meta_path if each is not patches._finder])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "patched_module", raising=False)
    (tmp_path / "patched_module.py").write_text("READY = True")
    return "patched_module"


def test_a_module_that_another_thread_is_importing_is_patched(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("import time\nSTARTED = True\ntime.sleep(0.5)\nREADY = True")
    thread = threading.Thread(target=importlib.import_module, args=(name,))
    thread.start()
    while not hasattr(sys.modules.get(name), "STARTED"):
        time.sleep(0.01)
    patches.install("test")
    thread.join()
    assert sys.modules[name].patched
    patches.uninstall("test")


class AsksOthers:
    """Another tool's finder, which asks all other finders as ours does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        others: list[Any] = [finder for finder in sys.meta_path if finder is not self]
        return next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)


def test_a_second_finder_that_asks_all_others_causes_no_recursion(name: str) -> None:
    patches.install("test")
    sys.meta_path.insert(0, AsksOthers())  # type: ignore[arg-type]
    assert importlib.import_module(name).patched
    patches.uninstall("test")
    assert not hasattr(sys.modules[name], "patched")


class Table(dict[str, int]):
    """Stands for torch's class of tables."""


def module_with_table() -> ModuleType:
    """Return a module with a class of tables that no other test has patched."""
    module = ModuleType("tables")
    vars(module)["CustomDecompTable"] = type("CustomDecompTable", (Table,), {"pop": lambda self, key: f"torch's {key}"})
    return module


def test_the_later_patch_of_another_tool_stays() -> None:
    module = module_with_table()
    undo = patches._patch_table_class(module)
    assert undo is not None
    ours = module.CustomDecompTable.pop
    module.CustomDecompTable.pop = theirs = lambda self, key: ours(self, key)
    undo()
    assert module.CustomDecompTable.pop is theirs
    assert module.CustomDecompTable().pop("op") == "torch's op"


def test_the_earlier_patch_of_another_tool_is_used_and_put_back() -> None:
    module = module_with_table()

    def theirs(self: Table, key: str) -> str:
        return f"theirs {key}"

    module.CustomDecompTable.pop = theirs
    undo = patches._patch_table_class(module)
    assert undo is not None and module.CustomDecompTable.pop is not theirs
    assert module.CustomDecompTable().pop("op") == "theirs op"
    undo()
    assert module.CustomDecompTable.pop is theirs


def test_a_patch_that_another_tool_took_out_needs_no_undo() -> None:
    module = module_with_table()
    undo = patches._patch_table_class(module)
    del module.CustomDecompTable.pop
    assert undo is not None
    undo()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("which", ["patches", "recording"])
def test_a_forked_child_gets_a_free_lock(which: str, tmp_path: Path) -> None:
    recording = record(tmp_path / "a.db")
    lock = patches._lock if which == "patches" else recording._lock
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        now = patches._lock if which == "patches" else recording._lock
        os._exit(0 if now.enter(sys._getframe(), 1) else 1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_a_recording_may_be_left_twice(tmp_path: Path) -> None:
    recording = record(tmp_path / "a.db")
    with recording:
        pass
    recording.__exit__(None, None, None)
    assert not active.is_entered(recording)


def test_a_recording_whose_ledger_is_closed_cannot_be_entered_again(tmp_path: Path) -> None:
    recording = record(tmp_path / "a.db", name="job")
    with recording:
        pass
    with pytest.raises(LedgerError, match="its ledger is closed"):
        recording.__enter__()


def given(*args: Any, **kwargs: Any) -> str:
    """Be any function of torch."""
    return "torch's"


WRITE = ("write_to_file", "write_tensor_data_to_file")
# The modules that are patched -> the functions of each that are patched: of a class, or with "" of the module.
PATCHED: dict[str, dict[str, tuple[str, ...]]] = {
    "os": {"": ("_exit",)},
    "torch.export.decomp_utils": {"CustomDecompTable": patches._TABLE_METHODS},
    "torch.export.exported_program": {
        "ExportedProgram": ("run_decompositions", "_update"),
        "": ("_decompose_exported_program",),
    },
    "torch.export.experimental": {"": ("_decompose_exported_program",)},
    "torch.export": {"": ("save", "load")},
    "torch.fx.experimental.proxy_tensor": {"_MakefxTracer": ("_trace_inner",), "": ("decompose",)},
    "torch.fx.passes.infra.pass_base": {"PassBase": ("__call__",)},
    "torch.onnx._internal.exporter._onnx_program": {"ONNXProgram": ("save",)},
    "torch._inductor": {"": ("aoti_compile_and_package",)},
    "executorch.exir.program._program": {"ExecutorchProgramManager": (*WRITE, "buffer")},
}


def fake_module(name: str) -> ModuleType:
    """Return a module with the functions of one that is patched; each of them returns `given()`."""
    module = ModuleType(name)
    for owner, functions in PATCHED[name].items():
        made: Any = module if owner == "" else type(owner, (), {})
        for function in functions:
            if function == "__init__":  # Python takes no other result
                made.__init__ = lambda self, *args: None
            else:
                setattr(made, function, property(given) if function == "buffer" else lambda *args, **kwargs: given())
        vars(module).setdefault(owner or "module", made)
    return module


def arguments(owner: str, function: str) -> tuple[object, ...]:
    """Return arguments that a patched function takes; torch's own are not looked at here."""
    numbers = {"load": 1, "decompose": 1, "save": 1 if owner else 2, "__init__": 0, "copy": 0, "materialize": 0}
    return tuple("x" * numbers.get(function, 1))


def test_every_patched_function_is_tried_without_our_modules() -> None:
    assert PATCHED.keys() == patches._PATCHES.keys()


@pytest.mark.parametrize(
    ("name", "owner", "function"),
    [(name, owner, function) for name, each in PATCHED.items() for owner in each for function in each[owner]],
)
def test_a_child_that_cannot_import_our_modules_goes_on_unrecorded(
    name: str, owner: str, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ("upstream_tables", "exports", "tracing", "pt2", "artefacts")
    monkeypatch.setattr(fork_safety, "_cut_off", [f"decomp_ledger.pytorch.{part}" for part in parts])
    module = fake_module(name)
    undo = patches._PATCHES[name](module)
    assert undo is not None
    recording = record(tmp_path / "a.db", name="job", all_tracing=True)
    active.enter(recording)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cls = vars(module).get(owner, object)
            found = getattr(cls.__new__(cls) if owner else module, function)  # `cls()` would stop the recording
            result = found(*arguments(owner, function)) if callable(found) else found
    finally:
        active.leave(recording)
        undo()
    assert result == (None if function in ("__init__", "save", "_exit", *WRITE) else "torch's")
    if function not in ("_update", "__call__", "_exit"):  # these need no other module
        (warning,) = caught
        assert "it has STOPPED, and the export goes on unrecorded" in str(warning.message)


PATHS = [(name, path, what) for name, paths in patches._NEEDED.items() for path, what in paths.items()]


@pytest.mark.parametrize(("name", "path", "what"), PATHS)
def test_what_a_version_lacks_is_named_at_the_end(
    name: str, path: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fake_module(name)
    monkeypatch.setitem(sys.modules, name, module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with record(tmp_path / "a.db", name="job"):
            pass  # nothing is missing yet
    owner, _, function = path.rpartition(".")
    delattr(vars(module)[owner] if owner else module, function)
    with pytest.warns(RecordingWarning, match=re.escape(f"{name}.{path} ({what})")), record(tmp_path / "b.db"):
        pass


def test_every_patched_function_is_among_those_that_may_be_lacking() -> None:
    needed = {(name, path) for name, path, _ in PATHS}
    patched = {
        (name, f"{owner}.{function}".lstrip("."))
        for name, owners in PATCHED.items()
        for owner, functions in owners.items()
        for function in functions
    }
    # Where torch.export.experimental has no name of its own for it, it calls the patched one.
    others = {("torch.export.experimental", "_decompose_exported_program"), ("os", "_exit")}
    assert needed == patched - others
