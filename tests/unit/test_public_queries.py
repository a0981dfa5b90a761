"""The public queries on a ledger with one table, without torch."""

from collections.abc import Callable, Iterator

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


@pytest.mark.parametrize(
    "call",
    [
        lambda ledger: ledger.show(3),
        lambda ledger: ledger.blame(3.5),
        lambda ledger: ledger.diff("edge", b"edge"),
        lambda ledger: ledger.used_ops(3.5),
        lambda ledger: ledger.drift("torch:2.12.1", "torch:2.13.0", only_used=[3]),
        lambda ledger: ledger.upgrade("edge", python="a\0b"),
        lambda _: dl.capture_catalog(3),
    ],
)
def test_a_value_of_a_wrong_type_is_named_with_the_fix(ledger: dl.Ledger, call: Callable[[dl.Ledger], object]) -> None:
    with pytest.raises(dl.UnusableValue, match=r": not a (state spec|path); give "):
        call(ledger)


def test_a_number_names_an_export(ledger: dl.Ledger) -> None:
    with pytest.raises(dl.UnknownExport, match="has no export 3"):
        ledger.used_ops(3)
    with pytest.raises(dl.UnknownExport, match="has no export 3"):
        ledger.drift("torch:2.12.1", "torch:2.13.0", only_used=3)


def test_the_type_of_an_open_ledger_is_public(ledger: dl.Ledger) -> None:
    assert "LedgerLog" in dl.__all__
    assert isinstance(ledger, dl.LedgerLog)


def test_each_available_catalog_can_be_read() -> None:
    versions = dl.available_catalogs()
    assert (versions[0], versions[-1]) == ("2.5.1", "2.15.0")
    assert all(dl.catalog(f"torch:{version}").build["torch"].startswith(version) for version in versions)
