"""The SQL views for people say what Python says."""

import contextlib
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import sqlite_utils
from hypothesis import given
from hypothesis import strategies as st
from strategies import OPS, catalog_of, decompositions, new_table, ops, texts, without_torch  # noqa: F401

from decomp_ledger.ledger import Ledger
from decomp_ledger.model.events import OVERRIDE, PRESERVE, RESET, Changing, Event, Exported, Set
from decomp_ledger.storage.migrations import add_only_views, migration_names, schema_made_by
from decomp_ledger.storage.views import QUESTIONS
from decomp_ledger.storage.views import VIEWS as described

VIEWS = {"changes", "current_rules", "exports", "fired", "environments"}
CATALOG = catalog_of(*OPS)
counts = st.dictionaries(ops, st.integers(1, 9), max_size=3)
reasons = st.none() | texts.filter(lambda text: text.strip() and len(text) < 50)
rules = st.one_of(
    st.tuples(ops, st.sampled_from([PRESERVE, RESET]), st.none()), st.tuples(ops, st.just(OVERRIDE), decompositions)
)
exports = st.builds(
    Exported,
    st.just(CATALOG.digest),
    st.just("0" * 64),
    st.none(),
    st.none(),
    counts,
    counts,
    counts,
    st.integers(0, 10**6),
    st.none() | st.tuples(texts, texts).filter(lambda pair: "\0" not in "".join(pair)),  # where SQLite cuts them
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["edge", "a/b/1"]),
        st.lists(rules, min_size=1, max_size=3, unique_by=lambda rule: rule[0]) | exports,
        reasons,
    ),
    max_size=8,
)


def write(ledger: Ledger, step: tuple[str, object, str | None]) -> None:
    """Change a table, or record an export of it."""
    table, what, reason = step
    log = new_table(ledger, table)
    with ledger.because(reason) if reason else contextlib.nullcontext():
        if isinstance(what, Exported):
            snapshot = log.materialize(CATALOG)
            log.exported(what.__class__(**{**_fields(what), "snapshot": snapshot.digest}), log.version)
        else:
            log.change(Set, lambda _: what)


def _fields(body: Exported) -> dict[str, object]:
    return {name: getattr(body, name) for name in ("catalog", "snapshot", "before", "after", "ops_before", "ops_after",
                                                   "fired", "milliseconds", "error")}  # fmt: skip


def rows(path: Path, view: str) -> list[dict[str, object]]:
    """Return the rows of a view, as `sqlite-utils rows` reads them."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return list(sqlite_utils.Database(db)[view].rows)


def who(event: Event) -> tuple[object, ...]:
    """Return the columns that each view has of an event's origin."""
    return event.recorded_at, event.actor, event.reason, None if event.call_site is None else str(event.call_site)


def columns(row: dict[str, object], *names: str) -> tuple[object, ...]:
    """Return some columns of a row, and those of its event's origin."""
    return tuple(row[name] for name in (*names, "recorded_at", "actor", "reason", "call_site"))


@given(steps)
def test_each_view_says_what_python_says(history: list[tuple[str, object, str | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger.db")
        with Ledger(path, actor="ann") as ledger:
            for step in history:
                write(ledger, step)
            events = list(ledger.events())
            assert [
                columns(row, "seq", "table_name", "version", "kind", "op", "action") for row in rows(path, "changes")
            ] == [
                (event.seq, event.table, event.version, event.kind, change.op, change.action, *who(event))
                for event in events
                if isinstance(event.body, Changing)
                for change in sorted(event.body.changes, key=lambda change: change.op)
            ]
            found = {
                (row["table_name"], row["op"]): (
                    row["action"],
                    row["decomposition"],
                    columns(row, "since_table", "since_version", "seq"),
                )
                for row in rows(path, "current_rules")
            }
            expected = {}
            for table in ledger.tables():
                rules, blame = ledger.state(table.name).rules, ledger.blame(table.name)
                for op, rule in rules.items():
                    label = None if rule.decomposition is None else rule.decomposition.label()
                    made = blame[op]
                    expected[table.name, op] = (rule.action, label, (made.table, made.version, made.seq, *who(made)))
            assert found == expected
            done = list(ledger.exports())
            assert [
                columns(
                    row, "seq", "table_name", "version", "result", "error", "message", "nodes_before", "nodes_after"
                )
                for row in rows(path, "exports")
            ] == [
                (
                    event.seq,
                    event.table,
                    event.version,
                    "failed" if event.body.error else "lowered",
                    *(event.body.error or (None, None)),
                    sum(event.body.ops_before.values()) or None,
                    sum(event.body.ops_after.values()) or None,
                    *who(event),
                )
                for event in done
            ]
            assert [tuple(row.values()) for row in rows(path, "fired")] == [
                (event.seq, event.table, event.version, op, times, event.body.ops_before.get(op, 0),
                 event.body.ops_after.get(op, 0))
                for event in done
                for op, times in sorted(event.body.fired.items())
            ]  # fmt: skip
            counted = {str(row["environment"]): row["events"] for row in rows(path, "environments")}
            assert sum(counted.values()) == len(events)
            assert all(counted[event.environment] for event in events)


@given(steps, st.lists(st.tuples(st.integers(0, 3), steps), min_size=1, max_size=3))
def test_a_view_and_the_questions_know_the_rules_of_a_fork(
    history: list[tuple[str, object, str | None]], forks: list[tuple[int, list[tuple[str, object, str | None]]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger.db")
        with Ledger(path, actor="ann") as ledger:
            new_table(ledger, "edge")
            for step in history:
                write(ledger, step)
            for number, (back, later) in enumerate(forks):
                of = ledger.tables()[-1]
                new_table(ledger, f"fork{number}", base=f"{of.name}@{max(1, of.version - back)}")
                for _, what, reason in later:
                    write(ledger, (f"fork{number}", what, reason))
            expected = {
                (table.name, version): [
                    (
                        op,
                        rule.action,
                        None if rule.decomposition is None else rule.decomposition.label(),
                        blame[op].table,
                        blame[op].seq,
                        *who(blame[op]),
                    )
                    for op, rule in sorted(state.rules.items())
                ]
                for table in ledger.tables()
                for version in range(1, table.version + 1)
                for state, blame in [ledger.state_and_blame(table.name, version)]
            }
        with contextlib.closing(sqlite3.connect(path)) as db:
            sql = QUESTIONS["rules_at"].sql
            db.row_factory = sqlite3.Row
            for (table, version), rules in expected.items():
                found = db.execute(sql, {"table": table, "version": str(version)}).fetchall()
                names = ("op", "action", "decomposition", "table_name", "seq")
                assert [columns(dict(row), *names) for row in found] == rules
            counts = {row["table_name"]: row["rules"] for row in db.execute(QUESTIONS["tables"].sql)}
            newest = {table: rules for (table, _), rules in expected.items()}
            assert counts == {table: len(rules) for table, rules in newest.items()}
        current: dict[object, list[object]] = {table: [] for table in newest}
        for row in rows(path, "current_rules"):
            current[row["table_name"]].append(columns(row, "op", "action", "decomposition", "since_table", "seq"))
        assert current == newest


def test_they_are_all_documented_and_read_only(path: Path) -> None:
    page = Path(__file__, "../../../docs/sql.md").resolve().read_text()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'view'")} == VIEWS
        for view in VIEWS:
            names = [row[1] for row in db.execute(f"PRAGMA table_info({view})")]
            section = page.partition(f"\n## `{view}`\n")[2].partition("\n## ")[0]
            assert [name for name in names if f"| `{name}` |" not in section] == []


def test_the_page_describes_them_in_the_words_of_browse() -> None:
    page = Path(__file__, "../../../docs/sql.md").resolve().read_text()
    assert described.keys() == VIEWS
    for name, view in described.items():
        rows = "\n".join(f"| `{column}` | {about} |" for column, about in view.columns.items())
        assert f"\n## `{name}`\n\n{view.about}\n\n| column | is |\n|---|---|\n{rows}\n" in page
        assert set(view.facets) <= set(view.columns)


def test_a_question_takes_steps_in_proportion_to_the_number_of_tables(tmp_path: Path) -> None:
    found = {}
    for number in (20, 40):
        path = tmp_path / f"{number}.db"
        with Ledger(path, actor="ann") as ledger:
            for run in range(number):
                ledger.create_table(f"job/main/{run + 1}").preserve([f"mylib::op_{n}" for n in range(40)])
        found[number] = {name: steps_of(path, question.sql) for name, question in QUESTIONS.items()}
    assert {name: each / found[20][name] for name, each in found[40].items() if each > 3 * found[20][name] > 300} == {}


def test_a_view_takes_steps_in_proportion_to_the_number_of_versions(tmp_path: Path) -> None:
    found = {}
    for number in (50, 100):
        path = tmp_path / f"{number}.db"
        with Ledger(path, actor="ann") as ledger:
            table = ledger.create_table("edge")
            for version in range(number):
                (table.reset if version % 2 else table.preserve)([f"mylib::op_{n}" for n in range(10)])
        found[number] = {name: steps_of(path, f"SELECT * FROM {name}") for name in VIEWS}
    assert {name: each / found[50][name] for name, each in found[100].items() if each > 3 * found[50][name] > 300} == {}


def steps_of(path: Path, sql: str) -> int:
    """Return how many steps of SQLite's virtual machine a statement takes, in tens."""
    calls: list[None] = []
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.set_progress_handler(lambda: calls.append(None), 10)
        db.execute(sql, {"op": "", "table": "job/main/3", "version": "", "torch": ""}).fetchall()
    return len(calls)


def test_a_migration_that_readers_do_not_wait_for_adds_only_views() -> None:
    names = migration_names()
    for count, name in enumerate(names[1:], 1):
        added = set(schema_made_by(names[: count + 1])) - set(schema_made_by(names[:count]))
        removed = set(schema_made_by(names[:count])) - set(schema_made_by(names[: count + 1]))
        assert add_only_views([name]) == ({kind for kind, *_ in added} == {"view"} and not removed), name


def test_a_ledger_without_views_is_read_where_it_lies_and_gets_them_from_a_writer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        for view in VIEWS:
            db.execute(f"DROP VIEW {view}")
        db.execute("DELETE FROM _sqlite_migrations WHERE name = '0002_views'")
        db.commit()
    with Ledger(path, read_only=True) as ledger:
        assert not ledger.database.in_memory
        assert ledger.verify().ok
        assert ledger.state("edge").rules.keys() == {"aten::mm"}
    with Ledger(path) as ledger:
        assert ledger.verify().ok
    assert [row["op"] for row in rows(path, "current_rules")] == ["aten::mm"]


def test_the_page_s_command_shows_who_preserved_what(path: Path) -> None:
    page = Path(__file__, "../../../docs/sql.md").resolve().read_text()
    (line,) = (line for line in page.splitlines() if line.startswith("$ sqlite-utils"))
    command = [str(path) if word == "decomp_ledger.db" else word for word in line.split()[2:]]
    shown = subprocess.run(
        [sys.executable, "-m", "sqlite_utils", *command], capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-1].split() == ["edge", "aten::mm", "preserve", "ann"]
