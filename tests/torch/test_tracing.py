"""All tracing: what torch traces outside of exports is recorded, once for each caller and table, and stays the same."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import aot_function, make_boxed_func
from torch._inductor.decomposition import decompositions as inductor_table
from torch.export import ExportedProgram, default_decompositions
from torch.fx.experimental import proxy_tensor

import decomp_ledger
from decomp_ledger import Ledger, read_stamp, record
from decomp_ledger.model.events import Event, Lowered, Saved, Traced

aten = torch.ops.aten


def squared(x: torch.Tensor) -> torch.Tensor:
    """Be a decomposition that is not a default."""
    return x * x


def function(x: torch.Tensor) -> torch.Tensor:
    """Use an op that torch decomposes in Python, twice."""
    return torch.nn.functional.silu(torch.nn.functional.silu(x)).sum()


def branching(x: torch.Tensor) -> Any:
    """Use an op within a branch."""
    return torch.cond(x.sum() > 0, lambda x: torch.nn.functional.silu(x), lambda x: x.cos(), (x,))


def traced(table: Any, made_of: Callable[..., Any] = function, **options: Any) -> str:
    """Return the graph that make_fx gives."""
    return str(proxy_tensor.make_fx(made_of, decomposition_table=table, **options)(torch.ones(2, 3)).code)


def with_autograd(table: Any) -> list[str]:
    """Return the graphs of AOTAutograd, and what they compute."""
    seen: list[str] = []

    def keep(graph: Any, inputs: Any) -> Any:
        seen.append(graph.code)
        return make_boxed_func(graph.forward)

    compiled = aot_function(function, fw_compiler=keep, decompositions=table)
    return _trained(compiled, seen)


def compiled(table: Any) -> list[str]:
    """Return the graphs of torch.compile, and what they compute."""
    torch._dynamo.reset()
    seen: list[str] = []

    def keep(graph: Any, inputs: Any) -> Any:
        seen.append(graph.code)
        return make_boxed_func(graph.forward)

    return _trained(torch.compile(function, backend=aot_autograd(fw_compiler=keep, decompositions=table)), seen)


def _trained(call: Any, seen: list[str]) -> list[str]:
    x = torch.ones(2, 3, requires_grad=True)
    call(x).backward()
    return [*seen, str(x.grad)]


PROGRAMS: dict[str, Callable[[], Any]] = {
    "make_fx": lambda: traced(get_decompositions([aten.silu])),
    "make_fx without a table": lambda: traced(None),
    "make_fx with fakes": lambda: traced(core_aten_decompositions(), tracing_mode="fake"),
    "make_fx with symbols": lambda: traced({aten.silu.default: squared}, tracing_mode="symbolic"),
    "make_fx before dispatch": lambda: traced({aten.silu.default: squared}, pre_dispatch=True),
    "make_fx with odd entries": lambda: traced({aten.silu.default: squared, 5: None, aten.relu: squared}),
    "make_fx within make_fx": lambda: traced(None, lambda x: proxy_tensor.make_fx(function)(x)(x)),
    "a branch": lambda: traced({aten.silu.default: squared}, branching),
    "make_fx that declines": lambda: traced({aten.silu.default: lambda x: NotImplemented}),
    "AOTAutograd": lambda: with_autograd(get_decompositions([aten.silu, aten.silu_backward])),
    "torch.compile": lambda: compiled(inductor_table),
    "an export": lambda: str(torch.export.export(Model(), (torch.ones(2, 3),)).run_decompositions().graph),
}


class Model(torch.nn.Module):
    """Uses ops that torch decomposes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(torch.nn.functional.linear(x, x))


def tracings(ledger: Ledger) -> list[Traced]:
    """Return what was traced outside of exports."""
    return [event.body for event in ledger.events(kind="traced") if isinstance(event.body, Traced)]


def lowerings(ledger: Ledger) -> list[tuple[Event, Lowered]]:
    """Return the exports whose results were lowered again."""
    return [(event, event.body) for event in ledger.events(kind="lowered") if isinstance(event.body, Lowered)]


@pytest.mark.filterwarnings("error::decomp_ledger.errors.RecordingWarning")
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_does_the_same_when_all_tracing_is_recorded(program: Callable[[], Any], ledger: Ledger) -> None:
    expected = program()
    with record(ledger, name="job", all_tracing=True, on_error="raise"):
        actual = program()
    assert actual == expected
    assert tracings(ledger)
    assert ledger.verify().ok


_AFTERWARDS = """
import decomp_ledger as dl
from torch.fx.experimental import proxy_tensor

before = proxy_tensor._MakefxTracer._trace_inner, proxy_tensor.decompose
with dl.record(dl.Ledger(":memory:"), all_tracing=True):
    assert proxy_tensor._MakefxTracer._trace_inner is not before[0]
assert (proxy_tensor._MakefxTracer._trace_inner, proxy_tensor.decompose) == before
"""


def test_torch_is_as_it_was_afterwards() -> None:
    # In a process of its own, because a named table of another test leaves the patches.
    root = Path(decomp_ledger.__file__).parents[1]
    subprocess.run([sys.executable, "-c", _AFTERWARDS], cwd=root, check=True)


def test_all_traces_of_a_line_with_a_table_are_one_event(ledger: Ledger) -> None:
    with record(ledger, name="job", all_tracing=True):
        for _ in range(3):
            traced({aten.silu.default: squared})
        traced({aten.silu.default: squared, aten.relu.default: squared})
        assert tracings(ledger) == []
    first, second = tracings(ledger)
    assert (first.by, first.traces, first.fired) == ("make_fx", 3, {"aten::silu": 6})
    assert (first.entries, first.base, first.added) == (1, "empty", ("aten::silu",))
    assert (second.traces, second.entries) == (1, 2)
    site = next(ledger.events(kind="traced")).call_site
    assert site is not None
    assert (Path(site.file).name, site.function) == ("test_tracing.py", "traced")


def without_linear() -> Any:
    """Return torch's default table without one op."""
    table = default_decompositions()
    table.pop(aten.linear.default)
    return table


NEAREST: dict[str, tuple[Callable[[], Any], tuple[Any, ...]]] = {
    "none": (lambda: None, ("empty", (), (), ())),
    "core_aten": (core_aten_decompositions, ("torch.export", (), (), ())),
    "one less": (without_linear, ("torch.export", (), (), ("aten::linear",))),
    "Inductor's": (lambda: {**inductor_table, aten.topk.default: squared}, ("inductor", ("aten::topk",), (), ())),
    "replaced": (lambda: {**inductor_table, aten.silu.default: squared}, ("inductor", (), ("aten::silu",), ())),
    "the registry": (
        lambda: dict(torch._decomp.global_decomposition_table["post_autograd"]),
        ("registry", (), (), ()),
    ),
}


@pytest.mark.parametrize(("make", "expected"), NEAREST.values(), ids=NEAREST)
def test_a_table_has_the_nearest_one_that_torch_has_as_its_base(
    make: Callable[[], Any], expected: tuple[Any, ...], ledger: Ledger
) -> None:
    with record(ledger, all_tracing=True):
        traced(make(), tracing_mode="fake")
    (body,) = tracings(ledger)
    assert (body.base, body.added, body.replaced, body.removed) == expected


def test_a_table_of_a_trace_can_be_made_again(ledger: Ledger) -> None:
    with record(ledger, name="job", all_tracing=True):
        traced({aten.silu.default: squared})
    (event,) = ledger.events(kind="traced")
    again = ledger.table(event.table)
    assert dict(again) == {aten.silu.default: squared}


def test_the_traces_of_an_export_are_not_counted_twice(ledger: Ledger) -> None:
    program = torch.export.export(Model(), (torch.ones(2, 3),))
    with record(ledger, all_tracing=True):
        program.run_decompositions()
    assert tracings(ledger) == []
    assert len(list(ledger.exports())) == 1


def test_nothing_is_recorded_of_traces_unless_it_is_asked_for(ledger: Ledger) -> None:
    with record(ledger):
        traced({aten.silu.default: squared})
    assert list(ledger.events()) == []


def test_a_compiled_export_is_noted_once(ledger: Ledger) -> None:
    torch._dynamo.reset()
    with record(ledger, name="job"):
        lowered = torch.export.export(Model(), (torch.ones(2, 3),)).run_decompositions({})
        call = torch.compile(lowered.module(), backend=aot_autograd(fw_compiler=lambda g, i: g, decompositions={}))
        other = torch.compile(function, backend="aot_eager")
        for _ in range(2):
            call(torch.ones(2, 3))
            other(torch.ones(2, 3))
            torch._dynamo.reset()
    ((event, body),) = lowerings(ledger)
    (export,) = ledger.exports()
    assert (event.table, event.version) == (export.table, export.version)
    assert (body.by, body.entries, body.export) == ("torch.compile", 0, export.seq)
    assert body.program == export.body.after  # type: ignore[attr-defined]


def test_no_ledger_is_made_for_a_program_of_another(ledger: Ledger, tmp_path: Path) -> None:
    torch._dynamo.reset()
    with record(ledger, name="job"):
        lowered = torch.export.export(Model(), (torch.ones(2, 3),)).run_decompositions({})
    with record(tmp_path / "other.db", name="job"):
        torch.compile(lowered.module(), backend="aot_eager")(torch.ones(2, 3))
    assert not (tmp_path / "other.db").exists() and lowerings(ledger) == []


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a compiler")
def test_a_program_that_AOTInductor_packages_is_noted(ledger: Ledger, tmp_path: Path) -> None:
    def packaged() -> ExportedProgram:
        program = torch.export.export(Model(), (torch.ones(2, 3),)).run_decompositions()
        torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        return program

    with record(ledger, name="job", all_tracing=True):
        packaged()
    loaded = torch._inductor.aoti_load_package(str(tmp_path / "model.pt2"))
    assert torch.allclose(loaded(torch.ones(2, 3)), Model()(torch.ones(2, 3)))
    ((event, body),) = lowerings(ledger)
    (export,) = ledger.exports()
    assert (event.table, body.by, body.export) == (export.table, "AOTInductor", export.seq)
    assert body.entries > 900
    assert {each.base for each in tracings(ledger) if each.by == "AOTInductor"} >= {"inductor"}
    assert read_stamp(tmp_path / "model.pt2").last.event.seq == export.seq
    (saved,) = (event.body for event in ledger.events() if isinstance(event.body, Saved))
    digest = hashlib.sha256((tmp_path / "model.pt2").read_bytes()).hexdigest()
    assert (saved.export, saved.format, saved.stamped, saved.sha256) == (export.seq, "aoti", True, digest)


def test_a_recording_that_is_entered_again_goes_on_counting(ledger: Ledger) -> None:
    recording = record(ledger, name="job", all_tracing=True)
    for _ in range(2):
        with recording:
            traced({aten.silu.default: squared})
    assert [body.traces for body in tracings(ledger)] == [1, 1]


def test_a_recording_of_traces_is_freed_when_it_was_left(ledger: Ledger) -> None:
    recording = record(ledger, name="job", all_tracing=True)
    with recording:
        traced({aten.silu.default: squared})
    left = weakref.ref(recording)
    del recording
    gc.collect()
    assert left() is None


FORKING = """
import os
import torch
from torch.fx.experimental.proxy_tensor import make_fx
import decomp_ledger
from decomp_ledger import Ledger, record

def function(x):
    return torch.nn.functional.silu(x)

def traced(times):
    for _ in range(times):
        make_fx(function, decomposition_table=table)(torch.ones(2))

table = {torch.ops.aten.silu.default: lambda x: x * x}
ledger = Ledger("forked.db")
with record(ledger, name="job", all_tracing=True):
    traced(1)
    child = os.fork()
    traced(4 if child else 2)
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
print(sorted(event.body.traces for event in ledger.events(kind="traced")))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX can fork")
def test_a_forked_process_counts_its_own_traces_only(run_python: Callable[..., str]) -> None:
    assert run_python(FORKING) == "[2, 5]\n"  # 1 before the fork and 4 after it


@pytest.mark.parametrize("how", ["os._exit(3)", "fork"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX can fork")
def test_a_process_that_ends_at_once_keeps_its_traces(how: str, run_python: Callable[..., str]) -> None:
    end = "os._exit(3)" if how != "fork" else "os.fork() or traced(2) or os._exit(3)"
    setup, _, _ = FORKING.partition("with record(")
    child = f"{setup}record(ledger, name='job', all_tracing=True).__enter__()\ntraced(2)\n{end}\nos.wait()"
    script = f"""
import subprocess, sys
from decomp_ledger import Ledger
status = subprocess.run([sys.executable, "-c", {child!r}]).returncode
counts = [event.body.traces for event in Ledger("forked.db").events(kind="traced")]
print(status, counts)
"""
    assert run_python(script) == ("3 [2]\n" if how != "fork" else "0 [2]\n")
