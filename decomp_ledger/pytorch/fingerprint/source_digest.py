"""Identify a Python function by its source.

A digest answers "is this the same decomposition?" across processes, Python versions and torch builds. It covers what
changes a result (statements, decorators, defaults, closure cells, partial arguments) and leaves out what does not
(annotations, docstrings, asserts, ``torch._check``, names). No address and no hash seed affects it.

Only the standard library, `syntax` and `functions` are imported, because this file is also a part of the standalone
capture program.
"""

import ctypes
import enum
import functools
import hashlib
import json
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from decomp_ledger.pytorch.fingerprint.functions import (
    attributes_of,
    cell_values,
    func_of,
    has_python_call,
    helpers,
    is_a,
    is_decorator_work,
    is_function,
    is_torch_operator,
    module_of_class,
    mro_of,
    package_of,
    python_functions,
    qualname_of,
    text_of,
    top_package,
    wrapped_by,
)
from decomp_ledger.pytorch.fingerprint.syntax import find_source

MAX_SOURCE_BYTES = 64 * 1024
_MAX_TENSOR_BYTES = 1024 * 1024
_MAX_ITEMS = 4096
_MAX_DEPTH = 24

_TORCH_VALUES = frozenset({"dtype", "device", "layout", "memory_format", "DispatchKey"})


def source_digest(fn: Any) -> str | None:
    """Return the SHA-256 that identifies a callable by its source.

    Two functions have one digest when they do the same by their own text: annotations, docstrings, asserts and
    ``torch._check`` calls are left out, and so is the function's own name. Decorators, default values, closure cells
    and partial arguments count. So does the text of a wrapper made with `functools.wraps`, unless a decorator that the
    wrapped function's text names made it. A function's helpers do not count: see `helpers_digest`. Of an object in a
    cell only its type counts, of a tensor over 1 MiB only shape and dtype.

    The digest is the same on every Python from 3.10. The exception is a function whose text cannot be read (made in a
    REPL or by ``exec``): its digest is that of its code object and the version of Python.

    Args:
        fn: A function, method, partial, class or object with a Python ``__call__``.

    Returns:
        64 hex digits, or None for a callable without any Python source: a C function, a torch operator.
    """
    described = None if is_torch_operator(fn) else _Description().callable(fn)
    return None if described is None else _sha256(described)


def helpers_digest(fn: Any, depth: int = 4) -> str | None:
    """Return a digest of a callable's source and that of the Python helpers it calls.

    A helper is a Python function that the source names (as a global, a closure cell, or a dotted name through modules)
    and that belongs to the same top-level package. Wrappers that decorators made do not count: see `wrappers_digest`.
    Imports inside a function are not followed, because their result depends on what the process has imported.

    Args:
        fn: As for `source_digest`.
        depth: How many calls away a helper may be.

    Returns:
        64 hex digits, or None where `source_digest` gives None.
    """
    own = source_digest(fn)
    if own is None:
        return None
    layer = [function for function in python_functions(fn) if not is_decorator_work(function)]
    package = package_of(layer[0]) if layer else ""
    reached = {id(function): function for function in layer}
    for _ in range(depth):
        called = {id(helper): helper for function in layer for helper in helpers(function, package)}
        layer = [helper for key, helper in called.items() if key not in reached]
        reached |= called
    return _sha256([own, *_texts(reached.values())])


def wrappers_digest(fn: Any) -> str | None:
    """Return a digest of the wrappers that decorators put around a callable.

    Most of torch's decompositions share the same few, so a change in one of them is one fact and not hundreds.

    Args:
        fn: As for `source_digest`.

    Returns:
        64 hex digits, or None when no decorator left a wrapper.
    """
    wrappers = [f for f in python_functions(fn, cells=False) if is_decorator_work(f)]
    return _sha256(_texts(wrappers)) if wrappers else None


def source_text(fn: Any) -> str | None:
    """Return the text of a callable for display.

    Args:
        fn: As for `source_digest`.

    Returns:
        The dedented text, with the names of its decorators, cut to 64 KiB; a wrapper's text comes before that of the
        function it wraps. None when it cannot be read.
    """
    functions = [f for f in python_functions(fn, cells=False) if not is_decorator_work(f)]
    texts = [found.text for found in map(find_source, functions) if found is not None]
    text = "\n".join(texts).encode("utf-8", "replace")[:MAX_SOURCE_BYTES]
    return text.decode("utf-8", "ignore") or None


_args_of: Callable[[Any], Any] = functools.partial.__dict__["args"].__get__
_keywords_of: Callable[[Any], Any] = functools.partial.__dict__["keywords"].__get__


def _unbound(member: Any) -> Any:
    """Return the function of a static method, a class method or a method; any other member of a class itself."""
    for kind in (staticmethod, classmethod, types.MethodType):
        if is_a(member, kind):
            return kind.__dict__["__func__"].__get__(member)
    return member


class _Description:
    """Describe values as nested lists of strings, which JSON renders in one way only.

    It keeps the objects that are being described, outermost first. An object that contains itself is described by
    its distance.
    """

    def __init__(self) -> None:
        self._open: list[int] = []

    def callable(self, fn: Any) -> list[Any] | None:
        """Describe a callable; return None when no part of it is Python."""
        if is_a(fn, types.FunctionType):
            return self._within(fn, self._function)
        if is_a(fn, functools.partial):
            return self._within(fn, self._partial)
        if is_a(fn, types.MethodType):
            return self._within(fn, self._method)
        if (wrapped := wrapped_by(fn)) is not None:
            return ["wrapper", _type_name(fn), self.callable(wrapped)]
        if is_a(fn, type):
            return self._within(fn, self._class)
        return self._within(fn, self._called_instance) if has_python_call(fn) else None

    def value(self, value: Any) -> list[Any]:
        """Describe a closure cell, a default or an argument."""
        plain = _plain(value)
        if plain is not None:
            return plain
        if is_a(value, (list, tuple, dict, set, frozenset)):
            return self._within(value, self._container)
        if is_a(value, type):
            return ["class", _qualified(value)]
        described = self.callable(value) if is_function(value) else None
        return described or ["object", _type_name(value)]

    def state(self, fn: types.FunctionType) -> list[Any]:
        """Describe the values of a function besides its text, without other functions."""
        cells = cell_values(fn).items()
        held = [[name, self.value(cell)] for name, cell in cells if not is_function(cell)]
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
        wrapped = wrapped_by(fn)
        if wrapped is not None and is_decorator_work(fn):
            # A function that each call of another makes again may be decorated with that call's values.
            held = self.state(fn) if "<locals>" in wrapped.__qualname__ else []
            inner = self.callable(wrapped)
            return ["decorated", held, inner] if held else inner or []
        cells = [[name, self.value(cell)] for name, cell in cell_values(fn).items()]
        return ["function", _text(fn), *self._defaults(fn), cells, self.callable(wrapped)]

    def _defaults(self, fn: types.FunctionType) -> list[Any]:
        defaults, named = fn.__defaults__, fn.__kwdefaults__
        return [self.value(() if defaults is None else defaults), self.value({} if named is None else named)]

    def _partial(self, fn: "functools.partial[Any]") -> list[Any]:
        return ["partial", self.value(func_of(fn)), self.value(_args_of(fn)), self.value(_keywords_of(fn))]

    def _method(self, fn: types.MethodType) -> list[Any]:
        owner = fn.__self__
        described = self.callable(owner) if is_a(owner, type) else self._instance(owner)
        return ["method", self.value(fn.__func__), described]

    def _class(self, cls: type) -> list[Any]:
        package = top_package(module_of_class(cls))
        own = [base for base in mro_of(cls) if top_package(module_of_class(base)) == package]
        foreign = [_qualified(base) for base in mro_of(cls) if top_package(module_of_class(base)) != package]
        return ["class", foreign, [self._methods(base) for base in own]]

    def _methods(self, cls: type) -> list[Any]:
        members = [(name, _unbound(f)) for name, f in sorted(attributes_of(cls).items(), key=lambda each: each[0])]
        return [[n, self.callable(f)] for n, f in members if is_a(f, types.FunctionType)]

    def _called_instance(self, item: Any) -> list[Any]:
        return ["called", self._class(type(item)), self._instance(item)]

    def _instance(self, item: Any) -> list[Any]:
        return ["instance", _type_name(item), self.value(dict(attributes_of(item)))]

    def _container(self, items: Any) -> list[Any]:
        # The methods of the base, because those of a subclass may do anything.
        base: Any = next(t for t in (list, tuple, dict, set, frozenset) if is_a(items, t))
        kind = base.__name__
        if base.__len__(items) > _MAX_ITEMS:
            return [kind, "long"]
        if base is dict:
            pairs = [[self.value(key), self.value(item)] for key, item in dict.items(items)]
            return [kind, *sorted(pairs, key=_json)]
        described = [self.value(item) for item in base.__iter__(items)]
        return [kind, *(described if kind in ("list", "tuple") else sorted(described, key=_json))]


def _plain(value: Any) -> list[Any] | None:
    """Describe a value that has one obvious form, else return None."""
    if value is None or value is Ellipsis or value is NotImplemented or is_a(value, bool):
        return ["constant", str(value)]
    if is_a(value, enum.Enum):
        return ["enum", _type_name(value), text_of(attributes_of(value).get("_name_"))]
    if type(value) is int:
        return ["int", hex(value)]
    if type(value) is float:
        return ["float", value.hex()]
    if type(value) is complex:
        return ["complex", value.real.hex(), value.imag.hex()]
    if is_a(value, str):
        return ["str", str.__str__(value)]
    if is_a(value, (bytes, bytearray)):
        return ["bytes", (bytes if is_a(value, bytes) else bytearray).hex(value)]
    if is_a(value, types.ModuleType):
        return ["module", text_of(attributes_of(value).get("__name__"))]
    if is_a(value, types.BuiltinFunctionType):
        return ["builtin", f"{value.__module__}.{value.__qualname__}"]
    if is_torch_operator(value) or _type_name(value).startswith("torch."):
        return _torch_value(value)
    return None


def _torch_value(value: Any) -> list[Any] | None:
    """Describe a value of torch: a tensor by its shape, dtype and bytes."""
    if is_torch_operator(value) or type(value).__name__ in _TORCH_VALUES:
        return ["torch", str(value)]
    torch: Any = sys.modules["torch"]
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return None
    described = ["tensor", str(tuple(value.shape)), str(value.dtype), str(value.layout)]
    size = value.numel() * value.element_size()
    dense = value.layout is torch.strided and not value.is_quantized
    if dense and value.device.type != "meta" and 0 < size <= _MAX_TENSOR_BYTES:
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        content = ctypes.string_at(plain.data_ptr(), size)
        described.append(hashlib.sha256(content).hexdigest())
    return described


def _texts(functions: Iterable[types.FunctionType]) -> list[str]:
    """Describe functions by their own text and values, sorted."""
    return sorted({_json([_text(f), _Description().state(f)]) for f in functions})


def _text(fn: types.FunctionType) -> list[Any]:
    found = find_source(fn)
    return ["source", found.dump] if found else _code_description(fn.__code__)


def _code_description(code: types.CodeType) -> list[Any]:
    """Describe a function whose text cannot be read, with the version of Python, because byte code differs."""
    constants = [_code_description(c) if is_a(c, types.CodeType) else _Description().value(c) for c in code.co_consts]
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return ["code", version, code.co_code.hex(), constants, [list(group) for group in names]]


def _qualified(cls: type) -> str:
    return f"{module_of_class(cls)}.{qualname_of(cls)}"


def _type_name(value: Any) -> str:
    return _qualified(type(value))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _sha256(value: Any) -> str:
    return hashlib.sha256(_json(value).encode("ascii")).hexdigest()
