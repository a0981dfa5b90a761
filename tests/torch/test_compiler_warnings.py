"""A recording reads the files of a program, and the program gets no warning from that which it does not have alone."""

from __future__ import annotations

import importlib.util
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from decomp_ledger import Ledger, record
from decomp_ledger.model.events import Exported
from decomp_ledger.pytorch.fingerprint.syntax import find_source, parse_file

LINEAR, SILU = torch.ops.aten.linear.default, torch.ops.aten.silu.default

# Python warns of each: of some when it parses, of others when it compiles. Its version decides that.
WARNED = [
    r'"\("',
    r'b"\d"',
    r'f"\w{x}"',
    "x is 1",
    '(x is not "a")',
    "1or x",
    "(1)(x)",
    '"a"[x, 1.5]',
    "[1][x, 2](3)",
]
COMPILERS = r"invalid|\"is|'.*' object is not|.* indices must be"

PROGRAM = """
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.silu(torch.nn.functional.linear(x, x))

def silu(x):
    return x * torch.sigmoid(x)

def unused(x):
    return {warned}

one, other = lambda x: x * torch.sigmoid(x) if True else {warned}, lambda x: x if {warned} else x
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], ModuleType]:
    """Import a file whose text Python warns of."""

    def loaded(warned: str) -> ModuleType:
        path = tmp_path / "warned.py"
        path.write_text(PROGRAM.format(warned=warned), encoding="utf-8")
        spec = importlib.util.spec_from_file_location("warned", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            spec.loader.exec_module(module)
        if not any(re.match(COMPILERS, str(each.message)) for each in found):
            pytest.skip("this Python does not warn of it")
        return module

    return loaded


def lower(module: ModuleType, override: Any) -> list[str]:
    """Lower a model; return the warnings of the compiler meanwhile."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        table = torch.export.default_decompositions()
        table[SILU] = override
        torch.export.export(module.Model(), (torch.ones(2, 2),)).run_decompositions(table)
    return [str(each.message) for each in found if re.match(COMPILERS, str(each.message))]


@pytest.mark.parametrize("name", ["silu", "one"])
@pytest.mark.parametrize("warned", WARNED)
def test_a_recording_adds_no_warning(warned: str, name: str, load: Callable[[str], ModuleType], ledger: Ledger) -> None:
    module = load(warned)
    with record(ledger):
        recorded = lower(module, getattr(module, name))
    assert recorded == lower(module, getattr(module, name)) == []


@pytest.mark.parametrize("warned", WARNED)
def test_a_warning_that_is_an_error_hides_nothing(
    warned: str, load: Callable[[str], ModuleType], ledger: Ledger
) -> None:
    module = load(warned)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", COMPILERS)
        with record(ledger):
            table = torch.export.default_decompositions()
            table[SILU] = module.one
            torch.export.export(module.Model(), (torch.ones(2, 2),)).run_decompositions(table)
        source = find_source(module.one)
    body = ledger.exports()[-1].body
    assert isinstance(body, Exported) and body.module is not None
    assert body.module.line == 4
    assert source is not None and ("torch", "sigmoid") in source.names


def test_warnings_of_the_program_are_shown_once_as_before() -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(3):
            warnings.warn("shown once", UserWarning, stacklevel=1)
            parse_file(r'"\("')
        kept = [*warnings.filters]
        parse_file("")
        assert warnings.filters == kept
    assert [str(each.message) for each in found] == ["shown once"]


def test_other_threads_keep_their_warnings() -> None:
    stop = threading.Event()

    def parse() -> None:
        while not stop.is_set():
            parse_file(r'"\("')

    threads = [threading.Thread(target=parse) for _ in range(2)]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        kept = [*warnings.filters]
        for thread in threads:
            thread.start()
        for number in range(300):
            warnings.warn(f"number {number}", UserWarning, stacklevel=1)
        stop.set()
        for thread in threads:
            thread.join()
        assert warnings.filters == kept
    assert [str(each.message) for each in found] == [f"number {number}" for number in range(300)]
