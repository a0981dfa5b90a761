"""Commands about catalogs: list the shipped ones, show one, capture one."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

import click

from decomp_ledger import queries
from decomp_ledger.cli.output import (
    LedgerOption,
    columns,
    count,
    json_option,
    note,
    pass_ledger,
    printable,
    progress,
    write_json,
)
from decomp_ledger.errors import UnknownOp
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.op_lookup import did_you_mean, ops_named
from decomp_ledger.model.state_specs import STATE
from decomp_ledger.reports.drift_words import decomposition_text

__all__ = ["COMMANDS"]


@click.group()
def catalog() -> None:
    """List, show and capture catalogs: what each torch offers, as data."""


@catalog.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the torch versions whose catalogs are shipped."""
    found = {f"torch:{version}": queries.catalog(f"torch:{version}") for version in queries.available_catalogs()}
    if as_json:
        write_json([{"name": name, **_summary(each)} for name, each in found.items()])
        return
    rows = (
        (name, each.build["accelerator"], each.build["git"][:10], str(len(each.ops)), str(_default_count(each)))
        for name, each in found.items()
    )
    columns(("catalog", "built for", "git", "ops", "decomposed by default"), rows)


@catalog.command()
@click.argument("state", metavar=f"catalog:FILE|{STATE}")
@click.option("--op", help="Only this op, or the overloads of this family.")
@json_option
@pass_ledger
def show(option: LedgerOption, state: str, op: str | None, as_json: bool) -> None:
    """Show the catalog of a torch version, of a file, or of a table's last materialization."""
    with option.ask() as ledger:
        found = queries.catalog(state, ledger=ledger)
    ops = found.ops if op is None else _named(found, state, op)
    if as_json:
        write_json({**_summary(found), "ops": {name: entry.to_json() for name, entry in ops.items()}})
        return
    note(", ".join(f"{key} {value}" for key, value in found.build.items()))
    note(f"{count(len(found.ops), 'op')}, {_default_count(found)} of them decomposed by default")
    if op is not None:
        _print_entries(ops)
        return
    rows = (
        (name, "yes" if entry.default else "", decomposition_text(entry))
        for name, entry in sorted(ops.items())
        if entry.origin is not None
    )
    columns(("op", "default", "decomposition"), rows)


@catalog.command()
@click.option("--python", "interpreter", metavar="INTERPRETER", default=sys.executable, show_default="this one",
              help="The Python whose torch to capture. The command runs it.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write to a file, which catalog:FILE then names.")
@click.option("--traces/--no-traces", default=True,
              help="Trace torch's decompositions on the shipped sample calls; --no-traces saves a minute.")  # fmt: skip
@click.option("--samples", type=click.Path(dir_okay=False), help="Trace your own ops on the sample calls of this file.")
@click.option("--import", "imports", multiple=True, metavar="MODULE",
              help="Import this module first, and trace its ops. Can be repeated.")  # fmt: skip
@json_option
def capture(
    interpreter: str, output: str | None, traces: bool, samples: str | None, imports: Sequence[str], as_json: bool
) -> None:
    """Capture the torch of a Python interpreter, which needs nothing of this package.

    Ops of --import that --samples does not have are traced on calls that are made from their schemas.

    Without --output, print the catalog itself as JSON.
    """
    own = None if samples is None else queries.read_samples(samples)
    with progress("trace") as report:
        captured = queries.capture_catalog(
            interpreter, output=output, traces=traces, samples=own, imports=imports, progress=report
        )
    traced = {} if captured.traced is None else captured.traced.traces.of
    for op in sorted((own or {}).keys() - traced.keys()):
        click.echo(printable(f"{op}: not traced, because the default table does not decompose it"), err=True)
    if output is None:
        click.echo(json.dumps(captured.to_file()))
    elif as_json:
        write_json({"name": f"catalog:{output}", **_summary(captured)})
    else:
        note(f"captured torch {captured.build.get('torch')}; compare it as catalog:{output}")


def _named(found: Catalog, state: str, op: str) -> dict[str, Entry]:
    names = ops_named(op, found.ops)
    if names[0] not in found.ops:
        hint = did_you_mean(names[0], found.ops) or f"; list its ops with `catalog show {state}`"
        raise UnknownOp(f"{names[0]}: the catalog of {state} has no such op{hint}")
    return {name: found.ops[name] for name in names}


def _print_entries(ops: Mapping[str, Entry]) -> None:
    for name, entry in ops.items():
        note(name)
        for key, value in entry.to_json().items():
            note(f"  {key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def _summary(found: Catalog) -> dict[str, Json]:
    return {"build": dict(found.build), "size": len(found.ops), "default": _default_count(found)}


def _default_count(found: Catalog) -> int:
    return sum(entry.default for entry in found.ops.values())


COMMANDS = (catalog,)
