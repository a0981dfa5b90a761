"""What torch adds to the environment of an event: its build, and the custom-op libraries that are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from decomp_ledger import names
from decomp_ledger.canonical import Json
from decomp_ledger.live import privates
from decomp_ledger.live.capture import build

__all__ = ["torch_facts"]


def torch_facts() -> tuple[object, Callable[[], dict[str, Json]]]:
    """Return a key that changes when a library comes or goes (0.2 us), and what gives the facts."""
    return (len(torch.ops.loaded_libraries), len(privates.python_definitions()[0])), _facts


def _facts() -> dict[str, Json]:
    facts: dict[str, Json] = {("torch" if key == "torch" else f"torch_{key}"): text for key, text in build().items()}
    defined = {names.namespace(name.replace("/", "::")) for name in privates.python_definitions()[0]}
    spaces: list[Json] = [*sorted(defined - names.TORCH_NAMESPACES)]
    # The file's name alone: where it lies is nobody's business, and differs from machine to machine.
    files: list[Json] = [Path(str(path)).name for path in sorted(torch.ops.loaded_libraries)]
    if spaces:
        facts["python_libraries"] = spaces
    if files:
        facts["loaded_libraries"] = files
    return facts
