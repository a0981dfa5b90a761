"""Samples and traces of ops that torch does not define: given by the user, or made from their schemas."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import decomp_ledger as dl
from decomp_ledger.model.samples import parse_call
from decomp_ledger.pytorch.capture_program import CaptureRequest, capture_with
from decomp_ledger.pytorch.schema_samples import made_texts

LIBRARY = """
import torch

print("a library that prints")
library = torch.library.Library("fused", "DEF")


def define(schema, function):
    library.define(schema)
    library.impl(schema.partition("(")[0], function, "CompositeImplicitAutograd")


define("silu_mul(Tensor x, Tensor y) -> Tensor", lambda x, y: {body})
define("scale(Tensor x, float by) -> Tensor", lambda x, by: x * by)
library.define("kernel(Tensor x) -> Tensor")
"""
BODIES = ("x * torch.sigmoid(x) * y", "torch.nn.functional.silu(x) * y")
SAMPLES = {
    "fused.silu_mul.default": ["(f32[2,3], f32[3])", "dynamic(f32[2, 3], f32[2, 3])"],
    "aten::linear": "(f32[9, 4], f32[5, 4])",
    torch.ops.aten.mm.default: ["(f32[2, 2], f32[2, 2])"],
}


@pytest.fixture
def library_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a module into a folder of its own, and go there, as a user would who captures it."""

    def write(text: str, folder: str = "library") -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "fused_ops.py").write_text(text, encoding="utf-8")
        monkeypatch.chdir(tmp_path / folder)
        return tmp_path / folder

    return write


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The catalogs of two versions of one library, captured with samples under two hash seeds."""
    files = []
    for number, body in enumerate(BODIES):
        folder = tmp_path_factory.mktemp("version")
        (folder / "fused_ops.py").write_text(LIBRARY.replace("{body}", body), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("PYTHONHASHSEED", str(number))
            dl.capture_catalog(output="catalog.json", traces=False, samples=SAMPLES, imports=["fused_ops"])
        files.append(folder / "catalog.json")
    return files


def catalog_of(path: Path) -> dl.Catalog:
    """Return a captured catalog."""
    return dl.catalog(f"catalog:{path}")


def test_within_one_torch_the_changed_decomposition_is_shown_and_no_other(versions: list[Path]) -> None:
    found = dl.drift(*(f"catalog:{path}" for path in versions))
    assert [(change.op, change.kind) for change in found.changes] == [("fused::silu_mul", "behaviour")]
    assert {each.op: each.verdict for each in found.behaviours} == {
        "fused::silu_mul": "differs",
        "fused::scale": "same",
    }
    first = found.behaviour("fused::silu_mul").differences[0]
    assert first.call == "(f32[2, 3], f32[3])"
    assert [line.partition("(")[0] for line in first.before_graph] == [
        "%0 = aten::sigmoid", "%1 = aten::mul.Tensor", "%2 = aten::mul.Tensor", "return %2",
    ]  # fmt: skip
    assert [line.partition("(")[0] for line in first.after_graph] == [
        "%0 = aten::silu", "%1 = aten::mul.Tensor", "return %1",
    ]  # fmt: skip
    assert found.kernels == ()


def test_a_library_behaves_the_same_under_another_hash_seed(versions: list[Path]) -> None:
    one, other = (catalog_of(path).traced for path in versions)
    assert one is not None
    assert other is not None
    assert one.traces.get("fused::scale") == other.traces.get("fused::scale")
    assert one.traces.get("aten::linear") == other.traces.get("aten::linear")
    assert [*one.traces.of] == [*other.traces.of] == ["aten::linear", "fused::scale", "fused::silu_mul"]


def test_given_samples_come_alone_and_other_ops_have_calls_from_their_schema(versions: list[Path]) -> None:
    traced = catalog_of(versions[0]).traced
    assert traced is not None
    assert [*traced.traces.get("fused::silu_mul")] == ["(f32[2, 3], f32[3])", "dynamic(f32[2, 3], f32[2, 3])"]
    assert [*traced.traces.get("aten::linear")] == ["(f32[9, 4], f32[5, 4])"]
    made = traced.traces.get("fused::scale")
    assert "(f32[2, 3], 0.5)" in made
    assert len(made) >= 8


def test_torchs_own_ops_still_have_the_traces_of_their_build(versions: list[Path]) -> None:
    found = dl.drift(f"catalog:{versions[0]}", "torch:2.9.1")
    if str(torch.__version__).partition("+")[0] not in dl.available_catalogs():
        pytest.skip("this torch has no shipped traces")
    assert sum(each.verdict == "same" for each in found.behaviours) > 300 or torch.__version__.startswith("2.9.1")


@pytest.mark.parametrize("processes", [1, 2])
def test_any_number_of_processes_gives_the_same_file(
    processes: int, versions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(versions[0].parent)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    own = {"fused::silu_mul": ("(f32[2, 3], f32[3])", "dynamic(f32[2, 3], f32[2, 3])")}
    linear = {"aten::linear": ("(f32[9, 4], f32[5, 4])",)}
    steps: list[tuple[int, int]] = []
    request = CaptureRequest(linear, own, ("fused_ops",))
    captured = capture_with(
        sys.executable, request=request, processes=processes, progress=lambda *step: steps.append(step)
    )
    assert dl.Catalog.from_json(captured).to_file() == json.loads(versions[0].read_text(encoding="utf-8"))
    assert [*captured["traces"]["ops"]] == ["aten::linear", "fused::scale", "fused::silu_mul"]
    assert steps == sorted(steps)
    assert steps[-1] == (3, 3)


def test_if_one_of_two_processes_fails_one_alone_does_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: list[Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nmkdir failed 2>/dev/null && exit 1\nexec {sys.executable} $@\n", encoding="utf-8")
    python.chmod(0o755)
    request = CaptureRequest({"aten::linear": ("(f32[9, 4], f32[5, 4])",)})
    captured = capture_with(str(python), request=request, processes=2)
    traced = catalog_of(versions[0]).traced
    assert traced is not None
    assert captured["traces"]["ops"]["aten::linear"] == {
        call: trace.to_json() for call, trace in traced.traces.get("aten::linear").items()
    }


@pytest.mark.parametrize(
    ("text", "samples", "error", "message"),
    [
        ("import torch", {"fused::none": ["()"]}, dl.SampleError, "fused::none: torch .* has no such op; import the"),
        ("import torch", {"aten::add": ["()"]}, dl.SampleError, "has the overloads aten::add.Scalar, aten::add.Scalar"),
        ("import torch", {"higher_order.cond": ["()"]}, dl.SampleError, "cond: torch .* has no such op"),
        ("1 / 0", {}, dl.NotImportable, "module fused_ops: it cannot be imported: ZeroDivisionError: division by"),
        ("raise SystemExit(0)", {}, dl.NotImportable, "module fused_ops: it cannot be imported: SystemExit: 0"),
        ("import none", {}, dl.NotImportable, "ModuleNotFoundError: No module named 'none'"),
        ("import os\nos._exit(0)", {}, dl.UnsupportedTorch, "cannot capture the torch of .*: "),
        ("import os\nos._exit(9)", {}, dl.UnsupportedTorch, "it ended without a message"),
    ],
)
def test_what_cannot_be_captured_is_one_clear_error(
    library_file: Any, text: str, samples: Any, error: type[Exception], message: str
) -> None:
    library_file(text)
    with pytest.raises(error, match=message) as caught:
        dl.capture_catalog(traces=False, samples=samples, imports=["fused_ops"])
    assert "\n" not in str(caught.value)


def test_an_op_whose_call_ends_the_process_is_named(library_file: Any) -> None:
    library_file(LIBRARY.replace("{body}", "__import__('os').abort()"))
    with pytest.raises(dl.UnsupportedTorch, match=r"\(while it traced fused::silu_mul\)"):
        dl.capture_catalog(traces=False, samples={"fused::silu_mul": ["(f32[2], f32[2])"]}, imports=["fused_ops"])


# In this process


def test_an_op_can_be_traced_where_it_is_defined(library: Any) -> None:
    library.define("twice(Tensor x, *, float by=2.0) -> Tensor")
    library.impl("twice", lambda x, by=2.0: x * by, "CompositeImplicitAutograd")
    op = getattr(torch.ops, library.ns).twice.default
    name = f"{library.ns}::twice"
    found = dl.trace(op, "(f32[2],by = 3.0)", "(1)")
    traces = found.traces.get(name)
    assert [*traces] == ["(f32[2], by=3.0)", "(1)"]
    assert found.graphs[str(traces["(f32[2], by=3.0)"].digest)] == (
        "%0 = aten::mul.Tensor(x0, 3.0): f32[2]",
        "return %0",
    )
    assert traces["(1)"].error == "RuntimeError"
    assert [*dl.trace(name).traces.get(name)] == made_texts(op)


def test_the_override_of_a_table_is_traced(ledger: dl.Ledger) -> None:
    table = ledger.table("edge")
    table[torch.ops.aten.gelu.default] = lambda x, approximate="none": x * torch.sigmoid(1.702 * x)
    (trace,) = dl.trace("aten::gelu", "(f32[2])", table=table).traces.get("aten::gelu").values()
    (plain,) = dl.trace("aten::gelu", "(f32[2])", table=dict(table)).traces.get("aten::gelu").values()
    (default,) = dl.trace("aten::gelu", "(f32[2])").traces.get("aten::gelu").values()
    assert trace == plain
    assert trace != default


@pytest.mark.parametrize(
    ("op", "calls", "table", "error", "message"),
    [
        ("aten::none", (), None, dl.SampleError, "no loaded library has this op"),
        ("aten::mm", (), None, dl.SampleError, "torch has no decomposition of it"),
        ("aten::linear", (), {}, dl.SampleError, "the table has no decomposition of it"),
        ("aten::linear", ("f32",), None, dl.SampleError, "sample call: "),
        ("no op", (), None, dl.InvalidName, "not the name of an op"),
        (3, (), None, dl.UnusableValue, "not an op"),
        ("aten::linear", (), 3, dl.UnusableValue, "give a dict"),
        ("aten::linear", (3,), None, dl.UnusableValue, r"its samples are \(3,\); give a list"),
    ],
)
def test_what_cannot_be_traced_is_one_clear_error(
    op: Any, calls: Any, table: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dl.trace(op, *calls, table=table)


SCHEMAS = [
    "f(Tensor x) -> Tensor",
    "f(Tensor[] xs, int dim) -> Tensor",
    "f(Tensor x, Tensor? y, *, int n, float a, bool b) -> Tensor",
    "f(Tensor x, int[] sizes, str mode='sum', ScalarType? dtype=None) -> Tensor",
    "f(Tensor x, Scalar s, *, Tensor(a!) out) -> Tensor(a!)",
    "f(int n) -> int",
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_calls_from_a_schema_fit_it_and_can_be_read(library: Any, schema: str) -> None:
    library.define(schema)
    op = getattr(torch.ops, library.ns).f.default
    texts = made_texts(op)
    assert len(texts) == len({*texts}) >= 2
    names = [argument.name for argument in op._schema.arguments]
    for call in map(parse_call, texts):
        assert len(call.args) + len(call.kwargs) <= len(names)
        assert {*call.kwargs} <= {*names}


def test_an_op_that_takes_an_object_has_no_call_from_its_schema(library: Any) -> None:
    library.define("f(Generator g) -> Tensor")
    assert made_texts(getattr(torch.ops, library.ns).f.default) == []
