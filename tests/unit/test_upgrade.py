"""What the move to another torch does to a table: nothing is dropped in silence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decomp_ledger import Ledger
from decomp_ledger.analysis.drift import NamedState
from decomp_ledger.analysis.upgrade import FINDINGS, RULE_EFFECTS, Upgrade, check_upgrade, successors, upgrade
from decomp_ledger.catalogs import released
from decomp_ledger.errors import LedgerError
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import Exported, Popped
from decomp_ledger.model.materialize import materialize
from decomp_ledger.model.rules import Decomposition, Rule, TableState

OLD_BUILD = {"torch": "1.0.0", "git": "a" * 40, "accelerator": "cpu"}
NEW_BUILD = {"torch": "2.0.0", "git": "b" * 40, "accelerator": "cpu"}
KERNEL = Entry("cia", True, schema="aten::f(Tensor x) -> Tensor")
UNUSED = attrs.evolve(KERNEL, default=False)
PYTHON = Entry("registry", True, "", "aten::f(Tensor x) -> Tensor", (), "torch.d", "f", "d1")
ALWAYS = Entry("cia", False, "its schema aliases an argument", "aten::f(Tensor x) -> Tensor")
PRESERVE = Rule("preserve")
MINE = Rule("override", Decomposition("import", "mypkg", "mine", "0" * 64))
OTHER = Entry(schema="aten::other() -> ()")


def move(then: dict[str, Entry] | None, now: dict[str, Entry], rules: dict[str, Rule], base: str = "torch") -> Upgrade:
    """Upgrade a table from one catalog, or from none, to another."""
    state = TableState("edge", 1, base, rules)
    before = None if then is None else NamedState("edge@1", state, Catalog(OLD_BUILD, {**then, "aten::other": OTHER}))
    return upgrade(NamedState("edge@1", state, Catalog(NEW_BUILD, {**now, "aten::other": OTHER})), before)


def effects(then: Entry | None, now: Entry | None, rule: Rule, op: str = "aten::f", base: str = "torch") -> list[str]:
    """Return the effects on one rule."""
    found = move({op: then} if then else {}, {op: now} if now else {}, {op: rule}, base)
    return [each.effect for each in found.effects]


@pytest.mark.parametrize(
    ("then", "now", "rule", "expected"),
    [
        (KERNEL, KERNEL, PRESERVE, ["unchanged"]),
        (KERNEL, UNUSED, PRESERVE, ["default_now"]),
        (UNUSED, UNUSED, PRESERVE, ["unchanged"]),
        (UNUSED, KERNEL, PRESERVE, ["effective_now"]),
        (KERNEL, ALWAYS, PRESERVE, ["not_kept"]),
        (ALWAYS, ALWAYS, PRESERVE, ["unchanged"]),
        (KERNEL, None, PRESERVE, ["op_gone"]),
        (None, KERNEL, PRESERVE, ["effective_now"]),
        (None, UNUSED, PRESERVE, ["default_now"]),
        (None, None, PRESERVE, ["pending"]),
        (KERNEL, KERNEL, MINE, ["unchanged"]),
        (KERNEL, UNUSED, MINE, ["unchanged"]),
        (KERNEL, None, MINE, ["op_gone"]),
        (None, None, MINE, ["pending"]),
        (None, KERNEL, MINE, ["effective_now"]),
        (KERNEL, attrs.evolve(KERNEL, schema="aten::f() -> Tensor"), MINE, ["schema_changed"]),
        (KERNEL, attrs.evolve(PYTHON, digest="0" * 64), MINE, ["default_now"]),
        (PYTHON, KERNEL, Rule("override", Decomposition("registry")), ["own_moved"]),
        (
            PYTHON,
            attrs.evolve(KERNEL, others=("registry",)),
            Rule("override", Decomposition("registry")),
            ["unchanged"],
        ),
        (PYTHON, OTHER, Rule("override", Decomposition("registry")), ["lost", "schema_changed"]),
        (attrs.evolve(PYTHON, default=False), PYTHON, Rule("override", Decomposition("registry")), ["default_now"]),
        (PYTHON, PYTHON, Rule("override", Decomposition("registry")), ["unchanged"]),
        (PYTHON, KERNEL, Rule("override", Decomposition("import", "torch.d", "f", "1" * 64)), ["lost"]),
        (PYTHON, PYTHON, Rule("override", Decomposition("import", "torch.d", "f", "1" * 64)), ["unchanged"]),
    ],
)
def test_the_effects_on_a_rule(then: Entry | None, now: Entry | None, rule: Rule, expected: list[str]) -> None:
    assert effects(then, now, rule) == expected


def test_with_an_empty_base_torchs_defaults_do_not_count() -> None:
    assert effects(KERNEL, UNUSED, PRESERVE, base="empty") == ["unchanged"]
    assert effects(attrs.evolve(PYTHON, default=False), PYTHON, MINE, base="empty") == ["unchanged"]
    found = move({"aten::f": KERNEL}, {"aten::f": UNUSED}, {}, "empty")
    assert (found.now_kept(), found.now_decomposed(), found.gone()) == ([], [], [])


def test_an_op_of_a_library_outside_the_catalog_is_pending_and_not_gone() -> None:
    library = {"mylib::f": KERNEL, "mylib::g": KERNEL}
    found = move(library, {}, {"mylib::f": PRESERVE})
    assert [(each.op, each.effect) for each in found.effects] == [("mylib::f", "pending")]
    assert found.snapshot.pending == ("mylib::f",)
    assert (found.foreign, found.gone()) == (("mylib::g",), [])


def test_ops_of_a_namespace_that_torch_dropped_are_gone_and_not_foreign() -> None:
    state = TableState("edge", 1, "torch", {"prepacked::f": PRESERVE})
    before = NamedState("edge@1", state, Catalog(OLD_BUILD, {"prepacked::f": KERNEL, "prepacked::g": KERNEL}))
    found = upgrade(
        NamedState("edge@1", state, Catalog(NEW_BUILD, {"aten::other": OTHER})), before, {"prepacked", "aten"}
    )
    assert [each.effect for each in found.effects] == ["op_gone"]
    assert ([change.op for change, _ in found.gone()], found.foreign) == (["prepacked::g"], ())


def test_ops_without_a_rule_are_listed_if_their_treatment_changes() -> None:
    then = {"aten::a": KERNEL, "aten::b": UNUSED, "aten::c": KERNEL, "aten::d": KERNEL, "aten::e": ALWAYS}
    now = {"aten::a": UNUSED, "aten::b": KERNEL, "aten::d": UNUSED, "aten::e": KERNEL}
    then, now = {**then, "aten::always": KERNEL}, {**now, "aten::always": ALWAYS}
    found = move(then, now, {"aten::d": PRESERVE})
    assert [change.op for change in found.now_kept()] == ["aten::a"]
    assert [change.op for change in found.now_decomposed()] == ["aten::b"]
    assert [change.op for change, _ in found.gone()] == ["aten::c"]


def test_a_table_that_was_never_materialized_has_an_upgrade_without_drift() -> None:
    found = move(None, {"aten::f": UNUSED, "aten::g": KERNEL}, {"aten::f": PRESERVE, "aten::x": PRESERVE})
    assert found.drift is None
    assert [(each.op, each.effect) for each in found.effects] == [("aten::f", "default_now"), ("aten::x", "pending")]
    assert list(found.snapshot.ops) == ["aten::g"]
    assert (found.now_kept(), found.now_decomposed(), found.gone(), found.foreign) == ([], [], [], ())


# The check

FULL = attrs.evolve(PYTHON, helpers="h1", wrappers="w1")


@pytest.mark.parametrize(
    ("then", "now", "rule", "expected"),
    [
        (FULL, FULL, None, []),
        (FULL, attrs.evolve(FULL, default=False), None, ["left"]),
        (attrs.evolve(FULL, default=False), FULL, None, ["entered"]),
        (FULL, None, None, ["gone"]),
        (None, FULL, None, ["new"]),
        (FULL, KERNEL, None, ["moved"]),
        (FULL, attrs.evolve(FULL, schema="aten::f() -> Tensor"), None, []),
        (FULL, attrs.evolve(FULL, digest="d2"), None, ["source"]),
        (FULL, attrs.evolve(FULL, helpers="h2"), None, ["helpers"]),
        (FULL, attrs.evolve(FULL, wrappers="w2"), None, []),
        (FULL, attrs.evolve(FULL, digest=None, helpers=None, wrappers=None), None, ["not_compared"]),
        (FULL, attrs.evolve(FULL, schema=""), None, []),
        (None, None, None, []),
        (KERNEL, KERNEL, None, []),
        (KERNEL, ALWAYS, PRESERVE, ["treatment"]),
        (KERNEL, UNUSED, PRESERVE, []),
        (FULL, attrs.evolve(FULL, digest="d2"), PRESERVE, []),
        (FULL, attrs.evolve(FULL, helpers="h2"), PRESERVE, []),
        (FULL, KERNEL, PRESERVE, []),
        (FULL, attrs.evolve(FULL, schema="aten::f() -> Tensor"), PRESERVE, []),
        (attrs.evolve(FULL, default=False), attrs.evolve(FULL, default=False, digest="d2"), None, []),
        (FULL, attrs.evolve(FULL, digest="d2"), MINE, []),
        (FULL, attrs.evolve(OTHER, schema=FULL.schema), Rule("override", Decomposition("registry")), ["lost", "left"]),
    ],
)
def test_the_findings_of_a_check(then: Entry | None, now: Entry | None, rule: Rule | None, expected: list[str]) -> None:
    op = "aten::f"
    found = move({op: then} if then else {}, {op: now} if now else {}, {op: rule} if rule else {})
    check = check_upgrade(found, {op})
    assert [(each.op, each.kind) for each in check.findings] == [(op, kind) for kind in expected]
    assert {each.kind for each in check.findings} <= FINDINGS.keys()
    assert check.kernels == ((op,) if then is KERNEL is now else ())
    others = check_upgrade(found, {"aten::other"}).findings
    assert [each.kind for each in others] == [kind for kind in expected if kind == "lost"]


@pytest.mark.parametrize(("then", "now", "kind"), [(UNUSED, KERNEL, "entered"), (KERNEL, UNUSED, "left")])
def test_what_enters_or_leaves_torchs_defaults_is_a_finding_for_a_table_and_not_known_for_a_dict(
    then: Entry, now: Entry, kind: str
) -> None:
    of_table = move({"aten::f": then}, {"aten::f": now}, {"aten::g": PRESERVE})
    assert [each.kind for each in check_upgrade(of_table, {"aten::f"}).findings] == [kind]
    states = [attrs.evolve(each.state, from_dict=True) for each in (of_table.drift.before, of_table.after)]
    before, after = of_table.drift.before.catalog, of_table.after.catalog
    of_dict = upgrade(NamedState("d@2", states[1], after), NamedState("d@2", states[0], before))
    check = check_upgrade(of_dict, {"aten::f"})
    assert ([each.kind for each in check.findings], [each.kind for each in check.notes]) == ([], [kind])


def test_ops_outside_the_catalogs_are_foreign_and_no_finding() -> None:
    found = move({"mylib::f": KERNEL}, {}, {})
    check = check_upgrade(found, {"mylib::f", "otherlib::g", "_operator.getitem", "aten::other"})
    assert (check.findings, check.foreign) == ((), ("mylib::f", "otherlib::g"))


def test_a_higher_order_operator_that_only_one_catalog_has_is_foreign_and_no_finding() -> None:
    for pair in (({"wrap": ALWAYS}, {}), ({}, {"wrap": ALWAYS})):
        check = check_upgrade(move(*pair, {}), {"wrap", "aten::other"})
        assert (check.findings, check.foreign) == ((), ("wrap",))


def test_a_table_that_was_never_materialized_cannot_be_checked() -> None:
    with pytest.raises(LedgerError, match="edge@1: the table was never materialized"):
        check_upgrade(move(None, {"aten::f": KERNEL}, {}), {"aten::f"})


entries = st.sampled_from([KERNEL, UNUSED, PYTHON, ALWAYS, OTHER])
ops = st.sampled_from([f"{space}::{name}" for space in ("aten", "mylib") for name in "abcd"])
loaded = st.dictionaries(ops, entries)
decompositions = st.sampled_from([Decomposition("registry"), Decomposition("import", "torch.d", "f", "1" * 64)])
rules = st.dictionaries(ops, st.just(PRESERVE) | st.builds(Rule, st.just("override"), decompositions))


@given(st.none() | loaded, loaded, rules, st.sampled_from(["torch", "empty"]))
def test_every_rule_has_an_effect_and_every_op_of_the_old_table_is_accounted_for(
    then: dict[str, Entry] | None, now: dict[str, Entry], rules_of_table: dict[str, Rule], base: str
) -> None:
    found = move(then, now, rules_of_table, base)
    if found.drift is not None:
        check = check_upgrade(found, {*(then or {}), *now})
        kept = {op for op, rule in rules_of_table.items() if rule == PRESERVE} | {op for op in now if now[op] is UNUSED}
        about_it = ("moved", "source", "helpers", "wrappers")
        changes = [each for each in found.drift.changes if each.op.startswith("aten::")]
        stopped = {each.op for each in changes if each.kind not in about_it or (each.in_table and each.op not in kept)}
        assert stopped <= {each.op for each in (*check.findings, *check.notes)} | {*check.foreign}
        assert {each.op for each in changes if each.kind == "schema"} <= {each.op for each in check.notes} | {
            *check.foreign
        }
    assert {each.op for each in found.effects} == rules_of_table.keys()
    assert {each.effect for each in found.effects} <= RULE_EFFECTS.keys()
    assert found.snapshot == materialize(found.after.state, found.after.catalog)
    pending = {each.op for each in found.effects if each.effect in ("pending", "op_gone")}
    assert pending == set(found.snapshot.pending)
    if found.drift is not None:
        lost = found.drift.before.snapshot.ops.keys() - found.snapshot.ops.keys() - rules_of_table.keys()
        left = {change.op for change in found.without_rule("left")}
        assert lost == left | {change.op for change, _ in found.gone()} | set(found.foreign)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("aten::qr", "aten::linalg_qr"),
        ("aten::logsumexp.names", "aten::logsumexp"),
        ("aten::cholesky", "aten::linalg_cholesky"),
    ],
)
def test_likely_successors_of_gone_ops_are_found(op: str, expected: str) -> None:
    old, new = released("2.6.0"), released("2.15.0")
    assert op not in new.ops
    assert expected in [found for found, _ in successors(op, old, new)]


def test_a_successor_with_another_name_must_be_new_with_the_same_arguments() -> None:
    gone = Entry(schema="aten::stack_rows(Tensor[] tensors, int dim=0) -> Tensor")
    like = Entry(schema="aten::stack_row(Tensor[] xs, int axis=0) -> Tensor")
    old = Catalog(OLD_BUILD, {"aten::stack_rows": gone})
    assert successors("aten::stack_rows", old, Catalog(NEW_BUILD, {"aten::stack_row": like})) == (
        ("aten::stack_row", "new, with a similar name and the same arguments"),
    )
    there = Catalog(OLD_BUILD, {"aten::stack_rows": gone, "aten::stack_row": like})
    assert successors("aten::stack_rows", there, Catalog(NEW_BUILD, {"aten::stack_row": like})) == ()
    other = attrs.evolve(like, schema="aten::stack_row(Tensor x) -> Tensor")
    assert successors("aten::stack_rows", old, Catalog(NEW_BUILD, {"aten::stack_row": other})) == ()


# The command


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    command = [sys.executable, "-m", "decomp_ledger", "--ledger", str(path), "upgrade", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger whose table was materialized on torch 2.6.0 and has rules with different effects."""
    file = tmp_path_factory.mktemp("ledger") / "l.db"
    shipped = released("2.6.0")
    bare = {
        op: Entry(entry.origin, entry.default, entry.unpreservable) if entry.origin else Entry()
        for op, entry in shipped.ops.items()
    }
    build = {key: shipped.build[key] for key in ("torch", "git", "accelerator")}
    with Ledger(file, actor="Ada") as ledger:
        edge = ledger.create_table("edge")
        edge.preserve(["aten::linear", "aten::upsample_bilinear2d.vec", "aten::qr", "mylib::later"])
        given_it = ["aten::stft.center", "aten::max.names_dim"]
        edge.change(Popped, lambda _: [(op, "override", MINE.decomposition) for op in given_it])
        edge.materialize(Catalog(build, {**bare, "mylib::old": Entry("cia", True, schema="mylib::old() -> ()")}))
    return file


def test_upgrade_prints_the_effect_on_each_rule(path: Path) -> None:
    done = run(path, "edge", "--torch", "2.9.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the default now does the same\n  aten::upsample_bilinear2d.vec  preserve" in done.stdout
    assert "schema changed\n  aten::stft.center  override: mypkg.mine; +[bool? align_to_window=None]" in done.stdout
    assert "no rule, decomposed before, now kept in graphs\n  aten::bernoulli.p\n  aten::elu\n" in done.stdout
    assert "of libraries that the catalog was captured without\n  mylib::old\n" in done.stdout
    answer = json.loads(run(path, "edge", "--torch", "2.15.0", "--json").stdout)
    assert {each["op"]: each["effect"] for each in answer["rules"]} == {
        "aten::linear": "unchanged",
        "aten::max.names_dim": "op_gone",
        "aten::qr": "op_gone",
        "aten::stft.center": "schema_changed",
        "aten::upsample_bilinear2d.vec": "default_now",
        "mylib::later": "pending",
    }
    gone = next(each for each in answer["rules"] if each["op"] == "aten::qr")
    assert gone["successors"][0] == {"op": "aten::linalg_qr", "why": "its name"}
    assert answer["snapshot"]["pending"] == ["aten::max.names_dim", "aten::qr", "mylib::later"]
    assert "aten::linalg_vector_norm" in answer["now_decomposed"]
    assert "aten::elu" in answer["now_kept"]
    assert answer["foreign"] == ["mylib::old"]
    assert "prepacked::unpack_prepacked_sizes_conv2d" in {each["op"] for each in answer["gone"]}


def test_upgrade_to_the_same_torch_changes_nothing(path: Path) -> None:
    answer = json.loads(run(path, "edge", "--torch", "2.6.0", "--json", "--all").stdout)
    assert {each["effect"] for each in answer["rules"]} == {"unchanged", "pending"}
    assert (answer["now_kept"], answer["now_decomposed"], answer["gone"]) == ([], [], [])
    assert (answer["changes"], answer["not_compared"]["not_judged"]) == ([], ["mylib::old"])


def test_all_lists_the_ops_behind_a_count(path: Path) -> None:
    short, full = (run(path, "edge", "--torch", "2.15.0", *more).stdout for more in ([], ["--all"]))
    assert "more; list them with --all" in short
    assert "--all" not in full
    assert "aten::concatenate.names" in full


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edge"], "either a torch version or a Python interpreter"),
        (["edge", "--torch", "2.6.0", "--python", "python"], "either a torch version or a Python interpreter"),
        (["edge", "--torch", "1.0"], "torch 1.0: no catalog is shipped"),
        (["edge", "--python", "/no/python"], "cannot capture the torch of /no/python"),
        (["edgy", "--torch", "2.6.0"], "has no table 'edgy'"),
        (["edge@9", "--torch", "2.6.0"], "edge@9: the table has 3 versions; give one of 1 to 3"),
    ],
)
def test_wrong_use_prints_one_line_and_exits_with_2(path: Path, arguments: list[str], message: str) -> None:
    done = run(path, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A ledger on torch 2.6.0 with three tables: an export, a failed export, and no export."""
    file = tmp_path / "l.db"
    shipped = released("2.6.0")
    ops = {"aten::elu": 1, "aten::linear": 2}, {"aten::addmm": 2}, {"aten::baddbmm": 1, "mylib::f": 1, "aten::pad": 1}
    with Ledger(file, actor="Ada") as ledger:
        for name, error in (("edge", None), ("failed", ("ValueError", "no"))):
            ledger.create_table(name).materialize(shipped)
            body = Exported(shipped.digest, "0" * 64, None, None, *ops, 3, error)
            ledger.append(name, 1, body)
        ledger.create_table("idle").materialize(shipped)
    return file


def test_a_check_with_findings_exits_with_1(used: Path) -> None:
    done = run(used, "edge", "--torch", "2.9.1", "--check")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(
        "edge@1, from torch 2.6.0+cu124 to 2.9.1+cu128: 1 op changed for 1 export with 6 ops\n"
    )
    assert (
        "left the table\n  aten::elu: in the table -> kept in graphs (torch._refs.nn.functional.elu)\n" in done.stdout
    )
    assert "\nnote: text changed, behaves the same on all samples: 1 op (aten::baddbmm)\n" in done.stdout
    assert "not checked: 1 op (mylib::f), because the catalog may lack ops of libraries" in done.stdout
    assert len(done.stdout.splitlines()) < 9
    answer = json.loads(run(used, "edge", "--torch", "2.9.1", "--check", "--json").stdout)
    assert (answer["passed"], answer["exports"], len(answer["used"]), answer["foreign"]) == (False, 1, 6, ["mylib::f"])
    assert [(each["op"], each["kind"]) for each in answer["findings"]] == [("aten::elu", "left")]
    assert [(each["op"], each["kind"]) for each in answer["notes"]] == [("aten::baddbmm", "source")]
    assert answer["verdicts"] == dict.fromkeys(("aten::baddbmm", "aten::linear", "aten::pad"), "same")
    assert answer["kernels"] == []


def test_a_check_without_findings_exits_with_0(used: Path) -> None:
    done = run(used, "edge", "--torch", "2.6.0", "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert ": nothing changed for 1 export with 6 ops\n" in done.stdout
    assert json.loads(run(used, "edge", "--torch", "2.6.0", "--check", "--json").stdout)["passed"] is True


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("idle", "idle@1: no export succeeded, so the ops that its programs use are not known; record one"),
        ("failed", "failed@1: no export succeeded"),
        ("torch:2.6.0", "torch:2.6.0: no export succeeded"),
    ],
)
def test_a_table_without_exports_cannot_be_checked(spec: str, message: str, used: Path) -> None:
    done = run(used, spec, "--torch", "2.9.1", "--check")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_python_captures_an_interpreter_instead_of_a_version(path: Path, tmp_path: Path) -> None:
    shipped = released("2.9.1")
    answer = {"format": 1, "build": dict(shipped.build), "ops": {op: e.to_json() for op, e in shipped.ops.items()}}
    (tmp_path / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\ncat > /dev/null\nexec cat '{tmp_path}/answer.json'\n", encoding="utf-8")
    fake.chmod(0o755)
    captured = run(path, "edge", "--python", str(fake), "--json")
    assert captured.stdout == run(path, "edge", "--torch", "2.9.1", "--json").stdout != ""
