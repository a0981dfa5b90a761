"""Drift and upgrade by behaviour: which verdict traces give, how two graphs are compared, and what decides a check."""

import contextlib
import gzip
import io
import json
import re
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import decomp_ledger
from decomp_ledger import catalogs
from decomp_ledger.analysis.behaviour import (
    VERDICTS,
    Behaviour,
    SampleDifference,
    TraceData,
    change_text,
    compare,
    family,
    fits,
    graph_diff,
    groups,
)
from decomp_ledger.analysis.drift import BEHAVIOUR_KINDS, Drift, NamedState, drift
from decomp_ledger.analysis.upgrade import UpgradeCheck, check_upgrade, upgrade
from decomp_ledger.cli import cli
from decomp_ledger.cli.drift_output import print_drift
from decomp_ledger.model.behaviour import Trace, Traces, TraceSet
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.rules import Decomposition, Rule, TableState

OLD_BUILD = {"torch": "1.0.0", "git": "a" * 40, "accelerator": "cpu"}
NEW_BUILD = {"torch": "2.0.0", "git": "b" * 40, "accelerator": "cpu"}
KERNEL = Entry("cia", True, schema="aten::f(Tensor x) -> Tensor")
PYTHON = Entry("registry", True, "", KERNEL.schema, (), "torch.d", "f", "d1", "h1", "w1")
UNUSED = attrs.evolve(KERNEL, default=False)
MINE = Rule("override", Decomposition("import", "mypkg", "mine", "0" * 64))
OWN = Rule("override", Decomposition("registry"))
NO_DATA = TraceData()
GRAPHS = {
    "view": ("%0 = aten::mm(x0, x1): f32[2, 2]", "%1 = aten::view(%0, [4]): f32[4]", "return %1"),
    "unsafe": ("%0 = aten::mm(x0, x1): f32[2, 2]", "%1 = aten::_unsafe_view(%0, [4]): f32[4]", "return %1"),
}


def trace(text: str) -> Trace:
    """Return the trace that a text stands for; an error starts with `!`."""
    return Trace.from_json(text)


def traces(version: str, ops: dict[str, dict[str, str]]) -> Traces:
    """Return the traces of one torch."""
    of = {op: tuple((call, trace(text)) for call, text in calls.items()) for op, calls in ops.items()}
    return Traces(version, of)


# The verdict


results = st.sampled_from(["a", "b", "!ValueError", "!NotImplementedError"])
calls = st.sampled_from(["(f32[2])", "(f32[2], 1)", "(i64[2])", "dynamic(f32[2])", "dynamic(i64[2])"])
sampled = st.dictionaries(calls, results)


@given(sampled, sampled, st.sets(calls, max_size=1))
def test_the_verdict_follows_from_the_samples_that_both_torches_have(
    old: dict[str, str], new: dict[str, str], left_out: set[str]
) -> None:
    found = compare("aten::f", *({c: trace(t) for c, t in side.items()} for side in (old, new)), NO_DATA, left_out)
    common = [call for call in old if call in new and call not in left_out]
    telling = [call for call in common if not (old[call].startswith("!") and new[call].startswith("!"))]
    differing = [call for call in telling if old[call] != new[call]]
    static = [call for call in differing if not call.startswith("dynamic")]
    expected = "differs" if static else "differs_dynamic" if differing else "same" if telling else "not_sampled"
    assert (found.verdict, found.samples) == (expected, len(telling))
    assert {each.call for each in found.differences} == {*differing}
    assert bool(found.reason) == (expected == "not_sampled")
    if static:
        assert not found.differences[0].call.startswith("dynamic")
    assert found.verdict in VERDICTS
    assert json.loads(json.dumps(found.to_json()))["verdict"] == expected


def test_an_error_on_one_side_is_a_difference_and_a_graph_on_both_sides_comes_first() -> None:
    old = {"(1)": trace("a"), "(2)": trace("view")}
    new = {"(1)": trace("!NotImplementedError"), "(2)": trace("unsafe")}
    found = compare("aten::f", old, new, TraceData(GRAPHS.get))
    assert [each.call for each in found.differences] == ["(2)", "(1)"]
    assert change_text(found.differences[1]) == "traced -> raises NotImplementedError"
    assert repr(found) == "<Behaviour aten::f: behaves differently on 2 of 2 samples>"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("constant 1", "constant 1: i64[]", "same"),
        ("constant [1, 2]: i64[2]", "constant [1, 2]", "same"),
        ("constant 1: i32[]", "constant 1: i64[]", "differs"),
        ("constant 1", "constant 2: i64[]", "differs"),
        ("aten::add(x0)", "aten::add(x0): f32[2]", "differs"),
    ],
)
def test_a_constant_whose_dtype_only_one_torch_writes_is_the_same(old: str, new: str, expected: str) -> None:
    lines = {"a": (f"%0 = {old}", "return %0"), "b": (f"%0 = {new}", "return %0")}
    found = compare("aten::f", {"(1)": trace("a")}, {"(1)": trace("b")}, TraceData(lines.get))
    assert found.verdict == expected


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ({}, {}, "it takes packed parameters"),
        ({"(1)": "a"}, {"(2)": "a"}, "no sample in common"),
        ({"(1)": "!ValueError"}, {"(1)": "!TypeError"}, "no sample can be traced: TypeError"),
        ({"(1)": "a"}, {}, "only one of the two"),
        ({}, {"(1)": "a"}, "only one of the two"),
    ],
)
def test_an_op_that_is_not_sampled_has_a_reason(old: dict[str, str], new: dict[str, str], reason: str) -> None:
    data = TraceData(without_samples={"aten::f": "it takes packed parameters"})
    found = compare("aten::f", *({c: trace(t) for c, t in side.items()} for side in (old, new)), data)
    assert found.verdict == "not_sampled"
    assert reason in found.reason


@pytest.mark.parametrize(
    ("call", "schema", "expected"),
    [
        ("(f32[2])", "aten::f(Tensor x) -> Tensor", True),
        ("(f32[2], 1)", "aten::f(Tensor x) -> Tensor", False),
        ("(f32[2], y=1)", "aten::f(Tensor x) -> Tensor", False),
        ("(f32[2], y=1)", "aten::f(Tensor x, *, int y=0) -> Tensor", True),
        ("(f32[2], 1)", "aten::f(Tensor x, *, int y=0) -> Tensor", False),
        ("(f32[2], [1, 2])", "aten::f(Tensor x, int[2] y=[1, 2]) -> Tensor", True),
        ("(f32[2], out=f32[2])", "aten::f.out(Tensor x, *, Tensor(a!) out) -> Tensor(a!)", True),
        ("dynamic(f32[2], [f32[2, 3], 1])", "aten::f(Tensor x, Tensor[] y) -> Tensor", True),
        ("('ij,jk->ik', [f32[2, 3]])", "aten::f(str equation, Tensor[] x) -> Tensor", True),
        ("()", "aten::f() -> Tensor", True),
    ],
)
def test_a_call_fits_a_schema_by_number_and_names(call: str, schema: str, expected: bool) -> None:
    assert fits(call, schema) is expected


# Two graphs side by side


@st.composite
def graphs(draw: st.DrawFn) -> tuple[str, ...]:
    """Return the lines of a graph whose nodes read inputs or earlier nodes."""
    lines = []
    for number in range(draw(st.integers(0, 7))):
        reads = ["x0", *(f"%{earlier}" for earlier in range(number))]
        one, other = draw(st.sampled_from(reads)), draw(st.sampled_from(reads))
        lines.append(f"%{number} = aten::{draw(st.sampled_from(['add', 'mul', 'view']))}({one}, {other}): f32[2]")
    return (*lines, f"return {draw(st.sampled_from(['x0', *(line.split()[0] for line in lines)]))}")


@given(graphs(), graphs())
def test_two_graphs_side_by_side_show_every_line_and_differ_exactly_if_their_lines_do(
    before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    rows = graph_diff(before, after)
    assert tuple(row.before for row in rows if row.before) == before
    assert tuple(row.after for row in rows if row.after) == after
    assert any(not row.same for row in rows) == (before != after)
    for row in rows:
        if row.same:
            assert re.sub(r"%\d+", "%", row.before) == re.sub(r"%\d+", "%", row.after)


@given(graphs(), st.data())
def test_a_node_that_is_added_is_the_only_row_that_differs_but_for_its_readers(
    before: tuple[str, ...], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(before) - 1))
    moved = [re.sub(r"%(\d+)", lambda m: f"%{int(m[1]) + (int(m[1]) >= place)}", line) for line in before]
    after = (*moved[:place], f"%{place} = aten::remainder(x0, 3): f32[2]", *moved[place:])
    differing = [row for row in graph_diff(before, after) if not row.same]
    assert [(row.before, "remainder" in row.after) for row in differing] == [("", True)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (GRAPHS["view"], GRAPHS["unsafe"], "view -> _unsafe_view"),
        (("%0 = aten::abs(x0): f32[2]", "return %0"), ("return x0",), "abs -> return x0"),
        (
            ("%0 = aten::sum(x0): f32[]", "return %0"),
            ("%0 = aten::sum(x0): f64[]", "return %0"),
            "sum(x0): f32[] -> sum(x0): f64[]",
        ),
        (
            tuple(f"%{n} = aten::op{n}(x0): f32[]" for n in range(8)),
            ("return x0",),
            "op0, op1, op2, op3, op4 and 3 more -> return x0",
        ),
    ],
)
def test_a_change_in_one_line(before: tuple[str, ...], after: tuple[str, ...], expected: str) -> None:
    assert change_text(SampleDifference("(f32[2])", trace("a"), trace("b"), before, after)) == expected


def test_the_overloads_of_a_family_with_one_change_are_one_group() -> None:
    def behaviour(op: str, before: str = "view", after: str = "unsafe") -> Behaviour:
        return compare(op, {"(1)": trace(before)}, {"(1)": trace(after)}, TraceData(GRAPHS.get))

    found = [behaviour(op) for op in ("aten::frac.out", "aten::frac_", "aten::frac", "aten::other")]
    found += [behaviour("aten::frac.x", after="!ValueError"), behaviour("aten::frac.y", "unsafe", "view")]
    assert [[each.op for each in group] for group in groups(found)] == [
        ["aten::frac", "aten::frac_", "aten::frac.out"],
        ["aten::other"],
        ["aten::frac.x"],
        ["aten::frac.y"],
    ]
    assert family("aten::__and__.Tensor") == "aten::__and__"


# Which ops the traces judge


ENTRIES = {"kernel": KERNEL, "python": PYTHON, "unused": UNUSED, "changed": attrs.evolve(PYTHON, digest="d2")}
RULES = {"none": None, "preserve": Rule("preserve"), "mine": MINE, "own": OWN}


def judged(before: Entry, after: Entry, rule: Rule | None, other_rule: Rule | None, *, known: bool = True) -> Any:
    """Compare two states with one op whose traces differ; its traces are known in both or in one."""
    states = []
    for build, entry, each, text in ((OLD_BUILD, before, rule, "view"), (NEW_BUILD, after, other_rule, "unsafe")):
        state = TableState("edge", 1, "torch", {} if each is None else {"aten::f": each})
        shown = traces(build["torch"], {"aten::f": {"(f32[2])": text}}) if known or text == "view" else None
        states.append(NamedState("edge", state, Catalog(build, {"aten::f": entry}), shown))
    return drift(*states, TraceData(GRAPHS.get))


@pytest.mark.parametrize("pair", [*product(ENTRIES, ENTRIES)], ids="-".join)
@pytest.mark.parametrize("rules", [*product(RULES, RULES)], ids="-".join)
def test_traces_judge_an_op_exactly_if_torchs_default_decomposes_it_in_both_states(
    pair: tuple[str, str], rules: tuple[str, str]
) -> None:
    entries = [ENTRIES[name] for name in pair]
    found = judged(*entries, *(RULES[name] for name in rules))

    def is_default(entry: Entry, rule: str) -> bool:
        # Torch's own registry decomposition is the default of the Python entries; a kernel has moved from it.
        return entry.default and (rule == "none" or rule == "own")

    expected = all(is_default(entry, rule) for entry, rule in zip(entries, rules, strict=True))
    assert [each.op for each in found.behaviours] == (["aten::f"] if expected else [])
    assert [change.kind for change in found.changes if change.kind in BEHAVIOUR_KINDS.values()] == (
        ["behaviour"] if expected else []
    )
    assert all((change.verdict == "differs") == expected for change in found.changes)
    if expected:
        assert found.behaviour("aten::f").differences[0].after_graph == GRAPHS["unsafe"]
        assert found.verdicts() == {**dict.fromkeys(VERDICTS, 0), "differs": 1}


def test_without_the_traces_of_one_torch_the_behaviour_is_unknown() -> None:
    found = judged(PYTHON, ENTRIES["changed"], None, None, known=False)
    assert [each.verdict for each in found.behaviours] == ["unknown"]
    assert [(change.kind, change.verdict) for change in found.changes] == [("source", "unknown")]


def test_within_one_build_nothing_is_judged() -> None:
    shown = traces("1.0.0", {"aten::f": {"(f32[2])": "view"}})
    state = NamedState.of_catalog("old", Catalog(OLD_BUILD, {"aten::f": KERNEL}), shown)
    assert drift(state, state).behaviours == ()


def test_a_sample_that_only_one_schema_can_take_does_not_count() -> None:
    wider = attrs.evolve(KERNEL, schema="aten::f(Tensor x, int y=0) -> Tensor")
    old = traces("1.0.0", {"aten::f": {"(f32[2])": "a", "(f32[2], 1)": "!TypeError"}})
    new = traces("2.0.0", {"aten::f": {"(f32[2])": "a", "(f32[2], 1)": "b"}})
    states = (
        NamedState.of_catalog("x", Catalog(build, {"aten::f": entry}), each)
        for build, entry, each in ((OLD_BUILD, KERNEL, old), (NEW_BUILD, wider, new))
    )
    found = drift(*states)
    assert [(each.verdict, each.samples) for each in found.behaviours] == [("same", 1)]
    assert [change.kind for change in found.changes] == ["schema"]


# The check of an upgrade


TRACED = {
    "differs": ({"(1)": "a"}, {"(1)": "b"}),
    "raises": ({"(1)": "a"}, {"(1)": "!ValueError"}),
    "differs_dynamic": ({"(1)": "a", "dynamic(1)": "a"}, {"(1)": "a", "dynamic(1)": "b"}),
    "same": ({"(1)": "a"}, {"(1)": "a"}),
    "not_sampled": ({}, {}),
}


def checked(old: Entry, new: Entry, sides: tuple[dict[str, str], dict[str, str]], used: set[str]) -> UpgradeCheck:
    """Check the move of a table without rules; both torches have traces."""
    states = [
        NamedState("edge@1", TableState("edge", 1, "torch", {}), Catalog(build, {"aten::f": entry}), traces("1", of))
        for build, entry, of in zip((OLD_BUILD, NEW_BUILD), (old, new), ({"aten::f": s} for s in sides), strict=True)
    ]
    return check_upgrade(upgrade(states[1], states[0]), used)


CHANGES = {
    "nothing": (PYTHON, PYTHON),
    "source": (PYTHON, attrs.evolve(PYTHON, digest="d2")),
    "helpers": (PYTHON, attrs.evolve(PYTHON, helpers="h2")),
    "wrappers": (PYTHON, attrs.evolve(PYTHON, wrappers="w2")),
    "moved": (PYTHON, attrs.evolve(KERNEL, schema=PYTHON.schema)),
    "kernel": (KERNEL, KERNEL),
    "schema": (PYTHON, attrs.evolve(PYTHON, schema="aten::f(Tensor x, int y=0) -> Tensor")),
    "unreadable": (PYTHON, attrs.evolve(PYTHON, digest=None)),
    "left": (PYTHON, attrs.evolve(PYTHON, default=False)),
    "entered": (UNUSED, KERNEL),
}


@pytest.mark.parametrize("verdict", TRACED)
@pytest.mark.parametrize("change", CHANGES)
def test_a_check_fails_exactly_if_a_used_op_leaves_comes_or_behaves_differently(change: str, verdict: str) -> None:
    check = checked(*CHANGES[change], TRACED[verdict], {"aten::f"})
    moves = change in ("left", "entered")
    differs = verdict in ("differs", "raises", "differs_dynamic")
    expected = [change] if moves else [BEHAVIOUR_KINDS["differs_dynamic" if "dynamic" in verdict else "differs"]]
    assert [each.kind for each in check.findings] == (expected if moves or differs else [])
    assert not checked(*CHANGES[change], TRACED[verdict], {"aten::other"}).findings
    if change in ("source", "helpers", "moved", "schema"):
        assert {each.kind for each in check.notes} == {change}
    assert check.kernels == (("aten::f",) if change == "kernel" and verdict == "not_sampled" else ())
    if not moves:
        assert [each.verdict for each in check.drift.behaviours] == [verdict.replace("raises", "differs")]


def test_any_traces_make_one_screen_unless_everything_is_asked_for() -> None:
    ops = [f"aten::op{number}" for number in range(300)]
    lines = tuple(f"%{number} = aten::old{number}(x0): f32[2]" for number in range(40))
    shown = {"view": (*lines, "return %39"), "unsafe": tuple(line.replace("old", "new") for line in lines)}
    states = []
    for build, text in ((OLD_BUILD, "view"), (NEW_BUILD, "unsafe")):
        entries = {op: attrs.evolve(PYTHON, digest=text) for op in ops}
        of = traces(build["torch"], {op: {"(f32[2])": text, "dynamic(f32[2])": text} for op in ops[:200]})
        states.append(NamedState.of_catalog("x", Catalog(build, entries), of))
    found = drift(*states, TraceData(shown.get))
    for everything, whole in product((False, True), repeat=2):
        text = printed(found, everything=everything, whole=whole)
        assert (len(text) <= 120) == (not everything and not whole)
        named = [op for op in ops[:200] if any(f"  {op}:" in line for line in text)]
        assert (len(named) == 200) == (everything or whole)
        assert named


def printed(found: Drift, *, everything: bool = False, whole: bool = False) -> list[str]:
    """Return the lines that the command prints."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        print_drift(found, everything=everything, whole=whole)
    return stream.getvalue().splitlines()


# Released versions


VERSIONS = catalogs.traced_versions()
KNOWN = {
    ("2.9.1", "2.13.0"): (
        *("take_along_dim", "cosine_similarity", "frac", "eye", "embedding_dense_backward", "mish_backward"),
        *("isin.Scalar_Tensor", "one_hot"),
    ),
    ("2.13.0", "2.15.0"): ("linear", "scaled_dot_product_attention", "quantile", "data"),
}
PAIRS = list(dict.fromkeys([*pairwise(VERSIONS), *KNOWN, (VERSIONS[0], VERSIONS[-1])]))


def run(*arguments: str) -> str:
    """Run the command in this process, where torch is blocked; return what it prints."""
    done = CliRunner(env={"COLUMNS": "120"}).invoke(cli, ["--ledger", "/nowhere/l.db", *arguments])
    assert done.exception is None, done.output
    return done.output


@pytest.mark.parametrize("pair", KNOWN, ids="-".join)
def test_drift_names_the_known_changes_with_their_graphs(pair: tuple[str, str]) -> None:
    text = run("drift", *(f"torch:{version}" for version in pair))
    behaving = text[text.index("\n\nbehaves differently: ") + 2 :].partition("\n\n")[0].splitlines()
    for name in KNOWN[pair]:
        number = next(number for number, line in enumerate(behaving) if line.startswith(f"  aten::{name}"))
        assert behaving[number + 1].startswith("      "), f"{name} has no graph"
    found = decomp_ledger.drift(*(f"torch:{version}" for version in pair))
    assert {f"aten::{name}" for name in KNOWN[pair]} <= {
        each.op for each in found.behaviours if each.verdict == "differs"
    }


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_pair_of_versions_is_one_screen_and_the_json_has_everything(pair: tuple[str, str]) -> None:
    specs = [f"torch:{version}" for version in pair]
    assert len(run("drift", *specs).splitlines()) <= 120
    answer = json.loads(run("drift", *specs, "--json"))
    assert sum(answer["verdicts"].values()) == len(answer["behaviours"]) > 800
    assert answer["verdicts"]["unknown"] == 0
    assert answer["verdicts"]["not_sampled"] < len(answer["behaviours"]) / 5
    for each in answer["behaviours"]:
        assert bool(each["reason"]) == (each["verdict"] == "not_sampled")
        for difference in each["differences"]:
            sides = difference["before"], difference["after"]
            assert all((side["error"] is None) == bool(side["graph"]) for side in sides)
            assert sides[0] != sides[1]


def test_comparing_two_versions_takes_little_time_and_no_torch(run_python: Any) -> None:
    code = """
import sys, time
from decomp_ledger.cli import main
sys.argv = ["decomp-ledger", "drift", "torch:2.9.1", "torch:2.13.0"]
try:
    main()
except SystemExit as done:
    assert done.code == 1
print("torch" in sys.modules, time.process_time())
"""
    # The shortest of three, because other processes share the processor; the first writes the bytecode.
    ended = [run_python(code, PYTHONDONTWRITEBYTECODE="").splitlines()[-1].split() for _ in range(3)]
    assert {torch for torch, _ in ended} == {"False"}
    assert min(float(seconds) for _, seconds in ended) <= 0.6


# The number of C++ kernels that no sample reaches, for each pair of PAIRS.
NOT_REACHED = [174, 174, 174, 174, 173, 169, 164, 113, 113, 113, 113, 113, 113]


def traced_calls(version: str) -> dict[str, set[str]]:
    """Return the calls of each op that one torch could trace, read from the file of all traces."""
    path = Path(catalogs.__file__).parent / "traces.json.gz"
    file = json.loads(gzip.decompress(path.read_bytes()))
    column, results = file["versions"].index(version), file["results"]
    found: dict[str, set[str]] = {}
    for op, calls in file["ops"].items():
        for call, row in calls.items():
            text = results[row if isinstance(row, int) else row[column]]
            if text is not None and not text.startswith("!"):
                found.setdefault(op, set()).add(call)
    return found


@pytest.mark.parametrize(("pair", "count"), [*zip(PAIRS, NOT_REACHED, strict=True)], ids=[*map("-".join, PAIRS)])
def test_the_kernels_that_are_not_compared_are_those_that_neither_torch_could_trace(
    pair: tuple[str, str], count: int
) -> None:
    old, new = (catalogs.released(version).ops for version in pair)
    kernels = {op for op in old.keys() & new if old[op].default and new[op].default}
    kernels = {op for op in kernels if old[op].origin == new[op].origin == "cia"}
    reached = traced_calls(pair[0]).keys() | traced_calls(pair[1]).keys()
    found = decomp_ledger.drift(*(f"torch:{version}" for version in pair))
    assert {*found.kernels} == kernels - reached
    assert len(found.kernels) == count


def test_whole_graphs_have_more_lines_and_markdown_has_diffs() -> None:
    short, whole = (run("drift", "torch:2.13.0", "torch:2.15.0", *more) for more in ([], ["-v"]))
    assert len(whole.splitlines()) > len(short.splitlines())
    assert "; show" not in whole
    marked = run("drift", "torch:2.13.0", "torch:2.15.0", "--markdown")
    assert "\n<details open>\n<summary>behaves differently: " in marked
    assert marked.count("```diff") > 3
    assert re.search(r"\n  - %\d+ = aten::view\(.*\n  \+ %\d+ = aten::_unsafe_view\(", marked)


def test_a_captured_catalog_has_its_own_traces() -> None:
    old = Catalog(OLD_BUILD, {"aten::f": KERNEL}, TraceSet(traces("1", {"aten::f": {"(1)": "view"}}), GRAPHS))
    new = Catalog(NEW_BUILD, {"aten::f": KERNEL}, TraceSet(traces("2", {"aten::f": {"(1)": "unsafe"}}), GRAPHS))
    (found,) = decomp_ledger.drift(old, new).behaviours
    assert found.differences[0].after_graph == GRAPHS["unsafe"]
    (unknown,) = decomp_ledger.drift(old, attrs.evolve(new, traced=None)).behaviours
    assert unknown.verdict == "unknown"


@pytest.mark.parametrize("op", ["aten::f", "mylib::f"])
@pytest.mark.parametrize("sides", [*product(["view", "unsafe", "!ValueError", ""], repeat=2)], ids="-".join)
def test_within_one_build_samples_judge_what_a_library_may_have_changed(op: str, sides: tuple[str, str]) -> None:
    entry = attrs.evolve(KERNEL, schema=f"{op}(Tensor x) -> Tensor")
    sets = [TraceSet(traces("1", {op: {"(f32[2])": side}}), GRAPHS) if side else None for side in sides]
    found = decomp_ledger.drift(*(Catalog(OLD_BUILD, {op: entry}, each) for each in sets))
    before, after = sides
    if before and after and before != after:
        expected = ["differs"]
    elif op == "aten::f" or not (before or after):  # torch's own, whose build implies its code; or no witness at all
        expected = []
    else:
        expected = ["same" if before in GRAPHS and before == after else "not_sampled"]
    assert [each.verdict for each in found.behaviours] == expected
    assert [change.kind for change in found.changes] == (["behaviour"] if expected == ["differs"] else [])
    assert found.kernels == ((op,) if op == "mylib::f" and expected in ([], ["not_sampled"]) else ())


def test_a_kernel_of_a_library_that_no_sample_reaches_is_named(tmp_path: Path) -> None:
    catalog = Catalog(OLD_BUILD, {"mylib::f": attrs.evolve(KERNEL, schema="mylib::f(Tensor x) -> Tensor")})
    (tmp_path / "a.json").write_text(json.dumps(catalog.to_file()), encoding="utf-8")
    text = run("drift", f"catalog:{tmp_path}/a.json", f"catalog:{tmp_path}/a.json")
    assert "not compared: the kernels of 1 library op (mylib::f), because no sample reaches them; capture both" in text


def test_an_error_in_one_of_two_states_of_one_torch_names_the_state() -> None:
    entry = attrs.evolve(KERNEL, schema="mylib::f(Tensor x) -> Tensor")
    states = [
        NamedState.of_catalog(name, Catalog(OLD_BUILD, {"mylib::f": entry}), traces("1", {"mylib::f": {"(1)": text}}))
        for name, text in (("catalog:a.json", "view"), ("catalog:b.json", "!ValueError"))
    ]
    assert "  mylib::f: raises ValueError in catalog:b.json for (1)" in printed(drift(*states, TraceData(GRAPHS.get)))


def test_captured_traces_are_added_to_those_of_the_build() -> None:
    release = catalogs.released("2.13.0")
    entry = attrs.evolve(KERNEL, schema="mylib::f(Tensor x) -> Tensor")
    own = TraceSet(traces("2.13.0", {"mylib::f": {"(1)": "view"}, "aten::frac": {"(f32[7])": "view"}}), GRAPHS)
    captured = Catalog(release.build, {**release.ops, "mylib::f": entry}, own)
    state = decomp_ledger.show(captured).named_state()
    shipped = catalogs.traces("2.13.0")
    assert shipped is not None
    assert state.catalog.traced is own
    assert state.traces is not None
    assert state.traces.get("aten::linear") == shipped.get("aten::linear")
    assert state.traces.get("aten::frac") == {**shipped.get("aten::frac"), "(f32[7])": trace("view")}
    assert state.traces.get("mylib::f") == {"(1)": trace("view")}


def test_a_live_catalog_has_the_traces_of_its_build_but_for_ops_that_a_library_replaced() -> None:
    release = catalogs.released("2.13.0")
    live = {op: entry.bare() if "::" in op else entry for op, entry in release.ops.items()}
    live["aten::frac"] = attrs.evolve(live["aten::frac"], origin="registry", module="mylib", qualname="f", digest="m")
    found = decomp_ledger.drift(Catalog(release.build, live), "torch:2.15.0")
    verdicts = {each.op: each.verdict for each in found.behaviours}
    assert verdicts["aten::linear"] == "differs"
    assert verdicts["aten::frac"] == "not_sampled"


JUDGED = json.loads((Path(__file__).parent / "behaviour_sample.json").read_text(encoding="utf-8"))["ops"]


def test_the_verdicts_agree_with_the_sample_that_was_judged_by_hand() -> None:
    found = {}
    for pair in dict.fromkeys((row["before"], row["after"]) for row in JUDGED):
        for each in decomp_ledger.drift(*(f"torch:{version}" for version in pair)).behaviours:
            found[(*pair, each.op)] = each.differs
    pairs = [(row["behaves"] == "differently", found[row["before"], row["after"], row["op"]]) for row in JUDGED]
    right, claimed, true = pairs.count((True, True)), sum(f for _, f in pairs), sum(t for t, _ in pairs)
    print(f"{len(pairs)} ops, {claimed} claimed: precision {right / claimed:.3f}, recall {right / true:.3f}")
    assert len(pairs) >= 180
    assert claimed >= 40
    assert right / claimed >= 0.95
    assert right / true >= 0.95
