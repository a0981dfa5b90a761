"""The parts that all commands use: the ledger option, JSON, escaping, columns, and an event in words."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TextIO

import attrs
import click

from decomp_ledger.cli import streams
from decomp_ledger.cli.ledger_choice import COMMAND_LINE, FOUND, INTERRUPTED, WRONG_USE, LedgerChoice, explain_nothing
from decomp_ledger.errors import LedgerFileError, MissingLedger
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.events import Event
from decomp_ledger.model.materialize import Snapshot
from decomp_ledger.model.printable import printable
from decomp_ledger.model.rules import Rule, RuleDiff
from decomp_ledger.model.state_specs import parse_number, shorten
from decomp_ledger.queries import RecordedEvent
from decomp_ledger.reports.blocks import Page
from decomp_ledger.reports.markdown import to_markdown
from decomp_ledger.reports.words import at_text, count, first_ops, rule_text, summary, when
from decomp_ledger.storage.file_checks import absolute

__all__ = [
    "COMMAND_LINE",
    "FOUND",
    "INTERRUPTED",
    "STAR",
    "WRONG_USE",
    "LedgerOption",
    "at_text",
    "columns",
    "count",
    "event_details",
    "event_json",
    "event_lines",
    "explain_nothing",
    "first_ops",
    "folded",
    "hanging",
    "json_option",
    "markdown_option",
    "note",
    "pass_ledger",
    "phases",
    "print_lines",
    "print_page",
    "printable",
    "progress",
    "prose",
    "recorded_json",
    "rule_diff_json",
    "rule_json",
    "rule_text",
    "snapshot_json",
    "some",
    "summary",
    "when",
    "whole_number",
    "write_json",
]

STAR = " *"  # after the name of an op that is not Core ATen
_LINE, _SHORTEST_LINE = 120, 40  # characters of a line of prose; the fewest, on a narrow terminal
_GAP = 3  # spaces between two columns
_NARROWEST = 12  # cells of a column that is wrapped; narrower ones become empty


class LedgerOption(LedgerChoice):
    """The ledger that the command line names, or the project has, and ways to open it."""

    __slots__ = ()

    def read(self) -> Ledger:
        """Open it for reading."""
        return Ledger(self.path, read_only=True)

    def ask(self) -> Ledger:
        """Open it for reading at the first use: `torch:2.13.0` needs no ledger, and `verify` reports a bad file."""
        return Ledger(self.path, read_only=True, lazy=True)

    def write(self, actor: str | None = None) -> Ledger:
        """Open it for writing. The file must exist, because a new ledger has nothing to change."""
        with self.read():
            pass
        ledger = Ledger(self.path, actor=self.actor_or(actor))
        ledger.command = click.get_current_context().meta[COMMAND_LINE]
        return ledger


def pass_ledger(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the ledger that the command line names, as its first argument."""

    @functools.wraps(command)
    def with_ledger(*args: Any, **kwargs: Any) -> Any:
        option = LedgerOption(*click.get_current_context().obj)
        try:
            return command(option, *args, **kwargs)
        except MissingLedger as error:
            if error.path != absolute(option.path):  # an argument of the command, which --ledger does not name
                raise
            raise LedgerFileError(
                f"{error.path}: the ledger does not exist; name one with --ledger, or record something first"
            ) from None

    return with_ledger


def _one_form(context: click.Context, param: click.Parameter, value: bool) -> bool:
    """Refuse `--markdown` with `--json`. A callback of both options, because click reads them in any order."""
    other = "markdown" if param.name == "as_json" else "as_json"
    if value and context.params.get(other):
        raise click.UsageError("--markdown and --json exclude each other; give one of them")
    return value


json_option = click.option("--json", "as_json", is_flag=True, callback=_one_form, help="Print JSON, for programs.")
markdown_option = click.option(
    "--markdown", is_flag=True, callback=_one_form, help="Print Markdown, for a pull request."
)


def whole_number(context: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Return an option's number: ASCII digits, for a number that SQLite can hold. A callback of click's options."""
    number = None if value is None else parse_number(value)
    if value is not None and number is None:
        raise click.BadParameter(f"{shorten(value)}: not a number; give one from 0 to 2**63 - 1, in the digits 0 to 9")
    return number


def some(context: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Return an option's number of at least 1. A callback of click's options."""
    number = whole_number(context, param, value)
    if number == 0:
        raise click.BadParameter("0: nothing would be shown; give 1 or more")
    return number


def note(text: str) -> None:
    """Print one escaped line."""
    click.echo(printable(text))


def prose(text: str) -> None:
    """Print a sentence, escaped, and folded at spaces if it is long."""
    print_lines(hanging(text))


def hanging(text: str) -> list[str]:
    """Return the escaped lines of one line of text; if it is long, folded at spaces, the others indented further."""
    line = printable(text)
    indent = line[: len(line) - len(line.lstrip(" "))]
    # At spaces alone, because a word may be something to copy.
    return textwrap.wrap(
        line.lstrip(" "),
        _line(),
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    ) or [line]


def folded(text: str, indent: str) -> Iterator[str]:
    """Give the escaped lines of a text of any origin: its own lines, each folded at spaces."""
    for line in text.split("\n"):
        more = {"initial_indent": indent, "subsequent_indent": indent}
        yield from textwrap.wrap(printable(line), _line(), **more, break_long_words=False, break_on_hyphens=False)  # type: ignore[arg-type]


def print_lines(lines: Iterable[str]) -> None:
    """Print escaped lines, 500 at a time, because click flushes after each call (0.3 s for 10^5 lines)."""
    rest = iter(lines)
    while not streams.output_is_gone() and (some := list(itertools.islice(rest, 500))):
        click.echo("\n".join(some))


def print_page(page: Page) -> None:
    """Print a page as Markdown, whose texts are escaped."""
    print_lines(to_markdown(page).splitlines())


def write_json(value: Any) -> None:
    """Print JSON in ASCII, which every terminal and every parser can read."""
    click.echo(json.dumps(value, indent=2))


def _line() -> int:
    """Return the characters of a line of prose: those of the terminal, if that is narrow."""
    return min(_LINE, max(shutil.get_terminal_size().columns, _SHORTEST_LINE)) if _is_terminal(sys.stdout) else _LINE


def columns(heads: Sequence[str], rows: Iterable[Sequence[str]], *, names_break: bool = True) -> None:
    """Print a table for people: escape the cells, and wrap them where the terminal is too narrow.

    Args:
        heads: the names of the columns.
        rows: the cells.
        names_break: whether a word may be broken where the terminal is narrower than the longest words together. Else
            each row is printed as lines, a column on each, so that a name can be copied.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    padded = list(map(_padded, zip(heads, *cells, strict=True)))
    head, *lines = ("".join(row).rstrip() for row in zip(*padded, strict=True))
    total = sum(_width(column[0]) for column in padded) - _GAP
    width = shutil.get_terminal_size().columns
    if _is_terminal(sys.stdout) and total > width:
        room = width - _GAP * (len(heads) - 1)
        widths = _shared(room, [[head, *(row[n] for row in cells)] for n, head in enumerate(heads)])
        if widths is None and cells and not names_break:
            _in_lines(heads, cells, _rule(min(width, total)))
            return
        _wrapped(heads, cells, max(width, _NARROWEST * len(heads)), widths)
        return
    print_lines([click.style(head, bold=True), _rule(total), *lines])


def _rule(width: int) -> str:
    """Return a line of some cells."""
    return streams.encodable("\N{BOX DRAWINGS LIGHT HORIZONTAL}", "-") * width


def _shared(room: int, columns: Sequence[Sequence[str]]) -> list[int] | None:
    """Return the width of each column of wrapped cells, so that no word is broken; None if the words do not fit.

    Args:
        room: the width of all columns together.
        columns: the cells of each, with its head.
    """
    widths = [max((_width(word) for cell in column for word in cell.split()), default=0) for column in columns]
    room -= sum(widths)
    if room < 0:
        return None
    wanted = [max(map(_width, column)) for column in columns]
    while room and widths != wanted:
        for number in range(len(widths)):
            if room and widths[number] < wanted[number]:
                widths[number] += 1
                room -= 1
    return widths


def _is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a stream is a terminal. A process that starts without the stream has None."""
    return stream is not None and stream.isatty()


def _padded(column: Sequence[str]) -> list[str]:
    """Return the cells of a column, filled with spaces to one width that includes the gap to the next column."""
    widths = list(map(_width, column))
    widest = max(widths) + _GAP
    return [cell + " " * (widest - width) for cell, width in zip(column, widths, strict=True)]


def _width(text: str) -> int:
    """Return the number of terminal cells that a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _in_lines(heads: Sequence[str], rows: Sequence[Sequence[str]], rule: str) -> None:
    """Print each row as lines: its first cell, then each other column with its name."""
    print_lines([click.style(heads[0], bold=True), rule])
    indent = " " * (_GAP + max(map(_width, heads)) + _GAP)
    for first, *others in rows:
        print_lines([first])
        for head, cell in zip(heads[1:], others, strict=True):
            begin = f"{' ' * _GAP}{head}"
            begin += " " * (len(indent) - _width(begin))
            options = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": indent}
            print_lines(textwrap.wrap(cell, _line(), initial_indent=begin, **options) or [begin.rstrip()])  # type: ignore[arg-type]


def _wrapped(heads: Sequence[str], rows: Iterable[Sequence[str]], width: int, widths: Sequence[int] | None) -> None:
    """Print a table whose cells are wrapped.

    Args:
        heads: the names of the columns.
        rows: the cells.
        width: that of the table.
        widths: those of the columns; None to break words.
    """
    # Imported late, because importing rich takes 27 ms, and few commands wrap anything.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, head in enumerate(heads):
        # With `fold`, because rich would cut a long word off.
        table.add_column(head, overflow="fold", width=None if widths is None else widths[number])
    for row in rows:
        table.add_row(*map(Text, row))
    # With both sizes given, rich does not read COLUMNS and LINES, which may be 0 or not numbers.
    console = Console(highlight=False, width=width, height=1)
    if click.get_current_context().color is False:
        console = Console(highlight=False, width=width, height=1, color_system=None)
    console.print(table)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], object] | None]:
    """Show a progress bar with counts and the time left on a terminal.

    Yields:
        A function to call with (done, total); None where standard error is not a terminal.
    """
    with phases(label) as (report,):
        yield report


@contextmanager
def phases(*labels: str) -> Iterator[tuple[Callable[[int, int], object] | None, ...]]:
    """Show a progress bar for each part of a command, from its first report on; the first one at once.

    Yields:
        A function for each label, as :func:`progress` has it.
    """
    if not _is_terminal(sys.stderr):
        yield (None,) * len(labels)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    left = TimeRemainingColumn(elapsed_when_finished=True)
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), left)
    size = shutil.get_terminal_size()  # given, because rich fails on COLUMNS and LINES that are not numbers
    console = Console(stderr=True, width=max(size.columns, _NARROWEST), height=max(size.lines, 1))
    with Progress(*parts, console=console, transient=True) as bar:
        tasks = [
            bar.add_task(label, total=None, start=number == 0, visible=number == 0)
            for number, label in enumerate(labels)
        ]

        def report(task: TaskID, done: int, total: int) -> None:
            bar.start_task(task)  # the time left is counted from its first report
            bar.update(task, completed=done, total=total, visible=True)

        yield tuple(partial(report, task) for task in tasks)


def event_json(event: Event) -> dict[str, Json]:
    """Return an event as plain data, with its changes."""
    left_out = ("body", "written", "call_site")
    value: dict[str, Json] = attrs.asdict(event, filter=lambda field, _: field.name not in left_out)
    value["call_site"] = None if event.call_site is None else event.call_site.to_json()
    body = attrs.asdict(event.body)
    if event.changes:
        body["changes"] = [attrs.asdict(change) for change in event.changes]
    value["body"] = body
    return value


def snapshot_json(snapshot: Snapshot, *, everything: bool) -> dict[str, Json]:
    """Return a snapshot as plain data; with `everything`, also the decomposition of every op."""
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
    """Return a rule as plain data."""
    if rule is None:
        return None
    decomposition = rule.decomposition
    return {"action": rule.action, "decomposition": None if decomposition is None else decomposition.to_json()}


def rule_diff_json(found: RuleDiff) -> dict[str, Json]:
    """Return two rules of one op as plain data, with how their sources differ."""
    source: list[Json] = [*found.source_diff()]
    return {"before": rule_json(found.before), "after": rule_json(found.after), "source_diff": source}


def event_lines(event: Event, *, time: str | None = None) -> Iterator[str]:
    """Give the escaped lines that show an event: what, who, where, why.

    Args:
        event: the event.
        time: when it was recorded, in words; by default in UTC.
    """
    number = f"#{event.seq}"
    at = time or when(event.recorded_at)
    first, *rest = hanging(f"{number}  {at}  {event.table}@{event.version}  {event.kind}  {summary(event)}")
    yield click.style(number, fg="yellow") + first.removeprefix(number)
    yield from rest
    yield from hanging(f"    by {event.actor}{at_text(event)}")
    if event.reason:
        yield from hanging(f"    because {event.reason}")


def event_details(found: RecordedEvent, *, whole: bool = False, time: str | None = None) -> Iterator[str]:
    """Give the escaped lines that show an event with its environment.

    Args:
        found: the event, with its environment.
        whole: also show the source of each decomposition, and every field of the body.
        time: when it was recorded, in words; by default in UTC.
    """
    event = found.event
    yield from event_lines(event, time=time)
    frames = () if event.call_site is None else event.call_site.frames
    if len(frames) > 1:
        yield "    the lines that made it, innermost first:"
        yield from (printable(f"      {frame.with_distribution}") for frame in frames)
    for change in event.changes:
        decomposition = found.decompositions.get(change.decomposition or "")
        rule = change.action if decomposition is None else rule_text(Rule(change.action, decomposition))
        digest = "" if decomposition is None or decomposition.digest is None else f"  {decomposition.digest[:12]}"
        yield printable(f"    {change.op}  {rule}{digest}")
        if whole and decomposition is not None and decomposition.source is not None:
            yield from (printable(f"      {line}") for line in decomposition.source.splitlines())
    fields = attrs.asdict(event.body, recurse=False) if whole else {}
    for name, value in fields.items():
        if name != "changes" and value not in (None, (), {}):
            yield from _wrapped_field(name, value)
    for name, value in found.environment.items():
        yield from _wrapped_field(name, value)
    yield f"    hash: {event.hash}, after {event.prev_hash}"


def _wrapped_field(name: str, value: object) -> Iterator[str]:
    """Give the escaped lines of a named value; lists and counts of ops are folded."""
    text = str(value)
    if isinstance(value, Mapping):
        text = ", ".join(f"{key} {item}" for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        text = ", ".join(map(str, value))
    # At spaces alone, because a word may be something to copy.
    yield from textwrap.wrap(
        printable(f"{name}: {text}"),
        _line(),
        initial_indent="    ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def recorded_json(found: RecordedEvent) -> dict[str, Json]:
    """Return an event as plain data, with its environment and the decompositions that it names."""
    decompositions: dict[str, Json] = {digest: each.to_json() for digest, each in found.decompositions.items()}
    facts = dict(found.environment)
    return {**event_json(found.event), "environment_facts": facts, "decompositions": decompositions}
