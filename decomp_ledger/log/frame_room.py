"""Give a function's frame room for the frames of all that it calls.

Python keeps frames in chunks of 2,048 words, and maps and frees a chunk at each call that crosses its end. Where that
falls can cost a program a tenth of its time, and the frames of a recording move it. A frame with room takes a chunk of
its own, which holds the frames of the program, too. Its pages are mapped, but never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["with_room"]

F = TypeVar("F", bound=Callable[..., Any])

_WORDS = 2**17


def with_room(function: F) -> F:
    """Give a function a frame with room for 1 MB of other frames; a decorator, for functions that are called rarely."""
    code: Any = getattr(function, "__code__", None)
    if code is not None:
        function.__code__ = code.replace(co_stacksize=_WORDS)
    return function
