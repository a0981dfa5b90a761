"""What a catalog says of the torch at hand, and that every way to make one says the same."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._export.utils as upstream
from torch._ops import OpOverload

from decomp_ledger.errors import UnsupportedTorch
from decomp_ledger.pytorch import capture, entries, internals, reproduced_table
from decomp_ledger.pytorch.capture_program import CaptureRequest, capture_program, capture_with


def operators() -> dict[str, Any]:
    """Return every operator of the dispatcher and every higher-order one, by name."""
    found = dict(torch._ops._higher_order_ops)
    for name in torch._C._dispatch_get_all_op_names():
        space, _, rest = name.partition("::")
        family, _, overload = rest.partition(".")
        packet = getattr(getattr(torch.ops, space), family, None)
        if packet is not None and hasattr(packet, overload or "default"):
            found[name] = getattr(packet, overload or "default")
    return found


@pytest.fixture(scope="module")
def catalog() -> dict[str, Any]:
    """The catalog of this torch, from a process of its own."""
    return capture_with(sys.executable)


def test_it_agrees_with_torch_on_what_can_be_preserved() -> None:
    every = operators()
    assert len(every) > 3000
    judged = {name: not entries.why_not_preservable(op) for name, op in every.items()}
    assert judged == {name: upstream._check_valid_to_preserve(op) for name, op in every.items()}


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("aten.linear.default", ""),
        ("aten.add_.Tensor", "its schema mutates or aliases an argument"),
        ("aten.view.default", "its schema mutates or aliases an argument"),
        ("aten.dropout.default", "tagged maybe_aliasing_or_mutating"),
        ("aten.native_batch_norm.default", "its schema is not what it does"),
        ("aten.sym_size.int", ""),
        ("aten.size.default", "a metadata function of functional tensors"),
        ("higher_order.cond", "a higher-order operator"),
        ("aten.linear", "not an operator overload"),
    ],
)
def test_it_says_why_an_op_cannot_be_preserved(op: str, reason: str) -> None:
    found: Any = torch.ops
    for part in op.split("."):
        found = getattr(found, part)
    assert entries.why_not_preservable(found) == reason


def test_an_op_whose_library_is_gone_cannot_be_preserved(library: Any) -> None:
    library.define("bare(Tensor x) -> Tensor")
    op = getattr(torch.ops, library.ns).bare.default
    assert entries.why_not_preservable(op) == ""
    library._destroy()
    assert entries.why_not_preservable(op) == "it has no kernel"
    assert not upstream._check_valid_to_preserve(op)


def test_the_default_table_is_that_of_a_new_process(catalog: dict[str, Any], run_python: Any) -> None:
    code = "from torch.export import CustomDecompTable as T; print(*(op.name() for op in T().materialize()))"
    expected = sorted(run_python(code).split())
    assert sorted(op for op, entry in catalog["ops"].items() if entry.get("default")) == expected


def test_the_default_table_sees_what_torch_has_forgotten_to_look_for(make_library: Any) -> None:
    torch.export.CustomDecompTable().materialize()
    library = make_library("aten")
    library.define("late_for_everything(Tensor x) -> Tensor")
    library.impl("late_for_everything", lambda x: x, "CompositeImplicitAutograd")
    assert "aten::late_for_everything" in {op.name() for op in internals.upstream_table()}
    library._destroy()
    assert "aten::late_for_everything" not in {op.name() for op in internals.upstream_table()}


def test_every_default_decomposition_has_an_origin() -> None:
    table = internals.upstream_table()
    registry = torch._decomp.global_decomposition_table["post_autograd"]
    for op, decomposition in table.items():
        origin = entries.origin_of(op, decomposition)
        assert (origin == "registry") == (registry.get(op) is decomposition)
        if origin == "cia":
            assert torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")
        if origin == "py_cia":
            assert op.py_kernels[torch._C.DispatchKey.CompositeImplicitAutograd] is decomposition


def test_what_torch_does_not_have_has_no_origin() -> None:
    op, foreign = torch.ops.aten.linear.default, lambda *args: None
    assert entries.origin_of(op, foreign) is None
    with pytest.raises(ValueError, match=r"aten::linear: torch .* does not decompose it with"):
        entries.entry("aten::linear", op, foreign, digests=False)


def test_an_entry_says_what_there_is(catalog: dict[str, Any]) -> None:
    ops = catalog["ops"]
    assert ops["aten::linear"] == {
        "origin": "cia",
        "default": True,
        "schema": "aten::linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor",
        "tags": ["cia", "functional"],
    }
    assert ops["aten::mm"] == {
        "schema": "aten::mm(Tensor self, Tensor mat2) -> Tensor",
        "tags": ["core", "functional"],
    }
    assert ops["cond"] == {"unpreservable": "a higher-order operator"}
    gelu = ops["aten::gelu_backward"]
    assert (gelu["origin"], gelu["default"]) == ("registry", True)
    assert (gelu["module"], gelu["qualname"]) == ("torch._decomp.decompositions", "gelu_backward")
    assert len({gelu["digest"], gelu["helpers"], gelu["wrappers"]}) == 3


def test_what_torch_has_and_leaves_out_is_captured(catalog: dict[str, Any]) -> None:
    reshape = catalog["ops"]["aten::reshape"]
    assert reshape["origin"] == "cia"
    assert "default" not in reshape
    assert reshape["unpreservable"] == "its schema mutates or aliases an argument"
    silu = catalog["ops"]["aten::silu"]
    assert silu["origin"] == "registry"


def test_names_of_wrapped_packets_are_those_of_their_wrappers(catalog: dict[str, Any]) -> None:
    expand = catalog["ops"]["aten::expand_copy"]
    assert (expand["module"], expand["qualname"]) == ("torch._refs", "expand_copy")
    places = {(entry.get("module", ""), entry.get("qualname", "")) for entry in catalog["ops"].values()}
    assert not [place for place in places if place[0].startswith("torch._ops") or "pybind" in place[1]]


def test_digests_can_be_left_out() -> None:
    op = torch.ops.aten.gelu_backward.default
    decomposition = internals.upstream_table()[op]
    quick, full = (entries.entry("aten::gelu_backward", op, decomposition, digests) for digests in (False, True))
    assert {**full, **quick} == full
    assert set(full) - set(quick) == {"digest", "helpers", "wrappers"}


def test_every_op_is_there_once(catalog: dict[str, Any]) -> None:
    assert len(catalog["ops"]) > 3000
    assert list(catalog["ops"]) == sorted(catalog["ops"])
    assert {"aten::linear", "aten::add.Tensor", "prims::add", "cond"} <= set(catalog["ops"])
    for name, entry in catalog["ops"].items():
        assert all(entry.values()), f"{name} has an empty field"
        assert ("schema" in entry) == ("::" in name)


def test_the_build_is_that_of_torch(catalog: dict[str, Any]) -> None:
    assert catalog["format"] == capture.FORMAT
    assert catalog["build"] == {**entries.build(), "python": "{}.{}".format(*sys.version_info[:2])}
    assert catalog["build"]["torch"] == torch.__version__
    assert catalog["build"]["git"] == torch.version.git_version


def test_the_program_and_the_package_capture_the_same(catalog: dict[str, Any], run_python: Any) -> None:
    code = "import json; from decomp_ledger.pytorch.capture import capture; print(json.dumps(capture()))"
    assert json.loads(run_python(code, PYTHONHASHSEED="4")) == catalog


def test_the_catalog_does_not_depend_on_what_else_is_imported(catalog: dict[str, Any], run_python: Any) -> None:
    code = (
        "import json, torch._dynamo, torch._inductor.decomposition, torch.distributed, torch.onnx\n"
        "from decomp_ledger.pytorch.capture import capture; print(json.dumps(capture()))"
    )
    ops = json.loads(run_python(code))["ops"]
    assert {name: ops[name] for name in catalog["ops"]} == catalog["ops"]


def test_the_program_needs_nothing_of_ours() -> None:
    nodes = [*ast.walk(ast.parse(capture_program(CaptureRequest({"aten::mm": ["(f32[2, 2], f32[2, 2])"]}))))]
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert len(names) > 10
    assert not [name for name in names if name.startswith("decomp_ledger")]


def test_the_parts_of_the_program_define_no_name_twice() -> None:
    defined = []
    for node in ast.parse(capture_program()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined += [target.id for target in targets if isinstance(target, ast.Name)]
    assert sorted(set(defined)) == sorted(defined)


def test_what_torch_prints_does_not_mix_with_the_catalog(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "import os\nos.write(1, b'noise')\nprint('more')\nraise SystemExit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=capture_program(), capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "noise" in done.stderr


def test_an_interpreter_that_cannot_be_captured_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTorch, match="/no/such/python"):
        capture_with("/no/such/python")
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho No module named torch >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(UnsupportedTorch, match="No module named torch"):
        capture_with(str(broken))
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    with pytest.raises(UnsupportedTorch, match="timed out"):
        capture_with(str(slow), timeout=0.2)


def test_only_names_with_a_namespace_are_overloads() -> None:
    every = operators()
    plain = {name for name, op in every.items() if isinstance(op, OpOverload)}
    assert {name for name in every if "::" in name} == plain


@pytest.mark.parametrize("search", [capture._import, reproduced_table.import_trusted])
def test_modules_are_imported_although_the_current_folder_was_removed(
    search: Callable[[Sequence[str]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    search(["json"])
