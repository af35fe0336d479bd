"""A PyTorch network with its input normalisation, as it is trained and exported.

Separate from `_graphs`, because training does not need torchao, whose import is slow and warns with a newer PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.core import Preprocessing

MAIN = ("logits", "out", "output", "main")
"""Usual names of the main output, where outputs have names."""


class WithNormalization(torch.nn.Module):
    """A network with the normalisation as its first operation: this is what is trained, exported and measured.

    Takes raw pixels (N, channels, height, width), returns logits (N, classes). Networks with auxiliary classifiers
    return more outputs in training than in inference; only the main one is used.
    """

    def __init__(self, net: torch.nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.normalize = normalization_layer(preprocessing)
        self.net = net

    def forward(self, image: torch.Tensor) -> Any:
        outputs = self.net(self.normalize(image))
        return main_output(outputs) if self.training else outputs


def main_output(outputs: Any) -> Any:
    """The main one of several outputs: the one with a name of `MAIN`, else the first."""
    named = outputs if isinstance(outputs, Mapping) else getattr(outputs, "_asdict", dict)()
    for name in MAIN:
        if name in named:
            return named[name]
    several = list(outputs.values()) if isinstance(outputs, Mapping) else outputs
    return several[0] if isinstance(several, list | tuple) and several else outputs


def nchw(images: torch.Tensor) -> torch.Tensor:
    """Images (N, height, width, channels) as float32 (N, channels, height, width) in the usual memory format.

    clone() instead of contiguous(), which keeps unusual strides where there is one channel; graphs traced with those
    fail in ExecuTorch and Core ML.
    """
    return images.permute(0, 3, 1, 2).float().clone(memory_format=torch.contiguous_format)


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
