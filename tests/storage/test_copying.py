"""Values are copied and pickled; what is bound to its process refuses both with one error."""

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torture.exits import sample

import decomp_ledger as dl
from decomp_ledger import Ledger, UnusableValue, load_key

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": lambda value, n=n: pickle.loads(pickle.dumps(value, n)) for n in (0, pickle.HIGHEST_PROTOCOL)},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sample")


@pytest.fixture(scope="module")
def numbers(folder: Path) -> dict[str, str]:
    return sample(folder)


@pytest.fixture
def opened(folder: Path, numbers: dict[str, str]) -> Iterator[Ledger]:
    with Ledger(folder / "ledger.db") as ledger:
        yield ledger


def values(ledger: Ledger, folder: Path, numbers: dict[str, str]) -> Iterator[Any]:
    """Give what the public functions return."""
    good, failed = (f"export:{numbers[name]}" for name in ("good", "failed"))
    yield from ledger.events()
    yield from ledger.tables()
    for spec in ("edge", "edge@1", good, failed, "torch:2.13.0", str(folder / "model.pt2")):
        yield ledger.show(spec)
        yield dl.parse_state_spec(spec)
        yield ledger.show(spec).snapshot
    yield ledger.blame("edge")
    yield ledger.explain("aten::mm", "edge")
    yield ledger.diff("edge@1", "edge")
    yield ledger.diff(good, failed)
    yield ledger.drift("edge", "torch:2.13.0")
    yield ledger.upgrade("edge", torch="2.13.0")
    yield ledger.check_upgrade("edge", torch="2.13.0")
    yield ledger.bundle(int(numbers["good"]))
    yield dl.read_stamp(folder / "model.pt2")
    yield dl.read_signers(folder / "signers")
    yield ledger.verify(signers=folder / "signers")
    yield ledger.verify(expect="0" * 64)
    yield ledger.table_log("edge").state
    yield from dl.Catalog.from_json({"build": {}, "ops": {"aten::mm": {"default": True}}}).ops.values()


@pytest.mark.parametrize("how", COPIES)
def test_a_value_is_copied_whole(opened: Ledger, folder: Path, numbers: dict[str, str], how: str) -> None:
    for value in values(opened, folder, numbers):
        assert COPIES[how](value) == value, value


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", ["Ledger", "TableLog", "Database", "EventStore", "Recording", "SigningKey"])
def test_a_handle_refuses_with_one_error(opened: Ledger, folder: Path, kind: str, how: str) -> None:
    handles = (
        opened, opened.table_log("edge"), opened.database, opened.event_store, dl.record(opened),
        load_key(folder / "key"),
    )  # fmt: skip
    (handle,) = (each for each in handles if type(each).__name__ == kind)
    with pytest.raises(UnusableValue, match=f"^{kind}: it is bound to this process and cannot be copied or pickled; "):
        COPIES[how](handle)
