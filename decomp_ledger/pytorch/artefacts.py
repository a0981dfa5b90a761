"""Note the files that the results of recorded exports are saved into, as events and as stamps.

Each function is called where torch or ExecuTorch saves a program within a recording. The program's own save decides
what happens: a failure of ours is a warning, and never costs the file.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from decomp_ledger.errors import StampWarning
from decomp_ledger.log import provenance
from decomp_ledger.log.hidden_frames import hidden
from decomp_ledger.model.events import Saved
from decomp_ledger.model.safe_text import safe_repr
from decomp_ledger.pytorch import active, graph_digest
from decomp_ledger.pytorch.entries import build
from decomp_ledger.pytorch.program_history import history
from decomp_ledger.storage.new_file import write_text
from decomp_ledger.transfer import onnx_stamp
from decomp_ledger.transfer.artefacts import SIDECAR, digest_of_file, sidecar_text
from decomp_ledger.transfer.export_bundle import ExportBundle
from decomp_ledger.transfer.stamp import Stamp, append_stamp, merge

__all__ = [
    "digest_of",
    "note_buffer",
    "note_executorch",
    "note_file",
    "note_tensor_data",
    "save_onnx",
    "stamp_package",
]

AOTI, ONNX, PTD, PTE = "aoti", "onnx", "ptd", "pte"


def stamp_text(program: Any, bundles: tuple[ExportBundle, ...]) -> str:
    """Return the text of the stamp that a program gets, without what a minimal capture leaves out."""
    if provenance.is_minimal():
        bundles = tuple(bundle.redact() for bundle in bundles)
    return Stamp(bundles, digest_of(program), build()["git"]).to_text()


def digest_of(program: Any) -> str | None:
    """Return the graph digest of a program; as in an export, a program that cannot be read has none."""
    try:
        return graph_digest.graph_digest(program)
    except Exception:
        return None


def note_file(bundles: Iterable[ExportBundle], file: Any, kind: str, *, stamped: bool) -> None:
    """Append the event that the result of the last of the exports was saved into a file.

    Args:
        bundles: the exports that are known to have led to the program.
        file: what the program gave as the file; one without a path is not noted.
        kind: its format.
        stamped: whether it has a stamp inside.
    """
    if isinstance(file, (str, os.PathLike)):
        path = os.fspath(file)
        _note(bundles, path, kind, lambda: digest_of_file(path), stamped=stamped)


def _note(
    bundles: Iterable[ExportBundle], path: str, kind: str, read: Callable[[], tuple[int, str]], *, stamped: bool = False
) -> Saved | None:
    recording, made_by = active.current(), tuple(bundles)[-1:]
    if recording is None or not made_by:
        return None
    recording.saved.add(made_by[0].event.hash)
    try:
        size, sha256 = read()
        name = provenance.shortened(path) if path else ""
        body = Saved(made_by[0].event.seq, name, kind, size, sha256, stamped)
        recording.record_saved(made_by[0], body)
    except Exception as error:
        what = f"that {path or 'a file'} was saved is not recorded: {safe_repr(error, 300)}"
        warnings.warn(what, StampWarning, stacklevel=provenance.stack_level())
        return None
    return body


# ONNX


@hidden
def save_onnx(original: Callable[..., None], program: Any, file: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Call `ONNXProgram.save` with its arguments, with the stamp of the program among the metadata of the model."""
    bundles, metadata, before = history(program.exported_program), None, None
    if bundles:
        try:
            metadata = program.model.metadata_props
            before = metadata.get(onnx_stamp.KEY)
            metadata[onnx_stamp.KEY] = stamp_text(program.exported_program, bundles)
        except Exception as error:
            metadata = None
            what = f"the program is saved without a stamp: {safe_repr(error, 300)}"
            warnings.warn(what, StampWarning, stacklevel=provenance.stack_level())
    try:
        original(program, file, *args, **kwargs)
    finally:
        if metadata is not None:  # the model itself stays as it was
            metadata.pop(onnx_stamp.KEY, None)
            if before is not None:
                metadata[onnx_stamp.KEY] = before
    note_file(bundles, file, ONNX, stamped=metadata is not None)


# ExecuTorch


class _Digest:
    """A file to write to that keeps only the size and the digest of what it gets."""

    def __init__(self) -> None:
        self.size, self.found = 0, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.size += len(data)
        self.found.update(data)
        return len(data)


# Managers whose bytes were handed out, each with the recording that noted it.
_handed_out: weakref.WeakKeyDictionary[Any, active.ActiveRecording] = weakref.WeakKeyDictionary()


def note_executorch(manager: Any, file: Any, write: Callable[[Any], object]) -> None:
    """Note that an `ExecutorchProgramManager` wrote its program into a file.

    Args:
        manager: the manager.
        file: the open file; without a name, such as a `BytesIO`, it gets an event without a path.
        write: writes the same again, into the file that it is given, because the open file cannot be read.
    """
    name = getattr(file, "name", None)
    digest = _Digest()

    def read() -> tuple[int, str]:
        write(digest)
        return digest.size, digest.found.hexdigest()

    _note_of_manager(manager, name if isinstance(name, str) else "", PTE, read)


def note_buffer(manager: Any, data: bytes) -> None:
    """Note that a program got the bytes of an `ExecutorchProgramManager`, once in a recording."""
    recording = active.current()
    if recording is not None and _handed_out.get(manager) is not recording:
        _handed_out[manager] = recording
        _note_of_manager(manager, "", PTE, lambda: (len(data), hashlib.sha256(data).hexdigest()))


def note_tensor_data(manager: Any, files: Iterable[str]) -> None:
    """Note the files of weights that an `ExecutorchProgramManager` wrote."""
    for file in files:
        _note_of_manager(manager, file, PTD, partial(digest_of_file, file))


def _note_of_manager(manager: Any, path: str, kind: str, read: Callable[[], tuple[int, str]]) -> None:
    recording = active.current()
    try:
        programs = [manager.exported_program(name) for name in sorted(manager.methods)]
        bundles = merge(*map(history, programs))
        body = _note(bundles, path, kind, read)
        if body is not None and path and recording is not None and recording.sidecars:
            text = sidecar_text(stamp_text(programs[0], bundles), body.size, body.sha256)
            write_text(f"{path}{SIDECAR}", text)
    except Exception as error:
        what = f"that {path or 'a .pte'} was saved is not noted: {safe_repr(error, 300)}"
        warnings.warn(what, StampWarning, stacklevel=provenance.stack_level())


# AOTInductor


def stamp_package(program: Any, file: Any) -> None:
    """Add the stamp of a program to the package that AOTInductor made of it, and note the package."""
    bundles = history(program)
    if not bundles or not isinstance(file, (str, os.PathLike)):
        return
    stamped = False
    try:
        stamped = append_stamp(file, stamp_text(program, bundles))
        why = "" if stamped else "it is not of a form that can hold one"
    except Exception as error:
        why = safe_repr(error, 300)
    if why:
        what = f"the package is left without a stamp: {why}"
        warnings.warn(what, StampWarning, stacklevel=provenance.stack_level())
    note_file(bundles, file, AOTI, stamped=stamped)
