"""Provenance of events: actor, call site and environment, from the settings, git and the machine."""

import getpass
import os
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hostile_trees
import pytest
from strategies import (
    new_table,
    run_python,
)

from decomp_ledger.errors import UnusableValue
from decomp_ledger.ledger import Ledger
from decomp_ledger.log import git as git_questions
from decomp_ledger.log import provenance
from decomp_ledger.model.events import CallSite

CI = ("GITHUB_RUN_ID", "CI_JOB_URL", "BUILDKITE_BUILD_URL", "CIRCLE_BUILD_URL", "BUILD_URL")


@pytest.fixture(autouse=True)
def plain_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Remove this machine's settings, and clear the caches before and after each test."""
    for name in (*CI, "DECOMP_LEDGER_ACTOR", "DECOMP_LEDGER_CAPTURE", "GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(provenance, "torch_facts", None)
    monkeypatch.chdir(tmp_path)
    forget()
    yield
    forget()


def forget() -> None:
    """Clear the caches."""
    provenance._environments.clear()
    git_questions._slow.clear()
    for cached in (
        provenance._person,
        provenance._shortened,
        provenance._site,
        provenance._kind,
        provenance._libraries,
        provenance._tree,
        provenance._machine,
    ):
        cached.cache_clear()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Name a git working tree with one commit."""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "Ann Lee")
    git(tmp_path, "config", "user.email", "ann@example.com")
    (tmp_path / "lower.py").write_text("x = 1\n")
    git(tmp_path, "add", "lower.py")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, and return what it prints."""
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide git."""
    monkeypatch.setenv("PATH", str(tmp_path / "no-such-folder"))


# Actor


def test_the_actor_is_the_one_given_then_the_setting_then_git_s_user_then_the_login_name(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "login")
    monkeypatch.setenv("DECOMP_LEDGER_ACTOR", "setting")
    assert provenance.actor("given") == "given"
    assert provenance.actor() == "setting"
    monkeypatch.delenv("DECOMP_LEDGER_ACTOR")
    assert provenance.actor() == "Ann Lee <ann@example.com>"
    git(tree, "config", "--unset", "user.email")
    forget()
    assert provenance.actor() == "Ann Lee"
    git(tree, "config", "--unset", "user.name")
    git(tree, "config", "user.email", "ann@example.com")
    forget()
    assert provenance.actor() == "ann@example.com"
    git(tree, "config", "--unset", "user.email")
    forget()
    assert provenance.actor() == "login"


def test_an_empty_actor_counts_as_omitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOMP_LEDGER_ACTOR", "setting")
    assert provenance.actor("") == "setting"
    monkeypatch.setenv("DECOMP_LEDGER_ACTOR", "")
    monkeypatch.setattr(getpass, "getuser", lambda: "login")
    assert provenance.actor() == "login"


def test_without_git_the_actor_is_the_login_name(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_git(monkeypatch, tree)
    monkeypatch.setattr(getpass, "getuser", lambda: "login")
    assert provenance.actor() == "login"
    assert "git_commit" not in provenance.environment()


@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("no username")])
def test_a_user_without_a_name_is_recorded_by_number(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def getuser() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", getuser)
    assert provenance.actor() == f"uid {os.getuid()}"


def test_an_invalid_actor_is_refused_and_the_login_name_is_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UnusableValue, match="the actor has a lone surrogate"):
        provenance.actor("\udcff")
    monkeypatch.setattr(getpass, "getuser", lambda: os.fsdecode(b"ann\xff"))
    assert provenance.actor() == "ann\\udcff"


def test_each_event_has_its_own_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(":memory:") as ledger:
        for name in ("ann", "bob"):
            monkeypatch.setenv("DECOMP_LEDGER_ACTOR", name)
            new_table(ledger, name)
        ledger.actor = "cid"
        new_table(ledger, "cid")
        assert [event.actor for event in ledger.events()] == ["ann", "bob", "cid"]


# Environment


def test_the_environment_has_the_machine_and_the_working_tree(tree: Path) -> None:
    facts = provenance.environment()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3])) or "+" in str(facts["python"])
    assert facts["host"] == socket.gethostname()
    assert facts["platform"].startswith(os.uname().sysname)
    assert facts["git_commit"] == git(tree, "rev-parse", "HEAD")
    assert facts["git_dirty"] is False
    assert "ci_run" not in facts


def test_a_working_tree_with_changes_is_dirty_and_one_with_new_files_is_not(tree: Path) -> None:
    (tree / "new.py").write_text("")
    assert provenance.environment()["git_dirty"] is False
    (tree / "lower.py").write_text("x = 2\n")
    forget()
    assert provenance.environment()["git_dirty"] is True


def test_the_environment_outside_a_working_tree_has_no_commit() -> None:
    assert {"git_commit", "git_dirty"}.isdisjoint(provenance.environment())


def test_a_tree_has_a_top_folder_and_a_last_commit(tree: Path) -> None:
    (tree / "below").mkdir()
    empty = tree / "empty"
    empty.mkdir()
    git(empty, "init", "--quiet")
    found = [git_questions.tree(str(folder)) for folder in (tree, tree / "below", empty, Path("/"))]
    commit = git(tree, "rev-parse", "HEAD")
    top = str(tree.resolve())
    assert found == [(top, commit), (top, commit), (str(empty.resolve()), ""), ("", "")]


def test_the_environment_is_one_object_until_something_changes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = provenance.environment()
    assert provenance.environment() is first
    monkeypatch.setenv("DECOMP_LEDGER_CAPTURE", "minimal")
    minimal = provenance.environment()
    assert minimal != first
    monkeypatch.delenv("DECOMP_LEDGER_CAPTURE")
    assert provenance.environment() is first


def test_torch_facts_are_part_of_the_environment_and_read_again_when_their_key_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    libraries, asked = ["a"], []

    def facts() -> tuple[object, Callable[[], dict[str, object]]]:
        def part() -> dict[str, object]:
            asked.append(tuple(libraries))
            return {"torch": "2.13.0", "libraries": list(libraries)}

        return tuple(libraries), part

    monkeypatch.setattr(provenance, "torch_facts", facts)
    assert provenance.environment()["libraries"] == ["a"]
    assert provenance.environment()["torch"] == "2.13.0"
    libraries.append("b")
    assert provenance.environment()["libraries"] == ["a", "b"]
    assert asked == [("a",), ("a", "b")]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {
                "GITHUB_SERVER_URL": "https://github.com",
                "GITHUB_REPOSITORY": "me/models",
                "GITHUB_RUN_ID": "7",
            },
            "https://github.com/me/models/actions/runs/7",
        ),
        ({"CI_JOB_URL": "https://gitlab.com/me/models/-/jobs/7"}, "https://gitlab.com/me/models/-/jobs/7"),
        ({"BUILDKITE_BUILD_URL": "https://buildkite.com/me/7"}, "https://buildkite.com/me/7"),
        ({"CIRCLE_BUILD_URL": "https://circleci.com/7"}, "https://circleci.com/7"),
        ({"BUILD_URL": "https://jenkins.example.com/7/"}, "https://jenkins.example.com/7/"),
        ({"BUILD_URL": ""}, None),
    ],
    ids=["github", "gitlab", "buildkite", "circle", "jenkins", "empty"],
)
def test_the_address_of_the_ci_run_is_recorded(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: str | None
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert provenance.environment().get("ci_run") == expected


def test_an_incomplete_ci_run_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    assert "None" not in str(provenance.environment().get("ci_run", ""))


# Call site


def call_from(file: Path | str, function: str = "lower") -> CallSite | None:
    """Return the call site of a call in line 3 of a file, without the lines around it."""
    code = compile(f"\ndef {function}(ask):\n    return ask()\n", os.fspath(file), "exec")
    scope: dict[str, Callable[..., CallSite | None]] = {}
    exec(code, scope)
    return line_of(scope[function](provenance.call_site))


def line_of(site: CallSite | None) -> CallSite | None:
    """Return a call site without the lines around it."""
    return None if site is None else CallSite(site.file, site.line, site.function)


def test_the_call_site_is_the_line_of_the_caller() -> None:
    with Ledger(":memory:", actor="ann") as ledger:
        table = new_table(ledger)

        def lower() -> None:
            table.preserve(
                ["aten::mm"],
            )

        lower()
        (event,) = ledger.events(kind="popped")
    assert event.call_site is not None
    assert event.call_site.file.endswith(Path(__file__).name)
    assert event.call_site.line == lower.__code__.co_firstlineno + 1
    assert event.call_site.function.endswith("lower")


def test_a_library_that_changes_a_table_is_named_by_its_own_line(tmp_path: Path) -> None:
    library = Path(sysconfig.get_path("purelib")) / "somelib" / "lower.py"
    code = compile("def lower(table):\n    table.preserve(['aten::mm'])\n", str(library), "exec")
    scope: dict[str, Callable[[object], None]] = {}
    exec(code, scope)
    with Ledger(":memory:", actor="ann") as ledger:
        scope["lower"](new_table(ledger))
        (event,) = ledger.events(kind="popped")
    assert line_of(event.call_site) == CallSite("somelib/lower.py", 2, "lower")
    assert event.call_site is not None and event.call_site.caller is not None
    assert event.call_site.caller.file.endswith(Path(__file__).name)


def calls(*files: Path | str) -> CallSite | None:
    """Return the call site of functions that call each other, the last one innermost, each in line 3 of a file."""
    ask: Callable[[], CallSite | None] = provenance.call_site
    for number, file in reversed(list(enumerate(files))):
        scope: dict[str, Callable[..., Callable[[], CallSite | None]]] = {}
        code = f"def make(ask):\n    def f{number}():\n        return ask()\n    return f{number}\n"
        exec(compile(code, os.fspath(file), "exec"), scope)
        ask = scope["make"](ask)
    return ask()


LIBRARY = Path(sysconfig.get_path("purelib")) / "somelib"


def test_the_call_site_has_the_six_innermost_lines(tmp_path: Path) -> None:
    found = calls(*(tmp_path / f"f{number}.py" for number in range(9)))
    assert found is not None
    assert [frame.file for frame in found.frames] == [f"f{number}.py" for number in (8, 7, 6, 5, 4, 3)]
    assert [frame.line for frame in found.frames] == [3] * 6
    assert (found.inner, found.frames[0], found.frames[1:]) == ((), found.frame, found.callers)


def test_the_user_s_line_is_kept_however_deep_a_library_is(tmp_path: Path) -> None:
    found = calls(tmp_path / "main.py", tmp_path / "export.py", *(LIBRARY / f"l{number}.py" for number in range(9)))
    assert found is not None
    files = [f"somelib/l{number}.py" for number in (8, 7, 6, 5, 4)]
    assert [frame.file for frame in found.frames] == [*files, "export.py"]
    assert str(found.caller).startswith("export.py:3 in ")


def test_lines_of_torch_within_the_user_s_are_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = tmp_path / "site" / "torch"
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    monkeypatch.setattr(sys.modules["torch"], "__file__", str(torch / "__init__.py"), raising=False)
    inside = [torch / "export" / f"t{number}.py" for number in range(5)]
    found = calls(tmp_path / "main.py", torch / "outer.py", LIBRARY / "lower.py", *inside)
    assert found is not None
    assert [frame.file for frame in found.inner] == [f"torch/export/t{number}.py" for number in (4, 3, 2)]
    assert found.file == "somelib/lower.py"
    assert [frame.file for frame in found.callers] == ["torch/outer.py", "main.py"]


@pytest.mark.parametrize("scheme", ["purelib", "platlib", "stdlib"])
def test_a_file_of_an_installed_library_is_named_from_there(scheme: str) -> None:
    path = Path(sysconfig.get_path(scheme)) / "somelib" / "lower.py"
    assert call_from(path) == CallSite("somelib/lower.py", 3, "lower")


def test_a_file_of_the_working_tree_is_named_from_its_root(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tree / "scripts" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert call_from(tree / "lib" / "lower.py") == CallSite("lib/lower.py", 3, "lower")
    assert call_from("lower.py") == CallSite("scripts/deep/lower.py", 3, "lower")


def test_a_file_outside_a_working_tree_is_named_from_the_current_folder(tmp_path: Path) -> None:
    assert call_from(tmp_path / "lib" / "lower.py") == CallSite("lib/lower.py", 3, "lower")
    assert call_from("lower.py") == CallSite("lower.py", 3, "lower")


def test_a_file_elsewhere_is_named_in_full(tree: Path) -> None:
    assert call_from("/opt/elsewhere/lower.py") == CallSite("/opt/elsewhere/lower.py", 3, "lower")


@pytest.mark.parametrize("name", ["<string>", "<stdin>", "<ipython-input-1>"])
def test_code_without_a_file_is_named_as_python_names_it(name: str) -> None:
    assert call_from(name) == CallSite(name, 3, "lower")


def test_a_file_name_that_is_not_utf_8_is_escaped(tmp_path: Path) -> None:
    with Ledger(":memory:", actor="ann") as ledger:
        code = compile("table.preserve(['aten::mm'])", os.fsdecode(os.fsencode(tmp_path) + b"/l\xff.py"), "exec")
        exec(code, {"table": new_table(ledger)})
        (event,) = ledger.events(kind="popped")
    assert line_of(event.call_site) == CallSite("l\\udcff.py", 1, "<module>")


def test_the_current_folder_may_have_a_name_that_is_not_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xff"))
    odd.mkdir()
    monkeypatch.chdir(odd)
    git(odd, "init", "--quiet")
    assert call_from("lower.py") == CallSite("lower.py", 3, "lower")
    with Ledger("ledger.db", actor="ann") as ledger:
        new_table(ledger)
        assert ledger.verify().ok


def test_a_working_tree_with_a_space_or_a_line_break_in_its_name_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "a tree"
    (odd / "deep").mkdir(parents=True)
    git(odd, "init", "--quiet")
    monkeypatch.chdir(odd / "deep")
    assert call_from(odd / "lower.py") == CallSite("lower.py", 3, "lower")


def test_a_method_is_named_with_its_class_where_python_tells() -> None:
    class Lowering:
        def run(self) -> CallSite | None:
            return provenance.call_site()

    found = Lowering().run()
    assert found is not None
    assert found.function == ("run" if sys.version_info < (3, 11) else Lowering.run.__qualname__)


def test_lines_that_several_events_have_are_stored_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        table = new_table(ledger)
        for op in ("aten::mm", "aten::addmm", "aten::bmm"):
            table.preserve([op])
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        assert db.execute("SELECT count(*) FROM provenance").fetchone() == (2,)  # of `created` and `popped`
    db.close()


# Minimal capture


def test_minimal_capture_leaves_out_host_user_and_paths(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOMP_LEDGER_CAPTURE", "minimal")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setattr(getpass, "getuser", lambda: "login")
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-host")
    with Ledger("ledger.db") as ledger:
        code = compile("table.preserve(['aten::mm'])", str(tree / "secret" / "lower.py"), "exec")
        exec(code, {"table": new_table(ledger)})
        (event,) = ledger.events(kind="popped")
        facts = ledger.environment(event.environment)
    assert event.actor == "unnamed"
    assert line_of(event.call_site) == CallSite("lower.py", 1, "<module>")
    assert event.call_site is not None and all("/" not in frame.file for frame in event.call_site.frames)
    assert facts.keys() == {"python", "platform", "git_commit", "git_dirty"}
    stored = b"".join(path.read_bytes() for path in tree.glob("ledger.db*"))
    for secret in (b"secret", b"login", b"Ann Lee", b"ann@example.com", os.fsencode(tree)):
        assert secret not in stored


@pytest.mark.parametrize("value", ["minimal", "MINIMAL", "Minimal"])
def test_minimal_is_accepted_in_any_case(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DECOMP_LEDGER_CAPTURE", value)
    assert provenance.is_minimal()


@pytest.mark.parametrize("value", ["", "full", "min"])
def test_any_other_capture_is_not_minimal(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DECOMP_LEDGER_CAPTURE", value)
    assert not provenance.is_minimal()


def test_a_given_actor_is_recorded_in_minimal_capture_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOMP_LEDGER_CAPTURE", "minimal")
    assert provenance.actor("ann") == "ann"
    monkeypatch.setenv("DECOMP_LEDGER_ACTOR", "bot")
    assert provenance.actor() == "bot"


# Failures of the machine

_DELETED = """
import os, sys, tempfile
from decomp_ledger.ledger import Ledger
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
with Ledger(sys.argv[1]) as ledger:
    table = ledger.create_table("edge")
    exec(compile("table.preserve(['aten::mm'])", "lower.py", "exec"))
    event = next(ledger.events(desc=True))
    print(event.call_site.file, bool(event.actor), ledger.verify().ok)
"""


def test_events_are_recorded_in_a_removed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Coverage, in processes that tests start, needs the current folder.
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
    # In a removed folder, CPython 3.13.0 cannot say that a module lacks an attribute if it may import from there.
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert run_python(_DELETED, tmp_path / "ledger.db").split() == ["lower.py", "True", "True"]


_DELETED_RELATIVE = """
import os, sys, tempfile
from decomp_ledger.errors import LedgerError
from decomp_ledger.ledger import Ledger
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
try:
    Ledger("ledger.db")
except LedgerError as error:
    print("refused")
"""


def test_a_relative_ledger_in_a_folder_that_was_removed_is_a_ledger_error() -> None:
    assert run_python(_DELETED_RELATIVE) == "refused\n"


@pytest.mark.parametrize("behaviour", ["exit 1", "sleep 60", "exec kill -9 $$"], ids=["fails", "hangs", "dies"])
def test_events_are_recorded_without_an_answer_from_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{behaviour}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(git_questions, "_SECONDS", 0.1)
    monkeypatch.setattr(getpass, "getuser", lambda: "login")
    assert provenance.actor() == "login"
    assert "git_commit" not in provenance.environment()


@pytest.mark.parametrize("name", sorted(hostile_trees.HOSTILE))
def test_git_runs_no_program_that_a_working_tree_names(name: str, tmp_path: Path) -> None:
    wrong, _ = hostile_trees.ran_in(tmp_path, hostile_trees.HOSTILE[name])
    assert wrong == ""


@pytest.mark.parametrize("driver", ["plain", "a=b", "x.y", 'q"u', "\u00e9", "unspecified"])
def test_dirtiness_is_unknown_only_where_a_filter_would_tell(tree: Path, driver: str) -> None:
    git(tree, "config", f"filter.{driver}.clean", f"touch {tree}/sprung; cat")
    git(tree, "config", f"filter.{driver}.required", "true")
    (tree / "big.bin").write_text("pointer")
    git(tree, "add", "big.bin")
    git(tree, "commit", "--quiet", "-m", "second")
    (tree / ".git" / "info" / "attributes").write_text(f"*.bin filter={driver}\n", encoding="utf-8")
    assert git_questions.is_dirty(str(tree)) is False
    (tree / "sprung").unlink(missing_ok=True)
    (tree / "big.bin").write_text("content")
    expected = True if '"' in driver else git_questions.FILTERED  # git ignores an attribute of that form
    assert git_questions.is_dirty(str(tree)) in (expected, git_questions.FILTERED)
    (tree / "lower.py").write_text("x = 2\n")
    unclear = driver == "unspecified"  # git prints the same for a file without a filter
    assert git_questions.is_dirty(str(tree)) == (git_questions.FILTERED if unclear else True)
    assert not (tree / "sprung").exists()


def test_a_tree_of_another_owner_is_left_to_git(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert "git_commit" not in provenance.environment()


def test_a_folder_that_made_git_slow_is_asked_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "fifo").unlink(missing_ok=True)
    os.mkfifo(tree / "fifo")
    git(tree, "config", "include.path", str(tree / "fifo"))
    monkeypatch.setattr(git_questions, "_SECONDS", 0.2)
    begun = time.monotonic()
    assert provenance.actor() and "git_commit" not in provenance.environment()
    assert time.monotonic() - begun < 2


def test_a_tree_that_makes_git_print_too_much_is_not_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_questions, "COMMAND_BYTES", 1000)
    git(tree, "config", "filter.x.clean", "x" * 2000)
    assert git_questions.is_dirty(str(tree)) == git_questions.SILENT
