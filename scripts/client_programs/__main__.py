"""Lower models with tools that people use, plain and recorded, and print as Markdown what differs and what it costs.

Each client is an ordinary program in scripts/client_programs/, with random weights. It runs in a process of its own, as
`python SCRIPT` and as `decomp-ledger run SCRIPT`, by turns. Exit status: 1 if a recorded run failed or wrote something
else, or if it took more than 3 % longer; 0 otherwise. A client that cannot be installed or run here is listed with the
reason.
"""

import argparse
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # this checkout, even if another one is installed

from clients import CLIENTS, Client  # noqa: E402  # found on the path above
from comparison import GOAL, ClientFailed, Comparison, compare  # noqa: E402
from environment import Environment  # noqa: E402


def line(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/clients", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CLIENT", help=f"only these, of {', '.join(CLIENTS)}; default: all")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="measure N runs of each side (default: 5)")
    parser.add_argument("--quick", action="store_true", help="the quick clients only, in the present environment")
    parser.add_argument("--no-goal", action="store_true", help="exit with 0 although a run took too long")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".clients", metavar="DIR",
        help="keep the environment in this folder (default: .clients; 8 GB)",
    )  # fmt: skip
    given = parser.parse_args()
    if unknown := set(given.names) - CLIENTS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no such client; give any of {', '.join(CLIENTS)}")
    if given.runs < 1:
        parser.error(f"--runs {given.runs}: give at least 1")
    here = Environment(Path(sys.executable), installs=False)
    environment = here if given.quick else Environment.in_folder(given.cache.absolute())
    chosen = given.names or [name for name, client in CLIENTS.items() if client.is_quick or not given.quick]
    failed = table([CLIENTS[name] for name in chosen], environment, given.runs, has_goal=not given.no_goal)
    print(
        f"\nPython {platform.python_version()}, torch {environment.version('torch')}; {given.runs} runs of each side."
    )
    print("".join(f"- {each}\n" for each in failed), end="")
    return 1 if failed else 0


def table(clients: Sequence[Client], environment: Environment, runs: int, *, has_goal: bool) -> list[str]:
    """Print the row of each client; return what is wrong."""
    failed: list[str] = []
    line("client", "tool", "what it writes", "recorded", "plain", "recorded", "ratio")
    line(*["---"] * 7)
    for client in clients:
        why = environment.why_not(client)
        if why:
            line(client.name, client.requires[0], f"not installed here: {why}", *["-"] * 4)
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = compare(client, environment, runs, Path(folder))
            except ClientFailed as error:
                line(client.name, environment.named(client), f"does not run here: {error}", *["-"] * 4)
                continue
            except RuntimeError as error:
                failed.append(str(error))
                line(client.name, environment.named(client), "FAILS", *["-"] * 4)
                continue
        failed += faults(client, found, has_goal=has_goal)
        plain, recorded = found.medians
        seconds = f"{plain:.2f} s", f"{recorded:.2f} s"
        line(client.name, environment.named(client), found.written, found.recorded, *seconds, f"{found.ratio:.3f}x")
        print(f"{client.name}: elapsed {found.elapsed_ratio:.3f}x", file=sys.stderr, flush=True)
    return failed


def faults(client: Client, found: Comparison, *, has_goal: bool) -> list[str]:
    """Return what is wrong with the recorded runs of a client."""
    wrong = [] if "DIFFERS" not in found.written else [f"{client.name}: the recorded program wrote something else"]
    if "DAMAGED" in found.recorded:
        wrong.append(f"{client.name}: the ledger is damaged")
    if has_goal and found.ratio > GOAL:
        wrong.append(f"{client.name}: {found.ratio:.3f}x the plain time; the goal is {GOAL}x")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
