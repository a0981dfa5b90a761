"""The imports command: run a program, and show what its libraries register with torch."""

from __future__ import annotations

import atexit
import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import click

from decomp_ledger import queries
from decomp_ledger.analysis.imports import ImportReport, LibraryImport, TableChange
from decomp_ledger.cli import streams
from decomp_ledger.cli.output import columns, count, first_ops, note, printable
from decomp_ledger.cli.run_command import End, Program, load_module, load_script
from decomp_ledger.storage.new_file import write_text

if TYPE_CHECKING:
    from decomp_ledger.pytorch.imports import ImportRecording

__all__ = ["COMMANDS"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-m", "as_module", is_flag=True, help="SCRIPT is a module, as for python -m.")
@click.option("-o", "--output", metavar="FILE", help="Write it as JSON to this file, instead of printing it.")
@click.argument("script")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def imports(as_module: bool, output: str | None, script: str, args: tuple[str, ...]) -> Program:
    """Run a Python program, and show what each library that it imports registers with torch, and at which line.

    These are ops, kernels, fake kernels and decompositions, and what they add to torch's default table, replace in it
    or remove from it. Torch is imported before the program runs. Of torch's own parts that it imports, the numbers are
    shown. No ledger is used, and children of the program are not followed. The exit status is the program's.
    """
    streams.unguard()
    code, main = (load_module if as_module else load_script)(script, list(args))
    recording = queries.record_imports()
    recording.__enter__()
    end = End(None)
    atexit.register(end)
    sys.modules["__main__"] = main
    return Program(code, main, end, partial(_end, recording, output))


def _end(recording: ImportRecording, output: str | None) -> None:
    recording.__exit__(None, None, None)
    if recording.report is not None:
        _show(recording.report, output)


def _show(report: ImportReport, output: str | None) -> None:
    if output is not None:
        write_text(output, json.dumps(report.to_json(), indent=2) + "\n")
        return
    before, after = report.size
    note(f"torch {report.torch}: its default table had {count(before, 'op')}, and has {after} now")
    if not report.libraries and not report.others:
        note("nothing was registered with torch")
    for library in report.libraries:
        click.echo()
        _show_library(library)
    if report.others:
        click.echo()
        note("changed by something else than a registration, such as a write into torch's registry:")
        _show_changes(report.others)
    for text in report.missed:
        note(f"not recorded: {text}")


def _show_library(found: LibraryImport) -> None:
    at = f", imported at {found.imported_at}" if found.imported_at else ""
    numbers = Counter(each.what for each in found.registrations)
    click.secho(printable(found.library), bold=True, nl=False)
    note(f"{at}: " + ", ".join(count(number, what) for what, number in numbers.items()))
    if found.library != "torch":
        rows = ((each.what, each.op, each.key, each.where) for each in found.registrations)
        columns(("what", "op", "key", "where"), rows)
    _show_changes(found.changes)


def _show_changes(changes: tuple[TableChange, ...]) -> None:
    for line in _change_lines(changes):
        note(f"  default table: {line}")


def _change_lines(changes: tuple[TableChange, ...]) -> Iterator[str]:
    """Give a line for each kind of change with the same text before and after."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for each in changes:
        alike.setdefault((each.change, each.before, each.after), []).append(each.op)
    for (change, before, after), ops in alike.items():
        texts = [text for text in (before, after) if text]
        yield f"{change} {first_ops(ops)}: {' -> '.join(texts)}"


COMMANDS = (imports,)
