"""The stamp in a `.pt2`: which exports made the program in it. Read with `zipfile`, without torch.

Nothing of the archive but the stamp is read, and nothing is unpickled, extracted or run.
"""

from __future__ import annotations

import json
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import IO, Any, TypeAlias

import attrs

from decomp_ledger.errors import SchemaError, StampError
from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["MAX_STAMP", "MEMBER", "File", "Stamp", "merge", "read_stamp"]

File: TypeAlias = "str | os.PathLike[str] | IO[bytes]"

# What `extra_files` calls it. Torch 2.6 to 2.8 put that in `extra_files/`, later ones in `<archive's name>/extra/`.
MEMBER = "decomp_ledger.json"
MAX_STAMP = 16 * 1024 * 1024
_FORMAT = 1

_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,  # an unknown way to compress
    RuntimeError,  # an encrypted member
    ValueError,
    OverflowError,
    MemoryError,
)


@attrs.frozen
class Stamp:
    """What a `.pt2` says of the program in it.

    Attributes:
        bundles: the exports that led to it, in their order; the last one made the program.
        graph: digest of the program's graph when it was saved; None if it could not be made.
        build: git version of the torch that saved it: others read the same file as another graph.
    """

    bundles: tuple[ExportBundle, ...]
    graph: str | None
    build: str

    @property
    def last(self) -> ExportBundle:
        """The export that made the program."""
        return self.bundles[-1]

    @property
    def edited(self) -> bool:
        """Whether the program was changed between the export and the saving."""
        return self.graph != self.last.body.after

    def anchors(self, ledger: str) -> tuple[tuple[int, str], ...]:
        """Return (seq, hash in hex) of each event of a ledger that it has: what `Ledger.verify` can check that against.

        Args:
            ledger: the ledger's id.

        Raises:
            StampError: it has none of that ledger.
        """
        found = {
            (event.seq, event.hash)
            for bundle in self.bundles
            if bundle.ledger == ledger
            for event in (*bundle.said, bundle.event)
        }
        if not found:
            others = ", ".join(sorted({bundle.ledger[:40] for bundle in self.bundles}))
            raise StampError(f"its exports were recorded in the ledger {others}, and this is {ledger[:40]}")
        return tuple(sorted(found))

    def to_text(self) -> str:
        """Return the stamp as it is stored."""
        value = {
            "format": _FORMAT,
            "graph": self.graph,
            "torch": self.build,
            "exports": [bundle.to_json() for bundle in self.bundles],
        }
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str | bytes) -> Stamp:
        """Read a stored stamp, and check all of it.

        Raises:
            StampError: it is damaged.
            SchemaError: a newer version wrote it.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StampError(f"a stamp is damaged: it is no JSON: {error}"[:300]) from None
        if not isinstance(value, dict) or not isinstance(value.get("format"), int):
            raise StampError("a stamp is damaged: it is not what a stamp is")
        if value["format"] > _FORMAT:
            raise SchemaError("a stamp was written by a newer decomp_ledger; upgrade to read it")
        exports, graph, build = value.get("exports"), value.get("graph"), value.get("torch")
        if not isinstance(exports, list) or not exports or not isinstance(build, str):
            raise StampError("a stamp is damaged: it tells of no export")
        if graph is not None and not isinstance(graph, str):
            raise StampError("a stamp is damaged: its graph digest is none")
        return cls(tuple(map(ExportBundle.from_json, exports)), graph, build)


def merge(*histories: Iterable[ExportBundle]) -> tuple[ExportBundle, ...]:
    """Join what led to a program, each export once, where it stands first."""
    return tuple({bundle.event.hash: bundle for history in histories for bundle in history}.values())


def read_stamp(file: File) -> Stamp:
    """Read the stamp of a `.pt2` that torch 2.6 to 2.15 saved, or anybody made.

    Args:
        file: its path, or a seekable binary file, which is left where it was.

    Raises:
        StampError: it has no stamp, or a damaged one, or is no such file.
        SchemaError: a newer version wrote the stamp.
    """
    named = isinstance(file, (str, os.PathLike))
    name = os.fspath(file) if isinstance(file, (str, os.PathLike)) else "the file"
    position = None if named else file.tell()  # type: ignore[union-attr]
    try:
        text = _member(file, name)
    except OSError as error:
        raise StampError(f"cannot read {name}: {error.strerror or error}") from None
    except StampError:
        raise
    except _UNREADABLE as error:
        raise StampError(f"{name} is no .pt2 file, or a damaged one: {error}"[:500]) from None
    finally:
        if position is not None:
            file.seek(position)  # type: ignore[union-attr]
    try:
        return Stamp.from_text(text)
    except StampError as error:
        raise StampError(f"{name}: {error}") from None


def _member(file: Any, name: str) -> bytes:
    with zipfile.ZipFile(file) as archive:
        found = [info for info in archive.infolist() if _is_stamp(info.filename)]
        if not found:
            raise StampError(
                f"{name} has no stamp: it was not saved with decomp_ledger.save(), nor by torch.export.save() "
                "within a recording"
            )
        if len(found) > 1:
            raise StampError(f"{name} has {len(found)} stamps, and none of them can be believed")
        # The size may be a lie: no more is read than it says, and that is not much.
        if found[0].file_size > MAX_STAMP:
            raise StampError(f"{name} has a stamp of {found[0].file_size} bytes, more than any; it is not read")
        with archive.open(found[0]) as member:
            text = member.read(MAX_STAMP + 1)
    if len(text) > MAX_STAMP:
        raise StampError(f"{name} has a stamp of more than {MAX_STAMP} bytes, more than any; it is not read")
    return text


def _is_stamp(member: str) -> bool:
    parts = member.split("/")
    return parts[1:] == ["extra", MEMBER] or parts == ["extra_files", MEMBER]
