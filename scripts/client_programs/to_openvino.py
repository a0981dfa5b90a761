"""Convert the exported classifier to OpenVINO's intermediate representation."""

import sys
from pathlib import Path

import openvino
import torch
from networks import conv_attention


def lower(folder: Path) -> None:
    model, inputs = conv_attention()
    program = torch.export.export(model, inputs)
    openvino.save_model(openvino.convert_model(program, example_input=inputs), folder / "model.xml")


if __name__ == "__main__":
    lower(Path(sys.argv[1]))
