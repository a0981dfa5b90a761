"""Two ledgers of one head that verify give the same answers: edit a ledger or a stamp, then ask every command.

Each edit either shows (a command refuses the file, or `verify` reports it, or the head or the checkpoints are others),
or no answer differs by a byte. The same for the stamp of a `.pt2`.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sqlite3
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from forging import unguarded
from strategies import catalog_of, new_table, override

from decomp_ledger.cli import cli
from decomp_ledger.errors import LedgerError
from decomp_ledger.integrity.checkpoints import stored_checkpoints
from decomp_ledger.ledger import Ledger
from decomp_ledger.log.table_log import TableLog
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import Exported
from decomp_ledger.transfer.stamp import MEMBER, Stamp, read_stamp
from torture.common import ADD, GELU, LATE, MM, Row, Workspace, everything, try_all
from torture.tampering import SINGLE, TABLES, columns, some_row

Db = sqlite3.Connection
Answers = dict[str, str]
GOAL = "it shows, or no answer differs"
TORCHES = "2.13.0", "2.9.1"

# The ledgers.


def exports(path: Path) -> None:
    """Make a ledger with forks, exports, whole catalogs of two torches and differences from each."""
    entry = Entry("registry", True, schema="(Tensor x) -> Tensor", module="mypkg", qualname="f", others=("cia",))
    with Ledger(path, actor="ann") as ledger:
        edge = new_table(ledger, "edge")
        edge.preserve([MM, LATE], reason="fused")
        for torch in TORCHES:
            for more in ({}, {LATE: entry}, {GELU: Entry(unpreservable="aliasing"), "cond": Entry()}):
                whole = catalog_of(MM, ADD, torch=torch)
                export(edge, Catalog(whole.build, {**whole.ops, **more}))
        override(edge, ADD, "add", reason="faster")
        forked = edge.fork_as("a fork")  # which sorts before its parent
        override(forked, GELU, "gelu")
        export(forked, catalog_of(MM, GELU), error=("ValueError", "no"))
        forked.fork_as("Another").reset([MM])
        forked.revert(1, reason="back")
        edge.tag("v1", 1)
        edge.tag("v2")


def export(table: TableLog, catalog: Catalog, error: tuple[str, str] | None = None) -> None:
    """Record an export."""
    snapshot = table.materialize(catalog)
    after = None if error else "d" * 64
    counts = {MM: 1, ADD: 2}
    body = Exported(
        catalog.digest, snapshot.digest, "c" * 64, after, counts, {} if error else counts, {ADD: 2}, 3, error
    )
    table.exported(body, table.version)


def short(path: Path) -> None:
    """Make a ledger of few events and no catalog."""
    with Ledger(path, actor="ann") as ledger:
        edge = new_table(ledger, "edge")
        edge.preserve([MM, ADD])
        edge.reset([MM])


SOURCES: dict[str, Callable[[Path], object]] = {
    "exports": exports,
    "everything": lambda path: everything(path, 2),
    "short": short,
}

# The answers.


def questions(ledger: Ledger) -> Iterator[list[str]]:
    """Give the arguments of every command that reads, for everything that a ledger has."""
    yield from (
        ["tables"],
        ["log"],
        ["log", "--verbose"],
        ["show", "#3"],
        ["log", "--reverse"],
        ["exports"],
        ["verify"],
        ["show"],
        ["blame"],
    )
    infos = ledger.tables()
    numbers = [f"export:{event.seq}" for event in ledger.exports()]
    for op in (MM, ADD, GELU, LATE, "cond"):
        yield from (["explain", op], ["log", "--op", op], ["why", op])
        yield from (["explain", op, number] for number in numbers[:2])
    yield from (["log", "--actor", actor] for actor in ("ann", "actor 0", "actor 1"))
    yield from (["log", "--kind", kind] for kind in ("created", "materialized", "exported", "tagged"))
    for info in infos:
        specs = [info.name, *(f"{info.name}@{version}" for version in range(1, info.version))]
        specs += [f"{info.name}@{tag}" for tag in ledger.tags(info.name)]
        for spec in specs:
            yield from (["show", spec, "--all"], ["blame", spec], ["diff", spec, infos[0].name])
        yield from (["log", info.name], ["log", info.name, "--op", MM], ["drift", info.name, infos[0].name])
        yield from (["explain", ADD, info.name], ["upgrade", info.name, "--torch", "2.9.1", "--check"])
    for info in infos[:1]:  # these take long
        yield from (["drift", info.name, "torch:2.6.0"], ["catalog", "show", info.name])
        yield ["upgrade", info.name, "--torch", "2.6.0"]
    for number in numbers:
        yield from (["show", number, "--all"], ["blame", number], ["drift", number, numbers[0]])
        yield from (["diff", number, numbers[0]], ["drift", number, infos[0].name, "--only-used", number])


def answers(path: Path) -> Answers:
    """Return command line -> its status and output, without the path; and the lines of a dump."""
    with Ledger(path, read_only=True) as ledger:
        asked = list(questions(ledger))
        found = {f"bundle {event.seq}": json.dumps(ledger.bundle(event.seq).to_json()) for event in ledger.exports()}
        found["dump"] = "".join(ledger.dump_lines())
    for arguments in asked:
        found[" ".join(arguments)] = answer(path, [*arguments, "--json"])
    return found


def answer(ledger: Path, arguments: list[str]) -> str:
    """Return what one command prints, or the error with which it ends."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status: object = cli.main(["--ledger", str(ledger), *arguments], "decomp-ledger", standalone_mode=False)
        except Exception as error:
            status = repr(error)
    return f"{status} {out.getvalue()}".replace(str(ledger), "LEDGER")


def state_of(path: Path) -> tuple[bool, object]:
    """Verify a ledger; return whether it is ok, and its head with its checkpoints."""
    try:
        with Ledger(path, read_only=True) as ledger:
            result = ledger.verify()
            kept = [each.digest for each in stored_checkpoints(ledger.database.connection, ledger.id)]
    except LedgerError:
        return False, None
    return result.ok, (result.head, result.events, kept)


# The edits. Each gets the database without its guards, and raises if it cannot be done.

VALUES: tuple[Any, ...] = (
    None, 0, 1, -1, 2, 2**40, -(2**63), 2**63 - 1, 1.0, 1.5, "", " ", "1", "x", "null", "{}", b"", b"\0", b"1", b"{}",
)  # fmt: skip
DISGUISES: tuple[Callable[[str], Any], ...] = (
    lambda text: f"{text}\0", lambda text: f"{text} ", lambda text: f" {text}", lambda text: f"\ufeff{text}",
    str.upper, str.swapcase, str.encode, lambda text: unicodedata.normalize("NFD", text),
    lambda text: text.replace("e", "\u0435", 1), lambda text: text.replace("Z", "+00:00"),
    lambda text: text.replace(".", ",", 1), lambda text: text.replace("T", " ", 1), lambda text: text.encode("utf-16"),
)  # fmt: skip


def a_value(db: Db, choose: random.Random) -> None:
    """Give a cell a value of any type, or nearly the one that it has."""
    table = choose.choice(TABLES)
    clause, key = some_row(db, table, choose)
    column = choose.choice(columns(db, table))
    (value,) = db.execute(f"SELECT {column} FROM {table} WHERE {clause}", key).fetchone()
    new = choose.choice(VALUES)
    if isinstance(value, str) and choose.random() < 0.6:
        new = choose.choice(DISGUISES)(value)
    elif isinstance(value, int) and choose.random() < 0.4:
        new = choose.choice([-value, float(value), str(value), value + 1])
    elif isinstance(value, bytes) and choose.random() < 0.6:
        new = choose.choice([value + b"\0", value[:-1], value[::-1], value.hex(), b"\0" + value])
    db.execute(f"UPDATE {table} SET {column} = ? WHERE {clause}", [new, *key])


REFERENCES = {
    "decomp_table": (("event", "table_id"), ("change", "table_id"), ("tag", "table_id")),
    "op": (("change", "op_id"),),
    "environment": (("provenance", "environment_id"),),
    "decomposition": (("change", "decomposition_id"),),
    "provenance": (("event", "provenance_id"),),
    "catalog": (("catalog", "base_id"),),
    "checkpoint": (),
}


def new_numbers(db: Db, choose: random.Random) -> None:
    """Number the rows of a table in another way, and change every reference with them."""
    table = choose.choice(list(REFERENCES))
    ids = [row for (row,) in db.execute(f"SELECT id FROM {table} ORDER BY id")]
    ways: list[Callable[[], list[int]]] = [
        lambda: choose.sample(ids, len(ids)), lambda: ids[::-1], lambda: [-row for row in ids],
        lambda: [row + 1 for row in ids], lambda: [row + (row == ids[-1]) for row in ids],
        lambda: [row - 1 for row in ids], lambda: [2**63 - 1 - row for row in ids],
    ]  # fmt: skip
    moves = dict(zip(ids, choose.choice(ways)(), strict=True))
    for target, column in (*REFERENCES[table], (table, "id")):
        for step in (lambda row: -(10**9) - row, lambda row: moves[-(10**9) - row]):  # so that no two rows collide
            for (row,) in db.execute(f"SELECT DISTINCT {column} FROM {target} WHERE {column} IS NOT NULL").fetchall():
                db.execute(f"UPDATE {target} SET {column} = ? WHERE {column} = ?", [step(row), row])


def other_json(text: str, choose: random.Random) -> str:
    """Write the same JSON, or nearly the same, in another way."""
    value = json.loads(text)
    inner = choose.choice([value, *objects(value)])
    way = choose.randrange(9)
    if way == 0:
        return json.dumps(value)
    if way == 1:
        return text.replace('{"', '{"zzz":null,"', 1)
    if way == 2:
        return text.replace(":", ": ", 1)
    if way == 3 and isinstance(value, dict) and value:
        first = next(iter(value))
        return text.replace("{", f"{{{json.dumps(first)}:0,", 1)
    if way == 4:
        return text + choose.choice(["\n", " ", "\0"])
    if way == 5:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).replace("a", "\\u0061", 1)
    if isinstance(inner, dict):
        empty = choose.choice([None, "", [], False, 0, {}])
        inner[choose.choice([*FIELDS, *inner])] = empty
        if way == 6 and len(inner) > 1:
            inner.pop(next(iter(inner)))
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


FIELDS = (
    "zzz", "pending", "parent", "reason", "schema", "unpreservable", "default", "tags", "others", "origin", "module",
    "helpers", "build", "source", "stale", "gone", "changed", "ops", "error",
)  # fmt: skip


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Give every object in a JSON value."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(item)


def a_json_text(db: Db, choose: random.Random) -> None:
    """Write the JSON of a cell in another way; with its digest, where it has one."""
    table, column = choose.choice(
        [("event", "body"), ("environment", "body"), ("decomposition", "body"), ("provenance", "call_site")]
    )
    clause, key = some_row(db, table, choose)
    (text,) = db.execute(f"SELECT {column} FROM {table} WHERE {clause}", key).fetchone()
    db.execute(f"UPDATE {table} SET {column} = ? WHERE {clause}", [other_json(text or "{}", choose), *key])


def a_catalog(db: Db, choose: random.Random) -> None:
    """Write a catalog in another way: empty fields, unknown keys, another base, more behind its end."""
    rows = db.execute("SELECT id, base_id, body FROM catalog").fetchall()
    row_id, base_id, body = choose.choice(rows)
    text = zlib.decompress(body).decode()
    way = choose.randrange(6)
    if way == 0:
        db.execute("UPDATE catalog SET body = ? WHERE id = ?", [body + b"\0", row_id])
    elif way == 1:
        db.execute(
            "UPDATE catalog SET base_id = ? WHERE id = ?", [choose.choice([None, *[r[0] for r in rows]]), row_id]
        )
    elif way == 2:
        _, value = choose.choice([(other, json.loads(zlib.decompress(data))) for other, _, data in rows])
        whole = {"build": value["build"], "ops": value.get("ops") or value.get("changed")}
        db.execute("UPDATE catalog SET base_id = NULL, body = ? WHERE id = ?", [packed(json.dumps(whole)), row_id])
    elif way == 3 and base_id is not None:
        (base,) = db.execute("SELECT body FROM catalog WHERE id = ?", [base_id]).fetchone()
        value, known = json.loads(text), json.loads(zlib.decompress(base))
        value["changed"] = {**known["ops"], **value["changed"]}
        value["gone"] = [*value["gone"], *choose.choice([[], ["aten::never"], list(value["changed"])])]
        value["changed"] = {op: entry for op, entry in value["changed"].items() if op not in value["gone"]}
        new = json.dumps(value, sort_keys=True, separators=(",", ":"))
        db.execute("UPDATE catalog SET body = ? WHERE id = ?", [packed(new), row_id])
    else:
        db.execute("UPDATE catalog SET body = ? WHERE id = ?", [packed(other_json(text, choose)), row_id])


def packed(text: str) -> bytes:
    """Compress a text as a catalog is, at another level."""
    return zlib.compress(text.encode(), 9)


def two_provenances(db: Db, choose: random.Random) -> None:
    """Store the provenance of some events once more, or that of two events once."""
    (row_id,) = choose.choice(db.execute("SELECT id FROM provenance").fetchall())
    (last,) = db.execute("SELECT max(id) FROM provenance").fetchone()
    db.execute(
        "INSERT INTO provenance SELECT ?, actor, reason, call_site, environment_id FROM provenance WHERE id = ?",
        [last + 1, row_id],
    )
    events = [seq for (seq,) in db.execute("SELECT seq FROM event WHERE provenance_id = ? ORDER BY seq", [row_id])]
    chosen = choose.choice([events[-1:], events[:1], [seq for seq in events if choose.random() < 0.5]])
    db.executemany("UPDATE event SET provenance_id = ? WHERE seq = ?", [(last + 1, seq) for seq in chosen])


def a_setting(db: Db, choose: random.Random) -> None:
    """Change a number in the header of the file."""
    name = choose.choice(["user_version", "application_id"])
    db.execute(f"PRAGMA {name} = {choose.choice([1, -1, 7, 0])}")


SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    str.title,
    lambda name: f'"{name}"',
    lambda name: f"[{name}]",
)


def a_schema(db: Db, choose: random.Random) -> None:
    """Add, drop or change something of the schema, in any spelling."""
    table, spell = choose.choice(TABLES), choose.choice(SPELLINGS)
    name, column = spell(table), spell(choose.choice(columns(db, table)))
    statements = [
        f"CREATE TRIGGER forged BEFORE INSERT ON {name} BEGIN SELECT RAISE(IGNORE); END",
        f"CREATE TRIGGER {name}_no_edit AFTER INSERT ON {name} BEGIN DELETE FROM {name}; END",
        f"CREATE INDEX forged ON {name}({column} DESC)",
        f"CREATE INDEX forged ON {name}({column} COLLATE NOCASE)",
        f"CREATE UNIQUE INDEX forged ON {name}({column}) WHERE 0",
        f"CREATE VIEW forged AS SELECT * FROM {name}",
        f"CREATE TABLE forged AS SELECT * FROM {name}",
        f"ALTER TABLE {name} ADD COLUMN forged TEXT",
        f"ALTER TABLE {name} ADD COLUMN forged INTEGER DEFAULT 7",
        f"ALTER TABLE {name} RENAME COLUMN {column} TO forged",
        "CREATE TEMP VIEW event AS SELECT 1",
        "ANALYZE",
        "DROP INDEX event_table",
        "DROP INDEX event_kind_of_version",
        "DROP INDEX provenance_actor",
        "REINDEX",
    ]
    db.execute(choose.choice(statements))


def utf16(db: Db, choose: random.Random) -> None:
    """Write the whole file again, with its texts in UTF-16 or its rows in another order."""
    encoding = choose.choice(["UTF-16le", "UTF-16be", "UTF-8"])
    (path,) = (row[2] for row in db.execute("PRAGMA database_list") if row[1] == "main")
    copy = f"{path}.copy"
    Path(copy).unlink(missing_ok=True)
    schema = db.execute("SELECT type, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid").fetchall()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    with contextlib.closing(sqlite3.connect(copy)) as new:
        new.execute(f"PRAGMA encoding = '{encoding}'")
        new.execute(f"PRAGMA application_id = {application}")
        for sql in (sql for kind, sql in schema if kind == "table"):
            new.execute(sql)
        for table in [*TABLES, "_sqlite_migrations"]:
            rows = db.execute(f"SELECT * FROM {table}").fetchall()
            choose.shuffle(rows)
            for row in rows:
                new.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        for sql in (sql for kind, sql in schema if kind in ("index", "view")):
            new.execute(sql)
        new.commit()
    raise Replaced(copy)


class Replaced(Exception):
    """The edited ledger is another file."""


# Kind of edit -> its share.
EDITS: dict[Callable[[Db, random.Random], None], int] = {
    a_value: 4, new_numbers: 3, a_json_text: 3, a_catalog: 4, two_provenances: 1, a_setting: 1, a_schema: 2, utf16: 1,
    **dict.fromkeys(SINGLE, 1),
}  # fmt: skip


def edit_ledger(source: Path, path: Path, choose: random.Random) -> str:
    """Copy a ledger and edit it; return the edit, or "" if SQLite refused it."""
    shutil.copy(source, path)
    edit = choose.choices(list(EDITS), list(EDITS.values()))[0]
    try:
        if choose.random() < 0.3:
            without_types(path, lambda db: edit(db, choose))
        else:
            with contextlib.closing(sqlite3.connect(path)) as db, unguarded(db):
                edit(db, choose)
    except Replaced as replaced:
        with contextlib.closing(sqlite3.connect(str(replaced))) as db:
            with contextlib.closing(sqlite3.connect(source)) as whole:
                triggers = [sql for (sql,) in whole.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger'")]
            for sql in triggers:
                db.execute(sql)
            db.execute("PRAGMA journal_mode = WAL")
            db.commit()
        shutil.move(str(replaced), path)
    except (sqlite3.Error, UnicodeError, OverflowError, ValueError, KeyError, TypeError, IndexError):
        return ""
    return edit.__name__.replace("_", " ")


def without_types(path: Path, edit: Callable[[Db], object]) -> None:
    """Edit a ledger while its tables take values of any type, then write the true schema again."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        true = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND sql LIKE '%STRICT%'").fetchall()
        set_schema(db, [(name, sql.replace("STRICT, ", "").replace(" STRICT", "")) for name, sql in true])
    with contextlib.closing(sqlite3.connect(path)) as db, unguarded(db):
        edit(db)
    with contextlib.closing(sqlite3.connect(path)) as db:
        set_schema(db, true)


def set_schema(db: Db, texts: list[tuple[str, str]]) -> None:
    """Write the texts of tables into the schema."""
    db.execute("PRAGMA writable_schema = ON")
    db.executemany("UPDATE sqlite_master SET sql = ? WHERE name = ?", [(sql, name) for name, sql in texts])
    (version,) = db.execute("PRAGMA schema_version").fetchone()
    db.execute(f"PRAGMA schema_version = {version + 1}")
    db.commit()


@attrs.frozen
class Source:
    """A ledger to edit, and what it answers."""

    path: Path
    state: object
    answers: Answers


def make_sources(workspace: Workspace) -> list[Source]:
    """Make the ledgers, each in one file."""
    found = []
    for name, make in SOURCES.items():
        path = workspace.folder / f"{name}.db"
        make(path)
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ok, state = state_of(path)
        assert ok, name
        found.append(Source(path, state, answers(path)))
    return found


def edited_ledgers(workspace: Workspace) -> list[Row]:
    """Edit anything in a ledger; either it shows, or every command answers as before."""
    sources = make_sources(workspace)
    unseen = workspace.folder / "unseen"
    unseen.touch()

    def attempt(number: int) -> str:
        choose = random.Random(f"{workspace.seed} {number}")
        path, edit = workspace.folder / f"edited {number % 64}.db", ""
        source = choose.choices(sources, [6, 3, 1])[0]
        while not edit:
            edit = edit_ledger(source.path, path, choose)
        ok, state = state_of(path)
        if not ok or state != source.state:
            return ""
        with unseen.open("a") as file:
            file.write(f"{edit}\n")
        now = answers(path)
        wrong = [name for name in now.keys() | source.answers.keys() if now.get(name) != source.answers.get(name)]
        return f"{source.path.name}, {edit}: other answers to {sorted(wrong)[:4]}" if wrong else ""

    runs = workspace.amount(10_000, 120)
    wrong = try_all(runs, attempt, patience=120)
    count = len(unseen.read_text().splitlines())
    return [
        Row("edits of any cell, row or schema", runs, GOAL, wrong, f"{runs - count:,} showed, {count:,} are the same")
    ]


# Stamps


def stamp_file(text: str | bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a `.pt2` with a stamp."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr("m/version", "3")
        made.writestr(f"m/extra/{MEMBER}", text)
    return file.getvalue()


def stamp_answers(path: Path) -> Answers:
    """Return what the commands say of a stamp."""
    stamp = read_stamp(path)
    found = {"stamp": stamp.to_text()}
    for arguments in (
        ["show", "{}", "--all"], ["blame", "{}"], ["explain", MM, "{}"], ["explain", LATE, "{}"], ["diff", "{}", "{}"],
        ["drift", "{}", "torch:2.6.0"], ["upgrade", "{}", "--torch", "2.6.0", "--check"],
    ):  # fmt: skip
        found[" ".join(arguments)] = answer(path, [each.format(path) for each in arguments] + ["--json"])
    return found


def edited_bytes(whole: bytes, choose: random.Random) -> bytes:
    """Change, add, remove or repeat a byte."""
    at = choose.randrange(len(whole))
    return choose.choice(
        [
            whole[:at] + bytes([whole[at] ^ choose.randrange(1, 256)]) + whole[at + 1 :],
            whole[:at] + bytes([choose.randrange(256)]) + whole[at:],
            whole[:at] + whole[at + 1 :],
            whole[:at] + whole[at : at + 1] + whole[at:],
        ]
    )


def edited_stamps(workspace: Workspace) -> list[Row]:
    """Edit the stamp of a `.pt2`; either it is refused, or every command answers as before."""
    ledger_path, original = workspace.folder / "ledger.db", workspace.folder / "model.pt2"
    exports(ledger_path)
    with Ledger(ledger_path, read_only=True) as ledger:
        numbers = [event.seq for event in ledger.exports()]
        text = Stamp(tuple(map(ledger.bundle, (numbers[2], numbers[-1]))), "d" * 64, "a" * 40).to_text()
    original.write_bytes(stamp_file(text))
    before = stamp_answers(original)
    same = workspace.folder / "same"
    same.touch()

    def attempt(number: int) -> str:
        choose = random.Random(f"{workspace.seed} {number}")
        path = workspace.folder / f"edited {number % 64}.pt2"
        kind = number % 3
        if kind == 0:
            content = edited_bytes(original.read_bytes(), choose)  # of the archive, whose checksum shows most
        elif kind == 1:
            content = stamp_file(edited_bytes(text.encode(), choose), choose.choice([0, 8]))
        else:
            content = stamp_file(other_json(text, choose), choose.choice([0, 8]))
        path.write_bytes(content)
        try:
            now = stamp_answers(path)
        except LedgerError:
            return ""
        with same.open("a") as file:
            file.write("same\n")
        wrong = [name for name in before if before[name] != now[name].replace(str(path), "LEDGER")]
        return f"edit {number}: other answers to {wrong[:4]}" if wrong else ""

    runs = workspace.amount(5_000, 150)
    wrong = try_all(runs, attempt, patience=60)
    count = len(same.read_text().splitlines())
    note = f"{runs - count:,} refused, {count:,} are the same"
    return [Row("edits of any byte of a stamped file", runs, "refused, or no answer differs", wrong, note)]


FAULTS = (edited_ledgers, edited_stamps)
