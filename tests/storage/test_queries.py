"""The public questions from Python: with a ledger, and without one."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import decomp_ledger as dl
from decomp_ledger import queries
from decomp_ledger.model.catalog import Catalog, Entry

CATALOG = Catalog(
    {"torch": "9.9.9", "git": "abc", "accelerator": "cpu"},
    {
        "aten::linear": Entry("cia", default=True),
        "aten::gelu": Entry("registry"),
        "aten::addcmul": Entry("registry", default=True),
    },
)
NEWER = Catalog(
    {"torch": "9.9.10", "git": "def", "accelerator": "cpu"},
    {"aten::linear": Entry("cia", default=True), "aten::gelu": Entry("registry", default=True)},
)


@pytest.fixture
def ledger() -> Iterator[dl.Ledger]:
    """A ledger with one table that was materialized, and one that was not."""
    with dl.Ledger(":memory:", actor="Ada") as opened:
        edge = opened.create_table("edge")
        edge.preserve(["aten::linear"], reason="a kernel")
        edge.materialize(CATALOG)
        opened.create_table("plain", base="empty")
        yield opened


@pytest.fixture
def bare() -> Iterator[dl.Ledger]:
    """A ledger in which no table was materialized."""
    with dl.Ledger(":memory:") as opened:
        opened.create_table("new")
        yield opened


class FakeOp:
    """An op that names itself, as an `OpOverload` does."""

    def name(self) -> str:
        return "aten::linear"


def test_show_returns_the_state_with_its_catalog(ledger: dl.Ledger) -> None:
    shown = ledger.show("edge@2")
    assert (shown.name, shown.state, shown.catalog) == ("edge@2", ledger.state("edge", 2), CATALOG)
    assert shown.materialization is not None and shown.materialization.kind == "materialized"
    assert shown.snapshot is not None and list(shown.snapshot.ops) == ["aten::addcmul"]
    assert (shown.since["aten::linear"].version, shown.since["aten::linear"].reason) == (2, "a kernel")
    assert ledger.show(shown) is shown


def test_show_takes_the_catalog_of_another_table_as_the_last_resort(ledger: dl.Ledger, bare: dl.Ledger) -> None:
    shown = ledger.show("plain")
    assert shown.catalog == CATALOG and shown.materialization is not None
    assert shown.materialization.table == "edge"
    assert (bare.show().catalog, bare.show().snapshot) == (None, None)


def test_a_ledger_with_one_table_needs_no_spec() -> None:
    with dl.Ledger(":memory:") as ledger:
        with pytest.raises(dl.LedgerError, match="the ledger has 0 tables; record something first"):
            ledger.show()
        ledger.create_table("edge").preserve(["aten::mm"])
        assert ledger.show().name == "edge@2"
        assert list(ledger.blame()) == ["aten::mm"]


def test_an_op_is_named_by_text_or_by_itself(ledger: dl.Ledger) -> None:
    for op in ("aten::linear", "aten.linear.default", FakeOp()):
        assert ledger.blame("edge", op=op)["aten::linear"].seq == 2
        assert [each.outcome for each in ledger.explain(op, "edge")] == ["kept"]
    with pytest.raises(dl.UnusableValue, match="7: not an op; give its name, or an OpOverload"):
        ledger.explain(7)


def test_explain_answers_for_the_tables_with_a_rule_or_for_one_of_each_kind(ledger: dl.Ledger) -> None:
    assert [each.table for each in ledger.explain("aten::linear")] == ["edge"]
    assert [each.table for each in ledger.explain("aten::gelu")] == ["edge", "plain"]
    ledger.create_table("other")
    assert [each.table for each in ledger.explain("aten::gelu")] == ["edge", "plain"]


def test_diff_is_true_if_anything_differs(ledger: dl.Ledger) -> None:
    found = ledger.diff("edge@1", "edge")
    assert bool(found) and [each.op for each in found.rules] == ["aten::linear"] and found.same_base
    assert not ledger.diff("edge", "edge@2")
    assert bool(ledger.diff("edge@1", "plain")) and not ledger.diff("edge@1", "plain").same_base


def test_drift_compares_catalogs_and_states(ledger: dl.Ledger, bare: dl.Ledger) -> None:
    assert [change.op for change in dl.drift(CATALOG, NEWER).changes] == ["aten::gelu", "aten::addcmul"]
    assert ledger.drift("edge", "edge").changes == ()
    with pytest.raises(dl.LedgerError, match="new@1: the table was never materialized, so it has no catalog"):
        bare.drift("new", CATALOG)


def test_upgrade_needs_exactly_one_other_torch(ledger: dl.Ledger) -> None:
    for wrong in ({}, {"torch": "2.6.0", "python": "python3"}):
        with pytest.raises(dl.UnusableValue, match="give either a torch version or a Python interpreter"):
            ledger.upgrade("edge", **wrong)
    assert [each.op for each in ledger.upgrade("edge", torch="2.6.0").effects] == ["aten::linear"]
    with pytest.raises(dl.LedgerError, match="edge@2: no export succeeded"):
        ledger.check_upgrade("edge", torch="2.6.0")


def test_tag_and_revert_return_their_event_or_none(ledger: dl.Ledger) -> None:
    event = ledger.tag("edge@1", "first", reason="a start")
    assert event is not None and (event.version, event.reason) == (1, "a start")
    assert ledger.tag("edge@1", "first") is None
    assert ledger.revert("edge", "2") is None
    reverted = ledger.revert("edge", "first")
    assert reverted is not None and ledger.state("edge").rules == {}


def test_a_catalog_file_is_a_state(tmp_path: Path) -> None:
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps(CATALOG.to_json()))
    assert dl.catalog(f"catalog:{path}") == CATALOG
    assert dl.explain("aten::linear", f"catalog:{path}")[0].outcome == "decomposed"
    assert dl.drift(f"catalog:{path}", CATALOG).changes == ()
    assert dl.blame(f"catalog:{path}") == {}


@pytest.mark.parametrize(
    "question",
    [
        lambda: dl.show("edge"),
        lambda: dl.show(),
        lambda: dl.blame("edge@2"),
        lambda: dl.explain("aten::mm", "edge"),
        lambda: dl.diff("torch:2.6.0", "export:7"),
        lambda: dl.drift("edge", "torch:2.6.0"),
        lambda: dl.used_ops("export:7"),
        lambda: dl.upgrade("edge", torch="2.6.0"),
    ],
)
def test_a_table_or_an_export_needs_a_ledger(question: Callable[[], object]) -> None:
    with pytest.raises(dl.LedgerError, match=r": needs a ledger; open one with Ledger\(path\), and call its method"):
        question()


def test_a_ledger_can_be_dumped_and_loaded(ledger: dl.Ledger, tmp_path: Path) -> None:
    dumped = ledger.dump(tmp_path / "ledger.jsonl")
    assert dumped.read_text() == "".join(ledger.dump_lines())
    loaded = dl.load_dump(dumped, tmp_path / "new.db")
    assert (loaded.ok, loaded.head) == (True, ledger.verify().head)


def test_results_have_short_representations(ledger: dl.Ledger, bare: dl.Ledger) -> None:
    assert repr(ledger) == "<Ledger :memory:, open>"
    assert repr(ledger.show("edge")) == "<ResolvedState edge@2: base torch, 1 rules, torch 9.9.9>"
    assert repr(bare.show()) == "<ResolvedState new@1: base torch, 0 rules, never materialized>"
    assert repr(ledger.diff("edge@1", "edge")) == "<StateDiff edge@1 -> edge@2: 1 rules differ>"
    assert len(repr(dl.catalog("torch:2.13.0"))) < 300
    assert len(repr(ledger.show("edge").snapshot)) < 300


def test_every_question_is_a_method_of_a_ledger() -> None:
    questions = {name for name in queries.__all__ if name[0].islower()}
    without_ledger = {
        "available_catalogs",
        "capture_catalog",
        "load_dump",
        "catalog",
        "ops_of",
        "read_samples",
        "record_imports",
        "sole_table",
        "state_and_blame",
        "trace",
    }
    assert {name for name in questions - without_ledger if not hasattr(dl.Ledger, name)} == set()


def test_the_nearest_table_needs_a_program_to_run() -> None:
    with pytest.raises(dl.UnusableValue, match="nearest: no program is run; give `program` too"):
        dl.reproduce_export("export:1", nearest=True)
