"""torchvision's RegNetY-400MF at 64×64."""

from dataclasses import replace

from models.resnet8 import SPEC as CIFAR10
from pipeline.core import Preprocessing, Tensor, Training

SPEC = replace(
    CIFAR10,
    name="regnet_y_400mf",
    inputs=(Tensor("image", (64, 64, 3)),),
    preprocessing=Preprocessing("RGB", 64, 64, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    training=Training(epochs=3, batch_size=128, lr=0.002, weight_decay=1e-2, augment=("flip", "shift4")),
)
