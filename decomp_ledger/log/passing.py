"""What happens to our own failures while an exception of the program passes through our code."""

from __future__ import annotations

import contextlib
import warnings
from types import TracebackType

from decomp_ledger.errors import RecordingWarning
from decomp_ledger.log import provenance
from decomp_ledger.model.safe_text import describe

__all__ = ["Passing"]


class Passing:
    """Run a block of our own; if an exception of the program is on its way, no failure of the block replaces it.

    A failure becomes a `RecordingWarning`, or a note on the exception if warnings are errors. An interrupt in the block
    passes on, because the user asked for it. Without an exception on its way, failures pass on too.

    Args:
        error: the program's exception that passes, or None.
        what: what the block does, for the warning: "the export could not be recorded".
    """

    def __init__(self, error: BaseException | None, what: str) -> None:
        self._error = error
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._error is None or failure is None or not issubclass(type(failure), Exception):
            return False
        message = f"{self._what}: {': '.join(describe(failure))}"
        try:
            warnings.warn(message, RecordingWarning, stacklevel=provenance.stack_level())
        except Exception:  # warnings are errors here, or the program's own display of them failed
            # Python 3.10 has no notes; and a note is set as an attribute, which the exception may refuse in any way.
            with contextlib.suppress(BaseException):
                BaseException.add_note(self._error, message)  # type: ignore[attr-defined]
        return True
