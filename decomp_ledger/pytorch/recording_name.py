"""How a recording is called that was given no name: as the program that it records."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from decomp_ledger.log import notebook
from decomp_ledger.model.op_names import check_label
from decomp_ledger.model.recorded_names import name_part

__all__ = ["default_name"]

PYTHON = "python"  # `python -c`, standard input, the prompt
NOTEBOOK = "notebook"  # one whose file is not known


def default_name(main: ModuleType | None = None) -> str:
    """Return the stem of the script or of the notebook that runs, the module of `python -m`, or else `python`.

    Args:
        main: the program's `__main__`, before it is in sys.modules.
    """
    if main is None and notebook.is_running():
        return _as_label(Path(notebook.notebook_file()).stem, NOTEBOOK)
    spec = getattr(sys.modules.get("__main__") if main is None else main, "__spec__", None)
    module = str(getattr(spec, "name", "")).removesuffix("__main__").rstrip(".")
    if module:
        return _as_label(module, PYTHON)
    script = sys.argv[0] if sys.argv and isinstance(sys.argv[0], str) else ""
    if script in ("", "-", "-c", "-m"):
        return PYTHON
    stem = Path(script).stem
    return _as_label(stem if stem.strip(".") else _folder(script), PYTHON)


def _folder(path: str) -> str:
    """Return the name of a folder that is given as `.` or `..`."""
    try:
        return Path(path).resolve().name
    except OSError:  # it was removed
        return ""


def _as_label(text: str, otherwise: str) -> str:
    return check_label(name_part(text, otherwise), "a recording")
