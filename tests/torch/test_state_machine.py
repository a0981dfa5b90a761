"""Random histories of tables against a model without ledgers: op -> its last rule.

After every step the live view, every past version and every event must agree with the model. At the end one other
process replays all the files.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from torch.export import CustomDecompTable
from torch.library import Library

from decomp_ledger import Ledger, ReadOnlyTable, UnusableValue, VersionConflict, materialize

SETTINGS = settings(
    max_examples=25,
    stateful_step_count=30,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

PRESERVE, DEFAULT = "preserve", "default"
ATEN = ("aten::linear", "aten::silu", "aten::mm")
# Of each library, its ops, and whether torch's default table has them.
LIBRARIES = {
    "one": {"{ns}::fused": True, "{ns}::plain": False},
    "two": {"{ns}::fused.scaled": True, "{ns}::fused_late": True},
}
NEVER = "{ns}::never"
SCHEMAS = {"fused.scaled": "(Tensor x, float by) -> Tensor"}
TAGS = ("first", "second")
MAX_TABLES = 3


def halve(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Be a decomposition that another process can import."""
    return x / 2


def negate(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Be another one."""
    return -x


nameless = lambda x, *args, **kwargs: x + 1  # noqa: E731
FUNCTIONS: dict[str, Callable[..., Any]] = {"halve": halve, "negate": negate, "<lambda>": nameless}
_names = {id(fn): name for name, fn in FUNCTIONS.items()}


@functools.cache
def torch_defaults() -> dict[str, Any]:
    """Return torch's default table without any library of ours, by op name."""
    return {op.name(): fn for op, fn in dict(CustomDecompTable()).items() if not op.name().startswith("random")}


def load(namespace: str, library: str) -> Library:
    """Register the ops of one of the libraries."""
    loaded = Library(namespace, "FRAGMENT")
    for name, decomposes in LIBRARIES[library].items():
        op = name.partition("::")[2]
        loaded.define(op + SCHEMAS.get(op, "(Tensor x) -> Tensor"))
        loaded.impl(op, lambda x, *args: x * 2, "CompositeImplicitAutograd" if decomposes else "CPU")
    return loaded


def loaded_ops(namespace: str, libraries: Iterable[str]) -> frozenset[str]:
    """Return the names of the ops that a model may meet, when these libraries are loaded."""
    ops = [op.format(ns=namespace) for library in libraries for op in LIBRARIES[library]]
    return frozenset([*ATEN, *torch_defaults(), *ops])


def default_ops(namespace: str, libraries: Iterable[str]) -> frozenset[str]:
    """Return the names of those that torch's default table has."""
    ops = [op.format(ns=namespace) for library in libraries for op, good in LIBRARIES[library].items() if good]
    return frozenset([*torch_defaults(), *ops])


def label(op: Any, fn: Any) -> str:
    """Name a decomposition in a live table as the model does."""
    if id(fn) in _names:
        return _names[id(fn)]
    if isinstance(fn, functools.partial):
        return DEFAULT if fn.keywords.get("kernel") is op else "the kernel of another operator"
    return DEFAULT if fn is torch_defaults().get(op.name()) else f"unknown: {fn}"


def view_of(table: Any) -> dict[str, str]:
    """Return what a live table has, by op name."""
    return {op.name(): label(op, fn) for op, fn in dict(table).items()}


def rules_in(state: Any) -> dict[str, str]:
    """Return the rules of a recorded state, in the words of the model."""
    return {
        op: PRESERVE if rule.action == PRESERVE else str(rule.decomposition.qualname or DEFAULT)
        for op, rule in state.rules.items()
    }


@dataclass
class Model:
    """One table: its rules now and at each version.

    Attributes:
        base: `torch` or `empty`.
        rules: op -> `preserve` or the name of a decomposition.
        versions: the same at each version; empty for a fork that has no event yet.
        tags: name -> version.
        materialized: (version, loaded libraries) of each materialization.
    """

    base: str = "torch"
    rules: dict[str, str] = field(default_factory=dict)
    versions: list[dict[str, str]] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)
    materialized: set[tuple[int, frozenset[str]]] = field(default_factory=set)

    def view(self, loaded: frozenset[str], defaults: frozenset[str], rules: dict[str, str]) -> dict[str, str]:
        """Return the content of a table with these rules."""
        view = dict.fromkeys(defaults, DEFAULT) if self.base == "torch" else {}
        for op, what in rules.items():
            if what == PRESERVE or op not in loaded:
                view.pop(op, None)
            else:
                view[op] = what
        return view


@dataclass
class Expected:
    """An event that must have been written: its model, its kind, and the new rule of each op."""

    model: Model
    kind: str
    changes: dict[str, str] = field(default_factory=dict)


@dataclass
class Written:
    """What another process must find in a file."""

    path: str
    namespace: str
    libraries: list[str]
    bases: dict[str, str]
    tables: dict[str, list[dict[str, str]]]
    snapshots: dict[str, dict[str, list[str]]]


folder = Path(tempfile.gettempdir())
written: list[Written] = []
_numbers = itertools.count(1)

any_table = st.integers(0, MAX_TABLES - 1)
any_op = st.sampled_from([*ATEN, *LIBRARIES["one"], *LIBRARIES["two"], NEVER])
any_function = st.sampled_from([*FUNCTIONS, DEFAULT])
any_spelling = st.sampled_from(["name", "dotted", "live"])
some_ops = st.lists(any_op, min_size=1, max_size=4)


class Histories(RuleBasedStateMachine):
    """Up to three tables of one ledger, two libraries that come and go, and their models."""

    def __init__(self) -> None:
        super().__init__()
        self.namespace = f"random{next(_numbers)}"
        self.path = folder / f"{self.namespace}.db"
        self.ledger = Ledger(self.path, actor="tester")
        self.libraries: dict[str, Library] = {}
        self.events: list[Expected] = []
        self.tables: list[tuple[Any, Model]] = []
        self.created("torch")

    # What is so now

    def name(self, op: str) -> str:
        return op.format(ns=self.namespace)

    def loaded(self) -> frozenset[str]:
        return loaded_ops(self.namespace, self.libraries)

    def defaults(self) -> frozenset[str]:
        return default_ops(self.namespace, self.libraries)

    def view(self, model: Model) -> dict[str, str]:
        return model.view(self.loaded(), self.defaults(), model.rules)

    def key(self, op: str, spelling: str) -> Any:
        """Spell an op: an operator that is not loaded has a name alone."""
        name = self.name(op)
        space, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if spelling == "live" and name in self.loaded():
            return getattr(getattr(getattr(torch.ops, space), packet), overload or "default")
        return name if spelling == "name" else f"{space}.{packet}.{overload or 'default'}"

    def function(self, op: str, fn: str) -> Any:
        """Return a decomposition; torch's default one where there is one, else another."""
        if fn != DEFAULT:
            return FUNCTIONS[fn], fn
        name = self.name(op)
        if name not in self.defaults():
            return halve, "halve"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = CustomDecompTable()
        return table[self.key(op, "live")], DEFAULT

    def pick(self, number: int) -> tuple[Any, Model]:
        return self.tables[number % len(self.tables)]

    # What must have been written

    def created(self, base: str) -> None:
        model = Model(base, {}, [{}])
        self.tables.append((self.ledger.table(f"t{len(self.tables)}", base=base), model))
        self.events.append(Expected(model, "created"))

    def used(self, model: Model) -> None:
        """Note a write to a model, which gives a fork its first event."""
        if not model.versions:
            model.versions.append(dict(model.rules))
            self.events.append(Expected(model, "created"))

    def changed(self, model: Model, kind: str, changes: dict[str, str]) -> None:
        """Apply changes that took effect; without any, expect no event."""
        if not changes:
            return
        self.used(model)
        for op, what in changes.items():
            if what == "reset":
                model.rules.pop(op, None)
            else:
                model.rules[op] = what
        model.versions.append(dict(model.rules))
        self.events.append(Expected(model, kind, changes))

    def overriding(self, model: Model, wanted: dict[str, str]) -> dict[str, str]:
        """Return which of these decompositions are news."""
        news = {}
        for op, what in wanted.items():
            is_default = what == DEFAULT and model.base == "torch" and op not in model.rules
            if not is_default and model.rules.get(op) != what:
                news[op] = what
        return news

    def popping(self, model: Model, op: str) -> dict[str, str]:
        """Return what popping an op changes: nothing where it raises."""
        there = op in self.view(model)
        remembered = not op.startswith("aten::") and model.rules.get(op) != PRESERVE
        return {op: PRESERVE} if there or remembered else {}

    # Libraries

    @rule(library=st.sampled_from(sorted(LIBRARIES)))
    def load_or_unload(self, library: str) -> None:
        if library in self.libraries:
            self.libraries.pop(library)._destroy()
        else:
            self.libraries[library] = load(self.namespace, library)

    @precondition(lambda self: self.libraries)
    @rule(library=st.sampled_from(sorted(LIBRARIES)))
    def register_again(self, library: str) -> None:
        if library in self.libraries:
            self.libraries.pop(library)._destroy()
            self.libraries[library] = load(self.namespace, library)

    # The dict

    @rule(number=any_table, op=any_op, spelling=any_spelling, fn=any_function)
    def set_item(self, number: int, op: str, spelling: str, fn: str) -> None:
        table, model = self.pick(number)
        given, what = self.function(op, fn)
        table[self.key(op, spelling)] = given
        self.changed(model, "set", self.overriding(model, {self.name(op): what}))

    @rule(number=any_table, op=any_op, spelling=any_spelling)
    def pop(self, number: int, op: str, spelling: str) -> None:
        table, model = self.pick(number)
        changes = self.popping(model, self.name(op))
        if changes:
            assert callable(table.pop(self.key(op, spelling)))
        else:
            with pytest.raises(KeyError):
                table.pop(self.key(op, spelling))
        self.changed(model, "popped", changes)

    @rule(number=any_table, op=any_op, spelling=any_spelling)
    def pop_with_a_default(self, number: int, op: str, spelling: str) -> None:
        table, model = self.pick(number)
        changes = self.popping(model, self.name(op))
        assert (table.pop(self.key(op, spelling), None) is not None) == bool(changes)
        self.changed(model, "popped", changes)

    @rule(number=any_table, op=any_op, spelling=any_spelling)
    def delete(self, number: int, op: str, spelling: str) -> None:
        table, model = self.pick(number)
        changes = self.popping(model, self.name(op))
        if changes:
            del table[self.key(op, spelling)]
        else:
            with pytest.raises(KeyError):
                del table[self.key(op, spelling)]
        self.changed(model, "popped", changes)

    @rule(number=any_table, ops=some_ops, fn=any_function, how=st.sampled_from(["mapping", "pairs", "|="]))
    def update(self, number: int, ops: list[str], fn: str, how: str) -> None:
        table, model = self.pick(number)
        given = {op: self.function(op, fn) for op in ops}
        pairs = {self.key(op, "live"): decomposition for op, (decomposition, _) in given.items()}
        if how == "|=":
            table |= pairs
        else:
            table.update(pairs if how == "mapping" else list(pairs.items()))
        wanted = {self.name(op): what for op, (_, what) in given.items()}
        self.changed(model, "updated", self.overriding(model, wanted))

    @rule(number=any_table, op=any_op, fn=st.sampled_from(sorted(FUNCTIONS)))
    def set_default(self, number: int, op: str, fn: str) -> None:
        table, model = self.pick(number)
        there = self.view(model).get(self.name(op))
        found = table.setdefault(self.key(op, "live"), FUNCTIONS[fn])
        if there is None:
            assert found is FUNCTIONS[fn]
            self.changed(model, "set", self.overriding(model, {self.name(op): fn}))
        else:
            assert label(self.key(op, "live"), found) == there

    @rule(number=any_table)
    def pop_item(self, number: int) -> None:
        table, model = self.pick(number)
        there = self.view(model)
        if not there:
            with pytest.raises(KeyError):
                table.popitem()
            return
        op, fn = table.popitem()
        assert label(op, fn) == there[op.name()]
        self.changed(model, "popped", {op.name(): PRESERVE})

    # Clearing makes all later views small: the fewer the better.
    @rule(number=any_table, really=st.sampled_from([False, False, False, True]))
    def clear(self, number: int, really: bool) -> None:
        if not really:
            return
        table, model = self.pick(number)
        there = self.view(model)
        table.clear()
        self.changed(model, "popped", dict.fromkeys(there, PRESERVE))

    # The verbs

    @rule(number=any_table, ops=some_ops, spelling=any_spelling)
    def preserve(self, number: int, ops: list[str], spelling: str) -> None:
        table, model = self.pick(number)
        table.preserve(*(self.key(op, spelling) for op in ops))
        names = [self.name(op) for op in ops]
        self.changed(model, "popped", {op: PRESERVE for op in names if model.rules.get(op) != PRESERVE})

    @rule(number=any_table, op=any_op, spelling=any_spelling, fn=any_function)
    def override(self, number: int, op: str, spelling: str, fn: str) -> None:
        table, model = self.pick(number)
        given, what = self.function(op, fn)
        table.override(self.key(op, spelling), given, reason="why not", expected_version=len(model.versions))
        self.changed(model, "set", self.overriding(model, {self.name(op): what}))

    @rule(number=any_table, ops=some_ops, spelling=any_spelling)
    def reset(self, number: int, ops: list[str], spelling: str) -> None:
        table, model = self.pick(number)
        table.reset(*(self.key(op, spelling) for op in ops))
        names = [self.name(op) for op in ops]
        self.changed(model, "reset", {op: "reset" for op in names if op in model.rules})

    @rule(number=any_table, version=st.integers(0, 40))
    def revert(self, number: int, version: int) -> None:
        table, model = self.pick(number)
        if not model.versions:
            return
        to = version % len(model.versions) + 1
        table.revert(to=to)
        then = model.versions[to - 1]
        changes = {op: then.get(op, "reset") for op in model.rules | then if model.rules.get(op) != then.get(op)}
        self.changed(model, "reverted", changes)

    @rule(number=any_table, tag=st.sampled_from(TAGS))
    def tag(self, number: int, tag: str) -> None:
        table, model = self.pick(number)
        self.used(model)
        version = len(model.versions)
        if model.tags.get(tag, version) != version:
            with pytest.raises(VersionConflict):
                table.tag(tag)
            return
        table.tag(tag)
        if tag not in model.tags:
            model.tags[tag] = version
            self.events.append(Expected(model, "tagged"))

    @rule(number=any_table)
    def materialize(self, number: int) -> None:
        table, model = self.pick(number)
        plain = table.materialize()
        assert type(plain) is dict
        assert {op.name(): label(op, fn) for op, fn in plain.items()} == self.view(model)
        self.used(model)
        materialized = (len(model.versions), frozenset(self.libraries))
        if materialized not in model.materialized:
            model.materialized.add(materialized)
            self.events.append(Expected(model, "materialized"))

    # Copies, other handles, and what must be refused

    @precondition(lambda self: len(self.tables) < MAX_TABLES)
    @rule(number=any_table, how=st.sampled_from(["copy", "copy.copy", "fork", "empty"]))
    def another_table(self, number: int, how: str) -> None:
        table, model = self.pick(number)
        if how == "empty":
            self.created("empty")
            return
        forked = Model(model.base, dict(model.rules))
        if how == "fork":
            self.used(model)
            made = table.fork(f"f{len(self.tables)}")
            self.used(forked)
        else:
            made = table.copy() if how == "copy" else copy.copy(table)
        self.tables.append((made, forked))

    @rule(number=any_table)
    def open_again(self, number: int) -> None:
        table, model = self.pick(number)
        if model.versions:
            at = next(index for index, (one, _) in enumerate(self.tables) if one is table)
            self.tables[at] = (self.ledger.table(table.name), model)

    @rule(number=any_table, op=any_op)
    def another_process_preserves(self, number: int, op: str) -> None:
        """Change the table through another connection, as another process would."""
        table, model = self.pick(number)
        if not model.versions:
            return
        with Ledger(self.path, actor="another") as ledger:
            ledger.table_log(table.name).preserve([self.name(op)])
        name = self.name(op)
        self.changed(model, "popped", {} if model.rules.get(name) == PRESERVE else {name: PRESERVE})
        table.refresh()

    @rule(number=any_table, op=any_op)
    def misuse(self, number: int, op: str) -> None:
        """Change nothing by what raises."""
        table, model = self.pick(number)
        with pytest.raises(UnusableValue):
            table[self.name(op)] = 42
        with pytest.raises(UnusableValue):
            table.update({self.name(op): halve, "aten::silu": 42})
        with pytest.raises(VersionConflict):
            table.preserve(self.name(op), expected_version=len(model.versions) + 1)
        if model.versions:
            with pytest.raises(ReadOnlyTable):
                table.at(1)[self.name(op)] = halve

    # What must hold after every step

    @invariant()
    def live_views_are_those_of_the_models(self) -> None:
        for table, model in self.tables:
            expected = self.view(model)
            asked = {op: self.key(op, "live") for op in (*ATEN, *LIBRARIES["one"], *LIBRARIES["two"], NEVER)}
            assert {op: self.name(op) in expected for op in asked} == {op: key in table for op, key in asked.items()}
            assert expected == view_of(table)
            assert len(expected) == len(table)
            assert rules_in(table.state) == model.rules
            assert table.version == len(model.versions)
            assert table.pending == tuple(sorted(op for op in model.rules if op not in self.loaded()))
            assert all(op is self.operator(op.name()) for op in table)

    @staticmethod
    def operator(name: str) -> Any:
        """Return the operator that has a name now."""
        space, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        return getattr(getattr(getattr(torch.ops, space), packet), overload or "default")

    @invariant()
    def every_past_version_is_what_it_was(self) -> None:
        loaded, defaults = self.loaded(), self.defaults()
        for table, model in self.tables:
            for version, rules in enumerate(model.versions, 1):
                past = table.at(version)
                assert rules_in(past.state) == rules
                assert past.version == version
                assert {op.name() for op in past} == model.view(loaded, defaults, rules).keys()
            for tag, version in model.tags.items():
                assert rules_in(table.at(tag).state) == model.versions[version - 1]

    @invariant()
    def every_event_is_what_took_effect(self) -> None:
        found = list(self.ledger.events())
        names = {id(model): table.name for table, model in self.tables}
        assert [event.seq for event in found] == list(range(1, len(self.events) + 1))
        assert [(event.table, event.kind) for event in found] == [(names[id(e.model)], e.kind) for e in self.events]
        actions = [{change.op: change.action for change in event.changes} for event in found]
        assert actions == [
            {op: what if what in (PRESERVE, "reset") else "override" for op, what in expected.changes.items()}
            for expected in self.events
        ]

    def teardown(self) -> None:
        try:
            verification = self.ledger.verify()
            assert verification.problems == ()
            assert verification.events == len(self.events)
            written.append(self.what_was_written())
        finally:
            for library in self.libraries.values():
                library._destroy()
            self.ledger.close()

    def what_was_written(self) -> Written:
        """Return what another process must find."""
        recorded = [(table, model) for table, model in self.tables if model.versions]
        catalogs = {event.body.catalog for event in self.ledger.events(kind="materialized")}
        return Written(
            path=str(self.path),
            namespace=self.namespace,
            libraries=sorted(self.libraries),
            bases={table.name: model.base for table, model in recorded},
            tables={table.name: model.versions for table, model in recorded},
            snapshots={
                table.name: {
                    catalog: [
                        materialize(table.at(version).state, self.ledger.catalog(catalog)).digest
                        for version in range(1, table.version + 1)
                    ]
                    for catalog in sorted(catalogs)
                }
                for table, _ in recorded
            },
        )


# The other process. Its first part must not import torch.
REPLAY = """
import json, sys, warnings
from pathlib import Path
from decomp_ledger import Ledger, materialize

def rules_in(state):
    return {
        op: "preserve" if rule.action == "preserve" else rule.decomposition.qualname or "default"
        for op, rule in state.rules.items()
    }

files = json.loads(Path(sys.argv[1]).read_text())
for file in files:
    with Ledger(file["path"], read_only=True) as ledger:
        assert ledger.verify().ok
        for name, versions in file["tables"].items():
            states = [ledger.state(name, version) for version in range(1, len(versions) + 1)]
            assert [rules_in(state) for state in states] == versions, (file["path"], name)
            for digest, snapshots in file["snapshots"][name].items():
                catalog = ledger.catalog(digest)
                assert catalog.digest == digest
                assert [materialize(state, catalog).digest for state in states] == snapshots, (file["path"], name)
assert "torch" not in sys.modules

import torch
sys.path.insert(0, sys.argv[2])
import test_state_machine as here

compared = 0
for file in files:
    with Ledger(file["path"], read_only=True) as ledger:
        ops = [op.format(ns=file["namespace"]) for ops in here.LIBRARIES.values() for op in ops]
        for op in [*here.ATEN, *ops, here.NEVER.format(ns=file["namespace"])]:
            ledger.provide(op, here.nameless)
        for names in ([], file["libraries"]):
            libraries = [here.load(file["namespace"], name) for name in names]
            world = here.loaded_ops(file["namespace"], names), here.default_ops(file["namespace"], names)
            for name, versions in file["tables"].items():
                table = ledger.table(name)
                for version, rules in enumerate(versions, 1):
                    found = here.view_of(table.at(version))
                    expected = here.Model(file["bases"][name]).view(*world, rules)
                    assert found == expected, (file["path"], name, version, names, found.items() ^ expected.items())
                    compared += 1
            for library in libraries:
                library._destroy()
print(compared)
"""


@pytest.mark.filterwarnings("ignore::decomp_ledger.errors.PendingOpWarning")
def test_random_histories_agree_with_the_model_here_and_in_another_process(
    tmp_path: Path, run_python: Callable[..., str]
) -> None:
    global folder
    folder = tmp_path
    written.clear()
    torch_defaults()
    run_state_machine_as_test(Histories, settings=SETTINGS)

    expected = tmp_path / "written.json"
    expected.write_text(json.dumps([vars(file) for file in written]))
    compared = int(run_python(REPLAY, str(expected), str(Path(__file__).parent)))
    assert compared == 2 * sum(len(versions) for file in written for versions in file.tables.values())
    assert compared > 100
