"""Follow the Python children of a recorded program: what each process does at its start.

Every child runs this, also one that never imports torch and one of another environment. So it imports the standard
library only, and nothing of decomp_ledger before torch is imported.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["FOLDER", "VARIABLE", "start", "unwatch", "watch"]

VARIABLE = "DECOMP_LEDGER_FOLLOW"  # how the program is recorded, as JSON; see decomp_ledger/pytorch/children.py
FOLDER = os.path.dirname(os.path.abspath(__file__))
_PYTHON = re.compile(r"(python|pypy)[0-9.]*(\.exe)?")
# The functions of `os` that start a program, each with its first parameters; the others of `os` call these.
_STARTS = {
    "execv": ("program", "args"),
    "execve": ("program", "args", "env"),
    "posix_spawn": ("program", "args", "env"),
    "posix_spawnp": ("program", "args", "env"),
}
_REFUSALS = {
    "I": "-I ignores PYTHONPATH",
    "E": "-E ignores PYTHONPATH",
    "S": "-S leaves out sitecustomize",
}
_TAKE_A_VALUE = "WX"
_LENGTH = 80  # characters of a command that a note keeps
# In the name of its file, this keeps a function out of the places that warnings name; see log/hidden_frames.py.
_MARK = " (importlib, _bootstrap)"
_watchers: list[bool] = []
_originals: list[tuple[Any, str, Any, Any]] = []  # owner, name, its own function, ours


def _hidden(function: Any) -> Any:
    function.__code__ = function.__code__.replace(co_filename=__file__ + _MARK)
    return function


def start() -> None:
    """Record this process from the moment it imports torch, if its parent is recorded."""
    if _plan() is not None:
        sys.meta_path.insert(0, _WaitForTorch())
        watch()


def watch() -> None:
    """Note each Python child that cannot be followed, until `unwatch` is called as often.

    An audit hook would see more, but Python calls it 200,000 times in a program of seven seconds, mostly for `id()`.
    """
    _watchers.append(True)
    for name, parameters in _STARTS.items():
        _watch_function(os, name, parameters)
    if "subprocess" in sys.modules:
        _watch_subprocess(sys.modules["subprocess"])


def unwatch() -> None:
    """End what a `watch` began; the end of the last puts back the functions that are still ours."""
    _watchers.pop()
    if _watchers:
        return
    for owner, name, original, ours in _originals:
        if vars(owner).get(name) is ours:
            setattr(owner, name, original)
    _originals.clear()


def _watch_subprocess(module: ModuleType) -> None:
    """Watch what `subprocess.Popen` starts, which all of that module and asyncio call.

    Risk: the name of `Popen._execute_child` and of its parameters; without them a missed child is not named. A function
    around `Popen.__init__` would be seen: `subprocess` warns of the first line outside of its own file.
    """
    code = getattr(getattr(module.Popen, "_execute_child", None), "__code__", None)
    if code is not None:
        parameters = tuple(_NAMES.get(name, name) for name in code.co_varnames[: code.co_argcount])
        _watch_function(module.Popen, "_execute_child", parameters)


def _watch_function(owner: Any, name: str, parameters: tuple[str, ...]) -> None:
    """Note what a function starts, once it has; a function that replaces the process does not come back."""
    original = getattr(owner, name, None)
    if original is None or any(known[:2] == (owner, name) for known in _originals):
        return

    @_hidden
    @functools.wraps(original)
    def starting(*args: Any, **kwargs: Any) -> Any:
        if name.startswith("exec"):
            _note_child(parameters, args, kwargs)
            return original(*args, **kwargs)
        result = original(*args, **kwargs)
        _note_child(parameters, args, kwargs)
        return result

    _originals.append((owner, name, original, starting))
    setattr(owner, name, starting)


_NAMES = {"executable": "program", "argv": "args", "path": "program"}


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
    """Begins the recording when the program imports torch; looking for torch without importing it begins nothing.

    It also watches `subprocess` from its import on, because to import it takes a child that has no use for it 5 ms.
    """

    def __init__(self) -> None:
        self.is_searching = False
        self.at_start = os.environ.get(VARIABLE)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in ("torch", "subprocess") or self.is_searching:
            return None
        self.is_searching = True
        try:
            specs = (finder.find_spec(name, path, target) for finder in list(sys.meta_path) if finder is not self)
            spec = next((spec for spec in specs if spec is not None), None)
        finally:
            self.is_searching = False
        if spec is not None and spec.loader is not None:
            self._wrap(spec.loader, self._begin_before if name == "torch" else self._watch_after)
        return spec

    @staticmethod
    def _wrap(loader: Any, around: Callable[[Callable[[ModuleType], None], ModuleType], None]) -> None:
        execute = loader.exec_module

        @_hidden
        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # puts the loader's own back
            around(execute, module)

        loader.exec_module = exec_module

    @_hidden
    def _begin_before(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        # Not if the program records itself and its children by now.
        if os.environ.get(VARIABLE) == self.at_start:
            _begin()
        try:
            execute(module)
        finally:
            if "subprocess" in sys.modules:  # torch imports it
                _watch_subprocess(sys.modules["subprocess"])

    @staticmethod
    @_hidden
    def _watch_after(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        execute(module)
        _watch_subprocess(module)


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


def _note_child(parameters: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Note a Python child that cannot be followed; the program gave `args` for the parameters, and `kwargs`."""
    try:
        plan = _plan()
        given = dict(zip(parameters, args))  # noqa: B905  # a Python of another environment may know no `strict`
        given.update((_NAMES.get(key, key), value) for key, value in kwargs.items())
        command, program, env = given["args"], given.get("program"), given.get("env")
        if plan is None or given.get("shell"):
            return
        if isinstance(command, (str, bytes, os.PathLike)):
            command = [command]
        if not isinstance(command, (list, tuple)):
            return  # an iterator, which was read by now
        command = [os.fsdecode(each) for each in command]
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
