"""What is trained in PyTorch and becomes a graph; apart from `_graphs`, because training needs no torchao, whose import
is slow and warns under a newer PyTorch."""

from __future__ import annotations

import torch

from pipeline.core import Preprocessing


class WithNormalization(torch.nn.Module):
    """What is trained, exported and measured: a network behind its normalisation, which is the graph's first operation.

    Takes raw pixels (N, channels, height, width), returns logits (N, classes).
    """

    def __init__(self, net: torch.nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.normalize = normalization_layer(preprocessing)
        self.net = net

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(self.normalize(image))
        return logits


def normalization_layer(preprocessing: Preprocessing) -> torch.nn.Module:
    """(x - mean) / std as a depthwise 1×1 convolution that is not trained.

    As a multiplication and a subtraction, quantizers would give the two constants coarse scales of their own; as a
    convolution they get a scale per channel and a 32-bit bias, and int8 pixels stay as exact as they came.
    """
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    channels = len(mean)
    layer = torch.nn.Conv2d(channels, channels, 1, groups=channels)
    layer.weight.data = (1 / std).reshape(channels, 1, 1, 1)
    layer.bias.data = -mean / std  # type: ignore[union-attr]
    return layer.requires_grad_(False)
