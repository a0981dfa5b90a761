"""The name of the recording of a test, which the pytest plugin makes of the test's id."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from decomp_ledger.model.op_names import check_label
from decomp_ledger.pytest_plugin import recording_name

FILES = st.sampled_from(["test_a.py", "tests/test_a.py", "tests/b/test_a.py"])
IDS = st.builds(lambda file, parts: "::".join([file, *parts]), FILES, st.lists(st.text(min_size=1), max_size=3))


@pytest.mark.parametrize(
    ("test", "name"),
    [
        ("tests/test_a.py::test_b", "tests/test_a.py/test_b"),
        ("test_a.py::TestA::test_b[2-x y]", "test_a.py/TestA/test_b[2-x y]"),
        ("test_a.py::test_b[caf\xe9]", "test_a.py/test_b[caf\xe9]"),
    ],
)
def test_a_plain_id_is_the_name(test: str, name: str) -> None:
    assert recording_name(test) == name


@given(IDS)
@example("#5")
@example("a.pt2")
@example(" a.py::b ")
@example("a.py::" + "b" * 1000)
@example("a.py::b[\ud800]")
@example("a.py::b[\x1b[31m]")
def test_every_id_gives_a_name_for_a_recording_and_its_tables(test: str) -> None:
    name = recording_name(test)
    assert check_label(name, "a recording") == name
    assert check_label(f"{name}/{'f' * 40}/1000", "a table")


@given(st.sets(IDS.filter(lambda test: "/" not in test.partition("::")[2]), min_size=2, max_size=5))
@example({"a.py::b[x@y]", "a.py::b[x:y]", "a.py::b[x_y]"})
@example({"a.py::" + "b" * 1000, "a.py::" + "b" * 1001})
def test_two_ids_have_two_names(tests: set[str]) -> None:
    assert len(set(map(recording_name, tests))) == len(tests)
