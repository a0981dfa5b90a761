"""The links of every Markdown file: each file is there, and each anchor is a heading of it."""

import re
import subprocess
from functools import cache
from pathlib import Path

LINK = re.compile(r"(?<!!)\[[^\]\[]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```+)[^`]*?^\1\s*$", re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """Return a page without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as both GitHub and the site make them."""
    headings = re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return frozenset(
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-") for heading in headings
    )


def markdown_files(root: Path) -> list[Path]:
    """Return the Markdown files that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "*.md"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    return [root / name for name in names if (root / name).exists()]


def problems(root: Path) -> list[str]:
    """Return what is wrong with links to files of the repository; links elsewhere are not followed."""
    found = []
    docs = root / "docs"
    for path in markdown_files(root):
        for pair in LINK.findall(prose(path.read_text(encoding="utf-8"))):
            target = pair[0] or pair[1]
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            other = (path.parent / name).resolve() if name else path
            if not other.exists():
                found.append(f"{path.relative_to(root)}: dead link to {target}")
            elif path.is_relative_to(docs) and not other.is_relative_to(docs):
                found.append(f"{path.relative_to(root)}: the link to {target} leaves docs/, and the site lacks it")
            elif anchor and anchor not in anchors(other):
                found.append(f"{path.relative_to(root)}: {target} names no heading")
    return found
