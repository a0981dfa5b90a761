"""Every public function with a wrong value for each of its parameters: one clear error, and nothing is changed."""

import inspect
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from strategies import catalog_of, new_table
from wrong_values import WRONG

import decomp_ledger as dl
from decomp_ledger import Ledger, LedgerError, TableLog, UnusableValue
from decomp_ledger.model.arguments import checked, one_or_more

# Valid values of required parameters, by name.
VALID = {
    "name": "new", "spec": "edge", "to": 1, "table": "edge", "op": "aten::mm", "fn": len, "before": "edge@1",
    "after": "edge", "number": 4, "reason": "why", "prefix": "p", "version": 1, "ops": ["aten::mm"], "digest": "00",
    "text": "edge", "path": "none", "file": "none.pt2", "backup": "none.db", "dump": "none.jsonl", "ledger": None,
    "catalog": catalog_of("aten::mm"), "state": None, "key": "none", "body": None, "series": "edge", "url": "none.db",
}  # fmt: skip
# They take no arguments, or need torch; `capture_catalog` runs it for a minute.
NEED_TORCH = {"check_numerics", "check_program", "reproduce", "reproduce_export", "trace", "would_change"}
NEED_TORCH_AT_ONCE = {  # their modules import torch
    "DecompTable", "GraphDifference", "ImportRecording", "ReproducedTable", "Rerun", "WouldChange", "load", "reproduce",
    "save",
}  # fmt: skip
# `browse` serves until it is interrupted: tests/storage/test_browse.py.
LATER = {"close", "table", "capture_catalog", "browse", *NEED_TORCH}
INTERNAL = {"change", "open", "create_or_open", "exported", "used", "adopt", "changed_since", "replace_rules"}
CALLBACKS = {"progress", "reading", "passphrase"}  # a function of the caller's; what it raises is passed on


def public(owner: Any, omitted: set[str]) -> Iterator[str]:
    for name in dir(owner):
        if name.startswith("_") or name in omitted:
            continue
        if callable(member := getattr(owner, name)) and not inspect.isclass(member):
            yield name


FUNCTIONS = [
    *(("ledger", name) for name in public(Ledger, LATER)),
    *(("table", name) for name in public(TableLog, INTERNAL)),
    *(("module", name) for name in dl.__all__ if name not in {*NEED_TORCH_AT_ONCE, *LATER}
      and callable(getattr(dl, name)) and not inspect.isclass(getattr(dl, name))),
]  # fmt: skip


def calls(function: Callable[..., Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield calls of a function that each have one wrong argument, with the argument's name."""
    parameters = inspect.signature(function).parameters.values()
    required = {each.name: VALID[each.name] for each in parameters if each.default is each.empty}
    for parameter, value in itertools.product(parameters, WRONG):
        if not (callable(value) and parameter.name in CALLBACKS):
            given = {**required, parameter.name: value}
            yield parameter.name, lambda given=given: used(function(**given))


def used(result: Any) -> None:
    if inspect.isgenerator(result):
        list(result)


@pytest.mark.parametrize(("owner", "name"), FUNCTIONS, ids=[".".join(each) for each in FUNCTIONS])
def test_a_wrong_argument_gives_one_clear_error_and_changes_nothing(
    owner: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger(tmp_path / "l.db", actor="ada") as ledger:
        edge = new_table(ledger)
        edge.preserve(["aten::mm"])
        edge.materialize(catalog_of("aten::mm"))
        function = getattr({"ledger": ledger, "table": edge, "module": dl}[owner], name)
        for argument, call in calls(function):
            head = ledger.event_store.head()
            try:
                call()
            except LedgerError as error:
                text = str(error)
                assert text and "\n" not in text and len(text) < 1000, (argument, text)
                text.encode()  # it can be printed
                assert ledger.event_store.head() == head, argument


@pytest.mark.parametrize("parameter", [*inspect.signature(Ledger).parameters])
@pytest.mark.parametrize("value", WRONG, ids=range(len(WRONG)))
def test_a_ledger_is_opened_with_right_arguments_only(
    parameter: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        Ledger(**{"path": "l.db", parameter: value}).close()
    except LedgerError as error:
        assert "\n" not in str(error)


def test_the_error_names_the_function_the_argument_and_what_to_give() -> None:
    with Ledger(":memory:") as ledger, pytest.raises(UnusableValue) as raised:
        ledger.export("3")  # type: ignore[arg-type]
    assert str(raised.value) == "export(number='3'): str is not possible; give an integer"
    with pytest.raises(UnusableValue, match=r"^Ledger\(trust=5\): int is not possible; give a list of text$"):
        Ledger(":memory:", trust=5)  # type: ignore[arg-type]


def test_one_text_is_one_item_not_its_letters(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db", trust="mypkg") as ledger:
        assert ledger.functions.trust == ("mypkg",)
        new_table(ledger)
        _, head = ledger.event_store.head()
        assert ledger.verify(expect=head.hex()).ok
        with pytest.raises(LedgerError, match=r"none\.pt2: cannot be read"):
            ledger.verify(against=str(tmp_path / "none.pt2"))
    assert one_or_more(Path("a")) == (Path("a"),) and one_or_more(["a", "b"]) == ("a", "b")


def test_every_public_function_is_checked() -> None:
    unchecked = [
        f"{owner.__name__}.{name}"
        for owner, omitted in ((Ledger, set[str]()), (TableLog, set[str]()), (dl, NEED_TORCH_AT_ONCE))
        for name in public(owner, omitted)
        if (function := getattr(owner, name)).__module__.startswith("decomp_ledger")
        and (inspect.signature(function).parameters.keys() - {"self"})
        and not hasattr(function, "__wrapped__")
    ]
    assert unchecked == []


def test_an_annotation_that_cannot_be_evaluated_is_not_checked() -> None:
    @checked
    def function(one: "Missing | None", *more: int, other: "int | None" = None) -> object:  # type: ignore[name-defined]  # noqa: F821
        return one

    assert function(5) == 5 and function("x", other=3) == "x"
    with pytest.raises(UnusableValue, match=r"function\(other='3'\): str is not possible; give an integer or None"):
        function(1, other="3")
