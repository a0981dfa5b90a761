"""Build the standalone capture program, and run it in another interpreter. This file imports no torch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decomp_ledger.errors import UnsupportedTorch, UnusableValue
from decomp_ledger.model.json_values import as_object, parse_json
from decomp_ledger.model.limits import JSON_BYTES
from decomp_ledger.storage.bounded_read import answer_of

# The program is these files, one after another.
_FINGERPRINT = ("fingerprint/syntax.py", "fingerprint/functions.py", "fingerprint/source_digest.py")
_TORCH = ("internals.py", "capture.py")
_IMPORT_OF_OURS = re.compile(r"^from decomp_ledger\.pytorch\.[\w.]+ import (\([^)]*\)|[^(\n]+)\n", re.MULTILINE)
# Whatever torch prints goes to standard error, so that standard output has the answer alone.
_BEFORE_TORCH = """import os

_answer = os.dup(1)
os.dup2(2, 1)
"""
_ANSWER = """
with os.fdopen(_answer, "w", encoding="utf-8") as answer:
    json.dump(capture(), answer)
"""


def capture_program() -> str:
    """Return the text of the capture program, which needs only torch and prints a catalog as JSON."""
    return fingerprint_program() + _BEFORE_TORCH + _joined(_TORCH) + _ANSWER


def fingerprint_program() -> str:
    """Return the text of the part that makes source digests, which needs only the standard library."""
    return _joined(_FINGERPRINT)


def _joined(names: Sequence[str]) -> str:
    parts = ((Path(__file__).parent / name).read_text("utf-8") for name in names)
    return _IMPORT_OF_OURS.sub("", "\n".join(parts))


def capture_with(interpreter: str, timeout: float = 600) -> dict[str, Any]:
    """Capture the torch of another Python interpreter, which need not have this package.

    Args:
        interpreter: The path of a Python with torch installed. It is run, and so is its torch.
        timeout: Seconds to wait for it.

    Returns:
        The catalog, in the form that `decomp_ledger.pytorch.capture.capture` gives.

    Raises:
        UnsupportedTorch: It cannot be run, has no torch, or has a torch that cannot be captured.
    """
    try:
        status, output, errors = answer_of(
            [interpreter, "-"], 2 * JSON_BYTES, timeout, capture_program().encode("utf-8")
        )
        if status != 0:
            last = (errors.decode("utf-8", "replace").strip().splitlines() or ["it ended without a message"])[-1]
            raise UnsupportedTorch(f"cannot capture the torch of {interpreter}: {last}")
        catalog: dict[str, Any] = as_object(parse_json(output))
    except (OSError, UnusableValue) as error:
        raise UnsupportedTorch(f"cannot capture the torch of {interpreter}: {error}") from error
    return catalog
