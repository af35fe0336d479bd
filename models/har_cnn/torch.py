"""har_cnn in PyTorch: three convolutions along time, each with batch normalisation, and their mean."""

import torch
from torch import nn

from pipeline.core import ModelSpec


def block(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU; symmetric padding."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()
    )


class HarCNN(nn.Module):
    """(N, time, channels) standardized readings to (N, classes) logits."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(block(channels, 32, 5, 1), block(32, 48, 3, 2), block(48, 64, 3, 2))
        self.classifier = nn.Linear(64, classes)

    def forward(self, readings: torch.Tensor) -> torch.Tensor:
        features = self.features(readings.transpose(1, 2))
        logits: torch.Tensor = self.classifier(features.mean(2))
        return logits


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return HarCNN(spec.inputs[0].shape[1], spec.classes)
