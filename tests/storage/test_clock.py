"""Clocks that are wrong, or show no time at all."""

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from strategies import new_table

from decomp_ledger import Ledger, LedgerFileError
from decomp_ledger.storage import event_store
from decomp_ledger.storage.database import Database
from decomp_ledger.storage.views import QUESTIONS

REAL = datetime.datetime


def clock(monkeypatch: pytest.MonkeyPatch, now: Callable[[], datetime.datetime]) -> None:
    """Let the package see another clock."""

    class Fake(REAL):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return now()

    class Module:
        datetime, timezone = Fake, event_store.datetime.timezone

    monkeypatch.setattr(event_store, "datetime", Module)


@pytest.mark.parametrize(
    ("time", "recorded_at"),
    [
        (REAL(1, 1, 1), "0001-01-01T00:00:00.000000Z"),
        (REAL(999, 12, 31), "0999-12-31T00:00:00.000000Z"),
        (REAL(1969, 12, 31, 23, 59, 59, 999999), "1969-12-31T23:59:59.999999Z"),
        (REAL(9999, 12, 31, 23, 59, 59), "9999-12-31T23:59:59.000000Z"),
    ],
)
def test_a_wrong_clock_is_recorded_in_form_and_the_order_is_that_of_the_numbers(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, time: datetime.datetime, recorded_at: str
) -> None:
    table = new_table(ledger)
    with monkeypatch.context() as patch:
        clock(patch, lambda: time.replace(tzinfo=datetime.timezone.utc))
        table.preserve(["aten::mm"])
    table.preserve(["aten::add.Tensor"])
    assert [event.seq for event in ledger.events()] == [1, 2, 3]
    assert list(ledger.events())[1].recorded_at == recorded_at
    assert ledger.verify().ok


@pytest.mark.parametrize("years", [(2026, 2020), (1, 9999, 2026), (9999, 1), (2026, 2026, 2025, 2027, 2024)])
def test_the_last_event_is_the_newest_one_whatever_the_clock_shows(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, years: tuple[int, ...]
) -> None:
    times = [REAL(year, 1, 1, tzinfo=datetime.timezone.utc) for year in years]
    left = iter(times)
    with monkeypatch.context() as patch:
        clock(patch, lambda: next(left))
        table = new_table(ledger)
        for number in range(len(years) - 1):
            table.preserve([f"mylib::op{number}"])
    (info,) = ledger.tables()
    assert (info.first_at, info.last_at) == tuple(f"{times[n].isoformat()[:19]}.000000Z" for n in (0, -1))
    assert [event.recorded_at for event in ledger.events(limit=1, desc=True)] == [info.last_at]
    database = Database(ledger.path, read_only=True, with_views=True)
    with database.reading() as connection:
        (row,) = connection.execute(QUESTIONS["tables"].sql).fetchall()
    database.close()
    assert row[-1] == info.last_at


@pytest.mark.parametrize(
    "error", [ValueError("year 10000 is out of range"), OverflowError("too large"), OSError("no clock")]
)
def test_a_clock_without_a_time_refuses_the_write_with_one_error(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    table = new_table(ledger)

    def fail() -> datetime.datetime:
        raise error

    with monkeypatch.context() as patch:
        clock(patch, fail)
        with pytest.raises(LedgerFileError, match=r"^the clock: it shows no time .*; set the clock$"):
            table.preserve(["aten::mm"])
    assert (table.version, ledger.state("edge").version) == (1, 1)
    table.preserve(["aten::mm"])
    assert ledger.verify().ok
