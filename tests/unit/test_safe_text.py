"""Text of foreign objects, and exceptions of a program that pass through our code: nothing of them replaces them."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_exceptions import frames, odd_exception

from decomp_ledger import Ledger, LedgerError, RecordingWarning, record
from decomp_ledger.log.passing import Passing
from decomp_ledger.model.canonical_json import canonical_json
from decomp_ledger.model.safe_text import describe, safe_repr


@given(st.integers(0, 10**9))
def test_any_exception_has_a_text_that_a_ledger_can_store(seed: int) -> None:
    error = odd_exception(random.Random(seed))
    for text in (*describe(error), safe_repr(error)):
        assert type(text) is str
        assert len(text) <= 2000 * len("\\ud800")
        canonical_json(text)


def test_a_text_that_cannot_be_read_says_why() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise SystemExit

    assert describe(Odd()) == ("Odd", "<str() of Odd raised SystemExit>")
    assert describe(ValueError("why"))[1] == "why"


BLOCKS: dict[str, Callable[[Path], AbstractContextManager[object]]] = {
    "record": lambda path: record(path, name="job"),
    "ledger": Ledger,
    "because": lambda path: Ledger(":memory:").because("why"),
}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("strict", [False, True], ids=["shown", "errors"])
@settings(max_examples=30)
@given(seed=st.integers(0, 10**9))
def test_a_block_of_ours_passes_any_exception_on(
    block: str, strict: bool, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    error = odd_exception(random.Random(seed))

    def exploding() -> None:
        raise error

    def fail(*args: object) -> None:
        raise LedgerError("the ledger cannot be closed")

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("error" if strict else "ignore", RecordingWarning)
        try:
            with BLOCKS[block](tmp_path_factory.mktemp("ledger") / "l.db"):
                patch.setattr(Ledger, "close", fail)
                exploding()
        except BaseException as caught:
            found = caught
    assert found is error
    assert "exploding" in frames(found)


def test_our_own_failure_is_a_warning_or_a_note() -> None:
    error = ValueError("the program's own")
    with pytest.warns(RecordingWarning, match="the export: LedgerError: full"), Passing(error, "the export"):
        raise LedgerError("full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Passing(error, "the export"):
            raise LedgerError("full")
    if hasattr(error, "add_note"):
        assert error.__notes__ == ["the export: LedgerError: full"]
    with pytest.raises(KeyboardInterrupt), Passing(error, "an interrupt is the user's"):
        raise KeyboardInterrupt
    with pytest.raises(LedgerError), Passing(None, "nothing passes"):
        raise LedgerError("full")


def test_because_is_a_decorator_too() -> None:
    with Ledger(":memory:", actor="ann") as ledger:

        @ledger.because("why")
        def change(name: str) -> None:
            ledger.create_table(name)

        change("one")
        change("two")
        ledger.create_table("three")
        assert [event.reason for event in ledger.events()] == ["why", "why", None]
