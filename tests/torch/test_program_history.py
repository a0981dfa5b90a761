"""A stamp says only what led to its program: the history goes with the program object, never with an equal graph."""

from __future__ import annotations

import copy
import io
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from stamp_cases import KEEP, KEEP_ALWAYS, LOSE, exported, failing_export, random_lives, stamp_of
from torch.export import ExportedProgram

import decomp_ledger as dl
from decomp_ledger import Ledger, StampError, StampWarning, UnusableValue, record
from decomp_ledger.pytorch import program_history
from decomp_ledger.pytorch.program_history import KEY, history


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> ExportedProgram:
    with Ledger(tmp_path_factory.mktemp("ledger") / "l.db", actor="ann") as ledger:
        table = ledger.table("edge")
        return exported().run_decompositions(table)


@pytest.mark.parametrize("way", KEEP)
def test_a_program_made_of_another_keeps_its_history(way: str, lowered: ExportedProgram, tmp_path: Path) -> None:
    with record(tmp_path / "l.db"):
        assert history(KEEP[way](copy.deepcopy(lowered))) == history(lowered) != ()


@pytest.mark.parametrize("way", KEEP_ALWAYS)
def test_torch_keeps_the_history_without_our_patches(way: str, lowered: ExportedProgram) -> None:
    assert len(history(KEEP_ALWAYS[way](copy.deepcopy(lowered)))) == 1


@pytest.mark.parametrize("way", LOSE)
def test_an_equal_graph_has_no_history(way: str, lowered: ExportedProgram, tmp_path: Path) -> None:
    with record(tmp_path / "l.db"):
        made = LOSE[way](lowered)
        assert history(made) == ()
        assert stamp_of(made)[0] is None
        with pytest.raises(StampError, match="no recorded export is known to have led to it"):
            dl.save(made, io.BytesIO())


def _dropped(program: ExportedProgram) -> ExportedProgram:
    program.run_decompositions({})
    return program


def _other(program: ExportedProgram) -> ExportedProgram:
    program.run_decompositions({})
    return torch.export.export(torch.nn.SiLU(), (torch.ones(2),))


LATE = {
    "its result was dropped": (_dropped, r"export:\d+ \(job/_dropped/1@1\) lowered it, and the result was not saved"),
    "another program": (_other, r"export:\d+ \(job/_other/1@1\) ran, and the result was not saved"),
}


@pytest.mark.parametrize("way", LATE)
def test_a_recording_says_at_its_end_which_exports_ran_instead(way: str, tmp_path: Path) -> None:
    make, match = LATE[way]
    warned = pytest.warns(StampWarning, match=f"model.pt2: .* without a stamp: .*{match}; save what run_decompositions")
    with warned, record(tmp_path / "l.db", name="job"):
        program = make(exported())
        torch.export.save(program, tmp_path / "model.pt2")
        with pytest.raises(StampError, match="save what run_decompositions"):
            dl.save(program, io.BytesIO())
    with pytest.raises(StampError, match="saved outside of a recording, or no recorded export is known"):
        dl.read_stamp(tmp_path / "model.pt2")


@pytest.mark.parametrize("way", ["its graph alone", "saved as a stranger's"])
def test_a_save_of_an_equal_graph_without_a_stamp_names_the_export(way: str, tmp_path: Path) -> None:
    with record(tmp_path / "l.db", name="job"):
        program = LOSE[way](exported().run_decompositions())
        with pytest.warns(
            StampWarning, match=r"without a stamp: .*export:\d+ \(job/test_\w+/1@1\) gave an equal graph"
        ):
            torch.export.save(program, tmp_path / "model.pt2")


def _raising(*args: Any) -> Any:
    raise ZeroDivisionError


@pytest.mark.filterwarnings("error::decomp_ledger.errors.StampWarning")
def test_a_save_without_a_stamp_is_silent_where_no_export_can_be_meant(tmp_path: Path) -> None:
    with record(tmp_path / "l.db"):
        torch.export.save(exported(), tmp_path / "before.pt2")
        torch.export.save(exported().run_decompositions({}), tmp_path / "after.pt2")
        torch.export.save(exported(), tmp_path / "again.pt2")  # because the result was saved
    with record(tmp_path / "l.db"):
        program = exported()
        lowered = program.run_decompositions().run_decompositions({})
        torch.export.save(program, tmp_path / "before.pt2")
        torch.export.save(lowered, tmp_path / "after.pt2")
    with record(tmp_path / "l.db"):
        silu = torch.export.export(torch.nn.SiLU(), (torch.ones(2),))
        with pytest.raises(ZeroDivisionError):
            silu.run_decompositions({torch.ops.aten.silu.default: _raising})
        torch.export.save(exported(), tmp_path / "before.pt2")


@pytest.mark.parametrize("seed", range(2))
def test_programs_of_equal_graphs_do_not_mix(seed: int, tmp_path: Path) -> None:
    assert random_lives(random.Random(seed), tmp_path, steps=6) == ""


def test_each_of_many_exports_of_a_program_has_itself_alone(tmp_path: Path) -> None:
    program = exported()
    with record(tmp_path / "l.db"):
        stamps = [stamp_of(program.run_decompositions({}))[0] for _ in range(4)]
    assert [stamp is not None and len(stamp.bundles) for stamp in stamps] == [1] * 4


def test_a_chain_of_exports_is_found_and_its_gaps_are_listed(tmp_path: Path) -> None:
    with record(tmp_path / "l.db"):
        first = exported().run_decompositions({})
        second = KEEP["a new program of passes"](first.run_decompositions()).run_decompositions({})
        stamp, _ = stamp_of(second)
    assert stamp is not None
    first_name, second_name, third_name = (bundle.event.table for bundle in stamp.bundles)
    assert first_name == third_name != second_name
    assert (stamp.gaps, stamp.edited, stamp.redacted) == ((0, 2), False, False)


def test_an_export_that_could_not_be_remembered_has_not_the_history_before(
    lowered: ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise ZeroDivisionError

    with record(tmp_path / "l.db"), pytest.warns(dl.RecordingWarning, match="will have no stamp"):
        monkeypatch.setattr(dl.ExportBundle, "from_log", fail)
        assert history(lowered.run_decompositions({})) == ()


def test_a_pickled_program_holds_nothing_of_a_ledger(lowered: ExportedProgram) -> None:
    assert KEY in lowered.graph_module.meta
    assert b"decomp_ledger." not in pickle.dumps(lowered.graph_module)
    assert pickle.loads(pickle.dumps(lowered.graph_module.meta))[KEY] is None


def test_the_file_is_the_same_but_for_the_stamp(lowered: ExportedProgram) -> None:
    bare = copy.deepcopy(lowered)
    program_history.forget(bare)
    files = [io.BytesIO(), io.BytesIO()]
    torch.export.save(lowered, files[0])
    torch.export.save(bare, files[1])
    assert files[0].getvalue() == files[1].getvalue()


_SECOND = """
import sys, torch, decomp_ledger as dl
with dl.record("second.db", name="second"):
    program = torch.export.load("first.pt2")
    torch.export.save(program.run_decompositions({}), "second.pt2")
"""


def test_a_chain_goes_on_in_another_process(lowered: ExportedProgram, tmp_path: Path) -> None:
    dl.save(lowered, tmp_path / "first.pt2", capture="minimal")
    subprocess.run([sys.executable, "-W", "ignore", "-c", _SECOND], cwd=tmp_path, check=True)
    stamp = dl.read_stamp(tmp_path / "second.pt2")
    tables = [(bundle.event.table, bundle.redacted) for bundle in stamp.bundles]
    assert tables == [("edge", True), ("second/module/1", False)]
    assert stamp.gaps == (0,)


@pytest.mark.parametrize("within", [False, True], ids=["alone", "within a recording"])
def test_a_minimal_stamp_is_asked_for_by_argument_or_setting(
    within: bool, lowered: ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = record(tmp_path / "l.db")
    if within:
        recording.__enter__()
    try:
        found = {capture: stamp_of(lowered, capture=capture)[0] for capture in (None, "full", "minimal")}
        assert [stamp is not None and stamp.redacted for stamp in found.values()] == [False, False, True]
        monkeypatch.setenv("DECOMP_LEDGER_CAPTURE", "minimal")
        found = {capture: stamp_of(lowered, capture=capture)[0] for capture in (None, "full")}
        assert [stamp is not None and stamp.redacted for stamp in found.values()] == [True, False]
        file = io.BytesIO()
        torch.export.save(lowered, file)
        assert not within or dl.read_stamp(file).redacted
        with pytest.raises(UnusableValue, match="capture='less': unknown value; give 'full' or 'minimal'"):
            dl.save(lowered, file, capture="less")
    finally:
        recording.__exit__(None, None, None)


@pytest.mark.parametrize("seed", range(8))
def test_what_a_decomposition_raises_arrives_as_without_a_recording(seed: int, tmp_path: Path) -> None:
    assert failing_export(seed, exported(), tmp_path) == ""
