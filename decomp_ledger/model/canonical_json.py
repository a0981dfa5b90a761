"""Canonical JSON (RFC 8785 without floats), and digests of it."""

from __future__ import annotations

import hashlib
import json
from typing import TypeAlias

from decomp_ledger.errors import UnusableValue
from decomp_ledger.model.json_values import check_json_size

__all__ = ["Json", "canonical_json", "check_text", "digest_of"]

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"

# RFC 8785 writes numbers as IEEE doubles; beyond this limit two integers would have the same text.
_MAX_INT = 2**53 - 1

_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def canonical_json(value: Json) -> str:
    """Return the one text that RFC 8785 allows for a value.

    Args:
        value: objects with ASCII keys, arrays, strings, integers up to 2**53 - 1, booleans and null.

    Raises:
        UnusableValue: it contains anything else, for example a float or a lone surrogate; or it is too large to be
            read again.
    """
    _check(value)
    text = _encode(value)
    check_json_size(text)
    return text


def digest_of(value: Json) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def check_text(text: object, what: str) -> str:
    """Return `text` if it is a str that UTF-8 can encode.

    Args:
        text: the text.
        what: what it is, for the message.

    Raises:
        UnusableValue: it is not a str, or it has a lone surrogate.
    """
    if not isinstance(text, str):
        raise UnusableValue(f"{what} must be a str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnusableValue(
            f"{what} has a lone surrogate at character {error.start}, which UTF-8 cannot encode; pass "
            "text.encode('utf-8', 'backslashreplace').decode() to keep it readable"
        ) from None
    return text


def _check(value: object) -> None:
    if value is None or value is True or value is False:
        return
    if isinstance(value, str):
        check_text(value, "a JSON string")
    elif isinstance(value, int):
        if abs(value) > _MAX_INT:
            raise UnusableValue(
                f"canonical JSON: an integer of {value.bit_length()} bits is too large; the largest is 2**53 - 1"
            )
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            # RFC 8785 sorts keys by UTF-16 units and Python by code points. Both orders agree for ASCII.
            if not (isinstance(key, str) and key.isascii()):
                raise UnusableValue(f"canonical JSON: the key {key!r:.80} is not an ASCII string; use one")
            _check(item)
    else:
        raise UnusableValue(
            f"canonical JSON: a value of type {type(value).__name__} is not possible; use JSON types without floats"
        )
