"""Measure decomp_ledger against its peers, and print what was found as Markdown; exits with 1 when a goal is missed."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # this checkout, whatever is installed

import exports
import ledgers
import tables
import writing
from measure import SIZES, Result, Settings

# In this order: what needs no torch is measured before torch is in memory.
ROWS: dict[str, Callable[[Settings, Path], Iterator[Result]]] = {
    "append": writing.appending,
    "eventsourcing": writing.eventsourcing,
    "ledger": ledgers.growing,
    "drift": ledgers.drifting,
    "make": tables.making,
    "read": tables.reading,
    "export": exports.recording,
}


def line(cells: tuple[str, ...]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"only these, of {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="few rounds, ledgers of up to 10,000 events")
    parser.add_argument(
        "--largest",
        type=int,
        choices=SIZES,
        default=SIZES[-1],
        help="events of the largest ledger (default: %(default)s)",
    )
    parser.add_argument("--profile", action="store_true", help="print what our side's time goes to, too")
    parser.add_argument("--folder", type=Path, help="where the ledgers are made (default: a temporary folder)")
    given = parser.parse_args()
    unknown = set(given.rows) - set(ROWS)
    if unknown:
        parser.error(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    settings = Settings(given.quick, given.profile, given.largest)
    results: list[Result] = []
    line(("what", "against", "goal", "result (ours; theirs)", "ok"))
    line(("---",) * 5)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for name, row in ROWS.items():
            if given.rows and name not in given.rows:
                continue
            for result in row(settings, Path(folder)):
                results.append(result)
                shown = {True: "yes", False: "NO", None: "-"}[result.good]
                line((result.what, result.against, result.goal, result.result, shown))
    if settings.growth:
        print()
        line(("as a ledger grows", *(f"{size:,}" for size in settings.sizes)))
        line(("---",) * (1 + len(settings.sizes)))
        for what, figures in settings.growth.items():
            line((what, *(figures.get(size, "") for size in settings.sizes)))
    for note in settings.notes:
        print(f"\n{note}")
    missed = [result.what for result in results if result.good is False]
    print(f"\n{len(missed)} of {len(results)} goals missed" + "".join(f"\n- {what}" for what in missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
