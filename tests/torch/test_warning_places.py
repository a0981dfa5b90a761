"""A warning of torch, or of a decomposition, names the same line plain and recorded, whatever its `stacklevel`.

Each function that a recording stands in front of is replaced by one that warns with every `stacklevel`. So is a
decomposition. The lines that the warnings name are those of torch and of the program, and the same ones.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.export import CustomDecompTable, ExportedProgram, default_decompositions, exported_program
from torch.fx.experimental import proxy_tensor
from torch.fx.passes.infra import pass_base
from torch.library import Library

import decomp_ledger
from decomp_ledger import Ledger, RecordingWarning, record
from decomp_ledger.pytorch.imports import ImportRecording

LEVELS = range(1, 80)
SILU, LINEAR = torch.ops.aten.silu.default, torch.ops.aten.linear.default
Places = list[tuple[str, int]]


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x: torch.nn.functional.silu(x), lambda x: x.cos(), (x,))


class NoPass(pass_base.PassBase):
    def call(self, graph_module: torch.fx.GraphModule) -> pass_base.PassResult:
        return pass_base.PassResult(graph_module, False)


X = (torch.ones(2, 3),)


@pytest.fixture(scope="module")
def exported() -> ExportedProgram:
    return torch.export.export(Model(), X)


def places() -> Places:
    """Return the lines that a warning of the caller names, one for each `stacklevel`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for level in LEVELS:
            warnings.warn(f"of {level}", UserWarning, stacklevel=level + 1)
    # The code of a graph has a number in its name.
    return [(re.sub(r"<eval_with_key>.*", "a graph", each.filename), each.lineno) for each in caught]


def seen_by(program: Callable[[], Any], seen: list[Places], recording: Any) -> list[Places]:
    """Return what a program appends to a list."""
    with recording:
        program()
    found = seen[:]
    seen.clear()
    return found


def check(program: Callable[[], Any], seen: list[Places], recording: Any) -> None:
    # On one line, because the warnings name it, too.
    plain, recorded = [seen_by(program, seen, each) for each in (contextlib.nullcontext(), recording)]
    assert plain
    assert plain == recorded
    ours = str(Path(decomp_ledger.__file__).parent)
    assert not [file for each in recorded for file, _ in each if file.startswith(ours)]


def saved(program: ExportedProgram) -> io.BytesIO:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return file


def traced(program: ExportedProgram, table: Any) -> Any:
    return proxy_tensor.make_fx(Model(), decomposition_table=dict(table))(*X)


# What is patched, and what calls it.
PATCHED: dict[str, tuple[Any, str, Callable[[ExportedProgram], Any]]] = {
    "the making of a table": (CustomDecompTable, "__init__", lambda _: CustomDecompTable()),
    "a set item": (CustomDecompTable, "__setitem__", lambda _: default_decompositions().__setitem__(SILU, None)),
    "update": (CustomDecompTable, "update", lambda _: default_decompositions().update({SILU: len})),
    "pop": (CustomDecompTable, "pop", lambda _: default_decompositions().pop(LINEAR)),
    "copy": (CustomDecompTable, "copy", lambda _: default_decompositions().copy()),
    "materialize": (CustomDecompTable, "materialize", lambda _: default_decompositions().materialize()),
    "an export": (ExportedProgram, "run_decompositions", lambda p: p.run_decompositions()),
    "an export with a table": (
        ExportedProgram,
        "run_decompositions",
        lambda p: p.run_decompositions(default_decompositions()),
    ),
    "the lowering": (exported_program, "_decompose_exported_program", lambda p: p.run_decompositions({})),
    "an update of a program": (
        ExportedProgram,
        "_update",
        lambda p: p._update(p.graph_module, p.graph_signature),
    ),
    "save": (torch.export, "save", saved),
    "load": (torch.export, "load", lambda p: torch.export.load(saved(p))),
    "a trace": (proxy_tensor._MakefxTracer, "_trace_inner", lambda p: traced(p, {})),
    "a trace with a table": (
        proxy_tensor._MakefxTracer,
        "_trace_inner",
        lambda p: traced(p, core_aten_decompositions()),
    ),
    "a table of a part of a trace": (proxy_tensor, "decompose", lambda _: proxy_tensor.decompose({})),
    "a pass": (pass_base.PassBase, "__call__", lambda p: NoPass()(p.graph_module)),
}


@pytest.mark.parametrize("what", PATCHED)
def test_a_warning_of_a_patched_function_names_the_same_line(
    what: str, exported: ExportedProgram, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, program = PATCHED[what]
    original, seen = vars(owner)[name], []

    def warning(*args: Any, **kwargs: Any) -> Any:
        seen.append(places())
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, warning)
    check(lambda: program(exported), seen, record(ledger, all_tracing=True))


def changed(noisy: Any) -> Any:
    table = default_decompositions()
    table[SILU] = noisy
    return table


# What calls a decomposition.
DECOMPOSED: dict[str, Callable[[ExportedProgram, Any], Any]] = {
    "an export with a table": lambda p, noisy: p.run_decompositions(changed(noisy)),
    "an export with a dict": lambda p, noisy: p.run_decompositions({SILU: noisy}),
    "the lowering": lambda p, noisy: exported_program.ExportedProgram.run_decompositions(p, {SILU: noisy}),
    "make_fx": lambda p, noisy: traced(p, {SILU: noisy}),
    "make_fx with more": lambda p, noisy: traced(p, {**get_decompositions([LINEAR]), SILU: noisy}),
}


@pytest.mark.parametrize("all_tracing", [False, True])
@pytest.mark.parametrize("how", DECOMPOSED)
def test_a_warning_of_a_decomposition_names_the_same_line(
    how: str, all_tracing: bool, exported: ExportedProgram, ledger: Ledger
) -> None:
    seen: list[Places] = []

    def noisy(x: torch.Tensor) -> torch.Tensor:
        seen.append(places())
        return x * torch.sigmoid(x)

    check(lambda: DECOMPOSED[how](exported, noisy), seen, record(ledger, all_tracing=all_tracing))


@pytest.fixture
def library() -> Iterator[Library]:
    library = Library("warningplaces", "FRAGMENT")
    yield library
    library._destroy()


def test_a_warning_of_a_registration_names_the_same_line(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = Library.define, []

    def warning(*args: Any, **kwargs: Any) -> Any:
        seen.append(places())
        return original(*args, **kwargs)

    monkeypatch.setattr(Library, "define", warning)
    numbers = iter("ab")
    check(lambda: library.define(f"{next(numbers)}(Tensor x) -> Tensor"), seen, ImportRecording())


# What starts a process, and what calls it.
STARTED: dict[str, tuple[Any, str, Callable[[], Any]]] = {
    "subprocess": (subprocess.Popen, "_execute_child", lambda: subprocess.Popen(["true"]).wait()),
    "subprocess.run": (subprocess.Popen, "_execute_child", lambda: subprocess.run(["true"], check=True)),
    "execv": (os, "execv", lambda: os.execv("true", ["true"])),
    "execlp": (os, "execv", lambda: os.execlp("/bin/true", "true")),
    "execve": (os, "execve", lambda: os.execve("true", ["true"], {})),
    "posix_spawn": (os, "posix_spawn", lambda: os.posix_spawn("true", ["true"], {})),
    "posix_spawnp": (os, "posix_spawnp", lambda: os.posix_spawnp("true", ["true"], {})),
}


@pytest.mark.parametrize("what", STARTED)
def test_a_warning_of_the_start_of_a_process_names_the_same_line(
    what: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, program = STARTED[what]
    original, seen = vars(owner)[name], []

    def warning(*args: Any, **kwargs: Any) -> Any:
        seen.append(places())
        return original(*args, **kwargs) if owner is subprocess.Popen else None

    monkeypatch.setattr(owner, name, warning)
    check(program, seen, record(ledger, children=True))


def test_a_warning_of_a_recording_names_the_line_of_the_program(exported: ExportedProgram, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with warnings.catch_warnings(record=True) as caught, record(tmp_path / "folder"):
        warnings.simplefilter("always")
        exported.run_decompositions(default_decompositions())
    (place,) = [each.filename for each in caught if each.category is RecordingWarning]
    assert place == __file__
