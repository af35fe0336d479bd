"""tiny in PyTorch."""

import torch
from torch import nn

from pipeline.core import ModelSpec


class Tiny(nn.Module):
    """(N, 1, 8, 8) normalised pixels to (N, 10) logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(8 * 4 * 4, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(image).flatten(1))
        return logits


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return Tiny(spec.classes)
