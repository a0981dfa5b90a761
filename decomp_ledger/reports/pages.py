"""The report: which page answers a question, from the same queries that the commands ask."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import attrs
from packaging.version import InvalidVersion, Version

from decomp_ledger import catalogs, queries
from decomp_ledger.analysis.export_results import ExportResult
from decomp_ledger.analysis.totals import ExportTotals
from decomp_ledger.analysis.upgrade import Upgrade
from decomp_ledger.errors import LedgerError
from decomp_ledger.log.ledger_log import LedgerLog
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.display import is_displayed
from decomp_ledger.model.events import Event
from decomp_ledger.model.rules import Rule
from decomp_ledger.model.state_specs import StateSpec
from decomp_ledger.queries import ResolvedState, State, UpgradeReport
from decomp_ledger.reports.blocks import Page
from decomp_ledger.reports.diff_view import diff_page
from decomp_ledger.reports.drift_view import drift_page
from decomp_ledger.reports.export_view import Newer, decompositions, export_page, table_page
from decomp_ledger.reports.html import to_html
from decomp_ledger.reports.ledger_view import LedgerFacts, ledger_page
from decomp_ledger.reports.markdown import to_markdown
from decomp_ledger.reports.notebook import page_of_result

__all__ = ["page_of", "report", "state_page", "torches_of"]

Progress: TypeAlias = Callable[[int, int], object]
_EVENTS = 2000  # events that the page of a ledger looks at


@checked
def report(
    spec: object = None,
    other: State | None = None,
    *,
    markdown: bool = False,
    graphs: bool = False,
    progress: Progress | None = None,
    ledger: LedgerLog | None = None,
) -> str:
    """Return a page that shows an export, a table, a ledger, a result, or what differs between two states.

    The page is one HTML file without scripts, which loads nothing. It is the same for the same ledger.

    Args:
        spec: a state spec: an export (`export:7`), a stamped `model.pt2`, or a table (`edge@3`); or what another
            question returned, such as the result of `gate`, `check_upgrade` or `verify`. None means the whole ledger.
        other: a second one, to show what differs. With two torch versions, such as `torch:2.9.1` and `torch:2.13.0`,
            the page shows their drift.
        markdown: return Markdown instead, for a pull request.
        graphs: with two stamped `.pt2` files, also find the first node in which their programs differ.
            `torch.export.load` unpickles parts of them.
        progress: called with the number of newer torch versions compared, and the number of all.
        ledger: the ledger of tables and exports.

    Raises:
        LedgerError: a spec names nothing, needs a ledger, or is a torch version alone.
    """
    if is_displayed(spec) and not isinstance(spec, (Catalog, ResolvedState, StateSpec)) and other is None:
        found = page_of_result(spec)
    else:
        found = page_of(cast("State | None", spec), other, graphs=graphs, progress=progress, ledger=ledger)
    return to_markdown(found) if markdown else to_html(found)


def page_of(
    spec: State | None,
    other: State | None = None,
    *,
    graphs: bool = False,
    progress: Progress | None = None,
    ledger: LedgerLog | None,
) -> Page:
    """Return the page that :func:`report` writes."""
    if graphs and other is None:
        raise LedgerError("graphs: nothing to compare; give two .pt2 files")
    if spec is None and other is not None:
        raise LedgerError("other: nothing to compare it with; give `spec` too")
    if spec is None:
        if ledger is None:
            raise LedgerError("report: needs a ledger, an export or a .pt2; open one with Ledger(path), or name a spec")
        return _of_ledger(ledger)
    found = queries.show(spec, ledger=ledger)
    if other is not None:
        return _of_two(found, queries.show(other, ledger=ledger), graphs, ledger)
    if found.bundle is not None:
        name = None if ledger is None or found.stamp is not None else Path(ledger.path).name
        return export_page(found, found.bundle, name, _newer(found, ledger, progress))
    if found.state.version == 0:
        raise LedgerError(f"{found.name}: a torch alone has no report; give two versions, to see what differs")
    return _of_table(found, ledger, progress)


def state_page(
    found: ResolvedState,
    rules: Mapping[str, Rule],
    blame: Mapping[str, Event],
    totals: ExportTotals | None,
    *,
    everything: bool,
) -> Page:
    """Return the page of one state alone, without what other torch versions change.

    Args:
        found: the state.
        rules: the rules to show.
        blame: op -> the event that set its rule.
        totals: what its exports show together; None if that is not asked.
        everything: list every decomposition of the table.
    """
    shown = attrs.evolve(found, state=attrs.evolve(found.state, rules=rules))
    page = (
        table_page(shown, blame, (), (), totals, "", None)
        if found.bundle is None
        else export_page(shown, found.bundle, None, None)
    )
    return attrs.evolve(page, sections=[*page.sections, *decompositions(found)]) if everything else page


def _of_two(one: ResolvedState, other: ResolvedState, graphs: bool, ledger: LedgerLog | None) -> Page:
    if one.state.version == other.state.version == 0:
        return drift_page(queries.drift(one, other, ledger=ledger))
    found = queries.diff(one, other, graphs=graphs, ledger=ledger)
    torches = [None if each.catalog is None else each.catalog.build.get("git") for each in (one, other)]
    if torches[0] == torches[1] or None in torches:
        return diff_page(found)
    used = other if other.bundle is not None else one if one.bundle is not None else None
    return diff_page(found, queries.drift(one, other, only_used=used, ledger=ledger))


def _of_table(found: ResolvedState, ledger: LedgerLog | None, progress: Progress | None) -> Page:
    blame = queries.blame(found, ledger=ledger)
    events: list[Event] = []
    exports: list[ExportResult] = []
    totals = None
    if ledger is not None:
        every = ledger.events(table=found.state.table)
        events = [event for event in every if event.version <= found.state.version]
        totals = queries.export_totals(found.state.table, ledger=ledger)
        exports = [
            each
            for each in queries.export_results(found.state.table, ledger=ledger)
            if each.event.version <= found.state.version
        ]
    name = "" if ledger is None else ledger.id
    return table_page(found, blame, events, exports, totals, name, _newer(found, ledger, progress))


def _of_ledger(ledger: LedgerLog) -> Page:
    exports = queries.export_results(ledger=ledger)
    number, head = ledger.event_store.head()
    events = list(ledger.events(desc=True, limit=_EVENTS))
    series = ledger.table_series()
    return ledger_page(
        LedgerFacts(
            Path(os.fspath(ledger.path)).name,
            ledger.id,
            head.hex(),
            series,
            {each.newest.name: ledger.tags(each.newest.name) for each in series},
            events[::-1],
            exports,
            number,
            queries.export_totals(ledger=ledger),
            torches_of(exports, ledger),
        )
    )


def torches_of(exports: Sequence[ExportResult], ledger: LedgerLog) -> dict[str, str]:
    """Return the torch version of each environment that exports ran in."""
    digests = dict.fromkeys(each.event.environment for each in exports)
    return {digest: str(ledger.environment(digest).get("torch", "")) for digest in digests}


def _newer(found: ResolvedState, ledger: LedgerLog | None, progress: Progress | None) -> Newer:
    """Return what each newer torch changes for a table or an export, by version, oldest first."""
    versions = list(_newer_versions(found))
    answers: dict[str, UpgradeReport | Upgrade | str] = {}
    for number, version in enumerate(versions, 1):
        answers[version] = _moved(found, version, ledger)
        if progress is not None:
            progress(number, len(versions))
    return answers


def _newer_versions(found: ResolvedState) -> Iterator[str]:
    """Give the shipped versions that are newer than the torch of a state; all if that is not known."""
    try:
        here = None if found.catalog is None else Version(str(found.catalog.build.get("torch")).partition("+")[0])
    except InvalidVersion:
        here = None
    for version in catalogs.available():
        if here is None or Version(version) > here:
            yield version


def _moved(found: ResolvedState, version: str, ledger: LedgerLog | None) -> UpgradeReport | Upgrade | str:
    """Return the check of an upgrade; where no export tells what is used, the upgrade; else why there is neither."""
    try:
        return queries.check_upgrade(found, torch=version, ledger=ledger)
    except LedgerError:
        try:
            return queries.upgrade(found, torch=version, ledger=ledger)
        except LedgerError as error:
            return str(error)
