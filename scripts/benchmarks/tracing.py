"""Time that all tracing adds to a recording in which torch traces outside of exports: make_fx, and torch.compile."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from measure import Result, Settings, at_most_as_long, in_turns

BLOCKS = 8  # of the model


def recording(settings: Settings, folder: Path) -> Iterator[Result]:
    """Measure traces that are recorded, and traces that are not; the first trace of each line is not measured."""
    import torch
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func
    from torch._inductor.decomposition import decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    import decomp_ledger as dl

    warnings.filterwarnings("ignore")
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False).eval()
    x = torch.ones(1, 16, 64)

    def traced() -> None:
        make_fx(model, decomposition_table=decompositions)(x)

    def compiled() -> None:
        torch._dynamo.reset()
        backend = aot_autograd(fw_compiler=boxed, decompositions=decompositions)
        torch.compile(model, backend=backend)(x)

    def boxed(graph: torch.fx.GraphModule, inputs: object) -> object:
        return make_boxed_func(graph.forward)

    rounds = max(9, settings.rounds(25))
    with dl.Ledger(folder / "tracing.db", lazy=True) as ledger:
        with dl.record(ledger, name="bench") as entered:

            def side(trace: Callable[[], None], *, all_tracing: bool) -> None:
                entered.all_tracing = all_tracing
                trace()

            for what, trace in (("make_fx", traced), ("torch.compile", compiled)):
                sides = (partial(side, trace, all_tracing=each) for each in (True, False))
                yield at_most_as_long(f"recording all tracing: {what}", 1.05, in_turns(*sides, rounds))
        counts = [event.body.traces for event in ledger.tracings()]
        if counts != [rounds + 1, rounds + 1]:
            raise RuntimeError(f"{counts} traces were recorded: the time is of no use")
