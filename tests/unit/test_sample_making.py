"""The samples that scripts/make-samples chooses: their values have the types that the schemas give."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from decomp_ledger import catalogs
from decomp_ledger.model.samples import parse_call

FOLDER = Path(__file__).parents[2] / "scripts" / "sample_making"
SCHEMA = "aten::f(Tensor x, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None, Tensor(a!)[] out) -> ()"


@pytest.fixture
def schema_types(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The part of the script that needs no torch."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import schema_types  # type: ignore[import-not-found]

    return schema_types


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("(f32[2], [0], out=[f32[2]])", []),
        ("(f32[2], 0, True, dtype=torch.float64, out=[])", []),
        ("dynamic(f32[2], None, dtype=None)", []),
        ("(f32[2], False)", ["dim=False is not int[1]?"]),
        ("(f32[2], [True])", ["dim=(True,) is not int[1]?"]),
        ("(f32[2], 1, dtype=1)", ["dtype=1 is not ScalarType?"]),
        ("(1.0, 1, 0)", ["x=1.0 is not Tensor", "keepdim=0 is not bool"]),
        ("(f32[2], 1, out=f32[2])", ["out=f32[2] is not Tensor[]"]),
        ("(f32[2], 1, True, None, 1)", ["5 positional arguments are more than 3", "out=1 is not Tensor[]"]),
        ("(f32[2], 1, axis=1)", ["axis is not an argument"]),
    ],
)
def test_a_value_of_another_type_is_named(schema_types: ModuleType, call: str, expected: list[str]) -> None:
    assert schema_types.misfits(parse_call(call), SCHEMA) == expected


def test_a_scalar_is_any_number_and_an_int_of_any_size_is_an_int(schema_types: ModuleType) -> None:
    schema = "aten::g(Scalar a, SymInt b, float c, str? d, MemoryFormat e) -> Tensor"
    assert not schema_types.misfits(parse_call("(True, 2, 1, 'sum', torch.channels_last)"), schema)
    wrong = schema_types.misfits(parse_call("('1', 2.0, True, 1, 0)"), schema)
    assert [text.partition("=")[0] for text in wrong] == ["a", "b", "c", "d", "e"]


def test_every_shipped_sample_has_the_types_of_the_newest_schema_of_its_op(schema_types: ModuleType) -> None:
    newest = {op: entry.schema for each in catalogs.available() for op, entry in catalogs.released(each).ops.items()}
    wrong = {
        f"{op} {call}": found
        for op, calls in catalogs.samples().items()
        for call in calls
        if (found := schema_types.misfits(parse_call(call), newest[op]))
    }
    assert not wrong
