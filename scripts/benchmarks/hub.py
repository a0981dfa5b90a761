"""A hub in a real PostgreSQL: pushing a ledger of a million events, and asking one of ten million."""

import datetime
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from big_ledger import fill, ops_in_turn
from measure import Result, Settings, seconds, wall_median
from processes import ROOT, timed

RATE = 20_000  # events in a second: the goal of a push
ASKED = 0.1  # seconds: the goal of a question, of the largest hub
CLIENTS = 16
OPS = 1_000
OF_LEDGER = 2_000  # events of each ledger of the large hub
RUN = 20  # events of one recorded run: its table, its changes, its export
MODELS = 500


def hub(settings: Settings, folder: Path) -> Iterator[Result]:
    """Push, fill and ask; the hub of ten million events takes about 15 GB of the temporary folder."""
    sys.path.append(str(ROOT / "tests" / "support"))
    from postgresql import running_server

    from decomp_ledger import Hub

    with running_server() as server:
        server.connect().execute("ALTER SYSTEM SET max_wal_size = '4GB'")
        server.connect().execute("SELECT pg_reload_conf()")
        database = server.new_database()
        url = server.url(database)
        Hub(url).init()
        yield _pushed(settings, folder, url)
        yield _pushed_at_once(settings, folder, url)
        server.drop_database(database)
        url = server.url(server.new_database())
        Hub(url).init()
        yield from _growth(settings, folder, url, server)


def _pushed(settings: Settings, folder: Path, url: str) -> Result:
    from decomp_ledger import Ledger

    size = settings.sizes[1]
    path = folder / "pushed.db"
    fill(path, ops_in_turn(), size)
    with Ledger(path, read_only=True) as ledger:
        start = time.perf_counter()
        done = ledger.push(url, name="big")
        taken = time.perf_counter() - start
        start = time.perf_counter()
        again = ledger.push(url)
        nothing = time.perf_counter() - start
    if (done.sent, again.sent) != (size, 0):
        raise RuntimeError(f"{done.sent} and {again.sent} events were sent: the time is of no use")
    return _rate(f"push {size:,} events", size, taken, f"; nothing new: {seconds(nothing)}")


def _rate(what: str, events: int, taken: float, more: str = "") -> Result:
    rate = events / taken
    return Result(what, f">= {RATE:,} events/s", f"{rate:,.0f} events/s ({seconds(taken)}{more})", rate >= RATE)


def _pushed_at_once(settings: Settings, folder: Path, url: str) -> Result:
    size = settings.sizes[1] // 50
    paths = [folder / f"client {number}.db" for number in range(CLIENTS)]
    with multiprocessing.get_context("fork").Pool() as processes:
        processes.starmap(_fill, [(path, size) for path in paths], chunksize=1)
    with multiprocessing.get_context("fork").Pool(CLIENTS) as clients:
        start = time.perf_counter()
        sent = clients.starmap(_push, [(path, url) for path in paths], chunksize=1)
        taken = time.perf_counter() - start
    if sent != [size] * CLIENTS:
        raise RuntimeError(f"{sent} events were sent: the time is of no use")
    return _rate(f"{CLIENTS} ledgers of {size:,} events pushed at once", size * CLIENTS, taken)


def _fill(path: Path, size: int) -> None:
    fill(path, ops_in_turn(), size)


def _push(path: Path, url: str) -> int:
    from decomp_ledger import Ledger

    with Ledger(path, read_only=True) as ledger:
        return ledger.push(url).sent


def _growth(settings: Settings, folder: Path, url: str, server: Any) -> Iterator[Result]:
    """Fill a hub in steps; ask it after each."""
    from decomp_ledger import Hub

    chains = _Chains.of_example(folder / "example.db", url)
    hub, has = Hub(url), 0
    largest = settings.sizes[1] * (1 if settings.quick else 10)
    sizes = [size for size in (10_000, 100_000, 1_000_000, 10_000_000) if size <= largest]
    for size in sizes:
        ledgers = size // OF_LEDGER
        start = time.perf_counter()
        with multiprocessing.get_context("fork").Pool(2) as writers:
            writers.starmap(chains.write, [(url, number) for number in range(has, ledgers)], chunksize=5)
        taken = time.perf_counter() - start
        rate = (ledgers - has) * OF_LEDGER / taken
        has = ledgers
        server.connect(url.partition("?")[0].rpartition("/")[2]).execute("ANALYZE")
        at = f"{size:,} events in {ledgers:,} ledgers"
        yield Result(f"filling a hub to {at}", "", f"{rate:,.0f} events/s; {_bytes(server, url)}", True)
        for name, ask in _questions(hub).items():
            answer = wall_median(ask, settings.rounds(15))
            is_goal = size == sizes[-1] and name in _WITH_GOAL
            goal = f"<= {seconds(ASKED)}" if is_goal else ""
            yield Result(f"`{name}` of {at}", goal, seconds(answer), answer <= ASKED if is_goal else True)
    asked = {name: (*command, "--hub", url) for name, command in _COMMANDS.items()}
    for name, (taken, _) in timed(asked, settings.rounds(10)):
        yield Result(f"`{name}` of the largest, whole process", "", seconds(taken), True)


_FEW, _ALL = "aten::op160", "aten::op0"  # ops that tables of few ledgers have, and all tables
_COMMANDS = {"exports --hub": ("exports",), "blame OP --hub": ("blame", _FEW)}
_WITH_GOAL = tuple(_COMMANDS)


def _questions(hub: Any) -> dict[str, Callable[[], object]]:
    def expect(found: Any, wrong: bool) -> None:
        if wrong:
            raise RuntimeError(f"the answer is {found!r:.200}: the time is of no use")

    def exports() -> None:
        found = hub.exports()
        expect(found, len(found) != 100)

    def of_program() -> None:
        found = hub.exports(program="Model7 ")
        expect(found, not found)

    def blame() -> None:
        found = hub.blame(_FEW)
        expect(found, not found.rules)

    def blame_all() -> None:
        found = hub.blame(_ALL)
        expect(found, not found.rules)

    def log() -> None:
        found = hub.events(op=_FEW, limit=20)
        expect(found, len(found) != 20)

    def ledgers() -> None:
        found = hub.ledgers()
        expect(found, not found)

    return {
        "exports --hub": exports,
        "exports --hub --program MODEL": of_program,
        "blame OP --hub": blame,
        "blame OP --hub, an op of every table": blame_all,
        "log --hub --op OP -n 20": log,
        "hub ledgers": ledgers,
    }


def _bytes(server: Any, url: str) -> str:
    name = url.partition("?")[0].rpartition("/")[2]
    with server.connect(name) as connection:
        (size,) = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return f"{size / 1e6:,.0f} MB"


class _Chains:
    """Ledgers as a nightly job makes them: one table that people change, and a recorded table for each run.

    The events are made as text, because making ten million in ledgers would take twenty minutes. Each has the form of
    an event that decomp_ledger made, and the hub checks each as in any push.
    """

    def __init__(self, event: dict[str, Any], export: dict[str, Any], created: dict[str, Any]) -> None:
        self._event, self._export, self._created = event, export, created

    @classmethod
    def of_example(cls, path: Path, url: str) -> "_Chains":
        """Push a ledger made by decomp_ledger, whose environment and catalog the others share."""
        from decomp_ledger import Ledger
        from decomp_ledger.model.catalog import Catalog, Entry
        from decomp_ledger.model.events import Exported, RootModule

        ops = [f"aten::op{number}" for number in range(OPS)]
        with Ledger(path, actor="bench") as ledger:
            table = ledger.create_table("edge")
            table.preserve(["aten::op0"], reason="fused kernel")
            catalog = Catalog({"torch": "2.13.0"}, {op: Entry("cia", default=True) for op in ops})
            snapshot = table.materialize(catalog)
            counts = dict.fromkeys(ops[:40], 2)
            digest = hashlib.sha256(b"graph").hexdigest()
            module = RootModule("Model", "train.py")
            table.exported(
                Exported(catalog.digest, snapshot.digest, digest, digest, counts, counts, counts, 900, module=module), 2
            )
            ledger.push(url, name="example")
            texts = [json.loads(line)["event"] for line in ledger.dump_lines() if line.startswith('{"event"')]
        kinds = {event["kind"]: event for event in texts}
        return cls(next(event for event in texts if event["version"] == 2), kinds["exported"], kinds["created"])

    def write(self, url: str, number: int) -> None:
        """Write one ledger into the hub, in one transaction."""
        from decomp_ledger.hub.migrations import open_hub
        from decomp_ledger.model.hash_chain import genesis

        own_id = hashlib.sha256(f"ledger {number}".encode()).hexdigest()[:32]
        created_at = "2026-01-01T00:00:00Z"
        with _connections(open_hub, url) as hub, hub.transaction():
            hub.run("SET LOCAL synchronous_commit = off")
            hub.execute(
                "INSERT INTO ledger (ledger, created_at, name) VALUES (:ledger, :at, :name)",
                ledger=own_id, at=created_at, name=f"team{number % 40}/ledger{number}",
            )  # fmt: skip
            (row,) = hub.row("SELECT id FROM ledger WHERE ledger = :ledger", ledger=own_id)
            hub.insert(
                "event",
                ("ledger_id", "seq", "text", "prev_hash", "hash"),
                ("int4", "int8", "text", "bytea", "bytea"),
                self._rows(row, number, genesis(own_id, created_at)),
            )

    def _rows(self, row: int, number: int, last: bytes) -> Iterator[tuple[int, int, str, bytes, bytes]]:
        for seq, text in enumerate(self._texts(number), 1):
            own_hash = hashlib.sha256(last + text.encode()).digest()
            yield row, seq, text, last, own_hash
            last = own_hash

    def _texts(self, number: int) -> Iterator[str]:
        seq = 0
        begun = datetime.datetime(2026, 1, 1) + datetime.timedelta(seconds=number)
        change, export, created = (_template(each) for each in (self._event, self._export, self._created))
        for run in range(OF_LEDGER // RUN):
            at = (begun + datetime.timedelta(hours=run)).isoformat(timespec="microseconds") + "Z"
            table = f"nightly/backend_table/{run}" if run else "edge"
            yield created.format(seq=(seq := seq + 1), table=table, version=1, at=at, op="", model="")
            for version in range(2, RUN):
                # One op in every table, and others each in a few ledgers.
                op = 0 if version == 2 else 1 + (number * 31 + version * 53) % (OPS - 1)
                yield change.format(seq=(seq := seq + 1), table=table, version=version, at=at, op=op, model="")
            model = (number + run % 4) % MODELS
            yield export.format(seq=(seq := seq + 1), table=table, version=RUN - 1, at=at, op="", model=model)


def _template(event: dict[str, Any]) -> str:
    """Return the canonical text of an event with places for what differs."""
    from decomp_ledger.model.canonical_json import canonical_json

    body = dict(event["body"])
    if body.get("module"):
        body["module"] = ["Model\0model", *body["module"][1:]]
    elif "changes" in body:
        body["changes"] = [["aten::op\0op", "preserve"]]
    fields = {name: value for name, value in event.items() if name not in ("prev_hash", "hash")}
    text = canonical_json({**fields, "body": body, "recorded_at": "\0at", "table": "\0table", "seq": 0, "version": 0})
    text = text.replace("{", "{{").replace("}", "}}").replace('"seq":0', '"seq":{seq}')
    text = text.replace('"version":0', '"version":{version}')
    for name in ("model", "op", "at", "table"):
        text = text.replace(f"\\u0000{name}", f"{{{name}}}")
    return text


_open: dict[int, Any] = {}


@contextmanager
def _connections(open_hub: Callable[..., Any], url: str) -> Iterator[Any]:
    """Give the connection of this process."""
    if os.getpid() not in _open:
        _open[os.getpid()] = open_hub(url, write=True)
    yield _open[os.getpid()]
