"""resnet8 in Keras: the same network as torch.py. Layers have the names from there, with _ for the dots."""

import keras
from keras import layers

from pipeline.core import ModelSpec


def convolution(x: keras.KerasTensor, name: str, outputs: int, stride: int = 1) -> keras.KerasTensor:
    """3×3 convolution with symmetric padding; padding="same" would pad only right and bottom at stride 2."""
    return layers.Conv2D(outputs, 3, stride, use_bias=False, name=name)(layers.ZeroPadding2D(1)(x))


def normalisation(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Batch normalisation with PyTorch's momentum and epsilon."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def residual(x: keras.KerasTensor, name: str, outputs: int, stride: int) -> keras.KerasTensor:
    """Two 3×3 convolutions with a shortcut, which is a 1×1 convolution if the shape changes."""
    body = normalisation(convolution(x, f"{name}_body_0", outputs, stride), f"{name}_body_1")
    body = normalisation(convolution(layers.ReLU()(body), f"{name}_body_3", outputs), f"{name}_body_4")
    if x.shape[-1] != outputs or stride != 1:
        x = layers.Conv2D(outputs, 1, stride, name=f"{name}_shortcut")(x)
    return layers.ReLU()(layers.Add()([body, x]))


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network for the spec: (N, 32, 32, 3) normalised pixels to (N, classes) logits."""
    image = keras.Input(spec.inputs[0].shape)
    x = layers.ReLU()(normalisation(convolution(image, "stem_0", 16), "stem_1"))
    for i, (outputs, stride) in enumerate([(16, 1), (32, 2), (64, 2)]):
        x = residual(x, f"blocks_{i}", outputs, stride)
    x = layers.Flatten()(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return keras.Model(image, layers.Dense(spec.classes, name="classifier")(x))
