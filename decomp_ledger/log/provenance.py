"""Who, why, where and in what: the provenance of an event.

What only a writer needs of the standard library is imported in the functions, for the sake of those who read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from types import FrameType

from decomp_ledger.model.canonical_json import Json, check_text
from decomp_ledger.model.events import CallSite

__all__ = ["actor", "call_site", "environment", "is_minimal", "origin", "stack_level"]

_GIT_SECONDS = 5
_PACKAGE = str(Path(__file__).parent.parent) + os.sep

# Set by the part that knows torch: a key that changes when the facts do, and the facts.
torch_facts: Callable[[], tuple[object, Callable[[], dict[str, Json]]]] | None = None


def is_minimal() -> bool:
    """Tell whether host, user and paths are to be left out (`DECOMP_LEDGER_CAPTURE=minimal`)."""
    return os.environ.get("DECOMP_LEDGER_CAPTURE", "").lower() == "minimal"


def actor(given: str | None = None) -> str:
    """Return who acts: as given, else `DECOMP_LEDGER_ACTOR`, else git's user, else the login name.

    With `DECOMP_LEDGER_CAPTURE=minimal`, nobody is named who was not given.
    """
    return _actor(given, _here(), is_minimal())


def origin(given: str | None = None) -> tuple[str, CallSite | None, dict[str, Json]]:
    """Return who acts, where in the user's code, and in what: all that is asked at every event, with few calls.

    Args:
        given: who acts, if somebody said so.
    """
    folder, minimal = _here(), is_minimal()
    return _actor(given, folder, minimal), _place(_caller()[0], folder, minimal), _environment(folder, minimal)


def _actor(given: str | None, folder: str, minimal: bool) -> str:
    named = given or os.environ.get("DECOMP_LEDGER_ACTOR")
    if named:
        return check_text(named, "the actor")
    return "unnamed" if minimal else _person(folder)


def _here() -> str:
    """Return the current folder; "/" when it has been removed."""
    try:
        return os.getcwd()  # noqa: PTH109  # on the path of every event
    except FileNotFoundError:
        return "/"


@cache
def _person(folder: str) -> str:
    name, mail = _git("config", "user.name", folder=folder), _git("config", "user.email", folder=folder)
    if name or mail:
        return _readable(f"{name} <{mail}>" if name and mail else name or mail)
    import getpass

    try:
        return _readable(getpass.getuser())
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def _git(*arguments: str, folder: str) -> str:
    """Ask git about a folder; empty if it is no working tree, or git is missing or slow."""
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", folder, *arguments],
            capture_output=True,
            timeout=_GIT_SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


def _readable(text: str) -> str:
    """Make text of the operating system storable: bytes that are no UTF-8 are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def call_site() -> CallSite | None:
    """Return the first frame that is neither ours nor torch's: the line that changed the table.

    A library that changes a table is named by its own line. None if every frame is ours or torch's.
    """
    return _place(_caller()[0], _here(), is_minimal())


def _place(frame: FrameType | None, folder: str, minimal: bool) -> CallSite | None:
    if frame is None:
        return None
    return _site(frame.f_code.co_filename, frame.f_lineno, _function(frame), folder, minimal)


@lru_cache(maxsize=4096)
def _site(name: str, line: int, function: str, folder: str, minimal: bool) -> CallSite:
    return CallSite(_shown(name, folder, minimal), line, function)


def stack_level() -> int:
    """Return the `stacklevel` for a warning that is to point at that frame, as seen by the caller of this."""
    return _caller()[1]


def _caller() -> tuple[FrameType | None, int]:
    """Return that frame, and how far it is above the function that asks for it."""
    frame: FrameType | None = sys._getframe(2)
    skipped = (_PACKAGE, _torch_folder())
    level = 1
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(skipped) and not name.startswith("<frozen "):
            return frame, level
        frame = frame.f_back
        level += 1
    return None, level


def _torch_folder() -> str:
    file = getattr(sys.modules.get("torch"), "__file__", None)
    return _folder_of(file) if file else _PACKAGE


@cache
def _folder_of(file: str) -> str:
    return os.path.dirname(file) + os.sep  # noqa: PTH120  # as code objects spell it


def _function(frame: FrameType) -> str:
    return getattr(frame.f_code, "co_qualname", frame.f_code.co_name)


@cache
def _shown(name: str, folder: str, minimal: bool) -> str:
    """Shorten a path to what means the same on another machine."""
    if name.startswith("<"):
        return _readable(name)
    path = Path(name) if Path(name).is_absolute() else Path(folder, name)
    if minimal:
        return _readable(path.name)
    for root in (*_libraries(), _git_root(folder), folder):
        if root and path.is_relative_to(root):
            return _readable(str(path.relative_to(root)))
    return _readable(str(path))


@cache
def _libraries() -> tuple[str, ...]:
    import sysconfig

    paths = (sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
    return tuple(path for path in paths if path)


@cache
def _git_root(folder: str) -> str:
    return _git("rev-parse", "--show-toplevel", folder=folder)


_known: dict[object, dict[str, Json]] = {}


def environment() -> dict[str, Json]:
    """Return what the process runs in: torch, Python, platform, host, git, CI, custom-op libraries.

    Asked for at every event: made anew only when torch, a library, the folder or the settings changed.
    """
    return _environment(_here(), is_minimal())


def _environment(folder: str, minimal: bool) -> dict[str, Json]:
    torch_key, torch_part = torch_facts() if torch_facts is not None else (None, dict)
    key = (torch_key, minimal, folder)
    if key not in _known:
        _known[key] = {**_base(folder, minimal), **torch_part()}
    return _known[key]


@cache
def _base(folder: str, minimal: bool) -> dict[str, Json]:
    import platform
    import socket

    facts: dict[str, Json] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    _git_root(folder)  # asked here, and remembered: call_site() is asked while the ledger is locked
    commit = _git("rev-parse", "HEAD", folder=folder)
    if commit:
        facts["git_commit"] = commit
        facts["git_dirty"] = bool(_git("status", "--porcelain", "--untracked-files=no", folder=folder))
    run = _ci_run()
    if run:
        facts["ci_run"] = _readable(run)
    if not minimal:
        facts["host"] = _readable(socket.gethostname())
    return facts


def _ci_run() -> str:
    """Return the address of the CI run, as GitHub, GitLab, Jenkins, Buildkite and CircleCI give it."""
    env = os.environ
    github = [env.get(name) for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")]
    if all(github):
        return "{}/{}/actions/runs/{}".format(*github)
    names = ("CI_JOB_URL", "BUILDKITE_BUILD_URL", "CIRCLE_BUILD_URL", "BUILD_URL")
    return next((env[name] for name in names if env.get(name)), "")
