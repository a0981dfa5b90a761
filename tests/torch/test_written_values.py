"""Whatever a table accepts it can read back; whatever it cannot, it refuses before it writes."""

import functools
import operator
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import decomp_ledger as dl
from decomp_ledger.pytorch import decompositions, internals
from decomp_ledger.pytorch.dispatcher import dispatcher, resolve

aten = torch.ops.aten
REGISTRY = {
    op: fn for kind in torch._decomp.global_decomposition_table.values() for op, fn in kind.items() if callable(fn)
}


def own(x: Any, *_: Any) -> Any:
    return x


class Callable_:
    def __call__(self, x: Any) -> Any:
        return x


VALUES: dict[str, Any] = {
    "of the registry": REGISTRY[aten.gelu_backward.default],
    "a kernel of another op": torch.export.default_decompositions()[aten.linear.default],
    "function": own,
    "lambda": lambda x: x,
    "partial": functools.partial(own, 1),
    "builtin": len,
    "of the standard library": operator.add,
    "class": Callable_,
    "object": Callable_(),
    "operator": aten.mm.default,
    "packet": aten.mm,
    "higher-order operator": torch.ops.higher_order.cond,
    "method of a builtin": "x".upper,
    "torch function": torch.nn.functional.gelu,
    "number": 3,
    "none": None,
}
WAYS: dict[str, Callable[[Any, Any, Any], object]] = {
    "set": lambda table, op, fn: table.__setitem__(op, fn),
    "update": lambda table, op, fn: table.update({op: fn}),
    "override": lambda table, op, fn: table.override(op, fn),
    "setdefault": lambda table, op, fn: table.setdefault(op, fn),
    "|=": lambda table, op, fn: operator.ior(table, {op: fn}),
}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[dl.Ledger]:
    with dl.Ledger(tmp_path / "a.db", actor="ann") as made:
        yield made


def read_again(ledger: dl.Ledger, ops: list[Any]) -> None:
    """Read a table as a later process does; only a function without a trusted name may be missing."""
    with dl.Ledger(ledger.path) as later:
        table = later.table("edge")
        try:
            assert len(table) == len(list(table)) == len(dict(table.items()))
            for op in ops:
                assert (op in table) == (table.get(op) is not None)
        except dl.LedgerError as error:
            assert isinstance(error, (dl.NotImportable, dl.UntrustedModule)), error
        for op in ops:
            table.pop(op, None)
            table.reset(op)
        assert len(table) == len(list(table))


def check(ledger: dl.Ledger, ops: list[Any], change: Callable[[Any], object]) -> None:
    """Make a change; a call that raises must be no event, and each event must be readable."""
    table = ledger.table("edge")
    version = table.version
    try:
        change(table)
    except Exception as error:
        assert isinstance(error, (dl.LedgerError, KeyError, TypeError)), error
        assert table.version == version == ledger.state("edge").version
    else:
        assert len(table) == len(list(table))
    read_again(ledger, ops)


HIGHER_ORDER = sorted(internals.higher_order_operators())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_value_is_readable_or_refused(way: str, ledger: dl.Ledger) -> None:
    ops = [aten.mm.default, aten.linear.default, torch.ops.higher_order.out_dtype]
    for value in VALUES.values():
        for op in ops:
            check(ledger, [op], lambda table, op=op, value=value: WAYS[way](table, op, value))


@pytest.mark.filterwarnings("ignore")
def test_every_higher_order_operator_is_readable_or_refused(ledger: dl.Ledger) -> None:
    ops = [internals.higher_order_operators()[name] for name in HIGHER_ORDER]
    for value in ("of the registry", "function", "operator"):
        check(ledger, ops, lambda table, value=value: table.update(dict.fromkeys(ops, VALUES[value])))
    check(ledger, ops, lambda table: [table.pop(op, None) for op in ops])
    check(ledger, ops, lambda table: table.preserve(*ops))


@pytest.mark.filterwarnings("ignore")
def test_every_entry_of_the_registry_is_readable(ledger: dl.Ledger) -> None:
    table = ledger.table("edge")
    for op, fn in REGISTRY.items():
        table[op] = fn
    with dl.Ledger(ledger.path) as later:
        try:
            found = later.table("edge")
            assert all(op in found for op in REGISTRY)
        except dl.LedgerError as error:  # entries of other tables of torch than the one that exports use
            assert isinstance(error, (dl.NotImportable, dl.UntrustedModule))
    own_registry = {op: fn for op, fn in internals.registry().items() if callable(fn)}
    ledger.table("own").update(own_registry)
    with dl.Ledger(ledger.path) as later:
        again = later.table("own")
        assert {op for op in own_registry if again.get(op) is not own_registry[op]} == set()


@pytest.mark.filterwarnings("ignore")
def test_every_op_of_the_dispatcher_can_be_written_and_read(ledger: dl.Ledger) -> None:
    every = [op for name in internals.dispatcher_names() if (op := resolve(name)) is not None]
    assert len(every) > 3000
    check(ledger, every[::50], lambda table: table.update(dict.fromkeys(every, aten.mm.default)))
    check(ledger, every[::50], lambda table: table.preserve(*every))
    ledger.table("edge").clear()
    assert len(ledger.table("edge")) == 0


def test_a_true_second_process_reads_what_was_written(ledger: dl.Ledger) -> None:
    table = ledger.table("edge")
    hop = torch.ops.higher_order.out_dtype
    table[hop] = REGISTRY[hop]
    table[aten.gelu.default] = aten.mm.default
    code = """import decomp_ledger as dl, sys
t = dl.Ledger(sys.argv[1]).table("edge")
names = [op.name() for op in t]
print(len(t) == len(names), "out_dtype" in names, t["aten::gelu"].name())
"""
    done = subprocess.run([sys.executable, "-c", code, ledger.path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True", "aten::mm"]


def test_a_value_that_would_be_found_as_another_is_refused(ledger: dl.Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    table, version = ledger.table("edge"), ledger.table("edge").version
    monkeypatch.setattr(decompositions, "_torchs_own", lambda *_: own)
    with pytest.raises(dl.LedgerError, match="torch has another decomposition under its name"):
        table[aten.gelu_backward.default] = REGISTRY[aten.gelu_backward.default]
    monkeypatch.setattr(decompositions, "_torchs_own", lambda *_: (_ for _ in ()).throw(RuntimeError("gone")))
    with pytest.raises(dl.LedgerError, match="it would not be found"):
        table[aten.gelu_backward.default] = REGISTRY[aten.gelu_backward.default]
    assert table.version == version


def test_functions_of_earlier_versions_are_kept_in_bounded_number(ledger: dl.Ledger) -> None:
    import gc
    import weakref

    table, alive = ledger.table("edge"), []
    for number in range(200):

        def closure(x: Any, n: int = number) -> Any:
            return x * n

        table[aten.gelu.default] = closure
        alive.append(weakref.ref(closure))
        if number == 195:
            version = table.version
    del closure
    gc.collect()
    kept = [reference for reference in alive if reference() is not None]
    assert len(kept) < 80 and alive[-1]() is not None
    sources = {rule.decomposition.source for rule in table.state.rules.values() if rule.decomposition is not None}
    assert len(sources) == 1
    table.revert(version)  # one of the last versions needs no import
    assert table[aten.gelu.default] is alive[195]()
    assert dispatcher.current() is not None
