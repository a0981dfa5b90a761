"""A recording notes what an export is of, and the files that its result is saved into."""

from __future__ import annotations

import hashlib
import io
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stamp_edits import sealed, unsealed
from torch.export import export

import decomp_ledger as dl
from decomp_ledger import Ledger, StampWarning, record
from decomp_ledger.model.events import Exported, RootModule, Saved
from decomp_ledger.pytorch import artefacts
from decomp_ledger.transfer.stamp import MEMBER, Stamp

HERE = "tests/torch/test_saved_files.py"


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(self.layer(x))


class Heir(Net):
    class Inner(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)


def in_a_function() -> torch.nn.Module:
    class Local(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)

    return Local()


def line_of(text: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip().startswith(text))


def example() -> tuple[torch.Tensor]:
    return (torch.ones(2, 8),)


def body_of(ledger: Ledger) -> Exported:
    """Return the body of the newest export."""
    (event,) = ledger.events(kind="exported", desc=True, limit=1)
    assert isinstance(event.body, Exported)
    return event.body


def saved(ledger: Ledger) -> list[Saved]:
    return [event.body for event in ledger.events(kind="saved") if isinstance(event.body, Saved)]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


MODULES = {
    "a class": (Net, "class Net("),
    "an heir without a forward of its own": (Heir, "class Heir("),
    "a class in a class": (Heir.Inner, "class Inner("),
    "a class in a function": (in_a_function, "class Local("),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_an_export_names_the_class_of_its_root_module(name: str, strict: bool, ledger: Ledger) -> None:
    make, definition = MODULES[name]
    module = make()
    program = export(module, example(), strict=strict)
    with record(ledger):
        program.run_decompositions()
    cls = type(module)
    assert body_of(ledger).module == RootModule(f"{cls.__module__}.{cls.__qualname__}", HERE, line_of(definition))
    file = io.BytesIO()
    torch.export.save(program, file)
    with record(ledger):
        torch.export.load(io.BytesIO(file.getvalue())).run_decompositions().run_decompositions({})
    assert body_of(ledger).module == RootModule(f"{cls.__module__}.{cls.__qualname__}", HERE, line_of(definition))


def test_a_program_of_no_module_has_none(ledger: Ledger) -> None:
    program = export(Net(), example())
    for node in program.graph.nodes:
        node.meta.pop("nn_module_stack", None)
    with record(ledger):
        program.run_decompositions()
    assert body_of(ledger).module is None


def test_a_chain_of_exports_is_recorded_through_a_file(ledger: Ledger, tmp_path: Path) -> None:
    with record(ledger):
        program = export(Net(), example()).run_decompositions({})
        torch.export.save(program, tmp_path / "m.pt2")
    first = ledger.exports()[0]
    assert isinstance(first.body, Exported) and first.body.made_from is None
    with record(ledger):
        torch.export.load(tmp_path / "m.pt2").run_decompositions()
    assert body_of(ledger).made_from == (ledger.id, first.seq)
    with Ledger(tmp_path / "other.db", actor="ann") as other, record(other):
        torch.export.load(tmp_path / "m.pt2").run_decompositions()
        assert body_of(other).made_from == (ledger.id, first.seq)


def test_a_saved_file_is_an_event_with_its_digest(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    program = export(Net(), example())
    with record(ledger):
        torch.export.save(program, tmp_path / "before.pt2")
        lowered = program.run_decompositions()
        torch.export.save(lowered, path)
        torch.export.save(lowered, io.BytesIO())
        dl.save(lowered, tmp_path / "n.pt2")
    torch.export.save(lowered, tmp_path / "after.pt2")
    (export_,) = ledger.exports()
    assert [(body.export, Path(body.path).name, body.format, body.stamped) for body in saved(ledger)] == [
        (export_.seq, "m.pt2", "pt2", True),
        (export_.seq, "n.pt2", "pt2", True),
    ]
    assert saved(ledger)[0].sha256 == sha256(path) and saved(ledger)[0].size == path.stat().st_size
    assert ledger.verify().ok


def test_a_file_is_saved_though_its_event_cannot_be(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db", actor="ann", timeout=0.1) as ledger, record(ledger):
        lowered = export(Net(), example()).run_decompositions()
        db = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        with pytest.warns(dl.RecordingWarning, match="STOPPED"):
            torch.export.save(lowered, tmp_path / "m.pt2")
        db.close()
    assert dl.read_stamp(tmp_path / "m.pt2").last.body.after == body_of_path(tmp_path / "l.db").after


def body_of_path(path: Path) -> Exported:
    with Ledger(path, read_only=True) as ledger:
        return body_of(ledger)


def test_a_stamp_whose_exports_are_damaged_is_not_saved_again(ledger: Ledger, tmp_path: Path) -> None:
    table = ledger.table("edge")
    program = export(Net(), example()).run_decompositions(table)
    dl.save(program, tmp_path / "m.pt2")
    value = unsealed(dl.read_stamp(tmp_path / "m.pt2").to_text())
    value["exports"][0]["event"]["actor"] = "mallory"
    torch.export.save(program, tmp_path / "edited.pt2", extra_files={MEMBER: sealed(value)})
    with record(tmp_path / "other.db"):
        loaded = torch.export.load(tmp_path / "edited.pt2")
        torch.export.save(loaded, tmp_path / "again.pt2")
        assert loaded.run_decompositions() is not None
    with pytest.raises(dl.MissingStamp):
        dl.read_stamp(tmp_path / "again.pt2")
    with Ledger(tmp_path / "other.db", read_only=True) as other:
        assert body_of(other).made_from is None


# ONNX


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("onnx")
    with record(folder / "l.db"):
        torch.onnx.export(Net().eval(), example(), folder / "a.onnx", dynamo=True, verbose=False, external_data=False)
        program = torch.onnx.export(Net().eval(), example(), dynamo=True, verbose=False)
        assert program is not None
        program.save(folder / "b.onnx", external_data=True)
    yield folder, program


@pytest.mark.parametrize("name", ["a.onnx", "b.onnx"])
def test_an_onnx_has_the_stamp_of_its_export(name: str, onnx_files: tuple[Path, Any]) -> None:
    folder, _ = onnx_files
    stamp = dl.read_stamp(folder / name)
    with Ledger(folder / "l.db", read_only=True) as ledger:
        export_ = list(ledger.exports())["ab".index(name[0])]
        assert stamp.last == ledger.bundle(export_.seq)
        assert [body.sha256 for body in saved(ledger) if body.path.endswith(name)] == [sha256(folder / name)]
        assert ledger.show(str(folder / name)).state == ledger.show(f"export:{export_.seq}").state
        assert ledger.verify(against=[folder / name]).ok


def test_the_model_in_memory_gets_no_stamp(onnx_files: tuple[Path, Any]) -> None:
    folder, program = onnx_files
    assert not program.model.metadata_props
    program.save(folder / "outside.onnx")
    with pytest.raises(dl.MissingStamp):
        dl.read_stamp(folder / "outside.onnx")


# ExecuTorch


def test_an_executorch_file_is_found_by_its_content(ledger: Ledger, tmp_path: Path) -> None:
    exir = pytest.importorskip("executorch.exir")
    with record(ledger, sidecars=True):
        manager = exir.to_edge(export(Net().eval(), example())).to_executorch()
        manager.save(str(tmp_path / "m.pte"))
        (tmp_path / "bytes.pte").write_bytes(manager.buffer)
        assert manager.buffer
    (export_,) = ledger.exports()
    assert [(body.format, body.sha256) for body in saved(ledger)] == [("pte", sha256(tmp_path / "m.pte"))] * 2
    assert (tmp_path / "bytes.pte").read_bytes() == (tmp_path / "m.pte").read_bytes()
    for name in ("m.pte", "bytes.pte"):
        found = ledger.show(str(tmp_path / name))
        assert found.bundle is not None and found.bundle.event.seq == export_.seq
    assert isinstance(dl.read_stamp(tmp_path / "m.pte"), Stamp)


# AOTInductor


def test_a_package_gets_the_stamp_of_its_program(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as archive:  # as torch packs it, without the minute that compiling takes
        archive.writestr("m/data/aotinductor/model/x.so", b"compiled")
        archive.writestr("m/archive_format", "pt2")
    with record(ledger):
        artefacts.stamp_package(export(Net(), example()), path)
        assert saved(ledger) == [] and not path.read_bytes().count(b"decomp_ledger")
        artefacts.stamp_package(export(Net(), example()).run_decompositions(), path)
    (body,) = saved(ledger)
    assert (body.format, body.stamped, body.sha256) == ("aoti", True, sha256(path))
    assert dl.read_stamp(path).last.event.seq == body.export


def test_a_package_of_another_form_is_noted_without_a_stamp(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/aotinductor/model/x.so", b"compiled")
    with record(ledger), pytest.warns(StampWarning, match="without a stamp: it is not of a form that can hold one"):
        artefacts.stamp_package(export(Net(), example()).run_decompositions(), path)
    (body,) = saved(ledger)
    assert (body.format, body.stamped, body.sha256) == ("aoti", False, sha256(path))
