"""The provenance of an event: who acts, where in the user's code, and in what environment."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import socket
import sys
import sysconfig
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TypeAlias

from decomp_ledger.log import git, hidden_frames, notebook
from decomp_ledger.log.distributions import distribution_of
from decomp_ledger.model.canonical_json import Json, check_text
from decomp_ledger.model.events import MAX_FRAMES, CallSite, Frame
from decomp_ledger.model.recorded_names import MODULE, name_part

__all__ = [
    "Origin",
    "actor",
    "call_site",
    "environment",
    "is_minimal",
    "is_own",
    "line_text",
    "maker",
    "origin",
    "outer_line",
    "shortened",
    "stack_level",
    "torch_caller",
]

Origin: TypeAlias = "tuple[str, CallSite | None, dict[str, Json]]"  # actor, call site, environment

_PACKAGE = str(Path(__file__).parent.parent) + os.sep
_COMMANDS = f"{_PACKAGE}cli{os.sep}"

# The process that a recording was started in, while its children are followed; in the children too.
first_process: int | None = None

# Set by pytorch/table.py: returns a key that changes when torch's facts do, and a function that returns the facts.
torch_facts: Callable[[], tuple[object, Callable[[], dict[str, Json]]]] | None = None


def is_minimal() -> bool:
    """Tell whether to leave out host, user and paths (`DECOMP_LEDGER_CAPTURE=minimal`)."""
    return os.environ.get("DECOMP_LEDGER_CAPTURE", "").lower() == "minimal"


def origin(given: str | None = None, command: str | None = None) -> Origin:
    """Return actor, call site and environment of an event, as the functions below do.

    Args:
        given: the actor, if the caller gave one.
        command: the command line that acts, which is then the call site.
    """
    site = _site_of(_stack(sys._getframe(1))) if command is None else _site_of_command(command)
    return actor(given), site, environment()


# Who


def actor(given: str | None = None) -> str:
    """Return who acts: as given, else `DECOMP_LEDGER_ACTOR`, else git's user, else the login name.

    With `DECOMP_LEDGER_CAPTURE=minimal` the last two are left out, and the actor is "unnamed".
    """
    named = given or os.environ.get("DECOMP_LEDGER_ACTOR")
    if named:
        return check_text(named, "the actor")
    return "unnamed" if is_minimal() else _person(_current_folder())


@cache  # git takes 5 ms
def _person(folder: str) -> str:
    name, mail = git.user(folder)
    if name or mail:
        return _storable(f"{name} <{mail}>" if name and mail else name or mail)
    try:
        return _storable(getpass.getuser())
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def _current_folder() -> str:
    """Return the current folder; "/" if it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109  # a str, which keys the caches
    except FileNotFoundError:
        return "/"


def _storable(text: str) -> str:
    """Escape the bytes of the operating system's text that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


# Where


def call_site() -> CallSite | None:
    """Return the innermost line outside this package and torch, which changed the table, and the lines around it.

    It is a library's own line if a library changes a table; then the lines around it have the line of the user that
    called the library. If every line is of torch, it is the innermost one. None if every line is of this package.
    """
    return _site_of(_stack(sys._getframe(1)))


def torch_caller() -> str:
    """Return the line of torch that called this package for the program, as text; "" if the program itself did."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    is_torchs = frame is not None and frame.f_code.co_filename.startswith(_torch_folder())
    return str(_site_of(_Stack([], frame, []))) if is_torchs else ""


def outer_line() -> tuple[str, int, str] | None:
    """Return the innermost line outside this package and outside of torch's own functions for tables (1 us).

    Returns:
        File, line and function, as code objects have them; `line_text` makes text of it.
    """
    frame: FrameType | None = sys._getframe(1)
    skipped = _PACKAGE, *(f"{_torch_folder()}{name}{os.sep}" for name in ("_decomp", "_export", "export"))
    while frame is not None and frame.f_code.co_filename.startswith(skipped):
        frame = frame.f_back
    return None if frame is None else _line(frame)


def line_text(line: tuple[str, int, str]) -> str:
    """Return a line of `outer_line` as text: `export.py:12 in main`."""
    return str(_site((line,), 0, _current_folder(), is_minimal()))


def maker() -> str:
    """Return the name of the innermost function outside libraries and torch that runs now, for a table that it makes.

    Of code outside of functions, it is the name of its module, or `module` for the program itself. If all code is that
    of libraries, it is the innermost function of one.
    """
    torch, of_library = _torch_folder(), ""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MAX_DEPTH):
        kind = _COMMAND if frame is None else _kind(frame.f_code.co_filename, torch)
        if frame is None or kind == _COMMAND:
            break
        if kind == _OWN or (kind == _LIBRARY and not of_library):
            name = _function(frame)
            if name and kind == _OWN:
                return name
            of_library = of_library or name
        frame = frame.f_back
    return of_library or MODULE


def _function(frame: FrameType) -> str:
    """Return the name of a frame's function, or of its module outside of functions; "" if only the caller tells it."""
    code = frame.f_code
    whole = getattr(code, "co_qualname", code.co_name)  # not in Python 3.10
    # A lambda or a comprehension is a part of the function around it.
    for function in reversed(whole.split(".<locals>.")):
        if name := ".".join(part for part in function.split(".") if not part.startswith("<")):
            return name_part(name, MODULE)
    if code.co_name != "<module>" and whole == code.co_name and not hasattr(code, "co_qualname"):
        return ""
    if frame.f_globals.get("__name__") == "__main__" or notebook.cell(code.co_filename) is not None:
        return MODULE
    return name_part(Path(code.co_filename).stem, MODULE)


def stack_level() -> int:
    """Return the `stacklevel` with which a warning of the calling function points at the call site."""
    first = sys._getframe(1)
    frame: FrameType | None = first
    torch = _torch_folder()
    level = 1
    while frame is not None and _kind(frame.f_code.co_filename, torch) in (_SKIPPED, _COMMAND, _TORCH):
        frame = frame.f_back
        level += frame is None or hidden_frames.is_counted(frame, first)
    return level


_MAX_INNER = 3
_MAX_DEPTH = 500  # frames that are looked at
_SKIPPED, _COMMAND, _TORCH, _LIBRARY, _OWN = range(5)


class _Stack(NamedTuple):
    """The frames of a call site; see `CallSite`."""

    inner: list[FrameType]
    where: FrameType | None
    callers: list[FrameType]


def _stack(frame: FrameType | None) -> _Stack:
    inner: list[FrameType] = []
    callers: list[FrameType] = []
    where: FrameType | None = None
    torch, has_own = _torch_folder(), False
    for _ in range(_MAX_DEPTH):
        kind = _COMMAND if frame is None else _kind(frame.f_code.co_filename, torch)
        if frame is None or kind == _COMMAND:  # outside our command are click and Python's own frames
            break
        if where is None and kind >= _LIBRARY:
            where = frame
        elif where is None and kind == _TORCH and len(inner) < _MAX_INNER:
            inner.append(frame)
        elif where is not None and kind != _SKIPPED:
            room = MAX_FRAMES - 1 - len(inner)
            if len(callers) < room:
                callers.append(frame)
            elif has_own:
                break
            elif kind == _OWN:
                callers[-1] = frame
        has_own = has_own or kind == _OWN
        if kind == _OWN and frame.f_code.co_name == "<module>" and notebook.cell(frame.f_code.co_filename) is not None:
            break  # outside a cell is the kernel
        frame = frame.f_back
    return _Stack(inner, where, callers)


@cache
def _kind(name: str, torch: str) -> int:
    """Tell whose code a file is."""
    # A generator that is a context manager of ours runs below a frame of contextlib.
    if name.startswith((_COMMANDS, _PACKAGE, "<frozen ", contextlib.__file__)):
        return _COMMAND if name.startswith(_COMMANDS) else _SKIPPED
    if name.startswith(torch):
        return _TORCH
    return _LIBRARY if name.startswith(tuple(path + os.sep for path in _libraries())) else _OWN


def is_own(file: str) -> bool:
    """Tell whether a file is of the program itself: not of torch, of a library, or of this package."""
    return _kind(file, _torch_folder()) == _OWN


def _torch_folder() -> str:
    file = getattr(sys.modules.get("torch"), "__file__", None)
    return os.path.dirname(file) + os.sep if file else _PACKAGE  # noqa: PTH120  # as code objects spell it


def _site_of(found: _Stack) -> CallSite | None:
    inner, where, callers = found
    if where is None:
        if not inner:
            return None
        (where, *callers), inner = inner, []
    lines = tuple(map(_line, (*inner, where, *callers)))
    return _site(lines, len(inner), _current_folder(), is_minimal())


def _line(frame: FrameType) -> tuple[str, int, str]:
    code = frame.f_code
    file = notebook.cell(code.co_filename) or code.co_filename
    return file, frame.f_lineno, getattr(code, "co_qualname", code.co_name)  # not in Python 3.10


@lru_cache(maxsize=1024)  # 20 us of the 260 that an append takes
def _site(lines: tuple[tuple[str, int, str], ...], where: int, folder: str, minimal: bool) -> CallSite:
    frames = tuple(
        Frame(_shortened(file, folder, minimal), line, function, "" if minimal else _distribution(file))
        for file, line, function in lines
    )
    here = frames[where]
    return CallSite(here.file, here.line, here.function, frames[:where], frames[where + 1 :], here.distribution)


@cache
def _distribution(file: str) -> str:
    """Return the distribution of a library's file; "" for torch, whose version the environment tells, and others."""
    if _kind(file, _torch_folder()) != _LIBRARY:
        return ""
    roots = (sysconfig.get_path(name) for name in ("purelib", "platlib"))
    root = next((root for root in roots if root and file.startswith(root + os.sep)), None)
    return "" if root is None else _storable(distribution_of(file, root))


def _site_of_command(command: str) -> CallSite:
    """Return the call site of a command line; in a minimal capture, without its arguments."""
    words = command.split(" ")
    text = _storable(" ".join(words[:2]) if is_minimal() else command)
    return CallSite(text if len(text) <= _MAX_COMMAND else f"{text[:_MAX_COMMAND]}...", 0, "")


_MAX_COMMAND = 300


def shortened(file: str) -> str:
    """Return a path as call sites have it: the part that is the same on another machine."""
    return _shortened(file, _current_folder(), is_minimal())


@cache  # resolving paths takes 30 us
def _shortened(name: str, folder: str, minimal: bool) -> str:
    """Shorten a path to the part that is the same on another machine."""
    if name.startswith(("<", "In[")):
        return _storable(name)
    path = Path(name) if Path(name).is_absolute() else Path(folder, name)
    if name.startswith(_torch_folder()):
        return _storable(str(path.relative_to(Path(_torch_folder()).parent)))
    if minimal:
        return _storable(path.name)
    for root in (*_libraries(), _tree(folder)[0], folder):
        if root and path.is_relative_to(root):
            return _storable(str(path.relative_to(root)))
    return _storable(str(path))


@cache
def _libraries() -> tuple[str, ...]:
    paths = (sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
    return tuple(path for path in paths if path)


@cache  # git takes 5 ms
def _tree(folder: str) -> tuple[str, str]:
    return git.tree(folder)


# In what

# torchrun, and pytest-xdist.
_NAMES_OF_PROCESSES = (("rank", "RANK"), ("worker", "PYTEST_XDIST_WORKER"))

# (torch's key, minimal, folder, process) -> the environment. git takes 15 ms, and torch's facts 1 ms.
_environments: dict[object, dict[str, Json]] = {}


def environment() -> dict[str, Json]:
    """Return what the process runs in: torch, Python, platform, host, git, CI, custom-op libraries, which process.

    Returns the same object until torch, a library, the folder or the settings change, or the process forks.
    """
    folder, minimal, process = _current_folder(), is_minimal(), _process()
    torch_key, torch_part = torch_facts() if torch_facts is not None else (None, dict)
    key = (torch_key, minimal, folder, process)
    if key not in _environments:
        named: dict[str, Json] = {name: _storable(text) for name, text in process}
        _environments[key] = {**_machine(folder, minimal), **named, **torch_part()}
    return _environments[key]


def _process() -> tuple[tuple[str, str], ...]:
    """Return which process this is, if it is one of several: its id in a child, its rank, its worker of a test run.

    A program alone has no such facts, so that each of its runs has the same environment.
    """
    process = os.getpid()
    facts = [(name, os.environ.get(variable, "")) for name, variable in _NAMES_OF_PROCESSES]
    if first_process is not None and first_process != process:
        facts.insert(0, ("process", str(process)))
    return tuple((name, text) for name, text in facts if text)


@cache
def _machine(folder: str, minimal: bool) -> dict[str, Json]:
    facts: dict[str, Json] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    if commit := _tree(folder)[1]:
        facts["git_commit"] = commit
        facts["git_dirty"] = git.is_dirty(folder)
    run = _ci_run()
    if run:
        facts["ci_run"] = _storable(run)
    if not minimal:
        facts["host"] = _storable(socket.gethostname())
    return facts


def _ci_run() -> str:
    """Return the address of the CI run, which GitHub, GitLab, Jenkins, Buildkite and CircleCI give."""
    env = os.environ
    github = [env.get(name) for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")]
    if all(github):
        return "{}/{}/actions/runs/{}".format(*github)
    names = ("CI_JOB_URL", "BUILDKITE_BUILD_URL", "CIRCLE_BUILD_URL", "BUILD_URL")
    return next((env[name] for name in names if env.get(name)), "")
