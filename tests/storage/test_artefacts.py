"""A file that a program was saved into is found by its stamp, its sidecar or its content, and a changed one is not."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from strategies import catalog_of, new_table

import decomp_ledger as dl
from decomp_ledger import Ledger, MissingStamp, StampError, read_stamp
from decomp_ledger.cli import cli
from decomp_ledger.log import provenance
from decomp_ledger.model.events import Exported, RootModule, Saved
from decomp_ledger.model.limits import JSON_BYTES, ONNX_FIELDS
from decomp_ledger.transfer.artefacts import SIDECAR, digest_of_file, sidecar_text
from decomp_ledger.transfer.onnx_stamp import KEY, read_text
from decomp_ledger.transfer.stamp import Stamp, append_stamp


def export_into(ledger: Ledger, after: str = "a") -> int:
    """Record an export; return its number."""
    table = ledger.table_log("edge") if ledger.tables() else new_table(ledger)
    catalog = catalog_of("aten::mm")
    snapshot = table.materialize(catalog)
    counts = {"aten::mm": 1}
    module = RootModule("pkg.Net", "pkg.py", 7)
    body = Exported(catalog.digest, snapshot.digest, "b", after, counts, counts, {}, 3, module=module)
    event = table.exported(body, table.version)
    assert event is not None
    return event.seq


def saved_as(ledger: Ledger, export: int, path: Path, kind: str = "pte") -> None:
    """Record that the result of an export was saved."""
    size, sha256 = digest_of_file(path)
    ledger.append("edge", 1, Saved(export, path.name, kind, size, sha256))


@pytest.fixture
def text(ledger: Ledger) -> str:
    return Stamp((ledger.bundle(export_into(ledger)),), "a", "git").to_text()


# Protobuf


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def property_of(key: str, value: str) -> bytes:
    return field(14, field(1, key.encode()) + field(2, value.encode()))


MODEL = varint(1 << 3) + varint(10) + field(2, b"pytorch") + field(7, os.urandom(3000)) + varint(20 << 3 | 5) + b"1234"


@pytest.mark.parametrize("place", ["first", "last"])
def test_the_stamp_of_an_onnx_is_read_among_other_fields(place: str, text: str, tmp_path: Path) -> None:
    entries = property_of("author", "ann") + property_of(KEY, text) + property_of(f"{KEY}.x", "{}")
    (tmp_path / "m.onnx").write_bytes(MODEL + entries if place == "last" else entries + MODEL)
    assert read_stamp(tmp_path / "m.onnx").to_text() == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (MODEL, "has no stamp"),
        (property_of(KEY, "{}") * 2, "has 2 stamps"),
        (property_of(KEY, "{}"), "damaged"),
        (MODEL + field(7, b"123")[:-1], "it is cut off"),
        (b"\xff" * 20, "not an .onnx file"),
        (b"PK\x03\x04", "not an .onnx file"),
        (varint(14 << 3 | 2) + varint(JSON_BYTES + 1) + b"0" * (JSON_BYTES + 1), "over the limit"),
        (field(20, b"") * (ONNX_FIELDS + 1), f"more than {ONNX_FIELDS} fields"),
        (field(7, b"")[:-1] + varint(2**69), "it is cut off"),
    ],
)
def test_an_onnx_without_a_sound_stamp_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(StampError, match=f"m.onnx: .*{message}"):
        read_stamp(tmp_path / "m.onnx")


@given(st.binary(max_size=60) | st.lists(st.builds(field, st.integers(0, 40), st.binary(max_size=9))).map(b"".join))
def test_any_bytes_are_an_onnx_without_a_stamp_or_refused(data: bytes) -> None:
    with pytest.raises(StampError):
        read_text(io.BytesIO(data), "m.onnx")


# Sidecars


def test_a_sidecar_is_read_for_the_file_that_it_is_about_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    path.write_bytes(b"program")
    with pytest.raises(MissingStamp, match=r"m\.pte: has no stamp, .* no .*m\.pte\.decomp\.json"):
        read_stamp(path)
    (tmp_path / f"m.pte{SIDECAR}").write_text(sidecar_text(text, *digest_of_file(path)))
    assert read_stamp(path).to_text() == text
    assert dl.show(str(path)).state.table == "edge"
    path.write_bytes(b"Program")
    with pytest.raises(StampError, match=r"m\.pte: changed after it was saved") as caught:
        read_stamp(path)
    assert not isinstance(caught.value, MissingStamp)


@pytest.mark.parametrize(
    "sidecar",
    ["", "[]", "{}", '{"format": 1}', '{"format": 2, "size": 7, "sha256": "", "stamp": ""}', "[" * 100_000],
)
def test_a_damaged_sidecar_is_refused(sidecar: str, tmp_path: Path) -> None:
    (tmp_path / "m.pte").write_bytes(b"program")
    (tmp_path / f"m.pte{SIDECAR}").write_text(sidecar)
    with pytest.raises(StampError, match=r"m\.pte\.decomp\.json: "):
        read_stamp(tmp_path / "m.pte")


# By content


@pytest.mark.parametrize("name", ["m.pte", "m.ptd", "m.onnx", "m.pt2"])
def test_a_file_is_found_by_its_content_under_any_name(name: str, ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "m.pt2":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/data", "x")
    else:
        path.write_bytes(MODEL)
    first, second = export_into(ledger), export_into(ledger, "other")
    saved_as(ledger, first, path)
    saved_as(ledger, second, path)
    other = tmp_path / f"other{path.suffix}"
    path.rename(other)
    found = ledger.show(str(other))
    assert found.artefact is not None and isinstance(found.artefact.body, Saved)
    assert (found.artefact.body.export, found.artefact.body.path) == (second, name)
    assert found.bundle is not None and found.bundle.event.seq == second
    assert ledger.blame(str(other)) == {} and found.stamp is None


def test_a_changed_file_and_an_unknown_one_have_a_sentence_each(ledger: Ledger, tmp_path: Path) -> None:
    path, stranger = tmp_path / "m.pte", tmp_path / "stranger.pte"
    path.write_bytes(b"program")
    number = export_into(ledger)
    ledger.append("edge", 1, Saved(number, provenance.shortened(str(path)), "pte", *digest_of_file(path)))
    path.write_bytes(b"Program")
    stranger.write_bytes(b"another")
    with pytest.raises(StampError, match=rf"m\.pte: changed after export:{number} was saved into it \(#"):
        ledger.show(str(path))
    with pytest.raises(MissingStamp, match=r"stranger\.pte: it has no stamp, and no event of the ledger .* knows"):
        ledger.show(str(stranger))
    with pytest.raises(StampError, match=r"gone\.pte: cannot be read: No such file"):
        ledger.show(str(tmp_path / "gone.pte"))
    os.mkfifo(tmp_path / "pipe.pte")
    with pytest.raises(StampError, match=r"pipe\.pte: not a file"):
        ledger.show(str(tmp_path / "pipe.pte"))


def shown(*arguments: str) -> str:
    return CliRunner().invoke(cli, arguments).output


def test_show_tells_whether_a_stamped_file_is_as_it_was_saved(ledger: Ledger, text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(MODEL + property_of(KEY, text))
    arguments = ("--ledger", ledger.path, "show", str(path))
    assert "was made by export:" in shown(*arguments) and "content" not in shown(*arguments)
    number = ledger.exports()[0].seq
    event = ledger.append(
        "edge", 1, Saved(number, provenance.shortened(str(path)), "onnx", *digest_of_file(path), True)
    )
    assert ledger.saved_file(path) == event
    assert f"its content is as it was saved at {event.recorded_at[:10]}" in shown(*arguments)
    path.write_bytes(MODEL + property_of(KEY, text) + property_of("author", "mallory"))
    assert f"m.onnx: changed after export:{number} was saved into it (#{event.seq})" in shown(*arguments)
    assert "content" not in shown("--ledger", str(tmp_path / "none.db"), "show", str(path))


# Results


def test_results_name_the_first_equal_graph_and_the_files(ledger: Ledger, tmp_path: Path) -> None:
    numbers = [export_into(ledger, after) for after in ("a", "b", "a", "a")]
    (tmp_path / "m.pte").write_bytes(b"program")
    for _ in range(2):
        saved_as(ledger, numbers[2], tmp_path / "m.pte")
    ledger.append("edge", 1, Saved(numbers[2], "", "pte", 1, "00"))
    found = ledger.export_results()
    assert [each.same_graph_as for each in found] == [None, None, numbers[0], numbers[0]]
    assert [each.files for each in found] == [(), (), ("m.pte", "(pte)"), ()]
    assert [each["sha256"] for each in json.loads(json.dumps(found[2].to_json()))["saved"]] == [
        *[hashlib.sha256(b"program").hexdigest()] * 2,
        "00",
    ]
    result = ledger.show(f"export:{numbers[2]}").result
    assert result == found[2]
    assert ledger.export_results("edge") == found and ledger.verify().ok


# Packages


def package(path: Path, root: str = "m/") -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}version", "3")
        archive.writestr(f"{root}archive_format", "pt2")
        archive.writestr(f"{root}data/aotinductor/model/x.so", os.urandom(1000))
    return path.read_bytes()


@pytest.mark.parametrize("root", ["m/", ""], ids=["newer", "torch 2.6"])
def test_a_stamp_is_added_to_a_package_without_writing_its_content_again(root: str, text: str, tmp_path: Path) -> None:
    before = package(tmp_path / "m.pt2", root)
    assert append_stamp(tmp_path / "m.pt2", text)
    assert read_stamp(tmp_path / "m.pt2").to_text() == text
    start = struct.unpack("<I", before[-6:-2])[0]  # of the directory
    assert (tmp_path / "m.pt2").read_bytes()[:start] == before[:start]


def test_a_package_is_as_it_was_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = package(tmp_path / "m.pt2")

    def fail(archive: zipfile.ZipFile, name: str, text: str) -> None:
        archive.fp.write(b"half of an entry")  # type: ignore[union-attr]
        archive._didModify = True  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="No space left"):
        append_stamp(tmp_path / "m.pt2", "{}")
    assert (tmp_path / "m.pt2").read_bytes() == before


def test_an_archive_of_an_older_form_gets_no_stamp(text: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("data/aotinductor/model/x.so", "x")
    before = (tmp_path / "m.pt2").read_bytes()
    assert not append_stamp(tmp_path / "m.pt2", text)
    assert (tmp_path / "m.pt2").read_bytes() == before
