"""diabetes_mlp in PyTorch: two hidden layers."""

import torch
from torch import nn

from pipeline.core import ModelSpec


class DiabetesMLP(nn.Module):
    """(N, 10) standardized measurements to (N, 1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.hidden_1 = nn.Linear(inputs, 32)
        self.hidden_2 = nn.Linear(32, 16)
        self.progression = nn.Linear(16, outputs)
        nn.init.constant_(self.progression.bias, 150.0)  # training starts near the mean

    def forward(self, measurements: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.hidden_2(torch.relu(self.hidden_1(measurements))))
        progression: torch.Tensor = self.progression(hidden)
        return progression


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return DiabetesMLP(spec.inputs[0].shape[0], spec.classes)
