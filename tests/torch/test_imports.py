"""What libraries register with torch, and what that changes in torch's default table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from dispatcher_changes import build_late_ops, compiler_is_here
from torch.library import Library

import decomp_ledger as dl
from decomp_ledger import ImportReport, LedgerError

CIA = "CompositeImplicitAutograd"


@pytest.fixture
def restored() -> Iterator[None]:
    """Put torch's registry of decompositions back at the end."""
    table = torch._decomp.decomposition_table
    before = dict(table)
    yield
    table.clear()
    table.update(before)


def default_table() -> set[str]:
    """Return the ops of torch's own default table, as torch gives it."""
    collect = torch._export.utils._collect_all_valid_cia_ops_for_aten_namespace
    collect.cache_clear()
    return {op.name() for op in torch.export.default_decompositions()}


def seen(report: ImportReport) -> list[tuple[str, str, str]]:
    """Return what, op without its namespace, and key, of everything that this file registered."""
    found = [each for library in report.libraries for each in library.registrations if "test_imports" in each.file]
    return [(each.what, each.op.partition("::")[2], each.key) for each in found]


def identity(x: Any) -> Any:
    return x


def custom_op(library: Library) -> None:
    @torch.library.custom_op(f"{library.ns}::g", mutates_args=())
    def g(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @g.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)


def live(library: Library) -> Any:
    return getattr(torch.ops, library.ns).f.default


# What a library does once it has `f` -> what is seen.
WAYS: dict[str, tuple[Callable[[Library], object], list[tuple[str, str, str]]]] = {
    "define": (lambda lib: lib.define("h.out(Tensor x) -> Tensor"), [("op", "h.out", "")]),
    "define by keyword": (lambda lib: lib.define(schema="h(Tensor x) -> Tensor"), [("op", "h", "")]),
    "impl": (lambda lib: lib.impl("f", identity, CIA), [("kernel", "f", CIA)]),
    "impl without a key": (lambda lib: lib.impl("f", identity), [("kernel", "f", CIA)]),
    "impl by keyword": (lambda lib: lib.impl(dispatch_key="CPU", fn=identity, op_name="f"), [("kernel", "f", "CPU")]),
    "impl of an overload": (lambda lib: lib.impl(live(lib), identity, "CPU"), [("kernel", "f", "CPU")]),
    "torch.library.impl": (
        lambda lib: torch.library.impl(f"{lib.ns}::f", "cpu", lib=lib)(identity),
        [("kernel", "f", "CPU")],
    ),
    "a fake kernel": (
        lambda lib: torch.library.register_fake(f"{lib.ns}::f", identity, lib=lib),
        [("kernel", "f", "Meta"), ("fake kernel", "f", "")],
    ),
    "py_impl": (lambda lib: live(lib).py_impl(torch._C.DispatchKey.CPU)(identity), [("kernel", "f", "CPU")]),
    "py_impl of a CIA kernel": (
        lambda lib: live(lib).py_impl(torch._C.DispatchKey.CompositeImplicitAutograd)(identity),
        [("kernel", "f", CIA)],
    ),
    "a decomposition": (
        lambda lib: torch._decomp.register_decomposition(live(lib))(identity),
        [("decomposition", "f", "post_autograd")],
    ),
    "a decomposition of a family": (
        lambda lib: torch._decomp.register_decomposition(live(lib).overloadpacket, type="meta")(identity),
        [("decomposition", "f", "meta")],
    ),
    "a table of its own": (lambda lib: torch._decomp.register_decomposition(live(lib), {})(identity), []),
    "destroyed": (lambda lib: lib._destroy(), [("destroyed op", "f", "")]),
    "nothing": (lambda lib: live(lib), []),
}


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_register_is_seen(way: str, library: Library) -> None:
    act, expected = WAYS[way]
    library.define("f(Tensor x) -> Tensor")
    live(library)
    before = default_table()
    with dl.record_imports() as recording:
        act(library)
    report = recording.report
    assert report is not None and report.missed == ()
    found = seen(report)
    assert set(expected) <= set(found) and len(found) == len(expected), found
    changes = [*report.others, *(change for each in report.libraries for change in each.changes)]
    after = default_table()
    assert {each.op for each in changes if each.change == "added"} == after - before
    assert {each.op for each in changes if each.change == "removed"} == before - after
    assert report.size == (len(before), len(after))


def test_a_custom_op_is_seen(library: Library) -> None:
    with dl.record_imports() as recording:
        custom_op(library)
    assert recording.report is not None
    assert {("op", "g", ""), ("fake kernel", "g", ""), ("kernel", "g", "Autograd")} <= set(seen(recording.report))
    torch._library.custom_ops.OPDEFS.pop(f"{library.ns}::g")._lib._destroy()


def test_torch_is_as_before_and_the_errors_of_a_program_are_its_own(library: Library) -> None:
    def look() -> list[object]:
        owners = (Library, torch._ops.OperatorBase, type(torch.ops), torch._library.fake_impl.FakeImplHolder)
        return [list(vars(owner).items()) for owner in owners] + [torch._decomp._add_op_to_registry]

    before = look()
    with dl.record_imports() as recording:
        with pytest.raises(RuntimeError, match="only the operator name was given"):
            library.define("nonsense")
        with pytest.raises(TypeError):
            library.impl()
    assert look() == before
    assert recording.report is not None and seen(recording.report) == []
    with pytest.raises(LedgerError, match="make another one"), recording:
        pass


def kernel_at(library: Library, place: str) -> str:
    """Return how an answer names a kernel in Python; torch 2.6 keeps no file of its library."""
    library.define("probe() -> ()")
    if "/dev/null" in torch._C._dispatch_dump(f"{library.ns}::probe"):
        return "its CompositeImplicitAutograd kernel"
    return f"its Python CompositeImplicitAutograd kernel, registered by the library at {place}"


@pytest.mark.usefixtures("restored")
def test_a_change_is_given_to_the_library_that_registered_it(library: Library) -> None:
    silu, table = torch.ops.aten.silu.default, torch._decomp.decomposition_table
    library.define("f(Tensor x) -> Tensor")
    with dl.record_imports() as recording:
        library.impl("f", identity, CIA)
        table[silu] = identity  # a write that nothing announces
    report = recording.report
    assert report is not None
    (mine,) = [each for each in report.libraries if "test_imports" in each.library]
    assert [(each.op, each.change) for each in mine.changes] == [(f"{library.ns}::f", "added")]
    assert mine.changes[0].after.startswith(kernel_at(library, ""))
    assert [(each.op, each.change) for each in report.others] == [("aten::silu", "replaced")]
    assert report.others[0].after.endswith("test_imports.identity)")


LIBRARY = """
import torch
lib = torch.library.Library("NAME", "FRAGMENT")
lib.define("f(Tensor x) -> Tensor")
@torch.library.impl(lib, "f", "CompositeImplicitAutograd")
def f(x):
    return x.relu()
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script under `decomp-ledger imports`, in a folder with two libraries."""
    for name in ("one_ops", "two_ops"):
        (tmp_path / f"{name}.py").write_text(LIBRARY.replace("NAME", name))

    def run(script: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "script.py").write_text(script)
        command = [sys.executable, "-m", "decomp_ledger", "imports", *options, "script.py", "--json"]
        root = str(Path(dl.__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": root, **variables}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_command_names_each_library_and_line(run: Any, library: Library, tmp_path: Path) -> None:
    script = "import sys\nimport one_ops\nprint('argv', sys.argv)\n\nimport two_ops\nsys.exit(3)\n"
    done = run(script)
    assert done.returncode == 3 and done.stderr == ""
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "argv ['script.py', '--json']" in lines
    assert "one_ops.py, imported at script.py:2: 1 op, 1 kernel" in lines
    assert "op two_ops::f two_ops.py:4 in <module>" in lines
    line = 5 if sys.version_info >= (3, 11) else 6  # of a decorator
    assert f"kernel two_ops::f CompositeImplicitAutograd two_ops.py:{line} in <module>" in lines
    assert f"default table: added two_ops::f: {kernel_at(library, 'two_ops.py:3')}" in lines
    failed = run("import one_ops\n1 / 0\n", "-o", "report.json")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert 'script.py", line 2, in <module>\n' in failed.stderr and "decomp_ledger" not in failed.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(each["library"], each["imported_at"]) for each in report["libraries"]] == [("one_ops.py", "script.py:1")]
    assert run("print('a')").stdout.splitlines()[-1] == "nothing was registered with torch"


@pytest.mark.parametrize("ending", ["", "1 / 0", "raise SystemExit(4)"])
def test_a_report_that_cannot_be_written_is_one_line(run: Any, ending: str) -> None:
    done = run(f"import one_ops\n{ending}\n", "-o", "missing/report.json")
    *others, line = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("decomp-ledger: ") and "missing" in line
    assert not any("decomp_ledger" in each for each in others)


def test_an_interrupted_program_dies_of_the_signal_after_its_report(run: Any) -> None:
    done = run("import one_ops, os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n")
    assert done.returncode == -signal.SIGINT
    assert "one_ops.py, imported at script.py:1" in done.stdout


@pytest.mark.skipif(not compiler_is_here(), reason="no C++ compiler")
def test_a_library_in_cpp_is_seen(run: Any, tmp_path: Path) -> None:
    built = build_late_ops(tmp_path)
    script = f"import torch\nimport one_ops\ntorch.ops.load_library({str(built)!r})\n"
    done = run(script, "-o", "report.json", LATE_OPS_NAMESPACE="cpp_ops")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert [each["library"] for each in report["libraries"]] == ["one_ops.py", "late_ops.so"]
    cpp = report["libraries"][1]
    assert cpp["imported_at"] == "script.py:3"
    assert {(each["what"], each["op"]) for each in cpp["registrations"]} >= {("op", "cpp_ops::at_load")}
    assert all("late_ops.cpp" in each["file"] and each["line"] > 0 for each in cpp["registrations"])
    assert [(each["op"], each["change"]) for each in cpp["changes"]] == [("cpp_ops::at_load", "added")]
    assert report["others"] == report["missed"] == []
