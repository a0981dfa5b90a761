"""Check the arguments of public functions against their annotations, so that a wrong one gives one clear error."""

from __future__ import annotations

import ast
import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from decomp_ledger.errors import UnusableValue
from decomp_ledger.model.safe_text import safe_repr

__all__ = ["after_failure", "checked", "one_or_more", "shown"]

_Public = TypeVar("_Public", bound=Callable[..., Any])
_Accepts: TypeAlias = Callable[[Any], bool]
_MAX_SHOWN = 80
_MAX_CLASSES = 2  # that an error names


class _Kind(NamedTuple):
    """The values that an annotation allows, and how an error names them."""

    accepts: _Accepts
    words: str
    is_class: bool = False


_ANYTHING = _Kind(lambda value: True, "any value")
# An integer is not a flag, nor a flag an integer: `export(True)` is a mistake, not export 1.
_KINDS: dict[Any, _Kind] = {
    None: _Kind(lambda value: value is None, "None"),
    type(None): _Kind(lambda value: value is None, "None"),
    bool: _Kind(lambda value: isinstance(value, bool), "True or False"),
    int: _Kind(lambda value: isinstance(value, int) and not isinstance(value, bool), "an integer"),
    float: _Kind(
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value == value, "a number"
    ),
    str: _Kind(lambda value: isinstance(value, str), "text"),
    Callable: _Kind(callable, "a function"),
    typing.IO: _Kind(lambda value: hasattr(value, "read"), "an open file"),
    # Its items may be read only once.
    Iterable: _Kind(lambda value: isinstance(value, Iterable) and not isinstance(value, bytes), "a list"),
}
# Not `os.PathLike`, because this module is pure.
_PATH = _Kind(lambda value: hasattr(value, "__fspath__") and isinstance(value.__fspath__(), str), "a path")
_OF_PARTS = (typing.Union, types.UnionType, Sequence, Mapping)

# Called when a checked function raised, before the exception goes on. A `with` block cannot end when an interrupt comes
# just before its `__exit__` runs; the frame of the public call can still put things right.
after_failure: list[Callable[[], None]] = []


def checked(public: _Public) -> _Public:
    """Check the arguments of a function, or of every public method of a class, at each call.

    The annotations are read at the first call. An argument whose annotation needs torch, or has another form than
    those that this module uses, is not checked.

    Raises:
        UnusableValue: by the function: an argument has another type.
    """
    if not isinstance(public, type):
        return cast("_Public", _checked_function(public))
    for name, member in list(vars(public).items()):
        if isinstance(member, types.FunctionType) and (name == "__init__" or not name.startswith("_")):
            setattr(public, name, _checked_function(member))
        elif isinstance(member, classmethod) and not name.startswith("_"):
            setattr(public, name, classmethod(_checked_function(member.__func__)))
    return cast("_Public", public)


def one_or_more(value: Any) -> tuple[Any, ...]:
    """Return the items of an argument that may be one text or path, or several; text is never split into letters."""
    if isinstance(value, str) or hasattr(value, "__fspath__") or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


def shown(value: object) -> str:
    """Return a value for a message: short, and in one line."""
    text = " ".join(safe_repr(value, 400).split())
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _checked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    positional: list[tuple[str, _Kind]] = []
    named: dict[str, _Kind] = {}

    @functools.wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        if not named:
            positional[:], found = _kinds_of(function)
            named.update(found)
        for value, (name, kind) in zip(args, positional, strict=False):
            if not kind.accepts(value):
                raise _error(function, args, name, value, kind)
        for name, value in kwargs.items():
            if name in named and not named[name].accepts(value):
                raise _error(function, args, name, value, named[name])
        try:
            return function(*args, **kwargs)
        except BaseException:
            for repair in after_failure:
                repair()
            raise

    return check


def _kinds_of(function: Callable[..., Any]) -> tuple[list[tuple[str, _Kind]], dict[str, _Kind]]:
    """Return what each parameter allows: of those that may be given by position, in order; and of all, by name."""
    own = inspect.unwrap(function)
    kinds: dict[str, _Kind] = {}
    positional = []
    for name, parameter in inspect.signature(own).parameters.items():
        kinds[name] = _kind(parameter.annotation, getattr(own, "__globals__", {}))
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            positional.append((name, kinds[name]))
    return positional, kinds or {"": _ANYTHING}


def _kind(annotation: Any, names: Mapping[str, Any]) -> _Kind:
    """Return what an annotation allows: text, a class, a union, or a collection."""
    if isinstance(annotation, str):
        parts = _alternatives(ast.parse(annotation, mode="eval").body)
        if len(parts) > 1:  # not evaluated whole, because an alias that is text has no `|`
            return _union([_kind(part, names) for part in parts])
        try:
            return _kind(eval(annotation, dict(names)), names)
        except NameError:  # a type that only a type checker imports, because it needs torch
            return _ANYTHING
    outer = typing.get_origin(annotation) or annotation
    kinds = [_kind(part, names) for part in typing.get_args(annotation)] if outer in _OF_PARTS else []
    if outer in (typing.Union, types.UnionType):
        return _union(kinds)
    if outer in (Sequence, Mapping):
        return _collection(outer, kinds)
    if getattr(outer, "__name__", "") == "PathLike":
        return _PATH
    return _KINDS.get(outer) or _of_class(outer)


def _alternatives(node: ast.expr) -> list[str]:
    """Return the texts of the parts of a union `A | B | C`."""
    if isinstance(node, ast.BinOp):
        return _alternatives(node.left) + _alternatives(node.right)
    return [ast.unparse(node)]


def _of_class(cls: Any) -> _Kind:
    if not isinstance(cls, type) or cls in (object, inspect.Parameter.empty) or getattr(cls, "_is_protocol", False):
        return _ANYTHING
    return _Kind(lambda value: isinstance(value, cls), f"a {cls.__name__}", is_class=True)


def _union(kinds: Sequence[_Kind]) -> _Kind:
    accepts = tuple(kind.accepts for kind in kinds)
    classes = [kind.words for kind in kinds if kind.is_class]
    if len(classes) > _MAX_CLASSES:
        classes = ["what another call returned"]
    words = [*(kind.words for kind in kinds if not kind.is_class and kind.words != "None"), *classes]
    words += ["None"] if any(kind.words == "None" for kind in kinds) else []
    return _Kind(lambda value: any(each(value) for each in accepts), _joined(words))


def _collection(cls: type, items: Sequence[_Kind]) -> _Kind:
    if cls is Mapping or not items:
        words = "a dict" if cls is Mapping else "a list"
        return _Kind(lambda value: isinstance(value, cls), words)
    accepts, words, _ = items[0]

    def accepts_items(value: object) -> bool:
        if isinstance(value, str) or hasattr(value, "__fspath__"):  # one stands for a list of one; see `one_or_more`
            return accepts(value)
        return isinstance(value, Collection) and not isinstance(value, (bytes, Mapping)) and all(map(accepts, value))

    return _Kind(accepts_items, f"a list of {words}")


def _joined(words: Sequence[str]) -> str:
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


def _error(function: Callable[..., Any], args: tuple[Any, ...], name: str, value: object, kind: _Kind) -> UnusableValue:
    call = type(args[0]).__name__ if function.__name__ == "__init__" else function.__name__
    return UnusableValue(f"{call}({name}={shown(value)}): {type(value).__name__} is not possible; give {kind.words}")
