"""What is over a limit is refused when it is written and when it is read, and what is under it can be read again."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import catalog_of, new_table

from decomp_ledger.errors import LedgerError, StampError, UnusableValue
from decomp_ledger.ledger import Ledger
from decomp_ledger.model import json_values, limits
from decomp_ledger.model.canonical_json import canonical_json
from decomp_ledger.model.catalog import Catalog, Entry, pack, unpack
from decomp_ledger.model.json_values import parse_json
from decomp_ledger.storage.bounded_read import Answer, answer_of, answers_of, read_bounded
from decomp_ledger.transfer import jsonl
from decomp_ledger.transfer.stamp import Stamp

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(max_codepoint=127)), inner),
    max_leaves=50,
)


def count_of(value: object) -> int:
    """Return how many values a JSON value has, itself included."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count_of, inner))


@given(JSON, st.integers(0, 100), st.integers(0, 60))
def test_no_more_values_and_bytes_are_parsed_than_the_limits_say(value: object, most: int, most_values: int) -> None:
    text = canonical_json(value)
    for form in (text, text.encode()):
        try:
            assert parse_json(form, most, most_values) == value
        except UnusableValue:
            assert len(text.encode()) + text.count("\x7f") > most or sum(map(text.count, ",:[{")) > most_values
        else:
            assert len(text.encode()) <= most and count_of(value) <= most_values + 1


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 200_000, "9" * 5000, b"\xff", "\ud800", '"\\ud800', None, 7], ids=range(9)
)
def test_what_is_not_json_is_one_error(text: object) -> None:
    with pytest.raises(UnusableValue):
        parse_json(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", ["x" * limits.JSON_BYTES, "," * (limits.JSON_VALUES + 1), "\U0001f600" * 2_200_000])
def test_an_event_that_could_not_be_read_is_not_written(reason: str, tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        table = new_table(ledger)
        with pytest.raises(LedgerError, match=r"at most \d+ can be read"):
            table.preserve(["aten::mm"], reason=reason)
        assert [event.kind for event in ledger.events()] == ["created"] and ledger.verify().ok
        assert table.preserve(["aten::mm"]) is not None


@pytest.mark.parametrize("unit", ["x", "\u00e9", "\u20ac", "\U0001f600", '"', "\x7f"], ids=ascii)
def test_the_largest_event_can_be_dumped_and_loaded(unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values.check_json_size, "__defaults__", (20_000, limits.JSON_VALUES))
    monkeypatch.setattr(jsonl, "DUMP_LINE", 3 * 20_000 + 4096)
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        table = new_table(ledger)
        for size in range(20_000, 0, -200):
            try:
                table.preserve(["aten::mm"], reason=unit * size)
                break
            except LedgerError:
                continue
        assert len(list(ledger.events())) == 2
        lines = list(jsonl.dump(ledger))
    assert jsonl.load(lines, tmp_path / "again.db").ok


def test_a_long_line_of_a_dump_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "DUMP_LINE", 1000)
    path = tmp_path / "dump"
    path.write_text("x" * 5000 + "\n")
    with path.open() as file:
        assert [len(line) for line in jsonl._bounded_lines(file)][:2] == [1001, 1001]
    with pytest.raises(LedgerError, match="line 1: cannot be loaded: JSON of 1001 bytes; at most 1000 can be read"):
        jsonl.load(path, tmp_path / "new.db")


def test_a_catalog_that_compresses_too_well_is_stored_in_another_way() -> None:
    catalog = Catalog({"torch": "x"}, {f"eve::{'x' * 100}{n:05}": Entry() for n in range(5000)})
    data = pack(catalog, None)
    assert unpack(data, None) == catalog
    text = zlib.decompress(data)
    assert len(text) <= limits.EXPANSION_FREE + limits.EXPANSION * len(data)
    if len(text) > limits.EXPANSION_FREE + limits.EXPANSION * len(zlib.compress(text, 9)):
        with pytest.raises(LedgerError, match="unpacks to more than"):
            unpack(zlib.compress(text, 9), None)


def test_a_catalog_of_too_many_ops_is_neither_stored_nor_read() -> None:
    catalog = Catalog({}, {f"a::{n}": Entry() for n in range(limits.CATALOG_OPS + 1)})
    with pytest.raises(LedgerError, match="at most 50000 can be stored"):
        pack(catalog, None)
    with pytest.raises(LedgerError, match="at most 50000 can be read"):
        Catalog.from_json(catalog.to_json())


def test_a_stamp_of_too_many_exports_is_neither_made_nor_read() -> None:
    from decomp_ledger.model.events import Exported

    with Ledger(":memory:", actor="ann") as ledger:
        table, catalog = new_table(ledger), catalog_of("aten::mm")
        snapshot = table.materialize(catalog)
        event = table.exported(Exported(catalog.digest, snapshot.digest, None, None, {}, {}, {}, 0), table.version)
        assert event is not None
        bundle = ledger.bundle(event.seq)
    with pytest.raises(StampError, match="101 exports, more than the 100 that can be read"):
        Stamp((bundle,) * 101, None, "").to_text()
    text = Stamp((bundle,), None, "").to_text()
    head, _, tail = text.partition('"exports":[')
    with pytest.raises(StampError, match="it has 101 exports; at most 100"):
        Stamp.from_text(head + '"exports":[' + "0," * 100 + tail)


def test_a_file_that_is_too_large_is_refused_and_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_bounded(path, 100) == b"x" * 100
    with pytest.raises(UnusableValue, match="at most 99"):
        read_bounded(path, 99)
    with pytest.raises(UnusableValue, match="at most 1000"):
        read_bounded("/dev/zero", 1000)


def test_a_program_is_bounded_in_time_and_output() -> None:
    assert answer_of(["sh", "-c", "cat; echo no >&2; exit 3"], 100, 30, b"given") == (3, b"given", b"no\n")
    with pytest.raises(UnusableValue, match="more than 1000 bytes"):
        answer_of(["yes"], 1000, 30)
    with pytest.raises(TimeoutError):
        answer_of(["sh", "-c", "sleep 60 & sleep 60"], 1000, 0.2)
    with pytest.raises(OSError):
        answer_of(["/no/such/program"], 1000, 1)


def test_programs_run_at_the_same_time_and_answer_in_order() -> None:
    steps: list[tuple[int, bytes]] = []
    command = ["sh", "-c", "read name; echo $name; sleep 0.1; exit $name"]
    found = answers_of(command, [b"3\n", b"0\n"], 100, 30, received=lambda n, output: steps.append((n, bytes(output))))
    assert found == [Answer(3, b"3\n", b""), Answer(0, b"0\n", b"")]
    assert {(0, b"3\n"), (1, b"0\n")} == {*steps}


def test_when_one_of_several_programs_prints_too_much_all_are_killed(tmp_path: Path) -> None:
    started = tmp_path / "started"
    other = f"echo $$ > {started}.new; mv {started}.new {started}; sleep 60"
    command = ["sh", "-c", f"read name; if [ $name = 0 ]; then {other}; fi; until [ -e {started} ]; do :; done; yes"]
    with pytest.raises(UnusableValue, match="more than 1000 bytes"):
        answers_of(command, [b"0\n", b"1\n"], 1000, 30)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
