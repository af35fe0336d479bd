"""ssdlite_tiny in PyTorch."""

import torch
from torch import nn

from pipeline.core import ModelSpec

from . import anchors


def block(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Module:
    """Convolution, batch normalisation, ReLU6; symmetric padding."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *[nn.ReLU6()] * act)


class Residual(nn.Module):
    """MobileNetV2's block: expand, depthwise, project; added to the input if the shapes match."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inputs
        self.body = nn.Sequential(
            block(inputs, wide), block(wide, wide, 3, stride, wide), block(wide, outputs, act=False)
        )
        self.add = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(x)
        return x + found if self.add else found


class Head(nn.Module):
    """Offsets or scores at each place of a feature map: (N, places * anchors, values)."""

    def __init__(self, channels: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.depthwise = block(channels, channels, 3, groups=channels)
        self.pointwise = nn.Conv2d(channels, anchors.EACH * values, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.pointwise(self.depthwise(x))
        return found.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class Decode(nn.Module):
    """Offsets (N, anchors, 4) to boxes: top, left, bottom, right as shares of the image."""

    anchors: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.from_numpy(anchors.boxes())[None], persistent=False)

    def forward(self, offsets: torch.Tensor) -> torch.Tensor:
        centre, size = self.anchors[..., :2], self.anchors[..., 2:]
        centre = offsets[..., :2] * (anchors.CENTRE * size) + centre
        half = torch.exp(offsets[..., 2:] * anchors.SIZE) * (0.5 * size)
        return torch.cat([centre - half, centre + half], 2)


class Detector(nn.Module):
    """(N, 3, SIDE, SIDE) normalised pixels to boxes (N, anchors, 4) and scores (N, anchors, classes), logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = block(3, 16, 3, 2)
        self.stage_4 = nn.Sequential(Residual(16, 24, 2), Residual(24, 24, 1))
        self.stage_8 = nn.Sequential(Residual(24, 40, 2), Residual(40, 40, 1), Residual(40, 40, 1))
        self.stage_16 = nn.Sequential(Residual(40, 80, 2), Residual(80, 80, 1))
        self.stage_32 = nn.Sequential(Residual(80, 112, 2), Residual(112, 112, 1))
        channels = (40, 80, 112)
        self.offsets = nn.ModuleList(Head(each, 4) for each in channels)
        self.scores = nn.ModuleList(Head(each, classes) for each in channels)
        self.decode = Decode()
        for head in self.scores:
            nn.init.constant_(head.pointwise.bias, anchors.scores_bias())  # type: ignore[arg-type, union-attr]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        eighth = self.stage_8(self.stage_4(self.stem(x)))
        sixteenth = self.stage_16(eighth)
        maps = (eighth, sixteenth, self.stage_32(sixteenth))
        offsets, scores = (
            torch.cat([head(each) for head, each in zip(heads, maps, strict=True)], 1)
            for heads in (self.offsets, self.scores)
        )
        return self.decode(offsets), scores


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return Detector(spec.classes)
