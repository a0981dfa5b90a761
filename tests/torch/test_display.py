"""How results show themselves: repr, HTML for notebooks, and rows for data frames."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from any_result import made, result_classes, results
from report_ledgers import HOSTILE, hostile_ledger, sample_ledger
from strategies import new_table, run_python
from torture.hostile import TEXTS

import decomp_ledger as dl
from decomp_ledger.model.display import LazyRows, Rows, displayed, guarded

LONGEST = 2000  # characters of a repr before it is escaped
TAGS = {
    *("div", "style", "span", "strong", "code", "bdi", "details", "summary", "p", "dl", "dt", "dd", "ul", "li", "pre"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"class", "open", "role", "aria-label", "aria-hidden", "tabindex", "scope", "style"}


class Tags(HTMLParser):
    """What an HTML text is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.others: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def check_html(html: str) -> Tags:
    """Check that nothing in an HTML text runs, loads or reaches out of its own element."""
    found = Tags(html)
    assert set(found.tags) <= TAGS
    assert {name for name, _ in found.attributes} <= ATTRIBUTES
    assert found.tags.count("style") == 1 and found.tags[0] == "div"
    assert all(re.fullmatch(r"width:[\d.]+%", value or "") for name, value in found.attributes if name == "style")
    assert found.others == []
    body = html.partition("</style>")[2]
    assert all(c.isprintable() or c == "\n" for c in body)
    return found


@pytest.mark.parametrize("text", [*HOSTILE, *TEXTS.values()], ids=[*range(len(HOSTILE)), *TEXTS])
def test_hostile_text_stays_text_in_every_class(text: str) -> None:
    for name, value in results(text):
        shown = repr(value)
        assert shown.isprintable(), name
        assert len(shown) <= 10 * LONGEST + 100, name  # an escape has up to ten characters
        html = value._repr_html_()
        assert html is not None, name
        check_html(html)
        assert len(html) < 100_000, (name, len(html))


def test_the_markup_of_a_stranger_is_shown_as_they_wrote_it() -> None:
    text = HOSTILE[0]
    shown = {name: check_html(value._repr_html_()).text for name, value in results(text)}
    without = {name for name, found in shown.items() if text not in found}
    # These hold numbers alone.
    assert without == {"ExportSpec"}


def test_every_public_class_of_results_shows_itself() -> None:
    public = {name: getattr(dl, name) for name in dl.__all__}
    classes = {
        name: each for name, each in public.items()
        if inspect.isclass(each) and not issubclass(each, BaseException) and each is not LazyRows
    }  # fmt: skip
    assert len(classes) > 80
    assert [name for name, each in classes.items() if not hasattr(each, "_repr_html_")] == []
    unguarded = [name for name, each in classes.items() if not getattr(each.__repr__, "is_guarded", False)]
    assert unguarded == []
    assert {cls.__name__ for cls in result_classes()} >= {"Event", "Rule", "RuleDiff", "Drift", "Explanation"}


def test_rows_are_flat_in_every_class() -> None:
    for name, value in results("<b>"):
        rows = value.to_dicts() if hasattr(value, "to_dicts") else dl.Rows([value]).to_dicts()
        assert rows or name in ("Stamp",), name
        for row in rows:
            wrong = {key: each for key, each in row.items() if not isinstance(each, (str, int, float, type(None)))}
            assert wrong == {}, name
            assert all(isinstance(key, str) for key in row), name


@pytest.fixture
def thousand(ledger: dl.Ledger) -> dl.Ledger:
    """A ledger with a table of 1,000 rules."""
    new_table(ledger).preserve([f"mylib::op{number}" for number in range(1000)])
    return ledger


def test_a_large_table_is_shown_by_counts_and_first_rules(thousand: dl.Ledger) -> None:
    state, event = thousand.state("edge"), thousand.event(2).event
    assert repr(state) == (
        "<TableState edge@2: base torch, 1000 rules: "
        "mylib::op0 preserve, mylib::op1 preserve, mylib::op10 preserve and 997 more>"
    )
    assert repr(event).startswith("<Event #2 edge@2: popped mylib::op0, mylib::op1, mylib::op2 and 997 more at 20")
    assert repr(thousand.table_log("edge")) == "<TableLog edge version 2: base torch, 1000 rules>"
    for value in (
        state,
        event,
        event.body,
        thousand.table_log("edge"),
        thousand.show("edge"),
        thousand.diff("edge@1", "edge"),
    ):
        assert len(repr(value)) < 700
        assert len(value._repr_html_()) < 30_000
    assert "and 980 more" in state._repr_html_()
    assert len(state.to_dicts()) == len(thousand.table_log("edge").to_dicts()) == 1000


def test_a_list_of_results_is_a_list_that_knows_its_rows(ledger: dl.Ledger) -> None:
    sample_ledger(Path(ledger.path).parent / "sample.db")
    with dl.Ledger(Path(ledger.path).parent / "sample.db", read_only=True) as sample:
        exports = sample.exports()
        assert isinstance(exports, list) and [each.seq for each in exports] == [7, 8]
        good, bad = exports.to_dicts()
        assert (good["seq"], good["table"], good["nodes_before"], good["nodes_after"]) == (7, "edge", 10, 15)
        assert (good["failed"], good["error"], good["fired"]) == (False, None, "aten::gelu, aten::silu")
        assert (bad["failed"], bad["raised_in"]) == (True, "aten::silu, aten::gelu")
        assert str(bad["error"]).startswith("RuntimeError: aten.gelu: expected float")
        assert str(good["recorded_at"]).endswith("Z")
        assert repr(exports).startswith("[<Event #7 edge@4: exported 10 -> 15 nodes at ")
        kinds = [row["kind"] for row in sample.events().to_dicts()]
        assert kinds == ["created", "popped", "set", "set", "tagged", "materialized", "exported", "exported"]
        events = sample.events()
        next(events)
        assert [row["seq"] for row in events.to_dicts()] == [2, 3, 4, 5, 6, 7, 8] and events.to_dicts() == []
        (row,) = sample.explain("aten::gelu", "export:7").to_dicts()
        assert (row["op"], row["outcome"], row["fired"]) == ("aten::gelu", "decomposed", 2)
        rules = {row["op"]: row for row in sample.table_log("edge").to_dicts()}
        assert (rules["aten::gelu"]["decomposition"], rules["aten::gelu"]["seq"]) == ("mypkg.lower.gelu", 4)
        (change,) = sample.diff("edge@3", "edge").to_dicts()
        assert change["before"] == change["after"] and change["digest_before"] != change["digest_after"]


CASES: dict[str, Callable[[dl.Ledger], Any]] = {
    "tables": lambda ledger: ledger.tables(),
    "table_series": lambda ledger: ledger.table_series(),
    "exports": lambda ledger: ledger.exports(),
    "export_results": lambda ledger: ledger.export_results(),
    "explain": lambda ledger: ledger.explain("aten::gelu"),
    "why": lambda ledger: ledger.why("aten::gelu"),
    "explain_releases": lambda ledger: ledger.explain_releases("aten::gelu"),
    "history": lambda ledger: ledger.table_log("edge").history("aten::gelu"),
    "events of a table": lambda ledger: ledger.table_log("edge").events(),
    "diff": lambda ledger: ledger.table_log("edge").diff(1),
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the sample ledger."""
    path = tmp_path_factory.mktemp("display") / "sample.db"
    sample_ledger(path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_each_call_that_returns_a_list_returns_rows(sample: Path, name: str) -> None:
    with dl.Ledger(sample, read_only=True) as ledger:
        found = CASES[name](ledger)
        assert isinstance(found, Rows) and found and len(found.to_dicts()) == len(found)
        check_html(found._repr_html_())


def test_a_repr_reads_and_makes_no_file(tmp_path: Path, sample: Path) -> None:
    lazy = dl.Ledger(tmp_path / "new.db", lazy=True)
    assert repr(lazy) == f"<Ledger {tmp_path / 'new.db'}, not opened yet>"
    assert list(tmp_path.iterdir()) == []
    ledger = dl.Ledger(sample, read_only=True)
    log = ledger.table_log("edge")
    assert repr(ledger).endswith(", open, read-only>")
    before = repr(log)
    ledger.close()
    assert repr(ledger).endswith(", closed, read-only>") and repr(log) == before
    assert repr(LazyRows([])) == "<LazyRows: read them with a loop, list() or to_dicts()>"


@pytest.mark.parametrize("end", ["closed", "vanished", "missing"])
def test_a_ledger_that_cannot_be_read_is_shown_with_the_reason(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.db"
    ledger = dl.Ledger(path, lazy=end == "missing", read_only=end == "missing")
    log = None if end == "missing" else new_table(ledger)
    if end == "closed":
        ledger.close()
    if end == "vanished":
        ledger.close()
        path.unlink()
        ledger = dl.Ledger(path, read_only=True, lazy=True)
    text = check_html(str(ledger._repr_html_())).text
    assert "cannot be read" in text and "a.db" in text
    assert {"closed": "the ledger is closed", "vanished": "does not exist", "missing": "does not exist"}[end] in text
    if log is not None:
        assert "edge@1" in check_html(str(log._repr_html_())).text
    assert path.exists() == (end == "closed")


def test_a_repr_that_fails_says_so_and_does_not_raise() -> None:
    @displayed
    class Broken:
        @guarded
        def __repr__(self) -> str:
            raise ValueError("no")

    assert repr(Broken()) == "<Broken: it cannot be read here (ValueError)>"


def test_the_ledger_of_a_stranger_is_shown_as_text(tmp_path: Path) -> None:
    for number, text in enumerate(HOSTILE):
        path = tmp_path / f"{number}.db"
        export = hostile_ledger(path, text)
        with dl.Ledger(path, read_only=True) as ledger:
            shown = (
                ledger, ledger.tables(), ledger.exports(), ledger.export_results(), ledger.export(export),
                ledger.event(2), ledger.table_log("edge"), ledger.show("edge"), ledger.show(f"export:{export}"),
                ledger.verify(),
                ledger.state("edge"), ledger.diff("edge@2", "edge"), ledger.bundle(export), ledger.export_totals(),
                ledger.explain("aten::gelu"), ledger.why("aten::gelu"), ledger.table_log("edge").events(),
            )  # fmt: skip
            for value in shown:
                check_html(str(value._repr_html_()))
                assert repr(value).isprintable()


def test_the_styles_of_a_result_apply_to_nothing_else() -> None:
    html = str(made(dl.Rule, "x")._repr_html_())
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None and "@" not in style[1] and "url(" not in style[1]
    selectors = [each.strip() for rule in style[1].split("}") for each in rule.partition("{")[0].split(",")]
    assert len(selectors) > 40
    assert [each for each in selectors if each and not each.startswith(".decomp-ledger")] == []
    assert "id=" not in html.partition("</style>")[2]


def test_a_result_without_a_page_of_its_own_shows_its_fields() -> None:
    text = check_html(dl.LostOp("aten::mm", 3, 5)._repr_html_()).text  # type: ignore[attr-defined]
    assert "Lost op" in text
    assert re.search(r"kept by\s*3\s*lost by\s*5", text)


_SHOWN = """
import sys
import decomp_ledger as dl
with dl.Ledger(sys.argv[1], read_only=True) as ledger:
    repr([ledger, ledger.tables(), ledger.exports(), ledger.table_log("edge"), ledger.explain("aten::gelu")])
    ledger.exports().to_dicts()
    print("jinja2" in sys.modules)
    ledger._repr_html_(), ledger.exports()._repr_html_(), ledger.explain("aten::gelu")._repr_html_()
    print(*[name for name in ("torch", "numpy", "rich", "sqlite_utils") if sys.modules.get(name)])
"""


def test_showing_results_imports_no_torch(sample: Path) -> None:
    assert run_python(_SHOWN, sample) == "False\n\n"


def test_a_live_table_shows_its_rules_and_reads_like_a_dict(ledger: dl.Ledger) -> None:
    table = ledger.table("edge")
    table.pop("aten::linear")
    assert re.fullmatch(r"<DecompTable 'edge' version 2: \d+ decompositions, 1 changed>", repr(table))
    text = check_html(str(table._repr_html_())).text  # type: ignore[attr-defined]
    assert "edge@2" in text and "aten::linear" in text and "tester" in text
    (row,) = table.to_dicts()
    assert (row["op"], row["action"], row["seq"], row["actor"]) == ("aten::linear", "preserve", 2, "tester")
    before = repr(table)
    ledger.close()
    assert repr(table) == before
    shown = check_html(str(table._repr_html_())).text  # type: ignore[attr-defined]
    assert "aten::linear" in shown and "the ledger is closed" in shown


def test_recordings_show_what_they_are(ledger: dl.Ledger) -> None:
    recording = dl.record(ledger, name="nightly")
    assert repr(recording) == f"<Recording nightly in {ledger.path}: 0 exports succeeded>"
    imports = dl.record_imports()
    assert repr(imports) == "<ImportRecording: not ended>"
    for each in (recording, imports):
        check_html(str(each._repr_html_()))  # type: ignore[attr-defined]
