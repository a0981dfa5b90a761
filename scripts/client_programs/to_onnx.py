"""Export the classifier with torch.onnx.export, which makes its table as a plain dict."""

import sys
from pathlib import Path

import torch
from networks import conv_attention


def lower(folder: Path) -> None:
    model, inputs = conv_attention()
    torch.onnx.export(model, inputs, folder / "model.onnx", dynamo=True, verbose=False, external_data=False)


if __name__ == "__main__":
    lower(Path(sys.argv[1]))
