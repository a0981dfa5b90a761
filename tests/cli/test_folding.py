"""No line of prose is longer than a screen, whatever the texts are that it is made of, and no word of it is lost."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from decomp_ledger import Ledger
from decomp_ledger.cli import cli
from decomp_ledger.cli.output import hanging, printable
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import Exported

LINE = 120


@given(st.text(max_size=400) | st.lists(st.sampled_from(["aten::linear", "in", "  "]), max_size=80).map(" ".join))
def test_a_folded_line_has_every_word_and_no_long_line_of_several_words(text: str) -> None:
    lines = hanging(text)
    assert " ".join(" ".join(lines).split()) == " ".join(printable(text).split())
    assert all(len(line) <= LINE or len(line.split()) == 1 for line in lines)
    if len(printable(text)) <= LINE and printable(text).strip(" ") and not text.endswith(" "):
        assert lines == [printable(text)]


MANY = [f"mylibrary::some_op_{number}" for number in range(30)]
REASON = "because the backend has a kernel for it that is much faster " * 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger whose answers have long sentences."""
    path = tmp_path / "long.db"
    with Ledger(path, actor="tester") as ledger:
        table = ledger.create_table("a_table_with_a_long_name_that_makes_each_line_longer")
        table.preserve(["aten::silu_", *MANY], reason=REASON)
        catalog = Catalog({"torch": "2.13.0"}, {"aten::silu_": Entry(None, schema="aten::silu_(Tensor(a!) self) -> x")})
        snapshot = table.materialize(catalog)
        body = Exported(
            catalog=snapshot.catalog.digest,
            snapshot=snapshot.digest,
            before="0" * 64,
            after="1" * 64,
            ops_before={"aten::silu_": 1, **dict.fromkeys(MANY, 1)},
            ops_after=dict.fromkeys(MANY, 1),
            fired={},
            milliseconds=1,
            error=None,
            stale=tuple(MANY),
            declined={},
            emitted=None,
            raised=None,
            kinds={},
            early={},
        )
        table.exported(body, table.version)
    return path


COMMANDS = (
    "show",
    "show export:4",
    "blame",
    "blame export:4",
    "log",
    "exports",
    "exports --totals",
    "explain aten::silu_",
    "why aten::silu_",
)


@pytest.mark.parametrize(
    "command", [*COMMANDS, "explain aten::silu_", f"explain {MANY[0]} export:4", "why aten::silu_"]
)
def test_an_answer_in_prose_is_folded(command: str, path: Path) -> None:
    shown = CliRunner().invoke(cli, ["--ledger", str(path), *command.split()])
    assert shown.exit_code in (0, 1) and shown.output, shown.output
    for line in click.unstyle(shown.output).splitlines():
        is_row = "   " in line.strip() or set(line) == {"─"}  # of a table, which only a terminal folds
        is_code = "to keep it" in line or "to decompose it" in line
        assert is_row or is_code or len(line) <= LINE, line
