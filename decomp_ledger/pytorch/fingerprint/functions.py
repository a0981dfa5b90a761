"""Find the Python functions that a callable consists of, those that it names, and those that decorated it.

Nothing is called and no property is read, because a user can put any object into a table. Only the standard library
and `syntax` are imported, because this file is also a part of the standalone capture program.
"""

import functools
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from decomp_ledger.pytorch.fingerprint.syntax import find_source


def wrapped_by(fn: Any) -> types.FunctionType | None:
    """Return the Python function that a callable wraps according to `functools.wraps`, or None."""
    wrapped = attributes_of(fn).get("__wrapped__")
    return wrapped if is_a(wrapped, types.FunctionType) and wrapped is not fn else None


def attributes_of(value: Any) -> Mapping[str, Any]:
    """Return the attributes that an object itself has; run no code of its class.

    `vars`, `getattr` and `isinstance` would run what the class defines: `__getattribute__`, or a property `__dict__`
    or `__class__`.
    """
    if is_a(value, type):
        return _dict_of_a_class(value)
    for base in mro_of(type(value)):
        if "__dict__" in _dict_of_a_class(base):
            descriptor = _dict_of_a_class(base)["__dict__"]
            if type(descriptor) not in (types.GetSetDescriptorType, types.MemberDescriptorType):
                return {}
            found = descriptor.__get__(value)
            return found if type(found) is dict else {}
    return {}


# The descriptors of `type` and `partial` themselves, which no metaclass and no subclass replaces.
_dict_of_a_class: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__
_module_of_a_class: Callable[[type], Any] = type.__dict__["__module__"].__get__
mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
qualname_of: Callable[[type], str] = type.__dict__["__qualname__"].__get__
func_of: Callable[[Any], Any] = functools.partial.__dict__["func"].__get__


def is_a(value: Any, kinds: "type | tuple[type, ...]") -> bool:
    """Tell whether a value is an instance of classes, by its true type alone."""
    return issubclass(type(value), kinds)


def module_of_class(cls: type) -> str:
    """Return the name of the module of a class; "" if the attribute is not text."""
    return text_of(_module_of_a_class(cls))


def text_of(value: Any) -> str:
    """Return a text, or "" for any other value."""
    return value if type(value) is str else ""


def is_decorator_work(fn: types.FunctionType) -> bool:
    """Tell whether a decorator made a wrapper; the answer is computed once for each function."""
    cached = _decorator_work.get(fn)
    if cached is None:
        cached = _decorator_work[fn] = _stands_in_a_decorator(fn)
    return cached


# Weak, so that the cache keeps no function and no closure alive.
_decorator_work: "weakref.WeakKeyDictionary[types.FunctionType, bool]" = weakref.WeakKeyDictionary()


def _stands_in_a_decorator(fn: types.FunctionType) -> bool:
    """Tell whether a wrapper was made by a decorator that the wrapped function's text names.

    Such a wrapper counts as a helper, because the text that counts names where it comes from. It stands in the
    definition of the decorator, or in that of a function that the decorator's definition names.
    """
    *_, inner = python_functions(fn, cells=False)
    found, wrapper = (None, None) if inner is fn else (find_source(inner), find_source(fn))
    if found is None or wrapper is None:
        return False
    decorators = (_resolve(name, inner)[-1] for name in found.decorators)
    makers = {maker for made in decorators for maker in python_functions(made, cells=False)}
    return any(wrapper.top in _definitions(maker, near) for near in range(3) for maker in makers)


@functools.lru_cache(maxsize=1024)
def _definitions(fn: types.FunctionType, depth: int) -> frozenset[tuple[str, int]]:
    """Return the definitions of a function and of what it names, up to `depth` names away, as (file, line)."""
    found = find_source(fn)
    if found is None:
        return frozenset()
    tops = {found.top}
    for value in _named(fn) if depth else ():
        for function in python_functions(value, cells=False):
            if package_of(function) == package_of(fn):
                tops |= _definitions(function, depth - 1)
    return frozenset(tops)


def python_functions(fn: Any, cells: bool = True) -> Iterator[types.FunctionType]:
    """Yield the Python functions that make up a callable, outermost first.

    Args:
        fn: Any callable.
        cells: Whether functions in closure cells belong to it; those of a decorator's wrapper never do.
    """
    seen: set[int] = set()
    waiting = [fn]
    while waiting:
        item = waiting.pop(0)
        if id(item) in seen or is_torch_operator(item):
            continue
        seen.add(id(item))
        if is_a(item, types.FunctionType):
            yield item
            if cells and not is_decorator_work(item):
                waiting += [cell for cell in cell_values(item).values() if is_function(cell)]
        elif is_a(item, functools.partial):
            waiting.append(func_of(item))
        elif is_a(item, types.MethodType):
            waiting.append(item.__func__)
        elif is_a(item, type):
            members = (attributes_of(base) for base in mro_of(item)[:-1])
            waiting += [f for member in members for f in member.values() if is_function(f)]
        elif has_python_call(item):
            waiting.append(call_of(item))
        if (wrapped := wrapped_by(item)) is not None:
            waiting.append(wrapped)


def helpers(fn: types.FunctionType, package: str) -> Iterator[types.FunctionType]:
    """Yield the Python functions of a package that a function calls by name."""
    for value in filter(is_function, _named(fn)):
        for helper in python_functions(value):
            if package_of(helper) == package and not is_decorator_work(helper):
                yield helper


def _named(fn: types.FunctionType) -> Iterator[Any]:
    """Yield the values of the names in a function's source, without its own variables.

    A name that leads through a submodule counts only if the file imports that submodule. Otherwise its value would
    depend on what else the process imported.
    """
    found = find_source(fn)
    names: Iterable[tuple[str, ...]] = found.names if found else zip(fn.__code__.co_names)
    for name in names:
        *modules, value = _resolve(name, fn)
        if all(found and text_of(attributes_of(module).get("__name__")) in found.imports for module in modules[1:]):
            yield value


def _resolve(name: tuple[str, ...], fn: types.FunctionType) -> list[Any]:
    """Return the modules that a dotted name in a function leads through, and last its value."""
    first, *rest = name
    path = [cell_values(fn).get(first, fn.__globals__.get(first))]
    while rest and is_a(path[-1], types.ModuleType):
        path.append(attributes_of(path[-1]).get(rest.pop(0)))
    return path


def package_of(fn: types.FunctionType) -> str:
    """Return the top-level package that a function was written in, even if `wraps` changed its `__module__`."""
    return top_package(text_of(fn.__globals__.get("__name__")))


def top_package(module: str) -> str:
    """Return the top-level package of a module's name."""
    return module.partition(".")[0]


def cell_values(fn: types.FunctionType) -> dict[str, Any]:
    """Return the values of a function's closure by name; None for an empty cell."""
    values = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
        try:
            values[name] = cell.cell_contents
        except ValueError:
            values[name] = None
    return values


def is_function(value: Any) -> bool:
    """Tell whether a value is a Python function, also if it is wrapped; a class is not."""
    if is_a(value, (types.FunctionType, types.MethodType, functools.partial)):
        return True
    return not is_a(value, type) and wrapped_by(value) is not None


def has_python_call(item: Any) -> bool:
    """Tell whether an object is called through a method written in Python."""
    return is_a(call_of(item), types.FunctionType)


def call_of(item: Any) -> Any:
    """Return what the class of an object defines as `__call__`, or None."""
    classes = (attributes_of(base) for base in mro_of(type(item)))
    return next((members["__call__"] for members in classes if "__call__" in members), None)


def is_torch_operator(value: Any) -> bool:
    """Tell whether a value is an overload, a packet or a higher-order operator of torch.

    Risk: the name of the module `torch._ops`. It is compared as text, because digests are made without torch too.
    """
    return any(module_of_class(base) == "torch._ops" for base in mro_of(type(value)))
