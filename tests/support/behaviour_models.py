"""Models for the truth test of behaviour, as they occur in practice, each small. They need torch and nothing else."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Norm(nn.Module):
    """RMS norm, as in Llama."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Any) -> Any:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Llama(nn.Module):
    """Rotary positions, grouped heads, a causal mask, and a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.last = nn.Embedding(32, 16), Norm(16), Norm(16)
        self.q, self.k, self.v = nn.Linear(16, 16, False), nn.Linear(16, 8, False), nn.Linear(16, 8, False)
        self.o, self.gate, self.up = nn.Linear(16, 16, False), nn.Linear(16, 24, False), nn.Linear(16, 24, False)
        self.down, self.head = nn.Linear(24, 16, False), nn.Linear(16, 32, False)

    def rotated(self, x: Any) -> Any:
        angles = torch.outer(torch.arange(x.shape[-2]).float(), 1.0 / 10000 ** (torch.arange(0, 4, 2).float() / 4))
        cos, sin = torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()
        one, other = x.chunk(2, -1)
        return x * cos + torch.cat((-other, one), -1) * sin

    def forward(self, tokens: Any) -> Any:
        x = self.embed(tokens)
        normed = self.norm(x)
        q, k, v = (f(normed).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = (each.repeat_interleave(2, 1) for each in (k, v))
        attended = F.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).flatten(2))
        normed = self.last(x)
        return self.head(x + self.down(F.silu(self.gate(normed)) * self.up(normed)))


class Bert(nn.Module):
    """Post-norm attention with a padding mask, and a pooler."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(32, 16, padding_idx=0), nn.Embedding(8, 16)
        self.norm, self.last = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.o = nn.Linear(16, 48), nn.Linear(16, 16)
        self.wide, self.narrow, self.pool = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 16)

    def forward(self, tokens: Any) -> Any:
        x = self.norm(self.words(tokens) + self.places(torch.arange(tokens.shape[1])))
        q, k, v = (each.unflatten(-1, (2, 8)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        mask = (tokens != 0)[:, None, None, :]
        scores = (q @ k.transpose(-2, -1) / 8**0.5).masked_fill(~mask, float("-inf"))
        attended = (F.dropout(F.softmax(scores, -1), 0.1, False) @ v).transpose(1, 2).reshape(x.shape)
        x = self.norm(x + self.o(attended))
        x = self.last(x + self.narrow(F.gelu(self.wide(x))))
        return torch.tanh(self.pool(x[:, 0]))


class ViT(nn.Module):
    """Patches by a convolution, a class token, attention of PyTorch's own module."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 5, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, image: Any) -> Any:
        patches = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(image.shape[0], -1, -1), patches), 1) + self.places
        return self.head(self.layer(x)[:, 0])


class UNet(nn.Module):
    """Down, up and across: group norm, SiLU, interpolation, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.norm, self.up, self.last = nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Any) -> Any:
        high = F.silu(self.first(x))
        low = F.silu(self.norm(self.down(high)))
        wide = F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)[:, :4]
        return self.last(torch.cat((high + wide, self.up(low)), 1))


class Mixture(nn.Module):
    """Experts that a router chooses by top-k, with their load counted by one-hot rows."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.w1, self.w2 = nn.Parameter(torch.randn(4, 8, 16)), nn.Parameter(torch.randn(4, 16, 8))

    def forward(self, x: Any) -> Any:
        weight, chosen = torch.topk(torch.softmax(self.router(x), -1), 2)
        hidden = F.silu(torch.einsum("bh,ehf->bef", x, self.w1))
        every = torch.einsum("bef,efh->beh", hidden, self.w2)
        picked = torch.take_along_dim(every, chosen[..., None], 1)
        load = F.one_hot(chosen, 4).sum((0, 1))
        return (picked * weight[..., None]).sum(1), load


class Bags(nn.Module):
    """A recommender: an embedding bag, and similarity to items."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.items = nn.EmbeddingBag(20, 8, mode="mean"), nn.Embedding(10, 8)

    def forward(self, tokens: Any) -> Any:
        user = self.bag(tokens)
        return F.cosine_similarity(user[:, None], self.items.weight[None], -1)


class Statistics(nn.Module):
    """What data scripts use: membership, fractions, an identity matrix, means without NaN."""

    def forward(self, x: Any) -> Any:
        inside = torch.isin((x * 3).long(), torch.tensor([1, 2]))
        return inside, torch.frac(x), torch.eye(3) @ x, torch.nanmean(x, 1), x.var(1)


class Quantiles(nn.Module):
    """The median of each row, by quantile."""

    def forward(self, x: Any) -> Any:
        return torch.quantile(x, 0.5, dim=1)


class Recurrent(nn.Module):
    """A recurrent layer with a head."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.inner, self.head = kind(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.inner(x)[0])


class Flash(nn.Module):
    """Attention on inputs without a batch, and pixels that are shuffled."""

    def forward(self, x: Any) -> Any:
        attended = F.scaled_dot_product_attention(x, x, x)
        return F.pixel_shuffle(F.log_softmax(attended, -1).reshape(4, 3, 2), 2)


def convolutions() -> nn.Module:
    """Return a net of convolutions without any linear layer."""
    block = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*block, nn.Conv2d(4, 8, 3), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


_IMAGE = torch.ones(1, 3, 8, 8)
_TOKENS = torch.tensor([[1, 2, 3, 0]])
MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "llama": (Llama, _TOKENS),
    "bert": (Bert, _TOKENS),
    "vit": (ViT, _IMAGE),
    "convolutions": (convolutions, _IMAGE),
    "lstm": (lambda: Recurrent(nn.LSTM), torch.ones(2, 3, 4)),
    "gru": (lambda: Recurrent(nn.GRU), torch.ones(2, 3, 4)),
    "unet": (UNet, torch.ones(1, 2, 8, 8)),
    "mixture": (Mixture, torch.ones(3, 8)),
    "bags": (Bags, _TOKENS),
    "statistics": (Statistics, torch.rand(3, 4)),
    "quantiles": (Quantiles, torch.rand(3, 4)),
    "flash": (Flash, torch.rand(3, 4, 2)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.ones(1, 3, 8)),
}
