"""Keep with each program which exports led to it, in this process and as a stamp in its `.pt2`."""

from __future__ import annotations

import os
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.export import ExportedProgram

from decomp_ledger.errors import LedgerError, StampError, StampWarning, UnusableValue
from decomp_ledger.log import provenance
from decomp_ledger.pytorch import graph_digest
from decomp_ledger.pytorch.capture import build
from decomp_ledger.transfer.export_bundle import ExportBundle
from decomp_ledger.transfer.stamp import MEMBER, File, Stamp, merge, read_stamp

__all__ = ["history", "load", "load_stamped", "remember", "save", "save_stamped"]

_histories: weakref.WeakKeyDictionary[ExportedProgram, tuple[ExportBundle, ...]] = weakref.WeakKeyDictionary()
# Passes return a program as another object; while the graph is the same, so is the history.
_by_graph: OrderedDict[str, tuple[ExportBundle, ...]] = OrderedDict()
_MAX_BY_GRAPH = 32


def remember(program: ExportedProgram, bundles: Iterable[ExportBundle], digest: str | None) -> None:
    """Remember which exports led to a program.

    Args:
        program: the program.
        bundles: the exports, in their order.
        digest: its graph digest, or None.
    """
    found = _histories[program] = tuple(bundles)
    if digest is not None:
        _by_graph[digest] = found
        _by_graph.move_to_end(digest)
        while len(_by_graph) > _MAX_BY_GRAPH:
            _by_graph.popitem(last=False)


def history(program: ExportedProgram, digest: str | None = None) -> tuple[ExportBundle, ...]:
    """Return the recorded exports that led to a program, in their order.

    Args:
        program: the program.
        digest: its graph digest, if the caller has it.
    """
    known = _histories.get(program)
    if known is None and _by_graph:
        known = _by_graph.get(str(digest or _digest(program)))
    return known or ()


def save(program: ExportedProgram, f: File, **kwargs: Any) -> None:
    """Save a program as `torch.export.save` does, with a stamp of how it was made.

    The stamp holds the recorded exports that led to the program, with their tables: who kept which op, where and why,
    and the environment of the process (`DECOMP_LEDGER_CAPTURE=minimal` leaves out host, user and paths).
    :func:`decomp_ledger.read_stamp` reads it, and `load` and `save` keep it.

    Args:
        program: what `run_decompositions` returned, in this process or before it was saved and loaded.
        f: a path, or a binary file.
        **kwargs: for `torch.export.save`; its `extra_files` are saved too.

    Raises:
        StampError: no recorded export led to the program; nothing is written.
        UnusableValue: it is not an ExportedProgram.
    """
    if not isinstance(program, ExportedProgram):
        raise UnusableValue(f"{type(program).__name__}: it cannot be saved; give an ExportedProgram")
    if not (history(program) or _given(kwargs)):
        raise StampError(
            "the program: no recorded export led to it, so there is nothing to stamp it with; lower it with a table of "
            "a ledger or within record(), or save it with torch.export.save()"
        )
    torch.export.save(program, f, **_with_stamp(program, kwargs))


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
    _adopt(program, stamp, f)
    return program


def save_stamped(original: Callable[..., None], program: Any, f: Any, kwargs: dict[str, Any]) -> None:
    """Call `torch.export.save` with its arguments, and with a stamp if one can be made."""
    try:
        kwargs = _with_stamp(program, kwargs)
    except Exception as error:  # whatever goes wrong, the program is saved
        warnings.warn(
            f"the program is saved without a stamp: {error!r}", StampWarning, stacklevel=provenance.stack_level()
        )
    original(program, f, **kwargs)


def _with_stamp(program: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    given = _given(kwargs)
    bundles = merge(given, history(program)) if isinstance(program, ExportedProgram) else ()
    extra = dict(kwargs.get("extra_files") or {})
    extra.pop(MEMBER, None)
    if bundles:
        extra[MEMBER] = Stamp(bundles, _digest(program), build()["git"]).to_text()
    return {**kwargs, "extra_files": extra} if extra else kwargs


def load_stamped(original: Callable[..., Any], f: Any, kwargs: dict[str, Any]) -> Any:
    """Call `torch.export.load` with its arguments, and remember the stamp if the file has a sound one."""
    try:
        stamp = read_stamp(f)
    except Exception:  # without a sound stamp or file, torch's own load decides
        stamp = None
    program = original(f, **kwargs)
    if stamp is not None and isinstance(program, ExportedProgram):
        _adopt(program, stamp, f)
    return program


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


def _adopt(program: ExportedProgram, stamp: Stamp, f: Any) -> None:
    digest = _digest(program)
    # Another build of torch may read the same file as another graph.
    if stamp.build == build()["git"] and digest != stamp.graph:
        name = os.fspath(f) if isinstance(f, (str, os.PathLike)) else "the file"
        warnings.warn(
            f"{name}: its program is not the one that was stamped: its graph digest is {str(digest)[:12]}, the stamp's "
            f"is {str(stamp.graph)[:12]}; it was changed after it was saved",
            StampWarning,
            stacklevel=provenance.stack_level(),
        )
    remember(program, stamp.bundles, digest)


def _digest(program: ExportedProgram) -> str | None:
    try:
        return graph_digest.graph_digest(program)
    except Exception:  # as in an export, a program that cannot be read has none
        return None
