"""Identify a Python function by its source.

A digest answers "is this the same decomposition?" across processes, Python versions and torch
builds. It covers what changes a result (statements, decorators, defaults, closure cells, partial
arguments) and leaves out what does not (annotations, docstrings, asserts, ``torch._check``, names).
Nothing that depends on an address or on the hash seed enters it.

Only the standard library is imported, and `syntax`: this file is also a part of the standalone
capture program.
"""

import ctypes
import enum
import functools
import hashlib
import json
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from decomp_ledger.live.syntax import find

MAX_SOURCE_BYTES = 64 * 1024
_MAX_TENSOR_BYTES = 16 * 1024 * 1024
_MAX_ITEMS = 4096
_MAX_DEPTH = 24

_TORCH_VALUES = frozenset({"dtype", "device", "layout", "memory_format"})


def source_digest(fn: Any) -> str | None:
    """Return the SHA-256 that identifies a callable by its source.

    Two functions have one digest when they do the same by their own text: annotations, docstrings,
    asserts and ``torch._check`` calls are left out, and so is the function's own name. Decorators,
    default values, closure cells and partial arguments count, and so does the text of a wrapper
    made with `functools.wraps`, unless it is the work of a decorator that the wrapped function's
    text names. What a function's helpers do does not count: see `helpers_digest`.

    The digest is the same on every Python from 3.10, except for a function whose text cannot be
    read (made in a REPL or by ``exec``): its code object stands in, with the version of Python.

    Args:
        fn: A function, method, partial, class or object with a Python ``__call__``.

    Returns:
        64 hex digits, or None for what has no Python source at all: C functions, torch operators.
    """
    described = None if _is_torch_operator(fn) else _Description().callable(fn)
    return None if described is None else _sha256(described)


def helpers_digest(fn: Any, depth: int = 4) -> str | None:
    """Return a digest of a callable's source and that of the Python helpers it calls.

    A helper is a Python function that the source names (as a global, a closure cell, or a dotted
    name through modules) and that belongs to the same top-level package. The wrappers that
    decorators made are none: see `wrappers_digest`. Imports inside a function are not followed,
    since what they give depends on what the process has imported.

    Args:
        fn: As for `source_digest`.
        depth: How many calls away a helper may be.

    Returns:
        64 hex digits, or None where `source_digest` gives None.
    """
    own = source_digest(fn)
    if own is None:
        return None
    layer = [function for function in _python_functions(fn) if not _is_decorator_work(function)]
    package = _package(layer[0]) if layer else ""
    reached = {id(function): function for function in layer}
    for _ in range(depth):
        called = [helper for function in layer for helper in _helpers(function, package)]
        layer = [helper for helper in called if id(helper) not in reached]
        reached.update((id(helper), helper) for helper in layer)
    return _sha256([own, *_texts(reached.values())])


def wrappers_digest(fn: Any) -> str | None:
    """Return a digest of the wrappers that decorators put around a callable.

    They are the same few for most of torch's decompositions, so a change in one of them is one
    fact and not hundreds.

    Args:
        fn: As for `source_digest`.

    Returns:
        64 hex digits, or None when no decorator left a wrapper.
    """
    wrappers = [f for f in _python_functions(fn, cells=False) if _is_decorator_work(f)]
    return _sha256(_texts(wrappers)) if wrappers else None


def source_text(fn: Any) -> str | None:
    """Return the text of a callable, for people to read.

    Args:
        fn: As for `source_digest`.

    Returns:
        The dedented text, with the names of its decorators, cut to 64 KiB; a wrapper's text comes
        before that of what it wraps. None when it cannot be read.
    """
    functions = [f for f in _python_functions(fn, cells=False) if not _is_decorator_work(f)]
    texts = [found.text for found in map(find, functions) if found is not None]
    text = "\n".join(texts).encode("utf-8", "replace")[:MAX_SOURCE_BYTES]
    return text.decode("utf-8", "ignore") or None


class _Description:
    """Describe values as nested lists of strings, in a form that JSON renders in one way only.

    It keeps the objects being described, outermost first, so that an object that contains itself
    is described by how far out it stands.
    """

    def __init__(self) -> None:
        self._open: list[int] = []

    def callable(self, fn: Any) -> list[Any] | None:
        """Describe a callable, or return None when nothing of it is Python."""
        if isinstance(fn, types.FunctionType):
            return self._within(fn, self._function)
        if isinstance(fn, functools.partial):
            return self._within(fn, self._partial)
        if isinstance(fn, types.MethodType):
            return self._within(fn, self._method)
        if (wrapped := _wrapped(fn)) is not None:
            return ["wrapper", _type_name(fn), self.callable(wrapped)]
        if isinstance(fn, type):
            return self._within(fn, self._class)
        return self._within(fn, self._called_instance) if _has_python_call(fn) else None

    def value(self, value: Any) -> list[Any]:
        """Describe a closure cell, a default or an argument."""
        plain = _plain(value)
        if plain is not None:
            return plain
        if isinstance(value, (list, tuple, dict, set, frozenset)):
            return self._within(value, self._container)
        if isinstance(value, type):
            return ["class", _qualified(value)]
        described = self.callable(value) if _is_function(value) else None
        return described or ["object", _type_name(value)]

    def state(self, fn: types.FunctionType) -> list[Any]:
        """Describe what a function holds besides its text, other functions left out."""
        cells = _cell_values(fn).items()
        held = [[name, self.value(cell)] for name, cell in cells if not _is_function(cell)]
        return [*self._defaults(fn), held]

    def _within(self, item: Any, describe: Callable[[Any], list[Any]]) -> list[Any]:
        if id(item) in self._open:
            return ["again", str(len(self._open) - self._open.index(id(item)))]
        if len(self._open) >= _MAX_DEPTH:
            return ["deep", _type_name(item)]
        self._open.append(id(item))
        try:
            return describe(item)
        finally:
            self._open.pop()

    def _function(self, fn: types.FunctionType) -> list[Any]:
        wrapped = _wrapped(fn)
        if wrapped is not None and _is_decorator_work(fn):
            # A function made anew by each call of another may be decorated with that call's values.
            held = self.state(fn) if "<locals>" in wrapped.__qualname__ else []
            inner = self.callable(wrapped)
            return ["decorated", held, inner] if held else inner or []
        cells = [[name, self.value(cell)] for name, cell in _cell_values(fn).items()]
        return ["function", _text(fn), *self._defaults(fn), cells, self.callable(wrapped)]

    def _defaults(self, fn: types.FunctionType) -> list[Any]:
        return [self.value(fn.__defaults__ or ()), self.value(fn.__kwdefaults__ or {})]

    def _partial(self, fn: "functools.partial[Any]") -> list[Any]:
        return ["partial", self.value(fn.func), self.value(fn.args), self.value(fn.keywords)]

    def _method(self, fn: types.MethodType) -> list[Any]:
        owner = fn.__self__
        described = self.callable(owner) if isinstance(owner, type) else self._instance(owner)
        return ["method", self.value(fn.__func__), described]

    def _class(self, cls: type) -> list[Any]:
        members = [(name, getattr(f, "__func__", f)) for name, f in sorted(vars(cls).items())]
        methods = [[n, self.callable(f)] for n, f in members if isinstance(f, types.FunctionType)]
        return ["class", [_qualified(base) for base in cls.__bases__], methods]

    def _called_instance(self, item: Any) -> list[Any]:
        return ["called", self.callable(type(item).__call__), self._instance(item)]

    def _instance(self, item: Any) -> list[Any]:
        return ["instance", _type_name(item), self.value(dict(getattr(item, "__dict__", {})))]

    def _container(self, items: Any) -> list[Any]:
        kind = next(t for t in (list, tuple, dict, set, frozenset) if isinstance(items, t)).__name__
        if len(items) > _MAX_ITEMS:
            return [kind, "long"]
        if isinstance(items, dict):
            pairs = [[self.value(key), self.value(item)] for key, item in items.items()]
            return [kind, *sorted(pairs, key=_json)]
        described = [self.value(item) for item in items]
        return [kind, *(described if kind in ("list", "tuple") else sorted(described, key=_json))]


def _plain(value: Any) -> list[Any] | None:
    """Describe a value that has one obvious form, else return None."""
    if value is None or value is Ellipsis or value is NotImplemented or isinstance(value, bool):
        return ["constant", str(value)]
    if isinstance(value, enum.Enum):
        return ["enum", _type_name(value), value.name]
    if type(value) is int:
        return ["int", hex(value)]
    if type(value) is float:
        return ["float", value.hex()]
    if type(value) is complex:
        return ["complex", value.real.hex(), value.imag.hex()]
    if isinstance(value, str):
        return ["str", str(value)]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if isinstance(value, types.BuiltinFunctionType):
        return ["builtin", f"{value.__module__}.{value.__qualname__}"]
    if _is_torch_operator(value) or _type_name(value).startswith("torch."):
        return _torch_value(value)
    return None


def _is_torch_operator(value: Any) -> bool:
    return any(base.__module__ == "torch._ops" for base in type(value).__mro__)


def _torch_value(value: Any) -> list[Any] | None:
    """Describe a value of torch: a tensor by its shape, dtype and bytes."""
    if _is_torch_operator(value) or type(value).__name__ in _TORCH_VALUES:
        return ["torch", str(value)]
    torch: Any = sys.modules["torch"]
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return None
    described = ["tensor", str(tuple(value.shape)), str(value.dtype)]
    size = value.numel() * value.element_size()
    dense = value.layout is torch.strided and not value.is_quantized
    if dense and value.device.type != "meta" and 0 < size <= _MAX_TENSOR_BYTES:
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        content = ctypes.string_at(plain.data_ptr(), size)
        described.append(hashlib.sha256(content).hexdigest())
    return described


def _wrapped(fn: Any) -> types.FunctionType | None:
    """Return what `functools.wraps` says a callable wraps, when that is a Python function."""
    wrapped = getattr(fn, "__wrapped__", None)
    return wrapped if isinstance(wrapped, types.FunctionType) and wrapped is not fn else None


def _is_decorator_work(fn: types.FunctionType) -> bool:
    """Tell whether a wrapper was made by a decorator that the wrapped function's text names.

    Such a wrapper is one helper more, as what it comes from is told by the text that counts. It
    stands in the definition of the decorator, or of something the decorator's definition names.
    """
    inner = list(_python_functions(fn, cells=False))[-1]
    found, wrapper = find(inner), find(fn)
    if inner is fn or found is None or wrapper is None:
        return False
    decorators = (_resolve(name, inner)[-1] for name in found.decorators)
    makers = {maker for decorator in decorators for maker in _python_functions(decorator)}
    return any(wrapper.top in _definitions(maker, near) for near in range(3) for maker in makers)


@functools.lru_cache(maxsize=4096)
def _definitions(fn: types.FunctionType, depth: int) -> frozenset[tuple[str, int]]:
    """Return where a function and what it names stand, so many names away."""
    found = find(fn)
    if found is None:
        return frozenset()
    tops = {found.top}
    for value in _named(fn) if depth else ():
        for function in _python_functions(value):
            if _package(function) == _package(fn):
                tops |= _definitions(function, depth - 1)
    return frozenset(tops)


def _texts(functions: Iterable[types.FunctionType]) -> list[str]:
    """Describe functions by their own text and what they hold, in an order of no importance."""
    return sorted({_json([_text(f), _Description().state(f)]) for f in functions})


def _text(fn: types.FunctionType) -> list[Any]:
    found = find(fn)
    return ["source", found.dump] if found else _code_description(fn.__code__)


def _code_description(code: types.CodeType) -> list[Any]:
    """Describe a function whose text cannot be read; byte code differs between Pythons."""
    constants = [
        _code_description(c) if isinstance(c, types.CodeType) else _Description().value(c) for c in code.co_consts
    ]
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return ["code", version, code.co_code.hex(), constants, [list(group) for group in names]]


def _python_functions(fn: Any, cells: bool = True) -> Iterator[types.FunctionType]:
    """Yield the Python functions that make up a callable, outermost first.

    Args:
        fn: Any callable.
        cells: Whether functions held in closure cells belong to it; a decorator's own never do.
    """
    seen: set[int] = set()
    waiting = [fn]
    while waiting:
        item = waiting.pop(0)
        if id(item) in seen or _is_torch_operator(item):
            continue
        seen.add(id(item))
        if isinstance(item, types.FunctionType):
            yield item
            if cells and not _is_decorator_work(item):
                waiting += [cell for cell in _cell_values(item).values() if _is_function(cell)]
        elif isinstance(item, functools.partial):
            waiting.append(item.func)
        elif isinstance(item, types.MethodType):
            waiting.append(item.__func__)
        elif isinstance(item, type):
            members = (vars(base) for base in item.__mro__[:-1])
            waiting += [f for member in members for f in member.values() if _is_function(f)]
        elif _has_python_call(item):
            waiting.append(type(item).__call__)
        if (wrapped := _wrapped(item)) is not None:
            waiting.append(wrapped)


def _helpers(fn: types.FunctionType, package: str) -> Iterator[types.FunctionType]:
    """Yield the Python functions of a package that a function calls by name."""
    for value in filter(_is_function, _named(fn)):
        for helper in _python_functions(value):
            if _package(helper) == package and not _is_decorator_work(helper):
                yield helper


def _named(fn: types.FunctionType) -> Iterator[Any]:
    """Yield what the names in a function's source stand for, its own variables left out.

    A name that leads through a submodule counts only if the file imports that submodule: else it
    would lead somewhere only in a process where somebody else imported it.
    """
    found = find(fn)
    names: Iterable[tuple[str, ...]] = found.names if found else zip(fn.__code__.co_names)
    local = {*fn.__code__.co_varnames, *fn.__code__.co_cellvars}
    for name in names:
        if name[0] not in local:
            *modules, value = _resolve(name, fn)
            if all(found and module.__name__ in found.imports for module in modules[1:]):
                yield value


def _resolve(name: tuple[str, ...], fn: types.FunctionType) -> list[Any]:
    """Return the modules that a dotted name in a function leads through, and where it ends."""
    first, *rest = name
    path = [_cell_values(fn).get(first, fn.__globals__.get(first))]
    while rest and isinstance(path[-1], types.ModuleType):
        path.append(vars(path[-1]).get(rest.pop(0)))
    return path


def _package(fn: types.FunctionType) -> str:
    return str(fn.__globals__.get("__name__", "")).partition(".")[0]


def _cell_values(fn: types.FunctionType) -> dict[str, Any]:
    values = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # not filled yet
            values[name] = None
    return values


def _is_function(value: Any) -> bool:
    """Tell whether a value is a Python function, in whatever wrapping; a class is none."""
    if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        return True
    return not isinstance(value, type) and _wrapped(value) is not None


def _has_python_call(item: Any) -> bool:
    return isinstance(getattr(type(item), "__call__", None), types.FunctionType)  # noqa: B004


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _type_name(value: Any) -> str:
    return _qualified(type(value))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _sha256(value: Any) -> str:
    return hashlib.sha256(_json(value).encode("ascii")).hexdigest()
