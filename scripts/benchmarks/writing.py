"""Appending events, beside plain inserts and beside the `eventsourcing` library.

What an append's time goes to (sampled every millisecond of the processor's): half to the same four statements that are
made by hand, which take half as long again when other code runs between them as in a loop of nothing else; a tenth to
who acts, where and in what; 8 % to the looks whether the file is still in its place and whether another process wrote
meanwhile; 5 % to the canonical JSON and its hash; the rest to deciding what is to change, the values that make an
event, and the calls between the layers (stream, ledger, records, store), none of which costs more than 3 %. Twice the
time of the statements by hand is out of reach for an event that has a hash and a provenance: the statements and the two
looks are nearly that by themselves. With `durability="power"` most is the fsync, and our event touches three pages
where the peer's touches two: it has a row of `change`.
"""

import itertools
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from measure import Result, Settings, both, faster, in_turns, profile

BATCH = 20


def by_hand(path: Path, synchronous: str) -> Callable[[], None]:
    """Return what inserts the rows of one event into a new ledger: no hash, no JSON, no question asked."""
    from decomp_ledger import Ledger
    from decomp_ledger.storage.event_store import INSERT_CHANGE, INSERT_EVENT

    with Ledger(path) as ledger:
        ledger.create_table("edge").preserve(["aten::mm"])
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", f"synchronous = {synchronous}", "foreign_keys = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    versions = itertools.count(3)
    now, body, digest = "2026-01-01T00:00:00.000000Z", '{"changes":[["aten::mm","preserve"]]}', bytes(32)

    def insert() -> None:
        for _ in range(BATCH):
            version = next(versions)
            connection.execute("BEGIN IMMEDIATE")
            event = (version, 1, version, 1, "popped", 1, now, 1, body, digest, digest)
            connection.execute(INSERT_EVENT, event)
            connection.execute(INSERT_CHANGE, (1, 1, version, "preserve", None))
            connection.execute("COMMIT")

    return insert


def appender(path: Path, durability: str = "process") -> Callable[[], None]:
    """Return what makes changes to a table of a new ledger, of one op each."""
    from decomp_ledger import Ledger

    log = Ledger(path, durability=durability).create_table("edge")
    verbs = itertools.cycle((log.preserve, log.reset))

    def append() -> None:
        for _ in range(BATCH):
            assert next(verbs)(["aten::mm"]) is not None

    return append


def appending(settings: Settings, folder: Path) -> Iterator[Result]:
    ours, theirs = appender(folder / "append.db"), by_hand(folder / "inserts.db", "NORMAL")
    sides = in_turns(ours, theirs, settings.rounds(300), time.process_time)
    profile(settings, f"append {BATCH} events", ours)
    yield faster("append one event, durable against process death", "plain inserts by sqlite3", 0.5, sides, BATCH)


def eventsourcing(settings: Settings, folder: Path) -> Iterator[Result]:
    what, against = "append one event, durable against power loss", "eventsourcing's SQLite recorder"
    many = "update of 100 ops, an op, at power-loss durability"
    try:
        from eventsourcing.persistence import StoredEvent
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore
    except ImportError:
        for name, goal in ((what, "no slower"), (many, "at least 5x as fast")):
            yield Result(name, against, goal, "skipped: pip install eventsourcing (the extra `bench`)", None)
        return
    recorder = SQLiteApplicationRecorder(SQLiteDatastore(str(folder / "peer.db")))
    recorder.create_table()
    stored, versions = uuid.uuid4(), itertools.count(1)
    state = b'{"changes":[["aten::mm","preserve"]],"actor":"Ada","recorded_at":"2026-01-01T00:00:00.000000Z"}'

    def insert() -> None:
        for _ in range(BATCH):
            recorder.insert_events([StoredEvent(stored, next(versions), "decomp_ledger.model.events:Popped", state)])

    sides = in_turns(appender(folder / "power.db", "power"), insert, settings.rounds(60))
    yield faster(what, against, 1, sides, BATCH)

    from decomp_ledger import Ledger

    ledger = Ledger(folder / "many.db", durability="power")
    log = ledger.create_table("edge")
    ops = [f"aten::op_{number}" for number in range(100)]
    verbs = itertools.cycle((log.preserve, log.reset))

    def update() -> None:
        assert next(verbs)(ops) is not None

    one, event = in_turns(update, insert, settings.rounds(60))
    ratio = (event / BATCH) / (one / len(ops))
    figures = both((one / len(ops), event / BATCH))
    yield Result(many, against + ", one event a commit", "at least 5x as fast", f"{ratio:.1f}x ({figures})", ratio >= 5)
