"""What an op is to a dispatcher."""

from __future__ import annotations

import functools
from typing import Any

import torch


def build() -> dict[str, str]:
    """Return what identifies the torch build."""
    cuda = torch.version.cuda
    return {
        "torch": torch.__version__,
        "git": torch.version.git_version,
        "accelerator": f"cuda {cuda}" if cuda else "cpu",
    }


def why_not_preservable(op: Any) -> str:
    """Return why torch cannot keep an op in a graph; empty if it can."""
    from torch._export.utils import _check_valid_to_preserve

    return "" if _check_valid_to_preserve(op) else "it is not functional"


def origin_of(op: Any, decomposition: Any) -> str:
    """Return where an op's decomposition comes from."""
    from torch._decomp import global_decomposition_table

    if isinstance(decomposition, functools.partial):
        return "cia"
    return "registry" if global_decomposition_table["post_autograd"].get(op) is decomposition else "py_cia"
