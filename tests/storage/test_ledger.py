"""A whole ledger: its tables, states, events, reasons, and the append-only log."""

import contextlib
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    OPS,
    catalog_of,
    decomposition,
    new_table,
    override,
)

from decomp_ledger.errors import (
    InvalidName,
    LedgerError,
    LedgerFileError,
    UnknownTable,
    UnknownVersion,
    UnusableValue,
    VersionConflict,
)
from decomp_ledger.integrity.ssh_signatures import SigningKey
from decomp_ledger.ledger import Ledger
from decomp_ledger.model.canonical_json import canonical_json
from decomp_ledger.model.events import OVERRIDE, PRESERVE, Body, Change, Created, Materialized, Popped, Tagged
from decomp_ledger.model.rules import Rule
from decomp_ledger.storage.event_store import EVENT, EventRow, Provenance

MM, ADD, GELU = "aten::mm", "aten::add.Tensor", "aten::gelu"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Give a new ledger in a file."""
    with Ledger(tmp_path / "ledger.db", actor="ann") as ledger:
        yield ledger


@pytest.fixture
def full(ledger: Ledger) -> Ledger:
    """Give a ledger with two tables, two actors, and a row in each SQL table."""
    edge = new_table(ledger)  # seq 1
    edge.preserve([MM])  # 2
    override(edge, ADD, "add")  # 3
    ledger.actor = "bob"
    mobile = new_table(ledger, "mobile", "empty")  # 4
    mobile.preserve([MM, GELU])  # 5
    edge.reset([MM])  # 6
    edge.tag("v1")  # 7
    mobile.materialize(catalog_of(MM, ADD))  # 8
    ledger.actor = "ann"
    edge.revert(2)  # 9
    key = Ed25519PrivateKey.generate()
    ledger.checkpoint(SigningKey(key, key.public_key().public_bytes_raw()))
    return ledger


# Tables


def test_tables_are_listed_in_order_of_creation(full: Ledger) -> None:
    events = list(full.events())
    assert [(info.name, info.version, info.events) for info in full.tables()] == [("edge", 5, 6), ("mobile", 2, 3)]
    assert [(info.first_at, info.last_at) for info in full.tables()] == [
        (events[0].recorded_at, events[8].recorded_at),
        (events[3].recorded_at, events[7].recorded_at),
    ]


def test_a_ledger_without_tables_has_none(ledger: Ledger) -> None:
    assert ledger.tables() == []
    assert list(ledger.events()) == []
    with pytest.raises(UnknownTable, match="has no table 'edge'; it has none yet"):
        ledger.table_log("edge")


def test_an_unknown_table_is_refused_with_the_nearest_names(ledger: Ledger) -> None:
    for name in ("edge", "edge-int8", "mobile", "server", "desktop", "watch", "car"):
        new_table(ledger, name)
    with pytest.raises(UnknownTable, match="has no table 'egde'; it has 'edge'") as caught:
        ledger.table_log("egde")
    assert isinstance(caught.value, KeyError)
    assert "car" not in str(caught.value)
    with pytest.raises(UnknownTable, match=r"it has 'car', 'desktop', 'edge', 'edge-int8', 'mobile'$"):
        ledger.table_log("zzz")


@pytest.mark.parametrize(
    ("text", "is_op"),
    [
        (MM, True),
        ("aten.mm", True),
        ("mm", True),
        ("not::known", True),  # no table has such a name by chance
        ("nope", False),
        ("edgy", False),
        ("edge/1", False),
        ("mm.nope", False),
    ],
)
def test_an_op_given_as_a_table_shows_where_it_belongs(full: Ledger, text: str, is_op: bool) -> None:
    with pytest.raises(UnknownTable, match="has no table") as caught:
        full.blame(text)
    assert str(caught.value).endswith("; for an op, use `explain`, or --op with `blame` or `log`") is is_op


@pytest.mark.parametrize(
    "use",
    [
        lambda ledger: ledger.table_log("nope"),
        lambda ledger: ledger.state("nope"),
        lambda ledger: ledger.resolve("nope@1"),
        lambda ledger: ledger.tags("nope"),
        lambda ledger: ledger.version_of("nope"),
        lambda ledger: ledger.blame("nope"),
        lambda ledger: ledger.history("nope", MM, 1),
        lambda ledger: list(ledger.events(table="nope")),
        lambda ledger: new_table(ledger, "new", "nope"),
        lambda ledger: new_table(ledger, "new", "nope@1"),
    ],
)
def test_an_unknown_table_is_refused_wherever_it_is_named(full: Ledger, use: object) -> None:
    with pytest.raises(UnknownTable, match="has no table 'nope'"):
        use(full)
    assert len(full.tables()) == 2


@pytest.mark.parametrize("name", ["", " edge", "a@b", "a:b", "x" * 201, "a\nb", "model.pt2"])
def test_an_invalid_table_name_is_refused_and_creates_nothing(ledger: Ledger, name: str) -> None:
    with pytest.raises(InvalidName):
        new_table(ledger, name)
    assert ledger.tables() == []


def test_an_opened_table_has_its_recorded_rules(full: Ledger) -> None:
    with Ledger(full.path, actor="cid") as again:
        edge = new_table(again)
        assert edge.rules == {MM: Rule(PRESERVE)}
        assert edge.version == 5
        assert again.verify().problems == ()
    assert len(list(full.events())) == 9


@pytest.mark.parametrize("base", ["torch", "empty"])
def test_a_base_is_recorded_and_kept(ledger: Ledger, base: str) -> None:
    new_table(ledger, "edge", base)
    assert next(ledger.events()).body == Created(base)
    assert (ledger.state("edge").base, ledger.table_log("edge").base) == (base, base)
    assert new_table(ledger, "edge", base).version == 1


def test_a_table_with_another_base_is_refused(ledger: Ledger) -> None:
    new_table(ledger, "edge", "torch")
    new_table(ledger, "bare", "empty")
    with pytest.raises(LedgerError, match="'edge': the table has the base 'torch', not 'empty'"):
        new_table(ledger, "edge", "empty")
    assert new_table(ledger, "bare").base == "empty"


@pytest.mark.parametrize(
    ("base", "version", "ops"),
    [("edge", 5, {MM}), ("edge@1", 1, set()), ("edge@3", 3, {MM, ADD}), ("edge@v1", 4, {ADD})],
)
def test_a_table_can_start_from_a_version_or_tag_of_another(
    full: Ledger, base: str, version: int, ops: set[str]
) -> None:
    table = new_table(full, "mine", base)
    assert table.rules.keys() == ops
    assert [event.body for event in full.events(table="mine")] == [Created("torch", ("edge", version))]
    assert full.state("mine") == table.state


def test_a_table_that_starts_from_another_can_be_resumed_by_the_same_line(full: Ledger) -> None:
    new_table(full, "mine", "edge@3").preserve([GELU])
    again = new_table(full, "mine", "edge@3")
    assert (again.version, again.rules.keys()) == (2, {MM, ADD, GELU})
    with pytest.raises(LedgerError, match="the table has the base"):
        new_table(full, "mine", "edge@1")


def test_a_table_that_starts_from_an_empty_one_is_empty_too(full: Ledger) -> None:
    assert new_table(full, "mine", "mobile").base == "empty"


@pytest.mark.parametrize("base", ["edge@9", "edge@0", "edge@nope", "edge@", "edge@-1", "edge@1.0"])
def test_an_unknown_base_creates_no_table(full: Ledger, base: str) -> None:
    with pytest.raises(UnknownVersion):
        new_table(full, "mine", base)
    assert len(full.tables()) == 2


def test_a_reader_opens_tables_and_creates_none(full: Ledger) -> None:
    with Ledger(full.path, read_only=True) as reader:
        assert new_table(reader).version == 5
        with pytest.raises(UnknownTable):
            new_table(reader, "new")


# States


def test_a_state_is_named_by_table_version_or_tag(full: Ledger) -> None:
    assert full.resolve("edge") == full.state("edge") == full.state("edge", 5)
    assert full.resolve("edge@3") == full.state("edge", 3)
    assert full.resolve("edge@v1") == full.state("edge", "v1") == full.state("edge", 4)
    assert full.state("edge", 3).rules == {MM: Rule(PRESERVE), ADD: Rule(OVERRIDE, decomposition("add"))}


@pytest.mark.parametrize("version", [0, 6, -1, 2**80, "nope"])
def test_an_unknown_version_is_refused(full: Ledger, version: int | str) -> None:
    with pytest.raises(UnknownVersion):
        full.state("edge", version)


@pytest.mark.parametrize("digits", [20, 5000])
def test_a_version_of_many_digits_is_unknown(full: Ledger, digits: int) -> None:
    with pytest.raises(UnknownVersion):
        full.resolve("edge@" + "9" * digits)


def test_a_long_chain_of_forks_can_be_read() -> None:
    with Ledger(":memory:", actor="ann") as ledger:
        table = new_table(ledger)
        for number in range(600):
            table = table.fork()
            table.preserve([f"mylib::op{number}"])
        assert len(ledger.state(table.name).rules) == 600
        assert len(ledger.blame(table.name)) == 600
        assert [event.seq for event in table.history("mylib::op0")] == [3]
        assert ledger.verify().problems == ()


@pytest.mark.parametrize("parent", ["loop", "later"])
def test_a_table_forked_from_itself_or_a_later_one_is_damage_not_an_endless_loop(ledger: Ledger, parent: str) -> None:
    ledger.append("loop", 1, Created("torch", (parent, 1)))
    ledger.append("later", 1, Created("torch", ("loop", 1)))
    for read in (lambda: ledger.state("loop"), lambda: ledger.blame("loop"), lambda: ledger.history("loop", MM, 1)):
        with pytest.raises(LedgerError, match=f"'loop' is forked from the later '{parent}'; run verify"):
            read()


def test_a_table_that_does_not_begin_with_created_is_damage(ledger: Ledger) -> None:
    with ledger.database.write_transaction():
        body, who = Popped((Change(MM, PRESERVE),)), Provenance("ann", None, None, {})
        ledger.event_store.append("odd", 1, body, who)
    with pytest.raises(LedgerError, match="the first event of the table 'odd' is not 'created'; run verify"):
        ledger.state("odd")
    assert not ledger.verify().ok


# Events


def seqs(ledger: Ledger, **filters: object) -> list[int]:
    """Return the seqs of the events that match a filter."""
    return [event.seq for event in ledger.events(**filters)]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"table": "edge"}, [1, 2, 3, 6, 7, 9]),
        ({"table": "mobile"}, [4, 5, 8]),
        ({"op": MM}, [2, 5, 6, 9]),
        ({"op": "torch.ops.aten.mm.default"}, [2, 5, 6, 9]),
        ({"op": ADD}, [3, 9]),
        ({"op": "mylib::never"}, []),
        ({"op": MM, "table": "edge"}, [2, 6, 9]),
        ({"actor": "bob"}, [4, 5, 6, 7, 8]),
        ({"actor": "eve"}, []),
        ({"kind": "popped"}, [2, 5]),
        ({"kind": "created"}, [1, 4]),
        ({"kind": "materialized"}, [8]),
        ({"kind": "popped", "actor": "bob"}, [5]),
        ({"gt": 6}, [7, 8, 9]),
        ({"gt": 0}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"gt": 9}, []),
        ({"lte": 2}, [1, 2]),
        ({"lte": 0}, []),
        ({"gt": 2, "lte": 4}, [3, 4]),
        ({"limit": 2}, [1, 2]),
        ({"limit": 0}, []),
        ({"limit": 99}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"desc": True}, [9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ({"desc": True, "limit": 2}, [9, 8]),
        ({"desc": True, "limit": 2, "table": "mobile"}, [8, 5]),
        ({"table": "edge", "op": MM, "actor": "bob", "kind": "reset", "gt": 1, "lte": 9, "limit": 1}, [6]),
    ],
    ids=str,
)
def test_events_match_every_condition(full: Ledger, filters: dict[str, object], expected: list[int]) -> None:
    assert seqs(full, **filters) == expected


filters = st.fixed_dictionaries(
    {},
    optional={
        "table": st.sampled_from(["edge", "mobile"]),
        "op": st.sampled_from([op for op in OPS if "::" in op]),  # a name without a namespace must be known
        "actor": st.sampled_from(["ann", "bob"]),
        "kind": st.sampled_from(["created", "popped", "set", "reverted"]),
        "gt": st.integers(-2, 11),
        "lte": st.integers(-2, 11),
        "limit": st.integers(0, 11),
        "desc": st.booleans(),
    },
)


def test_any_filter_matches_the_same_events_as_in_python(full: Ledger) -> None:
    everything = list(full.events())

    @given(filters)
    def check(wanted: dict[str, object]) -> None:
        kept = [
            event.seq
            for event in everything
            if event.table == wanted.get("table", event.table)
            and event.actor == wanted.get("actor", event.actor)
            and event.kind == wanted.get("kind", event.kind)
            and wanted.get("gt", 0) < event.seq <= wanted.get("lte", 99)
            and ("op" not in wanted or wanted["op"] in [change.op for change in event.changes])
        ]
        ordered = kept[::-1] if wanted.get("desc") else kept
        assert seqs(full, **wanted) == ordered[: wanted.get("limit", 99)]

    check()


def test_an_event_has_who_what_when_where_and_why(full: Ledger) -> None:
    def lower() -> None:
        new_table(full, "third").preserve([MM], reason="fused kernel")

    lower()
    event = next(full.events(desc=True))
    assert (event.seq, event.table, event.version, event.kind) == (11, "third", 2, "popped")
    assert (event.actor, event.reason) == ("ann", "fused kernel")
    assert event.recorded_at.endswith("Z")
    assert len(event.recorded_at) == len("2026-01-02T03:04:05.000006Z")
    assert event.call_site is not None
    assert Path(event.call_site.file).name == Path(__file__).name
    assert event.call_site.line == lower.__code__.co_firstlineno + 1
    assert event.call_site.function.endswith("lower")
    assert "python" in full.environment(event.environment)


def test_an_unknown_op_has_no_events_but_an_invalid_name_is_refused(full: Ledger) -> None:
    assert seqs(full, op="mylib::unheard") == []
    with pytest.raises(InvalidName):
        full.events(op="aten mm")


def test_events_are_numbered_without_gaps_across_tables_and_failures(ledger: Ledger) -> None:
    table = new_table(ledger)
    with pytest.raises(KeyError), ledger.database.write_transaction():
        table.preserve([MM])
        raise KeyError
    table = ledger.table_log("edge")
    table.preserve([ADD])
    new_table(ledger, "other")
    assert seqs(ledger) == [1, 2, 3]
    assert ledger.verify().problems == ()


# Read -> the steps of its plan that grow with the ledger, each with the reason.
SLOW_STEPS = {
    "head": {"SCAN event"},  # from the last event, and only that one
    "tags": {"USE TEMP B-TREE FOR ORDER BY"},  # all tags of a table, which are few
    "resolve": {"USE TEMP B-TREE FOR ORDER BY"},  # by the tags
    "events": {"SCAN event"},  # by seq, up to the limit
    "events by actor": {"SCAN event"},  # by seq: an index by provenance would slow each append
    "events by kind of change": {"SCAN event"},  # by seq: most events are of these kinds
    "events by op": {"USE TEMP B-TREE FOR ORDER BY"},  # only the events of the op, of all tables
}
READS: dict[str, Callable[[Ledger], object]] = {
    "tables": lambda ledger: ledger.tables(),
    "state": lambda ledger: ledger.state("edge", 2),
    "resolve": lambda ledger: ledger.resolve("edge@v1"),
    "an unknown table": lambda ledger: ledger.state("nope"),
    "tags": lambda ledger: ledger.tags("edge"),
    "history": lambda ledger: ledger.history("edge", MM, 3),
    "blame": lambda ledger: ledger.state_and_blame("edge", 3),
    "since": lambda ledger: ledger.state_and_since("edge", 3),
    "last events": lambda ledger: ledger.last_events("edge"),
    "events": lambda ledger: list(ledger.events(desc=True, limit=20)),
    "events after": lambda ledger: list(ledger.events(gt=2, lte=4)),
    "events of a table": lambda ledger: list(ledger.events(table="edge", desc=True, limit=20)),
    "events of a table after": lambda ledger: list(ledger.events(table="edge", gt=2, limit=20)),
    "events by actor": lambda ledger: list(ledger.events(actor="ann")),
    "events by op": lambda ledger: list(ledger.events(op=MM, desc=True, limit=20)),
    "events by op of a table": lambda ledger: list(ledger.events(table="edge", op=MM, desc=True, limit=20)),
    "events by kind": lambda ledger: list(ledger.events(kind="exported", desc=True, limit=20)),
    "events by kind of a table": lambda ledger: list(ledger.events(table="edge", kind="tagged", gt=1)),
    "events by kind of change": lambda ledger: list(ledger.events(kind="created", limit=20)),
    "exports": lambda ledger: list(ledger.exports()),
    "export": lambda ledger: ledger.export(7),
    "last materialization": lambda ledger: ledger.last_materialization("edge", 2),
    "has_materialized_as": lambda ledger: ledger.has_materialized_as("edge", 1, Materialized("", "", ())),
    "changes after": lambda ledger: ledger.changes_after("edge", 1),
    "next name": lambda ledger: ledger.next_name("edge"),
    "head": lambda ledger: ledger.event_store.head(),
}


def plan_of(ledger: Ledger, read: Callable[[Ledger], object]) -> set[str]:
    """Return the steps of the plans of every query that a read makes, even if it finds nothing."""
    asked: list[str] = []
    connection = ledger.database.connection
    connection.set_trace_callback(asked.append)
    with contextlib.suppress(LedgerError):
        read(ledger)
    connection.set_trace_callback(None)
    plans = [connection.execute(f"EXPLAIN QUERY PLAN {query}") for query in asked if "SELECT" in query]
    assert plans
    return {row[3] for plan in plans for row in plan}


@pytest.mark.parametrize("name", READS)
def test_a_read_uses_an_index_for_its_rows_and_their_order(ledger: Ledger, name: str) -> None:
    edge = new_table(ledger)
    edge.preserve([MM, ADD])
    edge.reset([MM])
    edge.tag("v1")
    slow = re.compile(r"SCAN (event|change)\b|USE TEMP B-TREE.*")
    found = {match[0] for step in plan_of(ledger, READS[name]) if (match := slow.match(step))}
    assert found == SLOW_STEPS.get(name, set())


def test_has_materialized_as_reads_only_the_events_of_one_kind_and_version(ledger: Ledger) -> None:
    new_table(ledger)
    plan = plan_of(ledger, READS["has_materialized_as"])
    assert "SEARCH event USING INDEX event_kind_of_version (kind=? AND table_id=? AND version=?)" in plan


def test_events_that_changed_an_op_are_given_by_seq_from_all_tables(ledger: Ledger) -> None:
    edge, other = new_table(ledger), new_table(ledger, "other")  # 1, 2
    for table in (other, edge, other):  # 3 and 4, 5 and 6, 7 and 8
        table.preserve([MM, ADD])
        table.reset([MM])
    assert [event.seq for event in ledger.events(op=MM)] == [3, 4, 5, 6, 7, 8]
    assert [event.seq for event in ledger.events(op=MM, desc=True, limit=3, lte=7)] == [7, 6, 5]
    assert [event.seq for event in ledger.events(op=MM, table="other", desc=True, gt=3)] == [8, 7, 4]
    assert [event.seq for event in ledger.events(op=MM, table="other", actor="ann", limit=1)] == [3]
    assert [event.seq for event in ledger.events(op=MM, kind="tagged")] == []


def test_an_unknown_table_reads_no_event(ledger: Ledger) -> None:
    new_table(ledger)
    plan = plan_of(ledger, READS["an unknown table"])
    assert not any(" event " in step for step in plan), plan
    assert "SEARCH decomp_table USING COVERING INDEX" in " ".join(plan_of(ledger, READS["next name"]))


@pytest.mark.parametrize("prefix", ["", "a", "a/", "ab", "\u00e9", "%", "A"])
def test_table_names_are_found_by_their_start(ledger: Ledger, prefix: str) -> None:
    names = ["b", "a", "a/1", "a0", "ab", "a%", "%", "\u00e9", "\u00e9\U0001f600", "a\U0001f600"]
    for name in names:
        new_table(ledger, name)
    assert ledger.event_store.table_names(prefix) == sorted(name for name in names if name.startswith(prefix))


# What is stored once


def test_an_environment_is_stored_once_for_each_that_differs(ledger: Ledger) -> None:
    table = new_table(ledger)
    for op in OPS:
        table.preserve([op])
    assert len({event.environment for event in ledger.events()}) == 1
    assert ledger.database.connection.execute("SELECT count(*) FROM environment").fetchone() == (1,)
    ledger.append("edge", table.version + 1, Popped((Change(OPS[0], PRESERVE),)), origin=("ann", None, {"a": 1}))
    assert ledger.environment(next(ledger.events(desc=True)).environment) == {"a": 1}


def test_an_event_row_of_another_ledger_can_be_inserted(ledger: Ledger, tmp_path: Path) -> None:
    event = new_table(ledger).preserve([MM])
    assert event is not None
    with ledger.database.reading() as connection:
        rows = [EventRow(*row) for row in connection.execute(f"{EVENT} ORDER BY event.seq")]
    with Ledger(tmp_path / "copy.db") as copy, copy.database.write_transaction():
        with pytest.raises(LedgerError, match=r"it has no environment [0-9a-f]{12}; store it first"):
            copy.event_store.insert_event(rows[0], Created("torch"))
        copy.event_store.put_text("environment", canonical_json(ledger.environment(event.environment)))
        for row, stored in zip(rows, ledger.events(), strict=True):
            copy.event_store.insert_event(row, stored.body)
        assert list(copy.events()) == list(ledger.events())
        assert copy.state("edge") == ledger.state("edge")
        assert copy.event_store.head() == ledger.event_store.head()


def test_a_process_remembers_a_bounded_number_of_row_ids(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decomp_ledger.storage.event_store._MAX_IDS", 20)
    table = new_table(ledger)
    for number in range(30):
        table.preserve([MM], reason=f"reason {number}")
        table.reset([MM], reason=f"reason {number}")
    assert len(ledger.event_store._ids) <= 25
    assert ledger.verify().ok


def test_a_decomposition_is_stored_once(ledger: Ledger) -> None:
    for name in ("edge", "mobile"):
        table = new_table(ledger, name)
        override(table, MM, "f")
        override(table, ADD, "f")
    assert ledger.database.connection.execute("SELECT count(*) FROM decomposition").fetchone() == (1,)


@pytest.mark.parametrize("digest", ["", "zz", "ab" * 32, "x" * 64])
def test_an_unknown_digest_is_a_ledger_error(full: Ledger, digest: str) -> None:
    for find in (full.catalog, full.environment):
        with pytest.raises(LedgerError):
            find(digest)


# Reasons


def reasons(ledger: Ledger) -> list[str | None]:
    """Return the reasons of all events except `created`."""
    return [event.reason for event in ledger.events() if event.kind != "created"]


def test_reasons_are_joined_from_the_outermost_to_the_innermost(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", actor="ann", reason="nightly") as ledger:
        table = new_table(ledger)
        table.preserve(["a::a"])
        with ledger.because("edge"):
            table.preserve(["a::b"])
            with ledger.because("fused kernel"):
                table.preserve(["a::c"])
                table.preserve(["a::d"], reason="measured")
            table.preserve(["a::e"])
        table.preserve(["a::f"])
        assert reasons(ledger) == [
            "nightly",
            "nightly / edge",
            "nightly / edge / fused kernel",
            "nightly / edge / fused kernel / measured",
            "nightly / edge",
            "nightly",
        ]


def test_an_event_without_a_reason_has_reason_none(ledger: Ledger) -> None:
    new_table(ledger).preserve([MM])
    with ledger.because(""):
        new_table(ledger).preserve([ADD])
    assert reasons(ledger) == [None, None]


def test_a_reason_given_twice_is_recorded_once(ledger: Ledger) -> None:
    table = new_table(ledger)
    with ledger.because("why"), ledger.because("why"):
        table.preserve([MM], reason="why")
    assert reasons(ledger) == ["why"]


def test_a_reason_ends_with_its_block_even_if_that_raises(ledger: Ledger) -> None:
    table = new_table(ledger)
    with pytest.raises(KeyError), ledger.because("why"):
        raise KeyError
    table.preserve([MM])
    assert reasons(ledger) == [None]


def test_a_reason_applies_to_one_ledger(ledger: Ledger, tmp_path: Path) -> None:
    with Ledger(tmp_path / "other.db", actor="ann") as other:
        with ledger.because("mine"), other.because("theirs"):
            new_table(ledger).preserve([MM])
            new_table(other).preserve([MM])
        assert (reasons(ledger), reasons(other)) == (["mine"], ["theirs"])


def test_a_reason_applies_to_one_thread(ledger: Ledger) -> None:
    together = threading.Barrier(3, timeout=10)

    def work(name: str) -> None:
        table = new_table(ledger, name)
        with ledger.because(f"for {name}"):
            together.wait()
            table.preserve([MM])
            together.wait()

    with ThreadPoolExecutor(3) as pool, ledger.because("outside"):
        list(pool.map(work, ["a", "b", "c"]))
    found = {event.table: event.reason for event in ledger.events(kind="popped")}
    assert found == {"a": "for a", "b": "for b", "c": "for c"}


@pytest.mark.parametrize("bad", [None, 7, b"why", "\udcff"])
def test_an_invalid_reason_or_actor_is_refused(ledger: Ledger, bad: object) -> None:
    with pytest.raises(UnusableValue, match="reason"), ledger.because(bad):
        raise AssertionError("the block was entered")
    if bad is not None:
        for part in ("reason", "actor"):
            with pytest.raises(UnusableValue, match=part):
                Ledger(":memory:", **{part: bad})


# Functions that the caller provides


def test_a_function_is_provided_for_an_op_and_must_be_callable(ledger: Ledger) -> None:
    ledger.provide("aten.mm.default", len)
    assert ledger.functions.provided[MM] == [len]
    with pytest.raises(UnusableValue, match=r"provide\(fn=7\): int is not possible; give a function"):
        ledger.provide(MM, 7)
    with pytest.raises(InvalidName):
        ledger.provide("aten.mm", len)


# The log only grows

LOG = (
    "ledger",
    "decomp_table",
    "op",
    "environment",
    "decomposition",
    "provenance",
    "event",
    "change",
    "tag",
    "catalog",
    "checkpoint",
)


def test_every_sql_table_is_append_only(ledger: Ledger) -> None:
    rows = ledger.database.connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB '*sqlite_*'"
    )
    assert sorted(name for (name,) in rows) == sorted(LOG)


@pytest.mark.parametrize("table", LOG)
def test_no_row_of_the_log_can_be_changed_or_removed(full: Ledger, table: str) -> None:
    path = full.path
    full.close()
    db = sqlite3.connect(path)
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    before = db.execute(f"SELECT * FROM {table}").fetchall()
    assert before
    for column in columns:
        with pytest.raises(sqlite3.IntegrityError, match=f"append-only: UPDATE on {table} is refused"):
            db.execute(f"UPDATE {table} SET {column} = {column}")
    with pytest.raises(sqlite3.IntegrityError, match=f"append-only: DELETE on {table} is refused"):
        db.execute(f"DELETE FROM {table}")
    assert db.execute(f"SELECT * FROM {table}").fetchall() == before
    db.close()


@pytest.mark.parametrize("table", LOG)
def test_no_row_of_the_log_can_be_replaced(full: Ledger, table: str) -> None:
    path = full.path
    full.close()
    db = sqlite3.connect(path)
    before = db.execute(f"SELECT * FROM {table}").fetchall()
    with pytest.raises(sqlite3.IntegrityError, match=f"append-only: REPLACE on {table} is refused"):
        db.execute(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table} LIMIT 1")
    assert db.execute(f"SELECT * FROM {table}").fetchall() == before
    db.close()


def test_the_last_materialization_is_found_without_reading_all_events(ledger: Ledger) -> None:
    table = new_table(ledger)
    table.materialize(catalog_of(MM, ADD))

    def steps() -> int:
        taken = 0

        def count() -> None:
            nonlocal taken
            taken += 1

        ledger.database.connection.set_progress_handler(count, 1)
        found = ledger.last_materialization("edge", table.version)
        assert found is not None and found.seq == 2
        assert list(ledger.exports()) == []
        ledger.database.connection.set_progress_handler(None, 0)
        return taken

    before = steps()
    for _ in range(20):
        table.preserve([MM])
        table.reset([MM])
    assert steps() == before


def test_a_refused_edit_through_the_ledger_is_a_ledger_error(full: Ledger) -> None:
    with pytest.raises(LedgerFileError, match="append-only"), full.database.write_transaction() as connection:
        connection.execute("DELETE FROM event")
    assert len(seqs(full)) == 9


@pytest.mark.parametrize(
    ("table", "version", "body", "error"),
    [
        ("edge", 99, Tagged("v1"), UnknownVersion),
        ("nope", 1, Tagged("v1"), UnknownTable),
        ("edge", 9, Popped(()), VersionConflict),
        ("nope", 1, Popped(()), VersionConflict),
        ("edge", 1, Created("torch"), VersionConflict),
        ("edge", 2, Created("torch"), VersionConflict),
        ("nope", 2, Created("torch"), VersionConflict),
    ],
)
def test_an_event_that_verify_would_reject_is_not_appended(
    tmp_path: Path, table: str, version: int, body: Body, error: type[LedgerError]
) -> None:
    with Ledger(tmp_path / "new.db", actor="ann") as ledger:
        new_table(ledger)
        with pytest.raises(error):
            ledger.append(table, version, body)
        assert [event.kind for event in ledger.events()] == ["created"]
        assert ledger.verify().ok
