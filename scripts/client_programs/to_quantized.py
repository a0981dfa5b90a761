"""Quantize the classifier with torchao's pt2e flow, and lower the result."""

import sys
from pathlib import Path

import torch
from networks import conv_attention
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)


def lower(folder: Path) -> None:
    model, inputs = conv_attention()
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(model, inputs).module(), quantizer)
    prepared(*inputs)
    program = torch.export.export(convert_pt2e(prepared), inputs).run_decompositions()
    (folder / "program.txt").write_text(str(program), encoding="utf-8")


if __name__ == "__main__":
    lower(Path(sys.argv[1]))
