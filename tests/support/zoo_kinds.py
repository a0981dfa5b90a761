"""Animals of the zoo that no list of torch's ops has: higher-order operators, and ops of libraries of every kind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch._higher_order_ops.hints_wrap import hints_wrapper
from torch._higher_order_ops.map import map as map_
from torch._higher_order_ops.out_dtype import out_dtype
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.library import Library
from zoo import Animal, operator

from decomp_ledger.model.samples import parse_call

CIA = torch._C.DispatchKey.CompositeImplicitAutograd
ONE = "(f32[3])"


# Higher-order operators


def _autocast(x: Any) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ x


def _with_gradients(x: Any) -> Any:  # the zoo exports without gradients
    with torch.enable_grad():
        return x.sin()


HIGHER_ORDER: dict[str, tuple[str, Callable[..., Any]]] = {
    "cond": ("(b8[()], f32[3])", lambda p, x: torch.cond(p, lambda a: a.sin(), lambda a: a.cos(), (x,))),
    "while_loop": (
        "(i64([0]), f32[3])",
        lambda i, x: while_loop(lambda i, x: i.sum() < 3, lambda i, x: (i + 1, x * 2), (i, x)),
    ),
    "scan": ("(f32[3], f32[2, 3])", lambda x, rows: scan(lambda c, row: (c + row, c * row), x, rows)),
    "map_impl": ("(f32[2, 3], f32[3])", lambda rows, x: map_(lambda row, x: row + x, rows, x)),
    "out_dtype": ("(i8[2, 2], i8[2, 2])", lambda x, y: out_dtype(torch.ops.aten.mm.default, torch.int32, x, y)),
    "hints_wrapper": (ONE, lambda x: hints_wrapper(lambda a: a.cos(), (x,), {}, hints={"level": 1})),
    "wrap_with_autocast": ("(f32[2, 2])", _autocast),
    "wrap_with_set_grad_enabled": (ONE, _with_gradients),
}


def higher_order() -> list[Animal]:
    """Return a program for each higher-order operator that an export keeps."""
    return [Animal(op, parse_call(text), run) for op, (text, run) in HIGHER_ORDER.items() if operator(op) is not None]


# Ops of libraries


def _double(x: Any) -> Any:
    return x.sin() + x.sin()


def _copy(x: Any) -> Any:
    return x.clone()


def _fill(x: Any) -> None:
    x.fill_(2)


def _fill_and_return(x: Any) -> Any:
    return x.fill_(2).clone()


# Name -> (schema, kernel, the key that it is registered for). Ops without a CIA kernel have one for fake tensors too.
KINDS: dict[str, tuple[str, Callable[..., Any], str]] = {
    "cia": ("(Tensor x) -> Tensor", _double, "CompositeImplicitAutograd"),
    "cia_list": ("(Tensor x) -> Tensor[]", lambda x: [x.sin(), x.cos()], "CompositeImplicitAutograd"),
    "cia_view": ("(Tensor(a) x) -> Tensor(a)", lambda x: x.view(-1), "CompositeImplicitAutograd"),
    "explicit": ("(Tensor x) -> Tensor", _copy, "CompositeExplicitAutograd"),
    "cpu": ("(Tensor x) -> Tensor", _copy, "CPU"),
    "with_option": ("(Tensor x, *, float scale=2.0) -> Tensor", lambda x, *, scale=2.0: x * scale, "CPU"),
    "tuple": ("(Tensor x) -> (Tensor, Tensor)", lambda x: (x.clone(), x.clone()), "CPU"),
    "mutates": ("(Tensor(a!) x) -> ()", _fill, "CPU"),
    "mutates_and_returns": ("(Tensor(a!) x) -> Tensor", _fill_and_return, "CPU"),
    "in_registry": ("(Tensor x) -> Tensor", _copy, "CPU"),
    "cpu_and_autograd": ("(Tensor x) -> Tensor", _copy, "CPU"),
    "cia_in_python": ("(Tensor x) -> Tensor", _copy, "CPU"),
    "early": ("(Tensor x) -> Tensor", _copy, "CPU"),
}


def libraries(library: Library) -> list[Animal]:
    """Define ops of each kind in an empty library, and return a program for each.

    The caller destroys the library, and forgets `in_registry` of torch's registry of decompositions.
    """
    found = []
    for name, (schema, kernel, key) in KINDS.items():
        op = f"{library.ns}::{name}"
        library.define(name + schema)
        library.impl(name, kernel, key)
        if key == "CPU":
            torch.library.register_fake(op, kernel, lib=library)
        run = functools.partial(_mutated, op) if name.startswith("mutates") else None
        found.append(Animal(op, parse_call(ONE), run))
    space = getattr(torch.ops, library.ns)
    library.impl("cpu_and_autograd", lambda x: x.sin(), "Autograd")
    torch._decomp.register_decomposition(space.in_registry.default)(_double)
    space.cia_in_python.default.py_impl(CIA)(_double)
    space.early.default.py_impl(torch._C.DispatchKey.Autograd)(_double)
    return found


def forget(library: Library) -> None:
    """Take out of torch's registry what `libraries` put there."""
    torch._decomp.decomposition_table.pop(getattr(torch.ops, library.ns).in_registry.default, None)


def _mutated(op: str, x: Any) -> Any:
    x = x.clone()
    operator(op)(x)
    return x
