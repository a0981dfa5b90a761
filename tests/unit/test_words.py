"""Counts in words: an export counts ops and calls apart, and one of a kind is never in the plural."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import decomp_ledger
from decomp_ledger.model.events import Event, Exported
from decomp_ledger.reports.words import count, summary

PACKAGE = Path(decomp_ledger.__file__).parent
NOUNS = (
    *("calls", "decompositions", "differences", "entries", "errors", "events", "exports", "files", "functions"),
    *("lines", "nodes", "ops", "overrides", "problems", "results", "rules", "runs", "samples", "tables", "times"),
    *("changes", "checkpoints", "decisions", "defaults", "entries", "findings", "kernels", "traces", "versions"),
)
# Each is reached only with another number than 1: the text next to it is for 1.
GUARDED = {
    "decomp_ledger/analysis/gate.py": {"{table.name} overrides"},  # a verb
    "decomp_ledger/analysis/outcome.py": {"{count} times", "{count} nodes"},
    "decomp_ledger/reports/event_blocks.py": {"{len({*texts})} functions"},
    "decomp_ledger/reports/ledger_view.py": {"{found.number} events"},
    "decomp_ledger/cli/export_commands.py": {"{len(differences)} differences"},
    "decomp_ledger/cli/inspect_commands.py": {"{len(texts)} functions"},
}


def event(body: Exported) -> Event:
    """Return an export."""
    return Event(7, "edge", 3, body.kind, "2026-01-01T00:00:00.000000Z", "ann", None, None, "", body, "", "")


@given(st.dictionaries(st.sampled_from(["a::a", "a::b", "a::c", "a::d"]), st.integers(1, 5)))
def test_an_export_tells_how_many_ops_were_decomposed_and_in_how_many_calls(fired: dict[str, int]) -> None:
    ops, calls = len(fired), sum(fired.values())
    text = summary(event(Exported("c", "s", "b", "a", {}, {}, fired, 3, None)))
    expected = f"{ops} op{'' if ops == 1 else 's'} decomposed, {calls} call{'' if calls == 1 else 's'}"
    assert f"; {expected};" in text


@pytest.mark.parametrize("number", range(4))
def test_a_number_has_its_noun_in_the_form_that_it_needs(number: int) -> None:
    assert count(number, "op") == f"{number} op{'' if number == 1 else 's'}"


def plurals(path: Path) -> Iterator[str]:
    """Give each value of an f-string that is followed by a noun in the plural, whatever the number is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__repr__"]
    for_programmers = {text for node in named for text in ast.walk(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr) or node in for_programmers:
            continue
        for value, text in pairwise(node.values):
            if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                noun = str(text.value).strip().partition(" ")[0].strip(",;:.")
                is_kernel = noun == "runs" and "len(" not in ast.unparse(value.value)  # a verb: `its kernel runs`
                if str(text.value).startswith(" ") and noun in NOUNS and not is_kernel:
                    yield f"{{{ast.unparse(value.value)}}} {noun}"


@pytest.mark.parametrize("folder", ["analysis", "cli", "reports"])
def test_no_text_has_a_plural_for_any_number(folder: str) -> None:
    found = {}
    for path in sorted((PACKAGE / folder).glob("*.py")):
        name = f"decomp_ledger/{folder}/{path.name}"
        if wrong := {*plurals(path)} - GUARDED.get(name, set()):
            found[name] = wrong
    assert found == {}
