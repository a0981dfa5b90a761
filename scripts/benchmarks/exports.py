"""Time that recording adds to an export: a small Llama with random weights, lowered with `linear` kept."""

import warnings
from collections.abc import Iterator
from pathlib import Path

from measure import Result, Settings, at_most_as_long, in_turns


def recording(settings: Settings, folder: Path) -> Iterator[Result]:
    """Measure `run_decompositions` within a recording, and without one."""
    what = "recording an export"
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        yield Result(what, "<= 1.02x torch's time", "not measured: transformers is not installed", None)
        return
    import torch

    import decomp_ledger as dl

    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    program = torch.export.export(model, (), {"input_ids": torch.arange(16).reshape(1, 16)}, strict=False)

    def plain() -> None:
        table = torch.export.default_decompositions()
        table.pop(torch.ops.aten.linear.default)
        program.run_decompositions(table)

    rounds = max(15, settings.rounds(40))  # fewer cannot tell 1.02 from noise
    with dl.Ledger(folder / "exports.db", lazy=True) as ledger:

        def recorded() -> None:
            with dl.record(ledger, name="bench"):
                plain()

        sides = in_turns(recorded, plain, rounds)
        exports = sum(1 for _ in ledger.exports())
        if exports != rounds + 1:
            raise RuntimeError(f"{exports} of {rounds + 1} exports were recorded: the time is of no use")
    yield at_most_as_long(what, 1.02, sides)
