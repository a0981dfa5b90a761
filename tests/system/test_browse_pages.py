"""The pages of `browse` in a real browser: no error, no request elsewhere, no script, no fault of accessibility."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from report_ledgers import HOSTILE, hostile_ledger, sample_ledger
from test_browser import CHROMIUM, browser  # noqa: F401  # a fixture

import decomp_ledger as dl

pytest.importorskip("datasette", reason="needs Datasette: pip install -e .[dev]")

from decomp_ledger.web.server import serving

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: on Debian, `apt-get install chromium` as root; .ci/run does it there"
)
LEDGERS = ("sample", "hostile")
PAGES = {
    "first": "/", "changes": "/ledger/changes", "current_rules": "/ledger/current_rules", "exports": "/ledger/exports",
    "fired": "/ledger/fired", "environments": "/ledger/environments",
    "filter": "/ledger/changes?op__contains=gelu&_sort_desc=seq", "none": "/ledger/changes?op=nothing",
    "question": "/ledger/who_preserved?op=linear", "answers": "/ledger/rules_at?table=edge&version=3",
    "sql": "/ledger?sql=SELECT+*+FROM+current_rules", "wrong sql": "/ledger?sql=SELECT+nothing",
    "event": "/ledger/event/5", "provenance": "/ledger/provenance/1", "table": "/ledger/decomp_table/1",
    "report": "/-/report/export/{export}", "ledger report": "/-/report", "error": "/-/report/export/99",
    "difference": "/-/report/exports/{export}/{export}",
}  # fmt: skip
# What answers with an error: Chromium reports the status of the page itself on its console.
ERRORS = {"wrong sql": 400, "error": 404}


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address of each ledger."""
    folder = tmp_path_factory.mktemp("browse")
    sample_ledger(folder / "sample.db")
    hostile_ledger(folder / "hostile.db", " ".join(HOSTILE[:6]))
    opened = [dl.Ledger(folder / f"{name}.db", read_only=True) for name in LEDGERS]
    with opened[0], opened[1], serving(opened[0]) as (sample, _), serving(opened[1]) as (hostile, _):
        yield {"sample": sample, "hostile": hostile}


class Visit:
    """A page that was opened, with what happened while it was."""

    def __init__(self, context: Any, address: str, scheme: str = "light") -> None:
        self.page = context.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: self.messages.append(f"dialog: {dialog.message}"))
        self.page.emulate_media(color_scheme=scheme)
        self.answer = self.page.goto(address)


@pytest.fixture
def visit(browser: Any, addresses: dict[str, str]) -> Iterator[Any]:  # noqa: F811
    """Return a function that opens a page of a ledger by its name."""
    visits: list[Visit] = []

    def opened(ledger: str, name: str, **options: Any) -> Visit:
        target = PAGES[name].format(export={"sample": 7, "hostile": 5}[ledger])
        visits.append(Visit(browser, addresses[ledger] + target[1:], **options))
        return visits[-1]

    yield opened
    for each in visits:
        each.page.close()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("ledger", LEDGERS)
def test_a_page_loads_nothing_runs_nothing_reports_no_error_and_fits(
    visit: Any, addresses: dict[str, str], ledger: str, name: str
) -> None:
    opened = visit(ledger, name)
    assert opened.answer.status == ERRORS.get(name, 200)
    assert all(request.startswith(addresses[ledger]) for request in opened.requests)
    assert len(opened.requests) == (2 if name == "first" else 1)  # it redirects
    expected = [f"the server responded with a status of {ERRORS[name]}"] if name in ERRORS else []
    assert len(opened.messages) == len(expected), opened.messages
    assert all(text in message for text, message in zip(expected, opened.messages, strict=True))
    assert opened.page.locator("h1").count() == 1
    assert opened.page.evaluate("window.ran") is None
    assert opened.page.evaluate("document.scripts.length") == 0
    assert opened.page.evaluate("document.querySelectorAll('img, iframe, base, svg[onload], [onerror]').length") == 0
    for width in (360, 1200):
        opened.page.set_viewport_size({"width": width, "height": 800})
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("ledger", "scheme"), [("sample", "light"), ("sample", "dark"), ("hostile", "light")])
def test_a_page_has_no_fault_of_accessibility(visit: Any, ledger: str, name: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: pip install -e .[dev]")
    opened = visit(ledger, name, scheme=scheme)
    opened.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    found = axe.Axe().run(opened.page).response["violations"]
    assert [(each["id"], each["impact"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found] == []


def test_a_person_finds_who_preserved_an_op_and_the_report_of_the_export(visit: Any) -> None:
    page = visit("sample", "first").page
    page.get_by_role("link", name="Who preserved this op?").click()
    page.get_by_label("op", exact=True).fill("linear")
    page.get_by_role("button", name="Ask").click()
    assert "XNNPACK has a fused kernel" in page.get_by_role("table").inner_text()
    page.get_by_role("link", name="2", exact=True).last.click()
    assert page.get_by_role("heading", level=1).inner_text() == "event 2"
    page.goto(page.url.replace("/event/2", "/exports"))
    page.get_by_text("Show only some rows").click()
    page.get_by_label("column").select_option("result")
    page.get_by_label("value").fill("failed")
    page.get_by_role("button", name="Show").click()
    assert "1 row" in page.inner_text("main")
    page.get_by_role("link", name="8", exact=True).click()
    assert "aten.gelu: expected float" in page.inner_text("main")


class OtherSite(BaseHTTPRequestHandler):
    """A server of this machine, from which a page may ask loopback addresses without a browser's permission."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<h1>evil</h1>")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_a_page_of_another_site_can_neither_read_nor_load(visit: Any, addresses: dict[str, str]) -> None:
    page = visit("sample", "first").page
    with ThreadingHTTPServer(("127.0.0.1", 0), OtherSite) as server:
        Thread(target=server.handle_request, daemon=True).start()
        page.goto(f"http://localhost:{server.server_port}/")
        outcome = page.evaluate(
            """address => Promise.all(["cors", "no-cors"].map(mode =>
                fetch(address + "ledger/changes.json", {mode}).then(() => "answered", () => "refused")))""",
            addresses["sample"],
        )
    assert outcome == ["refused", "refused"]
