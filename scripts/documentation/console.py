"""Run the terminal examples of the documentation, and write what they print.

In a page, a ```console block is run: each `$ ` line with bash, all of a page in one new folder, with the files of
scripts/demo_program and those that a ```python title="NAME" block gives. A ```shell block is only shown.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

BLOCK = re.compile(r"^```(console|python title=\"([\w.]+)\")\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a reader does not need.
ENVIRONMENT = {
    "DECOMP_LEDGER_ACTOR": "Ada <ada@example.org>",
    "PYTHONWARNINGS": "ignore",
    "TORCH_LOGS": "-all",
    "COLUMNS": "100",
}


def pages(root: Path) -> list[Path]:
    """Return the pages that may have terminal examples."""
    found = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return [path for path in found if "```console\n" in path.read_text(encoding="utf-8")]


def environment(root: Path, folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the commands: `decomp-ledger` is this checkout's, `python` the one that runs this.

    `pytest` finds the plugin of decomp_ledger where the package is installed, as scripts/venv does it.
    """
    programs = folder / ".programs"
    programs.mkdir()
    for name, arguments in (("python", ""), ("decomp-ledger", " -m decomp_ledger"), ("pytest", " -m pytest")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    given = {**os.environ, **more}
    outside = {name: value for name, value in given.items() if not name.startswith("DECOMP_LEDGER")}
    path = f"{programs}{os.pathsep}{given['PATH']}"
    return {**outside, **ENVIRONMENT, "PATH": path, "PYTHONPATH": str(root)}


@contextmanager
def postgresql(root: Path) -> Iterator[dict[str, str]]:
    """Run a PostgreSQL for the pages that ask one; give the variables with which its programs find it."""
    sys.path.insert(0, str(root / "tests" / "support"))
    from postgresql import running_server

    with running_server() as server:
        yield server.variables()


def run(command: str, folder: Path, variables: dict[str, str]) -> str:
    """Run a command, and return what it printed.

    Raises:
        RuntimeError: it failed. A difference that decomp-ledger found is status 1, and no failure.
    """
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=variables, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    fine = (0, 1) if command.startswith("decomp-ledger") else (0,)
    if done.returncode not in fine or "Traceback" in done.stdout:
        raise RuntimeError(f"$ {command}\nstatus {done.returncode}\n{done.stdout}")
    return "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())


def refreshed(path: Path, root: Path, more: Mapping[str, str] | None = None) -> str:
    """Return a page with what its terminal examples print now.

    Args:
        path: the page.
        root: the checkout.
        more: variables of the environment of the commands that this process does not have.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        variables = environment(root, folder, more or {})
        for program in (root / "scripts" / "demo_program").glob("*.py"):
            shutil.copy(program, folder)

        def block(match: re.Match[str]) -> str:
            _, title, text = match.groups()
            if title:
                (folder / title).write_text(text, encoding="utf-8")
                return match[0]
            found = ["```console"]
            for line in text.splitlines():
                if line.startswith("$ "):
                    # A comment of the command is for the reader.
                    found += [line, *run(re.sub(r" {2,}# .*", "", line[2:]), folder, variables).splitlines()]
            return "\n".join([*found, "```"])

        return BLOCK.sub(block, path.read_text(encoding="utf-8"))
