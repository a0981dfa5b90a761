"""A .pt2 may come from anyone: its stamp is read or refused with one error, and nothing in it runs."""

import io
import json
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stamp_edits import sealed, unsealed
from strategies import catalog_of, new_table

from decomp_ledger import Ledger, LedgerError, SchemaError, StampError, catalogs, read_stamp
from decomp_ledger.model.events import Exported, Popped, Set
from decomp_ledger.model.limits import JSON_BYTES
from decomp_ledger.model.rules import Decomposition
from decomp_ledger.transfer.export_bundle import ExportBundle, bare_catalog
from decomp_ledger.transfer.stamp import MEMBER, Stamp

REFERENCE = Decomposition("import", "mypkg", "f", "0" * 64)


@pytest.fixture(scope="module")
def bundle() -> ExportBundle:
    """An export of a table with a bit of everything."""
    with Ledger(":memory:", actor="ada") as ledger:
        parent = new_table(ledger, "edge")
        parent.preserve(["aten::mm", "aten::add.Tensor"], reason="kept")
        table = parent.fork_as("child")
        table.change(Set, lambda _: [("aten::mm", "override", REFERENCE)])
        table.change(Popped, lambda _: [("aten::late", "preserve", None)])
        table.reset(["aten::add.Tensor"])
        catalog = catalog_of("aten::mm", "aten::add.Tensor")
        snapshot = table.materialize(catalog)
        body = Exported(catalog.digest, snapshot.digest, "b", "a", {"aten::mm": 1}, {"aten::mm": 1}, {"aten::mm": 2}, 3)
        event = table.exported(body, table.version)
        assert event is not None
        found = ledger.bundle(event.seq)
        assert (found.state, found.blame()) == (ledger.state("child"), ledger.blame("child"))
        return found


@pytest.fixture(scope="module")
def text(bundle: ExportBundle) -> str:
    return Stamp((bundle,), "a", "git").to_text()


def archive(*members: tuple[str, str | bytes], compression: int = zipfile.ZIP_STORED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, content in members:
            made.writestr(name, content)
    file.seek(0)
    return file


def test_a_stamp_holds_what_the_ledger_has(bundle: ExportBundle, text: str) -> None:
    assert Stamp.from_text(text).bundles == (bundle,)
    assert bundle.state.rules.keys() == {"aten::mm", "aten::late"}


@pytest.mark.parametrize("member", [f"extra_files/{MEMBER}", f"model/extra/{MEMBER}"])
def test_a_stamp_is_read_at_both_paths_and_the_file_keeps_its_position(text: str, member: str) -> None:
    file = archive((member, text), ("model/version", "3"))
    file.seek(7)
    assert read_stamp(file).last.name.startswith("export:")
    assert file.tell() == 7


@pytest.mark.parametrize(
    "member", [f"../../extra/{MEMBER}", f"/a/extra/{MEMBER}", f"a/b/extra/{MEMBER}", MEMBER, f"x/extra/../{MEMBER}"]
)
def test_a_member_at_another_path_is_not_a_stamp(text: str, member: str) -> None:
    with pytest.raises(StampError, match="has no stamp"):
        read_stamp(archive((member, text)))


def test_two_stamps_are_an_error(text: str) -> None:
    with pytest.raises(StampError, match="has 2 stamps, so neither can be trusted"):
        read_stamp(archive((f"a/extra/{MEMBER}", text), (f"b/extra/{MEMBER}", text)))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = archive((f"a/extra/{MEMBER}", b" " * (JSON_BYTES * 4)), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(StampError, match="over the limit of 8388608"):
        read_stamp(bomb)
    # The same, with a small size in the directory and in the header.
    lying = bytearray(bomb.getvalue())
    true, small = struct.pack("<I", JSON_BYTES * 4), struct.pack("<I", 1000)
    assert lying.count(true) == 2
    with pytest.raises(StampError):
        read_stamp(io.BytesIO(bytes(lying).replace(true, small)))


def test_a_gigabyte_of_stamp_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.pt2"
    with zipfile.ZipFile(path, "w") as made, made.open(f"a/extra/{MEMBER}", "w", force_zip64=True) as member:
        for _ in range(1024):
            member.write(bytes(1024 * 1024))
    with pytest.raises(StampError, match="1073741824 bytes, over the limit"):
        read_stamp(path)
    path.unlink()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"{}", b"null", b"[" * 100_000, b'{"format":1,"exports":[]}', b"1" * 9999],
)
def test_a_member_that_is_not_a_stamp_is_one_error(content: bytes) -> None:
    with pytest.raises(StampError):
        read_stamp(archive((f"a/extra/{MEMBER}", content)))


def test_a_damaged_file_is_one_error(text: str, tmp_path: Path) -> None:
    whole = archive((f"a/extra/{MEMBER}", text), ("a/version", "3")).getvalue()
    for end in range(0, len(whole), 211):
        with pytest.raises(StampError):
            read_stamp(io.BytesIO(whole[:end]))
    for at in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        try:
            found = read_stamp(io.BytesIO(damaged))
        except LedgerError:
            continue
        assert found == Stamp.from_text(text)  # a byte that is not part of the stamp
    with pytest.raises(StampError, match="not a file; name a file"):
        read_stamp(tmp_path)


def test_a_newer_stamp_asks_for_an_upgrade(text: str) -> None:
    with pytest.raises(SchemaError, match="upgrade"):
        Stamp.from_text(text.replace('"format":1', '"format":2'))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the path of every value in a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def changed(text: str, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> str:
    value = unsealed(text)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return sealed(value)


WRONG: list[Any] = [None, True, 7, -1, 10**30, 1.5, "x", "", [], ["x"], {}, {"x": 1}]


def test_a_value_of_another_type_is_read_as_equal_or_refused(text: str) -> None:
    value = unsealed(text)
    paths = [path for path in places(value) if "gone" not in path]
    paths.append(("exports", 0, "catalog", "gone"))
    assert len(paths) > 80
    refused = 0
    for number, path in enumerate(paths):
        # Three of them at each path, because all of them take minutes.
        for wrong in (WRONG[(number + step * 5) % len(WRONG)] for step in range(3)):
            try:
                Stamp.from_text(changed(text, path, lambda inner, key, wrong=wrong: inner.__setitem__(key, wrong)))
            except LedgerError:
                refused += 1
        try:
            Stamp.from_text(changed(text, path, lambda inner, key: inner.__delitem__(key)))
        except LedgerError:
            refused += 1
    assert refused > len(paths) * 3


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("event", "actor"), "eve"),
        (("event", "reason"), "none"),
        (("event", "recorded_at"), "2020-01-01T00:00:00.000000Z"),
        (("event", "body", "after"), "b"),
        (("event", "body", "fired"), {}),
        (("event", "hash"), "0" * 64),
        (("environment",), {"torch": "9"}),
        (("base",), "empty"),
        (("rule_events", 0, "reason"), "another"),
        (("rule_events", 0, "body", "changes"), []),
        (("rule_events",), []),
        (("decompositions",), {}),
        (("decompositions",), {REFERENCE.identity(): {"origin": "import", "module": "os", "qualname": "system"}}),
        (("catalog", "build", "torch"), "9.9.9"),
        (("catalog", "changed"), {}),
    ],
)
def test_every_changed_value_is_noticed(text: str, path: tuple[Any, ...], new: Any) -> None:
    with pytest.raises(StampError):
        Stamp.from_text(changed(text, ("exports", 0, *path), lambda inner, key: inner.__setitem__(key, new)))


def test_an_unknown_key_is_refused_wherever_it_is(text: str) -> None:
    value = unsealed(text)
    objects = [path for path in places(value) if isinstance(at(value, path), dict)]
    assert len(objects) > 10
    for path in [(), *objects]:
        wrong = unsealed(text)
        at(wrong, path)["zzz"] = None
        with pytest.raises(StampError):
            Stamp.from_text(sealed(wrong))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def test_another_text_of_the_same_stamp_is_refused(text: str) -> None:
    value = unsealed(text)
    assert Stamp.from_text(sealed(value)) == Stamp.from_text(text)
    first = next(iter(value))
    texts = [
        json.dumps(json.loads(text)),
        f"{text}\n",
        f"\ufeff{text}",
        text.replace('"format":1', '"format":1.0'),
        text.replace('"graph":"a"', '"graph":"\\u0061"'),
        text.replace(f'{{"{first}":', f'{{"{first}":7,"{first}":', 1),
        sealed({key: value[key] for key in reversed(value)}).replace('"digest":"', '"digest":"0'),
        text.replace('"graph":"a"', '"graph":"b"'),
    ]
    for other in texts:
        assert other != text
        with pytest.raises(StampError):
            Stamp.from_text(other)
    for encoded in (text.encode("utf-16"), text.encode("utf-8-sig"), text.encode("utf-32")):
        with pytest.raises(StampError):
            Stamp.from_text(encoded)


def test_a_rule_that_is_left_out_shows_against_the_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", actor="ada") as ledger:
        table = new_table(ledger)
        table.preserve(["aten::late"], reason="pending, so that the digest of the table does not show it")
        catalog = catalog_of("aten::mm")
        snapshot = table.materialize(catalog)
        event = table.exported(Exported(catalog.digest, snapshot.digest, None, None, {}, {}, {}, 0), table.version)
        assert event is not None
        value = unsealed(Stamp((ledger.bundle(event.seq),), None, "").to_text())
        for name, rules in (("right.pt2", value["exports"][0]["rule_events"]), ("wrong.pt2", [])):
            value["exports"][0]["rule_events"] = rules
            (tmp_path / name).write_bytes(archive((f"a/extra/{MEMBER}", sealed(value))).getvalue())
        assert ledger.verify(against=[tmp_path / "right.pt2"]).ok
        (problem,) = ledger.verify(against=[tmp_path / "wrong.pt2"]).problems
    assert (problem.seq, "does not show this export as it is in the ledger" in problem.text) == (event.seq, True)


def test_a_stamp_in_a_folder_that_torch_does_not_read_is_refused(text: str) -> None:
    with pytest.raises(StampError, match="where torch does not read it"):
        read_stamp(archive(("b/version", "3"), (f"a/extra/{MEMBER}", text)))


def test_no_stamp_makes_anything_imported(
    bundle: ExportBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "canary.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with Ledger(":memory:", actor="eve") as ledger:
        table = new_table(ledger, "edge")
        table.change(Set, lambda _: [("aten::mm", "override", Decomposition("import", "canary", "f", "0" * 64))])
        catalog = catalog_of("aten::mm")
        snapshot = table.materialize(catalog)
        body = Exported(catalog.digest, snapshot.digest, None, None, {}, {}, {}, 0)
        event = table.exported(body, table.version)
        assert event is not None
        stamp = Stamp.from_text(Stamp((ledger.bundle(event.seq),), None, "").to_text())
    assert stamp.last.state.rules["aten::mm"].decomposition is not None
    assert "canary" not in sys.modules


# Saved stamps are read with these digests: a catalog that is captured again may not change the entries of a process.
BARE = {
    "2.5.1": "24ef3f459faf4228f7b7715c2d07db9f16699b2218fa18019b1a4f5b503f58d3",
    "2.6.0": "5ce5fd6869a343a32cf002b651d35868a3aa3ecd371890f01fe2d600f7d432a8",
    "2.7.1": "7586902c58b7237c610eb94965bc4c0956c8fd1ad60c0076a19986e47fc52abc",
    "2.8.0": "731514c1c7d03e03d41b66662469fadc661edd60237b157723b16bdd6b27d7ea",
    "2.9.1": "ef2fecfc3b4be89bb738048532ba3b1bbc2f80b32e486a57604d7e0ad9a86472",
    "2.10.0": "4027c36dbe644f3e6a69ecd0cd49fda53e0fd2bff9b642b64c43e4cc26d09d01",
    "2.11.0": "8e81e3d06e4e98f18508a347fa6232591c59c58c53c4cd583962d4bf11d9e12d",
    "2.12.1": "3927e78c6cfb6ca41a7101e461198c1b4a9ffe6eb97a4665bdd8e072c36b61e1",
    "2.13.0": "3a14862d979ee8a20490806c7f69da8891f5adf0a6de6bfcb415204fab521e9c",
    "2.14.1": "5059f2f27f794eb10b1392930cf91f6485c8d793a2c89b9e74b964625817ed11",
    "2.15.0": "9755a31393f7ddae663a1716174499f2f9dc255c3f4f64d4a6c5e35245170f52",
}


@pytest.mark.parametrize("version", catalogs.available())
def test_the_catalogs_that_stamps_differ_from_do_not_change(version: str) -> None:
    assert bare_catalog(version).digest == BARE[version]
