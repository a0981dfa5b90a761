"""The stamp of a file: the exports that made its program. Read without torch.

Only the stamp is read from a `.pt2` (with `zipfile`), an `.onnx` or a sidecar. Nothing is unpickled, extracted or run.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import attrs

from decomp_ledger.errors import MissingStamp, SchemaError, StampError, UnusableValue
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.display import displayed
from decomp_ledger.model.json_values import check_json_size, parse_json
from decomp_ledger.model.limits import JSON_BYTES, STAMP_EXPORTS, ZIP_DIRECTORY
from decomp_ledger.transfer import onnx_stamp
from decomp_ledger.transfer.artefacts import check_is_file, read_sidecar
from decomp_ledger.transfer.export_bundle import ExportBundle

__all__ = ["MEMBER", "File", "Stamp", "UnreadStamp", "append_stamp", "merge", "read_stamp", "read_unread"]

File: TypeAlias = "str | os.PathLike[str] | IO[bytes]"

# Its name in `extra_files`. Torch 2.6 to 2.8 write that to `extra_files/`, later ones in `<archive's name>/extra/`.
MEMBER = "decomp_ledger.json"
_FORMAT = 1
# The methods that torch and zip tools write. The other ones unpack a small member to any size in one step.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # a later version of the format
    RuntimeError,  # an encrypted member
    ValueError,
    OverflowError,
    MemoryError,
)


@displayed
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
        """Return it as the text that is stored.

        Raises:
            StampError: it is larger than what can be read.
        """
        if len(self.bundles) > STAMP_EXPORTS:
            raise StampError(
                f"the stamp: it would have {len(self.bundles)} exports, more than the {STAMP_EXPORTS} that can be "
                "read; save the program with torch.export.save(), and keep the ledger"
            )
        head = _encode({"format": _FORMAT, "graph": self.graph, "torch": self.build}).removesuffix("}")
        text = _sealed(f'{head},"exports":[{",".join(bundle.text for bundle in self.bundles)}]}}')
        try:
            check_json_size(text)
        except UnusableValue as error:
            raise StampError(
                f"the stamp: it would be {error}; save the program with torch.export.save(), and keep the ledger"
            ) from None
        return text

    @classmethod
    def from_text(cls, text: str | bytes) -> Stamp:
        """Read and check a stored stamp.

        Raises:
            StampError: it is damaged.
            SchemaError: a newer version wrote it.
        """
        return UnreadStamp.from_text(text).read()


@attrs.frozen
class UnreadStamp:
    """A stamp that is as it was written, and whose exports are not checked yet: that takes 50 ms for the first one.

    Attributes:
        exports: the exports, as plain data.
        graph: as in `Stamp`.
        build: as in `Stamp`.
    """

    exports: tuple[object, ...] = attrs.field(repr=False)
    graph: str | None
    build: str

    def read(self) -> Stamp:
        """Read and check the exports.

        Raises:
            StampError: one of them is damaged.
            SchemaError: a newer version wrote it.
        """
        return Stamp(tuple(map(ExportBundle.from_json, self.exports)), self.graph, self.build)

    @classmethod
    def from_text(cls, text: str | bytes) -> UnreadStamp:
        """Read a stored stamp, and check everything but its exports.

        Raises:
            StampError: it is damaged.
            SchemaError: a newer version wrote it.
        """
        try:
            value = parse_json(text)
        except UnusableValue as error:
            raise StampError(f"stamp: damaged: {error}") from None
        if not isinstance(value, dict) or type(value.get("format")) is not int or value["format"] < 1:
            raise StampError("stamp: damaged: it has no format number")
        if value["format"] > _FORMAT:
            raise SchemaError("stamp: a newer decomp_ledger wrote it; upgrade to read it")
        exports = value.get("exports")
        if isinstance(exports, list) and len(exports) > STAMP_EXPORTS:
            raise StampError(f"stamp: it has {len(exports)} exports; at most {STAMP_EXPORTS} can be read")
        rest = _encode({name: each for name, each in value.items() if name != "digest"})
        # Not against an attacker, who computes the digest too: a stamp with another digest is another stamp.
        if _sealed(rest) != (text if isinstance(text, str) else text.decode()):
            raise StampError("stamp: damaged: it is not as it was written; save it again")
        if value.keys() != {"format", "graph", "torch", "exports", "digest"}:
            raise StampError("stamp: damaged: it has a part that no stamp has, or lacks one")
        graph, build = value["graph"], value["torch"]
        if not isinstance(exports, list) or not exports or not isinstance(build, str):
            raise StampError("stamp: damaged: it has no export")
        if graph is not None and not isinstance(graph, str):
            raise StampError("stamp: damaged: invalid graph digest")
        return cls(tuple(exports), graph, build)


def _encode(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _sealed(text: str) -> str:
    """Return the JSON of an object with the digest of it as its last member, which makes any change show: SHA-256."""
    return f'{text.removesuffix("}")},"digest":"{hashlib.sha256(text.encode()).hexdigest()}"}}'


def merge(*histories: Iterable[ExportBundle]) -> tuple[ExportBundle, ...]:
    """Join the histories of programs; an export that is in several is kept where it comes first."""
    return tuple({bundle.event.hash: bundle for history in histories for bundle in history}.values())


@checked
def read_stamp(file: File) -> Stamp:
    """Read the stamp of a `.pt2` of torch 2.6 to 2.15, or of an `.onnx`. The file may come from anyone.

    A `.pte` or `.ptd` has no stamp; then the one in its sidecar is read, if it is about that very file.

    Args:
        file: its path, or a seekable binary file, whose position is kept. What is not a path is read as a `.pt2`.

    Raises:
        MissingStamp: it has no stamp.
        StampError: it is not such a file, has a damaged stamp, or is not the file that its sidecar is about.
        SchemaError: a newer version wrote the stamp.
    """
    name, unread = _name(file), read_unread(file)
    try:
        return unread.read()
    except StampError as error:
        raise StampError(f"{name}: {error}") from None


def read_unread(file: File) -> UnreadStamp:
    """Read the stamp of a `.pt2` without its exports; see :func:`read_stamp`."""
    name = _name(file)
    try:
        text = _text_in(file, name)
    except OSError as error:
        raise StampError(f"{name}: cannot be read: {error.strerror or error}; name another file") from None
    except StampError:
        raise
    except _UNREADABLE as error:
        raise StampError(f"{name}: not a .pt2 file, or a damaged one: {error!s:.400}; name another file") from None
    try:
        return UnreadStamp.from_text(text)
    except StampError as error:
        raise StampError(f"{name}: {error}") from None


def _name(file: File) -> str:
    return os.fspath(file) if isinstance(file, (str, os.PathLike)) else "the file"


def _text_in(file: File, name: str) -> str | bytes:
    """Return the text of the stamp of a file; keep the position of an open file."""
    if isinstance(file, (str, os.PathLike)):
        if name.endswith((".pte", ".ptd")):
            return read_sidecar(name)
        check_is_file(file)
        with Path(file).open("rb") as opened:
            return onnx_stamp.read_text(opened, name) if name.endswith(".onnx") else _member(opened, name)
    position = file.tell()
    try:
        return _member(file, name)
    finally:
        file.seek(position)


def append_stamp(path: str | os.PathLike[str], text: str) -> bool:
    """Add a stamp to an archive that torch wrote without one, such as an AOTInductor package.

    Only the entry and the directory of the archive are written, not what it has. After an error, the file is as it was.

    Returns:
        Whether the archive is of the form in which torch lets others add entries; else nothing is changed.

    Raises:
        OSError: it cannot be written.
        BadZipFile: it is not an archive.
    """
    with Path(path).open("r+b") as file:
        with zipfile.ZipFile(file) as archive:
            names, start = archive.namelist(), archive.start_dir
        root = names[0].partition("/")[0] if names else ""
        if f"{root}/archive_format" in names:
            entry = f"{root}/extra/{MEMBER}"
        elif "archive_format" in names:  # the form of torch 2.6, which loads what it knows by name only
            entry = f"extra_files/{MEMBER}"
        else:
            return False
        file.seek(start)
        directory = file.read()
        try:
            with zipfile.ZipFile(file, "a") as archive:
                archive.writestr(entry, text)
        except BaseException:
            file.seek(start)
            file.write(directory)
            file.truncate()
            raise
    return True


class _BoundedFile:
    """A binary file that refuses to be read in large pieces, such as a directory whose size is false.

    Args:
        file: the file, open to be read and seekable.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._read(ZIP_DIRECTORY + 1 if size < 0 else min(size, ZIP_DIRECTORY + 1))
        if len(data) > ZIP_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory has more than {ZIP_DIRECTORY} bytes")
        return data


def _member(file: IO[bytes], name: str) -> bytes:
    with zipfile.ZipFile(cast("IO[bytes]", _BoundedFile(file))) as archive:
        found = [info for info in archive.infolist() if _is_stamp(info.filename)]
        if not found:
            raise MissingStamp(
                f"{name}: has no stamp: it was saved outside of a recording, or no recorded export is known to have "
                "led to its program; save what run_decompositions() returned, with decomp_ledger.save() or within a "
                "recording"
            )
        if len(found) > 1:
            raise StampError(f"{name}: has {len(found)} stamps, so neither can be trusted; save it again")
        root, _, rest = found[0].filename.partition("/")
        if rest != MEMBER and root != archive.infolist()[0].filename.partition("/")[0]:
            raise StampError(f"{name}: its stamp is where torch does not read it; save it again")
        if found[0].compress_type not in _METHODS:
            raise StampError(
                f"{name}: its stamp is neither stored nor deflated but compressed by method {found[0].compress_type}; "
                "save it again"
            )
        # The size may be false, so no more than the limit is read below.
        if found[0].file_size > JSON_BYTES:
            raise StampError(
                f"{name}: its stamp has {found[0].file_size} bytes, over the limit of {JSON_BYTES}; save it again"
            )
        with archive.open(found[0]) as member:
            text = member.read(JSON_BYTES + 1)
    if len(text) > JSON_BYTES:
        raise StampError(f"{name}: its stamp is over the limit of {JSON_BYTES} bytes; save it again")
    return text


def _is_stamp(member: str) -> bool:
    parts = member.split("/")
    return parts[1:] == ["extra", MEMBER] or parts == ["extra_files", MEMBER]
