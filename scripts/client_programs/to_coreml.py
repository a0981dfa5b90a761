"""Convert the exported classifier to an ML program, as far as coremltools goes on Linux: to its own language."""

import sys
from pathlib import Path

import coremltools
import torch
from networks import conv_attention


def lower(folder: Path) -> None:
    model, inputs = conv_attention()
    program = torch.export.export(model, inputs).run_decompositions({})
    converted = coremltools.convert(program, convert_to="milinternal")
    (folder / "program.mil").write_text(str(converted), encoding="utf-8")


if __name__ == "__main__":
    lower(Path(sys.argv[1]))
