"""Files of sample calls: one form, one clear error for everything else, and nothing in them is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import decomp_ledger as dl
from decomp_ledger import catalogs
from decomp_ledger.model.limits import FILE_BYTES, SAMPLE_CALLS
from decomp_ledger.model.sample_files import samples_from_json


def test_the_shipped_file_has_this_form() -> None:
    path = Path(catalogs.__file__).parent / "samples.json"
    assert dl.read_samples(path) == catalogs.samples()


def test_names_and_calls_are_made_canonical() -> None:
    value = {"format": 1, "samples": {"mylib.f.default": ["(f32[2,3], a = 1)"], "mylib::f": ["(f32[2, 3], a=1)", "()"]}}
    assert samples_from_json(value) == {"mylib::f": ("(f32[2, 3], a=1)", "()")}


FORM = {"format": 1, "samples": {"mylib::f": ["(f32[2])"]}}
WRONG: list[Any] = [
    [],
    3,
    None,
    {},
    {"samples": FORM["samples"]},
    {**FORM, "format": 2},
    {**FORM, "format": True},
    {**FORM, "format": "1"},
    {**FORM, "more": 1},
    {"format": 1},
    {"format": 1, "samples": []},
    {"format": 1, "samples": {"mylib::f": "(f32[2])"}},
    {"format": 1, "samples": {"mylib::f": [3]}},
    {"format": 1, "samples": {"mylib::f": [["(f32[2])"]]}},
    {"format": 1, "samples": {"mylib::f": ["f32[2]"]}},
    {"format": 1, "samples": {"mylib::f": ["(__import__('os').system('id'))"]}},
    {"format": 1, "samples": {"mylib::f": ["(f32[99999, 99999])"]}},
    {"format": 1, "samples": {"mylib": {}}},
    {"format": 1, "samples": {"my lib::f": ["()"]}},
    {"format": 1, "samples": {"": ["()"]}},
    {"format": 1, "samples": {"mylib::f\u001b[2J": ["()"]}},
    {"format": 1, "samples": {"mylib::f": ["()"] * (SAMPLE_CALLS + 1)}},
]


@pytest.mark.parametrize("value", WRONG, ids=range(len(WRONG)))
def test_everything_else_is_one_error_that_names_the_file(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(dl.SampleError, match=r"samples\.json: .*; (write|give|name)") as caught:
        dl.read_samples(path)
    assert len(str(caught.value)) < 600


NOT_JSON = [
    *(b"", b"{", b"\xff", b'{"format": 1.0}', b"[" * 100_000, b" " * (FILE_BYTES + 1)),
    b'{"format": 1, "samples": {"\\ud800": []}}',
]


@pytest.mark.parametrize("data", NOT_JSON, ids=range(len(NOT_JSON)))
def test_a_file_that_is_not_json_is_one_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    path.write_bytes(data)
    with pytest.raises(dl.SampleError, match=r"samples\.json: "):
        dl.read_samples(path)


@pytest.mark.parametrize("path", ["none.json", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_named(path: str) -> None:
    with pytest.raises(dl.LedgerFileError, match="name another file"):
        dl.read_samples(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(samples=JSON, more=JSON)
def test_any_value_is_samples_or_an_error(samples: Any, more: Any) -> None:
    for value in (samples, {"format": 1, "samples": samples}, {"format": 1, "samples": {"mylib::f": samples}}):
        try:
            found = samples_from_json(value)
        except (dl.SampleError, dl.InvalidName):
            continue
        assert all(isinstance(call, str) for calls in found.values() for call in calls)


@pytest.mark.parametrize(
    ("samples", "error"),
    [
        ({3: ["()"]}, dl.UnusableValue),
        ({"mylib::f": 3}, dl.UnusableValue),
        ({"mylib::f": [3]}, dl.UnusableValue),
        ({"mylib::f": ["f32"]}, dl.SampleError),
        ({"no op": ["()"]}, dl.InvalidName),
        (["()"], dl.UnusableValue),
        ("none.json", dl.LedgerFileError),
    ],
)
def test_wrong_samples_are_refused_before_anything_is_run(samples: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        dl.capture_catalog("/no/such/python", samples=samples)
