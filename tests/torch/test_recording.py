"""record(): tables and exports of code that knows nothing of us."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import sqlite3
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._decomp import core_aten_decompositions, get_decompositions, remove_decompositions
from torch.export import CustomDecompTable, ExportedProgram, decomp_utils, default_decompositions, exported_program
from torch.fx.experimental.proxy_tensor import make_fx

from decomp_ledger import (
    InvalidName,
    Ledger,
    LedgerError,
    LedgerFileError,
    RecordingWarning,
    UnusableValue,
    record,
)
from decomp_ledger.model.events import Materialized
from decomp_ledger.pytorch import internals, patches, upstream_tables

aten = torch.ops.aten
LINEAR, MM, SILU = aten.linear.default, aten.mm.default, aten.silu.default


def squared(x: torch.Tensor, *args: Any) -> torch.Tensor:
    """Be a decomposition that is not a default."""
    return x * x


class Model(torch.nn.Module):
    """Uses an op that decomposes by kernel and one by Python."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(self.linear(x))


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    """An exported model."""
    return torch.export.export(Model(), (torch.ones(2, 4),))


def targets(program: ExportedProgram) -> list[str]:
    """Return the ops of a program's graph, in order."""
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def log(ledger: Ledger | Path, **where: Any) -> list[tuple[str, str, int]]:
    """Return (table, kind, version) of a ledger's events."""
    if isinstance(ledger, Path):
        with Ledger(ledger, read_only=True) as opened:
            return log(opened, **where)
    return [(event.table, event.kind, event.version) for event in ledger.events(**where)]


def name_of(table: object) -> str | None:
    """Return the name that a table of torch's own has in the ledger; None if it is not recorded."""
    log = upstream_tables.log_of(table)
    return None if log is None else log.name


def rules_of(ledger: Ledger, table: str) -> dict[str, str]:
    """Return what a table says of each op: `preserve`, or a decomposition's label."""
    rules = ledger.state(table).rules
    return {op: rule.decomposition.label() if rule.decomposition else rule.action for op, rule in rules.items()}


def of(recording: str, number: int = 1, *, run: int = 1, maker: str | None = None) -> str:
    """Return the name of a table that the calling test, or another function, makes in a recording."""
    frame = sys._getframe(1)
    while maker is None:
        maker = None if frame.f_code.co_name.startswith("<") else frame.f_code.co_name
        frame = frame.f_back
    return f"{recording}/{maker}/{run}" if number == 1 else f"{recording}/{maker}-{number}/{run}"


# --- whose tables are recorded ---------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[], Any]] = {
    "torch.export": lambda: torch.export.CustomDecompTable(),
    "torch.export.decomp_utils": lambda: decomp_utils.CustomDecompTable(),
    "torch.export.exported_program": lambda: exported_program.CustomDecompTable(),
    "imported by name": lambda: CustomDecompTable(),
    "default_decompositions": default_decompositions,
    "default_decompositions of torch.export": lambda: torch.export.default_decompositions(),
    "core_aten_decompositions": core_aten_decompositions,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_table_made_by_any_name_is_recorded(make: Callable[[], Any], ledger: Ledger) -> None:
    with record(ledger, name="job"):
        table = make()
        assert type(table) is CustomDecompTable
        table.pop(LINEAR)
        name = name_of(table)
    assert log(ledger) == [(name, "created", 1), (name, "popped", 2)]
    assert type(make()) is CustomDecompTable


def test_a_table_of_a_recording_starts_as_upstreams_does(ledger: Ledger) -> None:
    upstream = CustomDecompTable()
    with record(ledger):
        table = CustomDecompTable()
        assert table.keys() == upstream.keys()


def test_run_decompositions_without_a_table_is_recorded(ledger: Ledger, program: ExportedProgram) -> None:
    expected = program.run_decompositions()
    with record(ledger, name="job"):
        actual = program.run_decompositions()
    assert str(expected.graph) == str(actual.graph)
    assert log(ledger) == [(of("job"), "created", 1), (of("job"), "materialized", 1), (of("job"), "exported", 1)]


@pytest.mark.parametrize("how", ["position", "keyword"])
def test_run_decompositions_with_a_table_is_recorded(how: str, ledger: Ledger, program: ExportedProgram) -> None:
    with record(ledger, name="job"):
        table = default_decompositions()
        table.pop(LINEAR)
        given = {"decomp_table": table} if how == "keyword" else {}
        exported = program.run_decompositions(*([] if given else [table]), **given)
    assert "aten.linear.default" in targets(exported)
    kinds = [("created", 1), ("popped", 2), ("materialized", 2), ("exported", 2)]
    assert log(ledger) == [(of("job"), *kind) for kind in kinds]


def test_an_export_twice_over_is_one_meeting_and_two_exports(ledger: Ledger, program: ExportedProgram) -> None:
    with record(ledger, name="job"):
        table = default_decompositions()
        program.run_decompositions(table)
        program.run_decompositions(table)
    assert [kind for _, kind, _ in log(ledger)] == ["created", "materialized", "exported", "exported"]


def test_a_table_of_a_subclass_is_recorded_when_it_is_used(ledger: Ledger, program: ExportedProgram) -> None:
    class Mine(CustomDecompTable):
        """A table of a class of its own."""

    with record(ledger, name="job"):
        table = Mine()
        assert type(table) is Mine
        table.pop(LINEAR)
        exported = program.run_decompositions(table)
    assert "aten.linear.default" in targets(exported)
    assert rules_of(ledger, of("job")) == {"aten::linear": "preserve"}


# --- tables of upstream's class, made before -------------------------------------------------------------------------


def test_a_table_made_before_is_recorded_when_it_is_used(ledger: Ledger, program: ExportedProgram) -> None:
    table = CustomDecompTable()
    table.pop(LINEAR)
    table[SILU] = squared
    expected = program.run_decompositions(table)
    with record(ledger, name="job"):
        actual = program.run_decompositions(table)
    assert str(expected.graph) == str(actual.graph)
    assert rules_of(ledger, of("job")) == {"aten::linear": "preserve", "aten::silu": f"{__name__}.squared"}
    kinds = [("created", 1), ("passed", 2), ("materialized", 2), ("exported", 2)]
    assert log(ledger) == [(of("job"), *kind) for kind in kinds]


@pytest.mark.parametrize("was_read", [False, True])
def test_a_copy_of_a_table_made_before_is_recorded(
    was_read: bool, ledger: Ledger, make_library: Any, program: ExportedProgram
) -> None:
    library = make_library()
    for name in ("kept", "popped"):
        library.define(f"{name}(Tensor x) -> Tensor")
        library.impl(name, lambda x: x * 2, "CompositeImplicitAutograd")
    space = getattr(torch.ops, library.ns)
    table = CustomDecompTable()
    table.pop(LINEAR)
    table.pop(space.popped.default)
    table[SILU] = squared
    if was_read:
        assert LINEAR not in table
    with record(ledger, name="job"):
        copied = table.copy()
        assert type(copied) is CustomDecompTable
        assert log(ledger) == []
        copied[MM] = squared
        program.run_decompositions(copied)
    assert [kind for _, kind, _ in log(ledger)] == ["created", "set", "found", "materialized", "exported"]
    found = rules_of(ledger, of("job"))
    assert found.pop("aten::mm") == f"{__name__}.squared"
    assert found == {
        "aten::linear": "preserve",
        "aten::silu": f"{__name__}.squared",
        f"{library.ns}::popped": "preserve",
    }


def test_a_copy_knows_what_its_original_lacks_because_it_was_read_early(
    ledger: Ledger, program: ExportedProgram, make_library: Callable[..., Any]
) -> None:
    with record(ledger, name="job"):
        table = default_decompositions()
        assert len(table) > 0
        late = _defined(make_library(), "late")
        program.run_decompositions(table)
        program.run_decompositions(table.copy())
    assert [event.body.stale for event in ledger.exports()] == [(late.name(),)] * 2  # type: ignore[attr-defined]


def _popped_before(table: Any) -> None:
    table.pop(LINEAR)


def _deleted_past_the_methods(table: Any) -> None:
    del table.decomp_table[LINEAR]


@pytest.mark.parametrize("remove", [_popped_before, _deleted_past_the_methods])
@pytest.mark.parametrize("was_read", [False, True])
def test_an_op_that_was_removed_unseen_is_not_taken_for_one_that_was_loaded_later(
    was_read: bool, remove: Callable[[Any], None], ledger: Ledger, program: ExportedProgram
) -> None:
    table = default_decompositions()
    assert not was_read or len(table) > 0
    remove(table)
    with record(ledger, name="job"):
        table[MM] = squared
        program.run_decompositions(table)
    (export,) = ledger.exports()
    (answer,) = ledger.explain(LINEAR.name(), f"export:{export.seq}")
    assert (export.body.stale, answer.outcome) == ((), "kept")  # type: ignore[attr-defined]


def _changed(table: Any) -> Any:
    table[MM] = squared
    return table


def _copied(table: Any) -> Any:
    return table.copy()


@pytest.mark.parametrize("change", [_changed, _copied])
@pytest.mark.parametrize("was_read", [False, True])
def test_an_op_that_was_loaded_after_a_table_of_before_was_seen_is_known_as_such(
    was_read: bool,
    change: Callable[[Any], Any],
    ledger: Ledger,
    program: ExportedProgram,
    make_library: Callable[..., Any],
) -> None:
    table = default_decompositions()
    assert not was_read or len(table) > 0
    with record(ledger, name="job"):
        table = change(table)
        assert len(table) > 0
        late = _defined(make_library(), "late")
        program.run_decompositions(table)
    (export,) = ledger.exports()
    assert export.body.stale == (late.name(),)  # type: ignore[attr-defined]


class _Uncomparable:
    """A decomposition that no one may compare."""

    def __call__(self, *args: Any) -> Any:
        return NotImplemented

    def __eq__(self, other: object) -> bool:
        raise ValueError("compared")

    __hash__ = object.__hash__


def test_the_decompositions_of_a_program_are_never_compared_by_its_code(
    ledger: Ledger, program: ExportedProgram
) -> None:
    with record(ledger, name="job", on_error="raise"):
        table = default_decompositions()
        for _ in range(2):
            table[MM] = _Uncomparable()
            program.run_decompositions(table)
    assert len(list(ledger.exports())) == 2


# --- plain dicts -----------------------------------------------------------------------------------------------------


def test_a_plain_dict_is_recorded_as_what_it_differs_by(ledger: Ledger, program: ExportedProgram) -> None:
    plain = dict(default_decompositions())
    del plain[LINEAR]
    plain[SILU] = squared
    plain[MM] = aten.matmul.default
    expected = program.run_decompositions(plain)
    with record(ledger, name="job"):
        actual = program.run_decompositions(plain)
    assert str(expected.graph) == str(actual.graph)
    assert ledger.state(of("job")).base == "torch"
    assert rules_of(ledger, of("job")) == {
        "aten::linear": "preserve",
        "aten::silu": f"{__name__}.squared",
        "aten::mm": "torch.ops.aten::matmul",
    }


def test_a_plain_dict_is_a_content_and_no_rules_of_the_user(ledger: Ledger, program: ExportedProgram) -> None:
    with record(ledger, name="job"):
        plain = dict(default_decompositions())
        del plain[LINEAR]
        program.run_decompositions(plain)
    created, passed, *_ = ledger.events(table=of("job"))
    assert (created.kind, passed.kind, passed.body.entries) == ("created", "passed", len(plain))
    assert (passed.body.later, passed.body.caller) == ((), "")
    (export,) = ledger.exports()
    for spec in (of("job"), f"export:{export.seq}"):
        assert ledger.show(spec).state.from_dict
        (answer,) = ledger.explain("aten::linear", spec)
        assert (
            answer.outcome == "kept"
            and "missing from the dict that was made from the table of tests/" in answer.because
        )
    assert not ledger.show(f"{of('job')}@1").state.from_dict
    table = ledger.table(of("job"))
    table.pop(SILU)
    assert not ledger.show(of("job")).state.from_dict


def _defined(library: Any, name: str) -> Any:
    library.define(f"{name}(Tensor x) -> Tensor")
    library.impl(name, lambda x: x * 2, "CompositeImplicitAutograd")
    return getattr(getattr(torch.ops, library.ns), name).default


TAKEN: dict[str, Callable[[Any], dict[Any, Any]]] = {
    "dict": dict,
    "unpacked": lambda table: {**table},
    "materialized": lambda table: table.materialize(),
    "filtered": lambda table: {op: fn for op, fn in table.items() if op is not LINEAR},
    "joined": lambda table: dict(table) | {SILU: squared},
    "core": lambda table: dict(core_aten_decompositions()),
}


@pytest.mark.parametrize("take", TAKEN.values(), ids=TAKEN)
def test_an_op_that_was_loaded_after_a_dict_was_made_is_not_taken_for_one_that_was_left_out(
    take: Callable[[Any], dict[Any, Any]], ledger: Ledger, make_library: Callable[..., Any]
) -> None:
    first = _defined(make_library(), "first")
    with record(ledger, name="job"):
        early = take(default_decompositions())
        second = _defined(make_library(), "second")
        late = take(default_decompositions())
        for plain in (early, late):
            plain.pop(first)
        late.pop(second)
        uses = type("Uses", (torch.nn.Module,), {"forward": lambda self, x: first(x) + second(x)})()
        program = torch.export.export(uses, (torch.ones(2),))
        program.run_decompositions(early)
        program.run_decompositions(late)
    one, other = (ledger.bundle(event.seq) for event in ledger.exports())
    assert (one.body.stale, other.body.stale) == ((second.name(),), ())
    for bundle, op, loaded_later in ((one, first, False), (one, second, True), (other, second, False)):
        (answer,) = ledger.explain(op.name(), bundle.name)
        assert answer.outcome == ("kept (stale table)" if loaded_later else "kept")
        assert ("was made before the op was loaded" in answer.because) == loaded_later


@pytest.mark.parametrize("take", TAKEN.values(), ids=TAKEN)
def test_the_line_that_made_the_table_of_a_dict_is_recorded(
    take: Callable[[Any], dict[Any, Any]], ledger: Ledger, program: ExportedProgram
) -> None:
    def passed() -> Any:
        return next(ledger.events(kind="passed", desc=True, limit=1))

    with record(ledger, name="job"):
        plain, line = take(default_decompositions()), _line()
        other = dict(default_decompositions())
        for table in (plain, other):
            table.pop(LINEAR, None)
            table[SILU] = squared
        if take is TAKEN["core"]:  # which makes a table of its own
            line = take.__code__.co_firstlineno
        program.run_decompositions(plain)
        here = passed().body.made
        assert here.startswith(f"tests/torch/test_recording.py:{line} in ")
        (answer,) = ledger.explain("aten::silu", f"{passed().table}")
        assert f"dict that was made from the table of {here} and passed at" in answer.because
        program.run_decompositions(other)
        assert passed().body.made.startswith("tests/torch/test_recording.py:") and passed().body.made != here
        joined = {**plain, **{op: fn for op, fn in other.items() if op.name() > "aten::m"}}
        program.run_decompositions(joined)
    assert passed().body.made == ""  # two lines made its tables


def _line() -> int:
    return inspect.currentframe().f_back.f_lineno  # type: ignore[union-attr]


def test_the_maker_of_a_dict_is_not_guessed(ledger: Ledger, program: ExportedProgram) -> None:
    before = dict(default_decompositions())
    named = dict(ledger.table("edge"))
    for table in (before, named):
        table.pop(LINEAR)
    with record(ledger, name="job"):
        for table in (before, named, {SILU: squared}):
            program.run_decompositions(table)
    assert {event.body.made for event in ledger.events(kind="passed")} == {""}


def test_of_a_dict_that_was_made_before_the_recording_it_is_not_known_what_was_loaded_later(
    ledger: Ledger, program: ExportedProgram, make_library: Callable[..., Any]
) -> None:
    plain = dict(default_decompositions())
    op = _defined(make_library(), "late")
    with record(ledger, name="job"):
        program.run_decompositions(plain)
    (answer,) = ledger.explain(op.name(), of("job"))
    assert "missing from the dict" in answer.because and "before the op was loaded" not in answer.because


def test_a_plain_dict_of_all_defaults_differs_by_nothing(ledger: Ledger, program: ExportedProgram) -> None:
    plain = default_decompositions().materialize()
    with record(ledger, name="job"):
        program.run_decompositions(plain)
    assert rules_of(ledger, of("job")) == {}
    assert ledger.state(of("job")).base == "torch"


def test_an_empty_dict_is_the_empty_base(ledger: Ledger, program: ExportedProgram) -> None:
    with record(ledger, name="job"):
        exported = program.run_decompositions({})
    assert targets(exported) == ["aten.linear.default", "aten.silu.default"]
    assert (ledger.state(of("job")).base, rules_of(ledger, of("job"))) == ("empty", {})
    (materialized,) = ledger.events(kind="materialized")
    assert isinstance(materialized.body, Materialized)
    assert len(ledger.table(of("job"))) == 0


def test_a_small_dict_is_the_empty_base_and_what_it_has(ledger: Ledger, program: ExportedProgram) -> None:
    plain = get_decompositions([aten.silu])
    with record(ledger, name="job"):
        program.run_decompositions(plain)
    assert ledger.state(of("job")).base == "empty"
    assert rules_of(ledger, of("job")) == {op.name(): "torch's own (registry)" for op in plain}
    assert dict(ledger.table(of("job"))) == plain


def test_equal_plain_dicts_are_one_table(ledger: Ledger, program: ExportedProgram) -> None:
    with record(ledger, name="job"):
        for plain in ({}, {SILU: squared}, {}, {SILU: squared}):
            program.run_decompositions(plain)
    assert [info.name for info in ledger.tables()] == [of("job"), of("job", 2)]
    assert rules_of(ledger, of("job", 2)) == {"aten::silu": f"{__name__}.squared"}


def test_a_function_without_a_name_is_found_again_in_its_process(ledger: Ledger, program: ExportedProgram) -> None:
    nameless = lambda x: x + 1  # noqa: E731
    with record(ledger, name="job"):
        program.run_decompositions({SILU: nameless})
        table = default_decompositions()
        table[SILU] = nameless
    assert ledger.table(of("job"))[SILU] is nameless
    assert ledger.table(of("job", 2))[SILU] is nameless


@pytest.mark.filterwarnings("error::decomp_ledger.errors.RecordingWarning")
@pytest.mark.parametrize("key", [aten.linear, "aten.linear"], ids=["packet", "str"])
def test_a_key_that_torch_ignores_makes_no_difference(key: Any, ledger: Ledger, program: ExportedProgram) -> None:
    plain = {SILU: squared, key: squared}
    expected = program.run_decompositions(plain)
    with record(ledger, name="job"):
        actual = program.run_decompositions(plain)
    assert targets(expected) == targets(actual) == ["aten.linear.default", "aten.mul.Tensor"]
    assert rules_of(ledger, of("job")) == {"aten::silu": f"{__name__}.squared"}


def test_pairs_that_can_be_read_once_reach_the_export(ledger: Ledger, program: ExportedProgram) -> None:
    expected = program.run_decompositions(iter([(SILU, squared)]))
    with record(ledger, name="job"):
        actual = program.run_decompositions(iter([(SILU, squared)]))
    assert targets(expected) == targets(actual)
    assert rules_of(ledger, of("job")) == {"aten::silu": f"{__name__}.squared"}


def test_a_plain_dict_is_not_changed(ledger: Ledger, program: ExportedProgram) -> None:
    plain = {SILU: squared, LINEAR: squared}
    with record(ledger):
        program.run_decompositions(plain)
    assert plain == {SILU: squared, LINEAR: squared}


# --- what is not written ---------------------------------------------------------------------------------------------


def test_nothing_is_written_for_untouched_tables(tmp_path: Path) -> None:
    path = tmp_path / "job.db"
    with record(path):
        table = default_decompositions()
        assert len(table) == len(dict(table)) > 0
        assert LINEAR in table and table[LINEAR] is not None
        copies = [table.copy() for _ in range(50)]
        assert copies[0] == copies[-1]
        assert table.pop(MM, None) is None
        with pytest.raises(KeyError):
            table.pop(MM)
        table[SILU] = table[SILU]
        table.update({})
    assert not path.exists()


def test_a_copy_is_written_from_its_first_change_on(ledger: Ledger) -> None:
    with record(ledger, name="job"):
        table = default_decompositions()
        table.pop(LINEAR)
        copied = table.copy()
        assert log(ledger) == [(of("job"), "created", 1), (of("job"), "popped", 2)]
        copied.pop(SILU)
        assert name_of(copied) == of("job", 2)
        assert SILU in table
    assert log(ledger, table=of("job", 2)) == [(of("job", 2), "created", 1), (of("job", 2), "popped", 2)]
    assert rules_of(ledger, of("job", 2)) == {"aten::linear": "preserve", "aten::silu": "preserve"}
    created = next(ledger.events(table=of("job", 2)))
    assert created.body.parent == (of("job"), 2)


def test_a_copy_of_an_untouched_table_has_no_parent(ledger: Ledger) -> None:
    with record(ledger, name="job"):
        default_decompositions().copy().copy().pop(LINEAR)
    assert log(ledger) == [(of("job"), "created", 1), (of("job"), "popped", 2)]
    assert next(ledger.events()).body.parent is None


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_recording_is_named_by_the_script(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/my export@1.py", "--flag"])
    monkeypatch.delattr(sys.modules["__main__"], "__spec__")
    with record(ledger) as recording:
        default_decompositions().pop(LINEAR)
    assert recording.name == "my_export_1"
    assert [info.name for info in ledger.tables()] == [of("my_export_1")]


def test_each_recording_of_a_name_is_a_run(ledger: Ledger) -> None:
    for _ in range(2):
        with record(ledger, name="job"):
            default_decompositions().pop(LINEAR)
    assert [info.name for info in ledger.tables()] == [of("job"), of("job", run=2)]


@pytest.mark.parametrize("name", ["", "a@b", "a:b", "a\nb"])
def test_a_recording_has_a_name_that_tables_can_have(name: str, ledger: Ledger) -> None:
    with pytest.raises(InvalidName):
        record(ledger, name=name)


# --- nested, and in threads ------------------------------------------------------------------------------------------


def test_the_innermost_recording_counts(tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer.db", tmp_path / "inner.db"
    with record(outer, name="outer"):
        before = default_decompositions()
        with record(inner, name="inner"):
            default_decompositions().pop(LINEAR)
            before.pop(SILU)
        default_decompositions().pop(LINEAR)
    assert log(inner) == [(of("inner"), "created", 1), (of("inner"), "popped", 2)]
    assert log(outer) == [
        (of("outer"), "created", 1),
        (of("outer"), "popped", 2),
        (of("outer", 2), "created", 1),
        (of("outer", 2), "popped", 2),
    ]


def test_a_recording_may_be_left_before_the_one_inside(tmp_path: Path) -> None:
    first, second = record(tmp_path / "first.db", name="first"), record(tmp_path / "second.db", name="second")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    default_decompositions().pop(LINEAR)
    second.__exit__(None, None, None)
    assert type(default_decompositions()) is CustomDecompTable
    assert log(tmp_path / "second.db") == [(of("second"), "created", 1), (of("second"), "popped", 2)]
    assert not (tmp_path / "first.db").exists()


def test_a_recording_is_entered_once(ledger: Ledger) -> None:
    with record(ledger, name="job") as recording, pytest.raises(LedgerError, match="'job': it is entered already"):
        recording.__enter__()
    assert type(default_decompositions()) is CustomDecompTable


def test_a_given_ledger_stays_open(ledger: Ledger) -> None:
    with record(ledger, name="job"):
        default_decompositions().pop(LINEAR)
    ledger.table(of("job")).pop(SILU)
    assert rules_of(ledger, of("job")) == {"aten::linear": "preserve", "aten::silu": "preserve"}


def in_a_thread(work: Callable[[], Any]) -> Any:
    """Return what a function gives in a thread of its own."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join(60)
    return results[0]


def pop_one() -> str:
    """Make a table, change it, and return its name."""
    table = default_decompositions()
    table.pop(LINEAR)
    return str(name_of(table))


def test_a_thread_without_a_recording_belongs_to_the_last_one_entered(ledger: Ledger) -> None:
    with record(ledger, name="outer"), record(ledger, name="inner"):
        assert in_a_thread(pop_one) == of("inner", maker="pop_one")


def test_a_thread_with_a_recording_of_its_own_keeps_to_it(ledger: Ledger) -> None:
    entered, leave = threading.Event(), threading.Event()

    def work() -> str:
        with record(ledger, name="worker"):
            entered.set()
            leave.wait(60)
            return pop_one()

    names: list[str] = []
    thread = threading.Thread(target=lambda: names.append(work()))
    with record(ledger, name="main"):
        thread.start()
        assert entered.wait(60)
        assert pop_one() == of("main", maker="pop_one")
        leave.set()
        thread.join(60)
        assert names == [of("worker", maker="pop_one")]
        assert pop_one() == of("main", 2, maker="pop_one")


def test_many_threads_write_to_one_recording(ledger: Ledger) -> None:
    with record(ledger, name="job"):
        threads = [threading.Thread(target=pop_one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert {info.name for info in ledger.tables()} == {of("job", number, maker="pop_one") for number in range(1, 9)}
    assert {info.version for info in ledger.tables()} == {2}
    assert ledger.verify().problems == ()


def test_tasks_keep_to_their_own_recordings(ledger: Ledger) -> None:
    async def work(name: str) -> str:
        with record(ledger, name=name):
            await asyncio.sleep(0)
            made = pop_one()
            await asyncio.sleep(0)
            return made

    async def both() -> list[str]:
        return await asyncio.gather(work("one"), work("two"))

    assert asyncio.run(both()) == [of("one", maker="pop_one"), of("two", maker="pop_one")]


# --- leaving ---------------------------------------------------------------------------------------------------------

RESTORES = """
import sys
import sqlite_utils  # imports six where that is installed, which adds a finder of its own
import torch, torch._decomp
from torch.export import CustomDecompTable, ExportedProgram, decomp_utils, default_decompositions, exported_program
import decomp_ledger as dl

PLACES = (torch.export, decomp_utils, exported_program, torch._decomp, CustomDecompTable, ExportedProgram)

def state():
    return [dict(vars(place)) for place in PLACES], list(sys.meta_path)

program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
program.run_decompositions()
before = state()
with dl.record("a.db"):
    assert hasattr(CustomDecompTable.pop, "__wrapped__")
    assert state() != before
    program.run_decompositions()
    with dl.record("b.db"):
        program.run_decompositions({})
    assert hasattr(CustomDecompTable.pop, "__wrapped__")
assert state() == before
try:
    with dl.record("a.db"):
        default_decompositions().pop(torch.ops.aten.linear.default)
        raise KeyError("the user's own")
except KeyError:
    pass
assert state() == before
table = CustomDecompTable()
assert type(table) is CustomDecompTable and len(table) > 100
assert type(table.copy()) is CustomDecompTable
program.run_decompositions(table)

# What another tool patched meanwhile stays, and goes on working.
calls = []
with dl.record("c.db"):
    ours = ExportedProgram.run_decompositions
    def theirs(self, *args, **kwargs):
        calls.append(args)
        return ours(self, *args, **kwargs)
    ExportedProgram.run_decompositions = theirs
    program.run_decompositions()
assert ExportedProgram.run_decompositions is theirs
program.run_decompositions({})
assert calls == [(), ({},)]
print(*(len(list(dl.Ledger(name).events())) for name in ("a.db", "b.db", "c.db")))
"""


def test_leaving_puts_torch_back_exactly(run_python: Callable[..., str]) -> None:
    assert run_python(RESTORES).split() == ["5", "3", "3"]


def test_a_table_goes_on_unrecorded_after_leaving(ledger: Ledger, program: ExportedProgram) -> None:
    with record(ledger, name="job"):
        table = default_decompositions()
        table.pop(LINEAR)
        untouched = default_decompositions()
    before = log(ledger)
    for left in (table, untouched):
        assert left.pop(SILU) is not None
        left[MM] = squared
        copied = left.copy()
        copied[SILU] = squared
        assert (SILU in left, left[MM] is squared, copied[SILU] is squared) == (False, True, True)
        assert "aten.silu.default" in targets(program.run_decompositions(left))
        assert name_of(left) is None
    assert LINEAR not in table and LINEAR in untouched
    assert log(ledger) == before


def test_a_table_that_is_being_made_while_its_recording_is_left_is_unrecorded(ledger: Ledger) -> None:
    with record(ledger, name="job"):
        table = CustomDecompTable.__new__(CustomDecompTable)
    table.__init__()
    assert table.pop(LINEAR) is not None
    assert (LINEAR in table, name_of(table), log(ledger)) == (False, None, [])


def test_a_table_opened_by_name_after_leaving_is_what_it_was(tmp_path: Path) -> None:
    with record(tmp_path / "job.db", name="job"):
        table = default_decompositions()
        table.pop(LINEAR)
        table[SILU] = squared
        expected = dict(table)
    with Ledger(tmp_path / "job.db") as ledger:
        actual = ledger.table(of("job"))
        assert actual.keys() == expected.keys()
        assert actual[SILU] is squared


# --- before torch is imported ----------------------------------------------------------------------------------------

BEFORE_TORCH = """
import os, sys
import decomp_ledger as dl

before = list(sys.meta_path)
with dl.record("a.db", name="job"):
    assert "torch" not in sys.modules
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    assert torch.get_num_threads() == 1
    from torch.export import CustomDecompTable
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    table = CustomDecompTable()
    table.pop(torch.ops.aten.linear.default)
    exported = program.run_decompositions(table)
    program.run_decompositions()
    loaders = {type(sys.modules[name].__spec__.loader) for name in ("torch.export.decomp_utils", "torch.export")}
    assert len(loaders) == 1
assert "aten.linear.default" in [str(node.target) for node in exported.graph.nodes]
assert [finder for finder in sys.meta_path if "decomp_ledger" in type(finder).__module__] == []
assert not hasattr(CustomDecompTable.__init__, "__wrapped__")
assert type(CustomDecompTable()) is CustomDecompTable
assert "exec_module" not in vars(sys.modules["torch.export.decomp_utils"].__spec__.loader)
print(*(f"{event.table}:{event.kind}" for event in dl.Ledger("a.db").events()))
"""


def test_a_recording_may_begin_before_torch_is_imported(run_python: Callable[..., str]) -> None:
    printed = run_python(BEFORE_TORCH, OMP_NUM_THREADS="2")
    assert printed.split() == [
        "job/module/1:created",
        "job/module/1:popped",
        "job/module/1:materialized",
        "job/module/1:exported",
        "job/module-2/1:created",
        "job/module-2/1:materialized",
        "job/module-2/1:exported",
    ]


WITHOUT_TORCH = """
import sys
from pathlib import Path
import decomp_ledger as dl

before = list(sys.meta_path)
with dl.record("a.db"):
    import json
assert sys.meta_path == before
assert "torch" not in sys.modules
assert not Path("a.db").exists()

import torch
from torch.export import CustomDecompTable, ExportedProgram
assert not hasattr(CustomDecompTable.__init__, "__wrapped__")
assert "decomp_ledger" not in ExportedProgram.run_decompositions.__code__.co_filename
print(type(CustomDecompTable()).__name__)
"""


def test_a_program_that_never_imports_torch_leaves_no_trace(run_python: Callable[..., str]) -> None:
    assert run_python(WITHOUT_TORCH) == "CustomDecompTable\n"


# --- a ledger that cannot be written ---------------------------------------------------------------------------------


@pytest.fixture(params=["missing folder", "directory", "no ledger"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path where no ledger can be."""
    if request.param == "missing folder":
        return tmp_path / "nowhere" / "job.db"
    if request.param == "directory":
        return tmp_path
    (tmp_path / "job.db").write_text("something else")
    return tmp_path / "job.db"


def listing(folder: Path) -> list[str]:
    """Return all that is in a folder."""
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_recording_that_cannot_write_warns_once_and_goes_on(
    unwritable: Path, tmp_path: Path, program: ExportedProgram
) -> None:
    plain = CustomDecompTable()
    plain.pop(LINEAR)
    expected = program.run_decompositions(plain)
    before = listing(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with record(unwritable, name="job"):
            table = default_decompositions()
            assert table.pop(LINEAR) is not None
            actual = program.run_decompositions(table)
            again = program.run_decompositions(table.copy())
            other = default_decompositions()
            other[SILU] = squared
            assert other[SILU] is squared
            program.run_decompositions({})
            program.run_decompositions()
    ours = [warning for warning in caught if issubclass(warning.category, RecordingWarning)]
    assert len(ours) == 1
    assert "recording 'job': it has STOPPED, and the export goes on unrecorded" in str(ours[0].message)
    assert str(unwritable) in str(ours[0].message)
    assert str(expected.graph) == str(actual.graph) == str(again.graph)
    assert listing(tmp_path) == before


def test_a_recording_that_cannot_write_raises_if_asked(
    unwritable: Path, tmp_path: Path, program: ExportedProgram
) -> None:
    before = listing(tmp_path)
    with record(unwritable, on_error="raise"):
        table = default_decompositions()
        with pytest.raises(LedgerFileError, match=str(unwritable)):
            table.pop(LINEAR)
        with pytest.raises(LedgerFileError, match=str(unwritable)):
            program.run_decompositions(table)
        with pytest.raises(LedgerFileError, match=str(unwritable)):
            program.run_decompositions({})
    assert listing(tmp_path) == before
    assert type(default_decompositions()) is CustomDecompTable


@pytest.mark.filterwarnings("error")
def test_the_first_error_is_the_users_to_see_when_warnings_are_errors(unwritable: Path) -> None:
    with record(unwritable), pytest.raises(RecordingWarning, match="STOPPED"):
        default_decompositions().pop(LINEAR)


class Broken(dict[Any, Any]):
    """A mapping whose second item cannot be had."""

    def items(self) -> Any:
        yield SILU, squared
        raise ValueError("the program's own")


@pytest.mark.parametrize("on_error", ["raise", "warn"])
@pytest.mark.filterwarnings("error")
def test_the_programs_own_error_is_not_replaced_by_one_of_the_ledger(unwritable: Path, on_error: str) -> None:
    with record(unwritable, on_error=on_error):
        table = default_decompositions()
        with pytest.raises(ValueError, match="the program's own") as caught:
            table.update(Broken())
        assert table[SILU] is squared
    if sys.version_info >= (3, 11):
        (note,) = caught.value.__notes__
        assert note.startswith("a change of a table that failed could not be recorded: ")


def test_a_ledger_that_vanishes_stops_the_recording_and_keeps_the_table(
    tmp_path: Path, program: ExportedProgram
) -> None:
    path = tmp_path / "job.db"
    with record(path, name="job"):
        table = default_decompositions()
        table.pop(LINEAR)
        for file in tmp_path.glob("job.db*"):
            file.unlink()
        with pytest.warns(RecordingWarning, match="was removed or replaced"):
            table.pop(SILU)
        assert {"aten.linear.default", "aten.silu.default"} <= set(targets(program.run_decompositions(table)))
    assert not path.exists()


def damage(path: Path) -> None:
    """Overwrite a ledger, whose write-ahead log is emptied first so that the next read reads the file."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    path.write_bytes(b"damaged " * 4096)


def test_a_ledger_that_is_damaged_before_an_export_stops_the_recording_only(
    tmp_path: Path, program: ExportedProgram
) -> None:
    path = tmp_path / "job.db"
    with record(path, name="job"):
        table = default_decompositions()
        table.pop(LINEAR)
        damage(path)
        with pytest.warns(RecordingWarning, match="STOPPED"):
            result = program.run_decompositions(table)
        assert name_of(table) is None
    assert "aten.linear.default" in targets(result)


def test_a_ledger_that_is_damaged_before_an_export_raises_if_asked(tmp_path: Path, program: ExportedProgram) -> None:
    path = tmp_path / "job.db"
    with record(path, name="job", on_error="raise"):
        table = default_decompositions()
        table.pop(LINEAR)
        damage(path)
        with pytest.raises(LedgerFileError):
            program.run_decompositions(table)


def test_on_error_is_warn_or_raise(ledger: Ledger) -> None:
    with pytest.raises(UnusableValue, match="on_error='ignore': unknown value"):
        record(ledger, on_error="ignore")


@pytest.mark.parametrize("given", [{"actor": "ann"}, {"trust": ["mypkg"]}])
def test_what_belongs_to_a_given_ledger_is_refused(given: dict[str, Any], ledger: Ledger) -> None:
    with pytest.raises(UnusableValue, match="an open ledger has its own; give them to Ledger"):
        record(ledger, **given)


def test_a_change_that_is_wrong_raises_in_a_recording_too(ledger: Ledger) -> None:
    with record(ledger, name="job"):
        table = default_decompositions()
        with pytest.raises(KeyError):
            table.pop(MM)
        with pytest.raises(AttributeError):
            table.update(42)
        table.pop(LINEAR)
    assert log(ledger) == [(of("job"), "created", 1), (of("job"), "popped", 2)]


# --- provenance ------------------------------------------------------------------------------------------------------


def line_of(text: str) -> int:
    """Return the number of the one line of this file that has a mark at its end."""
    lines = Path(__file__).read_text().splitlines()
    (found,) = [number for number, line in enumerate(lines, 1) if line.endswith(f"# {text}")]
    return found


def test_events_tell_who_why_and_where(tmp_path: Path) -> None:
    path = tmp_path / "job.db"
    with record(path, name="job", actor="nightly", reason="the release") as recording:
        table = default_decompositions()
        table.pop(LINEAR)  # popped here
        with recording.ledger.because("XNNPACK has it"):
            table.pop(SILU)
    with Ledger(path) as ledger:
        created, popped, preserved = ledger.events()
    assert {event.actor for event in (created, popped, preserved)} == {"nightly"}
    assert [event.reason for event in (created, popped)] == ["the release", "the release"]
    assert sorted(str(preserved.reason).split(" / ")) == ["XNNPACK has it", "the release"]
    assert popped.call_site is not None
    assert Path(popped.call_site.file).name == Path(__file__).name
    assert popped.call_site.line == line_of("popped here")
    assert popped.call_site.function.endswith("test_events_tell_who_why_and_where")


def test_the_call_site_of_remove_decompositions_is_its_callers(ledger: Ledger) -> None:
    with record(ledger, name="job"):
        table = default_decompositions()
        remove_decompositions(table, [LINEAR])  # removed here
    (popped,) = ledger.events(kind="popped")
    assert popped.call_site is not None
    assert popped.call_site.line == line_of("removed here")
    assert [frame.file for frame in popped.call_site.inner] == ["torch/_decomp/__init__.py"]


def test_the_call_site_of_an_export_is_its_callers(ledger: Ledger, program: ExportedProgram) -> None:
    with record(ledger, name="job"):
        program.run_decompositions()  # exported here
        program.run_decompositions({})  # exported plainly here
    events = list(ledger.events(kind="materialized"))
    sites = [(event.call_site and event.call_site.line) for event in events]
    assert sites == [line_of("exported here"), line_of("exported plainly here")]


LOWERING = """
from torch._decomp import remove_decompositions
from torch.export import default_decompositions


def lower(program, ops):
    table = default_decompositions()
    remove_decompositions(table, ops)  # the library's line
    return program.run_decompositions(table)
"""


@pytest.fixture
def lowering(tmp_path: Path) -> Iterator[Any]:
    """A library that lowers programs and knows nothing of ledgers."""
    path = tmp_path / "lowering.py"
    path.write_text(LOWERING)
    spec = importlib.util.spec_from_file_location("lowering", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def test_the_line_of_the_library_that_changed_a_table_is_named(
    lowering: Any, ledger: Ledger, program: ExportedProgram
) -> None:
    with record(ledger, name="job"):
        lowering.lower(program, [LINEAR, SILU])
    (created, first, second, materialized, exported) = ledger.events()
    blamed = ledger.blame(of("job", maker="lower"))
    assert (blamed["aten::linear"].seq, blamed["aten::silu"].seq) == (first.seq, second.seq)
    for event in (first, second):
        assert event.call_site is not None
        assert Path(event.call_site.file).name == "lowering.py"
        assert LOWERING.splitlines()[event.call_site.line - 1].endswith("# the library's line")
        assert event.call_site.function == "lower"
    assert created.kind == "created"
    for event in (materialized, exported):
        assert event.call_site is not None and event.call_site.function == "lower"


def test_the_environment_of_an_event_tells_the_torch(ledger: Ledger) -> None:
    with record(ledger, name="job"):
        default_decompositions().pop(LINEAR)
    (popped,) = ledger.events(kind="popped")
    environment = ledger.environment(popped.environment)
    assert str(torch.__version__) in str(environment)
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))


# --- values and keys that torch stores and does not use -------------------------------------------------------------

STORED: dict[str, Any] = {
    "none": None,
    "number": 3,
    "operator": aten.mm.default,
}
SETTERS: dict[str, Callable[[Any, Any, Any], object]] = {
    "set": lambda table, op, value: table.__setitem__(op, value),
    "update": lambda table, op, value: table.update({op: value}),
}
USED: dict[str, Any] = {"by kernel": LINEAR, "by Python": SILU, "not in the program": aten.gelu.default}


def _outcome(call: Callable[[], Any]) -> str:
    try:
        result = call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return str(result.graph) if isinstance(result, ExportedProgram) else repr(result)


@pytest.mark.filterwarnings("error::decomp_ledger.errors.RecordingWarning")
@pytest.mark.parametrize("as_dict", [False, True], ids=["table", "dict"])
@pytest.mark.parametrize("op", USED.values(), ids=USED)
@pytest.mark.parametrize("value", STORED.values(), ids=STORED)
def test_unmodified_code_may_set_what_torch_stores(
    value: Any, op: Any, as_dict: bool, ledger: Ledger, program: ExportedProgram
) -> None:
    def use() -> list[str]:
        table: Any = default_decompositions()
        if as_dict:
            table = dict(table)
        SETTERS["set" if as_dict else "update"](table, op, value)
        copied = table.copy()
        seen = [repr(op in table), repr(table[op]), _outcome(lambda: program.run_decompositions(copied))]
        return [*seen, repr(table.pop(op)), repr(op in table)]

    expected = use()
    with record(ledger, name="job"):
        assert use() == expected
    assert ledger.verify().ok
    with Ledger(ledger.path) as later:
        first, *others = [later.table(info.name) for info in later.tables()]
        if callable(value):
            return
        with pytest.raises(LedgerError, match="a value that is not callable"):
            _ = first[op] if as_dict else others[0][op]


KEYS: dict[str, Any] = {"number": 5, "none": None, "function": len}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("way", SETTERS.values(), ids=SETTERS)
def test_unmodified_code_may_set_keys_that_are_not_ops(
    way: Any, key: Any, ledger: Ledger, program: ExportedProgram
) -> None:
    def use() -> list[str]:
        table = default_decompositions()
        way(table, key, squared)
        way(table, SILU, squared)
        return [repr(key in table), repr(table[key]), _outcome(lambda: program.run_decompositions(table))]

    expected = use()
    with record(ledger, name="job"):
        assert use() == expected
    assert rules_of(ledger, of("job", maker="use")) == {"aten::silu": f"{__name__}.squared"}


# --- other versions of torch ------------------------------------------------------------------------------------------


def test_this_torch_has_all_that_the_patches_need() -> None:
    names = [name for name in patches._NEEDED if name.startswith("torch.")]
    assert [importlib.import_module(name).__name__ for name in names] == names
    assert patches.lacking() == []


def test_an_export_whose_table_cannot_be_seen_is_named(
    ledger: Ledger, program: ExportedProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lowered() -> list[str]:
        tables: Any = {"cia_to_decomp": {}, "python_decomp_table": {}, **_OTHERS}
        return targets(exported_program._decompose_exported_program(program, joint_loss_index=None, **tables))

    expected = lowered()
    monkeypatch.setattr(internals, "TABLES_OF_LOWERING", ("another_name", "python_decomp_table"))
    with record(ledger, name="job"), pytest.warns(RecordingWarning, match="not recorded: UnsupportedTorch.*torch 2"):
        assert lowered() == expected
    assert list(ledger.exports()) == []


_OTHERS = {
    name: False
    for name in inspect.signature(exported_program._decompose_exported_program).parameters
    if name == "decompose_custom_triton_ops"  # from torch 2.7 on
}


def test_a_trace_whose_table_cannot_be_seen_is_named(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "table_of_tracer", lambda tracer: None)
    with record(ledger, all_tracing=True), pytest.warns(RecordingWarning, match="the table of a trace cannot be seen"):
        make_fx(torch.relu)(torch.ones(2))
    with record(ledger), warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        make_fx(torch.relu)(torch.ones(2))
