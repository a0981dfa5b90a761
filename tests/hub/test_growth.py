"""What a batch of a push costs does not grow with the rows that the hub has."""

from __future__ import annotations

from pathlib import Path

import pytest
from postgresql import Server
from strategies import OPS, catalog_of

from decomp_ledger.hub.connection import HubUrl
from decomp_ledger.hub.push import push
from decomp_ledger.ledger import Ledger

TABLES, OF_TABLE = 100, 6  # events of each table
READ = """
SELECT relname, seq_tup_read FROM pg_stat_user_tables
WHERE schemaname = 'decomp_ledger' AND relname IN ('event', 'event_fact', 'change', 'rule')
"""


def nightly(path: Path) -> int:
    """Make a ledger of many recorded runs; return the number of its events."""
    catalog = catalog_of(*OPS, torch="2.13.0")
    with Ledger(path, actor="ann") as ledger, ledger.database.write_transaction():
        for run in range(TABLES):
            table = ledger.create_table(f"night/make/{run + 1}", base=f"night/make/{run}" if run % 7 else "torch")
            for number in range(OF_TABLE - 2):
                (table.reset if number % 3 == 2 else table.preserve)([f"own::op{run}_{number // 3}"])
            table.materialize(catalog)
        return ledger.event_store.head()[0]


def test_no_batch_of_a_push_reads_a_table_of_events_whole(
    postgresql_hub: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decomp_ledger.hub.push.BATCH_EVENTS", 25)
    events = nightly(tmp_path / "nightly.db")
    with Ledger(tmp_path / "nightly.db", read_only=True) as ledger:
        assert push(ledger, postgresql_hub, name="nightly").sent == events
    with server.connect(HubUrl.parse(postgresql_hub).url.database) as connection:
        read = dict(connection.execute(READ).fetchall())
    assert read == {"event": 0, "event_fact": 0, "change": 0, "rule": 0}
