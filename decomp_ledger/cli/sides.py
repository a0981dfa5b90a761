"""Find what a command compares: a table state with the catalog it met, or a catalog. None imports torch."""

from __future__ import annotations

import json
from pathlib import Path

from decomp_ledger import catalogs, names
from decomp_ledger.catalog import Catalog
from decomp_ledger.cli.common import LedgerOption
from decomp_ledger.drift import Side
from decomp_ledger.errors import LedgerError, UnknownCatalog
from decomp_ledger.events import Exported, Materialized
from decomp_ledger.ledger import Ledger
from decomp_ledger.state import TableState

__all__ = ["find_side", "met_catalog", "ops_of", "torch_namespaces", "used_ops"]

_TORCH, _CATALOG, _EXPORT = "torch:", "catalog:", "export:"


def find_side(option: LedgerOption, spec: str) -> Side:
    """Return what `torch:VERSION`, `catalog:FILE`, `TABLE`, `TABLE@VERSION` or `TABLE@TAG` names.

    The ledger is opened only for a table.

    Raises:
        LedgerError: there is no such thing, or the table has met no torch.
    """
    if spec.startswith(_TORCH):
        return Side.of_catalog(spec, catalogs.released(spec.removeprefix(_TORCH)))
    if spec.startswith(_CATALOG):
        return Side.of_catalog(spec, _read(Path(spec.removeprefix(_CATALOG))))
    with option.read() as ledger:
        state = ledger.resolve(spec)
        met = met_catalog(ledger, state)
    if met is None:
        raise LedgerError(
            f"{spec} has met no torch yet, so it has no catalog to compare; see what it says with `diff`, or what it "
            f"would be with `replay {spec} --torch VERSION`"
        )
    return Side(f"{state.table}@{state.version}", state, met)


def met_catalog(ledger: Ledger, state: TableState) -> Catalog | None:
    """Return the catalog that a table state met last, or None; what its torch build tells is filled in.

    A ledger's catalogs leave out schemas and digests of torch's own ops, which the build identifies: they are
    those of the catalog that is shipped for this build, if there is one.
    """
    event = ledger.last_met(state.table, state.version)
    if event is None:
        return None
    assert isinstance(event.body, Materialized)  # what last_met returns
    return catalogs.completed(ledger.catalog(event.body.catalog))


def torch_namespaces(catalog: Catalog | None) -> set[str]:
    """Return the namespaces that torch itself had in a catalog's build; none, if that build is not a released one."""
    known = None if catalog is None else catalogs.of_build(catalog.build)
    return set() if known is None else set(map(names.namespace, known.ops))


def used_ops(option: LedgerOption, spec: str) -> frozenset[str]:
    """Return the ops of a program: those it had before and after its export, and those that fired in it.

    Args:
        option: the ledger.
        spec: `export:N`.

    Raises:
        LedgerError: it names no program, or none that is there.
    """
    number = spec.removeprefix(_EXPORT)
    if spec.startswith(_EXPORT) and number.isascii() and number.isdigit():
        with option.read() as ledger:
            body = ledger.export(int(number)).body
            assert isinstance(body, Exported)  # what export() returns
            return ops_of(body)
    raise LedgerError(f"{spec} names no program; name one of those that `decomp-ledger exports` lists, as export:N")


def ops_of(export: Exported) -> frozenset[str]:
    """Return the ops that a program had before and after its export, and those that fired in it."""
    return frozenset(export.ops_before.keys() | export.ops_after.keys() | export.fired.keys())


def _read(path: Path) -> Catalog:
    try:
        return Catalog.from_json(json.loads(path.read_bytes()))
    except OSError as error:
        raise UnknownCatalog(f"cannot read the catalog {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise LedgerError(f"{path} is no catalog; make one with `catalog capture --output FILE`") from None
