"""The names of recorded tables, and how a state spec names a run of a series."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decomp_ledger.errors import InvalidName
from decomp_ledger.model.op_names import check_label
from decomp_ledger.model.recorded_names import (
    RecordedName,
    name_part,
    newest_run,
    recorded_name,
    series_name,
    split_recorded,
)
from decomp_ledger.model.state_specs import MAX_NUMBER, TableSpec, parse_runs_back, parse_state_spec

parts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["f" * 300, "f" * 95 + ".pt2.pt2"]),
    st.lists(st.sampled_from(["f", ".pt2", "@", ":", "~1", "#5", "/", " ", "\n", "1", "\ud800", "é"]), max_size=6).map(
        "".join
    ),
)


@given(parts, parts, st.integers(1, 10**7), st.integers(1, 50))
def test_every_recorded_name_is_a_label_and_its_series_a_state_spec(
    script: str, function: str, run: int, number: int
) -> None:
    series = series_name(name_part(script, "python"), function)
    name = check_label(recorded_name(series, run, number), "a table")
    found = split_recorded(name)
    assert found is not None and found.run == run
    assert (found.series == series) == (number == 1)
    for text in (name, found.series):
        assert parse_state_spec(text) == TableSpec(text)
        assert parse_state_spec(f"{text}~2@3") == TableSpec(f"{text}~2", 3)
        assert parse_runs_back(f"{text}~2") == (text, 2)


@pytest.mark.parametrize(
    "name", ["edge", "edge/1", "job/f/0", "job/f/01", "job/f/x", "job/f/", "/1", "job/f/²", "a//1"]
)
def test_another_name_is_not_that_of_a_recorded_table(name: str) -> None:
    assert split_recorded(name) is None


def test_a_recording_may_have_a_slash_in_its_name() -> None:
    assert split_recorded("ci/nightly/f/3") == RecordedName("ci/nightly/f", 3)
    names = ["ci/nightly/f/3", "ci/nightly/g/12", "ci/f/40", "ci/nightly/9", "ci/nightly", "other/f/99"]
    assert (newest_run("ci/nightly", names), newest_run("ci", names), newest_run("new", names)) == (12, 40, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/f~1", ("a/f", 1)),
        ("a/f~0", ("a/f", 0)),
        ("a/f~007", ("a/f", 7)),
        ("a~1~2", ("a~1", 2)),
        ("a/f~99999999999999999999", ("a/f", MAX_NUMBER)),
        ("a/f~", ("a/f~", 0)),
        ("a/f~x", ("a/f~x", 0)),
        ("a/f~²", ("a/f~²", 0)),
        ("~1", ("~1", 0)),
        ("a/f", ("a/f", 0)),
    ],
)
def test_a_tilde_and_a_number_count_the_runs_back(text: str, expected: tuple[str, int]) -> None:
    assert parse_runs_back(text) == expected


@pytest.mark.parametrize("what", ["a table", "a tag", "a recording"])
def test_no_new_name_reads_as_an_earlier_run(what: str) -> None:
    with pytest.raises(InvalidName, match="must not end with '~' and a number, which is an earlier run"):
        check_label("edge~1", what)
    assert check_label("edge~", what) == "edge~"
