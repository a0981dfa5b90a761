"""Explanations of an op, and the diff of two exports: pure functions over model values."""

import pytest

from decomp_ledger.analysis.explain import explain, explain_export
from decomp_ledger.analysis.export_diff import export_diff
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import CallSite, Event, Exported, Materialized
from decomp_ledger.model.rules import Rule, TableState

CATALOG = Catalog(
    {"torch": "2.13.0"},
    {
        "aten::linear": Entry("cia", default=True),
        "aten::mm": Entry(),
        "aten::relu_": Entry(schema="aten::relu_(Tensor(a!) self) -> Tensor(a!)"),
    },
)


def state(rules: dict[str, Rule] | None = None, base: str = "torch") -> TableState:
    """Return a state of the table `edge`."""
    return TableState("edge", 3, base, rules or {})


def event(body: Exported | Materialized) -> Event:
    """Return event 7, of the table `edge`."""
    site = CallSite("a.py", 1, "f")
    return Event(7, "edge", 3, body.kind, "2026-01-01T00:00:00.000000Z", "ann", None, site, "", body, "", "")


def exported(
    before: dict[str, int], after: dict[str, int], fired: dict[str, int], error: tuple[str, str] | None = None
) -> Exported:
    """Return the body of an export."""
    return Exported("c", "s", "b", None if error else "a", before, after, fired, 5, error)


@pytest.mark.parametrize(
    ("rules", "base", "outcome"),
    [({}, "torch", "pending"), ({}, "empty", "kept"), ({"aten::mm": Rule("preserve")}, "torch", "kept")],
)
def test_a_table_that_was_never_materialized_is_explained_with_the_way_to_more(
    rules: dict[str, Rule], base: str, outcome: str
) -> None:
    answer = explain("aten::mm", state(rules, base), None, None, ())
    assert (answer.outcome, answer.torch, answer.materialization, answer.loaded) == (outcome, None, None, None)
    assert (answer.default, answer.preservable) == ("unknown", "unknown")
    assert answer.evidence == (
        "edge was never materialized, so torch's side is unknown; export with it, or call materialize() on it"
    )
    assert answer.to_json()["evidence"] == answer.evidence


def test_an_explanation_names_the_torch_and_the_event_that_recorded_it() -> None:
    answer = explain("aten::mm", state(), event(Materialized("c", "s")), CATALOG, ())
    assert answer.evidence == "torch 2.13.0, as materialized by edge@3 (#7)"
    assert explain("aten::mm", state(), None, CATALOG, ()).evidence == "torch 2.13.0"


@pytest.mark.parametrize(
    ("op", "body", "outcome", "because"),
    [
        ("aten::linear", exported({"aten::linear": 2}, {}, {"aten::linear": 2}), "decomposed", "that fired 2 times"),
        ("aten::linear", exported({}, {}, {"aten::linear": 1}), "decomposed", "once, within the decompositions of"),
        ("aten::linear", exported({"aten::linear": 1}, {"aten::linear": 1}, {}), "kept", "torch did not trace it"),
        ("aten::linear", exported({"aten::linear": 1}, {}, {}, ("E", "")), "decomposed", "the export failed"),
        (
            "aten::linear",
            exported({}, {}, {}),
            "not in the program",
            "has the op; otherwise it would be decomposed, because",
        ),
        (
            "aten::mm",
            exported({}, {}, {}, ("E", "")),
            "not in the program",
            "the program does not have the op, and its export failed; otherwise it would be kept, because",
        ),
        ("aten::mm", exported({"aten::mm": 1}, {"aten::mm": 1}, {}), "kept", "nothing decomposes it"),
        ("aten::mm", exported({"aten::mm": 1}, {}, {}), "gone", "nothing decomposed it"),
        ("aten::relu_", exported({"aten::relu_": 1}, {}, {}), "gone", "replaced it by its functional form"),
    ],
)
def test_an_export_is_explained_by_what_happened_in_it(op: str, body: Exported, outcome: str, because: str) -> None:
    answer = explain_export(op, state(), event(body), body, CATALOG, ())
    assert answer.outcome == outcome
    assert because in answer.because
    assert answer.counts == {
        "before": body.ops_before.get(op, 0),
        "after": body.ops_after.get(op, 0),
        "fired": body.fired.get(op, 0),
    }


def test_the_diff_of_two_exports_has_the_ops_whose_counts_differ() -> None:
    one = exported({"aten::linear": 1}, {"aten::addmm": 1}, {"aten::linear": 1})
    other = exported({"aten::linear": 1}, {"aten::linear": 1}, {})
    found = export_diff(one, other)
    assert found.after == {"aten::addmm": (1, 0), "aten::linear": (0, 1)}
    assert found.fired == {"aten::linear": (1, 0)}
    assert (found.same_program, found.same_graph, bool(found)) == (True, True, True)
    assert not export_diff(one, one)


def test_an_export_that_failed_differs_from_one_that_did_not_and_no_op_is_compared() -> None:
    good = exported({"aten::linear": 1}, {"aten::addmm": 1}, {"aten::linear": 1})
    failed = exported({"aten::linear": 1}, {}, {}, ("E", "no"))
    found = export_diff(good, failed)
    assert (found.failed, found.after, found.fired, found.same_graph) == ((False, True), {}, {}, None)
    assert (bool(found), bool(export_diff(failed, failed))) == (True, False)


@pytest.mark.parametrize(
    ("op", "registered", "expected"),
    [
        (
            "mylib::f",
            "mylib/ops.py:12",
            "its Python CompositeImplicitAutograd kernel, registered by the library at mylib/ops.py:12",
        ),
        (
            "mylib::f",
            "<stdin>:7",
            "its Python CompositeImplicitAutograd kernel, registered by the library at <stdin>:7",
        ),
        (
            "mylib::f",
            "/src/ops.cpp:9",
            "its C++ CompositeImplicitAutograd kernel, registered by the library at /src/ops.cpp:9",
        ),
        (
            "aten::f",
            "mylib/ops.py:12",
            "its Python CompositeImplicitAutograd kernel, registered by the library at mylib/ops.py:12",
        ),
        ("mylib::f", "", "its CompositeImplicitAutograd kernel"),
        ("aten::f", "", "its C++ CompositeImplicitAutograd kernel"),
    ],
)
def test_a_kernel_is_named_with_the_line_that_registered_it(op: str, registered: str, expected: str) -> None:
    catalog = Catalog({"torch": "2.13.0"}, {op: Entry("cia", True, registered=registered)})
    answer = explain(op, state(), None, catalog, ())
    assert (answer.default, answer.because) == (expected, f"torch's default has it: {expected}")
