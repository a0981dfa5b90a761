"""Each export is an event, tells what fired, and changes nothing of what it records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from torch.export import ExportedProgram, experimental, export

from decomp_ledger import Ledger, RecordingWarning, Stamp, StampWarning, UnknownExport, record
from decomp_ledger.analysis.explain import explain_export
from decomp_ledger.catalogs import completed
from decomp_ledger.model.events import Exported
from decomp_ledger.pytorch.graph_digest import graph_digest
from decomp_ledger.transfer.export_bundle import ExportBundle

aten = torch.ops.aten


class Small(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.nn.functional.silu(torch.nn.functional.linear(x, x)).softmax(-1)


@pytest.fixture(scope="module")
def small() -> ExportedProgram:
    return export(Small(), (torch.ones(3, 3),))


def last(ledger: Ledger) -> Exported:
    body = list(ledger.exports())[-1].body
    assert isinstance(body, Exported)
    return body


def traces(program: ExportedProgram) -> list[tuple[str, Any]]:
    return [(str(node), node.meta.get("stack_trace")) for node in program.graph.nodes]


@pytest.mark.parametrize("name", models.NAMES)
def test_a_recorded_export_is_the_unrecorded_one_to_the_letter(name: str, ledger: Ledger) -> None:
    program = models.exported(name)
    expected = program.run_decompositions()
    with record(ledger):
        actual = program.run_decompositions()
        again = program.run_decompositions()
    assert str(expected.graph_module.code) == str(actual.graph_module.code)
    assert traces(expected) == traces(actual)
    assert str(expected.graph_signature) == str(actual.graph_signature)
    first, second = (event.body for event in ledger.exports())
    assert isinstance(first, Exported) and isinstance(second, Exported)
    assert first.fired
    assert first.fired == second.fired
    assert graph_digest(expected) == graph_digest(again) == first.after == second.after


def test_what_fired_is_recorded(small: ExportedProgram, ledger: Ledger) -> None:
    table = ledger.table("edge")
    table.pop(aten.linear.default)
    table.preserve("aten::matmul")
    lowered = small.run_decompositions(table)
    body = last(ledger)
    assert "aten::linear" not in body.fired
    assert (body.fired["aten::softmax.int"], body.fired["aten::silu"]) == (1, 1)
    assert body.ops_before == {"aten::linear": 1, "aten::silu": 1, "aten::softmax.int": 1}
    assert body.ops_after["aten::linear"] == 1
    assert (body.before, body.after) == (graph_digest(small), graph_digest(lowered))
    assert body.error is None
    assert ledger.verify().ok


def test_decompositions_within_decompositions_are_recorded(ledger: Ledger) -> None:
    program = models.exported("attention")
    program.run_decompositions(ledger.table("edge"))
    body = last(ledger)
    assert body.fired.keys() - body.ops_before.keys()


def test_an_export_stands_at_the_version_that_was_used(small: ExportedProgram, ledger: Ledger) -> None:
    table = ledger.table("edge")
    table.pop(aten.linear.default)
    small.run_decompositions(table.at(1))
    small.run_decompositions(table)
    assert [event.version for event in ledger.exports()] == [1, 2]
    assert ["aten::linear" in event.body.ops_after for event in ledger.exports()] == [False, True]


def test_a_failed_export_is_recorded_and_raises_its_own_error(small: ExportedProgram, ledger: Ledger) -> None:
    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("the decomposition's own")

    table = ledger.table("edge")
    table[aten.silu.default] = broken
    with pytest.raises(ZeroDivisionError, match="the decomposition's own"):
        small.run_decompositions(table)
    body = last(ledger)
    assert body.error is not None
    assert body.error[0] == "ZeroDivisionError"
    assert "the decomposition's own" in body.error[1]
    assert (body.after, body.ops_after) == (None, {})


def test_an_export_is_not_lost_when_it_cannot_be_recorded(small: ExportedProgram, ledger: Ledger) -> None:
    table = ledger.table("edge")
    table.materialize()
    ledger.database.connection.execute("PRAGMA query_only = ON")
    with pytest.warns(RecordingWarning, match="could not be recorded"):
        lowered = small.run_decompositions(table)
    assert graph_digest(lowered) == graph_digest(small.run_decompositions(dict(table)))


def test_an_export_is_found_by_its_number(small: ExportedProgram, ledger: Ledger) -> None:
    small.run_decompositions(ledger.table("edge"))
    (event,) = ledger.exports()
    assert ledger.export(event.seq) == event
    with pytest.raises(UnknownExport, match=f"no export 99; its last: {event.seq}"):
        ledger.export(99)


def test_nothing_is_recorded_of_a_plain_dict_outside_of_recordings(small: ExportedProgram, ledger: Ledger) -> None:
    table = ledger.table("edge")
    small.run_decompositions(dict(table))
    small.run_decompositions()
    assert list(ledger.exports()) == []


def _late(make_library: Callable[..., Any], name: str) -> Any:
    library = make_library()
    library.define(f"{name}(Tensor x) -> Tensor")
    library.impl(name, lambda x: x * 2, "CompositeImplicitAutograd")
    return getattr(getattr(torch.ops, library.ns), name).default


def test_an_op_that_torchs_own_table_was_read_too_early_for_is_recorded(
    ledger: Ledger, make_library: Callable[..., Any]
) -> None:
    table, fresh = torch.export.default_decompositions(), torch.export.default_decompositions()
    assert len(table) > 500  # read, and from now on blind
    removed, op = _late(make_library, "removed"), _late(make_library, "late")
    table.pop(removed)

    class Uses(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return op(x) + removed(x)

    program = export(Uses(), (torch.ones(3),))
    with record(ledger):
        kept = program.run_decompositions(table)
        program.run_decompositions(fresh)
    early, good = (ledger.bundle(event.seq) for event in ledger.exports())
    assert (early.body.stale, good.body.stale) == ((op.name(),), ())
    assert early.body.ops_after[op.name()] == 1 and str(op) in str(kept.graph)
    answer = explain_export(op.name(), early.state, early.event, early.body, early.catalog, ())
    assert answer.outcome == "kept (stale table)" and "read before the op was loaded" in answer.because
    answer = explain_export(removed.name(), early.state, early.event, early.body, early.catalog, ())
    assert answer.outcome == "kept" and "was preserved" in answer.because


def test_an_op_that_changes_its_argument_is_distinguished(ledger: Ledger) -> None:
    models.exported("mutating").run_decompositions(ledger.table("edge"))
    (event,) = ledger.exports()
    bundle = ledger.bundle(event.seq)
    assert bundle.body.ops_before["aten::relu_"] == 1
    answer = explain_export(
        "aten::relu_", bundle.state, bundle.event, bundle.body, completed(bundle.catalog), ()
    )  # fmt: skip
    assert (answer.outcome, answer.because) == (
        "functionalized",
        "the op changes its argument, so torch replaces it by its functional form before it looks into the table; "
        "that made 1 aten::relu",
    )


def test_neither_an_export_nor_a_file_is_lost_for_the_sake_of_its_stamp(
    small: ExportedProgram, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise ZeroDivisionError("of the stamp")

    with record(ledger):
        lowered = small.run_decompositions()
        with monkeypatch.context() as patch, pytest.warns(StampWarning, match="saved without a stamp"):
            patch.setattr(Stamp, "to_text", fail)
            torch.export.save(lowered, tmp_path / "m.pt2")
        with monkeypatch.context() as patch, pytest.warns(RecordingWarning, match="will have no stamp"):
            patch.setattr(ExportBundle, "from_log", fail)
            again = small.run_decompositions()
    assert graph_digest(torch.export.load(tmp_path / "m.pt2")) == graph_digest(lowered) == graph_digest(again)
    assert len(list(ledger.exports())) == 2


# --- exports that do not pass run_decompositions ---------------------------------------------------------------------

FIRST_USE = """
import torch
import decomp_ledger as dl

program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
ledger = dl.Ledger("a.db")
program.run_decompositions(ledger.table("edge"))
print(*(event.kind for event in ledger.events()))
"""


def test_the_first_use_of_a_table_in_a_process_is_recorded(run_python: Callable[..., str]) -> None:
    assert run_python(FIRST_USE).split() == ["created", "materialized", "exported"]


class Loss(torch.nn.Module):
    """Gives a loss that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(self.linear(x)).sum()


def test_an_export_with_its_backward_pass_is_recorded(ledger: Ledger) -> None:
    def joint() -> str:
        return str(experimental._export_forward_backward(torch.export.export(Loss(), (torch.ones(2, 4),))).graph)

    before = experimental._decompose_exported_program
    expected = joint()
    with record(ledger, name="job"):
        assert joint() == expected
    assert experimental._decompose_exported_program is before
    (event,) = ledger.exports()
    assert isinstance(event.body, Exported)
    assert event.body.fired["aten::silu"] == 1
    assert event.body.after is not None
