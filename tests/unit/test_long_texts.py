"""Long texts of strangers: what compares, splits or matches them takes time in proportion to them."""

import difflib
import random
import re
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decomp_ledger import catalogs
from decomp_ledger.analysis.behaviour import fits, graph_diff
from decomp_ledger.analysis.drift import schema_difference
from decomp_ledger.model import line_diff
from decomp_ledger.model.line_diff import line_opcodes, unified_diff
from decomp_ledger.model.policy import matching
from decomp_ledger.model.schemas import schema_arguments

SECONDS = 10.0  # of the processor; 80 KB took 19 s when the time grew with the square
LONG = 300_000  # characters


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def schema(arguments: str) -> str:
    return f"aten::f({arguments}) -> Tensor"


ARGUMENTS = {
    "commas": ", " * (LONG // 2),
    "brackets": "[, " * (LONG // 3),
    "one word": "a" * LONG + "-b",
    "words": "a-" * (LONG // 2),
    "equals": "a=" * (LONG // 2),
    "names": ", ".join(f"int a{n}" for n in range(LONG // 10)),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_long_schema_is_read_soon(name: str) -> None:
    text = schema(ARGUMENTS[name])
    assert seconds(lambda: schema_arguments(text)) < SECONDS
    assert seconds(lambda: fits("f(1)", text)) < SECONDS
    assert seconds(lambda: schema_difference(text, text.replace("a", "b"))) < SECONDS


PATTERNS = ("*bot*@example.org>", "*b*o*t*b*>", "*::*", "a*a*a*a*b", "*", "**", "*bot*")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("unit", ["bot", "a", "::", "@example.org", "b"])
def test_a_long_name_is_matched_soon(pattern: str, unit: str) -> None:
    assert seconds(lambda: matching([pattern], unit * (LONG // len(unit)), ops=False)) < SECONDS


@given(st.text("ab*\n", max_size=8), st.text("ab\n", max_size=12))
def test_a_pattern_matches_as_a_regular_expression_does(pattern: str, name: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None
    assert (matching([pattern], name, ops=False) is not None) == expected


def lines_of(kind: str, count: int, seed: int) -> list[str]:
    choose = random.Random(seed)
    if kind == "few lines":
        return [f"{choose.randrange(110)}" for _ in range(count)]
    if kind == "one line":
        return ["x"] * (count + seed)
    if kind == "every second line":
        return [str(n) if n % 2 or seed == 1 else "x" for n in range(count)]
    return [f"%{n} = aten::op{choose.randrange(3)}(%{n})" for n in range(count)]


@pytest.mark.parametrize("kind", ["few lines", "one line", "every second line", "nodes"])
def test_many_lines_are_compared_soon(kind: str) -> None:
    before, after = (lines_of(kind, LONG // 3, seed) for seed in (1, 2))
    assert seconds(lambda: unified_diff(before, after)) < SECONDS
    assert seconds(lambda: graph_diff(before, after)) < SECONDS


LINES = st.lists(st.sampled_from("abcd"), max_size=12)


def applied(before: Sequence[str], diff: Sequence[str]) -> list[str]:
    """Return the lines that a unified diff makes of others, as `patch` does."""
    made, at = [], 0
    for line in diff[2:]:
        if line.startswith("@@"):
            found = re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@", line)
            assert found is not None
            start = int(found[1]) - (found[2] != "0")
            made += before[at:start]
            at = start
        else:
            assert line[0] == "+" or before[at] == line[1:]
            made += [line[1:]] if line[0] in "+ " else []
            at += line[0] in "- "
    return made + list(before[at:])


@pytest.mark.parametrize("most", [0, line_diff._MOST_STEPS])
@given(before=LINES, after=LINES)
def test_a_diff_makes_the_one_of_the_other_whether_it_is_quick_or_not(
    most: int, before: list[str], after: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_diff, "_MOST_STEPS", most)
        diff = unified_diff(before, after)
        opcodes = line_opcodes(before, after)
    assert applied(before, diff) == after
    assert (diff == ()) == (before == after)
    assert [line for *_, start, end in opcodes for line in after[start:end]] == after
    assert [line for _, start, end, *_ in opcodes for line in before[start:end]] == before
    assert all(before[a:b] == after[c:d] for tag, a, b, c, d in opcodes if tag == "equal")
    if most:
        assert opcodes == difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()


def test_every_schema_of_torch_is_split_as_before() -> None:
    between = re.compile(r", (?![^\[(]*[\])])")
    named = re.compile(r"(\w+)(?:=.*)?$")
    newest = catalogs.released(catalogs.available()[-1])
    texts = [entry.schema for entry in newest.ops.values() if entry.schema]
    assert len(texts) > 2000
    for text in texts:
        arguments = between.split(text.partition("(")[2].rpartition(") ->")[0])
        assert schema_arguments(text) == arguments
        for each in arguments:
            found = named.search(each)
            assert each.partition("=")[0].rpartition(" ")[2] == (each if found is None else found[1])
