"""A generator of exceptions whose class or methods do what they can to get lost on their way."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from decomp_ledger import LedgerError, LedgerFileError, RecordingWarning

BASES: tuple[type[BaseException], ...] = (
    Exception,
    BaseException,
    ValueError,
    OSError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    StopIteration,
    MemoryError,
    UnicodeEncodeError,
    sqlite3.OperationalError,
    LedgerError,
    LedgerFileError,
    RecordingWarning,
)


class OddText(str):
    """A str whose methods raise."""

    __slots__ = ()

    def fail(self, *args: object) -> Any:
        """Be each method."""
        raise ZeroDivisionError("a method of the text")

    __getitem__ = encode = __format__ = __add__ = partition = fail


def _raising(kind: type[BaseException]) -> Callable[..., Any]:
    def method(*args: object) -> Any:
        raise kind

    return method


TEXTS: tuple[Callable[..., Any], ...] = (
    *map(_raising, (ZeroDivisionError, SystemExit, KeyboardInterrupt, BaseException, StopIteration, RecursionError)),
    lambda self: None,
    lambda self: 7,
    lambda self: "long " * 1_000_000,
    lambda self: "lone \ud800, null \0, escape \x1b[31m",
    lambda self: OddText("odd"),
    lambda self: "plain",
)


class OddMeta(type):
    """A metaclass whose instances have no name to read."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise ZeroDivisionError("the name of the class")


def _features(rng: random.Random) -> dict[str, Any]:
    fail = _raising(rng.choice([ZeroDivisionError, SystemExit, AttributeError]))
    possible: dict[str, Any] = {
        "__str__": rng.choice(TEXTS),
        "__repr__": rng.choice(TEXTS),
        "__class__": property(rng.choice([fail, lambda self: KeyboardInterrupt, lambda self: int])),
        "__traceback__": property(fail),
        "__setattr__": fail,
        "__eq__": fail,
        "__hash__": fail,
        "__bool__": fail,
        "__reduce_ex__": fail,
        "__cause__": property(fail),
        "__context__": property(fail),
        "add_note": fail,
        "with_traceback": fail,
    }
    return {name: value for name, value in possible.items() if rng.random() < 0.3}


def odd_exception(rng: random.Random) -> BaseException:
    """Return a new exception of a new class."""
    base = rng.choice(BASES)
    meta = rng.choice([type, type, OddMeta])
    name = rng.choice(["Odd", "Odd" * 100, "\N{SNOWMAN}"])
    given: tuple[Any, ...] = ("utf-8", "x", 0, 1, "why") if base is UnicodeEncodeError else ("its message",)
    made: BaseException = meta(name, (base,), _features(rng))(*given)
    BaseException.__dict__["__dict__"].__get__(made)["lock"] = threading.Lock()  # cannot be pickled
    if rng.random() < 0.3:
        cause = ValueError("a cause")
        cause.__cause__, cause.__context__ = made, made
        BaseException.__dict__["__cause__"].__set__(made, cause)
    return made


def own_traceback(error: BaseException) -> Any:
    """Return the traceback of an exception, whatever its class defines."""
    return BaseException.__dict__["__traceback__"].__get__(error)


def frames(error: BaseException) -> list[str]:
    """Return the names of the functions in an exception's traceback."""
    trace, found = own_traceback(error), []
    while trace is not None:
        found.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return found
