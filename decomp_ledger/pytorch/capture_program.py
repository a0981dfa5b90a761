"""Build the standalone capture program, and run it in another interpreter. This file imports no torch."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from decomp_ledger.errors import LedgerError, NotImportable, SampleError, UnsupportedTorch, UnusableValue
from decomp_ledger.model.json_values import as_object, as_strings, parse_json
from decomp_ledger.model.limits import JSON_BYTES
from decomp_ledger.storage.bounded_read import Answer, answers_of

_PACKAGE = Path(__file__).parent.parent
# The program is these files, one after another.
_FINGERPRINT = ("fingerprint/syntax.py", "fingerprint/functions.py", "fingerprint/source_digest.py")
_SAMPLES = ("errors.py", "model/samples.py")
_TORCH = (
    "internals.py",
    "sample_values.py",
    "schema_samples.py",
    "trace_lines.py",
    "traces.py",
    "entries.py",
    "capture.py",
)
_IMPORT_OF_OURS = re.compile(r"^from decomp_ledger\.[\w.]+ import (\([^)]*\)|[^(\n]+)\n", re.MULTILINE)
_FUTURE = "from __future__ import annotations\n"
# Whatever torch prints goes to standard error, so that standard output has the answer alone.
_BEFORE_TORCH = """import os

_answer = os.dup(1)
os.dup2(2, 1)
"""
# Each line of the answer is a JSON value: [done, count, op] while ops are traced; at last the catalog, or an error.
_ANSWER = """
with os.fdopen(_answer, "w", encoding="utf-8") as answer:

    def _progress(done, count, name):
        print(json.dumps([done, count, name]), file=answer, flush=True)

    try:
        _captured = capture(**json.loads(_REQUEST), progress=_progress)
    except LedgerError as error:
        _captured = {"error": [type(error).__name__, str(error)]}
    print(json.dumps(_captured), file=answer)
"""
# The errors of the program that are not about its torch.
_ERRORS: Mapping[str, type[LedgerError]] = {each.__name__: each for each in (NotImportable, SampleError)}

Samples: TypeAlias = Mapping[str, Sequence[str]]
Progress: TypeAlias = Callable[[int, int], object]


@attrs.frozen
class CaptureRequest:
    """What to capture besides the catalog; `decomp_ledger.pytorch.capture.capture` tells what each means.

    Attributes:
        samples: op name -> sample calls of torch's own ops; None for none.
        own: op name -> sample calls that the user gave; None for none.
        imports: modules to import first.
    """

    samples: Samples | None = None
    own: Samples | None = None
    imports: tuple[str, ...] = ()


def capture_program(request: CaptureRequest = CaptureRequest(), part: int = 0, parts: int = 1) -> str:
    """Return the text of the capture program, which needs only torch and prints a catalog as JSON.

    Args:
        request: what to capture.
        part: which part of the ops to trace: 0 to `parts` - 1.
        parts: the number of programs that share the work.
    """
    files = (
        _FUTURE,
        _joined("pytorch", _FINGERPRINT),
        _BEFORE_TORCH,
        _joined("", _SAMPLES),
        _joined("pytorch", _TORCH),
    )
    value = {**attrs.asdict(request), "part": [part, parts]}
    return f"{''.join(files)}\nimport json\n\n_REQUEST = {json.dumps(json.dumps(value))}\n{_ANSWER}"


def fingerprint_program() -> str:
    """Return the text of the part that makes source digests, which needs only the standard library."""
    return _FUTURE + _joined("pytorch", _FINGERPRINT)


def _joined(folder: str, names: Sequence[str]) -> str:
    parts = ((_PACKAGE / folder / name).read_text("utf-8") for name in names)
    return _IMPORT_OF_OURS.sub("", "\n".join(parts)).replace(_FUTURE, "")


def capture_with(
    interpreter: str,
    timeout: float = 600,
    request: CaptureRequest = CaptureRequest(),
    progress: Progress = lambda done, count: None,
    processes: int | None = None,
) -> dict[str, Any]:
    """Capture the torch of another Python interpreter, which need not have this package.

    Args:
        interpreter: The path of a Python with torch installed. It is run, and so is its torch.
        timeout: Seconds to wait for it.
        request: What to capture.
        progress: It is called with the number of ops traced so far and of all.
        processes: How many processes trace; None for two, if the machine has two cores and there is much to trace.
            If two of them fail, one tries again.

    Returns:
        The catalog, in the form that `decomp_ledger.pytorch.capture.capture` gives. It is the same for any number of
        processes.

    Raises:
        UnsupportedTorch: It cannot be run, has no torch, or has a torch that cannot be captured.
        NotImportable: A module of the request cannot be imported there.
        SampleError: The torch has no op of that name.
    """
    parts = processes or (min(_cores(), 2) if request.samples else 1)
    try:
        try:
            return _capture_in(interpreter, timeout, request, progress, parts)
        except UnsupportedTorch:
            if parts == 1:
                raise
            return _capture_in(interpreter, timeout, request, progress, 1)
    except (OSError, UnusableValue) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UnsupportedTorch(
            f"cannot capture the torch of {interpreter}: {problem}; give the path of a Python that has torch"
        ) from error


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _capture_in(
    interpreter: str, timeout: float, request: CaptureRequest, progress: Progress, parts: int
) -> dict[str, Any]:
    """Capture in several processes of an interpreter; each traces its part of the ops."""
    programs = [capture_program(request, part, parts).encode("utf-8") for part in range(parts)]
    steps: dict[int, tuple[int, int]] = {}

    def received(part: int, output: bytearray) -> None:
        step = _last_step(output)
        if step is not None and steps.get(part) != step[:2]:
            steps[part] = step[:2]
            if len(steps) == parts:
                progress(*map(sum, zip(*steps.values(), strict=True)))

    answers = answers_of([interpreter, "-"], programs, 2 * JSON_BYTES, timeout, received=received)
    first, *others = [_value(interpreter, answer) for answer in answers]
    # A program's last step can arrive together with its answer.
    count = sum(each for _, each in steps.values())
    if len(steps) == parts and sum(done for done, _ in steps.values()) < count:
        progress(count, count)
    if others:
        traces = [as_object(value.get("traces")) for value in (first, *others)]
        merged = {
            key: dict(sorted(pair for each in traces for pair in as_object(each.get(key)).items()))
            for key in ("ops", "graphs")
        }
        first["traces"] = {**traces[0], **merged}
    return first


def _value(interpreter: str, answer: Answer) -> dict[str, Any]:
    """Return what one process captured."""
    if answer.status != 0:
        last = (answer.errors.decode("utf-8", "replace").strip().splitlines() or ["it ended without a message"])[-1]
        step = _last_step(answer.output)
        where = f" (while it traced {step[2]})" if step is not None and step[2] else ""
        raise UnsupportedTorch(f"cannot capture the torch of {interpreter}: {last}{where}")
    value: dict[str, Any] = as_object(parse_json((answer.output.splitlines() or [b""])[-1]))
    if "error" in value:
        kind, message = as_strings(value["error"])
        raise _ERRORS.get(kind, UnsupportedTorch)(message)
    return value


_STEP = re.compile(rb'\[(\d{1,9}), (\d{1,9}), "([^"\\]{0,200})"\]')


def _last_step(output: bytes | bytearray) -> tuple[int, int, str] | None:
    """Return the last progress in the output of the program so far: a line such as `[3, 873, "aten::all"]`."""
    *_, line, _ = (b"", b"", *bytes(output[-300:]).split(b"\n"))
    found = _STEP.fullmatch(line)
    return None if found is None else (int(found[1]), int(found[2]), found[3].decode("utf-8", "replace"))
