"""The event-sourced, versioned decomposition table for torch.export, with an audit log.

Importing this package does not import torch; using a table does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decomp_ledger.catalog import Catalog, Snapshot, materialize
    from decomp_ledger.errors import (
        DecompositionChanged,
        InvalidName,
        LedgerError,
        LedgerFileError,
        NotImportable,
        PendingOpWarning,
        ReadOnlyTable,
        RecordingWarning,
        ReproductionError,
        SchemaError,
        SigningError,
        StampError,
        StampWarning,
        UnknownCatalog,
        UnknownExport,
        UnknownTable,
        UnknownVersion,
        UnsupportedTorch,
        UntrustedModule,
        UnusableValue,
        VersionConflict,
    )
    from decomp_ledger.events import Event
    from decomp_ledger.ledger import Ledger
    from decomp_ledger.live.archive import load, save
    from decomp_ledger.live.recording import Recording, record
    from decomp_ledger.live.reproducing import ReproducedTable, reproduce
    from decomp_ledger.live.table import DecompTable
    from decomp_ledger.stamp import Stamp, read_stamp
    from decomp_ledger.state import TableState

__version__ = "0.1.0"

__all__ = [
    "Catalog",
    "DecompTable",
    "DecompositionChanged",
    "Event",
    "InvalidName",
    "Ledger",
    "LedgerError",
    "LedgerFileError",
    "NotImportable",
    "PendingOpWarning",
    "ReadOnlyTable",
    "Recording",
    "RecordingWarning",
    "ReproducedTable",
    "ReproductionError",
    "SchemaError",
    "SigningError",
    "Snapshot",
    "Stamp",
    "StampError",
    "StampWarning",
    "TableState",
    "UnknownCatalog",
    "UnknownExport",
    "UnknownTable",
    "UnknownVersion",
    "UnsupportedTorch",
    "UntrustedModule",
    "UnusableValue",
    "VersionConflict",
    "load",
    "materialize",
    "read_stamp",
    "record",
    "reproduce",
    "save",
]

_HOMES = {
    "Catalog": "catalog",
    "DecompTable": "live.table",
    "Event": "events",
    "Ledger": "ledger",
    "Recording": "live.recording",
    "ReproducedTable": "live.reproducing",
    "Snapshot": "catalog",
    "Stamp": "stamp",
    "TableState": "state",
    "load": "live.archive",
    "materialize": "catalog",
    "read_stamp": "stamp",
    "record": "live.recording",
    "reproduce": "live.reproducing",
    "save": "live.archive",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'decomp_ledger' has no attribute {name!r}")
    return getattr(importlib.import_module(f"decomp_ledger.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
