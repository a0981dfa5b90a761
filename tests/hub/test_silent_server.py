"""A server, or a proxy to it, that takes every byte and answers nothing: one clear error, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import pytest
import stalling_proxy
from postgresql import Server
from strategies import OPS, new_table

from decomp_ledger import Hub, HubError, clone
from decomp_ledger.hub import connection as connecting
from decomp_ledger.hub import push as pushing
from decomp_ledger.hub.connection import connect
from decomp_ledger.ledger import Ledger

Stalls: TypeAlias = Callable[..., str]
SILENT = r"postgresql://postgres@127\.0\.0\.1:\d+/\w+: the server did not answer for \d+ s; see that it and .*try again"
OPTIONS = quote("-c statement_timeout=2s", safe="")


@pytest.fixture
def stalls(server: Server, postgresql_hub: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stalls]:
    """Return the address of the hub by a proxy that stalls when a client sends some text."""
    monkeypatch.setattr(connecting, "_GRACE_SECONDS", 0.5)
    monkeypatch.setattr(pushing, "BATCH_EVENTS", 10)
    proxies = []
    database = postgresql_hub.partition("?")[0].rpartition("/")[2]

    def start(moment: str, seconds: float = 0, query: str = f"options={OPTIONS}", lost: str = "all") -> str:
        arguments = [f"{server.socket}/.s.PGSQL.5432", moment.encode().hex(), str(seconds), lost]
        proxy = subprocess.Popen([sys.executable, stalling_proxy.__file__, *arguments], stdout=subprocess.PIPE)
        proxies.append(proxy)
        assert proxy.stdout is not None
        return f"postgresql://postgres@127.0.0.1:{int(proxy.stdout.readline())}/{database}?{query}"

    yield start
    for proxy in proxies:
        proxy.kill()
        proxy.communicate()


def filled(ledger: Ledger) -> Ledger:
    table = new_table(ledger)
    for number in range(40):
        (table.reset if OPS[number % 5] in table.rules else table.preserve)([OPS[number % 5]], reason=f"why {number}")
    return ledger


def test_a_server_that_accepts_and_never_answers_is_named(stalls: Stalls) -> None:
    start = time.monotonic()
    with pytest.raises(HubError, match=r"it cannot be reached: the server does not answer; see that the server runs"):
        Hub(stalls("", query="connect_timeout=2")).ledgers()
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("moment", ["SET search_path", "to_regclass", "FROM hub_migration", "FROM export", "ROLLBACK"])
def test_a_question_to_a_silent_server_ends(stalls: Stalls, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_STATEMENT_SECONDS", 2)  # until the server has the options of the address
    with pytest.raises(HubError, match=SILENT) as caught:
        Hub(stalls(moment)).exports()
    assert "\n" not in str(caught.value)


# What a client sends when the proxy stalls.
MOMENTS = {
    "the ledger": "INSERT INTO ledger",
    "what events name": "INSERT INTO blob",
    "the lock": "pg_advisory_xact_lock",
    "the begin of a batch": "COPY event",
    "the middle of a batch": "why 14",
    "a commit": "COPY event.*COMMIT",
    "the checkpoints": "FROM checkpoint",
    "the end": "FROM checkpoint.*COMMIT",
}


@pytest.mark.parametrize("lost", ["all", "answer"])
@pytest.mark.parametrize("name", MOMENTS)
def test_a_push_to_a_silent_server_ends_and_can_be_repeated(
    stalls: Stalls, postgresql_hub: str, ledgers: Callable[..., Ledger], tmp_path: Path, name: str, lost: str
) -> None:
    ledger = filled(ledgers())
    with pytest.raises(HubError, match=SILENT) as caught:
        ledger.push(stalls(MOMENTS[name], lost=lost), name="mine")
    assert "\n" not in str(caught.value)
    assert Hub(postgresql_hub).verify().ok
    assert ledger.push(postgresql_hub, name="mine").events == 42
    clone("mine", postgresql_hub, tmp_path / "clone.db")
    with Ledger(tmp_path / "clone.db") as copy:
        assert list(copy.dump_lines()) == list(ledger.dump_lines())


def test_a_proxy_that_pauses_and_a_slow_statement_disturb_nothing(
    stalls: Stalls, ledgers: Callable[..., Ledger]
) -> None:
    slow = quote("-c statement_timeout=9s", safe="")
    assert filled(ledgers()).push(stalls("COPY event", 1.0, f"options={slow}")).events == 42
    with connect(stalls("never", query=f"options={slow}")) as hub:
        assert hub.row("SELECT pg_sleep(2) IS NOT NULL") == (True,)
    with connect(stalls("never")) as hub, pytest.raises(HubError, match="ended a statement that took too long"):
        hub.row("SELECT pg_sleep(4)")


@pytest.mark.parametrize(
    ("options", "expected", "silence"),
    [
        (None, "5min", 330.0),
        ("-c statement_timeout=2min", "2min", 150.0),
        ("-cstatement_timeout=2min", "2min", 150.0),
        ("--statement-timeout=2min", "2min", 150.0),
        ("-c statement_timeout=0", "0", None),
        ("-c lock_timeout=5s", "5min", 330.0),
        ("-c search_path=public", "5min", 330.0),
    ],
)
def test_a_time_in_the_address_wins(
    postgresql_hub: str, options: str | None, expected: str, silence: float | None
) -> None:
    url = postgresql_hub if options is None else f"{postgresql_hub}&options={quote(options, safe='')}"
    with connect(url) as hub:
        assert hub.row("SHOW statement_timeout") == (expected,)
        assert hub.row("SHOW lock_timeout") == ("5s" if options and "lock" in options else "1min",)
        assert hub.row("SHOW search_path") == ("decomp_ledger, pg_temp",)
        assert hub._watched.most_silence == silence
