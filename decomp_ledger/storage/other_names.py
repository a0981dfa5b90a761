"""Refuse a ledger whose file has a second name: SQLite keeps a log for each name, and neither sees the other's."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from decomp_ledger.errors import LedgerFileError
from decomp_ledger.storage.new_file import drafts_of

__all__ = ["check_one_name"]

_MOUNTS = Path("/proc/self/mountinfo")  # Linux only; macOS cannot mount a single file
_TRIES = 3


def check_one_name(path: Path) -> None:
    """Refuse a file that has another hard link, or that a bind mount shows under another name.

    A bind mount of another mount namespace, such as that of a container, is seen only inside it.

    Raises:
        LedgerFileError: the file has another name.
    """
    links = _links(path)
    if links > 1:
        raise LedgerFileError(
            f"{path}: the file has {links} names (hard links), and SQLite keeps a log for each, so that one does not "
            "see what was written by the other; remove the other names, or make a copy with cp and use that"
        )
    other = next(_mounted_names(path), None)
    if other is not None:
        raise LedgerFileError(
            f"{path}: the file is mounted alone, at {other}, and SQLite keeps a log for each of its two names, so that "
            "one does not see what was written by the other; mount its folder instead"
        )


def _links(path: Path) -> int:
    """Return the number of a file's names, without those of drafts: a draft and its target are one file for a moment.

    A process that is killed in that moment leaves the name of the draft, which is removed here.
    """
    for _ in range(_TRIES):
        links = path.stat().st_nlink
        drafts = [draft for draft in drafts_of(path) if _is_same(draft, path)] if links > 1 else []
        for draft in drafts:
            with suppress(OSError):  # in a read-only folder
                draft.unlink(missing_ok=True)
        if links <= 1 or not drafts:
            return links
    return links - len(drafts)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _mounted_names(path: Path) -> Iterator[str]:
    """Give the places where a file is mounted by itself."""
    real = os.path.realpath(path)
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, _, root, place, *_ = line.split(" ")
        if place.endswith(real) or root.endswith(Path(real).name) or "\\" in line:
            place = _unescaped(place)
            if place == real or (Path(_unescaped(root)).name == Path(real).name and _is_file(place, real)):
                yield place


def _is_file(place: str, real: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(place).st_mode) and os.path.samefile(place, real)  # noqa: PTH116, PTH121
    except OSError:
        return False


def _unescaped(text: str) -> str:
    """Return a name of mountinfo, which writes a space, for example, as an octal number."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
