"""The page of a gate: what did not pass, who made it so, and what to do. Pure."""

from __future__ import annotations

import attrs

from decomp_ledger.analysis.behaviour import SampleDifference, change_text
from decomp_ledger.analysis.gate import TORCH, GateFinding, GateResult
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.reports.blocks import (
    BAD,
    GOOD,
    WARN,
    Block,
    Cell,
    Code,
    Diff,
    Facts,
    Fold,
    Listing,
    Mark,
    Page,
    Quote,
    Section,
    Table,
    ops_cell,
)
from decomp_ledger.reports.drift_words import diff_lines, rows_that_differ
from decomp_ledger.reports.event_blocks import event_rows
from decomp_ledger.reports.words import count

__all__ = ["FindingGroup", "finding_groups", "gate_page", "gate_summary"]

_ROWS = 10  # nodes of a graph that differ


@attrs.frozen
class FindingGroup:
    """Findings that are shown together: one change of another torch in all programs, or what one event broke.

    Attributes:
        findings: the findings.
    """

    findings: tuple[GateFinding, ...]

    @property
    def first(self) -> GateFinding:
        """The first of them."""
        return self.findings[0]

    @property
    def difference(self) -> SampleDifference | None:
        """The first sample call on which the op behaves differently; None if that is not what changed."""
        behaviour = None if self.first.change is None else self.first.change.behaviour
        return None if behaviour is None or not behaviour.differences else behaviour.differences[0]

    @property
    def text(self) -> str:
        """What is wrong."""
        if self.difference is None:
            return self.first.detail
        return f"{self.first.detail}: {change_text(self.difference)} for {self.difference.call}"

    @property
    def heading(self) -> str:
        """The policy, the ops, and what is wrong."""
        return ": ".join(filter(None, (self.first.policy, ", ".join(self.ops), self.text)))

    @property
    def ops(self) -> tuple[str, ...]:
        """The ops, each once."""
        return tuple(dict.fromkeys(each.op for each in self.findings if each.op))

    @property
    def subjects(self) -> tuple[str, ...]:
        """The programs and tables, each once."""
        return tuple(dict.fromkeys(each.subject for each in self.findings))


def finding_groups(found: GateResult) -> list[FindingGroup]:
    """Return the findings in groups, in their order."""
    groups: dict[object, list[GateFinding]] = {}
    for each in found.findings:
        text = FindingGroup((each,)).text
        of_event = each.subject, None if each.event is None else each.event.seq
        key = (each.op, text) if each.policy == TORCH else (each.policy, text, *of_event)
        groups.setdefault(key, []).append(each)
    return [FindingGroup(tuple(group)) for group in groups.values()]


def gate_summary(found: GateResult) -> str:
    """Return the verdict in one line."""
    verdict = "passed" if found.passed else "did not pass"
    unknown = f", {len(found.unknown)} unknown" if found.unknown else ""
    strict = "; with --strict, what is unknown does not pass" if found.strict and found.unknown else ""
    return f"{verdict}: {count(len(found.findings), 'finding')}{unknown}; {_judged(found)}{strict}"


def _judged(found: GateResult) -> str:
    to = "" if found.torch is None else f", for torch {found.torch}"
    return f"{count(len(found.programs), 'program')} and {count(len(found.tables), 'table')} judged{to}"


def gate_page(found: GateResult) -> Page:
    """Return the page of a gate."""
    number = len(found.findings)
    status = Mark("passed", GOOD) if found.passed else Mark(f"did not pass: {count(number, 'finding')}", BAD)
    if found.unknown and not number:
        status = Mark(f"{'passed' if found.passed else 'did not pass'}, {len(found.unknown)} unknown", WARN)
    policies = [Code(f"{name} = {_setting(value)}") for name, value in found.policy.to_json().items()]
    sections = (
        Section("Findings", [_group_block(each) for each in finding_groups(found)]),
        Section("Unknown", [Listing([Quote(str(each)) for each in found.unknown])] if found.unknown else []),
        Section("Programs", [_programs(found)] if found.programs else []),
        Section("Policy", [Listing(policies)] if policies else []),
    )
    name: Cell = ", ".join(found.tables[:3]) + (f" and {len(found.tables) - 3} more" if len(found.tables) > 3 else "")
    return Page("Gate", Quote(str(name)), status, _judged(found), sections=sections)


def _setting(value: Json) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _group_block(group: FindingGroup) -> Block:
    first = group.first
    title: Cell = (Code(first.policy), ": ", *((*ops_cell(group.ops), ": ") if group.ops else ()), Quote(group.text))
    blocks: list[Block] = [Listing([Quote(each) for each in group.subjects])]
    if group.difference is not None:
        blocks.append(Diff(list(diff_lines(rows_that_differ(group.difference)[:_ROWS]))))
    if first.event is not None and first.policy != TORCH:
        blocks.append(Facts([("event", Code(f"#{first.event.seq}")), *event_rows(first.event)]))
    blocks.append(Listing([("To mend: ", Code(first.fix))]))
    return Fold(title, blocks, opened=True)


def _programs(found: GateResult) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for each in found.programs:
        number = sum(finding.program == each.program for finding in found.findings)
        verdict = Mark(count(number, "finding"), BAD) if number else Mark("no finding", GOOD)
        rows.append((Quote(str(each.program)), Code(each.name), verdict))
    return Table(("program", "judged by", "verdict"), rows)
