"""The lines that `why` gives are run, and the graph shows that they do what they say; `would_change` likewise."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.export import ExportedProgram, export

import decomp_ledger as dl
from decomp_ledger import Ledger, UnusableValue
from decomp_ledger.cli import cli
from decomp_ledger.pytorch.dispatcher import resolve

F = torch.nn.functional
CALLS: dict[str, Callable[[Any], Any]] = {
    "aten::linear": lambda x: F.linear(x, x),  # in the default table, by a C++ kernel
    "aten::silu": F.silu,  # by Python
    "aten::gelu": F.gelu,  # left out of the default table
    "aten::mm": lambda x: x.mm(x),  # nothing decomposes it
    "aten::chunk": lambda x: x.chunk(2),  # always decomposed
    "aten::relu_": lambda x: x.clone().relu_(),  # functionalized
}
TABLES: dict[str, Callable[[Any, str], None]] = {
    "no rule": lambda table, op: None,
    "preserved": lambda table, op: table.preserve(op),
    "overridden": lambda table, op: table.override(op, _mine),
}


def _mine(x: Any, *args: Any, **kwargs: Any) -> Any:
    return x * 3


def _program(op: str) -> ExportedProgram:
    return export(type("Calls", (torch.nn.Module,), {"forward": lambda self, x: CALLS[op](x)})(), (torch.ones(2, 2),))


def _has(program: ExportedProgram, op: str) -> bool:
    return any(node.target is resolve(op) for node in program.graph.nodes)


@pytest.mark.filterwarnings("ignore::decomp_ledger.errors.IdleRuleWarning")
@pytest.mark.parametrize("way", [*TABLES, "empty base"])
@pytest.mark.parametrize("op", CALLS)
def test_the_lines_do_what_they_say(op: str, way: str, ledger: Ledger) -> None:
    table = ledger.table("edge", base="empty" if way == "empty base" else "torch")
    TABLES.get(way, TABLES["no rule"])(table, op)
    table.materialize()
    (found,) = ledger.why(op, "edge")
    program = _program(op)
    for advice, kept in ((found.keep, True), (found.decompose, False)):
        again = table.copy()
        if advice.line:
            exec(advice.line, {"torch": torch, "table": again, "your_function": _mine})
        shows = _has(program.run_decompositions(again), op)
        possible = not advice.reason.startswith("not possible")
        assert (shows == kept) if possible else (not shows), advice


def test_the_command_ends_with_the_lines(ledger: Ledger) -> None:
    table = ledger.table("edge")
    table.pop(torch.ops.aten.linear.default)
    table.materialize()
    shown = CliRunner().invoke(cli, ["--ledger", ledger.path, "why", "aten::linear"])
    assert shown.exit_code == 0
    keep, decompose = shown.output.splitlines()[-2:]
    assert keep == "  to keep it: nothing to write: the table does not have the op, so nothing decomposes it"
    assert decompose.startswith("  to decompose it: table.reset('aten::linear')  # or drop the change at ")
    (data,) = json.loads(CliRunner().invoke(cli, ["--ledger", ledger.path, "why", "aten::linear", "--json"]).output)
    assert data["decompose"]["line"] == "table.reset('aten::linear')"
    assert [each["kind"] for each in data["events"]] == ["popped"]


def test_a_state_without_a_ledger_has_lines_too() -> None:
    (found,) = dl.why("aten::linear", "torch:2.13.0")
    assert found.keep.line == "table.pop(torch.ops.aten.linear.default)"
    assert found.decompose.line == ""


def test_a_table_that_was_never_materialized_says_what_is_unknown(ledger: Ledger) -> None:
    ledger.table("edge").preserve("aten::linear")
    (found,) = ledger.why("aten::linear", "edge")
    assert "it is unknown whether torch can do this" in found.keep.reason
    assert "it is unknown whether torch can do this" in found.decompose.reason


# --- would_change ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "given"), [*((op, "table") for op in CALLS), *(("aten::linear", way) for way in ("dict", "spec", "default"))]
)
def test_what_is_expected_of_a_lowering_is_what_it_does(op: str, given: str, ledger: Ledger) -> None:
    table = ledger.table("edge")
    table.preserve("aten::linear")
    table.materialize()
    program = _program(op)
    argument: Any = {"table": table, "dict": dict(table), "spec": "edge", "default": None}[given]
    before = len(list(ledger.events()))
    expected = ledger.would_change(program, argument)
    assert (expected.earlier, expected.result, len(list(ledger.events()))) == ((), None, before)
    used = ledger.table("plain") if given == "default" else table
    program.run_decompositions(used)
    (export_event,) = ledger.exports()
    assert export_event.body.before == expected.program
    assert (export_event.body.after != expected.program) == expected.changes == bool(expected)
    again = ledger.would_change(program, argument)
    assert (again.earlier, again.result) == ((export_event,), export_event.body.after)
    assert again.changes == expected.changes and f"export:{export_event.seq}" in again.because


def test_the_command_tells_it_by_its_exit_status(ledger: Ledger, tmp_path: Path) -> None:
    program = _program("aten::linear")
    path = str(tmp_path / "program.pt2")
    torch.export.save(program, path)
    table = ledger.table("edge")
    table.preserve("aten::linear")
    program.run_decompositions(table)
    command = ["--ledger", ledger.path, "would-change", path]
    kept = CliRunner().invoke(cli, [*command, "edge"], standalone_mode=False)
    assert (kept.return_value, "would change nothing" in kept.output, "done before by export:" in kept.output) == (
        0,
        True,
        True,
    )
    changed = CliRunner().invoke(cli, command, standalone_mode=False)
    assert (changed.return_value, "not done before" in changed.output) == (1, True)
    assert "aten::linear" in changed.output
    data = json.loads(CliRunner().invoke(cli, [*command, "--json"], standalone_mode=False).output)
    assert (data["changes"], data["ops"]) == (True, {"aten::linear": "in the table"})


def test_what_is_not_a_program_or_a_table_is_refused(ledger: Ledger) -> None:
    with pytest.raises(UnusableValue):
        ledger.would_change(_program("aten::linear"), 7)  # type: ignore[arg-type]
    with pytest.raises(dl.LedgerError):
        ledger.would_change(7)
    with pytest.raises(dl.LedgerError):
        ledger.would_change(io.BytesIO())
