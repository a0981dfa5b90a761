"""Lower the classifier to ExecuTorch with XNNPACK's partitioner."""

import sys
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from networks import conv_attention


def lower(folder: Path) -> None:
    model, inputs = conv_attention()
    program = torch.export.export(model, inputs)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (folder / "program.txt").write_text(str(edge.exported_program()), encoding="utf-8")
    (folder / "model.pte").write_bytes(edge.to_executorch().buffer)


if __name__ == "__main__":
    lower(Path(sys.argv[1]))
