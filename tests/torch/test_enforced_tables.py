"""Enforced policies: a named table refuses each way of a change, and a recorded program is not changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import decomp_ledger as dl
from decomp_ledger import Ledger, Policy, PolicyError, PolicyWarning

aten = torch.ops.aten
KEEP = Policy(keep="aten::linear", no_override="aten::gelu", enforce=True)
REASON = Policy(require_reason=True, enforce=True)


def function(x: Any, *args: Any, **kwargs: Any) -> Any:
    return x


def ior(table: Any) -> None:
    table |= {aten.gelu.default: function}


def forked(table: Any) -> None:
    table.copy()[aten.gelu.default] = function


# Each way to change a table, with the policy that refuses it.
WAYS: dict[str, tuple[Policy, Callable[[Any], object]]] = {
    "__setitem__": (KEEP, lambda table: table.__setitem__(aten.gelu.default, function)),
    "__setitem__ of a packet": (KEEP, lambda table: table.__setitem__(aten.gelu, function)),
    "__setitem__ of a name": (KEEP, lambda table: table.__setitem__("aten::linear", function)),
    "update": (KEEP, lambda table: table.update({aten.mm.default: function, aten.gelu.default: function})),
    "__ior__": (KEEP, ior),
    "setdefault": (KEEP, lambda table: table.setdefault("aten::gelu.late", function)),
    "override": (KEEP, lambda table: table.override("aten::gelu", function, reason="why")),
    "reset": (KEEP, lambda table: table.reset("aten::linear")),
    "revert": (KEEP, lambda table: table.revert(to=1)),
    "copy": (KEEP, forked),
    "pop": (REASON, lambda table: table.pop(aten.silu.default)),
    "pop with a default": (REASON, lambda table: table.pop(aten.silu.default, None)),
    "__delitem__": (REASON, lambda table: table.__delitem__(aten.silu.default)),
    "popitem": (REASON, lambda table: table.popitem()),
    "clear": (REASON, lambda table: table.clear()),
    "preserve": (REASON, lambda table: table.preserve("aten::gelu")),
    "tag": (Policy(actors="Bob", enforce=True), lambda table: table.tag("one")),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_change_leaves_the_table_and_the_ledger_as_they_were(way: str, tmp_path: Path) -> None:
    policy, change = WAYS[way]
    with Ledger(tmp_path / "l.db", actor="Ada") as ledger:
        table = ledger.table("edge")
        table.preserve(aten.linear.default)
    with Ledger(tmp_path / "l.db", actor="Ada", policy=policy) as ledger:
        table = ledger.table("edge")
        content, head = dict(table), ledger.event_store.head()
        with pytest.raises(PolicyError, match="edge"):
            change(table)
        assert dict(table) == content and aten.linear.default not in table
        assert (table.version, ledger.event_store.head()) == (2, head)
        assert ledger.table("edge").version == 2
        # It goes on: what the policy allows is made.
        table.preserve("aten::silu", reason="why") if policy is not WAYS["tag"][0] else None


def test_each_method_that_changes_a_dict_or_a_table_is_tried() -> None:
    own = {"override", "preserve", "reset", "revert", "tag", "copy"}
    of_dict = {"__setitem__", "__delitem__", "__ior__", "update", "setdefault", "pop", "popitem", "clear"}
    assert {way.partition(" ")[0] for way in WAYS} == own | of_dict
    reading = {
        *("get", "items", "keys", "values", "fromkeys", "at", "blame", "check_numerics", "diff", "events", "fork"),
        *("history", "materialize", "materialize_for_export", "refresh", "to_dicts"),
    }
    public = {name for name in dir(dl.DecompTable) if callable(getattr(dl.DecompTable, name)) and name[0] != "_"}
    assert public - reading == {*own, *(name for name in of_dict if name[0] != "_")}


class Model(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.nn.functional.gelu(torch.nn.functional.linear(x, x))


def program() -> tuple[list[str], str]:
    """Lower a model with a table that breaks the policies; return what the program sees."""
    table: Any = torch.export.default_decompositions()
    removed = table.pop(aten.silu.default)
    table[aten.gelu.default] = function
    table.update({aten.linear.default: function})
    lowered = torch.export.export(Model(), (torch.ones(3, 3),)).run_decompositions(table)
    return sorted(map(str, table.keys())), f"{lowered.graph} {callable(removed)}"


POLICY = (
    "[tool.decomp-ledger.policy]\nkeep = ['aten::linear']\nrequire_reason = true\nactors = ['Bob']\nenforce = true\n"
)


@pytest.mark.parametrize("settings", [POLICY, "[tool.decomp-ledger.policy]\nenforced = true\n"])
@pytest.mark.parametrize("action", ["default", "error"])
def test_a_recorded_program_does_what_it_does_without_a_recording(
    settings: str, action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = program()
    (tmp_path / "pyproject.toml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error" if action == "error" else "always", category=PolicyWarning)
        with dl.record("l.db", name="run", actor="Ada", on_error="raise"):
            assert program() == wanted
    with Ledger("l.db", read_only=True) as ledger:
        assert {event.kind for event in ledger.events()} >= {"popped", "set", "updated", "exported"}
        if settings is POLICY:
            found = ledger.gate()
            assert {each.policy for each in found.findings} == {"keep", "require_reason", "actors"}
        else:
            with pytest.raises(dl.UnusableValue, match="'enforced' is unknown"):
                ledger.gate()
    broken = [str(each.message) for each in seen if issubclass(each.category, PolicyWarning)]
    assert bool(broken) is (settings is POLICY and action == "default")
    assert all("the change is recorded, and breaks the policy" in text for text in broken)


def test_a_named_table_within_a_recording_is_still_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db", policy=REASON) as ledger, dl.record(ledger, name="run"):
        table = ledger.table("edge")
        with pytest.raises(PolicyError):
            table.preserve("aten::mm")
