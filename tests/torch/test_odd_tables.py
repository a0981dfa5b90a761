"""A recording changes nothing that a program does with a table of torch's own, however odd it is.

Each program makes a table, does something odd with it, and exports a model. It runs plain and recorded: what its calls
return and raise, what it sees in the table, in which order, and the graph are all the same.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import itertools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._decomp import core_aten_decompositions, register_decomposition, remove_decompositions
from torch.export import CustomDecompTable, ExportedProgram, default_decompositions
from torch.library import Library

from decomp_ledger import Ledger, record

aten = torch.ops.aten
LINEAR, MM, SILU, RELU_ = aten.linear.default, aten.mm.default, aten.silu.default, aten.relu_.default
COND = torch.ops.higher_order.cond
NAMESPACE = "oddtables"


def squared(x: torch.Tensor, *args: Any) -> torch.Tensor:
    """Be a decomposition that is not a default."""
    return x * x


def unable(*args: Any) -> Any:
    """Be a decomposition that fails."""
    raise ValueError("unable")


def double(x: torch.Tensor) -> torch.Tensor:
    """Be the kernel of the custom ops."""
    return x * 2


@pytest.fixture(scope="module")
def exported() -> Iterator[ExportedProgram]:
    """A model that uses a custom op; its library is there meanwhile."""
    library = Library(NAMESPACE, "FRAGMENT")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", double, "CompositeImplicitAutograd")
    library.define("plain(Tensor x) -> Tensor")
    library.impl("plain", double, "CPU")
    yield exported_with("double")
    library._destroy()


def exported_with(name: str) -> ExportedProgram:
    """Export a model that uses an op of the library, linear and silu."""
    op = getattr(getattr(torch.ops, NAMESPACE), name).default

    class Model(torch.nn.Module):
        """Uses an op that decomposes by kernel, one by Python, and a custom one."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.silu(self.linear(op(x)))

    return torch.export.export(Model(), (torch.ones(2, 4),))


class Scene:
    """What one run of a program has.

    Attributes:
        exported: the model.
        library: the run's own, in the same namespace.
    """

    def __init__(self, exported: ExportedProgram) -> None:
        self.exported = exported
        self.library = Library(NAMESPACE, "FRAGMENT")

    def lower(self, table: Any) -> Any:
        """Lower the model."""
        return self.exported.run_decompositions(table)

    def load(self, name: str) -> Any:
        """Define one more op that decomposes by its kernel, and return it."""
        self.library.define(f"{name}(Tensor x) -> Tensor")
        self.library.impl(name, double, "CompositeImplicitAutograd")
        return self.op(name)

    def op(self, name: str) -> Any:
        """Return a live operator of the library."""
        return getattr(getattr(torch.ops, NAMESPACE), name).default


KEYS: dict[str, Callable[[Scene], Any]] = {
    "a kernel's op": lambda scene: LINEAR,
    "a Python op": lambda scene: SILU,
    "an op without a decomposition": lambda scene: MM,
    "a custom op": lambda scene: scene.op("double"),
    "a custom op without one": lambda scene: scene.op("plain"),
    "an in-place op": lambda scene: RELU_,
    "a higher-order operator": lambda scene: COND,
    "a packet": lambda scene: aten.linear,
    "a packet of a library": lambda scene: getattr(torch.ops, NAMESPACE).double,
    "a name": lambda scene: "aten::linear",
    "a name of Python": lambda scene: "aten.linear.default",
    "a name not loaded": lambda scene: f"{NAMESPACE}::late",
    "a number": lambda scene: 5,
    "None": lambda scene: None,
    "a function": lambda scene: len,
    "a tuple": lambda scene: (LINEAR, SILU),
    "a list": lambda scene: [LINEAR],
}
VALUES: dict[str, Any] = {"function": squared, "None": None, "number": 3, "operator": aten.relu.default, "text": "relu"}
USED = ("a kernel's op", "a Python op", "a custom op")  # by the model
FEW = (*USED, "an op without a decomposition", "a packet", "a name", "a list")

# (table, key) -> what the program sees of it.
KEYED: dict[str, Callable[[Any, Any], Any]] = {
    "pop": lambda t, k: (t.pop(k), k in t),
    "pop twice": lambda t, k: (t.pop(k, 1), t.pop(k, 2), t.pop(k)),
    "pop after a read": lambda t, k: (len(t) > 0, t.pop(k, None), k in t),
    "pop with too many": lambda t, k: t.pop(k, 1, 2),
    "del": lambda t, k: t.__delitem__(k),
    "look up": lambda t, k: (k in t, t.get(k), t[k]),
    "setdefault": lambda t, k: (t.setdefault(k, squared), k in t),
    "remove_decompositions": lambda t, k: remove_decompositions(t, [k]),
    "register_decomposition": lambda t, k: register_decomposition(k, registry=t)(squared),
}


def _storage_write(t: Any, scene: Scene) -> None:
    t.decomp_table[SILU] = squared
    del t.decomp_table[LINEAR]


def _iterate_and_pop(t: Any, scene: Scene) -> None:
    for op in t:
        t.pop(op)


def _update_halfway(t: Any, scene: Scene) -> None:
    class Half(dict[Any, Any]):
        """Gives one item, then fails."""

        def items(self) -> Any:
            yield SILU, squared
            raise RuntimeError("half")

    t.update(Half())


def _mine(t: Any, scene: Scene) -> Any:
    class Mine(CustomDecompTable):
        """A table of a class of its own."""

    mine = Mine()
    mine.pop(LINEAR)
    return scene.lower(mine), type(mine).__name__


def _stale(t: Any, scene: Scene) -> Any:
    assert len(t) > 0
    late = scene.load("late")
    return late in t, exported_with("late").run_decompositions(t)


def _unloaded(t: Any, scene: Scene) -> Any:
    early = scene.load("early")
    return early in t, t.pop(early), early in t, exported_with("early").run_decompositions(t)


# Programs without a key: (table, scene) -> what the program sees.
WHOLE: dict[str, Callable[[Any, Scene], Any]] = {
    "nothing": lambda t, scene: None,
    "another table |": lambda t, scene: (t | {MM: squared}, {MM: squared} | t, t | t),
    "| a number": lambda t, scene: t | 3,
    "|=": lambda t, scene: t.__ior__({SILU: squared}) is t,
    "|= pairs": lambda t, scene: t.__ior__([(SILU, squared)]) is t,
    "use of |": lambda t, scene: scene.lower(t | {SILU: squared}),
    "clear": lambda t, scene: t.clear(),
    "popitem": lambda t, scene: t.popitem(),
    "update with pairs": lambda t, scene: t.update([(SILU, squared)]),
    "update with keywords": lambda t, scene: t.update(silu=squared),
    "update with nothing": lambda t, scene: t.update(),
    "update with two": lambda t, scene: t.update({}, {}),
    "update with a number": lambda t, scene: t.update(3),
    "update halfway": _update_halfway,
    "update with itself": lambda t, scene: t.update(t),
    "update with odd items": lambda t, scene: t.update({SILU: None, 5: squared, aten.linear: None, LINEAR: squared}),
    "pop with nothing": lambda t, scene: t.pop(),
    "pop with a keyword": lambda t, scene: t.pop(key=LINEAR),
    "copy": lambda t, scene: (t.copy().pop(LINEAR), LINEAR in t),
    "copy, then both": lambda t, scene: (t.pop(SILU), (u := t.copy()), u.pop(LINEAR), t == u, list(u) == list(t)),
    "use of a copy": lambda t, scene: (
        t.pop(scene.op("double")),
        scene.lower(t.copy()),
        scene.lower(t),
    ),
    "copy.copy": lambda t, scene: (copy.copy(t).pop(LINEAR), LINEAR in t),
    "copy.deepcopy": lambda t, scene: (copy.deepcopy(t).pop(LINEAR), LINEAR in t),
    "use of copy.deepcopy": lambda t, scene: (
        t.pop(LINEAR),
        scene.lower(copy.deepcopy(t)),
    ),
    "pickle": lambda t, scene: type(pickle.loads(pickle.dumps(t))),
    "dict": lambda t, scene: (type(dict(t)), dict(t) == t, t == dict(t), dict(t) == dict(t)),
    "use of a dict": lambda t, scene: scene.lower({**dict(t), SILU: squared, 5: None}),
    "use of an empty dict": lambda t, scene: scene.lower({}),
    "use of pairs": lambda t, scene: scene.lower(list(t.items())),
    "use of a number": lambda t, scene: scene.lower(3),
    "use of no table": lambda t, scene: scene.exported.run_decompositions(),
    "use of core_aten": lambda t, scene: scene.lower(core_aten_decompositions()),
    "==": lambda t, scene: (t == {}, t == t.copy(), t != {}, t == 3),
    "repr": lambda t, scene: (repr(t), str(t), f"{t}", type(t).__name__, repr(type(t)), type(t) is CustomDecompTable),
    "hash": lambda t, scene: hash(t),
    "bool": lambda t, scene: (bool(t), len(t) > 900),
    "values": lambda t, scene: (len(t.values()), len(t.keys()) == len(t.items())),
    "reversed": lambda t, scene: list(reversed(t)) == list(t)[::-1],
    "sizes in C": lambda t, scene: ctypes.pythonapi.PyDict_Size(ctypes.py_object(t)),
    "dict's own methods": lambda t, scene: (
        dict.__len__(t),
        dict.get(t, SILU),
        dict.update(t, {SILU: squared}),
        t[SILU],
    ),
    "materialize": lambda t, scene: (type(t.materialize()), t.materialize() == t.materialize()),
    "pop, materialize twice": lambda t, scene: (
        t.pop(scene.op("double")),
        scene.op("double") in t.materialize(),
        scene.op("double") in t.materialize(),
    ),
    "its attributes": lambda t, scene: (
        sorted(vars(t)),
        t.has_materialized,
        t.deleted_custom_ops,
        t.pop(scene.op("double")),
        {op.name() for op in t.deleted_custom_ops},
        len(t) > 0,
        t.deleted_custom_ops,
        hasattr(t, "preserve"),
        hasattr(t, "name"),
    ),
    "an attribute of the program's": lambda t, scene: (setattr(t, "note", 3), t.note, sorted(vars(t))),
    "a write into its storage": _storage_write,
    "a storage of the program's": lambda t, scene: setattr(t, "decomp_table", {LINEAR: t[LINEAR]}),
    "iterate and pop": _iterate_and_pop,
    "iterate a copy and pop": lambda t, scene: [t.pop(op) is None for op in list(t)[:40]],
    "pop all": lambda t, scene: [t.pop(op) is None for op in list(t)],
    "a subclass": _mine,
    "an op loaded after a read": _stale,
    "an op popped and used": _unloaded,
    "two inits": lambda t, scene: (t.pop(LINEAR), t.__init__(), LINEAR in t),
    "fromkeys": lambda t, scene: type(CustomDecompTable.fromkeys([LINEAR])),
    "arguments": lambda t, scene: CustomDecompTable({LINEAR: squared}),
    "a failing decomposition": lambda t, scene: t.update({SILU: unable}),
}

PROGRAMS: dict[str, Callable[[Any, Scene], Any]] = {
    **WHOLE,
    **{
        f"{name}: {key}": functools.partial(lambda act, make, t, scene: act(t, make(scene)), act, KEYS[key])
        for (name, act), key in itertools.product(KEYED.items(), KEYS)
        if name == "pop" or key in FEW
    },
    **{
        f"set {key} to {name}": functools.partial(
            lambda make, value, t, scene: (t.__setitem__(make(scene), value), t[make(scene)]), KEYS[key], value
        )
        for key, (name, value) in itertools.product(KEYS, VALUES.items())
        if (key in USED and name != "operator") or name == "function"
    },
}


def named(value: Any) -> Any:
    """Name what is new in each run: operators, torch's partials, tables and programs."""
    if isinstance(value, ExportedProgram):
        return str(value.graph), value.graph_module.code, str(value.graph_signature)
    if isinstance(value, functools.partial) and "kernel" in value.keywords:
        return f"the kernel of {value.keywords['kernel'].name()}"
    if isinstance(value, torch._ops.OperatorBase):
        return f"the operator {value.name()}"
    if isinstance(value, CustomDecompTable):
        return "a table", named(dict(value))
    if isinstance(value, dict):
        return {named(key): named(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(map(named, value))
    return value


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returned, or what it raised."""
    try:
        return "returned", named(call())
    except Exception as error:
        return "raised", type(error), str(error)


def seen(table: Any) -> Any:
    """Return what a program sees in a table: its content, and the order of torch's own ops."""
    return named(dict(table)), [str(op) for op in table if str(op).startswith("aten")]


def run(program: Callable[[Any, Scene], Any], exported: ExportedProgram) -> list[Any]:
    """Run a program, and return all that it sees."""
    scene = Scene(exported)
    try:
        table = default_decompositions()
        did = outcome(lambda: program(table, scene))
        return [did, outcome(lambda: scene.lower(table)), outcome(lambda: seen(table)), outcome(lambda: table == {})]
    finally:
        scene.library._destroy()


def test_there_are_enough_programs() -> None:
    assert len(PROGRAMS) >= 150


@pytest.mark.filterwarnings("error::decomp_ledger.errors.RecordingWarning")
@pytest.mark.filterwarnings("error::decomp_ledger.errors.IdleRuleWarning")
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_an_odd_program_does_the_same_when_it_is_recorded(
    program: Callable[[Any, Scene], Any], exported: ExportedProgram, ledger: Ledger
) -> None:
    expected = run(program, exported)
    with record(ledger, name="job", on_error="raise"):
        actual = run(program, exported)
    assert actual == expected
    assert ledger.verify().ok
