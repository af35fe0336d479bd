"""torchvision's MobileNetV2 at 64×64."""

from torch import nn
from torchvision.models import mobilenet_v2

from pipeline.core import ModelSpec


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return mobilenet_v2(num_classes=spec.classes)
