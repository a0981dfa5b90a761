"""Compare what drift says of two torch versions with what processes of these versions do."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import attrs

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
        changed: the ops that fired and gave another graph on the inputs that they had, or that only one table has.
        named: the ops that `drift --only-used` names for the export.
        fired: the ops that fired in both.
    """

    name: str
    same_program: bool
    same_result: bool
    changed: frozenset[str]
    named: frozenset[str]
    fired: frozenset[str]

    @property
    def missed(self) -> frozenset[str]:
        """Ops that changed and are not named."""
        return self.changed - self.named

    @property
    def elsewhere(self) -> frozenset[str]:
        """Ops that fired, and that are named because they behave differently on other inputs."""
        return (self.named & self.fired) - self.changed

    @property
    def unexplained(self) -> bool:
        """Whether the results differ although the programs are the same and no op changed: the export itself did."""
        return self.same_program and not self.same_result and not self.changed


@attrs.frozen
class Truth:
    """Everything that was compared for one pair of versions.

    Attributes:
        pair: the two versions.
        claimed: the number of samples that drift calls different.
        false: those on which the two processes do the same.
        models: what happened to each model.
    """

    pair: tuple[str, str]
    claimed: int
    false: tuple[tuple[str, str], ...]
    models: tuple[Model, ...]

    @property
    def differing(self) -> list[Model]:
        """The models whose lowered graphs differ."""
        return [each for each in self.models if not each.same_result]

    @property
    def passed(self) -> bool:
        """Whether nothing is false, and 95 % of what changed the results is named."""
        changed, missed = (sum(len(getattr(each, kind)) for each in self.differing) for kind in ("changed", "missed"))
        return not self.false and missed <= 0.05 * changed

    def row(self) -> list[str]:
        """Return the row of a table."""
        changed, missed = (sum(len(getattr(each, kind)) for each in self.differing) for kind in ("changed", "missed"))
        same = [each for each in self.models if each.same_result]
        return [
            " to ".join(self.pair),
            f"{self.claimed - len(self.false)} of {self.claimed}",
            f"{len(self.differing)} of {len(self.models)}",
            f"{changed - missed} of {changed}",
            str(sum(each.unexplained for each in self.models)),
            str(sum(not each.changed for each in same)),
            str(sum(bool(each.changed) for each in same)),
            str(sum(len(each.elsewhere) for each in self.models)),
        ]


# In the order of `row`. A model with the same result may have an op whose trace differs on its inputs: an export
# removes some differences, such as a `detach` that became an `alias`.
HEADS = [
    *("pair", "reproduced samples", "models that differ", "ops named of those that changed them"),
    *("changed by export alone", "same models", "same models with a changed op", "ops named for other inputs"),
]


def details(truth: Truth) -> str:
    """Return a line for each model, and the samples on which the two processes do the same."""
    lines = [f"not reproduced: {op} {call}" for op, call in truth.false]
    for each in truth.models:
        parts = [
            f"{kind} {', '.join(sorted(ops))}"
            for kind in ("changed", "missed", "elsewhere")
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


def judge(old_python: str, new_python: str, folder: Path) -> Truth:
    """Compare drift with two processes, one of each version."""
    pair = version_of(old_python), version_of(new_python)
    whole = decomp_ledger.drift(*(f"torch:{version}" for version in pair))
    calls = {each.op: [found.call for found in each.differences] for each in whole.behaviours if each.differs}
    ledgers = [folder / f"{number}.db" for number in range(2)]
    old, new = (run(python, path, calls) for python, path in zip((old_python, new_python), ledgers, strict=True))
    with decomp_ledger.Ledger(ledgers[0], read_only=True) as opened:
        used = {name: opened.used_ops(f"export:{number}") for name, number in old["exports"].items()}
    return compare(pair, whole, old, new, used)


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
    models = tuple(_model(name, old["models"][name], new["models"][name], whole, ops) for name, ops in used.items())
    return Truth(pair, len(claimed), false, models)


def _result(answer: dict[str, Any], op: str, call: str) -> Any:
    return answer["samples"].get(op, {}).get(call)


def _model(name: str, before: dict[str, Any], after: dict[str, Any], whole: Drift, used: frozenset[str]) -> Model:
    gave = [{(op, call): digest for op, call, digest in side["fired"]} for side in (before, after)]
    common = gave[0].keys() & gave[1].keys()
    changed = {op for op, call in common if gave[0][op, call] != gave[1][op, call]}
    # An op that only one table decomposes fired in only one.
    moved = {change.op for change in whole.changes if change.kind in MOVES and change.in_table}
    changed |= moved & ({*before["ops"]} | {op for side in gave for op, _ in side})
    mine = whole.only(used)
    named = {each.op for each in mine.behaviours if each.differs}
    named |= {change.op for change in mine.changes if change.kind in MOVES}
    return Model(
        name,
        before["before"] == after["before"],
        before["after"] == after["after"],
        frozenset(changed),
        frozenset(named),
        frozenset(op for op, _ in common),
    )
