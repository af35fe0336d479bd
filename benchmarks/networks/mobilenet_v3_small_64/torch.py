"""MobileNetV3-Small of models/ at 64×64."""

from torch import nn

from models.mobilenet_v3_small.torch import MobileNetV3Small
from pipeline.core import ModelSpec


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return MobileNetV3Small(spec.classes, width=1.0)
