"""The shipped catalogs of released torch versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from decomp_ledger import catalogs
from decomp_ledger.errors import LedgerError
from decomp_ledger.model.catalog import Entry

VERSIONS = ["2.5.1", "2.6.0", "2.7.1", "2.8.0", "2.9.1", "2.10.0", "2.11.0", "2.12.1", "2.13.0", "2.14.1", "2.15.0"]
FIELDS = {
    *("origin", "others", "default", "unpreservable", "schema", "tags"),
    *("module", "qualname", "digest", "helpers", "wrappers"),
}


def default(version: str) -> set[str]:
    """Return the ops in the default table of a torch version."""
    return {op for op, entry in catalogs.released(version).ops.items() if entry.default}


def test_the_versions_are_in_order() -> None:
    assert catalogs.available() == VERSIONS


def test_they_are_small() -> None:
    folder = Path(catalogs.__file__).parent
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 2_200_000


def test_reading_one_is_quick_and_needs_no_torch(run_python: Any) -> None:
    code = (
        "import sys, time; from decomp_ledger import catalogs\n"
        "taken = []\n"
        "for _ in range(5):\n"
        "    catalogs.released.cache_clear()\n"
        "    start = time.process_time(); catalogs.released('2.6.0'); taken.append(time.process_time() - start)\n"
        "assert 'torch' not in sys.modules\nprint(min(taken))\n"
    )
    assert float(run_python(code)) < 0.1


def test_an_unknown_version_is_refused_with_the_shipped_ones() -> None:
    with pytest.raises(
        KeyError, match=r"torch 2\.5\.0: no catalog is shipped; choose one of 2\.5\.1, .*2\.15\.0"
    ) as caught:
        catalogs.released("2.5.0")
    assert isinstance(caught.value, LedgerError)
    with pytest.raises(catalogs.UnknownCatalog):
        catalogs.released("../catalogs/2.6.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_each_is_a_whole_catalog(version: str) -> None:
    catalog = catalogs.released(version)
    assert set(catalog.build) == {"torch", "git", "accelerator", "python"}
    assert catalog.build["torch"].partition("+")[0] == version
    assert len(catalog.build["git"]) == 40
    assert 3500 < len(catalog.ops) < 3800
    assert list(catalog.ops) == sorted(catalog.ops)
    for op, each in catalog.ops.items():
        entry = each.to_json()
        assert set(entry) <= FIELDS, op
        assert all(entry.values()), op
        assert ("schema" in entry) == ("::" in op), op
        assert ("digest" in entry) == (each.origin in ("registry", "py_cia")), op
        assert each.origin or not {"default", "others"} & set(entry), op
        assert {*each.others} <= {"registry", "cia", "py_cia"} - {each.origin}, op
        for digest in (each.digest, each.helpers, each.wrappers):
            assert digest is None or len(bytes.fromhex(digest)) == 32, op


@pytest.mark.parametrize(
    ("version", "cia", "registry", "py_cia"),
    [
        ("2.5.1", 537, 452, 5),
        ("2.6.0", 536, 463, 5),
        ("2.9.1", 538, 461, 5),
        ("2.13.0", 477, 460, 6),
        ("2.15.0", 477, 464, 7),
    ],
)
def test_the_origins_of_default_decompositions_have_their_known_counts(
    version: str, cia: int, registry: int, py_cia: int
) -> None:
    origins = [entry.origin for entry in catalogs.released(version).ops.values() if entry.default]
    assert [origins.count(origin) for origin in ("cia", "registry", "py_cia")] == [cia, registry, py_cia]


def test_the_catalogs_have_known_changes_between_versions() -> None:
    left = default("2.6.0") - default("2.9.1")
    assert {"aten::elu", "aten::upsample_bilinear2d.vec", "aten::upsample_nearest2d.vec"} <= left
    assert "aten::hann_window" in default("2.13.0") - default("2.9.1")
    assert "aten::linalg_vector_norm" in default("2.15.0") - default("2.13.0")
    assert "aten::qr" in default("2.13.0") - default("2.15.0")
    origins = [catalogs.released(version).ops["aten::one_hot"].origin for version in ("2.9.1", "2.13.0")]
    assert origins == ["cia", "py_cia"]


def test_the_digests_show_known_changes_of_source() -> None:
    old, new = (catalogs.released(version).ops for version in ("2.9.1", "2.13.0"))
    # It gained a decorator.
    assert old["aten::hardtanh_backward"].digest != new["aten::hardtanh_backward"].digest
    # `torch.trunc` took the place of three calls.
    assert old["aten::frac"].digest != new["aten::frac"].digest
    # Only annotations, asserts and comments changed.
    for op in ("aten::xlogy.Tensor", "aten::celu", "aten::softplus", "aten::huber_loss"):
        assert old[op].digest == new[op].digest, op


def test_a_shipped_catalog_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        catalogs.released("2.6.0").ops["aten::linear"].origin = "changed"  # type: ignore[misc]
    assert catalogs.released("2.6.0").ops["aten::linear"].origin == "cia"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_live_catalog_is_completed_op_by_op(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = catalogs.released(version)
    done: list[Entry] = []
    complete_entry = catalogs._complete_entry

    def counted(entry: Entry, known: Entry | None) -> Entry:
        done.append(entry)
        return complete_entry(entry, known)

    monkeypatch.setattr(catalogs, "_complete_entry", counted)
    live = attrs.evolve(whole, ops={op: entry.bare() for op, entry in whole.ops.items()})
    found = catalogs.completed(live)
    for _ in range(2):
        assert found.ops["aten::linear"] == whole.ops["aten::linear"] and "aten::nothing" not in found.ops
    assert (len(done), found, found.digest) == (1, whole, whole.digest)
