"""Models that are exported by the tests: what torch.export meets in practice, small enough to be quick."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.export import Dim, ExportedProgram, export


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.inner(x, x, x, need_weights=False)[0]


class Recurrent(torch.nn.Module):
    def __init__(self, kind: type[torch.nn.Module]) -> None:
        super().__init__()
        self.inner = kind(4, 4, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.inner(x)[0]


class Branches(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.cond(x.sum() > 0, lambda y: torch.softmax(y, -1), lambda y: torch.nn.functional.silu(y), (x,))


class Upsampled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = torch.nn.GroupNorm(2, 4)
        self.up = torch.nn.ConvTranspose2d(4, 2, 2, stride=2)

    def forward(self, x: Any) -> Any:
        low = torch.nn.functional.silu(self.norm(self.down(x)))
        wide = torch.nn.functional.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.up(low) + wide[:, :2] + torch.nn.functional.max_pool2d(x, 3, stride=1, padding=1)


class Mutating(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Any) -> Any:
        self.seen.add_(x.sum(0))
        return torch.einsum("bi,bj->ij", x, x).relu_() + self.seen


def _transformers(name: str, **more: Any) -> torch.nn.Module:
    import transformers

    config: Any = getattr(transformers, f"{name}Config")(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, **more
    )
    model = {"Llama": "LlamaForCausalLM", "Bert": "BertModel", "ViT": "ViTModel"}[name]

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = getattr(transformers, model)(config)

        def forward(self, x: Any) -> Any:
            return self.inner(x)[0]

    return Wrapped()


_TOKENS = torch.tensor([[1, 2, 3, 4]])
_MAKERS: dict[str, Callable[[], tuple[torch.nn.Module, torch.Tensor, Any]]] = {
    "convolution": lambda: (
        torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU()),
        torch.ones(1, 1, 5, 5),
        None,
    ),
    "attention": lambda: (Attention(), torch.ones(1, 3, 8), None),
    "gru": lambda: (Recurrent(torch.nn.GRU), torch.ones(1, 3, 4), None),
    "lstm": lambda: (Recurrent(torch.nn.LSTM), torch.ones(1, 3, 4), None),
    "embedding": lambda: (
        torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.LayerNorm(4)),
        torch.tensor([[1, 2]]),
        None,
    ),
    "branches": lambda: (Branches(), torch.ones(2, 3), None),
    "dynamic": lambda: (
        torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU()),
        torch.ones(3, 4),
        ({0: Dim("batch")},),
    ),
    "encoder": lambda: (
        torch.nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=True),
        torch.ones(1, 3, 8),
        None,
    ),
    "upsampled": lambda: (Upsampled(), torch.ones(1, 2, 8, 8), None),
    "mutating": lambda: (Mutating(), torch.ones(2, 3), None),
    "llama": lambda: (_transformers("Llama", vocab_size=32, num_key_value_heads=1, use_cache=False), _TOKENS, None),
    "bert": lambda: (_transformers("Bert", vocab_size=32), _TOKENS, None),
    "vit": lambda: (_transformers("ViT", image_size=8, patch_size=4), torch.ones(1, 3, 8, 8), None),
}
NAMES = tuple(_MAKERS)


@cache
def exported(name: str) -> ExportedProgram:
    """Return a model as torch.export gives it, not decomposed yet.

    Not by its strict tracing, which is not the default any more: that of torch 2.6 fails on models of transformers.
    """
    torch.manual_seed(0)
    model, example, shapes = _MAKERS[name]()
    with torch.no_grad():
        return export(model.eval(), (example,), dynamic_shapes=shapes, strict=False)
