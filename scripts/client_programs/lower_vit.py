"""Lower a small vision transformer."""

import sys
from pathlib import Path

import torch
from kept_linear import lower_and_list
from transformers import ViTConfig, ViTForImageClassification


def lower(folder: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, image_size=32, patch_size=8
    )
    lower_and_list(ViTForImageClassification(config), (), {"pixel_values": torch.randn(1, 3, 32, 32)}, folder)


if __name__ == "__main__":
    lower(Path(sys.argv[1]))
