"""Pages: what they show, that the same ledger gives the same page, and that hostile text stays text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner
from hypothesis import given as each_of
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_ledgers import HOSTILE, hostile_ledger, sample_ledger
from strategies import catalog_of, new_table

import decomp_ledger as dl
from decomp_ledger.cli import cli
from decomp_ledger.model.events import OVERRIDE, Exported, Passed, RootModule, Saved, Traced
from decomp_ledger.model.rules import Decomposition
from decomp_ledger.reports.blocks import (
    Bar,
    Bars,
    Code,
    Flow,
    Moment,
    Page,
    Part,
    Prose,
    Quote,
    Section,
    Timeline,
)
from decomp_ledger.reports.charts import flow_chart, time_chart
from decomp_ledger.reports.drift_view import check_page, drift_page, upgrade_page
from decomp_ledger.reports.html import to_html
from decomp_ledger.reports.markdown import to_markdown
from decomp_ledger.reports.pages import page_of

GOOD, FAILED = "export:7", "export:8"
QUESTIONS = (
    (GOOD,), (FAILED,), (), ("edge",), ("edge@3",), ("edge@3", "edge"), (GOOD, FAILED),
    ("torch:2.12.1", "torch:2.13.0"),
)  # fmt: skip
# All that a page of ours is made of.
TAGS = set(
    re.findall(
        r"\S+",
        "html head meta title style body header footer main nav section h1 h2 p ul li a dl div dt dd table thead "
        "tbody tr th td code bdi span pre details summary figure figcaption svg desc path rect circle line text tspan",
    )
)
ATTRIBUTES = set(
    re.findall(
        r"\S+",
        "lang charset http-equiv content name id class href aria-label aria-labelledby aria-hidden role tabindex "
        "style scope open viewbox width height x y x1 x2 y1 y2 d cx cy r rx",
    )
)
MARKDOWN_TAGS = set(
    re.findall(
        r"\S+",
        "h3 h4 p strong code pre table thead tbody tr th td ul li details summary br",
    )
)
VOID = {"meta", "br"}


class Outline(HTMLParser):
    """The tags of a page, its texts outside of code, and whether each tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.open: list[str] = []
        self.prose = ""
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " " if tag in ("td", "th", "dt", "dd", "li", "p") else ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if not {"code", "pre", "style"} & {*self.open}:
            self.prose += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dl.Ledger]:
    path = tmp_path_factory.mktemp("reports") / "sample.db"
    assert sample_ledger(path) == (7, 8)
    with dl.Ledger(path, read_only=True) as opened:
        yield opened


def section(page: str, title: str) -> str:
    """Return the text of a section of a page, without tags."""
    (found,) = re.findall(rf'<section id="{title}".*?</section>', page, flags=re.DOTALL)
    return " ".join(Outline(found).text.split())


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_a_page_is_one_well_formed_file_that_loads_nothing(ledger: dl.Ledger, question: tuple[str, ...]) -> None:
    page = ledger.report(*question)
    outline = Outline(page.removeprefix("<!doctype html>\n"))
    assert page.startswith("<!doctype html>\n") and outline.tags <= TAGS
    assert {*outline.attributes} <= ATTRIBUTES
    assert all(link.startswith("#") for link in outline.attributes.get("href", ()))
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert "url(" not in page and "@import" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len({*ids})
    assert {link[1:] for link in outline.attributes.get("href", ())} <= {*ids}


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_the_same_ledger_gives_the_same_page(ledger: dl.Ledger, question: tuple[str, ...]) -> None:
    for markdown in (False, True):
        page = ledger.report(*question, markdown=markdown)
        with dl.Ledger(ledger.path, read_only=True) as again:
            assert again.report(*question, markdown=markdown) == page


def test_an_export_shows_what_it_was_and_who_decided_what(ledger: dl.Ledger) -> None:
    page = ledger.report(GOOD)
    assert "Ada <ada@example.org>" in section(page, "what-it-was")
    rules = section(page, "rules")
    assert "aten::linear preserve kept #2 popped" in rules and "XNNPACK has a fused kernel" in rules
    assert "aten::gelu override: mypkg.lower.gelu decomposed #4 set" in rules
    assert "return x * torch.sigmoid(1.7 * x)" in rules
    assert "aten::mul.Tensor 5 +5" in section(page, "ops-before-and-after")
    made = section(page, "what-made-the-nodes")
    assert "7 of 15 nodes are the program's own, unchanged; 8 were made." in made
    assert "aten::gelu aten::mul.Tensor 4" in made and "aten::silu > aten::silu_inner aten::mul.Tensor 1" in made
    again = section(page, "how-to-make-it-again")
    assert "decomp-ledger --ledger sample.db reproduce export:7" in again


def test_an_export_shows_its_model_and_where_its_result_went(tmp_path: Path) -> None:
    catalog = catalog_of("aten::mm", torch="2.15.0")
    with dl.Ledger(tmp_path / "l.db", actor="Ada") as ledger:
        table = new_table(ledger)
        snapshot = table.materialize(catalog)
        counts = {"aten::mm": 1, "aten::matmul": 1}
        body = Exported(catalog.digest, snapshot.digest, "b", "a", counts, counts, {}, 3)
        body = attrs.evolve(body, module=RootModule("models.Net", "models.py", 12), kinds={})
        later = attrs.evolve(body, made_from=(ledger.id, 3), ignored=("7",))
        first, second = (ledger.append("edge", table.version, each) for each in (body, later))
        ledger.append("edge", table.version, Saved(second.seq, "out/net.onnx", "onnx", 812, "c" * 64, True))
        page = ledger.report(f"export:{second.seq}")
        what = section(page, "what-it-was")
        assert "model models.Net, defined at models.py:12" in what
        assert "made from the result of export:3 " in what and f"same graph as export:{first.seq};" in what
        assert "saved as out/net.onnx (onnx, stamped, 812 bytes" in what
        assert "Torch ignored 7" in section(page, "to-look-at")
        assert "aten::matmul * 1 1" in section(page, "what-happened-to-each-op")
        assert "1 of 2 ops of the result is not Core ATen" in section(page, "what-happened-to-each-op")
        listed = section(ledger.report(), "exports")
        assert f"Net, from export:3 edge@{table.version}" in listed and "out/net.onnx" in listed


def test_the_runs_of_a_recorded_table_are_one_row(tmp_path: Path) -> None:
    with dl.Ledger(tmp_path / "l.db", actor="Ada") as ledger:
        for run in (1, 2, 3):
            new_table(ledger, f"export_llama/backend_table/{run}").preserve(["aten::mm"])
        page = ledger.report()
    assert "export_llama/backend_table 3 2 6 0 " in section(page, "tables")
    assert page.count(">export_llama/backend_table</text>") == 1


def test_each_newer_torch_has_the_verdict_of_the_check(ledger: dl.Ledger) -> None:
    newer = section(ledger.report(GOOD), "newer-torch-versions")
    versions = [
        version for version in dl.available_catalogs() if version not in ("2.5.1", "2.6.0", "2.7.1", "2.8.0", "2.9.1")
    ]
    assert len(versions) > 3
    for version in versions:
        ops = {each.op for each in ledger.check_upgrade(GOOD, torch=version).check.findings}
        verdict = f"{len(ops)} op{'' if len(ops) == 1 else 's'} changed" if ops else "nothing changed"
        assert f"torch {version} {verdict}" in newer
    assert "torch 2.9.1 " not in newer


def test_a_failure_comes_first(ledger: dl.Ledger) -> None:
    page = ledger.report(FAILED)
    titles = re.findall(r'<section id="([^"]+)"', page)
    assert titles[0] == "failure"
    failure = section(page, "failure")
    assert "RuntimeError in the decomposition of aten::silu > aten::gelu" in failure
    assert "while lowering block 3" in failure
    assert section(ledger.report(), "failed-exports").startswith("Failed exports export table error export:8 edge@4")
    assert "aten::linear 4 aten::view 3" in section(page, "ops-before-and-after")
    assert "No export succeeded" in section(page, "newer-torch-versions")
    for titled in ("to-look-at", "time-line"):
        assert titled in ledger.report()


def test_a_difference_shows_the_sources_and_the_results(ledger: dl.Ledger) -> None:
    rules = section(ledger.report("edge@3", "edge"), "rules")
    assert "mypkg.lower.gelu changed" in rules
    assert "- return x * torch.sigmoid(1.702 * x)" in rules and "+ return x * torch.sigmoid(1.7 * x)" in rules
    assert "export:8 failed, so no results are compared." in section(ledger.report(GOOD, FAILED), "exports")


def test_two_torch_versions_show_their_drift() -> None:
    page = dl.report("torch:2.12.1", "torch:2.13.0")
    found = dl.drift("torch:2.12.1", "torch:2.13.0")
    count = len({change.op for change in found.of("gone", in_table=True)})
    assert count > 5 and f"gone from the dispatcher {count} " in section(page, "what-changed")


def test_a_stamp_needs_no_ledger_and_redaction_shows(ledger: dl.Ledger, tmp_path: Path) -> None:
    from zipfile import ZipFile

    from decomp_ledger.transfer.stamp import MEMBER, Stamp

    bundle = ledger.bundle(7)
    for name, stamped in (("plain", bundle), ("redacted", bundle.redact())):
        with ZipFile(tmp_path / f"{name}.pt2", "w") as file:
            file.writestr(f"model/extra/{MEMBER}", Stamp((stamped,), "a" * 64, "git").to_text())
    plain, redacted = (dl.report(tmp_path / f"{name}.pt2") for name in ("plain", "redacted"))
    assert "XNNPACK" in plain and "Ada" in plain
    assert "XNNPACK" not in redacted and "Ada" not in redacted
    assert "Redacted: it has no reasons" in section(redacted, "to-look-at")


def test_a_page_of_the_table_of_the_onnx_exporter_stays_small(tmp_path: Path) -> None:
    # It has 598 entries that differ from torch's default table.
    ops = [f"aten::op_with_a_rather_long_name_{number}.out" for number in range(600)]
    catalog = catalog_of(*ops, torch="2.14.1")
    given = Decomposition("import", "torch.onnx._internal.exporter._decomp", "f", digest="1" * 64)
    with dl.Ledger(tmp_path / "onnx.db", actor="Ada") as ledger:
        table = new_table(ledger)
        changes = [(op, OVERRIDE, given) for op in ops]
        table.change(lambda found, **more: Passed(found, entries=1200, **more), lambda _: changes)
        snapshot = table.materialize(catalog)
        counts = dict.fromkeys(ops[:60], 3)
        event = table.exported(
            Exported(catalog.digest, snapshot.digest, "b", "a", counts, counts, {}, 3), table.version
        )
        assert event is not None
        page = page_of(f"export:{event.seq}", ledger=ledger)
    assert 20_000 < len(to_html(page).encode()) < 300_000
    assert len(to_markdown(page)) < 65_536  # what GitHub takes as a comment


def test_a_report_needs_something_to_show(ledger: dl.Ledger) -> None:
    for given, problem in (
        (("torch:2.13.0",), "torch:2.13.0: a torch alone has no report; give two versions, to see what differs"),
        ((None, "edge"), "other: nothing to compare it with; give `spec` too"),
    ):
        with pytest.raises(dl.LedgerError, match=re.escape(problem)):
            ledger.report(*given)
    with pytest.raises(dl.LedgerError, match="graphs: nothing to compare; give two"):
        ledger.report("edge", graphs=True)
    with pytest.raises(dl.LedgerError, match="report: needs a ledger"):
        dl.report()


def test_a_failure_of_many_lines_is_one_cell(tmp_path: Path) -> None:
    with dl.Ledger(tmp_path / "l.db", actor="ada") as ledger:
        edge = new_table(ledger)
        catalog = catalog_of("aten::mm")
        snapshot = edge.materialize(catalog)
        error = ("RuntimeError", "no kernel\n\nWhile executing %mm")
        edge.exported(Exported(catalog.digest, snapshot.digest, "b", None, {}, {}, {}, 3, error), edge.version)
        assert "RuntimeError: no kernel While executing %mm" in ledger.report()


def test_a_new_ledger_has_a_page(tmp_path: Path) -> None:
    with dl.Ledger(tmp_path / "new.db") as ledger:
        assert "It has no event yet." in ledger.report()


# Hostile text


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_text_stays_text(tmp_path: Path, number: int) -> None:
    export = hostile_ledger(tmp_path / "hostile.db", HOSTILE[number])
    with dl.Ledger(tmp_path / "hostile.db", read_only=True) as ledger:
        for question in ((f"export:{export}",), (f"export:{export + 2}",), (None,), ("edge",), ("edge@2", "edge")):
            page = page_of(*question, ledger=ledger)
            check_html(to_html(page))
            check_markdown(to_markdown(page))


def test_a_torch_version_of_a_stranger_stays_text(tmp_path: Path) -> None:
    export = hostile_ledger(tmp_path / "hostile.db", HOSTILE[1], torch=None)
    with dl.Ledger(tmp_path / "hostile.db", read_only=True) as ledger:
        for found in (
            page_of(f"export:{export}", ledger=ledger),
            drift_page(ledger.drift("edge", "torch:2.13.0")),
            upgrade_page(ledger.upgrade("edge", torch="2.13.0")),
            check_page(ledger.check_upgrade("edge", torch="2.13.0")),
        ):
            check_html(to_html(found))
            check_markdown(to_markdown(found))


def check_html(page: str) -> None:
    """Assert that a page has only tags and attributes of ours, and only links to itself."""
    outline = Outline(page.removeprefix("<!doctype html>\n"))
    assert outline.tags <= TAGS and {*outline.attributes} <= ATTRIBUTES
    assert all(line.isprintable() for line in page.split("\n"))
    assert all(link.startswith("#") for link in outline.attributes.get("href", ()))
    assert all(re.fullmatch(r"width:[\d.]+%", style) for style in outline.attributes.get("style", ()))


def check_markdown(text: str) -> None:
    """Assert that Markdown has only markup of ours, and names, links and mentions only inside code."""
    assert all(line.isprintable() for line in text.split("\n"))
    outline = Outline(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))
    assert outline.tags <= MARKDOWN_TAGS, outline.tags - MARKDOWN_TAGS
    assert {*outline.attributes} <= {"open", "style", "class"}
    assert "evil" not in outline.prose and "@team" not in outline.prose and "#1" not in outline.prose
    # Each row of a table has as many cells as its head.
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        rendered = MarkdownIt("commonmark").enable("table").render(table)
        rows = re.findall(r"<tr>(.*?)</tr>", rendered, flags=re.DOTALL)
        assert len(rows) == table.count("\n") - 1
        assert len({len(re.findall("<t[hd]", row)) for row in rows}) == 1


def test_hostile_text_is_shown_as_it_is(tmp_path: Path) -> None:
    export = hostile_ledger(tmp_path / "hostile.db", HOSTILE[0])
    with dl.Ledger(tmp_path / "hostile.db", read_only=True) as ledger:
        assert Outline(ledger.report(f"export:{export}").removeprefix("<!doctype html>\n")).text.count(HOSTILE[0]) > 15


# Commands


MARKDOWN = (
    f"show {GOOD}", f"show {FAILED}", "show edge", "show edge --all", "show edge --preserved", "show #4", "exports",
    "exports --totals", "diff edge@3 edge", f"diff {GOOD} {FAILED}", "drift edge torch:2.13.0",
    "upgrade edge --torch 2.13.0", "upgrade edge --torch 2.13.0 --check", f"check opset {GOOD}", "report edge",
)  # fmt: skip


@pytest.mark.parametrize("command", MARKDOWN)
def test_every_command_that_judges_writes_markdown_with_its_exit_status(ledger: dl.Ledger, command: str) -> None:
    arguments = ["--ledger", str(ledger.path), *command.split()]
    plain = CliRunner().invoke(cli, arguments, standalone_mode=False)
    marked = CliRunner().invoke(cli, [*arguments, "--markdown"], standalone_mode=False)
    assert marked.exception is None and marked.return_value == plain.return_value
    assert marked.output.startswith("### ") and marked.output != plain.output
    check_markdown(marked.output)


@pytest.mark.parametrize("command", [each for each in MARKDOWN if not each.startswith("report")])
def test_markdown_and_json_exclude_each_other(ledger: dl.Ledger, command: str) -> None:
    for options in (["--markdown", "--json"], ["--json", "--markdown"]):
        done = CliRunner().invoke(cli, ["--ledger", str(ledger.path), *command.split(), *options])
        assert done.exit_code == 2 and "--markdown and --json exclude each other" in done.output


def test_the_command_writes_a_file_and_imports_no_torch(ledger: dl.Ledger, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom decomp_ledger.cli import main\nmain()"
    file = tmp_path / "report.html"
    command = [sys.executable, "-c", code, "--ledger", str(ledger.path), "report", GOOD, "-o", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert file.read_text(encoding="utf-8") == ledger.report(GOOD)
    assert done.stdout == f"wrote {file}: {file.stat().st_size} bytes\n"


def test_the_page_goes_to_standard_output_without_a_file(ledger: dl.Ledger) -> None:
    done = CliRunner().invoke(cli, ["--ledger", str(ledger.path), "report", "edge@3", "edge"])
    assert done.output == ledger.report("edge@3", "edge")


# Charts


def test_the_bands_of_a_flow_have_the_heights_of_their_numbers() -> None:
    links = [(f"s{source}", f"o{op}", 1 + (source * op) % 7) for source in range(30) for op in range(40)]
    chart = flow_chart(Flow("t", ("a", "b"), links))
    assert (
        sum(box.number for box in chart.left) == sum(box.number for box in chart.right) == sum(n for _, _, n in links)
    )
    assert len(chart.left) == 25 and len(chart.right) == 25  # the smallest are taken together
    for boxes in (chart.left, chart.right):
        ends = [(box.y, box.y + box.height) for box in boxes]
        assert all(one[1] < other[0] for one, other in pairwise(ends))
    assert max(box.y + box.height for box in (*chart.left, *chart.right)) < chart.height


def test_a_time_line_takes_any_text_for_a_time() -> None:
    times = ("2026-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z", "", "not a time", "0001-01-01T00:00:00Z")
    chart = time_chart(Timeline("t", [Moment("edge", at, "set", n) for n, at in enumerate(times)]))
    assert len(chart.rows[0].dots) == len(times)
    assert all(chart.start <= dot.x <= chart.end for dot in chart.rows[0].dots)


def test_bars_without_ops_have_no_highest_number() -> None:
    assert Bars(("a", "b"), []).highest == 0 and Bars(("a", "b"), [Bar("x", 2, 7)]).highest == 7
    assert Code("x") == Code("x")


def test_what_torch_traced_outside_of_exports_is_listed_too(tmp_path: Path) -> None:
    catalog = catalog_of("aten::mm", torch="2.15.0")
    with dl.Ledger(tmp_path / "l.db", actor="Ada") as ledger:
        table = new_table(ledger)
        snapshot = table.materialize(catalog)
        traced = Traced(catalog.digest, snapshot.digest, "make_fx", 7, "registry", traces=3)
        event = ledger.append("edge", table.version, traced)
    done = CliRunner().invoke(cli, ["--ledger", str(tmp_path / "l.db"), "exports", "--markdown"], standalone_mode=False)
    assert "#### Traced outside of exports\n\n| event | when" in done.output and f"| `#{event.seq}` |" in done.output
    check_markdown(done.output)


@each_of(
    st.lists(
        st.one_of(
            st.sampled_from([" ", ", ", "see "]),
            st.builds(Code, st.text("a` |<&", min_size=1)),
            st.builds(Quote, st.text("b`* ", min_size=1)),
        ),
        min_size=1,
    )
)
def test_the_parts_of_a_text_stay_what_they_are_in_markdown(parts: list[Part]) -> None:
    page = Page("Page", "name", None, "", sections=(Section("", [Prose(("x", *parts, "x"))]),))
    text = to_markdown(page).split("\n", 2)[2].strip()
    html = MarkdownIt("commonmark").render(text)
    shown = re.sub(r"\s+", "", unescape(re.sub(r"</?(p|code|strong)>", "", html)))
    assert shown == re.sub(
        r"\s+", "", "".join(["x", *(each if isinstance(each, str) else each.text for each in parts), "x"])
    )
