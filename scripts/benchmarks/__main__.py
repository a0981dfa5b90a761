"""Measure what a user waits for, and print it as Markdown; exit with 1 when a goal is missed."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # this checkout, even if another one is installed

import big_ledger
import exports
import hub
import processes
import stamps
import torch_tables
import tracing
from measure import Result, Settings

# Rows without torch come first, so that torch is not yet in memory.
ROWS: dict[str, Callable[[Settings, Path], Iterator[Result]]] = {
    "append": big_ledger.append,
    "ledger": big_ledger.large,
    "drift": processes.drift,
    "materialize": torch_tables.materialize,
    "read": torch_tables.subscript,
    "export": exports.recording,
    "tracing": tracing.recording,
    "stamps": stamps.stamps,
    "hub": hub.hub,
}


# Because it takes ten minutes and 15 GB of disk.
ONLY_NAMED = ("hub",)


def line(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"only these, of {', '.join(ROWS)}; default: all but hub"
    )
    parser.add_argument("--quick", action="store_true", help="a ledger of 100,000 events (not 1,000,000), fewer rounds")
    given = parser.parse_args()
    if unknown := set(given.rows) - ROWS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no such row; give any of {', '.join(ROWS)}")
    shown = {True: "reached", False: "MISSED", None: "not measured"}
    results: list[Result] = []
    line("what", "goal", "measured", "")
    line(*["---"] * 4)
    with tempfile.TemporaryDirectory() as folder:
        for name in given.rows or [name for name in ROWS if name not in ONLY_NAMED]:
            for result in ROWS[name](Settings(given.quick), Path(folder)):
                results.append(result)
                line(result.what, result.goal, result.measured, shown[result.reached] if result.goal else "")
    goals = [result for result in results if result.goal]
    missed = [result.what for result in results if result.reached is False]
    print(f"\n{len(missed)} of {len(goals)} goals missed" + "".join(f"\n- {what}" for what in missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
