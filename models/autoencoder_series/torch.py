"""autoencoder_series in PyTorch: four linear layers that reconstruct a window from eight numbers."""

import torch
from torch import nn

from pipeline.core import ModelSpec

HIDDEN, CODE = 32, 8


class Error(nn.Module):
    """The mean squared error of each sample, (N, 1). A module of its own, which stays in float."""

    def forward(self, found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        difference = found - expected
        return (difference * difference).mean(1, keepdim=True)


class Autoencoder(nn.Module):
    """(N, time, channels) standardized readings to (N, 1) anomaly scores."""

    def __init__(self, readings: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(readings, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CODE), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(CODE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, readings))
        self.error = Error()

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        readings = window.flatten(1)
        score: torch.Tensor = self.error(self.decoder(self.encoder(readings)), readings)
        return score


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    time, channels = spec.inputs[0].shape
    return Autoencoder(time * channels)
