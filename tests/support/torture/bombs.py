"""Small hostile files that unpack to much: each read takes little memory and time, and gives an answer or one error."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import resource
import signal
import struct
import traceback
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click
from forging import rechain, tamper
from strategies import catalog_of, new_table

from decomp_ledger.cli import cli
from decomp_ledger.errors import LedgerError
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import Exported
from decomp_ledger.transfer.export_bundle import bare_catalog
from decomp_ledger.transfer.stamp import MEMBER, Stamp
from torture.common import MM, Row, Workspace, everything, forked, lines_of, wait_for

MIB = 1024 * 1024
MOST_MEGABYTES = 256.0  # above those of the process before
MOST_SECONDS = 10.0
_GOAL = "an answer or one error, within 256 MB and 10 s"

# Commands that read a ledger.
READS: tuple[tuple[str, ...], ...] = (
    ("verify",), ("dump",), ("log",), ("log", "edge0", "--json"), ("tables",), ("show", "edge0", "--all"),
    ("blame", "edge0"), ("explain", MM, "edge0"), ("diff", "edge0@1", "edge0"), ("exports",),
    ("catalog", "show", "edge0"), ("drift", "edge0", "torch:2.13.0"), ("upgrade", "edge0", "--torch", "2.13.0"),
)  # fmt: skip


@attrs.frozen
class Run:
    """One read of a bomb.

    Attributes:
        name: names it in a report.
        make: makes the file, in a process of its own, so that no memory of it is left to the reader.
        read: reads it.
    """

    name: str
    make: Callable[[], object]
    read: Callable[[], object]


def _repeated(unit: str, size: int) -> str:
    return "[" + ",".join([unit] * (size // (len(unit.encode()) + 1))) + "]"


# JSON texts of a size in bytes, which a parser turns into something large or slow.
SHAPES: dict[str, Callable[[int], str]] = {
    **{f"an array of {unit}": partial(_repeated, unit)
       for unit in ("[]", "{}", '{"":0}', "[[[]]]", "7", "1e9", '"\U0001f600"', "null")},
    "keys": lambda size: "{" + ",".join(f'"{n:x}":{{}}' for n in range(size // 10)) + "}",
    "keys that repeat": lambda size: "{" + ",".join(['"a":[]'] * (size // 7)) + "}",
    "deep arrays": lambda size: "[" * (size // 2) + "]" * (size // 2),
    "deep objects": lambda size: '{"a":' * (size // 6) + "1" + "}" * (size // 6),
    "a text": lambda size: '"' + "x" * size + '"',
    "a text of emoji": lambda size: '"' + "\U0001f600" + "x" * size + '"',
    "an escaped text": lambda size: '"' + "\\ud83d\\ude00" * (size // 12) + '"',
    "digits": lambda size: "7" * size,
    "spaces": lambda size: " " * size,
    "an open text": lambda size: '"' + "\\" * size,
    "null characters": lambda size: "\0" * size,
}  # fmt: skip


def command(path: Path, *arguments: str) -> None:
    """Run a command of a ledger and drop its output; only an error of this package or of the arguments may end it."""
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.suppress(LedgerError, click.ClickException),
    ):
        cli(["--ledger", str(path), *arguments], standalone_mode=False)


def cost(run: Run) -> tuple[float, float, str]:
    """Make a bomb and read it, each in a forked child; return seconds, megabytes, and how the read ended or ""."""
    if wrong := wait_for(forked(run.make)):
        return 0.0, 0.0, f"cannot be made: {wrong}"
    before = _resident()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            # A bomb that explodes ends the child, not the machine.
            resource.setrlimit(resource.RLIMIT_AS, (6 * 1024 * MIB, 6 * 1024 * MIB))
            resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
            signal.alarm(1200)  # a read that waits; other work may leave it little of the processor
            run.read()
            status = 0
        except BaseException:
            traceback.print_exc(limit=-3)
        finally:
            os._exit(status)
    _, status, used = os.wait4(child, 0)
    # Seconds of the processor, because other work on the machine does not count.
    return (
        used.ru_utime + used.ru_stime,
        (used.ru_maxrss * 1024 - before) / MIB,
        f"ends with the status {status:#x}" if status else "",
    )


def _resident() -> int:
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes; the goal is easier there


def _row(fault: str, runs: Sequence[Run]) -> Row:
    wrong: list[str] = []
    slowest = largest = 0.0
    for run in runs:
        seconds, megabytes, end = cost(run)
        slowest, largest = max(slowest, seconds), max(largest, megabytes)
        if end or seconds > MOST_SECONDS or megabytes > MOST_MEGABYTES:
            wrong.append(f"{run.name}: {seconds:.1f} s, {megabytes:.0f} MB, {end or 'ends well'}")
    return Row(fault, len(runs), _GOAL, tuple(wrong), f"at most {slowest:.1f} s and {largest:.0f} MB")


def _nothing() -> None:
    """Make nothing, because an earlier run made the file."""


def _some(workspace: Workspace, cases: Sequence[Any], few: int) -> list[Any]:
    """Return all cases, or for the short form a few that are spread over them."""
    return list(cases) if workspace.full else list(cases)[:: max(1, len(cases) // few)]


def in_files(workspace: Workspace) -> list[Row]:
    """Read JSON of every shape as each kind of file."""
    path = workspace.folder / "ledger.db"
    everything(path, 1)
    with Ledger(path, read_only=True) as ledger:
        first = lines_of(ledger)[0]
    runs: list[Run] = []
    cases = _some(workspace, list(itertools.product((1, 7, 12), SHAPES)), 4)
    for number, (size, shape) in enumerate(cases):
        file = workspace.folder / f"{number}.json"
        kind = ("environment", "catalog", "event", "checkpoint")[number % 4]
        make = partial(_write_json, file, shape, size * MIB, first, kind)
        for what, arguments in {
            "a catalog": ("drift", "torch:2.13.0", f"catalog:{file}"),
            "a checkpoint": ("verify", "--checkpoint", str(file)),
            "signers": ("verify", "--signers", str(file)),
            "a key": ("checkpoint", "--key", str(file)),
            "samples": ("catalog", "capture", "--python", "/no/such/python", "--no-traces", "--samples", str(file)),
            f"a dump's {kind}": ("load", f"{file}.dump"),
        }.items():
            given = file.with_suffix(".db") if "load" in arguments else path
            runs.append(Run(f"{size} MB of {shape} as {what}", make, partial(command, given, *arguments)))
            make = _nothing
    return [_row("JSON bombs as files: catalogs, checkpoints, signers, keys, samples, dumps", runs)]


def _write_json(file: Path, shape: str, size: int, first: str, kind: str) -> None:
    text = SHAPES[shape](size)
    file.write_text(text, encoding="utf-8")
    Path(f"{file}.dump").write_text(f'{first}{{"{kind}":{text}}}\n', encoding="utf-8")


def _write_archive(
    path: Path, text: Callable[[], bytes], method: int, false_size: int | None = None, entries: int = 0
) -> None:
    made, content = io.BytesIO(), text()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr(f"model/extra/{MEMBER}", content)
        for number in range(entries):
            archive.writestr(zipfile.ZipInfo(f"{number:x}"), b"")
    data = made.getvalue()
    if false_size is not None:
        data = data.replace(struct.pack("<I", len(content)), struct.pack("<I", false_size))
    path.write_bytes(data)


def _stamp_of(shape: str, size: int, place: str) -> bytes:
    return f'{{"format":1,"torch":"x","exports":{place.format(SHAPES[shape](size))}}}'.encode()


def _many_exports(count: int) -> bytes:
    with Ledger(":memory:", actor="eve") as ledger:
        table, catalog = new_table(ledger, "stamped"), bare_catalog("2.13.0")
        snapshot = table.materialize(catalog)
        event = table.exported(Exported(catalog.digest, snapshot.digest, None, None, {}, {}, {}, 0), table.version)
        assert event is not None
        value = json.loads(Stamp((ledger.bundle(event.seq),), None, "").to_text())
    return json.dumps({**value, "exports": value["exports"] * count}).encode()


def _write_large_directory(path: Path) -> None:
    """Make an archive whose directory has 3 GB, which take no space on the disk."""
    with path.open("wb") as file:
        file.truncate(3 * 1024 * MIB)
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 7, 7, 3 * 1024 * MIB - 10, 0, 0))


def in_stamps(workspace: Workspace) -> list[Row]:
    """Read `.pt2` files whose stamp or directory unpacks to much."""
    stored, deflated, bzip2, lzma = 0, 8, 12, 14
    makers: dict[str, Callable[[Path], None]] = {}
    for size in (1, 7, 64, 512) if workspace.full else (16,):
        for method in (deflated, bzip2, lzma) if size < 64 else (deflated,):
            for lie in (None, 1000, 8 * MIB):
                name = f"{size} MB of zeros by method {method}, of a size given as {lie}"
                makers[name] = partial(_write_archive, text=partial(bytes, size * MIB), method=method, false_size=lie)
    for size, shape in _some(workspace, list(itertools.product((1, 7), SHAPES)), 3):
        for place in ("{}", '[{{"event":{}}}]', '[{{"catalog":{}}}]'):
            text = partial(_stamp_of, shape, size * MIB, place)
            makers[f"{size} MB of {shape} in a stamp at {place}"] = partial(_write_archive, text=text, method=deflated)
    for entries in (50_000, 200_000) if workspace.full else (2000,):
        text = partial(bytes, b"{}")
        makers[f"{entries} members"] = partial(_write_archive, text=text, method=stored, entries=entries)
    for count in (100, 2000):
        text = partial(_many_exports, count)
        makers[f"{count} exports in a stamp"] = partial(_write_archive, text=text, method=deflated)
    makers["a directory of 3 GB"] = _write_large_directory
    runs = []
    for number, (name, make) in enumerate(makers.items()):
        path = workspace.folder / f"{number}.pt2"
        runs.append(Run(name, partial(make, path), partial(command, path.with_suffix(".db"), "show", str(path))))
    return [_row("bombs as `.pt2`: sizes, methods, directories, exports", runs)]


_COLUMNS = (
    ("event", "body", "seq = 2"), ("environment", "body", "id = 1"), ("decomposition", "body", "id = 1"),
    ("provenance", "call_site", "id = 1"), ("provenance", "reason", "id = 1"), ("provenance", "actor", "id = 1"),
    ("op", "name", "id = 1"), ("decomp_table", "name", "id = 1"), ("tag", "name", "version = 1"),
)  # fmt: skip


def _edited(source: Path, path: Path, query: str, value: Callable[[], object]) -> None:
    """Copy a ledger with another value in it, chained again where that is possible."""

    def edit(db: Any) -> None:
        db.execute(query, [value()])
        with contextlib.suppress(Exception):
            rechain(db)

    path.write_bytes(source.read_bytes())
    tamper(path, edit)


def _cell(shape: str, size: int) -> str:
    return SHAPES[shape](size).replace("\0", "\x01")


def _catalog_bomb(size: int, shape: str) -> bytes:
    """Compress a catalog whose ops are a text of a shape."""
    return zlib.compress(b'{"build":{},"ops":' + SHAPES[shape](size).encode() + b"}", 9)


def in_ledgers(workspace: Workspace) -> list[Row]:
    """Run every reading command on ledgers with a bomb in one value."""
    source = workspace.folder / "source.db"
    everything(source, 1)
    bombs: list[tuple[str, str, Callable[[], object]]] = []
    for size, shape, (table, column, where) in _some(
        workspace, list(itertools.product((1, 7, 12), SHAPES, _COLUMNS))[::3], 3
    ):
        query = f"UPDATE {table} SET {column} = ? WHERE {where}"
        bombs.append((f"{size} MB of {shape} as {table}.{column}", query, partial(_cell, shape, size * MIB)))
    for size, shape in _some(workspace, list(itertools.product((1, 7, 64), SHAPES)), 3):
        value = partial(_catalog_bomb, size * MIB, shape)
        bombs.append((f"{size} MB of {shape} as a catalog", "UPDATE catalog SET body = ?", value))
    runs: list[Run] = []
    for number, (name, query, value) in enumerate(bombs):
        path = workspace.folder / f"{number}.db"
        make: Callable[[], object] = partial(_edited, source, path, query, value)
        # All of them for some bombs, because each takes a process.
        some = [READS[0], READS[1], READS[2 + number % (len(READS) - 2)]]
        for read in READS if workspace.full and number % 7 == 0 else some:
            runs.append(Run(f"{name}: {' '.join(read)}", make, partial(command, path, *read)))
            make = _nothing
    for number, (size, kind) in enumerate(itertools.product((1, 7), _NAMES)):
        path = workspace.folder / f"name {number}.db"
        make = partial(_renamed, source, path, kind, size * MIB)
        for read in READS if workspace.full else READS[number::4]:
            runs.append(Run(f"the name of {kind} of {size} MB: {' '.join(read)}", make, partial(command, path, *read)))
            make = _nothing
    return [_row("bombs in a value of a ledger, each read", runs)]


# A name -> the statements that put another one in its place, in its own row and in the bodies of events.
_BODIES = "UPDATE event SET body = replace(body, json_quote(?1), json_quote(?2))"
_NAMES = {
    "an op": (MM, "aten::", ("UPDATE op SET name = ?2 WHERE name = ?1", _BODIES)),
    "a table": ("fork0", "", ("UPDATE decomp_table SET name = ?2 WHERE name = ?1", _BODIES)),
    "a tag": ("v0", "", ("UPDATE tag SET name = ?2 WHERE name = ?1", _BODIES)),
}


def _renamed(source: Path, path: Path, kind: str, size: int) -> None:
    """Copy a ledger in which a name is long wherever it is stored."""
    old, start, statements = _NAMES[kind]

    def edit(db: Any) -> None:
        for statement in statements:
            db.execute(statement, [old, start + "m" * size])
        rechain(db)

    path.write_bytes(source.read_bytes())
    tamper(path, edit)


def _many_catalogs(path: Path, count: int, ops: int) -> None:
    """Make a ledger with many catalogs that compress well, all sound."""
    with Ledger(path, actor="eve") as ledger:
        table = new_table(ledger, "edge0")
        table.preserve([MM])
        for number in range(count):
            names = {f"eve{number}::{n:x}": Entry() for n in range(ops)}
            table.materialize(Catalog({"torch": "2.13.0", "git": str(number)}, {MM: Entry(), **names}))


def of_many_things(workspace: Workspace) -> list[Row]:
    """Run every reading command on ledgers of a few megabytes with as many rows of one kind as fit."""
    runs: list[Run] = []
    makers: dict[str, Callable[[], object]] = {
        "catalogs": partial(_many_catalogs, workspace.folder / "catalogs", workspace.amount(60, 5), 10_000),
        "ops": partial(_many_ops, workspace.folder / "ops", workspace.amount(20_000, 3000)),
        "versions": partial(_many_versions, workspace.folder / "versions", workspace.amount(10_000, 500)),
    }
    for name, make in makers.items():
        path = workspace.folder / name
        for read in READS if workspace.full else READS[:2]:
            runs.append(Run(f"{name}: {' '.join(read)}", make, partial(command, path, *read)))
            make = _nothing
    return [_row("ledgers of many catalogs, ops and versions, each read", runs)]


def _many_ops(path: Path, count: int) -> None:
    with Ledger(path, actor="eve") as ledger:
        table = new_table(ledger, "edge0")
        table.preserve([MM, *(f"eve::op{number}" for number in range(count))])
        table.materialize(catalog_of(MM))


def _many_versions(path: Path, count: int) -> None:
    with Ledger(path, actor="eve") as ledger:
        table = new_table(ledger, "edge0")
        for number in range(count):
            table.preserve([f"eve::op{number % 50}"]) if number % 2 else table.reset([f"eve::op{(number + 1) % 50}"])


def without_end(workspace: Workspace) -> list[Row]:
    """Give each command that reads a file one that does not end, and an interpreter that prints without end."""
    path = workspace.folder / "ledger.db"
    everything(path, 1)
    sparse = workspace.folder / "sparse"
    with sparse.open("wb") as file:
        file.write(b'{"ledger":{"format":"')
        file.truncate(8 * 1024 * MIB)
    printing = workspace.folder / "python"
    printing.write_text("#!/bin/sh\nexec yes '[[],'\n", encoding="utf-8")
    printing.chmod(0o755)
    runs: list[Run] = []
    for file in ("/dev/zero", str(sparse)):
        for arguments in (
            ("verify", "--signers", file), ("verify", "--checkpoint", file), ("verify", "--against", file),
            ("drift", "torch:2.13.0", f"catalog:{file}"), ("checkpoint", "--key", file), ("load", file),
            ("restore", file), ("show", file),
        ):  # fmt: skip
            given = path.with_suffix(".new") if "load" in arguments else path
            runs.append(Run(" ".join(arguments), _nothing, partial(command, given, *arguments)))
        runs.append(Run(f"{file} as a ledger", _nothing, partial(command, Path(file), "tables")))
    capture = ("catalog", "capture", "--python", str(printing))
    runs.append(Run("catalog capture", _nothing, partial(command, path, *capture)))
    return [_row("files and programs without end", runs)]


FAULTS = (in_files, in_stamps, in_ledgers, of_many_things, without_end)
