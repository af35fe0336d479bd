"""mobilenet_v3_small in PyTorch."""

import torch
from torch import nn

from pipeline.core import ModelSpec

# Table 2 of the paper: kernel, expanded channels, output channels, squeeze-and-excite, activation, stride.
ROWS = (
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8 that is at most a tenth smaller. Source: the paper's reference code."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def block(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: type[nn.Module] = nn.Identity
) -> nn.Sequential:
    """Convolution, batch normalisation, activation; "same" padding."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
        activation(),
    )


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = multiple_of_8(channels / 4)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1), nn.Hardsigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = x * self.gate(x.mean((2, 3), keepdim=True))
        return scaled


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project; added to the input if the shapes match."""

    def __init__(self, inputs: int, row: tuple[int, int, int, bool, type[nn.Module], int], width: float) -> None:
        super().__init__()
        kernel, expanded, outputs, excite, activation, stride = row
        expanded, outputs = multiple_of_8(expanded * width), multiple_of_8(outputs * width)
        layers = [] if expanded == inputs else [block(inputs, expanded, 1, activation=activation)]
        layers.append(block(expanded, expanded, kernel, stride, groups=expanded, activation=activation))
        if excite:
            layers.append(nn.Sequential(SqueezeExcite(expanded)))
        layers.append(block(expanded, outputs, 1))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out + x if self.residual else out


class MobileNetV3Small(nn.Module):
    """(N, 3, 224, 224) normalised pixels to (N, classes) logits."""

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        channels = multiple_of_8(16 * width)
        layers: list[nn.Module] = [block(3, channels, 3, 2, activation=nn.Hardswish)]
        for row in ROWS:
            layer = InvertedResidual(channels, row, width)
            layers.append(layer)
            channels = layer.outputs
        last = 6 * channels
        layers.append(block(channels, last, 1, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)
        hidden = multiple_of_8(1024 * width) if width > 1 else 1024
        self.classifier = nn.Sequential(
            nn.Linear(last, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, classes)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.features(image)
        # keepdim, because XNNPACK supports a mean over height and width only in this form.
        logits: torch.Tensor = self.classifier(features.mean((2, 3), keepdim=True).flatten(1))
        return logits


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return MobileNetV3Small(spec.classes, float(spec.options["width"]))
