"""Find what a command's arguments name: a table state, with who said it and the catalog it met. None imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from decomp_ledger.cli.output import LedgerOption, sole_name
from decomp_ledger.errors import LedgerError, UnknownCatalog
from decomp_ledger.model.events import Event, Exported, Materialized
from decomp_ledger.model.rules import TableState

if TYPE_CHECKING:
    from decomp_ledger.analysis.drift import NamedState
    from decomp_ledger.model.catalog import Catalog
    from decomp_ledger.model.materialize import Snapshot
    from decomp_ledger.storage.history import Since
    from decomp_ledger.transfer.export_bundle import ExportBundle
    from decomp_ledger.transfer.stamp import Stamp

__all__ = [
    "STATE",
    "Found",
    "export_number",
    "find",
    "find_side",
    "is_table",
    "ops_of",
    "used_ops",
    "uses",
]

_TORCH, _CATALOG, _EXPORT, _FILE = "torch:", "catalog:", "export:", ".pt2"

# How a table state is written, for usage lines.
STATE = "TABLE[@VERSION|@TAG]|torch:VERSION|export:N|FILE.pt2"


class Found(NamedTuple):
    """What an argument names.

    Attributes:
        name: what people call it: `edge@3`, `torch:2.6.0`, `export:7`, `model.pt2`.
        state: the table state; of a catalog alone, that of a table that says nothing.
        catalog: the catalog that it met, as it is stored; None if it has met none.
        met: the event by which that is known; None of a catalog alone.
        since: op -> since when, and why, the state says of it what it says.
        bundle: the export, of one.
        stamp: the stamp, of a file.
    """

    name: str
    state: TableState
    catalog: Catalog | None
    met: Event | None = None
    since: Mapping[str, Since | Event] = MappingProxyType({})
    bundle: ExportBundle | None = None
    stamp: Stamp | None = None

    def side(self) -> NamedState:
        """Return it as a side of a comparison.

        Raises:
            LedgerError: it has met no torch.
        """
        if self.catalog is None:
            raise LedgerError(
                f"{self.name} has met no torch yet, so it has no catalog to compare; see what it says with `diff`, or "
                f"what it would be with `upgrade {self.name} --torch VERSION`"
            )
        # Here: a command that shows one table does without.
        from decomp_ledger import catalogs
        from decomp_ledger.analysis.drift import NamedState

        return NamedState(self.name, self.state, catalogs.completed(self.catalog))

    def snapshot(self) -> Snapshot | None:
        """Return the table as it was where it met the catalog; None if it has met none."""
        if self.catalog is None:
            return None
        from decomp_ledger.model.materialize import materialize  # which came with the catalog

        return materialize(self.state, self.catalog)


def find(option: LedgerOption, spec: str | None) -> Found:
    """Return what `TABLE`, `TABLE@VERSION`, `TABLE@TAG`, `torch:VERSION`, `export:N` or `FILE.pt2` names.

    The ledger is opened only for tables and exports. Without a name, it is the ledger's only table.

    Raises:
        LedgerError: there is no such thing.
    """
    if spec is not None and spec.startswith((_TORCH, _CATALOG)):
        return Found(spec, TableState(spec, 0, "torch", {}), _catalog(spec))
    if spec is not None and spec.endswith(_FILE):
        from decomp_ledger.transfer.stamp import read_stamp  # a command that reads a table does without zipfile

        stamp = read_stamp(spec)
        return _of_bundle(spec, stamp.last)._replace(stamp=stamp)
    with option.read() as ledger:
        number = None if spec is None else export_number(spec)
        if number is not None:
            return _of_bundle(f"{_EXPORT}{number}", ledger.bundle(number))
        state, since = ledger.state_and_since(*ledger.place(sole_name(ledger, spec)))
        met = ledger.last_materialization(state.table, state.version)
        catalog = None if met is None else ledger.catalog(_materialized(met).catalog)
        return Found(f"{state.table}@{state.version}", state, catalog, met, since)


def export_number(spec: str) -> int | None:
    """Return the number in `export:N`; None if it is something else."""
    number = spec.removeprefix(_EXPORT)
    return int(number) if spec.startswith(_EXPORT) and number.isascii() and number.isdigit() else None


def is_table(spec: str) -> bool:
    """Tell whether an argument names a table of the ledger, rather than a torch, an export or a file."""
    return not (spec.startswith((_TORCH, _CATALOG)) or spec.endswith(_FILE) or export_number(spec) is not None)


def _of_bundle(name: str, bundle: ExportBundle) -> Found:
    return Found(name, bundle.state, bundle.catalog, bundle.event, bundle.blame(), bundle)


def _materialized(event: Event) -> Materialized:
    assert isinstance(event.body, Materialized)  # what last_met returns
    return event.body


def find_side(option: LedgerOption, spec: str) -> NamedState:
    """Return what :func:`find` finds, or `catalog:FILE`, as a side of a comparison.

    Raises:
        LedgerError: there is no such thing, or the table has met no torch.
    """
    return find(option, spec).side()


def used_ops(option: LedgerOption, spec: str) -> frozenset[str]:
    """Return the ops of a program: those it had before and after its export, and those that fired in it.

    Args:
        option: the ledger.
        spec: `export:N` or `FILE.pt2`.

    Raises:
        LedgerError: it names no program, or none that is there.
    """
    if export_number(spec) is None and not spec.endswith(_FILE):
        raise LedgerError(
            f"{spec} names no program; name one of those that `decomp-ledger exports` lists, as export:N, or a FILE.pt2"
        )
    bundle = find(option, spec).bundle
    assert bundle is not None  # of such a spec
    return ops_of(bundle.body)


def uses(option: LedgerOption, found: Found) -> list[Exported]:
    """Return the successful exports that tell what a table is used for: those of the table, or the one that was named.

    Raises:
        LedgerError: there is none.
    """
    if found.bundle is not None:
        exports = [found.bundle.body]
    elif found.met is None and found.state.version == 0:
        exports = []  # a catalog
    else:
        with option.read() as ledger:
            events = ledger.events(table=found.state.table, kind=Exported.kind)
            exports = [event.body for event in events if isinstance(event.body, Exported)]
    done = [export for export in exports if export.error is None]
    if not done:
        raise LedgerError(
            f"{found.name} has no successful export, so what uses it is not known; record one: "
            "run_decompositions(table), or `decomp-ledger run SCRIPT`"
        )
    return done


def ops_of(export: Exported) -> frozenset[str]:
    """Return the ops that a program had before and after its export, and those that fired in it."""
    return frozenset(export.ops_before.keys() | export.ops_after.keys() | export.fired.keys())


def _catalog(spec: str) -> Catalog:
    from decomp_ledger import catalogs  # a command that reads a table does without
    from decomp_ledger.model.catalog import Catalog

    if spec.startswith(_TORCH):
        return catalogs.released(spec.removeprefix(_TORCH))
    path = Path(spec.removeprefix(_CATALOG))
    try:
        return Catalog.from_json(json.loads(path.read_bytes()))
    except OSError as error:
        raise UnknownCatalog(f"cannot read the catalog {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise LedgerError(f"{path} is no catalog; make one with `catalog capture --output FILE`") from None
