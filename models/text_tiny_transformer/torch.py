"""text_tiny_transformer in PyTorch: layers of self-attention, each normalised before it, and the mean of the tokens."""

import math

import torch
from torch import nn

from pipeline.core import ModelSpec

WIDTH, HIDDEN, HEADS, LAYERS = 64, 128, 4, 2
FAR = 1e4
"""Is subtracted from the scores of padding: its weight is 0 after softmax. Half precision has it too."""


class Layer(nn.Module):
    """Self-attention and two dense layers, both added to their input."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
        y = self.before(x)
        query, key, value = (heads(layer(y)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) * (1 / math.sqrt(WIDTH // HEADS)) - ignored[:, None, None]
        found = scores.softmax(3) @ value
        x = x + self.out(found.transpose(1, 2).flatten(2))
        down: torch.Tensor = self.down(self.up(self.after(x)).relu())
        return x + down


def heads(x: torch.Tensor) -> torch.Tensor:
    """(N, length, WIDTH) to (N, HEADS, length, WIDTH / HEADS)."""
    return x.reshape(-1, x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)


class TextTransformer(nn.Module):
    """(N, length) token ids to (N, classes) logits."""

    def __init__(self, vocabulary: int, length: int, padding: int, classes: int) -> None:
        super().__init__()
        self.padding = padding
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(length, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.last = nn.LayerNorm(WIDTH)
        self.classifier = nn.Linear(WIDTH, classes)
        for layer in (self.tokens, self.positions, self.classifier):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions.weight
        used = (ids != self.padding).to(x.dtype)
        ignored = (1 - used) * FAR
        for layer in self.layers:
            x = layer(x, ignored)
        mean = (self.last(x) * used[:, :, None]).sum(1) / used.sum(1, keepdim=True).clamp(min=1)
        logits: torch.Tensor = self.classifier(mean)
        return logits


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    assert spec.tokens is not None and spec.inputs[0].value_range is not None
    vocabulary = int(spec.inputs[0].value_range[1]) + 1
    return TextTransformer(vocabulary, spec.tokens.length, spec.tokens.padding, spec.classes)
