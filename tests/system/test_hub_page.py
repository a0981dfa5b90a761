"""docs/hub.md and compose.yaml: what they show runs, on a real PostgreSQL."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from postgresql import Server, running_server
from report_ledgers import sample_ledger

from decomp_ledger import Hub, Ledger

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "hub.md"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as found:
        yield found


def test_the_walk_leads_to_the_programs_that_another_torch_changes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "documentation"))
    import console

    try:
        refreshed = console.refreshed(PAGE, ROOT, server.variables())  # raises if a command fails
    finally:
        server.drop_database("teams")
    blocks = re.findall(r"^```console\n(.*?)^```$", refreshed, re.MULTILINE | re.DOTALL)
    assert sum(line.startswith("$ ") for block in blocks for line in block.splitlines()) == 10
    assert "\naten::linear  preserve in 1 table\n" in refreshed
    assert "\ndid not pass: 1 of 2 ledgers passed; 2 programs and 2 tables judged, for torch 2.15.0\n" in refreshed
    assert "  in Speech of export_gru.py with " in refreshed


def test_the_sql_of_the_page_and_of_compose_runs_and_gives_the_rights_that_it_names(
    server: Server, tmp_path: Path
) -> None:
    import psycopg

    database = server.new_database()
    hub = Hub(server.url(database))
    hub.init()
    try:
        assert _psql(server, database, COMPOSE["configs"]["users"]["content"], writer="w", reader="r") == ""
        assert _psql(server, database, COMPOSE["configs"]["users"]["content"], writer="new", reader="r") == ""
        (statements,) = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        assert _psql(server, database, statements) == ""
        ledger, number = tmp_path / "ledger.db", sample_ledger(tmp_path / "ledger.db")[0]
        for user in ("writer", "ci"):
            with Ledger(ledger, read_only=True) as opened:
                opened.push(server.url(database, user=user), name="team/sample")
        panels = json.loads(COMPOSE["configs"]["dashboard"]["content"])["panels"]
        queries = [target["rawSql"] for panel in panels for target in panel["targets"]]
        for user in ("reader", "dashboard"):
            with server.connect(database, user=user) as connection:
                assert [len(connection.execute(query).fetchall()) > 0 for query in queries] == [True] * len(panels)
                with pytest.raises(psycopg.errors.Error):
                    connection.execute("INSERT INTO decomp_ledger.op (name) VALUES ('x')")
            found = Hub(server.url(database, user=user)).exports()
            assert number in [each.event.seq for each in found]
    finally:
        _psql(server, database, "DROP ROLE IF EXISTS ci, dashboard, writer, reader;")
        server.drop_database(database)


def _psql(server: Server, database: str, statements: str, **values: str) -> str:
    """Run statements as the owner of the server, with variables of psql; return what it complains about."""
    given = [f"--set={name}={value}" for name, value in {"ON_ERROR_STOP": "1", **values}.items()]
    done = subprocess.run(
        ["psql", "--quiet", f"--dbname={database}", *given], env={**os.environ, **server.variables()},
        input=statements, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stderr


def test_compose_names_only_what_it_defines() -> None:
    for name, service in COMPOSE["services"].items():
        assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys(), name
        assert {each["source"] for each in service.get("configs", ())} <= COMPOSE["configs"].keys(), name
        assert set(service.get("depends_on", ())) <= COMPOSE["services"].keys(), name
    for name in ("datasource", "dashboards"):
        assert yaml.safe_load(COMPOSE["configs"][name]["content"])["apiVersion"] == 1


def test_each_command_of_the_table_is_one() -> None:
    from click.testing import CliRunner

    from decomp_ledger.cli import cli

    commands = re.findall(r"^\|.*\| `decomp-ledger (.*?)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 13
    for command in commands:
        name, *rest = re.sub(r"^--ledger \S+ ", "", command).split()
        words = [name, rest[0]] if name == "hub" else [name]
        done = CliRunner().invoke(cli, [*words, "--help"])
        assert done.exit_code == 0
        assert all(word in done.output for word in rest if word.startswith("--")), command
