"""Lower a small Bert."""

import sys
from pathlib import Path

import torch
from kept_linear import lower_and_list
from transformers import BertConfig, BertModel


def lower(folder: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4
    )
    tokens = torch.arange(16).reshape(1, 16)
    lower_and_list(BertModel(config), (), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, folder)


if __name__ == "__main__":
    lower(Path(sys.argv[1]))
