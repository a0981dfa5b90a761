"""The networks that the programs lower, with random weights."""

import torch


class ConvAttention(torch.nn.Module):
    """A small image classifier: convolutions, then one block of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=2, padding=1),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
            torch.nn.Hardswish(),
            torch.nn.MaxPool2d(2),
        )
        self.norm = torch.nn.LayerNorm(32)
        self.attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 32))
        self.head = torch.nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(image).flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        tokens = tokens + self.mlp(tokens)
        return torch.softmax(self.head(tokens.mean(1)), -1)


def conv_attention() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """Return the classifier and its example inputs."""
    torch.manual_seed(0)
    return ConvAttention().eval(), (torch.randn(1, 3, 64, 64),)
