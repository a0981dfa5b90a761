"""Lower a small Whisper, encoder and decoder."""

import sys
from pathlib import Path

import torch
from kept_linear import lower_and_list
from transformers import WhisperConfig, WhisperForConditionalGeneration


def lower(folder: Path) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=256,
        num_mel_bins=16,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=32,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        use_cache=False,
    )
    tokens = torch.arange(8).reshape(1, 8)
    inputs = {"input_features": torch.randn(1, 16, 64), "decoder_input_ids": tokens}
    lower_and_list(WhisperForConditionalGeneration(config), (), inputs, folder)


if __name__ == "__main__":
    lower(Path(sys.argv[1]))
