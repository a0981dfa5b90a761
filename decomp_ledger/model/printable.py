"""Text of any origin, made safe to show on one line. Pure."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """Escape what does not print: control characters, terminal escapes, line breaks, direction marks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
