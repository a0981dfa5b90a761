"""Time that a stamp adds to saving and loading a program, next to torch's own save and load in the same recording."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import Result, Settings, Sides, both, in_turns

_SMALL_MS, _LARGE = 5, 1.5  # the goals
_EXPORTS = (1, 16)


def stamps(settings: Settings, folder: Path) -> Iterator[Result]:
    """Measure `torch.export.save` and `load` in a recording of one export and of many."""
    import torch

    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    programs: dict[str, tuple[Any, Any]] = {
        "a small program": (torch.nn.Linear(3, 3), torch.ones(2, 3)),
        "a decoder of 100 MB": (_decoder(8), tokens),
    }
    for name, (module, example) in programs.items():
        program = torch.export.export(module, (example,))
        rounds = settings.rounds(30 if name == "a small program" else 10)
        for exports in _EXPORTS:
            for what, sides in _measured(program, exports, rounds, folder):
                times = f"{exports} export{'' if exports == 1 else 's'}"
                yield _result(f"`{what}` of {name}, {times}", sides, small=name == "a small program")


def _measured(program: Any, exports: int, rounds: int, folder: Path) -> Iterator[tuple[str, Sides]]:
    import torch

    import decomp_ledger as dl

    save, load = torch.export.save, torch.export.load  # torch's own, because the recording has not begun
    file, stamped = folder / "plain.pt2", folder / "stamped.pt2"
    with dl.record(folder / "stamps.db"):
        for _ in range(exports):
            program = program.run_decompositions()
        yield "save", in_turns(lambda: torch.export.save(program, stamped), lambda: save(program, file), rounds)
        if len(dl.read_stamp(stamped).bundles) != exports:
            raise RuntimeError("the file has another stamp: the time is of no use")
        yield "load", in_turns(lambda: torch.export.load(stamped), lambda: load(stamped), rounds)


def _result(what: str, sides: Sides, *, small: bool) -> Result:
    more = (sides.ours - sides.theirs) * 1e3
    if small:
        goal = f"<= {_SMALL_MS} ms more than torch's"
        return Result(what, goal, f"{more:+.2f} ms ({both(sides)})", more <= _SMALL_MS)
    return Result(what, f"<= {_LARGE}x torch's time", f"{sides.ratio:.3f}x ({both(sides)})", sides.ratio <= _LARGE)


def _decoder(layers: int, width: int = 512, hidden: int = 1408, words: int = 1000) -> Any:
    """Return a decoder as a Llama has it, with random weights."""
    import torch
    from torch import nn

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
            self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
            self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
            self.down = nn.Linear(hidden, width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.before(x)
            q, k, v = (f(y).unflatten(-1, (8, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
            attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).flatten(-2))
            y = self.between(x)
            result: torch.Tensor = x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))
            return result

    return nn.Sequential(
        nn.Embedding(words, width), *(Block() for _ in range(layers)), nn.Linear(width, words, bias=False)
    ).eval()
