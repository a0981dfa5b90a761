"""Values that no public function takes for most of its parameters."""

from pathlib import Path


class Multiline:
    """An object whose text has many lines."""

    def __repr__(self) -> str:
        return "many\nlines" * 50


class Broken:
    """An object that has no text."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


WRONG = (
    None, b"bytes", 3, -1, 2**70, True, float("nan"), 1.5, "text", "\ud800", "a\0b", "", [], [3], ["\ud800"], {}, (),
    {3}, object(), Path("p"), Multiline(), Broken(), [Broken()], lambda: 0,
)  # fmt: skip
