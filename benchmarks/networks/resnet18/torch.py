"""torchvision's ResNet-18 at 64×64."""

from torch import nn
from torchvision.models import resnet18

from pipeline.core import ModelSpec


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return resnet18(num_classes=spec.classes)
