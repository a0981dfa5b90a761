"""Each export is an event, tells what fired, and changes nothing of what it records."""

from typing import Any

import pytest
import torch
from torch.export import Dim, ExportedProgram, export

from decomp_ledger import Ledger, RecordingWarning, UnknownExport, record
from decomp_ledger.events import Exported
from decomp_ledger.live.graph import graph_digest

aten = torch.ops.aten


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.inner(x, x, x, need_weights=False)[0]


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.inner(x)[0]


class Branches(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.cond(x.sum() > 0, lambda y: torch.softmax(y, -1), lambda y: torch.nn.functional.silu(y), (x,))


class Small(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.nn.functional.silu(torch.nn.functional.linear(x, x)).softmax(-1)


MODELS: dict[str, tuple[torch.nn.Module, torch.Tensor, Any]] = {
    "convolution": (
        torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)),
        torch.ones(1, 1, 5, 5),
        None,
    ),
    "attention": (Attention(), torch.ones(1, 3, 8), None),
    "recurrent": (Recurrent(), torch.ones(1, 3, 4), None),
    "embedding": (torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.LayerNorm(4)), torch.tensor([[1, 2]]), None),
    "branches": (Branches(), torch.ones(2, 3), None),
    "dynamic": (torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU()), torch.ones(3, 4), ({0: Dim("batch")},)),
}


@pytest.fixture(scope="module")
def small() -> ExportedProgram:
    return export(Small(), (torch.ones(3, 3),))


def last(ledger: Ledger) -> Exported:
    body = list(ledger.exports())[-1].body
    assert isinstance(body, Exported)
    return body


def traces(program: ExportedProgram) -> list[tuple[str, Any]]:
    return [(str(node), node.meta.get("stack_trace")) for node in program.graph.nodes]


@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_export_is_the_unrecorded_one_to_the_letter(name: str, ledger: Ledger) -> None:
    model, example, shapes = MODELS[name]
    program = export(model.eval(), (example,), dynamic_shapes=shapes)
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


def test_what_fired_is_told(small: ExportedProgram, ledger: Ledger) -> None:
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


def test_decompositions_within_decompositions_are_told(ledger: Ledger) -> None:
    program = export(Attention().eval(), (torch.ones(1, 3, 8),))
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
    ledger.store.connection.execute("PRAGMA query_only = ON")
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
