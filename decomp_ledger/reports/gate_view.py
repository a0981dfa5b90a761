"""The page of a gate: what did not pass, who made it so, and what to do. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath

import attrs

from decomp_ledger.analysis.behaviour import SampleDifference, change_text
from decomp_ledger.analysis.gate import TORCH, GateFinding, GateResult, ProgramFacts
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import Saved
from decomp_ledger.model.policy import Policy
from decomp_ledger.reports.blocks import (
    BAD,
    GOOD,
    QUIET,
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
    Part,
    Prose,
    Quote,
    Section,
    Table,
    ops_cell,
)
from decomp_ledger.reports.drift_words import diff_lines, rows_that_differ
from decomp_ledger.reports.event_blocks import event_rows, moment
from decomp_ledger.reports.words import count

__all__ = [
    "FindingGroup",
    "file_blocks",
    "finding_blocks",
    "finding_groups",
    "gate_mark",
    "gate_page",
    "gate_summary",
    "policy_blocks",
    "program_blocks",
]

_ROWS = 10  # nodes of a graph that differ
_COMMIT = 12  # letters of a git commit
_TABLES = 40  # that a page names


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
    def others(self) -> str:
        """What follows the fix of the first, where the findings of other ops need one of their own."""
        rest = dict.fromkeys(each.op for each in self.findings if each.fix != self.first.fix)
        return (
            "" if not rest else f", and likewise for {'the other op' if len(rest) == 1 else f'{len(rest)} other ops'}"
        )

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
    """Return the page of a gate: what breaks the policy, what was judged, and how to check the page."""
    figures: dict[str, Cell] = {
        "programs": str(len(found.programs)),
        "tables": str(len(found.tables)),
        "findings": str(len(found.findings)),
        "unknown": str(len(found.unknown)),
    }
    sections = (
        *(Section(title, blocks) for title, blocks in finding_blocks(found).items()),
        Section("Programs", program_blocks(found)),
        Section("Files", file_blocks(found)),
        Section("Policy", policy_blocks(found.policy)),
        Section("What was judged", [Facts(_judged_rows(found))]),
        Section("How to check it", _check(found)),
    )
    return Page("Gate", _first(found.tables), gate_mark(found), _judged(found), figures, sections)


def gate_mark(found: GateResult) -> Mark:
    """Return the verdict."""
    number = len(found.findings)
    if number:
        return Mark(f"did not pass: {count(number, 'finding')}", BAD)
    if found.unknown:
        return Mark(f"{'passed' if found.passed else 'did not pass'}, {len(found.unknown)} unknown", WARN)
    return Mark("passed", GOOD)


def finding_blocks(found: GateResult) -> dict[str, list[Block]]:
    """Return the findings, and what could not be judged, by the titles of their sections."""
    return {
        "Findings": [_group_block(each) for each in finding_groups(found)],
        "Unknown": [Listing([Quote(str(each)) for each in found.unknown])] if found.unknown else [],
    }


def policy_blocks(policy: Policy) -> list[Block]:
    """Return the policies, as a settings file has them."""
    rows = [Code(f"{name} = {_setting(value)}") for name, value in policy.to_json().items()]
    return [Listing(rows)] if rows else []


def _first(names: Sequence[str]) -> Quote:
    return Quote(", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""))


def _setting(value: Json) -> str:
    return str(value).lower() if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


def _marked(text: str) -> tuple[Part, ...]:
    """Return a text whose code stands between backticks; a text without any is code."""
    parts = text.split("`")
    return (
        tuple(Quote(part) if n % 2 == 0 else Code(part) for n, part in enumerate(parts) if part)
        if parts[1:]
        else (Code(text),)
    )


def _group_block(group: FindingGroup) -> Block:
    first = group.first
    title: Cell = (Code(first.policy), ": ", *((*ops_cell(group.ops), ": ") if group.ops else ()), Quote(group.text))
    blocks: list[Block] = [Listing([Quote(each) for each in group.subjects])]
    if group.difference is not None:
        blocks.append(Diff(list(diff_lines(rows_that_differ(group.difference)[:_ROWS]))))
    if first.event is not None and first.policy != TORCH:
        blocks.append(Facts([("event", Code(f"#{first.event.seq}")), *event_rows(first.event)]))
    blocks.append(Prose(("To mend: ", *_marked(first.fix), *filter(None, [group.others]))))
    return Fold(title, blocks, opened=True)


def program_blocks(found: GateResult) -> list[Block]:
    """Return the programs with the exports by which they were judged."""
    rows: list[tuple[Cell, ...]] = []
    for each in found.programs:
        number = sum(finding.program == each.program for finding in found.findings)
        unknown = f"{len(each.unknown)} unknown" if each.unknown else ""
        verdict = (
            Mark(count(number, "finding"), BAD) if number else Mark(unknown or "no finding", "" if unknown else GOOD)
        )
        rows.append(
            (
                Quote(str(each.program)),
                Code(each.name),
                verdict,
                moment(each.shown.recorded_at),
                Quote(each.shown.actor),
                Quote(str(each.environment.get("torch") or "")),
                _commit(each),
            )
        )
    heads = ("program", "judged by", "verdict", "when (UTC)", "who", "torch", "git commit")
    return [Table(heads, rows)] if rows else []


def _commit(program: ProgramFacts) -> Cell:
    """Return the git commit of an export, with a mark where its files had other changes."""
    commit, dirty = (program.environment.get(name) for name in ("git_commit", "git_dirty"))
    if not isinstance(commit, str):
        return Mark("not recorded", QUIET)
    shown = Code(commit[:_COMMIT])
    if dirty is False:
        return shown
    return shown, " ", Mark("with changes", WARN) if dirty is True else Mark("changes unknown", QUIET)


def file_blocks(found: GateResult) -> list[Block]:
    """Return the files that the judged exports were saved into, by which a shipped one is known."""
    rows: list[tuple[Cell, ...]] = [
        (Quote(body.path or f"({body.format})"), str(body.size), Code(body.sha256), Code(each.name))
        for each in found.programs
        for event in each.saved
        if isinstance(body := event.body, Saved)
    ]
    return [Table(("file", "bytes", "SHA-256", "result of"), rows, frozenset({1}))] if rows else []


def _judged_rows(found: GateResult) -> list[tuple[Cell, Cell]]:
    rows: list[tuple[Cell, Cell]] = []
    if found.ledger:
        rows += [
            ("ledger", Quote(PurePath(found.ledger).name)),
            ("events", str(found.events)),
            ("newest hash", Code(found.head)),
        ]
    rows.append(("tables", ops_cell(found.tables, _TABLES) if found.tables else "none"))
    if found.since is not None:
        rows.append(("exports", ("since ", moment(found.since), " UTC")))
    rows.append(("other torch", "not asked" if found.torch is None else Code(found.torch)))
    rows.append(("what is unknown", "does not pass" if found.strict else "passes"))
    return rows


def _check(found: GateResult) -> list[Block]:
    if not found.head:
        return []
    return [
        Prose("This page was made without checking the chain of hashes. To check that the ledger has this event:"),
        Diff([(" ", f"decomp-ledger verify --expect {found.head}")]),
    ]
