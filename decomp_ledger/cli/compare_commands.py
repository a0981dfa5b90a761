"""Commands that compare torch versions: catalog, drift, replay. None imports torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from decomp_ledger import catalogs
from decomp_ledger.analysis.drift import NamedState, drift
from decomp_ledger.analysis.upgrade import RuleEffect, Upgrade, UpgradeCheck, check_upgrade, upgrade
from decomp_ledger.cli import drift_output
from decomp_ledger.cli.output import (
    FOUND,
    LedgerOption,
    columns,
    json_option,
    note,
    pass_ledger,
    rule_json,
    snapshot_json,
    write_json,
)
from decomp_ledger.cli.state_specs import STATE, find, find_side, ops_of, used_ops, uses
from decomp_ledger.errors import LedgerError
from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.pytorch.capture_program import capture_with

__all__ = ["COMMANDS"]


@click.group()
def catalog() -> None:
    """List, show and make catalogs: what a torch offers, as data."""


@catalog.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the torch versions whose catalogs are shipped."""
    found = [(version, catalogs.released(version)) for version in catalogs.available()]
    if as_json:
        write_json([{"name": f"torch:{version}", **_catalog_json(each)} for version, each in found])
        return
    columns(
        ("catalog", "built for", "git", "ops", "decomposed by default"),
        (
            (
                f"torch:{version}",
                each.build["accelerator"],
                each.build["git"][:10],
                str(len(each.ops)),
                str(_size(each)),
            )
            for version, each in found
        ),
    )


@catalog.command()
@click.argument("state", metavar=f"catalog:FILE|{STATE}")
@click.option("--op", help="Only this op.")
@json_option
@pass_ledger
def show(option: LedgerOption, state: str, op: str | None, as_json: bool) -> None:
    """Show a catalog: one of a torch version, of a file, or the one that a table met last."""
    found = find_side(option, state).catalog
    ops = found.ops
    if op is not None:
        name = op_names.normalize(op)
        if name not in ops:
            raise LedgerError(
                f"the catalog of {state} has no op {name}; see all of its ops with `catalog show {state}`"
            )
        ops = {name: ops[name]}
    if as_json:
        write_json({**_catalog_json(found), "ops": {name: entry.to_json() for name, entry in ops.items()}})
        return
    note(", ".join(f"{key} {value}" for key, value in found.build.items()))
    note(f"{len(found.ops)} ops, {_size(found)} of them decomposed by default")
    for name, entry in ops.items() if op is not None else ():
        note(name)
        for key, value in entry.to_json().items():
            note(f"  {key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    if op is None:
        columns(
            ("op", "default", "decomposition"),
            (
                (name, "yes" if entry.default else "", drift_output.decomposition_text(entry))
                for name, entry in sorted(ops.items())
                if entry.origin is not None
            ),
        )


@catalog.command()
@click.option("--python", "interpreter", metavar="INTERPRETER", default=sys.executable, show_default="this one",
              help="The Python whose torch is captured; it is run.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write it to a file, to be named catalog:FILE.")
@json_option
def capture(interpreter: str, output: str | None, as_json: bool) -> None:
    """Capture the torch of a Python interpreter, which needs nothing of this package.

    Without --output the catalog itself is printed, as JSON.
    """
    data = capture_with(interpreter)
    captured = Catalog.from_json(data)
    if output is None:
        click.echo(json.dumps(data))
        return
    try:
        Path(output).write_text(json.dumps(data), encoding="utf-8")
    except OSError as error:
        raise LedgerError(f"cannot write {output}: {error.strerror}; name another file") from None
    if as_json:
        write_json({"name": f"catalog:{output}", **_catalog_json(captured)})
    else:
        note(f"torch {captured.build.get('torch')} is captured: compare it as catalog:{output}")


def _catalog_json(found: Catalog) -> dict[str, Json]:
    return {"build": dict(found.build), "size": len(found.ops), "default": _size(found)}


def _size(found: Catalog) -> int:
    return sum(entry.default for entry in found.ops.values())


_STATE = "A and B are each TABLE, TABLE@VERSION, TABLE@TAG, torch:VERSION, export:N, FILE.pt2 or catalog:FILE."


@click.command("drift", epilog=_STATE)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--all", "everything", is_flag=True, help="Name every op, also where a count tells enough.")
@click.option("--only-used", "program", metavar="export:N|FILE.pt2",
              help="Only ops that this program has, before or after its export, or that fired in it.")  # fmt: skip
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@json_option
@pass_ledger
def drift_command(
    option: LedgerOption, before: str, after: str, everything: bool, program: str | None, markdown: bool, as_json: bool
) -> int:
    """Show what differs between two tables or torch versions, what weighs most first; exit with 1 if anything does."""
    if markdown and as_json:
        raise click.UsageError("--markdown and --json exclude each other")
    used = None if program is None else used_ops(option, program)
    all_of_it = drift(find_side(option, before), find_side(option, after))
    found = all_of_it if used is None else all_of_it.only(used)
    if as_json:
        of: dict[str, Json] = {
            "program": program,
            "ops": list[Json](sorted(used or ())),
            "of_changes": len(all_of_it.changes),
        }
        write_json({**found.to_json(), "only_used": None if program is None else of})
        return FOUND if found.changes else 0
    lead = "" if program is None else drift_output.only_used_text(program, len(used or ()), all_of_it, found)
    if markdown:
        drift_output.print_markdown(found, lead)
    else:
        drift_output.print_drift(found, lead, everything=everything)
    return FOUND if found.changes else 0


@click.command("upgrade")
@click.argument("state", metavar=STATE)
@click.option("--torch", "version", metavar="VERSION", help="A torch version whose catalog is shipped.")
@click.option("--python", "interpreter", metavar="INTERPRETER", help="A Python whose torch is captured; it is run.")
@click.option("--check", is_flag=True,
              help="Exit with 1 if anything changes that its recorded exports use: a gate for an upgrade.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Name every op, also where a count tells enough.")
@json_option
@pass_ledger
def upgrade_command(
    option: LedgerOption,
    state: str,
    version: str | None,
    interpreter: str | None,
    check: bool,
    everything: bool,
    as_json: bool,
) -> int:
    """Say what a table would be on another torch, and what the move there does to it."""
    if (version is None) == (interpreter is None):
        raise click.UsageError("name the torch to move to: either --torch VERSION or --python INTERPRETER")
    here = find(option, state)
    name, said = here.name, here.state
    met = None if here.catalog is None else catalogs.completed(here.catalog)
    exports = uses(option, here) if check else []
    there = catalogs.released(version) if version is not None else Catalog.from_json(capture_with(str(interpreter)))
    found = upgrade(
        NamedState(name, said, there), None if met is None else NamedState(name, said, met), _torch_namespaces(met)
    )
    if check:
        judged = check_upgrade(found, frozenset[str]().union(*map(ops_of, exports)))
        if as_json:
            write_json(_check_json(found, judged, len(exports)))
        else:
            drift_output.print_upgrade_check(found, judged, len(exports))
        return FOUND if judged.findings else 0
    if as_json:
        write_json(_upgrade_json(found, everything=everything))
    else:
        drift_output.print_upgrade(found, everything=everything)
    return 0


def _torch_namespaces(catalog: Catalog | None) -> set[str]:
    """Return the namespaces that torch itself had in a catalog's build; none, if that build is not a released one."""
    known = None if catalog is None else catalogs.of_build(catalog.build)
    return set() if known is None else set(map(op_names.namespace, known.ops))


def _check_json(found: Upgrade, judged: UpgradeCheck, exports: int) -> dict[str, Json]:
    return {
        "table": found.after.state.table,
        "version": found.after.state.version,
        "from": dict(judged.drift.before.catalog.build),
        "to": dict(found.after.catalog.build),
        "exports": exports,
        "used": list[Json](sorted(judged.used)),
        "passed": not judged.findings,
        "findings": [
            {
                "op": each.op,
                "kind": each.kind,
                "detail": each.detail,
                "before": None if each.change is None else each.change.before,
                "after": None if each.change is None else each.change.after,
                "function": "" if each.change is None else each.change.function,
            }
            for each in judged.findings
        ],
        "kernels": list(judged.kernels),
        "foreign": list(judged.foreign),
    }


def _upgrade_json(found: Upgrade, *, everything: bool) -> dict[str, Json]:
    snapshot = found.snapshot
    moved = None if found.drift is None else found.drift.to_json()
    return {
        "table": found.after.state.table,
        "version": found.after.state.version,
        "from": None if found.drift is None else dict(found.drift.before.catalog.build),
        "snapshot": snapshot_json(snapshot, everything=everything),
        "rules": [_effect_json(effect) for effect in found.effects],
        "now_kept": [change.op for change in found.now_kept()],
        "now_decomposed": [change.op for change in found.now_decomposed()],
        "gone": [{"op": change.op, "successors": _successors_json(ops)} for change, ops in found.gone()],
        "foreign": list(found.foreign),
        "counts": None if moved is None else moved["counts"],
        "not_compared": None if moved is None else moved["not_compared"],
        **({"changes": [] if moved is None else moved["changes"]} if everything else {}),
    }


def _effect_json(effect: RuleEffect) -> dict[str, Json]:
    return {
        "op": effect.op,
        **(rule_json(effect.rule) or {}),
        "effect": effect.effect,
        "detail": effect.detail,
        "successors": _successors_json(effect.successors),
    }


def _successors_json(successors: tuple[tuple[str, str], ...]) -> list[Json]:
    return [{"op": op, "why": why} for op, why in successors]


COMMANDS = (catalog, drift_command, upgrade_command)
