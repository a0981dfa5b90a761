"""Reports on paper: dark text on white, whole rows and lines, no title alone at the end of a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_browser import CHROMIUM, HOSTILE_PAGES, PAGES, browser, pages, visit  # noqa: F401  # fixtures

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: on Debian, `apt-get install chromium` as root; .ci/run does it there"
)
WIDTH = 680  # CSS pixels of an A4 page, 210 mm, without margins of 15 mm
MARGINS = dict.fromkeys(("top", "bottom", "left", "right"), "15mm")


@pytest.fixture
def printed(visit: Any) -> Any:  # noqa: F811
    """Return a function that lays a page out as for paper, for a reader with a dark screen."""

    def opened(name: str) -> Any:
        page = visit(name, "dark").page
        page.set_viewport_size({"width": WIDTH, "height": 1000})
        page.emulate_media(media="print", color_scheme="dark")
        return page

    return opened


@pytest.mark.parametrize("name", [*PAGES, *HOSTILE_PAGES])
def test_a_page_has_dark_text_and_nothing_beyond_its_edge(printed: Any, name: str) -> None:
    page = printed(name)
    light = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter(each => each.offsetParent && each.innerText)
            .map(each => [each.innerText.slice(0, 60), getComputedStyle(each).color.match(/[0-9]+/g).map(Number)])
            .filter(([text, rgb]) => 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2] > 120)"""
    )
    assert light == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # Of a figure, the frame: it cuts the end of a label whose letters are wide, which the table below it has.
    beyond = page.evaluate(
        """width => [...document.querySelectorAll("body *")]
            .filter(each => !each.ownerSVGElement && each.getBoundingClientRect().right > width + 1)
            .map(each => [each.getBoundingClientRect().right, each.outerHTML.slice(0, 200)])""",
        # A browser makes a page smaller whose columns are all full of long words.
        WIDTH if name in PAGES else 1.1 * WIDTH,
    )
    assert beyond == []


@pytest.mark.parametrize("name", [*PAGES, *HOSTILE_PAGES])
def test_a_title_stays_with_what_follows_and_a_row_is_whole(printed: Any, name: str) -> None:
    page = printed(name)
    style = "names => [...document.querySelectorAll(names[0])].map(each => getComputedStyle(each)[names[1]])"
    titles = page.evaluate(style, ["h2, summary, .diff-title, figcaption, thead", "breakAfter"])
    rows = page.evaluate(style, ["tr, figure, pre", "breakInside"])
    assert set(titles) == {"avoid"} and set(rows) <= {"avoid"}
    assert page.evaluate("[...document.querySelectorAll('nav, footer')].every(each => each.offsetHeight === 0)")


def test_a_report_takes_as_many_pages_as_its_content(printed: Any, tmp_path: Path) -> None:
    counts = {}
    for name in ("difference", "export", "drift"):
        path = tmp_path / f"{name.replace(' ', '-')}.pdf"
        printed(name).pdf(path=path, format="A4", margin=MARGINS)
        counts[name] = len(re.findall(rb"/Type /Page\b(?!s)", path.read_bytes()))
    assert counts["difference"] == 1
    assert 2 <= counts["export"] <= 4
    assert counts["drift"] > 4
