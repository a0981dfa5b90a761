"""The settings of a project, and the pager."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest

from decomp_ledger import Ledger, LedgerError, project_settings
from decomp_ledger.log import settings
from decomp_ledger.model.policy import Policy


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with settings, a ledger that they name, and a folder deep inside."""
    (tmp_path / "src/deep").mkdir(parents=True)
    (tmp_path / "audit").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n\n[tool.decomp-ledger]\nledger = "audit/l.db"\nactor = "CI"\ntrust = ["mylib.lower"]\n'
    )
    with Ledger(tmp_path / "audit/l.db", actor="Ada") as ledger:
        ledger.create_table("edge").preserve(["mylib::op"])
    return tmp_path


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DECOMP_LEDGER")}
    return subprocess.run(
        [sys.executable, "-m", "decomp_ledger", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**env, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


def test_the_settings_hold_in_every_folder_below(project: Path) -> None:
    for folder in (project, project / "src", project / "src/deep"):
        found = project_settings(folder)
        assert (found.ledger, found.actor, found.trust) == (project / "audit/l.db", "CI", ("mylib.lower",))
        assert found.file == project / "pyproject.toml"
        assert "edge" in command(folder, "tables").stdout


def test_a_policy_is_read_with_the_settings(project: Path) -> None:
    file = project / "pyproject.toml"
    file.write_text(file.read_text() + "[tool.decomp-ledger.policy]\nkeep = ['quantized::*']\nopset = 'core-aten'\n")
    found = project_settings(project / "src")
    assert (found.actor, found.policy) == ("CI", Policy(keep=["quantized::*"], opset="core-aten"))
    (project / "core-aten").write_text("{}")  # a file of that name comes first
    assert project_settings(project / "src").policy.opset == str(project / "core-aten")


def test_the_nearest_ledger_wins_and_the_settings_still_say_who(project: Path) -> None:
    near = project / "src" / "decomp_ledger.db"
    Ledger(near).close()
    found = project_settings(project / "src/deep")
    assert (found.ledger, found.actor) == (near, "CI")


def test_without_settings_the_ledger_of_a_folder_above_is_found(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert project_settings(below) == settings.Settings(below / "decomp_ledger.db")
    Ledger(tmp_path / "decomp_ledger.db").close()
    assert project_settings(below).ledger == tmp_path / "decomp_ledger.db"
    done = command(below, "run", "-m", "this")
    assert done.stderr.count("nothing was recorded") == 1
    assert not (below / "decomp_ledger.db").exists()


def test_a_command_writes_as_the_actor_of_the_project_unless_another_is_named(project: Path) -> None:
    assert command(project, "tag", "edge", "one").returncode == 0
    assert command(project, "tag", "edge", "two", DECOMP_LEDGER_ACTOR="Eve").returncode == 0
    assert command(project, "tag", "edge", "three", "--actor", "Bob").returncode == 0
    with Ledger(project / "audit/l.db", read_only=True) as ledger:
        assert [event.actor for event in ledger.events(kind="tagged")] == ["CI", "Eve", "Bob"]


WRONG = {
    "not TOML": ("[tool.decomp-ledger\n", "not valid TOML"),
    "not a table": ('[tool]\ndecomp-ledger = "x"\n', "not a table"),
    "too deep": (f"[tool.decomp-ledger]\nledger = {'[' * 5000}", "not valid TOML"),
    "a ledger of another type": ("[tool.decomp-ledger]\nledger = 3\n", "ledger is 3; give a text"),
    "no actor": ('[tool.decomp-ledger]\nactor = ""\n', "actor is ''; give a text"),
    "trust of another type": ('[tool.decomp-ledger]\ntrust = "os"\n', "give a list of module names"),
    "a policy of another type": (
        "[tool.decomp-ledger]\npolicy = 3\n",
        "[tool.decomp-ledger.policy]: policy is 3; write",
    ),
    "an unknown key of a policy": ("[tool.decomp-ledger.policy]\nkep = []\n", "[tool.decomp-ledger.policy]: 'kep' is"),
    "a wrong value of a policy": ("[tool.decomp-ledger.policy]\nenforce = 1\n", "policy]: enforce is 1; give true or"),
    "a pattern of nothing": (
        '[tool.decomp-ledger.policy]\nkeep = ["aten.*"]\n',
        "policy]: keep: 'aten.*': it matches no",
    ),
    "an unknown key": (
        "[tool.decomp-ledger]\nledgre = 'x'\n",
        "'ledgre' is unknown; the keys are ledger, actor, trust",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_one_line_that_names_the_file(tmp_path: Path, name: str) -> None:
    text, message = WRONG[name]
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(LedgerError) as caught:
        project_settings(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'pyproject.toml'}: ") and message in str(caught.value)
    done = command(tmp_path, "tables")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_other_projects_files_cost_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nx = [\n")  # not TOML, and not ours
    assert project_settings(tmp_path).file is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_files_of_another_user_are_ignored_and_named(project: Path) -> None:
    os.chown(project / "pyproject.toml", 12345, 12345)
    Ledger(project / "decomp_ledger.db").close()
    os.chown(project / "decomp_ledger.db", 12345, 12345)
    found = project_settings(project / "src")
    assert found.ledger == project / "src" / "decomp_ledger.db"
    assert (found.actor, found.trust) == (None, ())
    assert found.ignored == (project / "decomp_ledger.db", project / "pyproject.toml")
    assert "pyproject.toml: ignored, because it belongs to another user" in command(project / "src", "tables").stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_even_parsed(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.decomp-ledger\n")
    os.chown(tmp_path / "pyproject.toml", 12345, 12345)
    assert project_settings(tmp_path).ignored == (tmp_path / "pyproject.toml",)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["pyproject.toml", "decomp_ledger.db"])
@pytest.mark.parametrize("hops", [1, 2])
def test_a_link_of_another_user_to_an_own_file_is_ignored(project: Path, name: str, hops: int) -> None:
    below = project / "shared" / "work"
    below.mkdir(parents=True)
    own = project / "pyproject.toml" if name == "pyproject.toml" else project / "audit/l.db"
    for number in range(hops - 1):  # a link of this user to the file
        (project / f"link{number}").symlink_to(own)
        own = project / f"link{number}"
    (below.parent / name).symlink_to(own)
    os.lchown(below.parent / name, 12345, 12345)
    found = project_settings(below)
    assert found.ignored == (below.parent / name,)
    assert found.file == project / "pyproject.toml" and found.ledger == project / "audit/l.db"
    os.lchown(below.parent / name, 0, 0)
    assert project_settings(below).ignored == ()


def test_settings_of_more_bytes_than_the_limit_are_one_error_and_cost_little(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    for start, is_refused in ((b"[tool.decomp-ledger]\nactor = 'CI'\n#", True), (b"[tool.other]\n#", False)):
        with file.open("wb") as opened:
            opened.write(start)
            opened.truncate(1 << 40)  # more than any memory, and no space on the disk
        if is_refused:
            with pytest.raises(LedgerError, match=r"pyproject\.toml: it has more than 1048576 bytes"):
                project_settings(tmp_path)
        else:
            assert project_settings(tmp_path).file is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_a_large_file_of_another_user_stops_no_command(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    with file.open("wb") as opened:
        opened.write(b"[tool.decomp-ledger]\n")
        opened.truncate(1 << 40)
    os.chown(file, 12345, 12345)
    assert project_settings(tmp_path).ignored == (file,)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pyproject.toml")
    code = "from decomp_ledger.log.settings import project_settings; print(project_settings().file)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.stdout == "None\n"


def test_a_removed_folder_gives_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os; os.rmdir(os.getcwd()); from decomp_ledger.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "tables"], cwd=gone, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


# The pager.


def on_a_terminal(path: Path, *arguments: str, **environment: str) -> str:
    """Run a command on a terminal, and return what it shows."""
    ours, theirs = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "PAGER")}
    command = [sys.executable, "-m", "decomp_ledger", "--ledger", str(path), *arguments]
    done = subprocess.run(
        command, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False,
        env={**env, "TERM": "xterm", "COLUMNS": "200", **environment},
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 100_000).decode() if done.returncode == 0 else ""
    os.close(ours)
    return shown + done.stderr


@pytest.fixture
def ledger_file(project: Path) -> Path:
    """The ledger of the project."""
    return project / "audit/l.db"


@pytest.mark.parametrize("arguments", [["log"], ["show", "edge"], ["blame", "edge"], ["tables"]])
def test_a_terminal_gets_the_output_through_the_pager(ledger_file: Path, arguments: list[str]) -> None:
    plain = on_a_terminal(ledger_file, "--no-pager", *arguments)
    paged = on_a_terminal(ledger_file, *arguments, PAGER="sed 's/^/| /'")
    assert paged.splitlines() == [f"| {line}" for line in plain.splitlines()]
    assert plain == on_a_terminal(ledger_file, *arguments, PAGER="cat")
    assert plain == on_a_terminal(ledger_file, *arguments, PAGER="sed 's/^/| /'", DECOMP_LEDGER_PAGER="")


def test_colours_reach_the_pager_unless_they_are_off(ledger_file: Path) -> None:
    coloured = on_a_terminal(ledger_file, "log", PAGER="sed ''")
    assert click.unstyle(coloured) != coloured
    plain = on_a_terminal(ledger_file, "log", PAGER="sed ''", NO_COLOR="1")
    assert plain == click.unstyle(coloured)


def test_nothing_is_paged_that_a_program_reads(ledger_file: Path) -> None:
    assert "| " not in on_a_terminal(ledger_file, "log", "--json", PAGER="sed 's/^/| /'")[:2]
    assert "edge" in command(ledger_file.parent, "--ledger", "l.db", "tables", PAGER="false").stdout


def test_a_reader_that_leaves_the_pager_early_changes_nothing(ledger_file: Path) -> None:
    assert on_a_terminal(ledger_file, "log", PAGER="head -n 1").count("\n") == 1


def test_an_error_is_shown_after_the_pager(ledger_file: Path) -> None:
    assert "'nosuch'" in on_a_terminal(ledger_file, "blame", "nosuch", PAGER="sed ''")
