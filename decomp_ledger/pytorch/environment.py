"""Add torch's part to the environment of an event: its build, and the custom-op libraries that are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from decomp_ledger.model import op_names
from decomp_ledger.model.canonical_json import Json
from decomp_ledger.pytorch import internals
from decomp_ledger.pytorch.entries import build

__all__ = ["torch_facts"]


def torch_facts() -> tuple[object, Callable[[], dict[str, Json]]]:
    """Return a key that changes when a library comes or goes (0.2 us), and the function that returns the facts."""
    return (len(torch.ops.loaded_libraries), len(internals.defined_in_python())), _facts


def _facts() -> dict[str, Json]:
    facts: dict[str, Json] = {("torch" if key == "torch" else f"torch_{key}"): text for key, text in build().items()}
    defined = {op_names.namespace(name.replace("/", "::")) for name in internals.defined_in_python()}
    spaces: list[Json] = [*sorted(defined - op_names.TORCH_NAMESPACES)]
    # The file's name alone, because its folder is private and differs from machine to machine.
    files: list[Json] = [Path(str(path)).name for path in sorted(torch.ops.loaded_libraries)]
    if spaces:
        facts["python_libraries"] = spaces
    if files:
        facts["loaded_libraries"] = files
    return facts
