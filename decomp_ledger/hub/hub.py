"""Hub: what a user opens to ask a hub. Pushing is a method of `Ledger`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike, fspath
from typing import Any

import attrs

from decomp_ledger.errors import HubDiverged, HubError, LedgerError
from decomp_ledger.hub import migrations
from decomp_ledger.hub import verify as verifying
from decomp_ledger.hub.asking import HubQuestions
from decomp_ledger.hub.connection import HubUrl
from decomp_ledger.hub.migrations import HubInit, open_hub
from decomp_ledger.hub.naming import hub_url
from decomp_ledger.hub.push import NameTaken, Pushed, default_name, push
from decomp_ledger.hub.verify import HubVerification
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.log.settings import project_settings
from decomp_ledger.model.arguments import checked, one_or_more
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import Rows, displayed, guarded

__all__ = ["Collected", "Hub", "HubLedger"]

_LEDGERS = """
SELECT ledger.name, ledger.ledger, ledger.created_at, head.seq, head.hash, head.last_at,
    (SELECT count(*) FROM decomp_table AS t WHERE t.ledger_id = ledger.id)
FROM ledger JOIN head ON head.ledger_id = ledger.id ORDER BY ledger.name
"""


@displayed
@attrs.frozen
class HubLedger:
    """A ledger of a hub.

    Attributes:
        name: what people call it.
        id: its own id.
        created_at: when it was made, UTC.
        events: how many events the hub has.
        head: the hash of the newest event, in hex; without events, what the first one is chained to.
        last_at: when the newest event was recorded, UTC; None without events.
        tables: how many tables it has.
    """

    name: str
    id: str
    created_at: str
    events: int
    head: str
    last_at: str | None
    tables: int

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        return dict(attrs.asdict(self))


@displayed
@attrs.frozen
class Collected:
    """What became of one file that was collected.

    Attributes:
        path: the file.
        pushed: the push; None if it failed, or the hub had the file's events and more.
        problem: why it failed; None if it did not.
    """

    path: str
    pushed: Pushed | None = None
    problem: str | None = None

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        pushed = None if self.pushed is None else self.pushed.to_json()
        return {"path": self.path, "pushed": pushed, "problem": self.problem}


@displayed
@checked
class Hub(HubQuestions):
    """Many ledgers in one database.

    Args:
        url: `postgresql://user:password@host/database`, `sqlite:///hub.db`, or the name of a file; by default what
            `DECOMP_LEDGER_HUB` or the `hub` of `[tool.decomp-ledger]` says.

    Attributes:
        url: the address.

    Raises:
        HubError: no address is given, or it cannot be read.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = HubUrl.parse(hub_url(url, None if url else project_settings().hub))

    @guarded
    def __repr__(self) -> str:
        return f"<Hub {self.url.label}>"

    def init(self) -> HubInit:
        """Make a hub in the database, or bring an older one to the newest schema. Calling it again changes nothing.

        Raises:
            HubError: the database has something else, cannot be reached, or the user may not create a schema.
            SchemaError: a newer version made the hub.
        """
        return migrations.init(self.url)

    def ledgers(self) -> Rows[HubLedger]:
        """Return the ledgers of the hub, by name.

        Raises:
            HubError: the hub cannot be used.
        """
        with open_hub(self.url) as hub:
            rows = hub.rows(_LEDGERS)
        return Rows(_ledger(row) for row in rows)

    def verify(
        self, ledger: str | None = None, *, progress: Callable[[int, int], object] | None = None
    ) -> HubVerification:
        """Recompute every chain of the hub, and everything that is derived from the events.

        Args:
            ledger: check only this ledger, by its name or id.
            progress: called with the number of events checked, and the number of all events.

        Raises:
            HubError: the hub cannot be used, or has no such ledger.
        """
        return verifying.verify(self.url, ledger=ledger, progress=progress)

    def collect(self, paths: Sequence[str | PathLike[str]]) -> Rows[Collected]:
        """Push ledger files into the hub, each under the name `FOLDER/FILE`.

        The hub is made if it is a file that does not exist. A file that cannot be pushed does not stop the others.

        Args:
            paths: the files. A file whose events the hub has, with more, is left out.

        Returns:
            What became of each file.

        Raises:
            HubError: the hub cannot be used.
        """
        self.init()
        with open_hub(self.url, write=True):
            pass  # an error of the hub is one of the call, not of each file
        return Rows(self._collect(fspath(path)) for path in one_or_more(paths))

    def _collect(self, path: str) -> Collected:
        try:
            with LedgerLog(path, read_only=True) as ledger:
                try:
                    return Collected(path, push(ledger, self.url))
                except NameTaken:  # by a ledger of another folder of that name
                    name = f"{default_name(ledger)}-{ledger.event_store.identity()[0][:8]}"
                    return Collected(path, push(ledger, self.url, name=name))
        except HubDiverged as error:
            return Collected(path) if error.is_shorter else Collected(path, problem=str(error))
        except HubError as error:
            return Collected(path, problem=str(error))
        except LedgerError as error:
            return Collected(path, problem=str(error))


def _ledger(row: tuple[Any, ...]) -> HubLedger:
    name, ledger, created_at, seq, head, last_at, tables = row
    return HubLedger(name, ledger, created_at, int(seq), bytes(head).hex(), last_at, int(tables))
