"""Lower a small Llama."""

import sys
from pathlib import Path

import torch
from kept_linear import lower_and_list
from transformers import LlamaConfig, LlamaForCausalLM


def lower(folder: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        use_cache=False,
    )
    lower_and_list(LlamaForCausalLM(config), (), {"input_ids": torch.arange(16).reshape(1, 16)}, folder)


if __name__ == "__main__":
    lower(Path(sys.argv[1]))
