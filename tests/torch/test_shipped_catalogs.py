"""The shipped catalog of the installed torch is what that torch offers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from decomp_ledger import catalogs
from decomp_ledger.pytorch import entries, internals

_LIVE = """
import json, sys, torch
from decomp_ledger import Ledger
with Ledger(sys.argv[1], actor="Ada") as ledger:
    table = ledger.table("edge")
    table.pop(torch.ops.aten.linear.default)
    table.preserve("mylib::later")
    table[torch.ops.aten.mm.default] = torch.add
    table.materialize()
    event = ledger.last_materialization("edge", table.version)
    snapshot = table.at(table.version).materialize()
    origins = {op: entry.origin for op, entry in ledger.catalog(event.body.catalog).ops.items() if entry.default}
    print(json.dumps([sorted(op.name() for op in snapshot), origins, torch.__version__]))
"""


def run_command(path: Path, *arguments: str) -> str:
    """Return what `decomp-ledger upgrade` prints."""
    command = [sys.executable, "-m", "decomp_ledger", "--ledger", str(path), "upgrade", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_installed_torch_equals_its_shipped_catalog() -> None:
    version = str(torch.__version__).partition("+")[0]
    if version not in catalogs.available():
        pytest.skip(f"torch {version} has no catalog")
    shipped = catalogs.released(version)
    if shipped.build["git"] != entries.build()["git"]:
        pytest.skip("this torch was built from another commit")
    table = {op.name(): (op, decomposition) for op, decomposition in internals.upstream_table().items()}
    ours = {name for name in table if name.startswith("aten::")}
    assert ours == {op for op in catalogs.released(version).defaults if op.startswith("aten::")}
    for name in ours:
        assert entries.entry(name, *table[name], digests=True) == shipped.ops[name].to_json()


def test_the_upgraded_snapshot_is_what_this_torch_materializes(run_python: Callable[..., str], tmp_path: Path) -> None:
    live, origins, version = json.loads(run_python(_LIVE, str(tmp_path / "l.db")).splitlines()[-1])
    answer = json.loads(run_command(tmp_path / "l.db", "edge", "--torch", version.partition("+")[0], "--json", "--all"))
    assert sorted(answer["snapshot"]["ops"]) == live
    by_default = {op: text.partition(":")[0] for op, text in answer["snapshot"]["ops"].items() if op in origins}
    assert by_default == {op: origins[op] for op in by_default}
    assert len(by_default) == len(live) - 1
    # Ops that torch registers late are in this process, if another test used them.
    answer["not_compared"].pop("not_judged")
    assert answer["not_compared"] == {"kernels": [], "source": [], "schema": [], "unclear": []}
