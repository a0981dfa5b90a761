"""Ask git about a working tree, and run nothing that the tree names.

A working tree comes with a `.git/config` and a `.gitattributes` that may name any program: filters, hooks, a file
system monitor, a pager, an ssh command. Each question below turns all of them off. Without its filter git cannot
compare a changed file with its last commit; then it is unknown whether the tree is dirty.
"""

from __future__ import annotations

import itertools
import os
import re
import time

from decomp_ledger.errors import UnusableValue
from decomp_ledger.model.limits import COMMAND_BYTES
from decomp_ledger.storage.bounded_read import answer_of

__all__ = ["FILTERED", "SILENT", "answer", "is_dirty", "tree", "user"]

FILTERED = "unknown: only a filter of the repository could tell, and it is not run"
SILENT = "unknown: git does not answer"
_SECONDS = 5.0
# Settings that name programs, or make git read another folder's settings.
_SETTINGS = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.sshCommand": "false",
    "core.gitProxy": "",
    "core.pager": "cat",
    "credential.helper": "",
    "safe.bareRepository": "explicit",
}
_OFF = {
    "GIT_OPTIONAL_LOCKS": "0",  # else git runs a hook when it writes the index
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "",  # missing objects are not fetched by any program
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PAGER": "cat",
}
_STATUS = ("status", "--porcelain=v1", "-z", "--untracked-files=no", "--ignore-submodules=dirty", "--no-renames")
_FILTER_KEYS = ("clean", "smudge", "process", "required")
# Folder -> when git did not answer; each event would else wait again.
_slow: dict[str, float] = {}
_PATIENCE = 600.0
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def answer(folder: str, *arguments: str) -> str:
    """Return what git prints of a folder; "" outside a working tree, or if git is missing, fails or is slow."""
    found = _run(folder, arguments)
    return "" if found is None else found.decode("utf-8", "replace").strip()


def tree(folder: str) -> tuple[str, str]:
    """Return the top folder of a working tree, and its last commit; "" for what there is not."""
    # By one question, because each takes 5 ms. Without a commit, git prints the folder alone.
    found = _run(folder, ("rev-parse", "--show-toplevel", "--verify", "--quiet", "HEAD"), allowed=(0, 1))
    if found is None:  # a bare repository has commits without a working tree
        return "", answer(folder, "rev-parse", "--verify", "HEAD")
    text = found.decode("utf-8", "replace").strip()
    top, _, last = text.rpartition("\n")
    return (top.strip(), last) if _COMMIT.fullmatch(last) else (text, "")


def user(folder: str) -> tuple[str, str]:
    """Return the name and the mail address of git's user; "" for what is not set."""
    # By one question, because each takes 5 ms.
    found = dict(_settings(folder, r"^user\.(name|email)$") or ())
    name, mail = (found.get(f"user.{key}", "").encode("utf-8", "surrogateescape") for key in ("name", "email"))
    return name.decode("utf-8", "replace").strip(), mail.decode("utf-8", "replace").strip()


def is_dirty(folder: str) -> bool | str:
    """Tell whether files of a working tree differ from its last commit; a text that says why if that is unknown."""
    drivers = _filter_drivers(folder)
    if drivers is None:
        return SILENT
    off = {f"filter.{driver}.{key}": "false" if key == "required" else "" for driver in drivers for key in _FILTER_KEYS}
    if drivers and _filter_drivers(folder, off) != set():
        return FILTERED  # git before 2.31 does not read these settings
    status = _run(folder, _STATUS, settings=off)
    if status is None:
        return SILENT
    changed = [line[3:] for line in status.split(b"\0") if len(line) > 3]
    if not changed or not drivers:
        return bool(changed)
    filtered = _run(folder, ("check-attr", "-z", "--stdin", "filter"), b"\0".join(changed) + b"\0")
    values = (filtered or b"").split(b"\0")[2::3]
    is_certain = len(values) == len(changed) and any(_text(value) not in drivers for value in values)
    return True if is_certain else FILTERED


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _filter_drivers(folder: str, off: dict[str, str] | None = None) -> set[str] | None:
    """Return the filters for which git would run a program; None if git does not answer."""
    found = _settings(folder, r"^filter\.", off)
    if found is None:
        return None
    programs = {name: value for name, value in found if name.endswith((".clean", ".process", ".smudge"))}
    return {name.removeprefix("filter.").rpartition(".")[0] for name, value in programs.items() if value}


def _settings(folder: str, pattern: str, off: dict[str, str] | None = None) -> list[tuple[str, str]] | None:
    """Return git's settings whose names match, the one that counts last; None if git does not answer."""
    found = _run(folder, ("config", "-z", "--get-regexp", pattern), settings=off, allowed=(0, 1))
    if found is None:
        return None
    pairs = (pair.partition("\n") for pair in _text(found).split("\0"))
    return [(name, value) for name, _, value in pairs]


def _run(
    folder: str,
    arguments: tuple[str, ...],
    text: bytes = b"",
    *,
    settings: dict[str, str] | None = None,
    allowed: tuple[int, ...] = (0,),
) -> bytes | None:
    if time.monotonic() - _slow.get(folder, -_PATIENCE) < _PATIENCE:
        return None
    fixed = [part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}")]
    command = ["git", "--no-pager", *fixed, "-C", folder, *arguments]
    try:
        status, output, _ = answer_of(command, COMMAND_BYTES, _SECONDS, text, _environment(settings or {}))
    except (TimeoutError, UnusableValue):
        _slow[folder] = time.monotonic()
        return None
    except (OSError, ValueError):  # git is missing, or a setting has a null character
        return None
    return output if status in allowed else None


def _environment(settings: dict[str, str]) -> dict[str, str]:
    """Return the environment in which git uses these settings instead of any file's.

    Not by `git -c`, because the name of a filter may contain the "=" that ends a name there.
    """
    first = next(number for number in itertools.count() if f"GIT_CONFIG_KEY_{number}" not in os.environ)
    found = {**os.environ, **_OFF, "GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, (key, value) in enumerate(settings.items(), first):
        found[f"GIT_CONFIG_KEY_{number}"], found[f"GIT_CONFIG_VALUE_{number}"] = key, value
    return found
