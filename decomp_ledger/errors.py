"""Every error that decomp_ledger raises.

One base, :class:`LedgerError`; each kind is also a subclass of the builtin nearest to it, so that code which
catches `KeyError` or `ValueError` goes on working. A message names the thing, what was found, and what to do next.
"""

from __future__ import annotations

__all__ = [
    "DecompositionChanged",
    "InvalidName",
    "LedgerError",
    "LedgerFileError",
    "NotImportable",
    "ReadOnlyTable",
    "RecordingWarning",
    "ReproductionError",
    "SchemaError",
    "SigningError",
    "StampError",
    "StampWarning",
    "UnknownCatalog",
    "UnknownExport",
    "UnknownTable",
    "UnknownVersion",
    "UnsupportedTorch",
    "UntrustedModule",
    "UnusableValue",
    "PendingOpWarning",
    "VersionConflict",
]


class LedgerError(Exception):
    """The base of every error that decomp_ledger raises."""

    # KeyError shows the repr of its argument; a message is for people.
    __str__ = Exception.__str__


class LedgerFileError(LedgerError, OSError):
    """The ledger file cannot be read or written, or is not a ledger."""


class SchemaError(LedgerError, RuntimeError):
    """The ledger, or an event in it, was written by a newer decomp_ledger than this one."""


class SigningError(LedgerError, ValueError):
    """A key, a list of signers or a checkpoint cannot be read, or is not of a kind that can be used."""


class UnknownCatalog(LedgerError, KeyError):
    """No catalog of that torch version is shipped."""


class UnknownExport(LedgerError, LookupError):
    """The ledger has no export of that number."""


class UnknownTable(LedgerError, KeyError):
    """The ledger has no table of that name."""


class UnknownVersion(LedgerError, LookupError):
    """The table has no such version or tag."""


class VersionConflict(LedgerError, RuntimeError):
    """`expected_version=` did not hold: somebody changed the table in between."""


class InvalidName(LedgerError, ValueError):
    """An op, table or tag name that cannot be one."""


class UnusableValue(LedgerError, TypeError):
    """A value that cannot be recorded: not callable, not text, not JSON."""


class ReadOnlyTable(LedgerError, TypeError):
    """A past state of a table was asked to change."""


class UntrustedModule(LedgerError, ImportError):
    """A decomposition names a module that is not imported and that the caller does not trust."""


class NotImportable(LedgerError, LookupError):
    """A recorded decomposition cannot be found again in this process."""


class DecompositionChanged(LedgerError, ValueError):
    """A decomposition was found under its recorded name, with another source than was recorded."""


class StampError(LedgerError, ValueError):
    """A `.pt2` file has no stamp, or one that is damaged, or was made for another program."""


class ReproductionError(LedgerError, ValueError):
    """A table cannot be made again as it was: the message and `differences` name each difference.

    Attributes:
        differences: what differs, by op: of :class:`decomp_ledger.analysis.reproduction.Difference`.
    """

    def __init__(self, message: str, differences: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.differences = differences


class UnsupportedTorch(LedgerError, RuntimeError):
    """This torch lacks something that decomp_ledger relies on."""


class RecordingWarning(UserWarning):
    """A recording could not write its ledger; the export went on unrecorded."""


class PendingOpWarning(UserWarning):
    """An op was named that no loaded library has, and whose name is close to one that is loaded."""


class StampWarning(UserWarning):
    """A `.pt2` holds another program than was stamped, or a stamp that cannot be kept."""
