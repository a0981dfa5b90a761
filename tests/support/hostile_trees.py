"""Working trees whose git settings name programs, and whether the provenance of an event runs one."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from decomp_ledger.log import git, provenance

Hostile: TypeAlias = Callable[[Path, str], None]  # gets a tree with changes, and a command that leaves a witness


def _config(*names: str, prefix: str = "") -> Hostile:
    def make(tree: Path, command: str) -> None:
        for name in names:
            run(tree, "config", "--add", name, prefix + command)

    return make


def _filter(driver: str, key: str, where: str = ".gitattributes") -> Hostile:
    def make(tree: Path, command: str) -> None:
        (tree / where).write_text(f"* filter={driver} diff={driver} merge={driver}\n", encoding="utf-8")
        run(tree, "config", f"filter.{driver}.{key}", command)
        run(tree, "config", f"filter.{driver}.required", "true")

    return make


def _included(tree: Path, command: str) -> None:
    (tree / "more").write_text(f'[filter "evil"]\nclean = {command}\n[core]\nfsmonitor = {command}\n', encoding="utf-8")
    run(tree, "config", "include.path", str(tree / "more"))
    (tree / ".gitattributes").write_text("* filter=evil\n", encoding="utf-8")


def _hooks(tree: Path, command: str) -> None:
    names = ("post-index-change", "fsmonitor-watchman", "post-checkout", "reference-transaction", "pre-commit")
    for folder in (tree / ".git" / "hooks", tree / "hooks"):
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
            (folder / name).chmod(0o755)
    run(tree, "config", "core.hooksPath", str(tree / "hooks"))


def _promised(tree: Path, command: str) -> None:
    """Make git fetch a missing object when it compares files."""
    names = run(tree, "rev-parse", "HEAD^{tree}", "HEAD:a.txt").split()
    run(tree, "config", "remote.origin.url", str(tree))
    run(tree, "config", "remote.origin.uploadpack", command)
    run(tree, "config", "remote.origin.promisor", "true")
    run(tree, "config", "extensions.partialClone", "origin")
    run(tree, "config", "core.repositoryFormatVersion", "1")
    for name in names:
        (tree / ".git" / "objects" / name[:2] / name[2:]).unlink(missing_ok=True)


def _submodule(tree: Path, command: str) -> None:
    inner = tree / "inner"
    inner.mkdir()
    _commit(inner)
    subprocess.run(
        ["git", "-c", "advice.addEmbeddedRepo=false", "add", "inner"], cwd=tree, check=True, capture_output=True
    )
    run(tree, "commit", "--quiet", "-m", "a submodule")
    (tree / ".gitmodules").write_text(f'[submodule "inner"]\npath = inner\nurl = {inner}\nupdate = !{command}\n')
    (inner / "a.txt").write_text("changed")
    _filter("evil", "clean")(inner, command)
    run(inner, "config", "core.fsmonitor", command)


def _bare(tree: Path, command: str) -> None:
    """Make the tree itself a bare repository, with settings that its own files hold."""
    for item in (tree / ".git").iterdir():
        item.rename(tree / item.name)
    (tree / ".git").rmdir()
    run(tree, "--git-dir=.", "config", "core.bare", "false")
    run(tree, "--git-dir=.", "config", "core.worktree", str(tree))
    run(tree, "--git-dir=.", "config", "core.fsmonitor", command)
    (tree / ".gitattributes").write_text("* filter=evil\n", encoding="utf-8")
    run(tree, "--git-dir=.", "config", "filter.evil.clean", command)


def _worktree(tree: Path, command: str) -> None:
    run(tree, "config", "extensions.worktreeConfig", "true")
    run(tree, "config", "--worktree", "filter.evil.clean", command)
    (tree / ".gitattributes").write_text("* filter=evil\n", encoding="utf-8")


_COMMANDS = ("status", "config", "rev-parse", "check-attr")
_NAMED = (
    "core.fsmonitor", "core.sshCommand", "core.gitProxy", "core.pager", "core.editor", "core.askPass",
    "core.alternateRefsCommand", "diff.external",
    "diff.evil.textconv", "diff.evil.command", "merge.evil.driver", "pager.status", "pager.config",
    "pager.rev-parse", "gpg.program", "gpg.ssh.program", "sequence.editor", "uploadpack.packObjectsHook",
    "interactive.diffFilter", "trailer.x.command", "credential.helper", "remote.origin.vcs", "browser.x.cmd",
)  # fmt: skip
HOSTILE: dict[str, Hostile] = {
    **{name: _config(name) for name in _NAMED},
    **{f"alias.{name}": _config(f"alias.{name}", prefix="!") for name in _COMMANDS},
    **{f"filter.{key} {driver}": _filter(driver, key)
       for key in ("clean", "smudge", "process") for driver in ("evil", "a=b", "a.b", "a\u00e9", "unspecified", "set")},
    "a filter of info/attributes": _filter("evil", "clean", ".git/info/attributes"),
    "a filter of an included file": _included,
    "a filter of a worktree's settings": _worktree,
    "hooks": _hooks,
    "a missing object": _promised,
    "a submodule": _submodule,
    "a bare repository in the tree": _bare,
}  # fmt: skip


def run(folder: Path, *arguments: str) -> str:
    """Run git in a folder, and return what it prints."""
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def _commit(tree: Path) -> None:
    run(tree, "init", "--quiet")
    run(tree, "config", "user.name", "Ann")
    run(tree, "config", "user.email", "ann@example.org")
    for name in ("a.txt", "b.txt"):
        (tree / name).write_text("first")
    run(tree, "add", "a.txt", "b.txt")
    run(tree, "commit", "--quiet", "-m", "first")


def ran_in(tree: Path, make: Hostile) -> tuple[str, object]:
    """Make a hostile working tree, ask for the provenance of an event in it; return what went wrong, and dirtiness.

    Args:
        tree: an empty folder.
        make: sets a program in its settings.
    """
    _commit(tree)
    witness = tree / "witness"
    make(tree, f"touch {shlex.quote(str(witness))}")
    witness.unlink(missing_ok=True)  # made by the setup
    for name in ("a.txt", "b.txt"):  # other content of the same size, and other times
        (tree / name).write_text("other")
        os.utime(tree / name, (time.time() - 100,) * 2)
    before = os.getcwd()  # noqa: PTH109
    os.chdir(tree)
    try:
        dirty = git.is_dirty(str(tree))
        provenance._person.__wrapped__(str(tree))
        provenance._tree.__wrapped__(str(tree))
        provenance._machine.__wrapped__(str(tree), False)
    finally:
        os.chdir(before)
    if witness.exists():
        return "a program of the tree ran", dirty
    return ("" if dirty is True or isinstance(dirty, str) else "a changed tree is not dirty"), dirty
