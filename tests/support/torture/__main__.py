"""Inject the faults, print the table, and exit with 1 when a goal is missed."""

from __future__ import annotations

import json
import stat
import sys
import tempfile
import time
import traceback
from pathlib import Path

import click

from torture import (
    answers,
    bombs,
    concurrency,
    crash,
    damage,
    disk,
    exits,
    hostile,
    hub,
    hub_forgery,
    interrupts,
    keeping,
    open_files,
    runaway,
    schema,
    signers,
    stamps,
    strangers,
    tampering,
)
from torture.common import Row, Workspace

GROUPS = {
    "crash": crash.FAULTS,
    "concurrency": concurrency.FAULTS,
    "tampering": tampering.FAULTS,
    "damage": damage.FAULTS,
    "disk": disk.FAULTS,
    "hostile": hostile.FAULTS,
    "hub": (*hub.FAULTS, *hub_forgery.FAULTS),
    "keeping": keeping.FAULTS,
    "schema": schema.FAULTS,
    "runaway": runaway.FAULTS,
    "open_files": open_files.FAULTS,
    "exits": exits.FAULTS,
    "signers": signers.FAULTS,
    "answers": answers.FAULTS,
    "bombs": bombs.FAULTS,
    "strangers": strangers.FAULTS,
    "stamps": stamps.FAULTS,
    "interrupts": interrupts.FAULTS,
}


def devices() -> dict[str, tuple[int, int]]:
    """Return the kind and the number of each device that the faults name."""
    found = {name: Path(name).stat() for name in ("/dev/null", "/dev/zero", "/dev/full") if Path(name).exists()}
    return {name: (stat.S_IFMT(one.st_mode), one.st_rdev) for name, one in found.items()}


def run(names: tuple[str, ...], *, full: bool, seed: int) -> list[Row]:
    """Run groups of faults, each in a folder of its own; report progress on standard error."""
    rows: list[Row] = []
    for name in names or tuple(GROUPS):
        for fault in GROUPS[name]:
            begun, before = time.monotonic(), devices()
            with tempfile.TemporaryDirectory(prefix="torture-") as folder:
                Path(folder).chmod(0o755)  # some faults run as other users
                try:
                    found = fault(Workspace(Path(folder), seed, full))
                except Exception as error:
                    traceback.print_exc()
                    found = [Row(f"{name}: {fault.__name__}", 0, "ends without an exception", (repr(error),))]
            if devices() != before:  # as root, a command that replaces a file could replace a device
                found.append(Row(f"{name}: {fault.__name__}", 1, "no device is replaced", (f"{devices()}",)))
            rows += found
            for row in found:
                click.echo(f"{name}: {row.fault}: {row.result} [{time.monotonic() - begun:.1f} s]", err=True)
                for text in row.wrong[1:20]:
                    click.echo(f"    {text:.300}", err=True)
    return rows


def markdown(rows: list[Row]) -> str:
    """Return the table."""
    lines = ["| fault | runs | goal | result |", "|---|---|---|---|"]
    for row in rows:
        cells = (row.fault, f"{row.runs:,}", row.goal, row.result)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


@click.command()
@click.argument("groups", nargs=-1, type=click.Choice(list(GROUPS)))
@click.option("--short", is_flag=True, help="Run the short form of each fault, as the tests do.")
@click.option("--seed", default=1, show_default=True, help="The seed of all random choices.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def main(groups: tuple[str, ...], short: bool, seed: int, as_json: bool) -> None:
    """Inject faults of every kind and print whether the ledger survived; exit with 1 if a goal was missed."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # because no fault needs it in this process
    rows = run(groups, full=not short, seed=seed)
    if as_json:
        click.echo(json.dumps([{"fault": r.fault, "runs": r.runs, "goal": r.goal, "wrong": r.wrong} for r in rows]))
    else:
        click.echo(markdown(rows))
    sys.exit(int(any(row.wrong for row in rows)))


if __name__ == "__main__":
    main()
