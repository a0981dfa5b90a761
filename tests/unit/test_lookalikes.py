"""Names of tables that a reader may confuse."""

import unicodedata
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import new_table, words

from decomp_ledger.errors import InvalidName, LookalikeWarning
from decomp_ledger.ledger import Ledger
from decomp_ledger.model import lookalikes
from decomp_ledger.model.events import Popped
from decomp_ledger.model.lookalikes import lookalike
from decomp_ledger.model.op_names import is_op_name, normalize

CYRILLIC = {"a": "\u0430", "e": "\u0435", "o": "\u043e", "c": "\u0441", "p": "\u0440", "x": "\u0445", "T": "\u0422"}


@st.composite
def disguised(draw: st.DrawFn) -> tuple[str, str]:
    """Give a name, and the same name with some characters that look alike."""
    name = draw(words.map(lambda word: f"{word}e"))
    others = lookalikes._LIKE

    def like(char: str) -> str:
        wide = chr(ord(char) + 0xFEE0)
        return draw(st.sampled_from([char, char.swapcase(), wide, *others.get(char, "")]))

    return name, "".join(map(like, name))


@given(disguised())
def test_a_name_in_disguise_is_found(names: tuple[str, str]) -> None:
    name, other = names
    found = lookalike(other, ["another", name])
    # One character may look like another one in one case only: the two keys are not mixed.
    parts = [lookalike(b, [a]) for a, b in zip(name, other, strict=True) if a != b]
    assert all(parts)
    if name != other and (not any(a.swapcase() == b for a, b in zip(name, other, strict=True)) or name.isupper()):
        assert found == name


@given(st.text(min_size=1))
def test_a_name_is_not_like_itself_and_the_relation_is_symmetric(name: str) -> None:
    assert lookalike(name, [name]) is None
    other = unicodedata.normalize("NFD", name).swapcase()
    assert (lookalike(name, [other]) is None) == (lookalike(other, [name]) is None)


@pytest.mark.parametrize(
    ("name", "other"),
    [("edge", "\u0435dge"), ("edge", "Edge"), ("v10", "vlO"), ("\uff45dge", "edge"), ("cafe\u0301", "caf\xe9")],
)
def test_a_new_table_that_looks_like_another_one_warns_once(name: str, other: str) -> None:
    with Ledger(":memory:", actor="ann") as ledger:
        new_table(ledger, name)
        with pytest.warns(LookalikeWarning, match="the name looks like that of the table") as caught:
            new_table(ledger, other)
        assert len(caught) == 1 and str(caught[0].message).isascii()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            new_table(ledger, other)
            new_table(ledger, "edges")
            ledger.table_log(name).fork_as("other").preserve(["aten::mm"])
        with pytest.warns(LookalikeWarning):
            ledger.table_log("edges").fork_as("EDGES")


@given(st.text(min_size=1, max_size=12))
def test_the_name_of_an_op_is_ascii(text: str) -> None:
    for name in (text, f"aten::{text}", f"aten::add.{text}", f"aten.add.{text}"):
        if not name.isascii():
            assert not is_op_name(name)
            with pytest.raises(InvalidName):
                normalize(name)


@pytest.mark.parametrize("letter", CYRILLIC.values())
@pytest.mark.parametrize("form", ["aten::add.Tenso{}", "aten::{}dd", "{}ten::add", "c{}nd"])
def test_no_event_changes_an_op_that_only_looks_like_one(form: str, letter: str) -> None:
    name = form.format(letter)
    with Ledger(":memory:", actor="ann") as ledger:
        table = new_table(ledger)
        for change in (
            lambda: table.preserve([name]),
            lambda: table.change(Popped, lambda _: [(name, "preserve", None)]),
        ):
            with pytest.raises(InvalidName):
                change()
        assert len(list(ledger.events())) == 1
        assert table.preserve(["aten::mm"]) is not None
        assert ledger.verify().ok
