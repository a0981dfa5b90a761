"""The public queries on a ledger with one table, without torch."""

from collections.abc import Iterator

import pytest

import decomp_ledger as dl


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dl.Ledger]:
    """A ledger whose table `edge` has two rules, set by events 2 and 3."""
    with dl.Ledger(tmp_path_factory.mktemp("queries") / "l.db", actor="Ada") as opened:
        edge = opened.create_table("edge")
        edge.preserve(["aten::linear"])
        edge.preserve(["aten::gelu"])
        yield opened


def test_blame_of_a_resolved_state_is_the_blame_of_its_version(ledger: dl.Ledger) -> None:
    found = ledger.blame(ledger.show("edge@2"))
    assert {op: event.seq for op, event in found.items()} == {"aten::linear": 2}


def test_blame_of_the_default_table_of_a_torch_is_empty(ledger: dl.Ledger) -> None:
    assert ledger.blame(ledger.show("torch:2.13.0")) == {}
