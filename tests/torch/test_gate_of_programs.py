"""The gate over real exports of several programs, with the shipped catalogs and traces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from models import exported

import decomp_ledger as dl
from decomp_ledger import Ledger, Policy, catalogs

NEWER = "2.15.0"
VERSION = str(torch.__version__).partition("+")[0]
# For inputs that are not 2-D, `linear` ends with another op since 2.15.
CHANGED = VERSION in catalogs.traced_versions() and VERSION.split(".")[:2] in (["2", "9"], ["2", "13"])
NAMES = ("bert", "convolution", "dynamic", "embedding")
aten = torch.ops.aten


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Four programs with a named table that keeps linear, one of them with another table too; and a recorded run."""
    path = tmp_path_factory.mktemp("gate") / "l.db"
    with Ledger(path, actor="Ada") as opened:
        edge = opened.table("edge")
        edge.preserve(aten.linear.default, reason="a kernel")
        for name in NAMES:
            exported(name).run_decompositions(edge)
        exported("bert").run_decompositions(opened.table("other"))
        with dl.record(opened, name="nightly"):
            table = torch.export.default_decompositions()
            table.pop(aten.linear.default)
            exported("convolution").run_decompositions(table)
    with Ledger(path, read_only=True) as opened:
        yield opened


def test_every_program_is_judged_once_and_as_its_export_alone(ledger: Ledger) -> None:
    found = ledger.gate(torch=NEWER)
    exports = {event.seq for event in ledger.exports()}
    assert {each.newest.seq for each in found.programs} == exports and len(found.programs) == len(exports) == 6
    assert len({str(each.program) for each in found.programs}) == 6
    for number in exports:
        report = ledger.check_upgrade(f"export:{number}", torch=NEWER)
        own = [each for each in found.findings if each.export == number]
        alone = ledger.gate(f"export:{number}", torch=NEWER)
        changed = {(each.op, each.kind) for each in report.check.findings}
        assert {(each.op, each.change.kind) for each in own if each.change is not None} == changed
        assert alone.passed is report.passed
        assert bool(own) is not report.passed
    assert ledger.gate(torch=VERSION).passed or VERSION not in dl.available_catalogs()


@pytest.mark.skipif(not CHANGED, reason="only these torch versions are known to differ from 2.15")
def test_the_programs_that_2_15_changes_are_named(ledger: Ledger) -> None:
    found = ledger.gate(torch="2.15")
    changed = {(each.op, str(each.program).rpartition(" with ")[2]) for each in found.findings}
    # Where the table keeps linear, its decomposition does not matter.
    assert ("aten::linear", "other") in changed and ("aten::linear", "edge") not in changed
    unchanged = [each.program for each in found.programs if each.program.table.startswith("nightly/")]
    assert len(unchanged) == 1 and all(each.program not in unchanged for each in found.findings)


def test_what_the_exports_decomposed_is_judged_by_what_happened(ledger: Ledger) -> None:
    found = ledger.gate(policy=Policy(keep="aten::linear"))
    (finding,) = found.findings
    bodies = {event.seq: event.body for event in ledger.exports()}
    body = bodies[finding.export]  # type: ignore[index]
    assert isinstance(body, dl.Exported) and body.fired["aten::linear"] > 0 and "aten::linear" not in body.ops_after
    assert finding.program is not None and finding.program.table == "other"
    assert finding.fix.startswith("table.pop(torch.ops.aten.linear.default)")
    assert ledger.gate("edge", policy=Policy(keep="aten::linear")).passed


def test_a_stamped_file_is_judged_without_a_ledger(tmp_path: Path) -> None:
    with Ledger(":memory:") as ledger:
        lowered = exported("convolution").run_decompositions(ledger.table("edge"))
        dl.save(lowered, str(tmp_path / "model.pt2"))
    found = dl.gate(str(tmp_path / "model.pt2"), policy=Policy(keep="aten::batch_norm", no_failed_exports=True))
    assert len(found.programs) == 1 and found.programs[0].program.table == "edge"
    assert [each.policy for each in found.findings] == ["keep"]
