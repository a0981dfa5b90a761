"""Policies that are enforced: the change raises, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from strategies import new_table, override

import decomp_ledger as dl
from decomp_ledger import Ledger, Policy, PolicyError, TableLog
from decomp_ledger.cli import cli
from decomp_ledger.model.events import PRESERVE, RESET, Updated

BASE = Policy(keep="aten::linear", no_override="aten::softmax", enforce=True)
REASON = Policy(require_reason=True, enforce=True)
ACTORS = Policy(actors="Bob*", enforce=True)


def prepared(ledger: Ledger) -> TableLog:
    """Make a table whose versions 2 to 4 are: linear preserved, softmax overridden, softmax reset."""
    table = new_table(ledger)
    table.preserve(["aten::linear"])
    override(table, "aten::softmax.int", "f")
    table.reset(["aten::softmax.int"])
    table.tag("one", 3)
    return table


# What a table log can do to rules, and the policies that refuse it.
REFUSED: dict[str, tuple[Policy, str, Callable[[TableLog], object]]] = {
    "set": (BASE, "no_override", lambda table: override(table, "aten::softmax.int", "g")),
    "set of a kept op": (BASE, "keep", lambda table: override(table, "aten::linear", "g")),
    "update": (
        BASE,
        "no_override",
        lambda table: table.change(
            Updated, lambda _: [("aten::mm", PRESERVE, None), *_of_override("aten::softmax.int")]
        ),
    ),
    "reset": (BASE, "keep", lambda table: table.reset(["aten::linear"])),
    "reset of several": (BASE, "keep", lambda table: table.change(
        Updated, lambda _: [("aten::mm", PRESERVE, None), ("aten::linear", RESET, None)])),
    "revert": (BASE, "no_override", lambda table: table.revert(3)),
    "revert to a tag": (BASE, "no_override", lambda table: table.revert("one")),
    "revert to before": (BASE, "keep", lambda table: table.revert(1)),
    "preserve without a reason": (REASON, "require_reason", lambda table: table.preserve(["aten::mm"])),
    "preserve by another actor": (ACTORS, "actors", lambda table: table.preserve(["aten::mm"])),
    "reset by another actor": (ACTORS, "actors", lambda table: table.reset(["aten::linear"])),
    "tag by another actor": (ACTORS, "actors", lambda table: table.tag("two")),
    "a change of a fork": (BASE, "no_override", lambda table: override(table.fork(), "aten::softmax.int", "g")),
    "a change of a named fork": (BASE, "keep", lambda table: _fork(table).reset(["aten::linear"])),
}  # fmt: skip


def _of_override(op: str) -> list[tuple[str, str, dl.Decomposition | None]]:
    return [(op, "override", dl.Decomposition("import", "mypkg.lower", "f", digest="5" * 64))]


def _fork(table: TableLog) -> TableLog:
    assert table.ledger is not None
    return table.fork_as(f"fork{len(table.ledger.tables())}")


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_change_writes_nothing(name: str, tmp_path: Path) -> None:
    policy, broken, change = REFUSED[name]
    path = tmp_path / "l.db"
    with Ledger(path, actor="Ada", reason="made") as ledger:
        prepared(ledger)
    with Ledger(path, actor="Ada", policy=policy) as ledger:
        table = ledger.table_log("edge")
        before = table.now
        events = [event for event in ledger.events() if event.kind != "created"]
        with pytest.raises(PolicyError, match=f"the policy '{broken}' of the project refuses the change: ") as raised:
            change(table)
        assert [each.policy for each in raised.value.broken][:1] == [broken]  # type: ignore[attr-defined]
        assert table.now[1:5] == before[1:5]
        assert [event for event in ledger.events() if event.kind != "created"] == events
        assert ledger.verify().ok
        # Without the policy, the same change is made.
        with Ledger(path, actor="Ada", policy=Policy()) as free:
            change(free.table_log("edge"))
            assert len([event for event in free.events() if event.kind != "created"]) == len(events) + 1


def test_each_kind_of_change_of_a_table_log_is_tried() -> None:
    """Every public method of a table log that appends a change or a tag is in the table above."""
    changing = {"preserve", "reset", "revert", "tag", "change"}
    others = {
        *("adopt", "at", "blame", "changed_since", "create", "create_or_open", "detach", "diff", "events", "exported"),
        *(
            "fork",
            "fork_as",
            "history",
            "is_recorded",
            "materialize",
            "open",
            "past",
            "replace_rules",
            "sync",
            "to_dicts",
            "used",
        ),
    }
    public = {name for name in dir(TableLog) if callable(getattr(TableLog, name)) and not name.startswith("_")}
    assert public == changing | others
    tried = " ".join(REFUSED)
    assert all(name in tried for name in changing - {"change"})


def test_what_no_policy_forbids_is_made(ledger: Ledger) -> None:
    with Ledger(ledger.path, actor="Bob", policy=Policy(keep="aten::linear", actors="Bob", enforce=True)) as opened:
        table = new_table(opened)
        table.preserve(["aten::linear", "aten::mm"])
        table.reset(["aten::mm"])
        override(table, "aten::mm", "f")
        empty = new_table(opened, "bare", base="empty")
        empty.preserve(["aten::linear"])
        empty.reset(["aten::linear"])  # an empty base keeps it all the same
        assert (table.version, empty.version) == (4, 3)


def test_a_reason_from_any_place_is_one(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db", policy=REASON) as ledger:
        table = new_table(ledger)
        table.preserve(["aten::mm"], reason="why")
        with ledger.because("why"):
            table.preserve(["aten::bmm"])
        table.reset(["aten::mm"])  # nothing is left to have a reason
        assert table.version == 4
    with Ledger(tmp_path / "l.db", policy=REASON, reason="why") as ledger:
        ledger.table_log("edge").preserve(["aten::mm"])


@pytest.mark.parametrize(("dirty", "refused"), [(True, True), (False, False), (None, False), ("unknown", False)])
def test_a_tag_of_a_dirty_tree_is_refused(tmp_path: Path, dirty: object, refused: bool) -> None:
    with Ledger(tmp_path / "l.db", policy=Policy(clean_tags=True, enforce=True)) as ledger:
        table = new_table(ledger)
        ledger.origin = lambda: ("Ada", None, {} if dirty is None else {"git_dirty": dirty})  # type: ignore[assignment, method-assign, return-value, dict-item]
        if refused:
            with pytest.raises(PolicyError, match=r"'clean_tags' .*: the git tree has changes that are not committed"):
                table.tag("one")
        else:
            table.tag("one")
        assert bool(ledger.tags("edge")) is not refused


def test_several_broken_policies_are_all_named(tmp_path: Path) -> None:
    policy = Policy(actors="Bob", require_reason=True, no_override="*", enforce=True)
    with Ledger(tmp_path / "l.db", actor="Ada", policy=policy) as ledger:
        table = new_table(ledger)
        with pytest.raises(PolicyError, match=r"Ada is not an allowed actor.*\(2 more\)$") as raised:
            override(table, "aten::mm", "f")
        assert [each.policy for each in raised.value.broken] == ["actors", "require_reason", "no_override"]  # type: ignore[attr-defined]


def test_without_enforce_nothing_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db", policy=Policy(require_reason=True)) as ledger:
        new_table(ledger).preserve(["aten::mm"])
        assert not ledger.gate().passed


# Where the policy comes from


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with Ledger(tmp_path / "decomp_ledger.db", actor="Ada", reason="made") as ledger:
        prepared(ledger)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.decomp-ledger.policy]\nkeep = ["aten::linear"]\nno_override = ["aten::softmax"]\nactors = ["Ada"]\n'
        "enforce = true\n"
    )
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    return tmp_path


def test_a_python_program_has_the_policy_of_its_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(project / "decomp_ledger.db", actor="Ada") as ledger:
        with pytest.raises(PolicyError):
            ledger.revert("edge", 3)
        assert ledger.policy == dl.project_settings().policy
    monkeypatch.chdir(project.parent)
    with Ledger(project / "decomp_ledger.db", actor="Ada") as ledger:
        assert ledger.revert("edge", 3) is not None


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [("revert edge --to 3 --actor Ada", "no_override"), ("revert edge --to 1 --actor Ada", "keep"),
     ("revert edge --to 1 --actor Eve", "actors"), ("tag edge two --actor Eve", "actors")],
)  # fmt: skip
def test_a_command_that_breaks_a_policy_is_refused(project: Path, arguments: str, policy: str) -> None:
    with Ledger(project / "decomp_ledger.db", read_only=True) as ledger:
        head = ledger.event_store.head()
    done = CliRunner().invoke(cli, arguments.split(), standalone_mode=False)
    assert isinstance(done.exception, PolicyError) and f"the policy '{policy}'" in str(done.exception)
    with Ledger(project / "decomp_ledger.db", read_only=True) as ledger:
        assert ledger.event_store.head() == head


def test_wrong_settings_stop_a_change_and_name_the_file(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.decomp-ledger.policy]\nenforced = true\n")
    with Ledger(project / "decomp_ledger.db", actor="Ada") as ledger:
        with pytest.raises(dl.UnusableValue, match=r"pyproject\.toml: .*'enforced' is unknown"):
            ledger.table_log("edge").preserve(["aten::mm"])
        assert ledger.table_log("edge").version == 4


def test_history_is_loaded_as_it_is(project: Path, tmp_path: Path) -> None:
    with Ledger(project / "decomp_ledger.db", read_only=True) as ledger:
        dumped = ledger.dump(tmp_path / "dump.jsonl")
        kinds = [event.kind for event in ledger.events()]
    assert dl.load_dump(dumped, tmp_path / "new.db").ok
    dl.restore(tmp_path / "new.db", tmp_path / "again.db")
    with Ledger(tmp_path / "again.db", read_only=True) as ledger:
        assert [event.kind for event in ledger.events()] == kinds


def test_the_settings_are_read_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr("decomp_ledger.log.ledger_log.project_settings", lambda: read.append(1) or dl.Settings(Path()))
    with Ledger(project / "decomp_ledger.db", actor="Ada") as ledger:
        assert read == []
        for op in ("aten::mm", "aten::bmm", "aten::add.Tensor"):
            ledger.table_log("edge").preserve([op])
    assert read == [1]
