"""Whatever the command line can do, Python can do in one call: each option is a parameter of it, or only prints."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import click
import pytest
from command_leaves import leaves

import decomp_ledger as dl
from decomp_ledger import Hub, Ledger
from decomp_ledger.cli import cli

# How a result is printed. Python has the result.
PRINTS = {"json", "markdown", "all", "verbose", "oneline", "date", "preserved", "overridden", "quiet", "patch", "help"}
# An open ledger has an actor. `-m` tells how a program is found, and a `with` block has its program in it.
OTHERWISE = {"actor", "m"}
CALLS: dict[str, tuple[Callable[..., Any], ...]] = {
    "backup": (Ledger.backup,),
    "blame": (Ledger.blame, Hub.blame),
    "browse": (dl.browse,),
    "catalog capture": (dl.capture_catalog,),
    "catalog list": (dl.available_catalogs,),
    "catalog show": (dl.catalog,),
    "check numerics": (Ledger.check_numerics, Ledger.check_program),
    "check opset": (Ledger.check_opset,),
    "checkpoint": (Ledger.checkpoint,),
    "clone": (dl.clone,),
    "collect": (Hub.collect,),
    "diff": (Ledger.diff,),
    "drift": (Ledger.drift,),
    "dump": (Ledger.dump,),
    "explain": (Ledger.explain, Ledger.explain_releases, Hub.explain),
    "exports": (Ledger.export_results, Ledger.export_totals, Hub.exports),
    "fetch": (Ledger.fetch,),
    "gate": (Ledger.gate, Hub.gate),
    "hub init": (Hub.init,),
    "hub ledgers": (Hub.ledgers,),
    "hub verify": (Hub.verify,),
    "imports": (dl.record_imports,),
    "load": (dl.load_dump,),
    "log": (Ledger.events, Hub.events),
    "push": (Ledger.push, Ledger.follow),
    "report": (Ledger.report,),
    "reproduce": (Ledger.reproduce_export,),
    "restore": (dl.restore,),
    "revert": (Ledger.revert,),
    "run": (dl.record, Ledger.push),
    "show": (Ledger.show, Ledger.event),
    "tables": (Ledger.table_series,),
    "tag": (Ledger.tag,),
    "upgrade": (Ledger.upgrade, Ledger.check_upgrade),
    "verify": (Ledger.verify,),
    "why": (Ledger.why,),
    "would-change": (Ledger.would_change,),
}
# An option whose parameter has another name, is a call of its own, or is what a call returns.
NAMES = {
    ("catalog show", "op"): "spec",  # `.ops` of the catalog
    ("drift", "only-used"): "only_used",
    ("exports", "totals"): "table",  # Ledger.export_totals
    ("explain", "all-torch"): "op",  # Ledger.explain_releases
    ("explain", "export"): "spec",
    ("gate", "html"): "self",  # dl.report(result)
    ("imports", "output"): "",  # `.report.to_json()`
    ("log", "after"): "gt",
    ("log", "reverse"): "desc",
    ("collect", "output"): "self",  # Hub(URL)
    ("dump", "output"): "path",
    ("report", "output"): "self",  # the text of the page
    ("push", "as"): "name",
    ("push", "follow"): "report",  # Ledger.follow
    ("run", "push"): "hub",  # Ledger.push
    ("upgrade", "check"): "spec",  # Ledger.check_upgrade
    ("verify", "checkpoint"): "checkpoints",
    ("catalog capture", "import"): "imports",
}  # fmt: skip


LEAVES = dict(leaves(cli))


@pytest.mark.parametrize("name", LEAVES)
def test_each_option_is_a_parameter_of_the_call(name: str) -> None:
    parameters = {each for call in CALLS[name] for each in inspect.signature(call).parameters}
    options = {
        max(each.opts, key=len).lstrip("-"): each for each in LEAVES[name].params if isinstance(each, click.Option)
    }
    if any(call.__qualname__.startswith("Hub") for call in CALLS[name]):  # --hub URL is Hub(URL), --of is `ledger`
        options.pop("hub", None)
    missing = [
        option
        for option in options
        if option not in PRINTS | OTHERWISE
        and NAMES.get((name, option), {"of": "ledger"}.get(option, option.replace("-", "_"))) not in parameters | {""}
    ]
    assert missing == []


def test_every_command_has_a_call_and_no_entry_is_left_over() -> None:
    assert CALLS.keys() == LEAVES.keys()
    options = {
        (name, max(each.opts, key=len).lstrip("-")) for name, command in LEAVES.items() for each in command.params
    }
    assert NAMES.keys() <= options
