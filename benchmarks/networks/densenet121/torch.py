"""torchvision's DenseNet-121 at 64×64."""

from torch import nn
from torchvision.models import densenet121

from pipeline.core import ModelSpec


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return densenet121(num_classes=spec.classes)
