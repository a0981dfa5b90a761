"""The offline upgrade of a ledger equals what a real process of that torch materializes, whichever torch wrote it.

The tests run for every pair of interpreters: the current one, and those in DECOMP_LEDGER_PYTHONS, separated like PATH.
Each needs torch and the dependencies of this package. `scripts/torch-matrix test` gives one for each torch version.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import attrs
import pytest

import decomp_ledger
from decomp_ledger import Ledger
from decomp_ledger.analysis.drift import NamedState
from decomp_ledger.analysis.upgrade import upgrade
from decomp_ledger.catalogs import available, completed, released
from decomp_ledger.model import op_names
from decomp_ledger.model.events import Materialized
from decomp_ledger.model.materialize import Snapshot
from decomp_ledger.model.rules import TORCH_ORIGINS, TableState

# Read at import, because a fixture hides the settings of the machine from tests.
PYTHONS = [sys.executable, *filter(None, os.environ.get("DECOMP_LEDGER_PYTHONS", "").split(os.pathsep))]

# Decompositions of the user's own, whose syntax and byte code differ between Pythons.
LOWERING = '''
import functools

def scaled(x, *rest, by: float = 0.1):
    """Use syntax that Python versions compile differently."""
    parts = [part for part in (x, *rest) if part is not None]
    label = f"{by!r:>8}" "joined"
    assert label, "named"
    match len(parts):
        case 1: return parts[0] * by
        case _: return functools.reduce(lambda a, b: a + b, parts)
'''

# Prints its torch version. It names ops that only some torch versions have; they are pending in the others.
WRITE = """
import sys, torch, lowering
from torch._decomp import decomposition_table
from torch._decomp.decompositions import silu_backward
from decomp_ledger import Ledger
aten = torch.ops.aten
with Ledger(sys.argv[1], actor="writer", trust=["lowering"]) as ledger:
    table = ledger.table("preserves")
    table.pop(aten.linear.default)
    table.preserve("aten::elu", "aten::upsample_bilinear2d.vec", "aten::matmul")
    table.preserve("aten::linalg_vector_norm", "aten::qr", "aten::hann_window", "aten::gelu")
    table.reset("aten::matmul")
    table = ledger.table("overrides")
    table[aten.mm.default] = lowering.scaled
    table.override("aten::silu", lowering.scaled)
    table.override("aten::gelu", lowering.scaled)
    table[aten.bmm.default] = silu_backward
    table[aten.addmm.default] = aten.matmul.default
    table.override("aten::qr", lowering.scaled)
    table = ledger.table("pending")
    table.preserve("mylib::later", "mylib::later.out")
    table.override("mylib::other", lowering.scaled)
    table.pop(aten.relu6.default)
    defaults = ledger.table("nothing").materialize()
    own = ledger.table("own", base="empty")
    own.update(defaults)
    registered = ledger.table("registered")
    registered.update({op: fn for op, fn in decomposition_table.items() if isinstance(op, torch._ops.OpOverload)})
    ledger.table("preserves").copy().pop(aten.softmax.int)
    print(str(torch.__version__).partition("+")[0])
"""

# Asks only torch what each decomposition is. Reports what was refused, and continues without those ops. Exports come
# last, because torch.export imports libraries of torch that a new process does not have.
READ = """
import functools, json, sys, torch, lowering
from decomp_ledger import Ledger, NotImportable
from decomp_ledger.pytorch.fingerprint import source_digest
digest = functools.cache(source_digest.source_digest)
registry = torch._decomp.global_decomposition_table["post_autograd"]
cia = torch._C.DispatchKey.CompositeImplicitAutograd
def describe(op, fn):
    if isinstance(fn, functools.partial) and fn.keywords.get("kernel") is op:
        return ["cia", None]
    for origin, own in (("registry", registry.get(op)), ("py_cia", op.py_kernels.get(cia))):
        if own is fn:
            return [origin, digest(fn)]
    if isinstance(fn, torch._ops.OpOverload):
        return ["torch.ops." + fn.name(), None]
    return [fn.__module__ + "." + fn.__qualname__, digest(fn)]
def read(path, lost_ops):
    refused, tables = {}, {}
    with Ledger(path, actor="reader", trust=["lowering"]) as ledger:
        problems = list(map(str, ledger.verify().problems))
        for name, lost in lost_ops.items():
            table = ledger.table(name)
            if lost:
                try:
                    table.materialize()
                except NotImportable as error:
                    refused[name] = str(error)
                table.preserve(*lost)
            tables[name] = {op.name(): describe(op, fn) for op, fn in table.materialize().items()}
    return {"problems": problems, "refused": refused, "tables": tables}
def go_on(path):
    with Ledger(path, actor="reader", trust=["lowering"]) as ledger:
        table = ledger.table("preserves")
        with ledger.because("it moved here"):
            table.pop(torch.ops.aten.layer_norm.default)
        lowered = program.run_decompositions(table)
        problems = list(map(str, ledger.verify().problems))
    ops = {str(node.target) for node in lowered.graph.nodes if node.op == "call_function"}
    return {"problems": problems, "ops": sorted(ops)}
wanted = json.loads(sys.argv[1])
# Torch's own table, read before any of ours exists.
defaults = sorted(op.name() for op in torch.export.default_decompositions())
found = {path: {"defaults": defaults, **read(path, lost)} for path, lost in wanted.items()}
program = torch.export.export(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ELU()), (torch.ones(2, 2),))
went_on = {path: go_on(path) for path in wanted}
print(json.dumps([[found[path], went_on[path]] for path in wanted]))
"""

BACK = """
import json, sys, torch, lowering
from decomp_ledger import Ledger
def back(path):
    with Ledger(path, actor="writer", trust=["lowering"]) as ledger:
        table = ledger.table("preserves")
        had = torch.ops.aten.layer_norm.default in table
        table.reset("aten::layer_norm")
        has = torch.ops.aten.layer_norm.default in table.materialize()
        problems = list(map(str, ledger.verify().problems))
        torches = {str(ledger.environment(event.environment).get("torch", "")) for event in ledger.events()}
    return {"problems": problems, "had": had, "has": has, "torches": sorted(torches)}
print(json.dumps([back(path) for path in sys.argv[1:]]))
"""


@attrs.frozen
class Written:
    """A ledger that an interpreter wrote, and the version of its torch."""

    path: Path
    version: str


@attrs.frozen
class Read:
    """What an interpreter materialized from a copy of a ledger, and its report after it continued the ledger."""

    path: Path
    made: dict[str, Any]
    went_on: dict[str, Any]


@attrs.frozen
class Back:
    """The report of the first writer after it got the ledger back."""

    path: Path
    report: dict[str, Any]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("truth")
    (made / "lowering.py").write_text(LOWERING, encoding="utf-8")
    return made


def run(folder: Path, python: str, code: str, *arguments: str) -> str:
    """Run a program with an interpreter; return the last line that it prints."""
    paths = [str(Path(decomp_ledger.__file__).parent.parent), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [python, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


# Each interpreter has one process that writes, one that reads every ledger, and one that gets its own back. All tests
# in one pytest-xdist worker share them.


@cache
def written(folder: Path, python: str) -> Written:
    path = Path(tempfile.mkdtemp(dir=folder)) / f"written-{PYTHONS.index(python)}.db"
    return Written(path, run(folder, python, WRITE, str(path)))


@cache
def read_all(folder: Path, reader: str) -> dict[str, Read]:
    """Have an interpreter continue a copy of each ledger; return the results by writer."""
    wanted = {}
    for writer in PYTHONS:
        path = Path(tempfile.mkdtemp(dir=folder)) / f"moved-{PYTHONS.index(writer)}-{PYTHONS.index(reader)}.db"
        shutil.copy(written(folder, writer).path, path)
        wanted[path] = offline_lost(path, written(folder, reader).version)
    found = json.loads(run(folder, reader, READ, json.dumps({str(path): lost for path, lost in wanted.items()})))
    return {
        writer: Read(path, made, went_on) for writer, path, (made, went_on) in zip(PYTHONS, wanted, found, strict=True)
    }


@cache
def back_all(folder: Path, writer: str) -> dict[str, Back]:
    """Have the writer continue the copies that each reader continued; return its reports by reader."""
    paths = []
    for reader in PYTHONS:
        moved = read_all(folder, reader)[writer].path
        paths.append(Path(tempfile.mkdtemp(dir=folder)) / f"back-{moved.name}")
        shutil.copy(moved, paths[-1])
    found = json.loads(run(folder, writer, BACK, *map(str, paths)))
    return {reader: Back(path, back) for reader, path, back in zip(PYTHONS, paths, found, strict=True)}


def states(path: Path) -> dict[str, TableState]:
    with Ledger(path, read_only=True) as ledger:
        return {info.name: ledger.state(info.name) for info in ledger.tables()}


def offline(state: TableState, version: str) -> Snapshot:
    return upgrade(NamedState(state.table, state, released(version)), None).snapshot


def offline_lost(path: Path, version: str) -> dict[str, list[str]]:
    """Return, for each table, the overridden ops for which the shipped catalog has no decomposition."""
    return {name: list(offline(state, version).lost) for name, state in states(path).items()}


def expected(state: TableState, version: str) -> dict[str, list[str | None]]:
    """Return what decomposes each op of a table, with its digest, according to the offline upgrade."""
    catalog, found = released(version), {}
    for op, identity in offline(state, version).ops.items():
        rule = state.rules.get(op)
        decomposition = None if rule is None else rule.decomposition
        if decomposition is not None and decomposition.origin not in TORCH_ORIGINS:
            assert identity == f"override:{decomposition.identity()}"
            found[op] = [decomposition.label(), decomposition.digest]
            continue
        origin, _, digest = identity.partition(":")
        entry = catalog.ops[op]
        found[op] = [origin, digest or (entry.digest if origin == entry.origin else None)]
    return found


pairs = pytest.mark.parametrize(
    ("writer", "reader"),
    [
        pytest.param(writer, reader, id=f"{one}-{two}")
        for (one, writer), (two, reader) in product(enumerate(PYTHONS), repeat=2)
    ],
)


@pytest.fixture(autouse=True)
def _catalog_of_the_reader(folder: Path, reader: str) -> None:
    version = written(folder, reader).version
    if version not in available():
        pytest.skip(f"torch {version} of {reader} has no catalog")


@pairs
def test_the_offline_upgrade_equals_what_a_process_of_that_torch_materializes(
    writer: str, reader: str, folder: Path
) -> None:
    version, made = written(folder, reader).version, read_all(folder, reader)[writer].made
    before = states(written(folder, writer).path)
    assert before.keys() == made["tables"].keys()
    assert sorted(offline(before["nothing"], version).ops) == made["defaults"]
    for name, state in before.items():
        lost = offline(state, version).lost
        assert (name in made["refused"]) == bool(lost), name
        if lost:
            assert any(f"decomposition of {op} is" in made["refused"][name] for op in lost)
        wanted, table = expected(state, version), made["tables"][name]
        assert table.keys() == wanted.keys(), name
        for op, (label, digest) in wanted.items():
            assert table[op][0] == label, (name, op)
            assert digest is None or table[op][1] == digest, (name, op)


@pairs
def test_the_recorded_snapshot_equals_the_offline_one(writer: str, reader: str, folder: Path) -> None:
    version, path = written(folder, reader).version, read_all(folder, reader)[writer].path
    namespaces = {op_names.namespace(op) for op in released(version).ops}
    with Ledger(path, read_only=True) as ledger:
        seen = set()
        for event in ledger.events():
            if not isinstance(event.body, Materialized):
                continue
            catalog = ledger.catalog(event.body.catalog)
            if catalog.build["torch"].partition("+")[0] != version:
                continue
            seen.add(event.table)
            state = ledger.state(event.table, event.version)
            live = upgrade(NamedState("live", state, completed(catalog)), None).snapshot
            shipped = offline(state, version)
            imported = {op for op in live.ops if op_names.namespace(op) not in namespaces}  # by torch.export
            assert {op: identity for op, identity in live.ops.items() if op not in imported} == shipped.ops
            assert (live.pending, live.lost) == (shipped.pending, ()) == (event.body.pending, ())
        assert seen == {info.name for info in ledger.tables()}


@pairs
def test_a_ledger_continues_under_another_torch_and_comes_back(writer: str, reader: str, folder: Path) -> None:
    moved, back = read_all(folder, reader)[writer], back_all(folder, writer)[reader]
    assert moved.made["problems"] == moved.went_on["problems"] == back.report["problems"] == []
    # By default every torch decomposes linear, and 2.6 also elu.
    assert moved.went_on["ops"] == ["aten.elu.default", "aten.linear.default"]
    assert (back.report["had"], back.report["has"]) == (False, True)
    versions = {written(folder, python).version for python in (writer, reader)}
    assert {text.partition("+")[0] for text in back.report["torches"]} == versions
    with Ledger(back.path, read_only=True) as ledger:
        assert ledger.verify().ok
        assert [event.actor for event in ledger.history("preserves", "aten::layer_norm", 99)] == ["reader", "writer"]
