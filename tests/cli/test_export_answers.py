"""What `diff` and `exports --totals` say of exports: each case has its sentence, and no other case has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from decomp_ledger import Ledger
from decomp_ledger.cli import cli
from decomp_ledger.model.catalog import Catalog, Entry
from decomp_ledger.model.events import Exported

CATALOG = Catalog({"torch": "9.9.9"}, {"aten::mm": Entry(), "aten::linear": Entry("cia", default=True)})
MM, LINEAR = {"aten::mm": 1}, {"aten::linear": 1}


def ledger_with(path: Path, *exports: dict[str, Any]) -> list[int]:
    """Make a ledger with exports of a table that preserves linear; return their numbers."""
    with Ledger(path, actor="Ada") as ledger:
        edge = ledger.create_table("edge")
        edge.preserve(["aten::linear"])
        snapshot = edge.materialize(CATALOG)
        for given in exports:
            facts = {
                "before": "p",
                "after": "q",
                "ops_before": MM,
                "ops_after": MM,
                "fired": {},
                "error": None,
                **given,
            }
            body = Exported(catalog=snapshot.catalog.digest, snapshot=snapshot.digest, milliseconds=3, **facts)
            ledger.append("edge", edge.version, body)
        return sorted(event.seq for event in ledger.exports())


def answer(path: Path, *arguments: str) -> str:
    """Return what a command prints, its lines joined."""
    done = CliRunner().invoke(cli, ["--ledger", str(path), *arguments], standalone_mode=False)
    assert done.exception is None, done.output
    return done.output


SENTENCES = {
    "the graphs are the same": {},
    "the graphs differ\n": {"after": "other", "ops_after": LINEAR},
    "the graphs differ: they have the same ops, as often, with other arguments, types or order": {"after": "other"},
    "failed, so no results are compared": {"after": None, "ops_after": {}, "error": ("RuntimeError", "no")},
    "the exports lowered different programs": {"before": "r", "after": "other", "ops_after": LINEAR},
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_each_difference_of_two_exports_has_its_own_sentence(sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    one, other = ledger_with(path, {}, SENTENCES[sentence])
    text = answer(path, "diff", f"export:{one}", f"export:{other}")
    also = {"the graphs differ\n"} if "different programs" in sentence else set[str]()
    assert {each for each in SENTENCES if each in text} == {sentence, *also}


TOTALS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "unused_rules": ("rules that did nothing in any export: preserve aten::linear (edge)", [{}]),
    "lost": (
        "export:{0} kept aten::linear, and export:{1}, which lowered its result, lost it",
        [{"ops_before": LINEAR, "ops_after": LINEAR}, {"before": "q", "after": "r", "ops_before": LINEAR}],
    ),
    "unused_results": (
        "results that no later export lowered: export:{0}, export:{1}",
        [{"ops_after": LINEAR}, {"before": "x", "after": "y", "ops_after": LINEAR}],
    ),
}


@pytest.mark.parametrize("kind", TOTALS)
def test_each_kind_of_total_is_shown_where_it_is_and_only_there(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    sentence, exports = TOTALS[kind]
    numbers = ledger_with(path, *exports)
    found = json.loads(answer(path, "exports", "--totals", "--json"))
    assert found[kind] != [] and found["exports"] == len(exports)
    for command in (["exports", "--totals"], ["exports"]):
        text = " ".join(answer(path, *command).split())
        assert sentence.format(*numbers) in text
        for other, (start, _) in TOTALS.items():
            shown = start.partition(":")[0] in text if other != "lost" else "lost it" in text
            # One result that nothing lowered is that of each last export.
            assert shown == (len(found[other]) > (other == "unused_results")), other
    text = " ".join(answer(path, "exports", "--totals").split())
    assert text.startswith(f"{len(exports)} export{'' if len(exports) == 1 else 's'}, 0 failed")


def test_each_export_is_listed_with_the_line_that_made_it(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    ledger_with(path, {}, {"after": "other"})
    with Ledger(path, actor="Ada") as ledger:
        site = ledger.exports()[0].call_site
    assert site is not None and site.function == "ledger_with"
    assert [line.endswith(str(site)) for line in answer(path, "exports").splitlines()[2:4]] == [True, True]
