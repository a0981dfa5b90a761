"""An upgrade of real exports is judged by what the ops that they use do in another torch."""

from pathlib import Path

import pytest
import torch
from models import exported

from decomp_ledger import Ledger, catalogs

NEWER = "2.15.0"
VERSION = str(torch.__version__).partition("+")[0]
# For inputs that are not 2-D, `linear` ends with another op since 2.15.
CHANGED = VERSION in catalogs.traced_versions() and VERSION.split(".")[:2] in (["2", "9"], ["2", "13"])


@pytest.mark.skipif(not CHANGED, reason="only these torch versions are known to differ from 2.15")
@pytest.mark.parametrize(("name", "expected"), [("llama", True), ("bert", True), ("vit", True), ("convolution", False)])
def test_transformers_are_warned_of_linear_and_a_net_of_convolutions_is_not(
    name: str, expected: bool, tmp_path: Path
) -> None:
    program = exported(name)
    with Ledger(tmp_path / "l.db") as ledger:
        table = ledger.table(name)
        program.run_decompositions(table)
        report = ledger.check_upgrade(name, torch=NEWER)
        moved = ledger.upgrade(name, torch=NEWER)
    found = {each.op: each for each in report.check.findings if each.kind == "behaviour"}
    assert ("aten::linear" in found) is expected
    assert report.passed is not expected
    assert moved.used == report.check.used
    if expected:
        rows = found["aten::linear"].behaviour.differences[0].rows  # type: ignore[union-attr]
        (row,) = [row for row in rows if not row.same]
        assert ("aten::view" in row.before, "aten::_unsafe_view" in row.after) == (True, True)
