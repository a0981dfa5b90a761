"""The questions to a hub, each one call. The class `Hub` adds what writes to a hub and checks it."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from decomp_ledger.hub import gating, questions
from decomp_ledger.hub.connection import POSTGRESQL, HubUrl
from decomp_ledger.hub.gating import HubGate
from decomp_ledger.hub.migrations import open_hub
from decomp_ledger.hub.questions import PAGE, EventsOfHub, HubBlame, HubEvent, HubExplanation, HubExport
from decomp_ledger.hub.reading import HubReader
from decomp_ledger.log.ledger_log import stored_moment
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.display import Rows
from decomp_ledger.model.policy import Policy
from decomp_ledger.model.state_specs import clamped

__all__ = ["HubQuestions"]

_Item = TypeVar("_Item")
# One moment for all queries of an answer.
_ONE_MOMENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"


@checked
class HubQuestions:
    """The questions to a hub. Each reads it in one transaction, so that its answer is of one moment.

    Attributes:
        url: the address.
    """

    url: HubUrl

    @contextlib.contextmanager
    def reader(self) -> Iterator[HubReader]:
        """Open the hub for a block, and read it in one transaction."""
        with open_hub(self.url) as connection, connection.transaction():
            if connection.dialect == POSTGRESQL:
                connection.execute(_ONE_MOMENT)
            yield HubReader(connection)

    def exports(
        self,
        *,
        ledger: str | None = None,
        program: str | None = None,
        failed: bool = False,
        limit: int | None = 100,
    ) -> Rows[HubExport]:
        """Return the exports of all ledgers, newest first.

        Args:
            ledger: only of this ledger: its name in the hub, or its own id.
            program: a part of the name of its table, its module or its file, the letters A to Z in either case.
            failed: only exports that failed.
            limit: at most so many; None means all.

        Raises:
            HubError: the hub cannot be read, has no such ledger, or is damaged.
        """
        with self.reader() as reader:
            given = {"ledger": ledger, "program": program}
            return _first(limit, questions.exports(reader, **given, failed=failed, page=_page(limit)))

    def events(
        self,
        *,
        ledger: str | None = None,
        table: str | None = None,
        op: str | None = None,
        actor: str | None = None,
        author: str | None = None,
        grep: str | None = None,
        kind: str | None = None,
        since: str | datetime.datetime | None = None,
        until: str | datetime.datetime | None = None,
        limit: int | None = 100,
    ) -> Rows[HubEvent]:
        """Return the events of all ledgers that match every condition, newest first.

        They have the order of the times that the clock of each writer showed; those of one ledger that of their seqs.

        Args:
            ledger: only of this ledger: its name in the hub, or its own id.
            table: the whole name of the event's table.
            op: an op that the event changed; the name of a family means all its overloads.
            actor: who made it: the whole name.
            author: a part of the actor's name, the letters A to Z in either case.
            grep: a part of its reason, likewise.
            kind: its kind.
            since: it was recorded then or later: a datetime with a zone, or a text such as `2w`, in local time.
            until: it was recorded then or earlier, likewise.
            limit: at most so many; None means all.

        Raises:
            HubError: the hub cannot be read, has no such ledger, or is damaged.
            UnknownOp: `op` has no namespace, and no event of the hub changed an op of that name.
            InvalidName: `op` is not the name of an op.
            UnusableValue: `since` or `until` names no moment, or has no zone.
        """
        moments = stored_moment(since), stored_moment(until)
        wanted = EventsOfHub(ledger, table, op, actor, author, grep, kind, *moments)
        with self.reader() as reader:
            return _first(limit, questions.events(reader, wanted, page=_page(limit)))

    def blame(self, op: object, *, ledger: str | None = None, limit: int | None = 100) -> HubBlame:
        """Return which tables of all ledgers have a rule for an op now, and the event that set each.

        Of a series of recorded tables, the newest run counts. A fork has the rules of what it was forked from.

        Args:
            op: its name, or an `OpOverload`. The name of a family means all its overloads.
            ledger: only of this ledger: its name in the hub, or its own id.
            limit: at most so many rules; None means all. All are counted.

        Raises:
            HubError: the hub cannot be read, has no such ledger, or is damaged.
            UnknownOp: the text has no namespace, and no known op has that name.
            InvalidName: the text cannot name an op.
        """
        with self.reader() as reader:
            return questions.blame(reader, op, ledger=ledger, limit=clamped(limit))

    def explain(
        self,
        op: object,
        *,
        ledger: str | None = None,
        program: str | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Rows[HubExplanation]:
        """Return what happened to an op in the newest export of each program, as `explain` tells it for an export.

        The programs are those that `gate` judges. A series whose newest run has no export is unknown, as there.

        Args:
            op: its name, or an `OpOverload`. The name of a family means all its overloads.
            ledger: only of this ledger: its name in the hub, or its own id.
            program: a part of the name of the table, the module or the file, the letters A to Z in either case.
            progress: called with the number of programs done, and of all.

        Raises:
            HubError: the hub cannot be read, has no such ledger, or is damaged.
            InvalidName: the text cannot name an op.
        """
        with self.reader() as reader:
            return Rows(questions.explain(reader, op, ledger=ledger, program=program, progress=progress))

    def gate(
        self,
        *,
        torch: str | None = None,
        policy: Policy | None = None,
        strict: bool = False,
        since: str | datetime.datetime | None = None,
        ledger: str | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> HubGate:
        """Judge each program and each table of all ledgers, as :func:`decomp_ledger.gate` judges those of one.

        Args:
            torch: another torch version, whose catalog is shipped: a program fails if that changes an op that its
                newest export uses.
            policy: what tables and exports must hold to; None means the `[tool.decomp-ledger.policy]` of the project.
            strict: fail also if something could not be judged.
            since: only exports that were recorded then or later: a datetime with a zone, or a text such as `2w`.
            ledger: only this ledger: its name in the hub, or its own id.
            progress: called with the number of ledgers judged, and of all.

        Raises:
            HubError: the hub cannot be read, has no such ledger, or is damaged.
            LedgerError: nothing is to be judged.
            UnknownCatalog: no catalog of that torch version is shipped.
            UnusableValue: the settings of the project have an unknown key or a wrong value.
        """
        with self.reader() as reader:
            return gating.gate(
                reader, policy, torch=torch, strict=strict, since=since, ledger=ledger, progress=progress
            )


def _page(limit: int | None) -> int:
    """Return how many rows to read at once, where at most `limit` are shown."""
    return PAGE if limit is None else max(1, min(limit, PAGE))


def _first(limit: int | None, found: Iterable[_Item]) -> Rows[_Item]:
    most = clamped(limit)
    return Rows(found if most is None else islice(found, max(most, 0)))
