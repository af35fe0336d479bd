"""kws_dscnn in PyTorch."""

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.core import ModelSpec

from . import logmel


class LogMel(nn.Module):
    """(N, samples) to normalised log-mel features (N, 1, mels, frames)."""

    fourier: torch.Tensor
    mel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fourier", torch.from_numpy(logmel.fourier())[:, None], persistent=False)
        self.register_buffer("mel", torch.from_numpy(logmel.mel())[:, :, None], persistent=False)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        spectrum = F.conv1d(waveform[:, None], self.fourier, stride=logmel.HOP)
        real, imaginary = spectrum.chunk(2, 1)
        power = F.conv1d(real * real + imaginary * imaginary, self.mel)
        return ((torch.log(power + logmel.SMALLEST) - logmel.MEAN) * (1 / logmel.STD))[:, None]


def block(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU; symmetric padding."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class KeywordSpotter(nn.Module):
    """(N, samples) waveforms to (N, classes) logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = LogMel()
        self.body = nn.Sequential(
            block(1, 32, 5, 2),
            *(
                block(32, 32, kernel, stride, groups)
                for stride in (1, 2, 1)
                for kernel, stride, groups in ((3, stride, 32), (1, 1, 1))
            ),
        )
        self.classifier = nn.Linear(32, classes)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        found = self.body(self.features(waveform))
        logits: torch.Tensor = self.classifier(found.mean((2, 3), keepdim=True).flatten(1))
        return logits


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return KeywordSpotter(spec.classes)
