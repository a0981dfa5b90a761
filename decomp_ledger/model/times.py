"""Times: the one form in which they are stored, `2026-01-31T12:00:00.000000Z`, and the forms of people. Pure."""

from __future__ import annotations

import datetime
import re

from decomp_ledger.errors import UnusableValue

__all__ = ["STYLES", "read_moment", "read_time", "shown_time", "stored_time"]

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


def read_moment(text: str, now: datetime.datetime) -> datetime.datetime:
    """Return the moment that a person names.

    Args:
        text: `2w`, `3 days ago`, `yesterday`, `today`, `now`, a date, or a date with a time (read by python-dateutil).
            Without a zone it is in the zone of `now`. A day alone means its first moment.
        now: the present, with its zone.

    Raises:
        UnusableValue: it names no moment.
    """
    # Imported late, because few commands read one.
    from dateutil import parser
    from dateutil.relativedelta import relativedelta

    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    words = {"now": now, "today": midnight, "yesterday": midnight - datetime.timedelta(days=1)}
    plain = text.strip().lower()
    if plain in words:
        return words[plain]
    ago = _AGO.fullmatch(plain)
    try:
        if ago is not None:
            before: datetime.datetime = now - relativedelta(**{_UNITS[ago[2]]: int(ago[1])})
            return before
        found: datetime.datetime = parser.parse(text, default=midnight)
        return found if found.tzinfo is not None else found.replace(tzinfo=now.tzinfo)
    except (ValueError, OverflowError, TypeError):  # dateutil raises each of them
        raise UnusableValue(
            f"{text!r:.60}: not a moment; give one such as 2w, '3 days ago', yesterday or '2026-01-31 14:00'"
        ) from None


_UNITS = {
    name: unit
    for unit, names in {
        "seconds": "s sec second seconds",
        "minutes": "min minute minutes",
        "hours": "h hour hours",
        "days": "d day days",
        "weeks": "w week weeks",
        "months": "mo month months",
        "years": "y year years",
    }.items()
    for name in names.split()
}
_AGO = re.compile(rf"([0-9]{{1,6}}) ?({'|'.join(sorted(_UNITS, key=len, reverse=True))})(?: ago)?")


def stored_time(moment: datetime.datetime) -> str:
    """Return a moment in the form in which times are stored, whose order as text is that of the moments.

    Raises:
        UnusableValue: it has no zone.
    """
    if moment.tzinfo is None:
        raise UnusableValue(f"{moment}: it has no time zone; give one, as in moment.astimezone()")
    # Not strftime, which writes the year 99 as two digits on some systems.
    return moment.astimezone(datetime.timezone.utc).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


STYLES = ("utc", "local", "iso", "relative")


def shown_time(recorded_at: str, style: str = "utc", now: datetime.datetime | None = None) -> str:
    """Return a stored time for people.

    Args:
        recorded_at: the time.
        style: `utc` (to the second), `local` (in the zone of `now`), `iso` (as stored), or `relative` (`3 hours ago`).
        now: the present, with its zone, for `local` and `relative`.
    """
    try:
        moment = read_time(recorded_at)
    except ValueError:
        return recorded_at  # of a damaged ledger: as it is
    if style == "iso":
        return recorded_at
    if style == "utc" or now is None:
        return recorded_at[:19].replace("T", " ")
    if style == "local":
        return moment.astimezone(now.tzinfo).isoformat(sep=" ", timespec="seconds")
    return _since(moment, now)


def _since(moment: datetime.datetime, now: datetime.datetime) -> str:
    seconds = (now - moment).total_seconds()
    size = abs(seconds)
    for name, length in _LENGTHS:
        if size >= length or length == 1:
            number = int(size // length)
            text = f"{number} {name}{'' if number == 1 else 's'}"
            return f"{text} ago" if seconds >= 0 else f"in {text}"
    raise AssertionError("the last length is 1")


_LENGTHS = (
    ("year", 365 * 86400), ("month", 30 * 86400), ("week", 7 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60),
    ("second", 1),
)  # fmt: skip
