"""Clocks that are wrong, or show no time at all."""

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from strategies import new_table

from decomp_ledger import Ledger, LedgerFileError
from decomp_ledger.storage import event_store

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
