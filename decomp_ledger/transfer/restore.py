"""A ledger put back from a backup: checked before it replaces anything, and what it replaces is kept."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from decomp_ledger.errors import LedgerError, LedgerFileError
from decomp_ledger.integrity.verify import Verification, verify
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.storage.backup import Progress, copy_file, draft_of, put, sync_folder, target_of
from decomp_ledger.storage.event_store import utc_now
from decomp_ledger.storage.file_checks import check_no_log

__all__ = ["Restoration", "check_draft", "restore"]

_TRIES = 5


@attrs.frozen
class Restoration:
    """What was put back.

    Attributes:
        path: the ledger.
        verified: what was found in the backup.
        kept: where the ledger is that was there before, or None.
    """

    path: Path
    verified: Verification
    kept: Path | None


def restore(
    backup: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    timeout: float = 30.0,
    progress: Progress | None = None,
) -> Restoration:
    """Put a backup in a ledger's place.

    Args:
        backup: what `Ledger.backup` made, or any other ledger.
        path: the ledger.
        force: replace a ledger that is there; it is kept beside it, under another name.
        timeout: seconds to wait for those who use it.
        progress: told how many events of the backup were checked, and how many there are.

    Raises:
        LedgerFileError: there is a ledger and `force` was not given, or it is in use, or the backup is no ledger.
        LedgerError: the backup does not verify.
    """
    target = target_of(path)
    if target.exists():
        if not force:
            raise LedgerFileError(f"{target} is there already; --force replaces it, and keeps it beside it")
        if Path(backup).exists() and target.samefile(backup):
            raise LedgerFileError(f"{target} is the ledger itself; name a backup")
    with draft_of(target) as draft:
        copy_file(Path(backup), draft, None)
        verified = check_draft(draft, f"{backup}", progress)
        kept = None
        if target.exists():
            kept = _free_name(target)
            with _nobody_writing(target, timeout):
                _move_away(target, kept)
            _tidy(kept)
        check_no_log(target)
        put(draft, target)
    return Restoration(target, verified, kept)


def check_draft(draft: Path, what: str, progress: Progress | None) -> Verification:
    """Verify a ledger that is to be put in its place; an older one is migrated.

    Raises:
        LedgerError: it does not verify.
    """
    with LedgerLog(draft) as ledger:
        verified = verify(ledger.event_store, ledger.state, progress=progress)
    if not verified.ok:
        first = verified.problems[0]
        where = "" if first.seq is None else f"event #{first.seq}: "
        raise LedgerError(f"{what} does not verify, and nothing was replaced: {where}{first.text}")
    return verified


def _free_name(target: Path) -> Path:
    stamp = utc_now()[:19].replace(":", "").replace("-", "")
    names = (f"{target.name}.replaced-{stamp}{'' if n == 1 else f'-{n}'}" for n in range(1, 1000))
    return next(target.with_name(name) for name in names if not os.path.lexists(target.with_name(name)))


@contextmanager
def _nobody_writing(target: Path, timeout: float) -> Iterator[None]:
    """Hold the lock of a ledger of which all is in its one file; of what is no database there is none to hold."""
    connection = sqlite3.connect(target.as_uri() + "?mode=rw", uri=True, timeout=timeout, isolation_level=None)
    try:
        try:
            _lock(connection, target)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
        yield
    finally:
        connection.close()


def _lock(connection: sqlite3.Connection, target: Path) -> None:
    wal = target.with_name(target.name + "-wal")
    for _ in range(_TRIES):
        # Waits for readers too, and puts what is in the log into the file: the file is then all there is.
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.execute("BEGIN IMMEDIATE")
        if not busy and not (wal.exists() and wal.stat().st_size):
            return
        connection.execute("ROLLBACK")  # somebody wrote in between
    raise LedgerFileError(f"{target} is being used by another process and did not come free in time; try again")


def _move_away(target: Path, kept: Path) -> None:
    """Keep a ledger under another name. Who has it open sees that its file is gone, and writes no more."""
    target.rename(kept)
    for end in ("-wal", "-shm"):
        beside = target.with_name(target.name + end)
        if beside.exists():
            beside.rename(kept.with_name(kept.name + end))
    sync_folder(target.parent)


def _tidy(kept: Path) -> None:
    """Let SQLite remove the files beside the kept one, if nobody else has it open."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(kept)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
