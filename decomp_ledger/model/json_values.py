"""Check values that were read from JSON. The text may come from a file that anyone edited."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from decomp_ledger.errors import LedgerError, UnusableValue
from decomp_ledger.model.limits import JSON_BYTES, JSON_VALUES

__all__ = ["DAMAGE", "as_integer", "as_object", "as_string", "as_strings", "check_json_size", "parse_json"]

_MAX_INT = 2**63 - 1  # SQLite holds no larger integer

# What reading values from an edited file may raise.
DAMAGE = (LedgerError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)


def parse_json(text: str | bytes, most: int = JSON_BYTES, most_values: int = JSON_VALUES) -> Any:
    """Return the value of a JSON text that anyone may have written, if this package could have written such a value.

    Args:
        text: the JSON.
        most: how many bytes it may have.
        most_values: how many values.

    Raises:
        UnusableValue: it is not JSON, over a limit, nested too deeply, or has a float, an integer beyond 64 bits or a
            lone surrogate.
    """
    if not isinstance(text, (str, bytes)):
        raise UnusableValue(f"expected JSON text, found {type(text).__name__}")
    check_json_size(text, most, most_values)
    try:
        plain = text if isinstance(text, str) else text.decode()
        value: object = _decode(plain)
        if "\\ud" in plain or "\\uD" in plain:  # JSON in UTF-8 can have a surrogate as an escape only
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UnusableValue("not JSON of this package: a text has a lone surrogate") from None
    except RecursionError:
        raise UnusableValue("not JSON of this package: it is nested too deeply") from None
    except ValueError as error:
        raise UnusableValue(f"not JSON: {error!s:.200}") from None
    return value


def _integer(digits: str) -> int:
    number = int(digits) if len(digits) < len(str(_MAX_INT)) + 2 else _MAX_INT + 1
    if abs(number) > _MAX_INT:
        raise ValueError("an integer is beyond 64 bits")
    return number


def _refuse(digits: str) -> NoReturn:
    raise ValueError(f"{digits[:40]} is not an integer")


_decode = json.JSONDecoder(parse_float=_refuse, parse_int=_integer, parse_constant=_refuse).decode


def check_json_size(text: str | bytes, most: int = JSON_BYTES, most_values: int = JSON_VALUES) -> None:
    """Refuse a JSON text that would take too much memory to parse, before it is parsed.

    Raises:
        UnusableValue: it is over a limit.
    """
    if len(text) <= min(most // 4, most_values):  # then it has neither so many bytes nor so many values
        return
    size = len(text) if isinstance(text, bytes) or len(text) > most else len(text.encode(errors="surrogatepass"))
    # A dump writes six characters for this one of ASCII, and three for each byte of any other.
    size += text.count("\x7f") if isinstance(text, str) else text.count(b"\x7f")
    if size > most:
        raise UnusableValue(f"JSON of {size} bytes; at most {most} can be read")
    marks: tuple[Any, ...] = (",", ":", "[", "{") if isinstance(text, str) else (b",", b":", b"[", b"{")
    values = sum(map(text.count, marks))
    if values > most_values:
        raise UnusableValue(f"JSON of about {values} values; at most {most_values} can be read")


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
