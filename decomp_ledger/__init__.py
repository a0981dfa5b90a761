"""Version control for torch.export decomposition tables.

Importing this package does not import torch; a table does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decomp_ledger.analysis.drift import Drift, DriftChange, NamedState
    from decomp_ledger.analysis.explain import Explanation
    from decomp_ledger.analysis.export_diff import ExportDiff
    from decomp_ledger.analysis.reproduction import TableDifference
    from decomp_ledger.analysis.upgrade import Finding, RuleEffect, Upgrade, UpgradeCheck
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
    from decomp_ledger.integrity.anchors import ValidSignature
    from decomp_ledger.integrity.checkpoints import Checkpoint
    from decomp_ledger.integrity.problems import Problem
    from decomp_ledger.integrity.ssh_signatures import Signer, SigningKey, load_key, read_signers
    from decomp_ledger.integrity.verify import Verification
    from decomp_ledger.ledger import Ledger, record
    from decomp_ledger.log.table_log import TableLog
    from decomp_ledger.model.catalog import Catalog, Entry
    from decomp_ledger.model.events import (
        Body,
        CallSite,
        Change,
        Created,
        Event,
        Exported,
        Materialized,
        Popped,
        Reset,
        Reverted,
        Set,
        Tagged,
        Updated,
    )
    from decomp_ledger.model.materialize import Snapshot, materialize
    from decomp_ledger.model.rules import Decomposition, Rule, RuleDiff, TableState
    from decomp_ledger.model.state_specs import (
        CatalogSpec,
        ExportSpec,
        StampSpec,
        StateSpec,
        TableSpec,
        TorchSpec,
        parse_state_spec,
    )
    from decomp_ledger.pytorch.graph_digest import GraphDifference
    from decomp_ledger.pytorch.pt2 import load, save
    from decomp_ledger.pytorch.recording import Recording
    from decomp_ledger.pytorch.reproduced_table import ReproducedTable, Rerun, reproduce
    from decomp_ledger.pytorch.table import DecompTable
    from decomp_ledger.queries import (
        Reproduction,
        ResolvedState,
        State,
        StateDiff,
        UpgradeReport,
        blame,
        capture_catalog,
        catalog,
        check_upgrade,
        diff,
        drift,
        explain,
        load_dump,
        reproduce_export,
        show,
        upgrade,
        used_ops,
    )
    from decomp_ledger.storage.event_store import TableInfo
    from decomp_ledger.storage.history import Since
    from decomp_ledger.transfer.export_bundle import ExportBundle
    from decomp_ledger.transfer.restore import Restoration, restore
    from decomp_ledger.transfer.stamp import Stamp, read_stamp

__version__ = "0.1.0"

__all__ = [
    "Body",
    "CallSite",
    "Catalog",
    "CatalogSpec",
    "Change",
    "Checkpoint",
    "Created",
    "DecompTable",
    "Decomposition",
    "DecompositionChanged",
    "Drift",
    "DriftChange",
    "Entry",
    "Event",
    "Explanation",
    "ExportBundle",
    "ExportDiff",
    "ExportSpec",
    "Exported",
    "Finding",
    "GraphDifference",
    "InvalidName",
    "Ledger",
    "LedgerError",
    "LedgerFileError",
    "Materialized",
    "NamedState",
    "NotImportable",
    "PendingOpWarning",
    "Popped",
    "Problem",
    "ReadOnlyTable",
    "Recording",
    "RecordingWarning",
    "ReproducedTable",
    "Reproduction",
    "ReproductionError",
    "Rerun",
    "Reset",
    "ResolvedState",
    "Restoration",
    "Reverted",
    "Rule",
    "RuleDiff",
    "RuleEffect",
    "SchemaError",
    "Set",
    "ValidSignature",
    "Signer",
    "SigningError",
    "SigningKey",
    "Since",
    "Snapshot",
    "Stamp",
    "StampError",
    "StampSpec",
    "StampWarning",
    "State",
    "StateDiff",
    "StateSpec",
    "TableDifference",
    "TableInfo",
    "TableLog",
    "TableSpec",
    "TableState",
    "Tagged",
    "TorchSpec",
    "UnknownCatalog",
    "UnknownExport",
    "UnknownTable",
    "UnknownVersion",
    "UnsupportedTorch",
    "UntrustedModule",
    "UnusableValue",
    "Updated",
    "Upgrade",
    "UpgradeCheck",
    "UpgradeReport",
    "Verification",
    "VersionConflict",
    "blame",
    "capture_catalog",
    "catalog",
    "check_upgrade",
    "diff",
    "drift",
    "explain",
    "load",
    "load_dump",
    "load_key",
    "materialize",
    "parse_state_spec",
    "read_signers",
    "read_stamp",
    "record",
    "reproduce",
    "reproduce_export",
    "restore",
    "save",
    "show",
    "upgrade",
    "used_ops",
]

# The module of each public name that is not an error. A name is imported when it is first used, because some of them
# import torch.
_MODULES = {
    "analysis.drift": ("Drift", "DriftChange", "NamedState"),
    "analysis.explain": ("Explanation",),
    "analysis.export_diff": ("ExportDiff",),
    "analysis.reproduction": ("TableDifference",),
    "analysis.upgrade": ("Finding", "RuleEffect", "Upgrade", "UpgradeCheck"),
    "integrity.anchors": ("ValidSignature",),
    "integrity.checkpoints": ("Checkpoint",),
    "integrity.ssh_signatures": ("Signer", "SigningKey", "load_key", "read_signers"),
    "integrity.problems": ("Problem",),
    "integrity.verify": ("Verification",),
    "ledger": ("Ledger", "record"),
    "log.table_log": ("TableLog",),
    "model.catalog": ("Catalog", "Entry"),
    "model.events": (
        "Body",
        "CallSite",
        "Change",
        "Created",
        "Event",
        "Exported",
        "Materialized",
        "Popped",
        "Reset",
        "Reverted",
        "Set",
        "Tagged",
        "Updated",
    ),
    "model.materialize": ("Snapshot", "materialize"),
    "model.rules": ("Decomposition", "Rule", "RuleDiff", "TableState"),
    "model.state_specs": (
        "CatalogSpec",
        "ExportSpec",
        "StampSpec",
        "StateSpec",
        "TableSpec",
        "TorchSpec",
        "parse_state_spec",
    ),
    "pytorch.graph_digest": ("GraphDifference",),
    "pytorch.pt2": ("load", "save"),
    "pytorch.recording": ("Recording",),
    "pytorch.reproduced_table": ("ReproducedTable", "Rerun", "reproduce"),
    "pytorch.table": ("DecompTable",),
    "queries": (
        "Reproduction",
        "ResolvedState",
        "State",
        "StateDiff",
        "UpgradeReport",
        "blame",
        "capture_catalog",
        "catalog",
        "check_upgrade",
        "diff",
        "drift",
        "explain",
        "load_dump",
        "reproduce_export",
        "show",
        "upgrade",
        "used_ops",
    ),
    "storage.event_store": ("TableInfo",),
    "storage.history": ("Since",),
    "transfer.export_bundle": ("ExportBundle",),
    "transfer.restore": ("Restoration", "restore"),
    "transfer.stamp": ("Stamp", "read_stamp"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'decomp_ledger' has no attribute {name!r}")
    return getattr(importlib.import_module(f"decomp_ledger.{_MODULE_OF.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
