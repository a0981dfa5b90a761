"""Write the generated pages of docs/, check them, refresh the examples, run the notebook, or build the site.

Without an option: write docs/cli.md from click, docs/python.md from the docstrings, docs/behaviour.md from the traces.
"""

import argparse
import sys
from pathlib import Path

import behaviour_reference
import cli_reference
import console
import example_notebook
import links
import python_reference
import site_build

ROOT = Path(__file__).parents[2]
GENERATED = {
    "docs/cli.md": cli_reference.page,
    "docs/python.md": python_reference.page,
    "docs/behaviour.md": behaviour_reference.page,
}


def write() -> int:
    for name, page in GENERATED.items():
        (ROOT / name).write_text(page(), encoding="utf-8")
    return 0


def check() -> int:
    problems = [
        f"{name}: out of date; run scripts/docs"
        for name, page in GENERATED.items()
        if not (ROOT / name).exists() or (ROOT / name).read_text(encoding="utf-8") != page()
    ]
    problems += links.problems(ROOT)
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


def refresh() -> int:
    with console.postgresql(ROOT) as variables:
        for path in console.pages(ROOT):
            path.write_text(console.refreshed(path, ROOT, variables), encoding="utf-8")
    return 0


def notebook() -> int:
    example_notebook.write(ROOT)
    return 0


def site() -> int:
    return check() or site_build.build(ROOT)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/docs", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="exit with 1 if a page is out of date or a link is dead")
    choice.add_argument("--console", action="store_true", help="run the terminal examples, and write what they print")
    choice.add_argument(
        "--notebook", action="store_true", help="run docs/notebook.ipynb, and write what its cells give"
    )
    choice.add_argument("--site", action="store_true", help="check, then build the site in site/")
    given = parser.parse_args()
    if given.check:
        return check()
    if given.notebook:
        return notebook()
    return refresh() if given.console else site() if given.site else write()


if __name__ == "__main__":
    sys.exit(main())
