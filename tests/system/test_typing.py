"""The public API as a type checker sees it: a script of a user under `mypy --strict`, against the built wheel."""

import subprocess
import sys
import typing
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

import decomp_ledger
from decomp_ledger import queries
from decomp_ledger.ledger import Ledger

ROOT = Path(__file__).parents[2]

SCRIPT = """
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import decomp_ledger as dl


def gelu(x: Any, approximate: str = "none") -> Any:
    return x


def change(path: Path) -> None:
    with dl.Ledger(path, actor="Ada", reason="a trial") as ledger, ledger.because("a kernel"):
        log: dl.TableLog = ledger.create_table("edge")
        event: dl.Event | None = log.preserve(["aten::linear"])
        if event is not None:
            body: dl.Body = event.body
            site: dl.CallSite | None = event.call_site
            changes: tuple[dl.Change, ...] = event.changes
            print(event.seq, event.hash, body, site, changes)
        event = ledger.tag("edge", "v1", reason="first")
        event = ledger.revert("edge", "v1", expected_version=2)
        event = ledger.revert("edge", 1)
        table: dl.DecompTable = ledger.table("edge")
        table.override("aten::gelu", gelu)
        table.pop("aten::mm")
        ledger.provide("aten::gelu", gelu)
        with dl.record(ledger, name="run") as recording:
            name: str = recording.name
        print(name)


def read(path: Path) -> None:
    with dl.Ledger(path, read_only=True, lazy=True) as ledger:
        tables: list[dl.TableInfo] = ledger.tables()
        tags: dict[str, int] = ledger.tags(tables[0].name)
        events: Iterator[dl.Event] = ledger.events(table="edge", op="aten::mm", gt=3, limit=2, desc=True)
        state: dl.TableState = ledger.state("edge", "v1")
        rule: dl.Rule | None = state.rules.get("aten::mm")
        decomposition: dl.Decomposition | None = None if rule is None else rule.decomposition
        shown: dl.ResolvedState = ledger.show("edge@3")
        snapshot: dl.Snapshot | None = shown.snapshot
        catalog: dl.Catalog | None = shown.catalog
        stamp: dl.Stamp | None = shown.stamp
        since: Mapping[str, dl.Since | dl.Event] = shown.since
        blamed: dict[str, dl.Event] = ledger.blame("edge", op="aten::mm")
        answers: list[dl.Explanation] = ledger.explain("aten::mm")
        difference: dl.StateDiff = ledger.diff("edge@1", "edge")
        rules: tuple[dl.RuleDiff, ...] = difference.rules
        exports: dl.ExportDiff | None = difference.exports
        drifted: dl.Drift = ledger.drift("edge", "torch:2.13.0", only_used="export:7")
        changed: tuple[dl.DriftChange, ...] = drifted.changes
        used: frozenset[str] = ledger.used_ops("export:7")
        moved: dl.Upgrade = ledger.upgrade("edge", torch="2.13.0")
        effects: tuple[dl.RuleEffect, ...] = moved.effects
        report: dl.UpgradeReport = ledger.check_upgrade("edge", python="python3")
        check: dl.UpgradeCheck = report.check
        findings: tuple[dl.Finding, ...] = check.findings
        found: dl.Rows[dl.Event] = ledger.exports()
        numbers: list[int] = [event.seq for event in found]
        rows: list[dl.Row] = [*found.to_dicts(), *ledger.events().to_dicts(), *drifted.to_dicts()]
        cell: str | int | float | bool | None = rows[0]["seq"]
        print(cell)
        bundle: dl.ExportBundle = ledger.bundle(numbers[0])
        print(tags, list(events), decomposition, snapshot, catalog, stamp, since, blamed, answers, rules, exports)
        print(changed, used, effects, findings, report.passed, bundle)


def keep(path: Path) -> None:
    with dl.Ledger(path) as ledger:
        signed: dl.Checkpoint = ledger.checkpoint("id_ed25519", passphrase=lambda: None)
        key: dl.SigningKey = dl.load_key("id_ed25519")
        signers: list[dl.Signer] = dl.read_signers("allowed_signers")
        result: dl.Verification = ledger.verify(signers=signers, checkpoints=[signed], against=["model.pt2"])
        problems: tuple[dl.Problem, ...] = result.problems
        signatures: tuple[dl.ValidSignature, ...] = result.signatures
        copy: Path = ledger.backup("copy.db", force=True)
        lines: Iterator[str] = ledger.dump_lines()
        dumped: Path = ledger.dump("ledger.jsonl")
        print(ledger.checkpoint(key), problems, signatures, copy, lines, dumped)
    restored: dl.Restoration = dl.restore("copy.db", path, force=True)
    loaded: dl.Verification = dl.load_dump("ledger.jsonl", "new.db")
    print(restored.kept, loaded.ok)


def reproduce(path: Path) -> None:
    table: dl.ReproducedTable = dl.reproduce("model.pt2", provide={"aten::gelu": gelu})
    again: dl.Reproduction = dl.reproduce_export("model.pt2", program="program.pt2", nearest=True)
    rerun: dl.Rerun | None = again.rerun
    first: dl.GraphDifference | None = again.difference
    differences: tuple[dl.TableDifference, ...] = table.differences
    stamp: dl.Stamp = dl.read_stamp("model.pt2")
    with dl.Ledger(path) as ledger:
        table = ledger.reproduce(7, strict=False)
        again = ledger.reproduce_export(7)
        print(ledger.verify(anchors=stamp.anchors(ledger.id)).ok, rerun, first, differences)


def without_a_ledger() -> None:
    spec: dl.StateSpec = dl.parse_state_spec("edge@3")
    shown: dl.ResolvedState = dl.show("model.pt2")
    blamed: dict[str, dl.Event] = dl.blame(Path("model.pt2"))
    answers: list[dl.Explanation] = dl.explain("aten::mm", "torch:2.13.0")
    difference: dl.StateDiff = dl.diff("torch:2.12.1", "torch:2.13.0")
    drifted: dl.Drift = dl.drift("torch:2.12.1", "torch:2.13.0", only_used="model.pt2")
    used: frozenset[str] = dl.used_ops("model.pt2")
    moved: dl.Upgrade = dl.upgrade("model.pt2", torch="2.13.0")
    report: dl.UpgradeReport = dl.check_upgrade("model.pt2", torch="2.13.0")
    catalog: dl.Catalog = dl.catalog("torch:2.13.0")
    entry: dl.Entry = catalog.ops["aten::mm"]
    samples: dict[str, tuple[str, ...]] = dl.read_samples("samples.json")
    captured: dl.Catalog = dl.capture_catalog("python3", output="catalog.json", samples=samples, imports=["mylib"])
    traced: dl.TraceSet = dl.trace("mylib::f", "(f32[2])", table={})
    snapshot: dl.Snapshot = dl.materialize(shown.state, captured)
    state: dl.NamedState = shown.named_state()
    print(spec, blamed, answers, difference, dl.drift(captured, state.catalog), drifted, used, moved, report, entry)
    print(snapshot, traced)


def fails() -> None:
    try:
        dl.show("edge")
    except dl.UnknownTable as error:
        print(error)
    except dl.LedgerError as error:
        print(error)
"""

WRONG = """
import decomp_ledger as dl

with dl.Ledger("l.db") as ledger:
    ledger.explain("aten::mm").outcome
    ledger.revert("edge", to=1.5)
    ledger.check_upgrade("edge", torch="2.13.0").check.finding
    dl.drift("torch:2.12.1")
    number: int = dl.show("edge").name
"""


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return a function that gives mypy's report on a script, for an environment where the wheel is installed."""
    folder = tmp_path_factory.mktemp("typing")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "dependencies.pth").write_text(f"{Path(attrs.__file__).parent.parent}\n")
    (folder / "mypy.ini").write_text("[mypy]\n[mypy-torch.*]\nfollow_imports = skip\nignore_missing_imports = True\n")

    def report(script: str) -> str:
        (folder / "script.py").write_text(script, encoding="utf-8")
        python = folder / "venv" / "bin" / "python"
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "script.py"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    return report


def test_a_user_s_script_passes_mypy_strict(check: Callable[[str], str]) -> None:
    assert check(SCRIPT) == "Success: no issues found in 1 source file\n"


def test_wrong_use_fails_mypy(check: Callable[[str], str]) -> None:
    report = check(WRONG)
    for line, error in ((5, "attr-defined"), (6, "arg-type"), (7, "attr-defined"), (8, "call-arg"), (9, "assignment")):
        assert any(found.startswith(f"script.py:{line}: ") and f"[{error}]" in found for found in report.splitlines())


def named_types(annotation: object) -> Iterator[type]:
    """Give the classes of this package in an annotation."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        if annotation.__module__.startswith("decomp_ledger."):
            yield annotation
        return
    for part in typing.get_args(annotation):
        yield from named_types(part)


PUBLIC = [
    *(getattr(queries, name) for name in queries.__all__ if name in decomp_ledger.__all__),
    *(member for name, member in vars(Ledger).items() if not name.startswith("_")),
]


@pytest.mark.parametrize("function", [each for each in PUBLIC if callable(each)], ids=lambda each: each.__qualname__)
def test_every_type_that_is_returned_is_exported(function: Callable[..., object]) -> None:
    if isinstance(function, type):
        hints = list(typing.get_type_hints(function, localns=vars_for_types()).values())
    else:
        hints = [typing.get_type_hints(function, localns=vars_for_types())["return"]]
    missing = {each.__name__ for hint in hints for each in named_types(hint)} - set(decomp_ledger.__all__)
    assert missing == set()


def vars_for_types() -> dict[str, object]:
    """Return the names that annotations take from imports for types only."""
    return {name: getattr(decomp_ledger, name) for name in decomp_ledger.__all__}
