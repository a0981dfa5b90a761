"""Imports: what each library registered with torch, and what that changed in torch's default table. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from decomp_ledger.analysis.outcome import origin_text
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Entry
from decomp_ledger.model.display import Row, displayed, to_rows

__all__ = ["ImportReport", "LibraryImport", "Registration", "TableChange", "table_changes"]

ADDED, REPLACED, REMOVED = "added", "replaced", "removed"


@displayed
@attrs.frozen
class Registration:
    """One thing that a library registered with torch.

    Attributes:
        what: `op`, `kernel`, `fake kernel`, `decomposition`, `destroyed op` or `destroyed kernel`.
        op: the op.
        key: the dispatch key of a kernel, the registry of a decomposition; else "".
        file: the file that registered it, relative to the working tree or to `site-packages` if it is inside one of
            them; for an op of C++, what torch knows of its source.
        line: the line.
        function: the function; "" in C++.
    """

    what: str
    op: str
    key: str
    file: str
    line: int
    function: str

    @property
    def where(self) -> str:
        """The line, as text."""
        return f"{self.file}:{self.line}" + (f" in {self.function}" if self.function else "")

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return attrs.asdict(self)


@displayed
@attrs.frozen
class TableChange:
    """A change of torch's default table: for one op.

    Attributes:
        op: the op.
        change: `added`, `replaced` or `removed`.
        before: what decomposed the op; "" if the table did not have it.
        after: what decomposes it now; "" if the table does not have it.
    """

    op: str
    change: str
    before: str
    after: str

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return attrs.asdict(self)


@displayed
@attrs.frozen
class LibraryImport:
    """What one library registered.

    Attributes:
        library: the distribution and its version (`executorch 1.5.1`), `torch`, the file of a program, or the shared
            library of ops in C++.
        imported_at: the innermost line of the program, in another file, that led to its first registration:
            `export.py:3`; "" if no line did.
        registrations: what it registered, in that order.
        changes: what these changed in torch's default table.
    """

    library: str
    imported_at: str
    registrations: tuple[Registration, ...]
    changes: tuple[TableChange, ...]

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "library": self.library,
            "imported_at": self.imported_at,
            "registrations": [each.to_json() for each in self.registrations],
            "changes": [each.to_json() for each in self.changes],
        }


@displayed
@attrs.frozen
class ImportReport:
    """What a program registered with torch.

    Attributes:
        torch: the version of torch.
        size: the number of ops of torch's default table before, and after.
        libraries: what each library registered, in the order of their first registrations.
        others: changes of the default table of ops that no registration named, such as a write into torch's registry.
        missed: what could not be recorded, and why.
    """

    torch: str
    size: tuple[int, int]
    libraries: tuple[LibraryImport, ...]
    others: tuple[TableChange, ...] = ()
    missed: tuple[str, ...] = ()

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each registration, with the library that made it."""
        return [{"library": each.library, **row} for each in self.libraries for row in to_rows(each.registrations)]

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return {
            "torch": self.torch,
            "size": list(self.size),
            "libraries": [each.to_json() for each in self.libraries],
            "others": [each.to_json() for each in self.others],
            "missed": list(self.missed),
        }


def table_changes(
    before: Mapping[str, tuple[Entry, object]], after: Mapping[str, tuple[Entry, object]]
) -> list[TableChange]:
    """Compare two looks at torch's default table.

    Args:
        before: op -> its entry, and a value that is another one if its decomposition is.
        after: likewise.
    """
    found = []
    for op in sorted(before.keys() | after.keys()):
        one, other = before.get(op), after.get(op)
        if _decomposition(one) != _decomposition(other):
            change = ADDED if one is None else REMOVED if other is None else REPLACED
            found.append(TableChange(op, change, _text(op, one), _text(op, other)))
    return found


def _decomposition(side: tuple[Entry, object] | None) -> object:
    """Return what tells one decomposition from another; the rest of an entry is about the op."""
    if side is None:
        return None
    entry, function = side
    return entry.origin, entry.registered, entry.module, entry.qualname, entry.digest, function


def _text(op: str, side: tuple[Entry, object] | None) -> str:
    if side is None:
        return ""
    entry = side[0]
    function = f" ({entry.module}.{entry.qualname})" if entry.module else ""
    return f"{origin_text(op, entry)}{function}"
