"""Replace a ledger by a backup, once the backup verifies; the replaced ledger is kept."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from decomp_ledger.errors import LedgerError, LedgerFileError
from decomp_ledger.integrity.verify import Verification, verify
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.display import displayed
from decomp_ledger.storage.backup import Progress, copy_file
from decomp_ledger.storage.event_store import utc_now
from decomp_ledger.storage.exclusive_lock import exclusive_lock, remove_log_files
from decomp_ledger.storage.file_checks import LOG_FILES, check_no_log
from decomp_ledger.storage.new_file import check_replaceable, draft_of, link_unless_exists, put, sync_folder, target_of

__all__ = ["Restoration", "restore", "verify_draft"]


@displayed
@attrs.frozen
class Restoration:
    """The result of :func:`restore`.

    Attributes:
        path: the restored ledger.
        verified: the verification of the backup.
        kept: where the replaced ledger is now, or None.
    """

    path: Path
    verified: Verification
    kept: Path | None


@checked
def restore(
    backup: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    timeout: float = 30.0,
    progress: Progress | None = None,
) -> Restoration:
    """Restore a ledger from a backup.

    Args:
        backup: a file that `Ledger.backup` made, or any other ledger.
        path: the ledger.
        force: replace a ledger that exists; it is kept next to the new one, under another name.
        timeout: seconds to wait for the programs that use it.
        progress: called with the number of events checked, and of all events of the backup.

    Raises:
        LedgerFileError: the ledger exists and `force` was not given, or it is in use, or the backup is not a ledger.
        LedgerError: the backup does not verify.
    """
    target = target_of(path)
    if target.exists():
        if not force:
            raise LedgerFileError(f"{target}: it exists already; --force replaces it and keeps it next to the new one")
        check_replaceable(target)
        # Not Path.exists, which raises for a name that is too long.
        if os.path.exists(backup) and target.samefile(backup):  # noqa: PTH110
            raise LedgerFileError(f"{target}: it is the ledger itself; give a backup")
    else:
        check_no_log(target)
    with draft_of(target) as draft:
        copy_file(Path(backup), draft, None)
        verified = verify_draft(draft, f"{backup}", progress)
        kept = _move_away(target, timeout) if target.exists() else None
        try:
            put(draft, target)
        except OSError as error:
            if kept is None or _put_back(kept, target):
                raise
            problem = error if isinstance(error, LedgerFileError) else f"{target}: it cannot be made: {error.strerror}"
            raise LedgerFileError(f"{problem}; the ledger that was there is kept at {kept}") from error
    return Restoration(target, verified, kept)


def verify_draft(draft: Path, name: str, progress: Progress | None) -> Verification:
    """Verify a ledger before it is put in its place; one of an older schema is migrated.

    Args:
        draft: the ledger.
        name: what it was made from, for the error.
        progress: called with the number of events checked, and of all events.

    Raises:
        LedgerError: it does not verify.
    """
    with LedgerLog(draft, lazy=True) as ledger:  # so that `verify` reports a bad schema
        verified = verify(ledger.event_store, ledger.state, progress=progress)
    if not verified.ok:
        raise LedgerError(f"{name}: it does not verify, so nothing was replaced: {verified.problems[0]}")
    return verified


def _move_away(target: Path, timeout: float) -> Path:
    """Give a ledger another name. A program that has it open sees that its file is gone, and writes no more."""
    kept = _free_name(target)
    with exclusive_lock(target, timeout):
        target.rename(kept)
        for suffix in LOG_FILES:
            file = target.with_name(target.name + suffix)
            if file.exists():
                file.rename(kept.with_name(kept.name + suffix))
        sync_folder(target.parent)
    remove_log_files(kept)
    return kept


def _put_back(kept: Path, target: Path) -> bool:
    """Give a ledger its name back; return False if the name is taken, or a program may have a log of it open."""
    logs = [path.with_name(path.name + suffix) for path in (kept, target) for suffix in LOG_FILES]
    if any(map(os.path.lexists, logs)) or not link_unless_exists(kept, target):
        return False
    kept.unlink(missing_ok=True)
    sync_folder(target.parent)
    return True


def _free_name(target: Path) -> Path:
    time = utc_now()[:19].replace(":", "").replace("-", "")
    names = (f"{target.name}.replaced-{time}{'' if n == 1 else f'-{n}'}" for n in range(1, 1000))
    return next(target.with_name(name) for name in names if not os.path.lexists(target.with_name(name)))
