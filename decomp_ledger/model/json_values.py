"""Check values that were read from JSON. The text may come from a file that anyone edited."""

from __future__ import annotations

from decomp_ledger.errors import LedgerError, UnusableValue

__all__ = ["DAMAGE", "as_integer", "as_object", "as_string", "as_strings"]

# What reading values from an edited file may raise.
DAMAGE = (LedgerError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)


def as_string(value: object) -> str:
    """Return `value` if it is a string.

    Raises:
        UnusableValue: it is of another type.
    """
    if not isinstance(value, str):
        raise UnusableValue(f"expected a string, found {type(value).__name__}")
    return value


def as_integer(value: object) -> int:
    """Return `value` if it is an integer; a boolean is not one.

    Raises:
        UnusableValue: it is of another type.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise UnusableValue(f"expected an integer, found {type(value).__name__}")
    return value


def as_strings(value: object) -> tuple[str, ...]:
    """Return an array of strings as a tuple.

    Raises:
        UnusableValue: it is of another type, or an item is.
    """
    if not isinstance(value, list):
        raise UnusableValue(f"expected an array, found {type(value).__name__}")
    return tuple(as_string(item) for item in value)


def as_object(value: object) -> dict[str, object]:
    """Return `value` if it is an object.

    Raises:
        UnusableValue: it is of another type.
    """
    if not isinstance(value, dict):
        raise UnusableValue(f"expected an object, found {type(value).__name__}")
    return value
