"""Version control for torch.export decomposition tables.

Importing this package does not import torch; a table does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from decomp_ledger.analysis.advice import Advice, Why
from decomp_ledger.analysis.behaviour import Behaviour, DiffRow, SampleDifference
from decomp_ledger.analysis.drift import Drift, DriftChange, NamedState
from decomp_ledger.analysis.explain import Explanation
from decomp_ledger.analysis.export_diff import ExportDiff
from decomp_ledger.analysis.export_results import ExportResult
from decomp_ledger.analysis.gate import BrokenPolicy, GateFinding, GateResult, GateUnknown, ProgramFacts
from decomp_ledger.analysis.idle import IdleRule
from decomp_ledger.analysis.imports import ImportReport, LibraryImport, Registration, TableChange
from decomp_ledger.analysis.numerics import NumericDifference, NumericsCheck, OpNumerics, ProgramCheck, SampleRun
from decomp_ledger.analysis.op_releases import OpRelease, OpReleases
from decomp_ledger.analysis.opset_check import OpsetCheck, OutsideOp
from decomp_ledger.analysis.outcome import Outcome
from decomp_ledger.analysis.programs import Program
from decomp_ledger.analysis.reproduction import TableDifference
from decomp_ledger.analysis.totals import ExportTotals, LostOp, UnusedRule
from decomp_ledger.analysis.upgrade import Finding, RuleEffect, Upgrade, UpgradeCheck
from decomp_ledger.errors import (
    DamagedSchema,
    DecompositionChanged,
    HubDiverged,
    HubError,
    IdleRuleWarning,
    InvalidName,
    LedgerError,
    LedgerFileError,
    LookalikeWarning,
    MissingStamp,
    NotImportable,
    PendingOpWarning,
    PolicyError,
    PolicyWarning,
    ReadOnlyTable,
    RecordingWarning,
    ReproductionError,
    SampleError,
    SchemaError,
    SigningError,
    StampError,
    StampWarning,
    UnknownCatalog,
    UnknownEvent,
    UnknownExport,
    UnknownOp,
    UnknownTable,
    UnknownVersion,
    UnsupportedTorch,
    UntrustedModule,
    UnusableValue,
    VersionConflict,
)
from decomp_ledger.gates import gate
from decomp_ledger.hub.clone import Fetched, clone
from decomp_ledger.hub.gating import HubGate
from decomp_ledger.hub.hub import Collected, Hub, HubLedger
from decomp_ledger.hub.migrations import HubInit
from decomp_ledger.hub.push import Pushed
from decomp_ledger.hub.questions import HubBlame, HubEvent, HubExplanation, HubExport, HubRule
from decomp_ledger.hub.reading import LedgerName
from decomp_ledger.hub.verify import HubProblem, HubVerification
from decomp_ledger.integrity.allowed_signers import Signer, read_signers
from decomp_ledger.integrity.anchors import ValidSignature
from decomp_ledger.integrity.checkpoints import Checkpoint
from decomp_ledger.integrity.problems import Problem
from decomp_ledger.integrity.ssh_signatures import SigningKey, load_key
from decomp_ledger.integrity.verify import Verification
from decomp_ledger.ledger import Ledger, browse, record
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.settings import Settings, project_settings
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.behaviour import Trace, Traces, TraceSet
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.display import LazyRows, Row, Rows
from decomp_ledger.model.display import show_with as _show_with
from decomp_ledger.model.events import (
    Body,
    CallSite,
    Change,
    Created,
    Emission,
    Event,
    Exported,
    Found,
    Frame,
    Lowered,
    Materialized,
    Passed,
    Popped,
    Reset,
    Reverted,
    RootModule,
    Saved,
    Set,
    Tagged,
    Traced,
    Updated,
)
from decomp_ledger.model.materialize import Snapshot, materialize
from decomp_ledger.model.opset import Opset
from decomp_ledger.model.policy import Policy
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
from decomp_ledger.pytorch.recording import Recording, RecordingSummary
from decomp_ledger.queries import (
    RecordedEvent,
    Reproduction,
    ResolvedState,
    State,
    StateDiff,
    UpgradeReport,
    available_catalogs,
    blame,
    capture_catalog,
    catalog,
    check_numerics,
    check_opset,
    check_program,
    check_upgrade,
    diff,
    drift,
    explain,
    explain_releases,
    load_dump,
    read_samples,
    record_imports,
    reproduce_export,
    show,
    trace,
    upgrade,
    used_ops,
    why,
)
from decomp_ledger.reports.notebook import html_of as _html_of
from decomp_ledger.reports.pages import report
from decomp_ledger.storage.event_store import TableInfo
from decomp_ledger.storage.history import Since, TableSeries
from decomp_ledger.transfer.export_bundle import ExportBundle
from decomp_ledger.transfer.restore import Restoration, restore
from decomp_ledger.transfer.stamp import Stamp, read_stamp

if TYPE_CHECKING:
    from decomp_ledger.pytorch.graph_digest import GraphDifference
    from decomp_ledger.pytorch.imports import ImportRecording
    from decomp_ledger.pytorch.pt2 import load, save
    from decomp_ledger.pytorch.reproduced_table import ReproducedTable, Rerun, reproduce
    from decomp_ledger.pytorch.table import DecompTable
    from decomp_ledger.pytorch.would_change import WouldChange

__version__ = "0.1.0"

_show_with(_html_of)  # results show themselves in notebooks

__all__ = [
    "Advice",
    "ExportResult",
    "ExportTotals",
    "LostOp",
    "OpRelease",
    "OpReleases",
    "OpsetCheck",
    "Opset",
    "OutsideOp",
    "UnusedRule",
    "Why",
    "WouldChange",
    "Behaviour",
    "Body",
    "BrokenPolicy",
    "CallSite",
    "Catalog",
    "CatalogSpec",
    "Change",
    "Checkpoint",
    "Created",
    "DecompTable",
    "Decomposition",
    "DamagedSchema",
    "DecompositionChanged",
    "HubDiverged",
    "HubError",
    "Hub",
    "HubBlame",
    "HubEvent",
    "HubExplanation",
    "HubExport",
    "HubGate",
    "HubInit",
    "HubLedger",
    "HubProblem",
    "HubRule",
    "HubVerification",
    "Collected",
    "Fetched",
    "Pushed",
    "DiffRow",
    "Drift",
    "DriftChange",
    "Entry",
    "Emission",
    "Event",
    "Explanation",
    "ExportBundle",
    "ExportDiff",
    "ExportSpec",
    "Exported",
    "Finding",
    "Frame",
    "GateFinding",
    "GateResult",
    "GateUnknown",
    "GraphDifference",
    "IdleRule",
    "IdleRuleWarning",
    "ImportRecording",
    "ImportReport",
    "InvalidName",
    "Ledger",
    "LedgerError",
    "LedgerFileError",
    "LazyRows",
    "LedgerLog",
    "LedgerName",
    "LibraryImport",
    "Materialized",
    "NamedState",
    "NotImportable",
    "LookalikeWarning",
    "MissingStamp",
    "NumericDifference",
    "NumericsCheck",
    "OpNumerics",
    "Found",
    "Lowered",
    "Passed",
    "Traced",
    "Outcome",
    "PendingOpWarning",
    "Policy",
    "PolicyError",
    "PolicyWarning",
    "Popped",
    "Problem",
    "Program",
    "ProgramCheck",
    "ProgramFacts",
    "ReadOnlyTable",
    "Recording",
    "RecordingSummary",
    "RecordingWarning",
    "ReproducedTable",
    "RecordedEvent",
    "Registration",
    "Reproduction",
    "ReproductionError",
    "Rerun",
    "Reset",
    "ResolvedState",
    "Restoration",
    "Reverted",
    "RootModule",
    "Row",
    "Rows",
    "Rule",
    "RuleDiff",
    "Settings",
    "RuleEffect",
    "Saved",
    "SampleError",
    "SampleRun",
    "SampleDifference",
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
    "TableChange",
    "TableDifference",
    "TableInfo",
    "TableLog",
    "TableSeries",
    "TableSpec",
    "TableState",
    "Tagged",
    "TorchSpec",
    "Trace",
    "TraceSet",
    "Traces",
    "UnknownCatalog",
    "UnknownEvent",
    "UnknownExport",
    "UnknownOp",
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
    "available_catalogs",
    "blame",
    "browse",
    "capture_catalog",
    "catalog",
    "check_numerics",
    "check_opset",
    "check_program",
    "check_upgrade",
    "clone",
    "diff",
    "drift",
    "explain",
    "explain_releases",
    "gate",
    "load",
    "load_dump",
    "load_key",
    "materialize",
    "parse_state_spec",
    "project_settings",
    "read_samples",
    "read_signers",
    "read_stamp",
    "record",
    "record_imports",
    "report",
    "reproduce",
    "reproduce_export",
    "restore",
    "save",
    "show",
    "trace",
    "upgrade",
    "used_ops",
    "why",
]

# The names whose modules import torch; they are imported at their first use.
_NEED_TORCH = {
    "DecompTable": "table",
    "GraphDifference": "graph_digest",
    "ImportRecording": "imports",
    "ReproducedTable": "reproduced_table",
    "Rerun": "reproduced_table",
    "load": "pt2",
    "reproduce": "reproduced_table",
    "WouldChange": "would_change",
    "save": "pt2",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module 'decomp_ledger' has no attribute {name!r}")
    return getattr(importlib.import_module(f"decomp_ledger.pytorch.{_NEED_TORCH[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
