"""A minimal stamp has no reasons, actors, paths and machines, and can still be checked against the ledger."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stamp_edits import forged, sealed, unsealed, write_stamp
from strategies import private_export, private_texts

from decomp_ledger import Ledger, LedgerError, StampError, read_stamp
from decomp_ledger.transfer.stamp import Stamp


@pytest.fixture(scope="module")
def ledger_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "l.db"
    private_export(path, *["private"] * 5)
    return path


@pytest.fixture(scope="module")
def text(ledger_path: Path) -> str:
    with Ledger(ledger_path) as ledger:
        (event,) = ledger.exports()
        return Stamp((ledger.bundle(event.seq).redact(),), "a", "git").to_text()


@settings(max_examples=25)
@given(facts=st.tuples(*[private_texts] * 5))
def test_no_private_text_is_in_a_minimal_stamp(
    facts: tuple[str, str, str, str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("private")
    number = private_export(folder / "l.db", *facts)
    with Ledger(folder / "l.db") as ledger:
        bundle = ledger.bundle(number)
        full, minimal = (Stamp((each,), "a", "git") for each in (bundle, bundle.redact()))
        assert full.to_text().count("private") >= 5
        assert "private" not in minimal.to_text()
        file = write_stamp(folder / "m.pt2", minimal.to_text())
        assert read_stamp(file) == minimal
        assert minimal.anchors(ledger.id) == full.anchors(ledger.id)
        assert ledger.verify(against=[file]).ok


def test_it_shows_the_table_and_says_that_it_is_redacted(text: str) -> None:
    stamp = Stamp.from_text(text)
    last = stamp.last
    assert stamp.redacted and last.redacted
    assert last.state.rules.keys() == {"aten::mm", "mylib::late", "aten::add.Tensor"}
    assert {(event.actor, event.reason, event.call_site) for event in last.blame().values()} == {
        ("(redacted)", None, None)
    }
    assert last.environment == {"torch": "2.13.0", "python": "3.11.7", "platform": "Linux x86_64"}
    assert Stamp((last,), "a", "git").to_text() == text
    assert last.redact() == last


def test_each_changed_value_is_refused_or_shown_by_the_ledger(text: str, ledger_path: Path, tmp_path: Path) -> None:
    refused = shown = 0
    with Ledger(ledger_path) as ledger:
        for what, changed in forged(text):
            file = write_stamp(tmp_path / "forged.pt2", changed)
            try:
                assert not ledger.verify(against=[file]).ok, what
                shown += 1
            except LedgerError:
                refused += 1
    assert refused > 10 and shown > 10


@pytest.mark.parametrize("name", ["actor", "reason", "call_site"])
def test_a_redacted_stamp_with_a_private_field_is_refused(name: str, text: str) -> None:
    value = unsealed(text)
    value["exports"][0]["event"][name] = None
    with pytest.raises(StampError, match="expected the keys"):
        Stamp.from_text(sealed(value))


def test_a_byte_of_an_event_cannot_change_unseen(text: str) -> None:
    value = unsealed(text)
    value["exports"][0]["event"]["body"]["milliseconds"] = 4
    with pytest.raises(StampError, match="damaged: event"):
        Stamp.from_text(sealed(value))
    del value["exports"][0]["redacted"]
    with pytest.raises(StampError):
        Stamp.from_text(sealed(value))
