"""timm's ConvNeXt-Atto at 64×64."""

import timm
from torch import nn

from pipeline.core import ModelSpec


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return timm.create_model("convnext_atto", num_classes=spec.classes)
