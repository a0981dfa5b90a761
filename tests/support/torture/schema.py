"""Hostile schemas: every table, view, trigger, index or column that a ledger does not have is refused at opening."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from strategies import new_table

from decomp_ledger.errors import DamagedSchema, LedgerError
from decomp_ledger.ledger import Ledger
from decomp_ledger.transfer.jsonl import dump
from decomp_ledger.transfer.restore import restore
from torture.common import Row, Workspace, everything, try_all

Db = sqlite3.Connection
Edit = Callable[[Db, random.Random], None]

TABLES = (
    "ledger", "decomp_table", "op", "environment", "decomposition", "provenance", "event", "change", "tag", "catalog",
    "checkpoint", "_sqlite_migrations",
)  # fmt: skip
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
SCHEMA = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master"


def spelled(name: str, choose: random.Random) -> str:
    """Return another spelling of a name, which SQLite takes for the same."""
    cased = "".join(choose.choice([letter.lower(), letter.upper()]) for letter in name)
    quoted = choose.choice(["{}", '"{}"', "[{}]", "`{}`"]).format(cased)
    return choose.choice(["", "main.", "MAIN."]) + quoted


def bare(name: str, choose: random.Random) -> str:
    """Return another spelling of a name, for a place that takes no schema."""
    return spelled(name, choose).rpartition(".")[2]


def new_name(db: Db, choose: random.Random) -> str:
    """Return a name for a new object: any, or like one that is there."""
    (like,) = choose.choice(db.execute("SELECT name FROM sqlite_master").fetchall())
    shown = [like + " ", f" {like}", like.replace("e", "\u0435"), like + "\u200b", f"x_{like}", "h", "a'b", 'q"q', "\n"]
    return '"' + choose.choice(shown).replace('"', '""') + '"'


def sql_of(db: Db, name: str) -> str:
    """Return the SQL of an object."""
    return str(db.execute("SELECT sql FROM sqlite_master WHERE name = ?", [name]).fetchone()[0])


# The edits. Each raises if SQLite refuses it.


def a_trigger(db: Db, choose: random.Random) -> None:
    """Add a trigger, most often one that swallows or repeats writes."""
    table = choose.choice(TABLES)
    when = choose.choice(["BEFORE", "AFTER", "before", ""])
    verb = choose.choice(["INSERT", "insert", "UPDATE", "DELETE"])
    body = choose.choice(
        [
            "SELECT RAISE(IGNORE)", "SELECT 1", f"SELECT * FROM ({ENDLESS})", "DELETE FROM event", "DELETE FROM change",
            "INSERT INTO op (name) VALUES (hex(randomblob(9)))", f"INSERT INTO op (name) {ENDLESS}",
        ]
    )  # fmt: skip
    condition = choose.choice(["", "WHEN 1 ", f"WHEN ({ENDLESS} LIMIT 1) "])
    db.execute(
        f"CREATE TRIGGER {new_name(db, choose)} {when} {verb} ON {bare(table, choose)} {condition}BEGIN {body}; END"
    )


def a_view(db: Db, choose: random.Random) -> None:
    """Add a view."""
    what = choose.choice([ENDLESS, f"SELECT * FROM {choose.choice(TABLES)}", "SELECT 1", "SELECT * FROM nowhere"])
    db.execute(f"CREATE VIEW {new_name(db, choose)} AS {what}")


def a_view_for_a_table(db: Db, choose: random.Random) -> None:
    """Put a view in the place of a table."""
    table = choose.choice(TABLES)
    names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    db.execute("PRAGMA legacy_alter_table = ON")
    db.execute(f"ALTER TABLE {table} RENAME TO {choose.choice(['hidden', 'x_' + table])}")
    kept = ", ".join(names)
    what = choose.choice([f"SELECT {kept} FROM hidden", f"SELECT {', '.join(['x'] * len(names))} FROM ({ENDLESS})"])
    db.execute(f"CREATE VIEW {bare(table, choose)} ({kept}) AS {what}")


def a_table(db: Db, choose: random.Random) -> None:
    """Add a table, or what a tool adds."""
    name = new_name(db, choose)
    statements = [
        f"CREATE TABLE {name} (x)", f"CREATE TABLE {name} (x CHECK (x IN (SELECT 1)))", "ANALYZE",
        f"CREATE TABLE {name} (x INTEGER PRIMARY KEY AUTOINCREMENT)", f"CREATE TABLE {name} AS SELECT * FROM event",
        f"CREATE VIRTUAL TABLE {name} USING fts5(x)", f"CREATE VIRTUAL TABLE {name} USING rtree(a, b, c)",
    ]  # fmt: skip
    db.execute(choose.choice(statements))


def an_index(db: Db, choose: random.Random) -> None:
    """Add an index."""
    table = choose.choice(TABLES)
    column = choose.choice([row[1] for row in db.execute(f"PRAGMA table_info({table})")])
    what = choose.choice([column, f"{column} DESC", f"abs({column})", f"{column} COLLATE NOCASE", f"length({column})"])
    where = choose.choice(["", f" WHERE {column} IS NOT NULL", f" WHERE {column} > 5"])
    db.execute(f"CREATE INDEX {new_name(db, choose)} ON {bare(table, choose)} ({what}){where}")


def a_column(db: Db, choose: random.Random) -> None:
    """Add a column."""
    what = choose.choice(["TEXT", "TEXT DEFAULT 'x'", "INTEGER AS (1) VIRTUAL", "TEXT CHECK (1)", "INT REFERENCES op"])
    db.execute(f"ALTER TABLE {spelled(choose.choice(TABLES), choose)} ADD COLUMN {new_name(db, choose)} {what}")


def a_removal(db: Db, choose: random.Random) -> None:
    """Drop an object."""
    kind, name = choose.choice(db.execute("SELECT type, name FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
    db.execute(f"DROP {kind} {spelled(name, choose)}")


def a_renaming(db: Db, choose: random.Random) -> None:
    """Rename a table or a column."""
    table = choose.choice(TABLES)
    column = choose.choice([row[1] for row in db.execute(f"PRAGMA table_info({table})")])
    to = new_name(db, choose)
    db.execute(f"ALTER TABLE {table} RENAME {choose.choice(['', f'COLUMN {column} '])}TO {to}")


def another_text(db: Db, choose: random.Random) -> None:
    """Change the SQL of an object, as it is stored."""
    (name,) = choose.choice(db.execute("SELECT name FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
    text = sql_of(db, name)
    changes: list[Callable[[], str]] = [
        lambda: text.replace(" STRICT", ""), lambda: text.replace(" NOT NULL", "", 1),
        lambda: text.replace(" UNIQUE", ""), lambda: text.replace("BLOB", "TEXT", 1),
        lambda: text.replace("TEXT", "TEXT COLLATE NOCASE", 1),
        lambda: text.replace("RAISE(ABORT", "RAISE(IGNORE"), lambda: text.replace("BEFORE", "AFTER"),
        lambda: text.replace("TEXT NOT NULL", f"TEXT NOT NULL CHECK (({ENDLESS} LIMIT 1))", 1),
        lambda: text.replace("TEXT NOT NULL", f"TEXT NOT NULL DEFAULT ({choose.randrange(9)})", 1),
        lambda: text.replace("(", "( ", 1), lambda: text + " ", lambda: text + " -- x", lambda: text.lower(),
        lambda: text.replace("WHERE", "WHERE 1 AND", 1), lambda: text.replace("REFERENCES", "/**/REFERENCES", 1),
        lambda: text.replace("body TEXT NOT NULL", "body TEXT GENERATED ALWAYS AS ('{}') STORED NOT NULL"),
        lambda: text.replace("name TEXT NOT NULL", "name TEXT AS (printf('%d', id)) STORED NOT NULL"),
    ]  # fmt: skip
    new = choose.choice(changes)()
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", [new, name])


def another_row(db: Db, choose: random.Random) -> None:
    """Change another value of a row of the schema."""
    rows = db.execute("SELECT rowid, type, name, tbl_name, rootpage FROM sqlite_master").fetchall()
    row, other = choose.choice(rows), choose.choice(rows)
    at = choose.randrange(1, 5)
    value = choose.choice([other[at], str(row[at]).upper(), str(row[at]).encode(), None, row[at]])
    db.execute("PRAGMA writable_schema = ON")
    column = ("type", "name", "tbl_name", "rootpage")[at - 1]
    db.execute(f"UPDATE sqlite_master SET {column} = ? WHERE rowid = ?", [value, row[0]])


def other_migrations(db: Db, choose: random.Random) -> None:
    """Change the rows of the migrations' table, and perhaps drop what they made."""
    statements = [
        "DELETE FROM _sqlite_migrations", "UPDATE _sqlite_migrations SET id = 7",
        "UPDATE _sqlite_migrations SET name = upper(name)", "UPDATE _sqlite_migrations SET migration_set = 'x'",
        "INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('other', '0001_initial')",
        "INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('decomp_ledger', '0002_x')",
        "UPDATE _sqlite_migrations SET applied_at = NULL", "UPDATE _sqlite_migrations SET name = CAST(name AS BLOB)",
    ]  # fmt: skip
    db.execute(choose.choice(statements))
    if choose.random() < 0.3:
        db.execute(choose.choice(["DROP TABLE tag", "DROP INDEX event_version", "DROP TRIGGER op_no_update"]))


EDITS: tuple[Edit, ...] = (
    a_trigger, a_view, a_view_for_a_table, a_table, an_index, a_column, a_removal, a_renaming, another_text,
    another_row, other_migrations,
)  # fmt: skip


def edited(source: Path, path: Path, edit: Edit, choose: random.Random) -> bool:
    """Copy a ledger and edit its schema; return whether anything differs then."""
    shutil.copy(source, path)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            migrations = "SELECT id, migration_set, name, applied_at FROM _sqlite_migrations"
            before = set(db.execute(SCHEMA)), db.execute(migrations).fetchall()
            edit(db, choose)
            db.execute("PRAGMA writable_schema = ON")  # so that a damaged schema can be read
            return (set(db.execute(SCHEMA)), _migrations(db, migrations)) != before
    except (sqlite3.Error, UnicodeError):
        return False


def _migrations(db: Db, query: str) -> object:
    try:
        return db.execute(f"{query} LIMIT 9").fetchall()
    except sqlite3.Error as error:
        return str(error)


def is_refused(use: Callable[[], object]) -> str:
    """Call a function that must refuse a ledger in one line; return what is wrong."""
    try:
        found = use()
    except LedgerError as error:
        text = str(error)
        is_clear = "\n" not in text and len(text) < 1000 and re.search("damaged|newer|does not verify", text)
        return "" if is_clear else f"an unclear error: {text[:300]!r}"
    return f"it was not refused: {found!r:.100}"


def outcome(path: Path) -> str:
    """Use a ledger with a foreign schema in every way; return what is wrong."""
    copy = path.with_name(f"{path.name}.copy")

    def write() -> object:
        with Ledger(path, actor="eve") as ledger:
            return new_table(ledger, "after").preserve(["aten::after"])

    def read(use: Callable[[Ledger], object]) -> object:
        with Ledger(path, read_only=True) as ledger:
            return use(ledger)

    uses: dict[str, Callable[[], object]] = {
        "write": write,
        "tables": partial(read, lambda ledger: ledger.tables()),
        "dump": partial(read, lambda ledger: list(dump(ledger))),
        "backup": partial(read, lambda ledger: ledger.backup(copy)),
        "restore": partial(restore, path, copy),
    }
    for name, use in uses.items():
        if found := is_refused(use):
            return f"{name}: {found}"
    if copy.exists():
        return "a copy was left behind"
    try:
        with Ledger(path, read_only=True, lazy=True) as ledger:
            return "verify says ok" if ledger.verify().ok else ""
    except DamagedSchema as error:
        return f"verify raised {error}"
    except LedgerError:
        return ""  # SQLite cannot read the schema, or it is that of a newer version


def foreign_schemas(workspace: Workspace) -> list[Row]:
    """Edit the schema of a ledger in many ways; each is refused by each command, and named by verify."""
    source = workspace.folder / "original.db"
    everything(source, 1)
    rows = []
    for edit in EDITS:

        def attempt(number: int, edit: Edit = edit) -> str:
            path = workspace.folder / f"{edit.__name__} {number % 64}.db"
            for again in range(200):
                choose = random.Random(f"{workspace.seed} {number} {again}")
                if edited(source, path, edit, choose):
                    return outcome(path)
            return "no edit changed the schema"

        runs = workspace.amount(120, 6)
        name = f"a foreign schema: {edit.__name__.replace('_', ' ')}"
        goal = "each command refuses it in one line within 5 s; verify reports it; restore leaves nothing"
        rows.append(Row(name, runs, goal, try_all(runs, attempt)))
    return rows


FAULTS: tuple[Callable[[Workspace], list[Row]], ...] = (foreign_schemas,)
