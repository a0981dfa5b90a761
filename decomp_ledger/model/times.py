"""The one form in which a time is stored: `2026-01-31T12:00:00.000000Z`. Pure."""

from __future__ import annotations

import datetime
import re

__all__ = ["read_time"]

# [0-9], because \d also matches digits of other scripts.
_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.([0-9]+)Z")


def read_time(text: str, digits: int = 6) -> datetime.datetime:
    """Return the moment that a stored time names.

    `datetime.fromisoformat` alone would not do, because each version of Python accepts other forms.

    Args:
        text: the time.
        digits: the number of its digits after the decimal point.

    Raises:
        ValueError: it is not in the one form, or names no moment.
    """
    match = _FORM.fullmatch(text)
    if match is None or len(match[1]) != digits:
        raise ValueError(f"{text!r:.60} is not a time of the form 2026-01-31T12:00:00.{'0' * digits}Z")
    return datetime.datetime.fromisoformat(text[:-1]).replace(tzinfo=datetime.timezone.utc)
