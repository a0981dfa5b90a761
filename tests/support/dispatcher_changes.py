"""The ways in which torch's dispatcher changes under a table, as data for the tests.

Each change is a generator with two stops. At the first, what must be there before the change is
there; at the second, the change is made; when it ends, or is closed early, nothing of it is left.
A test drives it as

    with closing(change.steps(scene)) as steps:
        next(steps)        # a table is read here
        next(steps)        # the change
        ...                # what the table says is compared here
        next(steps, None)  # undone

and `effect` is what the change does to a new table of torch's own.
"""

import contextlib
import ctypes
import functools
import gc
import inspect
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch._decomp import global_decomposition_table, register_decomposition
from torch.export.decomp_utils import CustomDecompTable
from torch.library import Library
from torch.utils import cpp_extension

CIA = "CompositeImplicitAutograd"
CIA_KEY = torch._C.DispatchKey.CompositeImplicitAutograd
SCHEMA = "(Tensor x) -> Tensor"
REGISTRY = global_decomposition_table["post_autograd"]
# Of an aten op that has both, torch up to 2.9 takes the kernel and torch 2.13 the registry's entry.
_defaults = inspect.getsource(CustomDecompTable.__init__)
REGISTRY_BEFORE_KERNEL = "op not in self.decomp_table" in _defaults
# Torch 2.6 always refuses a second kernel of one key.
CAN_OVERRIDE = "allow_override" in inspect.signature(Library.impl).parameters

Effect = Literal["added", "removed", "replaced"]


@dataclass(frozen=True)
class Scene:
    """Where a change takes place: a namespace of its own, and the C++ library it may load."""

    namespace: str
    late_ops: Callable[[], Path]


@dataclass(frozen=True)
class Change:
    """One way to change the dispatcher.

    Attributes:
        name: What happens, as a test id.
        op: The op that the change is about, with `{ns}` for the scene's namespace.
        effect: What it does to a new table of torch's own, by op name (`{ns}` as in `op`).
        quick: Whether a plain read of a table must see it, or only materialize() and refresh().
        quick_undo: The same of its being undone.
        steps: Prepares at the first stop, changes at the second, undoes at the end.
    """

    name: str
    op: str
    effect: dict[str, Effect]
    quick: bool
    quick_undo: bool
    steps: Callable[[Scene], Iterator[None]]

    def op_in(self, scene: Scene) -> str:
        """Return the name of the op that the change is about."""
        return self.op.format(ns=scene.namespace)

    def effect_in(self, scene: Scene) -> dict[str, Effect]:
        """Return what the change does to a new table of torch's own, by op name."""
        return {op.format(ns=scene.namespace): effect for op, effect in self.effect.items()}


CHANGES: list[Change] = []


def change(
    op: str = "{ns}::double",
    effect: dict[str, Effect] | None = None,
    *,
    quick: bool,
    quick_undo: bool | None = None,
    possible: bool = True,
) -> Callable[[Callable[[Scene], Iterator[None]]], Callable[[Scene], Iterator[None]]]:
    """Enter a function among the changes, if this torch makes it possible."""

    def enter(steps: Callable[[Scene], Iterator[None]]) -> Callable[[Scene], Iterator[None]]:
        undo = quick if quick_undo is None else quick_undo
        if possible:
            CHANGES.append(Change(steps.__name__, op, effect or {}, quick, undo, steps))
        return steps

    return enter


def double(x: torch.Tensor) -> torch.Tensor:
    """Be the kernel of most ops here."""
    return x * 2


def define_double(library: Library) -> None:
    """Define an op that decomposes."""
    library.define("double" + SCHEMA)
    library.impl("double", double, CIA)


@contextlib.contextmanager
def library_of(namespace: str, kind: str = "FRAGMENT") -> Iterator[Library]:
    """Give a library that is destroyed at the end, also when it is the last reference."""
    library = Library(namespace, kind)
    try:
        yield library
    finally:
        library._destroy()


def live(name: str) -> torch._ops.OpOverload | None:
    """Return the operator that has this name now, or None, without making a namespace for it."""
    qualified, _, overload = name.partition(".")
    try:
        torch._C._dispatch_find_schema_or_throw(qualified, overload)
    except RuntimeError:
        return None
    namespace, _, packet = qualified.partition("::")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")


def forget_packet(name: str) -> None:
    """Make torch.ops forget a packet whose op is gone, as Library._destroy() does for its own."""
    namespace_name, _, packet = name.partition("::")
    if namespace_name not in vars(torch.ops):
        return
    namespace = getattr(torch.ops, namespace_name)
    if packet in vars(namespace):
        delattr(namespace, packet)
        namespace._dir.remove(packet)


@contextlib.contextmanager
def registry_entry(op: torch._ops.OpOverload) -> Iterator[None]:
    """Put the registry's entry for an op, or its absence, back as it was."""
    missing = object()
    before = REGISTRY.get(op, missing)
    try:
        yield
    finally:
        if before is missing:
            REGISTRY.pop(op, None)
        else:
            REGISTRY[op] = before


@contextlib.contextmanager
def python_kernels(op: torch._ops.OpOverload) -> Iterator[None]:
    """Put an op's Python kernels back as they were."""
    before = dict(op.py_kernels)
    try:
        yield
    finally:
        op.py_kernels.clear()
        op.py_kernels.update(before)
        op._dispatch_cache.clear()


# --- libraries made with torch.library -----------------------------------------------------------


@change(effect={"{ns}::double": "added"}, quick=True)
def library_defines_and_implements(scene: Scene) -> Iterator[None]:
    with library_of(scene.namespace, "DEF") as library:
        yield
        define_double(library)
        yield


@change(effect={"{ns}::double": "added"}, quick=True)
def library_implements_an_op_defined_earlier(scene: Scene) -> Iterator[None]:
    with library_of(scene.namespace, "DEF") as library:
        library.define("double" + SCHEMA)
        yield
        library.impl("double", double, CIA)
        yield


@change(quick=True)
def library_defines_without_a_kernel(scene: Scene) -> Iterator[None]:
    with library_of(scene.namespace, "DEF") as library:
        yield
        library.define("double" + SCHEMA)
        yield


@change(quick=True)
def library_defines_a_mutating_op(scene: Scene) -> Iterator[None]:
    with library_of(scene.namespace, "DEF") as library:
        yield
        library.define("double(Tensor(a!) x) -> ()")
        library.impl("double", lambda x: None, CIA)
        yield


@change(
    op="{ns}::double.scaled",
    effect={"{ns}::double.scaled": "added"},
    quick=True,
)
def library_adds_an_overload_to_a_packet_in_use(scene: Scene) -> Iterator[None]:
    with library_of(scene.namespace) as first, library_of(scene.namespace) as second:
        define_double(first)
        yield
        second.define("double.scaled(Tensor x, float by) -> Tensor")
        second.impl("double.scaled", lambda x, by: x * by, CIA)
        yield


@change(
    op="{ns}::double.scaled",
    effect={"{ns}::double.scaled": "removed", "{ns}::double": "replaced"},
    quick=True,
)
def library_takes_an_overload_from_a_packet_in_use(scene: Scene) -> Iterator[None]:
    with library_of(scene.namespace) as first, library_of(scene.namespace) as second:
        define_double(first)
        second.define("double.scaled(Tensor x, float by) -> Tensor")
        second.impl("double.scaled", lambda x, by: x * by, CIA)
        yield
        second._destroy()
        yield


@change(effect={"{ns}::double": "added"}, quick=True)
def scoped_library_entered(scene: Scene) -> Iterator[None]:
    yield
    with torch.library._scoped_library(scene.namespace, "DEF") as library:
        define_double(library)
        yield


@change(effect={"{ns}::double": "removed"}, quick=True)
def scoped_library_left(scene: Scene) -> Iterator[None]:
    with torch.library._scoped_library(scene.namespace, "DEF") as library:
        define_double(library)
        yield
    yield


@change(effect={"{ns}::double": "removed"}, quick=True)
def library_destroyed(scene: Scene) -> Iterator[None]:
    with library_of(scene.namespace, "DEF") as library:
        define_double(library)
        yield
        library._destroy()
        yield


@change(effect={"{ns}::double": "replaced"}, quick=True)
def library_destroyed_and_registered_again(scene: Scene) -> Iterator[None]:
    with library_of(scene.namespace, "DEF") as first:
        define_double(first)
        yield
        first._destroy()
        with library_of(scene.namespace, "DEF") as second:
            define_double(second)
            yield


@change(effect={"{ns}::double": "removed"}, quick=True)
def library_destroyed_and_registered_again_without_a_kernel(scene: Scene) -> Iterator[None]:
    with library_of(scene.namespace, "DEF") as first:
        define_double(first)
        yield
        first._destroy()
        with library_of(scene.namespace, "DEF") as second:
            second.define("double" + SCHEMA)
            yield


@change(effect={"{ns}::double": "removed"}, quick=True)
def library_garbage_collected(scene: Scene) -> Iterator[None]:
    library = Library(scene.namespace, "DEF")
    define_double(library)
    try:
        yield
    finally:
        del library
        gc.collect()
    yield


@change(effect={"{ns}::double": "added"}, quick=False)
def library_swapped_for_another_of_the_same_size(scene: Scene) -> Iterator[None]:
    # The counts of torch.library stay the same, and no test asked for the packet of the destroyed one.
    other = Library(scene.namespace, "FRAGMENT")
    other.define("other" + SCHEMA)
    other.impl("other", double, "CPU")
    try:
        yield
    finally:
        other._destroy()
        del other
        gc.collect()
    with library_of(scene.namespace) as library:
        define_double(library)
        yield


@change(effect={"{ns}::double": "removed"}, quick=True)
def library_destroyed_as_another_defines(scene: Scene) -> Iterator[None]:
    # One kernel less and one definition more, since a destroyed library's definitions stay known.
    with library_of(scene.namespace) as library, library_of(scene.namespace) as other:
        define_double(library)
        yield
        library._destroy()
        other.define("other" + SCHEMA)
        yield


@change(effect={"{ns}::double": "removed"}, quick=False, possible=CAN_OVERRIDE)
def library_destroyed_whose_kernel_had_been_overridden(scene: Scene) -> Iterator[None]:
    # torch.library knows a kernel by its name, and forgets it with the first library that goes.
    with library_of(scene.namespace) as definition, library_of(scene.namespace) as kernel:
        definition.define("double" + SCHEMA)
        kernel.impl("double", double, CIA)
        with library_of(scene.namespace) as override:
            override.impl("double", lambda x: x + x, CIA, allow_override=True)
        yield
        kernel._destroy()
        yield


@change(quick=True)
def custom_op_decorated(scene: Scene) -> Iterator[None]:
    with custom_ops_forgotten(scene):
        yield
        torch.library.custom_op(f"{scene.namespace}::double", mutates_args=())(double)
        yield


@change(effect={"{ns}::double": "added"}, quick=True)
def custom_op_with_a_composite_kernel(scene: Scene) -> Iterator[None]:
    name = f"{scene.namespace}::double"
    with custom_ops_forgotten(scene), library_of(scene.namespace) as library:
        yield
        torch.library.custom_op(name, mutates_args=())(double)
        torch.library.impl(name, CIA, double, lib=library)
        yield


@contextlib.contextmanager
def custom_ops_forgotten(scene: Scene) -> Iterator[None]:
    """Destroy, at the end, what torch.library.custom_op made in the scene's namespace."""
    libraries = torch._library.custom_ops.OPDEF_TO_LIB
    try:
        yield
    finally:
        for name in [name for name in libraries if name.startswith(f"{scene.namespace}::")]:
            libraries.pop(name)._destroy()


# --- torch's own ops -----------------------------------------------------------------------------


@change(op="aten::{ns}", effect={"aten::{ns}": "added"}, quick=True)
def op_added_to_aten(scene: Scene) -> Iterator[None]:
    with library_of("aten") as library:
        yield
        library.define(scene.namespace + SCHEMA)
        library.impl(scene.namespace, double, CIA)
        yield


@change(op="aten::{ns}", effect={"aten::{ns}": "removed"}, quick=True)
def op_taken_from_aten(scene: Scene) -> Iterator[None]:
    with library_of("aten") as library:
        library.define(scene.namespace + SCHEMA)
        library.impl(scene.namespace, double, CIA)
        yield
        library._destroy()
        yield


@change(op="aten::mm", effect={"aten::mm": "added"}, quick=True)
def library_implements_an_op_of_torch(scene: Scene) -> Iterator[None]:
    with library_of("aten", "IMPL") as library:
        yield
        library.impl("mm", lambda x, y: (x.unsqueeze(2) * y.unsqueeze(0)).sum(1), CIA)
        yield


@change(
    op="aten::addcmul",
    effect={} if REGISTRY_BEFORE_KERNEL else {"aten::addcmul": "replaced"},
    quick=True,
)
def library_implements_an_op_that_the_registry_decomposes(scene: Scene) -> Iterator[None]:
    with library_of("aten", "IMPL") as library:
        yield
        library.impl("addcmul", lambda x, y, z, *, value=1: x + value * (y * z), CIA)
        yield


@change(op="aten::outer", quick=True, possible=CAN_OVERRIDE)
def library_overrides_the_kernel_of_an_op_of_torch(scene: Scene) -> Iterator[None]:
    with library_of("aten", "IMPL") as library:
        yield
        library.impl("outer", lambda x, y: x.unsqueeze(1) * y, CIA, allow_override=True)
        yield


@change(op="aten::pairwise_distance", quick=True, possible=CAN_OVERRIDE)
def library_overrides_the_kernel_of_an_op_that_the_registry_decomposes(scene: Scene) -> Iterator[None]:
    with library_of("aten", "IMPL") as library:
        yield
        library.impl("pairwise_distance", lambda x, y, *args: x - y, CIA, allow_override=True)
        yield


# --- Python kernels ------------------------------------------------------------------------------


@change(op="aten::mm", effect={"aten::mm": "added"}, quick=False)
def py_impl_on_an_op_of_torch(scene: Scene) -> Iterator[None]:
    op = torch.ops.aten.mm.default
    with python_kernels(op):
        yield
        op.py_impl(CIA_KEY)(lambda x, y: (x.unsqueeze(2) * y.unsqueeze(0)).sum(1))
        yield


@change(effect={"{ns}::double": "replaced"}, quick=False)
def py_impl_on_a_custom_op(scene: Scene) -> Iterator[None]:
    with library_of(scene.namespace, "DEF") as library:
        define_double(library)
        op = live(f"{scene.namespace}::double")
        with python_kernels(op):
            yield
            op.py_impl(CIA_KEY)(lambda x: x + x)
            yield


@change(op="aten::mm", effect={"aten::mm": "added"}, quick=False)
def py_kernels_written_on_an_op_of_torch(scene: Scene) -> Iterator[None]:
    op = torch.ops.aten.mm.default
    with python_kernels(op):
        yield
        op.py_kernels[CIA_KEY] = lambda x, y: (x.unsqueeze(2) * y.unsqueeze(0)).sum(1)
        yield


@change(effect={"{ns}::double": "replaced"}, quick=False)
def py_kernels_written_on_a_custom_op(scene: Scene) -> Iterator[None]:
    with library_of(scene.namespace, "DEF") as library:
        define_double(library)
        op = live(f"{scene.namespace}::double")
        with python_kernels(op):
            yield
            op.py_kernels[CIA_KEY] = lambda x: x + x
            yield


# --- the registry of decompositions --------------------------------------------------------------


@change(op="aten::zeros.out", effect={"aten::zeros.out": "added"}, quick=True)
def decomposition_registered_in_the_core_list(scene: Scene) -> Iterator[None]:
    op = torch.ops.aten.zeros.out
    with registry_entry(op):
        yield
        register_decomposition(op, unsafe=True)(lambda size, *, out: out.fill_(0))
        yield


@change(
    op="aten::upsample_linear1d.vec",
    effect={"aten::upsample_linear1d.vec": "replaced"} if REGISTRY_BEFORE_KERNEL else {},
    quick=True,
)
def decomposition_registered_over_a_composite_kernel(scene: Scene) -> Iterator[None]:
    op = torch.ops.aten.upsample_linear1d.vec
    with registry_entry(op):
        yield
        register_decomposition(op)(lambda x, output_size, align_corners, scale_factors: x * 2)
        yield


@change(op="aten::mm", quick=True)
def decomposition_registered_outside_the_core_list(scene: Scene) -> Iterator[None]:
    op = torch.ops.aten.mm.default
    with registry_entry(op):
        yield
        register_decomposition(op)(lambda x, y: (x.unsqueeze(2) * y.unsqueeze(0)).sum(1))
        yield


@change(op="aten::addcmul", effect={"aten::addcmul": "replaced"}, quick=False)
def decomposition_replaced_in_place(scene: Scene) -> Iterator[None]:
    op = torch.ops.aten.addcmul.default
    with registry_entry(op):
        yield
        REGISTRY[op] = lambda x, y, z, *, value=1: x + value * (y * z)
        yield


@change(op="aten::addcmul", effect={"aten::addcmul": "removed"}, quick=True)
def decomposition_deleted(scene: Scene) -> Iterator[None]:
    op = torch.ops.aten.addcmul.default
    with registry_entry(op):
        yield
        del REGISTRY[op]
        yield


@change(
    op="aten::zeros.out",
    effect={"aten::zeros.out": "added", "aten::addcmul": "removed"},
    quick=False,
)
def decomposition_registered_as_another_is_deleted(scene: Scene) -> Iterator[None]:
    registered, deleted = torch.ops.aten.zeros.out, torch.ops.aten.addcmul.default
    with registry_entry(registered), registry_entry(deleted):
        yield
        register_decomposition(registered, unsafe=True)(lambda size, *, out: out.fill_(0))
        del REGISTRY[deleted]
        yield


# --- past torch.library --------------------------------------------------------------------------


@contextlib.contextmanager
def raw_library(namespace: str) -> Iterator[torch._C._DispatchModule]:
    """Give what a Library is made of, which no counter in Library can see."""
    module = torch._C._dispatch_library("FRAGMENT", namespace, "", __file__, 1)
    try:
        yield module
    finally:
        module.reset()
        forget_packet(f"{namespace}::double")


@change(effect={"{ns}::double": "added"}, quick=False)
def raw_dispatch_library(scene: Scene) -> Iterator[None]:
    with raw_library(scene.namespace) as module:
        yield
        module.define("double" + SCHEMA, "", ())
        module.impl("double", CIA, double, False)
        yield


@change(effect={"{ns}::double": "removed"}, quick=False)
def raw_dispatch_library_reset(scene: Scene) -> Iterator[None]:
    with raw_library(scene.namespace) as module:
        module.define("double" + SCHEMA, "", ())
        module.impl("double", CIA, double, False)
        yield
        module.reset()
        yield


# --- C++ libraries -------------------------------------------------------------------------------


def build_late_ops(into: Path) -> Path:
    """Build the C++ library of these tests with this machine's compiler, in six seconds or so."""
    source = Path(__file__).with_name("late_ops.cpp")
    built = into / "late_ops.so"
    compiler = os.environ.get("CXX", "c++")
    abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
    command = [compiler, "-std=c++20", "-O0", "-shared", "-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    command += [f"-I{folder}" for folder in cpp_extension.include_paths()]
    command += [str(source), "-o", str(built)]
    command += [f"-L{folder}" for folder in cpp_extension.library_paths()]
    command += ["-lc10", "-ltorch_cpu"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return built


def compiler_is_here() -> bool:
    """Say whether the C++ changes can be made on this machine."""
    return shutil.which(os.environ.get("CXX", "c++")) is not None


_copies = itertools.count()  # a file that is loaded must not be written over


def load(scene: Scene, how: Callable[[str], object] = ctypes.CDLL) -> ctypes.CDLL:
    """Load a copy of the library for the scene's namespace, and return its functions."""
    built = scene.late_ops()
    copy = built.with_name(f"{scene.namespace}_{next(_copies)}.so")
    shutil.copy(built, copy)
    os.environ["LATE_OPS_NAMESPACE"] = scene.namespace
    try:
        how(str(copy))
    finally:
        del os.environ["LATE_OPS_NAMESPACE"]
    return ctypes.CDLL(str(copy))


def unload(scene: Scene, functions: ctypes.CDLL) -> None:
    """Take back what the library registered; the code itself stays loaded."""
    functions.unregister()
    forget_packet(f"{scene.namespace}::at_load")
    forget_packet(f"{scene.namespace}::late")


def cpp_library_loaded(how: Callable[[str], object], scene: Scene) -> Iterator[None]:
    yield
    functions = load(scene, how)
    try:
        yield
    finally:
        unload(scene, functions)


for how in (torch.ops.load_library, ctypes.CDLL):
    steps = functools.partial(cpp_library_loaded, how)
    steps.__name__ = f"cpp_library_loaded_by_{how.__name__}"
    change("{ns}::at_load", {"{ns}::at_load": "added"}, quick=True, quick_undo=False)(steps)


@change("{ns}::late", {"{ns}::late": "added"}, quick=False)
def cpp_library_registers_late(scene: Scene) -> Iterator[None]:
    functions = load(scene)
    try:
        yield
        functions.register_late()
        yield
    finally:
        unload(scene, functions)


@change("{ns}::at_load", {"{ns}::at_load": "removed"}, quick=False)
def cpp_library_unregisters(scene: Scene) -> Iterator[None]:
    functions = load(scene)
    try:
        yield
        unload(scene, functions)
        yield
    finally:
        unload(scene, functions)
