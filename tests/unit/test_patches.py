"""The patches of torch, on modules that stand for torch's."""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from decomp_ledger import LedgerError, record
from decomp_ledger.pytorch import active, patches


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
