"""Imported modules full of objects that record when code of theirs runs, and every reference into them."""

from __future__ import annotations

import enum
import functools
import itertools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["NAMES", "Sprung", "references", "trapped_modules"]

# What the objects define. Python itself reads none of these when it compares identities and true types.
_HOOKS = (
    "__getattr__", "__call__", "__eq__", "__ne__", "__hash__", "__bool__", "__len__", "__iter__", "__getitem__",
    "__contains__", "__repr__", "__str__", "__format__", "__fspath__", "__index__", "__int__", "__bytes__", "__lt__",
    "__get__", "__set_name__", "__instancecheck__", "__subclasscheck__", "__reduce_ex__", "__dir__", "__next__",
    "__enter__", "keys", "items", "values", "get", "copy", "get_source", "hex", "partition", "startswith", "encode",
)  # fmt: skip
_PROPERTIES = (
    "__class__", "__dict__", "__module__", "__name__", "__wrapped__", "__func__", "__self__",
    "__globals__", "__code__", "__closure__", "__defaults__", "__mro__", "__bases__", "func", "args", "keywords",
    "name", "value", "_name_",
)  # fmt: skip
# Parts of the qualnames that are tried: what the modules have, and what Python has everywhere.
NAMES = (
    "plain", "Plain", "meta", "instance", "slotted", "descriptor", "sub_dict", "sub_list", "sub_tuple", "sub_str",
    "sub_bytes", "sub_partial", "sub_static", "member", "lazy", "method", "static", "Colour", "RED", "in_cell3",
    "__init__", "__class__", "__dict__", "__globals__", "__wrapped__", "__call__", "__getattr__", "__loader__",
    "__spec__", "__builtins__", "eval", "<locals>", "", "a b",
)  # fmt: skip
_REACHING = ("in_keyword", "wrapping", "in_cell", "without_file", "in_default")

# What the constructor of a base sets or asks.
_COPIED = ("__module__", "__name__", "__dict__", "__wrapped__", "__set_name__")
_QUIET: dict[type, tuple[str, ...]] = {staticmethod: _COPIED, str: ("__set_name__", "__hash__", "__eq__")}


class Sprung(list[str]):
    """What ran, in order."""

    def method(self, name: str) -> Callable[..., Any]:
        """Return a function that records its name when it is called."""

        def hook(*_: Any, **__: Any) -> Any:
            self.append(name)
            raise AttributeError(name)

        return hook

    def members(self, kind: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the members of a class that records all that runs."""
        hooks = {name: self.method(f"{kind}.{name}") for name in _HOOKS if name not in without}
        properties = {name: property(self.method(f"{kind}.{name}")) for name in _PROPERTIES if name not in without}
        return {**hooks, **properties, "__getattribute__": self.method(f"{kind}.__getattribute__")}


def _objects(sprung: Sprung) -> dict[str, Any]:
    """Return objects of every kind that a module may have, which record what runs."""
    creation = ("__class__", "__set_name__", "__hash__", "__qualname__", "__name__", "__module__", "__get__")
    quiet = type("Quiet", (), sprung.members("an instance", ("__set_name__",)))
    metaclass = type("Metaclass", (type,), sprung.members("a metaclass", creation))
    classes = {
        base: type(f"Sub{base.__name__}", (base,), sprung.members(base.__name__, _QUIET.get(base, ("__set_name__",))))
        for base in (dict, list, tuple, str, bytes, functools.partial, staticmethod)
    }
    descriptor = quiet()
    return {
        "Plain": type("Plain", (), {"member": descriptor, "static": classes[staticmethod](len), "method": _shown}),
        "meta": metaclass("meta", (), {"__module__": "trapped", "method": _shown}),
        "instance": quiet(),
        "slotted": type("Slotted", (), {**sprung.members("slots", ("__dict__", "__set_name__")), "__slots__": ()})(),
        "descriptor": descriptor,
        "sub_dict": classes[dict]({1: 2}),
        "sub_list": classes[list]([1]),
        "sub_tuple": classes[tuple]([1]),
        "sub_str": classes[str]("text"),
        "sub_bytes": classes[bytes](b"text"),
        "sub_partial": classes[functools.partial](_shown, 1),
        "sub_static": classes[staticmethod](_shown),
        "Colour": enum.Enum("Colour", {"RED": 1}),
    }


def _shown(x: Any) -> Any:
    return x


def _functions(objects: dict[str, Any], module: dict[str, Any]) -> dict[str, Any]:
    """Return plain functions that reach an object through each place of a function."""
    found: dict[str, Any] = {}
    for number, item in enumerate(objects.values()):

        def in_cell(x: Any, item: Any = None, *, held: Any = item) -> Any:
            return x, held

        def wrapping(x: Any, held: Any = item) -> Any:
            return x, held

        wrapping.__dict__["__wrapped__"] = item
        # A function whose file does not exist makes linecache ask the loader of its module.
        lost = compile(f"def without_file(x): return instance, {list(objects)[number]}", "<trapped>/lost.py", "exec")
        exec(lost, module)
        closed = (lambda held: lambda x: (x, held))(item)
        for name, fn in (("in_keyword", in_cell), ("wrapping", wrapping), ("in_cell", closed)):
            found[f"{name}{number}"] = fn
        found[f"without_file{number}"] = module.pop("without_file")
        found[f"in_default{number}"] = fn = types.FunctionType(_shown.__code__, module, "in_default", (item,))
        fn.__kwdefaults__ = {"held": item}
    return found


@contextmanager
def trapped_modules() -> Iterator[tuple[Sprung, dict[str, Any], tuple[str, ...]]]:
    """Import modules of every hostile kind; give what ran, their objects, and their names."""
    sprung = Sprung()
    objects = _objects(sprung)
    kind = type("Lazy", (types.ModuleType,), sprung.members("a module", ("__dict__", "__name__", "__set_name__")))
    modules: dict[str, Any] = {
        name: types.ModuleType(name) for name in ("trapped", "trapped.inner", "torch._refs_of_eve")
    }
    modules |= {"trapped.lazy": kind("trapped.lazy"), "trapped.instance": objects["instance"], "trapped.nothing": None}
    for name, module in modules.items():
        if isinstance(type(module), type) and issubclass(type(module), types.ModuleType):
            space = types.ModuleType.__dict__["__dict__"].__get__(module)
            space.update(objects, lazy=modules["trapped.lazy"], __getattr__=sprung.method(f"{name}.__getattr__"))
            functions = _functions(objects, space)
            for each in functions.values():
                each.__module__ = name
            space.update(functions, __loader__=objects["instance"], __spec__=objects["instance"])
    sprung.clear()
    sys.modules.update(modules)
    try:
        yield sprung, objects, tuple(modules)
    finally:
        for name in modules:
            sys.modules.pop(name, None)


def references(modules: tuple[str, ...], depth: int) -> Iterator[tuple[str, str]]:
    """Give each (module, qualname) of up to so many parts."""
    functions = [f"{name}{number}" for name in _REACHING for number in range(13)]
    for module in modules:
        yield from ((module, name) for name in functions)
        for parts in range(1, depth + 1):
            yield from ((module, ".".join(names)) for names in itertools.product(NAMES, repeat=parts))
