"""Commands that take export:N and FILE.pt2; saving and loading within a recording."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from forging import cut, forge, tamper
from torch.export import export

import decomp_ledger as dl
from decomp_ledger import Ledger, StampError, StampWarning, read_stamp
from decomp_ledger.log import provenance


class Small(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.nn.functional.silu(torch.nn.functional.linear(x, x)).softmax(-1)


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join([str(Path(dl.__file__).parent.parent), str(folder)])
    command = [sys.executable, "-W", "ignore", "-m", "decomp_ledger", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, check=False, env={**os.environ, "PYTHONPATH": paths}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stamped")
    (folder / "lowering.py").write_text("import torch\n\ndef silu(x):\n    return x * torch.sigmoid(x) * 1.0\n")
    program = export(Small(), (torch.ones(3, 3),))
    torch.export.save(program, folder / "program.pt2")
    with pytest.MonkeyPatch.context() as patch, Ledger(folder / "decomp_ledger.db", actor="ada") as ledger:
        patch.syspath_prepend(str(folder))
        import lowering

        table = ledger.table("edge")
        table.preserve("aten::linear", "mylib::later", reason="a kernel")
        table["aten::silu"] = lowering.silu
        dl.save(program.run_decompositions(table), folder / "one.pt2")
        table.reset("aten::linear")
        dl.save(program.run_decompositions(table), folder / "two.pt2")
        patch.delitem(sys.modules, "lowering")
    return folder


def test_show_and_blame_read_the_stamp_of_a_file(folder: Path) -> None:
    text = run(folder, "show", "one.pt2").stdout
    assert "one.pt2 was made by export:" in text and "a kernel" in text
    assert "rules without effect here: mylib::later" in text
    shown = json.loads(run(folder, "show", "one.pt2", "--json").stdout)
    assert shown["stamp"]["edited"] is False and shown["export"]["idle"] == ["mylib::later"]
    assert "because a kernel" in run(folder, "blame", "one.pt2", "--op", "aten::linear").stdout


@pytest.mark.parametrize(
    ("op", "file", "answer"),
    [
        ("aten::linear", "one.pt2", "kept, since it was preserved by event #2"),
        ("aten::linear", "two.pt2", "decomposed, since torch's default has it"),
        (
            "aten::silu",
            "one.pt2",
            "decomposed, since it was overridden with lowering.silu by event #3; that fired once",
        ),
        ("aten::conv2d", "one.pt2", "not in the program, since neither the program nor its result has the op"),
        (
            "aten::sigmoid",
            "one.pt2",
            "emitted, since the program does not have the op; the decomposition of aten::silu made 1 node of it",
        ),
    ],
)
def test_explain_answers_for_an_op_of_an_export(folder: Path, op: str, file: str, answer: str) -> None:
    shown = run(folder, "explain", op, "--export", file).stdout
    assert answer in " ".join(shown.split())  # its lines are folded


def test_diff_compares_the_graphs_of_exports(folder: Path) -> None:
    done = run(folder, "diff", "one.pt2", "two.pt2")
    assert done.returncode == 1 and "the graphs differ" in done.stdout
    steps = json.loads(run(folder, "diff", "one.pt2", "two.pt2", "--json").stdout)["exports"]
    assert steps["same_program"] is True and steps["after"]["aten::linear"] == [1, 0]
    assert run(folder, "diff", "one.pt2", "one.pt2").returncode == 0


def test_diff_of_two_files_shows_the_first_node_that_differs(folder: Path) -> None:
    done = run(folder, "diff", "one.pt2", "two.pt2", "--graphs")
    assert (done.returncode, done.stderr) == (1, "")
    _, _, after = done.stdout.partition("the first node that differs is number ")
    first, second = after.splitlines()[1:3]
    assert first.startswith("  one.pt2, made of aten::linear: %") and "= aten::linear(" in first
    assert second.startswith("  two.pt2, made of aten::linear: %") and "= aten::permute(" in second
    assert "with --graphs to see the first node" in run(folder, "diff", "one.pt2", "two.pt2").stdout
    number = dl.read_stamp(folder / "one.pt2").last.event.seq
    refused = run(folder, "diff", f"export:{number}", "two.pt2", "--graphs")
    assert refused.returncode == 2 and "not a stamped .pt2 file, so it has no graph to compare" in refused.stderr


def test_reproduce_makes_table_and_graph_again_or_names_the_differences(folder: Path) -> None:
    done = run(folder, "reproduce", "one.pt2", "--program", "program.pt2", "--trust", "lowering")
    assert done.returncode == 0 and "made again exactly" in done.stdout and "the same graph" in done.stdout
    done = run(folder, "reproduce", "one.pt2", "--program", "program.pt2")
    assert done.returncode == 1 and "aten::silu" in done.stdout and "--nearest runs it" in done.stdout
    source = (folder / "lowering.py").read_text()
    (folder / "lowering.py").write_text(source.replace("1.0", "2.0"))
    arguments = ("--program", "program.pt2", "--trust", "lowering", "--nearest")
    done = run(folder, "reproduce", "one.pt2", *arguments)
    printed = json.loads(run(folder, "reproduce", "one.pt2", *arguments, "--json").stdout)
    (folder / "lowering.py").write_text(source)
    # An old torch does not save which op made a node.
    saved = all(
        "from_node" in node.meta
        for node in dl.load(folder / "one.pt2").graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    )
    made_of = "aten::silu" if saved else "an op not known"
    assert "the first node that differs" in done.stdout and f"then, made of {made_of}: " in done.stdout
    assert [each["op"] for each in printed["differences"]] == ["aten::silu"] and printed["rerun"]["same"] is False


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        (False, "at the git commit {0}; go back with `git checkout {1}`"),
        (True, "at the git commit {0}, whose files were changed; go back"),
        ("unknown: why", "at the git commit {0} (whether its files were changed is unknown: why); go back"),
    ],
)
def test_reproduce_names_the_git_commit_to_go_back_to(tmp_path: Path, dirty: Any, expected: str) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    with pytest.MonkeyPatch.context() as patch, Ledger(tmp_path / "decomp_ledger.db") as ledger:
        patch.setattr(provenance, "_machine", lambda *_: {"python": "3", "git_commit": commit, "git_dirty": dirty})
        patch.setattr(provenance, "_environments", {})
        program = export(Small(), (torch.ones(3, 3),))
        dl.save(program.run_decompositions(ledger.table("edge")), tmp_path / "model.pt2")
        (number,) = (event.seq for event in ledger.exports())
        assert ledger.reproduce_export(number).git_commit == commit
    for spec in (f"export:{number}", "model.pt2"):
        done = run(tmp_path, "reproduce", spec)
        assert (done.returncode, done.stderr) == (0, "")
        assert expected.format(commit, commit[:12]) in done.stdout
    found = json.loads(run(tmp_path, "reproduce", "model.pt2", "--json").stdout)
    assert (found["git_commit"], found["git_dirty"]) == (commit, dirty)


def test_an_export_is_reproduced_with_the_functions_provided_to_its_ledger(tmp_path: Path) -> None:
    nameless = (lambda x: lambda y: torch.relu(y) * x)(1)
    with Ledger(tmp_path / "l.db") as ledger:
        table = ledger.table("edge")
        table["aten::silu"] = nameless
        export(Small(), (torch.ones(3, 3),)).run_decompositions(table)
        number = next(iter(ledger.exports())).seq
    with Ledger(tmp_path / "l.db", read_only=True) as ledger:
        assert not ledger.reproduce_export(number).exact
        ledger.provide("aten::silu", nameless)
        assert ledger.reproduce_export(number).exact


def test_an_export_is_reproduced_with_the_modules_that_its_ledger_trusts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "lowering", raising=False)
    with Ledger(folder / "decomp_ledger.db", read_only=True, trust=["lowering"]) as ledger:
        number = read_stamp(folder / "one.pt2").last.event.seq
        assert ledger.reproduce_export(number).exact
    monkeypatch.delitem(sys.modules, "lowering")


def test_saving_within_a_recording_stamps_the_file(folder: Path, tmp_path: Path) -> None:
    with dl.record(tmp_path / "l.db", name="again"):
        program = torch.export.load(folder / "two.pt2")
        torch.export.save(program.run_decompositions({}), tmp_path / "a.pt2", extra_files={"mine": "kept"})
    first, second = read_stamp(tmp_path / "a.pt2").bundles
    assert (first.event.table, second.event.table) == ("edge", "again/test_saving_within_a_recording_stamps_the_file/1")
    dl.save(dl.load(tmp_path / "a.pt2"), tmp_path / "b.pt2")
    assert read_stamp(tmp_path / "b.pt2").bundles == (first, second)
    extra = {"mine": ""}
    torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    assert extra["mine"] == "kept"


def test_an_edited_program_is_noticed(folder: Path, tmp_path: Path) -> None:
    program = dl.load(folder / "one.pt2")
    node = next(node for node in program.graph.nodes if "sigmoid" in str(node.target))
    node.target = torch.ops.aten.tanh.default
    program.graph_module.recompile()
    dl.save(program, tmp_path / "edited.pt2")
    assert read_stamp(tmp_path / "edited.pt2").edited
    stamp = {"decomp_ledger.json": read_stamp(folder / "one.pt2").to_text()}
    torch.export.save(program, tmp_path / "forged.pt2", extra_files=stamp)
    with pytest.warns(StampWarning, match="not the one that was stamped"):
        dl.load(tmp_path / "forged.pt2")


def test_a_minimal_stamp_is_shown_as_redacted_and_checked_against_the_ledger(folder: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "minimal.pt2")
    dl.save(dl.load(folder / "one.pt2"), file, capture="minimal")
    assert b"a kernel" not in Path(file).read_bytes()
    text = run(folder, "show", file).stdout
    assert "by (redacted), " in text and "redacted: it has no reasons" in text and "a kernel" not in text
    assert f"before {read_stamp(file).last.name} is not known" in text
    stamp = json.loads(run(folder, "show", file, "--json").stdout)["stamp"]
    assert stamp["exports"][0]["redacted"] is True and stamp["gaps"] == [0]
    assert run(folder, "verify", "--against", file).returncode == 0


@pytest.mark.parametrize("edit", [cut, forge])
def test_a_stamp_shows_what_the_chain_alone_cannot(folder: Path, tmp_path: Path, edit: Any) -> None:
    export = read_stamp(folder / "two.pt2").last.event
    path = shutil.copy(folder / "decomp_ledger.db", tmp_path)
    files = ("--against", str(folder / "one.pt2"), "--against", str(folder / "two.pt2"))
    assert run(tmp_path, "verify", *files).returncode == 0
    tamper(path, lambda db: edit(db, export.seq if edit is forge else export.seq - 1))
    assert run(tmp_path, "verify", *files[:2]).returncode == run(tmp_path, "verify").returncode == 0
    done = run(tmp_path, "verify", *files)
    why = "history was rewritten" if edit is forge else "the tail was cut"
    assert done.returncode == 1 and f"event #{export.seq}: " in done.stdout and why in done.stdout
    printed = json.loads(run(tmp_path, "verify", *files, "--json").stdout)
    assert [problem["seq"] for problem in printed["problems"]] == [export.seq]


def test_verify_names_the_stamp_of_another_ledger(folder: Path, tmp_path: Path) -> None:
    with Ledger(tmp_path / "decomp_ledger.db"), Ledger(folder / "decomp_ledger.db", read_only=True) as ledger:
        done = run(tmp_path, "verify", "--against", str(folder / "one.pt2"))
        wanted = f"one.pt2: its exports were recorded in the ledger {ledger.id}, not in "
    assert (done.returncode, done.stdout) == (2, "") and wanted in done.stderr
    stamp = read_stamp(folder / "one.pt2")
    mixed = attrs.evolve(stamp, bundles=(attrs.evolve(stamp.last, ledger="0" * 32), *stamp.bundles))
    assert mixed.anchors(ledger.id) == stamp.anchors(ledger.id)
    assert [seq for seq, _ in stamp.anchors(ledger.id)] == sorted(
        event.seq for event in (*stamp.last.rule_events, stamp.last.event)
    )


def test_a_file_without_a_good_stamp_gives_one_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StampError, match="has no stamp"):
        read_stamp(folder / "program.pt2")
    with pytest.raises(StampError, match=r"not a \.pt2 file"):
        read_stamp(folder / "lowering.py")
    with pytest.raises(StampError, match="cannot be read"):
        read_stamp(tmp_path / "missing.pt2")
    with warnings.catch_warnings(), pytest.raises(StampError, match="no recorded export"):
        warnings.simplefilter("ignore")
        dl.save(export(torch.nn.Tanh(), (torch.ones(2),)), tmp_path / "n.pt2")
    assert run(folder, "show", "lowering.py.pt2").returncode == 2
