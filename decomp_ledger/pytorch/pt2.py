"""Stamps: which exports led to a program is kept with it, in this process and in the `.pt2` that it is saved to."""

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
from decomp_ledger.transfer.stamp import MAX_STAMP, MEMBER, File, Stamp, merge, read_stamp

__all__ = ["history", "load", "load_stamped", "remember", "save", "save_stamped"]

_histories: weakref.WeakKeyDictionary[ExportedProgram, tuple[ExportBundle, ...]] = weakref.WeakKeyDictionary()
# Passes give a program back as another object: if its graph is as it was, so is its history.
_by_graph: OrderedDict[str, tuple[ExportBundle, ...]] = OrderedDict()
_MAX_BY_GRAPH = 32


def remember(program: ExportedProgram, bundles: Iterable[ExportBundle], digest: str | None) -> None:
    """Keep in mind what led to a program.

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
    """Return the recorded exports that led to a program, in their order; none if none is known.

    Args:
        program: the program.
        digest: its graph digest, where that is known already.
    """
    known = _histories.get(program)
    if known is None and _by_graph:
        known = _by_graph.get(str(digest or _digest(program)))
    return known or ()


def save(program: ExportedProgram, f: File, **kwargs: Any) -> None:
    """Save a program as `torch.export.save` does, with a stamp that tells how it was made.

    The stamp holds the recorded exports that led to the program, with their tables: who kept which op, where and why,
    and what the process ran in, as the events have it (`DECOMP_LEDGER_CAPTURE=minimal` keeps host, user and paths out
    of these). It is read by :func:`decomp_ledger.read_stamp`, and kept by `load` and `save`.

    Args:
        program: what `run_decompositions` returned, in this process or before it was saved and loaded.
        f: a path, or a binary file.
        **kwargs: for `torch.export.save`; its `extra_files` are saved too.

    Raises:
        StampError: no recorded export led to the program; nothing is written.
        UnusableValue: it is no program.
    """
    if not isinstance(program, ExportedProgram):
        raise UnusableValue(f"an ExportedProgram is saved, not a {type(program).__name__}")
    if not (history(program) or _given(kwargs)):
        raise StampError(
            "no recorded export led to this program, so there is nothing to stamp it with; lower it with a table of a "
            "ledger or within record(), or save it with torch.export.save()"
        )
    torch.export.save(program, f, **_with_stamp(program, kwargs))


def load(f: File, **kwargs: Any) -> ExportedProgram:
    """Load a program as `torch.export.load` does, and keep its stamp in mind: `save` writes it again.

    Loading a `.pt2` unpickles what torch put there. To read the stamp of a file you do not trust, use
    :func:`decomp_ledger.read_stamp`.

    Args:
        f: a path, or a seekable binary file.
        **kwargs: for `torch.export.load`.

    Raises:
        StampError: it has no stamp, or a damaged one; nothing is loaded.
    """
    stamp = read_stamp(f)
    program: ExportedProgram = torch.export.load(f, **kwargs)
    _adopt(program, stamp, f)
    return program


def save_stamped(original: Callable[..., None], program: Any, f: Any, kwargs: dict[str, Any]) -> None:
    """Call `torch.export.save` with what it was given, and a stamp if one can be made; the program is saved anyhow."""
    try:
        kwargs = _with_stamp(program, kwargs)
    except Exception as error:  # the file must not be lost for the sake of its stamp
        warnings.warn(
            f"a program is saved without a stamp: {error!r}", StampWarning, stacklevel=provenance.stack_level()
        )
    original(program, f, **kwargs)


def _with_stamp(program: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    given = _given(kwargs)
    bundles = merge(given, history(program)) if isinstance(program, ExportedProgram) else ()
    extra = dict(kwargs.get("extra_files") or {})
    extra.pop(MEMBER, None)
    if bundles:
        extra[MEMBER] = text = Stamp(bundles, _digest(program), build()["git"]).to_text()
        if len(text) > MAX_STAMP:
            raise StampError(
                f"the stamp would have {len(text)} bytes, more than the {MAX_STAMP} that are read; save the program "
                "with torch.export.save(), and keep the ledger"
            )
    return {**kwargs, "extra_files": extra} if extra else kwargs


def load_stamped(original: Callable[..., Any], f: Any, kwargs: dict[str, Any]) -> Any:
    """Call `torch.export.load` with what it was given, and keep the stamp in mind if there is a good one."""
    try:
        stamp = read_stamp(f)
    except Exception:  # what is no stamp, and no file, is torch's to judge
        stamp = None
    program = original(f, **kwargs)
    if stamp is not None and isinstance(program, ExportedProgram):
        _adopt(program, stamp, f)
    return program


def _given(kwargs: dict[str, Any]) -> tuple[ExportBundle, ...]:
    """Return what a stamp holds that the caller has read from another file and now passes on."""
    text = (kwargs.get("extra_files") or {}).get(MEMBER)
    if not text:
        return ()
    try:
        return Stamp.from_text(text).bundles
    except LedgerError as error:
        warnings.warn(
            f"extra_files[{MEMBER!r}] is left out: {error}", StampWarning, stacklevel=provenance.stack_level()
        )
        return ()


def _adopt(program: ExportedProgram, stamp: Stamp, f: Any) -> None:
    digest = _digest(program)
    # Another torch may well read the same file as another graph.
    if stamp.build == build()["git"] and digest != stamp.graph:
        name = os.fspath(f) if isinstance(f, (str, os.PathLike)) else "the file"
        warnings.warn(
            f"the program in {name} is not the one that was stamped: its graph digest is {str(digest)[:12]}, the stamp "
            f"says {str(stamp.graph)[:12]}; it was changed after it was saved",
            StampWarning,
            stacklevel=provenance.stack_level(),
        )
    remember(program, stamp.bundles, digest)


def _digest(program: ExportedProgram) -> str | None:
    try:
        return graph_digest.graph_digest(program)
    except Exception:  # of a program that cannot be read, as an export's
        return None
