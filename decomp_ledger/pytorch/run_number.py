"""The number of a run, which all processes of one recording share.

It is taken in the write transaction of the first event of any of them, so that no other recording can take it.
"""

from __future__ import annotations

import json
import mmap
import os
from contextlib import suppress

from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.model.recorded_names import newest_run
from decomp_ledger.model.state_specs import parse_number

__all__ = ["RunNumber"]

_KIND = "run"  # of the line in the notes
_BYTES = 8
_NOTES_LENGTH = 1 << 20  # bytes that are read


class RunNumber:
    """The number of one run of a recording.

    Args:
        recording: the name of the recording.
        notes: the file by which children that were not forked know it; "" if there are none.
    """

    def __init__(self, recording: str, notes: str = "") -> None:
        self._recording = recording
        self._notes = notes
        # Forked children have the same memory, whichever of the processes takes the number.
        self._shared = mmap.mmap(-1, _BYTES)

    def known(self) -> int | None:
        """Return the number; None if no process has taken it yet."""
        number = int.from_bytes(self._shared[:], "little") or self._noted()
        if number:
            self._shared[:] = number.to_bytes(_BYTES, "little")
        return number or None

    def take(self, ledger: LedgerLog) -> int:
        """Return the number, and take it if no process has done so, in the open write transaction.

        If the transaction is not committed, the processes keep the number, which another run may have then, too.
        """
        number = self.known()
        if number is None:
            names = ledger.event_store.table_names(f"{self._recording}/")
            number = newest_run(self._recording, names) + 1
            self._shared[:] = number.to_bytes(_BYTES, "little")
            self._note(number)
        return number

    def _noted(self) -> int:
        if not self._notes:
            return 0
        try:
            with open(self._notes, "rb") as file:  # noqa: PTH123  # once in each process
                lines = file.read(_NOTES_LENGTH).split(b"\n")[:-1]
        except OSError:  # the first process has ended
            return 0
        for line in lines:
            with suppress(ValueError, TypeError):
                kind, text = json.loads(line)
                if kind == _KIND and (number := parse_number(text)):
                    return number
        return 0

    def _note(self, number: int) -> None:
        with suppress(OSError):
            descriptor = os.open(self._notes, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, (json.dumps([_KIND, str(number)]) + "\n").encode("ascii"))
            finally:
                os.close(descriptor)
