"""Handles: objects that are bound to their process, such as an open file, and cannot be copied or pickled."""

from __future__ import annotations

from typing import ClassVar, NoReturn

from decomp_ledger.errors import UnusableValue

__all__ = ["Handle"]


class Handle:
    """The base of the classes whose objects can be neither copied nor pickled, because the copy would share a file.

    Attributes:
        instead: what the caller can do, for the error.
    """

    instead: ClassVar[str] = "open the ledger again, with Ledger(path)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise UnusableValue(
            f"{type(self).__name__}: it is bound to this process and cannot be copied or pickled; {self.instead}"
        )
