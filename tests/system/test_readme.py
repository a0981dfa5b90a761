"""What README.md and docs/ show is so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
# A block with a title is a file, which a terminal example runs.
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def examples(page: Path) -> list[str]:
    return EXAMPLE.findall(page.read_text(encoding="utf-8"))


def run_examples(page: Path, folder: Path) -> str:
    (folder / "tour.py").write_text("\n".join(examples(page)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:__main__", "tour.py"],
        cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "DECOMP_LEDGER_ACTOR": "Ada"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_examples_of_the_readme_run_in_a_new_process(tmp_path: Path) -> None:
    assert len(examples(README)) >= 3
    printed = [line.split() for line in run_examples(README, tmp_path).splitlines()]
    assert [words[:4] for words in printed] == [["2", "edge", "popped", "Ada"], ["8", "edge", "reverted", "Ada"]]


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if examples(page)], ids=lambda page: page.stem)
def test_the_python_examples_of_a_page_run_in_a_new_process(page: Path, tmp_path: Path) -> None:
    run_examples(page, tmp_path)


@pytest.fixture
def documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "documentation"))


@pytest.mark.usefixtures("documentation")
def test_the_terminal_examples_of_the_tutorial_run() -> None:
    import console

    refreshed = console.refreshed(ROOT / "docs" / "tutorial.md", ROOT)  # raises if a command fails
    assert "export_mlp.py:16 in backend_table" in refreshed


@pytest.mark.usefixtures("documentation")
def test_the_terminal_examples_about_own_ops_run(tmp_path: Path) -> None:
    import console
    import torch

    text = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    page = tmp_path / "own_ops.md"  # this section alone, because the others export a Llama
    page.write_text(text[text.index("## Your own ops") : text.index("## Tested versions")], encoding="utf-8")
    refreshed = console.refreshed(page, ROOT)
    assert "      %0 = sigmoid(x0): f32[2, 3]        | %0 = silu(x0): f32[2, 3]\n" in refreshed
    if str(torch.__version__) == "2.13.0+cpu":
        assert refreshed == page.read_text(encoding="utf-8")


def test_generated_pages_are_up_to_date_and_links_lead_somewhere() -> None:
    command = [sys.executable, str(ROOT / "scripts/docs"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("documentation")
def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    import links

    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text("# A `x.y` thing\n[out](../a.md)\n", encoding="utf-8")
    good = "[1](docs/b.md#a-xy-thing) [2](https://example.org) `[3](none.md)`\n```text\n[4](none.md)\n```\n"
    (tmp_path / "a.md").write_text(f"{good}[5](none.md) [6](docs/b.md#none) [7](#none)", encoding="utf-8")
    assert links.problems(tmp_path) == [
        "a.md: dead link to none.md",
        "a.md: docs/b.md#none names no heading",
        "a.md: #none names no heading",
        "docs/b.md: the link to ../a.md leaves docs/, and the site lacks it",
    ]


@pytest.mark.usefixtures("documentation")
def test_a_member_that_no_class_has_is_found() -> None:
    import python_reference

    assert python_reference.unknown_members(["append", "list.append", "str.append", "none"], [list]) == [
        "none",
        "str.append",
    ]


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 160


def test_every_command_that_the_readme_names_is_there() -> None:
    from decomp_ledger.cli import cli

    named = set(re.findall(r"decomp-ledger ([a-z]+)", README.read_text(encoding="utf-8")))
    assert len(named) >= 10
    assert named <= set(cli.list_commands(None))


def test_only_documented_names_are_public_and_all_of_them_are_there() -> None:
    import decomp_ledger

    for name in decomp_ledger.__all__:
        assert getattr(decomp_ledger, name).__doc__, name
    assert {*decomp_ledger.__all__, "__version__"} == set(dir(decomp_ledger))
