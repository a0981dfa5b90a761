"""Make the exact table of an export again from its bundle, and run the export again."""

from __future__ import annotations

import contextlib
import importlib
import sys
import zipfile
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
from decomp_ledger.model.arguments import checked, one_or_more, shown
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import OVERRIDE
from decomp_ledger.model.rules import TORCH_ORIGINS, Decomposition
from decomp_ledger.model.safe_text import describe
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

    Ops of libraries that are loaded later do not enter. `copy()` gives a table that can be changed.

    Args:
        bundle: the export.
        trust: modules that may be imported to find decompositions.
        provided: op name -> functions that its decomposition may stand for.

    Attributes:
        bundle: the export.
        differences: what differs from the table that was used; empty if it is the same.
        torch: the version of torch that the table is for.
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

    def _rebuild_storage(self, defaults: Defaults) -> None:
        self._plan(defaults)
        super()._rebuild_storage(defaults)

    def _plan(self, defaults: Defaults) -> None:
        """Set the rules that make the table again with these defaults, and the differences."""
        then, now = self.bundle.catalog, defaults.catalog
        if then.build.get("git") != now.build.get("git"):
            then, now = catalogs.completed(then), catalogs.completed(now)
        planned = plan(self.bundle.state, then, now)
        rules, found = dict(planned.state.rules), list(planned.differences)
        for op, rule in planned.state.rules.items():
            if rule.action == OVERRIDE and rule.decomposition is not None and op in now.ops:
                try:
                    found += self._load(op, rule.decomposition, defaults)
                except LedgerError as error:
                    # Without its function, the nearest is torch's default.
                    del rules[op]
                    kind = SOURCE if isinstance(error, DecompositionChanged) else NOT_FOUND
                    found.append(TableDifference(op, kind, str(error).removeprefix(f"{op}: ")))
        self._log.replace_rules(rules)
        self.differences = tuple(sorted(found, key=lambda each: (each.op, each.kind)))

    def _load(self, op: str, decomposition: Decomposition, defaults: Defaults) -> list[TableDifference]:
        """Load the function of an override; return what differs in the functions that it calls."""
        fn = decompositions.load_function(op, decomposition, defaults, self._provided.get(op, ()), self._trust)
        if decomposition.origin in TORCH_ORIGINS or decomposition.module == decompositions.OPS:
            return []
        self._log.functions.keep(op, decomposition, fn, self._log.rules)
        if decomposition.helpers is None or decomposition.helpers == decompositions.helpers_of(fn):
            return []
        text = f"{decomposition.label()} is unchanged, but a function that it calls changed"
        return [TableDifference(op, HELPERS, text)]


@checked
def reproduce(
    export: ExportBundle | File,
    *,
    trust: Sequence[str] = (),
    provide: Mapping[Any, Any] | None = None,
    strict: bool = True,
) -> ReproducedTable:
    """Make the exact table again that an export was made with: the same ops, the same decompositions.

    Args:
        export: a stamped `.pt2` (its path, or a seekable binary file; only the stamp is read), or a bundle from
            `read_stamp(...).bundles` or `Ledger.bundle(number)`.
        trust: modules that may be imported to find decompositions.
        provide: op -> the function, or a list of candidates, for a decomposition without an importable name (a
            lambda, a closure, one of a script); its source must be the recorded one.
        strict: raise if anything differs; else return the nearest table, whose `differences` list what does.

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
    table = ReproducedTable(bundle, one_or_more(trust), provided)
    if strict and table.differences:
        raise ReproductionError(_message(bundle, table.differences), table.differences)
    return table


def _message(bundle: ExportBundle, differences: Sequence[TableDifference]) -> str:
    count = "one thing differs" if len(differences) == 1 else f"{len(differences)} things differ"
    lines = [f"{bundle.name}: its table cannot be made again exactly in torch {torch.__version__}: {count}"]
    return "\n  ".join([*lines, *map(str, differences)])


@displayed
@attrs.frozen
class Rerun:
    """The result of an export that was run again.

    Attributes:
        program: the new program.
        digest: its graph digest.
        same: whether that equals the recorded digest.
    """

    program: Any
    digest: str
    same: bool

    @property
    def ops(self) -> dict[str, int]:
        """The number of nodes of each op in the result."""
        return graph_digest.op_histogram(self.program)


def rerun(table: ReproducedTable, program: Any) -> Rerun:
    """Run an export again: lower the same program with the same table.

    Args:
        table: the table.
        program: the undecomposed program.

    Raises:
        LedgerError: it is not the program that was lowered, the recorded export failed, or the second run fails.
    """
    body, name = table.bundle.body, table.bundle.name
    if body.error is not None:
        raise LedgerError(
            f"{name}: the export failed ({body.error[0]}), so it left no graph to compare; omit the program"
        )
    try:
        before = graph_digest.graph_digest(program)
    except Exception as error:  # whatever torch finds wrong with it
        raise _failure(name, "the graph of the program cannot be read", error) from error
    if before != body.before:
        raise LedgerError(
            f"{name}: it lowered another program: the graph digest is {before[:12]}, recorded is "
            f"{str(body.before)[:12]}; give the program that was lowered"
        )
    try:
        result = program.run_decompositions(table)
        digest = graph_digest.graph_digest(result)
    except Exception as error:  # whatever a decomposition does
        raise _failure(name, "the second run fails", error) from error
    return Rerun(result, digest, digest == body.after)


def _failure(name: str, what: str, error: Exception) -> LedgerError:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return LedgerError(f"{name}: {what}: {text:.400}; reproduce its table alone, without the program")


def import_trusted(modules: Sequence[str]) -> None:
    """Import modules that the caller trusts; the current folder is searched last.

    Raises:
        NotImportable: a module cannot be imported.
    """
    if modules and "" not in sys.path:
        with contextlib.suppress(FileNotFoundError):  # it was removed
            sys.path.append(str(Path.cwd()))
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever it does when it is imported
            problem = " ".join(": ".join(describe(error)).split())
            raise NotImportable(
                f"module {name}: it cannot be imported: {problem:.300}; name a module that this Python can import"
            ) from error


def load_program(path: str) -> Any:
    """Load a `.pt2`, which unpickles parts of it.

    Raises:
        LedgerError: torch cannot load it.
    """
    name = path if path.isprintable() else shown(path)
    if not Path(path).is_file():  # torch would log an error of its own
        raise LedgerError(f"{name}: the file does not exist; give the path of a .pt2")
    if not zipfile.is_zipfile(path):
        raise LedgerError(f"{name}: it is not a .pt2 file; name one that torch.export.save wrote")
    try:
        return torch.export.load(path)
    except Exception as error:  # whatever torch finds wrong with it
        problem = " ".join(": ".join(describe(error)).split())
        raise LedgerError(f"{name}: torch {torch.__version__} cannot load it: {problem:.400}") from error
