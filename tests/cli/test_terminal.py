"""What commands print on terminals of any width: whole names, which can be copied into a command, and no long line."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_ledgers import exported
from strategies import catalog_of

from decomp_ledger import Ledger
from decomp_ledger.cli.output import _shared

TABLES = ("export_llama/backend_table/1", "export_llama/backend_table/2", "export_llama/another_backend_of_ours/1")
REASON = "because the backend has a kernel for it that is much faster"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of tables with long names, each with an export."""
    path = tmp_path_factory.mktemp("terminal") / "ledger.db"
    catalog = catalog_of("aten::gelu", "aten::linear", torch="2.13.0+cpu")
    with Ledger(path, actor="Ada <ada@example.org>") as ledger:
        for name in TABLES:
            table = ledger.create_table(name)
            table.preserve(["aten::linear"], reason=REASON)
            exported(table, catalog, table.materialize(catalog).digest)
    return path


def printed(path: Path, width: int, *arguments: str) -> list[str]:
    """Return the lines that a command prints on a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "decomp_ledger", "--no-pager", "--ledger", str(path), *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(width)}
    with subprocess.Popen(command, stdout=theirs, env=environment) as process:
        os.close(theirs)
        output = b""
        try:
            while some := os.read(ours, 65536):
                output += some
        except OSError:  # the end, on Linux
            pass
        assert process.wait() == 0
    os.close(ours)
    return click.unstyle(output.decode()).splitlines()


@pytest.mark.parametrize("width", [40, 80, 100, 160, 250])
@pytest.mark.parametrize("command", ["exports", "log"])
def test_a_name_is_never_broken_and_a_line_fits(path: Path, command: str, width: int) -> None:
    lines = printed(path, width, command)
    text = "\n".join(lines)
    for name in TABLES:
        assert f"{name}@2" in text
    assert "Ada <ada@example.org>" in text or command == "exports"
    assert [line for line in lines if len(line) > width and len(line.split()) > 2] == []


def test_each_export_has_a_line_for_each_column_where_the_columns_do_not_fit(path: Path) -> None:
    lines = printed(path, 80, "exports")
    number = lines.index("export:4")
    assert lines[0] == "export" and set(lines[1]) == {"─"}
    assert lines[number + 1 : number + 8] == [
        "   model",
        "   table        export_llama/backend_table/1@2",
        lines[number + 3],
        lines[number + 4],
        "   result       10 -> 15 nodes; 2 ops decomposed, 3 calls; 812 ms",
        "   saved as",
        lines[number + 7],
    ]
    assert lines[number + 3].startswith("   when (UTC)   20")
    assert lines[number + 4].split()[0] == "torch"  # with its version, if this process has imported it
    assert lines[number + 7].startswith("   where        ")
    wide = printed(path, 250, "exports")
    assert len(wide) < 10 and wide[0].split()[:3] == ["export", "model", "table"]


cells = st.lists(st.text("ab ", max_size=12), min_size=1, max_size=4)


@given(st.lists(cells, min_size=1, max_size=5), st.integers(0, 80))
def test_columns_share_the_room_and_break_no_word(columns: list[list[str]], room: int) -> None:
    found = _shared(room, columns)
    longest = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    if sum(longest) > room:
        assert found is None
        return
    assert found is not None and sum(found) <= room
    assert all(width >= least for width, least in zip(found, longest, strict=True))
    wanted = [max(map(len, column)) for column in columns]
    assert sum(found) == room or found == [max(pair) for pair in zip(wanted, longest, strict=True)]
