"""Keep functions that pass a call on to torch out of the place that a warning names.

`warnings.warn("...", stacklevel=2)` names the caller of a function, and filters go by the module of that line. Where a
recording stands between torch and a decomposition, or between a program and torch, that caller would be this package.
Python counts no frame of the import machinery there, and knows those by the name of their file.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import Any, TypeVar

__all__ = ["hidden", "is_counted"]

F = TypeVar("F", bound=Callable[..., Any])

# Behind the name of the file, so that a line of it is still known as ours. The module `warnings` looks for both words.
_MARK = " (importlib, _bootstrap)"


def hidden(function: F) -> F:
    """Hide a function from the `stacklevel` of warnings; a decorator.

    Args:
        function: one whose own warnings name a place that is counted from itself.
    """
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType):
        function.__code__ = _hidden(code, code.co_filename)
        # Else Python looks for a file of that name at each line of a stack that torch writes down: one for each node of
        # a graph, which is 1 % of an export.
        linecache.lazycache(function.__code__.co_filename, function.__globals__)
    return function


# The code of a function that is made within another one is always the same. Equal code may be of another file.
@cache
def _hidden(code: CodeType, file: str) -> CodeType:
    return code if is_hidden(code) else code.replace(co_filename=f"{file}{_MARK}")


def is_hidden(code: CodeType) -> bool:
    """Tell whether Python leaves the frames of a function out, as it does for a `stacklevel`."""
    return "importlib" in code.co_filename and "_bootstrap" in code.co_filename


def is_counted(frame: FrameType, first: FrameType) -> bool:
    """Tell whether a frame counts for the `stacklevel` of a warning.

    Args:
        frame: a frame outside of the first one.
        first: the frame of the function that warns. If it is hidden, all frames count.
    """
    return is_hidden(first.f_code) or not is_hidden(frame.f_code)
