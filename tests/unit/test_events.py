"""The codec of events, canonical JSON, and the hash chain recomputed with an independent library."""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import rfc8785
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    bodies,
    catalog_of,
    json_values,
    new_table,
    override,
    run_python,
    texts,
)

from decomp_ledger.cli import cli
from decomp_ledger.errors import LedgerError, SchemaError, UnusableValue
from decomp_ledger.ledger import Ledger
from decomp_ledger.log import provenance
from decomp_ledger.model import events
from decomp_ledger.model.canonical_json import canonical_json, check_text, digest_of
from decomp_ledger.model.events import (
    EVENT_KINDS,
    MAX_FRAMES,
    OVERRIDE,
    PRESERVE,
    Body,
    CallSite,
    Change,
    Created,
    Frame,
    Popped,
    Reset,
    Set,
    Tagged,
    Updated,
    decode_body,
    encode_body,
    read_call_site,
)
from decomp_ledger.model.hash_chain import event_hash, genesis
from decomp_ledger.transfer.jsonl import dump, load

# Canonical JSON


@given(json_values)
def test_canonical_json_equals_that_of_an_rfc_8785_library(value: Any) -> None:
    assert canonical_json(value).encode() == rfc8785.dumps(value)


@given(json_values)
def test_a_digest_is_of_canonical_json(value: Any) -> None:
    assert digest_of(value) == hashlib.sha256(rfc8785.dumps(value)).hexdigest()


def test_a_tuple_is_written_as_an_array() -> None:
    assert canonical_json({"b": (1, "x"), "a": None}) == '{"a":null,"b":[1,"x"]}'


REFUSED = {
    "a float": 1.0,
    "not a number": float("nan"),
    "infinity": float("inf"),
    "2**53": 2**53,
    "-2**53": -(2**53),
    "an integer of 5,000 digits": 10**5000,
    "a high surrogate": "\ud800",
    "a low surrogate": "a\udfffb",
    "bytes": b"x",
    "a set": {1},
    "an object": object(),
    "a number as key": {1: "x"},
    "a key beyond ASCII": {"é": 1},
    "a surrogate as key": {"\ud800": 1},
    "null as key": {None: 1},
}


@pytest.mark.parametrize("bad", REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize(
    "wrap", [lambda bad: bad, lambda bad: [bad], lambda bad: {"a": [bad]}], ids=["alone", "in an array", "deeper"]
)
def test_canonical_json_refuses_what_it_cannot_hold(bad: Any, wrap: Any) -> None:
    with pytest.raises(UnusableValue):
        canonical_json(wrap(bad))


def test_text_that_utf_8_cannot_encode_is_refused_with_the_remedy() -> None:
    with pytest.raises(UnusableValue, match=r"the reason has a lone surrogate at character 2.*backslashreplace"):
        check_text("ab\udcff", "the reason")
    with pytest.raises(UnusableValue, match="the reason must be a str, not bytes"):
        check_text(b"why", "the reason")


# The codec


@given(bodies)
def test_a_body_is_read_as_it_was_written(body: Body) -> None:
    assert decode_body(body.kind, body.schema, encode_body(body)) == body


@given(bodies)
def test_a_body_is_written_as_canonical_json(body: Body) -> None:
    text = encode_body(body)
    assert text.encode() == rfc8785.dumps(json.loads(text))


@pytest.mark.parametrize(
    ("action", "decomposition"),
    [("override", None), ("preserve", "ab"), ("reset", "ab"), ("drop", None), ("drop", "ab"), ("", None)],
)
def test_a_change_has_one_of_three_actions_and_only_an_override_has_a_decomposition(
    action: str, decomposition: str | None
) -> None:
    with pytest.raises(LedgerError, match="aten::mm"):
        Change("aten::mm", action, decomposition)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("created", "{}"),
        ("created", '{"base":"jax"}'),
        ("created", '{"base":"torch","parent":[]}'),
        ("created", '{"base":"torch","parent":["edge","1"]}'),
        ("created", '{"base":"torch","parent":["edge",true]}'),
        ("created", "[]"),
        ("popped", "null"),
        ("popped", "{"),
        ("popped", ""),
        ("popped", '{"changes":7}'),
        ("popped", '{"changes":[7]}'),
        ("popped", '{"changes":[["aten::mm"]]}'),
        ("popped", '{"changes":[["aten::mm","drop"]]}'),
        ("popped", '{"changes":[["aten::mm",1]]}'),
        ("popped", '{"changes":[["aten::mm","override"]]}'),
        ("popped", '{"changes":[["aten::mm","preserve","ab","cd"]]}'),
        ("popped", '{"changes":[],"pending":"aten::mm"}'),
        ("reverted", '{"changes":[]}'),
        ("reverted", '{"changes":[],"to":1.5}'),
        ("tagged", '{"name":1}'),
        ("materialized", '{"catalog":"ab"}'),
        ("materialized", '{"catalog":"ab","snapshot":"cd","pending":[null]}'),
        ("popped", "[" * 100_000),
        ("popped", '{"changes":' + "9" * 5000 + "}"),
    ],
    ids=lambda text: text[:60],
)
def test_an_edited_body_is_refused(kind: str, text: str) -> None:
    with pytest.raises(LedgerError, match=kind):
        decode_body(kind, 1, text)


@given(st.sampled_from(sorted(events.EVENT_KINDS)), json_values)
def test_any_json_is_a_body_or_a_ledger_error(kind: str, value: Any) -> None:
    try:
        body = decode_body(kind, 1, canonical_json(value))
    except LedgerError:
        return
    assert decode_body(kind, 1, encode_body(body)) == body


@pytest.mark.parametrize(("kind", "schema"), [("merged", 1), ("tagged", 3), ("created", 99)])
def test_an_event_of_a_newer_version_is_refused(kind: str, schema: int) -> None:
    with pytest.raises(SchemaError, match=f"'{kind}', schema {schema}: a newer decomp_ledger wrote it"):
        decode_body(kind, schema, "{}")


def test_an_older_body_is_upcast_one_schema_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tagged, "schema", 3)
    monkeypatch.setitem(events.UPCASTS, ("tagged", 1), lambda body: {"label": body["tag"]})
    monkeypatch.setitem(events.UPCASTS, ("tagged", 2), lambda body: {"name": body["label"]})
    assert decode_body("tagged", 1, '{"tag":"v1"}') == Tagged("v1")
    assert decode_body("tagged", 2, '{"label":"v1"}') == Tagged("v1")
    assert decode_body("tagged", 3, '{"name":"v1"}') == Tagged("v1")


def test_older_events_are_upcast_when_read_and_verified_as_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Ledger(":memory:", actor="ann") as ledger:
        new_table(ledger)
        monkeypatch.setattr(Created, "schema", 3)
        monkeypatch.setitem(events.UPCASTS, ("created", 2), lambda body: {**body, "base": "empty"})
        new_table(ledger, "later")
        schemas = [row[0] for row in ledger.database.connection.execute("SELECT schema FROM event ORDER BY seq")]
        assert schemas == [2, 3]
        assert [event.body for event in ledger.events()] == [Created("empty"), Created("torch")]
        assert ledger.state("edge").base == "empty"
        assert ledger.verify().problems == ()


def test_an_upcast_that_fails_is_a_ledger_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tagged, "schema", 2)
    monkeypatch.setitem(events.UPCASTS, ("tagged", 1), lambda body: {"name": body["label"]})
    with pytest.raises(LedgerError, match="tagged"):
        decode_body("tagged", 1, '{"tag":"v1"}')


# A new kind: one class and one row of a table


@attrs.frozen
class Graded(Body):
    """A kind that this test adds."""

    kind: ClassVar[str] = "graded"
    by: str
    marks: Mapping[str, int]
    note: str | None = None


def test_a_new_kind_needs_one_class_and_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EVENT_KINDS, Graded.kind, Graded)
    path, body = tmp_path / "ledger.db", Graded("bob", {"aten::mm": 5})
    with Ledger(path, actor="ann") as ledger:
        new_table(ledger).preserve(["aten::mm"])
        ledger.append("edge", 2, body)
        assert [event.body for event in ledger.events(kind="graded")] == [body]
        assert ledger.verify().problems == ()
        lines = list(dump(ledger))
    assert load(lines, tmp_path / "copy.db").problems == ()
    shown = CliRunner().invoke(cli, ["--ledger", str(tmp_path / "copy.db"), "log", "-n", "1"])
    assert "edge@2  graded  by bob, marks {'aten::mm': 5}, note None" in shown.output


_NEW_VERSION_KIND = """
import sys
from typing import ClassVar
import attrs
from decomp_ledger.model import events

@attrs.frozen
class Merged(events.Changing):
    kind: ClassVar[str] = "merged"
    other: tuple[str, int] = attrs.field(kw_only=True)

events.EVENT_KINDS["merged"] = Merged

from decomp_ledger.cli import cli
from decomp_ledger.ledger import Ledger
from decomp_ledger.transfer.jsonl import dump, load

source, copy = sys.argv[1:]
with Ledger(source, actor="ann") as ledger:
    table = ledger.create_table("edge")
    make = lambda changes, pending: Merged(changes, other=("main", 3))
    table.change(make, lambda _: [("aten::mm", "preserve", None)])
    assert ledger.state("edge").rules.keys() == {"aten::mm"}
    assert ledger.verify().ok
    lines = list(dump(ledger))
assert load(lines, copy).ok
cli.main(["--ledger", copy, "log", "-n", "1"], standalone_mode=False)
"""


def test_a_new_kind_that_makes_a_version_needs_no_more(tmp_path: Path) -> None:
    shown = run_python(_NEW_VERSION_KIND, tmp_path / "ledger.db", tmp_path / "copy.db")
    assert "edge@2  merged  aten::mm" in shown


def test_a_field_of_a_type_without_a_reader_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    @attrs.frozen
    class Timed(Body):
        kind: ClassVar[str] = "timed"
        seconds: float

    monkeypatch.setitem(EVENT_KINDS, Timed.kind, Timed)
    with pytest.raises(NotImplementedError, match=r"float.*add one to _reader"):
        decode_body("timed", 2, '{"seconds":1}')


# Values


def test_events_and_their_values_are_immutable() -> None:
    with Ledger(":memory:", actor="ann") as ledger:
        event = new_table(ledger).preserve(["aten::mm"])
    assert event is not None
    for value, field in ((event, "seq"), (event.body, "changes"), (event.changes[0], "op"), (event.call_site, "line")):
        with pytest.raises(AttributeError):
            setattr(value, field, None)


def test_events_of_kinds_with_the_same_fields_differ() -> None:
    kinds = (Set, Popped, Updated, Reset)
    bodies = [kind((Change("aten::mm", "preserve"),)) for kind in kinds]
    assert [[one == other for other in bodies] for one in bodies] == [[a is b for b in kinds] for a in kinds]
    changed = [attrs.evolve(body, pending=("aten::mm",)) for body in bodies]
    assert [(type(body), body.pending) for body in changed] == [(kind, ("aten::mm",)) for kind in kinds]
    assert not any(hasattr(body, "__dict__") for body in bodies)


def test_an_event_has_its_changes() -> None:
    with Ledger(":memory:", actor="ann") as ledger:
        table = new_table(ledger)
        override(table, "aten::mm", "mm")
        table.preserve(["aten::mm"])
        table.tag("v1")
        created, given, popped, tagged = ledger.events()
    assert [change.action for change in given.changes] == [OVERRIDE]
    assert popped.changes == (Change("aten::mm", PRESERVE),)
    assert (created.changes, tagged.changes) == ((), ())


def test_a_call_site_prints_as_file_and_line() -> None:
    assert str(CallSite("lower.py", 7, "main")) == "lower.py:7 in main"
    assert str(CallSite("decomp-ledger tag edge v1", 0, "")) == "`decomp-ledger tag edge v1`"


frames = st.builds(Frame, texts, st.integers(0, 9999), texts, texts)
frame_lists = st.lists(frames, max_size=2).map(tuple)


@given(st.builds(CallSite, texts, st.integers(0, 9999), texts, frame_lists, frame_lists, texts))
def test_a_call_site_is_read_as_it_was_written(site: CallSite) -> None:
    assert read_call_site(canonical_json(site.to_json())) == site


@pytest.mark.parametrize(
    "damaged",
    [
        [],
        {"file": "a.py", "line": 1},
        {"file": "a.py", "line": "1", "function": "f"},
        {"file": "a.py", "line": 1, "function": "f", "other": []},
        {"file": "a.py", "line": 1, "function": "f", "distribution": ""},
        {"file": "a.py", "line": 1, "function": "f", "distribution": 3},
        {"file": "a.py", "line": 1, "function": "f", "callers": []},
        {"file": "a.py", "line": 1, "function": "f", "callers": [["a.py", 1, "f"]]},
        {"file": "a.py", "line": 1, "function": "f", "inner": {}},
        {"file": "a.py", "line": 1, "function": "f", "callers": [{"file": "a.py", "line": 1, "function": "f"}] * 6},
    ],
)
def test_a_damaged_call_site_is_refused(damaged: object) -> None:
    with pytest.raises(LedgerError, match="call site"):
        read_call_site(json.dumps(damaged))


def test_a_ledger_of_schema_1_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    with monkeypatch.context() as older, Ledger(path, actor="ann") as ledger:
        older.setattr(Body, "schema", 1)
        older.setattr(provenance, "MAX_FRAMES", 1)
        new_table(ledger).preserve(["aten::mm"])
    with Ledger(path) as ledger:
        ledger.table_log("edge").preserve(["aten::addmm"])
        assert [event.written[0] for event in ledger.events()] == [1, 1, 2]
        assert [len(event.call_site.frames) for event in ledger.events() if event.call_site] == [1, 1, MAX_FRAMES]
        assert ledger.verify().ok


# The chain


def recomputed(path: Path) -> list[tuple[bytes, bytes]]:
    """Return (stored hash, hash recomputed with other code) for each event of a ledger file."""
    with sqlite3.connect(path) as db:
        rows = db.execute(
            "SELECT seq, decomp_table.name, version, kind, schema, recorded_at, actor, reason, call_site, "
            "hex(environment.digest), event.body, hash FROM event JOIN decomp_table ON decomp_table.id = table_id "
            "JOIN provenance ON provenance.id = provenance_id JOIN environment ON environment.id = environment_id "
            "ORDER BY seq"
        ).fetchall()
        ledger, created_at = db.execute("SELECT id, created_at FROM ledger").fetchone()
    db.close()
    previous = hashlib.sha256(rfc8785.dumps({"ledger": ledger, "created_at": created_at})).digest()
    pairs = []
    for seq, table, version, kind, schema, at, actor, reason, site, environment, body, stored in rows:
        rest = {
            "actor": actor,
            "body": json.loads(body),
            "call_site": None if site is None else json.loads(site),
            "environment": environment.lower(),
            "kind": kind,
            "reason": reason,
            "recorded_at": at,
            "schema": schema,
            "seq": seq,
            "table": table,
            "version": version,
        }
        previous = hashlib.sha256(previous + rfc8785.dumps(rest)).digest()
        pairs.append((stored, previous))
    return pairs


def test_each_hash_covers_the_hash_before_it_and_the_canonical_json_of_the_event(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, actor='Ann "the\tlowerer" Lee 日本 \x7f\u2028') as ledger:
        table = new_table(ledger, "bord/é 🙂")
        with ledger.because("line\nbreak \\ and \x01 control"):
            override(table, "aten::mm", "mm")
        table.preserve(["aten::mm", "mylib::late"], reason="why")
        table.revert(1)
        table.tag("v1", 2)
        table.materialize(catalog_of("aten::mm"))
        table.fork_as("other").reset(["aten::mm"])
        hashes = [event.hash for event in ledger.events()]
        links = [event.prev_hash for event in ledger.events()]
        head = ledger.verify().head
    pairs = recomputed(path)
    assert [stored.hex() for stored, _ in pairs] == hashes == [own.hex() for _, own in pairs]
    assert links[1:] == hashes[:-1]
    assert head == hashes[-1]
    assert len(hashes) == 7


@given(bodies, texts, texts, st.none() | texts, st.none() | st.builds(CallSite, texts, st.integers(1, 9999), texts))
def test_text_is_hashed_in_its_rfc_8785_form(
    body: Body, table: str, actor: str, reason: str | None, site: CallSite | None
) -> None:
    fields: dict[str, Any] = {
        "actor": actor,
        "body": json.loads(encode_body(body)),
        "call_site": None if site is None else {"file": site.file, "function": site.function, "line": site.line},
        "environment": "ab" * 32,
        "kind": body.kind,
        "reason": reason,
        "recorded_at": "2026-01-02T03:04:05.000006Z",
        "schema": body.schema,
        "seq": 7,
        "table": table,
        "version": 3,
    }
    assert event_hash(bytes(32), fields) == hashlib.sha256(bytes(32) + rfc8785.dumps(fields)).digest()


def test_the_hash_covers_each_field() -> None:
    fields: dict[str, Any] = {
        "actor": "ann",
        "body": {"changes": [["aten::mm", "preserve"]]},
        "call_site": None,
        "environment": "ab",
        "kind": "popped",
        "reason": None,
        "recorded_at": "now",
        "schema": 1,
        "seq": 2,
        "table": "edge",
        "version": 2,
    }
    hashes = {event_hash(bytes(32), fields), event_hash(bytes(31) + b"\1", fields)}
    for key, value in fields.items():
        hashes.add(event_hash(bytes(32), {**fields, key: 9 if isinstance(value, int) else "other"}))
    hashes.add(event_hash(bytes(32), {**fields, "body": {"changes": [], "to": 1}}))
    hashes.add(event_hash(bytes(32), {**fields, "call_site": {"file": "a.py", "function": "f", "line": 1}}))
    assert len(hashes) == len(fields) + 4


@pytest.mark.parametrize("identity", [(None, "2026-01-01"), ("ab", 1), (b"ab", "2026-01-01"), ("ab", "\ud800")])
def test_the_genesis_of_an_identity_that_is_not_text_is_refused(identity: tuple[Any, Any]) -> None:
    with pytest.raises(UnusableValue, match=r"the ledger's (id|date)"):
        genesis(*identity)
