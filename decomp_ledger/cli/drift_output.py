"""Show drift and replays to people, as text and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import click

from decomp_ledger.analysis.drift import (
    DRIFT_KINDS,
    ENTERED,
    FATE,
    GONE,
    HELPERS,
    LEFT,
    MOVED,
    NEW,
    SCHEMA,
    WRAPPERS,
    Drift,
    DriftChange,
    NamedState,
    schema_step,
)
from decomp_ledger.analysis.upgrade import FINDINGS, HOLDS, OUTCOMES, Upgrade, UpgradeCheck
from decomp_ledger.cli.output import note, printable, rule_text
from decomp_ledger.model.catalog import Entry

__all__ = [
    "decomposition_text",
    "only_used_text",
    "print_drift",
    "print_upgrade_check",
    "print_markdown",
    "print_upgrade",
]

_LIMIT = 10
# Of ops in a table, these are always named: each may change what an export gives.
_NAMED = frozenset(DRIFT_KINDS) - {NEW, HELPERS, WRAPPERS}


def decomposition_text(entry: Entry) -> str:
    """Return what a catalog's entry decomposes an op with, in words."""
    return f"{entry.origin} {entry.module}.{entry.qualname}" if entry.module else str(entry.origin)


def only_used_text(program: str, used: int, whole: Drift, found: Drift) -> str:
    """Say how much of a drift touches a program.

    Args:
        program: what people call it: `export:7`.
        used: how many ops it uses.
        whole: the drift.
        found: what of it touches the program.
    """
    total, few = (sum(change.kind != WRAPPERS for change in each.changes) for each in (whole, found))
    more = len(found.changes) - few
    wrapped = f", and wrappers changed around {more} of them" if more else ""
    return f"of {total} changes, {few} {'touches' if few == 1 else 'touch'} {program}, which uses {used} ops{wrapped}"


def print_drift(found: Drift, lead: str = "", *, everything: bool) -> None:
    """Print what differs, what weighs most first.

    Args:
        found: the drift.
        lead: a line to put first.
        everything: name every op, also where a count tells enough.
    """
    if lead:
        note(lead)
    note(f"{_side(found.before)} -> {_side(found.after)}: {_summary(found)}")
    for title, changes, named in _groups(found):
        click.echo()
        note(f"{title}: {_ops(changes)}")
        lines = _lines(changes)
        shown = lines if everything or named else lines[:_LIMIT] if changes[0].kind == HELPERS else []
        for line in shown:
            note(f"  {line}")
        if len(shown) < len(lines):
            note(f"  {'... ' if shown else ''}--all names them{' all' if shown else ''}")
    _print_notes(found)


def print_markdown(found: Drift, lead: str = "") -> None:
    """Print the same as Markdown: a table of counts, and a fold for each kind."""
    note(f"### Decomposition drift: {_code(found.before.name)} to {_code(found.after.name)}")
    click.echo()
    if lead:
        note(f"**{_plain(lead)}**")
        click.echo()
    note(f"{_side(found.before, code=True)} to {_side(found.after, code=True)}: {_summary(found)}.")
    groups = list(_groups(found))
    if groups:
        click.echo("\n| what changed | ops |\n| --- | ---: |")
    for title, changes, _ in groups:
        note(f"| {title} | {len(changes)} |")
    for title, changes, named in groups:
        click.echo(f"\n<details{' open' if changes[0].kind in (LEFT, ENTERED) else ''}>")
        note(f"<summary>{title}: {_ops(changes)}</summary>")
        click.echo()
        lines = _lines(changes)
        for line in lines if named else lines[: _LIMIT * 2]:
            note(f"- {_code(line)}")
        if not named and len(lines) > _LIMIT * 2:
            note(f"- and {len(lines) - _LIMIT * 2} more")
        click.echo("\n</details>")
    for text in _notes(found):
        click.echo()
        note(f"_{_plain(text)}_")


def print_upgrade(found: Upgrade, *, everything: bool) -> None:
    """Print what becomes of a table on another torch.

    Args:
        found: the upgrade.
        everything: name every op, also where a count tells enough.
    """
    snapshot = found.snapshot
    waiting = f", {len(snapshot.pending)} pending" if snapshot.pending else ""
    note(
        f"{found.side.name} on torch {snapshot.build.get('torch')}: {len(snapshot.ops)} decompositions, "
        f"{len(snapshot.preserved)} preserved, {len(snapshot.overridden)} overridden{waiting}; "
        f"snapshot {snapshot.digest[:12]}"
    )
    _print_outcomes(found, everything=everything)
    if found.drift is None:
        note("it has met no torch yet: what the move does to ops that it says nothing of is not known")
        return
    _print_ops("decomposed before, kept now, without its having said so", (c.op for c in found.now_kept()))
    _print_ops("kept before, decomposed now, without its having said so", (c.op for c in found.now_decomposed()))
    gone = found.gone()
    named = [f"{change.op}{_successors(ops)}" for change, ops in gone]
    shown = named if everything else named[:_LIMIT]
    more = [f"... and {len(named) - len(shown)} more: --all names them"] if len(shown) < len(named) else []
    _print_ops(f"decomposed before, gone now: {len(gone)} ops", [*shown, *more])
    _print_ops("of libraries that this catalog knows nothing of; it had them", found.foreign)
    before = found.drift.before.catalog.build.get("torch")
    note(f"from torch {before} to {snapshot.build.get('torch')}, this table: {_summary(found.drift)}")
    if everything:
        for title, changes, _ in _groups(found.drift):
            _print_ops(f"{title}: {_ops(changes)}", _lines(changes))
    _print_notes(found.drift)


def print_upgrade_check(found: Upgrade, judged: UpgradeCheck, exports: int) -> None:
    """Print whether the programs of a table stay what they are on another torch, and if not, why.

    Args:
        found: the move.
        judged: what speaks against it.
        exports: of how many exports the programs are.
    """
    assert found.drift is not None  # it was judged
    builds = (each.catalog.build.get("torch") for each in (found.drift.before, found.drift.after))
    ops = len({each.op for each in judged.findings})
    of = f"{exports} export{'' if exports == 1 else 's'} with {len(judged.used)} ops"
    verdict = f"{ops} op{'' if ops == 1 else 's'} changed" if ops else "nothing changed"
    note(f"{found.side.name}, from torch {' to '.join(map(str, builds))}: {verdict} for {of}")
    for kind, title in FINDINGS.items():
        here = [each for each in judged.findings if each.kind == kind]
        changes = [each.change for each in here if each.change is not None]
        _print_ops(title, _lines(changes) if changes else [f"{each.op}: {each.detail}" for each in here])
    if judged.kernels:
        note(f"not compared: the C++ code of {_ops(judged.kernels)} ({_some(judged.kernels)}), which no catalog tells")
    if judged.foreign:
        note(f"not judged: {_ops(judged.foreign)} of libraries, or registered late ({_some(judged.foreign)})")


def _print_outcomes(found: Upgrade, *, everything: bool) -> None:
    for outcome, title in OUTCOMES.items():
        here = [each for each in found.outcomes if each.outcome == outcome]
        if outcome == HOLDS and len(here) > _LIMIT and not everything:
            note(f"{len(here)} intents hold as before: --all names them")
            continue
        _print_ops(
            f"intents: {title}",
            (
                f"{each.op}  {rule_text(each.rule)}{f'; {each.detail}' if each.detail else ''}"
                f"{_successors(each.successors)}"
                for each in here
            ),
        )


def _print_ops(title: str, lines: Iterable[str]) -> None:
    lines = list(lines)
    if lines:
        note(title)
    for line in lines:
        note(f"  {line}")


def _successors(ops: Sequence[tuple[str, str]]) -> str:
    return f"; likely successor: {', '.join(f'{op} ({why})' for op, why in ops)}" if ops else ""


def _side(side: NamedState, *, code: bool = False) -> str:
    name = _code(side.name) if code else side.name
    return f"{name} (torch {_plain(side.catalog.build.get('torch', '?')) if code else side.catalog.build.get('torch')})"


def _summary(found: Drift) -> str:
    counts = found.counts()
    texts = [f"{count['in_table']} {DRIFT_KINDS[kind]}" for kind, count in counts.items() if count["in_table"]]
    others = sum(count["others"] for kind, count in counts.items() if kind != WRAPPERS)
    texts += [f"{others} changes to ops of neither table"] if others else []
    return ", ".join(texts) or ("only wrappers around ops of neither table" if found.changes else "no drift")


def _groups(found: Drift) -> Iterable[tuple[str, list[DriftChange], bool]]:
    """Give (title, changes, whether all are to be named) of each kind, what weighs most first."""
    late = found.of(WRAPPERS)
    for in_table in (True, False):
        for kind, title in DRIFT_KINDS.items():
            changes = found.of(kind, in_table=in_table)
            if changes and kind != WRAPPERS:
                where = "" if in_table else ", ops of neither table"
                yield f"{title}{where}", changes, (in_table and kind in _NAMED) or kind == FATE
    if late:
        distinct = len({(change.before, change.after) for change in late})
        yield f"{DRIFT_KINDS[WRAPPERS]} ({distinct} distinct)", late, False


def _ops(changes: Sequence[Any]) -> str:
    return f"{len(changes)} op{'' if len(changes) == 1 else 's'}"


def _lines(changes: Sequence[DriftChange]) -> list[str]:
    """Return a line for each function, for what differs in source, and for each op otherwise."""
    kind = changes[0].kind
    if kind in (LEFT, ENTERED, GONE, NEW, MOVED, FATE):
        return [f"{change.op}: {_step(change)}" for change in changes]
    if kind == SCHEMA:
        return [f"{change.op}: {schema_step(str(change.before), str(change.after))}" for change in changes]
    together: dict[tuple[str, str | None, str | None], list[str]] = {}
    for change in changes:
        key = change.function, change.before, change.after
        together.setdefault(key if kind != WRAPPERS else ("", *key[1:]), []).append(change.op)
    return [f"{', '.join(ops)}{f'  ({key[0]})' if key[0] else ''}" for key, ops in together.items()]


def _step(change: DriftChange) -> str:
    step = f"{change.before or 'not there'} -> {change.after or 'gone'}"
    return f"{step} ({change.function})" if change.function and change.function not in step else step


def _print_notes(found: Drift) -> None:
    for text in _notes(found):
        click.echo()
        note(text)


def _notes(found: Drift) -> Iterable[str]:
    if found.kernels:
        yield f"not compared: the C++ code of {len(found.kernels)} kernels, of which only schema and origin are known"
    if found.unclear:
        yield (
            f"not compared: the source of {len(found.unclear)} in-place ops ({_some(found.unclear)}), which cannot be "
            "told from that of what makes them in-place, which changed"
        )
    for what, ops in (("source", found.no_source), ("schema", found.no_schema)):
        if ops:
            yield (
                f"not compared: the {what} of {len(ops)} ops ({_some(ops)}), which a side does not have: its torch is "
                "none of the released builds; capture it with `catalog capture` and name it catalog:FILE"
            )


def _some(ops: Sequence[str]) -> str:
    return ", ".join(ops[:3]) + (" ..." if len(ops) > 3 else "")


def _code(text: str) -> str:
    """Return text as Markdown code, in which nothing has a meaning."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{printable(text)}{pad}{fence}"


def _plain(text: str) -> str:
    """Return text in which Markdown and HTML find nothing to interpret."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~])", r"\\\1", text)
