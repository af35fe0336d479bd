"""torchvision's RegNetY-400MF at 64×64."""

from torch import nn
from torchvision.models import regnet_y_400mf

from pipeline.core import ModelSpec


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return regnet_y_400mf(num_classes=spec.classes)
