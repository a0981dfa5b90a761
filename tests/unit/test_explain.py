"""Explanations of an op, and the diff of two exports: pure functions over model values."""

from typing import Any

import attrs
import pytest

from decomp_ledger.analysis.explain import explain, explain_export
from decomp_ledger.analysis.export_diff import export_diff
from decomp_ledger.analysis.outcome import Outcome
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import (
    Body,
    CallSite,
    Change,
    Emission,
    Event,
    Exported,
    Materialized,
    Passed,
    decode_body,
    encode_body,
)
from decomp_ledger.model.rules import Decomposition, Rule, TableState

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


def event(body: Body) -> Event:
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
        ("aten::linear", exported({"aten::linear": 1}, {}, {}, ("E", "")), "failed", "the export failed with E"),
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
        ("aten::relu_", exported({"aten::relu_": 1}, {}, {}), "functionalized", "replaces it by its functional form"),
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


MISSING, ENTRY = Rule("preserve"), Rule("override", Decomposition("import", "lib", "f", "1" * 64))


@pytest.mark.parametrize(
    ("op", "base", "rule", "passed", "outcome", "because"),
    [
        (
            "aten::linear",
            "torch",
            MISSING,
            {},
            "kept",
            "it is missing from the dict that was passed at a.py:1 in f (event #7)",
        ),
        (
            "aten::linear",
            "torch",
            MISSING,
            {"later": ("aten::linear",)},
            "kept",
            "it is missing from the dict that was passed at a.py:1 in f (event #7), "
            "which was made before the op was loaded",
        ),
        (
            "aten::linear",
            "torch",
            MISSING,
            {"caller": "torch/onnx/x.py:2 in g"},
            "kept",
            "it is missing from the dict that was passed by torch/onnx/x.py:2 in g at a.py:1 in f (event #7)",
        ),
        (
            "aten::mm",
            "torch",
            ENTRY,
            {},
            "decomposed",
            "the dict that was passed at a.py:1 in f (event #7) has lib.f for it",
        ),
        ("aten::linear", "empty", None, {}, "kept", "the dict that was passed does not have it"),
        (
            "aten::left",
            "torch",
            None,
            {},
            "kept",
            "the dict that was passed does not have it, nor does torch's default table",
        ),
    ],
)
@pytest.mark.parametrize("materialized", [True, False])
def test_a_dict_is_explained_by_what_it_had_and_not_by_rules(
    op: str, base: str, rule: Rule | None, passed: dict[str, Any], outcome: str, because: str, materialized: bool
) -> None:
    catalog = Catalog(CATALOG.build, {**CATALOG.ops, "aten::left": Entry("cia")})
    given = event(Passed((Change(op, "preserve"),), entries=900, **passed))
    table = TableState("edge", 3, base, {op: rule} if rule else {}, from_dict=True)
    history = [given] if rule else []
    if materialized:
        answer = explain(op, table, event(Materialized("c", "s")), catalog, history)
    elif rule is None and base == "torch":
        return  # what torch has for the op is not known then
    else:
        answer = explain(op, table, None, None, history)
    assert (answer.outcome, answer.because) == (outcome, because)


@pytest.mark.parametrize(
    ("before", "after", "fired", "outcome", "because"),
    [
        (1, 0, 0, "unknown", "what replaced it is unknown"),
        (1, 2, 1, "unknown", "does not tell what made the nodes of the result"),
        (0, 2, 0, "emitted", "what made its 2 nodes is unknown"),
        (1, 2, 0, "kept", "nothing decomposes it"),
    ],
)
def test_what_an_older_event_does_not_tell_is_unknown(
    before: int, after: int, fired: int, outcome: str, because: str
) -> None:
    counts = ({"aten::mm": count} if count else {} for count in (before, after, fired))
    body = exported(*counts)
    assert decode_body("exported", 1, encode_body(body)) == body
    answer = explain_export("aten::mm", state(), event(body), body, CATALOG, ())
    assert answer.outcome == outcome
    assert because in answer.because
    assert (answer.emitted_by, "older version" in answer.because) == (None, outcome != "kept")


def of_one_op(before: int, rows: list[Emission], **more: Any) -> Exported:
    """Return the body of an export that tells everything of `aten::mm`."""
    after = sum(row.count for row in rows if row.op == "aten::mm")
    known = {"declined": {}, "emitted": tuple(rows), "kinds": {}, "early": {}, **more}
    counts = {"aten::mm": before} if before else {}
    return attrs.evolve(exported(counts, {"aten::mm": after} if after else {}, known.pop("fired", {})), **known)


OWN = Emission("aten::mm", 1, (), "aten::mm")
NESTED = Emission("aten::mm", 2, ("aten::linear", "aten::matmul"), "aten::linear")
BY_TORCH = Emission("aten::mm", 1, (), "aten::chunk")
IN_SUBGRAPH = Emission("aten::mm", 1, (), "wrap_with_set_grad_enabled")


@pytest.mark.parametrize(
    ("body", "outcome", "because"),
    [
        (of_one_op(1, [OWN]), "kept", "nothing decomposes it"),
        (of_one_op(1, [OWN, NESTED]), "kept", "the decomposition of aten::matmul (within aten::linear) made 2 nodes"),
        (of_one_op(2, [OWN]), "kept", "1 of 2 did not stay"),
        (of_one_op(1, [IN_SUBGRAPH]), "kept", "nothing decomposes it"),
        (of_one_op(1, [OWN], stale=("aten::mm",)), "kept (stale table)", "read before the op was loaded"),
        (of_one_op(1, [OWN], declined={"aten::mm": 2}), "kept", "returned NotImplemented 2 times, which leaves the op"),
        (of_one_op(0, [NESTED]), "emitted", "(within aten::linear) made 2 nodes of it; it stays in the graph"),
        (of_one_op(0, [BY_TORCH]), "emitted", "torch itself, when it ran aten::chunk, made 1 node"),
        (of_one_op(0, [attrs.evolve(OWN, chain=None)]), "emitted", "an unknown decomposition made 1 node"),
        (of_one_op(1, [NESTED], fired={"aten::mm": 1}), "decomposed", "fired once; the decomposition of aten::matmul"),
        (of_one_op(1, [], kinds={"aten::mm": "mutates"}), "functionalized", "functional form"),
        (
            of_one_op(1, [], kinds={"aten::mm": "mutates"}, fired={"aten::mm": 1}),
            "functionalized",
            "fired once elsewhere",
        ),
        (of_one_op(1, [], kinds={"aten::mm": "always"}), "decomposed", "always decomposes it, whatever the table has"),
        (of_one_op(1, [], early={"aten::mm": "its kernel K"}), "decomposed", "its kernel K runs before"),
        (of_one_op(1, [Emission("aten::add", 2, (), "aten::mm")]), "decomposed", "that made 2 aten::add"),
        (of_one_op(1, []), "removed", "no node of the result comes from it"),
        (of_one_op(0, []), "not in the program", "neither the program nor its result"),
    ],
)
def test_the_outcome_is_decided_by_what_made_the_nodes(body: Exported, outcome: str, because: str) -> None:
    assert decode_body("exported", 2, encode_body(body)) == body
    answer = explain_export("aten::mm", state(), event(body), body, CATALOG, ())
    assert answer.outcome == outcome
    assert because in answer.because


@pytest.mark.parametrize(
    ("raised", "op", "outcome", "because"),
    [
        (("aten::mm",), "aten::mm", "failed", "its decomposition raised E"),
        (("aten::linear", "aten::mm"), "aten::mm", "failed", "raised E, within the decomposition of aten::linear"),
        (("aten::linear", "aten::mm"), "aten::linear", "failed", "in the decomposition of aten::linear > aten::mm"),
        (("aten::linear",), "aten::mm", "failed", "failed with E in the decomposition of aten::linear, so it has no"),
        ((), "aten::mm", "failed", "outside of any decomposition"),
        (None, "aten::mm", "failed", "in which decomposition is unknown, because it was recorded by an older version"),
    ],
)
def test_a_failed_export_tells_where_it_failed(
    raised: tuple[str, ...] | None, op: str, outcome: str, because: str
) -> None:
    body = attrs.evolve(exported({"aten::mm": 1}, {}, {}, ("E", "no")), raised=raised)
    answer = explain_export(op, state(), event(body), body, CATALOG, ())
    assert answer.outcome == outcome
    assert because in answer.because


@pytest.mark.parametrize(
    ("entry", "preservable", "outcome"),
    [
        (Entry(unpreservable="its schema aliases", schema="aten::op(Tensor(a) self) -> Tensor(a)"), "yes", "kept"),
        (Entry(unpreservable="a higher-order operator"), "yes", "kept"),
        (Entry("cia", unpreservable="its schema aliases"), "no: its schema aliases", "decomposed"),
        (
            Entry("registry", default=True, unpreservable="mutates", schema="aten::op(Tensor(a!) self) -> Tensor(a!)"),
            "no: it changes its argument, so its functional form takes its place",
            "functionalized",
        ),
        (Entry("registry", default=True), "yes", "decomposed"),
    ],
)
@pytest.mark.parametrize("rules", [{}, {"aten::op": Rule("preserve")}])
def test_whether_torch_can_keep_an_op_follows_from_what_torch_does(
    entry: Entry, preservable: str, outcome: str, rules: dict[str, Rule]
) -> None:
    answer = explain("aten::op", state(rules), None, Catalog({"torch": "2.13.0"}, {"aten::op": entry}), ())
    assert answer.preservable == preservable
    assert answer.outcome == ("kept" if rules and preservable == "yes" else outcome)
    assert ("does nothing" in answer.because) == (bool(rules) and preservable != "yes")


def test_an_op_that_executorch_hid_is_found_under_its_name() -> None:
    hidden = "EDGE_DO_NOT_DECOMP::linear"
    body = attrs.evolve(
        exported({hidden: 1}, {hidden: 1}, {}),
        **{"declined": {}, "kinds": {}, "emitted": (Emission(hidden, 1, (), hidden),)},
    )
    answer = explain_export("aten::linear", state(), event(body), body, CATALOG, ())
    assert answer.outcome == "kept"
    assert answer.because.startswith(f"ExecuTorch hid it as {hidden} from this export")
    assert answer.counts == {"before": 1, "after": 1, "fired": 0}
    assert explain_export("aten::mm", state(), event(body), body, CATALOG, ()).outcome == "not in the program"


def test_the_diff_of_two_exports_has_the_ops_whose_counts_differ() -> None:
    one = exported({"aten::linear": 1}, {"aten::addmm": 1}, {"aten::linear": 1})
    other = exported({"aten::linear": 1}, {"aten::linear": 1}, {})
    found = export_diff(one, other)
    assert found.after == {"aten::addmm": (1, 0), "aten::linear": (0, 1)}
    assert found.fired == {"aten::linear": (1, 0)}
    assert (found.same_program, found.same_graph, bool(found)) == (True, True, True)
    outcomes = {"aten::linear": Outcome("decomposed", "")}, {"aten::linear": Outcome("kept", "")}
    assert export_diff(one, other, outcomes).outcomes == {"aten::linear": ("decomposed", "kept")}
    assert export_diff(one, other, (outcomes[0], {})).outcomes == {"aten::linear": ("decomposed", "not in the program")}
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
