"""Our table in the place of upstream's: the same calls on both give the same results, errors and graphs.

Where they do not, upstream is plainly broken; each such call is a `Difference`, with the reason, and both its results
are asserted.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import itertools
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._decomp import register_decomposition, remove_decompositions
from torch.export import CustomDecompTable
from torch.library import Library

from decomp_ledger import DecompTable, Ledger, PendingOpWarning, UnknownOp, UnusableValue, VersionConflict

aten = torch.ops.aten
LINEAR, MM, SILU = aten.linear.default, aten.mm.default, aten.silu.default
SCHEMA = "(Tensor x) -> Tensor"
UPSTREAM, OURS = "upstream", "ours"


def double(x: torch.Tensor) -> torch.Tensor:
    """Be the kernel of the scene's ops."""
    return x * 2


def squared(x: torch.Tensor, *args: Any) -> torch.Tensor:
    """Be a decomposition that is not a default."""
    return x * x


plus_one = lambda x: x + 1  # noqa: E731


@dataclass
class Scene:
    """What the calls are made on: a library of one test, and how to load more.

    Attributes:
        library: has `double`, which decomposes, and `plain`, which does not.
        make_library: makes another one.
    """

    library: Library
    make_library: Callable[..., Library]
    double: Any = field(init=False)
    plain: Any = field(init=False)

    def __post_init__(self) -> None:
        self.library.define("double" + SCHEMA)
        self.library.impl("double", double, "CompositeImplicitAutograd")
        self.library.define("plain" + SCHEMA)
        self.library.impl("plain", double, "CPU")
        self.double, self.plain = self.op("double"), self.op("plain")

    @property
    def namespace(self) -> str:
        """Of the scene's own ops."""
        return str(self.library.ns)

    def op(self, name: str) -> Any:
        """Return the live operator of the scene."""
        return getattr(getattr(torch.ops, self.namespace), name).default

    def load(self, name: str, namespace: str | None = None) -> Library:
        """Load one more library with an op that decomposes."""
        library = self.make_library(namespace or self.namespace)
        library.define(name + SCHEMA)
        library.impl(name, double, "CompositeImplicitAutograd")
        return library


@pytest.fixture
def scene(library: Library, make_library: Callable[..., Library]) -> Scene:
    """A scene of this test alone."""
    return Scene(library, make_library)


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def shared_ledger() -> Iterator[Ledger]:
    """A ledger in memory, since there are many tables here and none is looked at twice."""
    with Ledger(":memory:") as opened:
        yield opened


@pytest.fixture
def make_table(shared_ledger: Ledger) -> Callable[[str], Any]:
    """Make a new table of either class."""
    ledger = shared_ledger
    return lambda which: CustomDecompTable() if which == UPSTREAM else ledger.table(f"t{next(_numbers)}")


def named(value: Any) -> Any:
    """Name operators and torch's partials, which are new at each asking, so that two results can be compared."""
    if isinstance(value, functools.partial) and "kernel" in value.keywords:
        return f"the kernel of {value.keywords['kernel'].name()}"
    if isinstance(value, torch._ops.OperatorBase):
        return value.name()
    if isinstance(value, dict):
        return {named(key): named(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(named, value))
    return value


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    """Return what a call returned, or what it raised."""
    try:
        return "returned", named(call(*args))
    except Exception as error:
        return "raised", type(error), str(error)


# --- the same on both ------------------------------------------------------------------------------------------------

CALLS: list[Callable[[Any, Scene], Any]] = []


def call(fn: Callable[[Any, Scene], Any]) -> Callable[[Any, Scene], Any]:
    """Enter a function among the calls whose results and effects are the same on both classes."""
    CALLS.append(fn)
    return fn


@call
def pop(t: Any, scene: Scene) -> Any:
    return t.pop(LINEAR), t.pop(SILU), LINEAR in t


@call
def pop_with_a_default(t: Any, scene: Scene) -> Any:
    return t.pop(LINEAR, None), t.pop(SILU, "default"), SILU in t


@call
def pop_aten_absent(t: Any, scene: Scene) -> Any:
    return t.pop(MM)


@call
def pop_aten_absent_with_a_default(t: Any, scene: Scene) -> Any:
    return t.pop(MM, None), t.pop(MM, "default")


@call
def pop_aten_twice(t: Any, scene: Scene) -> Any:
    t.pop(LINEAR)
    return t.pop(LINEAR)


@call
def pop_aten_twice_with_a_default(t: Any, scene: Scene) -> Any:
    t.pop(LINEAR)
    return t.pop(LINEAR, None)


@call
def pop_custom_before_a_read(t: Any, scene: Scene) -> Any:
    return callable(t.pop(scene.double)), scene.double in t


@call
def pop_custom_before_a_read_with_a_default(t: Any, scene: Scene) -> Any:
    return t.pop(scene.double, None) is not None, scene.double in t


@call
def pop_custom_after_a_read(t: Any, scene: Scene) -> Any:
    return len(t) > 0, t.pop(scene.double), scene.double in t


@call
def pop_custom_after_a_read_with_a_default(t: Any, scene: Scene) -> Any:
    return len(t) > 0, t.pop(scene.double, None), scene.double in t


@call
def pop_custom_twice(t: Any, scene: Scene) -> Any:
    t.pop(scene.double)
    return t.pop(scene.double)


@call
def pop_custom_twice_with_a_default(t: Any, scene: Scene) -> Any:
    return callable(t.pop(scene.double, None)), t.pop(scene.double, None), t.pop(scene.double, "default")


@call
def pop_custom_absent(t: Any, scene: Scene) -> Any:
    return callable(t.pop(scene.plain)), scene.plain in t


@call
def pop_custom_absent_with_a_default(t: Any, scene: Scene) -> Any:
    return callable(t.pop(scene.plain, None)), t.pop(scene.plain, None)


@call
def pop_custom_absent_twice(t: Any, scene: Scene) -> Any:
    t.pop(scene.plain)
    return t.pop(scene.plain)


@call
def pop_what_was_set(t: Any, scene: Scene) -> Any:
    t[MM] = t[scene.plain] = squared
    return t.pop(MM), t.pop(scene.plain), MM in t, scene.plain in t


@call
def delete(t: Any, scene: Scene) -> Any:
    del t[LINEAR], t[scene.double]
    return LINEAR in t, scene.double in t


@call
def delete_aten_absent(t: Any, scene: Scene) -> Any:
    del t[MM]


@call
def delete_aten_twice(t: Any, scene: Scene) -> Any:
    del t[LINEAR]
    del t[LINEAR]


@call
def delete_custom_absent(t: Any, scene: Scene) -> Any:
    del t[scene.plain]


@call
def delete_custom_twice(t: Any, scene: Scene) -> Any:
    del t[scene.double]
    del t[scene.double]


@call
def get_item(t: Any, scene: Scene) -> Any:
    return t[LINEAR], t[SILU], t[scene.double]


@call
def get_item_aten_absent(t: Any, scene: Scene) -> Any:
    return t[MM]


@call
def get_item_custom_absent(t: Any, scene: Scene) -> Any:
    return t[scene.plain]


@call
def get_item_of_a_packet(t: Any, scene: Scene) -> Any:
    return t[aten.linear]


@call
def get_item_of_another_object(t: Any, scene: Scene) -> Any:
    return t[None]


@call
def set_item(t: Any, scene: Scene) -> Any:
    t[LINEAR] = t[MM] = t[scene.double] = squared
    return t[LINEAR], t[MM], t[scene.double]


@call
def set_item_to_another_op(t: Any, scene: Scene) -> Any:
    t[scene.plain] = SILU
    return t[scene.plain]


@call
def set_item_to_a_lambda(t: Any, scene: Scene) -> Any:
    t[SILU] = plus_one
    return t[SILU]


@call
def set_item_to_what_it_is(t: Any, scene: Scene) -> Any:
    t[LINEAR] = t[LINEAR]
    t[SILU] = t[SILU]
    return t[LINEAR], t[SILU]


@call
def set_item_after_pop(t: Any, scene: Scene) -> Any:
    t.pop(scene.double)
    t.pop(LINEAR)
    t[scene.double] = t[LINEAR] = squared
    return t[scene.double], t[LINEAR]


@call
def contains(t: Any, scene: Scene) -> Any:
    return LINEAR in t, MM in t, scene.double in t, scene.plain in t


@call
def contains_another_object(t: Any, scene: Scene) -> Any:
    return "no op" in t, None in t, aten.linear in t, 1 in t


@call
def length(t: Any, scene: Scene) -> Any:
    before = len(t)
    t.pop(LINEAR)
    t[MM] = squared
    t.pop(scene.double)
    return before, len(t)


@call
def truth(t: Any, scene: Scene) -> Any:
    return bool(t)


@call
def iterate(t: Any, scene: Scene) -> Any:
    return sorted(op.name() for op in t)


@call
def iterate_backwards(t: Any, scene: Scene) -> Any:
    return [op.name() for op in reversed(t)] == [op.name() for op in t][::-1]


@call
def iterate_and_delete(t: Any, scene: Scene) -> Any:
    for op in t:
        if op is LINEAR:
            del t[op]


@call
def iterate_and_set(t: Any, scene: Scene) -> Any:
    for op in t:
        if op is LINEAR:
            t[op] = squared


@call
def keys(t: Any, scene: Scene) -> Any:
    found = t.keys()
    return LINEAR in found, MM in found, len(found), sorted(op.name() for op in found & {LINEAR, MM, scene.double})


@call
def keys_are_a_live_view(t: Any, scene: Scene) -> Any:
    found = t.keys()
    t.pop(LINEAR)
    t[MM] = squared
    return LINEAR in found, MM in found


@call
def items(t: Any, scene: Scene) -> Any:
    return dict(t.items()), len(t.items()), (SILU, t[SILU]) in t.items()


@call
def items_are_a_live_view(t: Any, scene: Scene) -> Any:
    found = t.items()
    t[LINEAR] = squared
    return (LINEAR, squared) in found


@call
def update(t: Any, scene: Scene) -> Any:
    return t.update({LINEAR: squared, MM: squared, scene.double: squared, scene.plain: squared})


@call
def update_with_nothing(t: Any, scene: Scene) -> Any:
    return t.update({})


@call
def update_after_pop(t: Any, scene: Scene) -> Any:
    t.pop(LINEAR)
    t.pop(scene.double)
    t.update({LINEAR: squared, scene.double: squared})
    return t[LINEAR], t[scene.double]


@call
def update_with_a_table(t: Any, scene: Scene) -> Any:
    other = t.copy()
    other.pop(SILU)
    other[LINEAR] = squared
    t.update(other)
    return t[LINEAR], SILU in t


@call
def copy_it(t: Any, scene: Scene) -> Any:
    t.pop(SILU)
    fork = t.copy()
    fork.pop(LINEAR)
    fork[MM] = squared
    t.pop(scene.double)
    return type(fork) is type(t), dict(fork), LINEAR in t, MM in t


@call
def copy_of_a_copy(t: Any, scene: Scene) -> Any:
    t.pop(scene.double)
    return dict(t.copy().copy())


@call
def copy_deeply(t: Any, scene: Scene) -> Any:
    fork = copy.deepcopy(t)
    fork.pop(SILU)
    return SILU in t, SILU in fork


@call
def to_a_dict(t: Any, scene: Scene) -> Any:
    t.pop(LINEAR)
    plain = dict(t)
    plain.pop(SILU)
    return type(plain), plain, SILU in t


@call
def unpack(t: Any, scene: Scene) -> Any:
    t[MM] = squared
    return {**t}, {**t, LINEAR: squared}


@call
def update_of_a_dict(t: Any, scene: Scene) -> Any:
    plain = {LINEAR: squared, MM: squared}
    plain.update(t)
    other = dict(t)
    other.update({SILU: squared})
    return plain, other


@call
def a_dict_or_it(t: Any, scene: Scene) -> Any:
    return type({MM: squared} | t), {MM: squared, LINEAR: squared} | t


@call
def list_keys_and_delete(t: Any, scene: Scene) -> Any:
    for op in list(t.keys()):
        if op.name().startswith(("aten::max", "aten::l", scene.namespace)):
            del t[op]
    return len(t)


@call
def remove_decompositions_of_overloads(t: Any, scene: Scene) -> Any:
    return remove_decompositions(t, [LINEAR, MM, scene.double])


@call
def remove_decompositions_of_packets(t: Any, scene: Scene) -> Any:
    packets = [aten.linear, aten.mm, aten.addcmul, getattr(torch.ops, scene.namespace).double]
    return remove_decompositions(t, packets)


@call
def register_decomposition_of_an_overload(t: Any, scene: Scene) -> Any:
    return register_decomposition([MM, scene.plain], registry=t)(squared)


@call
def register_decomposition_of_a_packet(t: Any, scene: Scene) -> Any:
    return register_decomposition(aten.mm, registry=t)(squared)


@call
def register_decomposition_twice(t: Any, scene: Scene) -> Any:
    return register_decomposition(LINEAR, registry=t)(squared)


@call
def materialize(t: Any, scene: Scene) -> Any:
    t.pop(LINEAR)
    t.pop(scene.double)
    t[MM] = squared
    plain = t.materialize()
    names = named(plain)
    plain.clear()
    return type(plain), names, SILU in t


@call
def are_instances(t: Any, scene: Scene) -> Any:
    return isinstance(t, CustomDecompTable), isinstance(t, dict)


@call
def hash_it(t: Any, scene: Scene) -> Any:
    try:
        return hash(t)
    except TypeError:
        return "unhashable"


@call
def higher_order_operator_as_a_key(t: Any, scene: Scene) -> Any:
    cond = torch.ops.higher_order.cond
    before = cond in t
    t[cond] = squared
    return before, t[cond], cond in t, t.pop(cond), cond in t


@call
def higher_order_operator_popped_while_absent(t: Any, scene: Scene) -> Any:
    cond = torch.ops.higher_order.cond
    return callable(t.pop(cond)), t.pop(cond, None), cond in t


@pytest.mark.parametrize("fn", CALLS, ids=lambda fn: fn.__name__)
def test_a_call_gives_what_upstream_gives(fn: Any, scene: Scene, make_table: Callable[[str], Any]) -> None:
    upstream, ours = make_table(UPSTREAM), make_table(OURS)
    expected = outcome(fn, upstream, scene)
    actual = outcome(fn, ours, scene)
    assert expected == actual
    assert named(dict(upstream)) == named(dict(ours))


READS: dict[str, Callable[[Any], Any]] = {
    "t[k]": lambda t: t[LINEAR],
    "t[k], k absent": lambda t: outcome(t.__getitem__, MM),
    "k in t": lambda t: LINEAR in t,
    "k in t, k absent": lambda t: MM in t,
    "len": len,
    "bool": bool,
    "iter": iter,
    "reversed": reversed,
    "keys": lambda t: t.keys(),
    "items": lambda t: t.items(),
    "dict": dict,
    "{**t}": lambda t: {**t},
    "materialize": lambda t: t.materialize(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_has_materialized_is_true_after_a_read(read: Any, make_table: Callable[[str], Any]) -> None:
    upstream, ours = make_table(UPSTREAM), make_table(OURS)
    read(upstream)
    read(ours)
    assert (upstream.has_materialized, ours.has_materialized) == (True, True)
    assert (upstream.copy().has_materialized, ours.copy().has_materialized) == (True, True)


# --- deliberate differences: upstream is wrong -----------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A call whose results differ.

    Attributes:
        name: of the call.
        bug: what is wrong upstream.
        call: made on a table of each class.
        upstream: what it gives there.
        ours: what it gives here.
    """

    name: str
    bug: str
    call: Callable[[Any, Scene], Any]
    upstream: Any
    ours: Any


DIFFERENCES: list[Difference] = []


def difference(bug: str, *, upstream: Any, ours: Any) -> Callable[[Any], Any]:
    """Enter a function among the deliberate differences; what it raises is given as its class."""

    def enter(fn: Callable[[Any, Scene], Any]) -> Any:
        DIFFERENCES.append(Difference(fn.__name__, bug, fn, upstream, ours))
        return fn

    return enter


@difference("get() looks into the empty dict storage", upstream=None, ours="the kernel of aten::linear")
def get(t: Any, scene: Scene) -> Any:
    return t.get(LINEAR)


@difference("get() looks into the empty dict storage", upstream="default", ours="the kernel of aten::linear")
def get_with_a_default(t: Any, scene: Scene) -> Any:
    return t.get(LINEAR, "default")


@difference("values() are those of the empty dict storage", upstream=(0, False), ours=(0, True))
def values(t: Any, scene: Scene) -> Any:
    found = t.values()
    return len(t) - len(found) if found else 0, t[SILU] in found


@difference("repr() shows the empty dict storage", upstream=True, ours=False)
def show(t: Any, scene: Scene) -> Any:
    return repr(t) == "{}"


@difference("== compares the empty dict storage", upstream=(True, False), ours=(False, True))
def equals_nothing(t: Any, scene: Scene) -> Any:
    return t == {}, t != {}


@difference("== compares the empty dict storage", upstream=(False, False), ours=(True, True))
def equals_its_dict(t: Any, scene: Scene) -> Any:
    plain = dict(t)
    return t == plain, plain == t


@difference("== compares the empty dict storages", upstream=(True, False), ours=(False, True))
def equals_a_changed_copy(t: Any, scene: Scene) -> Any:
    changed = t.copy()
    changed.pop(LINEAR)
    return t == changed, t != changed


@difference("| copies the empty dict storage", upstream=(False, True), ours=(True, True))
def or_a_dict(t: Any, scene: Scene) -> Any:
    union = t | {MM: squared}
    return SILU in union, union[MM] is squared


@difference("|= writes into the dict storage, which nothing reads", upstream=False, ours=True)
def or_in_place(t: Any, scene: Scene) -> Any:
    t |= {SILU: squared}
    return t[SILU] is squared


@difference("setdefault() looks into the empty dict storage", upstream=(True, True), ours=(False, True))
def set_default_of_what_is_there(t: Any, scene: Scene) -> Any:
    before = t[SILU]
    return t.setdefault(SILU, squared) is squared, t[SILU] is before


@difference("setdefault() writes into the dict storage", upstream=(True, False), ours=(True, True))
def set_default_of_what_is_not(t: Any, scene: Scene) -> Any:
    return t.setdefault(MM, squared) is squared, MM in t


@difference("clear() clears the dict storage, which is empty", upstream=False, ours=True)
def clear(t: Any, scene: Scene) -> Any:
    t.clear()
    return len(t) == 0


@difference("popitem() looks into the empty dict storage", upstream=KeyError, ours=(True, 1))
def pop_item(t: Any, scene: Scene) -> Any:
    last = list(t)[-1]
    before = len(t)
    op, fn = t.popitem()
    return op is last and callable(fn) and op not in t, before - len(t)


@difference("update() wants a mapping", upstream=AttributeError, ours=True)
def update_with_pairs(t: Any, scene: Scene) -> Any:
    t.update([(LINEAR, squared), (MM, squared)])
    return t[LINEAR] is t[MM] is squared


@difference("update() takes no keywords", upstream=TypeError, ours=True)
def update_with_keywords(t: Any, scene: Scene) -> Any:
    t.update({MM: squared}, **{"aten::linear": squared})
    return t[LINEAR] is t[MM] is squared


@difference("update() wants an argument", upstream=TypeError, ours=None)
def update_with_no_argument(t: Any, scene: Scene) -> Any:
    return t.update()


@difference("pop() gives None for whatever it does not expect", upstream=(None, None), ours=TypeError)
def pop_with_wrong_arguments(t: Any, scene: Scene) -> Any:
    return t.pop(), t.pop(LINEAR, None, None)


@difference("copy.copy() shares the entries with the original", upstream=False, ours=True)
def copy_by_the_copy_module(t: Any, scene: Scene) -> Any:
    copy.copy(t).pop(LINEAR)
    return LINEAR in t


@difference("PyDict_Size() sees the empty dict storage", upstream=0, ours="len")
def size_in_c(t: Any, scene: Scene) -> Any:
    size = ctypes.pythonapi.PyDict_Size(ctypes.py_object(t))
    return "len" if size == len(t) else size


@difference("PyDict_Contains() sees the empty dict storage", upstream=(0, 0), ours=(1, 0))
def contains_in_c(t: Any, scene: Scene) -> Any:
    has = ctypes.pythonapi.PyDict_Contains
    return tuple(has(ctypes.py_object(t), ctypes.py_object(op)) for op in (LINEAR, MM))


@difference("PyDict_GetItem() sees the empty dict storage", upstream=None, ours="squared")
def get_item_in_c(t: Any, scene: Scene) -> Any:
    t[LINEAR] = squared
    look_up = ctypes.pythonapi.PyDict_GetItem
    look_up.restype = ctypes.c_void_p
    address = look_up(ctypes.py_object(t), ctypes.py_object(LINEAR))
    return "squared" if address == id(squared) else address


@difference("PyDict_Copy() and PyDict_Keys() see the empty dict storage", upstream=(0, 0), ours=(0, 0, "all"))
def copy_in_c(t: Any, scene: Scene) -> Any:
    t.pop(LINEAR)
    api = ctypes.pythonapi
    api.PyDict_Copy.restype = api.PyDict_Keys.restype = ctypes.py_object
    copied, listed = api.PyDict_Copy(ctypes.py_object(t)), api.PyDict_Keys(ctypes.py_object(t))
    if not copied:
        return len(copied), len(listed)
    return len(t) - len(copied), len(t) - len(listed), "all" if set(copied) == set(t) else "others"


@difference("the content is there only after the first read", upstream=(False, False), ours=(True, True))
def has_materialized_before_a_read(t: Any, scene: Scene) -> Any:
    return t.has_materialized, t.copy().has_materialized


@difference("materialize() forgets what was popped", upstream=True, ours=False)
def popped_and_materialized_twice(t: Any, scene: Scene) -> Any:
    t.pop(scene.double)
    t.materialize()
    return scene.double in t.materialize()


@difference("a read, then materialize(), forgets what was popped", upstream=(False, True), ours=(False, False))
def popped_read_and_materialized(t: Any, scene: Scene) -> Any:
    t.pop(scene.double)
    return scene.double in t, scene.double in t.materialize()


@difference("a copy of a table that was read forgets what was popped", upstream=True, ours=False)
def popped_read_copied_and_materialized(t: Any, scene: Scene) -> Any:
    t.pop(scene.double)
    assert scene.double not in t
    return scene.double in t.copy().materialize()


@difference("once it was popped and materialized, it can be popped again", upstream=(True, True), ours=(True, KeyError))
def popped_again_after_a_read(t: Any, scene: Scene) -> Any:
    first = callable(t.pop(scene.plain))
    assert scene.plain not in t
    try:
        return first, callable(t.pop(scene.plain))
    except KeyError as error:
        return first, type(error)


@difference("an op loaded after a read never enters", upstream=(False, False), ours=(True, True))
def loaded_after_a_read(t: Any, scene: Scene) -> Any:
    assert len(t) > 0
    scene.load("late")
    return scene.op("late") in t, scene.op("late") in dict(t)


@difference("an op loaded after a read never enters", upstream=KeyError, ours=True)
def loaded_after_a_read_and_looked_up(t: Any, scene: Scene) -> Any:
    assert len(t) > 0
    scene.load("late")
    return callable(t[scene.op("late")])


@difference("an op unloaded after a read stays, and calling it crashes", upstream=True, ours=False)
def unloaded_after_a_read(t: Any, scene: Scene) -> Any:
    library = scene.load("early")
    op = scene.op("early")
    assert op in t
    library._destroy()
    return op in dict(t)


@difference("an op unloaded after a read stays, and calling it crashes", upstream=True, ours=False)
def unloaded_and_asked_for(t: Any, scene: Scene) -> Any:
    library = scene.load("early")
    op = scene.op("early")
    assert op in t
    library._destroy()
    return op in t


@difference("an op unloaded after a read stays, and calling it crashes", upstream=True, ours=KeyError)
def unloaded_and_looked_up(t: Any, scene: Scene) -> Any:
    library = scene.load("early")
    op = scene.op("early")
    assert op in t
    library._destroy()
    return callable(t[op])


@difference("a key outlives its operator", upstream=(True, False), ours=(False, True))
def registered_again_after_a_read(t: Any, scene: Scene) -> Any:
    library = scene.load("early")
    old = scene.op("early")
    assert old in t
    library._destroy()
    scene.load("early")
    return old in dict(t), scene.op("early") in dict(t)


@difference("what is popped is the operator, not the op: registered again, it is back", upstream=True, ours=False)
def popped_and_registered_again(t: Any, scene: Scene) -> Any:
    library = scene.load("early")
    t.pop(scene.op("early"))
    library._destroy()
    scene.load("early")
    return scene.op("early") in t


@difference("an op that is not loaded cannot be popped", upstream=AttributeError, ours=False)
def pop_what_is_not_loaded(t: Any, scene: Scene) -> Any:
    t.pop(f"{scene.namespace}::late")
    scene.load("late")
    return scene.op("late") in t


@difference("a name is stored as it is, and means nothing", upstream=False, ours=True)
def set_what_is_not_loaded(t: Any, scene: Scene) -> Any:
    t[f"{scene.namespace}::late"] = squared
    scene.load("late")
    return t[scene.op("late")] is squared


@difference("an op added to aten late is never seen", upstream=False, ours=True)
def loaded_into_aten(t: Any, scene: Scene) -> Any:
    name = f"{scene.namespace}_late"
    library = scene.load(name, "aten")
    try:
        table = CustomDecompTable() if type(t) is CustomDecompTable else t
        return getattr(aten, name).default in table
    finally:
        library._destroy()


@difference("pop() of a packet asks it for its name", upstream=AttributeError, ours=(True, False, False))
def pop_a_packet(t: Any, scene: Scene) -> Any:
    overloads = [op for op in t if op.name().partition(".")[0] == "aten::addcmul"]
    return len(overloads) > 1, t.pop(aten.addcmul) is None, any(op in t for op in overloads)


@difference("del of a packet asks it for its name", upstream=AttributeError, ours=False)
def delete_a_packet(t: Any, scene: Scene) -> Any:
    del t[aten.linear]
    return LINEAR in t


@difference("a packet is stored as it is, and means nothing", upstream=False, ours=True)
def set_a_packet(t: Any, scene: Scene) -> Any:
    t[aten.linear] = squared
    return t[LINEAR] is squared


@difference("a name means nothing", upstream=False, ours=True)
def a_name_is_in(t: Any, scene: Scene) -> Any:
    return "linear" in t


@difference("a name means nothing", upstream=KeyError, ours="the kernel of aten::linear")
def get_by_a_name(t: Any, scene: Scene) -> Any:
    return t["aten::linear"]


@difference("an object that is not an op is stored, and fails in the export", upstream=None, ours=UnusableValue)
def set_another_object(t: Any, scene: Scene) -> Any:
    t[42] = squared


@difference("what is not callable is stored, and fails in the export", upstream=None, ours=UnusableValue)
def set_to_what_is_not_callable(t: Any, scene: Scene) -> Any:
    t[LINEAR] = 42


@pytest.mark.parametrize("which", [UPSTREAM, OURS])
@pytest.mark.parametrize("known", DIFFERENCES, ids=lambda known: known.name)
def test_a_difference_is_a_bug_upstream(
    known: Difference, which: str, scene: Scene, make_table: Callable[[str], Any]
) -> None:
    result = outcome(known.call, make_table(which), scene)
    actual = result[1]
    expected = known.upstream if which == UPSTREAM else known.ours
    assert expected == actual, known.bug


def test_a_table_cannot_be_pickled_and_says_what_to_do(make_table: Callable[[str], Any]) -> None:
    upstream, ours = make_table(UPSTREAM), make_table(OURS)
    with pytest.raises(Exception) as theirs:
        pickle.loads(pickle.dumps(upstream)).pop(LINEAR)
    assert "table" not in str(theirs.value)
    with pytest.raises(UnusableValue, match=r"cannot be pickled.*open the table by its name"):
        pickle.dumps(ours)


# --- exports ---------------------------------------------------------------------------------------------------------


class Model(torch.nn.Module):
    """Uses an op that decomposes by kernel, one by Python, and a custom one."""

    def __init__(self, custom: Any) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.custom = custom

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.custom(torch.nn.functional.silu(self.linear(x)))


@pytest.fixture
def program(scene: Scene) -> torch.export.ExportedProgram:
    """An exported model that uses the scene's op."""
    return torch.export.export(Model(scene.double), (torch.ones(2, 4),))


def is_loaded(op: Any) -> bool:
    """Tell whether the dispatcher has an operator, which a packet may have for TorchScript alone."""
    return bool(torch._C._dispatch_has_kernel(op.name()))


def targets(program: torch.export.ExportedProgram) -> list[str]:
    """Return the ops of a program's graph, in order."""
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@dataclass(frozen=True)
class Edit:
    """An edit of a table, and what it does to the graph.

    Attributes:
        name: of the edit.
        make: makes it.
        kept: ops that are in the graph because of it.
    """

    name: str
    make: Callable[[Any, Scene], Any]
    kept: set[str]


EDITS = [
    Edit("none", lambda t, scene: None, set()),
    Edit("an aten op popped", lambda t, scene: t.pop(LINEAR), {"aten.linear.default"}),
    Edit("a custom op popped", lambda t, scene: t.pop(scene.double), {"custom"}),
    Edit("a custom op given a function", lambda t, scene: t.update({scene.double: squared, SILU: squared}), set()),
    Edit(
        "all but one deleted",
        lambda t, scene: [t.pop(op) for op in list(t) if op is not LINEAR],
        {"aten.silu.default", "custom"},
    ),
    Edit(
        "removed by packets",
        lambda t, scene: remove_decompositions(t, [aten.linear, aten.silu]),
        {"aten.linear.default", "aten.silu.default"},
    ),
    Edit("a copy popped", lambda t, scene: t.copy().pop(LINEAR), set()),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_an_export_gives_the_graph_that_upstream_gives(
    edit: Edit, scene: Scene, program: torch.export.ExportedProgram, make_table: Callable[[str], Any]
) -> None:
    upstream, ours = make_table(UPSTREAM), make_table(OURS)
    edit.make(upstream, scene)
    edit.make(ours, scene)
    expected = program.run_decompositions(upstream)
    actual = program.run_decompositions(ours)
    assert str(expected.graph) == str(actual.graph)
    assert expected.graph_module.code == actual.graph_module.code
    assert str(expected.graph_signature) == str(actual.graph_signature)
    custom = f"{scene.namespace}.double.default"
    kept = {"aten.linear.default", "aten.silu.default", custom} & set(targets(actual))
    assert edit.kept == {"custom" if name == custom else name for name in kept}


@dataclass(frozen=True)
class Stale:
    """An export that goes wrong with upstream's table.

    Attributes:
        prepare: what is done to the table, and to the scene, before.
        kept_upstream: whether the custom op is in the graph with upstream's table.
        kept_here: whether it is with ours.
    """

    prepare: Callable[[Any, Scene], Any]
    kept_upstream: bool
    kept_here: bool


STALE = {
    "loaded after a read": Stale(lambda t, scene: (len(t), scene.load("late")), True, False),
    "popped, then materialized twice": Stale(
        lambda t, scene: (scene.load("late"), t.pop(scene.op("late")), t.materialize(), t.materialize()), False, True
    ),
}


@pytest.mark.parametrize("which", [UPSTREAM, OURS])
@pytest.mark.parametrize("stale", STALE.values(), ids=STALE)
def test_an_export_follows_the_table_where_upstream_forgets(
    stale: Stale, which: str, scene: Scene, make_table: Callable[[str], Any]
) -> None:
    table = make_table(which)
    stale.prepare(table, scene)
    late = scene.op("late")
    exported = torch.export.export(Model(late), (torch.ones(2, 4),)).run_decompositions(table)
    kept = f"{scene.namespace}.late.default" in targets(exported)
    assert (stale.kept_upstream if which == UPSTREAM else stale.kept_here) == kept


def test_an_op_popped_unloaded_and_registered_again_is_preserved(
    scene: Scene, make_table: Callable[[str], Any]
) -> None:
    library = scene.load("early")
    table = make_table(OURS)
    table.pop(scene.op("early"))
    table.materialize()
    library._destroy()
    table.materialize()
    scene.load("early")
    exported = torch.export.export(Model(scene.op("early")), (torch.ones(2, 4),)).run_decompositions(table)
    assert f"{scene.namespace}.early.default" in targets(exported)


def test_a_past_version_can_be_exported_with(
    scene: Scene, program: torch.export.ExportedProgram, make_table: Callable[[str], Any]
) -> None:
    table = make_table(OURS)
    table.pop(LINEAR)
    table[LINEAR] = squared
    assert "aten.linear.default" in targets(program.run_decompositions(table.at(2)))
    assert "aten.addmm.default" in targets(program.run_decompositions(table.at(1)))


# --- what only ours can do, on the same dict -------------------------------------------------------------------------


@pytest.fixture
def table(ledger: Ledger) -> Iterator[DecompTable]:
    """A new table of ours."""
    return ledger.table("edge")


def test_keys_may_be_names(table: DecompTable) -> None:
    spellings = ("aten::linear", "aten.linear.default", "torch.ops.aten.linear.default", LINEAR)
    assert {named(table[spelling]) for spelling in spellings} == {"the kernel of aten::linear"}
    assert all(spelling in table for spelling in spellings)
    assert all(table.get(spelling) is not None for spelling in spellings)
    for spelling in spellings:
        table.reset(LINEAR)
        del table[spelling]
        assert LINEAR not in table


def test_keys_are_operators_however_they_were_given(table: DecompTable) -> None:
    table["aten::mm"] = squared
    table.update({"aten.linear.default": squared})
    assert {op for op, fn in table.items() if fn is squared} == {MM, LINEAR}


def test_what_pop_of_an_op_not_loaded_returns_decomposes_it_once_it_is(table: DecompTable, scene: Scene) -> None:
    later = table.pop(f"{scene.namespace}::late")
    with pytest.raises(ValueError, match=f"{scene.namespace}::late: it is not loaded"):
        later(torch.ones(2))
    scene.load("late")
    assert torch.equal(later(torch.ones(2)), torch.full((2,), 2.0))
    assert f"{scene.namespace}::late" in repr(later)


@pytest.mark.filterwarnings("error")
def test_a_packet_means_the_overloads_that_the_dispatcher_has(table: DecompTable) -> None:
    packets = (aten.addcmul, aten.add)  # aten.add has overloads that are TorchScript's alone
    table.preserve(*packets)
    assert not [op for op in table if op.name().partition(".")[0] in ("aten::addcmul", "aten::add")]
    overloads = [getattr(packet, name) for packet in packets for name in packet.overloads()]
    loaded = [op.name() for op in overloads if is_loaded(op)]
    assert table.state.rules.keys() == set(loaded)
    assert table.pending == ()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "text", ["aten.frobenius_norm", "aten::frobenius_norm", "frobenius_norm", "torch.ops.aten.frobenius_norm"]
)
def test_the_name_of_a_family_means_its_overloads(table: DecompTable, text: str) -> None:
    assert text in table and table[text] is table[aten.frobenius_norm.dim]
    assert table.pop(text).keys() == {"aten::frobenius_norm.dim"}
    assert table.pending == () and text not in table
    table.reset(text)
    assert aten.frobenius_norm.dim in table and table.state.rules == {}
    assert [event.kind for event in table.history(text)] == ["popped", "reset"]


def test_a_name_without_a_namespace_is_the_only_loaded_op_of_that_name(table: DecompTable, scene: Scene) -> None:
    table.preserve("double")
    assert table.state.rules.keys() == {scene.op("double").name()}


@pytest.mark.parametrize("change", ["preserve", "pop", "reset"])
def test_a_name_without_a_namespace_that_no_loaded_op_has_makes_no_rule(table: DecompTable, change: str) -> None:
    with pytest.raises(UnknownOp, match="write 'NAMESPACE::silu_mul'"):
        getattr(table, change)("silu_mul")
    assert (table.version, table.pending) == (1, ())


def test_a_rule_can_be_named_by_its_family_when_its_library_is_gone(table: DecompTable, scene: Scene) -> None:
    table.preserve("double")
    scene.library._destroy()
    table.reset("double")
    assert table.state.rules == {}


NAMING: dict[str, Callable[[DecompTable, str], Any]] = {
    "t[k] = f": lambda t, op: t.__setitem__(op, squared),
    "update": lambda t, op: t.update({op: squared}),
    "setdefault": lambda t, op: t.setdefault(op, squared),
    "override": lambda t, op: t.override(op, squared),
    "preserve": lambda t, op: t.preserve(op),
    "pop": lambda t, op: t.pop(op),
}


@pytest.mark.parametrize("name_it", NAMING.values(), ids=NAMING)
def test_a_typo_is_reported_at_the_line_that_made_it(name_it: Any, table: DecompTable, scene: Scene) -> None:
    with pytest.warns(PendingOpWarning, match=f"did you mean {scene.namespace}::double") as caught:
        name_it(table, f"{scene.namespace}::doubel")
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    assert table.pending == (f"{scene.namespace}::doubel",)


def test_setdefault_of_an_op_not_loaded_gives_the_default(table: DecompTable, scene: Scene) -> None:
    name = f"{scene.namespace}::late"
    assert table.setdefault(name, squared) is squared
    scene.load("late")
    assert table[scene.op("late")] is squared


def test_a_change_shows_in_the_storage_at_once(table: DecompTable) -> None:
    def stored() -> int:
        return int(ctypes.pythonapi.PyDict_Size(ctypes.py_object(table)))

    before = stored()
    table.pop(LINEAR)
    assert stored() == before - 1
    table[MM] = squared
    assert stored() == before
    table.revert(to=1)
    assert stored() == before


def test_a_class_of_ours_needs_a_ledger() -> None:
    with pytest.raises(UnusableValue, match=r"make the table with Ledger\.table\(name\)"):
        DecompTable()


# --- changes of other writers ----------------------------------------------------------------------------------------


def test_a_tag_shows_what_it_read_of_other_writers(ledger: Ledger) -> None:
    table, other = ledger.table("edge"), ledger.table("edge")
    other.pop(LINEAR)
    table.tag("v1")
    assert table.version == 2
    assert LINEAR not in table
    assert not dict.__contains__(table, LINEAR)


def test_a_refused_change_shows_what_it_read_of_other_writers(ledger: Ledger) -> None:
    table, other = ledger.table("edge"), ledger.table("edge")
    other.pop(LINEAR)
    with pytest.raises(VersionConflict):
        table.preserve(MM, expected_version=1)
    assert LINEAR not in table


def test_a_log_serves_one_table_only(ledger: Ledger) -> None:
    log = ledger.create_table("edge")
    DecompTable(log)
    with pytest.raises(UnusableValue, match=r"its log serves a DecompTable already; call Ledger\.table"):
        DecompTable(log)
