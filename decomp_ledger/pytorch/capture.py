"""Capture what a torch offers: every op of its dispatcher, and the default decomposition of each.

It is also the last part of the standalone capture program, so it imports only the standard library, torch and the
other parts.
"""

import contextlib
import importlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch

from decomp_ledger.errors import NotImportable, SampleError
from decomp_ledger.pytorch.entries import build, entry
from decomp_ledger.pytorch.internals import dispatcher_names, find_operator, higher_order_operators, upstream_table
from decomp_ledger.pytorch.schema_samples import made_texts
from decomp_ledger.pytorch.traces import Progress, trace_all

FORMAT = 1


def capture(
    samples: Mapping[str, Sequence[str]] | None = None,
    own: Mapping[str, Sequence[str]] | None = None,
    imports: Sequence[str] = (),
    part: Sequence[int] = (0, 1),
    progress: Progress = lambda done, count, name: None,
) -> dict[str, Any]:
    """Return the catalog of this process as plain data, with digests (some seconds).

    Args:
        samples: op name -> sample calls on which to trace what the default table has for the op (more than a minute for
            the shipped ones). Other ops are skipped.
        own: op name -> sample calls that the user gave. Ops that the default table does not have are skipped too.
        imports: modules to import first. Their ops that the default table decomposes, and that have no samples in
            `own`, are traced on calls that are made from their schemas.
        part: (n, k): trace only every k-th op, from the n-th on. The ops of the catalog come with part 0.
        progress: It is called with the number of ops traced so far, that of all, and the name of the next one.

    Raises:
        NotImportable: A module cannot be imported.
        SampleError: This torch has no op of a name in `own`.
    """
    number, parts = part
    known = {*dispatcher_names()}
    _import(imports)
    defaults = upstream_table()
    names = dispatcher_names()
    _refuse_unknown({*(own or {})} - {*names})
    captured: dict[str, Any] = {} if number else _catalog(names, defaults)
    if samples is None and own is None and not imports:
        return captured
    table = {op.name(): decomposition for op, decomposition in defaults.items()}
    calls = _calls(table.keys(), samples or {}, own or {}, {*names} - known)
    mine = {name: calls[name] for name in sorted(calls)[number::parts]}
    return {**captured, "traces": {"torch": str(torch.__version__), **trace_all(table, mine, progress)}}


def _calls(
    defaults: Set[str], samples: Mapping[str, Sequence[str]], own: Mapping[str, Sequence[str]], imported: Set[str]
) -> dict[str, list[str]]:
    """Return the sample calls of each op of the default table that has some, each call once."""
    made = {name: made_texts(_operator(name)) for name in (imported & defaults) - own.keys()}
    given = [{name: each[name] for name in each.keys() & defaults} for each in (samples, own, made)]
    names = {name for each in given for name in each if each[name]}
    return {name: [*dict.fromkeys(text for each in given for text in each.get(name, ()))] for name in names}


def _catalog(names: Sequence[str], defaults: Mapping[Any, Callable[..., Any]]) -> dict[str, Any]:
    operators = {name: _operator(name) for name in names}
    operators.update(higher_order_operators())
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return {
        "format": FORMAT,
        "build": {**build(), "python": python},
        "ops": {n: entry(n, op, defaults.get(op), True) for n, op in sorted(operators.items())},
    }


def _import(modules: Sequence[str]) -> None:
    """Import modules; the current folder is searched too."""
    if modules and "" not in sys.path:
        with contextlib.suppress(FileNotFoundError):  # it was removed
            sys.path.append(str(Path.cwd()))
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever it does when it is imported
            text = " ".join(traceback.format_exception_only(type(error), error)[-1].split())
            raise NotImportable(
                f"module {name}: it cannot be imported: {text:.300}; name a module that this Python can import"
            ) from error


def _refuse_unknown(names: Set[str]) -> None:
    if not names:
        return
    first, *others = sorted(names)
    family = first.partition(".")[0]
    near = sorted(name for name in dispatcher_names() if name.partition(".")[0] == family)
    known = f"the op has the overloads {', '.join(near[:5])}" if near else "import the library that defines it"
    more = f", nor {len(others)} more" if others else ""
    raise SampleError(f"{first}: torch {torch.__version__} has no such op{more}; {known}, or leave out its samples")


def _operator(name: str) -> Any:
    qualified, _, overload = name.partition(".")
    return find_operator(qualified, overload)
