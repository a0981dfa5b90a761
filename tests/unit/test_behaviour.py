"""Traces as data, and the shipped samples and traces."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from decomp_ledger import catalogs
from decomp_ledger.errors import LedgerError
from decomp_ledger.model.behaviour import Trace, Traces, TraceSet, is_dynamic
from decomp_ledger.model.catalog import Catalog
from decomp_ledger.model.samples import parse_call

VERSIONS = catalogs.available()
SET = TraceSet(
    Traces("2.0", {"aten::mm": (("(f32[2])", Trace("ab")), ("(f32[3])", Trace(error="RuntimeError: aten::mm")))}),
    {"ab": ("%0 = aten::mm(x0, x1)", "return %0")},
)


def test_a_trace_is_a_digest_or_an_error() -> None:
    assert [Trace.from_json(trace.to_json()) for trace in (Trace("ab"), Trace(error="E"))] == [
        Trace("ab"),
        Trace(error="E"),
    ]
    for values in ({}, {"digest": "ab", "error": "E"}):
        with pytest.raises(LedgerError, match="a digest or an error"):
            Trace(**values)


def test_traces_are_found_by_op_and_call() -> None:
    assert SET.traces.get("aten::mm")["(f32[2])"].digest == "ab"
    assert SET.traces.get("aten::linear") == {}
    assert [is_dynamic(call) for call in ("dynamic(f32[2])", "(f32[2])")] == [True, False]


def test_a_set_of_traces_is_plain_data() -> None:
    assert TraceSet.from_json(json.loads(json.dumps(SET.to_json()))) == SET
    catalog = Catalog({"torch": "2.0"}, {}, SET)
    assert Catalog.from_json(catalog.to_file()).traced == SET
    assert catalog.to_json() == Catalog({"torch": "2.0"}, {}).to_json()
    assert catalog.digest == Catalog({"torch": "2.0"}, {}).digest


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        {},
        {"torch": 2, "ops": {}, "graphs": {}},
        {"torch": "2.0", "ops": []},
        {"torch": "2.0", "ops": {"a": []}, "graphs": {}},
        {"torch": "2.0", "ops": {"a": {"()": 3}}, "graphs": {}},
        {"torch": "2.0", "ops": {"a": {"()": "ab"}}, "graphs": {}},
        {"torch": "2.0", "ops": {}, "graphs": {"ab": [1]}},
        {"torch": "2.0", "ops": {}, "graphs": {"ab": "text"}},
        {"torch": "2.0", "ops": {}},
    ],
)
def test_damaged_traces_are_refused(damaged: Any) -> None:
    with pytest.raises(LedgerError, match="trace"):
        TraceSet.from_json(damaged)


def test_the_files_hold_what_was_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = TraceSet(
        Traces("3.0", {"aten::mm": (("(f32[2])", Trace("cd")),)}), {"cd": ("return x0",), "ef": ("unused",)}
    )
    catalogs.write_traces(tmp_path, {"3.0": newer, "2.0": SET})
    files = {
        name: json.loads(gzip.decompress((tmp_path / name).read_bytes()))
        for name in ("traces.json.gz", "graphs.json.gz")
    }
    monkeypatch.setattr(catalogs, "_trace_file", lambda: files["traces.json.gz"])
    monkeypatch.setattr(catalogs, "_graph_file", lambda: files["graphs.json.gz"])
    catalogs.traces.cache_clear()
    try:
        assert catalogs.traced_versions() == ["2.0", "3.0"]
        assert catalogs.traces("2.0") == SET.traces
        assert catalogs.traces("3.0") == newer.traces
        assert catalogs.traces("4.0") is None
        assert [catalogs.graph(digest) for digest in ("ab", "cd", "ef")] == [SET.graphs["ab"], ("return x0",), None]
    finally:
        catalogs.traces.cache_clear()


# What is shipped


def test_every_shipped_sample_is_a_call_in_its_canonical_text() -> None:
    for op, calls in catalogs.samples().items():
        assert calls, op
        assert len({*calls}) == len(calls), op
        for call in calls:
            assert str(parse_call(call)) == call, op


def test_every_default_entry_has_a_sample_or_a_reason() -> None:
    sampled, without = catalogs.samples().keys(), catalogs.without_samples()
    assert not sampled & without.keys()
    assert all(without.values())
    for version in VERSIONS:
        assert {*catalogs.released(version).defaults} <= sampled | without.keys(), version


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_a_trace_of_each_sample_of_its_table(version: str) -> None:
    traces, defaults = catalogs.traces(version), catalogs.released(version).defaults
    assert traces is not None
    expected = {op: [*calls] for op, calls in catalogs.samples().items() if op in defaults}
    assert {op: [call for call, _ in each] for op, each in traces.of.items()} == expected


# What a graph of dense tensors cannot hold.
OTHERS = ("names of dims", "packed weights", "sparse tensors", "nested tensors")


@pytest.mark.parametrize("version", VERSIONS)
def test_nine_of_ten_entries_that_a_graph_can_hold_are_traced(version: str) -> None:
    traces, catalog = catalogs.traces(version), catalogs.released(version)
    assert traces is not None
    reasons = catalogs.without_samples()
    graphs = {op: {trace.digest for trace in traces.get(op).values()} - {None} for op in catalog.defaults}
    held = [op for op in graphs if not catalog.ops[op].unpreservable]
    held = [op for op in held if not any(other in reasons.get(op, "") for other in OTHERS)]
    assert len(held) > 0.8 * sum(not catalog.ops[op].unpreservable for op in graphs)
    assert sum(bool(graphs[op]) for op in held) >= 0.9 * len(held)
    assert sum(len(traces.get(op)) > 1 for op in held) >= 0.9 * len(held)
    assert sum(len(graphs[op]) > 1 for op in held) >= 0.85 * len(held)
    assert traces.of.keys() <= catalog.defaults.keys()


def test_every_named_graph_is_shipped() -> None:
    for version in VERSIONS:
        traces = catalogs.traces(version)
        assert traces is not None
        for each in traces.of.values():
            for _, trace in each:
                if trace.digest is not None:
                    lines = catalogs.graph(trace.digest)
                    assert lines is not None
                    assert lines[-1].startswith("return ")


def test_no_text_has_an_address_or_a_path() -> None:
    for version in VERSIONS:
        traces = catalogs.traces(version)
        assert traces is not None
        texts = {trace.error or "" for each in traces.of.values() for _, trace in each}
        assert not [text for text in texts if "0x" in text or "/" in text or len(text) > 100]


def differing(one: str, other: str) -> set[str]:
    """Return the ops that behave differently on some sample of both versions."""
    first, second = catalogs.traces(one), catalogs.traces(other)
    assert first is not None
    assert second is not None
    ops = first.of.keys() & second.of.keys()
    return {
        op
        for op in ops
        if any(first.get(op)[call] != trace for call, trace in second.get(op).items() if call in first.get(op))
    }


def test_known_changes_of_behaviour_are_seen() -> None:
    found = differing("2.9.1", "2.13.0")
    expected = ["take_along_dim", "cosine_similarity", "frac", "frac_", "frac.out", "eye", "embedding_dense_backward"]
    expected += ["mish_backward", "isin.Scalar_Tensor", "one_hot"]
    assert {f"aten::{op}" for op in expected} <= found
    assert "aten::linear" not in found
    newer = differing("2.13.0", "2.15.0")
    assert {f"aten::{op}" for op in ("linear", "scaled_dot_product_attention", "quantile", "data")} <= newer
    assert "aten::conv2d" not in newer


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        ("catalogs.released('2.13.0')", set()),
        ("decomp_ledger.show('torch:2.13.0').catalog.digest", set()),
        ("cli(['catalog', 'list'], standalone_mode=False)", set()),
        ("cli(['show', 'torch:2.13.0'], standalone_mode=False)", set()),
        ("decomp_ledger.Ledger('l.db').explain('aten::mm', 'torch:2.13.0')", set()),
        ("catalogs.traces('2.13.0')", {"traces.json.gz"}),
        ("decomp_ledger.drift('torch:2.9.1', 'torch:2.13.0')", {"graphs.json.gz", "samples.json", "traces.json.gz"}),
    ],
)
def test_only_what_asks_for_traces_opens_their_files(run_python: Any, ask: str, expected: set[str]) -> None:
    code = f"""
import sys
opened = set()
sys.addaudithook(lambda event, values: opened.add(str(values[0])) if event == "open" else None)
import decomp_ledger
from decomp_ledger import catalogs
from decomp_ledger.cli import cli
{ask}
assert any(path.endswith("2.13.0.json.gz") or "traces" in path for path in opened)
print(*sorted(path.rpartition("/")[2] for path in opened if "/catalogs/" in path))
"""
    names = {*run_python(code).splitlines()[-1].split()}
    assert {name for name in names if not name[0].isdigit() and name.endswith((".json", ".json.gz"))} == expected


def test_reading_the_traces_of_two_versions_is_quick_and_needs_no_torch(run_python: Any) -> None:
    code = (
        "import sys, time; from decomp_ledger import catalogs\n"
        "catalogs.released('2.9.1'); catalogs.released('2.13.0')\n"
        "start = time.process_time(); catalogs.traces('2.9.1'); catalogs.traces('2.13.0'); catalogs.graph('')\n"
        "taken = time.process_time() - start\n"
        "assert 'torch' not in sys.modules\nprint(taken)\n"
    )
    assert float(run_python(code)) < 0.3
