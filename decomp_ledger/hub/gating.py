"""The gate over every program of every ledger of a hub: each ledger is judged as it is alone."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import attrs

from decomp_ledger import catalogs, gates
from decomp_ledger.analysis.gate import GateResult
from decomp_ledger.hub.ledger_view import LedgerInHub
from decomp_ledger.hub.pages import hub_gate_page
from decomp_ledger.hub.reading import HubReader, LedgerName
from decomp_ledger.log.settings import project_settings
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import Row, displayed, guarded
from decomp_ledger.model.policy import Policy
from decomp_ledger.reports.blocks import Page

__all__ = ["HubGate", "gate"]


@displayed
@attrs.frozen(repr=False)
class HubGate:
    """Whether the tables and programs of all ledgers of a hub pass a gate.

    Attributes:
        results: the ledgers by name, each with its result.
        hub: the address of the hub, without a password.
    """

    results: tuple[tuple[LedgerName, GateResult], ...]
    hub: str = ""

    @property
    def passed(self) -> bool:
        """Whether every ledger passes."""
        return all(result.passed for _, result in self.results)

    @property
    def failed(self) -> tuple[tuple[LedgerName, GateResult], ...]:
        """The ledgers that do not pass."""
        return tuple((ledger, result) for ledger, result in self.results if not result.passed)

    @guarded
    def __repr__(self) -> str:
        return f"<HubGate: {len(self.failed)} of {len(self.results)} ledgers did not pass>"

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each finding, with the name of its ledger."""
        return [{"ledger": name.name, **row} for name, result in self.results for row in result.to_dicts()]

    def to_json(self) -> dict[str, Json]:
        """Return it as plain data."""
        ledgers: list[Json] = [
            {"ledger": ledger.name, "ledger_id": ledger.id, **result.to_json()} for ledger, result in self.results
        ]
        return {"passed": self.passed, "hub": self.hub, "ledgers": ledgers}

    def _shown_as(self) -> Page:
        """Return its page, for a report and for a notebook."""
        return hub_gate_page(self.hub, self.results)


def gate(
    reader: HubReader,
    policy: Policy | None,
    *,
    torch: str | None = None,
    strict: bool = False,
    since: str | datetime.datetime | None = None,
    ledger: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> HubGate:
    """Judge each program and each table of a hub; see `HubQuestions.gate`."""
    given = project_settings().policy if policy is None else policy
    gates.refuse_nothing(given, torch)
    if torch is not None:
        catalogs.released(torch)  # an unknown version is an error before anything is read
    names = [reader.ledger(ledger)[1]] if ledger is not None else reader.ledgers()
    shared = gates.Shared(reader.whole_catalog, gates.ignored_settings() if policy is None else ())
    results = []
    for number, name in enumerate(names, 1):
        seen = LedgerInHub(reader, name.id)
        exports = seen.newest_exports(since)
        result = gates.gate_of_one(seen, exports, given, torch, strict=strict, since=since, shared=shared)
        for program in result.programs:
            if program.judged is not None:
                reader.bundle(name, program.judged)  # raises if the table that was judged is not the one of the export
        results.append((name, result))
        if progress is not None:
            progress(number, len(names))
    return HubGate(tuple(results), reader.label)
