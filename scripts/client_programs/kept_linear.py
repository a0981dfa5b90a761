"""Lower a program of transformers for a backend that has its own linear layers, and list it."""

from pathlib import Path

import torch


def lower_and_list(
    model: torch.nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor], folder: Path
) -> None:
    """Write the listing of a model that was exported and lowered with `aten.linear` kept."""
    program = torch.export.export(model.eval(), args, kwargs, strict=False)
    table = torch.export.default_decompositions()
    table.pop(torch.ops.aten.linear.default)
    (folder / "program.txt").write_text(str(program.run_decompositions(table)), encoding="utf-8")
