"""Every command where its output, its encoding, its terminal or its folder fails: the documented exit status."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import click
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from forging import tamper
from strategies import IMPORT_ROOT, catalog_of, new_table, override

from decomp_ledger.cli import cli
from decomp_ledger.cli.output import printable
from decomp_ledger.errors import LedgerError
from decomp_ledger.hub.hub import Hub
from decomp_ledger.integrity.ssh_signatures import load_key, public_line
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.events import Exported
from decomp_ledger.transfer.stamp import MEMBER, Stamp
from torture.common import Row, Workspace, try_all

ACTOR = "Åda 日本 \N{ROCKET} <ada@example.org>"
# Each command with arguments for the ledger of `sample`; in `changes`, those that write. {} is the folder.
READS = (
    "--help", "--version", "", "nonsense", "nonsense --json", "tables", "tables --json", "log", "log --json",
    "log edge --op aten::mm -n 2 --after 1", "log --op a.b.c.d", "log --op nosuch --json",
    "log --nonsense", "show edge", "show edge --json",
    "show edge --all", "show edge@9", "show edge@9 --json", "show export:{good}", "show export:{failed}",
    "show {}/model.pt2", "show {}/model.pt2 --json", "show {}/model.onnx", "blame {}/model.pte --json",
    "blame edge", "blame edge --json", "blame export:{failed}",
    "why aten::mm", "why aten::mm edge --json", "explain aten::mm --all-torch", "show #2", "show #2 --json",
    "log --verbose", "explain aten::mm", "explain aten::mm --json", "explain aten::mm --export {failed}",
    "exports", "exports --json", "check opset export:{good}", "check opset export:{good} --json",
    "check opset export:{failed}", "check opset edge --opset nothing",
    "report", "report edge", "report export:{good}", "report edge@1 edge", "report export:{failed} --markdown",
    "report {}/model.pt2", "report torch:2.13.0", "show edge --markdown", "show export:{failed} --markdown",
    "show #2 --markdown", "exports --markdown", "check opset export:{good} --markdown", "diff edge@1 edge --markdown",
    "diff edge@1 edge", "diff edge@1 edge --json", "diff edge edge", "diff export:{good} export:{failed}",
    "drift edge export:{good}", "drift torch:2.6.0 torch:2.13.0", "drift torch:2.6.0 torch:2.13.0 --json",
    "drift torch:2.6.0 torch:2.13.0 --markdown", "drift edge edge --only-used export:{failed}",
    "upgrade edge --torch 2.13.0", "upgrade edge --torch 2.13.0 --check", "upgrade edge --torch 2.13.0 --json",
    "upgrade export:{failed} --torch 2.13.0 --check", "catalog list", "catalog list --json",
    "catalog show torch:2.13.0",
    "gate", "gate --torch 2.13", "gate edge --torch 2.13 --json", "gate --torch 2.13 --markdown",
    "catalog show edge --op aten::mm", "catalog show catalog:{}/catalog.json --json",
    "catalog capture --python {}/python", "verify", "verify --json", "verify --signers {}/signers",
    "verify --expect 00", "--ledger {}/tampered.db verify", "--ledger {}/tampered.db verify --json",
    "--ledger {}/missing.db log", "dump", "dump --json", "tag edge", "revert edge --to 99", "load {}/dump.jsonl",
    "restore {}/backup.db", "backup {}/ledger.db", "run {}/missing.py",
    "hub ledgers {}/hub.db", "hub ledgers {}/hub.db --json", "hub verify {}/hub.db",
    "hub verify {}/hub.db --json", "hub ledgers {}/ledger.db", "hub verify {}/hub.db --ledger nosuch --json",
    "verify --hub {}/hub.db", "push", "push {}/missing/hub.db --json", "clone nosuch {}/hub.db {}/none.db",
)  # fmt: skip
WRITES = (
    "tag edge@1 new", "tag edge@1 new --json", "revert edge --to 1", "revert edge --to 1 --json",
    "checkpoint --key {}/key", "checkpoint --key {}/key --json -o {}/release.json", "backup {}/copy.db",
    "backup {}/copy.db --json", "backup {}/backup.db --force", "restore {}/backup.db --force",
    "restore {}/backup.db --force --json", "dump -o {}/new.jsonl", "--ledger {}/new.db load {}/dump.jsonl",
    "--ledger {}/new.db load {}/dump.jsonl --json", "catalog capture --python {}/python -o {}/new.json",
    "catalog capture --python {}/python -o {}/new.json --json",
    "push {}/hub.db", "push {}/hub.db --json", "fetch {}/hub.db", "fetch {}/hub.db --json", "hub init {}/hub.db",
    "hub init {}/hub.db --json", "clone mine {}/hub.db {}/cloned.db", "clone mine {}/hub.db {}/cloned.db --json",
    "collect {}/ledger.db -o {}/hub.db", "collect {}/ledger.db {}/missing.db -o {}/hub.db --json",
)  # fmt: skip
HUB_WRITES = ("push", "fetch", "clone", "collect", "init")
SCRIPT = "import sys\nprint('h\N{LATIN SMALL LETTER E WITH ACUTE}llo')\nsys.exit(3)\n"
RUNS = ("run {}/script.py", "run --name a -m script")
_SECONDS = 600  # of the clock; a command takes less than one of the processor
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@attrs.frozen
class Condition:
    """What fails around a command.

    Attributes:
        name: its name.
        shell: what a shell does first: redirections, or a change of the folder; `exec "$@"` follows.
        settings: environment variables; None removes one.
        terminal: whether output and errors are a terminal.
        unread: whether output is a pipe that has no reader.
    """

    name: str
    shell: str = 'exec "$@"'
    settings: dict[str, str | None] = attrs.field(factory=dict)
    terminal: bool = False
    unread: bool = False

    def encoding(self) -> str:
        """The encoding of the output."""
        return (self.settings.get("PYTHONIOENCODING") or "utf-8").partition(":")[0]

    def is_utf8(self) -> bool:
        """Tell whether every character is written as it is."""
        return self.encoding() == "utf-8" and "LC_ALL" not in self.settings

    def output_is_gone(self) -> bool:
        """Tell whether nothing can be written to standard output."""
        shell = self.shell.replace("2>&-", "").replace("2>/dev/full", "")
        return self.unread or ">&-" in shell or ">/dev/full" in shell

    def errors_are_gone(self) -> bool:
        """Tell whether nothing can be written to standard error."""
        return "2>" in self.shell


PLAIN = Condition("nothing")
CONDITIONS = (
    *(Condition(f"closed {what}", f'exec "$@" {what}') for what in ("<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-")),
    Condition("output to a full disk", 'exec "$@" >/dev/full'),
    Condition("output to a full disk, unbuffered", 'exec "$@" >/dev/full', {"PYTHONUNBUFFERED": "1"}),
    Condition("errors to a full disk", 'exec "$@" 2>/dev/full'),
    Condition("both to a full disk", 'exec "$@" >/dev/full 2>/dev/full'),
    Condition("no reader", unread=True),
    Condition("no reader, unbuffered", settings={"PYTHONUNBUFFERED": "1"}, unread=True),
    *(
        Condition(f"output in {encoding}", settings={"PYTHONIOENCODING": encoding})
        for encoding in ("latin-1", "cp1252", "ascii", "ascii:strict", "utf-16", "cp437", "shift_jis")
    ),
    Condition("the C locale", settings={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    *(
        Condition(f"a terminal of COLUMNS={width}", settings={"COLUMNS": width, "TERM": "xterm"}, terminal=True)
        for width in ("1", "0", "-5", "7", "40", "100000", "9" * 30, "wide", "\N{SUPERSCRIPT TWO}", "")
    ),
    Condition("a terminal of LINES=none", settings={"LINES": "\N{SUPERSCRIPT TWO}"}, terminal=True),
    Condition("a pager", settings={"PAGER": "cat -", "TERM": "xterm"}, terminal=True),
    Condition("NO_COLOR", settings={"NO_COLOR": "1", "TERM": "xterm"}, terminal=True),
    Condition("FORCE_COLOR", settings={"FORCE_COLOR": "1"}),
    Condition("TERM=dumb", settings={"TERM": "dumb"}, terminal=True),
    Condition("no TERM", settings={"TERM": None}, terminal=True),
    Condition("no HOME, USER, PATH, TMPDIR", settings=dict.fromkeys(("HOME", "USER", "LOGNAME", "PATH", "TMPDIR"))),
    Condition("a TMPDIR that is missing", settings={"TMPDIR": "/nowhere", "HOME": "/nowhere"}),
    Condition("a current folder that was removed", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'),
)


def sample(folder: Path) -> dict[str, str]:
    """Make the files that the commands name; return the numbers of a good and of a failed export."""
    path = folder / "ledger.db"
    catalog = catalog_of("aten::mm", "aten::linear")
    with Ledger(path, actor=ACTOR) as ledger:
        edge = new_table(ledger)
        edge.preserve(
            ["aten::mm", "mylib::late"], reason="ein schneller Kernel für \N{LATIN SMALL LETTER SHARP S} 日本語"
        )
        override(edge, "aten::linear", "linear", reason="accurate")
        edge.tag("släpp")
        snapshot = edge.materialize(catalog)
        counts = {"aten::mm": 2}, {"aten::mm": 1, "aten::addmm": 1}, {"aten::linear": 1}
        numbers = {}
        for name, error in (("good", None), ("failed", ("RuntimeError", "kein Kernel für 日本"))):
            results = counts if error is None else (counts[0], {}, {})
            body = Exported(catalog.digest, snapshot.digest, "b", None if error else "a", *results, 3, error)
            event = edge.exported(body, edge.version)
            assert event is not None
            numbers[name] = str(event.seq)
        stamp = Stamp((ledger.bundle(int(numbers["good"])),), "a", "git")
        key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        (folder / "key").write_bytes(key)
        ledger.checkpoint(folder / "key")
        ledger.backup(folder / "backup.db")
        ledger.dump(folder / "dump.jsonl")
        Hub(str(folder / "hub.db")).init()
        ledger.push(str(folder / "hub.db"), name="mine")
    with zipfile.ZipFile(folder / "model.pt2", "w") as file:
        file.writestr(f"model/extra/{MEMBER}", stamp.to_text())
    (folder / "signers").write_text(public_line(load_key(folder / "key").public) + "\n")
    (folder / "catalog.json").write_text(json.dumps(catalog.to_json()))
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    # An interpreter whose answer is there already, because a real one imports torch.
    (folder / "python").write_text(f"#!/bin/sh\n/bin/cat >/dev/null\nexec /bin/cat {folder}/catalog.json\n")
    (folder / "python").chmod(0o755)
    shutil.copy(path, folder / "tampered.db")
    tamper(folder / "tampered.db", "UPDATE event SET recorded_at = '2020-01-01T00:00:00.000000Z' WHERE seq = 2")
    return numbers


@attrs.frozen
class Outcome:
    """What a process did."""

    status: int
    output: bytes
    errors: bytes


def process(command: list[str], folder: Path, condition: Condition) -> Outcome:
    """Run a command under a condition."""
    paths = os.pathsep.join([IMPORT_ROOT, str(folder)])
    environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "PAGER": ""}
    environment["PYTHONPYCACHEPREFIX"] = str(folder.parent / "bytecode")  # compiling takes longer than most commands
    for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    for name, value in condition.settings.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    arguments = ["/bin/sh", "-c", condition.shell, "sh", *command]
    errors = folder / "errors"
    with errors.open("wb") as to:
        if condition.terminal:
            ours, theirs = pty.openpty()
            child = subprocess.Popen(arguments, stdout=theirs, stderr=to, env=environment, cwd=folder)
            os.close(theirs)
            output = read_terminal(ours)
            status = child.wait(_SECONDS)
        elif condition.unread:
            out, into = os.pipe()
            os.close(out)
            status = subprocess.call(arguments, stdout=into, stderr=to, env=environment, cwd=folder, timeout=_SECONDS)
            os.close(into)
            output = b""
        else:
            done = subprocess.run(
                arguments, stdout=subprocess.PIPE, stderr=to, env=environment, cwd=folder, timeout=_SECONDS, check=False
            )
            status, output = done.returncode, done.stdout
    return Outcome(status, output, errors.read_bytes())


def read_terminal(ours: int) -> bytes:
    """Return what is written to a terminal until it is closed."""
    output = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # no process has the other side any more
            part = b""
        if not part:
            os.close(ours)
            return output
        output += part


def arguments_of(text: str, folder: Path, numbers: dict[str, str]) -> list[str]:
    """Return the arguments that a text of READS or WRITES stands for."""
    filled = text.replace("{}", str(folder)).format(**numbers).split()
    return filled if "--ledger" in filled else ["--ledger", str(folder / "ledger.db"), *filled]


def letters(text: str) -> Counter[str]:
    """Return how often each letter and digit is in a text, wherever its lines break."""
    return Counter(c for c in ESCAPE.sub("", text) if c.isascii() and c.isalnum())


def json_error(text: str, plain: Outcome) -> str | None:
    """Return the message of the error that a command printed as JSON, or None."""
    if "--json" not in text or plain.status not in (1, 2):
        return None
    found = json.loads(plain.output)
    return found["error"]["message"] if isinstance(found, dict) and found.keys() == {"error"} else None


def compared(text: str, plain: Outcome, found: Outcome, condition: Condition) -> str:
    """Compare what a command did under a condition with what it did without; return what is wrong, or ""."""
    errors = found.errors.decode(condition.encoding(), "replace")
    if "Traceback" in errors or "Exception ignored" in errors:
        return f"a traceback: {errors[-400:]}"
    message = json_error(text, plain)
    lost = ">/dev/full" in condition.shell.replace("2>", "") and plain.output and message is None
    wanted = 2 if lost else plain.status
    if found.status != wanted:
        return f"exit status {found.status}, not {wanted}: {errors[-300:]}"
    if not condition.errors_are_gone():
        expected = plain.errors.decode()
        if message is not None and condition.output_is_gone():
            # An error that was to be JSON goes to standard error, if standard output takes nothing.
            expected = f"decomp-ledger: {printable(message)}\n"
        if lost:
            if "standard output: it cannot be written" not in errors:
                return f"the error is not clear: {errors[-300:]}"
        elif (condition.is_utf8() and errors != expected) or len(errors.splitlines()) != len(expected.splitlines()):
            return f"the errors are {errors[-300:]!r}, not {expected[-300:]!r}"
    return "" if text in WRITES or condition.output_is_gone() else compared_output(text, plain, found, condition)


def compared_output(text: str, plain: Outcome, found: Outcome, condition: Condition) -> str:
    """Compare what a command printed; return what is wrong, or ""."""
    try:
        shown, whole = found.output.decode(condition.encoding()), plain.output.decode()
    except UnicodeDecodeError as error:
        return f"the output is not in the encoding: {error}"
    if "--json" in text and shown.replace("\r\n", "\n") != whole:
        return "the JSON is another one"
    without_color = "NO_COLOR" in condition.settings or condition.settings.get("TERM") == "dumb"
    if without_color and "\x1b" in shown:
        return f"an escape: {shown[:300]!r}"
    if condition.is_utf8() and not condition.terminal:
        return "" if ESCAPE.sub("", shown) == whole else f"another output: {shown[:300]!r}"
    missing = letters(whole) - letters(shown)
    if missing and "..." in shown:  # click shortens its lists, and `drift` the lines of graphs
        try:
            missing -= letters_cut(whole, shown)
        except ValueError as error:
            return str(error)
    return f"letters are missing: {missing}: {shown[:300]!r}" if missing else ""


_CELLS = re.compile(r"\n| \| | {2,}")  # what stands between two texts; each can be shortened
_LEAST_SHOWN = 5  # letters of a shortened text


def letters_cut(whole: str, shown: str) -> Counter[str]:
    """Return the letters that stand in the whole output after a text that the shown output ends with "...".

    Raises:
        ValueError: a text that is shortened does not begin a text of the whole output, or says nothing.
    """
    full = [squeezed(cell) for cell in _CELLS.split(ESCAPE.sub("", whole))]
    everything = "".join(full)
    cut: Counter[str] = Counter()
    for cell in map(squeezed, _CELLS.split(ESCAPE.sub("", shown.replace("\r\n", "\n")))):
        begin, dots, _ = cell.partition("...")
        if not dots or cell in everything:
            continue
        rests = [each[len(begin) :] for each in full if each.startswith(begin) and not each.endswith(begin)]
        if not rests or letters(begin).total() < _LEAST_SHOWN:
            raise ValueError(f"a shortened text is not of the output, or too short: {cell!r}")
        longest: Counter[str] = Counter()
        for rest in rests:  # one of them was cut
            longest |= letters(rest)
        cut += longest
    return cut


def squeezed(text: str) -> str:
    """Return a text without blanks."""
    return "".join(text.split())


def of_streams(workspace: Workspace) -> list[Row]:
    """Run every command under every condition, as processes of their own."""
    whole = workspace.folder / "sample"
    whole.mkdir()
    numbers = sample(whole)
    cases = [(text, condition) for text in (*READS, *WRITES) for condition in CONDITIONS]
    random.Random(workspace.seed).shuffle(cases)
    runs = workspace.amount(len(cases), 24)
    # The names of the samples are of one length, so that texts wrap alike.
    plain: dict[str, Outcome] = {}

    def prepared(number: int) -> Path:
        folder = workspace.folder / f"case{number:05}"
        shutil.copytree(whole, folder)
        script = folder / "python"
        script.write_text(script.read_text().replace(str(whole), str(folder)))
        return folder

    def run(text: str, number: int, condition: Condition) -> Outcome:
        folder = prepared(number)
        command = [sys.executable, "-m", "decomp_ledger", *arguments_of(text, folder, numbers)]
        try:
            found = process(command, folder, condition)
            encoding = condition.encoding() if condition.encoding() != "utf-16" else "utf-16-le"
            names = [str(each).encode(encoding) for each in (folder, whole)]
            return attrs.evolve(found, output=found.output.replace(*names), errors=found.errors.replace(*names))
        finally:
            shutil.rmtree(folder)

    def attempt(number: int) -> str:
        text, condition = cases[number]
        if text not in plain:
            plain[text] = run(text, 2 * number, PLAIN)
            if plain[text].status not in (0, 1, 2) or b"Traceback" in plain[text].errors:
                return f"{text}: {plain[text]}"
        found = compared(text, plain[text], run(text, 2 * number + 1, condition), condition)
        return f"{text}, {condition.name}: {found}" if found else ""

    goal = "the exit status of the table; no traceback; all of the output or an error; nothing lost in narrow columns"
    note = f"{len(READS) + len(WRITES)} command lines, {len(CONDITIONS)} conditions"
    return [
        Row(
            "commands without output, with narrow terminals, other encodings",
            runs,
            goal,
            try_all(runs, attempt, 60),
            note,
        )
    ]


def of_runs(workspace: Workspace) -> list[Row]:
    """Run a program as `run` does and as Python does under every condition."""
    folder = workspace.folder / "sample"
    folder.mkdir()
    sample(folder)
    conditions = CONDITIONS if workspace.full else random.Random(workspace.seed).sample(CONDITIONS, 4)
    cases = [(text, condition) for text in RUNS for condition in conditions]

    def attempt(number: int) -> str:
        text, condition = cases[number]
        own = workspace.folder / f"case{number:05}"
        shutil.copytree(folder, own)
        program = text.rpartition("run ")[2].removeprefix("--name a ").replace("{}", str(own)).split()
        wanted = process([sys.executable, *program], own, condition)
        found = process([sys.executable, "-m", "decomp_ledger", *arguments_of(text, own, {})], own, condition)
        shutil.rmtree(own)
        if (found.status, found.output) != (wanted.status, wanted.output):
            return f"{text}, {condition.name}: {found}, not {wanted}"
        return ""

    goal = "the exit status and the output of the program under Python"
    return [Row("programs of `run` under the same conditions", len(cases), goal, try_all(len(cases), attempt, 60))]


# In place of an argument: numbers of every size and script, surrogates, empty and huge texts, parts of state specs.
ODD = (
    "", "0", "-1", "-0", "+1", " 1", "1_000", "1.5", "1e3", "nan", "0x10", "True", str(2**63 - 1), str(2**63),
    str(2**64), "9" * 5000, "-" + "9" * 30, "\N{ARABIC-INDIC DIGIT THREE}", "\N{SUPERSCRIPT TWO}", "\udcff", "\ud800",
    "a\0b", "\x1b[31m", "\n", "x" * 5000, "@", "edge@", "@1", "edge@1@2", f"edge@{2**64}", "edge@\udcff", "export:",
    "export:-1", f"export:{2**64}", "export:\N{ARABIC-INDIC DIGIT THREE}", "torch:", "torch:\udc80", "catalog:",
    "catalog:/", "catalog:\0", "catalog:\udcff", ".pt2", "\udcff.pt2", "/", "/dev/null", "--", "-",
)  # fmt: skip


def commanded(arguments: list[str], folder: Path) -> str:
    """Run a command within this process; return what is wrong with how it ends, or ""."""
    with contextlib.chdir(folder) if sys.version_info >= (3, 11) else contextlib.nullcontext():
        done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    error = done.exception
    if isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, LedgerError):
        text = str(error)
        text.encode()
    elif isinstance(error, SystemExit) or error is None:
        return ""
    else:
        return f"{arguments!r:.200}: {type(error).__name__}: {error}"
    wrong = not text or "\n" in printable(text)  # `main` cuts a long one
    return f"{arguments!r:.200}: an unclear error: {text[:200]!r}" if wrong else ""


def of_arguments(workspace: Workspace) -> list[Row]:
    """Put an odd text in the place of each argument of each command."""
    whole = workspace.folder / "sample"
    whole.mkdir()
    numbers = sample(whole)
    before = (whole / "ledger.db").read_bytes()
    cases = []
    for text in (*READS, *WRITES):
        arguments = arguments_of(text, whole, numbers)
        if not {"run", "capture"} & set(arguments):
            places = [n for n, each in enumerate(arguments) if not each.startswith("-") and n > 1]
            cases += [[*arguments[:n], odd, *arguments[n + 1 :]] for n in places for odd in ODD]
    random.Random(workspace.seed).shuffle(cases)
    runs = workspace.amount(len(cases), 150)

    def attempt(number: int) -> str:
        arguments = cases[number]
        writes = {"tag", "revert", "checkpoint", "restore", "load", "dump", "backup", *HUB_WRITES} & set(arguments)
        folder = workspace.folder / f"case{number}" if writes else whole
        if writes:
            shutil.copytree(whole, folder)
        try:
            found = commanded([each.replace(str(whole), str(folder)) for each in arguments], folder)
        finally:
            if writes:
                shutil.rmtree(folder)
        return found or ("" if (whole / "ledger.db").read_bytes() == before else f"{arguments} wrote")

    goal = "an answer, or one error of one line"
    return [Row("odd texts in the place of each argument", runs, goal, try_all(runs, attempt, 30))]


# In place of a value in a document.
VALUES = (
    None, True, False, 0, -1, 1, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 1.5, float("nan"), float("inf"),
    "", "x", "a\0b", "\ud800", "\udcff", "0" * 64, "x" * 100_000, [], {}, [[]], {"a": {}}, [None], "DEEP", "HUGE",
)  # fmt: skip
TEXTS = {"DEEP": "[" * 100_000 + "]" * 100_000, "HUGE": "9" * 10_000}


def changed(value: Any, choose: random.Random) -> Any:
    """Return JSON with one value, or one key, replaced."""
    if not isinstance(value, (dict, list)) or not value or choose.random() < 0.1:
        return choose.choice(VALUES)
    if isinstance(value, list):
        at = choose.randrange(len(value))
        return [changed(each, choose) if n == at else each for n, each in enumerate(value)]
    at = choose.choice(list(value))
    if choose.random() < 0.2:
        new = choose.choice(["", "\ud800", "x", "a\0b", at + " "])
        return {new if key == at else key: each for key, each in value.items()}
    return {key: changed(each, choose) if key == at else each for key, each in value.items()}


def as_text(value: Any) -> str:
    """Return JSON, with the values that Python could not hold in place of their names."""
    text = json.dumps(value)
    for name, written in TEXTS.items():
        text = text.replace(f'"{name}"', written)
    return text


def of_documents(workspace: Workspace) -> list[Row]:
    """Replace a value in stamps, dumps, catalogs and checkpoints, and read them by every command."""
    whole = workspace.folder / "sample"
    whole.mkdir()
    numbers = sample(whole)
    path = str(whole / "ledger.db")
    with Ledger(whole / "ledger.db", read_only=True) as ledger:
        stamp = json.loads(Stamp((ledger.bundle(int(numbers["good"])),), "a", "git").to_text())
        lines = [json.loads(line) for line in ledger.dump_lines()]
    checkpoint = next(line["checkpoint"] for line in lines if "checkpoint" in line)
    catalog = json.loads((whole / "catalog.json").read_text())

    def attempt(number: int) -> str:
        choose = random.Random(f"{workspace.seed} {number}")
        folder = workspace.folder / f"document{number}"
        folder.mkdir()
        kind = ("stamp", "catalog", "checkpoint", "dump")[number % 4]
        name = str(folder / kind)
        if kind == "stamp":
            name += ".pt2"
            with zipfile.ZipFile(name, "w") as file:
                file.writestr(f"model/extra/{MEMBER}", as_text(changed(stamp, choose)))
            commands = ("show", "blame", "explain aten::mm", "verify --against", "drift edge", "diff edge@1")
        elif kind == "catalog":
            Path(name).write_text(as_text(changed(catalog, choose)))
            name = f"catalog:{name}"
            commands = ("catalog show", "drift edge", "show", "catalog show --json", "drift torch:2.13.0")
        elif kind == "checkpoint":
            inner = {**checkpoint, "text": as_text(changed(json.loads(checkpoint["text"]), choose))}
            Path(name).write_text(as_text(choose.choice([changed(checkpoint, choose), inner])))
            commands = ("verify --checkpoint",)
        else:
            at = choose.randrange(len(lines))
            texts = [as_text(changed(line, choose)) if n == at else as_text(line) for n, line in enumerate(lines)]
            Path(name).write_text("\n".join(texts) + "\n")
            commands = ("load",)
        ledger = str(folder / "new.db") if kind == "dump" else path
        found = (commanded(["--ledger", ledger, *command.split(), name], folder) for command in commands)
        result = next(filter(None, found), "")
        shutil.rmtree(folder)
        return result

    runs = workspace.amount(4000, 60)
    goal = "an answer, or one error of one line, from every command"
    return [Row("stamps, catalogs, checkpoints and dumps with an odd value", runs, goal, try_all(runs, attempt, 60))]


# What a shell does in a mount namespace of its own, before a command; {} is the folder of the case.
_MOUNT = 'mount -t tmpfs -o size={size} none disk && cp ledger.db backup.db disk/ && {then} exec "$@"'
READ_ONLY = Condition("read-only", _MOUNT.format(size="4m", then="mount -o remount,ro disk &&"))
FULL = Condition("full", _MOUNT.format(size="4m", then="{{ cat /dev/zero >disk/fill 2>/dev/null; :; }} &&"))
TO_DISK = (
    ("--ledger {}/disk/ledger.db log --json", 0), ("--ledger {}/disk/ledger.db verify", 0),
    ("--ledger {}/disk/ledger.db tag edge@1 new", 2), ("--ledger {}/disk/ledger.db revert edge --to 1 --json", 2),
    ("--ledger {}/disk/ledger.db run {}/script.py", 2), ("backup {}/disk/new.db", 2),
    ("backup {}/disk/backup.db --force", 2), ("dump -o {}/disk/new.jsonl", 2),
    ("checkpoint --key {}/key -o {}/disk/c", 2),
    ("catalog capture --python {}/python -o {}/disk/new.json", 2), ("--ledger {}/disk/new.db load {}/dump.jsonl", 2),
    ("--ledger {}/disk/new.db restore {}/backup.db", 2), ("--ledger {}/disk/ledger.db restore {}/backup.db --force", 2),
)  # fmt: skip


def of_folders(workspace: Workspace) -> list[Row]:
    """Run the commands that write in a read-only file system and on a full one."""
    goal = "reads answer; one error, and no file that looks whole"
    names = ("a read-only file system under each command", "a full file system under each command")
    if os.getuid() != 0 or subprocess.call(["unshare", "-m", "true"], stderr=subprocess.DEVNULL) != 0:
        return [Row(name, 0, goal, note="NOT TRIED: it needs root and mount namespaces") for name in names]
    whole = workspace.folder / "sample"
    whole.mkdir()
    numbers = sample(whole)
    (whole / "disk").mkdir()
    rows = []
    for name, condition in zip(names, (READ_ONLY, FULL), strict=True):
        wrong = []
        for text, status in TO_DISK:
            if condition is FULL and "disk/ledger.db" in text:
                continue  # which may write: a full disk still has room within the file
            arguments = arguments_of(text.replace("{}", str(whole)), whole, numbers)
            command = ["unshare", "-m", "/bin/sh", "-c", condition.shell.replace("{{", "{").replace("}}", "}")]
            after = "; status=$?; ls disk; exit $status"
            command[-1] = command[-1].replace('exec "$@"', '"$@"' + after)
            found = process([*command, "sh", sys.executable, "-m", "decomp_ledger", *arguments], whole, PLAIN)
            errors = found.errors.decode("utf-8", "replace")
            left = {"new.db", "new.jsonl", "new.json", "c"} & set(found.output.decode().split())
            if (
                found.status != status
                or "Traceback" in errors
                or left
                or len(errors.splitlines()) != (status == 2 and "--json" not in text)
            ):
                wrong.append(f"{text}: exit status {found.status}, left {left}: {errors[-300:]}{found.output[-200:]!r}")
        runs = len(TO_DISK) if condition is READ_ONLY else sum("disk/ledger.db" not in text for text, _ in TO_DISK)
        rows.append(Row(name, runs, goal, tuple(wrong)))
    return rows


FAULTS = (of_streams, of_runs, of_arguments, of_documents, of_folders)
