"""Let the Python children of a recorded program record too: what the first process gives them, and what it learns.

Every Python that starts with our folder in PYTHONPATH runs `startup/sitecustomize.py`, which records that process when
it imports torch. A forked child has the recording of its parent anyway.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from decomp_ledger.log import provenance
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.pytorch.recording import ChildrenNotes
from decomp_ledger.pytorch.startup import decomp_ledger_following as following

__all__ = ["Children"]

_NOTES_LENGTH = 1 << 20  # bytes that are read


class Children:
    """The environment variables by which children are followed, from `begin` to `end`."""

    def __init__(self) -> None:
        self._outer: dict[str, str | None] = {}
        self._ours: dict[str, str] = {}
        self._notes = ""

    def begin(self, plan: dict[str, Json]) -> None:
        """Set the variables: children that start from now on are followed.

        Args:
            plan: how a child is recorded, for `record_child` of `pytorch/child.py`.
        """
        descriptor, self._notes = tempfile.mkstemp(prefix="decomp-ledger-", suffix=".notes")
        os.close(descriptor)
        plan = {**plan, "pid": os.getpid(), "prefix": sys.prefix, "notes": self._notes}
        path = os.environ.get("PYTHONPATH")
        self._ours = {
            following.VARIABLE: json.dumps(plan),
            "PYTHONPATH": os.pathsep.join([following.FOLDER, *([path] if path else [])]),
        }
        self._outer = {name: os.environ.get(name) for name in self._ours}
        os.environ.update(self._ours)
        if provenance.first_process is None:
            provenance.first_process = os.getpid()
        following.watch()

    def end(self) -> None:
        """Put the variables back, unless the program has set them since."""
        following.unwatch()
        for name, value in self._ours.items():
            outer = self._outer[name]
            if os.environ.get(name) != value:
                continue
            if outer is None:
                del os.environ[name]
            else:
                os.environ[name] = outer
        with suppress(OSError):
            Path(self._notes).unlink()

    @property
    def notes_file(self) -> str:
        """The file of the notes; "" before `begin`."""
        return self._notes

    def notes(self) -> ChildrenNotes:
        """Return what the children noted so far."""
        try:
            with Path(self._notes).open("rb") as file:
                noted = [json.loads(line) for line in file.read(_NOTES_LENGTH).split(b"\n")[:-1]]
        except OSError:
            return ChildrenNotes()
        missed = dict.fromkeys(text for kind, text in noted if kind == "missed")
        return ChildrenNotes(any(kind == "torch" for kind, _ in noted), tuple(missed))
