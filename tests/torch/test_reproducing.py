"""A .pt2 alone tells its table, which is made again exactly in another process, or each difference is named."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from torch.export import export

import decomp_ledger as dl
from decomp_ledger import Ledger, ReproductionError, reproduce
from decomp_ledger.model.events import Exported, Set
from decomp_ledger.model.rules import Decomposition
from decomp_ledger.pytorch.dispatcher import dispatcher
from decomp_ledger.pytorch.reproduced_table import rerun
from decomp_ledger.transfer.export_bundle import ExportBundle

OVERRIDES = """
import torch

def scaled(x):
    return x * 1.0

def silu(x):
    return scaled(x) * torch.sigmoid(x)

def gelu(x, approximate="none"):
    return x * torch.sigmoid(1.702 * x)

def relu(x):
    return torch.clamp_min(x, 0)

def softmax(x, dim, dtype=None):
    e = torch.exp(x - torch.amax(x, dim, True))
    return e / torch.sum(e, dim, True)

def linear(x, weight, bias=None):
    y = torch.matmul(x, torch.transpose(weight, 0, 1))
    return y if bias is None else y + bias
"""
_CHANGED = OVERRIDES.replace("1.702 * x", "1.7 * x")

_READ = """
import json, sys
import decomp_ledger as dl
found = {}
for path in sys.argv[1:]:
    bundle = dl.read_stamp(path).last
    reasons = {op: event.reason for op, event in bundle.blame().items()}
    found[path] = [bundle.snapshot.digest, sorted(bundle.state.rules), reasons]
assert "torch" not in sys.modules and not any("overrides" == name for name in sys.modules)
print(json.dumps(found))
"""

_REPRODUCE = """
import json, sys
import decomp_ledger as dl
found = {}
for path in sys.argv[1:]:
    try:
        table = dl.reproduce(path, trust=["overrides"])
    except dl.ReproductionError as error:
        found[path] = [difference.op for difference in error.differences]
        continue
    import torch
    from decomp_ledger.model.materialize import materialize
    from decomp_ledger.pytorch.dispatcher import dispatcher
    from decomp_ledger.pytorch.reproduced_table import rerun
    program = torch.export.load(path.replace("lowered", "program"))
    again = rerun(table, program)
    found[path] = [again.same, materialize(table.state, dispatcher.full().catalog).digest, len(table)]
print(json.dumps(found))
"""


def _python(code: str, folder: Path, *paths: str) -> Any:
    parent = Path(dl.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *paths],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(parent), str(folder)])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model, as exported and lowered with a table of its own, saved with a stamp; the ledger is thrown away."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "overrides.py").write_text(OVERRIDES, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, Ledger(":memory:", actor="ada") as ledger:
        patch.syspath_prepend(str(folder))
        import overrides

        for name in models.NAMES:
            table = ledger.table(name)
            table.preserve("aten::layer_norm", "mylib::later", reason=f"{name} has a kernel")
            table.update(
                {
                    "aten::silu": overrides.silu,
                    "aten::gelu": overrides.gelu,
                    "aten::relu": overrides.relu,
                    "aten::softmax.int": overrides.softmax,
                    "aten::linear": overrides.linear,
                }
            )
            program = models.exported(name)
            torch.export.save(program, folder / f"program_{name}.pt2")
            dl.save(program.run_decompositions(table), folder / f"lowered_{name}.pt2")
        patch.delitem(sys.modules, "overrides")
    return folder


@pytest.fixture(scope="module")
def stamped(folder: Path) -> list[str]:
    """The stamped files."""
    return [str(folder / f"lowered_{name}.pt2") for name in models.NAMES]


def test_a_file_alone_tells_its_table_without_torch_or_ledger(folder: Path, stamped: list[str]) -> None:
    read = _python(_READ, folder, *stamped)
    for name, path in zip(models.NAMES, stamped, strict=True):
        _, ops, reasons = read[path]
        assert {"aten::gelu", "aten::layer_norm", "aten::linear", "mylib::later"} < set(ops)
        assert reasons["aten::layer_norm"] == f"{name} has a kernel"


def test_another_process_makes_each_table_and_each_export_again(folder: Path, stamped: list[str]) -> None:
    read, made = _python(_READ, folder, *stamped), _python(_REPRODUCE, folder, *stamped)
    assert {path: [True, read[path][0]] for path in stamped} == {path: found[:2] for path, found in made.items()}


def test_a_changed_line_of_one_override_is_named_and_nothing_else(folder: Path, stamped: list[str]) -> None:
    (folder / "overrides.py").write_text(_CHANGED, encoding="utf-8")
    try:
        found = _python(_REPRODUCE, folder, *stamped)
    finally:
        (folder / "overrides.py").write_text(OVERRIDES, encoding="utf-8")
    assert found == {path: ["aten::gelu"] for path in stamped}


def test_a_changed_helper_is_named(folder: Path, stamped: list[str]) -> None:
    (folder / "overrides.py").write_text(OVERRIDES.replace("x * 1.0", "x * 2.0"), encoding="utf-8")
    try:
        found = _python(_REPRODUCE, folder, stamped[0])
    finally:
        (folder / "overrides.py").write_text(OVERRIDES, encoding="utf-8")
    assert found == {stamped[0]: ["aten::silu"]}


class Small(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.nn.functional.silu(torch.nn.functional.linear(x, x)).softmax(-1)


@pytest.fixture(scope="module")
def small() -> Any:
    return export(Small(), (torch.ones(3, 3),))


def _half(x: Any) -> Any:
    return x * 0.5


def test_a_ledger_makes_the_table_of_each_of_its_exports(small: Any, ledger: Ledger) -> None:
    table = ledger.table("edge")
    table.preserve("aten::linear")
    table["aten::silu"] = _half
    small.run_decompositions(table)
    before = dict(table)
    table.reset("aten::linear", "aten::silu")
    small.run_decompositions(table)
    first, second = (event.seq for event in ledger.exports())
    assert dict(ledger.reproduce(first)) == before
    assert ledger.reproduce(second).keys() - ledger.reproduce(first).keys() == {torch.ops.aten.linear.default}
    again = rerun(ledger.reproduce(first), small)
    assert again.same and again.digest == ledger.bundle(first).body.after
    with pytest.raises(dl.LedgerError, match="it lowered another program"):
        rerun(ledger.reproduce(first), again.program)


def test_a_table_made_again_cannot_be_changed_and_its_copy_can(small: Any, ledger: Ledger) -> None:
    table = ledger.table("edge")
    small.run_decompositions(table)
    (event,) = ledger.exports()
    table = ledger.reproduce(event.seq)
    with pytest.raises(dl.ReadOnlyTable):
        table.pop("aten::linear")
    copy = table.copy()
    copy.pop("aten::linear")
    assert table.keys() - copy.keys() == {torch.ops.aten.linear.default}


def test_ops_that_came_since_are_named_and_left_out(
    small: Any, ledger: Ledger, make_library: Callable[..., Any]
) -> None:
    table = ledger.table("edge")  # patches torch, so it comes before the method is looked up
    small.run_decompositions(table)
    (event,) = ledger.exports()
    exact = ledger.reproduce(event.seq)
    library = make_library()
    library.define("late(Tensor x) -> Tensor")
    library.impl("late", lambda x: x * 2, "CompositeImplicitAutograd")
    name = f"{library.ns}::late"
    with pytest.raises(ReproductionError, match=f"{name}: was not loaded then"):
        ledger.reproduce(event.seq)
    nearest = ledger.reproduce(event.seq, strict=False)
    assert [(difference.op, difference.kind) for difference in nearest.differences] == [(name, "new")]
    assert name not in nearest and name in ledger.table("edge")
    assert name not in exact and dict(exact) == dict(nearest)  # also of one that was made before


def test_an_op_that_is_gone_is_named(small: Any, ledger: Ledger, make_library: Callable[..., Any]) -> None:
    library = make_library()
    library.define("gone(Tensor x) -> Tensor")
    library.impl("gone", lambda x: x * 2, "CompositeImplicitAutograd")
    table = ledger.table("edge")
    small.run_decompositions(table)
    (event,) = ledger.exports()
    assert not ledger.reproduce(event.seq).differences
    library._destroy()
    nearest = ledger.reproduce(event.seq, strict=False)
    assert [(each.op, each.kind) for each in nearest.differences] == [(f"{library.ns}::gone", "gone")]


def test_a_decomposition_that_is_another_now_is_named(
    small: Any, ledger: Ledger, make_library: Callable[..., Any]
) -> None:
    library = make_library()
    library.define("moved(Tensor x) -> Tensor")
    library.impl("moved", lambda x: x.clone(), "CompositeExplicitAutograd")
    op = getattr(torch.ops, library.ns).moved.default
    cia = torch._C.DispatchKey.CompositeImplicitAutograd
    op.py_impl(cia)(lambda x: x * 2)
    table = ledger.table("edge")
    assert op in table
    small.run_decompositions(table)
    (event,) = ledger.exports()
    assert op in ledger.reproduce(event.seq)
    del op.py_kernels[cia]
    op.py_impl(cia)(lambda x: x * 3)
    nearest = ledger.reproduce(event.seq, strict=False)
    assert [(each.op, each.kind) for each in nearest.differences] == [(op.name(), "source")]


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("subprocess", "run"), ("builtins", "eval"), ("torch.hub", "load"), ("canary", "f")],
)
def test_what_is_not_trusted_is_named_and_not_run(
    module: str, name: str, small: Any, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "canary.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    log = ledger.table("edge")._log
    log.change(Set, lambda _: [("aten::silu", "override", Decomposition("import", module, name, "0" * 64))])
    catalog = dispatcher.full().catalog
    snapshot = log.materialize(catalog)
    event = log.exported(Exported(catalog.digest, snapshot.digest, None, None, {}, {}, {}, 0), log.version)
    bundle = ExportBundle.from_json(json.loads(json.dumps(ledger.bundle(event.seq).to_json())))
    with pytest.raises(ReproductionError, match=f"aten::silu: .*'{module}'") as raised:
        reproduce(bundle)
    assert [each.op for each in raised.value.differences] == ["aten::silu"]
    table = reproduce(bundle, strict=False)
    assert table["aten::silu"] is torch._decomp.decomposition_table[torch.ops.aten.silu.default]
    assert "canary" not in sys.modules


def test_what_has_no_name_is_supplied_or_named(small: Any, ledger: Ledger, tmp_path: Path) -> None:
    table = ledger.table("edge")
    table["aten::silu"] = lambda x: x * 0.25
    lowered = small.run_decompositions(table)
    dl.save(lowered, tmp_path / "m.pt2")
    with pytest.raises(ReproductionError, match=r"aten::silu: .*without an importable name"):
        reproduce(tmp_path / "m.pt2")
    with pytest.raises(ReproductionError, match="aten::silu"):
        reproduce(tmp_path / "m.pt2", provide={"aten::silu": lambda x: x * 0.75})
    table = reproduce(tmp_path / "m.pt2", provide={torch.ops.aten.silu.default: lambda x: x * 0.25})
    assert rerun(table, small).same
    nearest = reproduce(tmp_path / "m.pt2", strict=False)
    assert nearest["aten::silu"] is torch._decomp.decomposition_table[torch.ops.aten.silu.default]


def test_a_table_of_a_program_that_has_failed_is_made_again_too(small: Any, ledger: Ledger) -> None:
    table = ledger.table("edge")
    table["aten::silu"] = broken = lambda x: x.no_such_method()
    with pytest.raises(AttributeError):
        small.run_decompositions(table)
    (event,) = ledger.exports()
    assert ledger.reproduce(event.seq)["aten::silu"] is broken


@pytest.mark.parametrize("base", ["torch", "empty"])
def test_a_table_made_again_is_recorded_within_a_recording(base: str, small: Any, ledger: Ledger) -> None:
    table = ledger.table("edge", base=base)
    table.preserve("aten::linear")
    small.run_decompositions(table)
    first = ledger.exports()[0]
    with dl.record(ledger, name="again"):
        small.run_decompositions(ledger.reproduce(first.seq))
    *_, event = ledger.exports()
    assert event.table == "again/test_a_table_made_again_is_recorded_within_a_recording/1"
    assert isinstance(event.body, Exported) and event.body.stale == ()
    assert ledger.bundle(event.seq).snapshot.digest == ledger.bundle(first.seq).snapshot.digest
    assert ledger.bundle(event.seq).body.after == ledger.bundle(first.seq).body.after


def test_the_program_of_a_failed_export_is_refused_with_one_error(tmp_path: Path) -> None:
    class Linear(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.nn.functional.linear(x, x)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no\nkernel")

    program = torch.export.export(Linear(), (torch.ones(3, 3),))
    torch.export.save(program, tmp_path / "program.pt2")
    with dl.Ledger(tmp_path / "l.db") as ledger:
        table = ledger.table("edge")
        table["aten::linear"] = broken
        with pytest.raises(RuntimeError):
            program.run_decompositions(table)
        (failed,) = ledger.exports()
        with pytest.raises(
            dl.LedgerError, match=r"^export:\d+: the export failed \(RuntimeError\), so it left no graph"
        ):
            ledger.reproduce_export(failed.seq, program=tmp_path / "program.pt2", nearest=True)
