"""The stamp of a `.pt2`: the exports that made its program. Read with `zipfile`, without torch.

Only the stamp is read from the archive. Nothing is unpickled, extracted or run.
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

# Its name in `extra_files`. Torch 2.6 to 2.8 write that to `extra_files/`, later ones in `<archive's name>/extra/`.
MEMBER = "decomp_ledger.json"
MAX_STAMP = 16 * 1024 * 1024
_FORMAT = 1

_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,  # an unknown compression method
    RuntimeError,  # an encrypted member
    ValueError,
    OverflowError,
    MemoryError,
)


@attrs.frozen
class Stamp:
    """The exports that made the program of a `.pt2`.

    Attributes:
        bundles: the exports, in their order; the last one made the program.
        graph: digest of the program's graph when it was saved; None if it could not be computed.
        build: git version of the torch that saved it, because another torch reads the file as another graph.
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
        """Whether the program was changed after its export and before it was saved."""
        return self.graph != self.last.body.after

    @property
    def redacted(self) -> bool:
        """Whether reasons, actors, call sites or environments were left out of any of its exports."""
        return any(bundle.redacted for bundle in self.bundles)

    @property
    def gaps(self) -> tuple[int, ...]:
        """The numbers, from 0, of the exports that lowered another program than the export before them gave.

        What happened to the program in between is not known. The first export is always one of them.
        """
        results = (None, *(bundle.body.after for bundle in self.bundles))
        return tuple(
            number
            for number, (bundle, result) in enumerate(zip(self.bundles, results, strict=False))
            if result is None or bundle.body.before != result
        )

    def anchors(self, ledger: str) -> tuple[tuple[int, str], ...]:
        """Return (seq, hash in hex) of each of its events that a ledger must have: anchors for `Ledger.verify`.

        Args:
            ledger: the ledger's id.

        Raises:
            StampError: no export was recorded in that ledger.
        """
        found = {
            (event.seq, event.hash)
            for bundle in self.bundles
            if bundle.ledger == ledger
            for event in (*bundle.rule_events, bundle.event)
        }
        if not found:
            others = ", ".join(sorted({bundle.ledger[:40] for bundle in self.bundles}))
            raise StampError(f"its exports were recorded in the ledger {others}, not in {ledger[:40]}")
        return tuple(sorted(found))

    def to_text(self) -> str:
        """Return it as the text that is stored."""
        value = {
            "format": _FORMAT,
            "graph": self.graph,
            "torch": self.build,
            "exports": [bundle.to_json() for bundle in self.bundles],
        }
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str | bytes) -> Stamp:
        """Read and check a stored stamp.

        Raises:
            StampError: it is damaged.
            SchemaError: a newer version wrote it.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StampError(f"stamp: damaged: not JSON: {error}"[:300]) from None
        if not isinstance(value, dict) or not isinstance(value.get("format"), int):
            raise StampError("stamp: damaged: it has no format number")
        if value["format"] > _FORMAT:
            raise SchemaError("stamp: a newer decomp_ledger wrote it; upgrade to read it")
        exports, graph, build = value.get("exports"), value.get("graph"), value.get("torch")
        if not isinstance(exports, list) or not exports or not isinstance(build, str):
            raise StampError("stamp: damaged: it has no export")
        if graph is not None and not isinstance(graph, str):
            raise StampError("stamp: damaged: invalid graph digest")
        return cls(tuple(map(ExportBundle.from_json, exports)), graph, build)


def merge(*histories: Iterable[ExportBundle]) -> tuple[ExportBundle, ...]:
    """Join the histories of programs; an export that is in several is kept where it comes first."""
    return tuple({bundle.event.hash: bundle for history in histories for bundle in history}.values())


def read_stamp(file: File) -> Stamp:
    """Read the stamp of a `.pt2` of torch 2.6 to 2.15. The file may come from anyone.

    Args:
        file: its path, or a seekable binary file, whose position is kept.

    Raises:
        StampError: it is not a `.pt2`, or has no stamp or a damaged one.
        SchemaError: a newer version wrote the stamp.
    """
    named = isinstance(file, (str, os.PathLike))
    name = os.fspath(file) if isinstance(file, (str, os.PathLike)) else "the file"
    position = None if named else file.tell()  # type: ignore[union-attr]
    try:
        text = _member(file, name)
    except OSError as error:
        raise StampError(f"{name}: cannot be read: {error.strerror or error}") from None
    except StampError:
        raise
    except _UNREADABLE as error:
        raise StampError(f"{name}: not a .pt2 file, or a damaged one: {error}"[:500]) from None
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
                f"{name}: has no stamp; save it with decomp_ledger.save(), or with torch.export.save() within a "
                "recording"
            )
        if len(found) > 1:
            raise StampError(f"{name}: has {len(found)} stamps, so neither can be trusted; save it again")
        # The size may be false, so no more than the limit is read below.
        if found[0].file_size > MAX_STAMP:
            raise StampError(
                f"{name}: its stamp has {found[0].file_size} bytes, over the limit of {MAX_STAMP}; save it again"
            )
        with archive.open(found[0]) as member:
            text = member.read(MAX_STAMP + 1)
    if len(text) > MAX_STAMP:
        raise StampError(f"{name}: its stamp is over the limit of {MAX_STAMP} bytes; save it again")
    return text


def _is_stamp(member: str) -> bool:
    parts = member.split("/")
    return parts[1:] == ["extra", MEMBER] or parts == ["extra_files", MEMBER]
