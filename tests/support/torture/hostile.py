"""Hostile text: stored exactly or refused, and harmless to terminals and JSON parsers when printed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from forging import rechain, tamper
from strategies import catalog_of, new_table

from decomp_ledger.cli import cli
from decomp_ledger.cli.output import printable
from decomp_ledger.errors import LedgerError
from decomp_ledger.ledger import Ledger
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.events import OVERRIDE, Set
from decomp_ledger.model.rules import Decomposition
from decomp_ledger.transfer.jsonl import load
from torture.common import MM, Row, Workspace, act, lines_of, problems_text, try_all

TEXTS = {
    "terminal escapes": "a\x1b[31mred\x1b]0;title\x07\x9b2J",
    "line breaks": "a\nb\r\nc\x0bd\x0ce\x85f\u2028g\u2029h",
    "direction marks": "\u202eevil\u202c \u2066x\u2069 \u200f\u200e\u061c",
    "nothing visible": "\u200b\ufeff\u00ad\u2060\U000e0041",
    "control characters": "".join(map(chr, (*range(32), 127, *range(128, 160)))),
    "a null": "before\0after",
    "lone surrogates": "a\ud800b\udfffc",
    "surrogates in the wrong order": "\udc80\ud83d",
    "markup": "[bold]x[/bold] [link=http://evil]y[/link] {0} %s $(id) `id`",
    "what JSON must escape": '"\\/\b\t</script>\u0000',
    "combining marks": "e" + "\u0301" * 500,
    "right to left": "\u05d0\u05d1 \u0627\u0644",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "SQL": "x'; DROP TABLE event; --",
    "an option": "--json",
    "a path": "../../../etc/passwd",
    "spaces": "   ",
    "nothing": "",
    "noncharacters": "\ufffe\uffff\U0010ffff",
}
FEW = ("terminal escapes", "lone surrogates", "nothing")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("tables",), ("log",), ("log", "edge"), ("show", "edge"), ("show", "edge", "--all"), ("blame", "edge"),
    ("explain", MM), ("diff", "edge@1", "edge"), ("exports",), ("verify",), ("catalog", "show", "edge"),
    ("drift", "edge", "torch:2.13.0"), ("upgrade", "edge", "--torch", "2.13.0"),
    ("drift", "edge", "torch:2.13.0", "--markdown"), ("report",), ("report", "edge"), ("report", "edge@1", "edge"),
    ("show", "edge", "--markdown"), ("exports", "--markdown"), ("diff", "edge@1", "edge", "--markdown"),
)  # fmt: skip

Store = Callable[[Ledger, TableLog, str], Any]  # stores a text in one field; returns what is read back


def _as_source(ledger: Ledger, table: TableLog, text: str) -> Any:
    decomposition = Decomposition("opaque", None, None, digest="7" * 64, source=text)
    table.change(Set, lambda _: [(MM, OVERRIDE, decomposition)])
    rule = ledger.state("edge").rules[MM]
    assert rule.decomposition is not None
    return rule.decomposition.source


def _as_name(ledger: Ledger, table: TableLog, text: str) -> Any:
    decomposition = Decomposition("import", f"mypkg.{text}", text, digest="7" * 64)
    table.change(Set, lambda _: [(MM, OVERRIDE, decomposition)])
    rule = ledger.state("edge").rules[MM]
    assert rule.decomposition is not None
    return rule.decomposition.qualname


def _as_actor(ledger: Ledger, table: TableLog, text: str) -> Any:
    with Ledger(ledger.path, actor=text) as other:
        other.table_log("edge").preserve([MM])
    return _last(ledger).actor


def _as_a_file(ledger: Ledger, table: TableLog, text: str) -> Any:
    with contextlib.suppress(ValueError):  # of Python: source or file names with a null
        exec(compile(f"table.preserve(['{MM}'])", f"/x/{text}", "exec"), {"table": table})
        site = _last(ledger).call_site
        assert site is not None
        # The name of a file that is not valid text is stored with escapes.
        wanted = str(Path(f"/x/{text}")).encode("utf-8", "backslashreplace").decode()
        return text if site.file == wanted else site.file
    return text


def _because(ledger: Ledger, table: TableLog, text: str) -> Any:
    with ledger.because(text):
        table.preserve([MM])
    return _last(ledger).reason or ""


def _as_reason(ledger: Ledger, table: TableLog, text: str) -> Any:
    table.preserve([MM], reason=text)
    return _last(ledger).reason or ""


def _as_op(ledger: Ledger, table: TableLog, text: str) -> Any:
    table.preserve([text])
    return next(iter(_last(ledger).changes)).op


def _as_table(ledger: Ledger, table: TableLog, text: str) -> Any:
    new_table(ledger, text).preserve([MM])
    return _last(ledger).table


def _as_tag(ledger: Ledger, table: TableLog, text: str) -> Any:
    table.tag(text)
    return next(iter(ledger.tags("edge")))


FIELDS: dict[str, Store] = {
    "a reason": _as_reason,
    "a reason of because()": _because,
    "an actor": _as_actor,
    "an op's name": _as_op,
    "a table's name": _as_table,
    "a tag": _as_tag,
    "a function's source": _as_source,
    "a function's name": _as_name,
    "a file's name": _as_a_file,
}


def _last(ledger: Ledger) -> Any:
    return next(ledger.events(desc=True, limit=1))


def unprintable(text: str) -> str:
    """Return the first line of an output that would control a terminal, or ""."""
    return next((repr(line[:300]) for line in text.split("\n") if not line.isprintable()), "")


def commanded(path: Path, arguments: tuple[str, ...]) -> Iterator[str]:
    """Run a command without and with --json; yield what is wrong with its output."""
    for options in ((), ("--json",)):
        given = ["--ledger", str(path), *arguments, *options]
        done = CliRunner().invoke(cli, given, standalone_mode=False)
        name = " ".join((*arguments, *options))[:80]
        error = done.exception
        if isinstance(error, (click.ClickException, LedgerError)):
            # `main` prints it in this way.
            message = error.format_message() if isinstance(error, click.ClickException) else str(error)
            output = printable(message) + "\n"
            if len(message) > 5000:
                yield f"{name!r}: an error of {len(message)} characters"
        elif error is not None:
            yield f"{name!r}: {error!r:.300}"
            continue
        else:
            output = done.output
            if options:
                try:
                    json.loads(output)
                except ValueError as fault:
                    yield f"{name!r}: its JSON cannot be parsed: {fault}"
        if bad := unprintable(output):
            yield f"{name!r} prints {bad}"


def in_every_field(workspace: Workspace) -> list[Row]:
    """Store each text in each field; read it back with the library and with each command."""
    rows = []
    texts = list(TEXTS.items()) if workspace.full else [(name, TEXTS[name]) for name in FEW]
    commands = COMMANDS if workspace.full else COMMANDS[:4]
    for field, store in FIELDS.items():

        def attempt(number: int, field: str = field, store: Store = store) -> str:
            name, text = texts[number]
            path = workspace.folder / f"{field} {number}.db"
            wrong = []
            with Ledger(path, actor="ann") as ledger:
                table = new_table(ledger)
                table.materialize(catalog_of("aten::add"))
                try:
                    found = store(ledger, table, text)
                    if found != text and not (field == "an actor" and not text):  # then it is the login name
                        wrong.append(f"stored as {found!r:.100}")
                except LedgerError as error:
                    if not 0 < len(str(error)) < 5000:
                        wrong.append(f"refused with {len(str(error))} characters")
                if not ledger.verify().ok:
                    wrong.append(problems_text(ledger.verify().problems))
                lines = lines_of(ledger)
            load(lines, path.with_suffix(".again"))
            with Ledger(path.with_suffix(".again"), read_only=True) as again:
                wrong += ["a dump changed it"] if lines_of(again) != lines else []
            for arguments in commands:
                wrong += commanded(path, arguments)
            return f"{name}: {wrong[0]}" if wrong else ""

        goal = "stored exactly or refused, printed escaped, valid JSON, the same after dump and load"
        rows.append(Row(f"hostile text as {field}", len(texts), goal, try_all(len(texts), attempt, 60)))
    return rows


def in_arguments(workspace: Workspace) -> list[Row]:
    """Pass each text to the commands as an argument."""
    path = workspace.folder / "ledger.db"
    with Ledger(path, actor="ann") as ledger:
        new_table(ledger).preserve([MM])
    wrong: list[str] = []
    runs = 0
    for name, text in TEXTS.items():
        for given in (
            ("log", "--actor", text), ("log", "--op", text), ("log", "--", text), ("show", "--", text),
            ("blame", "--", text), ("explain", "--", text), ("diff", "--", text, "edge"), ("tag", "--", "edge", text),
            ("verify", "--expect", text), ("verify", "--against", text), ("verify", "--signers", text),
            ("backup", "--", f"/nowhere/{text}"), ("restore", "--", text), ("load", "--", text or "x"),
            ("catalog", "show", "--", f"catalog:{text}"), ("drift", "--", text, "edge"),
            ("upgrade", "edge", "--torch", text), ("checkpoint", "--key", text),
        ):  # fmt: skip
            runs += 1
            wrong += [f"{name}: {text}" for text in commanded(path, given)]
    return [Row("hostile arguments of commands", runs, "one answer or one error, escaped", tuple(wrong))]


EDITS = (
    "UPDATE op SET name = ? WHERE id = 1", "UPDATE decomp_table SET name = ? WHERE id = 1", "UPDATE tag SET name = ?",
    "UPDATE provenance SET actor = ?1, reason = ?1", "UPDATE event SET recorded_at = ?", "UPDATE event SET kind = ?",
    "UPDATE provenance SET call_site = json_object('file', ?1, 'function', ?1, 'line', 7)",
)  # fmt: skip


def of_a_stranger(workspace: Workspace) -> list[Row]:
    """Read ledgers with names that this package would refuse, in a valid chain."""
    names = (
        [name for name in TEXTS if "surrogate" not in name] if workspace.full else ["terminal escapes", "line breaks"]
    )

    def attempt(number: int) -> str:
        name, query = names[number // len(EDITS)], EDITS[number % len(EDITS)]
        text = TEXTS[name]
        path = workspace.folder / f"stranger {number}.db"
        with Ledger(path, actor="ann") as ledger:
            table = new_table(ledger)
            table.preserve([MM])
            table.materialize(catalog_of("aten::add"))
            table.tag("v1")

        def edit(db: Any) -> None:
            db.execute(query, [text])
            # Change the hashed text too.
            for seq, body in db.execute("SELECT seq, body FROM event").fetchall():
                for old in (json.dumps(MM), '"v1"'):
                    body = body.replace(old, json.dumps(text, ensure_ascii=False))
                db.execute("UPDATE event SET body = ? WHERE seq = ?", [body, seq])
            with contextlib.suppress(Exception):
                rechain(db)

        tamper(path, edit)
        wrong = [text for arguments in COMMANDS for text in commanded(path, arguments)]
        return f"{name}, {query}: {wrong[0]}" if wrong else ""

    goal = "one answer or one error, escaped, valid JSON"
    runs = len(names) * len(EDITS)
    return [Row("a stranger's ledger with hostile names", runs, goal, try_all(runs, attempt, 60))]


def as_paths(workspace: Workspace) -> list[Row]:
    """Use each text as the path of a ledger, in Python and on the command line."""
    wrong: list[str] = []
    runs = 0
    for name, text in TEXTS.items():
        for file in (f"{text}.db", f"{text}/x.db") if workspace.full else (f"{text}.db",):
            runs += 1
            # Deep, so that "../../.." stays within the workspace; an absolute path is tried below it too.
            folder = workspace.folder / f"path {runs}" / "a" / "b" / "c" / "d"
            folder.mkdir(parents=True)
            file = f"{folder}{file}" if file.startswith("/") else file
            here = Path.cwd()
            os.chdir(folder)
            try:
                with Ledger(file, actor="ann") as ledger:
                    new_table(ledger).preserve([MM])
                    wrong += [] if ledger.verify().ok else [f"{name}: {file!r} does not verify"]
                    ledger.backup("copy.db")
                with Ledger(file, read_only=True) as again:
                    wrong += [] if again.state("edge").rules.keys() == {MM} else [f"{name}: {file!r} lost a change"]
            except LedgerError as error:
                wrong += [f"{name}: {bad}"] if (bad := unprintable(printable(str(error)))) else []
            except UnicodeEncodeError as error:
                wrong.append(f"{name}: {error}")
            finally:
                os.chdir(here)
            if "\0" in text or (not workspace.full and runs % 6):
                continue
            try:
                given = os.fsencode(file)
            except UnicodeEncodeError:  # no file can have that name
                continue
            for options in ((), (b"--json",)):
                command = [
                    os.fsencode(sys.executable),
                    b"-m",
                    b"decomp_ledger",
                    b"--ledger",
                    given,
                    b"tables",
                    *options,
                ]
                done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
                output = (done.stdout + done.stderr).decode("utf-8", "replace")
                if b"Traceback" in done.stderr or done.returncode not in (0, 2) or unprintable(output):
                    wrong.append(f"{name}: {options} {done.returncode} {output[-200:]!r}")
                if options:
                    json.loads(done.stdout)
    return [Row("a ledger named by hostile text", runs, "used, or one error, escaped", tuple(wrong))]


def huge(workspace: Workspace) -> list[Row]:
    """Store 10 MB of text in each field, and print it."""
    size = workspace.amount(10_000_000, 100_000)

    def attempt(number: int) -> str:
        field, store = list(FIELDS.items())[number]
        wrong: list[str] = []
        path = workspace.folder / f"huge {number}.db"
        text = "x\x1b" * (size // 2)
        with Ledger(path, actor="ann") as ledger:
            table = new_table(ledger)
            table.materialize(catalog_of("aten::add"))
            try:
                found = store(ledger, table, text)
                wrong += [] if found == text else [f"{len(found)} characters were stored"]
            except LedgerError as error:
                wrong += [] if 0 < len(str(error)) < 1000 else [f"refused with {len(str(error))} characters"]
            wrong += [] if ledger.verify().ok else [problems_text(ledger.verify().problems)[:300]]
            act(table, 3, "after")
        for arguments in (("log",), ("blame", "edge"), ("verify",)):
            wrong += commanded(path, arguments)
        return f"{field}: {wrong[0]}" if wrong else ""

    goal = "stored exactly or refused in a short message, printed escaped"
    return [Row(f"{size:,} bytes of text in each field", len(FIELDS), goal, try_all(len(FIELDS), attempt, 120))]


FAULTS = (in_every_field, in_arguments, of_a_stranger, as_paths, huge)
