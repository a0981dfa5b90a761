"""Fixtures that several test modules share. Torch is imported by those that need it, when they are asked for."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import decomp_ledger
from decomp_ledger import Ledger

if TYPE_CHECKING:
    from torch.library import Library

SUPPORT = Path(__file__).parent / "support"
_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Let interrupts arrive also where the suite runs in the background of a shell, which makes it ignore them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep settings of the machine out of the tests."""
    for name in [name for name in os.environ if name.startswith("DECOMP_LEDGER")]:
        monkeypatch.delenv(name)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A new ledger in a file of its own, whose actor is `tester`."""
    with Ledger(tmp_path / "ledger.db", actor="tester") as opened:
        yield opened


@pytest.fixture
def make_library() -> Iterator[Callable[..., Library]]:
    """Make torch libraries, in a new namespace unless one is given, all destroyed at the end."""
    from torch.library import Library

    made = []

    def make(namespace: str | None = None, kind: str = "FRAGMENT") -> Library:
        made.append(Library(namespace or f"throwaway{next(_numbers)}", kind))
        return made[-1]

    yield make
    for library in made:
        if library.m is not None:
            library._destroy()


@pytest.fixture
def library(make_library: Callable[..., Library]) -> Library:
    """An empty torch library in a namespace that no other test has, destroyed at the end."""
    return make_library()


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """Run a program in a Python of its own, in a folder of the test; return what it prints."""

    def run(code: str, *args: str, status: int = 0, **environment: str) -> str:
        folders = (Path(decomp_ledger.__file__).parent.parent, SUPPORT, os.environ.get("PYTHONPATH"))
        paths = os.pathsep.join(str(folder) for folder in folders if folder)
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout

    return run
