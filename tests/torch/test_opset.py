"""`check opset`: the ops of a lowered program that a backend does not take, and what removes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import decomp_ledger as dl
from decomp_ledger import Ledger, LedgerError, LedgerFileError, UnusableValue, catalogs
from decomp_ledger.cli import cli
from decomp_ledger.model import op_names

aten = torch.ops.aten


class Model(torch.nn.Module):
    def __init__(self, *ops: str) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, x: Any) -> Any:
        for op in self.ops:
            x = torch.nn.functional.linear(x, x) if op == "linear" else getattr(torch.nn.functional, op)(x)
        return x


def lower(table: Any, *ops: str) -> Any:
    return torch.export.export(Model(*ops), (torch.ones(3, 3),)).run_decompositions(table)


def ops_of(program: Any) -> set[str]:
    """Return the ops of a graph, by name."""
    return {node.target.name() for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}


def core() -> set[str]:
    """Return the ops that this torch tags as core."""
    names = (name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::"))
    found = set()
    for name in names:
        _, family, overload = op_names.split(name)
        op = getattr(getattr(aten, family, None), overload or "default", None)
        if op is not None and torch.Tag.core in op.tags:
            found.add(name)
    return found


@pytest.mark.skipif(not torch.__version__.startswith("2.13.0"), reason="the list is of torch 2.13.0")
def test_the_shipped_list_is_what_torch_tags() -> None:
    assert catalogs.opsets()["core-aten"].ops == core()


OPS = ("linear", "silu", "hardswish", "elu", "mish", "softplus")


@pytest.mark.parametrize("count", range(len(OPS) + 1))
def test_the_ops_outside_are_those_of_the_graph_and_each_line_removes_its_op(count: int, ledger: Ledger) -> None:
    kept = OPS[:count]
    table = ledger.table("edge")
    if kept:
        table.preserve(*(f"aten::{op}" for op in kept))
    program = lower(table, *OPS)
    found = ledger.check_opset("edge")
    listed = catalogs.opsets()["core-aten"].ops
    assert {each.op for each in found.outside} == ops_of(program) - listed
    assert {each.op for each in found.outside} >= {f"aten::{op}" for op in kept} - listed
    assert found.passed == (not found.outside)
    for each in found.outside:
        assert (
            each.made_by is not None
            and sum(int(text.split(" made ")[1].split()[0]) for text in each.made_by) == each.count
        )
        if each.why.decompose.line:
            exec(each.why.decompose.line, {"table": table, "torch": torch})
    again = ops_of(lower(table, *OPS))
    assert not again & {each.op for each in found.outside if each.why.decompose.line}
    after = ledger.check_opset("edge")
    assert {each.op for each in after.outside} == again - listed


def test_an_op_that_a_decomposition_made_names_it(ledger: Ledger) -> None:
    table = ledger.table("edge")
    table.preserve("aten::mish")
    table[aten.silu.default] = lambda x: aten.mish.default(x) * 2
    lower(table, "silu")
    (found,) = [each for each in ledger.check_opset("edge").outside if each.op == "aten::mish"]
    assert found.decomposers == ("aten::silu",)
    assert found.made_by == ("the decomposition of aten::silu made 1 node of it",)


@pytest.fixture
def exported(ledger: Ledger, tmp_path: Path) -> Ledger:
    table = ledger.table("edge")
    table.preserve("aten::linear")
    dl.save(lower(table, "linear", "silu"), tmp_path / "m.pt2")
    return ledger


def test_a_file_names_the_ops_of_a_backend(exported: Ledger, tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"format": 1, "source": "mine", "ops": ["aten.linear.default", "aten::mul.Tensor"]}))
    found = dl.check_opset(tmp_path / "m.pt2", mine)
    assert [each.op for each in found.outside] == ["aten::sigmoid"]
    arguments = ["check", "opset", str(tmp_path / "m.pt2"), "--opset", str(mine)]
    shown = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert shown.return_value == 1 and "1 of 3 ops is not in" in shown.output
    assert "or change what makes it: the table's entry for aten::silu" in shown.output
    data = json.loads(CliRunner().invoke(cli, ["--ledger", exported.path, "check", "opset", "edge", "--json"]).output)
    assert [each["op"] for each in data["outside"]] == ["aten::linear"]


WRONG: dict[str, tuple[str, type[Exception], str]] = {
    "no file": ("", LedgerFileError, "cannot read the opset: No such file or directory; name a file, or core-aten"),
    "no JSON": ("{", UnusableValue, "not an opset"),
    "another form": ('{"ops": []}', UnusableValue, "its format is None, not 1"),
    "unknown field": ('{"format": 1, "ops": [], "x": 1}', UnusableValue, "the field 'x' is unknown"),
    "no list": ('{"format": 1, "ops": "aten::mm"}', UnusableValue, "not an opset"),
    "no op": ('{"format": 1, "ops": ["a b"]}', dl.InvalidName, "'a b'"),
    "a surrogate": ('{"format": 1, "ops": ["\\ud800"]}', LedgerError, "wrong.json"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_error_that_names_it(case: str, exported: Ledger, tmp_path: Path) -> None:
    text, error, message = WRONG[case]
    path = tmp_path / "wrong.json"
    if text:
        path.write_text(text)
    with pytest.raises(error, match=message) as caught:
        exported.check_opset("edge", path)
    assert "wrong.json" in str(caught.value) and "\n" not in str(caught.value)


def test_what_has_no_result_is_refused(exported: Ledger) -> None:
    def fail(x: Any) -> Any:
        raise ValueError("not today")

    failing: Callable[[Any], Any] = fail
    table = exported.table("failing")
    table[aten.silu.default] = failing
    with pytest.raises(ValueError, match="not today"):
        lower(table, "silu")
    number = list(exported.exports())[-1].seq
    for spec, message in (
        (f"export:{number}", "the export failed, so it has no result to check"),
        ("failing", "no export of it is recorded"),
        ("torch:2.13.0", "no export of it is recorded"),
    ):
        with pytest.raises(LedgerError, match=message):
            exported.check_opset(spec)


def test_show_marks_the_ops_of_a_result_that_are_not_core(exported: Ledger) -> None:
    number = list(exported.exports())[-1].seq
    shown = CliRunner().invoke(cli, ["--ledger", exported.path, "show", f"export:{number}"]).output
    starred = {line.split()[0] for line in shown.splitlines() if " * " in line and "::" in line.split()[0]}
    assert starred == {"aten::linear"} == set(exported.show(f"export:{number}").outside_core)
    assert f"* 1 of 3 ops of the result is not Core ATen; `decomp-ledger check opset export:{number}`" in shown
    data = json.loads(CliRunner().invoke(cli, ["--ledger", exported.path, "show", f"export:{number}", "--json"]).output)
    assert data["outside_core"] == ["aten::linear"] == data["export"]["outside_core"]


def test_show_marks_the_ops_that_a_table_can_keep_and_that_are_not_core(ledger: Ledger) -> None:
    table = ledger.table("edge")
    with pytest.warns(dl.IdleRuleWarning):
        table.preserve("aten::linear", "aten::silu_", "aten::native_layer_norm", "later::op")
    table.override("aten::mish", lambda x: x)
    assert ledger.show("edge").outside_core == ("aten::linear", "aten::silu_", "later::op")  # no torch is known yet
    table.materialize()
    assert ledger.show("edge").outside_core == ("aten::linear", "later::op")
    shown = CliRunner().invoke(cli, ["--ledger", ledger.path, "show", "edge"]).output
    assert "aten::linear *  " in shown and "later::op (pending) *" in shown and "aten::silu_  " in shown
    assert "* 2 preserved ops are not Core ATen" in shown


def test_the_shipped_list_of_executorch_judges_ops_of_aten_alone(ledger: Ledger) -> None:
    taken = catalogs.opsets()["executorch"]
    assert taken.ops > catalogs.opsets()["core-aten"].ops and "1.5.1" in taken.source
    assert taken.outside(["aten::linear", "aten::mm", "mylib::f", "cond", "aten::view_copy"]) == ("aten::linear",)
    table = ledger.table("edge")
    table[aten.silu.default] = lambda x: torch.ops.prims.sin(x)
    table.preserve("aten::elu", "prims::sin")
    lower(table, "silu", "elu")
    found = ledger.check_opset("edge", "executorch")
    assert [each.op for each in found.outside] == []
    assert "prims::sin" in found.not_judged
    arguments = ["--ledger", ledger.path, "check", "opset", "edge", "--opset", "executorch"]
    assert "not judged, because executorch is not about them: prims::sin" in CliRunner().invoke(cli, arguments).output
