"""The settings of a project: `[tool.decomp-ledger]` of its pyproject.toml, and where its ledger is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from decomp_ledger.errors import LedgerError, LedgerFileError, UnusableValue
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.canonical_json import check_text
from decomp_ledger.model.display import displayed
from decomp_ledger.model.limits import FILE_BYTES
from decomp_ledger.model.policy import Policy, policy_from_settings
from decomp_ledger.storage.file_checks import absolute

__all__ = ["DEFAULT_LEDGER", "Settings", "project_settings"]

DEFAULT_LEDGER = "decomp_ledger.db"
_FILE, _TABLE = "pyproject.toml", "decomp-ledger"


@displayed
@attrs.frozen(repr=False)
class Settings:
    """The settings of a project.

    Attributes:
        ledger: the ledger file. It may not exist yet.
        actor: who makes changes with commands; None if the project does not say.
        trust: names of modules that may be imported to find decompositions.
        hub: the address of the hub, which may have a password; None if the project does not say.
        file: the pyproject.toml that says so; None if no file does.
        ignored: the files that were left out because they belong to another user.
        policy: what its tables and exports must hold to; of its opset, a file is named by its whole path.
    """

    ledger: Path
    actor: str | None = None
    trust: tuple[str, ...] = ()
    hub: str | None = attrs.field(default=None, repr=lambda value: repr(value and "..."), kw_only=True)
    file: Path | None = None
    ignored: tuple[Path, ...] = ()
    policy: Policy = attrs.field(factory=Policy)


@checked
def project_settings(folder: str | os.PathLike[str] | None = None) -> Settings:
    """Return the settings that hold in a folder.

    They are looked for in the folder and in those above it, as git looks for its repository: the ledger is the nearest
    `decomp_ledger.db`, or what the nearest `[tool.decomp-ledger]` of a pyproject.toml names; else `decomp_ledger.db` in
    the folder. Files that belong to another user, and links of another user to any file, are left out, because settings
    say what may be imported.

    Args:
        folder: the folder; by default the current one.

    Raises:
        LedgerFileError: the folder's name is not one that a folder can have.
        UnusableValue: a pyproject.toml is not TOML, or its `[tool.decomp-ledger]` has an unknown key or a wrong value.
    """
    try:
        start = Path(absolute(folder or "."))
    except LedgerFileError:
        if folder is not None:
            raise
        return Settings(Path(DEFAULT_LEDGER))  # the current folder was removed
    ledger: Path | None = None
    ignored: list[Path] = []
    for each in (start, *start.parents):
        here = each / DEFAULT_LEDGER
        if ledger is None and here.is_file():
            if each == start or _is_own(here):
                ledger = here
            else:
                ignored.append(here)
        file = each / _FILE
        data, is_own = _read(file)
        if _TABLE.encode() not in data:  # most projects have no such table, and reading TOML takes some milliseconds
            continue
        if not is_own:  # not even parsed, because an error in it would stop every command below its folder
            ignored += [file] if f"tool.{_TABLE}".encode() in data else []
            continue
        if len(data) > FILE_BYTES:
            raise UnusableValue(f"{file}: it has more than {FILE_BYTES} bytes; at most {FILE_BYTES} can be read")
        values = _values(file, data)
        if values is None:
            continue
        its_ledger = each / values.get("ledger", DEFAULT_LEDGER)
        trust, hub = tuple(values.get("trust", ())), values.get("hub")
        policy = values.get("policy", Policy())
        return Settings(ledger or its_ledger, values.get("actor"), trust, file, tuple(ignored), policy, hub=hub)
    return Settings(ledger or start / DEFAULT_LEDGER, ignored=tuple(ignored))


def _is_own(path: Path, found: os.stat_result | None = None) -> bool:
    """Tell whether a file belongs to this user, where the system has users.

    A link must belong to the user too, because another user can make one to any file of this user.

    Args:
        path: the file.
        found: what was opened under that name, because another user may exchange it; None if it was not opened.
    """
    owners = {path.lstat().st_uid, (found or path.stat()).st_uid}
    return not hasattr(os, "geteuid") or owners == {os.geteuid()}


def _read(file: Path) -> tuple[bytes, bool]:
    """Return the content of a file and whether it belongs to this user; nothing if it is not one that can be read.

    Of a file over the limit, return its beginning: it may be another user's, which must not stop any command.
    """
    try:
        if not file.is_file():  # a pipe would wait
            return b"", True
        with file.open("rb") as opened:
            return opened.read(FILE_BYTES + 1), _is_own(file, os.fstat(opened.fileno()))
    except OSError:
        return b"", True


def _values(file: Path, data: bytes) -> dict[str, Any] | None:
    """Return the checked `[tool.decomp-ledger]` of a file; None if it has none."""
    try:
        value = _parse(data.decode())
    except (ValueError, RecursionError) as error:
        raise UnusableValue(f"{file}: not valid TOML: {error}; mend it") from None
    tool = value.get("tool")
    found = tool.get(_TABLE) if isinstance(tool, dict) else None
    return None if found is None else dict(_checked(file, found))


def _parse(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _checked(file: Path, found: object) -> Iterator[tuple[str, Any]]:
    where = f"{file}: [tool.{_TABLE}]"
    if not isinstance(found, dict):
        raise UnusableValue(f"{where}: not a table; write it as [tool.{_TABLE}]")
    for key, value in found.items():
        is_list = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if key in ("ledger", "actor", "hub") and isinstance(value, str) and value:
            yield key, check_text(value, f"{where}: {key}")
        elif key == "trust" and is_list:
            yield key, value
        elif key == "policy":
            yield key, _policy(file, value)
        elif key in ("ledger", "actor", "trust", "hub"):
            expected = "a list of module names" if key == "trust" else "a text"
            what = "of another type, or empty" if key == "hub" else f"{value!r:.60}"  # it may have a password
            raise UnusableValue(f"{where}: {key} is {what}; give {expected}")
        else:
            raise UnusableValue(f"{where}: {key!r:.60} is unknown; the keys are ledger, actor, trust, hub and policy")


def _policy(file: Path, value: object) -> Policy:
    """Return the policy of a file, which names the file of an opset relative to itself."""
    try:
        found = policy_from_settings(value)
    except LedgerError as error:
        raise UnusableValue(f"{file}: [tool.{_TABLE}.policy]: {error}") from None
    named = None if found.opset is None else file.parent / found.opset
    return attrs.evolve(found, opset=str(named)) if named is not None and named.is_file() else found
