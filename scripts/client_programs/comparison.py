"""Run a client's program plain and recorded, by turns, and compare what it writes and how long it takes."""

import hashlib
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from clients import Client
from environment import ROOT, Environment

import decomp_ledger
from decomp_ledger.transfer.onnx_stamp import KEY

GOAL = 1.03
# One thread, because the processor time of threads that wait for work says nothing of the program.
# Bytecode is kept even where the shell says not to, as it is for an installed package.
_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONHASHSEED": "0",
    "PYTHONWARNINGS": "ignore",
    "TORCH_LOGS": "-all",
}
_PLAIN, _RECORDED = 0, 1


class ClientFailed(Exception):
    """The program of a client failed without a recording."""


@dataclass
class Run:
    """One run of a program.

    Attributes:
        seconds: processor time of the process and of its children.
        elapsed: how long it took, which other programs on the machine lengthen.
        files: what it wrote: name -> digest, without stamps.
        stamped: whether a file has a stamp.
    """

    seconds: float
    elapsed: float
    files: dict[str, str]
    stamped: bool = False


@dataclass
class Comparison:
    """The runs of one client.

    Attributes:
        runs: the plain ones and the recorded ones, in the same order.
        recorded: what the ledger of a recorded run holds, in words.
    """

    runs: tuple[list[Run], list[Run]] = field(default_factory=lambda: ([], []))
    recorded: str = ""

    @property
    def written(self) -> str:
        """Whether the files are the same, in words."""
        plain, recorded = ({str(run.files) for run in runs} for runs in self.runs)
        names = ", ".join(self.runs[_PLAIN][0].files)
        if len(plain) > 1:
            return f"{names}: differs between plain runs"
        same = "the same bytes" + (" but for the stamp" if self.runs[_RECORDED][0].stamped else "")
        return f"{names}: {same if plain == recorded else 'DIFFERS'}"

    @property
    def is_same(self) -> bool:
        """Whether each run wrote the same files."""
        return len({str(run.files) for runs in self.runs for run in runs}) == 1

    @property
    def medians(self) -> tuple[float, float]:
        """The median processor time of a plain run, and of a recorded one."""
        plain, recorded = (statistics.median(run.seconds for run in runs) for runs in self.runs)
        return plain, recorded

    @property
    def ratio(self) -> float:
        """The ratio of the recorded time to the plain time.

        The median of the ratios of neighbouring runs, because a machine that slows down slows both.
        """
        return statistics.median(recorded.seconds / plain.seconds for plain, recorded in self.pairs)

    @property
    def elapsed_ratio(self) -> float:
        """The same ratio of the elapsed time."""
        return statistics.median(recorded.elapsed / plain.elapsed for plain, recorded in self.pairs)

    @property
    def pairs(self) -> list[tuple[Run, Run]]:
        """Each plain run with the recorded one next to it."""
        return list(zip(*self.runs, strict=True))


def compare(client: Client, environment: Environment, rounds: int, folder: Path) -> Comparison:
    """Run a client plain and recorded, each in a process of its own.

    Args:
        client: the client.
        environment: the Python that it runs in.
        rounds: how often each is run; if more than once, one run of each before is not measured.
        folder: an empty folder for what they write.

    Raises:
        ClientFailed: the plain program failed.
        RuntimeError: only the recorded program failed.
    """
    found = Comparison()
    for number in range(0 if rounds > 1 else 1, rounds + 1):
        for side in (_RECORDED, _PLAIN) if number and number % 2 == 0 else (_PLAIN, _RECORDED):
            output = folder / f"{number}-{side}"
            ledger = folder / f"{number}.db"
            output.mkdir(parents=True)
            run = _run(client, environment, output, ledger if side == _RECORDED else None)
            if number:
                found.runs[side].append(run)
        if number:
            _report(client, number, rounds, *found.pairs[-1])
    found.recorded = _recorded(ledger)
    return found


def _report(client: Client, number: int, rounds: int, plain: Run, recorded: Run) -> None:
    """Print a pair of runs to standard error when it is done, because all of them take an hour."""
    used, elapsed = recorded.seconds / plain.seconds, recorded.elapsed / plain.elapsed
    text = f"processor time {plain.seconds:.2f} s -> {recorded.seconds:.2f} s ({used:.3f}x), elapsed {elapsed:.3f}x"
    print(f"{client.name} {number}/{rounds}: {text}", file=sys.stderr, flush=True)


def _run(client: Client, environment: Environment, output: Path, ledger: Path | None) -> Run:
    command: Sequence[object] = [environment.python, client.path, output]
    if ledger is not None:
        command = [environment.command, "--ledger", ledger, "run", "--quiet", *command[1:]]
    # The command is that of this checkout, even if another one is installed.
    variables = {**os.environ, **_SETTINGS, "PYTHONPATH": str(ROOT)}
    errors = output.with_suffix(".err")
    started = time.monotonic()
    with errors.open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)), env=variables, cwd=output.parent, stdout=subprocess.DEVNULL, stderr=file
        )
        _, status, used = os.wait4(process.pid, 0)
        elapsed = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"]
        if ledger is None:
            raise ClientFailed(lines[-1])
        raise RuntimeError(f"{client.name}: only the recorded run failed: {lines[-1]}")
    written = {str(path.relative_to(output)): path for path in sorted(output.rglob("*")) if path.is_file()}
    contents = {name: _without_stamp(path) for name, path in written.items()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, (content, _) in contents.items()}
    return Run(used.ru_utime + used.ru_stime, elapsed, digests, any(stamped for _, stamped in contents.values()))


def _without_stamp(path: Path) -> tuple[bytes, bool]:
    """Return the content of a file, of an ONNX file without the stamp of a recording; and whether it had one."""
    if path.suffix != ".onnx":
        return path.read_bytes(), False
    model = onnx.load_model(path, load_external_data=False)
    stamps = [each for each in model.metadata_props if each.key == KEY]
    for each in stamps:
        model.metadata_props.remove(each)
    return model.SerializeToString(deterministic=True), bool(stamps)


def _recorded(path: Path) -> str:
    """Return what a ledger holds, in words."""
    if not path.exists():
        return "nothing"
    with decomp_ledger.Ledger(path, read_only=True) as ledger:
        exports = [event.body for event in ledger.exports()]
        tables = len(list(ledger.tables()))
        intact = ledger.verify().ok
    fired: Counter[str] = Counter()
    for body in exports:
        fired.update(body.fired)
    parts = [
        f"{len(exports)} export{'s' * (len(exports) != 1)}",
        f"{tables} table{'s' * (tables != 1)}",
        f"{len(fired)} ops decomposed {fired.total()} times",
    ]
    return ", ".join(parts) + ("" if intact else "; DAMAGED")
