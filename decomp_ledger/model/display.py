"""How results show themselves: a short repr, HTML in a notebook, and flat rows for a data frame. Pure.

`displayed` gives a class its `__repr__` and its `_repr_html_`. What the HTML shows is decided in `reports/notebook.py`,
which stands above all classes that it shows; so the package registers it here with `show_with`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import attrs

from decomp_ledger.model.printable import printable
from decomp_ledger.model.safe_text import class_name

__all__ = [
    "LazyRows",
    "Row",
    "Rows",
    "Scalar",
    "bounded",
    "columns_of",
    "displayed",
    "fields_of",
    "guarded",
    "is_displayed",
    "row_of",
    "show_with",
    "to_rows",
]

Scalar: TypeAlias = "str | int | float | bool | None"
Row: TypeAlias = "dict[str, str | int | float | bool | None]"
_Item = TypeVar("_Item")
_Class = TypeVar("_Class", bound=type)

_ITEMS = 3  # of a collection inside a repr
_ROWS = 10  # of a list of results
_TEXT = 120  # characters of one text inside a repr
_WHOLE = 2000  # characters of a repr
_BRACKETS = {list: ("[", "]"), tuple: ("(", ")")}

# Writes the HTML of a value. A list, so that the methods below need not be made again.
_writers: list[Callable[[object], str]] = []


def show_with(writer: Callable[[object], str]) -> None:
    """Let a function write the HTML of every displayed class."""
    _writers[:] = [writer]


def displayed(cls: _Class) -> _Class:
    """Give a class a `_repr_html_`, and a `__repr__` with its fields unless it has a `guarded` one."""
    target: Any = cls
    if not getattr(vars(cls).get("__repr__"), "is_guarded", False):
        target.__repr__ = _repr_of_fields
    target._repr_html_ = _html_of
    return cls


def guarded(method: Callable[[Any], str]) -> Callable[[Any], str]:
    """Make a `__repr__` that never raises, escapes what does not print, and has a greatest length."""

    @functools.wraps(method)
    def text_of(value: Any) -> str:
        try:
            text = method(value)
        except Exception as error:
            text = f"<{class_name(value)}: it cannot be read here ({class_name(error)})>"
        return bounded(text, _WHOLE)

    text_of.is_guarded = True  # type: ignore[attr-defined]
    return text_of


def bounded(text: str, limit: int) -> str:
    """Return the start of a text on one line, with what does not print escaped."""
    return printable(text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)")


def _html_of(value: object) -> str | None:
    """Return the value as HTML; Jupyter calls it."""
    return _writers[0](value) if _writers else None


def is_displayed(value: object) -> bool:
    """Tell whether a value is a result that shows itself."""
    return getattr(type(value), "_repr_html_", None) is _html_of


@guarded
def _repr_of_fields(value: Any) -> str:
    parts = []
    for name, shown in fields_of(value):
        parts.append(f"{name}={shown() if callable(shown) else _value_text(getattr(value, name))}")
    return f"{type(value).__name__}({', '.join(parts)})"


def fields_of(value: Any) -> Iterator[tuple[str, Callable[[], str] | None]]:
    """Give the public fields that a repr shows, each with what writes it if the class decides that."""
    if not attrs.has(type(value)):
        yield from ((name, None) for name in getattr(value, "_fields", ()))
        return
    for field in attrs.fields(type(value)):
        if field.repr is not False and not field.name.startswith("_"):
            own = field.repr if callable(field.repr) else None
            yield field.name, None if own is None else functools.partial(own, getattr(value, field.name))


def _value_text(value: object) -> str:
    """Return a value with the first items of a collection, and how many more it has."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _TEXT else f"{value[:_TEXT]!r}... ({len(value)} characters)"
    if isinstance(value, Mapping):
        items = [f"{_value_text(key)}: {_value_text(value[key])}" for key in itertools.islice(value, _ITEMS)]
        return f"{{{_with_more(items, len(value))}}}"
    if isinstance(value, (list, tuple, set, frozenset)) and not hasattr(value, "_fields"):
        first = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        start, end = _BRACKETS.get(type(value), ("{", "}"))
        items = [_value_text(each) for each in itertools.islice(first, _ITEMS)]
        comma = "," if start == "(" and len(value) == 1 else ""
        return f"{start}{_with_more(items, len(value))}{comma}{end}"
    return repr(value)


def _with_more(items: list[str], count: int) -> str:
    more = [f"... {count - len(items)} more"] if count > len(items) else []
    return ", ".join([*items, *more])


# Rows


def row_of(value: Any) -> Row:
    """Return a result as one flat row: column -> text, number, bool or None."""
    own = getattr(value, "_row", None)
    return own() if own is not None else columns_of(value)


def columns_of(value: Any, *, without: tuple[str, ...] = ()) -> Row:
    """Return the fields of a value as one flat row.

    Args:
        value: an instance of an attrs class or a named tuple.
        without: fields to leave out.
    """
    names = [field.name for field in attrs.fields(type(value))] if attrs.has(type(value)) else value._fields
    return {name: _cell(getattr(value, name)) for name in names if name not in without and not name.startswith("_")}


def _cell(value: Any) -> Scalar:
    """Return a field as one cell: what has several parts becomes text, its parts separated by commas."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    label = getattr(value, "label", None)
    if label is not None:
        return str(label() if callable(label) else label)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_cell(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_cell(each)) for each in value)
    return ", ".join(sorted(map(str, value))) if isinstance(value, (set, frozenset)) else str(value)


def to_rows(values: Iterable[object]) -> list[Row]:
    """Return a flat row for each result."""
    return [row_of(each) for each in values]


@displayed
class Rows(list[_Item]):
    """A list of results. A notebook shows it as a table, and `pandas.DataFrame(rows.to_dicts())` reads it."""

    @guarded
    def __repr__(self) -> str:
        items = [repr(each) for each in itertools.islice(self, _ROWS)]
        return f"[{_with_more(items, len(self))}]"

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each result: column -> text, number, bool or None. Times are ISO 8601 text in UTC."""
        return to_rows(self)


class LazyRows(Iterator[_Item]):
    """Results that are read one after the other, once; `pandas.DataFrame(rows.to_dicts())` reads those that are left.

    Args:
        source: gives the results.
    """

    def __init__(self, source: Iterable[_Item]) -> None:
        self._source = iter(source)

    def __repr__(self) -> str:
        return "<LazyRows: read them with a loop, list() or to_dicts()>"

    def __next__(self) -> _Item:
        return next(self._source)

    def to_dicts(self) -> list[Row]:
        """Return a flat row for each result: column -> text, number, bool or None. Times are ISO 8601 text in UTC."""
        return to_rows(self)
