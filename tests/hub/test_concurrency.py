"""Several clients at once, and pushes that end in the middle."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from strategies import IMPORT_ROOT, OPS, new_table

from decomp_ledger import Hub, HubDiverged, HubError, LedgerFileError, clone
from decomp_ledger.hub import push as pushing
from decomp_ledger.hub.connection import HubConnection, connect
from decomp_ledger.integrity.ssh_signatures import SigningKey
from decomp_ledger.ledger import Ledger

Ledgers = Callable[..., Ledger]


def fill(ledger: Ledger, events: int) -> None:
    table = new_table(ledger)
    with ledger.database.write_transaction():
        for number in range(events):
            op = OPS[number % 5]
            (table.reset if op in table.rules else table.preserve)([op])


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "BATCH_EVENTS", 10)


def test_two_clients_push_one_ledger(hub: str, ledgers: Ledgers) -> None:
    ledger = ledgers()
    fill(ledger, 150)
    ledger.close()
    start = threading.Barrier(3)

    def push(_: int) -> int:
        with Ledger(ledger.path, read_only=True) as own:
            start.wait()
            return own.push(hub).sent

    with ThreadPoolExecutor(3) as pool:
        sent = list(pool.map(push, range(3)))
    assert sum(sent) == 152
    found = Hub(hub).verify()
    assert (found.problems, found.events) == ((), 152)


def test_a_client_that_read_the_ledger_earlier_is_done_when_the_other_is(
    hub: str, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledgers()
    fill(ledger, 30)
    send, first = pushing._Push._send, [True]

    def overtaken(self: pushing._Push, *arguments: Any) -> bool:
        if first.pop():
            first.append(False)
            fill(ledger, 5)
            with Ledger(ledger.path, read_only=True) as other:
                assert other.push(hub).sent == 37
        else:
            first.append(False)
        return send(self, *arguments)

    monkeypatch.setattr(pushing._Push, "_send", overtaken)
    pushed = ledger.push(hub)
    assert (pushed.sent, pushed.events) == (0, 37)
    assert Hub(hub).verify().ok


def test_a_ledger_whose_id_is_taken_in_the_hub_differs(hub: str, ledgers: Ledgers) -> None:
    ledger = ledgers()
    genesis = ", genesis" if "//" not in hub else ""
    with connect(hub, write=True) as connection, connection.transaction():
        connection.execute(
            f"INSERT INTO ledger (ledger, created_at, name{genesis}) "
            f"VALUES (:ledger, '2020', 'mine'{', zeroblob(32)' if genesis else ''})",
            ledger=ledger.id,
        )
    with pytest.raises(HubDiverged, match="from event #1 on"):
        ledger.push(hub)


def test_eight_ledgers_are_pushed_at_once(hub: str, ledgers: Ledgers) -> None:
    paths = []
    for number in range(8):
        ledger = ledgers(f"l{number}")
        fill(ledger, 60)
        ledger.close()
        paths.append(ledger.path)

    def push(path: str) -> int:
        with Ledger(path, read_only=True) as own:
            return own.push(hub).sent

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(push, paths)) == [62] * 8
    found = Hub(hub).verify()
    assert (found.problems, found.ledgers, found.events) == ((), 8, 8 * 62)


def test_a_push_that_broke_goes_on_where_it_ended(
    hub: str, ledgers: Ledgers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledgers()
    fill(ledger, 60)
    insert, left = HubConnection.insert, [3]

    def breaking(self: HubConnection, *arguments: Any) -> None:
        insert(self, *arguments)
        left[0] -= 1
        if not left[0]:
            raise HubError("the network is gone")

    monkeypatch.setattr(HubConnection, "insert", breaking)
    with pytest.raises(HubError, match=r"the network is gone \(the hub has at least the events up to #20, "):
        ledger.push(hub, name="mine")
    assert ledger.push(hub).sent == 42
    clone("mine", hub, tmp_path / "clone.db")
    with Ledger(tmp_path / "clone.db") as copy:
        assert list(copy.dump_lines()) == list(ledger.dump_lines())


def test_a_push_sends_one_moment_of_a_ledger_in_use(hub: str, ledgers: Ledgers) -> None:
    ledger = ledgers()
    fill(ledger, 40)

    def write(done: int, total: int) -> None:
        new_table(ledger).preserve([OPS[5]])
        new_table(ledger).reset([OPS[5]])
        assert total == 42

    assert ledger.push(hub, progress=write).sent == 42
    assert ledger.push(hub).sent == 10


def test_follow_pushes_what_is_written(hub: str, ledgers: Ledgers) -> None:
    ledger = ledgers()
    sent = []

    def report(done: pushing.Pushed) -> None:
        sent.append(done.sent)
        if len(sent) == 3:
            raise KeyboardInterrupt
        fill(ledger, 12)

    with pytest.raises(KeyboardInterrupt):
        pushing.follow(ledger, hub, report=report, seconds=0.01)
    assert sent == [2, 12, 12]


def test_follow_pushes_a_checkpoint_without_new_events(hub: str, ledgers: Ledgers) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    ledger = ledgers()
    sent: list[tuple[int, int]] = []
    key = Ed25519PrivateKey.generate()

    def report(done: pushing.Pushed) -> None:
        sent.append((done.sent, done.checkpoints))
        if len(sent) == 3:
            raise KeyboardInterrupt
        ledger.checkpoint(SigningKey(key, key.public_key().public_bytes_raw()))

    with pytest.raises(KeyboardInterrupt):
        pushing.follow(ledger, hub, report=report, seconds=0.01)
    assert sent == [(2, 0), (0, 1), (0, 1)]


@pytest.mark.parametrize("change", ["rename", "remove", "replace"])
@pytest.mark.parametrize("read_only", [True, False])
def test_follow_ends_when_another_program_takes_the_file_away(
    tmp_path: Path, ledgers: Ledgers, change: str, read_only: bool
) -> None:
    Hub(str(tmp_path / "hub.db")).init()
    ledgers().close()
    ledgers("other").close()
    path = tmp_path / "ledger.db"

    def report(done: pushing.Pushed) -> None:
        if change == "rename":
            path.rename(tmp_path / "gone.db")
        elif change == "remove":
            path.unlink()
        else:
            (tmp_path / "other.db").replace(path)

    with Ledger(path, read_only=read_only) as ledger, pytest.raises(LedgerFileError, match="was removed or replaced"):
        pushing.follow(ledger, str(tmp_path / "hub.db"), report=report, seconds=0.01)


SCRIPT = "import sys\nprint('done')\nsys.exit(3)\n"


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("{}", "decomp-ledger: {} has 2 events of "),
        ("{}.missing", "decomp-ledger: not pushed: {}.missing: "),
        ("postgresql://u:s3cret@127.0.0.1:9/hub", "not pushed: postgresql://u@127.0.0.1:9/hub: it cannot be reached: "),
    ],
)
def test_a_run_pushes_at_its_end_and_never_changes_the_exit_status(
    ledgers: Ledgers, tmp_path: Path, address: str, line: str
) -> None:
    ledger, hub = ledgers(), str(tmp_path / "hub.db")
    ledger.close()
    Hub(hub).init()
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "decomp_ledger", "--ledger", ledger.path, "run", "--push", str(tmp_path / "script.py")],
        env={**os.environ, "PYTHONPATH": IMPORT_ROOT, "DECOMP_LEDGER_HUB": address.format(hub)},
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "done\n")
    assert line.format(hub) in done.stderr and "Traceback" not in done.stderr
    assert [each.events for each in Hub(hub).ledgers()] == ([2] if address == "{}" else [])


def test_files_of_jobs_are_collected_into_one_hub(empty_hub: str, ledgers: Ledgers, tmp_path: Path) -> None:
    one, other = ledgers("one"), ledgers("other")
    (tmp_path / "x" / tmp_path.name).mkdir(parents=True)
    other.backup(tmp_path / "x" / tmp_path.name / "one.db")  # a name that is taken by then
    one.backup(tmp_path / "older.db")
    fill(one, 5)
    (tmp_path / "bad.db").write_text("no ledger")
    paths = [one.path, tmp_path / "x" / tmp_path.name / "one.db", tmp_path / "older.db", tmp_path / "bad.db"]
    found = Hub(empty_hub).collect(paths)
    assert [each.pushed.sent if each.pushed else each.problem and "not a ledger" in each.problem for each in found] == [
        7, 2, None, True
    ]  # fmt: skip
    names = [each.name for each in Hub(empty_hub).ledgers()]
    assert names == [f"{tmp_path.name}/one", f"{tmp_path.name}/one-{other.id[:8]}"]
