"""Build the site with Zensical, and check the links of the built pages."""

import importlib.util
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag


class Page(HTMLParser):
    """The links and anchors of a built page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif value and ((tag == "a" and name == "href") or name == "src" or (tag == "link" and name == "href")):
                self.links.append(value)


def dead_links(site: Path) -> list[str]:
    """Return the links between the built pages that lead nowhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links are absolute
        for link in page.links:
            target, anchor = urldefrag(link)
            if ":" in target.partition("/")[0]:
                continue
            other = (path.parent / unquote(target)).resolve() if target else path
            other = other / "index.html" if other.is_dir() else other
            if not other.exists() or (anchor and other in pages and unquote(anchor) not in pages[other].anchors):
                found.append(f"{path.relative_to(site)}: dead link to {link}")
    return found


def build(root: Path) -> int:
    """Build the site in site/; return 1 if it has a fault."""
    if importlib.util.find_spec("zensical") is None:
        print("zensical: not installed; run: pip install -e '.[docs]'", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    if status := subprocess.run(command, cwd=root, check=False).returncode:
        return status
    problems = dead_links(root / "site")
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))
