"""Follow the Python children of a recorded program: what each process does at its start.

Every child runs this, also one that never imports torch and one of another environment. So it imports the standard
library only, and nothing of decomp_ledger before torch is imported.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["FOLDER", "VARIABLE", "start", "watch"]

VARIABLE = "DECOMP_LEDGER_FOLLOW"  # how the program is recorded, as JSON; see decomp_ledger/pytorch/children.py
FOLDER = os.path.dirname(os.path.abspath(__file__))
_PYTHON = re.compile(r"(python|pypy)[0-9.]*(\.exe)?")
_STARTS = {"subprocess.Popen": (0, 1, 3), "os.exec": (0, 1, 2), "os.posix_spawn": (0, 1, 2)}  # program, arguments, env
_REFUSALS = {
    "I": "-I ignores PYTHONPATH",
    "E": "-E ignores PYTHONPATH",
    "S": "-S leaves out sitecustomize",
}
_TAKE_A_VALUE = "WX"
_LENGTH = 80  # characters of a command that a note keeps
_watching: list[bool] = []


def start() -> None:
    """Record this process from the moment it imports torch, if its parent is recorded."""
    if _plan() is not None:
        sys.meta_path.insert(0, _WaitForTorch())
        watch()


def watch() -> None:
    """Note each Python child that cannot be followed, as long as this process is followed."""
    if not _watching:  # Python cannot take a hook out again
        _watching.append(True)
        sys.addaudithook(_hook)


def _plan() -> dict[str, Any] | None:
    """Return how this process is to be recorded; None if it is not."""
    try:
        plan = json.loads(os.environ.get(VARIABLE, "null"))
    except ValueError:
        return None
    return plan if isinstance(plan, dict) else None


def _note(plan: dict[str, Any], kind: str, text: str) -> None:
    """Append a line to the notes that the first process reads at its end."""
    line = json.dumps([kind, text]) + "\n"
    try:
        descriptor = os.open(plan["notes"], os.O_WRONLY | os.O_APPEND)
    except (OSError, KeyError, TypeError):
        return  # the first process has ended
    try:
        os.write(descriptor, line.encode("ascii"))
    finally:
        os.close(descriptor)


class _WaitForTorch:
    """Begins the recording when the program imports torch; looking for torch without importing it begins nothing."""

    def __init__(self) -> None:
        self.is_searching = False
        self.at_start = os.environ.get(VARIABLE)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch" or self.is_searching:
            return None
        self.is_searching = True
        try:
            specs = (finder.find_spec(name, path, target) for finder in list(sys.meta_path) if finder is not self)
            spec = next((spec for spec in specs if spec is not None), None)
        finally:
            self.is_searching = False
        if spec is not None and spec.loader is not None:
            self._begin_before(spec.loader)
        return spec

    def _begin_before(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # puts the loader's own back
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            # Not if the program records itself and its children by now.
            if os.environ.get(VARIABLE) == self.at_start:
                _begin()
            execute(module)

        loader.exec_module = exec_module


def _begin() -> None:
    plan = _plan()
    if plan is None:
        return
    _note(plan, "torch", "")
    if plan.get("prefix") != sys.prefix:
        _note(plan, "missed", f"a Python of another environment, {sys.prefix}, imported torch")
        return
    try:
        from decomp_ledger.pytorch.child import record_child

        record_child(plan)
    except Exception as error:  # the program goes on, unrecorded
        _note(plan, "missed", f"process {os.getpid()}: {type(error).__name__}: {error}"[: 3 * _LENGTH])


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _STARTS:
        return
    try:
        plan = _plan()
        if plan is None:
            return
        program, command, env = (arguments[place] for place in _STARTS[event])
        command = [os.fsdecode(each) for each in ([command] if isinstance(command, (str, bytes)) else command)]
        name = os.path.basename(os.fsdecode(program or command[0]))
        why = _PYTHON.fullmatch(name) and (_refusal(command[1:]) or _lacks(os.environ if env is None else env))
        if why:
            _note(plan, "missed", f"{' '.join([name, *command[1:]])[:_LENGTH]} ({why})")
    except Exception:  # of odd arguments, which the program's own call reports
        return


def _refusal(options: Sequence[str]) -> str:
    """Return why these options of Python keep it from following; else ""."""
    rest = iter(options)
    for option in rest:
        if not option.startswith("-") or option == "-":
            return ""  # the script
        if option.startswith("--"):
            continue
        for place, letter in enumerate(option[1:], start=2):
            if letter in "cm":
                return ""
            if letter in _REFUSALS:
                return _REFUSALS[letter]
            if letter in _TAKE_A_VALUE:
                if place == len(option):
                    next(rest, None)
                break
    return ""


def _lacks(env: Mapping[Any, Any]) -> str:
    """Return what an environment lacks to be followed; else ""."""
    names = {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()}
    if VARIABLE not in names:
        return f"its environment has no {VARIABLE}"
    if FOLDER not in names.get("PYTHONPATH", "").split(os.pathsep):
        return "PYTHONPATH was replaced"
    return ""
