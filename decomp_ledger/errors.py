"""Every error that decomp_ledger raises.

Each error is a :class:`LedgerError` and also a subclass of the nearest builtin, so that code which catches `KeyError`
or `ValueError` keeps working. A message reads `<object>: <problem>; <fix>`.
"""

from __future__ import annotations

__all__ = [
    "DamagedSchema",
    "DecompositionChanged",
    "HubDiverged",
    "HubError",
    "InvalidName",
    "LedgerError",
    "LedgerFileError",
    "LookalikeWarning",
    "NotImportable",
    "PendingOpWarning",
    "PolicyError",
    "PolicyWarning",
    "ReadOnlyTable",
    "RecordingWarning",
    "ReproductionError",
    "SampleError",
    "SchemaError",
    "SigningError",
    "StampError",
    "StampWarning",
    "UnknownCatalog",
    "UnknownEvent",
    "UnknownExport",
    "UnknownOp",
    "UnknownTable",
    "UnknownVersion",
    "UnsupportedTorch",
    "UntrustedModule",
    "UnusableValue",
    "VersionConflict",
]


class LedgerError(Exception):
    """The base of every error that decomp_ledger raises."""

    def __str__(self) -> str:
        # Not KeyError's, which shows the repr of the message. What UTF-8 cannot encode could not be printed.
        return Exception.__str__(self).encode("utf-8", "backslashreplace").decode()


class LedgerFileError(LedgerError, OSError):
    """The ledger file cannot be read or written, or is not a ledger."""


class MissingLedger(LedgerFileError):
    """The ledger file does not exist, and a reader makes none.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__(f"{path}: the ledger does not exist; name another file, or record something first")
        self.path = path


class DamagedSchema(LedgerFileError):
    """The file's tables, views, triggers, indexes or migrations are not those of a ledger.

    Attributes:
        problems: one text for each difference.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class SchemaError(LedgerError, RuntimeError):
    """A newer decomp_ledger wrote the ledger, or one of its events."""


class HubError(LedgerError, OSError):
    """A hub cannot be reached or used, or refused what was sent."""


class HubDiverged(HubError):
    """A ledger and a hub, or a clone and a hub, have different events of one number.

    Attributes:
        seq: the first event that differs, or that one of them lacks.
        is_shorter: whether the ledger has nothing but events of the hub, and lacks the later ones.
    """

    def __init__(self, message: str, seq: int, *, is_shorter: bool = False) -> None:
        super().__init__(message)
        self.seq = seq
        self.is_shorter = is_shorter


class SigningError(LedgerError, ValueError):
    """A key, a list of signers or a checkpoint cannot be read or used."""


class UnknownCatalog(LedgerError, KeyError):
    """The package has no catalog of that torch version."""


class UnknownEvent(LedgerError, LookupError):
    """The ledger has no event of that number."""


class UnknownExport(LedgerError, LookupError):
    """The ledger has no export of that number."""


class UnknownTable(LedgerError, KeyError):
    """The ledger has no table of that name."""


class UnknownVersion(LedgerError, LookupError):
    """The table has no such version or tag."""


class VersionConflict(LedgerError, RuntimeError):
    """The table is not at the expected version, or the tag names another version."""


class PolicyError(LedgerError, RuntimeError):
    """The change breaks a policy of the project, which says `enforce`; nothing was written.

    Attributes:
        broken: the policies that it breaks, each a :class:`decomp_ledger.BrokenPolicy`.
    """

    def __init__(self, message: str, broken: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.broken = broken


class InvalidName(LedgerError, ValueError):
    """The text cannot name an op, a table or a tag."""


class UnknownOp(InvalidName, LookupError):
    """No op of that name is known."""


class UnusableValue(LedgerError, TypeError):
    """The value cannot be recorded, because it is not callable, not text, or not JSON."""


class SampleError(LedgerError, ValueError):
    """The text is not a sample call, or its op cannot be traced."""


class ReadOnlyTable(LedgerError, TypeError):
    """A past state of a table cannot change."""


class UntrustedModule(LedgerError, ImportError):
    """A decomposition is in a module that is not imported, and that the caller does not trust."""


class NotImportable(LedgerError, LookupError):
    """A module cannot be imported, or a recorded decomposition cannot be found in this process."""


class DecompositionChanged(LedgerError, ValueError):
    """The decomposition of that name has another source than the recorded one."""


class StampError(LedgerError, ValueError):
    """A `.pt2` file has no stamp, a damaged stamp, or the stamp of another program."""


class MissingStamp(StampError):
    """A file has no stamp, and nothing shows that it was changed."""


class ReproductionError(LedgerError, ValueError):
    """A table cannot be made again exactly.

    Attributes:
        differences: the differences, by op, each a :class:`decomp_ledger.TableDifference`.
    """

    def __init__(self, message: str, differences: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.differences = differences


class UnsupportedTorch(LedgerError, RuntimeError):
    """The torch lacks something that decomp_ledger needs."""


class RecordingWarning(UserWarning):
    """A recording could not write its ledger, so the export is not recorded."""


class LookalikeWarning(UserWarning):
    """A new table has a name that a reader may take for that of another table of the ledger."""


class PendingOpWarning(UserWarning):
    """No loaded library has the op, and its name is close to a loaded one."""


class PolicyWarning(UserWarning):
    """A recorded program made a change that breaks a policy of the project, which says `enforce`."""


class IdleRuleWarning(UserWarning):
    """A rule was set that cannot act: torch decomposes or replaces the op before it asks the table."""


class StampWarning(UserWarning):
    """A `.pt2` holds another program than its stamp names, or its stamp cannot be kept."""
