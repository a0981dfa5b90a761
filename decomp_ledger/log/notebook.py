"""Where code of a notebook is: the file of the notebook, and the cell. Nothing here imports IPython."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["cell", "is_running", "notebook_file"]

# The front end tells the kernel which notebook it runs: Jupyter by a variable of the environment, VS Code and
# JupyterLab by a variable of the notebook's own.
_ENVIRONMENT = "JPY_SESSION_NAME"
_VARIABLES = ("__vsc_ipynb_file__", "__session__")


def _shell() -> Any:
    """Return IPython's shell in which the program runs, or None."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython() if callable(get_ipython) else None


def notebook_file() -> str:
    """Return the file of the notebook that runs, as its front end gives it; "" if it is not known."""
    shell = _shell()
    if shell is None:
        return ""
    variables = getattr(shell, "user_ns", None)
    given = [variables.get(name) for name in _VARIABLES] if isinstance(variables, dict) else []
    texts = [text for text in (os.environ.get(_ENVIRONMENT), *given) if isinstance(text, str)]
    return next((text for text in texts if text.endswith(".ipynb")), "")


def is_running() -> bool:
    """Tell whether the program runs in IPython: in the kernel of a notebook, or in a terminal."""
    return _shell() is not None


def cell(file: str) -> str | None:
    """Return how people name a cell: `notebook.ipynb In[3]`, or `In[3]` if the file is not known.

    Args:
        file: the file name of a code object.

    Returns:
        None if it is not that of a cell.
    """
    shell = _shell()
    if shell is None:
        return None
    name_of = getattr(getattr(shell, "compile", None), "format_code_name", None)  # since IPython 7.23
    named = name_of(file) if callable(name_of) else None
    if not (isinstance(named, tuple) and len(named) == 2 and isinstance(named[1], str)):
        return None
    notebook = notebook_file()
    return f"{notebook} {named[1]}" if notebook else named[1]
