"""What the tests of this folder share: a real PostgreSQL, and hubs in it and in SQLite files. None imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgresql import Server, running_server
from strategies import new_table, without_torch  # noqa: F401  # a fixture that every module here uses

from decomp_ledger.hub.migrations import init
from decomp_ledger.ledger import Ledger


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server, one for each process of pytest."""
    with running_server() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database without a hub."""
    if request.param == "sqlite":
        yield str(tmp_path / "hub.db")
        return
    server: Server = request.getfixturevalue("server")
    name = server.new_database()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def hub(empty_hub: str) -> str:
    """The address of a hub without ledgers."""
    init(empty_hub)
    return empty_hub


@pytest.fixture
def postgresql_hub(server: Server) -> Iterator[str]:
    """The address of a hub in PostgreSQL."""
    name = server.new_database()
    init(server.url(name))
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Callable[[str], Ledger]]:
    """Make ledgers of a name, each with one table of two versions."""
    made = []

    def make(name: str = "ledger") -> Ledger:
        made.append(Ledger(tmp_path / f"{name}.db", actor="ann"))
        new_table(made[-1]).preserve(["aten::mm"])
        return made[-1]

    yield make
    for ledger in made:
        ledger.close()
