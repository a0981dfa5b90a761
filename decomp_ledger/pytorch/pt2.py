"""Save and load a program with its stamp: which recorded exports led to it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.export import ExportedProgram

from decomp_ledger.errors import LedgerError, StampError, StampWarning, UnusableValue
from decomp_ledger.log import provenance
from decomp_ledger.log.hidden_frames import hidden
from decomp_ledger.model.safe_text import safe_repr
from decomp_ledger.pytorch import active, artefacts
from decomp_ledger.pytorch.entries import build
from decomp_ledger.pytorch.program_history import history, remember, remember_later
from decomp_ledger.transfer.export_bundle import ExportBundle
from decomp_ledger.transfer.stamp import MEMBER, File, Stamp, UnreadStamp, merge, read_stamp, read_unread

__all__ = ["load", "load_stamped", "save", "save_stamped"]


class _Made(str):
    """The text of a stamp that `save` made; the patched `torch.export.save` of a recording keeps it as it is."""

    __slots__ = ()


def save(program: ExportedProgram, f: File, *, capture: str | None = None, **kwargs: Any) -> None:
    """Save a program as `torch.export.save` does, with a stamp of how it was made.

    The stamp holds the recorded exports that are known to have led to the program, with their tables: who kept which
    op, where and why, and the environment of the process. The history goes with the program object, and with what torch
    makes of it: copies, transformed and lowered programs, `module()`. A pickled program has none.
    :func:`decomp_ledger.read_stamp` reads the stamp, and `load` and `save` keep it.

    Args:
        program: what `run_decompositions` returned, in this process or before it was saved and loaded.
        f: a path, or a binary file.
        capture: "minimal" leaves reasons, actors, call sites, host, git commit and CI run out of the stamp; "full" does
            not. By default "minimal" with `DECOMP_LEDGER_CAPTURE=minimal`, which also holds for `torch.export.save`
            within a recording.
        **kwargs: for `torch.export.save`; its `extra_files` are saved too.

    Raises:
        StampError: no recorded export is known to have led to the program; nothing is written.
        UnusableValue: it is not an ExportedProgram, or `capture` is another word.
    """
    if capture not in (None, "full", "minimal"):
        raise UnusableValue(f"capture={safe_repr(capture)}: unknown value; give 'full' or 'minimal'")
    if not isinstance(program, ExportedProgram):
        raise UnusableValue(f"{type(program).__name__}: it cannot be saved; give an ExportedProgram")
    if not (history(program) or _given(kwargs)):
        raise StampError(
            "the program: no recorded export is known to have led to it, so there is nothing to stamp it with"
            "; save what run_decompositions() returned with a table of a ledger or within record(), or save it with "
            "torch.export.save()"
        )
    minimal = provenance.is_minimal() if capture is None else capture == "minimal"
    torch.export.save(program, f, **_with_stamp(program, kwargs, minimal))


def load(f: File, **kwargs: Any) -> ExportedProgram:
    """Load a program as `torch.export.load` does, and remember its stamp, so that `save` writes it again.

    Loading a `.pt2` unpickles parts of it. For a file that you do not trust, use :func:`decomp_ledger.read_stamp`,
    which does not.

    Args:
        f: a path, or a seekable binary file.
        **kwargs: for `torch.export.load`.

    Raises:
        StampError: the file has no stamp, or a damaged one; nothing is loaded.
    """
    stamp = read_stamp(f)
    program: ExportedProgram = torch.export.load(f, **kwargs)
    _warn_if_changed(program, stamp, f)
    remember(program, stamp.bundles)
    return program


@hidden
def save_stamped(original: Callable[..., None], program: Any, f: Any, kwargs: dict[str, Any]) -> None:
    """Call `torch.export.save` with its arguments, and with a stamp if one can be made."""
    try:
        if not isinstance((kwargs.get("extra_files") or {}).get(MEMBER), _Made):
            kwargs = _with_stamp(program, kwargs, provenance.is_minimal())
            _note_unstamped(program, f, kwargs)
    except Exception as error:  # whatever goes wrong, the program is saved
        warnings.warn(
            f"the program is saved without a stamp: {safe_repr(error, 300)}",
            StampWarning,
            stacklevel=provenance.stack_level(),
        )
    original(program, f, **kwargs)
    artefacts.note_file(history(program), f, "pt2", stamped=MEMBER in (kwargs.get("extra_files") or {}))


def _note_unstamped(program: Any, f: Any, kwargs: dict[str, Any]) -> None:
    """Note that a program is saved without a stamp; warn at once if an export of the recording gave an equal graph.

    The result of an export may be saved later, so the recording warns of other exports at its end.
    """
    recording = active.current()
    if recording is None or MEMBER in (kwargs.get("extra_files") or {}) or not isinstance(program, ExportedProgram):
        return
    digest = artefacts.digest_of(program)
    open_ = [done for done in recording.exports if done.hash not in recording.saved]
    lowered = tuple(done for done in open_ if digest is not None and done.before == digest)
    equal = [done.name for done in recording.exports if digest is not None and done.before != digest == done.after]
    if equal:
        warnings.warn(
            f"the program is saved without a stamp: no recorded export is known to have led to it; {equal[-1]} gave an "
            "equal graph, as another program; save what run_decompositions() returned",
            StampWarning,
            stacklevel=provenance.stack_level(),
        )
    elif open_:
        name = os.fspath(f) if isinstance(f, (str, os.PathLike)) else "a file"
        recording.unstamped.append(active.Unstamped(name, lowered or tuple(open_), bool(lowered)))


def _with_stamp(program: Any, kwargs: dict[str, Any], minimal: bool) -> dict[str, Any]:
    given = _given(kwargs)
    bundles = merge(given, history(program)) if isinstance(program, ExportedProgram) else ()
    extra = dict(kwargs.get("extra_files") or {})
    extra.pop(MEMBER, None)
    if bundles:
        if (recording := active.current()) is not None:
            recording.saved.update(bundle.event.hash for bundle in bundles)
        if minimal:
            bundles = tuple(bundle.redact() for bundle in bundles)
        extra[MEMBER] = _Made(Stamp(bundles, artefacts.digest_of(program), build()["git"]).to_text())
    return {**kwargs, "extra_files": extra} if extra else kwargs


@hidden
def load_stamped(original: Callable[..., Any], f: Any, kwargs: dict[str, Any]) -> Any:
    """Call `torch.export.load` with its arguments, and remember the stamp if the file has a sound one.

    The exports of the stamp are checked when they are needed: at the next save.
    """
    try:
        stamp = read_unread(f)
    except Exception:  # without a sound stamp or file, torch's own load decides
        stamp = None
    program = original(f, **kwargs)
    if stamp is not None and isinstance(program, ExportedProgram):
        _warn_if_changed(program, stamp, f)
        remember_later(program, partial(_sound, stamp))
    return program


def _sound(stamp: UnreadStamp) -> tuple[ExportBundle, ...]:
    try:
        return stamp.read().bundles
    except LedgerError:  # a stamp that cannot be checked tells nothing
        return ()


def _given(kwargs: dict[str, Any]) -> tuple[ExportBundle, ...]:
    """Return the exports of a stamp that the caller passes on from another file, in `extra_files`."""
    text = (kwargs.get("extra_files") or {}).get(MEMBER)
    if not text:
        return ()
    try:
        return Stamp.from_text(text).bundles
    except LedgerError as error:
        warnings.warn(
            f"extra_files[{MEMBER!r}]: it is left out: {error}", StampWarning, stacklevel=provenance.stack_level()
        )
        return ()


def _warn_if_changed(program: ExportedProgram, stamp: Stamp | UnreadStamp, f: Any) -> None:
    digest = artefacts.digest_of(program)
    # Another build of torch may read the same file as another graph.
    if stamp.build == build()["git"] and digest != stamp.graph:
        name = os.fspath(f) if isinstance(f, (str, os.PathLike)) else "the file"
        warnings.warn(
            f"{name}: its program is not the one that was stamped: its graph digest is {str(digest)[:12]}, the stamp's "
            f"is {str(stamp.graph)[:12]}; it was changed after it was saved",
            StampWarning,
            stacklevel=provenance.stack_level(),
        )
