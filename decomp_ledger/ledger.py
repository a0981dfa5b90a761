"""Ledger: everything a user asks of a ledger, on top of all other parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decomp_ledger.errors import UnusableValue
from decomp_ledger.integrity import verify as integrity
from decomp_ledger.integrity.anchors import Anchors
from decomp_ledger.integrity.checkpoints import Checkpoint, sign_head
from decomp_ledger.integrity.ssh_signatures import Signer, SigningKey
from decomp_ledger.integrity.verify import Verification
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model import op_names
from decomp_ledger.pytorch import patches
from decomp_ledger.pytorch.recording import Recording
from decomp_ledger.storage import backup as backups
from decomp_ledger.transfer.export_bundle import ExportBundle

if TYPE_CHECKING:
    from decomp_ledger.pytorch.reproduced_table import ReproducedTable
    from decomp_ledger.pytorch.table import DecompTable

__all__ = ["Ledger", "record"]


class Ledger(LedgerLog):
    """An append-only file of decomposition tables.

    Args:
        path: the file, created or migrated if needed; ":memory:" keeps it in memory.
        actor: who acts; else `DECOMP_LEDGER_ACTOR`, git's user, or the login name.
        reason: why, for every event that gives no reason of its own.
        trust: names of modules (and what is under them) that may be imported to find recorded decompositions.
        read_only: never write to the file.
        timeout: seconds to wait for another writer.
        lazy: open the file when it is first needed; errors in it are then raised there.
        durability: "process" (default) or "power": what an event survives once the call returned.

    Raises:
        LedgerFileError: the file is not a ledger, or cannot be opened.
        SchemaError: a newer version wrote it.
    """

    # Tables

    def table(self, name: str, *, base: str = "torch") -> DecompTable:
        """Create or resume a table, as the dict that `run_decompositions` takes.

        Args:
            name: its name.
            base: for a new one: `torch` (its default table), `empty`, or another table's state (`edge@3`).

        Raises:
            InvalidName: it cannot name a table.
            LedgerError: it exists with another base.
        """
        from decomp_ledger.pytorch.table import DecompTable

        patches.install("tables")  # so that exports with named tables are seen; it passes everything else on
        return DecompTable(self.create_table(name, base=base))

    def provide(self, op: Any, fn: Any) -> None:
        """Supply the function that a recorded decomposition without an importable name stands for.

        Args:
            op: the op it replaces: a name or an `OpOverload`.
            fn: the function; its source must be the recorded one, which is checked when it is used.

        Raises:
            UnusableValue: it is not callable.
        """
        given = op if isinstance(op, str) else getattr(op, "name", None)
        if given is None:
            raise UnusableValue(f"{op!r:.80} is not an op; give its name or an OpOverload")
        name = op_names.normalize(given if isinstance(given, str) else given())
        if not callable(fn):
            raise UnusableValue(f"the decomposition of {name} must be callable, not {type(fn).__name__}")
        self.functions.provided.setdefault(name, []).append(fn)

    def table_log(self, name: str) -> TableLog:
        """Open a table without torch: its history, its states, and the changes that need no callable.

        Raises:
            UnknownTable: the ledger has no table of that name.
        """
        return TableLog.open(self, name)

    def create_table(self, name: str, *, base: str = "torch") -> TableLog:
        """Create or resume a table without torch.

        Args:
            name: its name.
            base: for a new one: `torch` (its default table), `empty`, or another table's state (`edge@3`).

        Raises:
            InvalidName: it cannot name a table.
            LedgerError: it exists with another base.
        """
        return TableLog.create_or_open(self, name, base)

    # Exports

    def bundle(self, number: int) -> ExportBundle:
        """Return an export with all that tells its table: what a stamp in a `.pt2` holds of it.

        Raises:
            UnknownExport: there is none of that number.
        """
        return ExportBundle.from_log(self, self.export(number))

    def reproduce(self, number: int, *, strict: bool = True) -> ReproducedTable:
        """Make again the exact table that an export was made with; see :func:`decomp_ledger.reproduce`.

        Args:
            number: of the export.
            strict: raise if anything differs; else return the nearest table, whose `differences` say what does.

        Raises:
            UnknownExport: there is none of that number.
            ReproductionError: something differs.
        """
        from decomp_ledger.pytorch.reproduced_table import reproduce

        functions = self.functions
        return reproduce(self.bundle(number), trust=functions.trust, provide=functions.candidates(), strict=strict)

    # Keeping

    def verify(
        self,
        *,
        expect: Sequence[str] = (),
        anchors: Sequence[tuple[int, str]] = (),
        signers: Sequence[Signer] | None = None,
        checkpoints: Sequence[Checkpoint] = (),
        progress: Callable[[int, int], object] | None = None,
    ) -> Verification:
        """Check that nothing in the ledger was changed after it was written.

        A cut tail, and a chain that was wholly written anew, show only against what is known from elsewhere.

        Args:
            expect: hashes of events that were once in it, in hex.
            anchors: (seq, hash) of such events; `read_stamp(file).anchors(ledger.id)` gives those of a `.pt2`.
            signers: whose signatures count (`signing.read_signers`): at least one checkpoint must be there, and each
                must be theirs.
            checkpoints: that were kept outside the ledger (`checkpoints.read_file`).
            progress: told how many events were read, and how many there are.
        """
        return integrity.verify(self.event_store, self.state, Anchors(expect, anchors, signers, checkpoints), progress)

    def checkpoint(self, key: SigningKey) -> Checkpoint:
        """Sign the last event, and with it all before; the signature is stored, and returned to be kept elsewhere.

        Args:
            key: whose signature (`signing.load_key`).

        Raises:
            SigningError: there is no event yet.
        """
        return sign_head(self.event_store, key)

    def backup(
        self, path: str | os.PathLike[str], *, force: bool = False, progress: Callable[[int, int], object] | None = None
    ) -> Path:
        """Copy the ledger, as it is at one moment, to another file; writers go on meanwhile.

        Args:
            path: the other file; there is all of it afterwards, or, if this raises, none.
            force: take the place of a file that is there.
            progress: told how many pages were copied, and how many there are.

        Raises:
            LedgerFileError: the file is there, or cannot be written.
        """
        return backups.backup(self.database, path, force=force, progress=progress)


def record(
    ledger: str | os.PathLike[str] | Ledger = "decomp_ledger.db",
    *,
    name: str | None = None,
    reason: str | None = None,
    actor: str | None = None,
    trust: Sequence[str] = (),
    on_error: str = "warn",
) -> Recording:
    """Record every decomposition table that is made and every export that is run inside a `with` block.

    Args:
        ledger: a file, created with the first event, or an open Ledger.
        name: what the names of its tables begin with; by default the script and the time.
        reason: why, for every event.
        actor: who, for every event; only with a file.
        trust: modules that may be imported to find decompositions; only with a file.
        on_error: what to do when the ledger cannot be written: "warn" once and go on unrecorded, or "raise".

    Raises:
        UnusableValue: `on_error` is another word, or `actor` or `trust` are given with an open ledger.
    """
    if isinstance(ledger, Ledger):
        if actor is not None or trust:
            raise UnusableValue("actor and trust belong to the ledger; give them to Ledger(...)")
        return Recording(ledger, name=name, reason=reason, on_error=on_error)
    opened = Ledger(ledger, actor=actor, trust=trust, lazy=True)
    return Recording(opened, name=name, reason=reason, on_error=on_error, owns_ledger=True)
