"""Whole processes of commands, by the clock on the wall."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from measure import Result, Settings, seconds

ROOT = Path(__file__).parents[2]
# The last line of standard error tells whether the command imported torch.
_COMMAND = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules, file=sys.stderr))
from decomp_ledger.cli import main
main()
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code of this checkout in a process of its own."""
    # Bytecode is kept even where the shell says not to, as it is for an installed package.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    # `drift` and `diff` exit with 1 if anything differs.
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")
    return done


def timed(named: Mapping[str, Sequence[str]], rounds: int) -> Iterator[tuple[str, tuple[float, bool]]]:
    """Run commands in turns; yield the name of each with its median seconds, and whether it did without torch."""
    times: dict[str, list[float]] = {name: [] for name in named}
    torch_free = dict.fromkeys(named, True)
    for _ in range(rounds + 1):
        for name, arguments in named.items():
            start = time.perf_counter()
            done = python(_COMMAND, *arguments)
            times[name].append(time.perf_counter() - start)
            torch_free[name] &= bool(done.stdout) and done.stderr.split()[-1] == "False"
    for name in named:
        yield name, (statistics.median(times[name][1:]), torch_free[name])


def whole_process(what: str, limit: float, taken: float, torch_free: bool) -> Result:
    """Return a row whose goal is a limit in seconds, without torch."""
    measured = seconds(taken) + ("" if torch_free else ", but it imports torch")
    goal = f"<= {limit:g} s"
    return Result(f"{what}, whole process without torch", goal, measured, taken <= limit and torch_free)


def drift(settings: Settings, folder: Path) -> Iterator[Result]:
    """Measure the comparison of two torch versions."""
    names = ("torch:2.9.1", "torch:2.13.0")
    arguments = ("--ledger", str(folder / "none.db"), "drift", *names)
    for name, result in timed({f"drift {' '.join(names)}": arguments}, settings.rounds(15)):
        yield whole_process(f"`{name}`", 0.6, *result)
