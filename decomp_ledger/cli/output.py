"""What the commands share: the ledger option, JSON, escaping, and lines for people."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import click

from decomp_ledger.errors import LedgerError
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import Changing, Created, Event, Exported, Materialized, Reverted, Tagged, Updated
from decomp_ledger.model.rules import Rule, TableState

if TYPE_CHECKING:
    from decomp_ledger.model.materialize import Snapshot

__all__ = [
    "AT_FAULT",
    "FOUND",
    "LedgerOption",
    "columns",
    "event_json",
    "event_lines",
    "rule_json",
    "rule_text",
    "json_option",
    "note",
    "pass_ledger",
    "print_lines",
    "printable",
    "progress",
    "snapshot_json",
    "sole_name",
    "sole_table",
    "what",
    "when",
    "write_json",
]

FOUND = 1  # exit status: a difference or a fault was found
_GAP = 3  # spaces between two columns
AT_FAULT = 2  # exit status: used wrongly


class LedgerOption(NamedTuple):
    """The ledger that the command line names."""

    path: str

    def read(self) -> Ledger:
        """Open it for reading."""
        return Ledger(self.path, read_only=True)

    def write(self, actor: str | None = None) -> Ledger:
        """Open it for writing; it must be there, since there is nothing to change in a new one."""
        with self.read():
            pass
        return Ledger(self.path, actor=actor)


pass_ledger = click.make_pass_decorator(LedgerOption)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def printable(text: str) -> str:
    """Escape what does not print: control characters, terminal escapes, line breaks, direction marks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def note(text: str) -> None:
    """Print one escaped line."""
    click.echo(printable(text))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines that are escaped already, many at a time: each printing alone is a call of the system."""
    rest = iter(lines)
    while some := list(itertools.islice(rest, 500)):
        click.echo("\n".join(some))


def write_json(value: Any) -> None:
    """Print JSON in ASCII: whatever a ledger holds, a terminal and a parser both get through it."""
    click.echo(json.dumps(value, indent=2))


def columns(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table for people: cells are escaped, and wrapped where the terminal is too narrow for them."""
    cells = [[printable(cell) for cell in row] for row in rows]
    padded = list(map(_padded, zip(heads, *cells, strict=True)))
    head, *lines = ("".join(row).rstrip() for row in zip(*padded, strict=True))
    total = sum(_width(column[0]) for column in padded) - _GAP
    if sys.stdout.isatty() and total > _terminal():
        _wrapped(heads, cells)
        return
    print_lines([click.style(head, bold=True), "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * total, *lines])


def _terminal() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _padded(column: Sequence[str]) -> list[str]:
    """Return the cells of a column with spaces behind them, all of one width, the gap to the next column included."""
    widths = list(map(_width, column))
    widest = max(widths) + _GAP
    return [cell + " " * (widest - width) for cell, width in zip(column, widths, strict=True)]


def _width(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _wrapped(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    # Imported here: to import rich and to draw a thousand rows with it takes longer than all the rest.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], object] | None]:
    """Show on a terminal that something takes its time, and how far it has come once that is told.

    Gives what is to be told (done, total); None where there is no terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    parts = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*parts, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def sole_table(ledger: Ledger, spec: str | None) -> TableState:
    """Return the state that a command names; without a name, the ledger's only table."""
    return ledger.resolve(sole_name(ledger, spec))


def sole_name(ledger: Ledger, spec: str | None) -> str:
    """Return what a command names; without a name, the ledger's only table."""
    if spec is not None:
        return spec
    tables = [info.name for info in ledger.tables()]
    if len(tables) == 1:
        return tables[0]
    some = ", ".join(tables[:8]) + (" ..." if len(tables) > 8 else "")
    raise LedgerError(f"{ledger.path} has {len(tables)} tables; name one: {some or 'none yet, record something first'}")


def event_json(event: Event) -> dict[str, Json]:
    """Return an event as plain data, with its changes laid open."""
    value: dict[str, Json] = attrs.asdict(event, filter=lambda field, _: field.name not in ("body", "written"))
    body = attrs.asdict(event.body)
    if event.changes:
        body["changes"] = [attrs.asdict(change) for change in event.changes]
    value["body"] = body
    return value


def snapshot_json(snapshot: Snapshot, *, everything: bool) -> dict[str, Json]:
    """Return a snapshot as plain data; with the decomposition of every op, if so asked."""
    return {
        "digest": snapshot.digest,
        "build": dict(snapshot.build),
        "size": len(snapshot.ops),
        "preserved": list(snapshot.preserved),
        "overridden": list(snapshot.overridden),
        "pending": list(snapshot.pending),
        **({"ops": dict(snapshot.ops)} if everything else {}),
    }


def rule_json(rule: Rule | None) -> dict[str, Json] | None:
    """Return an intent as plain data."""
    if rule is None:
        return None
    decomposition = rule.decomposition
    return {"action": rule.action, "decomposition": None if decomposition is None else decomposition.to_json()}


def rule_text(rule: Rule | None) -> str:
    """Return an intent in words."""
    if rule is None:
        return "(nothing)"
    return rule.action if rule.decomposition is None else f"{rule.action}: {rule.decomposition.label()}"


def what(event: Event, limit: int = 3) -> str:
    """Return in a few words what an event says."""
    body = event.body
    if isinstance(body, Created):
        return f"base {body.base}" if body.parent is None else f"forked from {body.parent[0]}@{body.parent[1]}"
    if isinstance(body, Tagged):
        return body.name
    if isinstance(body, Materialized):
        waiting = f", {len(body.pending)} pending" if body.pending else ""
        return f"snapshot {body.snapshot[:12]}{waiting}"
    if isinstance(body, Exported):
        if body.error is not None:
            return f"FAILED after {body.milliseconds} ms: {body.error[0]}"
        sizes = f"{sum(body.ops_before.values())} -> {sum(body.ops_after.values())} ops"
        return f"{sizes}, {len(body.fired)} decompositions fired, {body.milliseconds} ms"
    if not isinstance(body, Changing):
        return ", ".join(f"{name} {value}" for name, value in attrs.asdict(body).items())
    pending = set(body.pending)
    said: dict[str, list[str]] = {}
    for change in body.changes:
        said.setdefault(change.action, []).append(change.op + (" (not loaded yet)" if change.op in pending else ""))
    parts = []
    for action, ops in said.items():
        more = f" and {len(ops) - limit} more" if len(ops) > limit else ""
        # What a set or a pop does to its op is plain; an update may do one thing to one op and another to the next.
        told = f"{action} " if isinstance(body, (Updated, Reverted)) else ""
        parts.append(told + ", ".join(ops[:limit]) + more)
    back = f"to version {body.to}: " if isinstance(body, Reverted) else ""
    return back + "; ".join(parts)


def event_lines(event: Event) -> Iterator[str]:
    """Give the escaped lines that show an event: what, who, where, why."""
    said = f"  {when(event.recorded_at)}  {event.table}@{event.version}  {event.kind}  {what(event)}"
    yield click.style(f"#{event.seq}", fg="yellow") + printable(said)
    yield printable(f"    by {event.actor}" + (f", at {event.call_site}" if event.call_site else ""))
    if event.reason:
        yield printable(f"    because {event.reason}")


def when(recorded_at: str) -> str:
    """Return a time as people are shown it."""
    return recorded_at[:19].replace("T", " ")
