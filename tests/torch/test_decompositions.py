"""What a decomposition is called, what it is, and whether it may be used: references, digests and trust."""

from __future__ import annotations

import functools
import gc
import importlib
import linecache
import operator
import os
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from os import getcwd
from pathlib import Path
from subprocess import getoutput  # a hostile ledger may name what a module has, too
from typing import Any

import attrs
import pytest
import torch
from torch._decomp import decomposition_table
from torch.export import CustomDecompTable

from decomp_ledger import (
    DecompositionChanged,
    DecompTable,
    InvalidName,
    Ledger,
    LedgerError,
    NotImportable,
    UntrustedModule,
    UnusableValue,
    materialize,
)
from decomp_ledger.model.events import OVERRIDE, Change, Set
from decomp_ledger.model.rules import Decomposition
from decomp_ledger.pytorch import decompositions, internals
from decomp_ledger.pytorch.dispatcher import dispatcher, resolve
from decomp_ledger.pytorch.fingerprint.source_digest import source_digest

aten = torch.ops.aten
LINEAR, MM, BMM, SILU = aten.linear.default, aten.mm.default, aten.bmm.default, aten.silu.default


def squared(x: torch.Tensor, *args: Any) -> torch.Tensor:
    """Be a decomposition that can be imported."""
    return x * x


def scaled(x: torch.Tensor, by: int = 1) -> torch.Tensor:
    """Be one with a default."""
    return x * by


def times(by: Any) -> Callable[..., Any]:
    """Make a closure: its name cannot be imported."""

    def product(x: torch.Tensor) -> Any:
        return x * by

    return product


class Lowering:
    """A class whose methods and instances are callables."""

    def __init__(self, by: int = 2) -> None:
        self.by = by

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.by

    def method(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.by

    @staticmethod
    def static(x: torch.Tensor) -> torch.Tensor:
        return x


nameless = lambda x: x + 1  # noqa: E731


@pytest.fixture
def table(ledger: Ledger) -> DecompTable:
    """A new table."""
    return ledger.table("edge")


@pytest.fixture
def reopened(ledger: Ledger) -> Iterator[Ledger]:
    """The same ledger as another process has it: it knows none of this one's functions."""
    with Ledger(ledger.path) as opened:
        yield opened


def reference_of(table: DecompTable, op: str = "aten::mm") -> Decomposition:
    """Return what is recorded of an op's decomposition."""
    decomposition = table.state.rules[op].decomposition
    assert decomposition is not None
    return decomposition


# --- what is recorded ------------------------------------------------------------------------------------------------


def test_an_importable_function_is_its_module_name_and_source(table: DecompTable) -> None:
    table[MM] = squared
    expected = Decomposition("import", __name__, "squared", source_digest(squared))
    assert expected == reference_of(table)


@pytest.mark.parametrize(
    ("fn", "qualname", "text"),
    [
        (nameless, "<lambda>", "nameless = lambda x: x + 1"),
        (times(3), "times.<locals>.product", "return x * by"),
        (functools.partial(scaled, by=3), "scaled", "return x * by"),
        (Lowering(3), "Lowering", "return x * self.by"),
        (Lowering(3).method, "Lowering.method", "return x + self.by"),
    ],
    ids=["lambda", "closure", "partial", "instance", "bound method"],
)
def test_a_function_with_no_importable_name_is_opaque(fn: Any, qualname: str, text: str, table: DecompTable) -> None:
    table[MM] = fn
    decomposition = reference_of(table)
    assert decomposition.origin == "opaque"
    assert decomposition.qualname == qualname
    assert decomposition.digest == source_digest(fn)
    assert text in str(decomposition.source)


@pytest.mark.parametrize("fn", [Lowering, operator.neg, getcwd], ids=["class", "builtin", "imported builtin"])
def test_only_plain_functions_are_found_by_name(fn: Any, table: DecompTable, reopened: Ledger) -> None:
    table[MM] = fn
    assert (reference_of(table).origin, reference_of(table).qualname) == ("opaque", fn.__qualname__)
    again = reopened.table("edge")
    with pytest.raises(NotImportable, match=r"without an importable name .*; supply it with ledger\.provide"):
        again[MM]
    reopened.provide(MM, fn)
    assert again[MM] is fn


def test_an_operator_is_its_name(table: DecompTable, reopened: Ledger) -> None:
    table[MM] = aten.matmul.default
    assert Decomposition("import", "torch.ops", "aten::matmul") == reference_of(table)
    assert reopened.table("edge")[MM] is aten.matmul.default


def op_of(origin: str) -> Any:
    """Return an op that torch decomposes by default, from that origin."""
    if origin == "cia":
        return LINEAR
    if origin == "registry":
        return SILU
    defaults = CustomDecompTable().materialize()
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return next(op for op, fn in defaults.items() if op.py_kernels.get(key) is fn and op not in decomposition_table)


@pytest.mark.parametrize("origin", ["cia", "registry", "py_cia"])
def test_torchs_own_is_the_build_and_the_origin(origin: str, table: DecompTable, reopened: Ledger) -> None:
    op = op_of(origin)
    default = table.pop(op)
    table[op] = default
    expected = Decomposition(origin, build=torch.version.git_version)
    assert expected == reference_of(table, op.name())
    again = reopened.table("edge")
    assert decompositions.same(again[op], default)
    assert op not in again.at(2)


def test_torchs_own_on_another_op_is_found_again(table: DecompTable, reopened: Ledger) -> None:
    from torch._decomp.decompositions import silu_backward

    table[MM] = silu_backward
    assert reference_of(table) == attrs.evolve(honest(silu_backward), helpers=reference_of(table).helpers)
    assert reference_of(table).label() == "torch._decomp.decompositions.silu_backward"
    assert reopened.table("edge")[MM] is silu_backward


def test_a_default_given_to_an_empty_table_is_recorded_as_torchs(ledger: Ledger, reopened: Ledger) -> None:
    table = ledger.table("small", base="empty")
    defaults = ledger.table("all")
    table.update({LINEAR: defaults[LINEAR], SILU: defaults[SILU]})
    assert [reference_of(table, op).origin for op in ("aten::linear", "aten::silu")] == ["cia", "registry"]
    assert set(reopened.table("small")) == {LINEAR, SILU}


@pytest.mark.parametrize("value", [None, 42, "squared", [squared]], ids=["None", "42", "text", "list"])
def test_what_cannot_be_called_is_refused(value: Any, table: DecompTable) -> None:
    with pytest.raises(UnusableValue, match=r"aten::mm: its decomposition must be callable, not \w+"):
        table[MM] = value
    assert (table.version, MM in table) == (1, False)


def test_an_update_with_one_wrong_value_changes_nothing(table: DecompTable) -> None:
    with pytest.raises(UnusableValue, match="aten::bmm"):
        table.update({MM: squared, BMM: 42})
    assert (table.version, MM in table) == (1, False)


# --- the same again --------------------------------------------------------------------------------------------------

AGAIN: dict[str, tuple[Any, Any]] = {
    "function": (squared, squared),
    "lambda": (nameless, nameless),
    "closure": (times(3), times(3)),
    "partial": (functools.partial(scaled, by=3), functools.partial(scaled, by=3)),
    "instance": (Lowering(3), Lowering(3)),
    "bound method": (Lowering(3).method, Lowering(3).method),
    "static method": (Lowering.static, Lowering.static),
    "class": (Lowering, Lowering),
    "operator": (aten.matmul.default, aten.matmul.default),
    "builtin": (operator.neg, operator.neg),
    "torch's": (torch.neg, torch.neg),
}


@pytest.mark.parametrize(("first", "second"), AGAIN.values(), ids=AGAIN)
def test_the_same_decomposition_again_makes_no_event(first: Any, second: Any, table: DecompTable) -> None:
    table[MM] = first
    table[MM] = second
    table.update({MM: second})
    assert table.version == 2
    # Of two that are the same by their source, the newest is used.
    assert table[MM] == second


CHANGED: dict[str, tuple[Any, Any]] = {
    "function": (squared, scaled),
    "lambda": (nameless, lambda x: x + 2),
    "closure": (times(3), times(4)),
    "partial": (functools.partial(scaled, by=3), functools.partial(scaled, by=4)),
    "instance": (Lowering(3), Lowering(4)),
    "bound method": (Lowering(3).method, Lowering(4).method),
    "operator": (aten.matmul.default, aten.bmm.default),
    "builtin": (operator.neg, operator.pos),
    "torch's": (torch.neg, torch.abs),
}


@pytest.mark.parametrize(("first", "second"), CHANGED.values(), ids=CHANGED)
def test_another_decomposition_is_an_event_and_the_first_is_not_forgotten(
    first: Any, second: Any, table: DecompTable
) -> None:
    table[MM] = first
    table[MM] = second
    assert table.version == 3
    assert table[MM] == second
    assert table.at(2)[MM] == first
    assert table.at(3)[MM] == second


@pytest.mark.parametrize("op", [LINEAR, SILU], ids=str)
def test_setting_torchs_default_makes_no_event_where_it_is_already(op: Any, table: DecompTable) -> None:
    table[op] = table[op]
    table.update({op: table[op]})
    assert table.setdefault(op, squared) is not squared
    assert table.version == 1


def test_a_digest_is_made_once_for_a_function(table: DecompTable, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(fn: Any) -> str | None:
        asked.append(fn)
        return source_digest(fn)

    def fresh(x: torch.Tensor) -> torch.Tensor:
        return x

    monkeypatch.setattr(decompositions, "source_digest", counted)
    table[MM] = fresh
    table[BMM] = fresh
    table.update({SILU: fresh})
    table.pop(LINEAR)
    assert asked == [fresh]


def test_each_operator_that_is_a_decomposition_is_found(table: DecompTable) -> None:
    table[MM] = aten.matmul.default
    table[BMM] = aten.baddbmm.default
    table[SILU] = torch.nn.functional.relu
    past = table.at(table.version)
    assert [past[op] for op in (MM, BMM, SILU)] == [aten.matmul.default, aten.baddbmm.default, torch.nn.functional.relu]


def test_an_operator_read_from_the_file_is_the_one_that_was_recorded(table: DecompTable, reopened: Ledger) -> None:
    table[MM] = aten.matmul.default
    other = reopened.table("other")
    other[BMM] = aten.baddbmm.default
    assert reopened.table("edge")[MM] is aten.matmul.default


def test_an_operator_is_never_remembered_across_its_library(table: DecompTable, make_library: Any) -> None:
    library = make_library()
    library.define("used(Tensor x, Tensor y) -> Tensor")
    old = getattr(torch.ops, library.ns).used.default
    table[MM] = old
    library._destroy()
    with pytest.raises(
        NotImportable, match=f"aten::mm: its decomposition is the op {library.ns}::used, which is not loaded"
    ):
        len(table)
    again = make_library(library.ns)
    again.define("used(Tensor x, Tensor y) -> Tensor")
    assert len(table)
    assert table[MM] is getattr(torch.ops, library.ns).used.default
    assert table[MM] is not old


def test_two_functions_with_one_text_are_two_decompositions(table: DecompTable, tmp_path: Path, modules: Any) -> None:
    one = modules("text_one", "SCALE = 1\ndef fn(x, y):\n    return x * SCALE\n")
    two = modules("text_two", "SCALE = 2\ndef fn(x, y):\n    return x * SCALE\n")
    table[MM] = one.fn
    table[MM] = two.fn
    assert table.version == 3
    assert table.at(2)[MM] is one.fn
    assert table.at(3)[MM] is two.fn


def test_each_table_keeps_the_function_it_was_given(ledger: Ledger, library: Any) -> None:
    # A digest knows of an object in a cell only its type, so these two have one.
    first, second = times(object()), times(object())
    assert source_digest(first) == source_digest(second)
    one, two = ledger.table("one"), ledger.table("two")
    one[MM] = first
    two[MM] = second
    library.define("new(Tensor x) -> Tensor")
    library.impl("new", squared, "CompositeImplicitAutograd")  # so that all storages are built again
    assert one[MM] is first
    assert two[MM] is second
    assert one.materialize()[MM] is first


# --- in another process ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [squared, scaled], ids=["function", "default"])
def test_what_is_imported_already_is_found(fn: Any, table: DecompTable, reopened: Ledger) -> None:
    table[MM] = fn
    assert reopened.table("edge")[MM] is fn
    assert reopened.table("edge").materialize()[MM] is fn


@pytest.fixture
def opaque(table: DecompTable) -> DecompTable:
    """A table with a function that no other process can find."""
    table[MM] = nameless
    table.pop(LINEAR)
    return table


def test_what_has_no_importable_name_must_be_provided(opaque: DecompTable, reopened: Ledger) -> None:
    table = reopened.table("edge")
    for read in (
        lambda: table[MM],
        lambda: len(table),
        lambda: dict(table),
        table.materialize,
        lambda: LINEAR in table,
    ):
        with pytest.raises(NotImportable, match=r"aten::mm: .*is .*<lambda>.*ledger\.provide\('aten::mm', fn\)"):
            read()
    reopened.provide("aten.mm.default", nameless)
    assert table[MM] is nameless
    assert LINEAR not in table
    assert table.materialize()[MM] is nameless


def test_what_was_provided_is_not_an_event(opaque: DecompTable, reopened: Ledger) -> None:
    before = len(list(reopened.events()))
    reopened.provide(MM, nameless)
    assert reopened.table("edge")[MM] is nameless
    assert len(list(reopened.events())) == before


@pytest.mark.parametrize("wrong", [squared, lambda x: x + 2, times(3), operator.neg, aten.matmul.default], ids=range(5))
def test_a_wrong_function_is_refused(wrong: Any, opaque: DecompTable, reopened: Ledger) -> None:
    reopened.provide("aten::mm", wrong)
    table = reopened.table("edge")
    with pytest.raises(DecompositionChanged, match=r"aten::mm.*is not what was recorded"):
        table[MM]
    reopened.provide("aten::mm", nameless)
    assert table[MM] is nameless


def test_a_copy_of_the_text_may_be_provided(opaque: DecompTable, reopened: Ledger, modules: Any) -> None:
    copied = modules("copied", "renamed = lambda x: x + 1\n").renamed
    reopened.provide("aten::mm", copied)
    assert reopened.table("edge")[MM] is copied


def test_functions_of_several_versions_may_be_provided(ledger: Ledger, reopened: Ledger) -> None:
    three, four = times(3), times(4)
    table = ledger.table("edge")
    table[MM] = three
    table[MM] = four
    reopened.provide("aten::mm", three)
    reopened.provide("aten::mm", four)
    again = reopened.table("edge")
    assert (again.at(2)[MM], again.at(3)[MM]) == (three, four)


def test_what_is_provided_is_for_those_that_need_it(ledger: Ledger, reopened: Ledger) -> None:
    table = ledger.table("edge")
    table[MM] = squared
    table[MM] = nameless
    reopened.provide("aten::mm", nameless)
    again = reopened.table("edge")
    assert (again.at(2)[MM], again.at(3)[MM]) == (squared, nameless)


@pytest.mark.parametrize("value", [None, 42, "nameless"], ids=str)
def test_what_is_provided_must_be_callable(value: Any, ledger: Ledger) -> None:
    with pytest.raises(UnusableValue, match=r"provide\(fn=.*\): \w+ is not possible; give a function"):
        ledger.provide(MM, value)


@pytest.mark.parametrize(("op", "error"), [(42, UnusableValue), (None, UnusableValue), ("a b", InvalidName)], ids=str)
def test_what_is_provided_is_for_an_op(op: Any, error: type[Exception], ledger: Ledger) -> None:
    with pytest.raises(error):
        ledger.provide(op, nameless)


@pytest.mark.parametrize("cure", ["preserve", "reset", "set", "pop", "revert"])
def test_a_table_that_cannot_be_read_can_be_changed(cure: str, opaque: DecompTable, reopened: Ledger) -> None:
    table = reopened.table("edge")
    if cure == "preserve":
        table.preserve(MM)
    elif cure == "reset":
        table.reset(MM)
    elif cure == "set":
        table[MM] = squared
    elif cure == "pop":
        with pytest.raises(NotImportable):
            table.pop(MM)(1, 2)
    else:
        table.revert(to=1)
    assert table.version == 4
    assert (MM in table) == (cure == "set")


def test_another_op_of_a_table_that_cannot_be_read_can_be_changed(opaque: DecompTable, reopened: Ledger) -> None:
    table = reopened.table("edge")
    table.preserve(SILU)
    table[BMM] = squared
    assert table.state.rules.keys() == {"aten::mm", "aten::linear", "aten::silu", "aten::bmm"}
    assert "cannot be read here" in repr(table)
    reopened.provide(MM, nameless)
    assert (SILU in table, table[BMM]) == (False, squared)


# --- a source that changed -------------------------------------------------------------------------------------------


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Write a module, and import it unless `imported` is false; forget all at the end."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    made: list[str] = []

    def make(name: str, text: str, imported: bool = True) -> Any:
        path = folder / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(textwrap.dedent(text))
        made.append(name)
        for loaded in (name, name.partition(".")[0]):
            sys.modules.pop(loaded, None)
        importlib.invalidate_caches()
        linecache.clearcache()
        return importlib.import_module(name) if imported else None

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield make
    for name in made:
        for loaded in (name, name.partition(".")[0]):
            sys.modules.pop(loaded, None)
    linecache.clearcache()


BEFORE = """
def lower(x, y):
    return x * y
"""
REWORDED = '''
def lower(x: "Tensor", y: "Tensor") -> "Tensor":
    """Say what it does."""
    # and why
    assert x is not None
    return x * y
'''
AFTER = """
def lower(x, y):
    return x * y + 1
"""


@pytest.fixture
def recorded(table: DecompTable, modules: Any) -> DecompTable:
    """A table that names a function of a module."""
    table[MM] = modules("changing", BEFORE).lower
    return table


def test_a_source_that_changed_is_refused(recorded: DecompTable, reopened: Ledger, modules: Any) -> None:
    modules("changing", AFTER)
    table = reopened.table("edge")
    with pytest.raises(
        DecompositionChanged, match=r"aten::mm: its decomposition changing\.lower is not what was recorded"
    ):
        table[MM]
    with pytest.raises(DecompositionChanged, match="aten::mm"):
        table.materialize()


def test_a_source_that_changed_can_be_set_again(recorded: DecompTable, reopened: Ledger, modules: Any) -> None:
    changed = modules("changing", AFTER).lower
    table = reopened.table("edge")
    table[MM] = changed
    assert table[MM] is changed
    assert table.version == 3
    with pytest.raises(DecompositionChanged):
        table.at(2)[MM]


def test_a_source_that_was_only_reworded_is_the_same(recorded: DecompTable, reopened: Ledger, modules: Any) -> None:
    reworded = modules("changing", REWORDED).lower
    table = reopened.table("edge")
    assert table[MM] is reworded
    table[MM] = reworded
    assert table.version == 2


@pytest.mark.parametrize("text", ["", "lower = 42\n", "def other(x, y):\n    return x * y\n"], ids=repr)
def test_a_function_that_is_gone_is_named(text: str, recorded: DecompTable, reopened: Ledger, modules: Any) -> None:
    modules("changing", text)
    with pytest.raises(NotImportable, match=r"changing\.lower, and 'changing' does not define a plain function"):
        reopened.table("edge")[MM]


def test_history_can_be_read_where_the_source_changed(recorded: DecompTable, reopened: Ledger, modules: Any) -> None:
    modules("changing", AFTER)
    table = reopened.table("edge")
    assert [event.kind for event in table.history(MM)] == ["set"]
    assert table.blame()["aten::mm"].version == 2
    assert reference_of(table).label() == "changing.lower"
    assert [(diff.op, diff.before) for diff in table.diff(1, 2)] == [("aten::mm", None)]


# --- what a stranger's ledger may name -------------------------------------------------------------------------------


def forge(ledger: Ledger, decomposition: Decomposition, op: str = "aten::mm") -> None:
    """Write a table that says what no honest one would."""
    table = ledger.table_log(ledger.table("forged").name)
    with ledger.database.write_transaction():
        digest = ledger.event_store.put_decomposition(decomposition)
        ledger.append(table.name, table.version + 1, Set((Change(op, OVERRIDE, digest),)))


def honest(fn: Any, module: str | None = None, qualname: str | None = None) -> Decomposition:
    """Make a reference to a function, its digest the right one."""
    digest = source_digest(fn) or f"builtin:{fn.__qualname__}"
    return Decomposition("import", module or fn.__module__, qualname or fn.__qualname__, digest)


BUILD = torch.version.git_version
HOSTILE = {
    "os.system": honest(os.system, "os"),
    "posix.system": honest(os.system, "posix"),
    "subprocess.getoutput": honest(getoutput),
    "builtins.eval": honest(eval, "builtins"),
    "importlib.import_module": honest(importlib.import_module),
    "torch.hub.load": honest(torch.hub.load),
    "torch.hub.load by build": Decomposition("import", "torch.hub", "load", build=BUILD),
    "torch.load by build": Decomposition("import", "torch.serialization", "load", build=BUILD),
    "a module that is not imported": Decomposition("import", "side_effect", "lower", "0" * 64),
    "what a module imported": honest(getoutput, __name__, "getoutput"),
    "what a module of a module has": honest(os.system, __name__, "os.system"),
    "what a module of torch's imported": Decomposition("import", "torch._decomp", "torch.hub.load", build=BUILD),
    "what torch imported": honest(os.system, "torch._decomp.decompositions", "torch.os.system"),
    "a method of what a module imported": honest(Path.write_text, __name__, "Path.write_text"),
}


@pytest.fixture
def side_effect(modules: Any, tmp_path: Path) -> Path:
    """A module that makes a file when it is imported; return the file."""
    made = tmp_path / "imported"
    text = f"open({str(made)!r}, 'w').close()\ndef lower(x, y):\n    return x\n"
    modules("side_effect", text, imported=False)
    return made


@pytest.fixture(params=HOSTILE.values(), ids=list(HOSTILE))
def hostile(request: pytest.FixtureRequest, ledger: Ledger, side_effect: Path) -> Decomposition:
    """A reference that must not be followed, in a table of the ledger."""
    decomposition: Decomposition = request.param
    forge(ledger, decomposition)
    return decomposition


def test_a_stranger_cannot_name_what_does_harm(hostile: Decomposition, reopened: Ledger, side_effect: Path) -> None:
    table = reopened.table("forged")
    for read in (lambda: table[MM], lambda: len(table), lambda: dict(table), table.materialize, lambda: table.get(MM)):
        with pytest.raises((UntrustedModule, NotImportable), match="aten::mm"):
            read()
    assert not side_effect.exists()
    assert "side_effect" not in sys.modules


def test_an_export_with_it_fails_before_anything_runs(ledger: Ledger, reopened: Ledger) -> None:
    forge(ledger, HOSTILE["os.system"], op="aten::relu")
    program = torch.export.export(torch.nn.ReLU(), (torch.ones(2),))
    with pytest.raises(UntrustedModule, match=r"aten::relu: its decomposition is os\.system"):
        program.run_decompositions(reopened.table("forged"))


def test_history_of_a_strangers_ledger_can_be_read(hostile: Decomposition, reopened: Ledger, side_effect: Path) -> None:
    table = reopened.table("forged")
    assert [event.kind for event in table.events()] == ["created", "set"]
    assert [event.kind for event in table.history(MM)] == ["set"]
    assert reference_of(table) == hostile
    assert reference_of(table.at(2)) == hostile
    assert table.blame().keys() == {"aten::mm"}
    assert table.diff(1)[0].op == "aten::mm"
    assert table.pending == ()
    assert hostile.identity() in str(table.events()[-1].body)
    assert "forged" in repr(table)
    assert reopened.verify().problems == ()
    assert not side_effect.exists()


def test_a_snapshot_of_a_strangers_table_needs_none_of_it(hostile: Decomposition, reopened: Ledger) -> None:
    other = reopened.table("other")
    other.materialize()
    (materialized,) = reopened.events(kind="materialized")
    snapshot = materialize(reopened.state("forged"), reopened.catalog(materialized.body.catalog))
    assert snapshot.overridden == ("aten::mm",)


@pytest.mark.parametrize(
    "module", ["os", "subprocess", "torch.hub", "side_effect"], ids=["builtin", "library", "torch", "not imported"]
)
def test_the_error_names_the_way_out(module: str, ledger: Ledger, reopened: Ledger, side_effect: Path) -> None:
    forge(ledger, Decomposition("import", module, "lower", "0" * 64))
    with pytest.raises(UntrustedModule) as raised:
        len(reopened.table("forged"))
    assert f"the module {module!r}" in str(raised.value)
    assert f"trust=[{module!r}]" in str(raised.value)
    assert f"--trust {module}" in str(raised.value)


def test_a_trusted_module_is_imported(ledger: Ledger, side_effect: Path, modules: Any) -> None:
    module = modules("side_effect", side_effect_text(side_effect))
    ledger.table("edge")[MM] = module.lower
    side_effect.unlink()
    modules("side_effect", side_effect_text(side_effect), imported=False)
    with Ledger(ledger.path, trust=["side_effect"]) as trusting:
        table = trusting.table("edge")
        assert table[MM] is sys.modules["side_effect"].lower
    assert side_effect.exists()


def side_effect_text(made: Path) -> str:
    """Return the text of the module that makes a file."""
    return f"open({str(made)!r}, 'w').close()\ndef lower(x, y):\n    return x\n"


@pytest.mark.parametrize(
    ("trust", "trusted"),
    [
        (["mypkg"], True),
        (["mypkg.lower"], True),
        (["other", "mypkg"], True),
        ([], False),
        (["my"], False),
        (["mypkg.low"], False),
        (["mypkg.lower.deeper"], False),
    ],
    ids=str,
)
def test_trust_is_of_a_module_and_what_is_under_it(
    trust: list[str], trusted: bool, ledger: Ledger, modules: Any
) -> None:
    modules("mypkg.__init__", "", imported=False)
    ledger.table("edge")[MM] = modules("mypkg.lower", BEFORE).lower
    for name in ("mypkg", "mypkg.lower"):
        sys.modules.pop(name, None)
    with Ledger(ledger.path, trust=trust) as opened:
        table = opened.table("edge")
        if trusted:
            assert table[MM] is sys.modules["mypkg.lower"].lower
            return
        with pytest.raises(UntrustedModule, match=r"'mypkg\.lower' is not imported here; import it first, or trust it"):
            table[MM]
        assert "mypkg.lower" not in sys.modules


def test_a_module_imported_since_is_enough(ledger: Ledger, reopened: Ledger, modules: Any) -> None:
    ledger.table("edge")[MM] = modules("changing", BEFORE).lower
    modules("changing", BEFORE, imported=False)
    table = reopened.table("edge")
    with pytest.raises(UntrustedModule):
        table[MM]
    module = importlib.import_module("changing")
    assert table[MM] is module.lower


def test_what_is_trusted_must_still_be_what_was_recorded(ledger: Ledger, modules: Any) -> None:
    ledger.table("edge")[MM] = modules("changing", BEFORE).lower
    modules("changing", AFTER, imported=False)
    with Ledger(ledger.path, trust=["changing"]) as trusting, pytest.raises(DecompositionChanged, match="aten::mm"):
        len(trusting.table("edge"))


def test_a_standard_module_can_be_trusted(ledger: Ledger) -> None:
    ledger.table("edge")[MM] = textwrap.dedent
    with Ledger(ledger.path) as strange, pytest.raises(UntrustedModule, match="'textwrap'"):
        len(strange.table("edge"))
    with Ledger(ledger.path, trust=["textwrap"]) as trusting:
        assert trusting.table("edge")[MM] is textwrap.dedent


@pytest.mark.parametrize("text", ["import nowhere_at_all\n", "raise RuntimeError('no')\n", "1 +\n"], ids=repr)
def test_a_trusted_module_that_cannot_be_imported_is_named(text: str, ledger: Ledger, modules: Any) -> None:
    ledger.table("edge")[MM] = modules("changing", BEFORE).lower
    modules("changing", text, imported=False)
    with (
        Ledger(ledger.path, trust=["changing"]) as trusting,
        pytest.raises(
            NotImportable, match=r"aten::mm: its decomposition is changing\.lower, and 'changing' cannot be imported"
        ),
    ):
        len(trusting.table("edge"))


def test_a_modules_getattr_is_not_run(ledger: Ledger, reopened: Ledger, modules: Any, tmp_path: Path) -> None:
    made = tmp_path / "asked"
    modules("lazy", f"def __getattr__(name):\n    open({str(made)!r}, 'w').close()\n    return print\n")
    made.unlink(missing_ok=True)
    forge(ledger, Decomposition("import", "lazy", "lower", "0" * 64))
    with pytest.raises(NotImportable, match=r"lazy\.lower, and 'lazy' does not define a plain function"):
        len(reopened.table("forged"))
    assert not made.exists()


@pytest.mark.parametrize(
    ("op", "origin", "expected"),
    [
        ("aten::silu", "registry", "registry"),
        ("aten::silu", "cia", "registry"),  # torch has no other
        ("aten::linear", "registry", "cia"),
        ("aten::pairwise_distance", "registry", "registry"),  # it has both, and uses the other
        ("aten::pairwise_distance", "cia", "cia"),
        ("aten::pairwise_distance", "py_cia", "cia"),
    ],
)
def test_torchs_own_of_another_build_is_what_the_replay_says(
    op: str, origin: str, expected: str, ledger: Ledger, reopened: Ledger
) -> None:
    forge(ledger, Decomposition(origin, build="another"), op=op)
    table = reopened.table("forged")
    fn = table[resolve(op)]
    registered = decomposition_table[resolve(op)] if expected == "registry" else None
    assert (fn is registered) if registered else decompositions.same(fn, internals.cia_decomposition(resolve(op)))
    table.materialize()
    catalog = dispatcher.full().catalog
    assert materialize(reopened.state("forged"), catalog).ops[op] == expected


@pytest.mark.parametrize("origin", ["cia", "registry", "py_cia"])
def test_torchs_own_for_an_op_that_has_none_is_named(origin: str, ledger: Ledger, reopened: Ledger) -> None:
    forge(ledger, Decomposition(origin, build="another"), op="aten::_local_scalar_dense")
    with pytest.raises(NotImportable, match=r"aten::_local_scalar_dense: .* torch's own .* has none for it; reset or"):
        len(reopened.table("forged"))


@pytest.mark.parametrize(
    "body",
    [{"origin": "nowhere"}, {"origin": "import", "module": 42}, {"origin": "import", "code": "print()"}, []],
    ids=str,
)
def test_a_broken_reference_is_a_damaged_ledger(body: Any, ledger: Ledger) -> None:
    with pytest.raises(LedgerError):
        Decomposition.from_json(body)


def test_a_function_is_kept_as_long_as_a_table_uses_it(ledger: Ledger) -> None:
    table = ledger.table("edge")
    product = times(3)
    table[MM] = product
    alive = weakref.ref(product)
    del product
    gc.collect()
    assert table[MM] is alive()
    assert ledger.table("edge")[MM] is alive()
    del table
    gc.collect()
    assert alive() is None


def test_the_source_of_an_importable_function_is_recorded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ledger.table("edge")
    monkeypatch.setattr(decompositions, "_identified", weakref.WeakKeyDictionary())
    table[SILU] = squared
    (rule,) = table.state.rules.values()
    assert rule.decomposition is not None and rule.decomposition.origin == "import"
    assert rule.decomposition.source is not None and "return x * x" in rule.decomposition.source
    table[SILU] = torch._refs.square
    assert table.state.rules["aten::silu"].decomposition is not None
    assert table.state.rules["aten::silu"].decomposition.source is None  # torch's build implies it


def test_a_minimal_capture_has_no_source_of_an_importable_function(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECOMP_LEDGER_CAPTURE", "minimal")
    monkeypatch.setattr(decompositions, "_identified", weakref.WeakKeyDictionary())
    table = ledger.table("edge")
    table[SILU] = squared
    assert table.state.rules["aten::silu"].decomposition.source is None  # type: ignore[union-attr]


def test_a_rule_that_was_recorded_without_its_source_is_the_same_rule(ledger: Ledger) -> None:
    table = ledger.table("edge")
    table[SILU] = squared
    decomposition = attrs.evolve(table.state.rules["aten::silu"].decomposition, source=None)
    older = ledger.create_table("older")
    older.change(Set, lambda _: [("aten::silu", OVERRIDE, decomposition)])
    again = ledger.table("older")
    again[SILU] = squared
    assert again.version == 2
    assert not ledger.diff("older", "edge").rules
