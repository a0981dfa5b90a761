"""Text and causes of objects that are not ours: their own `__str__`, `__repr__` and class may do anything."""

from __future__ import annotations

from typing import Any

__all__ = ["MAX_MESSAGE", "cause_of", "class_name", "describe", "safe_repr"]

MAX_MESSAGE = 2000
_MAX_NAME = 200

# Past a metaclass, which may define `__name__` itself.
_name_of: Any = type.__dict__["__name__"].__get__
# Past a class that defines these itself.
_cause: Any = BaseException.__dict__["__cause__"].__get__
_context: Any = BaseException.__dict__["__context__"].__get__


def class_name(value: object) -> str:
    """Return the name of an object's class, as text that a ledger can store."""
    return _storable(_name_of(type(value)), _MAX_NAME)


def cause_of(error: BaseException) -> BaseException | None:
    """Return the exception that an exception was raised from, or while handling; else None."""
    cause: BaseException | None = _cause(error)
    context: BaseException | None = _context(error)
    return context if cause is None else cause


def describe(error: BaseException) -> tuple[str, str]:
    """Return the class and the message of any exception, as text that a ledger can store; never raise."""
    return class_name(error), _text(str, error, MAX_MESSAGE)


def safe_repr(value: object, limit: int = 80) -> str:
    """Return the start of an object's repr, as text that a ledger can store; never raise."""
    return _text(repr, value, limit)


def _text(make: Any, value: object, limit: int) -> str:
    try:
        return _storable(make(value), limit)
    except BaseException as failure:  # also SystemExit and KeyboardInterrupt, if the object raises them
        return f"<{make.__name__}() of {class_name(value)} raised {class_name(failure)}>"


def _storable(text: str, limit: int) -> str:
    """Return the start of a text as a plain str, with lone surrogates escaped."""
    # `str` may return an instance of a subclass, whose methods may do anything.
    return str.encode(str.__getitem__(text, slice(limit)), "utf-8", "backslashreplace").decode()
