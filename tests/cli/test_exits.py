"""The commands with outputs that fail, and their errors: exit status, one line, JSON where asked for."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from torture.exits import CONDITIONS, PLAIN, READS, WRITES, Outcome, arguments_of, compared, process, sample

from decomp_ledger import LedgerError
from decomp_ledger.cli import cli
from decomp_ledger.cli.completion import commands_of

BY_NAME = {condition.name: condition for condition in CONDITIONS}


@pytest.fixture(scope="module")
def numbers(folder: Path) -> dict[str, str]:
    return sample(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exits")


def leaves(command: click.Command, name: str) -> Iterator[str]:
    if isinstance(command, click.Group):
        for below in commands_of(command):
            yield from leaves(below, f"{name} {below.name}".strip())
    else:
        yield name


def test_the_torture_has_every_command() -> None:
    texts = [text.replace("--ledger {}/new.db ", "") for text in (*READS, *WRITES)]
    missing = {name for name in leaves(cli, "") if not any(text.startswith(name) for text in texts)}
    # They need torch, or serve until they are interrupted.
    assert missing == {"reproduce", "check numerics", "would-change", "imports", "browse"}


@pytest.mark.parametrize(
    "name",
    ["closed >&- 2>&-", "output to a full disk", "both to a full disk", "no reader", "output in ascii:strict",
     "the C locale", "a terminal of COLUMNS=1", "a terminal of COLUMNS=\N{SUPERSCRIPT TWO}", "TERM=dumb",
     "a current folder that was removed"],
)  # fmt: skip
@pytest.mark.parametrize("text", ["show edge", "log --json"])
def test_output_that_fails_gives_the_documented_status(
    folder: Path, numbers: dict[str, str], text: str, name: str
) -> None:
    command = [sys.executable, "-m", "decomp_ledger", *arguments_of(text, folder, numbers)]
    plain = process(command, folder, PLAIN)
    assert (plain.status, plain.errors) == (0, b"")
    assert compared(text, plain, process(command, folder, BY_NAME[name]), BY_NAME[name]) == ""


NARROW = BY_NAME["a terminal of COLUMNS=40"]
TEXT = "  blame     Show which event made each rule\n  backup    Copy the ledger\n"


@pytest.mark.parametrize(
    ("shown", "wrong"),
    [
        (TEXT, ""),
        ("  blame  Show which event...\n  backup  Copy the\n      ledger\n", ""),
        ("  blame  Show which event...\n  backup  \n", "letters are missing"),
        ("  blame  Show which event...\n", "letters are missing"),
        ("  blame  Show...\n  backup  Copy the ledger\n", "too short"),
        ("  blame  ...\n  backup  Copy the ledger\n", "too short"),
        ("  blame  Something else...\n  backup  Copy the ledger\n", "is not of the output"),
        ("...\n", "too short"),
    ],
)
def test_the_torture_sees_what_a_shortened_output_lacks(shown: str, wrong: str) -> None:
    plain, found = (Outcome(0, text.encode(), b"") for text in (TEXT, shown))
    result = compared("--help", plain, found, NARROW)
    assert wrong in result and bool(wrong) == bool(result)


@pytest.mark.parametrize(
    ("errors", "held"),
    [
        ("decomp-ledger: edge@9: unknown; give 1\n", True),
        ("decomp-ledger: edge@9: unknown; give 2\n", False),
        ("decomp-ledger: standard output: it cannot be written\n", False),
        ("", False),
        ("decomp-ledger: edge@9: unknown; give 1\n\n", False),
    ],
)
@pytest.mark.parametrize("name", ["no reader", "output to a full disk", "closed >&-"])
def test_the_torture_sees_another_error_than_the_one_of_the_json(errors: str, held: bool, name: str) -> None:
    error = {"error": {"kind": "UnknownVersion", "message": "edge@9: unknown; give 1"}}
    plain = Outcome(2, json.dumps(error).encode(), b"")
    assert (compared("show --json", plain, Outcome(2, b"", errors.encode()), BY_NAME[name]) == "") is held


@pytest.mark.parametrize(("text", "status"), [("show edge@9 --json", 2), ("log --op nosuch --json", 1)])
@pytest.mark.parametrize("name", ["no reader", "output to a full disk", "closed >&-"])
def test_an_error_that_was_to_be_json_goes_to_standard_error(
    folder: Path, numbers: dict[str, str], name: str, text: str, status: int
) -> None:
    command = [sys.executable, "-m", "decomp_ledger", *arguments_of(text, folder, numbers)]
    plain = process(command, folder, PLAIN)
    message = json.loads(plain.output)["error"]["message"]
    found = process(command, folder, BY_NAME[name])
    assert (found.status, found.errors.decode()) == (status, f"decomp-ledger: {message}\n")
    assert compared(text, plain, found, BY_NAME[name]) == ""


def test_a_fault_is_found_although_its_reader_left(folder: Path, numbers: dict[str, str]) -> None:
    command = [sys.executable, "-m", "decomp_ledger", "--ledger", str(folder / "tampered.db"), "verify"]
    assert process(command, folder, BY_NAME["no reader"]).status == 1


@pytest.mark.parametrize("program", ["{}/script.py", "-m script"])
@pytest.mark.parametrize(
    "name",
    ["closed >&- 2>&-", "output to a full disk", "errors to a full disk", "output in ascii", "no reader",
     "a current folder that was removed"],
)  # fmt: skip
def test_run_leaves_the_streams_of_its_program_as_python_has_them(
    folder: Path, numbers: dict[str, str], name: str, program: str
) -> None:
    condition, arguments = BY_NAME[name], program.replace("{}", str(folder)).split()
    wanted = process([sys.executable, *arguments], folder, condition)
    ours = ["decomp_ledger", "--ledger", str(folder / "run.db"), "run"]
    found = process([sys.executable, "-m", *ours, *arguments], folder, condition)
    assert (found.status, found.output) == (wanted.status, wanted.output)


def test_standard_input_that_is_closed_is_an_error(tmp_path: Path) -> None:
    found = process([sys.executable, "-m", "decomp_ledger", "load", "-"], tmp_path, BY_NAME["closed <&-"])
    assert found.status == 2
    assert found.errors == b"decomp-ledger: -: standard input is closed; give the file of a dump\n"


def wrong_uses() -> Iterator[list[str]]:
    """Give wrong uses of every command that takes --json."""
    for name in leaves(cli, ""):
        command = cli
        for part in name.split():
            command = {each.name: each for each in commands_of(command)}[part]  # type: ignore[arg-type, assignment]
        if any("--json" in option.opts for option in command.params):
            yield [*name.split(), "--nonsense"]
            yield [*name.split(), "a", "b", "c", "d"]
            texts = ["\udcff" for each in command.params if isinstance(each, click.Argument)]
            if texts:
                yield [*name.split(), *texts]
    for table in ("run", "dump", "--json", "catalog"):
        yield ["show", table]


@pytest.mark.parametrize("arguments", list(wrong_uses()), ids=" ".join)
def test_a_wrong_use_with_json_prints_one_error_as_json(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from decomp_ledger.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["decomp-ledger", *arguments, "--json"])
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # `main` guards them
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    with pytest.raises(SystemExit) as exited:
        main()
    printed = capsys.readouterr()
    assert (exited.value.code, printed.err) == (2, "")
    error = json.loads(printed.out)["error"]
    assert error.keys() == {"kind", "message"} and error["message"] and "\n" not in error["message"]


FAILED = (
    "show", "show --json", "show --all", "blame", "blame --json", "explain aten::mm", "explain aten::mm --json",
    "diff edge", "diff export:{good}", "drift edge", "drift torch:2.13.0", "drift edge edge --only-used",
    "upgrade --torch 2.13.0", "upgrade --torch 2.13.0 --check", "catalog show", "catalog show --op aten::mm",
    "tag {failed}", "revert edge --to",
)  # fmt: skip


@pytest.mark.parametrize("text", FAILED)
def test_every_command_answers_for_a_failed_export(folder: Path, numbers: dict[str, str], text: str) -> None:
    arguments = arguments_of(text, folder, numbers)
    done = CliRunner().invoke(cli, [*arguments, f"export:{numbers['failed']}"], standalone_mode=False)
    assert isinstance(done.exception, LedgerError | None), done.exception


NO_MAPS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
void *mmap(void *at, size_t size, int rights, int flags, int file, off_t start) {
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = file < 0 ? 0 : readlink(link, name, sizeof name);
    if (length > 4 && !memcmp(name + length - 4, "-shm", 4)) { errno = ENODEV; return MAP_FAILED; }
    void *(*real)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, "mmap");
    return real(at, size, rights, flags, file, start);
}
void *mmap64(void *at, size_t size, int rights, int flags, int file, off_t start) {
    return mmap(at, size, rights, flags, file, start);
}
"""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not tell which error of SQLite it is")
@pytest.mark.parametrize("command", ["tables", "tag edge@1 new"])
def test_a_file_system_without_shared_maps_is_named(
    folder: Path, numbers: dict[str, str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "maps.c").write_text(NO_MAPS)
    library = str(tmp_path / "maps.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, str(tmp_path / "maps.c"), "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "decomp_ledger", "--ledger", str(folder / "ledger.db"), *command.split()],
        env={**os.environ, "LD_PRELOAD": library}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "its file system cannot map" in done.stderr and done.stderr.count("\n") == 1
