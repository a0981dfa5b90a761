"""A file that a program was saved into, as its bytes tell: its format, its size and digest, and a sidecar.

A sidecar is a file next to one that cannot hold a stamp: `model.pte.decomp.json` has the stamp of `model.pte`, and the
digest of that file.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from decomp_ledger.errors import MissingStamp, StampError, UnusableValue
from decomp_ledger.model.json_values import parse_json
from decomp_ledger.model.limits import DUMP_LINE
from decomp_ledger.storage.bounded_read import read_bounded

__all__ = ["SIDECAR", "check_is_file", "digest_of_file", "read_sidecar", "sidecar_text"]

SIDECAR = ".decomp.json"  # follows the whole name of the file
_FORMAT = 1
_CHUNK = 1 << 20


def digest_of_file(path: str | os.PathLike[str]) -> tuple[int, str]:
    """Return the size of a file and the SHA-256 of its bytes, in hex.

    Raises:
        StampError: it cannot be read.
    """
    try:
        check_is_file(path)
        with Path(path).open("rb") as file:
            return _digest_of(file)
    except OSError as error:
        raise StampError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}; name another file") from None
    except StampError:
        raise
    except ValueError:  # a null character
        raise StampError(f"{os.fspath(path)!r:.80}: it cannot name a file; name another file") from None


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is not a regular file, because a pipe would wait, and a device has no end.

    Raises:
        StampError: it is not one.
        OSError: there is nothing of that name, or it may not be looked at.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise StampError(f"{os.fspath(path)}: not a file; name a file")


def _digest_of(file: BinaryIO) -> tuple[int, str]:
    size, found = 0, hashlib.sha256()
    while chunk := file.read(_CHUNK):
        size += len(chunk)
        found.update(chunk)
    return size, found.hexdigest()


def sidecar_text(stamp: str, size: int, sha256: str) -> str:
    """Return the text of a sidecar.

    Args:
        stamp: the text of the stamp.
        size: of the file that the sidecar is about.
        sha256: likewise.
    """
    return json.dumps({"format": _FORMAT, "size": size, "sha256": sha256, "stamp": stamp}, indent=1) + "\n"


def read_sidecar(path: str) -> str:
    """Return the text of the stamp in the sidecar of a file, if it is about the file as it is.

    Args:
        path: the file, such as `model.pte`.

    Raises:
        MissingStamp: it has no sidecar.
        StampError: the file cannot be read, or differs from the one that the sidecar is about; or the sidecar is
            damaged.
    """
    size, sha256 = digest_of_file(path)
    sidecar = path + SIDECAR
    try:
        check_is_file(sidecar)
        value: Any = parse_json(read_bounded(sidecar, DUMP_LINE), DUMP_LINE)
    except FileNotFoundError:
        raise MissingStamp(
            f"{path}: has no stamp, because its format holds none, and there is no {sidecar}; ask the ledger that "
            "recorded it, or save it within a recording with sidecars=True"
        ) from None
    except OSError as error:
        raise StampError(f"{sidecar}: cannot be read: {error.strerror or error}; name another file") from None
    except UnusableValue as error:
        raise StampError(f"{sidecar}: damaged: {error}") from None
    if not isinstance(value, dict) or value.keys() != {"format", "size", "sha256", "stamp"}:
        raise StampError(f"{sidecar}: not a sidecar; remove it, or save {path} again")
    if value["format"] != _FORMAT or not isinstance(value["stamp"], str):
        raise StampError(f"{sidecar}: a newer decomp_ledger wrote it, or it is damaged")
    if (value["size"], value["sha256"]) != (size, sha256):
        raise StampError(
            f"{path}: changed after it was saved: its sha256 is {sha256[:12]}, that in {sidecar} is "
            f"{value['sha256']!s:.12}; save it again"
        )
    return value["stamp"]
