"""Rows of a query that are more than the file can hold."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forging import tamper
from strategies import new_table
from torture import runaway

from decomp_ledger.errors import LedgerError, LedgerFileError
from decomp_ledger.ledger import Ledger
from decomp_ledger.storage.bounded_rows import all_rows, rows_in_order
from decomp_ledger.storage.connection import LedgerConnection

ENDLESS = "WITH RECURSIVE endless(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM endless)"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[LedgerConnection]:
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        new_table(ledger).preserve(["aten::mm"])
        ledger.database.connection.watch(None)  # so that no other limit ends the query
        yield ledger.database.connection


@pytest.mark.parametrize(
    "columns",
    [
        "x",
        "NULL",
        "printf('%.*c', 1000, 'y') || x",
        "printf('%.*c', 1000000, 'y')",
        "randomblob(1000)",
        "zeroblob(9), x",
    ],
)
def test_rows_without_end_are_refused(connection: LedgerConnection, columns: str) -> None:
    with pytest.raises(LedgerFileError, match=r"ledger\.db: the file is damaged: a query finds more than") as raised:
        all_rows(connection, f"{ENDLESS} SELECT {columns} FROM endless")
    assert str(raised.value).endswith("; restore a backup")


def test_a_long_text_of_many_rows_is_kept_once(connection: LedgerConnection) -> None:
    query = f"{ENDLESS} SELECT x, printf('%.*c', 100000, 'y') FROM endless LIMIT 1000"
    rows = all_rows(connection, query)
    assert rows == connection.execute(query).fetchall()
    assert len({id(text) for _, text in rows}) == 1


def test_all_events_of_one_long_reason_are_read(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        table = new_table(ledger)
        with ledger.because("y" * 100_000):
            for number in range(400):
                table.preserve([f"a::op{number}"])
        assert [event.seq for event in ledger.events() if event.reason] == list(range(2, 402))
        assert ledger.verify().ok


@pytest.mark.parametrize("numbers", ["x % 3", "1", "-x", "min(x, 5)"])
def test_numbers_that_do_not_grow_are_refused(connection: LedgerConnection, numbers: str) -> None:
    rows = rows_in_order(connection, f"{ENDLESS} SELECT {numbers} FROM endless", name="row")
    with pytest.raises(LedgerFileError, match=r"row -?\d: it is stored after row -?\d; restore a backup"):
        list(itertools.islice(rows, 10))


@pytest.mark.parametrize("own", [slice(None), slice(2, 3)])
def test_rows_of_more_bytes_than_the_file_are_refused(connection: LedgerConnection, own: slice) -> None:
    query = f"{ENDLESS} SELECT x, 'y', zeroblob(1000) FROM endless"
    with pytest.raises(LedgerFileError, match="the file is damaged"):
        list(itertools.islice(rows_in_order(connection, query, name="row", own=own), 1000))
    shared = rows_in_order(connection, query, name="row", own=slice(1, 2))
    assert len(list(itertools.islice(shared, 1000))) == 1000


@pytest.mark.parametrize("table", ["environment", "decomposition", "catalog", "event"])
def test_verify_and_dump_do_not_read_one_text_without_end(tmp_path: Path, table: str) -> None:
    workspace = runaway.Workspace(tmp_path, 1, False)
    _, large = runaway.sources(workspace)
    with Ledger(large, read_only=True) as ledger:
        size = sum(map(len, ledger.dump_lines()))
    runaway.share(large, table, 300)
    read = 0
    with Ledger(large, read_only=True) as ledger:
        with pytest.raises(LedgerFileError, match="restore a backup"):
            for line in ledger.dump_lines():
                read += len(line)
        assert not ledger.verify().ok
    assert read < 4 * size  # a catalog unpacks; all rows together have more than 100 MB


LONGEST = 500


def test_the_longest_name_is_written_and_read(tmp_path: Path) -> None:
    op = "aten::" + "m" * (LONGEST - 6)
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        new_table(ledger, "t" * 200).preserve([op])
        assert set(ledger.state("t" * 200).rules) == {op} and ledger.verify().ok
        assert [change.op for event in ledger.events() for change in event.changes] == [op]


LONG_OP = "UPDATE op SET name = printf('%.*c', 501, 'm')"
LONG_TABLE = "UPDATE decomp_table SET name = printf('%.*c', 501, 'm')"


@pytest.mark.parametrize(
    ("edit", "read"),
    [
        (LONG_OP, lambda ledger: ledger.state("edge")),
        (LONG_OP, lambda ledger: list(ledger.events(op="mm"))),
        (LONG_TABLE, lambda ledger: ledger.tables()),
        (LONG_TABLE, lambda ledger: list(ledger.events())),
        (LONG_TABLE, lambda ledger: ledger.state("edge")),
        ("UPDATE tag SET name = printf('%.*c', 501, 'm')", lambda ledger: ledger.tags("edge")),
        ("UPDATE event SET body = replace(body, 'aten::mm', printf('%.*c', 501, 'm'))",
         lambda ledger: list(ledger.events())),
    ],
)  # fmt: skip
def test_a_longer_name_is_refused(tmp_path: Path, edit: str, read: Callable[[Ledger], object]) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, actor="ann") as ledger:
        table = new_table(ledger)
        table.preserve(["aten::mm"])
        table.tag("v1")
    tamper(path, edit)
    with Ledger(path, read_only=True) as ledger:
        with pytest.raises(LedgerError, match="run verify") as raised:
            read(ledger)
        assert not isinstance(raised.value, LookupError)
        assert not ledger.verify().ok
