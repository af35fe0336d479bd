"""A PyTorch network with its input normalisation, as it is trained and exported.

Separate from `_graphs`, because training does not need torchao, whose import is slow and warns with a newer PyTorch.
"""

from __future__ import annotations

import torch

from pipeline.core import Preprocessing


class WithNormalization(torch.nn.Module):
    """A network with the normalisation as its first operation: this is what is trained, exported and measured.

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
    """(x - mean) / std as a frozen depthwise 1×1 convolution.

    A quantizer would give the constants of a multiplication and a subtraction coarse scales of their own. A convolution
    has a scale per channel and a 32-bit bias, so int8 pixels lose no precision.
    """
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    channels = len(mean)
    layer = torch.nn.Conv2d(channels, channels, 1, groups=channels)
    layer.weight.data = (1 / std).reshape(channels, 1, 1, 1)
    layer.bias.data = -mean / std  # type: ignore[union-attr]
    return layer.requires_grad_(False)
