"""Drift between catalogs and tables: each kind of change, and a sample that was judged by hand."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import attrs
import pytest

from decomp_ledger import Ledger
from decomp_ledger.analysis.drift import DRIFT_KINDS, Drift, NamedState, drift, schema_difference
from decomp_ledger.catalogs import complete, released
from decomp_ledger.errors import LedgerError
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import Exported, Popped
from decomp_ledger.model.rules import Decomposition, Rule, TableState

OLD_BUILD = {"torch": "1.0.0", "git": "a" * 40, "accelerator": "cpu"}
NEW_BUILD = {"torch": "2.0.0", "git": "b" * 40, "accelerator": "cpu"}
PYTHON = Entry("registry", True, "", "aten::f(Tensor x) -> Tensor", ("functional",), "torch.d", "f", "d1", "h1", "w1")
KERNEL = Entry("cia", True, "", "aten::k(Tensor x) -> Tensor", ("cia",))
KEPT = Entry(schema="aten::mm(Tensor x) -> Tensor")
SAMPLE = json.loads((Path(__file__).parent / "drift_sample.json").read_text(encoding="utf-8"))["changes"]
PAIRS = [("2.6.0", "2.9.1"), ("2.9.1", "2.13.0"), ("2.13.0", "2.15.0")]


def compare(old: dict[str, Entry], new: dict[str, Entry], new_build: dict[str, str] = NEW_BUILD) -> Drift:
    """Compare two catalogs."""
    return drift(
        NamedState.of_catalog("old", Catalog(OLD_BUILD, old)), NamedState.of_catalog("new", Catalog(new_build, new))
    )


def between(
    old: Entry | None, new: Entry | None, op: str = "aten::f"
) -> list[tuple[str, bool, str | None, str | None]]:
    """Return kind, in_table, before and after of each change of one op from one entry to another."""
    found = compare({} if old is None else {op: old}, {} if new is None else {op: new})
    return [(change.kind, change.in_table, change.before, change.after) for change in found.changes]


def of_versions(before: str, after: str) -> Drift:
    """Compare two released torch versions."""
    return drift(*(NamedState.of_catalog(f"torch:{version}", released(version)) for version in (before, after)))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (PYTHON, attrs.evolve(PYTHON, default=False), [("left", True, "in the table", "kept in graphs")]),
        (attrs.evolve(PYTHON, default=False), PYTHON, [("entered", True, "kept in graphs", "in the table")]),
        (
            KERNEL,
            attrs.evolve(KERNEL, default=False, unpreservable="it has no kernel"),
            [("left", True, "in the table", "always decomposed")],
        ),
        (PYTHON, None, [("gone", True, "in the table", None)]),
        (KEPT, None, [("gone", False, "kept in graphs", None)]),
        (None, PYTHON, [("new", True, None, "in the table")]),
        (None, KEPT, [("new", False, None, "kept in graphs")]),
        (KERNEL, attrs.evolve(PYTHON, schema=KERNEL.schema), [("moved", True, "cia", "registry")]),
        (PYTHON, attrs.evolve(PYTHON, schema="aten::f() -> T"), [("schema", True, PYTHON.schema, "aten::f() -> T")]),
        (KEPT, attrs.evolve(KEPT, schema="aten::mm() -> T"), [("schema", False, KEPT.schema, "aten::mm() -> T")]),
        (PYTHON, attrs.evolve(PYTHON, digest="d2", helpers="h2", wrappers="w2"), [("source", True, "d1", "d2")]),
        (PYTHON, attrs.evolve(PYTHON, helpers="h2", wrappers="w2"), [("helpers", True, "h1", "h2")]),
        (PYTHON, attrs.evolve(PYTHON, wrappers=None), [("wrappers", True, "w1", None)]),
        (
            attrs.evolve(PYTHON, default=False),
            attrs.evolve(PYTHON, default=False, digest="d2", helpers="h2"),
            [("source", False, "d1", "d2")],
        ),
        (
            PYTHON,
            attrs.evolve(PYTHON, schema="aten::f() -> Tensor", digest="d2"),
            [("schema", True, PYTHON.schema, "aten::f() -> Tensor"), ("source", True, "d1", "d2")],
        ),
        (PYTHON, PYTHON, []),
        (KERNEL, KERNEL, []),
        (KEPT, KEPT, []),
    ],
)  # fmt: skip
def test_each_kind_of_change_is_found(old: Entry, new: Entry, expected: list[Any]) -> None:
    assert expected == between(old, new)


def test_a_changed_helper_of_an_override_is_drift() -> None:
    mine = Decomposition("import", "mypkg", "f", "d1", helpers="h1")
    catalog = Catalog(OLD_BUILD, {"aten::f": KEPT})
    before, after = (
        NamedState("edge", TableState("edge", 1, "torch", {"aten::f": Rule("override", function)}), catalog)
        for function in (mine, attrs.evolve(mine, helpers="h2"))
    )
    (change,) = drift(before, after).changes
    assert (change.kind, change.before, change.after, change.function) == ("helpers", "h1", "h2", "mypkg.f")
    assert drift(before, before).changes == ()


def test_an_op_that_writes_into_an_argument_is_functionalized_and_not_kept() -> None:
    out = attrs.evolve(PYTHON, schema="aten::f.out(Tensor x, *, Tensor(a!) out) -> Tensor(a!)")
    assert between(out, attrs.evolve(out, default=False)) == [("left", True, "in the table", "functionalized")]


def test_the_strongest_effect_comes_first_and_wrappers_last() -> None:
    unused = attrs.evolve(PYTHON, default=False)
    old = {
        "aten::wrapped": PYTHON,
        "aten::unused": unused,
        "aten::helped": PYTHON,
        "aten::sourced": PYTHON,
        "aten::moved": KERNEL,
        "aten::left": PYTHON,
    }
    new = {
        "aten::wrapped": attrs.evolve(PYTHON, wrappers="w2"),
        "aten::unused": attrs.evolve(unused, digest="d2"),
        "aten::helped": attrs.evolve(PYTHON, helpers="h2"),
        "aten::sourced": attrs.evolve(PYTHON, digest="d2", qualname="g"),
        "aten::moved": attrs.evolve(PYTHON, schema=KERNEL.schema),
        "aten::left": unused,
    }
    ordered = [change.op.removeprefix("aten::") for change in compare(old, new).changes]
    assert ordered == ["left", "moved", "sourced", "helped", "unused", "wrapped"]


def test_in_place_ops_with_an_unchanged_function_have_no_source_change() -> None:
    in_place = attrs.evolve(PYTHON, digest="i1", helpers="j1")
    changed = attrs.evolve(in_place, digest="i2", helpers="j2")
    lone, local = attrs.evolve(in_place, qualname="lone"), attrs.evolve(in_place, qualname="made.<locals>.fn")
    old = {"aten::f": PYTHON, "aten::f_": in_place, "aten::lone_": lone, "aten::local_": local}
    new = {
        "aten::f": PYTHON,
        "aten::f_": changed,
        "aten::lone_": attrs.evolve(lone, digest="i2"),
        "aten::local_": attrs.evolve(local, digest="i2"),
    }
    found = compare(old, new)
    assert [(change.op, change.kind) for change in found.changes] == [("aten::f_", "wrappers")]
    assert found.unclear == ("aten::local_", "aten::lone_")

    found = compare(old, {**new, "aten::f": attrs.evolve(PYTHON, helpers="h2")})
    assert {("aten::f_", "helpers"), ("aten::f", "helpers")} == {(change.op, change.kind) for change in found.changes}

    found = compare(old, {**new, "aten::f": attrs.evolve(PYTHON, digest="d2")})
    assert {"aten::f", "aten::f_", "aten::lone_", "aten::local_"} == {change.op for change in found.of("source")}
    assert found.unclear == ()


def test_within_one_build_equal_origins_give_no_drift() -> None:
    bare = {"aten::f": Entry("registry", True), "aten::k": Entry("cia", True)}
    same = compare(bare, {"aten::f": PYTHON, "aten::k": KERNEL}, {**OLD_BUILD, "accelerator": "cuda 13.0"})
    assert (same.changes, same.kernels, same.no_source, same.no_schema) == ((), (), (), ())


def test_across_builds_ops_that_cannot_be_compared_are_listed() -> None:
    bare = {"aten::f": Entry("registry", True), "aten::k": Entry("cia", True), "cond": Entry(unpreservable="higher")}
    found = compare(bare, {"aten::f": PYTHON, "aten::k": KERNEL, "cond": Entry(unpreservable="higher")})
    assert found.changes == ()
    assert (found.kernels, found.no_source, found.no_schema) == (("aten::k",), ("aten::f",), ("aten::f", "aten::k"))


def test_a_live_catalog_is_completed_from_its_build_and_keeps_its_own_entries() -> None:
    live = {
        "aten::f": Entry("registry", True),
        "aten::k": Entry("registry", True),
        "aten::mm": Entry(),
        "aten::later": Entry("cia", True),
        "mylib::g": attrs.evolve(PYTHON, digest="mine"),
    }
    known = Catalog(OLD_BUILD, {"aten::f": PYTHON, "aten::k": KERNEL, "aten::mm": KEPT, "mylib::g": PYTHON})
    whole = complete(Catalog(OLD_BUILD, live), known)
    assert (
        whole.ops
        == dict(whole.ops)
        == {
            **live,
            "aten::f": PYTHON,
            "aten::k": attrs.evolve(live["aten::k"], schema=KERNEL.schema),
            "aten::mm": KEPT,
        }
    )


def test_two_states_differ_by_their_rules() -> None:
    catalog = Catalog(OLD_BUILD, {"aten::f": PYTHON, "aten::k": KERNEL, "aten::mm": KEPT, "aten::o": PYTHON})

    def at(version: int, rules: dict[str, Rule]) -> NamedState:
        return NamedState(f"edge@{version}", TableState("edge", version, "torch", rules), catalog)

    mine, other = Decomposition("import", "pkg", "mine", "1" * 64), Decomposition("import", "pkg", "mine", "2" * 64)
    before = at(1, {"aten::o": Rule("override", mine)})
    after = at(
        2,
        {
            "aten::f": Rule("preserve"),
            "aten::k": Rule("override", mine),
            "aten::mm": Rule("override", mine),
            "aten::o": Rule("override", other),
        },
    )
    assert [(change.op, change.kind, change.before, change.after) for change in drift(before, after).changes] == [
        ("aten::f", "left", "in the table", "kept in graphs"),
        ("aten::mm", "entered", "kept in graphs", "in the table"),
        ("aten::k", "moved", "cia", "import: pkg.mine"),
        ("aten::o", "source", "1" * 64, "2" * 64),
    ]
    assert drift(after, after).changes == ()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("f(Tensor x) -> Tensor", "f(Tensor x, bool y=None) -> Tensor", "+[bool y=None]"),
        ("f(int a, int[2] b=[1, 2]) -> T", "f(SymInt a, int[2] b=[1, 2]) -> T", "-[int a] +[SymInt a]"),
        ("f(Tensor x) -> Tensor", "f(Tensor x) -> ()", "f(Tensor x) -> Tensor -> f(Tensor x) -> ()"),
        ("f(int a, int b) -> T", "f(int b, int a) -> T", "f(int a, int b) -> T -> f(int b, int a) -> T"),
    ],
)
def test_schemas_are_compared_by_argument(before: str, after: str, expected: str) -> None:
    assert expected == schema_difference(before, after)


# Released versions


def test_known_changes_between_released_versions_are_found() -> None:
    left = {change.op: change.after for change in of_versions("2.6.0", "2.9.1").of("left")}
    assert left == {
        "aten::bernoulli.p": "kept in graphs",
        "aten::elu": "kept in graphs",
        "aten::elu.out": "functionalized",
        "aten::upsample_bilinear2d.vec": "kept in graphs",
        "aten::upsample_nearest2d.vec": "kept in graphs",
    }
    found = of_versions("2.9.1", "2.13.0")
    assert tuple(len(found.of(kind, in_table=True)) for kind in ("left", "gone", "entered")) == (6, 61, 4)
    moved = {change.op for change in found.of("moved", in_table=True)}
    assert moved == {"aten::one_hot", "aten::silu_backward", "aten::mish_backward", "aten::_fused_rms_norm"}
    assert "aten::hann_window" in {change.op for change in found.of("entered")}
    assert of_versions("2.9.1", "2.9.1").changes == ()


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_every_change_of_source_that_is_reported_was_judged_by_hand(before: str, after: str) -> None:
    judged = {
        op for row in SAMPLE if (row["before"], row["after"]) == (before, after) for op in [row["op"], *row["same"]]
    }
    assert set() == {change.op for change in of_versions(before, after).of("source")} - judged


def test_the_sample_is_large_enough_and_names_ops_that_both_versions_have() -> None:
    assert sorted({(row["before"], row["after"]) for row in SAMPLE}, key=PAIRS.index) == PAIRS
    assert {"changed", "unchanged"} == {row["verdict"] for row in SAMPLE}
    assert all(row["why"] for row in SAMPLE)
    for row, version in product(SAMPLE, ("before", "after")):
        assert {row["op"], *row["same"]} <= released(row[version]).ops.keys()


@pytest.mark.parametrize("counted", ["ops", "changes"])
def test_source_changes_have_precision_and_recall_of_95_percent(counted: str) -> None:
    reported = {pair: {change.op for change in of_versions(*pair).of("source")} for pair in PAIRS}
    pairs = []
    for row in SAMPLE:
        ops = [row["op"], *row["same"]] if counted == "ops" else [row["op"]]
        pairs += [(row["verdict"] == "changed", op in reported[row["before"], row["after"]]) for op in ops]
    right = pairs.count((True, True))
    claimed, true = sum(reported for _, reported in pairs), sum(changed for changed, _ in pairs)
    print(f"{counted}: {claimed} reported, precision {right / claimed:.3f}, recall {right / true:.3f}")
    assert claimed >= 60
    assert right / claimed >= 0.95
    assert right / true >= 0.95


# The command


def run(*arguments: str, ledger: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would; without `ledger`, on a file that does not exist."""
    command = [sys.executable, "-m", "decomp_ledger", "--ledger", str(ledger or "/nowhere/l.db"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger whose table `edge` was materialized on torch 2.6.0, and `lost` on an unknown torch."""
    file = tmp_path_factory.mktemp("ledger") / "l.db"
    shipped = released("2.6.0")
    bare = {op: _as_live(op, entry) for op, entry in shipped.ops.items()}
    build = {key: shipped.build[key] for key in ("torch", "git", "accelerator")}
    with Ledger(file, actor="Ada") as ledger:
        edge = ledger.create_table("edge")
        edge.preserve(["aten::linear"])
        edge.tag("release")
        edge.materialize(Catalog(build, bare))
        ledger.create_table("lost").materialize(Catalog({**build, "git": "c" * 40}, bare))
    return file


def _as_live(op: str, entry: Entry) -> Entry:
    """Return the entry of a live catalog for one of torch's own ops."""
    if "::" not in op:
        return entry
    return Entry(entry.origin, entry.default, entry.unpreservable) if entry.origin else Entry()


def test_drift_of_released_versions_needs_no_ledger_and_lists_ops_now_kept_in_graphs() -> None:
    done = run("drift", "torch:2.6.0", "torch:2.9.1")
    assert (done.returncode, done.stderr) == (1, "")
    for op in ("aten::elu", "aten::upsample_bilinear2d.vec", "aten::upsample_nearest2d.vec"):
        assert f"  {op}: in the table -> kept in graphs" in done.stdout
    assert "only wrappers changed (29 distinct): 747 ops; list them with --all\n" in done.stdout
    assert "\nnot compared: the C++ code of 174 kernels that no sample reaches, " in done.stdout
    everything = run("drift", "torch:2.6.0", "torch:2.9.1", "--all").stdout
    assert "--all" not in everything
    answer = json.loads(run("drift", "torch:2.6.0", "torch:2.9.1", "--json").stdout)
    assert all(change["op"].rpartition("::")[2] in everything for change in answer["changes"])


def test_drift_as_json_has_every_change_and_every_op_not_compared() -> None:
    answer = json.loads(run("drift", "torch:2.13.0", "torch:2.15.0", "--json").stdout)
    assert {key: answer["before"][key] for key in ("name", "table")} == {"name": "torch:2.13.0", "table": 943}
    assert list(DRIFT_KINDS) == list(answer["counts"])
    assert sum(sum(count.values()) for count in answer["counts"].values()) == len(answer["changes"])
    assert {"op", "kind", "in_table", "before", "after", "function", "verdict"} == answer["changes"][0].keys()
    assert {"kernels", "source", "schema", "unclear", "not_judged"} == answer["not_compared"].keys()
    verdicts = {each["op"]: each["verdict"] for each in answer["behaviours"]}
    unknown = {op for name in ("kernels", "unclear") for op in answer["not_compared"][name]}
    assert {verdicts.get(op, "outside both tables") for op in unknown} == {"not_sampled", "outside both tables"}


# Only the ops of a program


def test_only_keeps_the_used_ops_of_every_kind() -> None:
    whole = of_versions("2.6.0", "2.15.0")
    used = {"aten::elu", "aten::qr", "aten::linear", "aten::stack"}
    some = whole.only(used)
    assert some.changes == tuple(change for change in whole.changes if change.op in used)
    assert {change.op for change in some.changes} == used - {"aten::linear"}
    assert some.kernels == ("aten::linear",)
    assert (whole.only(()).changes, whole.only(()).kernels) == ((), ())
    every = whole.only({change.op for change in whole.changes} | {*whole.kernels, *whole.unclear})
    assert every.only(used) == some
    assert every.kernels == whole.kernels


def test_a_changed_decomposition_that_neither_state_uses_affects_no_program() -> None:
    whole = of_versions("2.13.0", "2.15.0")
    assert [change.kind for change in whole.changes if change.op == "aten::add.Tensor"] == ["helpers"]
    assert "aten::add.Tensor" not in whole.before.snapshot.ops.keys() | whole.after.snapshot.ops.keys()
    assert whole.only({"aten::add.Tensor"}).changes == ()
    entered = whole.only({"aten::linalg_vector_norm"}).changes
    assert [change.kind for change in entered] == [
        change.kind for change in whole.changes if change.op == "aten::linalg_vector_norm"
    ]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with one export, number 3, that has `elu` and `linear`, and in which `native_batch_norm` fired."""
    file = tmp_path_factory.mktemp("exported") / "l.db"
    with Ledger(file, actor="Ada") as ledger:
        edge = ledger.create_table("edge")
        edge.materialize(released("2.6.0"))
        ops = {"aten::elu": 1, "aten::linear": 2}, {"aten::addmm": 2, "aten::expm1": 1}, {"aten::cudnn_batch_norm": 1}
        ledger.append("edge", 1, Exported(released("2.6.0").digest, "0" * 64, None, None, *ops, 3))
    return file


def test_markdown_lists_every_op_with_all() -> None:
    arguments = ("drift", "torch:2.6.0", "torch:2.9.1", "--markdown")
    assert "\n- and " in run(*arguments).stdout
    assert "\n- and " not in run(*arguments, "--all").stdout


def test_only_used_restricts_drift_to_the_ops_of_a_program(exported: Path) -> None:
    used = {"aten::elu", "aten::linear", "aten::addmm", "aten::expm1", "aten::cudnn_batch_norm"}
    whole = json.loads(run("drift", "torch:2.6.0", "torch:2.9.1", "--json").stdout)
    assert whole["only_used"] is None
    done = run("drift", "torch:2.6.0", "torch:2.9.1", "--only-used", "export:3", "--json", ledger=exported)
    answer = json.loads(done.stdout)
    # Both states keep addmm and expm1 in graphs, so their decompositions do not count.
    touched = used - {"aten::addmm", "aten::expm1"}
    assert answer["changes"] == [change for change in whole["changes"] if change["op"] in touched]
    assert answer["changes"][0]["op"] == "aten::elu"
    assert answer["only_used"] == {"program": "export:3", "ops": sorted(used), "of_changes": len(whole["changes"])}
    assert answer["counts"]["left"] == {"in_table": 1, "others": 0}
    text = run("drift", "torch:2.6.0", "torch:2.9.1", "--only-used", "export:3", ledger=exported).stdout
    count = sum(change["kind"] != "wrappers" for change in whole["changes"])
    line = f"1 of {count} changes affects export:3, which uses 5 ops; for 1 op only wrappers changed"
    assert text.startswith(f"{line}\n")
    assert "\n  aten::elu: in the table -> kept in graphs" in text
    marked = run("drift", "torch:2.6.0", "torch:2.9.1", "--only-used", "export:3", "--markdown", ledger=exported).stdout
    assert marked.split("\n")[:3] == ["### Decomposition drift: `torch:2.6.0` to `torch:2.9.1`", "", f"**{line}**"]
    assert marked.count("<details") == 2


def test_drift_that_does_not_affect_the_program_exits_with_0(exported: Path) -> None:
    done = run("drift", "torch:2.12.1", "torch:2.13.0", "--only-used", "export:3", ledger=exported)
    assert (done.returncode, done.stderr) == (0, "")
    assert "changes affect export:3" in done.stdout


def test_a_preserved_op_that_torch_now_always_decomposes_has_another_treatment() -> None:
    always = attrs.evolve(KERNEL, default=False, unpreservable="it has no kernel")
    state = TableState("edge", 2, "torch", {"aten::k": Rule("preserve")})
    states = (NamedState("edge", state, Catalog(OLD_BUILD, {"aten::k": entry})) for entry in (KERNEL, always))
    (change,) = drift(*states).changes
    assert (change.kind, change.before, change.after) == ("treatment", "kept in graphs", "always decomposed")


def test_drift_as_markdown_has_a_table_of_counts_and_a_fold_for_each_kind() -> None:
    text = run("drift", "torch:2.6.0", "torch:2.9.1", "--markdown").stdout
    assert text.startswith("### Decomposition drift: `torch:2.6.0` to `torch:2.9.1`\n")
    assert "\n| what changed | ops |\n| --- | ---: |\n| behaves differently | " in text
    assert "\n| left the table | 5 |\n" in text
    assert text.count("<details") == text.count("</details>") == text.count("\n| ") - 2
    assert "\n- `aten::elu: in the table -> kept in graphs (torch._refs.nn.functional.elu)`\n" in text


def test_no_drift_exits_with_0() -> None:
    done = run("drift", "torch:2.9.1", "torch:2.9.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nno drift\n" in done.stdout


def test_a_table_is_compared_on_its_last_catalog(path: Path) -> None:
    answer = json.loads(run("drift", "edge@release", "torch:2.6.0", "--json", ledger=path).stdout)
    assert [(change["op"], change["kind"]) for change in answer["changes"]] == [("aten::linear", "entered")]
    moved = json.loads(run("drift", "edge", "torch:2.9.1", "--json", ledger=path).stdout)
    shipped = json.loads(run("drift", "torch:2.6.0", "torch:2.9.1", "--json").stdout)
    assert [change for change in moved["changes"] if change["op"] != "aten::linear"] == shipped["changes"]
    assert (moved["not_compared"]["source"], moved["not_compared"]["schema"]) == ([], [])


def test_drift_from_an_unreleased_torch_lists_what_could_not_be_compared(path: Path) -> None:
    done = run("drift", "lost", "torch:2.9.1", ledger=path)
    assert "aten::elu: in the table -> kept in graphs" in done.stdout
    assert "not compared: the source of " in done.stdout
    assert "not compared: the schema of " in done.stdout
    assert "schema changed" not in done.stdout


def test_catalog_file_names_a_captured_catalog(tmp_path: Path) -> None:
    file = tmp_path / "captured.json"
    shipped = released("2.9.1")
    ops = {op: entry.to_json() for op, entry in shipped.ops.items() if op != "aten::elu"}
    file.write_text(json.dumps({"format": 1, "build": dict(shipped.build), "ops": ops}))
    answer = json.loads(run("drift", "torch:2.9.1", f"catalog:{file}", "--json").stdout)
    assert [(change["op"], change["kind"]) for change in answer["changes"]] == [("aten::elu", "gone")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drift", "torch:2.6.0", "torch:2.6.9"], "torch 2.6.9: no catalog is shipped; choose one of 2.5.1, 2.6.0"),
        (["drift", "torch:2.6.0", "torch:2.9.1", "--only-used", "export:99"], "has no export 99"),
        (["drift", "torch:2.6.0", "torch:2.9.1", "--only-used", "edge"], "edge: not an export; give export:N"),
        (["drift", "torch:2.6.0"], "Missing argument 'B'"),
        (["drift", "torch:2.6.0", "catalog:/no/such/file"], "/no/such/file: cannot read the catalog"),
        (["drift", "torch:2.6.0", f"catalog:{__file__}"], "not a catalog: not JSON: Extra data: line 1"),
        (["drift", "edgy", "torch:2.6.0"], "has no table 'edgy'"),
        (["catalog", "capture", "--python", "/no/python"], "cannot capture the torch of /no/python"),
    ],
)
def test_wrong_use_prints_one_line_and_exits_with_2(path: Path, arguments: list[str], message: str) -> None:
    done = run(*arguments, ledger=path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_an_op_that_a_catalog_lacks_exits_with_1() -> None:
    done = run("catalog", "show", "torch:2.6.0", "--op", "aten::no")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "aten::no: the catalog of torch:2.6.0 has no such op" in done.stderr


def test_a_table_that_was_never_materialized_cannot_be_compared(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db", actor="Ada") as ledger:
        ledger.create_table("new")
    done = run("drift", "new", "torch:2.6.0", ledger=tmp_path / "l.db")
    assert done.returncode == 2
    assert "new@1: the table was never materialized" in done.stderr
    assert "upgrade new@1 --torch VERSION" in done.stderr


def test_markdown_and_json_exclude_each_other() -> None:
    done = run("drift", "torch:2.6.0", "torch:2.9.1", "--markdown", "--json")
    assert done.returncode == 2


@pytest.mark.parametrize(
    "data", [None, [], {"build": {}}, {"build": 1, "ops": {}}, {"build": {}, "ops": {"a::b": {"x": 1}}}]
)
def test_invalid_catalog_data_is_refused(data: object) -> None:
    with pytest.raises(LedgerError, match="catalog"):
        Catalog.from_json(data)


def test_catalogs_are_listed_and_shown() -> None:
    listed = json.loads(run("catalog", "list", "--json").stdout)
    assert {key: listed[0][key] for key in ("name", "default")} == {"name": "torch:2.5.1", "default": 994}
    assert "torch:2.15.0" in run("catalog", "list").stdout
    shown = json.loads(run("catalog", "show", "torch:2.9.1", "--op", "aten.elu.default", "--json").stdout)
    assert {"aten::elu": released("2.9.1").ops["aten::elu"].to_json()} == shown["ops"]
    assert "qualname: elu" in run("catalog", "show", "torch:2.9.1", "--op", "aten::elu").stdout


def test_drift_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "decomp_ledger", "drift", "torch:2.6.0", "torch:2.9.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "decomp_ledger.analysis.drift" in imported
    assert set() == imported & {"torch", "numpy", "sqlite_utils", "rich", "decomp_ledger.pytorch.table"}


def test_hostile_text_is_escaped_for_people_and_exact_for_programs(tmp_path: Path) -> None:
    hostile = "m\x1b[2J`</summary><b>\nnext\u202e| cell"
    with Ledger(tmp_path / "l.db", actor="Ada") as ledger:
        edge = ledger.create_table("edge")
        edge.materialize(Catalog(OLD_BUILD, {"aten::f": PYTHON}))
        edge.change(Popped, lambda _: [("aten::f", "override", Decomposition("opaque", hostile, "q", "0" * 64))])
    for more in ([], ["--all"], ["--markdown"]):
        text = run("drift", "edge@1", "edge", *more, ledger=tmp_path / "l.db").stdout
        assert "aten::f: registry -> opaque: m\\x1b[2J`</summary><b>\\nnext\\u202e| cell.q" in text
        assert [line for line in text.split("\n") if not line.isprintable()] == []
    assert "- ``aten::f: " in text
    answer = json.loads(run("drift", "edge@1", "edge", "--json", ledger=tmp_path / "l.db").stdout)
    assert answer["changes"][0]["function"] == f"{hostile}.q"


LIBRARY = attrs.evolve(KERNEL, schema="mylib::f(Tensor x) -> Tensor")
LIVE = {"aten::f": PYTHON, "mylib::f": LIBRARY, "aten::late": KERNEL, "late_part::g": KEPT, "late_operator": Entry()}
FOREIGN = frozenset(LIVE.keys() - {"aten::f"})


def live(build: dict[str, str] = OLD_BUILD, **more: Entry) -> NamedState:
    """Return the state of a live catalog with ops of libraries."""
    return NamedState("export:3", TableState("edge", 2, "torch", {}), Catalog(build, {**LIVE, **more}), foreign=FOREIGN)


@pytest.mark.parametrize("build", [OLD_BUILD, NEW_BUILD])
@pytest.mark.parametrize("swapped", [False, True])
def test_ops_that_a_bare_catalog_cannot_know_are_not_judged(build: dict[str, str], swapped: bool) -> None:
    states = live(), NamedState.of_catalog("torch:2", Catalog(build, {"aten::f": PYTHON}))
    found = drift(*(states[::-1] if swapped else states))
    assert (found.changes, found.not_judged) == ((), tuple(sorted(FOREIGN)))
    assert found.only({"mylib::f"}).not_judged == ("mylib::f",)
    assert found.to_json()["not_compared"]["not_judged"] == sorted(FOREIGN)


def test_an_op_of_torch_that_a_bare_catalog_of_another_build_lacks_is_gone() -> None:
    bare = NamedState.of_catalog("torch:2", Catalog(NEW_BUILD, {"aten::f": PYTHON}))
    found = drift(attrs.evolve(live(), catalog=Catalog(OLD_BUILD, {**LIVE, "aten::old": KEPT})), bare)
    assert [(change.op, change.kind) for change in found.changes] == [("aten::old", "gone")]


def test_what_another_live_catalog_lacks_is_gone_because_it_knows_what_is_loaded() -> None:
    other = NamedState("export:7", TableState("edge", 2, "torch", {}), Catalog(OLD_BUILD, {"aten::f": PYTHON}))
    assert {change.op for change in drift(live(), other).of("gone")} == FOREIGN
    assert drift(live(), other).not_judged == ()
