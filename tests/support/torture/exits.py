"""Every command where its output, its encoding, its terminal or its folder fails: the documented exit status."""

from __future__ import annotations

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

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from forging import tamper
from strategies import IMPORT_ROOT, catalog_of, new_table, override

from decomp_ledger.integrity.ssh_signatures import load_key, public_line
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.events import Exported
from decomp_ledger.transfer.stamp import MEMBER, Stamp
from torture.common import Row, Workspace, try_all

ACTOR = "Åda 日本 \N{ROCKET} <ada@example.org>"
# Each command with arguments for the ledger of `sample`; in `changes`, those that write. {} is the folder.
READS = (
    "--help", "--version", "", "nonsense", "nonsense --json", "tables", "tables --json", "log", "log --json",
    "log edge --op aten::mm -n 2 --after 1", "log --op a.b.c.d", "log --nonsense", "show edge", "show edge --json",
    "show edge --all", "show edge@9", "show edge@9 --json", "show export:{good}", "show export:{failed}",
    "show {}/model.pt2", "show {}/model.pt2 --json", "blame edge", "blame edge --json", "blame export:{failed}",
    "explain aten::mm", "explain aten::mm --json", "explain aten::mm --export {failed}", "exports", "exports --json",
    "diff edge@1 edge", "diff edge@1 edge --json", "diff edge edge", "diff export:{good} export:{failed}",
    "drift edge export:{good}", "drift torch:2.6.0 torch:2.13.0", "drift torch:2.6.0 torch:2.13.0 --json",
    "drift torch:2.6.0 torch:2.13.0 --markdown", "drift edge edge --only-used export:{failed}",
    "upgrade edge --torch 2.13.0", "upgrade edge --torch 2.13.0 --check", "upgrade edge --torch 2.13.0 --json",
    "upgrade export:{failed} --torch 2.13.0 --check", "catalog list", "catalog list --json", "catalog show torch:2.13.0",
    "catalog show edge --op aten::mm", "catalog show catalog:{}/catalog.json --json",
    "catalog capture --python {}/python", "verify", "verify --json", "verify --signers {}/signers",
    "verify --expect 00", "--ledger {}/tampered.db verify", "--ledger {}/tampered.db verify --json",
    "--ledger {}/missing.db log", "dump", "dump --json", "tag edge", "revert edge --to 99", "load {}/dump.jsonl",
    "restore {}/backup.db", "backup {}/ledger.db", "run {}/missing.py",
)  # fmt: skip
WRITES = (
    "tag edge@1 new", "tag edge@1 new --json", "revert edge --to 1", "revert edge --to 1 --json",
    "checkpoint --key {}/key", "checkpoint --key {}/key --json -o {}/release.json", "backup {}/copy.db",
    "backup {}/copy.db --json", "backup {}/backup.db --force", "restore {}/backup.db --force",
    "restore {}/backup.db --force --json", "dump -o {}/new.jsonl", "--ledger {}/new.db load {}/dump.jsonl",
    "--ledger {}/new.db load {}/dump.jsonl --json", "catalog capture --python {}/python -o {}/new.json",
    "catalog capture --python {}/python -o {}/new.json --json",
)  # fmt: skip
SCRIPT = "import sys\nprint('h\N{LATIN SMALL LETTER E WITH ACUTE}llo')\nsys.exit(3)\n"
RUNS = ("run {}/script.py", "run --name a -m script")
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
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([IMPORT_ROOT, str(folder)]), "COLUMNS": "200"}
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
            status = child.wait(60)
        elif condition.unread:
            out, into = os.pipe()
            os.close(out)
            status = subprocess.call(arguments, stdout=into, stderr=to, env=environment, cwd=folder, timeout=60)
            os.close(into)
            output = b""
        else:
            done = subprocess.run(
                arguments, stdout=subprocess.PIPE, stderr=to, env=environment, cwd=folder, timeout=60, check=False
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
    filled = text.format(folder, **numbers).split()
    return filled if "--ledger" in filled else ["--ledger", str(folder / "ledger.db"), *filled]


def letters(text: str) -> Counter[str]:
    """Return how often each letter and digit is in a text, wherever its lines break."""
    return Counter(c for c in ESCAPE.sub("", text) if c.isascii() and c.isalnum())


def compared(text: str, plain: Outcome, found: Outcome, condition: Condition) -> str:
    """Compare what a command did under a condition with what it did without; return what is wrong, or ""."""
    errors = found.errors.decode("utf-8", "replace")
    if "Traceback" in errors or "Exception ignored" in errors:
        return f"a traceback: {errors[-400:]}"
    lost = ">/dev/full" in condition.shell.replace("2>", "") and plain.output
    wanted = 2 if lost else plain.status
    if found.status != wanted:
        return f"exit status {found.status}, not {wanted}: {errors[-300:]}"
    if condition.shell == PLAIN.shell and len(errors.splitlines()) != len(plain.errors.splitlines()):
        return f"other errors: {errors[-300:]}"
    if lost and "2>" not in condition.shell and "standard output: it cannot be written" not in errors:
        return f"the error is not clear: {errors[-300:]}"
    if text in WRITES or condition.unread or condition.shell != PLAIN.shell:
        return ""
    try:
        shown, whole = found.output.decode(condition.encoding()), plain.output.decode()
    except UnicodeDecodeError as error:
        return f"the output is not in the encoding: {error}"
    if "--json" in text and shown.replace("\r\n", "\n") != whole:
        return "the JSON is another one"
    if condition.settings.keys() & {"NO_COLOR"} or condition.settings.get("TERM") == "dumb":
        if "\x1b" in shown:
            return f"an escape: {shown[:300]!r}"
    missing = letters(whole) - letters(shown)
    return f"letters are missing: {missing}: {shown[:300]!r}" if missing else ""


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
            return attrs.evolve(found, output=found.output.replace(str(folder).encode(), str(whole).encode()))
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


FAULTS = (of_streams,)
