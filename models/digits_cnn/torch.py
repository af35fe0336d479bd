"""digits_cnn in PyTorch: convolution, depthwise, pointwise and convolution, each with batch normalisation."""

import torch
from torch import nn

from pipeline.core import ModelSpec


def block(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU; "same" padding."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class DigitsCNN(nn.Module):
    """(N, 1, 8, 8) normalised pixels to (N, 10) logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(1, 16, 3),
            block(16, 16, 3, stride=2, groups=16),
            block(16, 32, 1),
            block(32, 48, 3, stride=2),
        )
        self.classifier = nn.Linear(48, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.features(image)
        # keepdim, because XNNPACK supports a mean over height and width only in this form.
        logits: torch.Tensor = self.classifier(features.mean((2, 3), keepdim=True).flatten(1))
        return logits


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return DigitsCNN(spec.classes)
