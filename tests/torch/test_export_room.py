"""A recorded export has room for torch's frames, however it begins."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from page_faults import CALLS, most_faults
from torch.export import ExportedProgram, default_decompositions

from decomp_ledger import Ledger, record

SILU = torch.ops.aten.silu.default
seen: list[int] = []


def silu(x: torch.Tensor) -> torch.Tensor:
    seen.append(most_faults())
    return x * torch.sigmoid(x)


def table() -> Any:
    made = default_decompositions()
    made[SILU] = silu
    return made


WAYS: dict[str, Callable[[ExportedProgram], Any]] = {
    "a table": lambda program: program.run_decompositions(table()),
    "a dict": lambda program: program.run_decompositions({SILU: silu}),
}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 keeps no frames in chunks")
@pytest.mark.parametrize("way", WAYS)
def test_a_recorded_export_maps_no_memory_for_frames(way: str, ledger: Ledger) -> None:
    program = torch.export.export(torch.nn.SiLU(), (torch.ones(2),))
    found = []
    for recording in (None, record(ledger)):
        seen.clear()
        if recording is None:
            WAYS[way](program)
        else:
            with recording:
                WAYS[way](program)
        found.append(seen[0])
    assert found[0] > CALLS / 2 > found[1]
