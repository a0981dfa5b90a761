"""Import the classifier into MLIR with IREE Turbine."""

import sys
from pathlib import Path

import iree.turbine.aot as aot
from networks import conv_attention


def lower(folder: Path) -> None:
    model, inputs = conv_attention()
    exported = aot.export(model, args=inputs)
    (folder / "model.mlir").write_text(str(exported.mlir_module), encoding="utf-8")


if __name__ == "__main__":
    lower(Path(sys.argv[1]))
