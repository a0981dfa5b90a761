"""Convert the classifier to LiteRT."""

import sys
from pathlib import Path

import litert_torch
from networks import conv_attention


def lower(folder: Path) -> None:
    model, inputs = conv_attention()
    litert_torch.convert(model, inputs).export(str(folder / "model.tflite"))


if __name__ == "__main__":
    lower(Path(sys.argv[1]))
