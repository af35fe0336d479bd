"""A PyTorch network with its input normalisation, as it is trained and exported.

Separate from `_graphs`, because training does not need torchao, whose import is slow and warns with a newer PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from pipeline.core import Audio, ModelSpec, Preprocessing, Standardization, Tokens
from pipeline.frameworks import _build

if TYPE_CHECKING:
    from pipeline.frameworks import Outputs

MAIN = ("logits", "out", "output", "main")
"""Usual names of the main output, where outputs have names."""


class WithNormalization(torch.nn.Module):
    """A network with the normalisation as its first operation: this is what is trained, exported and measured.

    Takes raw pixels (N, channels, height, width), or raw values of another kind. Token ids are not normalised. Returns
    a tensor for one output, and a tuple in the spec's order for several. Networks with auxiliary classifiers return
    more outputs in training than in inference; only the main one is used.
    """

    def __init__(self, net: torch.nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.normalize = normalization_layer(spec.preprocessing)
        self.net = net
        self.names = tuple(output.name for output in spec.outputs)

    def forward(self, image: torch.Tensor) -> Any:
        outputs = self.net(self.normalize(image))
        if len(self.names) > 1:
            return ordered(outputs, self.names)
        return main_output(outputs) if self.training else outputs


def ordered(outputs: Any, names: tuple[str, ...]) -> Any:
    """Several outputs as a tuple in the order of `names`: a mapping is read by name."""
    if isinstance(outputs, Mapping) and set(outputs) == set(names):
        return tuple(outputs[name] for name in names)
    return tuple(outputs) if isinstance(outputs, list) else outputs


def tensors(outputs: Any) -> tuple[Any, ...]:
    """What a network returns as a tuple, of one tensor or several."""
    return tuple(outputs) if isinstance(outputs, list | tuple) else (outputs,)


def joined(batches: Iterable[Any]) -> Outputs:
    """The outputs of all batches in NumPy, each (N, …)."""
    import numpy as np

    parts = [[tensor.float().cpu().numpy() for tensor in tensors(outputs)] for outputs in batches]
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


def main_output(outputs: Any) -> Any:
    """The main one of several outputs: the one with a name of `MAIN`, else the first."""
    named = outputs if isinstance(outputs, Mapping) else getattr(outputs, "_asdict", dict)()
    for name in MAIN:
        if name in named:
            return named[name]
    several = list(outputs.values()) if isinstance(outputs, Mapping) else outputs
    return several[0] if isinstance(several, list | tuple) and several else outputs


def network_inputs(samples: torch.Tensor) -> torch.Tensor:
    """Samples of a split as a network takes them, in the usual memory format: images (N, height, width, channels) as
    float32 (N, channels, height, width). Only images have four axes.

    clone() instead of contiguous(), which keeps unusual strides where there is one channel; graphs traced with those
    fail in ExecuTorch and Core ML.
    """
    return real(channels_first(samples)).clone(memory_format=torch.contiguous_format)


def real(samples: torch.Tensor) -> torch.Tensor:
    """Bytes of images as float32. Other samples have the dtype of the network's input."""
    return samples.float() if samples.dtype == torch.uint8 else samples


def channels_first(samples: torch.Tensor) -> torch.Tensor:
    """Images (N, height, width, channels) as a view (N, channels, height, width); other samples as they are."""
    return samples.permute(0, 3, 1, 2) if samples.dim() == 4 else samples


def example(spec: ModelSpec, count: int) -> torch.Tensor:
    """Random inputs of a network: raw pixels, token ids, or values with the spec's mean and standard deviation."""
    if spec.tokens:
        return torch.from_numpy(_build.token_ids(spec, count))
    if isinstance(spec.preprocessing, Audio | Standardization):
        mean, std = torch.tensor(spec.preprocessing.mean), torch.tensor(spec.preprocessing.std)
        return torch.randn(count, *spec.inputs[0].shape) * std + mean
    height, width, channels = spec.inputs[0].shape
    return torch.rand(count, channels, height, width) * 255


class Standardize(torch.nn.Module):
    """(x - mean) / std along the last axis. It stays in float in every recipe: raw values of different units have no
    common scale."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, preparation: Audio | Standardization) -> None:
        super().__init__()
        mean, std = torch.tensor(preparation.mean), torch.tensor(preparation.std)
        self.register_buffer("weight", 1 / std)
        self.register_buffer("bias", -mean / std)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.weight + self.bias


def normalization_layer(preprocessing: Preprocessing | Audio | Standardization | Tokens) -> torch.nn.Module:
    """(x - mean) / std: of an image a frozen depthwise 1×1 convolution. Token ids are not normalised.

    A quantizer would give the constants of a multiplication and a subtraction coarse scales of their own. A convolution
    has a scale per channel and a 32-bit bias, so int8 pixels lose no precision.
    """
    if isinstance(preprocessing, Tokens):
        return torch.nn.Identity()
    if not isinstance(preprocessing, Preprocessing):
        same = set(preprocessing.mean) == {0.0} and set(preprocessing.std) == {1.0}
        return torch.nn.Identity() if same else Standardize(preprocessing)
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    channels = len(mean)
    layer = torch.nn.Conv2d(channels, channels, 1, groups=channels)
    layer.weight.data = (1 / std).reshape(channels, 1, 1, 1)
    layer.bias.data = -mean / std  # type: ignore[union-attr]
    return layer.requires_grad_(False)
