"""Which exports are of one program."""

from collections.abc import Sequence

import attrs
import pytest

from decomp_ledger.analysis.programs import Program, programs
from decomp_ledger.model.events import Event, Exported, RootModule

MODEL, OTHER = RootModule("__main__.Model", "export.py", 7), RootModule("__main__.Other", "export.py", 30)


def export(
    seq: int, graph: str | None, *, table: str = "edge", module: RootModule | None = MODEL, at: str = ""
) -> Event:
    body = Exported("c", "s", graph, "a", {}, {}, {}, 1, module=module)
    return Event(seq, table, 1, "exported", "", "Ada", None, None, at, body, "", "")


def found(*events: Event, series: dict[str, str] | None = None) -> dict[str, list[int]]:
    """Return the numbers of the exports of each program. The environment of an event is its git commit here."""
    commits = {event.environment: event.environment for event in events if event.environment}
    each = programs(events, series or {}, commits)
    return {str(program): [event.seq for event in exports] for program, exports in each.items()}


def test_a_class_and_a_table_make_a_program() -> None:
    assert found(export(1, "x"), export(2, "x", module=OTHER), export(3, "x", table="npu"), export(4, "x")) == {
        "Other of export.py with edge": [2],
        "Model of export.py with npu": [3],
        "Model of export.py with edge": [1, 4],
    }


def test_the_line_of_a_class_is_not_a_part_of_it() -> None:
    assert found(export(1, "x"), export(2, "x", module=attrs.evolve(MODEL, line=9))) == {
        "Model of export.py with edge": [1, 2]
    }


def test_an_export_without_a_module_is_of_its_table() -> None:
    assert found(export(1, "x", module=None), export(2, "x", module=None)) == {"a program with edge": [1, 2]}


def test_the_runs_of_a_series_are_one_table() -> None:
    runs = [export(1, "x", table="a/b/1"), export(2, "x", table="a/b/2")]
    assert found(*runs, series={"a/b/1": "a/b", "a/b/2": "a/b"}) == {"Model of export.py with a/b": [1, 2]}


SMALL, LARGE = "Model of export.py (graph small) with edge", "Model of export.py (graph large) with edge"


@pytest.mark.parametrize(
    ("graphs", "expected"),
    [
        # (graph, commit) of each export, and the exports that count.
        ([("small", "1"), ("large", "1")], {SMALL: [1], LARGE: [2]}),
        ([("small", ""), ("large", "")], {SMALL: [1], LARGE: [2]}),
        ([("small", "1"), ("large", "1"), ("small", "1")], {LARGE: [2], SMALL: [1, 3]}),
        ([("small", "1"), ("large", "2")], {"Model of export.py with edge": [2]}),
        ([("small", "1"), ("large", "1"), ("small", "2"), ("large", "2")], {SMALL: [3], LARGE: [4]}),
        ([(None, "1"), ("small", "1")], {"Model of export.py (graph unknown) with edge": [1], SMALL: [2]}),
    ],
)
def test_graphs_of_one_commit_are_siblings_and_a_newer_commit_replaces_them(
    graphs: Sequence[tuple[str | None, str]], expected: dict[str, list[int]]
) -> None:
    events = [export(seq, graph, at=commit) for seq, (graph, commit) in enumerate(graphs, 1)]
    assert found(*events) == expected


def test_a_program_is_plain_data() -> None:
    assert Program("edge", "m.Model", "m.py").to_json() == {
        "table": "edge", "module": "m.Model", "file": "m.py", "graph": None
    }  # fmt: skip
