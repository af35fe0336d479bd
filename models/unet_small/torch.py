"""unet_small in PyTorch: three levels, joined by skip connections."""

import torch
from torch import nn

from pipeline.core import ModelSpec


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """(N, channels, height, width) normalised pixels to (N, height, width, classes) logits."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.down_0 = nn.Sequential(block(channels, 16), block(16, 16))
        self.down_1 = nn.Sequential(block(16, 32, 2), block(32, 32))
        self.down_2 = nn.Sequential(block(32, 48, 2), block(48, 48))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.up_1 = nn.Sequential(block(48 + 32, 32), block(32, 32))
        self.up_0 = nn.Sequential(block(32 + 16, 16), block(16, 16))
        self.classifier = nn.Conv2d(16, classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        whole = self.down_0(image)
        half = self.down_1(whole)
        quarter = self.down_2(half)
        half = self.up_1(torch.cat([self.up(quarter), half], 1))
        whole = self.up_0(torch.cat([self.up(half), whole], 1))
        logits: torch.Tensor = self.classifier(whole)
        return logits.permute(0, 2, 3, 1)


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return UNet(spec.inputs[0].shape[2], spec.classes)
