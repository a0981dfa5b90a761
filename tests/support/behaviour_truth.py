"""Compare what drift says of two torch versions with what processes of these versions do."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import attrs
from packaging.version import Version

import decomp_ledger
from decomp_ledger.analysis.drift import ENTERED, GONE, LEFT, NEW, Drift

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
MOVES = (ENTERED, LEFT, GONE, NEW)


@attrs.frozen
class Model:
    """What happened to one model in two torch versions.

    Attributes:
        name: its name.
        same_program: whether torch.export gave the same graph before decompositions.
        same_result: whether the lowered graphs are the same.
        changed: the ops that gave another graph on the inputs that they had, or that only one table has, inside a call
            of the program that becomes another graph when it is exported alone.
        undone: the ops that gave another graph too, but inside calls that become the same graph: a further
            decomposition, or the export itself, makes the same of both.
        by_export: the ops of the program that become another graph without any such op inside: the export changed.
        named: the ops that `drift --only-used` names for the export.
        fired: the ops that fired in both.
        unwritten: the ops of the program that were not judged, because their arguments cannot be written as a call.
    """

    name: str
    same_program: bool
    same_result: bool
    changed: frozenset[str]
    undone: frozenset[str]
    by_export: frozenset[str]
    named: frozenset[str]
    fired: frozenset[str]
    unwritten: frozenset[str] = frozenset()

    @property
    def missed(self) -> frozenset[str]:
        """Ops that changed and are not named."""
        return self.changed - self.named

    @property
    def elsewhere(self) -> frozenset[str]:
        """Ops that fired, and that are named because they behave differently on other inputs."""
        return (self.named & self.fired) - self.changed - self.undone

    @property
    def unexplained(self) -> bool:
        """Whether the results differ although the programs are the same and each call alone becomes the same."""
        return self.same_program and not self.same_result and not self.changed and not self.by_export


@attrs.frozen
class Truth:
    """Everything that was compared for one pair of versions.

    Attributes:
        pair: the two versions.
        claimed: the number of samples that drift calls different.
        false: those on which the two processes do the same.
        models: what happened to each model that both exported.
        failed: why the other models could not be exported, by name.
    """

    pair: tuple[str, str]
    claimed: int
    false: tuple[tuple[str, str], ...]
    models: tuple[Model, ...]
    failed: dict[str, str]

    @property
    def differing(self) -> list[Model]:
        """The models whose lowered graphs differ."""
        return [each for each in self.models if not each.same_result]

    @property
    def recall(self) -> tuple[int, int]:
        """How many of the ops that changed results are named, and how many there are."""
        changed, missed = (sum(len(getattr(each, kind)) for each in self.differing) for kind in ("changed", "missed"))
        return changed - missed, changed

    @property
    def passed(self) -> bool:
        """Whether nothing is false, what changed the results is named, and nothing changed where they are the same.

        What is unexplained is only counted: an export also treats an op by its place in a program.
        """
        named, changed = self.recall
        same = [each for each in self.models if each.same_result]
        return not self.false and named >= 0.95 * changed and not any(each.changed for each in same)

    def row(self) -> list[str]:
        """Return the row of a table."""
        same = [each for each in self.models if each.same_result]
        by_export = [each for each in self.differing if each.by_export and not each.changed]
        return [
            " to ".join(self.pair),
            f"{self.claimed - len(self.false)} of {self.claimed}",
            f"{len(self.differing)} of {len(self.models)}",
            "{} of {}".format(*self.recall),
            str(len(by_export)),
            str(sum(each.unexplained for each in self.models)),
            str(sum(bool(each.changed) for each in same)),
            str(sum(len(each.undone) for each in self.models)),
            str(sum(len(each.elsewhere) for each in self.models)),
        ]


# In the order of `row`.
HEADS = [
    *("pair", "reproduced samples", "models that differ", "ops named of those that changed them"),
    *("changed by export alone", "unexplained", "same models with an op that changed"),
    *("ops whose change is undone", "ops named for other inputs"),
]


def details(truth: Truth) -> str:
    """Return a line for each model, and the samples on which the two processes do the same."""
    lines = [f"not reproduced: {op} {call}" for op, call in truth.false]
    lines += [f"{name}: not exported in both: {error}" for name, error in truth.failed.items()]
    for each in truth.models:
        parts = [
            f"{kind.replace('_', ' ')} {', '.join(sorted(ops))}"
            for kind in ("changed", "missed", "undone", "by_export", "elsewhere", "unwritten")
            if (ops := getattr(each, kind))
        ]
        same = (
            f"{'same' if each.same_program else 'another'} program, {'same' if each.same_result else 'another'} result"
        )
        lines.append(f"{each.name}: {same}; {'; '.join(parts) or 'no op changed'}{'; unexplained' * each.unexplained}")
    return "\n".join(lines)


def run(python: str, ledger: Path, calls: dict[str, list[str]]) -> dict[str, Any]:
    """Run the child in an interpreter, and return its answer.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(calls, file)
        file.flush()
        paths = [str(ROOT), str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [python, str(SUPPORT / "behaviour_child.py"), str(ledger), file.name],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{python}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def version_of(python: str) -> str:
    """Return the version of an interpreter's torch."""
    code = "import torch; print(str(torch.__version__).partition('+')[0])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1]


def judge(pythons: Sequence[str], folder: Path) -> Iterator[Truth]:
    """Compare drift with one process of each interpreter, for all pairs.

    Args:
        pythons: the interpreters, in any order.
        folder: where their ledgers are written.
    """
    by_version = {version_of(python): python for python in pythons}
    versions = sorted(by_version, key=Version)
    pairs = [*combinations(range(len(versions)), 2)]
    wholes = {pair: decomp_ledger.drift(*(f"torch:{versions[number]}" for number in pair)) for pair in pairs}
    calls: list[dict[str, list[str]]] = [{} for _ in versions]
    for pair, whole in wholes.items():
        for number, each in product(pair, whole.behaviours):
            calls[number].setdefault(each.op, []).extend(found.call for found in each.differences)
    answers = [
        run(by_version[version], folder / f"{number}.db", calls[number]) for number, version in enumerate(versions)
    ]
    for (one, other), whole in wholes.items():
        with decomp_ledger.Ledger(folder / f"{one}.db", read_only=True) as opened:
            used = {name: opened.used_ops(f"export:{number}") for name, number in answers[one]["exports"].items()}
        yield compare((versions[one], versions[other]), whole, answers[one], answers[other], used)


def compare(
    pair: tuple[str, str], whole: Drift, old: dict[str, Any], new: dict[str, Any], used: dict[str, frozenset[str]]
) -> Truth:
    """Compare drift with the answers of two processes.

    Args:
        pair: the two versions.
        whole: what drift says of them.
        old: the answer of the first process.
        new: the answer of the second process.
        used: the ops of each model that the first process exported.
    """
    claimed = [(each.op, found.call) for each in whole.behaviours for found in each.differences]
    false = tuple((op, call) for op, call in claimed if _result(old, op, call) == _result(new, op, call))
    sides = {name: (old["models"][name], new["models"][name]) for name in old["models"]}
    failed = {name: side["error"] for name, both in sides.items() for side in both if "error" in side}
    models = tuple(_model(name, *both, whole, used[name]) for name, both in sides.items() if name not in failed)
    return Truth(pair, len(claimed), false, models, failed)


def _result(answer: dict[str, Any], op: str, call: str) -> Any:
    return answer["samples"].get(op, {}).get(call)


def _model(name: str, before: dict[str, Any], after: dict[str, Any], whole: Drift, used: frozenset[str]) -> Model:
    gave = [{(op, call): digest for op, call, digest in side["fired"]} for side in (before, after)]
    common = gave[0].keys() & gave[1].keys()
    differing = {op for op, call in common if gave[0][op, call] != gave[1][op, call]}
    # An op that only one table decomposes fired in only one.
    moved = {change.op for change in whole.changes if change.kind in MOVES and change.in_table}
    differing |= moved & ({*before["ops"]} | {op for side in gave for op, _ in side})
    changed, by_export = set(), set()
    for op, below in _lowered_differently(before, after, moved).items():
        found = differing & {op, *below}
        changed |= found
        by_export |= set() if found else {op}
    mine = whole.only(used)
    named = {each.op for each in mine.behaviours if each.differs}
    named |= {change.op for change in mine.changes if change.kind in MOVES}
    return Model(
        name,
        before["before"] == after["before"],
        before["after"] == after["after"],
        frozenset(changed),
        frozenset(differing - changed),
        frozenset(by_export),
        frozenset(named),
        frozenset(op for op, _ in common),
        frozenset([*before["unwritten"], *after["unwritten"]]),
    )


def _lowered_differently(before: dict[str, Any], after: dict[str, Any], moved: set[str]) -> dict[str, set[str]]:
    """Return the ops of both programs that become another graph on the same inputs, each with all ops inside it."""
    old, new = ({(op, call): digest for op, call, digest in side["lowered"]} for side in (before, after))
    found: dict[str, set[str]] = {op: set() for op, call in old if (op, call) in new and old[op, call] != new[op, call]}
    found |= {op: set() for op in moved & {*before["ops"]} & {*after["ops"]}}
    for side in (before, after):
        for op, _, below in side["below"]:
            if op in found:
                found[op] |= {inner for inner, _ in below}
    return found
