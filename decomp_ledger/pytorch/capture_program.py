"""Build the standalone capture program, and run it in another interpreter. This file imports no torch."""

import json
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from decomp_ledger.errors import UnsupportedTorch

_PACKAGE = Path(__file__).parent.parent
# The program is these files, one after another.
_FINGERPRINT = ("fingerprint/syntax.py", "fingerprint/functions.py", "fingerprint/source_digest.py")
_SAMPLES = ("errors.py", "model/samples.py")
_TORCH = ("internals.py", "sample_values.py", "trace_lines.py", "traces.py", "capture.py")
_IMPORT_OF_OURS = re.compile(r"^from decomp_ledger\.[\w.]+ import (\([^)]*\)|[^(\n]+)\n", re.MULTILINE)
_FUTURE = "from __future__ import annotations\n"
# Whatever torch prints goes to standard error, so that standard output has the answer alone.
_BEFORE_TORCH = """import os

_answer = os.dup(1)
os.dup2(2, 1)
"""
# Each line of the answer is a JSON value: [done, count] while ops are traced, at last the catalog.
_ANSWER = """
with os.fdopen(_answer, "w", encoding="utf-8") as answer:

    def _progress(done, count):
        print(json.dumps([done, count]), file=answer, flush=True)

    print(json.dumps(capture(_SAMPLE_CALLS, _progress)), file=answer)
"""

Progress = Callable[[int, int], object]


def capture_program(samples: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return the text of the capture program, which needs only torch and prints a catalog as JSON.

    Args:
        samples: op name -> sample calls on which it traces; None for a catalog without traces.
    """
    parts = (
        _FUTURE,
        _joined("pytorch", _FINGERPRINT),
        _BEFORE_TORCH,
        _joined("", _SAMPLES),
        _joined("pytorch", _TORCH),
    )
    given = "None" if samples is None else f"json.loads({json.dumps(json.dumps(samples))})"
    return f"{''.join(parts)}\nimport json\n\n_SAMPLE_CALLS = {given}\n{_ANSWER}"


def fingerprint_program() -> str:
    """Return the text of the part that makes source digests, which needs only the standard library."""
    return _FUTURE + _joined("pytorch", _FINGERPRINT)


def _joined(folder: str, names: Sequence[str]) -> str:
    parts = ((_PACKAGE / folder / name).read_text("utf-8") for name in names)
    return _IMPORT_OF_OURS.sub("", "\n".join(parts)).replace(_FUTURE, "")


def capture_with(
    interpreter: str,
    timeout: float = 600,
    samples: Mapping[str, Sequence[str]] | None = None,
    progress: Progress = lambda done, count: None,
) -> dict[str, Any]:
    """Capture the torch of another Python interpreter, which need not have this package.

    Args:
        interpreter: The path of a Python with torch installed. It is run, and so is its torch.
        timeout: Seconds to wait for it.
        samples: op name -> sample calls on which to trace its decompositions; None for no traces.
        progress: It is called with the number of ops traced so far and of all.

    Returns:
        The catalog, in the form that `decomp_ledger.pytorch.capture.capture` gives.

    Raises:
        UnsupportedTorch: It cannot be run, has no torch, or has a torch that cannot be captured.
    """
    with tempfile.TemporaryFile() as program, tempfile.TemporaryFile() as errors:
        program.write(capture_program(samples).encode())
        program.seek(0)
        command = [interpreter, "-"]
        try:
            process = subprocess.Popen(command, stdin=program, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8")
        except OSError as error:
            raise UnsupportedTorch(f"cannot capture the torch of {interpreter}: {error}") from error
        late = threading.Event()
        timer = threading.Timer(timeout, _stop, (process, late))
        timer.start()
        with process:
            catalog = _answer(process.stdout, progress)
        timer.cancel()
        if process.returncode == 0 and catalog is not None:
            return catalog
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    reason = f"it timed out after {timeout} seconds" if late.is_set() else (lines or ["it ended without a message"])[-1]
    raise UnsupportedTorch(f"cannot capture the torch of {interpreter}: {reason}")


def _stop(process: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    process.kill()


def _answer(lines: IO[str] | None, progress: Progress) -> dict[str, Any] | None:
    """Read the answer of the program; return the catalog, or None if it ended before."""
    for line in lines or ():
        try:
            value = json.loads(line)
        except ValueError:  # the process was ended while it wrote
            return None
        if isinstance(value, dict):
            return value
        if isinstance(value, list):
            progress(*value)
    return None
