"""Pushes to a PostgreSQL hub while the server dies, the client dies, the network breaks or the disk is full."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from strategies import new_table

from decomp_ledger import clone
from decomp_ledger.errors import HubDiverged, HubError
from decomp_ledger.hub import push as pushing
from decomp_ledger.hub.migrations import init
from decomp_ledger.hub.verify import verify
from decomp_ledger.ledger import Ledger
from torture import postgres
from torture.common import Row, Workspace, act, everything, forked, lines_of, problems_text, wait_for
from torture.postgres import PASSWORD, Postgres

GOAL = (
    "acknowledged events are there, none twice; one clear error without the password; the push repeated completes; "
    "`hub verify` holds; the clone is the ledger"
)
_BATCH = 25  # events in a transaction, so that a small ledger takes many
_EVENTS = 300
_DATABASE = "hub"
_PATIENCE = 120.0  # seconds for a push of a small ledger on a busy machine


@attrs.define
class Client:
    """A push in a process of its own.

    Attributes:
        child: the process.
        acknowledged: how many of its events the hub acknowledged.
        error: its error; "" if it has none.
        is_done: whether it ended by itself.
    """

    child: int
    out: int
    acknowledged: int = 0
    error: str = ""
    is_done: bool = False
    how: str = ""
    text: bytes = b""

    def wait(self, until: int | None = None) -> None:
        """Read what it reports until so many events are acknowledged, or until it ends."""
        end = time.monotonic() + _PATIENCE
        while until is None or self.acknowledged < until:
            if not select.select([self.out], [], [], max(0.0, end - time.monotonic()))[0]:
                os.kill(self.child, signal.SIGKILL)
                self.error = "it hangs"
            data = os.read(self.out, 1 << 16)
            if not data:
                self.is_done, self.how = True, wait_for(self.child)
                os.close(self.out)
                return
            *lines, self.text = (self.text + data).split(b"\n")
            for line in lines:
                value = json.loads(line)
                if isinstance(value, int):
                    self.acknowledged = value
                else:
                    self.error = value

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        if not self.is_done:
            os.kill(self.child, signal.SIGKILL)
            self.wait()


def start_push(path: Path, url: str, name: str) -> Client:
    """Push a ledger in a forked child, which reports what the hub acknowledged."""
    out, into = os.pipe()

    def work() -> None:
        def report(value: int | str) -> None:
            os.write(into, json.dumps(value).encode() + b"\n")

        pushing.BATCH_EVENTS = _BATCH
        with Ledger(path, read_only=True) as ledger:
            begun = pushed_events(url, ledger)
            report(0)
            try:
                pushing.push(ledger, url, name=name, progress=lambda sent, _: report(begun + sent))
            except HubError as error:
                report(unclear("".join(traceback.format_exception(error)), str(error)) or f"clear: {error}")

    child = forked(work)
    os.close(into)
    return Client(child, out)


def pushed_events(url: str, ledger: Ledger) -> int:
    """Return how many events of a ledger a hub has; 0 if that cannot be asked."""
    with contextlib.suppress(HubError), pushing.open_hub(url) as hub:
        known = pushing.known_ledger(hub, ledger.id)
        return known.seq if known is not None else 0
    return 0


def unclear(trace: str, message: str) -> str:
    """Return what is wrong with an error, or ""."""
    if PASSWORD in trace:
        return "it shows the password"
    if "\n" in message or not message.isprintable() or not 20 < len(message) < 1000:
        return f"an unclear error: {message[:300]!r}"
    return "" if "; " in message else f"an error without advice: {message[:300]!r}"


def small(path: Path, events: int = _EVENTS) -> int:
    """Make a ledger of every kind of event; return how many it has."""
    everything(path, 2)
    with Ledger(path, actor="ann") as ledger:
        table = new_table(ledger, "pushed")
        with ledger.database.write_transaction():
            for number in range(events):
                act(table, number, "pushed")
        return ledger.event_store.head()[0]


def settled(server: Postgres | SqliteHub, path: Path, name: str, client: Client, database: str = _DATABASE) -> str:
    """Check a hub after a fault, push again, and check it with a clone; return what is wrong, or ""."""
    if client.error and not client.error.startswith("clear: "):
        return client.error
    if client.how and client.how != "SIGKILL":
        return f"the client ended with {client.how}"
    url = server.url(database)
    with Ledger(path, read_only=True) as ledger:
        total, head = ledger.event_store.head()
        found = _rows(server, ledger.id, database)
        if found["newest"] < client.acknowledged:
            return f"{client.acknowledged} events were acknowledged, and the hub has {found['newest']}"
        if found["events"] != found["newest"] or found["head"] not in (None, found["newest"]):
            return f"the rows of the hub: {found}"
        if found["head"] is not None and (wrong := problems_text(verify(url, ledger=ledger.id).problems)):
            return f"after the fault: {wrong}"
        done = pushing.push(ledger, url, name=name)
        if (done.sent, done.events, done.head) != (total - found["newest"], total, head.hex()):
            return f"the push repeated: {done}"
        if wrong := problems_text(verify(url, ledger=ledger.id).problems):
            return f"after the push repeated: {wrong}"
        copy = path.with_name(f"{path.stem} clone.db")
        clone(ledger.id, url, copy)
        with Ledger(copy, read_only=True) as cloned:
            same = lines_of(cloned) == lines_of(ledger)
    for file in path.parent.glob(f"{copy.name}*"):
        file.unlink()
    return "" if same else "the clone differs from the ledger"


def _rows(server: Postgres | SqliteHub, ledger: str, database: str) -> dict[str, Any]:
    """Return what a hub has of a ledger, by other SQL than the package's."""
    ((events, newest, head),) = server.execute(
        "SELECT count(e.seq), coalesce(max(e.seq), 0), max(h.seq) FROM decomp_ledger.ledger AS l "
        "LEFT JOIN decomp_ledger.event AS e ON e.ledger_id = l.id LEFT JOIN decomp_ledger.head AS h "
        f"ON h.ledger_id = l.id WHERE l.ledger = '{ledger}'",
        database=database,
    )
    return {"events": events, "newest": newest, "head": head}


@contextlib.contextmanager
def hub_server(folder: Path, *options: str) -> Iterator[Postgres]:
    """Run a server with an empty hub."""
    with postgres.running(folder, *options) as server:
        server.execute(f"CREATE DATABASE {_DATABASE}")
        init(server.url(_DATABASE))
        yield server


def _each(
    workspace: Workspace, server: Postgres | SqliteHub, runs: int, what: str, inject: Callable[[int, Path, str], Client]
) -> Row:
    """Inject a fault into so many pushes, each of a ledger of its own; then verify the whole hub."""
    wrong: list[str] = []
    cut = acknowledged = 0
    for number in range(runs):
        path = workspace.folder / f"{what.split()[0]} {number}.db"
        name = f"{what}/{number}"
        total = small(path)
        client = inject(number, path, name)
        cut += client.acknowledged < total
        acknowledged += client.acknowledged
        fault = settled(server, path, name, client)
        wrong += [f"[{number}] {fault}"] if fault else []
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
    wrong += [f"the whole hub: {each}" for each in verify(server.url(_DATABASE)).problems]
    if cut < runs // 2:
        wrong.append(f"only {cut} of {runs} pushes were cut, so the fault was not injected")
    return Row(what, runs, GOAL, tuple(wrong), f"{cut} pushes cut, {acknowledged:,} events acknowledged before")


def server_killed(workspace: Workspace) -> list[Row]:
    """Kill the server in the middle of a push, in three ways."""
    choose = random.Random(workspace.seed)
    with hub_server(workspace.folder / "server") as server:

        def inject(number: int, path: Path, name: str) -> Client:
            client = start_push(path, server.url(_DATABASE), name)
            client.wait(until=choose.randrange(1, _EVENTS))
            time.sleep(choose.uniform(0, 0.03))
            if number % 3 == 2:
                backend = (
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'decomp-ledger' AND datname = 'hub'"
                )
                for (each,) in server.execute(backend):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each, signal.SIGKILL)  # the server then ends all others, and starts again
            else:
                server.stop(signal.SIGKILL if number % 3 else signal.SIGQUIT)
            client.wait()
            server.start()
            return client

        runs = workspace.amount(100, 3)
        return [_each(workspace, server, runs, "the PostgreSQL of a hub killed in the middle of a push", inject)]


class SqliteHub:
    """A hub in a file, with the methods of a server that the checks use."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def url(self, database: str) -> str:
        """Return its address."""
        return str(self.path)

    def execute(self, statement: str, database: str) -> list[Any]:
        """Return the rows of a query."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement.replace("decomp_ledger.", "")).fetchall()


def sqlite_killed(workspace: Workspace) -> list[Row]:
    """Kill clients that push into a hub in a file."""
    hub = SqliteHub(workspace.folder / "hub.sqlite")
    init(hub.url(_DATABASE))
    return [_client_killed(workspace, hub, "a push into an SQLite hub killed with SIGKILL")]


def clients(workspace: Workspace) -> list[Row]:
    """Kill clients, break the network, and push one ledger from two clients at once."""
    with hub_server(workspace.folder / "server") as server:
        what = "a push into a PostgreSQL hub killed with SIGKILL"
        return [_client_killed(workspace, server, what), _network(workspace, server), *_together(workspace, server)]


def _client_killed(workspace: Workspace, server: Postgres | SqliteHub, what: str) -> Row:
    choose = random.Random(workspace.seed)

    def inject(number: int, path: Path, name: str) -> Client:
        client = start_push(path, server.url(_DATABASE), name)
        client.wait(until=choose.randrange(0, _EVENTS))
        time.sleep(choose.uniform(0, 0.03))
        client.kill()
        return client

    return _each(workspace, server, workspace.amount(100, 4), what, inject)


def _network(workspace: Workspace, server: Postgres) -> Row:
    choose = random.Random(workspace.seed)
    faults = (postgres.DROP, postgres.TRUNCATE, postgres.STALL, postgres.DROP, postgres.TRUNCATE, postgres.PAUSE)

    def inject(number: int, path: Path, name: str) -> Client:
        fault = faults[number % len(faults)]
        # A push of such a ledger is about 250,000 bytes; many faults come while it connects.
        after = choose.randrange(0, 20_000 if number % 4 == 0 else 250_000)
        with postgres.network(server, fault, after) as (host, port):
            client = start_push(path, f"postgresql://postgres:{PASSWORD}@{host}:{port}/{_DATABASE}", name)
            client.wait()
        if fault == postgres.PAUSE and client.error:
            client.error = f"a network that only paused: {client.error}".replace("clear: ", "")
        return client

    runs = workspace.amount(100, 6)
    return _each(workspace, server, runs, "the network cut at a random byte of a push, or stalled", inject)


def _together(workspace: Workspace, server: Postgres) -> Iterator[Row]:
    """Push one ledger from three processes at once, and two copies that were written to."""
    wrong: list[str] = []
    runs = workspace.amount(30, 2)
    for number in range(runs):
        path = workspace.folder / f"together {number}.db"
        name = f"together/{number}"
        small(path)
        found = [start_push(path, server.url(_DATABASE), name) for _ in range(3)]
        for client in found:
            client.wait()
            wrong += [f"[{number}] {client.error}"] if client.error else []
        fault = settled(server, path, name, max(found, key=lambda each: each.acknowledged))
        wrong += [f"[{number}] {fault}"] if fault else []
    yield Row("three clients push one ledger at once", runs, GOAL.partition(";")[0] + "; no error", tuple(wrong))

    wrong = []
    for number in range(runs):
        path, other = (workspace.folder / f"{which} {number}.db" for which in ("own", "other"))
        name = f"diverged/{number}"
        small(path, 60)
        with Ledger(path) as ledger:
            ledger.backup(other)
        for each, actor in ((path, "ann"), (other, "ben")):
            with Ledger(each, actor=actor) as ledger:
                table = ledger.table_log("pushed")
                for step in range(40):
                    act(table, step, actor)
        found = [start_push(each, server.url(_DATABASE), name) for each in (path, other)]
        for client in found:
            client.wait()
        won = [each for each, client in zip((path, other), found, strict=True) if not client.error]
        lost = [client for client in found if "differs from this ledger from event #" in client.error]
        if len(won) != 1 or len(lost) != 1:
            wrong.append(f"[{number}] {[client.error for client in found]}")
            continue
        fault = settled(server, won[0], name, Client(0, 0))
        wrong += [f"[{number}] {fault}"] if fault else []
        with Ledger(other if won[0] == path else path, read_only=True) as ledger:
            try:
                pushing.push(ledger, server.url(_DATABASE))
                wrong.append(f"[{number}] the other copy was pushed later")
            except HubDiverged:
                pass
    goal = "one is pushed whole; the other is refused, and its first event that differs is named"
    yield Row("two copies of a ledger with other events pushed at once", runs, goal, tuple(wrong))


def full_disk(workspace: Workspace) -> list[Row]:
    """Fill the disk of a server's tables, and of all its files, during a push."""
    disk = workspace.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    what = "the disk of a hub's PostgreSQL full in the middle of a push"
    if mounted.returncode:
        return [Row(what, 0, GOAL, (), "NOT TRIED: cannot mount here")]
    options = ("max_wal_size=8MB", "min_wal_size=2MB", "wal_recycle=off", "checkpoint_timeout=30s")
    try:
        with postgres.running(disk / "server", *options, wal_megabytes=1) as server:
            server.execute(f"CREATE DATABASE {_DATABASE}")
            init(server.url(_DATABASE))
            return [_filled(workspace, server, disk, what)]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _filled(workspace: Workspace, server: Postgres, disk: Path, what: str) -> Row:
    choose = random.Random(workspace.seed)
    filler = disk / "filler"
    crashes = [0]

    def inject(number: int, path: Path, name: str) -> Client:
        server.execute("CHECKPOINT")
        with filler.open("wb", buffering=0) as file:
            left = choose.randrange(0, 1_500_000)
            file.write(bytes(max(0, shutil.disk_usage(disk).free - left)))
        client = start_push(path, server.url(_DATABASE), name)
        client.wait()
        filler.unlink()
        try:
            server.connect().close()
        except Exception:  # without room for its log, the server ends
            crashes[0] += 1
            if server.is_running():
                server.stop(signal.SIGQUIT)
            server.start()
        return client

    row = _each(workspace, server, workspace.amount(50, 3), what, inject)
    return attrs.evolve(row, note=f"{row.note}; the server ended {crashes[0]} times")


FAULTS = (server_killed, clients, sqlite_killed, full_disk)
