"""Version control for torch.export decomposition tables.

Importing this package imports none of its parts: each is imported when one of its names is used first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
from decomp_ledger.model.display import show_with as _show_with
from decomp_ledger.storage import fork_safety

if TYPE_CHECKING:
    from decomp_ledger.analysis.advice import Advice, Why
    from decomp_ledger.analysis.behaviour import Behaviour, DiffRow, SampleDifference
    from decomp_ledger.analysis.drift import Drift, DriftChange, NamedState
    from decomp_ledger.analysis.explain import Explanation
    from decomp_ledger.analysis.export_diff import ExportDiff
    from decomp_ledger.analysis.export_results import ExportResult
    from decomp_ledger.analysis.gate import GateFinding, GateResult, GateUnknown, ProgramFacts
    from decomp_ledger.analysis.idle import IdleRule
    from decomp_ledger.analysis.imports import ImportReport, LibraryImport, Registration, TableChange
    from decomp_ledger.analysis.numerics import NumericDifference, NumericsCheck, OpNumerics, ProgramCheck, SampleRun
    from decomp_ledger.analysis.op_releases import OpRelease, OpReleases
    from decomp_ledger.analysis.opset_check import OpsetCheck, OutsideOp
    from decomp_ledger.analysis.outcome import Outcome
    from decomp_ledger.analysis.programs import Program
    from decomp_ledger.analysis.refusal import BrokenPolicy
    from decomp_ledger.analysis.reproduction import TableDifference
    from decomp_ledger.analysis.totals import ExportTotals, LostOp, UnusedRule
    from decomp_ledger.analysis.upgrade import Finding, RuleEffect, Upgrade, UpgradeCheck
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
    from decomp_ledger.pytorch.graph_digest import GraphDifference
    from decomp_ledger.pytorch.imports import ImportRecording
    from decomp_ledger.pytorch.pt2 import load, save
    from decomp_ledger.pytorch.recording import Recording, RecordingSummary
    from decomp_ledger.pytorch.reproduced_table import ReproducedTable, Rerun, reproduce
    from decomp_ledger.pytorch.table import DecompTable
    from decomp_ledger.pytorch.would_change import WouldChange
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
    from decomp_ledger.reports.pages import report
    from decomp_ledger.storage.event_store import TableInfo
    from decomp_ledger.storage.history import Since, TableSeries
    from decomp_ledger.transfer.export_bundle import ExportBundle
    from decomp_ledger.transfer.restore import Restoration, restore
    from decomp_ledger.transfer.stamp import Stamp, read_stamp

__version__ = "0.1.0"

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

# Where each name is: module -> its public names. To import all of them takes longer than what a recording does.
_NAMES = {
    "analysis.advice": ("Advice", "Why"),
    "analysis.behaviour": ("Behaviour", "DiffRow", "SampleDifference"),
    "analysis.drift": ("Drift", "DriftChange", "NamedState"),
    "analysis.explain": ("Explanation",),
    "analysis.export_diff": ("ExportDiff",),
    "analysis.export_results": ("ExportResult",),
    "analysis.gate": ("GateFinding", "GateResult", "GateUnknown", "ProgramFacts"),
    "analysis.idle": ("IdleRule",),
    "analysis.imports": ("ImportReport", "LibraryImport", "Registration", "TableChange"),
    "analysis.numerics": ("NumericDifference", "NumericsCheck", "OpNumerics", "ProgramCheck", "SampleRun"),
    "analysis.op_releases": ("OpRelease", "OpReleases"),
    "analysis.opset_check": ("OpsetCheck", "OutsideOp"),
    "analysis.outcome": ("Outcome",),
    "analysis.programs": ("Program",),
    "analysis.refusal": ("BrokenPolicy",),
    "analysis.reproduction": ("TableDifference",),
    "analysis.totals": ("ExportTotals", "LostOp", "UnusedRule"),
    "analysis.upgrade": ("Finding", "RuleEffect", "Upgrade", "UpgradeCheck"),
    "gates": ("gate",),
    "hub.clone": ("Fetched", "clone"),
    "hub.gating": ("HubGate",),
    "hub.hub": ("Collected", "Hub", "HubLedger"),
    "hub.migrations": ("HubInit",),
    "hub.push": ("Pushed",),
    "hub.questions": ("HubBlame", "HubEvent", "HubExplanation", "HubExport", "HubRule"),
    "hub.reading": ("LedgerName",),
    "hub.verify": ("HubProblem", "HubVerification"),
    "integrity.allowed_signers": ("Signer", "read_signers"),
    "integrity.anchors": ("ValidSignature",),
    "integrity.checkpoints": ("Checkpoint",),
    "integrity.problems": ("Problem",),
    "integrity.ssh_signatures": ("SigningKey", "load_key"),
    "integrity.verify": ("Verification",),
    "ledger": ("Ledger", "browse", "record"),
    "log.ledger_log": ("LedgerLog",),
    "log.settings": ("Settings", "project_settings"),
    "log.table_log": ("TableLog",),
    "model.behaviour": ("Trace", "Traces", "TraceSet"),
    "model.catalog": ("Catalog", "Entry"),
    "model.display": ("LazyRows", "Row", "Rows"),
    "model.events": (
        "Body",
        "CallSite",
        "Change",
        "Created",
        "Emission",
        "Event",
        "Exported",
        "Found",
        "Frame",
        "Lowered",
        "Materialized",
        "Passed",
        "Popped",
        "Reset",
        "Reverted",
        "RootModule",
        "Saved",
        "Set",
        "Tagged",
        "Traced",
        "Updated",
    ),
    "model.materialize": ("Snapshot", "materialize"),
    "model.opset": ("Opset",),
    "model.policy": ("Policy",),
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
    "pytorch.imports": ("ImportRecording",),
    "pytorch.pt2": ("load", "save"),
    "pytorch.recording": ("Recording", "RecordingSummary"),
    "pytorch.reproduced_table": ("ReproducedTable", "Rerun", "reproduce"),
    "pytorch.table": ("DecompTable",),
    "pytorch.would_change": ("WouldChange",),
    "queries": (
        "RecordedEvent",
        "Reproduction",
        "ResolvedState",
        "State",
        "StateDiff",
        "UpgradeReport",
        "available_catalogs",
        "blame",
        "capture_catalog",
        "catalog",
        "check_numerics",
        "check_opset",
        "check_program",
        "check_upgrade",
        "diff",
        "drift",
        "explain",
        "explain_releases",
        "load_dump",
        "read_samples",
        "record_imports",
        "reproduce_export",
        "show",
        "trace",
        "upgrade",
        "used_ops",
        "why",
    ),
    "reports.pages": ("report",),
    "storage.event_store": ("TableInfo",),
    "storage.history": ("Since", "TableSeries"),
    "transfer.export_bundle": ("ExportBundle",),
    "transfer.restore": ("Restoration", "restore"),
    "transfer.stamp": ("Stamp", "read_stamp"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


def _part(name: str) -> Any:
    module = f"decomp_ledger.{name}"
    with fork_safety.importing(module):
        return importlib.import_module(module)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'decomp_ledger' has no attribute {name!r}")
    found = globals()[name] = getattr(_part(_MODULE_OF[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def _html_of(result: object) -> str:
    html: str = _part("reports.notebook").html_of(result)
    return html


_show_with(_html_of)  # results show themselves in notebooks
