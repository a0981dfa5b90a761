"""The exact table of an export, made again from what its bundle says; and the export itself, run again."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from decomp_ledger import catalogs, names
from decomp_ledger.bundle import Bundle
from decomp_ledger.drift import HELPERS, SOURCE
from decomp_ledger.errors import DecompositionChanged, LedgerError, NotImportable, ReproductionError
from decomp_ledger.events import OVERRIDE
from decomp_ledger.live import decompositions, graph, privates
from decomp_ledger.live.dispatcher import Defaults, is_loaded, op_names
from decomp_ledger.live.table import DecompTable
from decomp_ledger.reproducing import NOT_FOUND, Difference, plan
from decomp_ledger.stamp import File, read_stamp
from decomp_ledger.state import TORCH_ORIGINS, Reference
from decomp_ledger.stream import Stream

__all__ = [
    "ReproducedTable",
    "Rerun",
    "import_trusted",
    "load_program",
    "reproduce",
    "rerun",
]


class ReproducedTable(DecompTable):
    """The table of an export, made again: read-only and unrecorded; `run_decompositions` takes it.

    It stays what it was when libraries are loaded later: their ops do not enter. `copy()` gives one that can be
    changed.

    Attributes:
        bundle: the export.
        differences: what differs from the table that was used; none if it is made again exactly.
        torch: the version of torch that it is for.
    """

    torch = str(torch.__version__)

    def __init__(
        self, bundle: Bundle, trust: Sequence[str] = (), provided: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        self.bundle = bundle
        self.differences: tuple[Difference, ...] = ()
        self._trust = tuple(trust)
        self._provided = provided or {}
        privates.import_parts(lambda: any(names.is_torchs(op) and not is_loaded(op) for op in self.bundle.snapshot.ops))
        super().__init__(Stream(None, bundle.event.table, state=bundle.state, writable=False))
        self.refresh()

    def _update(self, defaults: Defaults) -> None:
        if defaults is not self._defaults:
            self._plan(defaults)
        super()._update(defaults)

    def _plan(self, defaults: Defaults) -> None:
        then, now = self.bundle.catalog, defaults.catalog
        if then.build.get("git") != now.build.get("git"):
            then, now = catalogs.completed(then), catalogs.completed(now)
        planned = plan(self.bundle.state, then, now)
        intents, found = dict(planned.state.intents), list(planned.differences)
        for op, intent in planned.state.intents.items():
            if intent.action == OVERRIDE and op in now.ops:
                assert intent.reference is not None  # an override has one
                try:
                    self._resolve(op, intent.reference, defaults, found)
                except LedgerError as error:
                    # The nearest to it is what torch has.
                    del intents[op]
                    kind = SOURCE if isinstance(error, DecompositionChanged) else NOT_FOUND
                    found.append(Difference(op, kind, str(error)))
        self._stream.intents.clear()
        self._stream.intents.update(intents)
        self.differences = tuple(sorted(found, key=lambda each: (each.op, each.kind)))

    def _resolve(self, op: str, reference: Reference, defaults: Defaults, found: list[Difference]) -> None:
        fn = decompositions.find(op, reference, defaults, self._provided.get(op, ()), self._trust)
        if reference.origin in TORCH_ORIGINS or reference.module == decompositions.OPS:
            return
        self._stream.functions[op, reference] = fn
        if reference.helpers is not None and reference.helpers != decompositions.helpers_of(fn):
            text = f"{reference.label()} is as it was, but a function that it calls is not"
            found.append(Difference(op, HELPERS, text))


def reproduce(
    export: Bundle | File,
    *,
    trust: Sequence[str] = (),
    provide: Mapping[Any, Any] | None = None,
    strict: bool = True,
) -> ReproducedTable:
    """Make again the exact table that an export was made with: the same ops, the same decompositions.

    Args:
        export: a stamped `.pt2` (its path, or a seekable binary file), of which only the stamp is read; or a bundle,
            of `read_stamp(...).bundles` or `Ledger.bundle(number)`.
        trust: modules that may be imported to find decompositions.
        provide: op -> the function, or a list of candidates, that its decomposition without an importable name (a
            lambda, a closure, one of a script) stands for; its source must be the recorded one.
        strict: raise if anything differs; else return the nearest table, whose `differences` say what does.

    Raises:
        ReproductionError: something differs: an op that is gone or new, another source, a changed helper, a function
            that is not supplied, a module that is not trusted. Its `differences` name each.
        StampError: the file has no stamp, or a damaged one.
    """
    bundle = export if isinstance(export, Bundle) else read_stamp(export).last
    provided: dict[str, list[Any]] = {}
    for key, fns in (provide or {}).items():
        for op in op_names(key):
            provided[op] = list(fns) if isinstance(fns, list) else [fns]
    table = ReproducedTable(bundle, trust, provided)
    if strict and table.differences:
        raise ReproductionError(_message(bundle, table.differences), table.differences)
    return table


def _message(bundle: Bundle, differences: Sequence[Difference]) -> str:
    count = "one thing differs" if len(differences) == 1 else f"{len(differences)} things differ"
    lines = [f"the table of {bundle.name} cannot be made again exactly in torch {torch.__version__}: {count}"]
    return "\n  ".join([*lines, *map(str, differences)])


@attrs.frozen
class Rerun:
    """An export that was run again.

    Attributes:
        program: what came out.
        digest: its graph digest.
        same: whether that is the recorded one.
    """

    program: Any
    digest: str
    same: bool


def rerun(table: ReproducedTable, program: Any) -> Rerun:
    """Lower the program again that was lowered, with its table made again.

    Args:
        table: the table.
        program: the undecomposed program.

    Raises:
        LedgerError: it is another program than was lowered.
    """
    body = table.bundle.body
    before = graph.graph_digest(program)
    if before != body.before:
        raise LedgerError(
            f"this is not the program that {table.bundle.name} lowered: its graph digest is {before[:12]}, recorded is "
            f"{str(body.before)[:12]}"
        )
    result = program.run_decompositions(table)
    digest = graph.graph_digest(result)
    return Rerun(result, digest, digest == body.after)


def import_trusted(modules: Sequence[str]) -> None:
    """Import modules that the caller trusts: those of the current folder are found too, after all others.

    Raises:
        NotImportable: one cannot be imported.
    """
    if modules and "" not in sys.path:
        sys.path.append(str(Path.cwd()))
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever it does when it is imported
            raise NotImportable(f"the module {name!r} cannot be imported: {error!r:.300}") from error


def load_program(path: str) -> Any:
    """Load a `.pt2`, which unpickles what torch put there.

    Raises:
        LedgerError: torch cannot load it.
    """
    try:
        return torch.export.load(path)
    except Exception as error:  # whatever torch finds wrong with it
        raise LedgerError(
            f"torch {torch.__version__} cannot load {path}: {type(error).__name__}: {error}"[:500]
        ) from error
