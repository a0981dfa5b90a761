"""What recording adds to an export: a small Llama with random weights, lowered with a table that keeps `linear`.

What it adds: a wrapper around each decomposition that counts (the largest part, since a CIA kernel is called for many
reasons), the digests of both graphs (1-4 ms each), and two events.
"""

import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from measure import Result, Settings, in_turns, longer, profile, seconds


def recording(settings: Settings, folder: Path) -> Iterator[Result]:
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        yield Result("run_decompositions, recorded", "the same, not recorded", "at most 1.05x its time",
                     "skipped: no transformers here", None)  # fmt: skip
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
    tokens = torch.arange(16).reshape(1, 16)
    program = torch.export.export(model, (), {"input_ids": tokens}, strict=False)
    ledger = dl.Ledger(folder / "exports.db", lazy=True)

    def plain() -> None:
        table = torch.export.default_decompositions()
        table.pop(torch.ops.aten.linear.default)
        program.run_decompositions(table)

    def recorded() -> None:
        with dl.record(ledger, name="bench"):
            plain()

    sides = in_turns(recorded, plain, settings.rounds(30), time.process_time)
    events = sum(1 for _ in ledger.exports())
    assert events >= settings.rounds(30), events
    profile(settings, "run_decompositions, recorded", recorded, 3)
    yield longer("run_decompositions of a small Llama, recorded", "the same, not recorded", 1.05, sides)
    yield unrecorded(program, sides[1])
    ledger.close()


def unrecorded(program: object, whole: float) -> Result:
    """Time what stands before torch's own function where a table was opened by name, and nothing is recorded."""
    from decomp_ledger.pytorch import exports

    times = 10_000
    start = time.process_time()
    for _ in range(times):
        exports.run(program, None, id)
    hook = (time.process_time() - start) / times
    return Result(
        "the same with nothing recorded, once tables were used", "torch unhooked", "nothing (under 0.1 %)",
        f"+{seconds(hook)} on {seconds(whole)}", hook / whole < 0.001,
    )  # fmt: skip
