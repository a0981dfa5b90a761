"""The standalone capture program, and running it in another interpreter. Imports no torch itself."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from decomp_ledger.errors import UnsupportedTorch

# One after another, they are one program.
_PARTS = ("fingerprint/syntax.py", "fingerprint/functions.py", "fingerprint/source_digest.py", "capture.py")
_IMPORT_OF_OURS = re.compile(r"^from decomp_ledger\.pytorch\.[\w.]+ import (\([^)]*\)|[^(\n]+)\n", re.MULTILINE)


def capture_program() -> str:
    """Return the text of the capture program: it needs torch, and prints a catalog as JSON."""
    parts = ((Path(__file__).parent / name).read_text("utf-8") for name in _PARTS)
    return _IMPORT_OF_OURS.sub("", "\n".join(parts))


def capture_with(interpreter: str, timeout: float = 600) -> dict[str, Any]:
    """Capture the torch of another Python interpreter, which needs nothing of this package.

    Args:
        interpreter: The path of a Python with torch installed. It is run, and so is its torch.
        timeout: Seconds to wait for it.

    Returns:
        The catalog, in the form that `decomp_ledger.pytorch.capture.capture` gives.

    Raises:
        UnsupportedTorch: It cannot be run, has no torch, or has one that cannot be captured.
    """
    try:
        done = subprocess.run(
            [interpreter, "-"],
            input=capture_program(),
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedTorch(f"cannot capture the torch of {interpreter}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UnsupportedTorch(f"cannot capture the torch of {interpreter}: {last}")
    catalog: dict[str, Any] = json.loads(done.stdout)
    return catalog
