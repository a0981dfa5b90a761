"""What the tests of this folder share. None of them imports torch."""

from pathlib import Path

import pytest
from strategies import new_table, without_torch  # noqa: F401  # a fixture that every module here uses

from decomp_ledger.ledger import Ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a ledger with one table of two versions."""
    path = tmp_path / "ledger.db"
    with Ledger(path, actor="ann") as ledger:
        new_table(ledger).preserve(["aten::mm"])
    return path
