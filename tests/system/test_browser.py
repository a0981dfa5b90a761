"""Pages in a real browser: no error, no request, no script, and no serious fault of accessibility."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_ledgers import HOSTILE, hostile_ledger, sample_ledger

import decomp_ledger as dl

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: on Debian, `apt-get install chromium` as root; .ci/run does it there"
)
OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def judged(ledger: dl.Ledger) -> dl.GateResult:
    """Return a gate that finds something, and something unknown."""
    policy = dl.Policy(keep=["*", "nolib::op"], no_override="*", require_reason=True, actors="Bob", clean_tags=True,
                       no_failed_exports=True, opset="core-aten")  # fmt: skip
    return ledger.gate(torch="2.15", policy=policy)


# Page -> the state specs that it is about, or what gives the result that it shows.
PAGES: dict[str, tuple[Any, ...]] = {
    "export": ("export:7",), "failed export": ("export:8",), "table": ("edge",), "difference": ("edge@3", "edge"),
    "two exports": ("export:7", "export:8"), "ledger": (), "drift": ("torch:2.9.1", "torch:2.13.0"),
    "gate": (judged,),
}  # fmt: skip
HOSTILE_PAGES: dict[str, tuple[Any, ...]] = {
    "hostile export": ("export:5",), "hostile table": ("edge",), "hostile ledger": (), "hostile gate": (judged,),
}  # fmt: skip
# Pages as a notebook is: results among the text of others.
NOTEBOOKS, HOSTILE_NOTEBOOKS = ("notebook",), ("hostile notebook",)
NOTEBOOK = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Notebook</title><style>
body {{ margin: 8px; background: #fff; color: #222; font: 14px sans-serif; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #ddd; }} }}
</style></head><body><main><h1>Notebook</h1>
{}
<table id="other"><tr><td>a table of the reader</td></tr></table></main></body></html>
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each page in a file of its own."""
    folder = tmp_path_factory.mktemp("pages")
    sample_ledger(folder / "sample.db")
    assert hostile_ledger(folder / "hostile.db", " ".join(HOSTILE[:6])) == 5
    written = {}
    for ledger, questions in (("sample.db", PAGES), ("hostile.db", HOSTILE_PAGES)):
        with dl.Ledger(folder / ledger, read_only=True) as opened:
            for name, specs in questions.items():
                written[name] = folder / f"{name.replace(' ', '-')}.html"
                subjects = (each(opened) if callable(each) else each for each in specs)
                written[name].write_text(opened.report(*subjects), encoding="utf-8")
            name = "notebook" if questions is PAGES else "hostile notebook"
            written[name] = folder / f"{name.replace(' ', '-')}.html"
            written[name].write_text(NOTEBOOK.format("\n".join(shown_results(opened))), encoding="utf-8")
    return written


def shown_results(ledger: dl.Ledger) -> Iterator[str]:
    """Give the HTML of results of each kind, as a notebook has it."""
    last = ledger.exports()[-1]
    results: list[Any] = [
        ledger, ledger.tables(), ledger.exports(), last, ledger.event(2), ledger.table_log("edge"), ledger.show("edge"),
        ledger.show(f"export:{last.seq}"), ledger.diff("edge@2", "edge"), ledger.explain("aten::gelu"),
        ledger.why("aten::gelu"), ledger.verify(), ledger.state("edge").rules["aten::gelu"], ledger.export_totals(),
        ledger.upgrade("edge", torch="2.15.0"), ledger.drift("torch:2.12.1", "torch:2.13.0"), ledger.export_results(),
    ]  # fmt: skip
    for each in results:
        yield each._repr_html_()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with an empty profile."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e .[dev]")
    profile = tmp_path_factory.mktemp("profile")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=[*OPTIONS], viewport={"width": 1200, "height": 900}
        )
        yield opened
        opened.close()


class Visit:
    """A page that was opened, with what happened while it was."""

    def __init__(self, browser: Any, file: Path, scheme: str) -> None:
        self.page = browser.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: self.messages.append(f"dialog: {dialog.message}"))
        self.page.emulate_media(color_scheme=scheme)
        self.page.goto(file.as_uri())
        self.page.wait_for_load_state("networkidle")


@pytest.fixture
def visit(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """Return a function that opens a page by its name."""
    visits: list[Visit] = []

    def opened(name: str, scheme: str = "light") -> Visit:
        visits.append(Visit(browser, pages[name], scheme))
        return visits[-1]

    yield opened
    for each in visits:
        each.page.close()


@pytest.mark.parametrize("name", [*PAGES, *HOSTILE_PAGES, *NOTEBOOKS, *HOSTILE_NOTEBOOKS])
def test_a_page_loads_nothing_and_reports_no_error(visit: Any, pages: dict[str, Path], name: str) -> None:
    opened = visit(name)
    assert opened.requests == [pages[name].as_uri()]
    assert opened.messages == []
    assert opened.page.locator("h1").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [*PAGES, *HOSTILE_PAGES, *NOTEBOOKS, *HOSTILE_NOTEBOOKS])
def test_a_page_has_no_serious_fault_of_accessibility(visit: Any, name: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: pip install -e .[dev]")
    opened = visit(name, scheme)
    opened.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    found = axe.Axe().run(opened.page).response["violations"]
    assert [(each["id"], each["impact"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_follow_the_reader(visit: Any, scheme: str) -> None:
    colour = visit("export", scheme).page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]


@pytest.mark.parametrize("name", [*HOSTILE_PAGES, *HOSTILE_NOTEBOOKS])
def test_no_script_of_a_hostile_ledger_runs(visit: Any, name: str) -> None:
    page = visit(name).page
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.querySelectorAll('img, iframe, base, svg[onload], [onerror]').length") == 0
    assert page.evaluate("getComputedStyle(document.body).display") == "block"
    assert HOSTILE[0] in page.evaluate("document.body.innerText")


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("name", [*PAGES, *HOSTILE_PAGES, *NOTEBOOKS, *HOSTILE_NOTEBOOKS])
def test_a_page_fits_its_window(visit: Any, name: str, width: int) -> None:
    page = visit(name).page
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_long_cells_can_be_read_on_a_narrow_screen(visit: Any) -> None:
    page = visit("failed export").page
    page.set_viewport_size({"width": 360, "height": 800})
    widths = page.evaluate("[...document.querySelectorAll('td.long')].map(each => each.offsetWidth)")
    assert widths and min(widths) > 250


def test_a_page_prints_what_is_folded(visit: Any) -> None:
    page = visit("export").page
    page.emulate_media(media="print")
    height = page.evaluate("[...document.querySelectorAll('details:not([open])')].map(each => each.offsetHeight)")
    assert len(height) > 2 and all(each > 40 for each in height)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_result_takes_the_colours_of_its_notebook_and_leaves_the_rest_alone(visit: Any, scheme: str) -> None:
    page = visit("notebook", scheme).page
    styles = "[...document.querySelectorAll('{}')].map(each => getComputedStyle(each).{})"
    colours = page.evaluate(styles.format(".decomp-ledger", "color"))
    assert len(colours) == 17 and set(colours) == set(page.evaluate(styles.format("body", "color")))
    assert set(page.evaluate(styles.format(".decomp-ledger td", "backgroundColor"))) == {"rgba(0, 0, 0, 0)"}
    assert page.evaluate(styles.format("#other td", "borderBottomStyle")) == ["none"]
