"""The event-sourced, versioned decomposition table for torch.export, with an audit log.

Importing this package does not import torch; using a table does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from decomp_ledger.ledger import Ledger, record
    from decomp_ledger.model.catalog import Catalog
    from decomp_ledger.model.events import Event
    from decomp_ledger.model.materialize import Snapshot, materialize
    from decomp_ledger.model.rules import TableState
    from decomp_ledger.pytorch.pt2 import load, save
    from decomp_ledger.pytorch.recording import Recording
    from decomp_ledger.pytorch.reproduced_table import ReproducedTable, reproduce
    from decomp_ledger.pytorch.table import DecompTable
    from decomp_ledger.transfer.stamp import Stamp, read_stamp

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
    "Catalog": "model.catalog",
    "DecompTable": "pytorch.table",
    "Event": "model.events",
    "Ledger": "ledger",
    "Recording": "pytorch.recording",
    "ReproducedTable": "pytorch.reproduced_table",
    "Snapshot": "model.materialize",
    "Stamp": "transfer.stamp",
    "TableState": "model.rules",
    "load": "pytorch.pt2",
    "materialize": "model.materialize",
    "read_stamp": "transfer.stamp",
    "record": "ledger",
    "reproduce": "pytorch.reproduced_table",
    "save": "pytorch.pt2",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'decomp_ledger' has no attribute {name!r}")
    return getattr(importlib.import_module(f"decomp_ledger.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
