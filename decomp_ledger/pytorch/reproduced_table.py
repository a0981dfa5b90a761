"""The exact table of an export, made again from what its bundle says; and the export itself, run again."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from decomp_ledger import catalogs
from decomp_ledger.analysis.drift import HELPERS, SOURCE
from decomp_ledger.analysis.reproduction import NOT_FOUND, TableDifference, plan
from decomp_ledger.errors import DecompositionChanged, LedgerError, NotImportable, ReproductionError
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model import op_names
from decomp_ledger.model.events import OVERRIDE
from decomp_ledger.model.rules import TORCH_ORIGINS, Decomposition
from decomp_ledger.pytorch import decompositions, graph_digest, internals
from decomp_ledger.pytorch.dispatcher import Defaults, is_loaded, op_names_of
from decomp_ledger.pytorch.table import DecompTable
from decomp_ledger.transfer.export_bundle import ExportBundle
from decomp_ledger.transfer.stamp import File, read_stamp

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
        self, bundle: ExportBundle, trust: Sequence[str] = (), provided: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        self.bundle = bundle
        self.differences: tuple[TableDifference, ...] = ()
        self._trust = tuple(trust)
        self._provided = provided or {}
        internals.import_parts(
            lambda: any(op_names.is_torchs(op) and not is_loaded(op) for op in self.bundle.snapshot.ops)
        )
        super().__init__(TableLog(None, bundle.event.table, state=bundle.state, writable=False))
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
        rules, found = dict(planned.state.rules), list(planned.differences)
        for op, rule in planned.state.rules.items():
            if rule.action == OVERRIDE and op in now.ops:
                assert rule.decomposition is not None  # an override has one
                try:
                    self._resolve(op, rule.decomposition, defaults, found)
                except LedgerError as error:
                    # The nearest to it is what torch has.
                    del rules[op]
                    kind = SOURCE if isinstance(error, DecompositionChanged) else NOT_FOUND
                    found.append(TableDifference(op, kind, str(error)))
        self._log.rules.clear()
        self._log.rules.update(rules)
        self.differences = tuple(sorted(found, key=lambda each: (each.op, each.kind)))

    def _resolve(self, op: str, decomposition: Decomposition, defaults: Defaults, found: list[TableDifference]) -> None:
        fn = decompositions.load_function(op, decomposition, defaults, self._provided.get(op, ()), self._trust)
        if decomposition.origin in TORCH_ORIGINS or decomposition.module == decompositions.OPS:
            return
        self._log.functions[op, decomposition] = fn
        if decomposition.helpers is not None and decomposition.helpers != decompositions.helpers_of(fn):
            text = f"{decomposition.label()} is as it was, but a function that it calls is not"
            found.append(TableDifference(op, HELPERS, text))


def reproduce(
    export: ExportBundle | File,
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
    bundle = export if isinstance(export, ExportBundle) else read_stamp(export).last
    provided: dict[str, list[Any]] = {}
    for key, fns in (provide or {}).items():
        for op in op_names_of(key):
            provided[op] = list(fns) if isinstance(fns, list) else [fns]
    table = ReproducedTable(bundle, trust, provided)
    if strict and table.differences:
        raise ReproductionError(_message(bundle, table.differences), table.differences)
    return table


def _message(bundle: ExportBundle, differences: Sequence[TableDifference]) -> str:
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

    @property
    def ops(self) -> dict[str, int]:
        """The number of nodes of each op in the result."""
        return graph_digest.op_histogram(self.program)


def rerun(table: ReproducedTable, program: Any) -> Rerun:
    """Lower the program again that was lowered, with its table made again.

    Args:
        table: the table.
        program: the undecomposed program.

    Raises:
        LedgerError: it is another program than was lowered.
    """
    body = table.bundle.body
    before = graph_digest.graph_digest(program)
    if before != body.before:
        raise LedgerError(
            f"this is not the program that {table.bundle.name} lowered: its graph digest is {before[:12]}, recorded is "
            f"{str(body.before)[:12]}"
        )
    result = program.run_decompositions(table)
    digest = graph_digest.graph_digest(result)
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
