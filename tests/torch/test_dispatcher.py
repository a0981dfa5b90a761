"""A table follows torch's dispatcher through every kind of change that can be made to it."""

import collections
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest
import torch
from dispatcher_changes import (
    CHANGES,
    CIA,
    Change,
    Scene,
    build_late_ops,
    compiler_is_here,
    define_double,
    double,
    library_of,
    live,
)
from torch._export import utils
from torch._export.utils import _collect_all_valid_cia_ops_for_aten_namespace
from torch.export import CustomDecompTable as UpstreamTable
from torch.export import ExportedProgram

import decomp_ledger as dl
from decomp_ledger.model.catalog import Entry
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.dispatcher import _own_entries, dispatcher, resolve

# Naming an op that is not loaded warns; other tests hold that.
pytestmark = pytest.mark.filterwarnings("ignore")

Op = torch._ops.OpOverload
Table = Mapping[Op, Callable]

_numbers = itertools.count()
decomposed = ["aten::mul.Tensor"]  # the calls that are left of one of `double`


@pytest.fixture(scope="session")
def late_ops(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Build the C++ library once, and only if a test needs it."""

    @functools.cache
    def build() -> Path:
        return build_late_ops(tmp_path_factory.mktemp("late_ops"))

    return build


@pytest.fixture
def scene(late_ops: Callable[[], Path]) -> Iterator[Scene]:
    """Give a namespace that no other test has, and leave no trace of it in torch.

    Upstream asks the dispatcher once for each namespace in torch.ops, so that a few hundred that
    no test needs any more would make every later test slow.
    """
    scene = Scene(f"dispatcher_test_{next(_numbers)}", late_ops)
    yield scene
    if vars(torch.ops).pop(scene.namespace, None) is not None:
        torch.ops._dir.remove(scene.namespace)
    _collect_all_valid_cia_ops_for_aten_namespace.cache_clear()


@pytest.fixture
def ledger() -> Iterator[dl.Ledger]:
    """Give a ledger that costs no disk: these tests are not about what it keeps."""
    with dl.Ledger(":memory:") as ledger:
        yield ledger


needs_compiler = pytest.mark.skipif(not compiler_is_here(), reason="no C++ compiler here")


def of_changes(changes: list[Change]) -> pytest.MarkDecorator:
    """Run a test once for each of these changes."""
    cases = []
    for change in changes:
        marks = [needs_compiler] if change.name.startswith("cpp_") else []
        cases.append(pytest.param(change, id=change.name, marks=marks))
    return pytest.mark.parametrize("change", cases)


every_change = of_changes(CHANGES)
quick_changes = of_changes([change for change in CHANGES if change.quick])
quickly_undone_changes = of_changes([change for change in CHANGES if change.quick_undo])


def brand_new_upstream() -> dict[Op, Callable]:
    """Return torch's default table as a process that has just begun would see it.

    Upstream asks C++ for the same list once for each namespace, which is most of the time that it
    takes; here it asks once.
    """
    _collect_all_valid_cia_ops_for_aten_namespace.cache_clear()
    utils._materialize_cpp_cia_ops()
    with mock.patch.object(utils, "_materialize_cpp_cia_ops"):
        return UpstreamTable().materialize()


def identity(decomposition: Callable) -> object:
    """Return what tells a decomposition from others; upstream makes new CIA partials every time."""
    if isinstance(decomposition, functools.partial) and "kernel" in decomposition.keywords:
        return ("composite kernel of", id(decomposition.keywords["kernel"]))
    return decomposition


def entries(table: Table) -> dict[str, tuple[int, object]]:
    """Return a table by op name: which key object there is, and which decomposition."""
    return {op.name(): (id(op), identity(decomposition)) for op, decomposition in table.items()}


def differences(before: Table, after: Table) -> dict[str, str]:
    """Name every op in which two tables differ, in the words of Change.effect."""
    old, new = entries(before), entries(after)
    found = dict.fromkeys(new.keys() - old.keys(), "added")
    found |= dict.fromkeys(old.keys() - new.keys(), "removed")
    return found | {op: "replaced" for op in old.keys() & new.keys() if old[op] != new[op]}


def assert_same(expected: Table, actual: Table) -> None:
    """Hold that two tables have the same keys, not only equal ones, and the same decompositions."""
    found = differences(expected, actual)
    assert not found, f"the table differs from what was expected: {found}"


def replacement(x: torch.Tensor) -> torch.Tensor:
    """Be the decomposition that a test gives an op."""
    return x + 1


def with_this_tables_changes(base: Table) -> dict[Op, Callable]:
    """Apply to a new upstream table the rules of `changed_table` for torch's own ops."""
    expected = dict(base)
    del expected[torch.ops.aten.linear.default]
    del expected[torch.ops.aten.addr.default]
    expected[torch.ops.aten.relu.default] = replacement
    return expected


def changed_table(ledger: dl.Ledger) -> UpstreamTable:
    """Make a table with changes of its own."""
    table = ledger.table("t")
    table.preserve("aten::linear")
    table.pop(torch.ops.aten.addr.default)
    table[torch.ops.aten.relu.default] = replacement
    return table


# --- the changes themselves ----------------------------------------------------------------------


@every_change
def test_a_change_does_to_a_new_upstream_table_what_it_declares(change, scene):
    clean = brand_new_upstream()
    with closing(change.steps(scene)) as steps:
        next(steps)
        before = brand_new_upstream()
        next(steps)
        after = brand_new_upstream()
        next(steps, None)
    undone = brand_new_upstream()

    assert change.effect_in(scene) == differences(before, after)
    assert_same(clean, undone)


def test_every_change_is_in_the_list_once():
    names = [change.name for change in CHANGES]
    assert sorted(set(names)) == sorted(names)
    assert len(names) >= 22


# --- full checks ---------------------------------------------------------------------------------


def by_materialize(table) -> dict[Op, Callable]:
    """Read a table as export does."""
    return table.materialize()


def by_refresh(table) -> dict[Op, Callable]:
    """Make the view current, then copy it."""
    table.refresh()
    return dict(table)


@every_change
def test_a_full_check_sees_a_change_and_its_undoing_each_time(change, scene, ledger):
    table = changed_table(ledger)
    for read in (by_materialize, by_refresh):
        with closing(change.steps(scene)) as steps:
            next(steps)
            dict(table)
            next(steps)
            got = read(table)
            assert_same(with_this_tables_changes(brand_new_upstream()), got)
    got = table.materialize()
    assert_same(with_this_tables_changes(brand_new_upstream()), got)


@every_change
def test_a_copy_and_another_table_see_a_change_too(change, scene, ledger):
    table, other = changed_table(ledger), ledger.table("other")
    copied = table.copy()
    with closing(change.steps(scene)) as steps:
        next(steps)
        for each in (table, other, copied):
            dict(each)
        next(steps)
        got = [by_refresh(each) for each in (table, other, copied)]

        new = brand_new_upstream()
        assert_same(with_this_tables_changes(new), got[0])
        assert_same(new, got[1])
        assert_same(with_this_tables_changes(new), got[2])


@every_change
def test_rules_hold_through_a_change_and_its_undoing(change, scene, ledger):
    preserving, overriding, restored = (ledger.table(name) for name in ("p", "o", "r"))
    op = change.op_in(scene)
    with closing(change.steps(scene)) as steps:
        next(steps)
        preserving.preserve(op)
        overriding[op] = replacement
        restored.preserve(op)
        dict(restored)
        restored.reset(op)
        for _ in ("changed", "undone"):
            dict(preserving), dict(overriding), dict(restored)
            next(steps, None)
            got = [by_refresh(table) for table in (preserving, overriding, restored)]

            new = brand_new_upstream()
            assert_same({key: fn for key, fn in new.items() if key.name() != op}, got[0])
            there = {} if live(op) is None else {live(op): replacement}
            assert_same(new | there, got[1])
            assert_same(new, got[2])


# --- plain reads ---------------------------------------------------------------------------------


def bag(decompositions: Iterator[Callable]) -> collections.Counter:
    """Count decompositions, because several ops may share one."""
    return collections.Counter(identity(decomposition) for decomposition in decompositions)


def item(table: Table, op: Op | None) -> object:
    """Look an op up, with the error as a result."""
    try:
        return identity(table[op])
    except KeyError:
        return KeyError


# Each is the first read after a change. `in`, `[]` and get are asked about the op of the change.
READS: dict[str, Callable[[Table, Callable[[], Op | None]], object]] = {
    "contains": lambda table, op: op() in table,
    "getitem": lambda table, op: item(table, op()),
    "get": lambda table, op: identity(table.get(op())),
    "len": lambda table, op: len(table),
    "set": lambda table, op: {id(key) for key in set(table)},
    "keys": lambda table, op: {id(key) for key in table.keys()},  # noqa: SIM118
    "values": lambda table, op: bag(table.values()),
    "items": lambda table, op: {id(key): identity(fn) for key, fn in table.items()},
    "dict": lambda table, op: entries(dict(table)),
    "unpack": lambda table, op: entries({**table}),
    "union": lambda table, op: entries(table | {}),
    "copy": lambda table, op: entries(dict(table.copy())),
}


# One change for each way in which an entry can differ, for the tests that are about reads.
REPRESENTATIVES = {
    "library_defines_and_implements",
    "library_destroyed",
    "library_destroyed_and_registered_again",
}


def of_reads(*names: str) -> pytest.MarkDecorator:
    """Run a test once for each of these reads."""
    return pytest.mark.parametrize("read", [READS[name] for name in names], ids=names)


@of_reads("contains", "getitem", "get", "set")
@quick_changes
def test_a_plain_read_sees_a_change(change, read, scene, ledger):
    table = changed_table(ledger)
    with closing(change.steps(scene)) as steps:
        next(steps)
        stale = live(change.op_in(scene))
        dict(table)
        next(steps)

        def op() -> Op | None:
            return live(change.op_in(scene)) or stale

        got = read(table, op)
        expected = read(with_this_tables_changes(brand_new_upstream()), op)
        assert expected == got


@of_reads("get", "set")
@quickly_undone_changes
def test_a_plain_read_sees_a_change_undone(change, read, scene, ledger):
    table = changed_table(ledger)
    with closing(change.steps(scene)) as steps:
        next(steps)
        next(steps)
        stale = live(change.op_in(scene))
        dict(table)
        next(steps, None)

        def op() -> Op | None:
            return live(change.op_in(scene)) or stale

        got = read(table, op)
        expected = read(with_this_tables_changes(brand_new_upstream()), op)
        assert expected == got


@of_reads(*READS)
@of_changes([change for change in CHANGES if change.name in REPRESENTATIVES])
def test_every_kind_of_read_sees_a_change(change, read, scene, ledger):
    test_a_plain_read_sees_a_change(change, read, scene, ledger)


@of_reads(*READS)
def test_plain_reads_stay_as_they_were_while_nothing_changes(read, ledger):
    table = changed_table(ledger)
    new = with_this_tables_changes(brand_new_upstream())

    def op() -> Op:
        return torch.ops.aten.gelu.default

    assert [read(new, op)] * 2 == [read(table, op) for _ in range(2)]


# --- export --------------------------------------------------------------------------------------


def exported(name: str) -> ExportedProgram:
    """Export a model of one call of an op that takes one tensor."""
    namespace, _, packet = name.partition("::")

    class Model(torch.nn.Module):
        def forward(self, x):
            return getattr(getattr(torch.ops, namespace), packet)(x)

    return torch.export.export(Model(), (torch.ones(3),))


def calls(program: ExportedProgram) -> list[str]:
    """Return the names of the ops that a program calls, in order."""
    return [node.target.name() for node in program.graph.nodes if node.op == "call_function"]


def exportable(change: Change) -> bool:
    """Tell whether there is an op to export after a change."""
    return "{ns}" in change.op and change.effect.get(change.op) in ("added", "replaced")


@contextlib.contextmanager
def double_in(namespace: str) -> Iterator[str]:
    """Load an op that decomposes, and give its name."""
    with library_of(namespace) as library:
        if namespace == "aten":
            name = f"late_double_{next(_numbers)}"
            library.define(f"{name}(Tensor x) -> Tensor")
            library.impl(name, double, CIA)
            yield f"aten::{name}"
        else:
            define_double(library)
            yield f"{namespace}::double"


@of_changes([change for change in CHANGES if not change.quick and exportable(change)])
def test_an_export_looks_at_everything(change, scene, ledger):
    table = ledger.table("t")
    with closing(change.steps(scene)) as steps:
        next(steps)
        dict(table)
        next(steps)
        program = exported(change.op_in(scene))
        got = calls(program.run_decompositions(table))
        assert calls(program.run_decompositions(brand_new_upstream())) == got
        assert change.op_in(scene) not in got


def test_an_op_loaded_after_the_first_read_is_decomposed(scene, ledger):
    table, upstream = ledger.table("t"), UpstreamTable()
    dict(table), dict(upstream)
    with double_in(scene.namespace) as name:
        program = exported(name)
        assert decomposed == calls(program.run_decompositions(table))
        # upstream takes the key that it is missing for "preserve"
        assert [name] == calls(program.run_decompositions(upstream))


@needs_compiler
def test_an_op_of_cpp_loaded_after_the_first_read_is_decomposed(scene, ledger):
    change = next(change for change in CHANGES if change.name == "cpp_library_loaded_by_CDLL")
    table = ledger.table("t")
    with closing(change.steps(scene)) as steps:
        next(steps)
        dict(table)
        next(steps)
        program = exported(change.op_in(scene))
        expected = ["aten::add.Tensor"]
        assert expected == calls(program.run_decompositions(table))


def test_an_op_added_late_to_aten_is_decomposed(scene, ledger):
    table = ledger.table("t")
    dict(table), dict(UpstreamTable())  # upstream remembers the namespace from here on
    with double_in("aten") as name:
        assert live(name) not in UpstreamTable()
        assert live(name) in table
        assert decomposed == calls(exported(name).run_decompositions(table))


def test_an_op_added_late_to_aten_is_preserved_when_asked(scene, ledger):
    table = ledger.table("t")
    dict(table), dict(UpstreamTable())
    with double_in("aten") as name:
        table.preserve(name)
        assert [name] == calls(exported(name).run_decompositions(table))


def test_export_goes_on_after_an_op_was_taken_from_aten(scene, ledger):
    table = ledger.table("t")
    with double_in("aten") as name:
        assert decomposed == calls(exported(name).run_decompositions(table))
    name = "aten::relu"
    assert [name] == calls(exported(name).run_decompositions(table))


def test_an_op_popped_before_it_is_loaded_stays_out_through_two_materializations(scene, ledger):
    table = ledger.table("t")
    table.preserve(f"{scene.namespace}::double")
    with double_in(scene.namespace) as name:
        for _ in range(2):
            assert name not in {op.name() for op in table.materialize()}
        assert [name] == calls(exported(name).run_decompositions(table))


def test_a_popped_op_stays_out_where_a_second_materialize_of_upstream_brings_it_back(scene, ledger):
    table, upstream = ledger.table("t"), UpstreamTable()
    with double_in(scene.namespace) as name:
        table.pop(live(name))
        upstream.pop(live(name))
        assert not any(live(name) in table.materialize() for _ in range(2))
        assert live(name) not in upstream.materialize()
        assert live(name) in upstream.materialize()


def test_a_popped_op_whose_library_is_destroyed_and_registered_again_is_preserved(scene, ledger):
    table = ledger.table("t")
    with double_in(scene.namespace) as name:
        table.pop(live(name))
        assert [name] == calls(exported(name).run_decompositions(table))
    assert name in {str(op) for op in table.pending}
    with double_in(scene.namespace):
        assert [name] == calls(exported(name).run_decompositions(table))


def test_an_op_whose_library_is_destroyed_and_registered_again_is_decomposed(scene, ledger):
    table = ledger.table("t")
    for _ in range(2):
        with double_in(scene.namespace) as name:
            assert live(name) in table
            assert decomposed == calls(exported(name).run_decompositions(table))
        assert name not in {op.name() for op in table}


def test_a_past_version_sees_the_dispatcher_of_now(scene, ledger):
    table = changed_table(ledger)
    past = table.at(table.version)
    dict(past)
    with double_in(scene.namespace) as name:
        assert decomposed == calls(exported(name).run_decompositions(past))
        got = past.materialize()
        assert_same(with_this_tables_changes(brand_new_upstream()), got)


def test_reading_makes_no_namespace_in_torch(ledger):
    table = ledger.table("t")
    table.preserve("missing_namespace::op")
    table.materialize()
    assert "missing_namespace" not in vars(torch.ops)


@pytest.mark.parametrize("namespace", [None, "aten"])
def test_a_kernel_of_python_is_recorded_with_the_line_of_its_library(namespace, make_library, ledger):
    library = make_library(namespace)  # made in conftest.py
    name = f"registered_here{next(_numbers)}"
    library.define(f"{name}(Tensor x) -> Tensor")
    library.impl(name, lambda x: x * 1, CIA)
    table = ledger.table("t")
    table.materialize()
    registered = ledger.show("t").catalog.ops[f"{library.ns}::{name}"].registered
    if "/dev/null" in torch._C._dispatch_dump(f"{library.ns}::{name}"):  # torch 2.6 keeps no file
        text = ledger.explain(f"{library.ns}::{name}", "t")[0].default
        assert (registered, text) == ("unknown" if namespace else "", "its CompositeImplicitAutograd kernel")
        return
    file, _, line = registered.rpartition(":")
    conftest = Path(__file__).parents[1] / "conftest.py"
    assert Path(file).name == conftest.name
    assert "Library(namespace" in conftest.read_text().splitlines()[int(line) - 1]
    assert f"registered by the library at {registered}" in ledger.explain(name, "t")[0].default


@every_change
def test_the_catalog_has_for_each_op_what_its_operator_gives(change, scene):
    with closing(change.steps(scene)) as steps:
        for _ in ("before", "changed", "undone"):
            next(steps, None)
            defaults = dispatcher.full()
            found = defaults.catalog.ops
            with mock.patch.dict(_own_entries, clear=True):
                for name in internals.dispatcher_names():
                    operator = resolve(name)
                    assert found[name] == (Entry() if operator is None else defaults.entry(name, operator)), name


def test_an_operator_that_the_default_table_cannot_have_builds_no_new_table(make_library):
    before = dispatcher.full()
    library, name = make_library(), f"no_kernel{next(_numbers)}"
    assert f"{library.ns}::{name}" not in before.catalog.ops
    library.define(f"{name}(Tensor x) -> Tensor")
    getattr(getattr(torch.ops, library.ns), name).default  # noqa: B018  # makes the operator
    now = dispatcher.full()
    assert now is not before and now.table is before.table
    assert now.catalog.ops[f"{library.ns}::{name}"].schema == f"{library.ns}::{name}(Tensor x) -> Tensor"


def test_an_op_that_is_defined_after_its_kernel_is_in_the_default_table(make_library):
    kernels, name = make_library(), f"kernel_first{next(_numbers)}"
    kernels.impl(name, lambda x: x * 1, CIA)
    operator = f"{kernels.ns}::{name}"
    assert dispatcher.full().get(operator) is None
    make_library(kernels.ns).define(f"{name}(Tensor x) -> Tensor")
    getattr(getattr(torch.ops, kernels.ns), name).default  # noqa: B018
    assert dispatcher.full().get(operator) is not None
