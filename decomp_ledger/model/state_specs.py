"""The one parser of versions, export numbers and state specs, for the command line and for Python. Pure.

A state spec names a table state: `edge`, `edge@3`, `edge@v1`, `edge@latest`, `torch:2.13.0`, `catalog:FILE`,
`export:7`, `model.pt2`. The table may be given by the series of its runs: `export_llama/backend_table` is the newest
run, `export_llama/backend_table~1` the one before. A file may also be `model.onnx`, `model.pte` or `model.ptd`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

import attrs

from decomp_ledger.errors import InvalidName, LedgerError, UnknownExport, UnknownVersion
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.display import displayed
from decomp_ledger.model.op_names import PROGRAM_FILES

__all__ = [
    "LATEST",
    "MAX_NUMBER",
    "STATE",
    "CatalogSpec",
    "ExportSpec",
    "StampSpec",
    "StateSpec",
    "TableSpec",
    "TorchSpec",
    "clamped",
    "is_number",
    "is_number_like",
    "not_an_export",
    "parse_event_number",
    "parse_export_number",
    "parse_export_spec",
    "parse_number",
    "parse_runs_back",
    "parse_state_spec",
    "parse_version",
    "shorten",
    "unknown_version",
]

MAX_NUMBER = 2**63 - 1  # SQLite holds no larger integer
_MAX_DIGITS = len(str(MAX_NUMBER))
_SHOWN = 40  # characters of a wrong text in a message

# How usage lines write a state spec.
STATE = "TABLE[~N][@VERSION|@TAG]|torch:VERSION|export:N|FILE.pt2"
LATEST = "latest"  # `edge@latest` is the newest version
_RUNS_BACK = re.compile(r"(.+)~([0-9]+)", re.DOTALL)


@displayed
@attrs.frozen(repr=False)
class TableSpec:
    """A table at a version.

    Attributes:
        table: its name; or the name of a series of runs, alone for the newest run, with `~1` for the one before.
        version: a version number, a tag, or None for the newest version.
    """

    table: str
    version: int | str | None = None

    def __str__(self) -> str:
        return self.table if self.version is None else f"{self.table}@{self.version}"


@displayed
@attrs.frozen(repr=False)
class TorchSpec:
    """The default table of a released torch, from a shipped catalog.

    Attributes:
        version: the torch version, such as `2.13.0`.
    """

    version: str

    def __str__(self) -> str:
        return f"torch:{self.version}"


@displayed
@attrs.frozen(repr=False)
class CatalogSpec:
    """The default table of a torch whose catalog is in a file.

    Attributes:
        path: the file, written by `catalog capture --output`.
    """

    path: str

    def __str__(self) -> str:
        return f"catalog:{self.path}"


@displayed
@attrs.frozen(repr=False)
class ExportSpec:
    """The table of a recorded export.

    Attributes:
        number: the seq of its event.
    """

    number: int

    def __str__(self) -> str:
        return f"export:{self.number}"


@displayed
@attrs.frozen(repr=False)
class StampSpec:
    """The table of the program in a file: a stamped `.pt2` or `.onnx`, or a `.pte` or `.ptd` that a ledger knows.

    Attributes:
        path: the file.
    """

    path: str

    def __str__(self) -> str:
        return self.path


StateSpec: TypeAlias = TableSpec | TorchSpec | CatalogSpec | ExportSpec | StampSpec


@checked
def parse_state_spec(text: str) -> StateSpec:
    """Return the kind and the parts of a state spec.

    Args:
        text: `TABLE`, `TABLE@VERSION`, `TABLE@TAG`, `torch:VERSION`, `catalog:FILE`, `export:N` or `FILE.pt2`; a file
            may also be an `.onnx`, a `.pte` or a `.ptd`. The name of a table has no `:` and no `@`, and neither it nor
            a tag ends like such a file (`op_names.check_label`), so no text has two meanings. `SERIES~N` stands where a
            table's name does; :func:`parse_runs_back` reads it.

    Raises:
        UnknownExport: `export:` is followed by something that is not a number.
        InvalidName: the text is not valid Unicode.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind == "torch":
        return TorchSpec(rest)
    if colon and kind == "catalog":
        return CatalogSpec(rest)
    if colon and kind == "export":
        return ExportSpec(parse_export_number(rest))
    if text.endswith(PROGRAM_FILES):
        return StampSpec(text)
    if not _is_utf8(text):
        raise InvalidName(f"{text!r:.80}: not valid Unicode, so it names no table; `decomp-ledger tables` lists them")
    table, at, version = text.partition("@")
    return TableSpec(table, parse_version(version) if at else None)


def parse_runs_back(text: str) -> tuple[str, int]:
    """Return the series of `SERIES~N` with N, the number of runs before the newest one; N is 0 for any other text."""
    found = _RUNS_BACK.fullmatch(text)
    if found is None:
        return text, 0
    number = parse_number(found[2])
    return found[1], MAX_NUMBER if number is None else number


def parse_export_spec(text: str) -> ExportSpec | StampSpec:
    """Return the export that a text names.

    Args:
        text: `export:N`, a bare `N`, or `FILE.pt2`.

    Raises:
        UnknownExport: the number is not one.
        LedgerError: the text names another kind of state.
    """
    if is_number(text):
        return ExportSpec(parse_export_number(text))
    spec = parse_state_spec(text)
    if not isinstance(spec, ExportSpec | StampSpec):
        raise not_an_export(text)
    return spec


def not_an_export(name: str) -> LedgerError:
    """Return the error for a state that is not of an export."""
    return LedgerError(f"{shorten(name)}: not an export; give export:N from `decomp-ledger exports`, or a FILE.pt2")


def parse_export_number(text: str) -> int:
    """Return the number of an export.

    Args:
        text: ASCII digits.

    Raises:
        UnknownExport: the text is not a number that an export can have.
    """
    number = parse_number(text)
    if number is None:
        raise UnknownExport(f"export:{shorten(text)}: not the number of an export; `decomp-ledger exports` lists them")
    return number


def parse_event_number(text: str) -> int | None:
    """Return the seq that `#5` names; None for any other text. No table has such a name (`op_names.check_label`)."""
    return parse_number(text[1:]) if text.startswith("#") else None


def parse_version(text: str) -> int | str:
    """Return the version number, or else the tag, that a text is.

    A number that is too large for any table stays text. :func:`unknown_version` then words the error.
    """
    number = parse_number(text)
    return text if number is None else number


def parse_number(text: str) -> int | None:
    """Return the number that ASCII digits write; None for other text and for a number that SQLite cannot hold."""
    if not is_number(text) or len(text) > _MAX_DIGITS:
        return None
    number = int(text)
    return number if number <= MAX_NUMBER else None


def is_number(text: str) -> bool:
    """Tell whether a text is only ASCII digits. Digits of other scripts are not a number."""
    return text.isascii() and text.isdigit()


def is_number_like(text: str) -> bool:
    """Tell whether a reader could take a text for a version number: digits of any script, with a sign or without."""
    return text.lstrip("+-").isdigit()


def clamped(number: int | None) -> int | None:
    """Return a seq or a limit that SQLite can hold and that selects the same events; None stays None."""
    return None if number is None else max(-MAX_NUMBER - 1, min(number, MAX_NUMBER))


def unknown_version(table: str, version: object, newest: int, tags: Iterable[str] = ()) -> UnknownVersion:
    """Return the error for a version that a table does not have.

    Args:
        table: its name.
        version: the value that the caller gave: a number, a tag, or a wrong value.
        newest: the newest version.
        tags: the tags of the table.
    """
    shown = f"{table}@{shorten(str(version))}"
    versions = f"1 to {newest}" if newest > 1 else "1"
    if isinstance(version, str) and not is_number(version):
        named = sorted(tags)
        some = ", ".join(named[:8]) + (" ..." if len(named) > 8 else "")
        fix = f"give one of its tags ({some}) or a version, {versions}" if named else f"it has no tags; give {versions}"
        return UnknownVersion(f"{shown}: the table has no such tag; {fix}")
    has = f"{newest} versions; give one of 1 to {newest}" if newest > 1 else "one version; give 1"
    return UnknownVersion(f"{shown}: the table has {has}")


def shorten(text: str) -> str:
    """Return a text that fits into a message."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_utf8(text: str) -> bool:
    """Tell whether SQLite can hold a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
