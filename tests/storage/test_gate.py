"""The gate: each policy broken and kept, what is unknown, and what is judged of a ledger, a table and an export."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from report_ledgers import HOSTILE, hostile_ledger, sample_ledger
from strategies import catalog_of, new_table, override
from test_reports import check_html, check_markdown

import decomp_ledger as dl
from decomp_ledger import GateFinding, GateResult, Ledger, Policy, TableLog
from decomp_ledger.cli import cli
from decomp_ledger.model.events import Emission, Event, Exported, Found, RootModule, Saved
from decomp_ledger.reports.gate_view import finding_groups
from decomp_ledger.transfer.stamp import Stamp

OPS = ("aten::gelu", "aten::linear", "aten::mm", "aten::silu")
CATALOG = catalog_of(*OPS)
MODEL = RootModule("__main__.Model", "export.py", 7)


def export(table: TableLog, *kept: str, decomposed: tuple[str, ...] = (), graph: str = "b", **more: Any) -> Event:
    """Record an export of a program that has these ops."""
    snapshot = table.materialize(CATALOG)
    before = dict.fromkeys([*kept, *decomposed], 1)
    values: dict[str, Any] = {
        "fired": dict.fromkeys(decomposed, 1), "milliseconds": 3, "declined": {}, "kinds": {}, "early": {},
        "emitted": tuple(Emission(op, 1, (), op) for op in kept), "module": MODEL, **more,
    }  # fmt: skip
    after = {} if values.get("error") else dict.fromkeys(kept, 1)
    body = Exported(CATALOG.digest, snapshot.digest, graph, "a", before, after, **values)
    event = table.exported(body, table.version)
    assert event is not None
    return event


@pytest.fixture
def edge(ledger: Ledger) -> TableLog:
    return new_table(ledger)


def as_actor(ledger: Ledger, actor: str, dirty: object = False) -> None:
    """Let the next events be those of an actor, in a git tree that is dirty or not."""
    origin = (actor, None, {"torch": "2.13.0", "git_commit": "c" * 40, "git_dirty": dirty})
    ledger.origin = lambda: origin  # type: ignore[method-assign, assignment, return-value]


# How each policy is broken, and how it is kept again. The number is that of the event to blame.


def keep(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    edge.preserve(["aten::linear"])
    export(edge, "aten::linear")
    yield 0
    yield export(new_table(ledger, "other"), "aten::mm", decomposed=("aten::linear",)).seq


def keep_overridden(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    edge.preserve(["aten::linear"])
    export(edge, "aten::linear")
    yield 0
    yield number(override(edge, "aten::linear", "f"))
    edge.preserve(["aten::linear"])
    yield 0


def keep_reset(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    edge.preserve(["aten::linear"])
    export(edge, "aten::linear")
    yield 0
    yield number(edge.reset(["aten::linear"]))
    edge.preserve(["aten::linear"])
    yield 0


def no_override(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    override(edge, "aten::mm", "f")
    yield 0
    yield number(override(edge, "aten::gelu", "f"))
    edge.reset(["aten::gelu"])
    yield 0


def require_reason(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    edge.preserve(["aten::mm"], reason="a kernel")
    yield 0
    yield number(edge.preserve(["aten::gelu"]))
    edge.reset(["aten::gelu"])
    yield 0
    with ledger.because("a kernel"):
        edge.preserve(["aten::gelu"])
    yield 0


def actors(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    as_actor(ledger, "Bob <bob@example.org>")
    edge.preserve(["aten::mm"])
    yield 0
    as_actor(ledger, "Eve <eve@example.com>")
    yield number(edge.reset(["aten::mm"]))
    as_actor(ledger, "Bob <bob@example.org>")
    edge.preserve(["aten::mm"])
    yield 0


def actors_of_tags(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    as_actor(ledger, "Eve <eve@example.com>")
    yield number(edge.tag("one"))
    as_actor(ledger, "Bob <bob@example.org>")
    edge.tag("two")
    yield 0


def clean_tags(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    as_actor(ledger, "Bob", dirty=False)
    edge.tag("one")
    yield 0
    as_actor(ledger, "Bob", dirty=True)
    yield number(edge.tag("two"))
    as_actor(ledger, "Bob", dirty=False)
    edge.tag("three")
    yield 0


def no_failed_exports(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    export(edge, "aten::mm")
    yield 0
    yield export(edge, "aten::mm", error=("RuntimeError", "no\nkernel")).seq
    export(edge, "aten::mm")
    yield 0


def no_stale_exports(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    export(edge, "aten::mm")
    yield 0
    yield export(edge, "aten::mm", stale=("mylib::late",)).seq
    export(edge, "aten::mm")
    yield 0


def no_outdated_exports(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    edge.preserve(["aten::mm"])
    export(edge, "aten::mm")
    yield 0
    yield number(edge.preserve(["aten::gelu"]))
    edge.revert(2)  # the same rules as those of the export
    yield 0
    yield number(edge.preserve(["aten::silu"]))
    export(edge, "aten::mm")
    yield 0


def opset(ledger: Ledger, edge: TableLog) -> Iterator[int]:
    export(edge, "aten::mm")
    yield 0
    blamed = number(edge.preserve(["aten::linear"]))
    export(edge, "aten::mm", "aten::linear")
    yield blamed
    edge.reset(["aten::linear"])
    export(edge, "aten::mm")
    yield 0


def number(event: Event | None) -> int:
    assert event is not None
    return event.seq


CASES: tuple[tuple[Callable[[Ledger, TableLog], Iterator[int]], Policy], ...] = (
    (keep, Policy(keep="aten::linear")),
    (keep_overridden, Policy(keep="aten::lin*")),
    (keep_reset, Policy(keep="linear")),
    (no_override, Policy(no_override="aten::gelu")),
    (require_reason, Policy(require_reason=True)),
    (actors, Policy(actors="*@example.org>")),
    (actors_of_tags, Policy(actors="*@example.org>")),
    (clean_tags, Policy(clean_tags=True)),
    (no_failed_exports, Policy(no_failed_exports=True)),
    (no_stale_exports, Policy(no_stale_exports=True)),
    (no_outdated_exports, Policy(no_outdated_exports=True)),
    (opset, Policy(opset="core-aten")),
)


@pytest.mark.parametrize(("steps", "policy"), CASES, ids=[steps.__name__ for steps, _ in CASES])
def test_a_policy_is_broken_by_one_event_and_can_be_kept_again(
    ledger: Ledger, edge: TableLog, steps: Callable[[Ledger, TableLog], Iterator[int]], policy: Policy
) -> None:
    verdicts = set()
    for blamed in steps(ledger, edge):
        found = ledger.gate(policy=policy)
        assert found.passed is (blamed == 0)
        assert [each.event.seq for each in found.findings if each.event is not None] == ([blamed] if blamed else [])
        assert {each.policy for each in found.findings} <= set(policy.to_json())
        assert all(each.fix and each.detail for each in found.findings)
        check_views(found)
        verdicts.add(found.passed)
    assert verdicts == {True, False}


def test_every_policy_has_a_case() -> None:
    given = {name for _, policy in CASES for name in policy.to_json()}
    assert given == {field.name for field in attrs.fields(Policy)} - {"enforce"}


def check_views(found: GateResult) -> None:
    """Assert that JSON, page and text name each finding."""
    value = json.loads(json.dumps(found.to_json()))
    assert (value["passed"], len(value["findings"])) == (found.passed, len(found.findings))
    page, markdown = dl.report(found), dl.report(found, markdown=True)
    check_html(page)
    check_markdown(markdown)
    for each in found.findings:
        first, *_ = filter(None, each.fix.split("`"))
        assert first in html.unescape(markdown) and first in html.unescape(page)
    for program in found.programs:
        assert str(program.program) in html.unescape(page) and str(program.program) in html.unescape(markdown)


# What is not known


def test_what_is_unknown_passes_unless_it_is_strict(ledger: Ledger, edge: TableLog) -> None:
    edge.preserve(["aten::mm"])
    export(edge, "aten::mm")
    as_actor(ledger, "Bob", dirty="the tree has a filter")
    edge.tag("one")
    policy = Policy(keep=["aten::mmm", "aten::mm", "nolib::*"], clean_tags=True)
    found = ledger.gate(policy=policy)
    assert [(each.policy, each.subject) for each in found.unknown] == [("clean_tags", "edge@2"), ("keep", "aten::mmm")]
    assert "the tree has a filter" in found.unknown[0].because and "did you mean aten::mm?" in found.unknown[1].because
    assert found.passed and not ledger.gate(policy=policy, strict=True).passed
    assert "2 unknown" in repr(found)


def test_a_program_without_a_successful_export_is_unknown(ledger: Ledger, edge: TableLog) -> None:
    failed = export(edge, "aten::mm", error=("RuntimeError", "no"))
    found = ledger.gate(policy=Policy(no_stale_exports=True), torch="2.13.0")
    assert [each.because for each in found.unknown] == [f"no export of it succeeded; export:{failed.seq} is the newest"]


def test_after_a_failure_the_last_success_is_judged_and_that_is_named(ledger: Ledger, edge: TableLog) -> None:
    good = export(edge, "aten::mm", decomposed=("aten::linear",))
    failed = export(edge, "aten::mm", error=("RuntimeError", "no"))
    found = ledger.gate(policy=Policy(keep="aten::linear"))
    assert [each.export for each in found.findings] == [good.seq]
    assert [each.because for each in found.unknown] == [
        f"its newest export, export:{failed.seq}, failed; export:{good.seq} was judged"
    ]


def test_an_outcome_that_an_old_event_does_not_tell_is_unknown(ledger: Ledger, edge: TableLog) -> None:
    snapshot = edge.materialize(CATALOG)
    body = Exported(CATALOG.digest, snapshot.digest, "b", "a", {"aten::linear": 1}, {"aten::mm": 1}, {}, 3)
    edge.exported(body, edge.version)
    found = ledger.gate(policy=Policy(keep="aten::linear"))
    assert found.passed and ["aten::linear: " in each.because for each in found.unknown] == [True]


# What is judged


def runs(ledger: Ledger, *names: str) -> list[TableLog]:
    return [new_table(ledger, name) for name in names]


def test_of_a_series_the_newest_run_is_judged(ledger: Ledger) -> None:
    first, second = runs(ledger, "lower/main/1", "lower/main/2")
    export(first, decomposed=("aten::linear",))
    export(second, "aten::linear")
    found = ledger.gate(policy=Policy(keep="aten::linear"))
    assert (found.passed, found.tables) == (True, ("lower/main/2@1",))
    assert [str(each.program) for each in found.programs] == ["Model of export.py with lower/main"]


@pytest.mark.parametrize(
    ("policy", "torch", "named"),
    [
        (Policy(keep="aten::linear"), None, "keep"),
        (Policy(opset="core-aten"), None, "opset"),
        (Policy(no_stale_exports=True), None, "no_stale_exports"),
        (Policy(no_outdated_exports=True), None, "no_outdated_exports"),
        (Policy(no_failed_exports=True), None, "no_failed_exports"),
        (Policy(no_failed_exports=True, keep="aten::linear"), None, "keep"),
        (Policy(), "2.15.0", "torch"),
    ],
)
def test_a_newest_run_without_an_export_is_unknown(
    ledger: Ledger, policy: Policy, torch: str | None, named: str
) -> None:
    first, _ = runs(ledger, "lower/main/1", "lower/main/2")
    event = export(first, "aten::linear")
    export(new_table(ledger, "other"), "aten::linear")
    (unknown,) = (each for each in ledger.gate(policy=policy, torch=torch).unknown if each.subject == "lower/main")
    assert unknown.policy == named
    assert unknown.because == f"its newest run, lower/main/2, has no export; the last one is export:{event.seq}"


def test_a_newest_run_with_older_exports_has_exports(ledger: Ledger) -> None:
    for table in runs(ledger, "lower/main/1", "lower/main/2", "once/main/1"):
        export(table, "aten::linear")
    runs(ledger, "once/main/2")
    policy = Policy(keep="aten::linear")
    assert [each.subject for each in ledger.gate(policy=policy).unknown] == ["once/main"]
    assert ledger.gate(policy=policy, since="2999-01-01").unknown == ()


def test_siblings_of_one_class_are_all_judged(ledger: Ledger, edge: TableLog) -> None:
    small = export(edge, decomposed=("aten::linear",), graph="1" * 64)
    export(edge, "aten::mm", graph="2" * 64)
    found = ledger.gate(policy=Policy(keep="aten::linear"))
    assert [each.export for each in found.findings] == [small.seq] and len(found.programs) == 2
    assert ledger.gate(policy=Policy(keep="aten::linear"), since="2999-01-01").programs == ()


def test_a_table_a_version_and_an_export_are_judged_alone(ledger: Ledger, edge: TableLog) -> None:
    edge.preserve(["aten::linear"])
    good = export(edge, "aten::linear")
    edge.reset(["aten::linear"])
    bad = export(edge, decomposed=("aten::linear",), graph="b")
    other = export(new_table(ledger, "other"), decomposed=("aten::linear",))
    policy = Policy(keep="aten::linear")

    def exports(spec: str | None) -> list[int | None]:
        return [each.export for each in ledger.gate(spec, policy=policy).findings]

    assert exports(None) == [bad.seq, other.seq]
    assert exports("edge") == exports("edge@3") == exports(f"export:{bad.seq}") == [bad.seq]
    assert exports("edge@2") == exports(f"export:{good.seq}") == []


def test_a_table_that_was_never_exported_must_keep_the_ops_too(ledger: Ledger, edge: TableLog) -> None:
    edge.materialize(CATALOG)
    (found,) = ledger.gate(policy=Policy(keep="aten::linear")).findings
    assert (found.subject, found.event, found.fix) == ("edge@1", None, "table.preserve('aten::linear')")
    # A program that does not use the op breaks nothing.
    export(edge, "aten::mm")
    assert ledger.gate(policy=Policy(keep="aten::linear")).passed


def test_a_fix_is_given_for_each_op_of_a_group(project: Path) -> None:
    with Ledger("decomp_ledger.db", actor="Ada") as ledger:
        new_table(ledger, "both").materialize(CATALOG)
        policy = Policy(keep=["aten::linear", "aten::mm", "aten::silu"])
        (group,) = finding_groups(ledger.gate("both", policy=policy))
        assert group.ops == ("aten::linear", "aten::mm", "aten::silu")
        assert (group.first.fix, group.others) == (
            "table.preserve('aten::linear')",
            ", and likewise for 2 other ops",
        )


def test_the_fix_of_a_recorded_table_is_for_a_table_of_torch(ledger: Ledger) -> None:
    (table,) = runs(ledger, "lower/main/1")
    table.materialize(CATALOG)
    policy = Policy(keep="aten::linear", no_override="aten::mm")
    (found,) = ledger.gate(policy=policy).findings
    assert found.fix == "table.pop(torch.ops.aten.linear.default)"
    override(table, "aten::mm", "mm")
    override(table, "aten::linear", "linear")
    fixes = [each.fix for each in ledger.gate(policy=policy).findings]
    assert len(fixes) == 2 and all(fix.startswith("drop the change at ") for fix in fixes)


def test_the_reason_of_a_recorded_table_comes_from_its_recording(ledger: Ledger) -> None:
    (table,) = runs(ledger, "lower/main/1")
    table.preserve(["aten::mm"])
    (found,) = ledger.gate(policy=Policy(require_reason=True)).findings
    assert found.fix == "record the program again with `decomp-ledger run --reason TEXT` or record(reason=...)"


def test_torch_itself_needs_no_reason(ledger: Ledger, edge: TableLog) -> None:
    edge.change(Found, lambda _: [("mylib::f", "preserve", None)])
    assert ledger.gate(policy=Policy(require_reason=True)).passed


def test_a_minimal_stamp_has_no_reasons_to_judge(ledger: Ledger, edge: TableLog, tmp_path: Path) -> None:
    edge.preserve(["aten::mm"])
    event = export(edge, "aten::mm")
    shown = ledger.show(f"export:{event.seq}")
    assert shown.bundle is not None
    redacted = attrs.evolve(shown, bundle=shown.bundle.redact())
    policy = Policy(require_reason=True, actors="Bob")
    assert [each.policy for each in ledger.gate(f"export:{event.seq}", policy=policy).findings] == [
        "require_reason", "actors"
    ]  # fmt: skip
    found = dl.gate(redacted, policy=policy)
    assert found.passed and [each.policy for each in found.unknown] == ["require_reason", "actors"]


def test_a_gate_that_judges_nothing_is_an_error(ledger: Ledger) -> None:
    for call, problem in (
        (lambda: ledger.gate(), "gate: nothing to judge; give a torch version, or write"),
        (lambda: ledger.gate(policy=Policy(enforce=True)), "gate: nothing to judge"),
        (lambda: ledger.gate(torch="2.13"), "the ledger has no table to judge; record something first"),
        (lambda: ledger.gate("torch:2.13.0", torch="2.13"), "torch:2.13.0: not of a ledger or a file"),
        (lambda: ledger.gate("edge", torch="2.13"), "the ledger has no table 'edge'"),
        (lambda: dl.gate(torch="2.13"), "gate: needs a ledger or a state spec"),
        (lambda: (new_table(ledger), ledger.gate(torch="2.13")), "gate: no export is recorded"),
        (lambda: ledger.gate(policy=Policy(opset="nothing.json")) if export(new_table(ledger), "aten::mm") else 0,
         "nothing.json: cannot read the opset"),
        (lambda: ledger.gate(torch="9.9"), "torch 9.9: no catalog is shipped"),
    ):  # fmt: skip
        with pytest.raises(dl.LedgerError, match=re.escape(problem)):
            call()


# Another torch


def test_another_torch_is_judged_as_check_upgrade_does(tmp_path: Path) -> None:
    good, failed = sample_ledger(tmp_path / "sample.db")
    with Ledger(tmp_path / "sample.db", read_only=True) as ledger:
        for version in dl.available_catalogs():
            found = ledger.gate(torch=version)
            report = ledger.check_upgrade(f"export:{good}", torch=version)
            assert [(each.op, each.change) for each in found.findings] == sorted(
                [(each.op, each) for each in report.check.findings], key=lambda pair: pair[0]
            )
            assert found.passed is report.passed
            assert [each.because for each in found.unknown if f"export:{failed}" in each.because]
        assert ledger.gate(torch="2.15").torch == "2.15.0"


def test_one_change_of_torch_is_one_group_for_all_programs(ledger: Ledger) -> None:
    for table in runs(ledger, "one", "two"):
        export(table, "aten::mm", decomposed=("aten::silu",))
    found = ledger.gate(torch="2.15")
    groups = finding_groups(found)
    assert groups and all(len(group.subjects) == 2 for group in groups)
    assert len(found.findings) == 2 * len(groups)


# Views


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    policy = Policy(keep="*", no_override="*", require_reason=True, actors="Bob", clean_tags=True, opset="core-aten",
                    no_failed_exports=True, no_stale_exports=True, no_outdated_exports=True)  # fmt: skip
    for number, text in enumerate(HOSTILE):
        hostile_ledger(tmp_path / f"{number}.db", text)
        with Ledger(tmp_path / f"{number}.db", read_only=True) as opened:
            found = opened.gate(torch="2.15", policy=policy)
            assert len(found.findings) > 5
            check_html(dl.report(found))
            check_markdown(dl.report(found, markdown=True))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a policy, and a ledger that breaks it."""
    with Ledger(tmp_path / "decomp_ledger.db", actor="Ada") as opened:
        table = new_table(opened)
        table.preserve(["aten::mm"])
        export(table, "aten::mm")
    (tmp_path / "pyproject.toml").write_text("[tool.decomp-ledger.policy]\nrequire_reason = true\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["gate", *arguments], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, done.output


def test_the_command_prints_the_findings_first(project: Path) -> None:
    status, text = run()
    lines = text.splitlines()
    assert status == 1
    assert lines[0] == "did not pass: 1 finding; 1 program and 1 table judged"
    assert lines[1:3] == ["require_reason: aten::mm: no reason is given for its preserve", "  in edge@2"]
    assert lines[3].startswith("  #2  ") and lines[4].startswith("      by Ada, at ")
    assert lines[-1].startswith("  to mend: reset the rule, and set it again with reason=")
    value = json.loads(run("--json")[1])
    assert (value["passed"], value["findings"][0]["event"]["actor"]) == (False, "Ada")
    assert run("--markdown")[1].startswith("### Gate: `edge@2`\n\n**did not pass: 1 finding**")


def test_the_page_tells_what_was_shipped_and_how_to_check_it(project: Path) -> None:
    with Ledger("decomp_ledger.db") as opened:
        as_actor(opened, "Ada", dirty=True)
        event = export(opened.table_log("edge"), "aten::mm")
        opened.append("edge", 2, Saved(event.seq, "build/model.pt2", "pt2", 1234, "d" * 64, True))
        head = opened.verify().head
    status, text = run("--html", "gate.html", "--since", "2020-01-01T00:00Z", "--torch", "2.15")
    page = Path("gate.html").read_text()
    check_html(page)
    facts = ("did not pass: 1 finding", f"export:{event.seq}", "build/model.pt2", "1234", "d" * 64, "cccccccccccc",
             "with changes", "2.13.0", "Ada", f"decomp-ledger verify --expect {head}", "require_reason = true",
             "since 2020-01-01 00:00:00 UTC", "decomp_ledger.db", "2.15.0")  # fmt: skip
    shown = " ".join(re.sub(r"<[^>]+>", "", html.unescape(page)).split())
    assert [each for each in facts if each not in shown] == []
    assert status == 1 and text.startswith("did not pass: 1 finding")  # it is printed too
    value = json.loads(run("--json", "--since", "2020-01-01T00:00Z")[1])
    assert (value["head"], value["events"], value["since"][:10]) == (head, event.seq + 1, "2020-01-01")
    assert value["programs"][0]["saved"] == [
        {"path": "build/model.pt2", "format": "pt2", "size": 1234, "sha256": "d" * 64}
    ]
    with pytest.raises(dl.LedgerError, match="no/folder"):
        run("--html", "no/folder/gate.html")


def test_the_page_of_a_stamped_file_is_of_no_ledger(ledger: Ledger, edge: TableLog) -> None:
    event = export(edge, "aten::mm")
    shown = ledger.show(f"export:{event.seq}")
    assert shown.bundle is not None
    stamped = attrs.evolve(shown, name="model.pt2", stamp=Stamp((shown.bundle,), None, ""))
    found = ledger.gate(stamped, policy=Policy(no_failed_exports=True))
    assert (found.ledger, found.head, found.programs[0].name) == ("", "", "model.pt2")
    assert found.programs[0].environment == shown.environment != {}
    assert "verify --expect" not in dl.report(found)


def test_any_result_can_be_sent_as_a_page(ledger: Ledger, edge: TableLog) -> None:
    export(edge, "aten::mm")
    for found in (
        ledger.verify(),
        ledger.why("aten::mm"),
        ledger.exports(),
        ledger.check_upgrade("edge", torch="2.15"),
    ):
        check_html(dl.report(found))
    for specs in ((object(),), (ledger.verify(), "edge")):
        with pytest.raises(dl.UnusableValue, match="is not possible; give text, a path"):
            dl.report(*specs, ledger=ledger)  # type: ignore[arg-type]


def test_the_command_exits_with_0_when_it_passed(project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.decomp-ledger.policy]\nkeep = ["aten::mm", "aten::bmm"]\n')
    assert run()[0] == 0 and run("--strict")[0] == 1
    assert run()[1].splitlines()[0] == "passed: 0 findings, 1 unknown; 1 program and 1 table judged"
    assert "**passed, 1 unknown**" in run("--markdown")[1]
    assert "what is unknown does not pass" in run("--strict")[1]


def test_a_wrong_policy_is_one_error(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.decomp-ledger.policy]\nkep = []\n")
    with pytest.raises(dl.UnusableValue, match=r"pyproject\.toml: \[tool\.decomp-ledger\.policy\]: 'kep' is unknown"):
        run()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_a_policy_that_was_ignored_is_unknown(project: Path) -> None:
    os.chown(project / "pyproject.toml", 12345, 12345)
    status, text = run("--torch", "2.13.0")
    assert (status, run("--torch", "2.13.0", "--strict")[0]) == (0, 1)
    because = "ignored, because it belongs to another user"
    assert f"unknown: policy: {project / 'pyproject.toml'}: {because}" in " ".join(text.split())
    hub = dl.Hub("hub.db")
    hub.init()
    with Ledger(project / "decomp_ledger.db", policy=Policy(keep="aten::mm")) as ledger:
        ledger.push("hub.db", name="one")
        assert [each.policy for _, found in hub.gate(torch="2.13.0").results for each in found.unknown] == ["policy"]
        assert not hub.gate(torch="2.13.0", strict=True).passed
        assert ledger.gate().unknown == () == ledger.gate(policy=Policy(keep="aten::mm")).unknown


def test_the_opset_of_a_policy_is_a_file_next_to_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "npu.json").write_text('{"format": 1, "source": "npu", "date": "2026-01-31", "ops": ["aten::bmm"]}')
    (project / "pyproject.toml").write_text('[tool.decomp-ledger.policy]\nopset = "npu.json"\n')
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    status, text = run()
    assert status == 1 and "opset: aten::mm: export:4 has it, and" in text


def test_a_finding_names_its_subject() -> None:
    found = GateFinding("keep", "aten::mm", "edge@2", None, None, "x", "y", None)
    assert found.subject == "edge@2" and found.to_json()["event"] is None


@pytest.mark.parametrize(
    ("dirty", "text"),
    [
        (True, "with changes"),
        (False, ""),
        ("unknown: git does not answer", "changes unknown"),
        (None, "changes unknown"),
    ],
)
def test_a_page_says_whether_the_git_tree_had_changes(ledger: Ledger, edge: TableLog, dirty: object, text: str) -> None:
    export(edge, "aten::linear")
    found = ledger.gate(policy=Policy(keep="aten::linear"))
    (program,) = found.programs
    environment = {**program.environment, "git_commit": "c" * 40, "git_dirty": dirty}
    page = dl.report(attrs.evolve(found, programs=(attrs.evolve(program, environment=environment),)))
    assert "c" * 12 in page
    assert [each for each in ("with changes", "changes unknown") if each in page] == ([text] if text else [])
