"""timm's ViT-Tiny at 64×64 in patches of 8×8."""

import timm
from torch import nn

from pipeline.core import ModelSpec


def build(spec: ModelSpec) -> nn.Module:
    """An untrained network for the spec."""
    return timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, num_classes=spec.classes)
